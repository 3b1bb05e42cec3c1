"""Draining and stopping (D1), and what is left afterwards (C3)."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from qaws_proto.wire.client import Rejected

from ..byte_servers import PATIENCE, until
from ..hosts import Adapter, Node, client, on_byte_servers, open_files, serving, tasks_alive, upgrading
from ..raw import UPGRADE, raw

pytestmark = pytest.mark.anyio


class Gate:
    """An agent that answers when it is let."""

    def __init__(self) -> None:
        self.entered, self.open = anyio.Event(), anyio.Event()

    async def chat(self, message: str) -> AsyncIterator[str]:
        yield "first "
        self.entered.set()
        await self.open.wait()
        yield "second"


async def get(node: Node, path: str) -> bytes:
    """The status of an HTTP request."""
    async with raw(node, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()) as one:
        return (await one.all())[len(b"HTTP/1.1 ") :][:3]


@pytest.mark.row("D1")
async def test_a_drain_loses_nothing_and_says_when_to_come_back(adapter: Adapter) -> None:
    gate = Gate()
    async with serving(adapter, gate, drain={"interval": 0.01}) as node, client(node) as ana:
        assert await get(node, "/readyz") == b"200"
        await ana.say("?", stream=True, id="m1")
        await gate.entered.wait()
        async with anyio.create_task_group() as stopping:
            stopping.start_soon(node.stop)
            notice = await ana.hear(event_name="server_draining")
            assert set(notice["data"]) == {"deadline", "reconnect_after"}
            assert await get(node, "/readyz") == b"503"
            assert await get(node, "/healthz") == b"200"
            async with upgrading(node) as refused:
                assert isinstance(refused, Rejected)
                assert refused.status == 503
            await ana.say("late", id="m2")
            assert (await ana.hear(type="error"))["error_code"] == "OVERLOADED"
            gate.open.set()
            assert (await ana.hear(type="agent_response"))["content"] == "first second"
            assert await ana.ended() == 1012
        await node.stop()  # which changes nothing


@pytest.mark.row("D1")
async def test_a_second_stop_ends_everything_now(adapter: Adapter) -> None:
    gate = Gate()
    async with serving(adapter, gate) as node, client(node) as ana, anyio.create_task_group() as stopping:
        await ana.say("?")
        await gate.entered.wait()
        stopping.start_soon(node.stop)
        await ana.hear(event_name="server_draining")
        stopping.start_soon(node.stop_now)
        answer = await ana.hear(type="agent_response")
        assert (answer["status"], answer["content"]) == ("cancelled", "first ")
        assert await ana.ended() == 1001


@pytest.mark.row("D1")
@pytest.mark.row("G5")
async def test_stopping_now_does_not_wait_for_an_agent_that_blocks(adapter: Adapter) -> None:
    release = threading.Event()

    def agent(message: str) -> Iterator[str]:
        yield "first "
        assert release.wait(PATIENCE)

    sections: dict[str, Any] = {"agent": {"cancel_grace": 60}, "limits": {"close_timeout": 0.05}}
    async with serving(adapter, agent, **sections) as node, client(node) as ana:
        try:
            await ana.say("?", stream=True)
            await ana.hear(type="agent_chunk")
            await node.stop_now()
            assert node.manager.gateway.runs == 1
        finally:
            release.set()


class Holder:
    """An agent that holds something, and closes it in its own way."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.closed = 0
        self.entered, self.open = anyio.Event(), anyio.Event()
        self.running = 0

    async def chat(self, message: str) -> str:
        self.running += 1
        self.entered.set()
        try:
            await self.open.wait()
            return message
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.closed += 1
        assert self.running == 0
        if self.way == "raises":
            raise ValueError("secret")
        if self.way == "hangs":
            await anyio.sleep_forever()


