"""A real node and a real client, joined by a pipe that the test cuts, stalls and splits, in virtual time.

The test plays the network, the agent and the caller. Everything that the client delivers is checked as it comes
(`Caller`): each thing once, in order, at its place, and no hole that nobody was told of.
"""

from __future__ import annotations

from typing import Any

from qaws_proto import Now
from qaws_proto.client import Client, ClientConfig
from qaws_proto.client.io import (
    CancelRequested,
    ClientInput,
    CloseTransport,
    ConnectRequested,
    DataReceived,
    Deliver,
    Disconnected,
    Ended,
    FetchToken,
    MessageRequested,
    OpenTransport,
    SendData,
    TimerFired,
    TokenFetched,
    TransportFailed,
    TransportLost,
    TransportOpened,
    Welcomed,
)
from qaws_proto.events import (
    AgentChunk,
    AgentResponse,
    AgentStepEvent,
    ChatMessage,
    ErrorEvent,
    ServerEvents,
    SystemEvent,
)
from qaws_proto.inputs import ConnectionOpened
from qaws_proto.inputs import TimerFired as NodeTimerFired
from qaws_proto.testing.client import Client as Peer
from qaws_proto.testing.node import ADDRESS, configure, counter, token
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

TOKEN = 100  # seconds that a token lasts
ROUNDS = 400  # of a second each, in which everything has to come to its end once the network is kind


class Tap(Peer):
    """A peer of the node whose bytes go into the pipe."""

    def __init__(self, node: NodeUnderTest, number: int) -> None:
        super().__init__(node, number)
        self.written = bytearray()

    def hear(self, data: bytes) -> None:
        super().hear(data)
        self.written += data


