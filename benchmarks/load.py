"""The load generator: plain protocols on uvloop, frames built beforehand, replies counted by their headers.

It never parses what it counts, so that the servers are measured and not this. How much it can do is measured in each
round against a server that does nothing (peers/constant.py), and its own use of a core is in every result.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from .processes import Child, listen_to_parent, run_fast, tell_parent

MASK = b"\x37\xfa\x21\x3d"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A  # first bytes of whole frames (RFC 6455 section 5.2)
CONTENT = "¿Cuál es la capital de España, y cuántas personas viven en ella?"
MESSAGE = json.dumps({"type": "chat_message", "content": CONTENT}, ensure_ascii=False)
WARM_UP = 1.0  # seconds at most before counting begins
PATIENCE = 15.0  # seconds for connecting, and for the last replies
ERROR_MARK = b'"type":"error"'


@dataclass(frozen=True, slots=True)
class Plan:
    """Connect once with each token; keep `in_flight` messages unanswered on each connection for `seconds`."""

    port: int
    tokens: Sequence[str]
    in_flight: int
    seconds: float
    server_pid: int
    message: str = MESSAGE


@dataclass(frozen=True, slots=True)
class Result:
    """What was counted. Processor seconds are those of the time counted; None where this system does not tell."""

    replies: int
    seconds: float
    generator_cpu: float
    server_cpu: float | None
    reply: dict[str, Any]  # one of them, whole

    @property
    def rate(self) -> float:
        """Replies per second."""
        return self.replies / self.seconds


def drive(plan: Plan) -> Result:
    """Carry out a plan in a process of its own. Raises ChildError where the server refuses, errs or stays silent."""
    with Child("load generator", "benchmarks.load", asdict(plan)) as child:
        return Result(**child.hear())


def masked_frame(payload: bytes, kind: int = TEXT) -> bytes:
    """A client's frame of less than 64 KiB (RFC 6455 section 5.2)."""
    key = (MASK * (len(payload) // 4 + 1))[: len(payload)]
    masked = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))
    length = len(payload)
    head = bytes((kind, 0x80 | length)) if length < 126 else bytes((kind, 0xFE)) + length.to_bytes(2)
    return head + MASK + masked


