"""A simple decoder of frames to compare with, and what is heard of them in reads.

The decoder looks at a whole byte string at once and knows no state but its place in it. It is written from RFC 6455
and RFC 3629, not from our code, and says for each thing also the byte at which it becomes certain.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import NamedTuple

from qaws_proto.faults import Fault
from qaws_proto.testing.frames import CLOSE, CONTINUATION, PING, PONG, TEXT, masked
from qaws_proto.wire.frames import FrameEvent, Frames


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
