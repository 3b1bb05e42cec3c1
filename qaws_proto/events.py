"""The JSON events of PROTOCOL: what a client may send, what a server says, and how both are parsed and dumped.

A client event is one Pydantic model with a literal `type`; `ClientEvents` holds the ones a node understands and parses
text into them. Everything here is strict: unknown fields, wrong types, doubled keys and numbers that other JSON
parsers read differently are refused (GUARANTEES M1 to M4). The file is long since it is one vocabulary: both
directions, and the one reader that judges it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isinf
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, Union, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_json

from .faults import Fault

CONTENT_LENGTH = 10_000  # characters of a chat message (PROTOCOL)
ID_LENGTH = 64  # characters of a message id (PROTOCOL)
NAME_LENGTH = 128  # characters of a session id, a user id and a metadata key
METADATA_ENTRIES = 32  # (PROTOCOL)
METADATA_LENGTH = 4096  # characters of one metadata string
SAFE_INTEGER = 2**53 - 1  # RFC 8259 section 6: integers beyond are not the same everywhere
NUMBER_LENGTH = 32  # characters of a number's text (M3)
VALUES = 4096  # values of an event; Pydantic's parser takes up to 150 bytes for each, be it two characters long (M4)
LOCATIONS = 5  # places named in the answer to a wrong event (M2)
LOCATIONS_SIZE = 600  # characters of them as JSON, so that the answer stays within 1 KiB (M2)


# ── what a client sends ──────────────────────────────────────────────────────────────────────────────────────────────


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("NUL")
    return text


NoNul = AfterValidator(_no_nul)
Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), NoNul]
Integer = Annotated[int, Field(ge=-SAFE_INTEGER, le=SAFE_INTEGER)]
Number = Annotated[float, Field(allow_inf_nan=False)]
MetadataText = Annotated[str, Field(max_length=METADATA_LENGTH), NoNul]


def _one_error(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """One error for the whole union, instead of one for each of its members."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("metadata_value", "a string, a number or a boolean") from None


def _few_entries(value: object) -> object:
    """Counted before any entry is looked at: Pydantic alone would judge every one of thousands first."""
    if isinstance(value, dict) and len(value) > METADATA_ENTRIES:
        raise PydanticCustomError("too_long", "too many entries")
    return value


MetadataValue = Annotated[MetadataText | bool | Integer | Number, WrapValidator(_one_error)]


