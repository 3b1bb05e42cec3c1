"""No peer, but the ceiling: counts bytes and answers with a constant, so that only the load generator is measured."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from hashlib import sha1
from typing import cast

from qaws_proto.wire.frames import text_frame

from .work import AgentResponse, Conversation, Ready, Terms, Window

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
REPLY = text_frame(
    AgentResponse(
        content="You said: ¿Cuál es la capital de España, y cuántas personas viven en ella?",
        session_id="0" * 32, user_id="user-000001", processing_time=0.000123, run_id="0" * 32, seq=1000,
    ).model_dump_json(exclude_none=True).encode()
)  # fmt: skip
GREETING = text_frame(Conversation("user-000001", Window(0), 3599).greeting().encode())


class Constant(asyncio.Protocol):
    """Takes every client's frames for equally long, which those of the load generator are."""

    def __init__(self) -> None:
        self._head = b""
        self._frame_size = 0
        self._held = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        if self._frame_size:
            count, self._held = divmod(self._held + len(data), self._frame_size)
            self._transport.write(REPLY * count)
        elif self._head.endswith(b"\r\n\r\n"):
            self._frame_size = _frame_size(data)
            self.data_received(data)
        else:
            self._head += data
            if self._head.endswith(b"\r\n\r\n"):
                self._transport.write(_accept(self._head) + GREETING)


def _accept(head: bytes) -> bytes:
    key = head.lower().partition(b"sec-websocket-key:")[0]
    key = head[len(key) :].split(b"\r\n", 1)[0].split(b":", 1)[1].strip()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + b64encode(sha1(key + GUID).digest())
        + b"\r\n\r\n"
    )


def _frame_size(frame: bytes) -> int:
    """The length of a masked frame of less than 64 KiB."""
    length = frame[1] & 0x7F
    return 8 + int.from_bytes(frame[2:4]) if length == 126 else 6 + length


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled. Lets everybody in."""
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", 0)
    async with server:
        ready(server.sockets[0].getsockname()[1])
        await server.serve_forever()
