"""Time as a value: `Now`, and `Timers`, the one heap of named deadlines of a node."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import NamedTuple


class Now(NamedTuple):
    """Both clocks, read once a turn by the adapter.

    `mono` is monotonic seconds and drives every deadline; `unix` is wall-clock seconds and decides only
    token verdicts, printed timestamps and the day of budgets (contract C5).
    """

    mono: float
    unix: float


def rounded(seconds: float) -> float:
    """A duration, which is never negative, in whole microseconds; `round(seconds, 6)` takes three times as long."""
    return int(seconds * 1e6 + 0.5) / 1e6


class Reason(Enum):
    """Why a timer was set."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call on every look-up

    HEAD = "the request head is due"
    SCRAPE = "metrics are due that were asked for"
    AUTH = "the first token is due, or the keys to judge one by"
    HEARTBEAT = "silence: ping, or give up"
    MESSAGE = "a message in pieces is due"
    BACKLOG = "frames of an earlier read wait for their turn"
    SLOW = "a blocked writer has to move"
    CLOSE = "the answer to our Close is due"
    LINGER = "the last bytes have had their second"
    TOKEN = "a token is about to expire"
    RUN = "an agent has to move or to end"
    ROLL_UP = "joined chunks are due"
    GIVE_UP = "a cancelled agent has to be given up"
    SESSION = "a session has outlived its time"
    STORE = "what could not be saved is tried again"
    KEYS = "the keys of tokens are read again"
    DRAIN = "a drain goes on"
    CONNECT = "a connection has to stand"
    RECONNECT = "it is time to connect again"
    RESUME = "it is time to ask for a session again"
    RESEND = "it is time to send again what was refused"


Owner = int | str  # a connection's number, or the id of a session or run
_Name = tuple[Reason, Owner]
_Entry = tuple[float, int, _Name]  # the deadline, how many were set until then, and what is due


class Timers:
    """Named deadlines in seconds of the monotonic clock, the soonest first.

    A name is a reason and its owner. Setting a name again moves it. Reading `soonest` changes nothing.
    Moving and clearing leave a stale entry in the heap; entries are dropped when they reach the top, or all
    at once when more than half of the heap is stale, so the heap stays within twice the live timers.
    """

    __slots__ = ("_count", "_due", "_heap", "_stale")

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._due: dict[_Name, _Entry] = {}  # the live ones of the heap
        self._count = 0  # of all that were ever set
        self._stale = 0  # entries of the heap that are not live

    def __len__(self) -> int:
        return len(self._due)

    @property
    def soonest(self) -> float | None:
        """The earliest deadline, or None."""
        return self._heap[0][0] if self._heap else None

    def set(self, reason: Reason, owner: Owner, at: float) -> None:
        """Set or move the deadline `(reason, owner)` to `at`."""
        self._count += 1
        name = (reason, owner)
        entry = (at, self._count, name)
        heappush(self._heap, entry)
        moved = self._due.get(name)
        self._due[name] = entry
        if moved is not None:
            self._end(moved)

    def at(self, reason: Reason, owner: Owner) -> float | None:
        """The deadline of that name, or None where it is not set."""
        due = self._due.get((reason, owner))
        return None if due is None else due[0]

    def clear(self, reason: Reason, owner: Owner) -> None:
        """Forget the deadline; nothing happens where there is none."""
        cleared = self._due.pop((reason, owner), None)
        if cleared is not None:
            self._end(cleared)

    def clear_all(self, reasons: Iterable[Reason], owner: Owner) -> None:
        """Forget the deadlines that the owner has for these reasons."""
        due = self._due
        for reason in reasons:
            if due.pop((reason, owner), None) is not None:
                self._stale += 1
        self._settle()

    def pop_due(self, mono: float) -> tuple[Reason, Owner] | None:
        """Take out the next name whose deadline has come, or None."""
        if not self._heap or self._heap[0][0] > mono:
            return None
        _, _, name = heappop(self._heap)
        del self._due[name]
        self._settle()
        return name

    def _end(self, entry: _Entry) -> None:
        """An entry is not live any more."""
        self._stale += 1
        # Not `is`: compiled, a tuple may be another each time.
        if entry == self._heap[0] or (self._stale > 32 and self._stale > len(self._due)):
            self._settle()

    def _settle(self) -> None:
        """Keep the top of the heap live, and the heap within twice its live entries."""
        heap, due = self._heap, self._due
        while heap and due.get(heap[0][2]) != heap[0]:
            heappop(heap)
            self._stale -= 1
        if self._stale > 32 and self._stale > len(due):
            heap[:] = due.values()
            heapify(heap)
            self._stale = 0
