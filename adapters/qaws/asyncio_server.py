"""The gateway on asyncio streams: listeners, one task a connection, one timer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import ceil
from types import TracebackType

from qaws_proto import WebSocketConfig
from qaws_proto.effects import StartRun
from qaws_proto.inputs import BytesReceived, ConnectionLost, EofReceived, WriteBlocked, WriteDrained, WriteProgressed

from .listening import BACKLOG, listen, tls_context
from .manager import WebSocketManager

PROGRESS = 1.0  # seconds after which a blocked transport is looked at for progress
WRITE_HIGH = 64 * 1024  # unsent bytes in a transport beyond which the node is told to hold back


class WebSocketServer:
    """A listening gateway. Use as `async with WebSocketServer(agent, config):`, or `start` and `stop`."""

    def __init__(self, agent: object, config: WebSocketConfig | None = None) -> None:
        """`agent` is an agent (docs/agents.md), or a WebSocketManager that has one.

        Raises ConfigError where the configuration cannot be used, AgentError where the agent cannot be called.
        """
        self.manager = WebSocketManager.of(agent, config)
        self.config = self.manager.config
        self.sockets: list[socket.socket] = []
        self.port = self.config.server.port  # once started, the one the system chose where the configured one is 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # its deadline; uvloop gives a handle that cannot tell, where the wait is nothing
        self._drained = asyncio.Event()

    @property
    def url(self) -> str:
        """Where clients connect."""
        scheme = "wss" if self.config.security.ssl.enabled else "ws"
        host = self.config.server.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.config.server.path}"

    async def start(self) -> None:
        """Listen. Raises ConfigError where no agent is set or the certificate cannot be used, OSError for the port."""
        context, limits = tls_context(self.config.security.ssl), self.config.limits
        timeout = None if context is None else limits.head_timeout  # the TLS handshake is slowed down as easily (H2)
        self.config.require_safe()  # before anybody can connect
        self.sockets = await listen(self.config.server.host, self.config.server.port)
        self.port = self.sockets[0].getsockname()[1]
        try:
            self.manager.attach(self)
            self.manager.drained = self._drained.set
            for listener in self.sockets:
                server = await asyncio.start_server(
                    self._serve, sock=listener, limit=limits.read, backlog=BACKLOG,
                    ssl=context, ssl_handshake_timeout=timeout, ssl_shutdown_timeout=timeout,
                )  # fmt: skip
                self._servers.append(server)
        except BaseException:
            for listener in self.sockets:
                listener.close()
            raise

    async def stop(self) -> None:
        """Drain: runs may finish, clients are told when to come back, and every connection is closed.

        Until that is done `/readyz` and new clients are still answered, with 503.
        """
        if self._servers:
            self.manager.drain()
            try:
                await self._drained.wait()
            finally:  # where this is cancelled, whoever waits has lost patience
                self._close()
        await self._finish()

    async def stop_now(self) -> None:
        """Cancel every run and close every connection; a `stop` that waits ends too."""
        if self._servers:
            self._close()
            await self._drained.wait()
        await self._finish(patience=0.0)

    def _close(self) -> None:
        """Listen no more, and send away whoever is still there."""
        for server in self._servers:
            server.close()
        self.manager.stop()

    async def serve_forever(self) -> None:
        """Start, unless started, and serve until cancelled; then drain."""
        if not self._servers:
            await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.stop()

    async def __aenter__(self) -> WebSocketServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _finish(self, patience: float | None = None) -> None:
        """Wait for the tasks of connections and runs; agents that do not stop are let go (G5)."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.config.agent.cancel_grace if patience is None else patience)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ── the drive loop ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: wait for bytes, tell the node."""
        task, manager = asyncio.current_task(), self.manager
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        transport = StreamTransport(writer, manager, self._spawn)
        peer = writer.get_extra_info("peername")
        number = manager.connect(transport, peer[0] if peer else None)
        read_size = manager.gateway.read_size
        try:
            with suppress(OSError):  # reset, or broken in any other way: the connection is lost
                while data := await reader.read(read_size(number)):  # 1. wait
                    manager.feed(BytesReceived(number, data))  # 2 to 5
                    if transport.paused is not None:
                        await transport.paused.wait()
                manager.feed(EofReceived(number))
        finally:
            manager.feed(ConnectionLost(number))  # which drops the transport, unless that is done
            with suppress(OSError):
                await writer.wait_closed()

    def spawn(self, function: Callable[[StartRun], Awaitable[None]], run: StartRun) -> None:
        """Host: a task for a run."""
        self._spawn(function(run))

    def _spawn(self, awaitable: Awaitable[None]) -> None:
        task = asyncio.ensure_future(awaitable)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wake_at(self, deadline: float | None) -> None:
        """Host: the one timer. One that is too early is left to fire, which costs less than moving it."""
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        # In whole milliseconds, as uvloop counts them: it would round down, and wake again and again until it is time.
        wait = ceil(max(0.0, deadline - time.monotonic()) * 1000) / 1000
        self._timer = asyncio.get_running_loop().call_later(wait, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.manager.wake()


class StreamTransport:
    """A StreamWriter as a connection's transport."""

    __slots__ = ("_blocked", "_manager", "_spawn", "_transport", "_writer", "number", "paused")

    def __init__(
        self, writer: asyncio.StreamWriter, manager: WebSocketManager, spawn: Callable[[Awaitable[None]], None]
    ) -> None:
        writer.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._writer = writer
        self._transport = writer.transport
        self._manager = manager
        self._spawn = spawn
        self._blocked = False
        self.number = 0
        self.paused: asyncio.Event | None = None

    def send(self, data: bytes) -> None:
        """Write, and tell the node when the peer does not keep up."""
        if self._transport.is_closing():  # it broke a moment ago, and the reading side has yet to say so
            return
        self._transport.write(data)
        if not self._blocked and self._transport.get_write_buffer_size() > WRITE_HIGH:
            self._blocked = True
            self._manager.feed(WriteBlocked(self.number))
            self._spawn(self._wait_for_room())

    async def _wait_for_room(self) -> None:
        drained = asyncio.ensure_future(self._writer.drain())
        try:
            while not drained.done():
                unsent = self._transport.get_write_buffer_size()
                await asyncio.wait((drained,), timeout=PROGRESS)
                if self._transport.get_write_buffer_size() < unsent and not drained.done():
                    self._manager.feed(WriteProgressed(self.number))
            drained.result()
        except OSError:  # the reading side tells the node
            return
        finally:
            drained.cancel()
        self._blocked = False
        self._manager.feed(WriteDrained(self.number))

    def close_write(self) -> None:
        """Half-close; TLS cannot, and is closed as soon as everything has gone out."""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def drop(self) -> None:
        """Close, what is unsent with it."""
        self.resume_reading()
        self._transport.abort()

    def pause_reading(self) -> None:
        """Leave bytes where they are: in the reader, and soon in the kernel."""
        self.paused = asyncio.Event()

    def resume_reading(self) -> None:
        """Read on."""
        if self.paused is not None:
            self.paused.set()
            self.paused = None
