"""The bridge between a gateway on any event loop and frameworks on asyncio: pieces, cancelling, errors, its end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest

from qaws.agents import AgentStep, RunContext
from qaws.agents.bridge import AHEAD, Bridge, FrameworkAgent, Piece
from qaws_proto.inputs import WriteBlocked, WriteDrained

from .bridged import in_thread, left
from .peers import Peer, Recorded, driven, open_config

pytestmark = pytest.mark.anyio

LOOPS: dict[str, Any] = {"asyncio": "asyncio", "uvloop": ("asyncio", {"use_uvloop": True}), "trio": "trio"}


@pytest.fixture(params=list(LOOPS.values()), ids=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """What the gateway runs on."""
    return request.param


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    """One of the test's own; nothing of the test is left in it."""
    bridge = Bridge()
    yield bridge
    if bridge._thread is None:
        return
    if not bridge._closed:
        assert in_thread(bridge, left()) == set()
        bridge.close()
    assert not bridge._thread.is_alive()
    assert bridge._loop is not None
    assert bridge._loop.is_closed()


async def taken(pieces: AsyncGenerator[Piece, None], got: list[Piece] | None = None) -> list[Piece]:
    """Every piece, in `got` too as they come."""
    got = [] if got is None else got
    with anyio.fail_after(10):
        async with aclosing(pieces):
            async for piece in pieces:
                got.append(piece)
    return got


class Framework:
    """A generator that hangs behind its first piece, and what became of it."""

    def __init__(self, clean_up: Callable[[], Coroutine[Any, Any, object]] | None = None) -> None:
        self._clean_up = clean_up
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self.cancelled: list[int] = []  # how often its task had been, each time it met a CancelledError
        self.ended = False

    async def __call__(self) -> AsyncGenerator[Piece, None]:
        yield "first"
        try:
            self.begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            self.cancelled.append(task.cancelling())
            assert await asyncio.to_thread(self.may_end.wait, 10)  # it puts things in order, undisturbed
            if self._clean_up is not None:
                await self._clean_up()
            self.ended = True
            raise


