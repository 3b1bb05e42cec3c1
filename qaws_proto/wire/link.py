"""The wire of one server connection: HTTP until the 101, frames after it, behind one face.

`receive` takes what came, `next_event` gives what it says, one event a call. A link for hosts that do the framing
themselves (ASGI) has the same face and belongs beside this one.
"""

from __future__ import annotations

from ..config import LimitsConfig
from ..faults import Fault
from . import http
from .frames import FrameEvent, Frames, Violated
from .http import HeadReader, Request

WireEvent = Request | FrameEvent


class ByteLink:
    """Bytes to requests and messages, and messages to bytes. Knows nothing of what they mean."""

    __slots__ = ("_frames", "_head", "_limits", "_verdict")

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

    def accept(self, request: Request, subprotocol: str | None) -> bytes:
        """The 101. What came behind the head is read as frames from now on (H7)."""
        assert self._head is not None, "a link answers once"
        limits = self._limits
        self._frames = Frames(client=False, max_message=limits.max_message_size, max_fragments=limits.max_fragments)
        self._frames.receive(self._head.rest)
        self._head = None
        return http.accept_response(request, subprotocol)

    def refuse(self, answer: bytes) -> bytes:
        """The one answer instead of a 101, without its body for HEAD; all else that the peer sends is ignored (H9)."""
        assert self._head is not None, "a link answers once"
        bodyless = self._head.bodyless
        self._head = None
        return http.without_body(answer) if bodyless else answer

    def stop(self) -> None:
        """Read nothing more."""
        if self._frames is not None:
            self._frames.stop()

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
