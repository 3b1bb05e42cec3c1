"""Bytes for the wire: every way to cut them into reads, frames good and bad, and a simple decoder to compare with.

The decoder looks at a whole byte string at once and knows no state but its place in it. It is written from RFC 6455
and RFC 3629, not from our code, and says for each thing also the byte at which it becomes certain.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from hypothesis import strategies as st

from qaws_proto.faults import Fault
from qaws_proto.wire.frames import FrameEvent, Frames

MASK = b"\x12\x34\x56\x78"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


# ── cutting into reads ───────────────────────────────────────────────────────────────────────────────────────────────


class Cut(NamedTuple):
    """Some bytes, and the reads that they come in."""

    data: bytes
    reads: list[bytes]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The bytes in pieces, cut at these places; a place named twice makes an empty piece."""
    edges = [0, *sorted(places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def byte_by_byte(data: bytes) -> list[bytes]:
    """The bytes in reads of one."""
    return cut(data, range(1, len(data)))


def splits(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Every way to cut the bytes into reads: whole, byte by byte, and all between; some reads are empty."""
    places = st.lists(st.integers(0, len(data)), max_size=8)
    return st.one_of(st.just([data]), st.just(byte_by_byte(data)), places.map(lambda at: cut(data, at)))


def cuts(source: st.SearchStrategy[bytes]) -> st.SearchStrategy[Cut]:
    """Bytes of the source, cut into reads in every way."""
    return source.flatmap(lambda data: splits(data).map(lambda reads: Cut(data, reads)))


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Frame:
    """One frame as it goes over the wire. `width` and `length` may lie about the payload; no mask is a server's."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    mask: bytes | None = MASK
    width: int | None = None  # bytes of the extended length: 0, 2 or 8; None takes as few as will do
    length: int | None = None  # what the header declares; None tells the truth

    def dump(self) -> bytes:
        """The frame's bytes."""
        length = len(self.payload) if self.length is None else self.length
        width = self.width
        if width is None:
            width = 0 if length < 126 else 2 if length < 65536 else 8
        short = {0: length & 0x7F, 2: 126, 8: 127}[width]
        first = self.fin << 7 | self.rsv << 4 | self.opcode
        head = bytes((first, (self.mask is not None) << 7 | short))
        head += (length % (1 << 8 * width)).to_bytes(width, "big")
        return head + (self.payload if self.mask is None else self.mask + masked(self.payload, self.mask))


def masked(payload: bytes, key: bytes) -> bytes:
    """The payload masked, or unmasked (RFC 6455 section 5.3)."""
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def dump(frames: Iterable[Frame]) -> bytes:
    """The bytes of frames in a row."""
    return b"".join(frame.dump() for frame in frames)


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """The payload of a Close with a code."""
    return code.to_bytes(2, "big") + reason


def fragmented(opcode: int, pieces: Sequence[bytes]) -> list[Frame]:
    """One message in as many frames as there are pieces."""
    last = len(pieces) - 1
    return [Frame(CONTINUATION if at else opcode, piece, fin=at == last) for at, piece in enumerate(pieces)]


_SCRAPS = st.sampled_from(
    [b"a", b"{}", "ñ".encode(), "€".encode(), "😀".encode(), b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90", b"\xff",
     b"\xe2\x82", b"\xf0\x9f", b"\x80"]
)  # fmt: skip
_nearly_utf8 = st.lists(_SCRAPS, max_size=5).map(b"".join)
_utf8 = st.text(max_size=40).map(str.encode)
_small = st.binary(max_size=20)
_control = st.builds(Frame, st.sampled_from((PING, PONG)), st.one_of(_small, st.binary(min_size=124, max_size=125)))


@st.composite
def _pieces(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(source)
    return cut(data, draw(st.lists(st.integers(0, len(data)), max_size=4)))


@st.composite
def _message(draw: st.DrawFn, text: st.SearchStrategy[bytes]) -> list[Frame]:
    """A message in fragments, with control frames between them."""
    opcode, source = draw(st.sampled_from([(TEXT, text), (BINARY, _small)]))
    frames: list[Frame] = []
    for frame in fragmented(opcode, draw(_pieces(source))):
        frames += [*draw(st.lists(_control, max_size=1)), frame]
    return frames


@st.composite
def good_frames(draw: st.DrawFn) -> list[Frame]:
    """Messages and control frames with nothing wrong in them, as a client sends them."""
    parts = draw(st.lists(st.one_of(_message(_utf8), _control.map(lambda frame: [frame])), max_size=5))
    return [replace(frame, mask=draw(st.binary(min_size=4, max_size=4))) for part in parts for frame in part]


_close = st.builds(
    Frame,
    st.just(CLOSE),
    st.one_of(
        st.just(b""),
        st.binary(max_size=3),
        st.builds(close_payload, st.integers(0, 5100), _nearly_utf8),
        st.builds(close_payload, st.sampled_from((1000, 1001, 1005, 1006, 1014, 1015, 3000, 4999)), _utf8),
    ).filter(lambda payload: len(payload) < 126),
)
_any_frame = st.builds(
    Frame,
    opcode=st.integers(0, 15),
    payload=st.one_of(_small, st.binary(min_size=124, max_size=128)),
    fin=st.booleans(),
    rsv=st.sampled_from((0, 0, 0, 1, 2, 4, 7)),
    mask=st.sampled_from((MASK, MASK, MASK, None)),
    width=st.sampled_from((None, None, None, 0, 2, 8)),
    length=st.one_of(st.none(), st.none(), st.integers(0, 300), st.integers(0, (1 << 64) - 1)),
)


@st.composite
def streams(draw: st.DrawFn, *, client: bool = False) -> bytes:
    """What a peer may send to a server (or to a client), good, broken, cut off, or not frames at all."""
    single = st.one_of(_close, _any_frame).map(lambda frame: [frame])
    parts = draw(st.lists(st.one_of(_message(_nearly_utf8), _message(_utf8), single), max_size=6))
    frames = [frame for part in parts for frame in part]
    if client:
        frames = [replace(frame, mask=MASK if frame.mask is None else None) for frame in frames]
    data = dump(frames) + draw(st.one_of(st.just(b""), _small))
    return data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]


# ── what is heard, and what should be ────────────────────────────────────────────────────────────────────────────────


class Heard(NamedTuple):
    """Something that the bytes said, once `at` of them had come. (Events of two kinds may be equal as tuples.)"""

    at: int
    kind: str
    value: object


def heard(at: int, event: FrameEvent) -> Heard:
    """What an event says."""
    return Heard(at, type(event).__name__, event[0])


def listen(frames: Frames, reads: Iterable[bytes], check: Callable[[bytes], None] = lambda read: None) -> list[Heard]:
    """Everything that is said as the reads come; `check` is called with each read once all is said."""
    said: list[Heard] = []
    at = 0
    for read in reads:
        at += len(read)
        frames.receive(read)
        while (event := frames.next_event()) is not None:
            said.append(heard(at, event))
        check(read)
    return said


def said_in_reads(said: Iterable[Heard], reads: Iterable[bytes]) -> list[Heard]:
    """The same, where bytes come in these reads: each thing is said with the read that makes it certain."""
    ends = list(accumulate(map(len, reads)))
    return [each._replace(at=ends[bisect_left(ends, each.at)]) for each in said]


_PLAIN_CODES = {1000, 1001, 1002, 1003, *range(1007, 1014), *range(3000, 5000)}  # RFC 6455 section 7.4; IANA to 1013


def decode(data: bytes, *, client: bool, max_message: int, max_fragments: int) -> list[Heard]:
    """What a whole byte string says to a server (or to a client), with the byte at which each thing is certain."""
    said: list[Heard] = []

    def violated(at: int, fault: Fault) -> list[Heard]:
        return [*said, Heard(at, "Violated", fault)]

    at = size = fragments = kind = 0
    message = b""
    while len(data) >= at + 2:
        fin, rsv, opcode = data[at] >> 7, data[at] >> 4 & 7, data[at] & 15
        has_mask, length = data[at + 1] >> 7, data[at + 1] & 127
        is_control = opcode >= 8
        if opcode not in (0, 1, 2, 8, 9, 10) or (is_control and (not fin or length > 125)):
            return violated(at + 2, Fault.PROTOCOL_VIOLATION)
        least, most, width = {126: (126, 65535, 2), 127: (65536, (1 << 63) - 1, 8)}.get(length, (0, 125, 0))
        measured = at + 2 + width
        if len(data) < measured:
            break
        if width:
            length = int.from_bytes(data[at + 2 : measured], "big")
        if rsv or bool(has_mask) == client or not least <= length <= most:
            return violated(measured, Fault.PROTOCOL_VIOLATION)
        begin = measured + (4 if has_mask else 0)
        if len(data) < begin:
            break
        if not is_control:
            if (opcode == CONTINUATION) != bool(kind):
                return violated(begin, Fault.PROTOCOL_VIOLATION)
            kind = kind or opcode
            size += length
            fragments += 1
            if size > max_message:
                return violated(begin, Fault.MESSAGE_TOO_BIG)
            if fragments > max_fragments:
                return violated(begin, Fault.TOO_MANY_FRAGMENTS)
        end = begin + length
        payload = data[begin:end]
        if has_mask:
            payload = masked(payload, data[measured:begin])
        if not is_control:
            before, message = len(message), message + payload
            bad, whole = first_bad_byte(message)
            if kind == TEXT and bad is not None:
                return violated(begin + bad - before + 1, Fault.INVALID_UTF8)
            if kind == TEXT and fin and len(data) >= end and not whole:
                return violated(end, Fault.INVALID_UTF8)
        if len(data) < end:
            break
        at = end
        if opcode in (PING, PONG):
            said.append(Heard(at, "PingReceived" if opcode == PING else "PongReceived", payload))
        elif opcode == CLOSE:
            if len(payload) == 1 or (payload and int.from_bytes(payload[:2], "big") not in _PLAIN_CODES):
                return violated(at, Fault.PROTOCOL_VIOLATION)
            if first_bad_byte(payload[2:]) != (None, True):
                return violated(at, Fault.INVALID_UTF8)
            return [*said, Heard(at, "CloseReceived", int.from_bytes(payload[:2], "big") if payload else 1005)]
        elif fin:
            kind_of = ("TextReceived", message.decode()) if kind == TEXT else ("BinaryReceived", message)
            said.append(Heard(at, *kind_of))
            message, size, fragments, kind = b"", 0, 0, 0
    return said


_TAIL, _NOTHING = (0x80, 0xBF), (1, 0)
_SEQUENCES = [  # RFC 3629 section 4
    ((0x00, 0x7F), []), ((0xC2, 0xDF), [_TAIL]),
    ((0xE0, 0xE0), [(0xA0, 0xBF), _TAIL]), ((0xE1, 0xEC), [_TAIL, _TAIL]),
    ((0xED, 0xED), [_TAIL, _TAIL]), ((0xEE, 0xEF), [_TAIL, _TAIL]),
    ((0xF0, 0xF0), [(0x90, 0xBF), _TAIL, _TAIL]), ((0xF1, 0xF3), [_TAIL, _TAIL, _TAIL]),
    ((0xF4, 0xF4), [(0x80, 0x8F), _TAIL, _TAIL]),
]  # fmt: skip


def first_bad_byte(data: bytes) -> tuple[int | None, bool]:
    """Where UTF-8 is broken for good, or None; and whether the bytes end with a whole character.

    A surrogate is broken with its second byte, and Python's decoder says so with the third: so do we here.
    """
    due: list[tuple[int, int]] = []
    lead = 0
    for at, byte in enumerate(data):
        if due:
            low, high = due.pop(0)
            if not low <= byte <= high:
                return at, False
            if lead == 0xED and byte > 0x9F and due:
                due = [_NOTHING]
            continue
        tails = [tail for (low, high), tail in _SEQUENCES if low <= byte <= high]
        if not tails:
            return at, False
        lead, due = byte, list(tails[0])
    return None, not due
