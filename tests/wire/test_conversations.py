"""Whole conversations with the package `websockets` at the other end, over a pipe without sockets, in any reads."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as ForeignRequest
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from qaws_proto.config import CompressionConfig, LimitsConfig
from qaws_proto.wire.client import Accepted, ClientLink
from qaws_proto.wire.deflate import Deflate
from qaws_proto.wire.frames import (
    BinaryReceived,
    CloseReceived,
    Encoded,
    PingReceived,
    PongReceived,
    TextReceived,
)
from qaws_proto.wire.http import Request
from qaws_proto.wire.link import ByteLink

LIMITS = LimitsConfig()
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOL = Subprotocol("qaws.v1")


class Saying(NamedTuple):
    """One thing that an end says: a text, bytes, a ping with its payload; fragments where there are cuts."""

    kind: str
    payload: bytes
    cuts: tuple[int, ...] = ()


class Ours:
    """What our two links have in common, driven as their connections drive them."""

    def __init__(self, link: ByteLink | ClientLink) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.closed: int | None = None
        self._link = link
        self._out = link.request if isinstance(link, ClientLink) else b""

    def receive(self, read: bytes) -> None:
        self._link.receive(read)
        while (event := self._link.next_event()) is not None:
            if isinstance(event, Request):
                assert isinstance(self._link, ByteLink)
                self._out += self._link.accept(event, SUBPROTOCOL)
            elif isinstance(event, Accepted):
                assert event.subprotocol == SUBPROTOCOL
            else:
                self._hear(event)

    def _hear(self, event: object) -> None:
        if isinstance(event, TextReceived):
            self.heard.append(("text", event.text.encode()))
        elif isinstance(event, BinaryReceived):
            self.heard.append(("binary", event[0]))
        elif isinstance(event, PingReceived):
            self.heard.append(("ping", event.payload))
            self._out += self._link.pong(event.payload)
        elif isinstance(event, PongReceived):
            self.heard.append(("pong", event[0]))
        else:
            assert isinstance(event, CloseReceived), event
            self.closed = event.code
            self._out += self._link.close(event.code)

    def say(self, saying: Saying) -> None:
        if saying.kind == "ping":
            self._out += self._link.ping(saying.payload) if isinstance(self._link, ByteLink) else self._link.ping()
        elif isinstance(self._link, ByteLink):
            self._out += self._link.text(Encoded(saying.payload))
        else:
            self._out += self._link.text(saying.payload)

    def close(self, code: int) -> None:
        self._out += self._link.close(code)

    def take(self) -> bytes:
        out, self._out = self._out, b""
        return out


class Theirs:
    """What their two ends have in common, with what their drivers do."""

    def __init__(self, protocol: ClientProtocol | ServerProtocol) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.closed: int | None = None
        self._protocol = protocol
        self._kind, self._message = "", b""
        if isinstance(protocol, ClientProtocol):
            protocol.send_request(protocol.connect())

    def receive(self, read: bytes) -> None:
        self._protocol.receive_data(read)
        for event in self._protocol.events_received():
            if isinstance(event, ForeignRequest):
                assert isinstance(self._protocol, ServerProtocol)
                self._protocol.send_response(self._protocol.accept(event))
            elif isinstance(event, Response):
                assert isinstance(self._protocol, ClientProtocol)
                assert self._protocol.handshake_exc is None, self._protocol.handshake_exc
                assert self._protocol.subprotocol == SUBPROTOCOL
            else:
                assert isinstance(event, Frame)
                self._hear(event)

    def _hear(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            self.heard.append((frame.opcode.name.lower(), bytes(frame.data)))
        elif frame.opcode is Opcode.CLOSE:
            assert self._protocol.close_rcvd is not None
            self.closed = int(self._protocol.close_rcvd.code)
        else:
            self._kind = self._kind or frame.opcode.name.lower()
            self._message += bytes(frame.data)
            if frame.fin:
                self.heard.append((self._kind, self._message))
                self._kind, self._message = "", b""

    def say(self, saying: Saying) -> None:
        protocol = self._protocol
        if protocol.state is not State.OPEN:
            return
        if saying.kind == "ping":
            protocol.send_ping(saying.payload)
            return
        edges = [0, *sorted(min(cut, len(saying.payload)) for cut in saying.cuts), len(saying.payload)]
        for at, (begin, end) in enumerate(pairwise(edges)):
            last = at == len(edges) - 2
            send = protocol.send_text if saying.kind == "text" else protocol.send_binary
            if at:
                protocol.send_continuation(saying.payload[begin:end], last)
            else:
                send(saying.payload[begin:end], last)

    def close(self, code: int) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)

    def take(self) -> bytes:
        return b"".join(self._protocol.data_to_send())


# ── the pipe ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pipe:
    """Two ends and what is on its way between them, in order; it is delivered in reads of any size."""

    def __init__(self, client: Ours | Theirs, server: Ours | Theirs) -> None:
        self.ends = (client, server)
        self._way = [b"", b""]  # to the client, to the server

    def deliver(self, to: int, size: int) -> bool:
        """Deliver so many bytes to one end; whether there were any."""
        self._way[1] += self.ends[0].take()
        self._way[0] += self.ends[1].take()
        read, self._way[to] = self._way[to][:size], self._way[to][size:]
        if read:
            self.ends[to].receive(read)
        return bool(read)

    def drain(self, size: int) -> None:
        """Deliver all that is on its way, and what it leads to."""
        while self.deliver(0, size) | self.deliver(1, size):
            pass


def our_server(compress: bool) -> Pipe:
    deflate = Deflate(CompressionConfig(enabled=True, min_size=0))
    extensions = [ClientPerMessageDeflateFactory(client_max_window_bits=True)] if compress else None
    client = ClientProtocol(parse_uri("ws://localhost/"), extensions=extensions, subprotocols=[SUBPROTOCOL])
    return Pipe(Theirs(client), Ours(ByteLink(LIMITS, deflate)))


def our_client(compress: bool) -> Pipe:
    """Ours offers no compression."""
    extensions = [ServerPerMessageDeflateFactory()] if compress else None
    link = ClientLink("localhost", "/", KEY, subprotocols=[SUBPROTOCOL])
    return Pipe(Ours(link), Theirs(ServerProtocol(extensions=extensions, subprotocols=[SUBPROTOCOL])))


_TEXTS = st.one_of(
    st.text(max_size=30), st.builds(lambda text, times: text * times, st.text(max_size=9), st.integers(0, 30))
)
_CUTS = st.lists(st.integers(0, 400), max_size=3).map(tuple)
_BY_THEM = st.one_of(
    st.builds(Saying, st.just("text"), _TEXTS.map(str.encode), _CUTS),
    st.builds(Saying, st.just("binary"), st.binary(max_size=300), _CUTS),
    st.builds(Saying, st.just("ping"), st.binary(max_size=125)),
)
_BY_US = st.one_of(st.builds(Saying, st.just("text"), _TEXTS.map(str.encode)), st.just(Saying("ping", b"")))
_DELIVERY = st.tuples(st.integers(0, 1), st.integers(1, 200))
_SCRIPT = st.lists(st.one_of(_BY_THEM.map(lambda one: ("theirs", one)), _BY_US.map(lambda one: ("ours", one)),
                             _DELIVERY.map(lambda one: ("deliver", one))), max_size=8)  # fmt: skip


@pytest.mark.row("F6")
@pytest.mark.clause("C3")
@pytest.mark.parametrize("ours", [0, 1], ids=["our client", "our server"])
@given(
    script=_SCRIPT, compress=st.booleans(), size=st.sampled_from([1, 50, 100_000]), closing=st.integers(0, 1),
    code=st.sampled_from([1000, 1001, 3000, 4401]),
)  # fmt: skip
def test_a_conversation_is_heard_as_it_was_said(
    ours: int, script: list[tuple[str, Saying | tuple[int, int]]], compress: bool, size: int, closing: int, code: int
) -> None:
    """By both ends, whoever closes, with what is on its way then; and each ping before it has its pong."""
    pipe = (our_client, our_server)[ours](compress)
    pipe.drain(size)
    said: tuple[list[tuple[str, bytes]], ...] = ([], [])
    for who, what in script:
        if not isinstance(what, Saying):
            pipe.deliver(*what)
            continue
        speaker = ours if who == "ours" else 1 - ours
        pipe.ends[speaker].say(what)
        said[speaker].append((what.kind, what.payload))
    pipe.ends[closing].close(code)
    pipe.drain(size)
    for speaker, listener in ((0, 1), (1, 0)):
        heard = [one for one in pipe.ends[listener].heard if one[0] != "pong"]
        assert heard == said[speaker]
        assert pipe.ends[listener].closed == code
        pongs = [payload for kind, payload in pipe.ends[speaker].heard if kind == "pong"]
        pings = [payload for kind, payload in said[speaker] if kind == "ping"]
        assert pongs == pings[: len(pongs)]
        assert listener == closing or pongs == pings, "one who has not closed answers every ping"
