"""What peers of a node send, byte by byte: requests, frames and events, right ones and wrong ones."""

from __future__ import annotations

import json
import zlib
from typing import Any

from .frames import BINARY, CLOSE, MASK, PING, PONG, TEXT, Frame

__all__ = [
    "BINARY", "CLOSE", "PING", "PONG", "REMOVED", "TEXT", "chat", "close_frame", "compressed", "deflated",
    "finished", "frame", "request", "text", "upgrade",
]  # fmt: skip

REMOVED = b"\x00\x00\xff\xff"  # from the end of each compressed message (RFC 7692 section 7.2.1)


def request(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    """A request that asks for no WebSocket."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def upgrade(path: str = "/", *headers: str, host: str = "localhost") -> bytes:
    """A WebSocket upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers,
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    """A frame as a client sends it (RFC 6455 section 5.2), or a wrong one."""
    return Frame(opcode, payload, fin, reserved, MASK if mask else None).dump()


def remasked(data: bytes) -> bytes:
    """Whole frames of a client with `MASK` in the place of their own masks, which differ from run to run."""
    out, at = bytearray(), 0
    while at < len(data):
        length, start = data[at + 1] & 0x7F, at + 2
        if length > 125:
            wide = 2 if length == 126 else 8
            length, start = int.from_bytes(data[start : start + wide]), start + wide
        end = start + 4 + length
        key = data[start : start + 4]
        swapped = (bytes(a ^ b for a, b in zip(key, MASK, strict=True)) * (length // 4 + 1))[:length]
        payload = int.from_bytes(data[start + 4 : end]) ^ int.from_bytes(swapped)
        out += data[at:start] + MASK + payload.to_bytes(length)
        at = end
    return bytes(out)


def text(event: object) -> bytes:
    """A text frame with an event as JSON, or with a text as it is."""
    return frame(TEXT, (event if isinstance(event, str) else json.dumps(event)).encode())


def deflated(event: object) -> bytes:
    """A text frame with an event as JSON, or with a text as it is, compressed (RFC 7692 section 7.2.1)."""
    return frame(TEXT, compressed((event if isinstance(event, str) else json.dumps(event)).encode()), reserved=4)


def chat(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """A chat message."""
    return {"type": "chat_message", "content": content, **fields}


def close_frame(code: int | None = 1000) -> bytes:
    """A client's Close."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2))


def compressed(payload: bytes, *, level: int = 6, window: int = 15, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """A message as a client compresses it (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window, 8, strategy)
    stream = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert stream.endswith(REMOVED)
    return stream[:-4]


def finished(payload: bytes, *, level: int = 6, window: int = 15) -> bytes:
    """A message in a stream that has a final block, and the header of the empty one behind it (section 7.2.3.4)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window)
    return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH) + b"\x00"