class ClientEvent(BaseModel):
    """Base of every event a client may send; subclass it with a literal `type` to add one (docs/extending.md)."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )  # fmt: skip

    type: str
    #: Whether `requests_per_minute` counts it. What is not counted is bounded by the frame budget alone.
    counted: ClassVar[bool] = True

    @property
    def correlation(self) -> str | None:
        """What of the event is echoed as `correlation_id` where it is refused."""
        return None


class Auth(ClientEvent):
    """The token: the first one, or one that refreshes it. One that is too long is no token, but an event (A8, A9)."""

    counted = False

    type: Literal["auth"]
    token: Annotated[str, Field(repr=False), NoNul]


class ChatMessage(ClientEvent):
    """A message to the agent."""

    type: Literal["chat_message"]
    content: Annotated[str, Field(min_length=1, max_length=CONTENT_LENGTH), NoNul]
    id: Annotated[str, Field(min_length=1, max_length=ID_LENGTH), NoNul] | None = None
    session_id: Name | None = None
    user_id: Name | None = None
    stream: bool = False
    metadata: Annotated[dict[Name, MetadataValue], BeforeValidator(_few_entries)] | None = None

    @property
    def correlation(self) -> str | None:
        return self.id


class Cancel(ClientEvent):
    """Stop a run, named by exactly one of its id and the id of its message."""

    counted = False

    type: Literal["cancel"]
    run_id: Name | None = None
    correlation_id: Annotated[str, Field(min_length=1, max_length=ID_LENGTH), NoNul] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Cancel:
        if (self.run_id is None) == (self.correlation_id is None):
            raise PydanticCustomError("run_id_or_correlation_id", "exactly one of run_id and correlation_id")
        return self

    @property
    def correlation(self) -> str | None:
        return self.correlation_id


class Resume(ClientEvent):
    """Read a session from behind event `seq` of its `epoch`, the last one seen; 0 where none was."""

    type: Literal["resume"]
    session_id: Name
    epoch: Annotated[str, Field(max_length=NAME_LENGTH), NoNul]
    seq: Annotated[int, Field(ge=0, le=SAFE_INTEGER)]


class Ack(ClientEvent):
    """All up to event `seq` has been seen, and need not be held for this client any longer."""

    counted = False

    type: Literal["ack"]
    session_id: Name
    seq: Annotated[int, Field(ge=0, le=SAFE_INTEGER)]


class Ping(ClientEvent):
    """An application ping, for clients that cannot send WebSocket pings (browsers)."""

    counted = False

    type: Literal["ping"]
    id: Annotated[str, Field(max_length=ID_LENGTH), NoNul] | None = None


#: The events whose models hold no number outside `metadata`, and no model but themselves (see `ClientEvents.parse`).
_FLAT = frozenset[type[ClientEvent]]({Auth, ChatMessage, Cancel, Ping})


class Refused(NamedTuple):
    """Why a text is no event: INVALID_JSON, UNKNOWN_EVENT or INVALID_EVENT with up to five `{"loc", "type"}`.

    INTERNAL where the model of a user's event raised what no model may; `cause` is that, for the log alone (C1, C12).
    """

    fault: Fault
    errors: tuple[Mapping[str, Any], ...] = ()
    cause: BaseException | None = None
    correlation: str | None = None  # the `id` of what was refused, where it has a plain one


class ClientEvents:
    """The client events a node understands; `parse` turns one text into one of them. `types`: what they are called."""

    def __init__(self, models: Sequence[type[ClientEvent]], depth: int) -> None:
        """`depth` bounds the nesting of an event. Raises ValueError where a type is missing or there twice."""
        types = [_type_of(model) for model in models]
        if len(set(types)) != len(types):
            raise ValueError(f"two client events have the same type: {', '.join(sorted(types))}")
        self._validator = _adapter_of(tuple(models)).validator
        self.types: dict[type, str] = dict(zip(models, types, strict=True))
        self._depth = depth

    def parse(self, text: str) -> ClientEvent | Refused:
        """One event, or why there is none. Nothing of the text is in the refusal but names of fields."""
        if len(text) > VALUES and _too_many(text):
            return _invalid("too_many_values") if _is_object(text) else Refused(Fault.INVALID_JSON)
        try:
            event: ClientEvent = self._validator.validate_json(text)
        except ValidationError as error:
            return _refusal(error, text)._replace(correlation=_id_of(text))
        except Exception as error:  # noqa: BLE001 - a validator of a user's model; the note and one answer tell of it
            return Refused(Fault.INTERNAL, cause=error, correlation=_id_of(text))
        # Pydantic takes the last of doubled keys and numbers of any length, so the text is read again. Not so where it
        # has exactly one colon for each field it set: then no key is doubled, and a flat event has no numbers.
        if type(event) in _FLAT and text.count(":") == len(event.__pydantic_fields_set__):
            return event
        flaw = _flaw(text, self._depth)
        return event if flaw is None else _invalid(flaw)._replace(correlation=correlation_of(event))


@lru_cache(maxsize=16)  # simulated nodes are many, and know the same events; building one takes milliseconds
def _adapter_of(models: tuple[type[ClientEvent], ...]) -> TypeAdapter[Any]:
    union: Any = Annotated[Union[models], Field(discriminator="type")]  # noqa: UP007 - built at run time
    return TypeAdapter(union)


def correlation_of(event: ClientEvent) -> str | None:
    """What of an event is echoed as `correlation_id`. A user's event may answer anything, or raise (C1)."""
    try:
        correlation = event.correlation
    except Exception:  # noqa: BLE001 - the refusal that it is for is said all the same
        return None
    return correlation if type(correlation) is str and _is_plain(correlation) else None


