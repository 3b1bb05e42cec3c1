"""What only asyncio has: a task that is cancelled once, and may go on."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from qaws import WebSocketServer

from .byte_servers import ADAPTERS, PATIENCE, connected, echo, serving, tcp, until
from .peers import open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.mark.row("D1")
async def test_serve_forever_drains_when_its_task_is_cancelled() -> None:
    with anyio.fail_after(PATIENCE):
        server = WebSocketServer(echo, open_config())
        serving = asyncio.create_task(server.serve_forever())
        await until(lambda: server.sockets)
        async with connected(await tcp(server)) as client:
            assert await client.ask("hola") == "hola"
            serving.cancel()
            assert await client.ended() == 1012
        with pytest.raises(asyncio.CancelledError):
            await serving


@pytest.mark.row("D1")
async def test_a_stop_whose_task_is_cancelled_stops_now() -> None:
    async with serving(ADAPTERS["asyncio-asyncio"], _for_ever) as server, connected(await tcp(server)) as client:
        await client.say("?")
        await until(lambda: server.manager.gateway.runs == 1)
        stopping = asyncio.create_task(server.stop())
        await client.hear(event_name="server_draining")
        stopping.cancel()
        assert await client.ended() == 1001


async def _for_ever(message: str) -> str:
    await anyio.sleep_forever()
    return message
