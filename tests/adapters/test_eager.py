"""First steps at once: an agent that waits is in a task of its own from its first line on, and is none the wiser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from qaws.eager import Carrier, EagerTasks

pytestmark = pytest.mark.anyio

Work = Callable[[], Coroutine[Any, Any, None]]
number: ContextVar[int] = ContextVar("number", default=0)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def carrier() -> AsyncIterator[Carrier]:
    """One that is parked."""
    carrier = Carrier()
    task = asyncio.create_task(carrier.carry())
    while carrier.task is None:
        await asyncio.sleep(0)
    yield carrier
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ended(carrier: Carrier) -> object:
    """What the task ends with."""
    assert carrier.task is not None
    async with asyncio.timeout(5):
        ends: list[object] = await asyncio.gather(carrier.task, return_exceptions=True)
    return ends[0]


async def test_what_never_waits_is_done_at_once_and_takes_no_task(carrier: Carrier) -> None:
    done = []

    async def work() -> None:
        number.set(7)  # nobody else sees it
        done.append(asyncio.current_task())

    before, outer = asyncio.all_tasks(), asyncio.current_task()
    for _ in range(3):
        assert carrier.begin(work())
    assert done == [carrier.task] * 3
    assert asyncio.all_tasks() == before
    assert asyncio.current_task() is outer
    assert number.get() == 0


async def test_it_begins_from_a_callback_too(carrier: Carrier) -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    asyncio.get_running_loop().call_soon(lambda: carrier.begin(work()))
    async with asyncio.timeout(5):
        await done.wait()
    assert await ended(carrier) is None


async def test_what_waits_goes_on_in_the_same_task_and_context(carrier: Carrier) -> None:
    seen: list[tuple[object, int]] = []

    async def work() -> None:
        token = number.set(7)
        for _ in range(3):
            seen.append((asyncio.current_task(), number.get()))
            await asyncio.sleep(0)
        number.reset(token)

    assert not carrier.begin(work())
    assert await ended(carrier) is None
    assert seen == [(carrier.task, 7)] * 3
    assert number.get() == 0


async def test_time_limits_groups_and_scopes_bind_to_it_from_the_first_line_on(carrier: Carrier) -> None:
    done: list[str] = []

    async def work() -> None:
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        done.append("scope")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        done.append("timeout")
        with pytest.raises(ExceptionGroup):
            await grouped()
        done.append("group")
        done.append(await anyio.to_thread.run_sync(lambda: "thread"))

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())
            await asyncio.Event().wait()

    async def broken() -> None:
        raise LookupError

    assert not carrier.begin(work())
    assert await ended(carrier) is None
    assert done == ["scope", "timeout", "group", "thread"]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_cancel_reaches_what_it_waits_for(carrier: Carrier, turns: int) -> None:
    """However soon it comes: also before the task has taken over."""
    inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    told: list[str] = []

    async def work() -> None:
        try:
            await inner
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            told.append(f"cancelled {task.cancelling()}")
            raise

    assert not carrier.begin(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert carrier.task is not None
    carrier.task.cancel()
    assert await ended(carrier) is None  # the coroutine has told its end, which is all that counts
    assert told == ["cancelled 1"]
    assert inner.cancelled()


@pytest.mark.parametrize("ends", ["waits", "returns", "raises"])
async def test_one_that_cancels_itself_in_its_first_step_takes_the_task(carrier: Carrier, ends: str) -> None:
    told: list[str] = []

    async def work() -> None:
        assert carrier.task is not None
        carrier.task.cancel()
        if ends == "raises":
            raise LookupError
        if ends == "waits":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append("cancelled")
                raise

    assert not carrier.begin(work())
    assert await ended(carrier) is None
    assert told == (["cancelled"] if ends == "waits" else [])


async def test_what_ignores_a_cancel_goes_on(carrier: Carrier) -> None:
    done: list[int] = []

    async def work() -> None:
        for turn in range(3):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                done.append(turn)

    assert not carrier.begin(work())
    assert carrier.task is not None
    for _ in range(3):
        await asyncio.sleep(0.001)
        carrier.task.cancel()
    assert await ended(carrier) is None
    assert done == [0, 1, 2]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [LookupError, SystemExit])
async def test_what_it_raises_the_task_raises(carrier: Carrier, waits: bool, kind: type[BaseException]) -> None:
    """As it would were it a task of its own; `SystemExit` ends the loop then, so here it is looked at before."""

    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise kind("mine")

    if kind is SystemExit:
        with pytest.raises(SystemExit):
            await asyncio.to_thread(_alone, work)
        return
    assert not carrier.begin(work())
    assert isinstance(await ended(carrier), kind)


def _alone(work: Work) -> None:
    """On an event loop of its own, in a thread of its own."""

    async def main() -> None:
        carrier = Carrier()
        task = asyncio.create_task(carrier.carry())
        while carrier.task is None:
            await asyncio.sleep(0)
        assert not carrier.begin(work())
        await task

    asyncio.run(main())


@pytest.mark.parametrize("parked", [False, True])
async def test_one_that_was_never_taken_ends_when_it_is_released(parked: bool) -> None:
    """Also before it is parked: a server that stops then would wait for it."""
    carrier = Carrier()
    task = asyncio.create_task(carrier.carry())
    while parked and carrier.task is None:
        await asyncio.sleep(0)
    carrier.release()
    ended, _ = await asyncio.wait((task,), timeout=5)
    task.cancel()
    assert ended


# ── one parked task after the other ──────────────────────────────────────────────────────────────────────────────────


class Owner:
    """Who has coroutines begun, and the tasks that were made for them."""

    def __init__(self) -> None:
        self.stop: Callable[[], object] | None = None
        self.made: list[asyncio.Task[None]] = []
        self.done: list[str] = []
        self.tasks = EagerTasks(self.spawn)

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        self.made.append(asyncio.get_running_loop().create_task(work(*arguments)))

    def begin(self, name: str, turns: int = 0) -> None:
        async def work() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            self.done.append(name)

        self.tasks.begin(work(), self)

    async def all_ended(self) -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*self.made)


async def test_what_comes_while_no_task_is_parked_has_one_of_its_own() -> None:
    owner = Owner()
    owner.begin("first")
    assert (owner.done, len(owner.made)) == ([], 2)
    await asyncio.sleep(0)
    owner.begin("second")
    assert (owner.done, len(owner.made)) == (["first", "second"], 2)
    owner.begin("waits", turns=3)
    owner.begin("behind it")
    assert (owner.done, len(owner.made)) == (["first", "second"], 4)
    owner.tasks.release()
    await owner.all_ended()
    assert owner.done == ["first", "second", "behind it", "waits"]


async def test_behind_the_release_none_is_parked() -> None:
    owner = Owner()
    owner.tasks.release()
    owner.begin("late")
    await owner.all_ended()
    assert (owner.done, len(owner.made)) == (["late"], 1)


def test_on_the_next_event_loop_another_one_is_parked() -> None:
    owner = Owner()

    async def visit() -> None:
        owner.made.clear()
        for turns in (0, 1):
            owner.begin("it", turns)
            await asyncio.sleep(0.001)

    for _ in range(2):
        asyncio.run(visit())
        assert len(owner.made) == 3  # two to be parked, and the one that could not wait for the first of them
    assert owner.done == ["it"] * 4
