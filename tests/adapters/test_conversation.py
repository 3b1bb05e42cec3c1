"""The conversation behind `qaws chat`: alive while nobody asks, and clear about its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qaws import WebSocketServer
from qaws.conversation import Conversation, ConversationError, MessageError
from qaws_proto.events import AgentChunk, AgentResponse, ErrorEvent

from .peers import open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


async def agent(message: str) -> AsyncIterator[str]:
    yield "so "
    if message == "wait":
        await asyncio.Event().wait()
    if message == "raise":
        raise ValueError
    yield "far"


@asynccontextmanager
async def talking(**sections: Any) -> AsyncIterator[tuple[WebSocketServer, Conversation]]:
    server = WebSocketServer(agent, open_config(**sections))
    async with asyncio.timeout(10), server:
        conversation = Conversation(server.url)
        async with conversation:
            yield server, conversation


async def test_an_answer_is_heard_to_its_end() -> None:
    async with talking() as (_, conversation):
        for _ in range(3):
            events = [event async for event in conversation.ask("?")]
            assert isinstance(events[-1], AgentResponse)
            assert events[-1].content == "so far"
        assert not conversation.cancel()


async def test_an_answer_can_be_cancelled_and_its_end_is_heard() -> None:
    async with talking() as (_, conversation):
        async for event in conversation.ask("wait"):
            if isinstance(event, AgentChunk):
                assert conversation.cancel()
        assert isinstance(event, AgentResponse)
        assert (event.status, event.content) == ("cancelled", "so ")
        *_, event = [event async for event in conversation.ask("raise")]
        assert isinstance(event, ErrorEvent)
        assert event.error_code == "AGENT_ERROR"


async def test_heartbeats_are_answered_while_nobody_asks() -> None:
    async with talking(server={"heartbeat_interval": 0.02, "timeout": 0.3}) as (server, conversation):
        gateway = server.manager.gateway
        (number,) = server.manager._transports
        connection = gateway._connections[number]
        pings: set[float] = set()
        while len(pings) < 3:  # each is sent only where the one before it was answered
            assert gateway.connections == 1
            if connection._pinged_at is not None:
                pings.add(connection._pinged_at)
            await asyncio.sleep(0)
        *_, event = [event async for event in conversation.ask("?")]
        assert isinstance(event, AgentResponse)


async def test_a_message_that_cannot_be_sent_leaves_the_conversation_usable() -> None:
    async with talking() as (_, conversation):
        for message in ("", "x" * 10_001, "a\0b", "\ud800"):
            with pytest.raises(MessageError, match="a message has 1 to 10000 characters"):
                await anext(conversation.ask(message))
        *_, event = [event async for event in conversation.ask("?")]
        assert isinstance(event, AgentResponse)


async def test_the_end_of_the_connection_is_told_to_who_asks_then_and_later() -> None:
    async with talking() as (server, conversation):
        asked = conversation.ask("wait")
        await anext(asked)
        stopping = asyncio.create_task(server.stop_now())
        event = [event async for event in asked][-1]
        assert isinstance(event, AgentResponse)
        assert event.status == "cancelled"
        for _ in range(2):
            with pytest.raises(ConversationError, match="code 1001"):
                await anext(conversation.ask("again"))
        async with asyncio.timeout(2):  # its Close was answered, though nobody asked
            await stopping


async def test_a_login_that_fails_leaves_no_connection_behind() -> None:
    config = open_config(security={"authentication": {"enabled": True, "jwt_secret": "s" * 32}})
    async with asyncio.timeout(10), WebSocketServer(agent, config) as server:
        for token, text in ((None, "asks for a token"), ("wrong", "AUTH_FAILED"), ("\0", "the token given is none")):
            with pytest.raises(ConversationError, match=text):
                await Conversation(server.url, token=token).__aenter__()
        while server.manager.gateway.connections:
            await asyncio.sleep(0)
