"""What a chat message costs in `Gateway.step` alone: no socket, no task, no agent, and time that we make ourselves."""

from __future__ import annotations

import gc
import json
import time
from itertools import count
from secrets import token_hex
from typing import NamedTuple

from qaws_proto import Gateway, Now
from qaws_proto.effects import Effect, SendBytes, StartRun
from qaws_proto.inputs import BytesReceived, ConnectionOpened, RunFinished, TimerFired

from .load import CONTENT, masked_frame, upgrade_request
from .options import Options
from .peers.gateway import configuration
from .peers.work import Terms
from .report import Goal, Spread, at_most, table

ANSWER = f"You said: {CONTENT}"
TICK = 0.8e-3  # seconds between two steps: each of 64 clients speaks ten times a second
A_DAY = 86_400  # seconds: the longest life of a token, so that no measurement is longer
WARM_UP = 0.1  # of the time measured
HEADERS = ("message", "µs a round trip", "BytesReceived → StartRun", "RunFinished → SendBytes")
VARIANTS = {"without `id`": False, "with `id` (also sends `message_accepted`)": True}


class Cost(NamedTuple):
    """Processor seconds a message, on its way in and on its way out."""

    inward: float
    outward: float

    @property
    def total(self) -> float:
        """Processor seconds a round trip."""
        return self.inward + self.outward


class Rig:
    """A gateway with clients that have logged in, in virtual time."""

    def __init__(self, connections: int, *, with_id: bool) -> None:
        terms = Terms(secret=token_hex(32))
        self.gateway = Gateway(configuration(terms), ids=lambda: token_hex(16))
        self._numbers = range(1, connections + 1)
        self._ids = count() if with_id else None
        self._mono, self._epoch = 0.0, time.time()
        for number in self._numbers:
            now = self._now()
            self.gateway.step(ConnectionOpened(number, "127.0.0.1"), now)
            request = upgrade_request(8765, terms.token(f"user-{number:06}", lives=A_DAY))
            effects = self.gateway.step(BytesReceived(number, request), now)
            assert b"connection_established" in _sent(effects), effects

    def measure(self, seconds: float) -> Cost:
        """Exchange messages for about so long."""
        end = time.perf_counter() + seconds
        inward = outward = 0.0
        messages = 0
        while not messages or time.perf_counter() < end:
            cost = self._exchange()
            inward += cost.inward
            outward += cost.outward
            messages += len(self._numbers)
        return Cost(inward / messages, outward / messages)

    def _exchange(self) -> Cost:
        """A message on every connection, and then every answer. Checks what came of it when the clock is stopped."""
        gateway, step = self.gateway, self.gateway.step
        frames = [self._frame() for _ in self._numbers]
        effects: list[list[Effect]] = []
        runs: list[StartRun] = []
        began = time.process_time()  # not the wall's, so that other work on the machine counts little
        for number, frame in zip(self._numbers, frames, strict=True):
            for effect in step(BytesReceived(number, frame), self._now()):
                if type(effect) is StartRun:
                    runs.append(effect)
            self._wake(gateway.wake_at)
        middle = time.process_time()
        for run in runs:
            effects.append(step(RunFinished(run.run_id, ANSWER), self._now()))
            self._wake(gateway.wake_at)
        end = time.process_time()
        assert len(runs) == len(self._numbers)
        assert all(b'"agent_response"' in _sent(done) for done in effects)
        return Cost(middle - began, end - middle)

    def _frame(self) -> bytes:
        message = {"type": "chat_message", "content": CONTENT}
        if self._ids is not None:
            message["id"] = f"m{next(self._ids):08}"
        return masked_frame(json.dumps(message, ensure_ascii=False).encode())

    def _now(self) -> Now:
        self._mono += TICK
        return Now(self._mono, self._epoch + self._mono)

    def _wake(self, wake_at: float | None) -> None:
        if wake_at is not None and wake_at <= self._mono:
            self.gateway.step(TimerFired(), self._now())


def _sent(effects: list[Effect]) -> bytes:
    return b"".join(effect.data for effect in effects if type(effect) is SendBytes)


def run(options: Options) -> list[Goal]:
    """Measure, and print a table."""
    rigs = {name: Rig(options.connections, with_id=with_id) for name, with_id in VARIANTS.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in rigs}
    for rig in rigs.values():
        rig.measure(options.seconds * WARM_UP)
    for _ in range(options.rounds):
        for name, rig in rigs.items():
            gc.collect()
            costs[name].append(rig.measure(options.seconds))
    collector = "on" if gc.isenabled() else "off"
    print("### core: one chat round trip through `Gateway.step`\n")
    print(f"{options.connections} connections; {options.rounds} interleaved rounds of {options.seconds:g} s; "
          f"median (lowest to highest) of processor time; garbage collector {collector}.\n")  # fmt: skip
    print(table(HEADERS, [[name, *_cells(found)] for name, found in costs.items()]), end="\n\n", flush=True)
    plain = next(iter(VARIANTS))
    reached = Spread.of(1e6 * cost.total for cost in costs[plain])
    return [Goal(f"core: µs of `step` a chat round trip, {plain}", at_most(15), reached, "")]


def _cells(costs: list[Cost]) -> list[str]:
    columns = zip(*((cost.total, cost.inward, cost.outward) for cost in costs), strict=True)
    return [Spread.of(1e6 * seconds for seconds in column).text(1) for column in columns]
