"""The wire of one server connection: a request and its answer, then messages, behind one face.

`receive` takes what came, `next_event` gives what it says, one event a call; the rest makes what is sent. A `ByteLink`
speaks HTTP and frames; a `MessageLink` stands behind a host that does both itself (ASGI).
"""

from __future__ import annotations

from collections import deque

from ..config import LimitsConfig
from ..effects import AcceptUpgrade, MessageEffect, SendClose, SendMessage, SendResponse
from ..faults import Fault
from . import http
from .deflate import Agreement, Deflate
from .frames import BinaryReceived, CloseReceived, Encoded, FrameEvent, Frames, TextReceived, Violated
from .http import HeadReader, Request, Response

WireEvent = Request | FrameEvent


class ByteLink:
    """Bytes to requests and messages, and messages to bytes. Knows nothing of what they mean."""

    __slots__ = ("_agreement", "_deflate", "_frames", "_head", "_limits", "_stopped", "_verdict")

    framed = False  # by the host
    over = False  # what can be said after the peer's Close is for `close` to know

    def __init__(self, limits: LimitsConfig, deflate: Deflate | None = None) -> None:
        """`deflate` compresses for a client that offers it."""
        self._limits = limits
        self._deflate = deflate
        self._agreement: Agreement | None = None
        self._head: HeadReader | None = HeadReader(limits)
        self._frames: Frames | None = None
        self._verdict: Request | Violated | None = None
        self._stopped = False  # nothing more is read, though the request has no answer yet

    @property
    def upgraded(self) -> bool:
        """Whether the 101 is out: then, and only then, a close code can be sent."""
        return self._frames is not None

    @property
    def began(self) -> bool:
        """Whether any byte of a request has come."""
        return self._head is None or len(self._head) > 0

    @property
    def frames(self) -> int:
        """Frames begun by the peer so far."""
        return 0 if self._frames is None else self._frames.frames

    @property
    def unfinished(self) -> bool:
        """Whether the peer has begun a message and not finished it."""
        return self._frames is not None and self._frames.unfinished

    @property
    def waiting(self) -> int:
        """Bytes received and not looked at yet; those behind a request count as such until it is answered (H7)."""
        if self._frames is not None:
            return self._frames.waiting
        return 0 if self._head is None or self._stopped else self._head.behind

    @property
    def held(self) -> int:
        """Bytes held of what the peer sent."""
        return (0 if self._head is None else len(self._head)) + (0 if self._frames is None else self._frames.held)

    @property
    def readable(self) -> bool:
        """Whether an answer to our Close could still be read."""
        return self._frames is not None and self._frames.readable

    def receive(self, data: bytes) -> None:
        """Take bytes of the peer. What comes behind a refused head, a Close or a violation is ignored (F9)."""
        if self._frames is not None:
            self._frames.receive(data)
        elif self._head is not None and not self._stopped:
            verdict = self._head.receive(data)
            if verdict is not None:
                self._verdict = Violated(verdict) if isinstance(verdict, Fault) else verdict

    def next_event(self, until: int | None = None) -> WireEvent | None:
        """The next thing that the bytes say, or None where more are needed, or where `frames` has come to `until`."""
        if self._frames is not None:
            return self._frames.next_event(until)
        verdict, self._verdict = self._verdict, None
        return verdict

    def check_upgrade(self, request: Request) -> Fault | None:
        """What the request must keep to become a WebSocket."""
        return http.check_upgrade(request)

    def accept(self, request: Request, subprotocol: str | None) -> bytes:
        """The 101. What came behind the head is read as frames from now on (H7)."""
        assert self._head is not None, "a link answers once"
        limits = self._limits
        agreement = None if self._deflate is None else self._deflate.agree(request.values("sec-websocket-extensions"))
        self._agreement = agreement
        self._frames = Frames(
            client=False,
            max_message=limits.max_message_size,
            max_fragments=limits.max_fragments,
            deflate=agreement is not None,
        )
        self._frames.receive(self._head.rest)
        self._head = None
        return http.accept_response(request, subprotocol, None if agreement is None else agreement.answer)

    def refuse(self, answer: Response, code: int, reason: str) -> bytes:
        """The one answer instead of a 101, without its body for HEAD; all else that the peer sends is ignored (H9)."""
        assert self._head is not None, "a link answers once"
        bodyless = self._head.bodyless
        self._head = None
        return answer.encode(bodyless=bodyless)

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped = True
        if self._frames is not None:
            self._frames.stop()

    def text(self, message: Encoded) -> bytes:
        """A text message."""
        return message.frame if self._agreement is None else message.compressed(self._agreement)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping."""
        assert self._frames is not None
        return self._frames.ping(payload)

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping; nothing once a Close went either way."""
        assert self._frames is not None
        return self._frames.pong(payload)

    def close(self, code: int, reason: str = "") -> bytes:
        """A Close, or the answer to the peer's; nothing where ours is out already, or before the 101."""
        return b"" if self._frames is None else self._frames.close(code, reason)


