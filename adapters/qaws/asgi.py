"""The gateway as an ASGI application: under uvicorn, hypercorn or granian, alone or mounted in another application.

The host does HTTP and frames; the node is driven at message level. `docs/asgi.md` shows each way to use it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio

from qaws_proto import ConfigError, WebSocketConfig
from qaws_proto.effects import AcceptUpgrade, MessageEffect, SendClose, SendMessage
from qaws_proto.inputs import (
    CloseReceived,
    ConnectionLost,
    MessageReceived,
    RequestReceived,
)

from .agents import load_agent
from .host import AnyioHost
from .interception import stopping_first
from .manager import WebSocketManager
from .outgoing import Outgoing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SUBPROTOCOLS = "sec-websocket-protocol"


class WebSocketApp:
    """An ASGI 3 application. Mounted in another one, give that one its `lifespan`, so that it can drain."""

    def __init__(self, agent: object, config: WebSocketConfig | None = None) -> None:
        """`agent` is an agent (docs/agents.md), or a WebSocketManager that has one.

        Raises ConfigError where the configuration cannot be used, AgentError where the agent cannot be called.
        """
        self.manager = WebSocketManager.of(agent, config)
        self.config = self.manager.config
        self._host = AnyioHost(self.manager.wake)
        self._drained: anyio.Event | None = None  # made when the application starts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, one WebSocket, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._serve(scope, receive, send)
        else:
            raise ValueError(f"qaws serves http, websocket and lifespan, no {scope['type']!r}")

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        """Before the first connection: by the lifespan, or where there is none by the connection itself."""
        if self._drained is None:
            self.manager.attach(self._host)
            self._drained = anyio.Event()
            self.manager.drained = self._drained.set

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """The life of this application, for one that it is mounted in: `FastAPI(lifespan=gateway.lifespan)`.

        Drains at the end, and already at SIGTERM or SIGINT where the host would close every connection first.
        Raises ConfigError where it is unsafe to serve.
        """
        self._start()
        with stopping_first(self.drain):
            yield
        await self.drain()
        await self._host.finish(self.config.agent.cancel_grace)
        await self.manager.close_agent(self.config.agent.cancel_grace)

    async def drain(self) -> None:
        """Stop gracefully: no new clients, runs may finish, then every connection is closed (D1)."""
        self._start()
        assert self._drained is not None
        self.manager.drain()
        try:
            await self._drained.wait()
        finally:  # where this is cancelled, whoever waits has lost patience
            self.manager.stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
        except ConfigError as error:
            await send({"type": "lifespan.startup.failed", "message": f"qaws: {error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})

    # ── the drive loop ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket: wait for messages, tell the node."""
        self._start()
        manager, upgrade = self.manager, scope["type"] == "websocket"
        if upgrade:
            await receive()  # websocket.connect
        connection = AsgiTransport(manager, self._host, upgrade, send)
        number = manager.register(connection)
        manager.feed(_request(number, scope, upgrade))
        try:
            with connection.scope:
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
    agent (default: echo). Raises ConfigError and AgentError.
    """
    from .settings import load
    from .telemetry import configure_logging

    config = load(os.environ.get("QAWS_CONFIG") or None).config
    if not config.enabled:
        raise ConfigError("enabled: the gateway is turned off in the configuration (or by WEBSOCKET_ENABLED)")
    configure_logging(config.logging)
    return WebSocketApp(load_agent(os.environ.get("QAWS_AGENT") or "echo"), config)


def _request(number: int, scope: Scope, upgrade: bool) -> RequestReceived:
    """The request as the node takes it; its path is what is below the place where this application is mounted."""
    root, path = scope.get("root_path") or "", scope["path"]
    below = path[len(root) :] if path.startswith(root) else path
    query = scope.get("query_string") or b""
    target = quote(below or "/", safe="/:@!$&'()*+,;=~") + ("?" + query.decode("latin-1") if query else "")
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    if scope.get("subprotocols") and all(name != SUBPROTOCOLS for name, _ in headers):  # uvicorn with wsproto
        headers.append((SUBPROTOCOLS, ", ".join(scope["subprotocols"])))
    client = scope.get("client")
    denial = "websocket.http.response" in (scope.get("extensions") or ())
    method = "GET" if upgrade else scope["method"]  # over HTTP/2 it is CONNECT, and means the same (RFC 8441)
    peer = client[0] if client else None
    return RequestReceived(number, peer, method, target, tuple(headers), upgrade, denial)


class AsgiTransport:
    """What a host sends for a connection. Its `send` may wait; what is to be said meanwhile is queued here."""

    def __init__(self, manager: WebSocketManager, host: AnyioHost, upgrade: bool, send: Send) -> None:
        self.number = 0
        self.paused: anyio.Event | None = None
        self.scope = anyio.CancelScope()  # of the connection's task
        self._sending: anyio.CancelScope | None = None  # of the task that sends
        self._manager = manager
        self._respond = "websocket.http.response" if upgrade else "http.response"
        self._send = send
        self._ending = False
        self._outgoing: Outgoing[MessageEffect] = Outgoing(
            manager, self, write=self._write, size=_size, start=lambda: host.spawn(self._flush)
        )

    def say(self, effect: MessageEffect) -> None:
        """Queue what the host is to do."""
        self._outgoing.put(effect)

    async def _write(self, effects: list[MessageEffect]) -> None:
        for effect in effects:
            if isinstance(effect, SendMessage):
                await self._send({"type": "websocket.send", "text": effect.text})
            elif isinstance(effect, AcceptUpgrade):
                await self._send({"type": "websocket.accept", "subprotocol": effect.subprotocol})
            elif isinstance(effect, SendClose):
                await self._send({"type": "websocket.close", "code": effect.code, "reason": effect.reason})
            else:
                headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in effect.headers]
                await self._send({"type": f"{self._respond}.start", "status": effect.status, "headers": headers})
                await self._send({"type": f"{self._respond}.body", "body": effect.body})

    async def _flush(self) -> None:
        with anyio.CancelScope() as self._sending:
            try:
                await self._outgoing.flush()
            except OSError:  # the peer has gone
                self._ending = True
            if self._ending:
                self.scope.cancel()

    def close_write(self) -> None:
        """End the connection's task behind what is unsent."""
        self._ending = True
        if not self._outgoing.writing:
            self.scope.cancel()

    def drop(self) -> None:
        """End the connection's task at once."""
        self.scope.cancel()
        self._outgoing.clear()
        if self._sending is not None:
            self._sending.cancel()

    def pause_reading(self) -> None:
        """Leave messages to the host."""
        self.paused = anyio.Event()

    def resume_reading(self) -> None:
        """Read on."""
        if self.paused is not None:
            self.paused.set()
            self.paused = None


def _size(effect: MessageEffect) -> int:
    return len(effect.text) if isinstance(effect, SendMessage) else 0
