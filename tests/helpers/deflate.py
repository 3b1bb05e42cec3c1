"""permessage-deflate by zlib alone: messages as any client may compress them, and what a whole one says.

Written from RFC 7692 and RFC 1951, not from our code.
"""

from __future__ import annotations

import zlib

from hypothesis import strategies as st

from qaws_proto.faults import Fault
from qaws_proto.testing.peer import REMOVED


def finished(payload: bytes, *, level: int = 6, window: int = 15) -> bytes:
    """A message in a stream that has a final block, and the header of the empty one behind it (section 7.2.3.4)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window)
    return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH) + b"\x00"


def verdicts(message: bytes, max_message: int) -> set[Fault | bytes]:
    """What may become of a whole message, byte by byte: what it says, or why it is refused.

    There are two where a stream breaks close to the byte that is one too many: zlib tells of the break at once, and
    does not give out what came before it in the same call.
    """
    stream, payload, broken = zlib.decompressobj(-15), b"", False
    try:
        for at in range(len(message)):
            payload += stream.decompress(message[at : at + 1])
        ended = stream.eof
        trailing = stream.unused_data
        for ending in (REMOVED, b"\x03\x00"):
            if not stream.eof:
                payload += stream.decompress(ending)
                broken = broken or bool(stream.unused_data)
        broken = broken or not stream.eof or (ended and trailing not in (b"", b"\x00"))
    except zlib.error:
        broken = True
    faults: set[Fault | bytes] = set()
    if len(payload) > max_message:
        faults.add(Fault.MESSAGE_TOO_BIG)
    if broken:
        faults.add(Fault.BAD_COMPRESSION)
    return faults or {payload}


@st.composite
def messages(draw: st.DrawFn, payloads: st.SearchStrategy[bytes]) -> tuple[bytes, bytes]:
    """A payload, and what a client may make of it: of every level and window, in one block or many, with a last one."""
    payload = draw(payloads)
    level, window = draw(st.integers(0, 9)), draw(st.integers(9, 15))
    if draw(st.booleans()):
        ending = draw(st.sampled_from([b"", b"\x00"]))  # some leave out the header that has to follow a final block
        return payload, finished(payload, level=level, window=window)[:-1] + ending
    strategy = draw(st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]))
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window, draw(st.integers(1, 9)), strategy)
    place = draw(st.integers(0, len(payload)))
    flush = draw(st.sampled_from([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH]))
    stream = compressor.compress(payload[:place])
    stream += compressor.flush(flush) if flush != zlib.Z_NO_FLUSH else b""
    stream += compressor.compress(payload[place:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return payload, stream[:-4]


@st.composite
def wrong(draw: st.DrawFn, payloads: st.SearchStrategy[bytes]) -> bytes:
    """What somebody may send instead: broken off, changed, continued, or no stream at all."""
    _, message = draw(messages(payloads))
    kind = draw(st.sampled_from(["broken off", "changed", "continued", "doubled", "random"]))
    if kind == "broken off":
        return message[: draw(st.integers(0, len(message)))]
    if kind == "changed":
        at, byte = draw(st.integers(0, len(message))), draw(st.binary(min_size=1, max_size=2))
        return message[:at] + byte + message[at + 1 :]
    if kind == "continued":
        return message + draw(st.binary(max_size=30))
    if kind == "doubled":
        return message + REMOVED[: draw(st.integers(0, 4))] + message
    return draw(st.binary(max_size=200))
