"""Agent frameworks that know asyncio alone, for a gateway on any event loop: they run in a thread of their own.

    gateway's task ── make ──▶ task in the thread ── pieces ──▶ at most AHEAD wait ──▶ gateway's task

One thread and one loop serve all frameworks of the process, since what they share (pools of HTTP connections above all)
belongs to the loop on which it was first used.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from contextvars import Context, ContextVar
from typing import Any, cast

import anyio
import anyio.lowlevel

from ..telemetry import log_event
from .interface import AgentReply, AgentStep, RunContext, carried

AHEAD = 16  # pieces made and not yet taken; a framework that is so far ahead waits (C1)
GRACE = 5.0  # seconds for what a framework starts while it is cancelled, and for all of it when the process ends

Piece = str | AgentStep | AgentReply

_log = logging.getLogger("qaws.agents")


class Bridge:
    """A thread with an asyncio event loop, begun when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runs: set[_Run] = set()  # this and the next are of the thread
        self._ending: asyncio.Task[None] | None = None
        self.waited_for = 0  # runs whose next piece, or end, the thread owes

    def stream(self, make: Callable[[], AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
        """The pieces of the generator that `make` makes, which runs on asyncio, in a task of its own.

        When what is given back is cancelled or closed, that task is cancelled, once, and its end is waited for. What it
        raises is raised here; RuntimeError stands for what would end more than a run, and for a bridge that is closed.
        """
        return _Run(make, self).pieces()

    def close(self) -> None:
        """Cancel what still runs, wait up to GRACE seconds for its end, and end the thread. Blocks."""
        with self._lock:
            closed, self._closed = self._closed, True
            loop, thread = self._loop, self._thread
            if closed or loop is None or thread is None:
                return
            loop.call_soon_threadsafe(self._start_ending)
        atexit.unregister(self.close)
        thread.join(GRACE)
        if thread.is_alive():
            log_event(_log, logging.WARNING, "frameworks_left_running", seconds=GRACE)

    def begin(self, run: _Run) -> asyncio.AbstractEventLoop:
        """Start a run in the thread, in an empty context: what the gateway's says of its loop is not true there."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the bridge to agent frameworks is closed")
            loop = self._loop or self._start_thread()
            loop.call_soon_threadsafe(run.start, self._runs, context=Context())
            return loop

    def _start_thread(self) -> asyncio.AbstractEventLoop:
        """Begin the thread. Raises RuntimeError where the system has none left: the next run tries again."""
        loop = asyncio.new_event_loop()
        loop.set_task_factory(cast(Any, _task))
        thread = threading.Thread(target=_serve, args=(loop,), name="qaws-frameworks", daemon=True)
        try:
            thread.start()
        except Exception:
            loop.close()
            raise
        self._loop, self._thread = loop, thread
        atexit.register(self.close)
        return loop

    def forget_thread(self) -> None:
        """In a forked process: begin anew. The parent's thread is not there, and its lock may never be released."""
        if self._loop is not None:
            _of_parents.append(self._loop)
        self._lock = threading.Lock()
        self._loop = self._thread = self._ending = None
        self._runs = set()

    def _start_ending(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        """In the thread: end runs with all they want to keep, then whatever frameworks left in the background."""
        loop = asyncio.get_running_loop()
        while self._runs:
            for run in self._runs:
                run.cancel()
            await asyncio.wait([run.task for run in self._runs])
        background = asyncio.all_tasks() - {self._ending}
        for task in background:
            task.cancel()
        if background:
            await asyncio.wait(background)
        await loop.shutdown_asyncgens()
        with suppress(RuntimeError):  # as the process ends no thread can begin (CPython 3.12), and none is left
            await loop.shutdown_default_executor()
        loop.stop()


class _Run:
    """One generator of a framework, between the gateway's thread and the bridge's."""

    def __init__(self, make: Callable[[], AsyncGenerator[Piece, None]], bridge: Bridge) -> None:
        self._make = make
        self._bridge = bridge
        self._waiting: deque[Piece] = deque()  # appended to in the thread, taken from in the gateway's
        self._ended = False  # set by the thread, behind the last piece
        self._error: BaseException | None = None
        self.cancelled = False
        self.left: set[asyncio.Task[Any]] = set()  # what the framework started since it was cancelled

    # ── in the gateway's thread ──────────────────────────────────────────────────────────────────────────────────────

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Run, and give each piece as it comes."""
        self._call = _caller(anyio.lowlevel.current_token().native_token)
        self._news = anyio.Event()
        self._enter = carried.get()
        self._loop = self._bridge.begin(self)
        try:
            while True:
                self._news = anyio.Event()  # before looking, so that what comes after the look is heard
                ended = self._ended
                while self._waiting:
                    yield self._take()
                if ended:
                    break
                await self._wait()
        except BaseException:  # nobody wants more: the gateway's task is cancelled, or this generator is closed
            await self._stop()
            raise
        if self._error is not None:
            raise self._error
        if self.cancelled:
            raise RuntimeError("the bridge to agent frameworks was closed before the answer was whole")

    def _take(self) -> Piece:
        piece = self._waiting.popleft()
        if len(self._waiting) == AHEAD - 1:
            self._tell(self._room.set)
        return piece

    async def _stop(self) -> None:
        """Cancel the framework's task and wait for its end, whatever happens here. Raises what it raised."""
        self._tell(self.cancel)
        with anyio.CancelScope(shield=True):
            while True:
                self._news = anyio.Event()
                if self._ended:
                    break
                await self._wait()
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        """Wait for what the thread has to say."""
        self._bridge.waited_for += 1
        try:
            await self._news.wait()
        finally:
            self._bridge.waited_for -= 1

    def _tell(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the framework's task has ended
            self._loop.call_soon_threadsafe(function)

    def _wake(self) -> None:
        self._news.set()

    # ── in the bridge's thread ───────────────────────────────────────────────────────────────────────────────────────

    def start(self, runs: set[_Run]) -> None:
        """Begin the framework's task, which is among `runs` until it ends."""
        _current.set(self)
        if self._enter is not None:
            self._enter()
        self._room = asyncio.Event()
        self._runs = runs
        runs.add(self)
        self.task = asyncio.get_running_loop().create_task(self._work())
        self.task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Cancel the framework's task, the first time this is called."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    async def _work(self) -> None:
        try:
            async with aclosing(self._make()) as pieces:
                async for piece in pieces:
                    if self.cancelled:  # and the framework has gone on all the same
                        break
                    await self._give(piece)
        except Exception:
            raise
        except BaseException as error:
            if self.cancelled and isinstance(error, asyncio.CancelledError):
                raise
            raise RuntimeError(f"the agent raised {type(error).__name__}") from error
        finally:
            if self.left:
                await asyncio.wait(self.left, timeout=GRACE)

    async def _give(self, piece: Piece) -> None:
        self._waiting.append(piece)
        self._report()
        while len(self._waiting) >= AHEAD:
            self._room.clear()
            await self._room.wait()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._runs.discard(self)
        if not task.cancelled():
            self._error = task.exception()
        self._ended = True
        self._report()

    def _report(self) -> None:
        try:
            self._call(self._wake)
        except RuntimeError:  # the gateway's loop has ended before the run
            self.cancel()


class FrameworkAgent(ABC):
    """An agent of a framework, callable as any other: its answer is made in the bridge's thread."""

    def __init__(self, bridge: Bridge | None = None) -> None:
        self._bridge = BRIDGE if bridge is None else bridge

    async def chat(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        """The pieces of the answer."""
        return self._bridge.stream(lambda: self.answer(message, context))

    @abstractmethod
    def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        """The same on asyncio."""


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """The thread: run the loop until it is stopped. SystemExit in a task that nobody awaits is no reason to."""
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit) as error:
            log_event(_log, logging.ERROR, "framework_task_raised", error)
        else:
            break
    loop.close()


def _task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """A task, remembered where a run starts it that has been cancelled: Agno stores such a run in one (G8)."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    run = _current.get()
    if run is not None and run.cancelled:
        run.left.add(task)
    return task


def _caller(native: Any) -> Callable[[Callable[[], object]], object]:
    """How a function is called in the thread of an event loop: its own threads do so on asyncio, and on trio."""
    call: Callable[[Callable[[], object]], object]
    call = native.call_soon_threadsafe if hasattr(native, "call_soon_threadsafe") else native.run_sync_soon
    return call


_current: ContextVar[_Run | None] = ContextVar("qaws-framework-run", default=None)
_of_parents: list[asyncio.AbstractEventLoop] = []  # kept: closing one would take the sockets from the parent's epoll
BRIDGE = Bridge()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=BRIDGE.forget_thread)
