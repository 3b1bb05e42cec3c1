"""The gateway on asyncio streams: a task a connection, one timer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from qaws_proto.inputs import WriteBlocked, WriteDrained, WriteProgressed

from .byte_transport import ReadTransport
from .host import AnyioHost, Work, wait_until
from .manager import WebSocketManager
from .outgoing import WRITE_HIGH
from .server import ByteServer
from .tls import TlsSession

PROGRESS = 1.0  # seconds after which a blocked transport is looked at for progress


class AsyncioHost(AnyioHost):
    """Tasks and the timer by asyncio's own means, which cost less."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._timer_at = 0.0  # its deadline; uvloop gives a handle that cannot tell, where the wait is nothing

    def spawn(self, work: Work, *arguments: object) -> None:
        """Run an async function in a task of its own."""
        task = asyncio.get_running_loop().create_task(work(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def soon(self, function: Callable[[], None]) -> None:
        """Call this behind what is ready."""
        asyncio.get_running_loop().call_soon(function)

    @property
    def running(self) -> int:
        """Tasks that have not ended."""
        return len(self._tasks)

    async def finish(self, patience: float) -> None:
        """End the timer, and wait for the tasks; those that have not ended in `patience` seconds are let go (G5)."""
        self._finished = True  # a task that was let go may still have something to say
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)

    def wake_at(self, deadline: float | None) -> None:
        """The one timer. One that is too early is left to fire, which costs less than moving it."""
        if deadline is None or self._finished:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_later(wait_until(deadline), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._wake()


class WebSocketServer(ByteServer):
    """A listening gateway. Use as `async with WebSocketServer(agent, config):`, or `start` and `stop`."""

    host = AsyncioHost

    async def _serve(self, accepted: socket.socket, peer: str | None, tls: TlsSession | None) -> None:
        loop, limit = asyncio.get_running_loop(), self.config.limits.read
        reader = asyncio.StreamReader(limit, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            stream, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # it was reset before it could be looked at
            accepted.close()
            return
        writer = asyncio.StreamWriter(stream, protocol, reader, loop)
        await StreamTransport(self.manager, tls, reader, writer, self._host).converse(peer)
        with suppress(OSError):
            await writer.wait_closed()


class StreamTransport(ReadTransport):
    """A pair of asyncio streams as a connection's transport."""

    __slots__ = ("_blocked", "_host", "_reader", "_stream", "_writer")

    def __init__(
        self,
        manager: WebSocketManager,
        tls: TlsSession | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: AnyioHost,
    ) -> None:
        super().__init__(manager, tls)
        writer.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._reader = reader
        self._writer = writer
        self._stream = writer.transport
        self._host = host
        self._blocked = False

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes from the socket."""
        return await self._reader.read(size)

    def write(self, data: bytes) -> None:
        """Write, and tell the node when the peer does not keep up."""
        if self._stream.is_closing():  # it broke a moment ago, and the reading side has yet to say so
            return
        self._stream.write(data)
        if not self._blocked and self._stream.get_write_buffer_size() > WRITE_HIGH:
            self._blocked = True
            self.manager.feed(WriteBlocked(self.number))
            self._host.spawn(self._wait_for_room)

    async def _wait_for_room(self) -> None:
        drained = asyncio.ensure_future(self._writer.drain())
        try:
            while not drained.done():
                unsent = self._stream.get_write_buffer_size()
                await asyncio.wait((drained,), timeout=PROGRESS)
                if self._stream.get_write_buffer_size() < unsent and not drained.done():
                    self.manager.feed(WriteProgressed(self.number))
            drained.result()
        except OSError:  # the reading side tells the node
            return
        finally:
            drained.cancel()
        self._blocked = False
        self.manager.feed(WriteDrained(self.number))

    def write_eof(self) -> None:
        """Half-close, behind what was written."""
        if not self._stream.is_closing():
            with suppress(OSError):  # the peer was faster
                self._stream.write_eof()

    def abort(self) -> None:
        """Close, what is unsent with it."""
        self._stream.abort()
