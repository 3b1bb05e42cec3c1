"""A chat model behind the OpenAI format on a loopback port, as a test scripts it; in a thread, for any event loop."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import anyio.to_thread

PATIENCE = 10.0  # seconds after which something that should have happened has not
DONE = b"data: [DONE]\n\n"


class Request(NamedTuple):
    """What a client sent. Names of headers are in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int  # which of the server's connections it came on


class Gate:
    """A place in an answer where the server waits until the test lets it go on."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reached, self._opened = threading.Event(), asyncio.Event()

    async def reached(self) -> None:
        """For the test: wait until the server has come here."""
        await happened(self._reached)

    def open(self) -> None:
        """For the test: let the server go on."""
        assert self._loop is not None, "nobody waits here yet"
        self._loop.call_soon_threadsafe(self._opened.set)

    async def wait(self) -> None:
        """For the server."""
        self._loop = asyncio.get_running_loop()
        self._reached.set()
        await self._opened.wait()


BREAK = "break"  # in an answer: reset the connection here
Script = Sequence["bytes | Gate | str"]


@dataclass
class Answer:
    """One answer. Each piece of bytes is written by itself; without the end of its body it is cut off."""

    script: Script = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})


def chunk(content: str | None = None, *, finish: str | None = None, **delta: Any) -> bytes:
    """One event of a stream."""
    parts = {**({} if content is None else {"content": content}), **delta}
    return event({"id": "c1", "object": "chat.completion.chunk", "choices": [
        {"index": 0, "delta": parts, "finish_reason": finish, "logprobs": None}]})  # fmt: skip


def event(value: object) -> bytes:
    """Any JSON as an event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def says(*pieces: str) -> Answer:
    """A plain answer in these pieces."""
    return Answer([*map(chunk, pieces), chunk(finish="stop"), DONE])


async def happened(event: threading.Event) -> None:
    """Wait for something in the server's thread."""
    wait = partial(event.wait, PATIENCE)
    assert await anyio.to_thread.run_sync(wait, abandon_on_cancel=True), "it has not happened"


class ModelServer:
    """Use as `with ModelServer(answers…) as server`. Without a script left it says `Hello`."""

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answers = deque(answers)
        self.requests: list[Request] = []
        self.disconnected = threading.Event()  # a client left in the middle of an answer
        self.port = 0
        self._tls = tls
        self._connections = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """The base of its API."""
        return f"http://127.0.0.1:{self.port}/v1" if self._tls is None else f"https://localhost:{self.port}/v1"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other, and an eye on the client while it is answered."""
        self._connections += 1
        number, held = self._connections, b""
        try:
            while True:
                while (request := parsed(held, number)) is None:
                    data = await reader.read(65536)
                    if not data:
                        return
                    held += data
                held = b""
                self.requests.append(request)
                answer = self.answers.popleft() if self.answers else says("Hello")
                reading = asyncio.ensure_future(reader.read(65536))
                answering = asyncio.ensure_future(self._answer(writer, answer))
                await asyncio.wait({reading, answering}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    answering.cancel()
                    self.disconnected.set()
                    return
                await answering
                held = await reading
                if not held:
                    return
        except OSError:
            self.disconnected.set()
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, answer: Answer) -> None:
        headers = {"Transfer-Encoding": "chunked", **answer.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {answer.status} Status\r\n{lines}\r\n".encode())
        for step in answer.script:
            if isinstance(step, bytes):
                writer.write(b"%x\r\n%b\r\n" % (len(step), step))
                await writer.drain()
            elif isinstance(step, Gate):
                await step.wait()
            else:
                assert step == BREAK
                writer.close()
                return
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def parsed(data: bytes, connection: int) -> Request | None:
    """A request that is whole."""
    head, end, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in fields)}
    if not end or len(body) < int(headers["content-length"]):
        return None
    method, path, _ = line.split(" ")
    return Request(method, path, headers, json.loads(body), connection)
