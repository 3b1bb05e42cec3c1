"""The load generator that listens: one client speaks, and everybody in its session hears the answer.

The next message goes out when all have heard all but the last few, so that nobody falls behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGTERM
from typing import Any

from .load import (
    CONTENT,
    PATIENCE,
    WARM_UP,
    Client,
    Result,
    ask,
    connect,
    count,
    finish,
    message_frame,
    obey,
    sleep,
)

SESSION = "everybody"
SPEECH = json.dumps({"type": "chat_message", "content": CONTENT, "session_id": SESSION}, ensure_ascii=False)
HEAR = json.dumps({"type": "resume", "session_id": SESSION, "epoch": "", "seq": 0})


@dataclass(frozen=True, slots=True)
class Plan:
    """Connect once with each token; keep `in_flight` messages that not all have heard. Or `drain` the server."""

    port: int
    tokens: Sequence[str]
    in_flight: int
    seconds: float
    server_pid: int
    dialect: str = "websocket"
    drain: bool = False


def drive(plan: Plan) -> Result:
    """Count what is heard, by all together. Raises ChildError where somebody does not hear everything."""
    return Result(**ask("benchmarks.hearing", plan))


class Hall:
    """Everybody who hears the same, and the one who speaks."""

    def __init__(self, plan: Plan) -> None:
        self._message = message_frame(SPEECH, plan.dialect)
        self._speaking = True
        self._allowed = plan.in_flight - 1
        self._asked = 0
        self.members: list[Member] = []
        self.heard = 0

    def say(self) -> None:
        """One message, which all will hear."""
        self._asked += 1
        for member in self.members:
            member.due += 1
        self.members[0].write(self._message)

    def hear(self, frames: int) -> None:
        """Somebody has heard so many."""
        self.heard += frames
        if self._speaking and self.heard >= (self._asked - self._allowed) * len(self.members):
            self.say()

    def stop(self) -> None:
        """Say no more."""
        self._speaking = False


class Member(Client):
    """A client that hears the same as all others."""

    def __init__(self, transport: asyncio.Transport, hall: Hall | None, failed: asyncio.Future[None]) -> None:
        super().__init__(transport, failed)
        self.hall = hall

    def take(self, frames: int) -> None:
        if self.hall is not None:
            self.hall.hear(frames)

    def write(self, data: bytes) -> None:
        """Send these bytes."""
        self._transport.write(data)


async def listen(plan: Plan) -> Result:
    """Carry out a plan. Raises LoadError."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    members = [Member(one, None, failed) for one in await connect(plan.port, plan.tokens, plan.dialect)]
    await enter(members[:1], SPEECH, plan.dialect, failed)  # who speaks first opens the session
    await enter(members[1:], HEAR, plan.dialect, failed)
    hall = Hall(plan)
    hall.members = members
    for member in members:
        member.hall = hall
    for _ in range(plan.in_flight):
        hall.say()
    await sleep(min(WARM_UP, plan.seconds), failed)
    counted = await count(lambda: hall.heard, plan.seconds, plan.server_pid, failed)
    hall.stop()
    reply = members[-1].last_event()
    await finish(members, failed)
    return Result(float(counted.amount), *counted[1:], reply=reply)


async def enter(members: Sequence[Member], message: str, dialect: str, failed: asyncio.Future[None]) -> None:
    """Let them say this, and hear one event each. Raises LoadError."""
    for member in members:
        member.due += 1
        member.write(message_frame(message, dialect))
    async with asyncio.timeout(PATIENCE):
        while any(member.heard < member.due for member in members):
            await sleep(0.01, failed)


class Warned(asyncio.Protocol):
    """A client that waits to be told that the server drains."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.told: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._held = b""
        transport.set_protocol(self)
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._held += data
        if b"server_draining" in self._held and not self.told.done():
            self.told.set_result(time.perf_counter())


async def drain(plan: Plan) -> Result:
    """How long it takes until everybody knows that the server drains."""
    clients = [Warned(one) for one in await connect(plan.port, plan.tokens, plan.dialect)]
    began = time.perf_counter()
    os.kill(plan.server_pid, SIGTERM)
    async with asyncio.timeout(PATIENCE):
        last = max(await asyncio.gather(*(client.told for client in clients)))
    return Result(float(len(clients)), last - began, 0.0, None)


def main(told: dict[str, Any]) -> Any:
    """What this plan is for."""
    plan = Plan(**told)
    return drain(plan) if plan.drain else listen(plan)


if __name__ == "__main__":
    obey(main)
