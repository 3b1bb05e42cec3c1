"""Who is kept out, across a restart: as the records of a store, and back (A5).

The monotonic clock begins anew with each boot, so records go by the wall clock. Read back, what had an end lasts until
both clocks have come to it: by the monotonic one as long as the wall clock says now, but never longer than it was
imposed for; by the wall clock until its end. So one that is set wrong, before the start or behind it, keeps somebody
out for too long rather than letting him in too early.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import get_args

from ..clock import Now
from ..records import RestrictionKind, RestrictionRecord
from .blocks import Blocks, NetworkKey, Restriction, Revocations, key_of, parse_network

KINDS = get_args(RestrictionKind)
LATEST = 1e12  # unix seconds: what is beyond it is no time

Name = tuple[str, str]  # kind and name of a restriction: what it is one of


def record_of(kind: RestrictionKind, name: str, restriction: Restriction, now: Now) -> RestrictionRecord:
    """What a store is to keep of a restriction."""
    left = restriction.left(now)
    until = None if left is None else now.unix + left
    return RestrictionRecord(kind, name, restriction.by, restriction.reason, restriction.since, until)


def restore(
    records: Iterable[RestrictionRecord], blocks: Blocks, revocations: Revocations, newer: Container[Name], now: Now
) -> None:
    """Restrict those who were before a restart, but for whom there is something `newer`, and what is over.

    Raises ValueError, with nothing changed, where a record is none that a node has given.
    """
    networks: dict[NetworkKey, Restriction] = {}
    users: dict[str, Restriction] = {}
    tokens: dict[str, Restriction] = {}
    revoked: dict[str, Restriction] = {}
    named = {"blocked_user": users, "revoked_token": tokens, "revoked_user": revoked}
    for record in records:
        check(record)
        if (record.kind, record.name) in newer or (record.until is not None and record.until <= now.unix):
            continue
        if record.kind == "blocked_network":
            networks[key_of(parse_network(record.name))] = _restriction(record, now)
        else:
            named[record.kind][record.name] = _restriction(record, now)
    blocks.users.restore(users)
    blocks.restore_networks(networks)
    revocations.tokens.restore(tokens)
    revocations.users.restore(revoked)


def check(record: object) -> None:
    """Raise ValueError for what is no record of somebody who is kept out."""
    if not isinstance(record, RestrictionRecord) or record.kind not in KINDS or record.lifted:
        raise ValueError("a restriction of a store is a RestrictionRecord that is not lifted")
    if not all(isinstance(text, str) for text in (record.name, record.by, record.reason)):
        raise ValueError("the name of a restriction, and who imposed it and why, are texts")
    times = (record.since,) if record.until is None else (record.since, record.until)
    if not all(isinstance(time, int | float) and abs(time) <= LATEST for time in times):
        raise ValueError("the times of a restriction are unix seconds")
    if record.kind == "blocked_network":
        parse_network(record.name)


def _restriction(record: RestrictionRecord, now: Now) -> Restriction:
    if record.until is None:
        return Restriction(record.by, record.reason, record.since)
    left = min(record.until - now.unix, record.until - record.since)
    return Restriction(record.by, record.reason, record.since, now.mono + left, record.until)