class Caller:
    """Who uses the client: what was delivered, and whether it is what may be delivered."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}  # message → run
        self.texts: dict[str, str] = {}  # run → what its chunks make
        self.replaced: set[str] = set()  # runs whose text was told anew
        self.steps: dict[str, list[str]] = {}  # run → its steps
        self.ends: dict[str, AgentResponse | ErrorEvent] = {}  # message → its end
        self.gaps: list[ServerEvents] = []
        self.order: list[tuple[int, ServerEvents]] = []
        self._seq = 0

    def hear(self, event: ServerEvents) -> None:
        """One event was delivered."""
        gap = isinstance(event, SystemEvent) and event.event_name == "session_resumed"
        forgotten = isinstance(event, ErrorEvent) and event.error_code == "SESSION_NOT_FOUND"
        if gap or forgotten:
            self.gaps.append(event)
            self._seq = 0
            return
        if isinstance(event, SystemEvent):
            self._system(event)
        elif isinstance(event, AgentChunk):
            self._chunk(event)
        elif isinstance(event, AgentStepEvent):
            assert event.run_id is not None
            assert event.content is not None
            steps = self.steps.setdefault(event.run_id, [])
            assert event.content not in steps, "a step twice"
            steps.append(event.content)
        elif isinstance(event, AgentResponse | ErrorEvent):
            assert event.correlation_id is not None
            assert event.correlation_id not in self.ends, f"{event} after {self.ends[event.correlation_id]}"
            self.ends[event.correlation_id] = event
        seq = getattr(event, "seq", None)
        if seq is not None:
            pictured = isinstance(event, AgentChunk) and bool(self.gaps)  # of a snapshot, with the last event's number
            assert seq > self._seq or (pictured and seq == self._seq), f"{event} behind {self._seq}"
            self._seq = seq

    def _system(self, event: SystemEvent) -> None:
        if event.event_name == "message_accepted":
            assert event.correlation_id is not None
            assert event.correlation_id not in self.accepted, "accepted twice"
            assert event.correlation_id not in self.ends, "accepted behind its end"
            self.accepted[event.correlation_id] = str(event.data["run_id"])
        else:
            assert event.event_name in ("run_started", "server_draining"), event

    def _chunk(self, event: AgentChunk) -> None:
        assert event.run_id is not None
        assert event.content, "an empty chunk"
        assert event.correlation_id not in self.ends, "a chunk behind the end"
        text = self.texts.get(event.run_id, "")
        assert event.offset <= len(text), f"a hole: {event} behind {text!r}"
        if event.offset < len(text):
            self.replaced.add(event.run_id)
        self.texts[event.run_id] = text[: event.offset] + event.content


class World:
    """The node, the pipe, the client and its caller."""

    def __init__(
        self, node: dict[str, Any], *, client: dict[str, Any] | None = None, durable: bool = False,
        authentication: bool = False, prompt: bool = True,
    ) -> None:  # fmt: skip
        self.durable = durable
        self.store = StoreModel() if durable else None
        self.ids = counter()
        self.config = configure(authentication=authentication, **node)
        self.node = NodeUnderTest(self.config, self.store, ids=self.ids, prompt=prompt)
        settings: dict[str, Any] = {"backoff_base": 0.1, "backoff_cap": 2.0, "connect_timeout": 5.0, "ack_every": 7}
        config = ClientConfig("localhost", token=authentication, **settings, **(client or {}))
        self.client = Client(config, ids=counter(), jitter=lambda: 0.5)
        self.caller = Caller()
        self.tap: Tap | None = None  # the server's end of the client's transport
        self.left: list[Tap] = []  # ends of transports that the client has given up, and the server has not
        self.up = bytearray()  # bytes on their way
        self.opening = False
        self.fetching = False
        self.ended: Ended | None = None
        self.flowing = False
        self.wait: float | None = None
        self.asked: list[str] = []
        self.said: dict[str, list[str]] = {}  # run → all texts it has ever come to, the last one growing
        self.told: dict[str, list[str]] = {}  # run → steps
        self.contents: dict[str, str] = {}  # run → the message it is for
        self.pieces = 0
        self.restarts = 0

    # ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, event: ClientInput) -> None:
        """One step of the client, its effects performed."""
        for effect in self.client.step(event, self.node.now):
            assert self.ended is None
            if isinstance(effect, Deliver):
                self._check_lost(effect.event)
                self.caller.hear(effect.event)
            elif isinstance(effect, SendData):
                assert self.tap is not None
                self.up += effect.data
            elif isinstance(effect, OpenTransport):
                self.opening = True
            elif isinstance(effect, CloseTransport):
                self._give_up()
            elif isinstance(effect, FetchToken):
                self.fetching = True
            elif isinstance(effect, Welcomed):
                self.flowing = True
            elif isinstance(effect, Disconnected):
                self.flowing = False
            else:
                assert isinstance(effect, Ended)
                self.ended = effect

    def _check_lost(self, event: ServerEvents) -> None:
        """What is said to be lost has ended at the server, or is not known to it any more, and there was a gap."""
        if isinstance(event, ErrorEvent) and event.error_code == "LOST":
            assert event.run_id in self.node.ended or event.run_id not in self.node.started
            assert self.caller.gaps, f"{event}, and nobody was told of a gap"

    def start(self) -> None:
        """The caller wants a connection."""
        self.step(ConnectRequested())

    def ask(self, *, stream: bool) -> None:
        """The caller asks something."""
        message_id = f"m{len(self.asked) + 1}"
        self.asked.append(message_id)
        chat = ChatMessage(type="chat_message", content=f"about {message_id}", id=message_id, stream=stream)
        self.step(MessageRequested(chat))

    def cancel(self, at: int) -> None:
        """The caller wants no answer any more."""
        if self.asked:
            self.step(CancelRequested(self.asked[at % len(self.asked)]))

    # ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, *, refuse: bool = False) -> None:
        """The transport that the client asks for is there, or cannot be had."""
        if self.opening:
            self.opening = False
            if refuse:
                self.step(TransportFailed("no route"))
                return
            number = len(self.node.clients)
            self.tap = Tap(self.node, number)
            self.node.clients[number] = self.tap
            self.node.step(ConnectionOpened(number, ADDRESS))
            self.step(TransportOpened())

    def send_up(self, size: int) -> None:
        """So many bytes reach the server."""
        data = bytes(self.up[:size])
        del self.up[:size]
        if data and self.tap is not None and not self.tap.dropped and not self.tap.paused:
            self.tap.send_bytes(data)
            self._begun()

    def send_down(self, size: int) -> None:
        """So many bytes reach the client; behind the last there is the end, where the server has closed."""
        tap = self.tap
        if tap is None:
            return
        data = bytes(tap.written[:size])
        del tap.written[:size]
        if data:
            self.step(DataReceived(data))
        if self.tap is tap and not tap.written and (tap.dropped or tap.write_closed):
            self._lose(tap)

    def block(self) -> None:
        """Nobody reads what the server writes, and it knows."""
        if self.tap is not None and not self.tap.dropped and not self.tap.blocked:
            self.tap.block()

    def unblock(self) -> None:
        if self.tap is not None and not self.tap.dropped and self.tap.blocked:
            self.tap.unblock()

    def cut(self, *, half: bool = False) -> None:
        """The transport breaks; the server hears of it where it is not `half`."""
        tap = self.tap
        if tap is not None:
            self._lose(tap)
            if not half:
                self.notice()

    def _lose(self, tap: Tap) -> None:
        self.tap = None
        self.up.clear()
        self.left.append(tap)
        self.step(TransportLost())

    def _give_up(self) -> None:
        self.opening = False
        self.up.clear()
        if self.tap is not None:
            self.left.append(self.tap)
            self.tap = None

    def notice(self) -> None:
        """The server hears that transports are gone."""
        for tap in self.left:
            if not tap.dropped:
                tap.lose()
        self.left.clear()

    def flush(self) -> None:
        """Everything that is on its way arrives."""
        before = None
        while before != (before := self._state()):
            self.open()
            self.token()
            self.send_up(1 << 20)
            self.send_down(1 << 20)

    def _state(self) -> tuple[object, ...]:
        down = 0 if self.tap is None else len(self.tap.written)
        return self.opening, self.fetching, len(self.up), down, self.tap

    def token(self) -> None:
        """The token that the client asks for is there."""
        if self.fetching:
            self.fetching = False
            self.step(TokenFetched(token(unix=self.node.now.unix, expires_in=TOKEN)))

    # ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, at: int) -> str | None:
        runs = sorted(self.node.runs)
        return runs[at % len(runs)] if runs else None

    def _begun(self) -> None:
        """Notice runs that have begun."""
        for run_id, run in self.node.started.items():
            if run_id not in self.contents:
                forgotten = self.restarts and not self.durable
                assert run.content not in self.contents.values() or forgotten, f"{run.content} is run twice"
                self.contents[run_id] = run.content
            texts = self.said.setdefault(run_id, [])
            while len(texts) <= self.restarts:
                texts.append("")

    def say(self, at: int, size: int) -> None:
        """The agent yields a piece."""
        self._begun()
        run_id = self._run(at)
        if run_id is not None and run_id not in self.node.cancelled:
            self.pieces += 1
            piece = (f"<{self.pieces}>" * size)[: max(size, 1)]
            self.said[run_id][-1] += piece
            self.node.chunk(run_id, piece)

    def tell(self, at: int) -> None:
        """The agent says what it does."""
        self._begun()
        run_id = self._run(at)
        if run_id is not None and run_id not in self.node.cancelled:
            self.pieces += 1
            self.told.setdefault(run_id, []).append(f"step {self.pieces}")
            self.node.tell(run_id, "reasoning", None, f"step {self.pieces}")

    def finish(self, at: int) -> None:
        """The agent is done."""
        self._begun()
        run_id = self._run(at)
        if run_id is not None:
            self.node.finish(run_id)

    def fail(self, at: int) -> None:
        """The agent raises."""
        self._begun()
        run_id = self._run(at)
        if run_id is not None:
            self.node.fail(run_id, ValueError("no"))

    # ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────

    def restart(self) -> None:
        """The server dies and comes back, with its store where it has one."""
        self._begun()
        if self.tap is not None:
            self._lose(self.tap)
        self.left.clear()
        self.restarts += 1
        now = self.node.now
        self.node = NodeUnderTest(self.config, self.store, ids=self.ids, now=now, prompt=self.node.prompt)
        self._begun()

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, seconds: float) -> None:
        """Let time pass for both."""
        end = self.node.now.mono + seconds
        while True:
            node, client = self.node.gateway.wake_at, self.client.wake_at
            due = min((at for at in (node, client) if at is not None), default=end + 1)
            if due > end:
                break
            self._move(max(due, self.node.now.mono))
            if node is not None and node <= self.node.now.mono:
                self.node.step(NodeTimerFired())
            if client is not None and client <= self.node.now.mono:
                self.step(TimerFired())
        self._move(end)

    def _move(self, mono: float) -> None:
        self.node.now = Now(mono, self.node.now.unix + mono - self.node.now.mono)

    def settle(self) -> None:
        """The network is kind, the store prompt, the agent finishes: everything comes to its end."""
        self.node.prompt = True
        self.node.answer_all()
        self.unblock()
        self.notice()
        for _ in range(ROUNDS):
            self.flush()
            self._begun()
            while self.node.runs:
                self.finish(0)
            self.flush()
            if self.flowing and set(self.caller.ends) == set(self.asked) and not self.node.runs:
                return
            self.advance(1.0)
        missing = sorted(set(self.asked) - set(self.caller.ends))
        raise AssertionError(f"no end of {missing}; flowing: {self.flowing}; ended: {self.ended}")
