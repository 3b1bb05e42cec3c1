"""What an operator sees of a node: its connections, its sessions and who is kept out, as small frozen records."""

from __future__ import annotations

from typing import NamedTuple

from .admission.blocks import Blocks, Restriction, Revocations, network_of
from .clock import Now
from .connection import Connection
from .conversation.session import Session


class ConnectionInfo(NamedTuple):
    """One connection. `age` is seconds since it opened, `buffered` the bytes held for it.

    `address` is the client's, behind trusted proxies too once the connection is upgraded; None where it has none.
    """

    number: int
    address: str | None
    user_id: str | None
    token_id: str | None
    phase: str
    age: float
    sessions: tuple[str, ...]
    buffered: int


class SessionInfo(NamedTuple):
    """One session. `readers` are numbers of connections, `runs` those at work, `waiting` the messages behind them;
    `events` and `held` (bytes) are what its log holds, up to event `head`."""

    session_id: str
    owner: str
    readers: tuple[int, ...]
    runs: tuple[str, ...]
    waiting: int
    head: int
    events: int
    held: int


class BlockInfo(NamedTuple):
    """Who is kept out: `kind` is `user` or `address`, of a revocation `token` or `user`; `name` says which.

    `since` is unix seconds, `seconds` those that are left of it, None: for ever.
    """

    kind: str
    name: str
    by: str
    reason: str
    since: float
    seconds: float | None


def of_connection(connection: Connection, now: Now) -> ConnectionInfo:
    """A connection at this moment."""
    principal = connection.principal
    return ConnectionInfo(
        connection.number,
        None if connection.address is None else str(connection.address),
        None if principal is None else principal.user_id,
        None if principal is None else principal.token_id,
        connection.phase.value,
        now.mono - connection.opened_at,
        tuple(session.id for session in connection.sessions.values()),
        connection.buffered,
    )


def of_session(session: Session) -> SessionInfo:
    """A session at this moment."""
    log = session.log
    return SessionInfo(
        session.id, session.owner, tuple(sorted(session.cursors)), tuple(session.running), len(session.waiting),
        log.head, log.head - log.floor, log.held,
    )  # fmt: skip


def of_blocks(blocks: Blocks, now: Now) -> list[BlockInfo]:
    """Users and addresses that are blocked."""
    users = [("user", name, blocks.users.find(name, now)) for name in blocks.users]
    networks = [("address", network_of(key), blocks.networks.find(key, now)) for key in blocks.networks]
    return _infos(users + networks, now)


def of_revocations(revocations: Revocations, now: Now) -> list[BlockInfo]:
    """Tokens that are revoked, and users whose tokens until then are."""
    tokens = [("token", name, revocations.tokens.find(name, now)) for name in revocations.tokens]
    users = [("user", name, revocations.users.find(name, now)) for name in revocations.users]
    return _infos(tokens + users, now)


def _infos(found: list[tuple[str, str, Restriction | None]], now: Now) -> list[BlockInfo]:
    return [
        BlockInfo(kind, name, held.by, held.reason, held.since, held.left(now))
        for kind, name, held in found
        if held is not None
    ]
