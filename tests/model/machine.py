"""The small machine of one session: who can do what to it, and what each reader of it has to hold.

Two tabs of ana and one of eva; one session, which was promised to ana's first tab; messages `m1` and `m2`. Time stands
still but where an act lets it pass. After every act the machine compares what each tab holds with the log (C4, C10),
each answer to `resume` with what it has to be, and each run's end with the contract (C8); the harness checks the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from qaws_proto.admission.tokens import TokenVerifier
from qaws_proto.config import AuthenticationConfig, WebSocketConfig
from qaws_proto.conversation.session import Session
from qaws_proto.effects import Effect, Note
from qaws_proto.testing.client import Client
from qaws_proto.testing.host import Host
from qaws_proto.testing.node import ADDRESS, SECRET, NodeUnderTest, configure, token
from qaws_proto.testing.peer import upgrade
from qaws_proto.testing.store import StoreModel
from qaws_proto.wire.http import Request

TTL, GRACE, LONG = 60.0, 5.0, 86_400.0  # seconds; what is LONG is not due within a walk
SEATS = {"ana-1": "ana", "ana-2": "ana", "eva": "eva"}
HEAD = upgrade()  # what an answer has to be one to
KEY = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")  # of that one
HEADERS = {user: (("host", "localhost"), KEY, ("authorization", f"Bearer {token(user)}")) for user in ("ana", "eva")}

Event = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the alphabet, and the settings that it is walked under."""

    name: str
    acts: tuple[str, ...]
    sessions: tuple[tuple[str, Any], ...] = ()
    durable: bool = False
    away: tuple[str, ...] = ()  # who is not connected as the walk begins

    @property
    def symmetric(self) -> bool:
        """Whether ana's tabs can do the same."""
        return (
            {act.replace("ana-1", "ana-2") for act in self.acts}
            <= {*self.acts}
            >= {act.replace("ana-2", "ana-1") for act in self.acts}
        )


@cache
def settings(part: Part) -> WebSocketConfig:
    """The settings of a part."""
    return configure(
        authentication=True,
        server={"heartbeat_interval": LONG, "timeout": LONG},
        agent={"timeout": LONG, "max_duration": LONG, "cancel_grace": GRACE, "roll_up": 0},
        sessions={"ttl": TTL, "queue": 1, **dict(part.sessions)},
        store={"retry": 1},
    )


@cache
def verifier() -> TokenVerifier:
    """One for all machines: what it has verified once it knows."""
    return TokenVerifier(AuthenticationConfig.model_validate({"jwt_secret": SECRET}))


@cache
def parsed(payload: bytes) -> Event:
    """An event of a log."""
    event: Event = json.loads(payload)
    return event


