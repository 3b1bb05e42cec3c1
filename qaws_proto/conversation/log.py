"""A session's log: what was said in it, in order, held within bounds of events and bytes (S1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ..events import AgentChunk, dump, is_chunk


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

    @property
    def floor(self) -> int:
        """The seq behind which everything is held."""
        return self.head - len(self._payloads)

    def append(self, payload: bytes) -> int:
        """Add the event of number `head + 1`. Gives by how many bytes more is held, which may be negative."""
        size, before, payloads = len(payload), self._held, self._payloads
        self.head += 1
        self.total += size
        payloads.append(payload)
        held = before  # of those before it: the newest is not counted
        while (held > self._max_bytes or len(payloads) > self._max_events) and len(payloads) > 1:
            held -= len(payloads.popleft())
        self._held = held + size
        return self._held - before

    def restore(self, epoch: str, head: int, payloads: Sequence[bytes]) -> None:
        """Take over what a store has: the newest events, up to `head`."""
        self.epoch, self.head = epoch, head - len(payloads)
        for payload in payloads:
            self.append(payload)

    def trim(self, seq: int) -> None:
        """Let go of everything up to `seq`."""
        while self._payloads and self.floor < seq:
            self._held -= len(self._payloads.popleft())

    def shrink(self, size: int) -> None:
        """Let go of at least `size` bytes of the oldest events, but not of the newest event."""
        bound = self._held - size
        while len(self._payloads) > 1 and self._held > bound:
            self._held -= len(self._payloads.popleft())

    def holds_after(self, seq: int) -> bool:
        """Whether everything behind `seq` is still here."""
        return self.floor <= seq <= self.head

    def after(self, seq: int) -> Iterator[bytes]:
        """The payloads behind `seq`; ask `holds_after` first."""
        return islice(self._payloads, max(0, len(self._payloads) - (self.head - seq)), None)


def joined(payloads: Iterable[bytes]) -> list[bytes]:
    """The same events with chunks of a run that follow each other as one, which has the `seq` of the last of them.

    Chunks of runs that speak at the same time stay apart: who has heard up to an event has to hold all before it.
    """
    out: list[bytes] = []
    chunks: list[AgentChunk] = []  # of one run, each behind the other
    for payload in payloads:
        chunk = AgentChunk.model_validate_json(payload) if is_chunk(payload) else None
        if chunks and (chunk is None or chunk.run_id != chunks[0].run_id):
            out.append(_join(chunks))
            chunks = []
        if chunk is None:
            out.append(payload)
        else:
            chunks.append(chunk)
    return [*out, _join(chunks)] if chunks else out


def _join(chunks: list[AgentChunk]) -> bytes:
    first, last = chunks[0], chunks[-1]
    content = "".join(chunk.content for chunk in chunks)
    return dump(last.model_copy(update={"content": content, "offset": first.offset}))
