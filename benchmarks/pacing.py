"""The load generator that keeps a rate: messages go out by the clock, whatever has been answered (open loop).

The wait for an answer counts from the moment at which its message was due. So a server that falls behind is charged for
all that waits meanwhile, and nothing is left out because nobody asked (no coordinated omission). The generator looks at
the clock without a pause, and tells how late its own sends were.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from .load import MESSAGE, WARM_UP, Client, ask, connect, finish, message_frame, obey
from .watching import percentile

LEAD = 0.05  # seconds until the first message is due


@dataclass(frozen=True, slots=True)
class Plan:
    """Connect once with each token; send `rate` messages a second, on one connection after the other."""

    port: int
    tokens: Sequence[str]
    rate: float
    seconds: float
    dialect: str = "websocket"


@dataclass(frozen=True, slots=True)
class Waits:
    """How long answers took, in seconds, and how late the generator itself was."""

    count: int
    middle: float
    most: float  # the 99th percentile
    highest: float
    late: float  # the 99th percentile


def drive(plan: Plan) -> Waits:
    """Carry out a plan in a process of its own. Raises ChildError where the server refuses, errs or stays silent."""
    return Waits(**ask("benchmarks.pacing", plan))


class Pace:
    """What the clients of one rate share."""

    def __init__(self, counts_from: float) -> None:
        self.counts_from = counts_from
        self.waits: list[float] = []
        self.late: list[float] = []


class Paced(Client):
    """A client that sends when it is told to, and knows since when each answer is due."""

    def __init__(self, transport: asyncio.Transport, dialect: str, pace: Pace, failed: asyncio.Future[None]) -> None:
        super().__init__(transport, failed)
        self._frame = message_frame(MESSAGE, dialect)
        self._pace = pace
        self._asked: deque[float] = deque()

    def send(self, due: float, now: float) -> None:
        """Send the message that was due then."""
        self._asked.append(due)
        self.due += 1
        if due >= self._pace.counts_from:
            self._pace.late.append(now - due)
        self._transport.write(self._frame)

    def take(self, frames: int) -> None:
        now = time.perf_counter()
        for _ in range(frames):
            due = self._asked.popleft()
            if due >= self._pace.counts_from:
                self._pace.waits.append(now - due)


async def generate(plan: Plan) -> Waits:
    """Carry out a plan. Raises LoadError."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    transports = await connect(plan.port, plan.tokens, plan.dialect)
    warm_up = min(WARM_UP, plan.seconds)
    began = time.perf_counter() + LEAD
    pace = Pace(began + warm_up)
    clients = [Paced(one, plan.dialect, pace, failed) for one in transports]
    await pour(clients, plan.rate, began, warm_up + plan.seconds, failed)
    await finish(clients, failed)
    return summary(pace)


async def pour(
    clients: Sequence[Paced], rate: float, began: float, seconds: float, failed: asyncio.Future[None]
) -> None:
    """Send by the clock. Sleeping would be late by a millisecond: instead it looks at the clock all the time."""
    number, messages = 0, ceil(rate * seconds) + 1  # the last one is due when the time is over
    while number < messages and not failed.done():
        now = time.perf_counter()
        while number < messages and (due := began + number / rate) <= now:
            clients[number % len(clients)].send(due, now)
            number += 1
        await asyncio.sleep(0)


def summary(pace: Pace) -> Waits:
    """What it was in all."""
    waits, late = sorted(pace.waits), sorted(pace.late)
    return Waits(len(waits), percentile(waits, 50), percentile(waits, 99), waits[-1], percentile(late, 99))


if __name__ == "__main__":
    obey(lambda told: generate(Plan(**told)))