class Ids:
    """Ids that are the same in every walk."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> str:
        self.given += 1
        return f"id-{self.given}"


@dataclass
class Seat:
    """A tab: its connection, and what it holds of the session, from one connection to the next.

    That is all behind `base` up to `seq` in the log `epoch`.
    """

    name: str
    user: str
    client: Client
    epoch: str = ""
    base: int = 0
    seq: int = 0
    held: list[Event] = field(default_factory=list)
    snapshot: dict[str, str] = field(default_factory=dict)  # what runs had said up to `base`, as it was told
    attached: bool = False  # this connection reads the session
    asked: tuple[str, int] | None = None  # the epoch and seq of a resume that was not answered

    @property
    def open(self) -> bool:
        """Whether the connection can be spoken on."""
        return not self.client.dropped and self.client.stream.closed is None


@dataclass
class Truth:
    """All that was ever said in a log, taken down as it grew."""

    epoch: str
    said: list[bytes] = field(default_factory=list)

    def open_runs(self, upto: int) -> dict[str, str]:
        """The runs that were accepted up to an event and had no end there, with what they had said in chunks."""
        runs: dict[str, str] = {}
        for event in map(parsed, self.said[:upto]):
            if event.get("event_name") == "message_accepted":
                runs[event["data"]["run_id"]] = ""
            elif event["type"] == "agent_chunk":
                runs[event["run_id"]] += event["content"]
            elif event["type"] in ("agent_response", "error"):
                del runs[event["run_id"]]  # C8: it was accepted, and ends once
        return runs


def normal(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring chunks of one run as one, however they were told."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else {}
        if event["type"] == last.get("type") == "agent_chunk" and event["run_id"] == last["run_id"]:
            assert event["offset"] == last["offset"] + len(last["content"]), f"{event} behind {last}"
            out[-1] = {**last, "content": last["content"] + event["content"], "seq": event["seq"]}
        else:
            out.append(event)
    return out


class Ender:
    """What says a Close in bytes, for a host that has nothing else to say in frames of its own making."""

    def close(self, code: int, reason: str = "") -> bytes:
        """A Close."""
        payload = code.to_bytes(2) + reason.encode()
        return bytes((0x88, len(payload))) + payload


class Line(Host):
    """A host for a peer whose request and messages need no reading: an upgrade, then text."""

    def __init__(self, user: str) -> None:
        self.head = HEAD
        self.request = Request("GET", "/", HEADERS[user])
        self.upgrade = self.denial = True
        self.refused = self.closed = None
        self._accepted = self._answered = False
        self._frames = Ender()  # type: ignore[assignment]  # all that is asked of it


class Machine:
    """A node with its three tabs, and what there is to know of its session."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ids = Ids()
        store = StoreModel() if part.durable else None
        self.node = NodeUnderTest(settings(part), store, prompt=False, verifier=verifier(), ids=self.ids)
        self.truths: dict[str, list[Truth]] = {"ana": [], "eva": []}  # by owner, the newest last
        self.seats = {name: Seat(name, user, self._connect(user)) for name, user in SEATS.items()}
        welcome = self.seats["ana-1"].client.heard[0]["data"]
        self.session_id = welcome["session_id"]
        self.answers: list[Effect] = []  # what the newest act was answered with, but for notes
        for seat in self.seats.values():
            seat.epoch = welcome["epoch"]
            if seat.name in part.away:
                seat.client.lose()
        self._look()

    def _connect(self, user: str) -> Client:
        number, line = len(self.node.clients), Line(user)
        client = self.node.clients[number] = Client(self.node, number, line)
        self.node.step(line.open(number, ADDRESS))
        assert client.heard, "not let in"
        return client

    def session(self, owner: str) -> Session | None:
        """The session of the name that all of this is about."""
        return self.node.gateway._sessions.find(owner, self.session_id)

    # ── acts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def enabled(self) -> list[str]:
        """The acts that can be done now."""
        return [act for act in self.part.acts if self._enabled(*act.split())]

    def _enabled(self, who: str, what: str, which: str = "") -> bool:
        node = self.node
        if who == "agent":
            return bool(node.runs)
        if who == "store":
            return bool(node.asked)
        if who == "time":
            return what != "grace" or bool(node.cancelled & node.runs.keys())
        seat = self.seats[who]
        if what == "opens":
            return not seat.open
        return seat.open and (which != "last" or seat.seq > 0) and (which != "run" or bool(node.started))

    def do(self, act: str) -> None:
        """Do it; `check` looks at what came of it."""
        who, what, which = (*act.split(), "")[:3]
        if who in SEATS:
            self._speak(self.seats[who], what, which)
        elif who == "agent":
            run_id = next(iter(self.node.runs))
            {
                "yields": lambda: self.node.chunk(run_id, "x"),
                "ends": lambda: self.node.finish(run_id),
                "fails": lambda: self.node.fail(run_id),
            }[what]()
        elif who == "store":
            self.node.answer(fail=what == "fails")
        else:
            self.node.advance({"grace": GRACE, "ttl": TTL}[what])
        self._look()

    def _speak(self, seat: Seat, what: str, which: str) -> None:
        client = seat.client
        if what == "opens":
            if not client.dropped:
                client.lose()
            seat.client = self._connect(seat.user)
            seat.attached, seat.asked = False, None
        elif what == "leaves":
            client.lose()
        elif what == "says":
            self._send(
                client,
                {"type": "chat_message", "content": which, "id": which, "session_id": self.session_id, "stream": True},
            )
        elif what == "resumes":
            seat.asked = ("" if which == "blind" else seat.epoch, 0 if which == "first" else seat.seq)
            epoch, seq = seat.asked
            self._send(client, {"type": "resume", "session_id": self.session_id, "epoch": epoch, "seq": seq})
        elif what == "cancels" and which == "run":  # any run there was, by its id: that of the first message
            self._send(client, {"type": "cancel", "run_id": next(iter(self.node.started))})
        elif what == "cancels":
            self._send(client, {"type": "cancel", "correlation_id": which})
        else:
            assert what == "acks"
            self._send(client, {"type": "ack", "session_id": self.session_id, "seq": seat.seq})

    def _send(self, client: Client, event: Event) -> None:
        client.say(json.dumps(event))

    # ── what is known of the log, and what each tab holds ────────────────────────────────────────────────────────────

    def _look(self) -> None:
        self._take_down()
        for seat in self.seats.values():
            self._read(seat)
            seat.client.heard.clear()
            seat.client.forget()
        happened = [effect for _, _, effects in self.node.history for effect in effects]
        self.answers = [effect for effect in happened if not isinstance(effect, Note)]
        self.node.history.clear()
        self.node.notes.clear()

    def _take_down(self) -> None:
        """Take down what the logs say that they did not say before; they only ever grow, and never change."""
        for owner, truths in self.truths.items():
            session = self.session(owner)
            if session is None or session.arrivals is not None:
                continue
            log = session.log
            if not truths or truths[-1].epoch != log.epoch:
                assert log.floor == 0, "a new log begins at 1"
                assert all(truth.epoch != log.epoch for truth in truths), "an epoch comes twice"
                truths.append(Truth(log.epoch))
            said = truths[-1].said
            assert log.floor <= len(said) <= log.head, f"from {log.floor} to {log.head}, where {len(said)} were said"
            kept = list(log.after(log.floor))
            assert kept[: len(said) - log.floor] == said[log.floor :], "the log has changed"
            said += kept[len(said) - log.floor :]

    def _read(self, seat: Seat) -> None:
        """Let a tab take what it has heard."""
        foreign = {run_id for run_id, run in self.node.started.items() if run.user_id != seat.user}
        for event in seat.client.heard:
            assert event.get("run_id") not in foreign, "another user's (S3)"
            if event.get("error_code") == "SESSION_NOT_FOUND":
                seat.asked = None
                assert self.session(seat.user) is None, "it is there"
                assert not self.truths[seat.user] or self.part.durable, "it was there"
            if event.get("session_id") != self.session_id:
                continue
            if event.get("event_name") == "session_resumed":
                self._resumed(seat, event["data"])
            elif seat.snapshot and event["type"] == "agent_chunk" and event["seq"] == seat.base:
                assert event["offset"] == 0
                seat.snapshot[event["run_id"]] = event["content"]
            elif "seq" in event:
                if not seat.attached:  # a reader since its message, or since the session it asked for is there
                    seat.epoch, seat.base = self.truths[seat.user][-1].epoch, event["seq"] - 1
                    seat.held, seat.snapshot = [], {}
                seat.attached, seat.seq = True, event["seq"]
                seat.held.append(event)

    def _resumed(self, seat: Seat, data: Event) -> None:
        """The answer to a resume: right for what was asked, as the log is (S1, S2)."""
        assert seat.asked is not None, "nobody has asked"
        (epoch, seq), seat.asked = seat.asked, None
        session, truth = self.session(seat.user), self.truths[seat.user][-1]
        assert session is not None
        floor, head = session.log.floor, data["to"]
        assert head <= len(truth.said)
        seat.attached, held = True, epoch == truth.epoch and floor <= seq <= head
        if data["recovered"]:
            assert data == {"recovered": True, "from": seq + 1, "to": head}
            assert epoch == truth.epoch, "another log"
            if seq != seat.seq:
                seat.base, seat.held, seat.snapshot = seq, [], {}
            seat.seq = seq
            return
        reason = "gap" if epoch == truth.epoch else "epoch"
        expired = not self.part.durable and len(self.truths[seat.user]) > 1 and head == 0
        assert data["reason"] == reason or (data["reason"] == "expired" and expired)
        assert not held, f"{data}, where everything behind {seq} is held"
        assert data == {**data, "epoch": truth.epoch, "from": floor + 1}
        seat.epoch, seat.base, seat.seq, seat.held = truth.epoch, head, head, []
        seat.snapshot = dict.fromkeys(truth.open_runs(head), "untold")  # each is told next

    # ── what has to hold ─────────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """After every act: nobody misses anything without having been told, and messages are answered."""
        for seat in self.seats.values():
            self._check_view(seat)
        accepted: set[str] = set()
        for truths in self.truths.values():
            for truth in truths:
                events = [parsed(payload) for payload in truth.said]
                assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
                messages = [one["correlation_id"] for one in events if one.get("event_name") == "message_accepted"]
                assert len(set(messages)) == len(messages), "a message was taken twice (M5)"
                accepted |= {one["data"]["run_id"] for one in events if one.get("event_name") == "message_accepted"}
                truth.open_runs(len(events))
        assert self.node.started.keys() <= accepted, "a run of no accepted message (C11)"

    def _check_view(self, seat: Seat) -> None:
        session, truths = self.session(seat.user), self.truths[seat.user]
        reads = session is not None and seat.client.number in session.cursors
        if reads:
            assert session is not None
            assert seat.attached or session.log.head == session.cursors[seat.client.number].seq
            assert not seat.attached or (seat.epoch, seat.seq) == (session.log.epoch, session.log.head), "not all (C10)"
        assert seat.asked is None or self.node.asked or not seat.open, "no answer to a resume"
        of = [truth for truth in truths if truth.epoch == seat.epoch]
        if of:
            said = of[0].said
            assert normal(seat.held) == normal(map(parsed, said[seat.base : seat.seq])), "not what was said (C10)"
            assert not seat.snapshot or seat.snapshot == of[0].open_runs(seat.base), "not all that was said (S2)"

    def end(self) -> None:
        """Where agents end and people go, everything ends: no message without its answer, no session, no timer."""
        node = self.node
        node.answer_all()
        while node.runs:
            node.finish(next(iter(node.runs)))
            node.answer_all()
        self._look()
        self.check()
        for truth in self.truths["ana"] + self.truths["eva"]:
            unheard = truth.open_runs(
                len(truth.said)
            ).keys()  # who has ended with its session, nobody was there to hear
            assert unheard <= node.ended, "a message without an end (C8)"
        assert node.gateway.runs == 0
        for seat in self.seats.values():
            if not seat.client.dropped:
                seat.client.lose()
        node.advance(TTL)
        node.answer_all()
        node.advance(TTL)
        left = (node.gateway.connections, node.gateway.sessions, node.gateway.wake_at)
        assert left == (0, 0, None), left
