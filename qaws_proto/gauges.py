"""How a node stands at one moment, in numbers. Costs a look at every connection and run: take it now and then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from .admission.gate import Census
from .connection import Connection
from .conversation.journal import Journal
from .conversation.run import State
from .conversation.runs import Runs
from .conversation.session import Sessions


class Gauges(NamedTuple):
    """What there is of everything now."""

    connections: int  # WebSockets that are not closed
    handshakes: int  # sockets that are no WebSockets (yet)
    blocked: int  # connections whose transports are full
    out_bytes: int  # waiting in the node for those
    sessions: int  # in memory
    session_bytes: int  # of their events
    runs: dict[str, int]  # by `State`, every one of them named
    longest_queue: int  # messages that wait in one session
    unsaved_bytes: int  # waiting to be kept by the store
    draining: bool


def measure(
    connections: Iterable[Connection], census: Census, sessions: Sessions, runs: Runs, journal: Journal | None
) -> Gauges:
    """The numbers of this moment."""
    outflows = [connection.outflow for connection in connections]
    states = Counter(run.state for run in runs)
    return Gauges(
        connections=census.open.total,
        handshakes=census.knocking.total,
        blocked=sum(outflow.blocked for outflow in outflows),
        out_bytes=sum(outflow.held for outflow in outflows),
        sessions=len(sessions),
        session_bytes=sessions.held,
        runs={state.value: states[state] for state in State},
        longest_queue=max((len(run.session.waiting) for run in runs if run.state is State.QUEUED), default=0),
        unsaved_bytes=0 if journal is None else journal.unsaved_bytes,
        draining=census.draining,
    )
