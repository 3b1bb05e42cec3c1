"""A step does as much whatever else a node holds: counted in calls, which no busy machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from benchmarks.rig import A_DAY, VirtualNode
from qaws_proto.inputs import BytesReceived, ConnectionLost, RunFinished, TimerFired
from qaws_proto.testing.peer import chat, text

FEW, MANY = 20, 400  # of the others
CALLS = 30  # more or less that are none of theirs: a heap is tidied up now and then
OWN = 4  # sessions that a user may have


def calls(work: Callable[[], object]) -> int:
    """How many calls of functions it makes, in Python and C."""
    made = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


def answer(node: VirtualNode, number: int, **fields: str) -> None:
    """A message, and its answer."""
    run = node.ask(number, text(chat("hello", **fields)))
    node.step(RunFinished(run.run_id, "hello " * 100))


def message(others: int) -> Callable[[], object]:
    """Of one of many connections."""
    node = VirtualNode()
    numbers = [node.connect(f"user-{number}") for number in range(others)]
    answer(node, numbers[0])
    return lambda: answer(node, numbers[0])


def heartbeat(others: int) -> Callable[[], object]:
    """Of one of many connections, that of the first."""
    node = VirtualNode()
    for number in range(others):
        node.connect(f"user-{number}")
    node.mono = node.gateway.wake_at or 0.0
    return lambda: node.step(TimerFired())


def crowded(others: int, **bounds: int) -> tuple[VirtualNode, int]:
    """A node with as many sessions that nobody reads, and a connection of a user who has some of them."""
    node = VirtualNode({"sessions": {"per_user": OWN, "ttl": A_DAY, **bounds}})
    for name in range(others + 1):
        user = f"user-{name // OWN}" if name < others else "me"
        speaker = node.connect(user)
        answer(node, speaker, session_id=f"session {name}")
        node.step(ConnectionLost(speaker))
    mine = node.connect("me")
    for name in range(1, OWN):
        answer(node, mine, session_id=f"mine {name}")
    return node, mine


def one_session_more(others: int) -> Callable[[], object]:
    """Than a user may have: the longest unread of his makes room."""
    node, mine = crowded(others)
    return lambda: answer(node, mine, session_id="one more")


def event_beyond_the_bytes(others: int) -> Callable[[], object]:
    """Of a user who holds as much as one may, nothing of which can be let go but the oldest of what is said."""
    node, mine = crowded(others, user_bytes=3000)
    for _ in range(5):
        answer(node, mine, session_id="mine 1")
    return lambda: answer(node, mine, session_id="mine 1")


def resume(others: int) -> Callable[[], object]:
    """Of one of many sessions."""
    node, mine = crowded(others)
    asked = text({"type": "resume", "session_id": "mine 1", "epoch": "", "seq": 0})
    return lambda: node.step(BytesReceived(mine, asked))


@pytest.mark.parametrize("prepare", [message, heartbeat, one_session_more, event_beyond_the_bytes, resume])
def test_a_step_does_as_much_among_many_as_among_few(prepare: Callable[[int], Callable[[], object]]) -> None:
    few, many = (calls(prepare(others)) for others in (FEW, MANY))
    assert few > CALLS
    assert abs(many - few) < CALLS
