"""First steps of coroutines, taken at once on asyncio: one that never waits costs no task and no turn of the loop."""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol

import anyio

from .host import Spawn


class Stoppable(Protocol):
    """Who has coroutines begun."""

    stop: Callable[[], object] | None  # how to cancel the last one, while it has not ended


class EagerTasks:
    """Begins coroutines: at once on asyncio, for which there is a parked task; on trio each has a task."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._released = False
        self.carrier: Carrier | None = None  # on asyncio, from the first coroutine on

    def begin(self, coroutine: Coroutine[Any, Any, None], owner: Stoppable) -> None:
        """Take its first step at once, if that can be."""
        carrier = self.carrier
        if carrier is None or carrier.ended:  # with the event loop, where a manager sees several
            carrier = self._park()
        if carrier is None or carrier.task is None:  # on trio, and while it is on its way to be parked
            self._spawn(_in_scope, coroutine, owner)
            return
        owner.stop = carrier.task.cancel
        if not carrier.begin(coroutine):
            self._park()

    def _park(self) -> Carrier | None:
        self.carrier = None
        if not self._released and not on_trio():
            self.carrier = Carrier()
            self._spawn(self.carrier.carry)
        return self.carrier

    def release(self) -> None:
        """Keep no task parked any more."""
        self._released = True
        if self.carrier is not None:
            self.carrier.release()
            self.carrier = None


async def _in_scope(coroutine: Coroutine[Any, Any, None], owner: Stoppable) -> None:
    with anyio.CancelScope() as scope:
        owner.stop = scope.cancel
        await coroutine


def on_trio() -> bool:
    """Whether trio runs here."""
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


class Carrier:
    """A parked task, in whose name coroutines take their first step. The first one that waits it carries to its end.

    So `asyncio.current_task()` is a task from the first line on, which time limits, task groups and cancel scopes bind
    themselves to. (The functions that tell asyncio which task runs are those that its documentation has for tasks of
    others: "Extending", "Task lifetime support". From Python 3.12 on it has eager tasks, which are made all the same.)
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None  # once it is parked
        self._loop: asyncio.AbstractEventLoop
        self._parked: asyncio.Future[None]
        self._carried: _Rest | None = None
        self._released = False

    async def carry(self) -> None:
        """The task. It ends with the coroutine that it carries, or when it is cancelled before there is one."""
        if self._released:  # before it was parked
            return
        self._loop = asyncio.get_running_loop()
        self._parked = self._loop.create_future()
        self.task = task = asyncio.current_task()
        assert task is not None
        try:
            await self._parked
        except asyncio.CancelledError:
            if self._carried is None:
                return
            task.uncancel()  # it was meant for the coroutine, and comes again as soon as that is waited with
            self._loop.call_soon(task.cancel)
        assert self._carried is not None
        with suppress(asyncio.CancelledError):  # as a cancel scope takes it: the coroutine has told its end
            await self._carried

    @property
    def ended(self) -> bool:
        """Whether the task has ended."""
        return self.task is not None and self.task.done()

    def release(self) -> None:
        """End the task, which carries nothing, and will not."""
        self._released = True
        if self.task is not None:
            self.task.cancel()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Take the first step of a coroutine. False: it waits, has raised, or has cancelled itself, and the carrier is
        taken from now on."""
        task, outer, context = self.task, asyncio.current_task(self._loop), copy_context()
        assert task is not None
        if outer is not None:
            _leave_task(self._loop, outer)
        _enter_task(self._loop, task)
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration:
            return not self._parked.cancelled()
        except BaseException as error:  # noqa: BLE001 - raised where it would be, were it a task of its own
            if not self._parked.cancelled():
                self._parked.set_exception(error)
            return False
        finally:
            _leave_task(self._loop, task)
            if outer is not None:
                _enter_task(self._loop, outer)
        self._carried = _Rest(coroutine, context, waits_for)
        if not self._parked.cancelled():  # by the coroutine itself, as by an agent that disconnects its user
            self._parked.set_result(None)
        return False


class _Rest:
    """What is left of a coroutine behind its first step. Every step is taken in the context of the first one."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], context: Context, waits_for: Any) -> None:
        self._coroutine = coroutine
        self._context = context
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                step = partial(coroutine.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                step = partial(coroutine.throw, error)
            try:
                waits_for = self._context.run(step)
            except StopIteration:
                return
