"""permessage-deflate (RFC 7692), on the server's side: what is agreed, what comes in, what goes out.

No context takeover in either direction: each message stands for itself. So a connection that is idle holds no window,
and what many connections read is compressed once for them all.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import NoReturn

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

from ..config import DEFLATE_SLICE, CompressionConfig
from ..faults import Fault

NAME = "permessage-deflate"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WINDOWS = {str(bits): bits for bits in range(8, 16)}  # RFC 7692 section 7.1.2: decimal, without leading zeros
_LEAST, _MOST = 9, 15  # windows that zlib can compress with, as powers of two
_REMOVED = b"\x00\x00\xff\xff"  # what a sender removes from the end of a message (RFC 7692 section 7.2.1)
_LAST_BLOCK = b"\x03\x00"  # an empty block with BFINAL (RFC 1951 section 3.2.3): can be read only between two blocks
_HEADER_ALONE = b"\x00"  # of the empty block that has to follow a final one, without what is removed (section 7.2.3.4)

Parameters = dict[str, str | None]


class Deflate:
    """What a node does with offers, and how it compresses. Holds nothing of any connection."""

    __slots__ = ("_level", "_min_size")

    def __init__(self, config: CompressionConfig) -> None:
        self._level = config.level
        self._min_size = config.min_size

    def agree(self, header: Iterable[str]) -> Agreement | None:
        """What is agreed with a client that sent these values of Sec-WebSocket-Extensions; None: nothing is compressed.

        The first offer that can be taken is (RFC 7692 section 5). Nothing is where any part of the header is malformed.
        """
        offers = [_parse(offer) for value in header for offer in value.split(",") if offer.strip(" \t")]
        if None in offers:
            return None
        windows = (_window(parameters) for name, parameters in filter(None, offers) if name == NAME)
        window = next((window for window in windows if window is not None), None)
        return None if window is None else Agreement(self, window)

    def shrink(self, payload: bytes, window: int) -> bytes | None:
        """The payload compressed for a window of so many bits; None where that would not make it smaller."""
        if len(payload) < self._min_size:
            return None
        compressor = zlib.compressobj(self._level, zlib.DEFLATED, -window)
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert compressed.endswith(_REMOVED)
        return compressed[: -len(_REMOVED)] if len(compressed) - len(_REMOVED) < len(payload) else None


class Agreement:
    """What was agreed with one client: the largest window that may be used towards it, if it named one."""

    __slots__ = ("_asked", "deflate")

    def __init__(self, deflate: Deflate, asked: int) -> None:
        self.deflate = deflate
        self._asked = asked  # 0: it named none

    @property
    def answer(self) -> str:
        """The value of Sec-WebSocket-Extensions in the 101."""
        window = f"; server_max_window_bits={self._asked}" if self._asked else ""
        return f"{NAME}; server_no_context_takeover; client_no_context_takeover{window}"

    def window(self, size: int) -> int:
        """The window for a message of so many bytes: none is larger than the message, so most connections share one."""
        return min(self._asked or _MOST, max(_LEAST, size.bit_length()))


def _parse(offer: str) -> tuple[str, Parameters | None] | None:
    """An offer's name and parameters, which are None where one stands twice; None where the offer is no such thing.

    RFC 6455 section 9.1: a value in quotes has to be a token too, so no separator is ever quoted.
    """
    name, *rest = (part.strip(" \t") for part in offer.split(";"))
    if not _TOKEN.fullmatch(name):
        return None
    parameters: Parameters = {}
    for part in rest:
        key, equals, value = (side.strip(" \t") for side in part.partition("="))
        if len(value) > 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if not _TOKEN.fullmatch(key) or (equals and not _TOKEN.fullmatch(value)):
            return None
        parameters[key] = value if equals else None
    return name, parameters if len(parameters) == len(rest) else None


def _window(parameters: Parameters | None) -> int | None:
    """The window that an offer asks the server for, 0 where it asks for none; None where it cannot be taken.

    RFC 7692 section 7.1: an offer with parameters that are unknown, doubled or of wrong values is declined. How large
    the client's own window may be is not answered: any is read.
    """
    if parameters is None:
        return None
    window = 0
    for key, value in parameters.items():
        if key in ("server_no_context_takeover", "client_no_context_takeover"):
            valid = value is None
        elif key == "client_max_window_bits":
            valid = value is None or value in _WINDOWS
        else:
            window = _WINDOWS.get(value or "", 0)
            valid = key == "server_max_window_bits" and window >= _LEAST  # zlib has no window of 8 bits
        if not valid:
            return None
    return window


class Inflate(Extension):
    """What wsproto asks of each frame once compression is agreed: which may be compressed, and what is in them.

    A message is read in slices of `DEFLATE_SLICE` bytes, counted from the beginning of each frame, and not in the reads
    it comes in: so what is refused, and why, does not depend on them (C3). More than `max_message` and one byte of it
    is never inflated (F5).
    """

    __slots__ = ("_max_message", "_plain", "_size", "_slice", "_stream", "compressed", "fault")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self.compressed = False  # the message that is read, or was last
        self._plain = True  # the frame that is read is not compressed
        self._stream: zlib._Decompress | None = None
        self._slice = bytearray()
        self._size = 0  # bytes inflated of the message
        self.fault: Fault | None = None  # why a message was refused

    @property
    def held(self) -> int:
        """Bytes of a compressed message: those inflated, and those that are not."""
        return self._size + len(self._slice)

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False  # this is the server's side

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> RsvBits:
        """Which reserved bits a frame may have: RSV1, on the first frame of a message (RFC 7692 section 6).

        wsproto may ask twice for one header, where that comes in parts.
        """
        begins = opcode in (Opcode.TEXT, Opcode.BINARY)
        if begins:
            self.compressed = rsv.rsv1
        self._plain = opcode.iscontrol() or not self.compressed
        return RsvBits(begins, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes:
        """Some of a frame's payload came: what is in the slices that are whole."""
        if self._plain:
            return data
        self._slice += data
        inflated = b""
        while len(self._slice) >= DEFLATE_SLICE:
            inflated += self._next_slice()
        return inflated

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | None:
        """A frame has ended: what is in the rest of it."""
        if self._plain:
            return None
        inflated = self._next_slice()
        if fin:
            inflated += self._finish()
            self.stop()
        return inflated

    def _next_slice(self) -> bytes:
        data = bytes(self._slice[:DEFLATE_SLICE])
        del self._slice[:DEFLATE_SLICE]
        if self._stream is None:
            self._stream = zlib.decompressobj(-_MOST)
        inflated = self._inflate(self._stream, data)
        if self._stream.unused_data not in (b"", _HEADER_ALONE):
            self._refuse(Fault.BAD_COMPRESSION)  # it goes on behind a final block
        return inflated

    def _finish(self) -> bytes:
        """What the end of the message adds: nothing, if it ends where a block does."""
        stream, inflated = self._stream, b""
        assert stream is not None
        for ending in (_REMOVED, _LAST_BLOCK):
            if not stream.eof:
                inflated += self._inflate(stream, ending)
                if stream.unused_data:
                    self._refuse(Fault.BAD_COMPRESSION)
        if not stream.eof:
            self._refuse(Fault.BAD_COMPRESSION)
        return inflated

    def _inflate(self, stream: zlib._Decompress, data: bytes) -> bytes:
        room = self._max_message - self._size
        try:
            inflated = stream.decompress(data, room + 1)  # never 0, which would mean any number
        except zlib.error:
            self._refuse(Fault.BAD_COMPRESSION)
        if len(inflated) > room:
            self._refuse(Fault.MESSAGE_TOO_BIG)
        self._size += len(inflated)
        return inflated

    def _refuse(self, fault: Fault) -> NoReturn:
        self.fault = fault
        raise ParseFailed(fault.value.word, CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None

    def stop(self) -> None:
        """Let go of the message."""
        self._stream, self._size = None, 0
        self._slice.clear()
