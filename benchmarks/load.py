"""The load generator: plain protocols on uvloop, frames built beforehand, replies counted by their headers.

It never parses what it counts, so that the servers are measured and not this. How much it can do is measured in each
round against a server that does nothing (peers/constant.py), and its own use of a core is in every result. Here is what
all generators share, and the one that keeps messages unanswered; others are in pacing.py, arriving.py and hearing.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from .processes import Child, listen_to_parent, raise_limits, run_fast, take_cores, tell_parent

MASK = b"\x37\xfa\x21\x3d"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A  # first bytes of whole frames (RFC 6455 section 5.2)
CONTENT = "¿Cuál es la capital de España, y cuántas personas viven en ella?"
MESSAGE = json.dumps({"type": "chat_message", "content": CONTENT}, ensure_ascii=False)
WARM_UP = 0.5  # seconds at most before counting begins
PATIENCE = 15.0  # seconds for connecting, and for the last replies
AT_ONCE = 64  # connections that are made at the same time
ERROR_MARK = b'"type":"error"'
SOCKETIO = "socketio"  # the dialect that is not plain JSON


@dataclass(frozen=True, slots=True)
class Plan:
    """Connect once with each token; keep `in_flight` messages unanswered on each connection for `seconds`."""

    port: int
    tokens: Sequence[str]
    in_flight: int
    seconds: float
    server_pid: int
    message: str = MESSAGE
    frames: int = 1  # of an answer
    dialect: str = "websocket"


@dataclass(frozen=True, slots=True)
class Result:
    """What was counted. Processor seconds are those of the time counted; None where this system does not tell."""

    count: float
    seconds: float
    generator_cpu: float
    server_cpu: float | None
    reply: dict[str, Any] = field(default_factory=dict)  # one of them, whole

    @property
    def replies(self) -> float:
        """How many there were, where replies are counted."""
        return self.count

    @property
    def rate(self) -> float:
        """How many there were a second."""
        return self.count / self.seconds


def drive(plan: Plan) -> Result:
    """Carry out a plan in a process of its own. Raises ChildError where the server refuses, errs or stays silent."""
    return Result(**ask("benchmarks.load", plan))


def ask(module: str, plan: Any) -> Any:
    """What a load generator makes of a plan. Raises ChildError where it fails."""
    with Child("load generator", module, asdict(plan)) as child:
        return child.hear()


def masked_frame(payload: bytes, kind: int = TEXT) -> bytes:
    """A client's frame of less than 64 KiB (RFC 6455 section 5.2)."""
    key = (MASK * (len(payload) // 4 + 1))[: len(payload)]
    masked = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))
    length = len(payload)
    head = bytes((kind, 0x80 | length)) if length < 126 else bytes((kind, 0xFE)) + length.to_bytes(2)
    return head + MASK + masked


def message_frame(message: str, dialect: str = "websocket") -> bytes:
    """The frame of an event that a client sends."""
    if dialect == SOCKETIO:
        message = f'42["{json.loads(message)["type"]}",{message}]'
    return masked_frame(message.encode())


def upgrade_request(port: int, token: str, dialect: str = "websocket") -> bytes:
    """The first bytes of a client that brings its token along."""
    path = "/socket.io/?EIO=4&transport=websocket" if dialect == SOCKETIO else "/"
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


# ── in the generator's process ───────────────────────────────────────────────────────────────────────────────────────


class LoadError(Exception):
    """The server did not do its work; the text says what came instead."""