class MessageLink:
    """Requests and messages of a host that does HTTP, frames, pings and their limits itself."""

    __slots__ = (
        "_denial", "_events", "_max_message", "_number", "_request", "_stopped", "_upgrade",
        "frames", "over", "upgraded", "waiting",
    )  # fmt: skip

    framed = True
    began = True
    unfinished = False
    readable = False  # the host hears the answer to our Close

    def __init__(self, number: int, request: Request, limits: LimitsConfig, *, upgrade: bool, denial: bool) -> None:
        """`upgrade`: the request is for a WebSocket; `denial`: such a one can be answered with HTTP too."""
        self._number = number
        self._request = request
        self._upgrade = upgrade
        self._denial = denial
        self._max_message = limits.max_message_size
        self._events: deque[tuple[WireEvent, int]] = deque([(request, 0)])  # not read yet, each with its bytes
        self._stopped = False  # nothing more is read
        self.over = False  # the peer has closed: nothing more can be said
        self.upgraded = False
        self.frames = 0  # messages read: the host does not say how many frames they had
        self.waiting = 0  # bytes not read yet

    @property
    def held(self) -> int:
        """Bytes held: those not read yet."""
        return self.waiting

    def receive(self, data: str | bytes) -> None:
        """Take a message of the peer. What comes behind a Close or a violation is ignored (F9)."""
        if not self._stopped:
            self._put(*self._read(data))

    def disconnect(self, code: int) -> None:
        """The peer has closed; the host has answered."""
        self.over = True
        if not self._stopped:
            self._put(CloseReceived(code), 0)

    def _put(self, event: WireEvent, size: int) -> None:
        size += 1  # so that an empty one waits, too
        self._events.append((event, size))
        self.waiting += size

    def _read(self, data: str | bytes) -> tuple[WireEvent, int]:
        try:
            size = len(data.encode()) if isinstance(data, str) else len(data)
        except UnicodeEncodeError:
            return Violated(Fault.INVALID_UTF8), 0  # surrogates, of a host that let them pass
        if size > self._max_message:
            return Violated(Fault.MESSAGE_TOO_BIG), 0
        return TextReceived(data) if isinstance(data, str) else BinaryReceived(data), size

    def next_event(self, until: int | None = None) -> WireEvent | None:
        """The request, the next message, or the peer's Close; None where there is none, or `until` were read."""
        if not self._events or (until is not None and self.frames >= until):
            return None
        event, size = self._events.popleft()
        self.waiting -= size
        self.frames += not isinstance(event, Request | CloseReceived)
        return event

    def check_upgrade(self, request: Request) -> Fault | None:
        """What the request must keep to become a WebSocket; the host has seen to the rest."""
        if self._upgrade:
            return http.check_subprotocols(request)
        return Fault.NO_UPGRADE if request.method == "GET" else Fault.METHOD_REFUSED

    def accept(self, request: Request, subprotocol: str | None) -> MessageEffect:
        """The handshake."""
        self.upgraded = True
        return AcceptUpgrade(self._number, subprotocol)

    def refuse(self, answer: Response, code: int, reason: str) -> MessageEffect:
        """The one answer instead of a WebSocket; a close code where the host can say no more."""
        self.stop()
        if self._upgrade and not self._denial:
            return SendClose(self._number, code, reason)
        body = b"" if self._request.method == "HEAD" else answer.body
        return SendResponse(self._number, answer.status, answer.headers, body)

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped = True
        self._events.clear()
        self.waiting = 0

    def text(self, message: Encoded) -> MessageEffect:
        """A text message."""
        return SendMessage(self._number, message.text)

    def close(self, code: int, reason: str = "") -> MessageEffect | None:
        """A Close; None where the peer's was first, which the host has answered."""
        return None if self.over else SendClose(self._number, code, reason)
