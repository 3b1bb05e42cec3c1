"""What a node writes to one peer, read more strictly than any client does."""

from __future__ import annotations

import zlib
from collections import deque
from typing import NamedTuple

from .peer import CLOSE, PING, PONG, REMOVED, TEXT


class Head(NamedTuple):
    """The head of the server's one HTTP answer, and its body where that is no 101."""

    status: int
    headers: dict[str, str]
    body: bytes


class ServerStream:
    """Decodes what a server writes, and refuses all that RFC 6455 does: one head, minimal unmasked whole frames, at
    most one Close, nothing after it. Frames that are compressed are counted, and allowed where that was agreed."""

    def __init__(self, *, bodyless: bool = False) -> None:
        self.bodyless = bodyless  # what is answered is a HEAD
        self.head: Head | None = None
        self.frames: deque[tuple[int, bytes]] = deque()  # opcode and payload, not yet looked at
        self.closed: tuple[int, str] | None = None
        self.compressed = 0
        self._buffer = b""

    def receive(self, data: bytes) -> None:
        assert data, "an empty write"
        assert self.closed is None, f"{data!r} after Close"
        self._buffer += data
        if self.head is None:
            self._read_head()
        if self.head is not None and self.head.status == 101:
            while self._buffer:
                self._read_frame()

    def _read_head(self) -> None:
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        assert end, "a server writes its head at once"
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            name = name.lower()
            assert name == "connection" or name not in headers, "a doubled header"
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if status == "101":
            self._buffer = body
            self.head = Head(101, headers, b"")
            return
        assert "close" in headers["connection"].split(", ")
        length = 0 if self.bodyless else int(headers.get("content-length", 0))
        assert len(body) == length, "one whole answer"
        self._buffer = b""
        self.head = Head(int(status), headers, body)
        self.closed = (int(status), "http")

    def _read_frame(self) -> None:
        first, second = self._buffer[0], self._buffer[1]
        opcode, length, size = first & 0x0F, second & 0x7F, 2
        assert first & 0xF0 == 0x80 or first == 0xC0 | TEXT, "a whole frame without reserved bits"
        assert not second & 0x80, "a server does not mask"
        if length == 126:
            length, size = int.from_bytes(self._buffer[2:4]), 4
            assert length > 125, "the shortest length"
        elif length == 127:
            length, size = int.from_bytes(self._buffer[2:10]), 10
            assert length > 65535, "the shortest length"
        assert len(self._buffer) >= size + length, "frames are written whole"
        payload, self._buffer = self._buffer[size : size + length], self._buffer[size + length :]
        assert opcode in (TEXT, CLOSE, PING, PONG)
        assert opcode == TEXT or length <= 125
        if first & 0x40:
            assert self.head is not None
            assert "permessage-deflate" in self.head.headers["sec-websocket-extensions"]
            payload = inflated(payload)
            assert length < len(payload), "compressed, and no smaller"
            self.compressed += 1
        if opcode == CLOSE:
            assert not self._buffer, "nothing comes after Close"
            self.closed = (int.from_bytes(payload[:2]) if payload else 1005, payload[2:].decode())
        self.frames.append((opcode, payload))


def inflated(message: bytes, *, window: int = 15) -> bytes:
    """What a whole message says that a server compressed; what is no stream, or needs a larger window, raises.

    Read byte by byte: what one call gives out, zlib can refer to beyond any window.
    """
    stream = zlib.decompressobj(-window)
    data = message + REMOVED
    payload = b"".join(stream.decompress(data[at : at + 1]) for at in range(len(data)))
    assert not stream.unused_data
    assert not stream.eof
    return payload