class Greeting(asyncio.Protocol):
    """A client until the server has greeted it; then its connection goes to another protocol."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._held = b""
        self._opened = False
        self.greeted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        if not self._opened:
            head, end, rest = self._held.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._refused(head)
                return
            self._opened, self._held = True, rest
        while (end_of_frame := frame_end(self._held)) is not None:
            frame, self._held = self._held[:end_of_frame], self._held[end_of_frame:]
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        payload = frame[2 if frame[1] < 126 else 4 :]
        if b"connection_established" in payload:
            self._transport.pause_reading()  # nothing comes unasked
            self.greeted.set_result(self._transport)
        elif payload.startswith(b"0{"):  # socket.io's own greeting
            self._transport.write(masked_frame(b"40"))
        elif not payload.startswith(b"40"):
            self._refused(frame)

    def connection_lost(self, error: Exception | None) -> None:
        self._refused(self._held)

    def _refused(self, said: bytes) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(LoadError(f"the server did not let a client in: it said {said[:200]!r}"))


class Client(asyncio.Protocol):
    """A client that was greeted. Counts what it hears, frame by frame, and takes nothing but texts and pings."""

    def __init__(self, transport: asyncio.Transport, failed: asyncio.Future[None]) -> None:
        self._transport = transport
        self._failed = failed
        self._rest = b""
        self._last = (b"", 0)  # what came last, and where its last frame begins
        self.heard = 0  # frames
        self.due = 0  # frames that are asked for
        self.lost = asyncio.Event()
        transport.set_protocol(self)
        transport.resume_reading()

    def take(self, frames: int) -> None:
        """So many more were heard."""

    def close(self) -> None:
        """Say goodbye."""
        self._transport.write(masked_frame((1000).to_bytes(2), CLOSE))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if ERROR_MARK in data:  # before its frames: the last of them may be a close
            self.fail(data[data.index(ERROR_MARK) - 1 :].decode("utf-8", "replace"))
            return
        at, last, end, frames = 0, 0, len(data), 0
        while end - at >= 4:
            length, head = data[at + 1], 2
            if length > 125:
                length, head = (data[at + 2] << 8) | data[at + 3], 4
            following = at + head + length
            if following > end:
                break
            if data[at] == TEXT:
                frames += 1
                last = at
            elif data[at] == PING:
                self._transport.write(masked_frame(data[at + head : following], PONG))
            else:
                self.fail(f"a frame that begins with {data[at : at + 16]!r}")
                return
            at = following
        self._rest = data[at:]
        if frames:
            self._last = (data, last)
            self.heard += frames
            if self.heard > self.due:
                self.fail(f"{self.heard} frames where {self.due} are due")
            else:
                self.take(frames)

    def connection_lost(self, error: Exception | None) -> None:
        if self.heard < self.due:
            self.fail("the end of the connection")
        self.lost.set()

    def fail(self, what: str) -> None:
        """Something came that should not."""
        if not self._failed.done():
            self._failed.set_exception(LoadError(f"instead of a reply came {what[:500]}"))

    def last_event(self) -> dict[str, Any]:
        """What was heard last, whole."""
        data, at = self._last
        frame = data[at : frame_end(data, at)]
        message: dict[str, Any] = json.loads(frame[frame.index(b'{"') : frame.rindex(b"}") + 1])
        return message


class Counting(Client):
    """A client that answers each reply with the next message."""

    def __init__(self, transport: asyncio.Transport, plan: Plan, failed: asyncio.Future[None]) -> None:
        super().__init__(transport, failed)
        frame = message_frame(plan.message, plan.dialect)
        self._messages = [frame * count for count in range(plan.in_flight + 1)]
        self._frames = plan.frames
        self._sending = True
        self._answered = 0

    def start(self) -> None:
        """Send the first messages."""
        self._ask(len(self._messages) - 1)

    def stop(self) -> None:
        """Send no more."""
        self._sending = False

    def take(self, frames: int) -> None:
        if self._frames > 1:
            frames = self.heard // self._frames - self._answered
            self._answered += frames
        if frames and self._sending:
            self._ask(frames)

    def _ask(self, messages: int) -> None:
        self.due += messages * self._frames
        self._transport.write(self._messages[messages])


async def generate(plan: Plan) -> Result:
    """Carry out a plan. Raises LoadError."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    clients = [Counting(one, plan, failed) for one in await connect(plan.port, plan.tokens, plan.dialect)]
    for client in clients:
        client.start()
    await sleep(min(WARM_UP, plan.seconds), failed)
    counted = await count(lambda: sum(client.heard for client in clients), plan.seconds, plan.server_pid, failed)
    for client in clients:
        client.stop()
    await finish(clients, failed)
    return Result(counted.amount / plan.frames, *counted[1:], reply=clients[0].last_event())


