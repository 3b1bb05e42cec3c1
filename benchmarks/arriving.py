"""The load generator that comes and goes: connections made, greeted and closed; or thousands of them at once.

Every token is another one, so that a server which remembers those it has verified gains nothing by it.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .load import (
    CLOSE,
    PATIENCE,
    WARM_UP,
    Gauge,
    LoadError,
    Result,
    arrive,
    ask,
    connect,
    count,
    finish,
    masked_frame,
    obey,
    sleep,
)
from .pacing import Pace, Paced, pour, summary
from .peers.work import Terms

USERS = 1000  # that come again and again
LIVES = 3600  # seconds of a token
AGAIN = 0.1  # seconds until a client that was refused comes again
BATCH = 16  # clients that come before others are heard
CALM = 0.5  # seconds of conversation before the storm


@dataclass(frozen=True, slots=True)
class Plan:
    """Keep so many clients arriving for `seconds`. Or, where there are `crowd`, let these come at once, while `talking`
    others send `rate` messages a second."""

    port: int
    terms: dict[str, Any]
    arriving: int
    seconds: float
    server_pid: int
    dialect: str = "websocket"
    talking: int = 0
    rate: float = 0.0
    crowd: int = 0


@dataclass(frozen=True, slots=True)
class Storm:
    """How long it took until all were in, and what others waited for their answers meanwhile; in seconds."""

    seconds: float
    most: float  # the 99th percentile
    highest: float
    refused: int  # attempts


def drive(plan: Plan) -> Result:
    """Arrive and leave, over and over. Raises ChildError where the server does not let everybody in."""
    return Result(**ask("benchmarks.arriving", plan))


def storm(plan: Plan) -> Storm:
    """Come all at once. Raises ChildError where the server does not let everybody in, or forgets the others."""
    return Storm(**ask("benchmarks.arriving", plan))


def tokens(terms: Terms, kind: str, users: int) -> Iterator[str]:
    """Tokens without end, no two alike. As `Terms.token`, but for a load generator that has little time."""
    now = int(time.time())
    head = _encoded(b'{"alg":"HS256","typ":"JWT"}')
    rest = json.dumps({"iss": terms.issuer, "aud": terms.audience, "iat": now, "exp": now + LIVES})[1:]
    for number in itertools.count():
        claims = f'{{"sub": "{kind}-{number % users:06}", "jti": "{kind}-{now}-{number:024}", {rest}'
        signed = head + b"." + _encoded(claims.encode())
        yield (signed + b"." + _encoded(hmac.digest(terms.secret.encode(), signed, "sha256"))).decode()


def _encoded(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


class Leaving(asyncio.Protocol):
    """A client that says goodbye, and leaves when the server has answered that."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(self)
        transport.resume_reading()
        transport.write(masked_frame((1000).to_bytes(2), CLOSE))

    def data_received(self, data: bytes) -> None:
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.left.set_result(None)


async def arrivals(plan: Plan) -> Result:
    """Carry out a plan without a crowd. Raises LoadError."""
    fresh = tokens(Terms(**plan.terms), "guest", USERS)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done, over = 0, False

    async def come_and_go() -> None:
        nonlocal done
        while not over:
            async with asyncio.timeout(PATIENCE):
                await Leaving(await arrive(plan.port, next(fresh), plan.dialect)).left
            done += 1

    async def watch() -> Gauge:
        nonlocal over
        await sleep(min(WARM_UP, plan.seconds), failed)
        counted = await count(lambda: done, plan.seconds, plan.server_pid, failed)
        over = True
        return counted

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(watching, *(come_and_go() for _ in range(plan.arriving)))
    counted = watching.result()
    return Result(float(counted.amount), *counted[1:])


async def crowd(plan: Plan) -> Storm:
    """Carry out a plan with a crowd. Raises LoadError."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    terms = Terms(**plan.terms)
    known = tokens(terms, "talking", plan.talking)
    transports = await connect(plan.port, [next(known) for _ in range(plan.talking)], plan.dialect)
    fresh = tokens(terms, "crowd", plan.crowd)
    comers = Comers(plan, [next(fresh) for _ in range(plan.crowd)])
    began = time.perf_counter()
    pace = Pace(counts_from=began + CALM)
    clients = [Paced(one, plan.dialect, pace, failed) for one in transports]
    talking = asyncio.create_task(pour(clients, plan.rate, began, PATIENCE + CALM, failed))
    await asyncio.sleep(CALM)
    try:
        seconds = await comers.come()
        while not pace.late:  # a small crowd may be in before anything was due
            await asyncio.sleep(0)
    finally:
        talking.cancel()
    await finish(clients, failed)  # who still waits for an answer counts as well
    waits = summary(pace)
    return Storm(seconds, waits.most, waits.highest, comers.refused)


class Comers:
    """Clients who come at once, and who come again where they are refused."""

    def __init__(self, plan: Plan, tokens: list[str]) -> None:
        self._plan = plan
        self._tokens = tokens
        self.refused = 0

    async def come(self) -> float:
        """Seconds until all are in. Raises TimeoutError where that is too long."""
        began = time.perf_counter()
        coming = []
        async with asyncio.timeout(PATIENCE):
            for number, token in enumerate(self._tokens):
                coming.append(asyncio.create_task(self._come(token)))
                if number % BATCH == BATCH - 1:
                    await asyncio.sleep(0)
            await asyncio.gather(*coming)
        return time.perf_counter() - began

    async def _come(self, token: str) -> None:
        while True:
            try:
                await arrive(self._plan.port, token, self._plan.dialect)
                return
            except (LoadError, OSError):
                self.refused += 1
                await asyncio.sleep(AGAIN)


def main(told: dict[str, Any]) -> Any:
    """What this plan is for."""
    plan = Plan(**told)
    return crowd(plan) if plan.crowd else arrivals(plan)


if __name__ == "__main__":
    obey(main)
