"""A store in memory with the manners of a durable one: what a crash leaves, and what it says of it.

What is written is not kept yet: a crash before `sync` loses it, whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..records import EventRecord, Record, RestrictionRecord, RunEnded, RunRecord, StoredSession


class StoreModel:
    """What has been saved. Refuses what no store could keep: a gap, another epoch, a run that ends twice."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, str], str] = {}
        self.events: dict[tuple[str, str], list[bytes]] = {}
        self.runs: dict[str, RunRecord] = {}
        self.ended: set[str] = set()
        self._restrictions: dict[tuple[str, str], RestrictionRecord] = {}
        self._written: tuple[Record, ...] = ()

    def write(self, records: Iterable[Record]) -> None:
        """Take these, to be kept by the next `sync`."""
        assert not self._written, "a write before the last one was synced"
        self._written = tuple(records)

    def sync(self) -> None:
        """Keep what was written: from now on it is there after a crash."""
        written, self._written = self._written, ()
        self.save(written)

    def crash(self) -> bool:
        """Forget what was written and not synced; whether that was anything."""
        lost, self._written = bool(self._written), ()
        return lost

    def save(self, records: Iterable[Record]) -> None:
        """Keep these at once."""
        for record in records:
            if isinstance(record, RestrictionRecord):
                self._restrict(record)
                continue
            if isinstance(record, RunEnded):
                assert record.run_id in self.runs, f"the end of a run that was never kept: {record}"
                assert record.run_id not in self.ended, f"a run ends twice: {record}"
                self.ended.add(record.run_id)
                continue
            name = (record.owner, record.session_id)
            assert self.epochs.setdefault(name, record.epoch) == record.epoch, f"another epoch: {record}"
            events = self.events.setdefault(name, [])
            if isinstance(record, EventRecord):
                assert record.seq == len(events) + 1, f"a gap: {record}"
                events.append(record.payload)
            else:
                assert record.run_id not in self.runs, f"accepted twice: {record}"
                self.runs[record.run_id] = record

    def _restrict(self, record: RestrictionRecord) -> None:
        if record.lifted:
            self._restrictions.pop((record.kind, record.name), None)
        else:
            self._restrictions[record.kind, record.name] = record

    def load(self, owner: str, session_id: str, newest: int = 1000) -> StoredSession | None:
        """What there is of a session."""
        name = (owner, session_id)
        if name not in self.epochs:
            return None
        events = self.events[name]
        own = [run for run in self.runs.values() if (run.owner, run.session_id) == name]
        known = tuple((run.message_id, run.run_id) for run in own if run.message_id is not None)
        unfinished = tuple(run for run in own if run.run_id not in self.ended)
        return StoredSession(
            owner, session_id, self.epochs[name], len(events), tuple(events[-newest:]), known, unfinished
        )

    def unfinished(self) -> tuple[StoredSession, ...]:
        """The sessions with runs that have not ended."""
        names = dict.fromkeys((run.owner, run.session_id) for run in self.runs.values() if run.run_id not in self.ended)
        return tuple(session for name in names if (session := self.load(*name)) is not None)

    def restrictions(self) -> tuple[RestrictionRecord, ...]:
        """Who is kept out, also those whose time is over."""
        return tuple(self._restrictions.values())
