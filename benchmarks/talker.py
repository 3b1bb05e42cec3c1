"""The agent of the load tests: it streams its answer piece by piece, and one message makes it talk without end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

ENDLESS = "never stop"
PIECES = 4
PAUSE = 0.02  # seconds between two pieces of an answer
EVERY = 0.25  # between two of one without end


def answer(message: str) -> str:
    """What the agent answers in all."""
    return "".join(f"{message}, {number}. " for number in range(PIECES))


async def agent(message: str) -> AsyncIterator[str]:
    """Talk."""
    while message == ENDLESS:
        yield "x" * 16_000
        await anyio.sleep(EVERY)
    for number in range(PIECES):
        yield f"{message}, {number}. "
        await anyio.sleep(PAUSE)