async def cancelled_run(
    bridge: Bridge,
    make: Callable[[], AsyncGenerator[Piece, None]],
    begun: threading.Event,
    while_ending: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """A gateway's task that takes what comes, and is cancelled as soon as the framework has begun."""
    ended = False

    async def take() -> None:
        nonlocal ended
        with scope:
            async with aclosing(bridge.stream(make)) as pieces:
                async for _ in pieces:
                    pass
        ended = True

    scope = anyio.CancelScope()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(take)
            await anyio.to_thread.run_sync(begun.wait, 10)
            scope.cancel()
            if while_ending is not None:
                await anyio.wait_all_tasks_blocked()
                assert not ended
                await while_ending()


# ── handing over ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_piece_is_here_before_the_next_one_is_made(bridge: Bridge) -> None:
    step, heard = AgentStep("reasoning", content="hm"), threading.Event()

    async def make() -> AsyncGenerator[Piece, None]:
        yield "a"
        assert await asyncio.to_thread(heard.wait, 10)
        yield step
        yield "b"

    got: list[Piece] = []
    with anyio.fail_after(10):
        async for piece in bridge.stream(make):
            got.append(piece)
            heard.set()
    assert got == ["a", step, "b"]


async def test_a_framework_is_on_asyncio_and_sees_nothing_of_the_gateways_loop(bridge: Bridge) -> None:
    library: ContextVar[str] = ContextVar("library", default="none")

    async def make() -> AsyncGenerator[Piece, None]:
        asyncio.get_running_loop()
        yield library.get()
        yield threading.current_thread().name

    library.set("trio")
    assert await taken(bridge.stream(make)) == ["none", "qaws-frameworks"]


@pytest.mark.row("C1")
async def test_a_framework_waits_when_it_is_too_far_ahead(bridge: Bridge) -> None:
    made, full = 0, threading.Event()

    async def make() -> AsyncGenerator[Piece, None]:
        nonlocal made
        for number in range(AHEAD * 3):
            made += 1
            if made > AHEAD:
                full.set()
            yield f"{number}"

    with anyio.fail_after(10):
        pieces = bridge.stream(make)
        got = [await anext(pieces)]
        await anyio.to_thread.run_sync(full.wait, 10)
        for _ in range(20):  # the framework has its turns, and takes none
            await anyio.to_thread.run_sync(in_thread, bridge, asyncio.sleep(0))
        assert made == AHEAD + 1
        got += [piece async for piece in pieces]
    assert got == [f"{number}" for number in range(AHEAD * 3)]


@pytest.mark.row("C1")
async def test_a_slow_reader_holds_a_framework_back(bridge: Bridge, anyio_backend: Any) -> None:
    made, total, size = 0, 100, 200

    class Wordy(FrameworkAgent):
        async def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
            nonlocal made
            for _ in range(total):
                made += 1
                yield "x" * size

    limits = {"out_high": 1024, "out_top": 1024 * 1024}
    manager = Recorded(open_config(limits=limits, agent={"roll_up": 0}), agent=Wordy(bridge))
    backend = anyio_backend if isinstance(anyio_backend, str) else anyio_backend[0]
    with anyio.fail_after(10):
        async with driven(manager, backend):
            peer = Peer(manager)
            peer.held = []
            manager.feed(WriteBlocked(peer.number))
            peer.say("chat_message", content="?", stream=True)
            (run,) = manager._runs.active.values()
            while run.resumed is None:  # until the node has said that it wants no more
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                await anyio.to_thread.run_sync(in_thread, bridge, asyncio.sleep(0))
            assert made < total / 2
            peer.read_on()
            manager.feed(WriteDrained(peer.number))
            assert (await peer.hear("agent_response")).content == "x" * size * total


async def test_many_runs_go_on_at_once(bridge: Bridge) -> None:
    runs, half_way = 50, set[int]()
    answers: dict[int, list[Piece]] = {}

    async def make(number: int) -> AsyncGenerator[Piece, None]:
        for piece in range(40):
            yield f"{number}.{piece}"
            half_way.add(number)
            while len(half_way) < runs:  # each waits for all the others
                await asyncio.sleep(0)

    async def run(number: int) -> None:
        answers[number] = await taken(bridge.stream(lambda: make(number)))

    async with anyio.create_task_group() as group:
        for number in range(runs):
            group.start_soon(run, number)
    assert answers == {number: [f"{number}.{piece}" for piece in range(40)] for number in range(runs)}


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G8")
async def test_a_cancelled_run_is_cancelled_once_and_waited_for(bridge: Bridge) -> None:
    framework = Framework()
    framework.may_end.clear()

    async def let_it_end() -> None:
        framework.may_end.set()

    await cancelled_run(bridge, framework, framework.begun, let_it_end)
    assert framework.cancelled == [1]
    assert framework.ended


async def test_closing_does_not_disturb_a_run_that_is_cancelled_already(bridge: Bridge) -> None:
    framework = Framework()
    framework.may_end.clear()

    async def close() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, bridge.close)
            while not bridge._closed:
                await anyio.lowlevel.checkpoint()
            with bridge._lock:  # behind which the thread has been told
                pass
            for _ in range(3):
                await anyio.to_thread.run_sync(in_thread, bridge, asyncio.sleep(0))
            framework.may_end.set()

    await cancelled_run(bridge, framework, framework.begun, close)
    assert framework.cancelled == [1]
    assert framework.ended


@pytest.mark.row("G8")
async def test_what_a_framework_starts_while_it_is_cancelled_is_waited_for(bridge: Bridge) -> None:
    stored: list[str] = []
    may_store = threading.Event()

    async def store() -> None:
        assert await asyncio.to_thread(may_store.wait, 10)
        stored.append("the run")

    async def clean_up() -> None:
        background.append(asyncio.create_task(store()))

    async def let_it_store() -> None:
        may_store.set()

    background: list[asyncio.Task[None]] = []
    framework = Framework(clean_up)
    await cancelled_run(bridge, framework, framework.begun, let_it_store)
    assert stored == ["the run"]


