"""The gateway on anyio: on asyncio, uvloop and trio alike. A task a connection, one task that keeps time.

All tasks of a server are in one task group, and that is in a task of its own: so a server may be started in one task
and stopped in another, and an agent that ignores its cancellation holds up the group, but not who waits for `stop`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any

import anyio
import anyio.abc

from qaws_proto.effects import StartRun

from .byte_transport import ByteTransport
from .manager import WebSocketManager
from .outgoing import PIECE, Outgoing
from .server import ByteServer, wait_until
from .tls import TlsSession

LOGGER = logging.getLogger("qaws.node")

Work = Callable[[], Coroutine[Any, Any, None]]


class WebSocketServer(ByteServer):
    """A listening gateway. Use as `async with WebSocketServer(agent, config):`, or `start` and `stop`."""

    async def _begin(self, loops: Sequence[Work]) -> None:
        self._tasks: set[Work] = set()  # of connections and runs
        self._deadline = self._alarm = inf  # when the node is to be woken, and when the task of the timer wakes
        self._sooner = anyio.Event()
        self._ended = anyio.Event()
        begun = anyio.Event()

        async def main() -> None:
            try:
                async with anyio.create_task_group() as self._group:
                    for loop in (*loops, self._keep_time):
                        self._group.start_soon(self._guarded, loop)
                    begun.set()
            finally:
                self._ended.set()

        _detach(main)
        with anyio.CancelScope(shield=True):
            await begun.wait()

    async def _finish(self, patience: float) -> None:
        with anyio.move_on_after(patience):
            await self._ended.wait()

    def _serve(self, accepted: socket.socket, peer: str | None, tls: TlsSession | None) -> None:
        async def serve() -> None:
            with accepted:
                transport = SocketTransport(self.manager, tls, accepted, self._spawn)
                try:
                    await transport.converse(peer)
                finally:
                    anyio.notify_closing(accepted)  # who still writes is told

        self._spawn(serve)

    def spawn(self, function: Callable[[StartRun], Awaitable[None]], run: StartRun) -> None:
        """Host: a task for a run."""

        async def call() -> None:
            await function(run)

        self._spawn(call)

    def _spawn(self, work: Work) -> None:
        self._tasks.add(work)
        self._group.start_soon(self._guarded, work)

    async def _guarded(self, work: Work) -> None:
        """One task: a mistake in it is logged, and does not end the others."""
        try:
            await work()
        except Exception:
            LOGGER.exception("task_failed")
        finally:
            self._tasks.discard(work)

    # ── the one timer ────────────────────────────────────────────────────────────────────────────────────────────────

    def wake_at(self, deadline: float | None) -> None:
        """Host: the one timer. One that is too early is left to fire, which costs less than moving it."""
        self._deadline = inf if deadline is None else deadline
        if self._deadline < self._alarm or self._drained.is_set():
            self._sooner.set()

    async def _keep_time(self) -> None:
        while not self._drained.is_set():
            self._sooner, self._alarm = anyio.Event(), self._deadline
            with anyio.move_on_after(None if self._alarm == inf else wait_until(self._alarm)):
                await self._sooner.wait()
            self._alarm = -inf  # until the next round nobody has to be told
            if monotonic() >= self._deadline:
                self.manager.wake()


def _detach(main: Work) -> None:
    """Run a task that belongs to the event loop, not to who starts it."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        _DETACHED.add(task := asyncio.create_task(main()))
        task.add_done_callback(_DETACHED.discard)
    else:
        import trio

        trio.lowlevel.spawn_system_task(main, name="qaws", context=contextvars.copy_context())


_DETACHED: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks weakly


class SocketTransport(ByteTransport):
    """A socket as a connection's transport: written to at once, and by a task where the peer does not keep up."""

    __slots__ = ("_aborted", "_ending", "_outgoing", "_socket")

    def __init__(
        self, manager: WebSocketManager, tls: TlsSession | None, accepted: socket.socket, spawn: Callable[[Work], None]
    ) -> None:
        super().__init__(manager, tls)
        self._socket = accepted
        self._aborted = self._ending = False
        self._outgoing: Outgoing[memoryview] = Outgoing(
            manager, self, write=self._write_all, size=len, start=lambda: spawn(self._flush)
        )

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes from the socket."""
        while True:
            await anyio.wait_readable(self._socket)
            if self._aborted:  # there may be more to read, without end
                return b""
            with suppress(BlockingIOError):
                return self._socket.recv(size)

    def write(self, data: bytes) -> None:
        """Write what the kernel takes, and queue the rest."""
        sent = 0
        if not self._outgoing.unsent:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                pass
            except OSError:  # it broke, and the reading side will say so
                return
        for start in range(sent, len(data), PIECE):
            self._outgoing.put(memoryview(data)[start : start + PIECE])

    async def _write_all(self, pieces: list[memoryview]) -> None:
        unsent = memoryview(b"".join(pieces))
        while unsent:
            await anyio.wait_writable(self._socket)
            with suppress(BlockingIOError):
                unsent = unsent[self._socket.send(unsent) :]

    async def _flush(self) -> None:
        with suppress(OSError, anyio.ClosedResourceError):  # the reading side tells the node
            await self._outgoing.flush()
            if self._ending:
                self._socket.shutdown(socket.SHUT_WR)

    def write_eof(self) -> None:
        """Half-close, behind what was written."""
        self._ending = True
        if not self._outgoing.unsent:
            with suppress(OSError):  # the peer was faster
                self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End it for both sides, which wakes who reads and who writes; the reader closes the socket."""
        self._aborted = True
        with suppress(OSError):  # the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)
