"""permessage-deflate by zlib alone: what a whole message says.

Written from RFC 7692 and RFC 1951, not from our code.
"""

from __future__ import annotations

import zlib

from qaws_proto.faults import Fault
from qaws_proto.testing.peer import REMOVED


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
