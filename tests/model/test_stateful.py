"""Connections, tokens, sessions and runs, as Hypothesis makes them up: the gateway beside a model of the protocol.

The model (`protocol.py`) says what every client has to hear of whatever happens, and after each rule it is compared:
each event word for word, each code, each number, who is connected, what is held, what runs. A failure prints the rules
that led to it, which are a test as they stand.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qaws_proto.admission.tokens import issue_token
from qaws_proto.config import AuthenticationConfig
from qaws_proto.inputs import DisconnectRequested, DrainRequested, TokenRevoked, UserBlocked, UserUnblocked
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import MONO, UNIX, configure
from qaws_proto.testing.peer import CLOSE, TEXT
from qaws_proto.testing.peer import chat as message
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest
from tests.model import protocol
from tests.model.protocol import Event, Id, Model, Rules, Token

SECRET = "a secret of this test, which is long enough"
ANOTHER = "another secret, which is quite as long as that"
TICK = 1 / 64  # seconds between two rules, so that no two things are due at one time

users = st.sampled_from(["ana", "eva"])
lives = st.sampled_from([3600, 3600, 100, 40, -10, -40])  # seconds from now to the end of a token
ids = st.sampled_from(["m1", "m2", "m3", "m4"])
names = st.sampled_from(["a", "b", "c", "own", "another's own"])
rules_ = st.builds(
    Rules,
    authentication=st.sampled_from([True, True, False]),
    double_text=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt", "concurrent"]),
    exclusive=st.sampled_from([False, False, True]),
    durable=st.booleans(),
    queue=st.integers(0, 2),
    per_user=st.integers(1, 3),
    max_events=st.integers(3, 8),
    known_ids=st.integers(1, 3),
)


def setup(rules: Rules) -> NodeUnderTest:
    """A node that goes by these rules."""
    authentication = {"enabled": True, "jwt_secret": SECRET, "timeout": protocol.LOG_IN, "leeway": protocol.LEEWAY}
    config = configure(
        security={"authentication": authentication if rules.authentication else {"enabled": False}},
        server={"heartbeat_interval": 86_400, "max_connections": rules.max_connections},
        agent={
            "timeout": protocol.TIMEOUT, "max_duration": protocol.LONGEST, "cancel_grace": protocol.GRACE,
            "roll_up": 0, "max_runs": rules.max_runs, "runs_per_user": rules.runs_per_user,
        },
        sessions={
            "ttl": protocol.TTL, "queue": rules.queue, "per_user": rules.per_user, "max_events": rules.max_events,
            "known_ids": rules.known_ids, "exclusive": rules.exclusive, "double_text": rules.double_text,
        },
        store={"retry": protocol.RETRY},
        drain={"timeout": protocol.DRAIN, "interval": protocol.ROUND},
    )  # fmt: skip
    return NodeUnderTest(config, StoreModel() if rules.durable else None)


class Conversations(RuleBasedStateMachine):
    """What can happen to a node."""

    connections: Bundle[int] = Bundle("connections")
    tokens: Bundle[tuple[Token, str]] = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.node = NodeUnderTest()
        self.model = Model(Rules(), MONO, UNIX)
        self.ids: set[str] = set()  # that were told
        self.made = 0

    @initialize(rules=rules_)
    def begin(self, rules: Rules) -> None:
        self.node, self.model = setup(rules), Model(rules, MONO, UNIX)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, seconds: float = TICK) -> None:
        """A moment later."""
        self.node.advance(seconds)
        self.model.advance(seconds)
        self.compare()

    @rule(seconds=st.sampled_from([0.5, 0.5, 3, 6, 12, 31, 61, 90]))
    def time_passes(self, seconds: float) -> None:
        self.tick(seconds)

    @precondition(lambda self: self.model.rules.authentication)
    @rule(seconds=st.sampled_from([-3600, -30, 30, 120, 4000]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        self.tick()
        self.node.jump(seconds)
        self.model.unix += seconds

    # ── connections and tokens ───────────────────────────────────────────────────────────────────────────────────────

    @rule(target=tokens, user=users, life=lives, wrong=st.sampled_from([None, None, None, "secret", "audience"]))
    def make_token(self, user: str, life: int, wrong: str | None) -> tuple[Token, str]:
        return self._token(user, life, wrong)

    def _token(self, user: str, life: int = 3600, wrong: str | None = None) -> tuple[Token, str]:
        self.tick()
        self.made += 1
        name = f"t{self.made}"
        section: dict[str, Any] = {"jwt_secret": ANOTHER if wrong == "secret" else SECRET}
        if wrong == "audience":
            section["audience"] = "somebody-else"
        issued = int(self.model.unix) + life - 3600
        made = issue_token(
            AuthenticationConfig.model_validate(section), user, unix=issued, token_id=name, expires_in=3600
        )
        return Token(user, name, issued, issued + 3600, wrong is None), made

    def _connect(self, token: tuple[Token, str] | None, address: str) -> Client:
        self.tick()
        headers = [] if token is None else [f"Authorization: Bearer {token[1]}"]
        status = self.model.status(token and token[0])
        client = self.node.upgrade(*headers, peer=address)
        if self.model.drained:
            client.expect_dropped()
            return client
        client.expect_http(status)
        if status == 101:
            self.model.connect(client.number, address, token and token[0])
        else:
            client.lose()
        self.compare()
        return client

    @rule(target=connections, token=tokens, sent=st.booleans(), address=st.sampled_from(["192.0.2.1", "192.0.2.2"]))
    def connect(self, token: tuple[Token, str], sent: bool, address: str) -> int:
        return self._connect(token if sent else None, address).number

    @rule(target=connections, user=users)
    def come_in(self, user: str) -> int:
        return self._come_in(user)

    def _come_in(self, user: str) -> int:
        return self._connect(self._token(user), "192.0.2.1").number

    @rule(number=connections, token=tokens, own=st.booleans())
    def authenticate(self, number: int, token: tuple[Token, str], own: bool) -> None:
        connection = self.model.connections.get(number)
        if own and connection is not None and connection.user is not None:
            token = self._token(connection.user)
        self._say(number, {"type": "auth", "token": token[1]}, token[0])

    @rule(number=consumes(connections))
    def leave(self, number: int) -> None:
        self.tick()
        if number in self.model.connections:
            self.model.lose(number)
            self.node.clients[number].lose()
        self.compare()

    def _who(self, number: int) -> int:
        """A connection that is there: this one, or in its place another, or a new one."""
        there = [*self.model.connections]
        if number in there:
            return number
        return there[number % len(there)] if there else self._come_in("ana")

    # ── what clients say ─────────────────────────────────────────────────────────────────────────────────────────────

    def _say(self, number: int, event: Event, token: Token | None = None) -> None:
        self.tick()
        if number in self.model.connections:  # it may have come to its end this moment
            self.model.receive(number, event, token)
            self.node.clients[number].send(event)
        self.compare()

    def _name(self, number: int, name: str) -> str:
        """The name of a session: one that is chosen, the connection's own, or that of another one."""
        welcomed = [one for one in self.model.connections.values() if one.own.value is not None]
        own = [one for one in welcomed if (one.number == number) == (name == "own")]
        return _value(own[0].own) if own and "own" in name else name[0]

    @rule(number=connections, name=st.sampled_from(["a", "a", "b"]), id=ids, stream=st.booleans())
    def ask(self, number: int, name: str, id: str, stream: bool) -> None:
        self._say(self._who(number), message(id, id=id, session_id=name, stream=stream))

    @rule(number=connections, id=ids, others=st.integers(0, 3))
    def ask_more(self, number: int, id: str, others: int) -> None:
        """A question, and behind it one that was asked before, or is asked now; also on another connection."""
        number = self._who(number)
        connection = self.model.connections.get(number)
        known = [] if connection is None else [name for one in connection.reads for name in one.known]
        self.ask(number=number, name="a", id=id, stream=True)
        self.ask(number=number + others, name="a", id=known[-1] if known else id, stream=False)

    @rule(
        number=connections,
        name=st.none() | names,
        content=st.sampled_from(["hi", "¿Cómo?"]),
        id=st.none() | ids,
        stream=st.booleans(),
        user=st.sampled_from([None, None, None, "ana"]),
    )
    def chat(self, number: int, name: str | None, content: str, id: str | None, stream: bool, user: str | None) -> None:
        number = self._who(number)
        fields = {
            "id": id, "session_id": name and self._name(number, name), "stream": stream or None, "user_id": user,
        }  # fmt: skip
        self._say(number, message(content, **{key: value for key, value in fields.items() if value is not None}))

    @rule(
        number=connections,
        name=names,
        epoch=st.sampled_from(["right", "right", "right", "", "wrong"]),
        seq=st.sampled_from(["first", "head", "middle", "beyond"]),
    )
    def resume(self, number: int, name: str, epoch: str, seq: str) -> None:
        number = self._who(number)
        self._resume(number, self._name(number, name), epoch, seq)

    def _resume(self, number: int, session_id: str, epoch: str, seq: str) -> None:
        connection = self.model.connections.get(number)
        key = ("" if connection is None or connection.user is None else connection.user, session_id)
        session = self.model.sessions.get(key) or self.model.stored.get(key)
        promised = [
            epoch.value for (owner, one), epoch in self.model.promised.items()
            if isinstance(one, Id) and one.value == session_id
        ]  # fmt: skip
        known = [session.epoch.value] if session is not None else promised
        if epoch == "right":
            epoch = next((one for one in known if one is not None), "")
        head = 0 if session is None else session.head
        last = {"first": 0, "head": head, "middle": head // 2, "beyond": head + 1}[seq]
        self._say(number, {"type": "resume", "session_id": session_id, "epoch": epoch, "seq": last})

    @rule(number=connections, back=st.integers(-1, 3))
    def ack(self, number: int, back: int) -> None:
        number = self._who(number)
        connection = self.model.connections.get(number)
        if connection is not None and connection.reads:
            session = connection.reads[-1]
            seq = max(0, session.head - back)
            self._say(number, {"type": "ack", "session_id": session.name, "seq": seq})

    @rule(number=connections, which=st.none() | st.integers(0, 3), id=ids)
    def cancel(self, number: int, which: int | None, id: str) -> None:
        """By the id of a run, be it another user's, or of a message."""
        runs = [*self.node.started]
        named = {"correlation_id": id} if which is None or not runs else {"run_id": runs[-1 - which % len(runs)]}
        self._say(self._who(number), {"type": "cancel", **named})

    @rule(number=connections, seq=st.sampled_from(["first", "head", "middle"]))
    def come_back(self, number: int, seq: str) -> None:
        """The connection breaks; its user comes again and reads on."""
        number = self._who(number)
        connection = self.model.connections.get(number)
        if connection is None or connection.user is None or not connection.reads:
            return
        self.leave(number=number)
        again = self._come_in(connection.user)
        for session in connection.reads:
            if again in self.model.connections:
                self._resume(again, session.name, "right", seq)

    @rule(number=connections)
    def ping(self, number: int) -> None:
        self._say(number, {"type": "ping", "id": "p"})

    # ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _agent(self, which: int) -> tuple[str, protocol.Run] | None:
        self.tick()
        if not self.node.runs:
            return None
        run_id = [*self.node.runs][which % len(self.node.runs)]
        return run_id, next(run for run in self.model.runs if run.id.value == run_id)

    @rule(which=st.integers(0, 3), piece=st.sampled_from(["x", "¡Ho", "la! "]))
    def the_agent_yields(self, which: int, piece: str) -> None:
        if (found := self._agent(which)) is not None:
            self.model.chunk(found[1], piece)
            self.node.chunk(found[0], piece)
        self.compare()

    @rule(which=st.integers(0, 3), kind=st.sampled_from(["reasoning", "tool_started", "tool_finished"]))
    def the_agent_takes_a_step(self, which: int, kind: str) -> None:
        if (found := self._agent(which)) is not None:
            self.model.step(found[1], kind, "search")
            self.node.tell(found[0], kind, *((None, "search") if kind == "reasoning" else ("search",)))
        self.compare()

    @rule(which=st.integers(0, 3), answer=st.sampled_from([None, None, "", "x", "xx", "something else", OSError()]))
    def the_agent_is_done(self, which: int, answer: str | OSError | None) -> None:
        found = self._agent(which)
        if found is not None and isinstance(answer, OSError):
            self.model.fail(found[1])
            self.node.fail(found[0], answer)
        elif found is not None:
            assert not isinstance(answer, OSError)
            self.model.finish(found[1], answer)
            self.node.finish(found[0], answer)
        self.compare()

    # ── operators ────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.model.rules.authentication)
    @rule(what=st.sampled_from(["block", "unblock", "revoke", "disconnect"]), user=users, token=tokens)
    def an_operator_commands(self, what: str, user: str, token: tuple[Token, str]) -> None:
        self.tick()
        if what == "block":
            self.model.block(user)
            self.node.step(UserBlocked("op", "why", user))
        elif what == "unblock":
            self.model.blocked.discard(user)
            self.node.step(UserUnblocked("op", "why", user))
        elif what == "revoke":
            self.model.revoke(token[0].token_id)
            self.node.step(TokenRevoked("op", "why", token[0].token_id))
        else:
            self.model.disconnect(user)
            self.node.step(DisconnectRequested("op", "why", user_id=user))
        self.compare()

    @precondition(lambda self: len(self.node.started) > 3)
    @rule(sure=st.sampled_from([False, False, False, True]))
    def drain(self, sure: bool) -> None:
        self.tick()
        if sure:
            self.model.drain()
            self.node.step(DrainRequested())
        self.compare()

    # ── the comparison ───────────────────────────────────────────────────────────────────────────────────────────────

    def compare(self) -> None:
        """What every client has heard is what it had to hear; then the model knows the ids that were told."""
        for number, client in self.node.clients.items():
            expected = self.model.told.pop(number, [])
            heard: list[Event | int] = []
            for opcode, payload in client.stream.frames:
                assert opcode in (TEXT, CLOSE)
                heard.append(json.loads(payload) if opcode == TEXT else int.from_bytes(payload[:2]))
            client.forget()
            assert len(heard) == len(expected), f"{number} has heard {heard}, not {expected}"
            for event, due in zip(heard, expected, strict=True):
                self._same(event, due)
            if number in self.model.connections:
                self.model.told[number] = []
            elif not client.dropped:
                client.lose()
        if self.node.drained and not self.model.drained:
            assert self.model.draining_until is not None
            assert not [run for run in self.model.runs if run.state in ("waiting", "running")]
            self.model.drained = True
        for run_id, started in self.node.started.items():  # of messages without an id this is all that tells it
            self._learn(run_id, started.content, started.session_id)

    def _same(self, event: Event | int, due: Event | int) -> None:
        if isinstance(event, int) or isinstance(due, int):
            assert event == due
            return
        took, text = event.pop("processing_time", 0), event.pop("error_message", "-")
        assert took >= 0
        assert text
        if event["type"] == "agent_response" or event.get("event_name") == "run_started":
            event.pop("rerun", None)
        self._match(event, due, event)

    def _match(self, actual: Any, due: Any, whole: Event) -> None:
        if isinstance(due, Id):
            if due.value is None:
                assert isinstance(actual, str)
                assert actual not in self.ids, f"an id twice: {whole}"
                self.ids.add(actual)
                due.value = actual
            assert actual == due.value, whole
        elif isinstance(due, dict):
            assert isinstance(actual, dict)
            assert actual.keys() == due.keys(), f"{whole} where {due} is due"
            for name, value in due.items():
                self._match(actual[name], value, whole)
        else:
            assert actual == due, f"{whole}: {actual!r}, not {due!r}"

    def _learn(self, run_id: str, content: str, session_id: str) -> None:
        if run_id in self.ids:
            return
        nameless = [run for run in self.model.runs if run.id.value is None and run.state != "waiting"]
        (run,) = [run for run in nameless if run.session.name == session_id]
        assert run.message["content"] == content
        self.ids.add(run_id)
        run.id.value = run_id

    @invariant()
    def the_same_are_there(self) -> None:
        node, model = self.node, self.model
        assert {number for number, one in node.clients.items() if not one.dropped} == model.connections.keys()
        assert node.gateway.connections == len(model.connections)
        assert node.gateway.sessions == len(model.sessions)
        assert node.gateway.runs == len(model.runs)
        at_work = {run.id.value for run in model.runs if run.state != "waiting"}
        assert node.runs.keys() == at_work
        stopped = {run.id.value for run in model.runs if run.state in ("stopping", "given up")}
        assert node.cancelled & node.runs.keys() == stopped

    def teardown(self) -> None:
        """Whatever has happened, all of it can end."""
        for number in list(self.model.connections):
            self.leave(number)
        self.tick(2 * protocol.TTL + protocol.LONGEST)
        while self.node.runs:
            self.the_agent_is_done(which=0, answer=None)
        self.tick(protocol.TTL)
        assert self.node.gateway.sessions == self.node.gateway.runs == 0
        assert self.node.drained is (self.model.draining_until is not None)


def _value(id: Id) -> str:
    assert id.value is not None
    return id.value


@pytest.mark.row("M5")
@pytest.mark.row("S2")
@pytest.mark.row("S3")
@pytest.mark.row("A4")
@pytest.mark.clause("C8")
@pytest.mark.clause("C11")
@pytest.mark.timeout(600)
def test_everybody_hears_what_the_protocol_says() -> None:
    slow = [HealthCheck.too_slow]  # a machine of any speed
    run_state_machine_as_test(
        Conversations, settings=settings(stateful_step_count=120, deadline=None, suppress_health_check=slow)
    )
