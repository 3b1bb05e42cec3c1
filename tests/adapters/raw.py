"""A client on a plain socket that says any bytes at all, on any event loop: for peers that break the rules."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from .peers import KEY

UPGRADE = (
    f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
).encode()


def masked(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame, its mask all zero."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([opcode]) + length + bytes(4) + payload


class Raw:
    """Says bytes, and reads what comes until the end."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._unread = b""

    async def say(self, data: bytes) -> None:
        """Send all of it."""
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self.socket)

    async def read(self, size: int = 64 * 1024) -> bytes:
        """What there is, `b""` at the end. Raises OSError where the server broke the connection."""
        await anyio.wait_readable(self.socket)
        return self.socket.recv(size)

    async def until(self, end: bytes) -> bytes:
        """Everything up to these bytes."""
        while end not in self._unread:
            data = await self.read()
            assert data, f"ended behind {self._unread!r}"
            self._unread += data
        head, end, self._unread = self._unread.partition(end)
        return head + end

    async def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._unread) < size:
            data = await self.read()
            assert data, f"ended behind {self._unread!r}"
            self._unread += data
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def frame(self) -> tuple[int, bytes]:
        """The next frame of the server: its opcode and payload."""
        first, length = await self.exactly(2)
        if length > 125:
            length = int.from_bytes(await self.exactly(2 if length == 126 else 8))
        return first & 0xF, await self.exactly(length)

    async def all(self) -> bytes:
        """Everything until the end."""
        while data := await self.read():
            self._unread += data
        return self._unread

    def reset(self) -> None:
        """End the connection with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class HasPort(Protocol):
    """A server on this machine."""

    port: int


@asynccontextmanager
async def raw(server: HasPort, first: bytes = b"", *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """A connection on which this was said first. `receive_buffer`: bytes that the kernel keeps for it."""
    with socket.socket() as connected:
        if receive_buffer is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connected.connect(("127.0.0.1", server.port))
        connected.setblocking(False)
        client = Raw(connected)
        await client.say(first)
        yield client


@asynccontextmanager
async def let_in(server: HasPort, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """A WebSocket. Its first frame comes behind the answer to the upgrade: not every host bears it sooner (H7)."""
    async with raw(server, UPGRADE, receive_buffer=receive_buffer) as client:
        await client.until(b"\r\n\r\n")
        await client.frame()
        yield client


async def close_code(client: Raw) -> int:
    """The code of the server's Close, which comes last."""
    data = await client.all()
    assert data[-2 - data[data.rindex(b"\x88") + 1] :][:1] == b"\x88", data
    return int.from_bytes(data[data.rindex(b"\x88") + 2 :][:2])
