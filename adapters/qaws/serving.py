"""How `qaws serve` runs: which server on which event loop, and what signals do."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import anyio
import anyio.abc

from qaws_proto import ConfigError

from .manager import WebSocketManager
from .server import ByteServer
from .telemetry import log_event

AdapterName = Literal["protocol", "asyncio", "anyio"]
Backend = Literal["asyncio", "uvloop", "trio"]

LOGGER = logging.getLogger("qaws.listener")
STOP = (signal.SIGINT, signal.SIGTERM)


class UsageError(ValueError):
    """What was asked for on the command line does not go together, or is not installed."""


class Choice(NamedTuple):
    """A server class by the name of its module, and an event loop."""

    adapter: AdapterName
    backend: Backend

    def server(self, manager: WebSocketManager) -> ByteServer:
        """The server, not started."""
        if self.adapter == "anyio":
            from .anyio_server import WebSocketServer as AnyioServer

            return AnyioServer(manager)
        if self.adapter == "asyncio":
            from .asyncio_server import WebSocketServer as AsyncioServer

            return AsyncioServer(manager)
        from .asyncio_protocol import WebSocketServer as ProtocolServer

        return ProtocolServer(manager)

    def run(self, main: Callable[[ByteServer], Awaitable[None]], server: ByteServer) -> None:
        """Run `main` on this event loop, to its end."""
        options: Mapping[str, Any] = {} if self.backend == "trio" else {"use_uvloop": self.backend == "uvloop"}
        name = "trio" if self.backend == "trio" else "asyncio"
        anyio.run(main, server, backend=name, backend_options=dict(options))


def choose(adapter: AdapterName | None, backend: Backend | None) -> Choice:
    """What was asked for; for the rest the fastest that is installed. Raises UsageError where that cannot be had."""
    if backend is None:
        backend = "uvloop" if find_spec("uvloop") else "asyncio"
    elif backend != "asyncio" and find_spec(backend) is None:
        raise UsageError(f"--backend {backend}: {backend} is not installed (pip install 'qaws-gateway[{backend}]')")
    if adapter in ("protocol", "asyncio") and backend == "trio":
        raise UsageError(f"--adapter {adapter} does not run on --backend trio; --adapter anyio does")
    return Choice(adapter or ("anyio" if backend == "trio" else "protocol"), backend)


async def serve_until_signal(server: ByteServer) -> None:
    """Serve until SIGINT or SIGTERM, then drain; a second one stops at once. SIGHUP reads TLS files and keys again."""
    security = server.config.security
    loads = security.ssl.enabled or security.authentication.key_source is not None
    reloads = (signal.SIGHUP,) if loads else ()  # else a terminal that hangs up ends it
    with anyio.open_signal_receiver(*STOP, *reloads) as received:
        try:
            await server.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {error.filename}: {error.strerror or error}") from None
        for url in server.urls:
            _announce(server, "listening on", url)
        for url in server.metrics_urls:
            _announce(server, "metrics at", url)
        async with anyio.create_task_group() as group:
            stopping = False
            async for number in received:
                if number in reloads:
                    with suppress(ConfigError):  # which is in the log
                        server.reload()
                elif stopping:
                    await server.stop_now()
                    break
                else:
                    stopping = True
                    group.start_soon(_drain, server, group.cancel_scope)
            group.cancel_scope.cancel()
    # Agents that ignore their cancellation ignore that of the event loop as well, and so do stores that hang.
    store = server.manager.store_port
    if server.manager.gateway.runs or (store is not None and not store.released):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _announce(server: ByteServer, text: str, url: str) -> None:
    """Say where it is to be reached: whoever reads JSON lines gets no other ones."""
    if server.config.logging.format == "json":
        log_event(LOGGER, logging.INFO, "listening", url=url)
    else:
        print(f"{text} {url}", file=sys.stderr, flush=True)


async def _drain(server: ByteServer, waiting: anyio.CancelScope) -> None:
    await server.stop()
    waiting.cancel()