def upgrade_request(port: int, token: str) -> bytes:
    """The first bytes of a client that brings its token along."""
    return (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


# ── in the generator's process ───────────────────────────────────────────────────────────────────────────────────────


class LoadError(Exception):
    """The server did not do its work; the text says what came instead."""


class Greeting(asyncio.Protocol):
    """A client until the server has greeted it; then its connection goes to a Counting."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._held = b""
        self.greeted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        _, _, frames = self._held.partition(b"\r\n\r\n")
        if b"connection_established" in frames and frames.endswith(b"}"):
            self._transport.pause_reading()  # nothing comes unasked
            self.greeted.set_result(self._transport)
        elif frames[:1] == bytes((CLOSE,)):
            self._refused()

    def connection_lost(self, error: Exception | None) -> None:
        self._refused()

    def _refused(self) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(LoadError(f"the server did not let a client in: it said {self._held[:200]!r}"))


class Counting(asyncio.Protocol):
    """A client that answers each reply with the next message."""

    def __init__(
        self, transport: asyncio.Transport, frame: bytes, in_flight: int, failed: asyncio.Future[None]
    ) -> None:
        self._transport = transport
        self._frames = [frame * count for count in range(in_flight + 1)]
        self._failed = failed
        self._rest = b""
        self._sending = True
        self.lost = asyncio.Event()
        self.last = b""  # what came last; begins with a frame
        self.sent = 0
        self.replies = 0
        transport.set_protocol(self)
        transport.resume_reading()

    def start(self) -> None:
        """Send the first messages."""
        self.sent = len(self._frames) - 1
        self._transport.write(self._frames[-1])

    def stop(self) -> None:
        """Send no more."""
        self._sending = False

    def close(self) -> None:
        """Say goodbye."""
        self._transport.write(masked_frame((1000).to_bytes(2), CLOSE))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end, replies = 0, len(data), 0
        while end - at >= 4:
            length, head = data[at + 1], 2
            if length > 125:
                length, head = (data[at + 2] << 8) | data[at + 3], 4
            following = at + head + length
            if following > end:
                break
            if data[at] == TEXT:
                replies += 1
            elif data[at] == PING:
                self._transport.write(masked_frame(data[at + head : following], PONG))
            else:
                self._fail(f"a frame that begins with {data[at : at + 16]!r}")
                return
            at = following
        self._rest = data[at:]
        if ERROR_MARK in data:
            self._fail(data.decode("utf-8", "replace"))
        if replies:
            self.last = data
            self.replies += replies
            if self._sending:
                if replies >= len(self._frames):
                    self._fail(f"{replies} replies to at most {len(self._frames) - 1} messages")
                    return
                self.sent += replies
                self._transport.write(self._frames[replies])

    def connection_lost(self, error: Exception | None) -> None:
        if self.replies < self.sent:
            self._fail("the end of the connection")
        self.lost.set()

    def _fail(self, what: str) -> None:
        self._sending = False
        if not self._failed.done():
            self._failed.set_exception(LoadError(f"instead of a reply came {what[:500]}"))


async def generate(plan: Plan) -> Result:
    """Carry out a plan. Raises LoadError."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    frame = masked_frame(plan.message.encode())
    clients = [Counting(await _connect(plan.port, token), frame, plan.in_flight, failed) for token in plan.tokens]
    for client in clients:
        client.start()
    await _sleep(min(WARM_UP, plan.seconds), failed)
    before = _Gauge.read(clients, plan.server_pid)
    await _sleep(plan.seconds, failed)
    counted = _Gauge.read(clients, plan.server_pid).since(before)
    for client in clients:
        client.stop()
    async with asyncio.timeout(PATIENCE):
        while any(client.replies < client.sent for client in clients):
            await _sleep(0.01, failed)
        if any(client.replies > client.sent for client in clients):
            raise LoadError("more came than replies")
        for client in clients:
            client.close()
            await client.lost.wait()
    return Result(**asdict(counted), reply=_first_message(clients[0].last))


async def _connect(port: int, token: str) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        _, greeting = await loop.create_connection(lambda: Greeting(upgrade_request(port, token)), "127.0.0.1", port)
        return await greeting.greeted


async def _sleep(seconds: float, failed: asyncio.Future[None]) -> None:
    """Let the clients work; raise what one of them met."""
    await asyncio.wait([failed], timeout=seconds)
    if failed.done():
        failed.result()


@dataclass(frozen=True, slots=True)
class _Gauge:
    """What is read at the beginning and at the end of the counting."""

    replies: int
    seconds: float
    generator_cpu: float
    server_cpu: float | None

    @classmethod
    def read(cls, clients: Sequence[Counting], server_pid: int) -> _Gauge:
        replies = sum(client.replies for client in clients)
        return cls(replies, time.perf_counter(), time.process_time(), processor_seconds(server_pid))

    def since(self, before: _Gauge) -> _Gauge:
        return _Gauge(
            self.replies - before.replies,
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


def _first_message(data: bytes) -> dict[str, Any]:
    length, head = data[1], 2
    if length > 125:
        length, head = int.from_bytes(data[2:4]), 4
    message: dict[str, Any] = json.loads(data[head : head + length])
    return message


def main() -> None:
    """Do what the parent says, and say what came of it."""
    plan = Plan(**listen_to_parent())
    try:
        tell_parent(asdict(run_fast(generate(plan))))
    except TimeoutError:
        tell_parent({"failed": f"the server was silent for {PATIENCE:.0f} s"})
    except (LoadError, OSError) as error:
        tell_parent({"failed": str(error)})


if __name__ == "__main__":
    main()