@pytest.mark.row("G8")
async def test_a_framework_that_is_ahead_is_closed_when_its_run_is_cancelled(bridge: Bridge) -> None:
    ahead, closed, made = threading.Event(), False, 0

    async def make() -> AsyncGenerator[Piece, None]:
        nonlocal closed, made
        try:
            while True:
                made += 1
                if made > AHEAD:
                    ahead.set()
                yield "x"
        finally:
            await asyncio.sleep(0)
            closed = True

    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with aclosing(bridge.stream(make)) as pieces:
            await anext(pieces)
            await anyio.to_thread.run_sync(ahead.wait, 10)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert closed
    assert made == AHEAD + 1


@pytest.mark.row("G5")
async def test_a_framework_that_goes_on_though_cancelled_ends_at_its_next_piece(bridge: Bridge) -> None:
    begun, after = threading.Event(), []

    async def make() -> AsyncGenerator[Piece, None]:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            after.append("cancelled")
        yield "still here"
        after.append("and here")

    await cancelled_run(bridge, make, begun)
    assert after == ["cancelled"]


async def test_a_run_that_is_cancelled_before_it_begins_is_never_made(bridge: Bridge) -> None:
    await taken(bridge.stream(pieces_of))
    assert bridge._loop is not None
    made, busy, release = [], threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        release.wait(10)

    async def make() -> AsyncGenerator[Piece, None]:
        made.append("made")
        yield "x"

    async def let_go() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await taken(bridge.stream(make))
        done.set()

    done = anyio.Event()
    bridge._loop.call_soon_threadsafe(occupy)
    with anyio.fail_after(10):
        await anyio.to_thread.run_sync(busy.wait, 10)
        async with anyio.create_task_group() as group:
            group.start_soon(let_go)
            loop: Any = bridge._loop
            while "cancel" not in [getattr(handle._callback, "__name__", "") for handle in list(loop._ready)]:
                await anyio.lowlevel.checkpoint()
            assert not done.is_set()  # its end is waited for
            release.set()
    assert made == []


async def test_a_generator_that_is_closed_ends_its_run(bridge: Bridge) -> None:
    framework = Framework()
    with anyio.fail_after(10):
        pieces = bridge.stream(framework)
        assert await anext(pieces) == "first"
        await anyio.to_thread.run_sync(framework.begun.wait, 10)
        await pieces.aclose()
    assert framework.cancelled == [1]
    assert framework.ended


async def test_what_a_framework_raises_while_it_is_cancelled_is_raised(bridge: Bridge) -> None:
    async def fail() -> None:
        raise ValueError("cannot be stored")

    framework = Framework(fail)
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="cannot be stored")):
        await cancelled_run(bridge, framework, framework.begun)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def misbehave(error: BaseException) -> Callable[[], AsyncGenerator[Piece, None]]:
    async def deep_inside() -> None:
        await asyncio.sleep(0)
        raise error

    async def make() -> AsyncGenerator[Piece, None]:
        yield "before"
        await deep_inside()

    return make


@pytest.mark.row("G2")
@pytest.mark.parametrize("kind", [ValueError, TimeoutError, ExceptionGroup])
async def test_an_exception_is_raised_behind_the_pieces_with_its_traceback(
    kind: type[Exception], bridge: Bridge
) -> None:
    error = ExceptionGroup("broken", [ValueError("broken")]) if kind is ExceptionGroup else kind("broken")
    got: list[Piece] = []
    with pytest.raises(kind, match="broken") as raised:
        await taken(bridge.stream(misbehave(error)), got)
    assert got == ["before"]
    assert raised.value is error
    assert "deep_inside" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


@pytest.mark.row("G2")
@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException, StopIteration]
)
async def test_what_would_end_more_than_a_run_ends_it_alone(kind: type[BaseException], bridge: Bridge) -> None:
    with pytest.raises(RuntimeError) as raised:
        await taken(bridge.stream(misbehave(kind("for you"))))
    assert isinstance(raised.value.__cause__, kind)
    assert await taken(bridge.stream(lambda: pieces_of("next"))) == ["next"]


async def pieces_of(*pieces: str) -> AsyncGenerator[Piece, None]:
    for piece in pieces:
        yield piece


