"""What a chat message costs in `Gateway.step` alone: no socket, no task, no agent, and time that we make ourselves."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from qaws_proto import COMPILED
from qaws_proto.effects import Effect, StartRun
from qaws_proto.inputs import BytesReceived, RunFinished

from .load import CONTENT, masked_frame
from .options import Options
from .processes import Child, compiled, listen_to_parent, tell_parent
from .report import Goal, Spread, at_most, table
from .rig import VirtualNode, sent

ANSWER = f"You said: {CONTENT}"
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


class Rig(VirtualNode):
    """A node with clients that have logged in, who speak in turn."""

    def __init__(
        self, connections: int, *, with_id: bool, settings: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__(settings)
        self._numbers = [self.connect(f"user-{number:06}") for number in range(1, connections + 1)]
        self._ids = count() if with_id else None

    def measure(self, seconds: float, speakers: int | None = None) -> Cost:
        """Exchange messages for about so long; `speakers`: only so many of the clients speak."""
        numbers = self._numbers[:speakers]
        end = time.perf_counter() + seconds
        inward = outward = 0.0
        messages = 0
        while not messages or time.perf_counter() < end:
            cost = self._exchange(numbers)
            inward += cost.inward
            outward += cost.outward
            messages += len(numbers)
        return Cost(inward / messages, outward / messages)

    def _exchange(self, numbers: Sequence[int]) -> Cost:
        """A message on each connection, and then every answer. Checks what came of it when the clock is stopped."""
        step = self.gateway.step
        frames = [self._frame() for _ in numbers]
        effects: list[list[Effect]] = []
        runs: list[StartRun] = []
        began = time.process_time()  # not the wall's, so that other work on the machine counts little
        for number, frame in zip(numbers, frames, strict=True):
            for effect in step(BytesReceived(number, frame), self.now()):
                if type(effect) is StartRun:
                    runs.append(effect)
            self.wake()
        middle = time.process_time()
        for run in runs:
            effects.append(step(RunFinished(run.run_id, ANSWER), self.now()))
            self.wake()
        end = time.process_time()
        assert len(runs) == len(numbers)
        assert all(b'"agent_response"' in sent(done) for done in effects)
        return Cost(middle - began, end - middle)

    def _frame(self) -> bytes:
        message = {"type": "chat_message", "content": CONTENT}
        if self._ids is not None:
            message["id"] = f"m{next(self._ids):08}"
        return masked_frame(json.dumps(message, ensure_ascii=False).encode())


def run(options: Options) -> list[Goal]:
    """Measure, and print a table; the compiled core in a process of its own, where there is one."""
    plan = (options.connections, options.seconds, options.rounds)
    costs = {_named(name, COMPILED): found for name, found in measure(*plan).items()}
    if (home := compiled()) is not None:
        with Child("the compiled core", "benchmarks.core", plan, home) as child:
            heard = child.hear()
        costs = {_named(name, True): [Cost(*cost) for cost in found] for name, found in heard.items()} | costs
    collector = "on" if gc.isenabled() else "off"
    print("### core: one chat round trip through `Gateway.step`\n")
    print(f"{options.connections} connections; {options.rounds} interleaved rounds of {options.seconds:g} s; "
          f"median (lowest to highest) of processor time; garbage collector {collector}.\n")  # fmt: skip
    print(table(HEADERS, [[name, *_cells(found)] for name, found in costs.items()]), end="\n\n", flush=True)
    plain = next(iter(costs))
    reached = Spread.of(1e6 * cost.total for cost in costs[plain])
    return [Goal(f"core: µs of `step` a chat round trip, {plain}", at_most(15), reached, "")]


def measure(connections: int, seconds: float, rounds: int) -> dict[str, list[Cost]]:
    """What each variant costs in this process, round by round."""
    rigs = {name: Rig(connections, with_id=with_id) for name, with_id in VARIANTS.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in rigs}
    for rig in rigs.values():
        rig.measure(seconds * WARM_UP)
    for _ in range(rounds):
        for name, rig in rigs.items():
            gc.collect()
            costs[name].append(rig.measure(seconds))
    return costs


def _named(variant: str, is_compiled: bool) -> str:
    return f"{variant}, {'compiled' if is_compiled else 'interpreted'}"


def _cells(costs: list[Cost]) -> list[str]:
    columns = zip(*((cost.total, cost.inward, cost.outward) for cost in costs), strict=True)
    return [Spread.of(1e6 * seconds for seconds in column).text(1) for column in columns]


if __name__ == "__main__":
    tell_parent(measure(*listen_to_parent()))
