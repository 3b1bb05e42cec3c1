"""Limits over every adapter: who comes back on a new connection meets the same ones."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from qaws import AgentReply

from ..hosts import Adapter, client, serving

pytestmark = pytest.mark.anyio


async def refused(adapter_client: Any, code: str) -> dict[str, Any]:
    """The error that a message is answered with."""
    await adapter_client.say("?", id="over")
    error: dict[str, Any] = await adapter_client.hear(type="error")
    assert (error["error_code"], error["correlation_id"]) == (code, "over")
    return error


@pytest.mark.row("R1")
@pytest.mark.row("R4")
async def test_an_address_has_its_messages_on_all_connections(adapter: Adapter) -> None:
    rates = {"enabled": True, "address_requests_per_minute": 2, "requests_per_minute": 100}
    security = {"authentication": {"enabled": False}, "rate_limiting": rates}
    async with serving(adapter, security=security) as node:
        for word in ("one", "two"):
            async with client(node) as ana:
                assert await ana.ask(word) == word
        async with client(node) as ana:
            error = await refused(ana, "RATE_LIMIT")
            assert 0 < error["details"]["retry_after"] <= 60


@pytest.mark.row("R1")
@pytest.mark.row("R4")
async def test_tokens_that_an_agent_reports_are_charged_to_the_budget_of_all_connections(adapter: Adapter) -> None:
    async def agent(message: str) -> AgentReply:
        return AgentReply(message, input_tokens=90, output_tokens=11)

    budget = {"unit": "tokens", "per_day": 200, "reserve": 100}
    async with serving(adapter, agent, agent={"budget": budget}) as node:
        async with client(node) as ana:
            assert await ana.ask("hola") == "hola"
        async with client(node) as ana:
            error = await refused(ana, "RATE_LIMIT")
            assert 0 < error["details"]["retry_after"] <= 86_400
            await ana.tell(type="ping")  # it is not closed
            await ana.hear(type="pong")


@pytest.mark.row("G7")
@pytest.mark.row("R4")
async def test_a_user_has_so_many_messages_at_once_on_all_connections(adapter: Adapter) -> None:
    begun, over = anyio.Event(), anyio.Event()

    async def agent(message: str) -> str:
        begun.set()
        await over.wait()
        return message

    async with serving(adapter, agent, agent={"runs_per_user": 1}) as node, client(node) as ana, client(node) as eva:
        await ana.say("hola")
        await begun.wait()
        await refused(eva, "BUSY")
        over.set()
        assert (await ana.hear(type="agent_response"))["content"] == "hola"
        assert await eva.ask("hola") == "hola"
