"""The file of a SQLite store as it is read beside a server: which sessions there are, and what was said in them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple

from pydantic_core import from_json

from .database import connect
from .errors import explained
from .interface import StoreError
from .schema import READABLE, event_sum, run_sum, version_of

BATCH = 500  # events that are read at once: no longer does the reader keep the log from being moved into the file


class SessionSummary(NamedTuple):
    """What is known of a session without reading its events. `touched` is the time of its last record, in seconds;
    `unfinished` the number of its unfinished runs, None where that cannot be read."""

    number: int
    owner: str
    session_id: str
    epoch: str
    events: int
    touched: float
    unfinished: int | None
    head: int


class Message(NamedTuple):
    """What a user said: the chat message as UTF-8 JSON, and the run that answers it."""

    run_id: str
    user_id: str
    payload: bytes


class Event(NamedTuple):
    """One event of the log as UTF-8 JSON."""

    seq: int
    payload: bytes


class Damage(NamedTuple):
    """Something that cannot be read, and is left out."""

    what: str


class History:
    """A store that is only read. Use `with open_history(path) as history`.

    Everything can be read without an index: one that is damaged costs time, and nothing that was said.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def sessions(self, owner: str | None = None, session_id: str | None = None) -> list[SessionSummary]:
        """Sessions, of this owner and with this id where they are given; the one that spoke last comes first."""
        with explained(self._path, export=False):
            rows = self._connection.execute(
                "SELECT touched, number, owner, session_id, epoch, first, head FROM sessions NOT INDEXED "
                "WHERE owner = coalesce(?, owner) AND session_id = coalesce(?, session_id)",
                (owner, session_id),
            ).fetchall()
        unfinished = self._unfinished()
        return [
            SessionSummary(
                number,
                name,
                session,
                epoch,
                head - first + 1 if head else 0,
                touched,
                None if unfinished is None else unfinished.get(number, 0),
                head,
            )
            for touched, number, name, session, epoch, first, head in sorted(rows, reverse=True)
        ]

    def _unfinished(self) -> dict[int, int] | None:
        """The number of unfinished runs by session, without those that have none; None: it cannot be read."""
        for table in ("runs", "runs NOT INDEXED"):
            with suppress(sqlite3.DatabaseError):
                return dict(
                    self._connection.execute(f"SELECT session, count(*) FROM {table} WHERE ended = 0 GROUP BY session")
                )
        return None

    def expired(self, before: float) -> list[SessionSummary]:
        """Those that `prune` would delete: nothing unfinished, and no record since `before`."""
        return [one for one in self.sessions() if one.touched < before and one.unfinished == 0]

    def entries(self, session: SessionSummary) -> Iterator[Message | Event | Damage]:
        """The conversation in order: each message before the first event of its run, and those without one at the end.

        What cannot be read is told and left out.
        """
        heard: set[str] = set()
        for event in self._events(session):
            run_id = run_of(event.payload) if isinstance(event, Event) else None
            if run_id is not None and run_id not in heard:
                heard.add(run_id)
                yield from self._messages(session, run_id)
            yield event
        yield from (one for one in self._messages(session) if isinstance(one, Damage) or one.run_id not in heard)

    def _events(self, session: SessionSummary) -> Iterator[Event | Damage]:
        missing: list[int] = []
        for first in range(session.head - session.events + 1, session.head + 1, BATCH):
            seqs = range(first, min(first + BATCH, session.head + 1))
            payloads = self._payloads(session, seqs)
            for seq in seqs:
                payload = payloads.get(seq)
                if payload is None:
                    missing.append(seq)
                    continue
                yield from _damage(missing)
                missing.clear()
                yield Event(seq, payload)
        yield from _damage(missing)

    def _payloads(self, session: SessionSummary, seqs: range) -> dict[int, bytes]:
        """Those of these events that are as they were written."""
        where, arguments = "session = ? AND seq BETWEEN ? AND ?", (session.number, seqs[0], seqs[-1])
        try:
            rows = self._rows("events", "seq, payload, checksum", where, arguments)
        except sqlite3.DatabaseError:
            rows, _ = self._scanned("events", "seq, payload, checksum", where, arguments)
            rows += self._halved(session, seqs)
        return {
            seq: payload
            for seq, payload, checksum in rows
            if isinstance(payload, bytes) and event_sum(seq, payload) == checksum
        }

    def _halved(self, session: SessionSummary, seqs: range) -> list[Any]:
        """The rows of these events by the index: those that can be read are on either side of what cannot."""
        rows: list[Any] = []
        middle = len(seqs) // 2
        for part in (seqs[:middle], seqs[middle:]):
            if not part:
                continue
            try:
                rows += self._rows(
                    "events",
                    "seq, payload, checksum",
                    "session = ? AND seq BETWEEN ? AND ?",
                    (session.number, part[0], part[-1]),
                )
            except sqlite3.DatabaseError:
                rows += self._halved(session, part) if len(part) > 1 else []
        return rows

    def _messages(self, session: SessionSummary, run_id: str | None = None) -> Iterator[Message | Damage]:
        """The message of a run, or without one those of all unfinished runs."""
        where = "session = ? AND " + ("ended = 0" if run_id is None else "run_id = ?")
        arguments = (session.number,) if run_id is None else (session.number, run_id)
        columns, failure = "number, run_id, user_id, message, checksum", None
        try:
            rows = self._rows("runs", columns, where, arguments)
        except sqlite3.DatabaseError:
            rows, failure = self._scanned("runs", columns, where, arguments)
        for _, run, user_id, message, checksum in sorted(rows):
            if isinstance(message, bytes) and run_sum(run, message) == checksum:
                yield Message(run, user_id, message)
            else:
                yield Damage(f"the message of run {run} is damaged")
        if failure is not None and (run_id is None or not rows):
            yield Damage(f"messages cannot be read: {failure}")

    def _rows(self, table: str, columns: str, where: str, arguments: Sequence[object]) -> list[Any]:
        return self._connection.execute(f"SELECT {columns} FROM {table} WHERE {where}", arguments).fetchall()

    def _scanned(
        self, table: str, columns: str, where: str, arguments: Sequence[object]
    ) -> tuple[list[Any], sqlite3.DatabaseError | None]:
        """The rows without an index, from both ends of the table up to what cannot be read; and why it cannot."""
        rows: dict[int, Any] = {}
        failure: sqlite3.DatabaseError | None = None
        for order in ("ASC", "DESC"):
            query = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE {where} ORDER BY rowid {order}"
            try:
                for number, *row in self._connection.execute(query, arguments):
                    rows[number] = row
            except sqlite3.DatabaseError as error:
                failure = error
        return list(rows.values()), failure


@contextmanager
def open_history(path: str) -> Iterator[History]:
    """Read a store, also while a server writes it. Raises StoreError where it is none, or none that can be read."""
    path = os.path.realpath(path)
    if not os.path.isfile(path):
        raise StoreError(f"{path}: there is no such file")
    with explained(path, export=False):
        connection = connect(path, "ro")
    with closing(connection):
        with explained(path, export=False):
            version = version_of(connection, path)
        if version < READABLE:
            raise StoreError(f"{path}: an older qaws has written this file; serve it once to bring it up to date")
        yield History(connection, path)


def _damage(missing: list[int]) -> Iterator[Damage]:
    if len(missing) == 1:
        yield Damage(f"event {missing[0]} is missing or damaged")
    elif missing:
        yield Damage(f"events {missing[0]} to {missing[-1]} are missing or damaged")


def run_of(payload: bytes) -> str | None:
    """The run that an event belongs to."""
    event = from_json(payload)
    for fields in (event, event.get("data")):
        if isinstance(fields, dict) and isinstance(run_id := fields.get("run_id"), str):
            return run_id
    return None
