"""Every adapter by name: the byte servers, and the ASGI application under each host in the event loop of the test."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

import anyio
import anyio.lowlevel
import hypercorn.asyncio
import hypercorn.trio
import pytest
import trio
import uvicorn

from qaws import WebSocketManager
from qaws.asgi import WebSocketApp
from qaws_proto.wire.client import Accepted, Rejected

from .byte_servers import ADAPTERS, PATIENCE, Client, connected, echo, until
from .byte_servers import Adapter as ByteAdapter
from .peers import open_config


class Node(Protocol):
    """What tests see of a server, whichever adapter it is."""

    manager: WebSocketManager
    port: int

    @property
    def metrics_urls(self) -> list[str]:
        """Where metrics have an address of their own."""

    async def stop(self) -> None:
        """Drain."""

    async def stop_now(self) -> None:
        """Close everything at once."""


Served = AbstractAsyncContextManager[Node]


class Adapter(NamedTuple):
    """A way to serve a manager on a listening socket, the event loop for it, and whether the node sees bytes."""

    serve: Callable[[WebSocketManager, socket.socket], Served]
    backend: tuple[str, dict[str, Any]]
    bytewise: bool


# ── byte servers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_itself(kind: ByteAdapter, manager: WebSocketManager, listener: socket.socket) -> Served:
    return kind.server(manager, sockets=[listener])


# ── hosts of ASGI applications ───────────────────────────────────────────────────────────────────────────────────────


class _Hosted:
    """The application under a host. Stopping drains the node; the host stays until the test is over."""

    def __init__(self, app: WebSocketApp, port: int) -> None:
        self._app = app
        self.manager = app.manager
        self.port = port

    @property
    def metrics_urls(self) -> list[str]:
        return self._app._metrics_port.urls

    async def stop(self) -> None:
        await self._app.drain()

    async def stop_now(self) -> None:
        self.manager.stop()
        await self._app.drain()


Host = Callable[[WebSocketApp, socket.socket, anyio.Event], Awaitable[None]]


@asynccontextmanager
async def _hosted(host: Host, manager: WebSocketManager, listener: socket.socket) -> AsyncIterator[Node]:
    """The application under a host in a task, which is told to stop when the node has drained, as by its operator."""
    node = _Hosted(WebSocketApp(manager), listener.getsockname()[1])
    stop, stopped = anyio.Event(), anyio.Event()

    async def serve() -> None:
        try:
            await host(node._app, listener, stop)
        finally:
            stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            yield node
            await node.stop()
        finally:
            stop.set()
            with anyio.move_on_after(PATIENCE, shield=True):
                await stopped.wait()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its way with signals: those are the test runner's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _uvicorn(ws: str, app: WebSocketApp, listener: socket.socket, stop: anyio.Event) -> None:
    server = _Uvicorn(uvicorn.Config(app, ws=ws, lifespan="on", log_config=None, access_log=False))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        await stop.wait()
        await until(lambda: server.started)
        server.should_exit = True


async def _hypercorn(serve: Any, app: WebSocketApp, listener: socket.socket, stop: anyio.Event) -> None:
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.keep_alive_timeout = 1  # seconds for which it keeps a socket on which nothing was asked
    config.errorlog = logging.getLogger("hypercorn.error")
    await serve(app, config, mode="asgi", shutdown_trigger=stop.wait)


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────

ASYNCIO: tuple[str, dict[str, Any]] = ("asyncio", {"use_uvloop": False})
UVLOOP: tuple[str, dict[str, Any]] = ("asyncio", {"use_uvloop": True})
TRIO: tuple[str, dict[str, Any]] = ("trio", {})


def _asgi(host: Callable[..., Awaitable[None]], how: object, backend: tuple[str, dict[str, Any]]) -> Adapter:
    return Adapter(partial(_hosted, partial(host, how)), backend, bytewise=False)


EVERY: dict[str, Adapter] = {
    **{name: Adapter(partial(_by_itself, kind), kind.backend, bytewise=True) for name, kind in ADAPTERS.items()},
    "asgi-uvicorn-sansio": _asgi(_uvicorn, "websockets-sansio", ASYNCIO),
    "asgi-uvicorn-wsproto": _asgi(_uvicorn, "wsproto", ASYNCIO),
    "asgi-hypercorn-asyncio": _asgi(_hypercorn, hypercorn.asyncio.serve, ASYNCIO),
    "asgi-hypercorn-uvloop": _asgi(_hypercorn, hypercorn.asyncio.serve, UVLOOP),
    "asgi-hypercorn-trio": _asgi(_hypercorn, hypercorn.trio.serve, TRIO),
}


#: For what belongs to the host where there is one: HTTP, frames, TLS, addresses. Over ASGI the node sees none of it.
on_byte_servers = pytest.mark.parametrize("adapter", ADAPTERS, indirect=True)


@asynccontextmanager
async def serving(
    adapter: Adapter,
    agent: object = echo,
    /,
    *,
    manager: WebSocketManager | None = None,
    send_buffer: int | None = None,
    **sections: Any,
) -> AsyncIterator[Node]:
    """A server on a free port, without authentication unless the sections say otherwise. Nothing is left of it (C3).

    `send_buffer`: bytes that the kernel may hold for a peer that does not read.
    """
    if manager is None:
        manager = WebSocketManager(open_config(**sections), agent=agent)
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # inherited by what is accepted
    with anyio.fail_after(PATIENCE):
        async with nothing_left(listener.fileno()), adapter.serve(manager, listener) as node:
            yield node
    assert manager.gateway.connections == 0
    assert not manager._transports
    assert not manager._runs.active


@asynccontextmanager
async def nothing_left(*given: int) -> AsyncIterator[None]:
    """Every task that begins and every descriptor that opened within it ends within it; those `given` end as well."""
    await anyio.lowlevel.checkpoint()
    gc.collect()
    tasks, files = tasks_alive(), open_files(given)
    yield
    with anyio.move_on_after(PATIENCE / 3):
        await until(lambda: (tasks_alive(), open_files()) == (tasks, files))
    left = {number: file for number, file in open_files().items() if number not in files}
    assert (tasks_alive() - tasks, left) == (0, {}), f"left: {tasks_alive() - tasks} tasks and {left}"


def tasks_alive() -> int:
    """How many tasks the event loop has."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


def open_files(but: Container[int] = ()) -> dict[int, str]:
    """What the descriptors of this process stand for. libuv keeps /dev/null in reserve, for a want of descriptors."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(FileNotFoundError):  # that of the listing itself
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return {number: file for number, file in found.items() if file != os.devnull and number not in but}


@asynccontextmanager
async def client(node: Node, *, subprotocols: tuple[str, ...] = (), **headers: str) -> AsyncIterator[Client]:
    """A client that has been let in."""
    async with connected(await anyio.connect_tcp("127.0.0.1", node.port), subprotocols, **headers) as one:
        yield one


@asynccontextmanager
async def upgrading(node: Node, **headers: str) -> AsyncIterator[Accepted | Rejected]:
    """What becomes of the request of a client, which may be turned away."""
    async with await anyio.connect_tcp("127.0.0.1", node.port) as stream:
        yield await Client(stream).upgrade(**headers)
