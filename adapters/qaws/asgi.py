"""The gateway as an ASGI application: under uvicorn, hypercorn or granian, alone or mounted in another application.

The host does HTTP and frames; the node is driven at message level. `docs/asgi.md` shows each way to use it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from qaws_proto import ConfigError, WebSocketConfig
from qaws_proto.inputs import CloseReceived, ConnectionLost, MessageReceived

from .agents import AgentError, find_agent
from .asgi_transport import AsgiTransport, Message, Scope, Send, messages_of, request_of, unavailable
from .eager import EagerTasks
from .host import AnyioHost
from .interception import stopping_first
from .manager import WebSocketManager
from .metrics_port import MetricsPort
from .safety import require_safe
from .stores import StoreError
from .telemetry import log_event

Receive = Callable[[], Awaitable[Message]]

LOGGER = logging.getLogger("qaws.node")
STARTUP_FAILURE = 3  # the status of a process that a supervisor does not start again (uvicorn's)


class WebSocketApp:
    """An ASGI 3 application. Mounted in another one, give that one its `lifespan`, so that it can drain."""

    def __init__(self, agent: object, config: WebSocketConfig | None = None) -> None:
        """`agent` is an agent (docs/agents.md), or a WebSocketManager that has one.

        Raises ConfigError where the configuration cannot be used, AgentError where the agent cannot be called.
        """
        self.manager = WebSocketManager.of(agent, config)
        self.config = self.manager.config
        self._host = AnyioHost(self.manager.wake)
        self._sending = EagerTasks(self._host.spawn)
        self._metrics_port = MetricsPort(self.manager, self._host)
        self._starting = anyio.Lock()
        self._drained: anyio.Event | None = None  # made when the application starts
        self._lived = False
        self._safe: set[str | None] = set()  # addresses of this host that have been looked at
        self._unsafe: set[str | None] = set()  # those that have been complained of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, one WebSocket, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)
        else:
            raise ValueError(f"qaws serves http, websocket and lifespan, no {scope['type']!r}")

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────────

    async def _start(self) -> None:
        """Before the first connection: by the lifespan, or where there is none by the connection itself."""
        async with self._starting:
            if self._drained is None:
                async with self._metrics_port.opening():
                    await self.manager.open_store()
                    self.manager.attach(self._host)
                    self.manager.log_warnings(None)
                self._drained = anyio.Event()
                self.manager.drained = self._over

    def _over(self) -> None:
        assert self._drained is not None
        self._drained.set()
        self._sending.release()
        self._metrics_port.close()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """The life of this application, for one that it is mounted in: `FastAPI(lifespan=gateway.lifespan)`.

        Drains at the end, and already at SIGTERM or SIGINT where the host would close every connection first.
        Raises ConfigError where it is unsafe to serve, StoreError where the store cannot be opened, RuntimeError the
        second time.
        """
        if self._lived:
            raise RuntimeError("a WebSocketApp is started once, and does not serve after its end: make another")
        await self._start()
        self._lived = True
        try:
            with stopping_first(self.drain):
                yield
            await self.drain()
            await self._host.finish(self.config.agent.cancel_grace)
            await self.manager.close_agent(self.config.agent.cancel_grace)
        finally:
            self.manager.stop()  # where this is cancelled, or failed; after a drain there is nothing to stop
            await self.manager.close_store()

    async def drain(self) -> None:
        """Stop gracefully: no new clients, runs may finish, then every connection is closed (D1)."""
        await self._start()
        assert self._drained is not None
        self.manager.drain()
        try:
            await self._drained.wait()
        finally:  # where this is cancelled, whoever waits has lost patience
            self.manager.stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        stage = "startup"
        try:
            async with self.lifespan():
                stage = "shutdown"
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
        except (ConfigError, StoreError, RuntimeError) as error:
            await send({"type": f"lifespan.{stage}.failed", "message": f"qaws: {error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})

    # ── the drive loop ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _safe_at(self, server: tuple[str, int | None] | None) -> bool:
        """Whether to serve at this address of the host (D6). The log is told why not, once for each of them."""
        host = server[0] if server is not None and server[1] is not None else None  # None: a Unix socket, or unknown
        if host in self._safe:
            return True
        try:
            await self._start()
            self.manager.require_safe([] if host is None else [host])
        except (ConfigError, StoreError) as error:
            if host not in self._unsafe and len(self._unsafe) < self.config.limits.refusal_addresses:
                self._unsafe.add(host)
                log_event(LOGGER, logging.ERROR, "not_served", address=host, reason=str(error))
            return False
        if len(self._safe) < self.config.limits.refusal_addresses:
            self._safe.add(host)
        return True

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket: wait for messages, tell the node."""
        manager, upgrade = self.manager, scope["type"] == "websocket"
        if upgrade:
            await receive()  # websocket.connect
        if not await self._safe_at(scope.get("server")):
            for refusal in messages_of(unavailable(scope), upgrade):
                await send(refusal)
            return
        request = request_of(scope, self.config.server.path)
        connection = AsgiTransport(manager, self._host, self._sending, upgrade, send)
        number = manager.register(connection)
        manager.feed(request._replace(connection=number))
        try:
            with connection.scope:
                with connection.reading:
                    while upgrade:
                        message = await receive()  # 1. wait
                        if message["type"] == "websocket.disconnect":
                            manager.feed(CloseReceived(number, message.get("code") or 1005))
                            break
                        text = message.get("text")
                        manager.feed(MessageReceived(number, message["bytes"] if text is None else text))  # 2 to 5
                        if connection.paused is not None:
                            await connection.paused.wait()
                await anyio.sleep_forever()  # until all is said, or the node has enough
        finally:
            manager.feed(ConnectionLost(number))


def create_app() -> WebSocketApp:
    """The application that the environment describes: `uvicorn --factory qaws.asgi:create_app`.

    QAWS_CONFIG names a YAML file with a `websocket:` section (default: .env and the environment alone), QAWS_AGENT an
    agent (default: echo), QAWS_AGENT_URL and QAWS_AGENT_SYSTEM the address and the system prompt of an `openai:MODEL`,
    QAWS_RECORD a folder in which to write all that happens (docs/replay.md).
    What is wrong with them goes to the log, and ends the process: hosts print a traceback of everything else that a
    factory raises, and some start it again and again.
    """
    from .settings import load
    from .telemetry import configure_logging

    try:
        config = load(os.environ.get("QAWS_CONFIG") or None).config
        if not config.enabled:
            raise ConfigError("enabled: the gateway is turned off in the configuration (or by WEBSOCKET_ENABLED)")
        configure_logging(config.logging)
        require_safe(config)  # before the agent is loaded, which may take its time
        name, url, system = (os.environ.get(f"QAWS_AGENT{more}") or None for more in ("", "_URL", "_SYSTEM"))
        agent = find_agent(name or "echo", url=url, system=system)
        return WebSocketApp(WebSocketManager.of(agent, config, record=os.environ.get("QAWS_RECORD") or None))
    except (ConfigError, AgentError, StoreError) as error:
        _complain(error)
        raise SystemExit(STARTUP_FAILURE) from error


def _complain(error: Exception) -> None:
    """A line in the log for each thing that is wrong."""
    for line in str(error).splitlines():
        log_event(LOGGER, logging.ERROR, "not_started", reason=line)
