"""Event loops for a manager, and clients in memory: what a test of the manager stands on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio

from qaws import WebSocketConfig, WebSocketManager
from qaws_proto.events import ServerEvents, parse_server_event
from qaws_proto.inputs import BytesReceived, Input, RunFailed, RunFinished
from qaws_proto.wire.client import Accepted, ClientLink
from qaws_proto.wire.frames import CloseReceived, TextReceived

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def eager_event_loop() -> asyncio.AbstractEventLoop:
    """An asyncio event loop whose tasks begin within the call that makes them (CPython 3.12 and later)."""
    assert hasattr(asyncio, "eager_task_factory")
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


class AsyncioHost:
    """Tasks and the one timer of an asyncio event loop."""

    def __init__(self, manager: WebSocketManager) -> None:
        self._manager = manager
        self.tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        async def call() -> None:
            await function(*arguments)

        self.tasks.add(asyncio.get_running_loop().create_task(call()))

    def soon(self, function: Callable[[], None]) -> None:
        function()

    def wake_at(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            wait = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._manager.wake)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.wake_at(None)
            if self._manager.metrics is not None:  # it ends with the node, which these tests need not stop
                self._manager.metrics.lag.stop()
                await asyncio.sleep(0)
            for task in self.tasks:
                task.cancel()
            for end in await asyncio.gather(*self.tasks, return_exceptions=True):
                if isinstance(end, BaseException):
                    raise end


class TrioHost:
    """A nursery, and a task that waits for the one deadline."""

    def __init__(self, manager: WebSocketManager) -> None:
        self._manager = manager
        self._deadline = float("inf")
        self._moved = trio.Event()
        self._nursery: trio.Nursery | None = None

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(function, *arguments)

    def soon(self, function: Callable[[], None]) -> None:
        function()

    def wake_at(self, deadline: float | None) -> None:
        self._deadline = float("inf") if deadline is None else deadline
        self._moved.set()

    async def _keep_time(self) -> None:
        while True:
            self._moved = trio.Event()
            with trio.move_on_after(max(0.0, self._deadline - time.monotonic())):
                await self._moved.wait()
            if time.monotonic() >= self._deadline:
                self._manager.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_time)
            yield
            self._nursery.cancel_scope.cancel()


HOSTS: dict[str, Callable[[WebSocketManager], AsyncioHost | TrioHost]] = {"asyncio": AsyncioHost, "trio": TrioHost}


class Recorded(WebSocketManager):
    """A manager that keeps every input it was fed."""

    def __init__(self, config: WebSocketConfig, **ports: Any) -> None:
        self.inputs: list[Input] = []
        super().__init__(config, **ports)

    def feed(self, event: Input) -> None:
        self.inputs.append(event)
        super().feed(event)

    def ends_of(self, run_id: str) -> int:
        """How often the node was told the end of a run."""
        return sum(isinstance(one, RunFinished | RunFailed) and one.run_id == run_id for one in self.inputs)


class Peer:
    """A client in memory: a transport on the manager's side, a link on the other."""

    number = 0

    def __init__(self, manager: WebSocketManager) -> None:
        self._manager = manager
        self._link = ClientLink("localhost", "/", KEY)
        self._changed = anyio.Event()
        self._unread: list[ServerEvents] = []
        self.done: list[str] = []  # what the manager did with the connection
        self.received = 0  # bytes
        self.close_code: int | None = None
        self.held: list[bytes] | None = None  # what waits while this peer does not read
        manager.connect(self, "127.0.0.1")
        manager.feed(BytesReceived(self.number, self._link.request))

    # what the manager calls

    def send(self, data: bytes) -> None:
        self.done.append("send")
        if self.held is None:
            self._read(data)
        else:
            self.held.append(data)

    def close_write(self) -> None:
        self.done.append("close_write")

    def drop(self) -> None:
        self.done.append("drop")

    def pause_reading(self) -> None:
        self.done.append("pause_reading")

    def resume_reading(self) -> None:
        self.done.append("resume_reading")

    # what the test calls

    def say(self, type: str, **fields: Any) -> None:
        """Send one event."""
        self.say_all((type, fields))

    def say_all(self, *events: tuple[str, dict[str, Any]]) -> None:
        """Send events in one read."""
        texts = (_json({"type": type, **fields}) for type, fields in events)
        self._manager.feed(BytesReceived(self.number, b"".join(self._link.text(text) for text in texts)))

    async def hear(self, type: str | None = None, **fields: Any) -> Any:
        """The next event with that type and those fields; the ones before it are passed over."""
        while True:
            while self._unread:
                event = self._unread.pop(0)
                if type in (None, event.type) and all(getattr(event, k, None) == v for k, v in fields.items()):
                    return event
            await self._changed.wait()

    def read_on(self) -> None:
        """Read again what has been held."""
        held, self.held = self.held or [], None
        for data in held:
            self._read(data)

    def _read(self, data: bytes) -> None:
        self.received += len(data)
        self._link.receive(data)
        while (event := self._link.next_event()) is not None:
            if isinstance(event, TextReceived):
                self._unread.append(parse_server_event(event.text))
            elif isinstance(event, CloseReceived):
                self.close_code = event.code
            else:
                assert isinstance(event, Accepted), event
        self._changed.set()
        self._changed = anyio.Event()


def _json(value: dict[str, Any]) -> bytes:
    import json

    return json.dumps(value).encode()


def open_config(**sections: Any) -> WebSocketConfig:
    """No authentication, no limits that all clients would share, a free port, and whatever else a test needs."""
    elsewhere = "listen" in sections.get("server", {})
    base: dict[str, Any] = {
        "server": {} if elsewhere else {"host": "127.0.0.1", "port": 0},
        "security": {"authentication": {"enabled": False}, "rate_limiting": {"enabled": False}},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return WebSocketConfig.model_validate(base)


@asynccontextmanager
async def driven(manager: WebSocketManager, backend: str) -> AsyncIterator[None]:
    """The manager on the event loop of the test."""
    host = HOSTS[backend](manager)
    async with host.running():
        manager.attach(host)
        yield
