"""The byte servers on each event loop they run on, and a client for all of these: what their tests stand on."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from qaws import WebSocketManager, anyio_server, asyncio_protocol, asyncio_server
from qaws.server import ByteServer
from qaws_proto.wire.client import Accepted, ClientLink, Rejected
from qaws_proto.wire.frames import CloseReceived, TextReceived

from .peers import KEY, open_config

PATIENCE = 15  # seconds after which a test counts as hung


class Adapter(NamedTuple):
    """A server class and the event loop it runs on."""

    server: type[ByteServer]
    backend: tuple[str, dict[str, Any]]


ADAPTERS = {
    "protocol-asyncio": Adapter(asyncio_protocol.WebSocketServer, ("asyncio", {"use_uvloop": False})),
    "protocol-uvloop": Adapter(asyncio_protocol.WebSocketServer, ("asyncio", {"use_uvloop": True})),
    "asyncio-asyncio": Adapter(asyncio_server.WebSocketServer, ("asyncio", {"use_uvloop": False})),
    "asyncio-uvloop": Adapter(asyncio_server.WebSocketServer, ("asyncio", {"use_uvloop": True})),
    "anyio-asyncio": Adapter(anyio_server.WebSocketServer, ("asyncio", {"use_uvloop": False})),
    "anyio-uvloop": Adapter(anyio_server.WebSocketServer, ("asyncio", {"use_uvloop": True})),
    "anyio-trio": Adapter(anyio_server.WebSocketServer, ("trio", {})),
}


async def echo(message: str) -> str:
    return message


@asynccontextmanager
async def serving(
    adapter: Adapter, agent: object = echo, /, *, sockets: Any = None, **sections: Any
) -> AsyncIterator[ByteServer]:
    """A server on a free port, without authentication unless the sections say otherwise. Nothing is left of it."""
    manager = WebSocketManager(open_config(**sections), agent=agent)
    with anyio.fail_after(PATIENCE):
        async with adapter.server(manager, sockets=sockets) as server:
            yield server
        assert manager.gateway.connections == 0
        assert not manager._transports


async def until(condition: Any) -> None:
    """Let the event loop turn until something holds; the test's own time limit is the end of it."""
    while not condition():
        await anyio.sleep(0)


class Client:
    """A WebSocket client over any byte stream."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self._link = ClientLink("localhost", "/", KEY)

    async def upgrade(self, subprotocols: Sequence[str] = (), **headers: str) -> Accepted | Rejected:
        """Ask for a WebSocket; what the server says."""
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self._link = ClientLink("localhost", "/", KEY, subprotocols=subprotocols, headers=fields)
        await self.stream.send(self._link.request)
        verdict = await self._next()
        assert isinstance(verdict, Accepted | Rejected), verdict
        if isinstance(verdict, Accepted):
            self.subprotocol = verdict.subprotocol
        return verdict

    async def say(self, content: str, **fields: Any) -> None:
        """Send a chat message."""
        await self.tell(type="chat_message", content=content, **fields)

    async def tell(self, **event: Any) -> None:
        """Send an event."""
        await self.send(json.dumps(event))

    async def send(self, text: str) -> None:
        """Send a text message."""
        await self.stream.send(self._link.text(text.encode()))

    async def hear(self, **fields: Any) -> dict[str, Any]:
        """The next event with those fields; the ones before it are passed over."""
        while True:
            event = await self._next()
            assert isinstance(event, TextReceived), event
            said: dict[str, Any] = json.loads(event.text)
            if all(said.get(name) == value for name, value in fields.items()):
                return said

    async def ask(self, content: str) -> str:
        """The answer to a message."""
        await self.say(content)
        answer: str = (await self.hear(type="agent_response"))["content"]
        return answer

    async def ended(self) -> int | None:
        """Read to the end; the code of the server's Close, None without one."""
        try:
            while True:
                event = await self._next()
                if isinstance(event, CloseReceived):
                    self.close_code = event.code
                    await self.stream.send(self._link.close())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            await self.stream.aclose()
            return self.close_code

    async def _next(self) -> object:
        while (event := self._link.next_event()) is None:
            self._link.receive(await self.stream.receive())
        return event


@asynccontextmanager
async def connected(
    stream: anyio.abc.ByteStream, subprotocols: Sequence[str] = (), **headers: str
) -> AsyncIterator[Client]:
    """A client that has been let in."""
    async with aclosing(stream):
        client = Client(stream)
        verdict = await client.upgrade(subprotocols, **headers)
        assert isinstance(verdict, Accepted), verdict
        yield client


async def tcp(server: ByteServer, tls: ssl.SSLContext | None = None) -> anyio.abc.ByteStream:
    """A connection to the first TCP socket of a server."""
    stream = await anyio.connect_tcp("127.0.0.1", server.port)
    if tls is None:
        return stream
    try:
        return await TLSStream.wrap(stream, hostname="localhost", ssl_context=tls, standard_compatible=False)
    except BaseException:
        await stream.aclose()
        raise


async def rest(stream: anyio.abc.ByteStream) -> bytes:
    """Everything that comes until the end, whichever way it ends."""
    data = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            data += await stream.receive()
    return data
