"""How many messages a user or address may send: exact sliding windows (R1 to R4), and a budget of frames (F8)."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from ..config import RateLimitingConfig

MINUTE = 60.0
SECOND = 1.0
OVERFLOW = "\0overflow"  # no user id and no address has this name


class RateLimiter:
    """Counts accepted messages by key in windows of 60 s and 1 s, which slide with every message.

    At most `max_keys` keys are remembered. Those silent for a minute make room; where there is none, every further key
    shares one limit, so that a flood of keys never opens the gate (R2). Only `now.mono` is read: a jump of the wall
    clock changes nothing (R3).
    """

    def __init__(self, config: RateLimitingConfig) -> None:
        self._per_minute = config.requests_per_minute
        self._per_second = config.burst_size
        self._max_keys = config.max_keys
        # The one time of a key that spoke once in its minute, or its times in order. The least recent key comes first.
        self._times: dict[str, float | array[float]] = {}

    def __len__(self) -> int:
        return len(self._times)

    def admit(self, key: str, mono: float) -> float:
        """0.0 and the message is counted, or the exact seconds after which one would be let in (nothing is counted)."""
        times = self._times.pop(key, None)
        if times is None:
            key = self._room_for(key, mono)
            times = self._times.pop(key, None)
        if times is None:
            self._times[key] = mono
            return 0.0
        if isinstance(times, float):
            times = array("d", (times,))
        del times[: bisect_right(times, mono - MINUTE)]
        self._times[key] = times
        wait = self._wait(times, mono)
        if wait == 0.0:
            times.append(mono)
        return wait

    def _wait(self, times: array[float], mono: float) -> float:
        wait = 0.0
        if len(times) >= self._per_minute:
            wait = times[-self._per_minute] + MINUTE - mono
        if len(times) >= self._per_second:
            wait = max(wait, times[-self._per_second] + SECOND - mono)
        return wait

    def _room_for(self, key: str, mono: float) -> str:
        """The key itself, or the shared one where the table is full of keys that spoke within the minute."""
        while len(self._times) >= self._max_keys:
            oldest = next(iter(self._times))
            times = self._times[oldest]
            if (times if isinstance(times, float) else times[-1]) > mono - MINUTE:
                return OVERFLOW
            del self._times[oldest]
        return key


class FrameBudget:
    """A token bucket for one connection: `rate` frames a second, `burst` at once (F8). State is two numbers."""

    __slots__ = ("_at", "_spent")

    def __init__(self) -> None:
        self._spent = 0.0
        self._at = 0.0

    def charge(self, frames: int, mono: float, rate: int, burst: int) -> bool:
        """Take `frames`; False where that is more than there is."""
        self._spent = max(0.0, self._spent - (mono - self._at) * rate) + frames
        self._at = mono
        return self._spent <= burst
