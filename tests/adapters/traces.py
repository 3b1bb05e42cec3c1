r"""Traces: what clients say, byte for byte and step by step, and what a server answers to each step (C9).

A trace is a text file. Its head sets up the node: `config` is the sections of the configuration, `agent` what is
answered to a message: pieces of text, `null` to wait for a `go`, `{"kind": …}` for a step, `{"raise": …}`. Each other
line does something, and the lines with `<` below it are everything that clients hear because of it:

    ana connects {"Authorization": "Bearer …"}     opens a connection and asks for a WebSocket
    ana > text {"type": "ping"}                    says a frame: `text`, `binary`, `ping`, or `close` with its code
    ana leaves                                     closes the socket; where it heard the end, nothing came behind that
    go "…"                                         lets the agent go on that answers this message
    pass 10.0                                      lets so many seconds pass; no time passes otherwise
    drain                                          stops the node gracefully
    ana < text {"type": "pong"}                    hears `http`, `text`, `ping`, `pong`, `close`, or the `end`

`python -m tests.adapters.traces` records what is heard anew, from asyncio streams over a real socket.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from qaws import AgentStep, WebSocketManager
from qaws_proto import Now

from .byte_servers import until
from .hosts import EVERY, Node, serving
from .peers import KEY, open_config
from .raw import Raw, masked

FOLDER = Path(__file__).parents[1] / "fixtures" / "traces"
TRACES = sorted(FOLDER.glob("*.txt"))
EPOCH = 1_700_000_000.0  # seconds of the wall clock, when every trace begins
AHEAD = 3600.0  # seconds by which a trace's clock is ahead of the event loop's, so that no timer fires by itself
QUIET = 0.2  # seconds without a byte after which a step is over; while recording alone

OPCODES = {"text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
KINDS = {opcode: kind for kind, opcode in OPCODES.items()}
HEARD = re.compile(r"(\w+) < (.+)")


class Step(NamedTuple):
    """A line that does something, and what each client hears because of it."""

    action: str
    heard: dict[str, list[str]]


class Trace:
    """A trace as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = {}
        self.agent: dict[str, list[Any]] = {}
        self.steps: list[Step] = []
        for line in path.read_text("utf-8").splitlines():
            word, _, rest = line.partition(" ")
            if not line or word == "#":
                continue
            if word == "config":
                self.config = json.loads(rest)
            elif word == "agent":
                content, size = json.JSONDecoder().raw_decode(rest)
                self.agent[content] = json.loads(rest[size:])
            elif heard := HEARD.fullmatch(line):
                self.steps[-1].heard.setdefault(heard[1], []).append(heard[2])
            else:
                self.steps.append(Step(line, {}))


# ── what is said and heard, as bytes ─────────────────────────────────────────────────────────────────────────────────


def said(what: str) -> bytes:
    """The bytes of a frame of a client; its mask is all zero."""
    kind, _, rest = what.partition(" ")
    return masked(0x80 | OPCODES[kind], _payload(kind, rest))


def heard(what: str) -> bytes:
    """The bytes that a server sends for it."""
    kind, _, rest = what.partition(" ")
    if kind == "http":
        return str(json.loads(rest)).encode("latin-1")
    if kind == "end":
        return b""
    payload = _payload(kind, rest)
    if len(payload) < 126:
        return bytes([0x80 | OPCODES[kind], len(payload)]) + payload
    return bytes([0x80 | OPCODES[kind], 126]) + len(payload).to_bytes(2) + payload


def _payload(kind: str, rest: str) -> bytes:
    if kind != "close":
        return rest.encode()
    code, _, reason = rest.partition(" ")
    return int(code).to_bytes(2) + reason.encode()


def read(data: bytes, ended: bool, upgraded: bool) -> Iterator[str]:
    """What bytes of a server say, as a trace has it."""
    if not upgraded and data:
        head, end, data = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            head, end, data = head + end + data, b"", b""
        yield "http " + json.dumps((head + end).decode("latin-1"))
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        yield shown(data[0] & 0xF, data[start : start + size])
        data = data[start + size :]
    if ended:
        yield "end"


def shown(opcode: int, payload: bytes) -> str:
    """A frame as a trace has it."""
    if KINDS[opcode] == "close":
        return f"close {int.from_bytes(payload[:2])} {payload[2:].decode()}".rstrip()
    return f"{KINDS[opcode]} {payload.decode()}".rstrip()


