"""Honest and abusive clients together, against a real server: one process that is many clients, and watches the server.

An honest client judges all that it hears: every answer once, whole and in order, and nothing that it did not ask for.
Each abusive one misbehaves in one way over and over (abuse.py), and counts how the server ended it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .abuse import ABUSES, Attack
from .load import CLOSE, masked_frame, processor_seconds
from .peer import Peer, Refused, connected
from .processes import Child, listen_to_parent, run_fast, tell_parent
from .talker import answer
from .watching import Sample, percentile, sample

PAIR = 2  # messages that an honest client sends at once
AGAIN = 0.5  # seconds until an abusive client comes back
ADDRESSES = 40  # that the abusive ones share; the honest have one each
RAMP = 2.0  # seconds in which all have come
LIVELY = 60.0  # seconds for any answer: whoever waits longer has been harmed


@dataclass(frozen=True, slots=True)
class Plan:
    """Who comes. Each honest client asks `turns` pairs of messages, and goes on until the server has ended each kind of
    abuse once; or, where there are no turns, for `seconds`."""

    port: int
    server_pid: int
    honest: Sequence[str]  # a token each
    abusive: Mapping[str, Sequence[str]]  # by the names of ABUSES
    turns: int = 0
    seconds: float = 90.0  # at most
    pause: float = 2.0  # seconds of an honest client between two pairs
    window: float = 1.0  # seconds between two samples


@dataclass(slots=True)
class Tally:
    """What came of it."""

    asked: int = 0
    answered: int = 0
    waits: list[float] = field(default_factory=list)  # seconds from a message to the end of its answer
    ends: dict[str, dict[str, int]] = field(default_factory=dict)  # by the kind of abuse
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    server_cpu: float = 0.0  # seconds of a core
    crowd_cpu: float = 0.0


def drive(plan: Plan) -> Tally:
    """Carry out a plan in a process of its own. Raises ChildError where an honest client was harmed."""
    with Child("crowd", "benchmarks.crowd", asdict(plan)) as child:
        told = child.hear()
    told["samples"] = [Sample(*one) for one in told["samples"]]
    return Tally(**told)


# ── in the crowd's process ───────────────────────────────────────────────────────────────────────────────────────────


class Harmed(Exception):
    """An honest client did not get what it is due; the text says what came instead."""


class Honest:
    """A client that keeps all the rules, and sees to it that the server does."""

    def __init__(self, plan: Plan, number: int, tally: Tally) -> None:
        self._plan = plan
        self._number = number
        self._tally = tally
        self._waiting: dict[str, str] = {}  # messages without an end → the text of the answer so far
        self._accepted: set[str] = set()
        self._seq = 0

    async def run(self, until: float) -> None:
        """Come, ask, and leave."""
        plan, number = self._plan, self._number
        await asyncio.sleep(plan.pause * number / len(plan.honest))  # they do not all ask at once
        try:
            async with connected(plan.port, f"127.1.{number // 250}.{number % 250 + 1}") as peer:
                await peer.upgrade(plan.honest[number])
                self._hear(await peer.event(), "connection_established")
                turn = 0
                while time.monotonic() < until and not self._enough(turn):
                    async with asyncio.timeout(LIVELY):
                        await self._turn(peer, turn)
                    await asyncio.sleep(plan.pause)  # should anything come now, the next turn hears it
                    turn += 1
                peer.say(masked_frame((1000).to_bytes(2), CLOSE))
                if (end := await peer.end()) != "1000":
                    raise Harmed(f"honest client {number} said goodbye, and the connection ended with {end}")
        except (OSError, EOFError, Refused) as error:  # TimeoutError is an OSError
            raise Harmed(f"honest client {number}: {type(error).__name__} {error}") from error

    def _enough(self, turn: int) -> bool:
        return 0 < self._plan.turns <= turn and all(self._tally.ends.values())

    async def _turn(self, peer: Peer, turn: int) -> None:
        names = [f"m{PAIR * turn + one}" for one in range(PAIR)]
        began = time.monotonic()
        for name in names:
            self._waiting[name] = ""
            chat = {"type": "chat_message", "content": self._content(name), "id": name, "stream": True}
            peer.say(masked_frame(json.dumps(chat).encode()))
        self._tally.asked += len(names)
        for name in names:
            while name in self._waiting:
                self._hear(await peer.event())
            self._tally.waits.append(time.monotonic() - began)
            self._tally.answered += 1

    def _content(self, name: str) -> str:
        return f"{self._number} asks {name}"

    def _hear(self, event: dict[str, Any], expected: str | None = None) -> None:
        """Judge one event of the server."""
        name, told = event.get("correlation_id"), event.get("event_name")
        if (seq := event.get("seq")) is not None:
            self._check(seq == self._seq + 1, event)
            self._seq = seq
        if expected is not None or told == "connection_established":
            self._check(told == expected, event)
        elif told == "message_accepted":
            self._check(name in self._waiting and name not in self._accepted, event)
            self._accepted.add(str(name))
        elif told == "run_started":
            self._check(name in self._accepted & self._waiting.keys(), event)
        elif event["type"] == "agent_chunk":
            first = next(iter(self._waiting), "")  # in order: the other one has to wait
            self._check(name == first and event["offset"] == len(self._waiting[first]), event)
            self._waiting[first] += event["content"]
        else:
            self._check(event["type"] == "agent_response" and name == next(iter(self._waiting), None), event)
            whole = answer(self._content(str(name)))
            self._check(event["content"] == self._waiting.pop(str(name)) == whole, event)

    def _check(self, right: bool, event: dict[str, Any]) -> None:
        if not right:
            raise Harmed(
                f"honest client {self._number}, waiting for {list(self._waiting)}, was told {str(event)[:500]}"
            )


async def misbehave(plan: Plan, kind: str, number: int, token: str, ends: dict[str, int]) -> None:
    """Do the same thing again and again, until cancelled."""
    address = f"127.2.0.{number % ADDRESSES + 1}"
    count = 0
    while True:
        try:
            end = await ABUSES[kind].how(Attack(plan.port, address, token, count))
        except Refused as refused:
            end = str(refused)
        except (OSError, EOFError) as error:
            end = type(error).__name__
        ends[end] = ends.get(end, 0) + 1
        count += 1
        await asyncio.sleep(AGAIN)


async def watch(plan: Plan, tally: Tally, began: float) -> None:
    """Sample the server once in each window, until cancelled."""
    heard = 0
    while True:
        waits = sorted(tally.waits[heard:])
        heard += len(waits)
        middle, most = (percentile(waits, 50), percentile(waits, 99)) if waits else (0.0, 0.0)
        rate = len(waits) / plan.window
        tally.samples.append(sample(plan.server_pid, time.monotonic() - began, rate, middle, most))
        await asyncio.sleep(plan.window)


async def gather(plan: Plan) -> Tally:
    """Carry out a plan. Raises Harmed."""
    tally = Tally(ends={kind: {} for kind in plan.abusive})
    began = time.monotonic()
    attackers = [(kind, token) for kind, tokens in plan.abusive.items() for token in tokens]
    half = len(plan.honest) // 2
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(watch(plan, tally, began))]
        honest = [group.create_task(Honest(plan, n, tally).run(began + plan.seconds)) for n in range(half)]
        for number, (kind, token) in enumerate(attackers):
            others.append(group.create_task(misbehave(plan, kind, number, token, tally.ends[kind])))
            await asyncio.sleep(RAMP / len(attackers))
        # The other half comes when all the abusive ones are there.
        late = range(half, len(plan.honest))
        honest += [group.create_task(Honest(plan, n, tally).run(began + plan.seconds)) for n in late]
        await asyncio.gather(*honest)
        tally.seconds = time.monotonic() - began
        tally.server_cpu, tally.crowd_cpu = (processor_seconds(plan.server_pid) or 0.0), time.process_time()
        for one in others:
            one.cancel()
    return tally


def main() -> None:
    """Do what the parent says, and say what came of it."""
    plan = Plan(**listen_to_parent())
    try:
        tell_parent(asdict(run_fast(gather(plan))))
    except* Harmed as group:
        tell_parent({"failed": "; ".join(map(str, group.exceptions[:3]))})


if __name__ == "__main__":
    main()
