"""The wire of one server connection: a request and its answer, then messages, behind one face.

`receive` takes what came, `next_event` gives what it says, one event a call; the rest makes what is sent. A `ByteLink`
speaks HTTP and frames; a `MessageLink` stands behind a host that does both itself (ASGI).
"""

from __future__ import annotations

from ..config import LimitsConfig
from ..effects import AcceptUpgrade, MessageEffect, SendClose, SendMessage, SendResponse
from ..faults import Fault
from . import http
from .frames import BinaryReceived, CloseReceived, Encoded, FrameEvent, Frames, TextReceived, Violated
from .http import HeadReader, Request, Response

WireEvent = Request | FrameEvent


class ByteLink:
    """Bytes to requests and messages, and messages to bytes. Knows nothing of what they mean."""

    __slots__ = ("_frames", "_head", "_limits", "_verdict")

    framed = False  # by the host

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._head: HeadReader | None = HeadReader(limits)
        self._frames: Frames | None = None
        self._verdict: Request | Violated | None = None

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
        """Bytes received and not looked at yet."""
        return 0 if self._frames is None else self._frames.waiting

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
        elif self._head is not None:
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
        self._frames = Frames(client=False, max_message=limits.max_message_size, max_fragments=limits.max_fragments)
        self._frames.receive(self._head.rest)
        self._head = None
        return http.accept_response(request, subprotocol)

    def refuse(self, answer: Response, code: int, reason: str) -> bytes:
        """The one answer instead of a 101, without its body for HEAD; all else that the peer sends is ignored (H9)."""
        assert self._head is not None, "a link answers once"
        bodyless = self._head.bodyless
        self._head = None
        return answer.encode(bodyless=bodyless)

    def stop(self) -> None:
        """Read nothing more."""
        if self._frames is not None:
            self._frames.stop()

    def text(self, message: Encoded) -> bytes:
        """A text message."""
        return message.frame

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
    """Requests and messages of a host that does HTTP, frames, pings and their limits itself. Holds no bytes."""

    __slots__ = (
        "_closed", "_denial", "_event", "_max_message", "_number", "_request", "_stopped", "_upgrade",
        "frames", "upgraded",
    )  # fmt: skip

    framed = True
    began = True
    unfinished = False
    waiting = 0
    held = 0
    readable = False  # the host hears the answer to our Close

    def __init__(self, number: int, request: Request, limits: LimitsConfig, *, upgrade: bool, denial: bool) -> None:
        """`upgrade`: the request is for a WebSocket; `denial`: such a one can be answered with HTTP too."""
        self._number = number
        self._request = request
        self._upgrade = upgrade
        self._denial = denial
        self._max_message = limits.max_message_size
        self._event: WireEvent | None = request
        self._stopped = False  # nothing more is read
        self._closed = False  # by the peer
        self.upgraded = False
        self.frames = 0  # messages: the host does not say how many frames they had

    def receive(self, data: str | bytes) -> None:
        """Take a message of the peer. What comes behind a Close or a violation is ignored (F9)."""
        if not self._stopped:
            self.frames += 1
            self._event = self._read(data)

    def disconnect(self, code: int) -> None:
        """The peer has closed; the host has answered."""
        self._closed = True
        if not self._stopped:
            self._event = CloseReceived(code)

    def _read(self, data: str | bytes) -> WireEvent:
        try:
            size = len(data.encode()) if isinstance(data, str) else len(data)
        except UnicodeEncodeError:
            return Violated(Fault.INVALID_UTF8)  # surrogates, of a host that let them pass
        if size > self._max_message:
            return Violated(Fault.MESSAGE_TOO_BIG)
        return TextReceived(data) if isinstance(data, str) else BinaryReceived(data)

    def next_event(self, until: int | None = None) -> WireEvent | None:
        """The request, or the message that has just come; then None."""
        event, self._event = self._event, None
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
        self._event = None

    def text(self, message: Encoded) -> MessageEffect:
        """A text message."""
        return SendMessage(self._number, message.text)

    def close(self, code: int, reason: str = "") -> MessageEffect | None:
        """A Close; None where the peer's was first, which the host has answered."""
        return None if self._closed else SendClose(self._number, code, reason)
