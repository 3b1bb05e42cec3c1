"""What only the anyio server has: its tasks, its timer and its writing, on asyncio, uvloop and trio."""

from __future__ import annotations

import logging
import socket
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


async def test_an_idle_connection_is_one_task(adapter: Adapter) -> None:
    async with serving(adapter) as server, connected(await tcp(server)) as client:
        assert await client.ask("hola") == "hola"
        parked = server.manager._runs.parked  # on asyncio: for the next run
        await until(lambda: server._host.running == len(server.sockets) + 1 + parked + 1)  # and what looks at the loop


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
    assert failed.getMessage().splitlines()[:2] == ["task_failed", "  raised=RuntimeError"]
    assert "in feed" in failed.getMessage()


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
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [error.splitlines()[0] for error in errors] == ["timer_failed"]


@pytest.mark.row("F9")
async def test_a_dropped_peer_that_goes_on_sending_is_read_no_more(adapter: Adapter) -> None:
    async with serving(adapter, limits={"linger": 0.05}) as server, await tcp(server) as stream:
        await stream.send(b"no request\r\n\r\n" + bytes(200_000))
        with suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(bytes(64 * 1024))
        await until(lambda: server._host.running <= len(server.sockets) + 1)  # what looks at the loop goes on
