"""What a manager needs of the event loop, whichever it is: tasks that belong to no task group, and the one timer.

A task group waits for all that was started in it. A server has to be stopped by another task than the one that started
it, and an agent that ignores its cancellation must not hold it up: so these tasks are the event loop's own.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable, Coroutine
from math import ceil, inf
from time import monotonic
from typing import Any, Protocol

import anyio

from .telemetry import log_event

LOGGER = logging.getLogger("qaws.node")

Work = Callable[..., Coroutine[Any, Any, None]]
Spawn = Callable[..., None]  # runs an async function, with its arguments, in a task of its own


class TaskHost(Protocol):
    """Tasks and the one timer, however they are run."""

    def spawn(self, work: Work, *arguments: object) -> None:
        """Run an async function in a task of its own."""

    def wake_at(self, deadline: float | None) -> None:
        """Call what it was made with at this time of the monotonic clock; None: no need to."""

    def soon(self, function: Callable[[], None]) -> None:
        """Call this as soon as the event loop has done what is ready now; or at once, where that costs less."""

    @property
    def running(self) -> int:
        """Tasks that have not ended."""

    async def finish(self, patience: float) -> None:
        """End the timer, and wait so many seconds for the tasks."""


class AnyioHost:
    """Tasks and the timer, on asyncio, uvloop or trio."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called when the time has come that `wake_at` was told last."""
        self._wake = wake
        self._deadline = self._alarm = inf  # when to wake, and when the timer's task looks at it
        self._sooner: anyio.Event | None = None  # set to have that look at once; None while the task is not there
        self._idle: anyio.Event | None = None
        self._running = 0
        self._finished = False

    def spawn(self, work: Work, *arguments: object) -> None:
        """Run an async function in a task of its own. A mistake in it is logged, and does not end the others."""
        self._running += 1
        start_task(self._guarded, work, arguments)

    async def _guarded(self, work: Work, arguments: tuple[object, ...]) -> None:
        try:
            await work(*arguments)
        except Exception as error:  # noqa: BLE001 - a mistake of ours, which must not take the others along
            log_event(LOGGER, logging.ERROR, "task_failed", error)
        finally:
            self._running -= 1
            if self._running == 0 and self._idle is not None:
                self._idle.set()

    def soon(self, function: Callable[[], None]) -> None:
        """Call this behind what is ready on asyncio; at once on trio, whose queue costs more than it saves."""
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            function()
        else:
            asyncio.get_running_loop().call_soon(function)

    @property
    def running(self) -> int:
        """Tasks that have not ended, without the timer's."""
        return self._running

    async def finish(self, patience: float) -> None:
        """End the timer, and wait for the tasks; those that have not ended in `patience` seconds are let go (G5)."""
        self.wake_at(None)
        self._finished = True  # a task that was let go may still have something to say
        if self._running:
            self._idle = self._idle or anyio.Event()
            with anyio.move_on_after(patience):
                await self._idle.wait()

    def wake_at(self, deadline: float | None) -> None:
        """The one timer. One that is too early is left to fire, which costs less than moving it."""
        if self._finished:
            return
        self._deadline = inf if deadline is None else deadline
        if self._sooner is None:
            if self._deadline < inf:
                self._sooner = anyio.Event()
                start_task(self._keep_time)
        elif self._deadline < self._alarm or deadline is None:
            self._sooner.set()

    async def _keep_time(self) -> None:
        try:
            while self._deadline < inf:
                self._sooner, self._alarm = anyio.Event(), self._deadline
                with anyio.move_on_after(wait_until(self._alarm)):
                    await self._sooner.wait()
                self._alarm = -inf  # until the next round nobody has to be told
                if monotonic() >= self._deadline:
                    try:
                        self._wake()
                    except Exception as error:  # noqa: BLE001 - the next time may do
                        log_event(LOGGER, logging.ERROR, "timer_failed", error)
        finally:
            self._sooner = None


def wait_until(deadline: float) -> float:
    """Seconds from now to a deadline, in whole milliseconds, as uvloop counts them: it would round down, and wake
    again and again until it is time."""
    return ceil(max(0.0, deadline - monotonic()) * 1000) / 1000


def start_task(work: Work, *arguments: object) -> None:
    """Run an async function in a task that belongs to the event loop. It must not raise.

    Callbacks of asyncio may call it: anyio cannot tell in each of them that it is on an event loop at all.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(work, *arguments, context=contextvars.copy_context())
    else:
        _KEPT.add(task := asyncio.get_running_loop().create_task(work(*arguments)))
        task.add_done_callback(_KEPT.discard)


_KEPT: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks weakly