def _is_plain(text: str) -> bool:
    """Whether an id can be repeated: short, and nothing in it that JSON writes at length."""
    return 0 < len(text) <= ID_LENGTH and text.isprintable()


def _type_of(model: type[ClientEvent]) -> str:
    names = get_args(model.model_fields["type"].annotation)
    if len(names) != 1:
        raise ValueError(f'{model.__name__} needs a literal type, such as type: Literal["my_event"]')
    return str(names[0])


def _invalid(kind: str) -> Refused:
    return Refused(Fault.INVALID_EVENT, ({"loc": [], "type": kind},))


class _Identified(BaseModel):
    """No more of a wrong event than its id."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1, max_length=ID_LENGTH)]


def _id_of(text: str) -> str | None:
    """The id of an event that is refused, so that the client knows which; None where it has none to be repeated."""
    try:
        message_id = _Identified.model_validate_json(text).id
    except ValidationError:
        return None
    return message_id if _is_plain(message_id) else None


# A text, or what is left of one. Possessive: a backtracking point for each character costs a hundred times the text.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def _too_many(text: str) -> bool:
    """Whether there are more values than an event may have, told by what stands between them."""

    def separators(part: str) -> int:
        return part.count(",") + part.count("[") + part.count("{")

    return separators(text) > VALUES and separators(_STRING.sub("", text)) > VALUES


def _is_object(text: str) -> bool:
    return text.lstrip(" \t\r\n").startswith("{")


class _NotStrict(ValueError):
    """The text is JSON, but two parsers could read it differently."""


def _flaw(text: str, depth: int) -> str | None:
    """What is wrong with JSON that Pydantic has taken, or None (M3, M4)."""
    try:
        json.loads(
            text, object_pairs_hook=_unique, parse_int=_safe_integer, parse_float=_finite, parse_constant=_no_number
        )
    except _NotStrict as error:
        return str(error)
    brackets = text.count("[") + text.count("{")
    return "too_deep" if brackets > depth and _nesting(text) > depth else None


def _unique(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _NotStrict("doubled_key")


def _short(text: str) -> None:
    if len(text) > NUMBER_LENGTH:
        raise _NotStrict("number_too_long")


def _safe_integer(text: str) -> None:
    _short(text)
    if abs(int(text)) > SAFE_INTEGER:
        raise _NotStrict("number_too_large")


def _finite(text: str) -> None:
    _short(text)
    if isinf(float(text)):
        raise _NotStrict("number_too_large")


def _no_number(text: str) -> NoReturn:
    raise _NotStrict("finite_number")  # NaN, Infinity, -Infinity


_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|([\[{])|([\]}])')


def _nesting(text: str) -> int:
    """How deep the brackets outside of strings nest in a text that is JSON."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(text):
        if match[1]:
            depth += 1
            deepest = max(deepest, depth)
        elif match[2]:
            depth -= 1
    return deepest


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_NOT_OBJECT = ("json_invalid", "dict_type")
# What Pydantic's parser does not take although it is JSON, as it begins to say so.
_BEYOND_PARSER = {"recursion limit": "too_deep", "number out of range": "number_too_long"}


def _refusal(error: ValidationError, text: str) -> Refused:
    found = error.errors(include_url=False, include_input=False)
    first = found[0]
    if first["type"] in _NOT_OBJECT and not first["loc"]:
        said = str(first.get("ctx", {}).get("error", ""))
        kind = next((kind for start, kind in _BEYOND_PARSER.items() if said.startswith(start)), None)
        return _invalid(kind) if kind is not None and _is_object(text) else Refused(Fault.INVALID_JSON)
    if first["type"] == "union_tag_invalid" and not first["loc"]:
        return Refused(Fault.UNKNOWN_EVENT)
    places = [_location(one["loc"], one["type"]) for one in found[:LOCATIONS]]
    while len(json.dumps(places)) > LOCATIONS_SIZE:
        del places[-1]
    return Refused(Fault.INVALID_EVENT, tuple(places))


