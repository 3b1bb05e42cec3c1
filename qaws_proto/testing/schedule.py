"""What is going to happen in a simulated world, and when: the soonest first, at one moment in the order of planning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

MICROSECOND = 1e-6  # everything is planned for whole ones, and
GRAIN = 1e-11  # so much later than what was planned before: no figure that is rounded hangs on the last bits of a time


class Plan(NamedTuple):
    """One thing that is going to happen. `what` says so in a few words, for people."""

    at: float
    order: int
    what: str
    act: Callable[[], object]


class Schedule:
    """The plans of a world, and its monotonic clock."""

    def __init__(self, mono: float) -> None:
        self.mono = mono
        self._plans: list[Plan] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def soonest(self) -> float | None:
        """When the next plan is due, in seconds of the monotonic clock."""
        return self._plans[0].at if self._plans else None

    def plan(self, delay: float, what: str, act: Callable[[], object]) -> None:
        """Let something happen in so many seconds."""
        assert delay >= 0, f"{what}: the past cannot be planned"
        self._count += 1
        at = max(self.mono, round((self.mono + delay) / MICROSECOND) * MICROSECOND) + self._count * GRAIN
        heappush(self._plans, Plan(at, self._count, what, act))

    def play(self, what: str, script: Iterator[float]) -> None:
        """Let something happen in several steps: between two of them pass as many seconds as `script` yields."""
        delay = next(script, None)
        if delay is not None:
            self.plan(delay, what, lambda: self.play(what, script))

    def take(self) -> Plan:
        """Take out the next plan."""
        return heappop(self._plans)
