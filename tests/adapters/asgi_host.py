"""An ASGI host in memory, by the letter of the specification, and its clients: what tests of the application use."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from qaws.asgi import WebSocketApp

from .byte_servers import PATIENCE, echo
from .peers import open_config

LOCAL: dict[str, Any] = {
    "server": ("127.0.0.1", 8000),
    "client": ("127.0.0.1", 50_000),
    "extensions": {"websocket.http.response": {}},
}
HOST = [(b"host", b"localhost")]
NO_DENIAL: dict[str, Any] = {"extensions": {}}


def open_app(agent: object = echo, /, **sections: Any) -> WebSocketApp:
    """An application without authentication, unless the sections say otherwise."""
    return WebSocketApp(agent, open_config(**sections))


class Mailbox:
    """Messages in order, for one reader."""

    def __init__(self) -> None:
        self.messages: deque[dict[str, Any]] = deque()
        self._changed = anyio.Event()

    def put(self, message: Any) -> None:
        self.messages.append(message)
        self._changed.set()

    async def get(self) -> dict[str, Any]:
        while not self.messages:
            self._changed = anyio.Event()
            await self._changed.wait()
        return self.messages.popleft()


class Call:
    """One call of an application: what the host has sent it, and what it has sent the host."""

    def __init__(self, app: WebSocketApp, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.over = anyio.Event()  # the application has returned, or raised
        self.cancelled = anyio.CancelScope()
        self.error: BaseException | None = None
        self.broken: Exception | None = None  # what `send` raises
        self.prompt = False  # `send` does not wait where there is room
        self.room = anyio.Event()  # `send` waits for it
        self.room.set()
        self.unread, self.said = Mailbox(), Mailbox()  # by the application; by it
        self._app = app

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Call the application, as a host does in a task of its own."""
        with self.cancelled:
            task_status.started()
            try:
                await self._app(self.scope, self.unread.get, self._send)
            except (Exception, anyio.get_cancelled_exc_class()) as error:
                self.error = error
                if not isinstance(error, Exception):
                    raise
            finally:
                self.over.set()

    async def _send(self, message: Any) -> None:
        if not self.prompt or not self.room.is_set():
            await self.room.wait()
        if self.broken is not None:
            raise self.broken
        self.said.put(message)

    def tell(self, type: str, **fields: Any) -> None:
        """Send the application a message."""
        self.unread.put({"type": type, **fields})

    async def next(self) -> dict[str, Any]:
        """The next message of the application."""
        return await self.said.get()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The HTTP answer: its status, headers and body. Nothing may follow it."""
        start, body = await self.next(), await self.next()
        kind = "websocket.http.response" if self.scope["type"] == "websocket" else "http.response"
        assert (start["type"], body["type"]) == (f"{kind}.start", f"{kind}.body")
        await self.end()
        return start["status"], dict(start["headers"]), body["body"]

    async def end(self) -> None:
        """The application returns, and has no more to say."""
        await self.over.wait()
        assert self.error is None, self.error
        assert not self.said.messages, self.said.messages

    # a WebSocket

    def say(self, content: str, **fields: Any) -> None:
        """The client sends a chat message."""
        text = json.dumps({"type": "chat_message", "content": content, **fields})
        self.tell("websocket.receive", text=text)

    async def hear(self, **fields: Any) -> dict[str, Any]:
        """The next event with those fields; the ones before it are passed over."""
        while True:
            message = await self.next()
            assert message["type"] == "websocket.send", message
            event: dict[str, Any] = json.loads(message["text"])
            if all(event.get(name) == value for name, value in fields.items()):
                return event

    async def closed(self) -> tuple[int, str]:
        """The close code and reason; what is said before it is passed over."""
        while (message := await self.next())["type"] == "websocket.send":
            pass
        assert message["type"] == "websocket.close", message
        await self.end()
        return message["code"], message["reason"]


class AsgiHost:
    """Calls an application."""

    def __init__(self, app: WebSocketApp, tasks: TaskGroup) -> None:
        self._app = app
        self._tasks = tasks

    async def call(self, type: str, **scope: Any) -> Call:
        """A call with this scope and nothing else in it."""
        call = Call(self._app, {"type": type, **scope})
        await self._tasks.start(call.run)
        return call

    async def get(self, path: str, method: str = "GET", **scope: Any) -> tuple[int, dict[bytes, bytes], bytes]:
        """What an HTTP request is answered."""
        call = await self.call("http", **{"method": method, "path": path, "headers": HOST, **LOCAL, **scope})
        call.tell("http.request", body=b"", more_body=False)
        return await call.answer()

    async def connect(self, path: str = "/", **scope: Any) -> Call:
        """A WebSocket that asks to be let in."""
        call = await self.call("websocket", **{"path": path, "headers": HOST, "subprotocols": [], **LOCAL, **scope})
        call.tell("websocket.connect")
        return call

    async def open(self, path: str = "/", **scope: Any) -> Call:
        """A WebSocket that has been let in."""
        call = await self.connect(path, **scope)
        assert (await call.next())["type"] == "websocket.accept"
        return call


@asynccontextmanager
async def hosting(app: WebSocketApp, *, lifespan: bool = True) -> AsyncIterator[AsgiHost]:
    """A host of an application, with its lifespan around it. Nothing is left of the application's connections."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            host = AsgiHost(app, tasks)
            if not lifespan:
                yield host
                tasks.cancel_scope.cancel()
                return
            life = await host.call("lifespan")
            life.tell("lifespan.startup")
            assert await life.next() == {"type": "lifespan.startup.complete"}
            yield host
            life.tell("lifespan.shutdown")
            assert await life.next() == {"type": "lifespan.shutdown.complete"}
            await life.end()
        assert app.manager.gateway.connections == 0
        assert not app.manager._transports
        assert app._host.running == 0
