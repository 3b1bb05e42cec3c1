"""A store of a user's own, that does what a test says."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from qaws_proto.records import Record, StoredSession


class Kept:
    """A store of a user's own, which keeps a list and does what a test says."""

    def __init__(self, *unfinished: StoredSession) -> None:
        self.records: list[Record] = []
        self.calls: list[str] = []
        self.unfinished = unfinished
        self.sessions: dict[str, StoredSession] = {}
        self.errors: list[BaseException] = []  # what the next calls raise
        self.ready = anyio.Event()  # saves wait for it
        self.ready.set()

    async def open(self) -> tuple[StoredSession, ...]:
        await anyio.lowlevel.checkpoint()
        self._call("open")
        return self.unfinished

    async def save(self, records: Sequence[Record], unix: float) -> None:
        self._call("save")
        await self.ready.wait()
        self.records += records

    async def load(self, owner: str, session_id: str) -> StoredSession | None:
        self._call("load")
        return self.sessions.get(session_id)

    async def aclose(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.errors:
            raise self.errors.pop(0)
