"""What is judged at the end of a simulated world: that its history can be replayed, and that nothing leaked.

C2: the same inputs at the same times give the same effects. C3: so do the same bytes in other reads. C12: no token and
no text of an exception is anywhere but where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..clock import Now
from ..effects import Effect, PauseReading, ResumeReading, SendBytes
from ..gateway import Gateway
from ..inputs import BytesReceived, Input, TimerFired
from .node import AT_ONCE
from .streams import Random

if TYPE_CHECKING:
    from .node import NodeUnderTest

Ids = Callable[[int], Callable[[], str]]


class Incarnation:
    """One life of a world's node, and how many ids were given out before it."""

    def __init__(self, node: NodeUnderTest, first_id: int) -> None:
        self.node = node
        self.first_id = first_id

    def again(self, ids: Ids) -> Gateway:
        """The same gateway, before anything happened to it."""
        return Gateway(self.node.config, ids=ids(self.first_id), durable=self.node.store is not None)


def check_replay(life: Incarnation, ids: Ids) -> None:
    """C2: every step again, in another gateway."""
    gateway = life.again(ids)
    for event, now, effects in life.node.history:
        again = gateway.step(event, now)
        assert repr(again) == repr(effects), f"C2: {event} at {now} gave {effects}, and then {again}"


def check_reads(life: Incarnation, ids: Ids, random: Random) -> None:
    """C3: every step again, with all bytes in other reads. What pauses reading is about the reads themselves.

    Not for a node with a store: what one read brings is saved together.
    """
    assert life.node.store is None
    gateway = life.again(ids)
    start = 0
    for mark in life.node.marks:
        act = life.node.history[start:mark]
        start = mark
        expected = lanes(effect for _, _, effects in act for effect in effects)
        given: list[Effect] = []
        for event, now, _ in act:
            if not (isinstance(event, TimerFired) and event is not act[0][0]):
                given += _in_other_reads(gateway, event, now, random)
        told = lanes(given)
        assert told == expected, f"C3: {act[0][0]} at {act[0][1]} gave {expected}, and in other reads {told}"


def _in_other_reads(gateway: Gateway, event: Input, now: Now, random: Random) -> list[Effect]:
    effects: list[Effect] = []
    reads: list[Input] = [event]
    if isinstance(event, BytesReceived) and len(event.data) > 1:
        at = random.randrange(1, len(event.data))
        reads = [BytesReceived(event.connection, event.data[:at]), BytesReceived(event.connection, event.data[at:])]
    for read in reads:
        effects += gateway.step(read, now)
        while (wake_at := gateway.wake_at) is not None and wake_at - now.mono < AT_ONCE:
            now = Now(max(wake_at, now.mono), now.unix)
            effects += gateway.step(TimerFired(), now)
    return effects


def lanes(effects: Iterable[Effect]) -> dict[object, list[object]]:
    """Effects by whom they are for, adjacent bytes joined."""
    by: dict[object, list[object]] = {}
    for effect in effects:
        if isinstance(effect, PauseReading | ResumeReading):
            continue
        lane = by.setdefault(getattr(effect, "connection", None), [])
        if isinstance(effect, SendBytes) and lane and isinstance(lane[-1], bytes):
            lane[-1] += effect.data
        else:
            lane.append(effect.data if isinstance(effect, SendBytes) else repr(effect))
    return by
