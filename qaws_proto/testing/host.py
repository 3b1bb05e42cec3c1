"""A host that does HTTP, frames, pings and closes by itself (ASGI), for one peer: bytes of the peer to inputs of a node
at message level, and effects of the node to bytes, refusing all that such a host may not be told.

What it speaks is spoken by our own reader of heads and frames, with limits far above a node's. It answers pings, which
the node never hears of.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..config import MESSAGE_SIZE_TOP, LimitsConfig
from ..effects import AcceptUpgrade, MessageEffect, SendClose, SendMessage, SendResponse
from ..inputs import CloseReceived, MessageReceived, RequestReceived
from ..wire import frames, http

FORBIDDEN = http.Response(403, (("Content-Length", "0"),))  # what a peer gets that is refused with a close code


class Host:
    """What stands between one peer and a node at message level."""

    def __init__(self, head: bytes, *, denial: bool) -> None:
        """`head` is a whole request that the host finds nothing wrong in; frames may follow it."""
        reader = http.HeadReader(LimitsConfig())
        request = reader.receive(head)
        assert isinstance(request, http.Request), f"{request}: the host would answer this by itself"
        self.head = head
        self.request = request
        self.upgrade = http.check_upgrade(request) is None
        self.denial = denial
        self.refused: tuple[int, str] | None = None  # the close code that an upgrade was refused with
        self.closed: int | None = None  # the code of the peer, or of the host where the peer broke the rules
        self._accepted = False
        self._answered = False  # the one answer, or the node's Close, is out
        self._frames = frames.Frames(client=False, max_message=MESSAGE_SIZE_TOP, max_fragments=1000)
        self._frames.receive(reader.rest)
        self._pongs = b""

    def open(self, connection: int, peer: str | None) -> RequestReceived:
        """The request, as a node is given it."""
        request, denial = self.request, self.denial and self.upgrade
        return RequestReceived(connection, peer, request.method, request.target, request.headers, self.upgrade, denial)

    def read(self, connection: int, data: bytes) -> Iterator[MessageReceived | CloseReceived]:
        """What bytes of the peer say to a node. Each is handled before the next is looked at."""
        self._frames.receive(data)
        while self._accepted and (event := self._frames.next_event()) is not None:
            if isinstance(event, frames.TextReceived | frames.BinaryReceived):
                yield MessageReceived(connection, event[0])
            elif isinstance(event, frames.PingReceived):
                self._pongs += self._frames.pong(event.payload)
            elif isinstance(event, frames.CloseReceived | frames.Violated):
                if isinstance(event, frames.Violated):
                    assert event.fault.value.close is not None
                self.closed = event.code if isinstance(event, frames.CloseReceived) else event.fault.value.close
                assert self.closed is not None
                yield CloseReceived(connection, self.closed)

    def answer(self) -> bytes:
        """The answer to pings, and to the peer's Close or its violation; nothing where a Close is out."""
        pongs, self._pongs = b"" if self._answered else self._pongs, b""
        return pongs if self.closed is None else pongs + self._frames.close(self.closed)

    def write(self, effect: MessageEffect) -> bytes:
        """What the peer is sent."""
        assert not self._answered, f"{effect} behind the end"
        assert self.closed is None, f"{effect} for a peer that has closed"
        if isinstance(effect, AcceptUpgrade):
            assert self.upgrade, "no request for a WebSocket"
            assert not self._accepted, "accepted twice"
            self._accepted = True
            return http.accept_response(self.request, effect.subprotocol)
        if isinstance(effect, SendMessage):
            assert self._accepted, "a message before the handshake"
            return frames.text_frame(effect.text.encode())
        self._answered = True
        if isinstance(effect, SendResponse):
            assert not self._accepted, "HTTP behind the handshake"
            assert self.denial or not self.upgrade, "the host cannot answer this with HTTP"
            assert all(name.lower() not in ("connection", "upgrade") for name, _ in effect.headers), "the host's own"
            return http.Response(effect.status, effect.headers, effect.body).encode()
        assert isinstance(effect, SendClose)
        assert self.upgrade, "no WebSocket to close"
        if self._accepted:
            return self._frames.close(effect.code, effect.reason)
        assert not self.denial, "the host can say more than this"
        self.refused = (effect.code, effect.reason)
        return FORBIDDEN.encode()
