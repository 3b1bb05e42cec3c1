"""The event loop of tests: time that passes when nothing else is left to do, and never waits for what cannot come."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from qaws.virtual_time import START, TICK, Stuck, VirtualHost, VirtualLoop

DAY = 86_400.0


@contextmanager
def loop_of(patience: float = 10.0) -> Iterator[VirtualLoop]:
    loop = VirtualLoop(patience=patience)
    try:
        yield loop
        loop.abandon()
    finally:
        loop.close()


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with loop_of() as loop:
        yield loop


def test_sleepers_wake_in_order_and_at_their_time(loop: VirtualLoop) -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((name, loop.time() - START.mono))

    async def all_of_them() -> None:
        await asyncio.gather(sleeper("last", 30 * DAY), sleeper("first", 0.25), sleeper("second", DAY))

    loop.finish(all_of_them(), within=31 * DAY)
    assert woken == [("first", 0.25), ("second", DAY), ("last", 30 * DAY)]


def test_time_passes_as_far_as_it_is_told_to(loop: VirtualLoop) -> None:
    task = loop.create_task(asyncio.sleep(10, "slept"))
    loop.settle()
    loop.pass_time(9.5)
    assert (loop.time(), task.done()) == (START.mono + 9.5, False)
    loop.pass_time(0.5)
    assert task.result() == "slept"
    loop.jump(-100)
    assert loop.now() == (START.mono + 10, START.unix - 90)


def test_no_time_is_lost_by_rounding(loop: VirtualLoop) -> None:
    for step in range(1, 300):
        seconds = step * 10.0 ** (step % 9) / 7000
        end = loop.time() + seconds
        loop.pass_time(seconds)
        assert end <= loop.time() < end + 1e-5


def test_a_timer_just_before_the_end_does_not_bring_it_forward(loop: VirtualLoop) -> None:
    loop.call_later(1 - TICK / 2, lambda: None)
    loop.pass_time(1)
    assert loop.time() == START.mono + 1


def test_what_is_late_is_told_where_it_waits(loop: VirtualLoop) -> None:
    async def the_culprit() -> None:
        while True:
            await anyio.sleep(7)

    with pytest.raises(Stuck, match=r"not done in 60 seconds of virtual time(?s:.)*the_culprit"):
        loop.finish(the_culprit(), within=60)
    assert loop.finish(asyncio.sleep(1, "the loop can be used again"), within=60)


def test_where_nothing_is_left_to_happen_it_says_so(loop: VirtualLoop) -> None:
    async def waits_for_nobody() -> None:
        await asyncio.Event().wait()

    task = loop.create_task(waits_for_nobody(), name="my task")
    with pytest.raises(Stuck, match=r"not done(?s:.)*my task waits in (?s:.)*waits_for_nobody"):
        loop.finish(waits_for_nobody(), within=60)
    task.cancel()
    loop.settle()
    with pytest.raises(Stuck, match="nothing is left to happen"):
        loop.run_forever()


@pytest.mark.parametrize("lend", [asyncio.to_thread, anyio.to_thread.run_sync])
def test_time_stands_still_while_a_thread_works(loop: VirtualLoop, lend: object) -> None:
    may_end = threading.Event()
    timer = loop.call_later(0.5, may_end.set)  # where time passed it would end at once

    async def lender() -> bool:
        assert callable(lend)
        return bool(await lend(may_end.wait, 0.05))

    assert loop.finish(lender(), within=60) is False
    assert loop.time() == START.mono
    timer.cancel()


def test_time_passes_while_a_thread_waits_for_the_loop(loop: VirtualLoop) -> None:
    def in_a_thread() -> str:
        anyio.from_thread.run(anyio.sleep, 500)
        return "slept"

    async def lender() -> str:
        return await anyio.to_thread.run_sync(in_a_thread)

    assert loop.finish(lender(), within=1000) == "slept"
    assert loop.time() == START.mono + 500


def test_a_thread_that_brings_nothing_is_given_up() -> None:
    may_end = threading.Event()

    async def lender() -> None:
        await asyncio.to_thread(may_end.wait)

    with loop_of(patience=0.02) as loop:
        with pytest.raises(Stuck, match=r"waited 0.02 seconds of this machine's time for 1 thread(?s:.)*lender"):
            loop.finish(lender(), within=60)
        may_end.set()


def test_time_stands_still_while_a_socket_is_read(loop: VirtualLoop) -> None:
    mine, yours = socket.socketpair()
    mine.setblocking(False)

    async def reader() -> bytes:
        async with asyncio.timeout(0.001):
            return await loop.sock_recv(mine, 10)

    with mine, yours:
        other = threading.Timer(0.05, yours.send, (b"late",))
        other.start()
        assert loop.finish(reader(), within=60) == b"late"
        other.join()
    assert loop.time() == START.mono


def test_what_a_task_of_a_host_raises_is_raised_where_the_loop_is_run(loop: VirtualLoop) -> None:
    async def raises() -> None:
        raise LookupError("mine")

    VirtualHost(loop, lambda: None).spawn(raises)
    with pytest.raises(LookupError, match="mine"):
        loop.finish(asyncio.sleep(60), within=100)


def test_a_timer_is_never_early_and_wakes_once(loop: VirtualLoop) -> None:
    woken: list[float] = []
    host = VirtualHost(loop, lambda: woken.append(loop.time()))
    for step in range(1, 1000):
        deadline = START.mono + step * 0.1
        host.wake_at(deadline + 5)
        host.wake_at(deadline)
        loop.pass_time(0.1)
        assert deadline <= woken[-1] <= loop.time() + 1e-6
        assert len(woken) == step
    host.wake_at(None)


def test_what_ignores_its_cancellation_does_not_hold_up_the_end() -> None:
    async def deaf() -> AsyncIterator[None]:
        while True:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                yield

    async def listen() -> None:
        async for _ in deaf():
            pass

    with loop_of() as loop, pytest.raises(Stuck):
        loop.finish(listen(), within=5)
