"""The file of a SQLite store while it is open for writing. Everything here blocks: `sqlite.py` calls it in a thread."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from secrets import token_hex
from threading import Lock
from typing import Literal
from urllib.parse import quote

from qaws_proto.config import SessionsConfig
from qaws_proto.records import EventRecord, Record, RestrictionRecord, RunEnded, RunRecord, StoredSession

from . import restrictions
from .errors import damaged, explained
from .file_lock import FileLock
from .interface import StoreError
from .schema import MIGRATIONS, check_pages, event_sum, migrate, run_sum, transaction, version_of

BUSY = 1.0  # seconds to wait for another program that writes to the file, against all advice
LOG_SIZE = 64 * 1024 * 1024  # bytes of the write-ahead log that are kept once a long reader has let it grow

Synchronous = Literal["full", "normal"]


class Database:
    """An open store, locked against every other process. Methods raise StoreError, and then have changed nothing."""

    def __init__(
        self, path: str, synchronous: Synchronous = "full", *, migrations: Sequence[Sequence[str]] = MIGRATIONS
    ) -> None:
        """Open the file, or make it. Raises StoreError, with nothing changed, where it cannot be used (D5)."""
        self.path = os.path.realpath(path)  # of a file with two names there is one lock
        _check_place(self.path)
        self._alone = Lock()  # one thread at a time, also where the wait for one was given up
        self._connection: sqlite3.Connection | None = None
        with explained(self.path):
            self._lock = FileLock(self.path)
            try:
                self._open(synchronous, migrations)
            except BaseException:
                self._let_go()
                raise

    def _open(self, synchronous: Synchronous, migrations: Sequence[Sequence[str]]) -> None:
        with suppress(FileExistsError):  # its log and index files take its mode from it
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        version = examine(self.path, migrations)
        connection = self._connection = connect(self.path, "rw")
        with transaction(connection):
            pass  # where it may only be read, this is what says so
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self.path}: its file system cannot share memory between programs; take a local one")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_SIZE}")
        migrate(connection, version, migrations)
        self._begin(connection, synchronous)

    def _begin(self, connection: sqlite3.Connection, synchronous: Synchronous) -> None:
        """Note that the file is in use, and how. Where the last use was `normal` and had no end, clients may have seen
        events that are gone: then every session gets a new epoch (D3)."""
        probe = token_hex(8)
        with transaction(connection):
            last = connection.execute("SELECT value FROM meta WHERE key = 'in_use'").fetchone()
            if last == ("normal",):
                connection.execute("UPDATE sessions SET epoch = lower(hex(randomblob(16)))")
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (("in_use", synchronous), ("probe", probe))
            )
        with closing(connect(self.path, "ro")) as reader:  # which has no page of it in memory
            if reader.execute("SELECT value FROM meta WHERE key = 'probe'").fetchone() != (probe,):
                raise damaged(self.path, "what is written is not what is read")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    def close(self) -> None:
        """Write what is in the log into the file, and let others have it. Closing twice is closing once."""
        with self._alone, explained(self.path):
            connection = self._connection
            if connection is None:
                return
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("DELETE FROM meta WHERE key = 'in_use'")
            finally:
                self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        finally:
            self._lock.release()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path}: the store is closed")
        return self._connection

    # ── saving ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, records: Sequence[Record], unix: float) -> None:
        """Keep these records behind those before, all or none."""
        with self._alone, explained(self.path):
            connection = self._opened()
            with transaction(connection):
                self._write(connection, records, unix)

    def _write(self, connection: sqlite3.Connection, records: Sequence[Record], unix: float) -> None:
        sessions: dict[tuple[str, str], _Head] = {}
        events: list[tuple[int, int, bytes, int]] = []
        runs: list[tuple[int, str, str, str | None, bytes, int]] = []
        ended: list[tuple[str]] = []
        changes: list[RestrictionRecord] = []
        for record in records:
            if isinstance(record, RunEnded):
                ended.append((record.run_id,))
                continue
            if isinstance(record, RestrictionRecord):
                changes.append(record)
                continue
            key = (record.owner, record.session_id)
            head = sessions.get(key)
            if head is None:
                head = sessions[key] = self._head(connection, record, unix)
            if isinstance(record, EventRecord):
                head.append(record, self.path)
                events.append((head.number, record.seq, record.payload, event_sum(record.seq, record.payload)))
            else:
                checksum = run_sum(record.run_id, record.message)
                run = (head.number, record.run_id, record.user_id, record.message_id, record.message, checksum)
                runs.append(run)
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", events)
        connection.executemany(
            "INSERT INTO runs (session, run_id, user_id, message_id, message, checksum) VALUES (?, ?, ?, ?, ?, ?)", runs
        )
        if ended:
            found = connection.executemany("UPDATE runs SET ended = 1 WHERE run_id = ?", ended).rowcount
            if found != len(ended):
                raise StoreError(f"{self.path}: a run ended that was never begun")
        restrictions.write(connection, changes)
        connection.executemany(
            "UPDATE sessions SET first = ?, head = ?, touched = ? WHERE number = ?",
            [(head.first, head.seq, unix, head.number) for head in sessions.values()],
        )

    def _head(self, connection: sqlite3.Connection, record: EventRecord | RunRecord, unix: float) -> _Head:
        """Where the session of a record is, made where there is none."""
        row = connection.execute(
            "SELECT number, epoch, first, head FROM sessions WHERE owner = ? AND session_id = ?",
            (record.owner, record.session_id),
        ).fetchone()
        if row is None:
            number = connection.execute(
                "INSERT INTO sessions (owner, session_id, epoch, touched) VALUES (?, ?, ?, ?)",
                (record.owner, record.session_id, record.epoch, unix),
            ).lastrowid
            assert number is not None
            return _Head(number, 0, 0)
        number, epoch, first, seq = row
        if epoch != record.epoch:
            raise StoreError(f"{self.path}: a record has another epoch than its session")
        return _Head(number, first, seq)

    # ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self, owner: str, session_id: str, bounds: SessionsConfig) -> StoredSession | None:
        """The newest of a session, within the bounds; None where there is no such one."""
        with self._alone, explained(self.path):
            connection = self._opened()
            row = connection.execute(f"{_SESSIONS} WHERE owner = ? AND session_id = ?", (owner, session_id)).fetchone()
            return None if row is None else self._stored(connection, bounds, *row)

    def unfinished(self, bounds: SessionsConfig) -> tuple[StoredSession, ...]:
        """The same of every session with runs that have not ended."""
        with self._alone, explained(self.path):
            connection = self._opened()
            rows = connection.execute(f"{_SESSIONS} WHERE number IN (SELECT session FROM runs WHERE ended = 0)")
            return tuple(self._stored(connection, bounds, *row) for row in rows.fetchall())

    def restrictions(self, unix: float) -> tuple[RestrictionRecord, ...]:
        """Who is kept out at `unix`."""
        with self._alone, explained(self.path):
            return restrictions.read(self._opened(), self.path, unix)

    def _stored(
        self,
        connection: sqlite3.Connection,
        bounds: SessionsConfig,
        number: int,
        owner: str,
        session_id: str,
        epoch: str,
        first: int,
        head: int,
    ) -> StoredSession:
        payloads = self._newest(connection, bounds, number, first, head)
        known = connection.execute(
            "SELECT message_id, run_id FROM runs WHERE session = ? AND message_id IS NOT NULL "
            "ORDER BY number DESC LIMIT ?",
            (number, bounds.known_ids),
        ).fetchall()
        unfinished: list[RunRecord] = []
        for run_id, user_id, message_id, message, checksum in connection.execute(
            "SELECT run_id, user_id, message_id, message, checksum FROM runs WHERE session = ? AND ended = 0 "
            "ORDER BY number",
            (number,),
        ):
            if not isinstance(message, bytes) or run_sum(run_id, message) != checksum:
                raise damaged(self.path, f"the message of run {run_id}")
            unfinished.append(RunRecord(owner, session_id, epoch, run_id, user_id, message_id, message))
        return StoredSession(owner, session_id, epoch, head, payloads, tuple(known[::-1]), tuple(unfinished))

    def _newest(
        self, connection: sqlite3.Connection, bounds: SessionsConfig, number: int, first: int, head: int
    ) -> tuple[bytes, ...]:
        """The newest events that fit: the last one whatever its size, the others up to `max_bytes`."""
        payloads: list[bytes] = []
        expected, room = head, bounds.max_bytes
        for seq, payload, checksum in connection.execute(
            "SELECT seq, payload, checksum FROM events WHERE session = ? ORDER BY seq DESC LIMIT ?",
            (number, bounds.max_events),
        ):
            if seq != expected or not isinstance(payload, bytes) or event_sum(seq, payload) != checksum:
                raise damaged(self.path, f"event {expected} of session number {number}")
            if payloads:
                room -= len(payload)
                if room < 0:
                    break
            payloads.append(payload)
            expected -= 1
        else:
            if head and len(payloads) < min(bounds.max_events, head - first + 1):
                raise damaged(self.path, f"event {expected} of session number {number}")
        return tuple(payloads[::-1])

    # ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────

    def expire(self, before: float, limit: int) -> int:
        """Delete sessions without a record since `before`, the oldest `limit` of them; how many. None with unfinished
        runs. What they took is used again, and given back by `compact` alone."""
        with self._alone, explained(self.path):
            connection = self._opened()
            with transaction(connection):
                return connection.execute(
                    "DELETE FROM sessions WHERE number IN (SELECT number FROM sessions WHERE touched < ? "
                    "AND number NOT IN (SELECT session FROM runs WHERE ended = 0) ORDER BY touched LIMIT ?)",
                    (before, limit),
                ).rowcount

    def expire_restrictions(self, before: float) -> int:
        """Delete restrictions whose time was over before `before`; how many."""
        with self._alone, explained(self.path):
            return restrictions.expire(self._opened(), before)

    def compact(self) -> None:
        """Write the file anew without the room of what was deleted. Takes as much room again while it does."""
        with self._alone, explained(self.path):
            self._opened().execute("VACUUM")


_SESSIONS = "SELECT number, owner, session_id, epoch, first, head FROM sessions"


class _Head:
    """Where a session is while a batch is written."""

    __slots__ = ("first", "number", "seq")

    def __init__(self, number: int, first: int, seq: int) -> None:
        self.number, self.first, self.seq = number, first, seq

    def append(self, record: EventRecord, path: str) -> None:
        """Go on to the next event. The first that there is may have any number: those before it may be deleted."""
        if self.seq and record.seq != self.seq + 1:
            raise StoreError(f"{path}: event {record.seq} came behind event {self.seq} of its session")
        self.first, self.seq = self.first or record.seq, record.seq


def examine(path: str, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """Read the whole file: the version of its tables. Raises StoreError where it cannot be used (D5).

    The connection is one that only reads: the end of any other would move the write-ahead log into the file.
    """
    with explained(path), closing(connect(path, "ro")) as reader:
        version = version_of(reader, path, migrations)
        check_pages(reader, path)
    return version


def check(path: str) -> None:
    """Raise StoreError where a store could not be opened, though another process may have it open right now."""
    path = os.path.realpath(path)
    _check_place(path)
    if os.path.exists(path):
        examine(path)
    elif not os.access(os.path.dirname(path), os.W_OK, effective_ids=True):
        raise StoreError(f"{path}: no file can be made in its directory; see to the permissions")


def connect(path: str, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
    """A connection without transactions of its own making, for any thread."""
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY, check_same_thread=False
    )


def _check_place(path: str) -> None:
    """Raise StoreError where there can be no file of this name."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise StoreError(f"{path}: there is no directory {folder}; make it, or mend `store.path`")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreError(f"{path}: this is no file; give `store.path` the name of one")