@pytest.mark.row("D1")
@pytest.mark.clause("C12")
@pytest.mark.parametrize("way", ["plain", "raises", "hangs"])
async def test_an_agent_closes_what_it_holds_once_the_server_has_stopped(
    adapter: Adapter, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Holder(way)
    async with (
        serving(adapter, agent, agent={"cancel_grace": 0.05}) as node,
        anyio.create_task_group() as stopping,
        client(node) as ana,
    ):
        await ana.say("?")
        await agent.entered.wait()
        stopping.start_soon(node.stop)
        await ana.hear(event_name="server_draining")
        assert agent.closed == 0
        agent.open.set()
        assert (await ana.hear(type="agent_response"))["content"] == "?"
    assert agent.closed == 1
    failed = [message for message in caplog.messages if message.startswith("agent_not_closed")]
    assert len(failed) == (0 if way == "plain" else 1)
    assert "secret" not in caplog.text


@pytest.mark.row("D1")
async def test_a_stop_that_is_cancelled_stops_now(adapter: Adapter) -> None:
    gate = Gate()
    async with serving(adapter, gate) as node, client(node) as ana:
        await ana.say("?", stream=True)
        await gate.entered.wait()
        async with anyio.create_task_group() as stopping:
            stopping.start_soon(node.stop)
            await ana.hear(event_name="server_draining")
            stopping.cancel_scope.cancel()
        assert (await ana.hear(type="agent_response"))["status"] == "cancelled"
        assert await ana.ended() == 1001


@on_byte_servers
@pytest.mark.row("D1")
async def test_a_server_that_has_stopped_listens_no_more(adapter: Adapter) -> None:
    async with serving(adapter) as node:
        assert await get(node, "/readyz") == b"200"
        await node.stop()
        with pytest.raises(OSError):
            await get(node, "/readyz")


@pytest.mark.row("C3")
async def test_nothing_is_left_of_connections_that_have_closed(adapter: Adapter) -> None:
    def kept() -> tuple[int, int, int, int]:
        manager = node.manager
        tables = len(manager._transports) + len(manager._runs.active)
        parked = manager._runs.parked  # a task for the next run
        return tasks_alive() - parked, len(open_files()), len(manager.gateway._node.timers), tables

    def more(now: tuple[int, ...], then: tuple[int, ...]) -> bool:
        return any(one > other for one, other in zip(now, then, strict=True))

    async def visit() -> None:
        async with client(node) as one:
            await one.ask("hola")
        async with raw(node, UPGRADE) as abrupt:
            await abrupt.until(b"connection_established")
        assert await get(node, "/healthz") == b"200"
        async with raw(node, UPGRADE[:10]):
            pass

    async with serving(adapter, sessions={"ttl": 0.001}) as node:
        assert await get(node, "/healthz") == b"200"  # from now on the host is there
        before = kept()
        for _ in range(10):
            await visit()
        with anyio.move_on_after(PATIENCE / 3):
            await until(lambda: node.manager.gateway.sessions == 0 and not more(kept(), before))
        assert not more(kept(), before), f"{before} became {kept()}"


@pytest.mark.row("C3")
async def test_nothing_keeps_a_manager_whose_agent_ended_behind_the_stop(adapter: Adapter) -> None:
    release, managers = threading.Event(), []

    def agent(message: str) -> Iterator[str]:
        yield "first "
        assert release.wait(PATIENCE)

    async def serve_and_stop() -> None:
        sections: dict[str, Any] = {"agent": {"cancel_grace": 60}, "limits": {"close_timeout": 0.05}}
        async with serving(adapter, agent, **sections) as node, client(node) as ana:
            managers.append(weakref.ref(node.manager))
            await ana.say("?", stream=True)
            await ana.hear(type="agent_chunk")
            await node.stop_now()
            release.set()

    await serve_and_stop()
    with anyio.move_on_after(PATIENCE / 3):
        await until(lambda: gc.collect() is None or managers[0]() is None)
    assert managers[0]() is None
