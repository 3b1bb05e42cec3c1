"""What has been said and is not kept yet: with a durable store, nothing is heard before it is saved (C11, D2).

Everything that a turn says goes into one `SaveRecords`; what is said while that is on its way goes into the next one
(group commit). Where saving fails, messages that were to be accepted are refused, and the rest is tried again (D4).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from ..clock import Now, Reason, Timers
from ..config import StoreConfig
from ..effects import Note, SaveRecords
from ..events import dump, parse_server_event
from ..outbox import Outbox
from ..records import EventRecord, Record, RunEnded, RunRecord
from .changes import Changes
from .run import Run
from .session import Session

RECORD = 256  # bytes that a message counts beside its text
NOTE_INTERVAL = 10.0  # seconds between two notes that saving fails, while it does


class Entry(NamedTuple):
    """What is kept together: an event (`payload`), and the message that it accepts or the run that it ends."""

    session: Session
    run: Run | None
    payload: bytes | None  # None where a message without an id is accepted: nobody is told
    shown: int = 0  # characters of the run's answer that have been chunks, with this event
    accepts: bool = False
    ends: str | None = None


class Journal:
    """The entries of a node that wait to be saved, those that are being saved, and the `changes` saved with them."""

    def __init__(self, config: StoreConfig, timers: Timers, outbox: Outbox, changes: Changes) -> None:
        self._config = config
        self._timers = timers
        self._outbox = outbox
        self.changes = changes
        self._waiting: list[Entry] = []
        self._saving: list[Entry] = []
        self._batch = 0  # the number of the one that is being saved, or was last
        self._asked = False  # whether it is being saved
        self._size = 0  # bytes of all of them
        self.failing = False  # the last one failed, and some of it is to be tried again
        self._noted_at = -inf  # when it was last noted that saving fails; -inf: not since something was saved

    @property
    def pending(self) -> bool:
        """Whether something is not saved and can still be hoped to be."""
        return (self._asked or bool(self._waiting) or self.changes.due) and not self.failing

    @property
    def unsaved_bytes(self) -> int:
        """Bytes that wait to be saved, or are being saved."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether messages should be refused: nothing can be kept, or too much waits to be."""
        return self.failing or self._size > self._config.max_unsaved

    def add(self, entry: Entry) -> None:
        """Keep this behind all the others. An event has the `seq` that its session gives next."""
        self._waiting.append(entry)
        self._count(entry, 1)

    def flush(self, now: Now) -> None:
        """Begin to save what waits, unless something is being saved or has just failed."""
        if self._asked or self.failing or not (self._waiting or self.changes.due):
            return
        self._saving, self._waiting = self._waiting, []
        self._batch += 1
        self._asked = True
        records = (*_records(self._saving), *self.changes.take())
        self._outbox.add(SaveRecords(self._batch, records, now.unix))

    def saved(self, batch: int) -> Iterator[Entry]:
        """What may be heard now, one by one; nothing for a batch that is not the one on its way."""
        if batch != self._batch or not self._asked:
            return
        saved, self._saving = self._saving, []
        self._asked = False
        self._noted_at = -inf
        self.changes.saved()
        for entry in saved:
            self._count(entry, -1)
            yield entry

    def failed(self, batch: int, cause: BaseException | None, now: Now) -> list[Run]:
        """The runs whose messages cannot be accepted. The rest is tried again after `store.retry` seconds."""
        if batch != self._batch or not self._asked:
            return []
        self._asked = False
        self.changes.failed()
        entries, self._saving, self._waiting = self._saving + self._waiting, [], []
        refused = {entry.run.id: entry.run for entry in entries if entry.accepts and entry.run is not None}
        seqs: dict[int, int] = {}
        for entry in entries:
            self._count(entry, -1)
            if entry.run is None or entry.run.id not in refused:
                self._waiting.append(_moved(entry, seqs))
        for entry in self._waiting:
            self._count(entry, 1)
        if now.mono >= self._noted_at + NOTE_INTERVAL:
            self._noted_at = now.mono
            self._outbox.add(Note("node", "ERROR", "save_failed", {"batch": batch, "refused": len(refused)}, cause))
        if self._waiting or self.changes.due:
            self.failing = True
            self._timers.set(Reason.STORE, 0, now.mono + self._config.retry)
        return list(refused.values())

    def due(self) -> None:
        """Try again what could not be saved; the next `flush` does."""
        self.failing = False

    def _count(self, entry: Entry, sign: int) -> None:
        size = 0 if entry.payload is None else len(entry.payload)
        entry.session.unsaved += sign * (entry.payload is not None)
        entry.session.unsaved_bytes += sign * size
        if entry.accepts:
            assert entry.run is not None
            size += RECORD + len(entry.run.message.content)
        self._size += sign * size


def _moved(entry: Entry, seqs: dict[int, int]) -> Entry:
    """An entry with the `seq` that it has now that those before it in its session are gone."""
    assert entry.payload is not None, "without one a message is accepted, and those are refused"
    session = entry.session
    seq = seqs[session.number] = seqs.get(session.number, session.log.head) + 1
    event = parse_server_event(entry.payload)
    event.seq = seq  # type: ignore[union-attr]  # what is in a log has one
    return entry._replace(payload=dump(event))


def _records(entries: list[Entry]) -> Iterator[Record]:
    seqs: dict[int, int] = {}
    for session, run, payload, _, accepts, ends in entries:
        epoch = session.log.epoch
        if accepts:
            assert run is not None
            message = run.message
            yield RunRecord(session.owner, session.id, epoch, run.id, run.user_id, message.id, dump(message))
        if payload is not None:
            seq = seqs[session.number] = seqs.get(session.number, session.log.head) + 1
            yield EventRecord(session.owner, session.id, epoch, seq, payload)
        if ends is not None:
            yield RunEnded(ends)