# ── doing what a trace says ──────────────────────────────────────────────────────────────────────────────────────────


class Stage:
    """A node whose ids are counted and whose clock stands still, its scripted agent, and clients by their names."""

    def __init__(self, trace: Trace) -> None:
        self._script = trace.agent
        self._waiting: defaultdict[str, list[anyio.Event]] = defaultdict(list)
        self._stops = 0  # how often an agent came to a `null`, or to its end
        self._now = Now(time.monotonic() + AHEAD, EPOCH)
        self._open = ExitStack()
        self.clients: dict[str, Raw] = {}
        numbers = count(1)
        self.manager = WebSocketManager(
            open_config(**trace.config),
            agent=self._answer,
            ids=lambda: f"{next(numbers):032x}",
            clock=lambda: self._now,
        )

    async def _answer(self, message: str) -> AsyncIterator[str | AgentStep]:
        try:
            for piece in self._script[message]:
                if piece is None:
                    self._waiting[message].append(going_on := anyio.Event())
                    self._stops += 1
                    await going_on.wait()
                elif isinstance(piece, str):
                    yield piece
                elif "raise" in piece:
                    raise RuntimeError(piece["raise"])
                else:
                    yield AgentStep(**piece)
        finally:
            self._stops += 1

    async def do(self, action: str, node: Node) -> None:
        """Do what a line says."""
        first, _, rest = action.partition(" ")
        second, _, argument = rest.partition(" ")
        if first == "go":
            waiting = self._waiting[json.loads(rest)]
            await until(lambda: waiting)
            stops = self._stops
            waiting.pop(0).set()
            await until(lambda: self._stops > stops)
        elif first == "pass":
            self._now = Now(self._now.mono + float(rest), self._now.unix + float(rest))
            self.manager.wake()
        elif first == "drain":
            self.manager.drain()
        elif second == "connects":
            await self._connect(first, node.port, json.loads(argument or "{}"))
        elif second == ">":
            with suppress(BrokenPipeError):  # some hosts end the connection behind their Close, and hear no more
                await self.clients[first].say(said(argument))
        elif second == "leaves":
            self.clients.pop(first).socket.close()
        else:
            raise ValueError(f"nobody knows what to do: {action}")

    async def _connect(self, name: str, port: int, more: dict[str, str]) -> None:
        headers = {
            "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13", **more,
        }  # fmt: skip
        client = self._open.enter_context(socket.create_connection(("127.0.0.1", port)))
        client.setblocking(False)
        self.clients[name] = Raw(client)
        lines = ["GET / HTTP/1.1", *(f"{field}: {value}" for field, value in headers.items()), "", ""]
        await self.clients[name].say("\r\n".join(lines).encode("latin-1"))

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


# ── recording ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def record(path: Path) -> None:
    """Write what is heard into a trace anew."""
    trace = Trace(path)
    answers: list[dict[str, list[str]]] = []
    ended: set[str] = set()
    with Stage(trace) as stage:
        async with serving(EVERY["asyncio-asyncio"], manager=stage.manager) as node:
            for step in trace.steps:
                await stage.do(step.action, node)
                answers.append({})
                for name in stage.clients.keys() - ended:
                    data, end = await _quiet(stage.clients[name])
                    known = any(name in answer for answer in answers)
                    answers[-1][name] = list(read(data, end, known))
                    ended |= {name} if end else set()
    path.write_text("".join(_written(path.read_text("utf-8"), iter(answers))), "utf-8")


async def _quiet(client: Raw) -> tuple[bytes, bool]:
    """What comes until nothing has come for a while, and whether that was the end."""
    data = b""
    while True:
        more = None
        with anyio.move_on_after(QUIET):
            more = await client.read()
        if not more:
            return data, more is not None
        data += more


def _written(text: str, answers: Iterator[dict[str, list[str]]]) -> Iterator[str]:
    """The lines of a trace with these answers instead of those that are there."""
    for line in text.splitlines(keepends=True):
        if HEARD.fullmatch(line.strip()):
            continue
        yield line
        if line.strip() and line.partition(" ")[0] not in ("#", "config", "agent"):
            for name, what in sorted(next(answers).items()):
                yield from (f"{name} < {one}\n" for one in what)


if __name__ == "__main__":
    for one in TRACES:
        anyio.run(record, one)
