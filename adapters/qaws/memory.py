"""Connections in memory, for tests: what a socket does, and what a network does to it when told to.

server: MemoryTransport ◀── Wire ──  far end: MemoryStream of a client, or whatever reads and writes the wires
                         ── Wire ──▶
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc

from .byte_transport import ReadTransport
from .client_transport import ClientTransport
from .host import Spawn
from .manager import WebSocketManager
from .outgoing import PIECE, Outgoing

CAPACITY = 64 * 1024  # bytes that a wire holds, as the kernel would, before its writer has to wait


class Wire:
    """One direction of a connection: bytes arrive in order, and all of them, until it is cut."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._ended = self._cut = self._stalled = False
        self._changed = asyncio.Event()
        self._piece: int | None = None  # the most bytes that arrive together
        self._left: int | None = None  # bytes that will arrive before it is cut
        self.on_cut: Callable[[], None] = self.cut

    async def write(self, data: bytes | memoryview) -> None:
        """Send bytes, and wait while there is no room. Raises ConnectionResetError where it is cut."""
        view = memoryview(data)
        while view:
            while len(self._held) >= CAPACITY and not self._cut:
                await self._change()
            if self._cut:
                raise ConnectionResetError("the connection was cut")
            room = CAPACITY - len(self._held)
            self._held += view[:room]
            view = view[room:]
            self._changed.set()

    def put(self, data: bytes) -> None:
        """Send bytes, whether there is room or not; where it is cut they are lost."""
        if not self._cut:
            self._held += data
            self._changed.set()

    async def gone(self) -> None:
        """Wait until it is cut."""
        while not self._cut:
            await self._change()

    def end(self) -> None:
        """Nothing follows what was written."""
        self._ended = True
        self._changed.set()

    async def read(self, size: int) -> bytes:
        """At most so many bytes, `b""` at the end. Raises ConnectionResetError where it is cut."""
        while True:
            if self._left == 0:
                self._left = None
                self.on_cut()
            if self._cut:
                raise ConnectionResetError("the connection was cut")
            if not self._stalled and (self._held or self._ended):
                bounds = [bound for bound in (size, self._piece, self._left) if bound is not None]
                return self._take(min(bounds))
            await self._change()

    def _take(self, size: int) -> bytes:
        data = bytes(self._held[:size])
        del self._held[:size]
        if self._left is not None:
            self._left -= len(data)
        self._changed.set()
        return data

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # ── what a test does to it ───────────────────────────────────────────────────────────────────────────────────────

    def cut(self) -> None:
        """Break it: what was on its way is lost."""
        self._cut = True
        self._held.clear()
        self._changed.set()

    def cut_after(self, count: int) -> None:
        """Break the connection once so many more bytes have arrived."""
        self._left = count
        self._changed.set()

    def stall(self, stalled: bool) -> None:
        """Let nothing arrive, until it may again."""
        self._stalled = stalled
        self._changed.set()

    def split(self, size: int | None) -> None:
        """Let no more than so many bytes arrive together; None: as many as there are."""
        self._piece = size


class Link:
    """A connection: both its wires."""

    def __init__(self) -> None:
        self.up, self.down = Wire(), Wire()  # to the server, and from it
        self.up.on_cut = self.down.on_cut = self.cut

    def cut(self) -> None:
        """Reset the connection, for both ends."""
        self.up.cut()
        self.down.cut()


class MemoryTransport(ReadTransport):
    """The server's end of a link."""

    __slots__ = ("_ending", "_link", "_outgoing")

    def __init__(self, manager: WebSocketManager, link: Link, spawn: Spawn) -> None:
        super().__init__(manager, None)
        self._link = link
        self._ending = False
        self._outgoing: Outgoing[memoryview] = Outgoing(
            manager, self, write=self._write_all, size=len, start=lambda: spawn(self._flush)
        )

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes."""
        return await self._link.up.read(size)

    def write(self, data: bytes) -> None:
        """Send this behind what waits."""
        for start in range(0, len(data), PIECE):
            self._outgoing.put(memoryview(data)[start : start + PIECE])

    async def _write_all(self, pieces: list[memoryview]) -> None:
        for piece in pieces:
            await self._link.down.write(piece)

    async def _flush(self) -> None:
        with suppress(ConnectionResetError):  # the reading side tells the node
            await self._outgoing.flush()
            if self._ending:
                self._link.down.end()

    def write_eof(self) -> None:
        """Half-close, behind what was written."""
        self._ending = True
        if not self._outgoing.unsent:
            self._link.down.end()

    def abort(self) -> None:
        """End it for both sides: what has arrived can still be read by the peer."""
        self._link.up.cut()
        self._link.down.end()


class MemoryStream(anyio.abc.ByteStream):
    """The far end of a link, as a stream of anyio."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """At most so many bytes."""
        try:
            data = await self._link.down.read(max_bytes)
        except ConnectionResetError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send bytes."""
        try:
            await self._link.up.write(item)
        except ConnectionResetError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Send no more."""
        self._link.up.end()

    async def aclose(self) -> None:
        """Close it."""
        self._link.up.end()
        self._link.down.cut()


class MemoryClientTransport(ClientTransport):
    """A connection of a client, to the server that it is given."""

    def __init__(self, dial: Callable[[], Link], *arguments: Any) -> None:
        """`dial` connects, or raises OSError; the others are those of every transport."""
        super().__init__(*arguments)
        self._dial = dial

    async def _connect(self) -> anyio.abc.ByteStream:
        return MemoryStream(self._dial())
