"""Store files on a real disk, records for them, and what can be done to them: what the tests of stores stand on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from qaws import WebSocketConfig
from qaws.stores.sqlite import SqliteStore
from qaws_proto.records import EventRecord, Record, RunEnded, RunRecord

NOBODY = 65534
NOW = 1_800_000_000.0  # seconds; the time of records unless a test says otherwise
DAY = 86_400.0


def config(path: Path | str, *, sessions: dict[str, Any] | None = None, **store: Any) -> WebSocketConfig:
    """A configuration with a SQLite store."""
    return WebSocketConfig.model_validate(
        {
            "security": {"authentication": {"enabled": False}},
            "store": {"kind": "sqlite", "path": str(path), **store},
            "sessions": sessions or {},
        }
    )


@asynccontextmanager
async def stored(path: Path | str, *, now: float = NOW, **settings: Any) -> AsyncIterator[SqliteStore]:
    """An open store."""
    store = SqliteStore(config(path, **settings), clock=lambda: now)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def event(seq: int, payload: bytes | None = None, *, owner: str = "u", session: str = "s", epoch: str = "e") -> Record:
    """One event of a session."""
    return EventRecord(owner, session, epoch, seq, b'{"seq":%d}' % seq if payload is None else payload)


def run(
    run_id: str, message_id: str | None = None, *, owner: str = "u", session: str = "s", epoch: str = "e"
) -> RunRecord:
    """A message of a session."""
    message = b'{"type":"chat_message","content":"%s"}' % run_id.encode()
    return RunRecord(owner, session, epoch, run_id, owner, message_id, message)


def answered(run_id: str, seq: int, *, session: str = "s") -> Sequence[Record]:
    """A message, and its end in one event."""
    return (run(run_id, session=session), event(seq, session=session), RunEnded(run_id))


def payloads(seqs: Sequence[int]) -> tuple[bytes, ...]:
    """Those of `event` for these numbers."""
    return tuple(b'{"seq":%d}' % seq for seq in seqs)


@contextmanager
def opened(path: Path | str) -> Iterator[sqlite3.Connection]:
    """The file in SQLite's own hands, as another program has it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def content(folder: Path) -> dict[str, bytes]:
    """Every byte of every database in a folder, its log too; a reader may leave an empty one."""
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith((".db", ".db-wal"))}
    return {name: data for name, data in files.items() if data}


@contextmanager
def without_privileges() -> Iterator[Path]:
    """A folder that others may look into, within a process that is not root: permissions count."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def drop_privileges() -> None:
    """From here to the end of `without_privileges`."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
