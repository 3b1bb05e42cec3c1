"""Sessions in a SQLite file: one connection, one thread at a time, one transaction for each batch of records.

A batch is one commit, however many sessions speak in it (group commit). Nothing here is specific to an event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

from qaws_proto.config import WebSocketConfig
from qaws_proto.records import Record, RestrictionRecord, StoredSession

from ..telemetry import log_event
from .database import Database
from .interface import StoreError

LOGGER = logging.getLogger("qaws.node")

DAY = 86_400.0  # seconds
EXPIRY_INTERVAL = 3600.0  # seconds between two looks for sessions that are over `store.retention_days` old
EXPIRY_BATCH = 100  # sessions deleted at once: a save waits for that long

Result = TypeVar("Result")


class SqliteStore:
    """The store of `store.kind: sqlite`. Runs on asyncio, uvloop and trio; for one process."""

    def __init__(self, config: WebSocketConfig, *, clock: Callable[[], float] = time.time) -> None:
        """Settings are those of `store` and the bounds of `sessions`. `clock` is asked for the time on opening.

        Raises StoreError where `store.path` is not set.
        """
        if config.store.path is None:
            raise StoreError('store.path: the sqlite store needs a file, such as path: "qaws.db"')
        self._path = config.store.path
        self._config = config.store
        self._bounds = config.sessions
        self._clock = clock
        self._database: Database | None = None
        self._threads = anyio.CapacityLimiter(1)
        self._expiry_due = 0.0  # by the time of the records

    async def open(self) -> tuple[StoredSession, ...]:
        """Open the file, or make it, and delete what is too old. Reads the whole file once, to see that it is sound.

        Raises StoreError where it cannot be used: nothing is changed then, and nothing is ever deleted because of it.
        """
        return await self._in_thread(self._open)

    async def restrictions(self) -> tuple[RestrictionRecord, ...]:
        """Who is kept out now, by the wall clock. Raises StoreError where one of them is damaged."""
        return await self._in_thread(lambda: self._opened().restrictions(self._clock()))

    async def save(self, records: Sequence[Record], unix: float) -> None:
        """Keep these records, all or none. Raises StoreError where none are kept. Once begun it is not cancelled."""
        await self._in_thread(self._save, records, unix)

    async def load(self, owner: str, session_id: str) -> StoredSession | None:
        """The newest of a session; None where there is none. Raises StoreError where something of it is damaged."""
        return await self._in_thread(lambda: self._opened().load(owner, session_id, self._bounds))

    async def aclose(self) -> None:
        """Close the file, behind the last save. Closing twice is closing once."""
        if self._database is not None:
            await self._in_thread(self._database.close)

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        # What was begun is not given up when the task is cancelled: it is answered by what became of it.
        return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=False, limiter=self._threads)

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> Database:
        if self._database is None:
            raise StoreError(f"{self._path}: the store is not open")
        return self._database

    def _open(self) -> tuple[StoredSession, ...]:
        database = Database(self._path, self._config.synchronous)
        try:
            now = self._clock()
            before = now - self._config.retention_days * DAY
            while database.expire(before, EXPIRY_BATCH) == EXPIRY_BATCH:
                pass
            database.expire_restrictions(before)
            self._expiry_due = now + EXPIRY_INTERVAL
            unfinished = database.unfinished(self._bounds)
        except BaseException:
            database.close()
            raise
        self._database = database
        return unfinished

    def _save(self, records: Sequence[Record], unix: float) -> None:
        database = self._opened()
        database.save(records, unix)
        if unix >= self._expiry_due:
            self._expire(database, unix)

    def _expire(self, database: Database, unix: float) -> None:
        """Delete some of what is too old: behind a save, which is good whatever becomes of this."""
        self._expiry_due = unix + EXPIRY_INTERVAL
        before = unix - self._config.retention_days * DAY
        try:
            deleted = database.expire(before, EXPIRY_BATCH)
            database.expire_restrictions(before)
        except StoreError as error:
            log_event(LOGGER, logging.WARNING, "sessions_not_expired", reason=str(error))
            return
        if deleted == EXPIRY_BATCH:  # there may be more, for the next save
            self._expiry_due = unix
