"""What is judged at the end of a simulated world: that its history can be replayed, and that nothing leaked.

C2: the same inputs at the same times give the same effects. C3: so do the same bytes in other reads. C12: no token and
no text of an exception is anywhere but where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ..clock import Now, Reason
from ..conversation.run import State
from ..effects import Effect, MessageEffect, Note, PauseReading, ResumeReading, SaveRecords, SendBytes
from ..gateway import Gateway
from ..inputs import BytesReceived, Input, SessionLoaded, StoreOpened, TimerFired
from .agents import CANARY
from .node import AT_ONCE
from .recording import RecordedGateway
from .streams import Random
from .trace import Step

if TYPE_CHECKING:
    from .node import NodeUnderTest
    from .world import Node

OF_THE_NODE = (Reason.KEYS, Reason.STORE, Reason.DRAIN)  # timers that no connection, run or session has
FRAGMENT = 16  # characters at an end of a part of a token that tell it from others
MOMENT = 0.001  # seconds that backlogs of frames may take within one act of a world

Ids = Callable[[int], Callable[[], str]]


class Incarnation:
    """One life of a world's node, and how many ids were given out before it."""

    def __init__(self, node: Node, first_id: int) -> None:
        self.node = node
        self.first_id = first_id

    def again(self, ids: Ids) -> Gateway:
        """The same gateway, before anything happened to it."""
        return Gateway(self.node.config, ids=ids(self.first_id), durable=self.node.store is not None)

    def trace(self, ids: Ids) -> Iterator[str]:
        """The lines of its trace, as far as it came: the inputs again, secrets taken out."""
        steps: list[Step] = []
        gateway = RecordedGateway(
            self.node.config, ids=ids(self.first_id), write=steps.append, durable=self.node.store is not None,
            kind="simulation", redacted=True,
        )  # fmt: skip
        for event, now in self.node.inputs:
            try:
                gateway.step(event, now)
            except Exception:  # noqa: BLE001 - it is a step as well, and the last one
                break
        gateway.finish()
        yield gateway.head.line() + "\n"
        for step in sorted(steps, key=lambda step: step.seq):
            yield step.line() + "\n"


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
    while (wake_at := gateway.wake_at) is not None and wake_at - now.mono < AT_ONCE:  # what the node does in `settle`
        now = Now(max(wake_at, now.mono), now.unix)
        effects += gateway.step(TimerFired(), now)
    return effects


def check_secrets(life: Incarnation, secrets: Iterable[str]) -> None:
    """C12: nothing secret goes over the wire, into notes or into the store; nor what an agent's exception says."""
    told: list[str] = []
    for _, _, effects in life.node.history:
        for effect in effects:
            if isinstance(effect, SendBytes):
                told.append(effect.data.decode("latin-1"))
            elif isinstance(effect, Note):
                told.append(repr(effect))
            elif isinstance(effect, SaveRecords | MessageEffect):
                told.append(str(tuple(effect)))
    told += [str(event) for client in life.node.clients.values() for event in client.heard]  # what was compressed, too
    text = "\n".join(told)
    for part in dict.fromkeys(fragment for secret in (CANARY, *secrets) for fragment in _fragments(secret)):
        assert part not in text, f"C12: told: {text[max(0, text.index(part) - 80) :][:200]}"


def _fragments(secret: str) -> Iterator[str]:
    """What may be nowhere: the secret, or of a token its claims' beginning and the ends of its signature."""
    parts = secret.split(".")
    if len(parts) == 3:
        yield from (parts[1][:FRAGMENT], parts[2][:FRAGMENT], parts[2][-FRAGMENT:])
    else:
        yield secret


class Unread:
    """Since when sessions of a node are read by nobody: before their time is over none of them ends."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def check(self, node: NodeUnderTest) -> None:
        """Look at a node behind an act."""
        gateway, mono = node.gateway, node.now.mono
        since, self._since = self._since, {}
        for session in gateway._sessions:
            due = gateway._timers._due.get((Reason.SESSION, session.number))
            if due is not None:
                at = self._since[session.number] = since.get(session.number, mono)
                ttl = node.config.sessions.ttl
                assert due[0] >= at + ttl - MOMENT, f"S3: a session ends {due[0] - at} s after its last reader went"


def check_bounds(node: NodeUnderTest) -> None:
    """C7 of all that is held for sessions: as much as the configuration says, counted here anew."""
    gateway, config = node.gateway, node.config.sessions
    sessions = gateway._sessions
    assert len(sessions) <= config.max_sessions, f"C7: {len(sessions)} sessions"
    assert len(sessions._past) <= config.max_sessions, f"C7: {len(sessions._past)} sessions that are gone are known"
    promised = len(sessions._promised)
    assert promised <= gateway.connections, f"C7: {promised} sessions are promised to {gateway.connections} connections"
    owned: dict[str, int] = {}
    for session in sessions:
        payloads = session.log._payloads
        held = sum(map(len, payloads))
        assert held == session.log.held, f"C7: a log counts {session.log.held} bytes for {held}"
        assert len(payloads) <= config.max_events, f"C7: a log of {len(payloads)} events"
        newest = len(payloads[-1]) if payloads else 0
        assert held - newest <= config.max_bytes, f"C7: a log of {held} bytes"
        known = max(len(session.known), len(session.ended))
        assert known <= config.known_ids, f"C7: {known} ids of a session are known"
        owned[session.owner] = owned.get(session.owner, 0) + held
    assert sum(owned.values()) == sessions.held, f"C7: sessions count {sessions.held} bytes for {sum(owned.values())}"
    for connection in gateway._connections.values():
        assert len(connection.awaits) <= config.per_user, f"C7: {len(connection.awaits)} sessions are awaited"


def check_timers(node: NodeUnderTest) -> None:
    """No timer is set for what is not there any more; of runs there are none."""
    open_ones = {number for number, client in node.clients.items() if not client.dropped}
    sessions = {session.number for session in node.gateway._sessions}
    for reason, owner in node.gateway._timers._due:
        if reason is Reason.SESSION:
            assert owner in sessions, f"{reason} for session {owner}, which is gone"
        elif reason not in OF_THE_NODE:
            assert owner in open_ones, f"{reason} for {owner}, which is gone"
    for session in node.gateway._sessions:
        ends = (Reason.SESSION, session.number) in node.gateway._timers._due
        assert session.cursors or ends, f"nobody reads session {session.id}, and it never ends"


def in_turn(node: NodeUnderTest) -> dict[int, int]:
    """By session: the messages that wait or run."""
    return {session.number: len(session.waiting) + len(session.running) for session in node.gateway._sessions}


def check_taken(node: NodeUnderTest, event: Input, before: dict[int, int], *, drains: bool) -> None:
    """G7: an input of a peer takes no message beyond the queue of its session; D1: none at all, where the node drains.

    `before` and `drains`: what `in_turn` and the gateway said before it. What a store brings back may be more.
    """
    if isinstance(event, StoreOpened | SessionLoaded):
        return
    sessions = node.gateway.config.sessions
    bound = sessions.queue + (2 if sessions.double_text == "interrupt" else 1)
    for number, count in in_turn(node).items():
        most = before.get(number, 0) if drains else max(before.get(number, 0), bound)
        assert count <= most, f"G7, D1: {count} messages wait or run in session {number}, of {most}"


def stopping(node: NodeUnderTest) -> set[str]:
    """Runs whose agents were told to stop, and that their sessions wait for."""
    return {run.id for run in node.gateway._runs if run.state is State.STOPPING}


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