@pytest.mark.row("G2")
async def test_a_framework_that_cancels_its_own_task_ends_alone(bridge: Bridge) -> None:
    async def make() -> AsyncGenerator[Piece, None]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        yield "never"

    with pytest.raises(RuntimeError, match="CancelledError"):
        await taken(bridge.stream(make))
    assert await taken(bridge.stream(lambda: pieces_of("next"))) == ["next"]


@pytest.mark.row("G2")
async def test_a_system_exit_in_a_task_beside_the_run_leaves_the_thread_alive(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def make() -> AsyncGenerator[Piece, None]:
        beside = asyncio.create_task(leave())
        yield "a"
        with pytest.raises(SystemExit):
            await beside
        yield "b"

    assert await taken(bridge.stream(make)) == ["a", "b"]
    (record,) = [record for record in caplog.records if record.name == "qaws.agents"]
    assert record.getMessage().splitlines()[:2] == ["framework_task_raised", "  raised=SystemExit"]


# ── its end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_closing_ends_runs_and_what_frameworks_left_in_the_background(bridge: Bridge) -> None:
    background: list[asyncio.Task[Any]] = []
    framework = Framework()

    async def make() -> AsyncGenerator[Piece, None]:
        background.append(asyncio.create_task(asyncio.Event().wait()))
        async for piece in framework():
            yield piece

    async def close() -> None:
        await anyio.to_thread.run_sync(framework.begun.wait, 10)
        await anyio.to_thread.run_sync(bridge.close)

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="closed before the answer was whole")):
        async with anyio.create_task_group() as group:
            group.start_soon(close)
            await taken(bridge.stream(make))
    assert framework.cancelled == [1]
    assert background[0].cancelled()
    with pytest.raises(RuntimeError, match="the bridge to agent frameworks is closed"):
        await taken(bridge.stream(framework))
    bridge.close()  # a second time is no mistake


async def test_a_bridge_that_was_never_used_has_no_thread(bridge: Bridge) -> None:
    bridge.close()
    assert bridge._thread is None


def test_a_run_ends_when_the_event_loop_of_its_gateway_is_gone(bridge: Bridge) -> None:
    proceed, ended = threading.Event(), threading.Event()

    async def make() -> AsyncGenerator[Piece, None]:
        try:
            yield "first"
            await asyncio.to_thread(proceed.wait, 10)
            yield "to nobody"
            await asyncio.Event().wait()
        finally:
            ended.set()

    gateway = asyncio.new_event_loop()
    pieces = bridge.stream(make)

    async def first() -> Piece:
        return await anext(pieces)

    assert gateway.run_until_complete(first()) == "first"
    gateway.close()
    proceed.set()
    assert ended.wait(10)


PROGRAM = """
import asyncio
from qaws.agents.bridge import BRIDGE

async def make():
    try:
        await asyncio.to_thread(int)
        yield "first"
        background.append(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.Event().wait()
    finally:
        print("put in order", flush=True)

async def main():
    pieces.append(BRIDGE.stream(make))
    print(await anext(pieces[0]), flush=True)

background, pieces = [], []
gateway = asyncio.new_event_loop()
gateway.run_until_complete(main())
gateway.close()
"""


def test_a_process_ends_cleanly_with_a_run_in_progress() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("first\nput in order\n", "", 0)


async def test_a_thread_that_cannot_be_started_is_tried_again_with_the_next_run(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "qaws-frameworks":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await taken(bridge.stream(pieces_of))
    assert bridge._loop is None
    assert await taken(bridge.stream(lambda: pieces_of("x"))) == ["x"]


FORKING = """
import asyncio, os, signal, sys
from qaws.agents.bridge import BRIDGE

async def make():
    yield "x"

async def main():
    return [piece async for piece in BRIDGE.stream(make)]

print(asyncio.run(main()), flush=True)
held = BRIDGE._lock.acquire()  # as by a run that another thread begins just now
child = os.fork()
if child == 0:
    signal.alarm(20)
    print("in the child", asyncio.run(main()), flush=True)
    sys.exit()
BRIDGE._lock.release()
_, status = os.waitpid(child, 0)
print("it ended with", status, "and in the parent", asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", FORKING],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == (
        "['x']\nin the child ['x']\nit ended with 0 and in the parent ['x']\n", "", 0
    )  # fmt: skip
