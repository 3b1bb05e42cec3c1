"""The trace of a node: one line of JSON for each `step`, complete enough to take every step again and get the same.

    {"qaws_trace": 1, "kind": "recording", "config": {…}, "durable": true, …}
    {"seq": 1, "mono": 12.5, "unix": 1750000000.0, "input": {"is": "ConnectionOpened", …}, "ids": [], …}

The first line is the head: what the node was made of, without secrets. The other lines are steps, in any order: what
happened and when, the ids that were drawn, what the verifier of tokens and the checks of users said, and a digest of
the effects. Values that JSON has stand for themselves, the others for what their one key says:

    {"text": "GET /"} {"base64": "gYU3"}     bytes, as text where they are printable ASCII
    {"list": […]} {"set": […]} {"map": {…}}   an array alone is a tuple
    {"int": "0x1f…"}                          more digits than JSON is read with
    {"is": "RunRecord", …}                    a value of the core, by its fields
    {"fault": "BAD_TOKEN"}                    a row of the table of faults
    {"raised": "OSError"}                     an exception, by its type alone (C12)
    {"subtext": "hi"} {"object": "Decimal"}   what an agent gave that is no plain text: a stand-in, treated alike
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, get_args

from pydantic import SecretStr, ValidationError

from ..admission.gate import Refusal
from ..admission.tokens import Principal
from ..clock import Now
from ..config import Section, WebSocketConfig
from ..effects import Effect, LoadKeys
from ..faults import Fault
from ..inputs import Input, RunInput
from ..records import Record, RestrictionRecord, RunRecord, StoredSession
from ..trace_context import TraceContext

FORMAT = 1  # goes up when a reader of before would misread
DEPTH = 32  # containers within each other that are kept; those of an agent 1
DIGITS = 1 << 63  # from here on an integer is written in hexadecimal, which is read without a limit
_PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]*\Z")
_VALUES: dict[str, Any] = {  # that can be read again
    kind.__name__: kind for kind in (*get_args(Input), StoredSession, RunRecord, RestrictionRecord, Principal, Refusal)
}
_OWN = frozenset({*_VALUES.values(), *get_args(Effect), *get_args(Record), TraceContext})


class TraceError(ValueError):
    """What was read is no whole trace; the text says where, and quotes nothing of it."""


# ── what cannot be kept ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Foreign:
    """Stands for an object that means nothing to the core, of the type of this name."""

    kind: str


class Subtext(str):
    """Stands for a text of a subclass of `str`."""

    __slots__ = ()


class Raised(Exception):
    """Stands for an exception; `raised` makes one whose type has the same name. Two of one name are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raised) and type(self).__qualname__ == type(other).__qualname__

    def __hash__(self) -> int:
        return hash(type(self).__qualname__)


def raised(name: str) -> Raised:
    """The stand-in of an exception."""
    kind = type(name, (Raised,), {"__qualname__": name})
    error: Raised = kind()
    return error


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode(value: Input | Principal | Refusal | Exception | None) -> Any:
    """An input, or a verdict, as JSON has it."""
    return _encode(value, 2 if isinstance(value, RunInput) else DEPTH)  # an agent may give anything, itself within


def decode(encoded: Any) -> Any:
    """The input or verdict again. Raises TraceError where it is none."""
    try:
        return _decode(encoded)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TraceError(f"what is no value of a trace: {type(error).__name__}") from None


def digest(effects: Iterable[Effect]) -> str:
    """What tells effects from others: of each in its order the name and the first 64 bits of a SHA-256, in
    hexadecimal digits. Causes count by their types alone."""
    return " ".join(map(_digest, effects))


def _digest(effect: Effect) -> str:
    rendered = json.dumps(_encode(_known(effect), DEPTH), sort_keys=True, separators=(",", ":"))
    return f"{type(effect).__name__}:{sha256(rendered.encode()).hexdigest()[:16]}"


