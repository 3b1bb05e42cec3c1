"""Conversations over every adapter: each way to log in, many at once, beside agents that block."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from qaws import WebSocketAuth
from qaws_proto.wire.client import Rejected

from ..hosts import Adapter, Node, client, serving, upgrading

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than thirty-two bytes"


def guarded(**more: Any) -> dict[str, Any]:
    """Sections with authentication on."""
    return {"security": {"authentication": {"enabled": True, "jwt_secret": SECRET, **more}}}


def token(node: Node) -> str:
    return WebSocketAuth(node.manager.config).generate_token("ana")


def users_noted(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    """Who the log says opened a connection, and who logged in on it."""
    notes = [record for record in caplog.records if record.name == "qaws.connection"]
    events = ((vars(note)["event"], vars(note)["fields"].get("user_id")) for note in notes)
    return [(event, user) for event, user in events if event in ("opened", "authenticated")]


async def test_a_conversation_without_authentication(adapter: Adapter) -> None:
    async with serving(adapter) as node, client(node) as ana:
        assert (await ana.hear(event_name="connection_established"))["data"]["user_id"] == "anonymous"
        await ana.say("¿Cómo estás?", user_id="user123", session_id="session456", id="m1")
        answer = await ana.hear(type="agent_response")
        assert (answer["content"], answer["user_id"], answer["session_id"]) == ("¿Cómo estás?", "user123", "session456")
        assert await ana.ask("x" * 10_000) == "x" * 10_000


async def test_a_conversation_by_message_token(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(adapter, **guarded()) as node, client(node) as ana:
        assert (await ana.hear(type="system_event"))["event_name"] == "auth_required"
        await ana.tell(type="auth", token=token(node))
        assert (await ana.hear(event_name="connection_established"))["data"]["user_id"] == "ana"
        assert await ana.ask("hola") == "hola"
    assert users_noted(caplog) == [("opened", None), ("authenticated", "ana")]


async def test_a_conversation_by_header_token(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(adapter, **guarded()) as node, client(node, authorization=f"Bearer {token(node)}") as ana:
        assert (await ana.hear(type="system_event"))["event_name"] == "connection_established"
        await ana.say("hola")
        assert (await ana.hear(type="agent_response"))["user_id"] == "ana"
    assert users_noted(caplog) == [("opened", "ana")]


async def test_a_conversation_by_subprotocol_token(adapter: Adapter) -> None:
    async with (
        serving(adapter, **guarded()) as node,
        client(node, subprotocols=("qaws.v1", f"qaws.bearer.{token(node)}")) as ana,
    ):
        assert ana.subprotocol == "qaws.v1"
        await ana.say("hola")
        assert (await ana.hear(type="agent_response"))["user_id"] == "ana"


async def test_a_wrong_token_is_refused_before_and_after_the_upgrade(adapter: Adapter) -> None:
    async with serving(adapter, **guarded()) as node:
        async with upgrading(node, authorization="Bearer wrong") as verdict:
            assert isinstance(verdict, Rejected)
            assert verdict.status == 401
        async with client(node) as ana:
            await ana.tell(type="auth", token="wrong")
            assert (await ana.hear(type="error"))["error_code"] == "AUTH_FAILED"
            assert await ana.ended() == 4401


@pytest.mark.row("H14")
async def test_a_full_node_and_a_full_address_say_when_to_come_back(adapter: Adapter) -> None:
    async def turned_away(node: Node) -> tuple[int, int | None]:
        async with upgrading(node) as verdict:
            assert isinstance(verdict, Rejected)
            return verdict.status, verdict.retry_after

    async with serving(adapter, server={"max_connections": 2}) as node, client(node), client(node):
        assert await turned_away(node) == (503, 5)
    async with serving(adapter, limits={"connections_per_address": 1}) as node, client(node):
        assert await turned_away(node) == (429, 5)
    async with serving(adapter, limits={"connections_per_minute": 2}) as node:
        for _ in range(2):
            async with client(node):
                pass  # it does not help that they are gone
        status, retry_after = await turned_away(node)
        assert status == 429
        assert retry_after in range(1, 61)


async def test_many_connections_at_once_each_get_their_own_answers(adapter: Adapter) -> None:
    answers: dict[int, list[str]] = {}

    async def converse(number: int) -> None:
        async with client(node) as one:
            answers[number] = [await one.ask(f"{number}.{turn}") for turn in range(5)]

    async with serving(adapter) as node, anyio.create_task_group() as clients:
        for number in range(30):
            clients.start_soon(converse, number)
    assert answers == {number: [f"{number}.{turn}" for turn in range(5)] for number in range(30)}


@pytest.mark.row("G6")
async def test_others_are_answered_while_an_agent_blocks(adapter: Adapter) -> None:
    entered, release = threading.Event(), threading.Event()

    def agent(message: str) -> str:
        if message == "block":
            entered.set()
            assert release.wait(10)
        return message

    async with serving(adapter, agent) as node, client(node) as blocked, client(node) as other:
        await blocked.say("block")
        while not entered.is_set():
            assert await other.ask("hola") == "hola"
        assert await other.ask("hola") == "hola"
        release.set()
        assert (await blocked.hear(type="agent_response"))["content"] == "block"


async def test_everybody_who_takes_part_in_a_session_hears_it(adapter: Adapter) -> None:
    async with serving(adapter) as node, client(node) as ana, client(node) as eva:
        await ana.say("1", session_id="shared")
        assert (await ana.hear(type="agent_response"))["content"] == "1"
        await eva.say("2", session_id="shared")
        assert (await ana.hear(type="agent_response"))["content"] == "2"
        assert (await eva.hear(type="agent_response"))["content"] == "2"