async def connect(port: int, tokens: Sequence[str], dialect: str) -> list[asyncio.Transport]:
    """A connection with each token, let in and greeted. Raises LoadError."""
    transports: list[asyncio.Transport] = []
    async with asyncio.timeout(PATIENCE):
        for at in range(0, len(tokens), AT_ONCE):
            together = (arrive(port, token, dialect) for token in tokens[at : at + AT_ONCE])
            transports += await asyncio.gather(*together)
    return transports


async def arrive(port: int, token: str, dialect: str) -> asyncio.Transport:
    """One connection. Raises LoadError where the server does not let it in, OSError where there is no server."""
    request = upgrade_request(port, token, dialect)
    loop = asyncio.get_running_loop()
    _, greeting = await loop.create_connection(lambda: Greeting(request), "127.0.0.1", port)
    return await greeting.greeted


async def sleep(seconds: float, failed: asyncio.Future[None]) -> None:
    """Let the clients work; raise what one of them met."""
    await asyncio.wait([failed], timeout=seconds)
    if failed.done():
        failed.result()


async def count(heard: Callable[[], int], seconds: float, server_pid: int, failed: asyncio.Future[None]) -> Gauge:
    """What is heard in so many seconds, or in as many more as it takes until there is something. Raises LoadError."""
    before = Gauge.of(heard(), server_pid)
    await sleep(seconds, failed)
    async with asyncio.timeout(PATIENCE):
        while heard() == before.amount:
            await sleep(0.01, failed)
    return Gauge.of(heard(), server_pid).since(before)


async def finish(clients: Sequence[Client], failed: asyncio.Future[None]) -> None:
    """Hear what is still due, and leave. Raises LoadError."""
    async with asyncio.timeout(PATIENCE):
        while any(client.heard < client.due for client in clients):
            await sleep(0.01, failed)
        for client in clients:
            client.close()
            await client.lost.wait()
    await sleep(0, failed)


class Gauge(NamedTuple):
    """What is read at the beginning and at the end of the counting."""

    amount: int
    seconds: float
    generator_cpu: float
    server_cpu: float | None

    @classmethod
    def of(cls, amount: int, server_pid: int) -> Gauge:
        """As it is now, where so much was counted."""
        return cls(amount, time.perf_counter(), time.process_time(), processor_seconds(server_pid))

    def since(self, before: Gauge) -> Gauge:
        """What came between."""
        return Gauge(
            self.amount - before.amount,
            self.seconds - before.seconds,
            self.generator_cpu - before.generator_cpu,
            None if self.server_cpu is None or before.server_cpu is None else self.server_cpu - before.server_cpu,
        )


def processor_seconds(pid: int) -> float | None:
    """The processor time of another process so far (Linux alone tells, in ticks of 10 ms)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def frame_end(data: bytes, at: int = 0) -> int | None:
    """Where the frame that begins there ends; None where more of it is to come. A server's frames are not masked."""
    if len(data) - at < 4:
        return None
    length, head = data[at + 1], 2
    if length > 125:
        length, head = int.from_bytes(data[at + 2 : at + 4]), 4
    end = at + head + length
    return end if end <= len(data) else None


def obey(generate: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
    """In a generator's process: do what the parent says, and say what came of it."""
    told = listen_to_parent()
    take_cores(server=False)
    raise_limits()
    try:
        tell_parent(asdict(run_fast(generate(told))))
    except TimeoutError:
        tell_parent({"failed": f"the server was silent for {PATIENCE:.0f} s"})
    except (LoadError, OSError) as error:
        tell_parent({"failed": str(error)})


if __name__ == "__main__":
    obey(lambda told: generate(Plan(**told)))