def failure(error: BaseException) -> str:
    """What stands in the place of a digest where a step has raised."""
    return f"!{type(error).__qualname__}"


def _known(effect: Effect) -> Effect:
    """An effect as a trace knows it: what the address of a key set asks for may be a secret; 5 seconds are 5.0."""
    if not isinstance(effect, LoadKeys):
        return effect
    return effect._replace(source=_without_query(effect.source), timeout=float(effect.timeout))


def _encode(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if -DIGITS < value < DIGITS else {"int": hex(value)}
    if kind is bytes:
        return {"text": value.decode("ascii")} if _PRINTABLE.match(value) else {"base64": b64encode(value).decode()}
    if kind is Fault:
        return {"fault": value.name}
    if kind is Foreign:
        return {"object": value.kind}
    if issubclass(kind, str):
        return {"subtext": str.__str__(value)}
    if issubclass(kind, BaseException):
        return {"raised": kind.__qualname__}
    held = _container(value, kind, depth - 1) if depth > 0 else None
    return {"object": kind.__qualname__} if held is None else held


def _container(value: Any, kind: type, depth: int) -> Any:
    """What holds other values; None for what is none of those that are known."""
    own = kind if kind in _OWN else next((base for base in kind.__mro__ if base in _OWN), None)  # of a user's verifier
    if own is not None:
        return {"is": own.__name__, **{name: _encode(item, depth) for name, item in value._asdict().items()}}
    if issubclass(kind, tuple):
        return [_encode(item, depth) for item in tuple.__iter__(value)]
    if issubclass(kind, list):
        return {"list": [_encode(item, depth) for item in list.__iter__(value)]}
    if kind is frozenset and all(type(item) is str for item in value):
        return {"set": sorted(value)}
    if kind is dict and all(type(name) is str for name in value):
        return {"map": {name: _encode(item, depth) for name, item in value.items()}}
    return None


def _decode(encoded: Any) -> Any:
    if isinstance(encoded, list):
        return tuple(map(_decode, encoded))
    if not isinstance(encoded, dict):
        return encoded
    if "is" in encoded:
        kind = _VALUES[encoded["is"]]
        return kind(**{name: _decode(value) for name, value in encoded.items() if name != "is"})
    ((name, value),) = encoded.items()
    return _READERS[name](value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "text": lambda text: text.encode("ascii"),
    "base64": lambda text: b64decode(text, validate=True),
    "int": lambda text: int(text, 16),
    "list": lambda items: list(map(_decode, items)),
    "set": frozenset,
    "map": lambda items: {name: _decode(value) for name, value in items.items()},
    "fault": Fault.__getitem__,
    "raised": raised,
    "subtext": Subtext,
    "object": Foreign,
}


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────


def without_secrets(config: WebSocketConfig) -> dict[str, Any]:
    """A configuration as JSON, each secret replaced by as many letters, and the query of an address as well."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    _cover(config, plain)
    keys = plain["security"]["authentication"]
    if keys["jwks"] is not None:
        keys["jwks"] = _without_query(keys["jwks"])
    return plain


def _cover(section: Section, plain: dict[str, Any]) -> None:
    for name, value in vars(section).items():
        if isinstance(value, Section):
            _cover(value, plain[name])
        elif isinstance(value, SecretStr):
            plain[name] = cover(value.get_secret_value())


def cover(secret: str) -> str:
    """What stands for a secret of the configuration: as many bytes."""
    return "s" * len(secret.encode())


def _without_query(source: str) -> str:
    address, mark, query = source.partition("?")
    return address + mark + "x" * len(query) if "://" in source else source


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Head(NamedTuple):
    """What a node was made of. `config` holds no secrets; `kind` is what wrote the trace."""

    config: WebSocketConfig
    durable: bool
    kind: str = "recording"
    events: tuple[str, ...] = ()  # types of the events that a user has added
    checks: tuple[int, int] = (0, 0)  # how many checks of upgrades and of events a user has added

    def line(self) -> str:
        """The first line, without its end."""
        return _line({"qaws_trace": FORMAT, **self._asdict(), "config": without_secrets(self.config)})


Verdict = tuple[str, Any]  # who was asked (`verify`, `recall`, `lacks_key`, `has_keys`, `check`), and the answer


class Step(NamedTuple):
    """One step: what happened and when, what it drew and heard from outside, and the digest of its effects."""

    seq: int  # 1, 2, 3 …
    now: Now
    input: Input
    ids: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    effects: str  # their digest; where the step raised, the type of what it raised behind a `!`

    def line(self) -> str:
        """The step as a line, without its end."""
        return _line(
            {
                "seq": self.seq,
                "mono": self.now.mono,
                "unix": self.now.unix,
                "input": encode(self.input),
                "ids": self.ids,
                "verdicts": [(name, encode(answer)) for name, answer in self.verdicts],
                "effects": self.effects,
            }
        )


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


class Trace:
    """A trace that was read: its head, and its steps by `seq`. `broken` says why there are no more, if there are."""

    def __init__(self, head: Head, steps: Sequence[Step], broken: str | None = None) -> None:
        self.head = head
        self.steps = steps
        self.broken = broken

    @classmethod
    def read(cls, lines: Iterable[str]) -> Trace:
        """A whole trace. Raises TraceError for what is none, for a line that is cut off, where a step is missing."""
        trace = cls.read_beginning(lines)
        if trace.broken is not None:
            raise TraceError(trace.broken)
        return trace

    @classmethod
    def read_beginning(cls, lines: Iterable[str]) -> Trace:
        """The steps up to the first that is not there: what a crash has left. Raises TraceError for what is none."""
        numbered = enumerate(lines, 1)
        head = _read_head(next(numbered, (1, ""))[1])
        steps: list[Step] = []
        broken: str | None = None
        for number, line in numbered:
            try:
                steps.append(_read_step(line, number))
            except TraceError as error:
                broken = broken or str(error)
        steps.sort(key=lambda step: step.seq)
        for due, step in enumerate(steps, 1):
            if step.seq != due:
                missing = f"step {due} is missing" if step.seq > due else f"step {step.seq} is there twice"
                return cls(head, steps[: due - 1], broken or missing)
        return cls(head, steps, broken)


def _read_head(line: str) -> Head:
    fields = _read(line, 1) if line.lstrip().startswith("{") else {}
    version = fields.pop("qaws_trace", None)
    if version is None:
        raise TraceError("this is no trace of qaws: its first line does not say so")
    if version != FORMAT:
        raise TraceError(f"this trace has the format {version}; this version of qaws reads {FORMAT}")
    try:
        config = WebSocketConfig.model_validate(fields.pop("config", None))
        return Head(config, **{name: _decode(value) for name, value in fields.items()})
    except ValidationError as error:
        setting = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
        raise TraceError(f"its configuration cannot be used with this version of qaws: {setting}") from None
    except TypeError:
        raise TraceError("its first line is none of this version of qaws") from None


def _read_step(line: str, number: int) -> Step:
    fields = _read(line, number)
    try:
        verdicts = tuple((name, decode(answer)) for name, answer in fields["verdicts"])
        now, event = Now(float(fields["mono"]), float(fields["unix"])), decode(fields["input"])
        if not isinstance(event, Input):
            raise TraceError("no input")
        return Step(int(fields["seq"]), now, event, tuple(fields["ids"]), verdicts, fields["effects"])
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, TraceError) else f"{type(error).__name__}: {error}"
        raise TraceError(f"line {number} is no step: {reason}") from None


def _read(line: str, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        cut = "" if line.endswith("\n") else ": the file ends within it"
        raise TraceError(f"line {number} is no JSON{cut}") from None
    if not isinstance(fields, dict):
        raise TraceError(f"line {number} is no object")
    return fields
