"""Agents of frameworks in a test: a gateway that has one, what a client hears of it, what is left in their thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from qaws import WebSocketManager
from qaws.agents.bridge import Bridge

from .peers import Peer, Recorded, driven, open_config


@asynccontextmanager
async def serving(agent: object, backend: str, /, **sections: Any) -> AsyncIterator[Recorded]:
    manager = Recorded(open_config(**sections), agent=agent)
    with anyio.fail_after(20):
        async with driven(manager, backend):
            yield manager


async def until_answered(peer: Peer) -> tuple[Any, list[Any]]:
    """The answer, or the error, and what was told before it: texts and steps."""
    told: list[Any] = []
    while True:
        event = await peer.hear()
        if event.type == "agent_chunk":
            told.append(event.content)
        elif event.type == "agent_step":
            told.append((event.kind, event.name, event.content))
        elif event.type in ("agent_response", "error"):
            return event, told


async def all_runs_have_ended(manager: WebSocketManager) -> None:
    """The agents' too, not only what clients hear of them."""
    while manager._runs.active:
        await anyio.lowlevel.checkpoint()


def in_thread(bridge: Bridge, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that runs on the bridge's event loop."""
    assert bridge._loop is not None
    return asyncio.run_coroutine_threadsafe(coroutine, bridge._loop).result(10)


async def left() -> set[asyncio.Task[Any]]:
    """What else runs on the event loop, and goes on running: Python closes a forgotten generator in a task, for one."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return (await asyncio.wait(others, timeout=5))[1] if others else set()
