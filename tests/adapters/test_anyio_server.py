"""What only the anyio server has: its tasks, its timer and its writing, on asyncio, uvloop and trio."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from qaws import WebSocketManager
from qaws.anyio_server import WebSocketServer
from qaws_proto.inputs import WriteBlocked, WriteDrained, WriteProgressed

from .byte_servers import ADAPTERS, PATIENCE, Adapter, connected, echo, rest, serving, tcp, until
from .peers import Recorded, open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["anyio-asyncio", "anyio-uvloop", "anyio-trio"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


async def test_a_conversation(adapter: Adapter) -> None:
    async with serving(adapter) as server, connected(await tcp(server)) as client:
        assert await client.ask("¿Cómo estás?") == "¿Cómo estás?"
        assert await client.ask("x" * 10_000) == "x" * 10_000


async def test_an_idle_connection_is_one_task(adapter: Adapter) -> None:
    async with serving(adapter) as server, connected(await tcp(server)) as client:
        assert await client.ask("hola") == "hola"
        await until(lambda: server._host.running == len(server.sockets) + 1)


async def test_a_server_may_be_stopped_by_another_task(adapter: Adapter) -> None:
    with anyio.fail_after(PATIENCE):
        server = WebSocketServer(echo, open_config())
        async with anyio.create_task_group() as starting:
            starting.start_soon(server.start)
        async with connected(await tcp(server)) as client, anyio.create_task_group() as stopping:
            assert await client.ask("hola") == "hola"
            stopping.start_soon(server.stop)
            assert (await client.hear(event_name="server_draining"))["data"]["reconnect_after"] == 1
            assert await client.ended() == 1012


@pytest.mark.row("D1")
async def test_serve_forever_drains_when_its_scope_is_cancelled(adapter: Adapter) -> None:
    release = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        await release.wait()
        yield "second"

    server, scope = WebSocketServer(agent, open_config()), anyio.CancelScope()

    async def serve() -> None:
        with scope:
            await server.serve_forever()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            await until(lambda: bool(server.sockets))
            async with connected(await tcp(server)) as client:
                await client.say("?", stream=True)
                await client.hear(type="agent_chunk")
                scope.cancel()
                await client.hear(event_name="server_draining")
                release.set()
                assert (await client.hear(type="agent_response"))["content"] == "first second"
                assert await client.ended() == 1012


@pytest.mark.row("D1")
async def test_a_stop_that_is_cancelled_stops_now(adapter: Adapter) -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        await anyio.sleep_forever()

    async with serving(adapter, agent) as server, connected(await tcp(server)) as client:
        await client.say("?", stream=True)
        await client.hear(type="agent_chunk")
        async with anyio.create_task_group() as group:
            group.start_soon(server.stop)
            await client.hear(event_name="server_draining")
            group.cancel_scope.cancel()
        assert (await client.hear(type="agent_response"))["status"] == "cancelled"
        assert await client.ended() == 1001


@pytest.mark.row("G5")
async def test_a_stop_does_not_wait_for_an_agent_that_blocks(adapter: Adapter) -> None:
    release = threading.Event()

    def agent(message: str) -> Iterator[str]:
        yield "first "
        assert release.wait(PATIENCE)

    async with serving(adapter, agent, agent={"cancel_grace": 60}, limits={"close_timeout": 0.05}) as server:
        try:
            async with connected(await tcp(server)) as client:
                await client.say("?", stream=True)
                await client.hear(type="agent_chunk")
                await server.stop_now()
                assert server.manager.gateway.runs == 1
        finally:
            release.set()


@pytest.mark.row("G5")
async def test_a_stop_lets_an_agent_go_that_ignores_its_cancellation(adapter: Adapter) -> None:
    release = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        with anyio.CancelScope(shield=True):
            await release.wait()

    drain, limits = {"timeout": 0.01, "interval": 0.01}, {"close_timeout": 0.05}
    async with serving(adapter, agent, agent={"cancel_grace": 0.05}, drain=drain, limits=limits) as server:
        async with connected(await tcp(server)) as client:
            await client.say("?", stream=True)
            await client.hear(type="agent_chunk")
            await server.stop()
            assert server.manager.gateway.runs == 1
        release.set()


@pytest.mark.row("C1")
async def test_a_peer_that_reads_late_gets_everything_and_the_node_is_told_of_each_piece(adapter: Adapter) -> None:
    size = 3_000_000

    async def agent(message: str) -> str:
        return "x" * size

    manager = Recorded(open_config(limits={"out_top": 2 * size}), agent=agent)
    with anyio.fail_after(PATIENCE):
        async with WebSocketServer(manager) as server:
            server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)  # inherited
            async with connected(await tcp(server)) as client:
                await client.say("?")
                await until(lambda: any(isinstance(one, WriteBlocked) for one in manager.inputs))
                assert (await client.hear(type="agent_response"))["content"] == "x" * size
            told = [
                type(one) for one in manager.inputs if isinstance(one, WriteBlocked | WriteProgressed | WriteDrained)
            ]
    assert told[0] is WriteBlocked
    assert told.count(WriteProgressed) > 10
    assert told[-1] is WriteDrained
    assert told.count(WriteBlocked) == told.count(WriteDrained)


async def test_a_mistake_in_one_connection_is_logged_and_the_others_go_on(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    class Mistaken(WebSocketManager):
        def feed(self, event: Any) -> None:
            if b"mistake" in getattr(event, "data", b""):
                raise RuntimeError("a mistake of ours")
            super().feed(event)

    with anyio.fail_after(PATIENCE):
        async with (
            WebSocketServer(Mistaken(open_config(), agent=echo)) as server,
            connected(await tcp(server)) as other,
        ):
            async with await tcp(server) as stream:
                await stream.send(b"mistake")
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            assert await other.ask("hola") == "hola"
    (failed,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "a mistake of ours" in str(failed.exc_info)


async def test_the_timer_survives_a_mistake(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    class Mistaken(WebSocketManager):
        mistakes = 1

        def wake(self) -> None:
            if self.mistakes:
                self.mistakes -= 1
                raise RuntimeError("a mistake of ours")
            super().wake()

    manager = Mistaken(open_config(limits={"head_timeout": 0.05}), agent=echo)
    with anyio.fail_after(PATIENCE):
        async with WebSocketServer(manager) as server, await tcp(server) as silent:
            assert await rest(silent) == b""  # it was dropped all the same
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == ["timer_failed"]


@pytest.mark.row("F9")
async def test_a_dropped_peer_that_goes_on_sending_is_read_no_more(adapter: Adapter) -> None:
    async with serving(adapter, limits={"linger": 0.05}) as server, await tcp(server) as stream:
        await stream.send(b"no request\r\n\r\n" + bytes(200_000))
        with suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(bytes(64 * 1024))
        await until(lambda: server._host.running <= len(server.sockets))
