"""No peer, but the ceiling: counts bytes and answers with a constant, so that only the load generator is measured."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from hashlib import sha1
from typing import cast

from qaws_proto.wire.frames import text_frame

from . import BACKLOG
from .work import PIECES, AgentChunk, AgentResponse, Conversation, Ready, Service, SystemEvent, Terms, Window, as_json

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
CLOSE = 0x88
ID = "0" * 32


def _reply(content: str) -> bytes:
    response = AgentResponse(
        content=content, session_id=ID, user_id="user-000001", processing_time=0.000123, run_id=ID, seq=1000
    )  # fmt: skip
    return text_frame(as_json(response))


def _chunk(piece: str) -> bytes:
    return text_frame(as_json(AgentChunk(content=piece, offset=100, session_id=ID, seq=1000, run_id=ID)))


REPLY = _reply("You said: ¿Cuál es la capital de España, y cuántas personas viven en ella?")
STREAM = b"".join(_chunk(piece) for piece in PIECES) + _reply("".join(PIECES))
RESUMED = text_frame(as_json(SystemEvent(event_name="session_resumed", data={}, session_id=ID)))
GREETING = text_frame(Conversation(Service(Terms("")), "user-000001", Window(0), 3599).greeting())


class Constant(asyncio.Protocol):
    """Takes every client's frames for equally long, which those of the load generator are."""

    def __init__(self, terms: Terms, hall: set[int]) -> None:
        self._scene = terms.scene
        self._reply = STREAM if terms.scene == "stream" else REPLY
        self._hall = hall  # descriptors
        self._descriptor = -1
        self._head = b""
        self._frame_size = 0
        self._held = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        if self._frame_size:
            count, self._held = divmod(self._held + len(data), self._frame_size)
            if self._scene == "fanout":
                replies = REPLY * count
                for member in self._hall:  # past the loop: what these few bytes cost the kernel, and nothing else
                    os.write(member, replies)
            else:
                self._transport.write(self._reply * count)
        elif self._head.endswith(b"\r\n\r\n"):
            self._begin(data)
        else:
            self._head += data
            if self._head.endswith(b"\r\n\r\n"):
                self._transport.write(_accept(self._head) + GREETING)

    def _begin(self, data: bytes) -> None:
        """The first frame: of a client that leaves, of one that enters a session, or of one that talks."""
        self._frame_size = _frame_size(data)
        if data[0] == CLOSE:
            self._transport.write(bytes((CLOSE, 2)) + (1000).to_bytes(2))
            self._transport.close()
        elif self._scene == "fanout":
            self._descriptor = self._transport.get_extra_info("socket").fileno()
            self._hall.add(self._descriptor)
            self._transport.write(RESUMED)
        else:
            self.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._hall.discard(self._descriptor)


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
    hall: set[int] = set()
    listening = asyncio.get_running_loop().create_server(lambda: Constant(terms, hall), "127.0.0.1", 0, backlog=BACKLOG)
    async with await listening as server:
        ready(server.sockets[0].getsockname()[1])
        await server.serve_forever()
