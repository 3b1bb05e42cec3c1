"""What a server says, as a client reads it: liberal where a newer one may say more, strict where all depends on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..events import SAFE_INTEGER, AgentChunk, Name, ServerEvents, SystemEvent
from ..faults import Fault

_EVENTS: TypeAdapter[ServerEvents] = TypeAdapter(Annotated[ServerEvents, Field(discriminator="type")])
_LOUD = frozenset({"agent_response", "agent_chunk", "error"})  # what these say can neither be guessed nor done without

Seq = Annotated[int, Field(ge=0, le=SAFE_INTEGER)]
Start = Annotated[int, Field(ge=1, le=SAFE_INTEGER, alias="from")]


class _Reading(BaseModel):
    """What a client needs of an object, whatever else is in it."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Typed(_Reading):
    type: str


class Established(_Reading):
    """The data of `connection_established`: the user, and a fresh session."""

    user_id: str
    session_id: Name
    epoch: Name


class Recovered(_Reading):
    """The data of a `session_resumed` behind which everything from `start` comes; it was said by then up to `to`."""

    recovered: Literal[True]
    start: Start
    to: Seq


class NotRecovered(_Reading):
    """The data of a `session_resumed` behind which a snapshot comes. What is still held goes from `start` to `to`."""

    recovered: Literal[False]
    epoch: Name
    start: Start
    to: Seq


_RESUMED: TypeAdapter[Recovered | NotRecovered] = TypeAdapter(
    Annotated[Recovered | NotRecovered, Field(discriminator="recovered")]
)


def read_event(text: str) -> ServerEvents | Fault | None:
    """One event of a server; None for one that a client need not know; the fault where it is no protocol.

    Fields that are not known are left out. A system event or a step that is not understood is ignored, like an event of
    an unknown type; an answer, a chunk or an error is not: somebody waits for it.
    """
    try:
        event = _EVENTS.validate_json(text, extra="ignore")
    except ValidationError:
        return _judge(text)
    seq = None if event.type == "pong" else event.seq
    sane = (seq is None or 0 <= seq <= SAFE_INTEGER) and (not isinstance(event, AgentChunk) or event.offset >= 0)
    return event if sane else Fault.PROTOCOL_VIOLATION


def _judge(text: str) -> Fault | None:
    """What to do about a text that is no event we know."""
    try:
        kind = _Typed.model_validate_json(text).type
    except ValidationError:
        return Fault.PROTOCOL_VIOLATION
    return Fault.PROTOCOL_VIOLATION if kind in _LOUD else None


def read_established(event: SystemEvent) -> Established | None:
    """What `connection_established` says; None where it does not."""
    try:
        return Established.model_validate(event.data)
    except ValidationError:
        return None


def read_resumed(event: SystemEvent) -> Recovered | NotRecovered | None:
    """What `session_resumed` says; None where it does not."""
    try:
        return _RESUMED.validate_python(event.data)
    except ValidationError:
        return None
