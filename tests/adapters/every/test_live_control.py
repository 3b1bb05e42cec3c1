"""Live control over every adapter: who is kept out loses its connections at once, and the others notice nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
import websockets
from websockets.sync.client import ClientConnection, connect

from qaws import WebSocketAuth
from qaws_proto.control import Outcome
from qaws_proto.wire.client import Rejected

from ..hosts import Adapter, Node, client, serving, upgrading

pytestmark = pytest.mark.anyio

GUARDED: dict[str, Any] = {
    "security": {"authentication": {"enabled": True, "jwt_secret": "a secret of more than thirty-two bytes"}}
}


def token(node: Node, user_id: str) -> str:
    return WebSocketAuth(node.manager.config).generate_token(user_id)


def bearer(node: Node, user_id: str) -> str:
    return f"Bearer {token(node, user_id)}"


async def turned_away(node: Node, **headers: str) -> int:
    """The status that an upgrade is refused with."""
    async with upgrading(node, **headers) as verdict:
        refused = verdict
    assert isinstance(refused, Rejected)
    return refused.status


@pytest.mark.row("A5")
async def test_blocking_a_user_closes_its_connections_and_stops_its_answers(adapter: Adapter) -> None:
    begun, cancelled = anyio.Event(), anyio.Event()

    async def agent(message: str) -> str:
        if message == "work":
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()
        return message

    async with (
        serving(adapter, agent, **GUARDED) as node,
        client(node, authorization=bearer(node, "ana")) as ana,
        client(node, authorization=bearer(node, "ana")) as again,
        client(node, authorization=bearer(node, "eva")) as eva,
    ):
        await ana.say("work")
        await begun.wait()
        outcome = node.manager.block_user("ana", reason="spam")
        assert (outcome.closed, outcome.cancelled) == (2, 1)
        assert await ana.ended() == await again.ended() == 4403
        await cancelled.wait()
        assert await eva.ask("still here") == "still here"
        assert await turned_away(node, authorization=bearer(node, "ana")) == 403
        async with client(node) as late:
            await late.tell(type="auth", token=token(node, "ana"))
            assert (await late.hear(type="error"))["error_code"] == "FORBIDDEN"
            assert await late.ended() == 4403
        assert node.manager.unblock_user("ana").changed
        async with client(node, authorization=bearer(node, "ana")) as back:
            assert await back.ask("hello") == "hello"


async def from_another_thread(adapter: Adapter, command: Callable[[], Outcome]) -> Outcome:
    """What a command says that is left to the event loop by a thread of which anyio knows nothing."""
    said: list[Outcome | Exception] = []
    over = anyio.Event()

    def give() -> None:
        try:
            said.append(command())
        except Exception as error:
            said.append(error)
        over.set()

    on_trio = adapter.backend[0] == "trio"
    soon: Callable[[Callable[[], None]], object] = (
        trio.lowlevel.current_trio_token().run_sync_soon if on_trio else asyncio.get_running_loop().call_soon_threadsafe
    )
    thread = Thread(target=soon, args=(give,))
    thread.start()
    await over.wait()
    thread.join()
    assert isinstance(said[0], Outcome), said
    return said[0]


@pytest.mark.row("A5")
async def test_a_command_from_another_thread_takes_effect_at_once(adapter: Adapter, tmp_path: Path) -> None:
    begun, cancelled = anyio.Event(), anyio.Event()

    async def agent(message: str) -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return message

    stored: dict[str, Any] = {"store": {"kind": "sqlite", "path": str(tmp_path / "qaws.db")}}
    async with serving(adapter, agent, **GUARDED, **stored) as node:
        async with client(node, authorization=bearer(node, "ana")) as ana:
            await ana.say("work")
            await begun.wait()
            outcome = await from_another_thread(adapter, lambda: node.manager.block_user("ana"))
            assert (outcome.closed, outcome.cancelled) == (1, 1)
            assert await ana.ended() == 4403
            await cancelled.wait()
        assert await turned_away(node, authorization=bearer(node, "ana")) == 403


@pytest.mark.row("A5")
async def test_blocking_an_address_closes_its_connections(adapter: Adapter) -> None:
    async with serving(adapter) as node, client(node) as ana:
        await ana.hear(event_name="connection_established")
        assert node.manager.block_address("127.0.0.0/8", seconds=60).closed == 1
        assert await ana.ended() == 4403
        assert await turned_away(node) == 403
        node.manager.unblock_address("127.0.0.0/8")
        async with client(node) as back:
            assert await back.ask("hello") == "hello"


@pytest.mark.row("A5")
async def test_a_foreign_client_hears_that_its_token_is_revoked_and_the_users_others_go_on(adapter: Adapter) -> None:
    def welcomed(port: int, bearer: str) -> ClientConnection:
        socket = connect(f"ws://127.0.0.1:{port}/", additional_headers={"Authorization": f"Bearer {bearer}"})
        assert json.loads(socket.recv())["event_name"] == "connection_established"
        return socket

    def closed(socket: ClientConnection) -> int:
        with pytest.raises(websockets.ConnectionClosedError) as ended:
            socket.recv()
        assert ended.value.rcvd is not None
        return ended.value.rcvd.code

    def answered(socket: ClientConnection) -> str:
        with socket:
            socket.send(json.dumps({"type": "chat_message", "content": "still here"}))
            return str(json.loads(socket.recv())["content"])

    def refused(port: int, bearer: str) -> int:
        with pytest.raises(websockets.InvalidStatus) as refusal:
            welcomed(port, bearer)
        return refusal.value.response.status_code

    run = anyio.to_thread.run_sync
    async with serving(adapter, **GUARDED) as node:
        stolen = token(node, "ana")
        thief = await run(welcomed, node.port, stolen)
        own = await run(welcomed, node.port, token(node, "ana"))
        (jti,) = {one.token_id for one in node.manager.connections() if one.number == 1}
        assert jti is not None
        assert node.manager.revoke_token(jti).closed == 1
        assert await run(closed, thief) == 4403
        assert await run(refused, node.port, stolen) == 401
        assert await run(answered, own) == "still here"


async def test_a_limit_that_is_changed_holds_for_those_who_are_there(adapter: Adapter) -> None:
    async with serving(adapter, **GUARDED) as node, client(node, authorization=bearer(node, "ana")) as ana:
        assert await ana.ask("1") == "1"
        changes = {"security.rate_limiting.enabled": True, "security.rate_limiting.requests_per_minute": 1}
        assert node.manager.change_limits({**changes, "server.max_connections": 1}).changed
        assert await ana.ask("2") == "2"
        await ana.say("3")
        assert (await ana.hear(type="error"))["error_code"] == "RATE_LIMIT"
        assert await turned_away(node, authorization=bearer(node, "eva")) == 503


async def test_a_disconnected_client_may_come_back(adapter: Adapter) -> None:
    async with serving(adapter) as node, client(node) as ana:
        await ana.hear(event_name="connection_established")
        assert node.manager.disconnect(node.manager.connections()[0].number).closed == 1
        assert await ana.ended() == 1008
        async with client(node) as back:
            assert await back.ask("hello") == "hello"
