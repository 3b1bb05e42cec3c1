"""Nothing is lost and nothing comes twice, however the network between a client and any adapter breaks (C10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import anyio
import pytest

from qaws import QAWebSocketClient
from tests.helpers.proxy import Fault, Plan, foul, proxying

from ..hosts import Adapter, serving

pytestmark = [pytest.mark.anyio, pytest.mark.clause("C10"), pytest.mark.row("S1"), pytest.mark.row("C3")]

CHUNKS = 500
WINDOW = 20  # of them
CUTS = 15  # connections that something happens to
DOWN, UP = 8_000, 250  # bytes within which it happens: of the 150,000 that the answer takes, and of what is asked
LOGIN = 2_000  # bytes: more than it takes to connect, for the first connection has to stand
QUICK: dict[str, Any] = {"backoff_cap": 0.02, "heartbeat": 0.1, "heartbeat_timeout": 0.1, "connect_timeout": 0.5}
SECTIONS: dict[str, Any] = {"agent": {"roll_up": 0}, "limits": {"close_timeout": 0.1, "connections_per_address": 100}}


class Counting:
    """An answer of many pieces that all differ, of which not many are on their way at once: so they travel one by one,
    and not joined into one piece behind the first cut."""

    def __init__(self) -> None:
        self._heard = 0
        self._more = anyio.Event()

    def heard(self, pieces: int) -> None:
        """The client has heard so many."""
        self._heard += pieces
        self._more.set()
        self._more = anyio.Event()

    async def chat(self, message: str) -> AsyncIterator[str]:
        for number in range(CHUNKS):
            while number - self._heard > WINDOW:
                await self._more.wait()
            yield f"{number:03d} "


def bad(connections: int) -> Plan:
    """Something happens to each of the first connections, to the very first once it stands."""
    plan = foul(DOWN, UP, connections=connections)

    def later(number: int, random: Random) -> Fault | None:
        fault = plan(number, random)
        return fault._replace(direction="down", after=LOGIN + fault.after) if fault and number == 1 else fault

    return later


@pytest.mark.parametrize("seed", range(3))
async def test_an_answer_is_whole_wherever_the_connection_is_cut(adapter: Adapter, seed: int) -> None:
    agent, words = Counting(), list[str]()
    async with (
        serving(adapter, agent, **SECTIONS) as node,
        proxying(node.port, seed, bad(CUTS), split=True, delay=True) as proxy,
        QAWebSocketClient(proxy.url(), **QUICK) as client,
    ):
        async for piece in client.chat("?"):
            words += piece.split()
            agent.heard(len(piece.split()))
    times = Counter(words)
    lost = [word for word in (f"{number:03d}" for number in range(CHUNKS)) if word not in times]
    doubled = [word for word, count in times.items() if count > 1]
    print(f"{CHUNKS} chunks, {len(proxy.faults)} faults: lost {len(lost)}, duplicated {len(doubled)}")
    assert (lost, doubled) == ([], []), proxy
    assert words == [f"{number:03d}" for number in range(CHUNKS)], proxy
    assert len(proxy.faults) > CUTS / 2, proxy  # on a slow machine the client gives up a connection before its fault


@pytest.mark.row("M5")
@pytest.mark.parametrize("seed", range(2))
async def test_messages_run_once_each_and_are_answered_wherever_the_connection_is_cut(
    adapter: Adapter, seed: int
) -> None:
    runs: Counter[str] = Counter()
    answers: Counter[str] = Counter()

    async def agent(message: str) -> str:
        runs[message] += 1
        return f"{message} " * 100

    async def ask(number: int) -> None:
        answers[(await client.ask(str(number))).content] += 1

    sections = {**SECTIONS, "sessions": {"queue": 100}}
    async with (
        serving(adapter, agent, **sections) as node,
        proxying(node.port, seed, bad(CUTS), split=True, delay=True) as proxy,
        QAWebSocketClient(proxy.url(), **QUICK) as client,
    ):
        for turn in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(20 * turn, 20 * turn + 20):
                    tasks.start_soon(ask, number)
    print(f"100 messages, {len(proxy.faults)} faults: {runs.total()} runs, {answers.total()} answers")
    assert runs == Counter(str(number) for number in range(100)), proxy
    assert answers == Counter(f"{number} " * 100 for number in range(100)), proxy
    assert len(proxy.faults) > CUTS / 2, proxy  # on a slow machine the client gives up a connection before its fault
