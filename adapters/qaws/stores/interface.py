"""What a store is: the port behind which sessions are kept beyond the life of the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from qaws_proto.records import Record, RestrictionRecord, StoredSession


class StoreError(ValueError):
    """A store cannot be opened, read or written; the text says what is wrong and what to do.

    It goes to the operator and never to a client. It names files and places, and holds nothing that users said.
    """


@runtime_checkable
class Store(Protocol):
    """Keeps what sessions say. One node uses it, and calls one method at a time but for `load`.

    Whatever a method raises is a failure: the node refuses messages with STORAGE_UNAVAILABLE and tries again (D4).
    """

    async def open(self) -> tuple[StoredSession, ...]:
        """Get ready; the sessions with runs that have not ended (D2). Called once, before anything else.

        Raises StoreError where the store cannot be used; then the server does not start.
        """

    async def save(self, records: Sequence[Record], unix: float) -> None:
        """Keep these records behind those before, all of them or none; return when a crash would not lose them.

        `unix` is the time in seconds. Raising means that nothing was kept: the same records will come again.
        """

    async def load(self, owner: str, session_id: str) -> StoredSession | None:
        """The newest of a session, no more than `sessions.max_events`, `max_bytes` and `known_ids`; None: no such one.

        Called also while a `save` is under way. Raises where something of it is missing or damaged, instead of leaving
        it out.
        """

    async def aclose(self) -> None:
        """Let go of everything. Called once, when the last `save` has returned or raised."""


@runtime_checkable
class RestrictionStore(Store, Protocol):
    """A store that keeps blocks and revocations too: `save` is given records of them.

    A store without this method is given none, and they end with the process.
    """

    async def restrictions(self) -> tuple[RestrictionRecord, ...]:
        """The newest record of each kind and name, without those that are lifted. Called once, behind `open`.

        Those whose `until` is over may be left out. Raising keeps the server from starting: who is kept out is not
        known.
        """
