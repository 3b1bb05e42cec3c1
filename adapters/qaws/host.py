"""The event loop as a manager needs it, whichever it is: tasks that belong to no task group, and one timer.

A task group waits for all that was started in it; an agent that ignores its cancellation would hold up the end of a
server for ever. These tasks can be let go (G5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import anyio

Function = Callable[..., Awaitable[None]]


class AnyioHost:
    """Tasks and the timer of a manager, on asyncio, uvloop or trio."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called at the time that `wake_at` was told last, or a little later."""
        self._wake = wake
        self._deadline = inf
        self._sleeping = False
        self._moved: anyio.Event | None = None  # the timer's task sleeps until it is set, or it is time
        self._running = 0
        self._idle: anyio.Event | None = None

    @property
    def running(self) -> int:
        """Tasks that have not ended, without the timer's."""
        return self._running

    def spawn(self, function: Function, *arguments: object) -> None:
        """Run an async function in a task of its own."""
        self._running += 1
        start_task(self._run, function, arguments)

    async def _run(self, function: Function, arguments: tuple[object, ...]) -> None:
        try:
            await function(*arguments)
        finally:
            self._running -= 1
            if self._running == 0 and self._idle is not None:
                self._idle.set()

    async def finish(self, patience: float) -> None:
        """End the timer, and wait for the tasks; let go of those that have not ended after `patience` seconds."""
        self.wake_at(None)
        if self._running:
            self._idle = anyio.Event()
            with anyio.move_on_after(patience):
                await self._idle.wait()

    def wake_at(self, deadline: float | None) -> None:
        """The one timer. One that is too early is left to fire, which costs less than moving it."""
        if deadline is None:
            if self._sleeping:
                self._deadline = inf
                self._move()
            return
        earlier = deadline < self._deadline
        self._deadline = deadline
        if not self._sleeping:
            self._sleeping = True
            start_task(self._sleep)
        elif earlier:
            self._move()

    def _move(self) -> None:
        if self._moved is not None:
            self._moved.set()

    async def _sleep(self) -> None:
        """The timer's task; it ends where there is nothing to wait for."""
        try:
            while self._deadline < inf:
                self._moved = anyio.Event()
                with anyio.move_on_after(self._deadline - time.monotonic()):
                    await self._moved.wait()
                if self._deadline <= time.monotonic():
                    self._deadline = inf
                    self._wake()
        finally:
            self._sleeping = False
            self._moved = None


_kept: set[asyncio.Task[Any]] = set()  # asyncio keeps no strong reference to its tasks


def start_task(function: Function, *arguments: object) -> None:
    """A task outside of any task group. It must not raise."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        awaitable = function(*arguments)
        task: asyncio.Task[Any] = asyncio.ensure_future(awaitable)
        _kept.add(task)
        task.add_done_callback(_kept.discard)
    else:
        import trio

        trio.lowlevel.spawn_system_task(function, *arguments)
