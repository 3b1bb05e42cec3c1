"""Frames as peers send them, right ones and wrong ones, and bytes in the reads that they come in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 section 5.7
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True)
class Frame:
    """One frame (RFC 6455 section 5.2). `width` and `length` may lie; a server's has no mask."""

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
        head = bytes((self.fin << 7 | self.rsv << 4 | self.opcode, (self.mask is not None) << 7 | short))
        head += (length % (1 << 8 * width)).to_bytes(width)
        return head + (self.payload if self.mask is None else self.mask + masked(self.payload, self.mask))


def masked(payload: bytes, key: bytes) -> bytes:
    """The payload masked, or unmasked (RFC 6455 section 5.3)."""
    size = len(payload)
    whole = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(size)


def dump(frames: Iterable[Frame]) -> bytes:
    """The bytes of frames in a row."""
    return b"".join(frame.dump() for frame in frames)


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """The payload of a Close with a code."""
    return code.to_bytes(2) + reason


def fragmented(opcode: int, pieces: Sequence[bytes]) -> list[Frame]:
    """One message in as many frames as there are pieces."""
    last = len(pieces) - 1
    return [Frame(CONTINUATION if at else opcode, piece, fin=at == last) for at, piece in enumerate(pieces)]


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
