"""The trace that a client says it is in: W3C Trace Context, taken in and handed on. Nothing here makes a trace."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

STATE_LENGTH = 512  # characters that everybody hands on (Trace Context, section 3.3.1.5); a longer one is dropped

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PARENT_LENGTH = 55
_STATE = re.compile(r"[\x20-\x7e]+")


class TraceContext(NamedTuple):
    """A place in a trace of others: 55 characters, and at most STATE_LENGTH that their systems pass on unread."""

    traceparent: str
    tracestate: str | None = None


def of_headers(parents: Sequence[str], states: Sequence[str]) -> TraceContext | None:
    """What the headers `traceparent` and `tracestate` say; None where it is nothing, or nothing that can be read."""
    return _context(parents[0], ",".join(states)) if len(parents) == 1 else None


def of_metadata(metadata: Mapping[str, object] | None) -> TraceContext | None:
    """What the metadata of a message says, under the names of the headers."""
    return None if not metadata else _context(metadata.get("traceparent"), metadata.get("tracestate"))


def _context(parent: object, state: object) -> TraceContext | None:
    if not isinstance(parent, str) or _PARENT.match(parent) is None:
        return None
    # Section 3.2.3: what follows in a later version is not read. In version 00 nothing may.
    if len(parent) > _PARENT_LENGTH and (parent[_PARENT_LENGTH] != "-" or parent.startswith("00")):
        return None
    known = isinstance(state, str) and len(state) <= STATE_LENGTH and _STATE.fullmatch(state) is not None
    return TraceContext(parent[:_PARENT_LENGTH], str(state) if known else None)
