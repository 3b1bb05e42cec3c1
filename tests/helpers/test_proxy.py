"""The proxy that other tests stand on: it forwards every byte, and does what it is told to and nothing else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from .proxy import DIRECTIONS, Direction, Fault, Plan, Proxy, cutting, fair, foul, proxying

pytestmark = pytest.mark.anyio

PATIENCE = 10  # seconds after which a test counts as hung
BYTES = bytes(range(256)) * 400


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "trio":
        return "trio", {}
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class EchoServer:
    """Sends back what comes; how each read ended is in `ends`."""

    def __init__(self, listener: anyio.abc.SocketListener) -> None:
        self.port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.received = 0
        self.ends: list[str] = []
        self.ended = anyio.Event()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                while True:
                    data = await stream.receive()
                    self.received += len(data)
                    await stream.send(data)
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                self.ends.append(type(error).__name__)
                self.ended.set()


@asynccontextmanager
async def echoing(
    plan: Plan = fair, *, seed: int = 7, split: bool = False, delay: bool = False
) -> AsyncIterator[tuple[EchoServer, Proxy]]:
    with anyio.fail_after(PATIENCE):
        listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        server = EchoServer(listener)  # type: ignore[arg-type]
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.serve)
            async with proxying(server.port, seed, plan, split=split, delay=delay) as proxy:
                yield server, proxy
            tasks.cancel_scope.cancel()


async def connected(proxy: Proxy) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def read(stream: anyio.abc.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive()
    return data


async def rest(stream: anyio.abc.SocketStream) -> tuple[bytes, str]:
    """All that comes until the end, and which end that is."""
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        return data, type(error).__name__


@pytest.mark.parametrize(("split", "delay"), [(False, False), (True, False), (True, True)])
async def test_every_byte_goes_through_in_order(split: bool, delay: bool) -> None:
    async with (
        echoing(split=split, delay=delay) as (server, proxy),
        await connected(proxy) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(stream.send, BYTES)
        assert await read(stream, len(BYTES)) == BYTES
        await stream.send_eof()
        assert await rest(stream) == (b"", "EndOfStream")
        assert server.ends == ["EndOfStream"]
    assert proxy.faults == []


async def test_reads_are_split() -> None:
    async with echoing(split=True) as (_, proxy), await connected(proxy) as stream:
        await stream.send(BYTES[:2000])
        pieces: list[int] = []
        while sum(pieces) < 2000:
            pieces.append(len(await stream.receive()))
    assert len(pieces) > 1


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("after", [0, 1, 1000])
async def test_a_connection_ends_behind_the_byte_that_was_told(direction: Direction, after: int) -> None:
    async with (
        echoing(cutting(Fault("end", direction, after))) as (server, proxy),
        await connected(proxy) as stream,
    ):
        await stream.send(BYTES[:2000])
        data, end = await rest(stream)
        assert end == "EndOfStream"
        await stream.aclose()
        await server.ended.wait()
        assert server.ends == ["EndOfStream"]
        assert len(data) == after if direction == "down" else server.received == after
        assert proxy.faults == [f"connection 1: end after {after} bytes {direction}"]
        async with await connected(proxy) as other:
            await other.send(b"hola")
            assert await read(other, 4) == b"hola"


async def test_a_reset_is_seen_by_both_sides() -> None:
    async with echoing(cutting(Fault("reset", "down", 4))) as (server, proxy), await connected(proxy) as stream:
        await stream.send(b"hola")
        _, end = await rest(stream)
        await server.ended.wait()
        assert (end, server.ends) == ("BrokenResourceError", ["BrokenResourceError"])
        async with await connected(proxy) as other:
            await other.send(b"hola")
            assert await read(other, 4) == b"hola"
            proxy.reset()
            assert (await rest(other))[1] == "BrokenResourceError"
    assert proxy.faults == ["connection 1: reset after 4 bytes down", "connection 2: reset when told to"]


async def test_a_stalled_connection_is_half_open_until_it_may_flow() -> None:
    async with echoing(cutting(Fault("stall", "up", 2))) as (server, proxy), await connected(proxy) as stream:
        await stream.send(b"hola")
        while not proxy.faults:
            await anyio.lowlevel.checkpoint()
        async with await connected(proxy) as other:  # a new one is not concerned
            await other.send(b"hola")
            assert await read(other, 4) == b"hola"
        assert server.received == 2 + 4
        proxy.flow()
        assert await read(stream, 4) == b"hola"
        proxy.stall("down")
        await stream.send(b"dos")
        while server.received < 4 + 4 + 3:
            await anyio.lowlevel.checkpoint()
        assert "BrokenResourceError" not in server.ends
        proxy.flow()
        assert await read(stream, 3) == b"dos"


async def test_connections_are_turned_away_for_a_while() -> None:
    async with echoing() as (_, proxy):
        proxy.refuse(2)
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", proxy.port)) as refused:
                refused.setblocking(False)
                await anyio.wait_readable(refused)
                with pytest.raises(ConnectionResetError):
                    refused.recv(1)
        async with await connected(proxy) as stream:
            await stream.send(b"hola")
            assert await read(stream, 4) == b"hola"
        assert (proxy.turned_away, proxy.connections) == (2, 1)


async def test_a_seed_decides_what_happens() -> None:
    async def faults(seed: int) -> list[str]:
        async with echoing(foul(500, 500, connections=5, kinds=("end", "reset")), seed=seed, split=True) as (_, proxy):
            for _ in range(6):
                async with await connected(proxy) as stream:
                    await stream.send(BYTES[:500])
                    with anyio.move_on_after(0 if proxy.connections > 5 else None):
                        await rest(stream)
            return sorted(proxy.faults)

    assert await faults(3) == await faults(3) != await faults(4)
    assert len(await faults(3)) == 5
