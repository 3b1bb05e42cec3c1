"""Live control: what an operator's commands do to a node that runs, on its open connections at once (A5).

A command that cannot be done raises ValueError and changes nothing: it is the caller's mistake. Each one that is done
is a note of the topic `control` that says who did what, and what was before and after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from .admission.blocks import NetworkKey, Restriction, Restrictions, issued_at, key_of, parse_network
from .admission.restarts import record_of
from .clock import Now
from .connection import Connection, Node, Phase
from .conversation.changes import Changes
from .conversation.runs import Runs
from .effects import Note, Scalar
from .events import NAME_LENGTH
from .faults import Fault
from .inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    DisconnectRequested,
    LimitsChanged,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from .live_settings import Setting, changeable, changed
from .overview import (
    BlockInfo,
    ConnectionInfo,
    SessionInfo,
    of_blocks,
    of_connection,
    of_revocations,
    of_session,
)
from .records import RestrictionKind, RestrictionRecord

LONGEST = 1_000_000_000  # seconds that a block lasts: whoever wants more than 31 years wants it for ever
WORDS = 256  # characters of who gave a command and why: each is kept as long as what it did


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has done: how many connections it closed and runs it cancelled, and what changed from what."""

    closed: int = 0
    cancelled: int = 0
    before: Mapping[str, Setting] = field(default_factory=dict)
    after: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether something is not as it was: false where somebody was lifted who was not restricted, say."""
        return bool(self.closed or self.cancelled or self.before != self.after)


class Control:
    """The commands of operators, and what they see of a node. `changes` is None where no restart remembers them."""

    def __init__(self, node: Node, connections: Mapping[int, Connection], runs: Runs, changes: Changes | None) -> None:
        self._node = node
        self._connections = connections
        self._runs = runs
        self._changes = changes
        self.outcome = Outcome()  # of the newest command
        self.routes: dict[type, Callable[[Any, Now], None]] = {
            DisconnectRequested: self._disconnect,
            UserBlocked: self._block_user,
            UserUnblocked: self._unblock_user,
            AddressBlocked: self._block_address,
            AddressUnblocked: self._unblock_address,
            TokenRevoked: self._revoke_token,
            UserRevoked: self._revoke_user,
            LimitsChanged: self._change_limits,
        }

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────

    def connections(self, now: Now) -> list[ConnectionInfo]:
        """Every connection that is not closed, the oldest first."""
        return [of_connection(connection, now) for connection in self._connections.values()]

    def sessions(self) -> list[SessionInfo]:
        """Every session that is held, the oldest first."""
        return [of_session(session) for session in self._node.sessions]

    def blocks(self, now: Now) -> list[BlockInfo]:
        """Users and addresses that are blocked."""
        return of_blocks(self._node.gate.blocks, now)

    def revocations(self, now: Now) -> list[BlockInfo]:
        """Tokens that are revoked, and users whose tokens until then are."""
        return of_revocations(self._node.gate.revocations, now)

    def limits(self) -> dict[str, Setting]:
        """What the settings are now that can be changed, by their dotted names."""
        return changeable(self._node.config)

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _disconnect(self, event: DisconnectRequested, now: Now) -> None:
        _check_words(event)
        if not isinstance(event.number, int | None):
            raise ValueError("the number of a connection is a whole number")
        for named_id, kind in ((event.user_id, "a user id"), (event.session_id, "a session id")):
            if named_id is not None:
                _check_name(named_id, kind)
        chosen = {"connection": event.number, "user_id": event.user_id, "session_id": event.session_id}
        named = [f"{name}={value}" for name, value in chosen.items() if value is not None]
        if not named:
            raise ValueError("a connection, a user or a session to disconnect has to be named")

        def matches(connection: Connection) -> bool:
            principal, sessions = connection.principal, connection.sessions.values()
            return (
                event.number in (None, connection.number)
                and (event.user_id is None or (principal is not None and principal.user_id == event.user_id))
                and (event.session_id is None or any(session.id == event.session_id for session in sessions))
            )

        closed = self._close(matches, Fault.DISCONNECTED, now, knocking=True)
        self._done("connection_disconnected", event, " ".join(named), Outcome(closed))

    def _block_user(self, event: UserBlocked, now: Now) -> None:
        self._check_user(event.user_id)
        users = self._node.gate.blocks.users
        before = _state(users, event.user_id, now)
        users.impose(event.user_id, _restriction(event, now), now)
        self._keep("blocked_user", event.user_id, users.find(event.user_id, now), event, now)
        closed = self._close(lambda one: _user_of(one) == event.user_id, Fault.BLOCKED, now)
        cancelled = self._cancel_runs(event.user_id, now)
        after = _state(users, event.user_id, now)
        outcome = Outcome(closed, cancelled, {event.user_id: before}, {event.user_id: after})
        self._done("user_blocked", event, event.user_id, outcome, until=_until(event, now))

    def _unblock_user(self, event: UserUnblocked, now: Now) -> None:
        _check_words(event)
        self._check_user(event.user_id)
        users = self._node.gate.blocks.users
        before = _state(users, event.user_id, now)
        users.lift(event.user_id)
        self._keep("blocked_user", event.user_id, None, event, now)
        self._done("user_unblocked", event, event.user_id, _lifted(event.user_id, before))

    def _block_address(self, event: AddressBlocked, now: Now) -> None:
        network = parse_network(event.address)
        blocks, key, name = self._node.gate.blocks, key_of(network), str(network)
        before = _state(blocks.networks, key, now)
        blocks.block_network(network, _restriction(event, now), now)
        self._keep("blocked_network", name, blocks.networks.find(key, now), event, now)
        # Those that are not upgraded get their answer: their address may be another one, and 403 says more.
        closed = self._close(lambda one: blocks.address(one.address, now), Fault.BLOCKED, now)
        outcome = Outcome(closed, 0, {name: before}, {name: _state(blocks.networks, key, now)})
        self._done("address_blocked", event, name, outcome, until=_until(event, now))

    def _unblock_address(self, event: AddressUnblocked, now: Now) -> None:
        _check_words(event)
        network = parse_network(event.address)
        blocks = self._node.gate.blocks
        before = _state(blocks.networks, key_of(network), now)
        blocks.unblock_network(network)
        self._keep("blocked_network", str(network), None, event, now)
        self._done("address_unblocked", event, str(network), _lifted(str(network), before))

    def _revoke_token(self, event: TokenRevoked, now: Now) -> None:
        _check_words(event)
        self._check_authentication()
        _check_name(event.token_id, "a token id (`jti`)")
        revocations, name = self._node.gate.revocations, event.token_id
        before = _verdict(revocations.tokens.find(name, now))
        revocations.revoke_token(name, event.by, event.reason, now)
        self._keep("revoked_token", name, revocations.tokens.find(name, now), event, now)
        outcome = Outcome(self._close_revoked(now), 0, {name: before}, {name: "revoked"})
        self._done("token_revoked", event, name, outcome)

    def _revoke_user(self, event: UserRevoked, now: Now) -> None:
        _check_words(event)
        self._check_user(event.user_id)
        revocations, name = self._node.gate.revocations, event.user_id
        before = _verdict(revocations.users.find(name, now))
        principals = [one.principal for one in self._connections.values() if one.principal is not None]
        in_use = [issued_at(principal) for principal in principals if principal.user_id == name]
        revocations.revoke_user(name, event.by, event.reason, now, max(in_use, default=-inf))
        self._keep("revoked_user", name, revocations.users.find(name, now), event, now)
        outcome = Outcome(self._close_revoked(now), 0, {name: before}, {name: "revoked"})
        self._done("user_revoked", event, name, outcome, until=round(now.unix, 3))

    def _change_limits(self, event: LimitsChanged, now: Now) -> None:
        _check_words(event)
        before = self.limits()
        config = changed(self._node.config, event.changes)
        self._node.configure(config)
        self._node.gate.configure(config)
        self._node.sessions.configure(config.sessions)
        self._runs.configure(config)
        after = self.limits()
        named = {name: before[name] for name in event.changes}
        self.outcome = Outcome(before=named, after={name: after[name] for name in named})
        for name in named:
            self._note("limits_changed", event, {"what": name, "before": before[name], "after": after[name]})

    # ── what they have in common ─────────────────────────────────────────────────────────────────────────────────────

    def _close(self, matches: Callable[[Connection], bool], fault: Fault, now: Now, *, knocking: bool = False) -> int:
        """Close the connections that match, of those `knocking` (not upgraded) too where asked; how many."""
        phases = (Phase.AUTHENTICATING, Phase.OPEN, *((Phase.HANDSHAKING,) if knocking else ()))
        found = [one for one in self._connections.values() if one.phase in phases and matches(one)]
        for connection in found:
            connection.close(fault, now)
        return len(found)

    def _close_revoked(self, now: Now) -> int:
        """Close the connections that speak with a token that is good no more; how many."""
        covers = self._node.gate.revocations.covers
        return self._close(lambda one: one.principal is not None and covers(one.principal, now), Fault.BLOCKED, now)

    def _cancel_runs(self, user_id: str, now: Now) -> int:
        """Cancel the runs of a user, those that wait as well; how many."""
        found = [run for run in self._runs.live if run.session.owner == user_id]
        for run in found:
            self._runs.cancel(run, now)
        return len(found)

    def _keep(self, kind: RestrictionKind, name: str, held: Restriction | None, event: Command, now: Now) -> None:
        """Have a restart remember what is `held` against a name now; None: nothing."""
        if self._changes is None:
            return
        if held is None:
            record = RestrictionRecord(kind, name, event.by, event.reason, now.unix, None, lifted=True)
        else:
            record = record_of(kind, name, held, now)
        self._changes.add(record, now)

    def _check_user(self, user_id: object) -> None:
        self._check_authentication()
        _check_name(user_id, "a user id")

    def _check_authentication(self) -> None:
        if self._node.gate.verifier is None:
            raise ValueError("authentication is off: nobody is known by a token or a user id; block the address")

    def _done(self, name: str, event: Command, what: str, outcome: Outcome, **more: Scalar) -> None:
        """Say what was done, and keep it for whoever gave the command."""
        self.outcome = outcome
        fields: dict[str, Scalar] = {"what": what, "before": outcome.before.get(what), "after": outcome.after.get(what)}
        self._note(name, event, {**fields, **more, "closed": outcome.closed, "cancelled": outcome.cancelled})

    def _note(self, name: str, event: Command, fields: Mapping[str, Scalar]) -> None:
        self._node.outbox.add(Note("control", "INFO", name, {"by": event.by, "reason": event.reason, **fields}))


def _check_words(event: Command) -> None:
    for value in (event.by, event.reason):
        if not _is_text(value, WORDS):
            raise ValueError(f"`by` and `reason` are texts of at most {WORDS} characters")


def _check_name(name: object, kind: str) -> None:
    if not name or not _is_text(name, NAME_LENGTH):
        raise ValueError(f"{kind} is a text of 1 to {NAME_LENGTH} characters")


def _is_text(value: object, longest: int) -> bool:
    """Whether something is a text. One with a lone surrogate is none: no store could keep it, nor what is beside it."""
    return isinstance(value, str) and len(value) <= longest and not _SURROGATE.search(value)


_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _restriction(event: UserBlocked | AddressBlocked, now: Now) -> Restriction:
    """What a block lays on somebody. Raises ValueError where it is none."""
    _check_words(event)
    seconds = event.seconds
    if seconds is not None:
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not known or not 0 < seconds <= LONGEST:
            raise ValueError(f"`seconds` is how long a block lasts: above 0, at most {LONGEST}, or None for ever")
    return Restriction(event.by, event.reason, now.unix, None if seconds is None else now.mono + seconds)


def _until(event: UserBlocked | AddressBlocked, now: Now) -> float | None:
    return None if event.seconds is None else round(now.unix + event.seconds, 3)


def _state(table: Restrictions[str] | Restrictions[NetworkKey], key: Any, now: Now) -> str:
    held = table.find(key, now)
    if held is None:
        return "allowed"
    left = held.left(now)
    return "blocked" if left is None else f"blocked for {left:.3f} seconds"


def _lifted(name: str, before: str) -> Outcome:
    return Outcome(before={name: before}, after={name: "allowed"})


def _verdict(held: Restriction | None) -> str:
    return "good" if held is None else "revoked"


def _user_of(connection: Connection) -> str | None:
    return None if connection.principal is None else connection.principal.user_id
