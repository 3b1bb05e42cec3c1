"""The tables of a SQLite store: the migrations that make them, what a file has to be to be used, the sums of its rows.

A session is a row of `sessions`, its events are numbered from `first` to `head` without a hole. A run is unfinished
until it has `ended`; its message stays, since one without an id is in no event. A row of `restrictions` is somebody who
is kept out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

from .errors import damaged
from .interface import StoreError

APPLICATION_ID = int.from_bytes(b"qaws", "big")  # in the head of the file: whose database it is

#: Statements by the version they lead from, counted from 0. Ones that were released are never changed.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE sessions (
            number INTEGER PRIMARY KEY,
            owner TEXT NOT NULL,
            session_id TEXT NOT NULL,
            epoch TEXT NOT NULL,
            first INTEGER NOT NULL DEFAULT 0,
            head INTEGER NOT NULL DEFAULT 0,
            touched REAL NOT NULL,
            UNIQUE (owner, session_id)
        )""",
        "CREATE INDEX sessions_by_time ON sessions (touched)",
        # An index beside the table, because rows come in the order of time: in one tree by session and seq a batch of
        # many sessions would change as many pages.
        """CREATE TABLE events (
            session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            payload BLOB NOT NULL,
            checksum INTEGER NOT NULL,
            UNIQUE (session, seq)
        )""",
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY,
            session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
            run_id TEXT NOT NULL UNIQUE,
            user_id TEXT NOT NULL,
            message_id TEXT,
            message BLOB NOT NULL,
            checksum INTEGER NOT NULL,
            ended INTEGER NOT NULL DEFAULT 0
        )""",
        "CREATE INDEX runs_by_session ON runs (session)",
        "CREATE INDEX runs_known ON runs (session) WHERE message_id IS NOT NULL",
        "CREATE INDEX runs_unfinished ON runs (session) WHERE ended = 0",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    ),
    (
        """CREATE TABLE restrictions (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            "by" TEXT NOT NULL,
            reason TEXT NOT NULL,
            since REAL NOT NULL,
            until REAL,
            checksum INTEGER NOT NULL,
            PRIMARY KEY (kind, name)
        ) WITHOUT ROWID""",
    ),
)
READABLE = 1  # the oldest version that has its sessions where those of the newest are


def event_sum(seq: int, payload: bytes) -> int:
    """The checksum of an event's row."""
    return crc32(payload, seq & 0xFFFFFFFF)


def run_sum(run_id: str, message: bytes) -> int:
    """The checksum of a run's row."""
    return crc32(message, crc32(run_id.encode()))


def version_of(connection: sqlite3.Connection, path: str, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """The version of a store's file, 0 for one with nothing in it; raises StoreError where it is not ours to use."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID:
        if application or version or tables:
            raise StoreError(
                f"{path}: this database is another program's; nothing was changed. Give `store.path` another name"
            )
        return 0
    if version > len(migrations):
        raise StoreError(
            f"{path}: a newer qaws has written this database (version {version}, this one knows {len(migrations)}); "
            "nothing was changed. Install that qaws again, or give `store.path` another name"
        )
    return int(version)


def check_pages(connection: sqlite3.Connection, path: str) -> None:
    """Read the whole file; raises StoreError where a page is damaged (D5)."""
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise damaged(path, " ".join(str(finding).split()))


def migrate(connection: sqlite3.Connection, version: int, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the tables from `version` to the newest, each step whole or not at all."""
    for number, statements in enumerate(migrations[version:], start=version + 1):
        with transaction(connection):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written within it, or nothing where it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors, such as a full disk, have ended it already
            connection.execute("ROLLBACK")
        raise
