"""Virtual time: an event loop of asyncio on which an hour passes as soon as nothing else is left to do.

While a thread or a socket is at work time stands still, so that what it brings comes at the time at which it was asked
for. Where nothing can happen any more the loop says so, instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

import anyio
from anyio._backends._asyncio import WorkerThread  # what its threads do is to be seen there alone

from qaws_proto import Now

from .agents.bridge import BRIDGE
from .host import Work

START = Now(1000.0, 1_750_000_000.0)
PATIENCE = 10.0  # seconds of this machine's clock for a thread or a socket to bring something
LOOK = 0.05  # seconds of it, after which one looks whether they are still at work: some end without a word
TURNS = 1000  # of the loop without a rest, after which time passes: some code waits for it without ever sleeping
TICK = 1e-6  # seconds by which a timer may be early
MOMENT = 0.01  # seconds that pass then, and as much more each further time

CHILD = "asyncio-waitpid-"  # how asyncio names the threads that wait for the end of a process

WAITING = (*asyncio.__path__, *anyio.__path__)  # where nobody looks for a mistake

Result = TypeVar("Result")


class Stuck(AssertionError):
    """What is waited for cannot happen any more, or has not in the time it had; the text says what waits where."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that a test runs piece by piece, and whose time is the test's."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._mono, self._jumped = START.mono, 0.0
        self._resting = False  # stop where nothing is left to do now
        self._patience = patience
        self._jobs: set[asyncio.Future[Any]] = set()  # of threads that asyncio has lent
        self._failures: list[BaseException] = []
        self._asked: set[asyncio.Task[Any]] = set()  # by threads, which wait for them
        self._called: object = None  # what a thread has called, while that is done
        self._turns = 0  # since nothing was to be done for the last time
        self._busy_since = 0.0  # by this machine's clock
        self._selector_of_mine = _Selector(self._turn)
        super().__init__(self._selector_of_mine)
        self._clock_resolution = TICK  # that of the machine is less than what floats tell apart after half a year
        self._own = len(self._selector_of_mine.get_map())

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def time(self) -> float:
        """Seconds of the virtual monotonic clock."""
        return self._mono

    def now(self) -> Now:
        """Both virtual clocks."""
        return Now(self._mono, START.unix + self._mono - START.mono + self._jumped)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._jumped += seconds

    def reach(self, moment: float) -> None:
        """It is this moment now, unless that is over: what a timer was set to may be missed by a rounding."""
        self._mono = max(self._mono, moment)

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self) -> None:
        """Do all that is to be done now. No time passes."""
        self._resting = True
        try:
            self._go()
        finally:
            self._resting = False

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, with all that happens meanwhile."""
        end = self._mono + seconds
        timer = self.call_at(end, self.stop)
        try:
            self._go()
        finally:
            timer.cancel()
        self.reach(end)
        self.settle()

    def finish(self, work: Coroutine[Any, Any, Result], within: float) -> Result:
        """Run until this is done, and return what it returns. Raises Stuck after so many seconds of virtual time."""
        task: asyncio.Task[Result] = self.create_task(work)
        task.add_done_callback(self._end)
        timer = self.call_at(self._mono + within, self.stop)
        try:
            self._go()
            if not task.done():
                raise Stuck(f"not done in {within:g} seconds of virtual time\n{self.picture()}")
        except BaseException:
            task.remove_done_callback(self._end)
            task.add_done_callback(_looked_at)
            task.cancel()
            raise
        finally:
            timer.cancel()
        return task.result()

    def fail(self, error: BaseException) -> None:
        """Stop, and raise this where the loop is run."""
        self._failures.append(error)
        self.stop()

    def abandon(self) -> None:
        """Cancel all that has not ended; what ignores that is left."""
        for _ in range(3):  # what is cancelled may begin something
            for task in asyncio.all_tasks(self):
                task.add_done_callback(_looked_at)
                task.cancel()
            with suppress(Stuck):  # in a thread, which nothing stops
                self.settle()
        self._failures.clear()

    def _go(self) -> None:
        self.run_forever()
        if self._failures:
            raise self._failures.pop(0)

    def _end(self, _: object) -> None:
        self.stop()

    # ── what goes on outside ─────────────────────────────────────────────────────────────────────────────────────────

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *arguments: Any, context: Any = None
    ) -> asyncio.Handle:
        """Call something from another thread."""
        return super().call_soon_threadsafe(self._call, callback, arguments, context=context)

    def _call(self, callback: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._called = callback
        try:
            callback(*arguments)
        finally:
            self._called = None

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """A task; where a thread asks for it by `asyncio.run_coroutine_threadsafe` that waits, and is not at work."""
        task = super().create_task(coro, **options)
        if getattr(self._called, "__qualname__", "").startswith(asyncio.run_coroutine_threadsafe.__name__):
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *arguments: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread."""
        job = super().run_in_executor(executor, func, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def _working(self) -> str:
        """What is at work outside of this loop; empty where nothing is."""
        lent = [one for one in threading.enumerate() if isinstance(one, WorkerThread) and one.loop is self]
        busy = sum(not (one in one.idle_workers or one.stopping) for one in lent)
        busy += sum(one.name.startswith(CHILD) for one in threading.enumerate())
        threads = busy + len(self._jobs) + BRIDGE.waited_for - len(self._asked)
        sockets = len(self._selector_of_mine.get_map()) - self._own
        parts = (f"{threads} thread(s)" if threads > 0 else "", f"{sockets} socket(s)" if sockets else "")
        return " and ".join(part for part in parts if part)

    def _turn(self, poll: Callable[[float], list[Any]], timeout: float | None) -> list[Any]:
        """What has become ready, where there is something to do; else whatever comes next."""
        if timeout is None or timeout > 0:
            self._turns = 0
            return self._idle(poll, timeout)
        if self._turns == 0:
            self._busy_since = monotonic()
        self._turns += 1
        if self._turns % TURNS == 0:
            self._go_round()
        return poll(0)

    def _go_round(self) -> None:
        """It never comes to rest: let a little time pass, as it does on a machine."""
        if self._resting:
            self.stop()
        elif not (working := self._working()):
            self._mono += MOMENT * (self._turns // TURNS)
        elif monotonic() - self._busy_since > self._patience:
            raise Stuck(f"went round and round while {working} worked\n{self.picture()}")

    def _idle(self, poll: Callable[[float], list[Any]], timeout: float | None) -> list[Any]:
        """Nothing is to be done now: wait for what is at work outside, or let time pass to the next timer."""
        until = monotonic() + self._patience
        while working := self._working():
            if found := poll(min(LOOK, self._patience)):
                return found
            if monotonic() >= until:
                text = f"waited {self._patience:g} seconds of this machine's time for {working}, in vain"
                raise Stuck(f"{text}\n{self.picture()}")
        if found := poll(0):  # the last word of what has just ended
            return found
        if self._resting:
            self.stop()
        elif timeout is None:
            raise Stuck(f"nothing is left to happen\n{self.picture()}")
        else:
            self._mono += timeout
        return []

    def picture(self) -> str:
        """What waits where: a line for each task that has not ended."""
        now = f"it is {self._mono - START.mono:g} seconds after the start"
        return "\n".join([now, *sorted(f"  {_where(task)}" for task in asyncio.all_tasks(self) if not task.done())])


class _Selector(selectors.DefaultSelector):
    """Leaves it to somebody else whether to wait."""

    def __init__(self, turn: Callable[[Callable[[float], list[Any]], float | None], list[Any]]) -> None:
        super().__init__()
        self._turn = turn

    def select(self, timeout: float | None = None) -> list[Any]:
        """What is ready."""
        return self._turn(super().select, timeout)


def _where(task: asyncio.Task[Any]) -> str:
    """The name of a task, and the innermost place at which it waits that is not in a library for waiting."""
    waits: Any = task.get_coro()
    place = "somewhere"
    while waits is not None:
        frame: FrameType | None = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(WAITING):
            place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return f"{task.get_name()} waits in {place}"


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Whatever it raises has been overtaken by what ended the wait for it."""
    if not task.cancelled():
        task.exception()


class VirtualHost:
    """Tasks and the one timer of a manager or a client, on a `VirtualLoop`."""

    def __init__(self, loop: VirtualLoop, wake: Callable[[], None]) -> None:
        """`wake` is called at the time that `wake_at` was told last."""
        self._loop = loop
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Work, *arguments: object) -> None:
        """Run an async function in a task of its own. What it raises ends the test."""
        self._tasks.add(task := self._loop.create_task(work(*arguments), name=work.__qualname__))
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.fail(error)

    def soon(self, function: Callable[[], None]) -> None:
        """Call this behind what is ready."""
        self._loop.call_soon(function)

    @property
    def running(self) -> int:
        """Tasks that have not ended."""
        return len(self._tasks)

    async def finish(self, patience: float) -> None:
        """End the timer, and wait so many seconds for the tasks; those that have not ended are let go."""
        self.wake_at(None)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)

    def wake_at(self, deadline: float | None) -> None:
        """The one timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._fire, deadline)

    def _fire(self, deadline: float) -> None:
        self._timer = None
        self._loop.reach(deadline)
        self.spawn(self._alarm)

    async def _alarm(self) -> None:
        self._wake()  # in a task: anyio cannot tell in a callback that it is on an event loop
