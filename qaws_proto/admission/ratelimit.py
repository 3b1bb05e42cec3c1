"""How many messages a user or address may send: exact sliding windows (R1 to R4), and a budget of frames (F8)."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from math import inf
from struct import Struct

from ..config import RateLimitingConfig

MINUTE = 60.0
SECOND = 1.0
OVERFLOW = "\0overflow"  # no user id and no address has this name

_LAST = Struct("d")  # the packed times end in it


class RateLimiter:
    """Counts accepted messages by key in windows of 60 s and 1 s, which slide with every message.

    At most `max_keys` keys are remembered, in about 150 bytes each (a fifth more for the moment in which room is made),
    and 8 bytes for each message of their last minute. Those silent for a minute make room, within a second of when it
    is needed; where there is none, every further key shares one limit, so that a flood of keys never opens the gate
    (R2). Only `now.mono` is read: a jump of the wall clock changes nothing (R3).
    """

    def __init__(self, config: RateLimitingConfig) -> None:
        self._max_keys = config.max_keys
        self.configure(config)
        self._times: dict[str, bytes] = {}  # of each key the times in the last minute, in order, packed
        self._search_at = -inf

    def __len__(self) -> int:
        return len(self._times)

    def configure(self, config: RateLimitingConfig) -> None:
        """Hold every key to these limits from now on, those that are counted already as well."""
        self._per_minute = config.requests_per_minute
        self._per_second = config.burst_size

    def admit(self, key: str, mono: float) -> float:
        """0.0 and the message is counted, or the seconds after which one will be let in (then nothing is counted).

        These are whole milliseconds, and exact: one millisecond earlier is too early.
        """
        held = self._times.get(key)
        if held is None and not self._has_room(mono):
            key = OVERFLOW
            held = self._times.get(key)
        times = array("d", held or b"")
        del times[: bisect_right(times, mono - MINUTE)]
        opens = self._opens(times)
        if opens <= mono:
            times.append(mono)
            self._times[key] = times.tobytes()
            return 0.0
        milliseconds = int((opens - mono) * 1000)
        while mono + milliseconds / 1000 < opens:  # what the client will be held against, rounding errors included
            milliseconds += 1
        return milliseconds / 1000

    def _opens(self, times: array[float]) -> float:
        """When both windows have room."""
        opens = -inf
        if len(times) >= self._per_minute:
            opens = times[-self._per_minute] + MINUTE
        if len(times) >= self._per_second:
            opens = max(opens, times[-self._per_second] + SECOND)
        return opens

    def _has_room(self, mono: float) -> bool:
        """Whether one more key can be remembered. A full table is searched for silent keys, at most once a second."""
        if len(self._times) < self._max_keys:
            return True
        if mono < self._search_at:
            return False
        self._search_at = mono + SECOND
        silent_since = mono - MINUTE
        kept = [key for key, times in self._times.items() if _LAST.unpack(times[-8:])[0] > silent_since]
        if len(kept) < len(self._times):
            # Filled anew: a dict that keys were deleted from would grow to twice its size.
            values = [self._times[key] for key in kept]
            self._times.clear()
            self._times.update(zip(kept, values, strict=True))
        return len(kept) < self._max_keys


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


class Seldom:
    """Lets through one of a key in `interval` seconds, and none of further keys while it holds `max_keys`."""

    __slots__ = ("_interval", "_last", "_max_keys")

    def __init__(self, interval: float, max_keys: int) -> None:
        self._interval = interval
        self._max_keys = max_keys
        self._last: dict[str, float] = {}  # the longest ago first

    def admit(self, key: str, mono: float) -> bool:
        """Whether this one passes."""
        while self._last and next(iter(self._last.values())) <= mono - self._interval:
            del self._last[next(iter(self._last))]
        if key in self._last or len(self._last) >= self._max_keys:
            return False
        self._last[key] = mono
        return True
