"""One connection of a load generator, from an address of its own on the loopback network, honest or not."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .load import CLOSE, PING, PONG, masked_frame, upgrade_request

LONGEST = 1 << 20  # bytes of a frame that is read
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets


class Peer:
    """Writes any bytes, and reads the head and the frames of the server."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port = port
        self._reader = reader
        self._writer = writer
        self._upgraded = False

    def say(self, data: bytes) -> None:
        """Write these bytes."""
        self._writer.write(data)

    async def upgrade(self, token: str) -> None:
        """Ask for a WebSocket and wait for the answer. Raises Refused where that is no 101."""
        self.say(upgrade_request(self._port, token))
        await self._head()

    async def _head(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = head[9:12].decode("ascii", "replace")
        if status != "101":
            raise Refused(status)
        self._upgraded = True

    async def frame(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame. A server's frames are whole and not masked."""
        first, length = await self._reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await self._reader.readexactly(2))
        elif length == 127:
            length = int.from_bytes(await self._reader.readexactly(8))
        return first, await self._reader.readexactly(length)

    async def event(self) -> dict[str, Any]:
        """The next event; pings are answered. Raises Refused where the server closes instead."""
        while True:
            first, payload = await self.frame()
            if first == PING:
                self.say(masked_frame(payload, PONG))
            elif first == CLOSE:
                raise Refused(str(int.from_bytes(payload[:2])))
            else:
                event: dict[str, Any] = json.loads(payload)
                return event

    async def end(self) -> str:
        """Read to the end: the status of the one answer, the code of the Close, or how it ended without."""
        try:
            if not self._upgraded:
                await self._head()
            while True:
                first, payload = await self.frame()
                if first == CLOSE:
                    return str(int.from_bytes(payload[:2]))
        except Refused as refused:
            return str(refused)
        except asyncio.IncompleteReadError as error:
            return "cut" if error.partial else "dropped"
        except ConnectionError:
            return "reset"

    def reset(self) -> None:
        """Have the connection end with a RST."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class Refused(Exception):
    """The server did not go on; the text is its status or the code of its Close."""


@asynccontextmanager
async def connected(port: int, address: str) -> AsyncIterator[Peer]:
    """A connection to the server on this machine, from that address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0), limit=LONGEST)
    try:
        yield Peer(port, reader, writer)
    finally:
        writer.close()
