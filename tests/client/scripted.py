"""The one harness: a client in virtual time, against a server that says what the test says.

    under = ClientUnderTest()
    under.welcome()
    under.ask("hi", "m1")
    under.expect("chat_message", id="m1")
    under.tell(accepted("m1", "r1", seq=1))
    assert under.take() == [...]

Whatever the test does, every step is checked: bytes go to an open transport only, there is one token fetched at a time,
nothing comes after the end, and timers move on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from qaws_proto import Now
from qaws_proto.client import Client, ClientConfig
from qaws_proto.client.io import (
    CancelRequested,
    ClientEffect,
    ClientFault,
    ClientInput,
    CloseRequested,
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
    TransportLost,
    TransportOpened,
    Welcomed,
)
from qaws_proto.config import LimitsConfig
from qaws_proto.events import ChatMessage, ServerEvents
from qaws_proto.wire.frames import CloseReceived, PingReceived, PongReceived, TextReceived, text_frame
from qaws_proto.wire.http import Request
from qaws_proto.wire.link import ByteLink

MONO = 1000.0
UNIX = 1_750_000_000.0
SESSION, EPOCH = "own", "e1"

Event = dict[str, Any]


# ── what a server says ───────────────────────────────────────────────────────────────────────────────────────────────


def system(name: str, data: Event | None = None, **fields: Any) -> Event:
    return {"type": "system_event", "event_name": name, "data": data or {}, **fields}


def established(session_id: str = SESSION, epoch: str = EPOCH) -> Event:
    data = {"user_id": "u", "session_id": session_id, "epoch": epoch, "seq": 0, "protocol": "qaws.v1"}
    return system("connection_established", data)


def resumed(start: int, to: int, *, session_id: str = SESSION) -> Event:
    return system("session_resumed", {"recovered": True, "from": start, "to": to}, session_id=session_id)


def gap(start: int, to: int, *, epoch: str = EPOCH, reason: str = "gap", session_id: str = SESSION) -> Event:
    data = {"recovered": False, "reason": reason, "epoch": epoch, "from": start, "to": to}
    return system("session_resumed", data, session_id=session_id)


def accepted(message_id: str, run_id: str, seq: int | None = None, *, session_id: str = SESSION) -> Event:
    """A message was accepted; without `seq` it was so before."""
    data = {"run_id": run_id, "position": 0, "duplicate": seq is None}
    event = system("message_accepted", data, session_id=session_id, correlation_id=message_id)
    return event if seq is None else {**event, "seq": seq}


def chunk(run_id: str, offset: int, content: str, seq: int, **fields: Any) -> Event:
    event = {"type": "agent_chunk", "content": content, "offset": offset, "run_id": run_id, "seq": seq}
    return {**event, "session_id": SESSION, **fields}


def step(run_id: str, seq: int, **fields: Any) -> Event:
    return {"type": "agent_step", "kind": "reasoning", "run_id": run_id, "seq": seq, "session_id": SESSION, **fields}


def response(message_id: str | None, run_id: str, content: str, seq: int, **fields: Any) -> Event:
    event = {
        "type": "agent_response", "content": content, "session_id": SESSION, "user_id": "u", "processing_time": 0.5,
        "reasoning_steps": [], "tools_used": [], "status": "completed", "run_id": run_id, "seq": seq, **fields,
    }  # fmt: skip
    return event if message_id is None else {**event, "correlation_id": message_id}


def error(code: str, **fields: Any) -> Event:
    return {"type": "error", "error_code": code, "error_message": f"about {code}", **fields}


# ── the harness ──────────────────────────────────────────────────────────────────────────────────────────────────────


def counter() -> Callable[[], str]:
    ids = (f"id-{number}" for number in range(1, 1_000_000))
    return lambda: next(ids)


class ClientUnderTest:
    """A client, its clock, and the server it is connected to."""

    def __init__(self, *, jitter: Callable[[], float] = lambda: 0.5, **config: Any) -> None:
        self.client = Client(ClientConfig("localhost", **config), ids=counter(), jitter=jitter)
        self.now = Now(MONO, UNIX)
        self.transport: str | None = None  # "opening" or "open"
        self.server = ByteLink(LimitsConfig())
        self.heard: list[object] = []  # what the server was sent on this connection, and the test has not looked at
        self.delivered: list[ServerEvents] = []  # and not looked at
        self.effects: list[ClientEffect] = []  # of the last step
        self.log: list[ClientEffect] = []
        self.fetching = False
        self.ended: Ended | None = None

    # ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, event: ClientInput) -> list[ClientEffect]:
        """One step at the present time, its effects performed and checked."""
        if isinstance(event, TransportLost):
            self.transport = None
        before = self.client.wake_at
        self.effects = effects = self.client.step(event, self.now)
        self.log += effects
        if isinstance(event, TimerFired):
            after = self.client.wake_at
            if before is None or self.now.mono < before:
                assert (after, effects) == (before, []), "C5: an early timer is harmless"
            else:
                assert after is None or after > self.now.mono, "C5: a due timer moves wake_at on"
        for effect in effects:
            self._perform(effect)
        return effects

    def _perform(self, effect: ClientEffect) -> None:
        assert self.ended is None, f"{effect} after the end"
        if isinstance(effect, SendData):
            assert self.transport == "open", "bytes, and no transport"
            self._hear(effect.data)
        elif isinstance(effect, OpenTransport):
            assert self.transport is None, "two transports"
            self.transport = "opening"
        elif isinstance(effect, CloseTransport):
            assert self.transport is not None, "no transport to be closed"
            self.transport = None
        elif isinstance(effect, FetchToken):
            assert not self.fetching, "two tokens at once"
            self.fetching = True
        elif isinstance(effect, Deliver):
            self.delivered.append(effect.event)
        elif isinstance(effect, Ended):
            assert self.transport is None, "the end, and an open transport"
            assert self.client.wake_at is None
            self.ended = effect
        else:
            assert isinstance(effect, Welcomed | Disconnected)

    def _hear(self, data: bytes) -> None:
        self.server.receive(data)
        while (event := self.server.next_event()) is not None:
            self.heard.append(json.loads(event.text) if isinstance(event, TextReceived) else event)

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire every timer on the way when it is due."""
        end = Now(self.now.mono + seconds, self.now.unix + seconds)
        while (wake_at := self.client.wake_at) is not None and wake_at <= end.mono:
            self.now = Now(wake_at, self.now.unix + wake_at - self.now.mono)
            self.step(TimerFired())
        self.now = end

    # ── the transport and the server ─────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> Request:
        """Ask the client to connect where it was not, and open its transport; its request."""
        if not self.log:
            self.step(ConnectRequested())
        return self.open()

    def open(self) -> Request:
        """Open the transport; the request that comes over it."""
        assert self.transport == "opening", "no transport is asked for"
        self.transport = "open"
        self.server, self.heard = ByteLink(LimitsConfig()), []
        self.step(TransportOpened())
        request = self.heard.pop()
        assert isinstance(request, Request)
        return request

    def upgrade(self) -> None:
        """Connect, and answer the request with a 101."""
        request = self.connect()
        self.receive(self.server.accept(request, "qaws.v1"))

    def welcome(self, session_id: str = SESSION, epoch: str = EPOCH) -> None:
        """Connect, without authentication."""
        self.upgrade()
        self.tell(established(session_id, epoch))

    def receive(self, data: bytes) -> None:
        """Bytes of the server."""
        assert self.transport == "open"
        self.step(DataReceived(data))

    def tell(self, *events: Event | str) -> None:
        """Events of the server, each in a read of its own."""
        for event in events:
            self.receive(text_frame((event if isinstance(event, str) else json.dumps(event)).encode()))

    def close(self, code: int) -> None:
        """The server closes."""
        self.receive(self.server.close(code))

    def lose(self) -> None:
        """The transport breaks."""
        assert self.transport is not None
        self.step(TransportLost())

    def reconnect(self, session_id: str = "other", epoch: str = "e-other") -> Event:
        """Lose the transport where there is one, wait, and connect again; the resume that comes."""
        if self.transport is not None:
            self.lose()
        wake_at = self.client.wake_at
        assert wake_at is not None
        self.advance(wake_at - self.now.mono)
        self.upgrade()
        self.tell(established(session_id, epoch))
        return self.expect("resume")

    # ── the caller ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, content: str, message_id: str, **fields: Any) -> None:
        self.step(MessageRequested(ChatMessage(type="chat_message", content=content, id=message_id, **fields)))

    def cancel(self, message_id: str) -> None:
        self.step(CancelRequested(message_id))

    def token(self, token: str = "a token") -> None:
        assert self.fetching
        self.fetching = False
        self.step(TokenFetched(token))

    def leave(self) -> None:
        self.step(CloseRequested())

    # ── what is expected ─────────────────────────────────────────────────────────────────────────────────────────────

    def expect(self, type: str, **fields: Any) -> Event:
        """The next thing the server heard is this event; `fields` are a part of it."""
        assert self.heard, f"the server heard nothing, and no {type}"
        event = self.heard.pop(0)
        assert isinstance(event, dict), event
        assert {"type": type, **fields}.items() <= event.items(), event
        return event

    def expect_ping(self) -> None:
        assert isinstance(self.heard.pop(0), PingReceived)

    def expect_pong(self, payload: bytes) -> None:
        event = self.heard.pop(0)
        assert isinstance(event, PongReceived)
        assert event.payload == payload

    def expect_close(self, code: int) -> None:
        """The client has closed with this code."""
        event = self.heard.pop(0)
        assert isinstance(event, CloseReceived)
        assert event.code == code
        assert not self.heard

    def expect_silence(self) -> None:
        """The server has heard nothing more."""
        assert not self.heard, self.heard

    def take(self) -> list[Event]:
        """What was delivered since the last time, as JSON."""
        events = [event.model_dump(exclude_none=True) for event in self.delivered]
        self.delivered.clear()
        return events

    def expect_wait(self, seconds: float) -> None:
        """The client comes back after so long, and says so."""
        told = [effect for effect in self.effects if isinstance(effect, Disconnected)]
        assert [effect.retry_in for effect in told] == [seconds]
        assert self.client.wake_at == self.now.mono + seconds
        assert self.ended is None

    def expect_end(self, code: str, **fields: Any) -> ClientFault:
        """The client has ended, for this reason."""
        assert self.ended is not None, "it goes on"
        fault = self.ended.error
        assert fault is not None
        assert {"code": code, **fields}.items() <= fault._asdict().items(), fault
        assert self.effects[-2] == Disconnected(self.effects[-2].reason, None)  # type: ignore[union-attr]
        assert fault.text
        return fault

    @property
    def welcomes(self) -> list[Welcomed]:
        return [effect for effect in self.log if isinstance(effect, Welcomed)]