def _location(loc: tuple[int | str, ...], kind: str) -> Mapping[str, Any]:
    """Where and what, without the union's tag in front; a name that is no plain short name is not repeated."""
    if kind == "union_tag_not_found":
        return {"loc": ["type"], "type": "missing"}
    named = [part if isinstance(part, int) or _PLAIN_NAME.match(part) else "?" for part in loc[1:6]]
    return {"loc": named, "type": kind}


# ── what a server says ───────────────────────────────────────────────────────────────────────────────────────────────


class ServerEvent(BaseModel):
    """Base of every event a server sends. Fields that are None are left out."""

    model_config = ConfigDict(extra="forbid")

    type: str


class SessionEvent(ServerEvent):
    """An event that belongs to a session's log: `seq` is its place there, counted from 1."""

    session_id: str
    seq: int
    run_id: str | None = None
    correlation_id: str | None = None


class AgentResponse(SessionEvent):
    """The end of a run that was answered or cancelled. `processing_time` is seconds."""

    type: Literal["agent_response"] = "agent_response"
    content: str
    user_id: str
    processing_time: float
    reasoning_steps: list[str] = []
    tools_used: list[str] = []
    status: Literal["completed", "cancelled"]


class AgentChunk(SessionEvent):
    """A piece of an answer. `offset` counts the characters (code points) sent before it."""

    type: Literal["agent_chunk"] = "agent_chunk"
    content: str
    offset: int


class AgentStepEvent(SessionEvent):
    """What an agent does on its way."""

    type: Literal["agent_step"] = "agent_step"
    kind: Literal["reasoning", "tool_started", "tool_finished"]
    name: str | None = None
    content: str | None = None


class SystemEvent(ServerEvent):
    """Something about the connection, the session or the server."""

    type: Literal["system_event"] = "system_event"
    event_name: str
    data: dict[str, str | int | float | bool | None]
    session_id: str | None = None
    seq: int | None = None
    correlation_id: str | None = None


class ErrorEvent(ServerEvent):
    """A refusal, or (with `run_id`) the end of a run that failed."""

    type: Literal["error"] = "error"
    error_code: str
    error_message: str
    details: dict[str, Any] | None = None
    session_id: str | None = None
    seq: int | None = None
    run_id: str | None = None
    correlation_id: str | None = None


class Pong(ServerEvent):
    """The answer to `ping`."""

    type: Literal["pong"] = "pong"
    id: str | None = None


ServerEvents = AgentResponse | AgentChunk | AgentStepEvent | SystemEvent | ErrorEvent | Pong
_SERVER: TypeAdapter[ServerEvents] = TypeAdapter(Annotated[ServerEvents, Field(discriminator="type")])


def parse_server_event(text: str | bytes) -> ServerEvents:
    """One event of a server, for clients. Raises pydantic.ValidationError (a ValueError) on anything else."""
    return _SERVER.validate_json(text)


_CHUNK = b'{"type":"agent_chunk",'


def is_chunk(payload: bytes) -> bool:
    """Whether what `dump` gave is an `agent_chunk`: `type` comes first in every event."""
    return payload.startswith(_CHUNK)


def dump(event: ServerEvent | ClientEvent) -> bytes:
    """The event as UTF-8 JSON, fields that are None left out (but not those inside `data`)."""
    payload: bytes = event.__pydantic_serializer__.to_json(event, exclude_none=True)
    return payload


def system_event(name: str, data: Mapping[str, object]) -> bytes:
    """What `dump` makes of a SystemEvent, for whoever comes: it is our own word, and needs no validation."""
    return to_json({"type": "system_event", "event_name": name, "data": data})


def error_event(
    fault: Fault,
    *,
    text: str | None = None,
    correlation_id: str | None = None,
    details: dict[str, Any] | None = None,
) -> ErrorEvent:
    """The `error` event of a fault; `text` replaces the table's where more can be said to help."""
    row = fault.value
    assert row.code is not None, f"{fault} has no error code"
    return ErrorEvent(
        error_code=row.code, error_message=text or row.text, details=details, correlation_id=correlation_id
    )
