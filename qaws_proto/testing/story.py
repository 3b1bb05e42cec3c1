"""What a replayed trace tells a reader: each step in a line, its effects below it, and why each connection ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..config import MESSAGE_SIZE_TOP
from ..effects import AcceptUpgrade, Effect, Note, SendBytes, SendClose, SendMessage, SendResponse, StartRun
from ..faults import Fault
from ..inputs import BytesReceived, Input, MessageReceived, RequestReceived
from ..wire import frames
from .peer import CLOSE, PING, TEXT
from .replay import Replayed
from .server_stream import inflated
from .trace import encode

WIDTH = 120  # characters of a message that are told
MOST = 1 << 30  # frames of a message
DROPPED = 1006  # the code of a connection that ends without a Close (RFC 6455 section 7.1.5)


class Line(NamedTuple):
    """One line of the story. `mark` is `<` for what came, `>` for what was done, `!` for an end, `-` for the rest."""

    mark: str
    connection: int | None
    text: str


class End(NamedTuple):
    """A close code, or a status of HTTP, and the word that goes with it."""

    code: int
    word: str


class Story:
    """Follows a trace, and reads what goes over its connections."""

    def __init__(self) -> None:
        self._heard: dict[int, _Heard] = {}
        self._said: dict[int, _Said] = {}

    def tell(self, replayed: Replayed) -> Iterator[Line]:
        """The lines of a step."""
        event = replayed.step.input
        came = "; ".join(self._inputs(event))
        yield Line("<", getattr(event, "connection", None), came)
        for effect in replayed.effects:
            yield from self._effect(effect, came)

    def _inputs(self, event: Input) -> Iterator[str]:
        name = type(event).__name__
        if isinstance(event, BytesReceived):
            said = "; ".join(self._heard.setdefault(event.connection, _Heard()).read(event.data))
            yield f"{name} of {len(event.data)}: {said or 'nothing whole'}"
        elif isinstance(event, MessageReceived):
            yield f"{name}: {_short(event.data)}"
        elif isinstance(event, RequestReceived):
            yield f"{name}: {event.method} {event.target}"
        else:
            yield f"{name} {_fields(event)}".rstrip()

    def _effect(self, effect: Effect, cause: str) -> Iterator[Line]:
        number: int | None = getattr(effect, "connection", None)
        name = type(effect).__name__
        if isinstance(effect, SendBytes):
            for end, text in self._said.setdefault(effect.connection, _Said()).read(effect.data):
                yield from _told(number, text, end, cause)
        elif isinstance(effect, AcceptUpgrade):
            yield Line(">", number, "101 Switching Protocols")
        elif isinstance(effect, SendMessage):
            yield Line(">", number, _short(effect.text))
        elif isinstance(effect, SendClose):
            yield from _told(number, f"close {effect.code} {effect.reason}", End(effect.code, effect.reason), cause)
        elif isinstance(effect, SendResponse):
            end = End(effect.status, _word(effect.body))
            yield from _told(number, f"HTTP {end.code}", end if end.code >= 400 else None, cause)
        elif isinstance(effect, Note):
            yield from _noted(effect, cause)
        elif isinstance(effect, StartRun):
            yield Line(">", effect.asker, f"{name} {effect.run_id} of {effect.user_id}: {_short(effect.content)}")
        else:
            yield Line(">", number, f"{name} {_fields(effect)}".rstrip())


def _told(number: int | None, text: str, end: End | None, cause: str) -> Iterator[Line]:
    yield Line(">", number, text)
    if end is not None:
        yield _ended(number, end, cause)


def _noted(note: Note, cause: str) -> Iterator[Line]:
    told = note.fields.get("connection")
    number = told if isinstance(told, int) else None
    yield Line("-", number, f"{note.level.lower()} {note.name} {_pairs(note.fields)}")
    if note.name == "closed" and note.fields["code"] == DROPPED:  # no Close went before it
        yield _ended(number, End(DROPPED, str(note.fields["reason"])), cause)


def _ended(number: int | None, end: End, cause: str) -> Line:
    """Why a connection ends: the row of the table of faults, and the input that it was for."""
    why = "no fault"
    for fault in Fault:
        row = fault.value
        if row.word == end.word and (
            end.code in (row.close, row.status) or (end.code == DROPPED and row.close is None)
        ):
            why = f"{fault.name}, fault of {row.blame.value}"
            break
    return Line("!", number, f"ends with {end.code} {end.word}".rstrip() + f" ({why}); because of {cause}")


class _Heard:
    """Reads what a peer says, as far as it can be read."""

    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._frames = frames.Frames(client=False, max_message=MESSAGE_SIZE_TOP, max_fragments=MOST, deflate=True)

    def read(self, data: bytes) -> Iterator[str]:
        """What the bytes say, in short."""
        if self._head is not None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = None
            yield head.partition(b"\r\n")[0].decode("latin-1").removesuffix(" HTTP/1.1")
        self._frames.receive(data)
        while (event := self._frames.next_event()) is not None:
            if isinstance(event, frames.TextReceived):
                yield _short(event.text)
            elif isinstance(event, frames.CloseReceived):
                yield f"close {event.code}"
            elif isinstance(event, frames.Violated):
                yield f"no frame of the protocol ({event.fault.value.word})"
            else:
                yield f"{type(event).__name__.removesuffix('Received').lower()} of {len(event[0])} bytes"


class _Said:
    """Reads what a node says to a peer, which is always whole."""

    def __init__(self) -> None:
        self._upgraded = False

    def read(self, data: bytes) -> Iterator[tuple[End | None, str]]:
        """What the bytes say, in short, and whether that ends the connection."""
        if not self._upgraded:
            head, _, data = data.partition(b"\r\n\r\n")
            first = head.partition(b"\r\n")[0].decode("latin-1").removeprefix("HTTP/1.1 ")
            status = int(first[:3])
            self._upgraded = status == 101
            yield (End(status, _word(data)) if status >= 400 else None), first
            if not self._upgraded:
                return
        while data:
            opcode, shrunk, size, start = data[0] & 0x0F, data[0] & 0x40, data[1], 2
            if size > 125:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start])
            payload, data = data[start : start + size], data[start + size :]
            if opcode == TEXT:
                yield None, _short(_word(inflated(payload) if shrunk else payload))
            elif opcode == CLOSE:
                end = End(int.from_bytes(payload[:2]) if payload else 1005, _word(payload[2:]))
                yield end, f"close {end.code} {end.word}".rstrip()
            else:
                yield None, f"{'ping' if opcode == PING else 'pong'} of {len(payload)} bytes"


def _word(body: bytes) -> str:
    return body.decode("utf-8", "replace").strip()


def _fields(value: Any) -> str:
    """The fields of an input or an effect in short, by their names."""
    return _pairs({name: field for name, field in zip(value._fields, value, strict=True) if name != "connection"})


def _pairs(fields: Any) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in fields.items() if value is not None)


def _short(value: Any) -> str:
    """A text or a value as one line, its beginning where it is long."""
    shown = value.replace("\n", "\\n") if isinstance(value, str) else json.dumps(encode(value))
    return shown if len(shown) <= WIDTH else f"{shown[:WIDTH]}…"
