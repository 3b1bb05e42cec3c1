"""What a store keeps of sessions, and what it gives back: the values of the port between a node and its store.

A store appends records in the order given and never changes one. `docs/extending.md` says how to write one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class EventRecord(NamedTuple):
    """One event of a session's log. The first record of a session that a store sees makes it."""

    owner: str
    session_id: str
    epoch: str
    seq: int  # one more than that of the record before it in this session
    payload: bytes  # the event as UTF-8 JSON


class RunRecord(NamedTuple):
    """A message was accepted; it is unfinished until there is a `RunEnded` of it."""

    owner: str
    session_id: str
    epoch: str
    run_id: str
    user_id: str
    message_id: str | None
    message: bytes  # the chat message as UTF-8 JSON


class RunEnded(NamedTuple):
    """A run has had its one terminal event, which is in the same batch."""

    run_id: str


RestrictionKind = Literal["blocked_user", "blocked_network", "revoked_token", "revoked_user"]


class RestrictionRecord(NamedTuple):
    """An operator has kept somebody out or, where it is `lifted`, lets him in again (A5).

    Of a `kind` and `name` the newest record holds, in the place of those before it. `since` and `until` are unix
    seconds; an `until` of None is for ever, and what is behind its `until` may be deleted.
    """

    kind: RestrictionKind
    name: str  # a user id, the `jti` of a token, or a network such as 192.0.2.0/24
    by: str
    reason: str
    since: float
    until: float | None
    lifted: bool = False


Record = EventRecord | RunRecord | RunEnded | RestrictionRecord


class StoredSession(NamedTuple):
    """What a store has of one session."""

    owner: str
    session_id: str
    epoch: str
    head: int  # `seq` of its newest event; 0 where there is none
    payloads: tuple[bytes, ...]  # its newest events up to `head`, within `sessions.max_events` and `max_bytes`
    known: tuple[tuple[str, str], ...] = ()  # message id and run id, the newest `sessions.known_ids`, oldest first
    unfinished: tuple[RunRecord, ...] = ()  # in the order in which they were accepted


def kind(error: BaseException | None) -> str:
    """An exception as it may be shown: by its type, for its text may hold secrets (C12)."""
    return "None" if error is None else f"<{type(error).__qualname__}>"
