"""A session's log: what was said in it, in order, held within bounds of events and bytes (S1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice


class Log:
    """Payloads numbered from 1 under one `epoch`. Beyond the bounds the oldest go; the newest stays, uncounted."""

    __slots__ = ("_held", "_max_bytes", "_max_events", "_payloads", "epoch", "head", "total")

    def __init__(self, epoch: str, max_events: int, max_bytes: int) -> None:
        self.epoch = epoch
        self.head = 0  # the seq of the newest event
        self.total = 0  # bytes ever appended: the distance of two readers is a subtraction
        self._payloads: deque[bytes] = deque()
        self._held = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    @property
    def held(self) -> int:
        """Bytes held."""
        return self._held

    def append(self, payload: bytes) -> None:
        """Add the event of number `head + 1`."""
        self.head += 1
        self.total += len(payload)
        self._held += len(payload)
        payloads = self._payloads
        payloads.append(payload)
        while len(payloads) > 1 and (len(payloads) > self._max_events or self._held - len(payload) > self._max_bytes):
            self._held -= len(payloads.popleft())

    def holds_after(self, seq: int) -> bool:
        """Whether everything behind `seq` is still here."""
        return seq >= self.head - len(self._payloads)

    def after(self, seq: int) -> Iterator[bytes]:
        """The payloads behind `seq`; ask `holds_after` first."""
        return islice(self._payloads, max(0, len(self._payloads) - (self.head - seq)), None)
