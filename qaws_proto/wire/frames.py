"""Bytes to messages: RFC 6455 section 5, for either side of a connection.

The stream is cut at frame boundaries here, so that sizes are judged from the header before the payload comes, and
frames can be counted. A plain frame that is here whole (a text message, a ping, a pong, a client's Close) is read and
written right here, which takes a tenth of the time; wsproto reads all the others and is the judge of the protocol. What
it leaves to its user (limits, assembly of messages, one verdict and then silence) is done here too.
"""

from __future__ import annotations

from typing import NamedTuple

from wsproto.connection import CLIENT, SERVER, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from ..config import DEFLATE_OVERHEAD
from ..faults import Fault
from .deflate import Agreement, Inflate


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

COMPRESSED = 0x40  # RSV1 of the first frame of a message (RFC 7692 section 6)

_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A  # first bytes of plain frames: FIN, no reserved bit, the opcode
_MASKED = 0x80

_PLAIN_CODES = (1000, 1001)  # of a Close: those of whoever just leaves

_LENGTH_BYTES = {126: 2, 127: 8}


class Frames:
    """One side's reader and writer of frames.

    `receive` takes bytes, `next_event` gives what they say, one event a call, and None when more bytes are needed.
    A message never holds more than `max_message` bytes or `max_fragments` frames (F3, F4); what a header declares
    counts at once. `frames` counts every frame that has begun. With `deflate` messages may be compressed (F5).
    """

    __slots__ = (
        "_at", "_client", "_ended", "_fragments", "_header", "_in_message", "_inbox", "_inflate", "_left",
        "_max_fragments", "_max_message", "_pieces", "_plain_state", "_size", "_top", "_wsproto", "frames",
    )  # fmt: skip

    def __init__(self, *, client: bool, max_message: int, max_fragments: int, deflate: bool = False) -> None:
        self._client = client
        self._inflate = Inflate(max_message) if deflate else None
        self._wsproto: Connection | None = None  # made for the first frame that is not plain: it takes 3 KiB
        self._plain_state = ConnectionState.OPEN  # until then
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._inbox = b""
        self._at = 0  # what is read of the inbox
        self._header = b""  # what has come of a header that is not complete
        self._left = 0  # bytes that are not read of a frame whose header is judged
        self._in_message = False  # a data message has begun and is not finished
        self._fragments = 0
        self._size = 0  # bytes of the message so far, as declared by its headers
        self._top = max_message  # what they may come to
        self._pieces = bytearray()  # what has come of a message in several reads; a list of tiny ones costs 60 times it
        self._ended = False
        self.frames = 0

    @property
    def waiting(self) -> int:
        """Bytes received and not read yet."""
        return len(self._inbox) - self._at

    @property
    def held(self) -> int:
        """Bytes held: unread ones, a part of a header, and an unfinished message. (A part of a control frame is not
        counted: 125 bytes at most.)"""
        message = self._inflate.held if self._inflate is not None and self._inflate.compressed else self._size
        return self.waiting + len(self._header) + message

    @property
    def unfinished(self) -> bool:
        """Whether the peer has begun a frame or message and not finished it."""
        return self._in_message or self._left > 0 or bool(self._header)

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
        """The next thing the bytes say, or None where more are needed, or where frame number `until` was the last."""
        while self._at < len(self._inbox):
            if self._left:
                event = self._read_frame()
            elif self._header:
                event = self._read_header()
            elif self.frames != until:
                event = self._read_plain() or self._read_header()
            else:
                return None
            if event is not None:
                return event
        return None

    def _read_plain(self) -> FrameEvent | None:
        """Read the next frame, where it is plain and here whole; None where the judge has to look at it.

        Must say exactly what `_read_header` and wsproto would: tests/wire/test_plain_frames.py compares them.
        """
        inbox, at = self._inbox, self._at
        end = len(inbox)
        if end - at < 2:
            return None
        first, length, begin = inbox[at], inbox[at + 1], at + 2
        if not self._client:
            length ^= _MASKED  # 128 and more where it is not masked
        if length == 126 and end - at >= 4:
            length, begin = (inbox[at + 2] << 8) | inbox[at + 3], at + 4
            if length < 126:
                return None
        elif length > 125:
            return None
        if not self._client:
            begin += 4
        stop = begin + length
        if stop > end:
            return None
        if first == _TEXT:
            if self._in_message or length > self._max_message:
                return None
        elif first not in (_PING, _PONG, _CLOSE) or length > 125:
            return None
        payload = inbox[begin:stop]
        if not self._client:  # RFC 6455 section 5.3, as one number: in a loop it would take twenty times as long
            key = inbox[begin - 4 : begin] * (length // 4 + 1)
            payload = (int.from_bytes(payload) ^ int.from_bytes(key[:length])).to_bytes(length)
        event: FrameEvent
        if first == _TEXT:
            try:
                event = TextReceived(payload.decode())
            except UnicodeDecodeError:
                return None
        elif first == _CLOSE:
            closed = None if self._client or self._wsproto is not None else _plain_close(payload)
            if closed is None:
                return None
            self._plain_state = ConnectionState.REMOTE_CLOSING
            self.frames += 1
            return self._end(closed)
        else:
            event = PingReceived(payload) if first == _PING else PongReceived(payload)
        self._at = stop
        self.frames += 1
        return event

    def _read_header(self) -> FrameEvent | None:
        """Read a part of a header; a whole one is judged, and left to be read with the payload."""
        start, inbox = self._at, self._inbox
        if not self._header:
            self.frames += 1
        head = self._header + inbox[start : start + 14 - len(self._header)]
        size = header_size(head)
        if len(head) < size:
            self._at, self._header = len(inbox), head
            return self._feed(inbox[start:])
        end = start + size - len(self._header)
        self._header = b""
        length = payload_length(head)
        fault = None if head[0] & 0x08 else self._open_data_frame(head[0], length)
        if fault is not None:  # the judge sees the header first: a violation in it comes before our limits
            broken = Violated(Fault.PROTOCOL_VIOLATION)
            return broken if self._feed(inbox[start:end]) == broken else self._end(Violated(fault))
        self._left = end - start + length
        return None

    def _read_frame(self) -> FrameEvent | None:
        """Read as much of the frame as is here."""
        start = self._at
        self._at = min(start + self._left, len(self._inbox))
        self._left -= self._at - start
        return self._feed(self._inbox[start : self._at])

    def _open_data_frame(self, first: int, length: int) -> Fault | None:
        """Judge what the header of a data frame says, before any of its payload comes. `first` is its first byte."""
        begins = first & 0x0F != 0
        if begins is self._in_message:
            return Fault.PROTOCOL_VIOLATION  # RFC 6455 section 5.4; wsproto would wait for the payload to tell
        if begins:
            self._top = self._max_message + (DEFLATE_OVERHEAD if first & COMPRESSED else 0)
        self._in_message = True
        self._fragments += 1
        self._size += length
        if self._size > self._top:
            return Fault.MESSAGE_TOO_BIG
        if self._fragments > self._max_fragments:
            return Fault.TOO_MANY_FRAGMENTS
        return None

    def _feed(self, data: bytes) -> FrameEvent | None:
        """Give bytes of one frame to wsproto; what it says, which is one thing at most."""
        judge = self._judge
        judge.receive_data(data)
        event = next(judge.events(), None)
        if event is None:
            return None
        if isinstance(event, TextMessage | BytesMessage):
            return self._take_data(event)
        if isinstance(event, Ping):
            return PingReceived(bytes(event.payload))
        if isinstance(event, Pong):
            return PongReceived(bytes(event.payload))
        assert isinstance(event, CloseConnection)
        if judge.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
            return self._end(CloseReceived(int(event.code)))
        if self._inflate is not None and self._inflate.fault is not None:
            return self._end(Violated(self._inflate.fault))
        bad_text = event.code == CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return self._end(Violated(Fault.INVALID_UTF8 if bad_text else Fault.PROTOCOL_VIOLATION))

    def _take_data(self, event: TextMessage | BytesMessage) -> FrameEvent | None:
        """Assemble a message: wsproto gives a piece a read."""
        if not event.message_finished:
            self._pieces += event.data.encode() if isinstance(event, TextMessage) else event.data
            return None
        pieces, self._pieces = self._pieces, bytearray()
        self._in_message = False
        self._fragments = self._size = 0
        if self._inflate is not None:
            next(self._judge.events(), None)  # wsproto keeps its last frame until it looks for another
        if isinstance(event, TextMessage):
            return TextReceived(pieces.decode() + event.data if pieces else event.data)
        return BinaryReceived(bytes(pieces + event.data))

    def stop(self) -> None:
        """Read nothing more."""
        self._ended = True
        self._inbox, self._at, self._left, self._header = b"", 0, 0, b""
        self._in_message, self._size, self._pieces = False, 0, bytearray()
        if self._inflate is not None:
            self._inflate.stop()

    def _end(self, last: FrameEvent) -> FrameEvent:
        self.stop()
        return last

    # ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _judge(self) -> Connection:
        if self._wsproto is None:
            self._wsproto = Connection(
                CLIENT if self._client else SERVER, [] if self._inflate is None else [self._inflate]
            )
        return self._wsproto

    @property
    def _state(self) -> ConnectionState:
        return self._plain_state if self._wsproto is None else self._wsproto.state

    def text(self, payload: bytes) -> bytes:
        """A frame with one whole text message; the payload is UTF-8."""
        if self._client:
            return bytes(self._judge.send(TextMessage(payload.decode())))
        return text_frame(payload)

    def binary(self, payload: bytes) -> bytes:
        """A frame with one whole binary message."""
        return bytes(self._judge.send(BytesMessage(payload)))

    def ping(self, payload: bytes) -> bytes:
        """A ping of at most 125 bytes, or nothing once a Close went either way."""
        if self._state is not ConnectionState.OPEN:
            return b""
        if self._client or len(payload) > 125:
            return bytes(self._judge.send(Ping(payload)))
        return bytes((_PING, len(payload))) + payload

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping, or nothing once a Close went either way."""
        if self._state is not ConnectionState.OPEN:
            return b""
        if self._client or len(payload) > 125:
            return bytes(self._judge.send(Pong(payload)))
        return bytes((_PONG, len(payload))) + payload

    def close(self, code: int, reason: str = "") -> bytes:
        """A Close, or the answer to the peer's; nothing where ours is out already. 1005 stands for no code."""
        state = self._state
        if state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            return b""
        if self._wsproto is None and state is ConnectionState.REMOTE_CLOSING and code in _PLAIN_CODES and not reason:
            self._plain_state = ConnectionState.CLOSED
            return bytes((_CLOSE, 2)) + code.to_bytes(2)
        if code == CloseReason.NO_STATUS_RCVD:
            return bytes(self._judge.send(CloseConnection(code=CloseReason.NO_STATUS_RCVD)))
        return bytes(self._judge.send(CloseConnection(code=code, reason=reason)))


def _plain_close(payload: bytes) -> CloseReceived | None:
    """What a Close says, where there is nothing to judge in it."""
    if not payload:
        return CloseReceived(CloseReason.NO_STATUS_RCVD.value)
    code = int.from_bytes(payload[:2])
    if code not in _PLAIN_CODES:
        return None
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return None
    return CloseReceived(code)


def header_size(head: bytes) -> int:
    """How long the header is that begins with `head`, as far as `head` tells."""
    if len(head) < 2:
        return 2
    return 2 + _LENGTH_BYTES.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def payload_length(head: bytes) -> int:
    """How long the payload is that a whole header declares."""
    length = head[1] & 0x7F
    return length if length < 126 else int.from_bytes(head[2 : 2 + _LENGTH_BYTES[length]])


def text_frame(payload: bytes, *, compressed: bool = False) -> bytes:
    """A server's frame with one whole text message. It is the same for every connection, so fan-out builds it once."""
    length = len(payload)
    first = _TEXT | COMPRESSED if compressed else _TEXT
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return bytes((first, 126, length >> 8, length & 0xFF)) + payload
    return bytes((first, 127)) + length.to_bytes(8) + payload


class Encoded:
    """A message as it goes out: its payload; its frames and its text are made when a connection first needs one."""

    __slots__ = ("_compressed", "_frame", "_text", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._frame: bytes | None = None
        self._compressed: dict[int, bytes] | None = None  # frames, by the window they are for
        self._text: str | None = None

    @property
    def size(self) -> int:
        """Bytes of its frame, whoever makes it; a compressed one has fewer."""
        length = len(self.payload)
        return length + (2 if length < 126 else 4 if length < 65536 else 10)

    @property
    def frame(self) -> bytes:
        """The payload in one text frame."""
        if self._frame is None:
            self._frame = text_frame(self.payload)
        return self._frame

    def compressed(self, agreement: Agreement) -> bytes:
        """Its frame for a connection that agreed on compression: compressed, where that makes it smaller."""
        window = agreement.window(len(self.payload))
        frames = self._compressed
        if frames is None:
            frames = self._compressed = {}
        frame = frames.get(window)
        if frame is None:
            shrunk = agreement.deflate.shrink(self.payload, window)
            frame = frames[window] = self.frame if shrunk is None else text_frame(shrunk, compressed=True)
        return frame

    @property
    def text(self) -> str:
        """The payload as text, for hosts that frame by themselves."""
        if self._text is None:
            self._text = self.payload.decode()
        return self._text
