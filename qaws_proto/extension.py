"""What users add to a node: events of their own, and what a handler of one may do (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .admission.gate import Refusal
from .admission.tokens import Principal
from .clock import Now
from .connection import Connection
from .effects import Note, Scalar
from .events import ClientEvent, ServerEvent
from .faults import Fault
from .outbox import Outbox

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class EventContext:
    """What the handler of an event may use: who sent it, when, and how to answer."""

    __slots__ = ("_connection", "_outbox", "event", "now")

    def __init__(self, connection: Connection, outbox: Outbox, event: ClientEvent, now: Now) -> None:
        self._connection = connection
        self._outbox = outbox
        self.event = event
        self.now = now

    @property
    def principal(self) -> Principal:
        """Who the connection speaks for."""
        assert self._connection.principal is not None
        return self._connection.principal

    @property
    def session_id(self) -> str:
        """The connection's own session."""
        return self._connection.session_id

    def reply(self, event: ServerEvent) -> None:
        """Answer with an event, to this connection alone."""
        self._connection.reply(event, self.now)

    def refuse(self, fault: Fault, text: str | None = None, retry_after: float | None = None) -> None:
        """Answer with an error, and close where the fault says so."""
        self._connection.refuse(Refusal(fault, retry_after, text), self.now, self.event)

    def note(self, name: str, level: str = "INFO", **fields: Scalar) -> None:
        """Tell the operator something. Raises ValueError for a level that is none of the standard ones."""
        if level not in LEVELS:
            raise ValueError(f"{level!r} is no level; there are {', '.join(LEVELS)}")
        self._outbox.add(Note("message", level, name, {"connection": self._connection.number, **fields}))


@dataclass(frozen=True, slots=True)
class EventType:
    """A client event that a user adds: its model, and what is done with it. The handler runs inside `step`: no I/O."""

    model: type[ClientEvent]
    handler: Callable[[EventContext, Any], None]
