"""What an ASGI host asks and sends for a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel

from qaws_proto.effects import AcceptUpgrade, MessageEffect, SendClose, SendMessage, SendResponse
from qaws_proto.inputs import RequestReceived

from .eager import EagerTasks
from .host import AnyioHost
from .manager import WebSocketManager
from .outgoing import Outgoing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

SUBPROTOCOLS = "sec-websocket-protocol"
UNAVAILABLE, TRY_AGAIN_LATER = 503, 1013  # what a request gets where the node is not asked, as a status or close code


class AsgiTransport:
    """The transport of a connection. The host's `send` may wait; what is to be said meanwhile is queued here."""

    __slots__ = ("_ending", "_outgoing", "_send", "_tasks", "_upgrade", "number", "paused", "reading", "scope", "stop")

    def __init__(
        self, manager: WebSocketManager, host: AnyioHost, tasks: EagerTasks, upgrade: bool, send: Send
    ) -> None:
        self.number = 0
        self.paused: anyio.Event | None = None
        self.scope = anyio.CancelScope()  # of the connection's task
        self.reading = anyio.CancelScope()  # of what it reads within that
        self.stop: Callable[[], object] | None = None  # of what sends
        self._tasks = tasks
        self._upgrade = upgrade
        self._send = send
        self._ending = False
        self._outgoing: Outgoing[MessageEffect] = Outgoing(
            manager, self, write=self._write, size=_size, start=lambda: host.soon(self._begin)
        )

    def say(self, effect: MessageEffect) -> None:
        """Queue what the host is to do."""
        self._outgoing.put(effect)

    def _begin(self) -> None:
        self._tasks.begin(self._flush(), self)

    async def _write(self, effects: list[MessageEffect]) -> None:
        for effect in effects:
            for message in messages_of(effect, self._upgrade):
                await self._send(message)

    async def _flush(self) -> None:
        over = True  # whatever the host raises
        try:
            with suppress(OSError):  # the peer has gone
                await self._outgoing.flush()
                over = self._ending
                if over:  # uvicorn counts a refusal as said once it has closed, a turn of the loop behind it
                    await anyio.lowlevel.checkpoint()
        finally:
            self.stop = None
            if over:
                self.scope.cancel()

    def close_write(self) -> None:
        """End the connection's task behind what is unsent. It reads no more: Granian sends no Close until then."""
        self._ending = True
        self.reading.cancel()
        if not self._outgoing.writing:
            self._begin()

    def drop(self) -> None:
        """End the connection's task at once."""
        self.scope.cancel()
        self._outgoing.clear()
        if self.stop is not None:
            self.stop()

    def pause_reading(self) -> None:
        """Leave messages to the host."""
        self.paused = anyio.Event()

    def resume_reading(self) -> None:
        """Read on."""
        if self.paused is not None:
            self.paused.set()
            self.paused = None


def messages_of(effect: MessageEffect, upgrade: bool) -> tuple[Message, ...]:
    """What has the host do it."""
    if isinstance(effect, SendMessage):
        return ({"type": "websocket.send", "text": effect.text},)
    if isinstance(effect, AcceptUpgrade):
        return ({"type": "websocket.accept", "subprotocol": effect.subprotocol},)
    if isinstance(effect, SendClose):
        return ({"type": "websocket.close", "code": effect.code, "reason": effect.reason},)
    respond = "websocket.http.response" if upgrade else "http.response"
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in effect.headers]
    start = {"type": f"{respond}.start", "status": effect.status, "headers": headers}
    return start, {"type": f"{respond}.body", "body": effect.body}


def _size(effect: MessageEffect) -> int:
    return len(effect.text) if isinstance(effect, SendMessage) else 0


def can_deny(scope: Scope) -> bool:
    """Whether a WebSocket can be refused by an HTTP answer."""
    return "websocket.http.response" in (scope.get("extensions") or ())


def unavailable(scope: Scope) -> MessageEffect:
    """The refusal where the node is not asked."""
    if scope["type"] == "websocket" and not can_deny(scope):
        return SendClose(0, TRY_AGAIN_LATER, "")
    return SendResponse(0, UNAVAILABLE, (("Content-Length", "0"),), b"")


def request_of(scope: Scope, socket_path: str) -> RequestReceived:
    """The request as the node takes it, but for the number of its connection.

    Its path is what is below the place where this application is mounted. A place that is `server.path` itself stands
    for the WebSocket, with a slash (which a mount needs) and without (which a route has).
    """
    upgrade, root, path = scope["type"] == "websocket", (scope.get("root_path") or "").rstrip("/"), scope["path"]
    if path.rstrip("/") == socket_path.rstrip("/"):
        path = socket_path
    elif path.startswith(root + "/") or path == root:
        path = path[len(root) :] or "/"
    query = scope.get("query_string") or b""
    target = quote(path, safe="/:@!$&'()*+,;=~", errors="replace") + ("?" + query.decode("latin-1") if query else "")
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    if scope.get("subprotocols") and all(name != SUBPROTOCOLS for name, _ in headers):  # uvicorn with wsproto
        headers.append((SUBPROTOCOLS, ", ".join(scope["subprotocols"])))
    client = scope.get("client")
    method = scope.get("method", "GET")  # the scope of a WebSocket has none
    peer = client[0] if client else None
    return RequestReceived(0, peer, method, target, tuple(headers), upgrade, can_deny(scope))
