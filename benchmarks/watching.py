"""What is seen of a process from outside (Linux), and what a row of samples says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
HOUR = 3600.0


class Sample(NamedTuple):
    """A server at one moment, and its honest clients in the window before."""

    at: float  # seconds since the beginning
    memory: int  # bytes resident
    descriptors: int
    threads: int
    answers: float  # a second
    median: float  # seconds of an answer; 0 where there was none
    most: float  # seconds: the 99th percentile


def memory_of(pid: int) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def sample(pid: int, at: float, answers: float, median: float, most: float) -> Sample:
    """A sample of a process as it is now."""
    threads = len(os.listdir(f"/proc/{pid}/task"))
    return Sample(at, memory_of(pid), descriptors_of(pid), threads, answers, median, most)


def percentile(ordered: Sequence[float], rank: float) -> float:
    """The smallest value that `rank` percent of the values do not exceed."""
    return ordered[max(0, ceil(len(ordered) * rank / 100) - 1)]


class Slope(NamedTuple):
    """A straight line through samples: how much more an hour, and the standard error of that."""

    an_hour: float
    error: float

    @classmethod
    def of(cls, times: Sequence[float], values: Sequence[float], lags: int) -> Slope:
        """Least squares. Neighbours are alike, so each window of `lags` samples counts as one (batch means)."""
        batches = range(0, len(times) - lags + 1, lags)
        x = [sum(times[at : at + lags]) / lags for at in batches]
        y = [sum(values[at : at + lags]) / lags for at in batches]
        if len(x) < 3:
            raise ValueError("too few samples for a slope")
        middle, level = sum(x) / len(x), sum(y) / len(y)
        spread = sum((one - middle) ** 2 for one in x)
        slope = sum((one - middle) * (value - level) for one, value in zip(x, y, strict=True)) / spread
        left = sum((value - level - slope * (one - middle)) ** 2 for one, value in zip(x, y, strict=True))
        return cls(slope * HOUR, sqrt(left / (len(x) - 2) / spread) * HOUR)

    def grows(self, most: float) -> bool:
        """Whether it rises by more than `most` an hour beyond all doubt (three standard errors)."""
        return self.an_hour - 3 * self.error > most
