"""Bytes to messages: RFC 6455 section 5, for either side of a connection.

The stream is cut at frame boundaries here, so that sizes are judged from the header before the payload comes, and
frames can be counted. wsproto reads every frame and is the judge of the protocol; what it leaves to its user (limits,
assembly of messages, one verdict and then silence) is done here.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from wsproto.connection import CLIENT, SERVER, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from ..faults import Fault


class TextReceived(NamedTuple):
    """A whole text message."""

    text: str


class BinaryReceived(NamedTuple):
    """A whole binary message."""

    data: bytes


class PingReceived(NamedTuple):
    """A ping; its payload belongs into the pong."""

    payload: bytes


class PongReceived(NamedTuple):
    """A pong, asked for or not."""

    payload: bytes


class CloseReceived(NamedTuple):
    """The peer's Close: 1005 where it named no code. Nothing comes after it."""

    code: int


class Violated(NamedTuple):
    """The peer broke the protocol or a limit. Nothing comes after it; the connection is to be failed with the fault."""

    fault: Fault


FrameEvent = TextReceived | BinaryReceived | PingReceived | PongReceived | CloseReceived | Violated

_LENGTH_BYTES = {126: 2, 127: 8}


class Frames:
    """One side's reader and writer of frames.

    `receive` takes bytes, `next_event` gives what they say, one event a call, and None when more bytes are needed.
    A message never holds more than `max_message` bytes or `max_fragments` frames (F3, F4); what a header declares
    counts at once. `frames` counts every frame whose header is complete.
    """

    __slots__ = (
        "_at", "_ended", "_events", "_fragments", "_header", "_in_message", "_inbox", "_left", "_max_fragments",
        "_max_message", "_parts", "_size", "_ws", "frames",
    )  # fmt: skip

    def __init__(self, *, client: bool, max_message: int, max_fragments: int) -> None:
        self._ws = Connection(CLIENT if client else SERVER)
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._inbox = b""
        self._at = 0  # what is read of the inbox
        self._header = b""  # what has come of a header that is not complete
        self._left = 0  # bytes that are missing of the current frame's payload
        self._in_message = False  # a data message has begun and is not finished
        self._fragments = 0
        self._size = 0  # bytes of the message so far, as declared by its headers
        self._parts: list[str | bytes] = []
        self._events: deque[FrameEvent] = deque()
        self._ended = False
        self.frames = 0

    @property
    def waiting(self) -> int:
        """Bytes received and not read yet."""
        return len(self._inbox) - self._at

    @property
    def held(self) -> int:
        """Bytes held of all kinds: unread ones and those of an unfinished message."""
        return self.waiting + len(self._header) + self._size

    @property
    def unfinished(self) -> bool:
        """Whether the peer has begun a frame or message and not finished it."""
        return not self._ended and (self._in_message or self._left > 0 or bool(self._header))

    @property
    def readable(self) -> bool:
        """Whether a Close of the peer could still be read."""
        return not self._ended

    def receive(self, data: bytes) -> None:
        """Take bytes of the peer. After the end (a Close or a violation) they are ignored (F9)."""
        if self._ended:
            return
        self._inbox = self._inbox[self._at :] + data if self._at < len(self._inbox) else data
        self._at = 0

    def next_event(self, until: int | None = None) -> FrameEvent | None:
        """The next thing the bytes say, or None where more are needed, or where `frames` has come to `until`."""
        while True:
            if self._events:
                return self._events.popleft()
            if self._ended or self._at >= len(self._inbox) or self.frames == until:
                return None
            if self._left:
                self._read_payload()
            else:
                self._read_header()

    def _read_header(self) -> None:
        """Read (a part of) a header, and with it as much of the payload as is here."""
        start, inbox = self._at, self._inbox
        head = self._header + inbox[start : start + 14 - len(self._header)]
        size = _header_size(head)
        if len(head) < size:
            self._at = start + len(head) - len(self._header)
            self._header = head
            self._feed(inbox[start : self._at])
            return
        end = start + size - len(self._header)
        self._header = b""
        fault, length = self._open_frame(head)
        if fault is not None:  # the judge sees the header first: a violation in it comes before our limits
            self._feed(inbox[start:end])
            self._fail(fault)
            return
        self._at = min(end + length, len(inbox))
        self._left = end + length - self._at
        self._feed(inbox[start : self._at])

    def _read_payload(self) -> None:
        start = self._at
        self._at = min(start + self._left, len(self._inbox))
        self._left -= self._at - start
        self._feed(self._inbox[start : self._at])

    def _open_frame(self, head: bytes) -> tuple[Fault | None, int]:
        """Count the frame that begins, and judge what it declares. The length of its payload."""
        self.frames += 1
        length = head[1] & 0x7F
        if length > 125:
            length = int.from_bytes(head[2 : 2 + _LENGTH_BYTES[length]])
        if head[0] & 0x08:  # a control frame: wsproto refuses lengths over 125
            return (Fault.PROTOCOL_VIOLATION if length > 125 else None), length
        self._in_message = True
        self._fragments += 1
        self._size += length
        if self._size > self._max_message:
            return Fault.MESSAGE_TOO_BIG, length
        if self._fragments > self._max_fragments:
            return Fault.TOO_MANY_FRAGMENTS, length
        return None, length

    def _feed(self, data: bytes) -> None:
        """Give bytes of one frame to wsproto and keep what it says."""
        self._ws.receive_data(data)
        for event in self._ws.events():
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, TextMessage | BytesMessage):
            self._take_data(event)
        elif isinstance(event, Ping):
            self._events.append(PingReceived(bytes(event.payload)))
        elif isinstance(event, Pong):
            self._events.append(PongReceived(bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            if self._ws.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
                self._end(CloseReceived(int(event.code)))
            elif event.code == CloseReason.INVALID_FRAME_PAYLOAD_DATA:
                self._fail(Fault.INVALID_UTF8)
            else:
                self._fail(Fault.PROTOCOL_VIOLATION)

    def _take_data(self, event: TextMessage | BytesMessage) -> None:
        if event.data:  # wsproto gives one event a read, empty ones too: those are stored nowhere (F4)
            self._parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
        if not event.message_finished:
            return
        parts, self._parts = self._parts, []
        self._in_message = False
        self._fragments = self._size = 0
        if isinstance(event, TextMessage):
            self._events.append(TextReceived(parts[0] if len(parts) == 1 else "".join(parts)))  # type: ignore[arg-type]
        else:
            self._events.append(BinaryReceived(b"".join(parts)))  # type: ignore[arg-type]

    def stop(self) -> None:
        """Read nothing more."""
        self._ended = True
        self._forget()

    def _fail(self, fault: Fault) -> None:
        if not self._ended:
            self._end(Violated(fault))

    def _end(self, last: FrameEvent) -> None:
        self._events.append(last)
        self._ended = True
        self._forget()

    def _forget(self) -> None:
        self._inbox, self._at, self._left, self._header = b"", 0, 0, b""
        self._in_message, self._size = False, 0
        self._parts.clear()

    def text(self, payload: bytes) -> bytes:
        """A frame with one whole text message; the payload is UTF-8."""
        if self._ws.client:
            return bytes(self._ws.send(TextMessage(payload.decode())))
        return text_frame(payload)

    def binary(self, payload: bytes) -> bytes:
        """A frame with one whole binary message."""
        return bytes(self._ws.send(BytesMessage(payload)))

    def ping(self, payload: bytes) -> bytes:
        """A ping; at most 125 bytes of payload."""
        return bytes(self._ws.send(Ping(payload)))

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping, or nothing once a Close went either way."""
        return bytes(self._ws.send(Pong(payload))) if self._ws.state is ConnectionState.OPEN else b""

    def close(self, code: int, reason: str = "") -> bytes:
        """A Close, or the answer to the peer's; nothing where ours is out already. 1005 stands for no code."""
        if self._ws.state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            return b""
        if code == CloseReason.NO_STATUS_RCVD:
            return bytes(self._ws.send(CloseConnection(code=CloseReason.NO_STATUS_RCVD)))
        return bytes(self._ws.send(CloseConnection(code=code, reason=reason)))


def _header_size(head: bytes) -> int:
    """How long the header is that begins with `head`, as far as `head` tells."""
    if len(head) < 2:
        return 2
    return 2 + _LENGTH_BYTES.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def text_frame(payload: bytes) -> bytes:
    """A server's frame with one whole text message. It is the same for every connection, so fan-out builds it once."""
    length = len(payload)
    if length < 126:
        return bytes((0x81, length)) + payload
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2) + payload
    return b"\x81\x7f" + length.to_bytes(8) + payload


class Encoded:
    """A message as it goes out: its payload, and its frame, built when the first connection needs it."""

    __slots__ = ("_frame", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        """The payload in one text frame."""
        if self._frame is None:
            self._frame = text_frame(self.payload)
        return self._frame
