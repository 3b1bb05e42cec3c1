"""The table of who is kept out in a SQLite store: of each user, network and token what holds now, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from zlib import crc32

from qaws_proto.records import RestrictionRecord

from .errors import damaged


def write(connection: sqlite3.Connection, records: Iterable[RestrictionRecord]) -> None:
    """Put each in the place of what there is of its name, or away, in the transaction of the caller."""
    for record in records:
        if record.lifted:
            connection.execute("DELETE FROM restrictions WHERE kind = ? AND name = ?", (record.kind, record.name))
        else:
            row = (*record[:-1], _sum(record))
            connection.execute("INSERT OR REPLACE INTO restrictions VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def read(connection: sqlite3.Connection, path: str, unix: float) -> tuple[RestrictionRecord, ...]:
    """Those in force at `unix`, the oldest first. Raises StoreError where one is damaged: it might let somebody in."""
    records = []
    for *fields, checksum in connection.execute(
        'SELECT kind, name, "by", reason, since, until, checksum FROM restrictions '
        "WHERE until IS NULL OR until > ? ORDER BY since, kind, name",
        (unix,),
    ):
        record = RestrictionRecord(*fields)
        if _sum(record) != checksum:
            raise damaged(path, f"who is kept out: {record.kind}")
        records.append(record)
    return tuple(records)


def expire(connection: sqlite3.Connection, before: float) -> int:
    """Delete those whose time was over before `before`; how many."""
    return connection.execute("DELETE FROM restrictions WHERE until < ?", (before,)).rowcount


def _sum(record: RestrictionRecord) -> int:
    """The checksum of a row: of its texts with their lengths, and of its times as they are read back."""
    until = None if record.until is None else float(record.until)
    content = (record.kind, record.name, record.by, record.reason, float(record.since), until)
    return crc32(repr(content).encode())
