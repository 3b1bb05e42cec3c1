"""How many of something a key may have: exact sliding windows (R1 to R4), and a budget of frames (F8)."""

from __future__ import annotations

from array import array
from math import inf
from struct import Struct

from ..config import WebSocketConfig

MINUTE = 60.0
SECOND = 1.0
OVERFLOW = "\0overflow"  # no user id and no address has this name
PACKED = 32  # times of a key up to which they are bytes: an array takes twice as much, and is not copied

_TIME = Struct("d")  # packed


class SlidingWindows:
    """Counts what was let in by key, for limits in windows of 60 s and 1 s, which slide with every message.

    Neither looking nor counting takes longer for keys that have many. At most `max_keys` keys are remembered, in about
    150 bytes each (a fifth more for the moment in which room is made), and 8 to 16 bytes for each of the last minute.
    Those silent for a minute make room, within a second of when it is needed; where there is none, every further key
    shares one limit, so that a flood of keys never opens the gate (R2). Times are those of the monotonic clock: a jump
    of the wall clock changes nothing (R3).
    """

    def __init__(self, config: WebSocketConfig) -> None:
        self._config = config
        self._times: dict[str, bytes | array[float]] = {}  # of each key those of the last minute at least, in order
        self._search_at = -inf

    def __len__(self) -> int:
        return len(self._times)

    def wait(self, key: str, mono: float, per_minute: int | None, per_second: int | None) -> float:
        """0.0 where one more stays within both limits, or the seconds after which it will. Counts nothing.

        These are whole milliseconds, and exact: one millisecond earlier is too early. None is no limit.
        """
        held = self._times.get(key)
        if held is None:
            held = None if self._has_room(mono) else self._times.get(OVERFLOW)
            if held is None:
                return 0.0
        size, opens = len(held) // 8 if type(held) is bytes else len(held), -inf
        if per_minute is not None and size >= per_minute:
            opens = _nth_last(held, per_minute) + MINUTE
        if per_second is not None and size >= per_second:
            opens = max(opens, _nth_last(held, per_second) + SECOND)
        return 0.0 if opens <= mono else seconds_until(opens, mono)

    def count(self, key: str, mono: float) -> None:
        """One is let in."""
        held = self._times.get(key)
        if held is None and not self._has_room(mono):
            key, held = OVERFLOW, self._times.get(OVERFLOW)
        times = held if type(held) is array else array("d", held or b"")
        while times and times[len(times) // 2] + MINUTE <= mono:  # half at a time: each time is moved once at most
            del times[: len(times) // 2 + 1]
        times.append(mono)
        self._times[key] = times.tobytes() if len(times) <= PACKED else times

    def _has_room(self, mono: float) -> bool:
        """Whether one more key can be remembered. A full table is searched for silent keys, at most once a second."""
        max_keys = self._config.security.rate_limiting.max_keys
        if len(self._times) < max_keys:
            return True
        if mono < self._search_at:
            return False
        self._search_at = mono + SECOND
        kept = [key for key, times in self._times.items() if _nth_last(times, 1) + MINUTE > mono]
        if len(kept) < len(self._times):
            # Filled anew: a dict that keys were deleted from would grow to twice its size.
            values = [self._times[key] for key in kept]
            self._times.clear()
            self._times.update(zip(kept, values, strict=True))
        return len(kept) < max_keys


def seconds_until(opens: float, now: float) -> float:
    """What a client is told to wait, on any clock: whole milliseconds, the first of them that is not too early."""
    if opens <= now:
        return 0.0
    milliseconds = int((opens - now) * 1000)
    while now + milliseconds / 1000 < opens:  # what the client will be held against, rounding errors included
        milliseconds += 1
    return milliseconds / 1000


def _nth_last(times: bytes | array[float], number: int) -> float:
    last: float = _TIME.unpack_from(times, len(times) - number * 8)[0] if type(times) is bytes else times[-number]
    return last


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
