"""The manager and the asyncio server on an event loop whose tasks begin within the call that makes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import connect

from qaws import WebSocketServer
from qaws_proto.inputs import WriteBlocked, WriteDrained

from .peers import Peer, Recorded, driven, eager_event_loop, open_config

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": eager_event_loop}


@asynccontextmanager
async def managing(agent: object, /, **sections: Any) -> AsyncIterator[Recorded]:
    manager = Recorded(open_config(**sections), agent=agent)
    with anyio.fail_after(10):
        async with driven(manager, "asyncio"):
            yield manager


async def test_tasks_begin_at_once() -> None:
    begun = []

    async def task() -> None:
        begun.append(asyncio.current_task())

    assert [asyncio.create_task(task())] == begun


@pytest.mark.clause("C4")
async def test_what_goes_with_the_start_of_a_run_is_done_before_the_agent_begins() -> None:
    done: list[str] = []

    async def agent(message: str) -> str:
        done.extend(peer.done)
        return message

    async with managing(agent) as manager:
        peer = Peer(manager)
        peer.done.clear()
        peer.say_all(("chat_message", {"content": "hola", "id": "m1"}), ("ping", {}))  # its pong is behind the start
        assert (await peer.hear("agent_response")).content == "hola"
    assert done == ["send"]


async def test_a_run_that_is_cancelled_as_it_starts_never_calls_the_agent() -> None:
    called: list[str] = []

    async def agent(message: str) -> str:
        called.append(message)
        return message

    async with managing(agent) as manager:
        peer = Peer(manager)
        never: dict[str, Any] = {"content": "never", "id": "m1"}
        peer.say_all(
            ("chat_message", never), ("cancel", {"correlation_id": "m1"}), ("chat_message", {"content": "next"})
        )
        answer = await peer.hear("agent_response")
        assert answer.status == "cancelled"
        assert (await peer.hear("agent_response")).content == "next"
        assert called == ["next"]
        assert manager.ends_of(answer.run_id) == 1


@pytest.mark.row("C1")
async def test_an_agent_that_never_waits_is_not_pulled_while_its_reader_is_behind() -> None:
    pulled, pieces, size = 0, 40, 200

    async def agent(message: str) -> AsyncIterator[str]:
        nonlocal pulled
        for _ in range(pieces):
            pulled += 1
            yield "x" * size

    async with managing(agent, limits={"out_high": 1024, "out_top": 1024 * 1024}, agent={"roll_up": 0}) as manager:
        peer = Peer(manager)
        peer.held = []
        manager.feed(WriteBlocked(peer.number))
        peer.say("chat_message", content="?", stream=True)
        (run,) = manager._runs.active.values()
        while run.resumed is None:
            await anyio.lowlevel.checkpoint()
        held_back = pulled
        for _ in range(100):  # nothing more comes, however long one waits
            await anyio.lowlevel.checkpoint()
        assert held_back == pulled < pieces / 2
        peer.read_on()
        manager.feed(WriteDrained(peer.number))
        assert (await peer.hear("agent_response")).content == "x" * size * pieces


async def test_a_server_streams_cancels_and_drains() -> None:
    streaming, release = asyncio.Event(), asyncio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield message
        if message != "short":
            streaming.set()
            await release.wait()
        yield "."

    async with asyncio.timeout(15):
        server = WebSocketServer(agent, open_config(agent={"roll_up": 0}))
        async with server, connect(server.url) as client:
            events = (json.loads(text) async for text in client)

            async def ask(content: str) -> None:
                await client.send(
                    json.dumps({"type": "chat_message", "content": content, "id": content, "stream": True})
                )

            async def hear(type: str) -> dict[str, Any]:
                return await anext(event async for event in events if event["type"] == type)

            await ask("short")
            assert (await hear("agent_response"))["content"] == "short."
            await ask("cancelled")
            await streaming.wait()
            await client.send(json.dumps({"type": "cancel", "correlation_id": "cancelled"}))
            assert (await hear("agent_response"))["status"] == "cancelled"
            streaming.clear()
            await ask("drained")
            await streaming.wait()
            stopping = asyncio.create_task(server.stop())
            release.set()
            assert (await hear("agent_response"))["content"] == "drained."
            await stopping
        assert server.manager.gateway.connections == 0
        assert not server.manager._runs.active
