"""What instructions are counted of: five things that a node does all day, each the same in every run.

`python -m benchmarks.scenarios` goes through them under valgrind (instructions.py). Each is repeated in two processes
that differ in how often alone: what they do beside it, starting Python first of all, is in both.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from qaws_proto.effects import Effect
from qaws_proto.inputs import BytesReceived, ConnectionLost, ConnectionOpened, RunChunk, RunFinished
from qaws_proto.testing.peer import chat, text

from .load import CONTENT
from .rig import VirtualNode

ANSWER = f"You said: {CONTENT}"
PIECES = [f"A piece of the answer, number {number:02}. " for number in range(16)]
READERS = 100
BEHIND = 100  # events
WARM_UP = 40  # repetitions before any that count: CPython rewrites its code for what it meets
BETWEEN_PIECES = 0.05  # seconds: each becomes an event of its own
FULL = 32  # of what is remembered of tokens and sessions, so that a table that grows is no part of it

Operation = Callable[[], list[Effect]]


class Scenario(NamedTuple):
    """One of them: `prepare` gives what is repeated, so many times in one process and in the other."""

    name: str
    prepare: Callable[[int], Operation]  # for at most so many repetitions
    few: int
    many: int


def chat_round_trip(most: int) -> Operation:
    """A message without an id, its run, its answer."""
    node = VirtualNode()
    client = node.connect("user-000001")
    frame = text(chat(CONTENT))

    def operation() -> list[Effect]:
        run = node.ask(client, frame)
        node.wake()
        return node.step(RunFinished(run.run_id, ANSWER))

    return operation


def streamed_answer(most: int) -> Operation:
    """A message that is answered in 16 pieces, each an event, and then with the whole."""
    node = VirtualNode()
    client = node.connect("user-000001")
    frame = text(chat(CONTENT, stream=True))

    def operation() -> list[Effect]:
        run = node.ask(client, frame)
        effects = []
        for piece in PIECES:
            node.mono += BETWEEN_PIECES
            effects += node.step(RunChunk(run.run_id, piece))
            node.wake()
        return effects + node.step(RunFinished(run.run_id, None))

    return operation


def handshake(most: int) -> Operation:
    """A connection of a new user, with a token that was never seen, from its first byte until it is lost."""
    node = VirtualNode({"limits": {"verified_tokens": FULL}, "sessions": {"max_sessions": FULL}})
    requests = ((number, node.request(f"user-{number:06}")) for number in range(1, most + 1))
    ready = iter(list(requests))  # to sign is the work of others

    def operation() -> list[Effect]:
        number, request = next(ready)
        node.step(ConnectionOpened(number, "127.0.0.1"))
        effects = node.step(BytesReceived(number, request))
        node.wake()
        node.step(ConnectionLost(number))
        return effects

    return operation


def fan_out(most: int) -> Operation:
    """A message of one of a hundred connections that read the same session; all hear the answer."""
    node = VirtualNode()
    numbers = [node.connect("user-000001") for _ in range(READERS)]
    speaker = numbers[0]
    session_id = node.own[speaker].session_id
    node.step(RunFinished(node.ask(speaker, text(chat("hello"))).run_id, ANSWER))
    for number in numbers[1:]:
        node.step(BytesReceived(number, _resume(session_id, "", 0)))
    frame = text(chat(CONTENT))

    def operation() -> list[Effect]:
        run = node.ask(speaker, frame)
        node.wake()
        return node.step(RunFinished(run.run_id, ANSWER))

    return operation


def resumption(most: int) -> Operation:
    """A client that asks again for the last hundred answers."""
    return behind(BEHIND)


def behind(events: int) -> Operation:
    """A client that asks for so many answers once more."""
    node = VirtualNode({"sessions": {"max_events": max(1, events)}})
    client = node.connect("user-000001")
    own, frame = node.own[client], text(chat(CONTENT))
    for _ in range(events):
        node.step(RunFinished(node.ask(client, frame).run_id, ANSWER))
    resume = _resume(own.session_id, own.epoch, 0)
    return lambda: node.step(BytesReceived(client, resume))


def _resume(session_id: str, epoch: str, seq: int) -> bytes:
    return text({"type": "resume", "session_id": session_id, "epoch": epoch, "seq": seq})


SCENARIOS = (
    Scenario("chat round trip", chat_round_trip, 100, 400),
    Scenario("streamed answer of 16 chunks", streamed_answer, 30, 120),
    Scenario("handshake with a new token", handshake, 60, 240),
    Scenario("answer for 100 readers", fan_out, 30, 120),
    Scenario("resume behind 100 events", resumption, 60, 240),
)


# ── in the process that valgrind runs ────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Start two processes for each scenario, both at once, and say a line with their ids."""
    gc.disable()  # what the collector costs depends on what has been made before
    for scenario in SCENARIOS:
        operation = scenario.prepare(WARM_UP + scenario.many)
        for _ in range(WARM_UP):
            operation()
        children = [_repeat(operation, repetitions) for repetitions in (scenario.few, scenario.many)]
        for child in children:
            _, status = os.waitpid(child, 0)
            if status:
                sys.exit(f"{scenario.name} failed")
        print(json.dumps(children), flush=True)


def _repeat(operation: Operation, repetitions: int) -> int:
    """The id of a process that does it so often, and ends."""
    child = os.fork()
    if child:
        return child
    try:
        for _ in range(repetitions):
            operation()
    except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
