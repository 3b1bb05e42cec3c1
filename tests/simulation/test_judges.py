"""What is judged at the end of a world: that it can be replayed, that nothing leaked, that nothing is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaws_proto.client.io import ClientFault
from qaws_proto.clock import Reason
from qaws_proto.conversation.session import Session
from qaws_proto.effects import DropConnection, Note, SaveRecords, SendBytes
from qaws_proto.inputs import (
    BytesReceived,
    ConnectionLost,
    EofReceived,
    WriteBlocked,
    WriteDrained,
    WriteProgressed,
)
from qaws_proto.records import EventRecord
from qaws_proto.testing.agents import CANARY
from qaws_proto.testing.judge import Unread, check_bounds, check_reads, check_replay, check_secrets, check_timers
from qaws_proto.testing.profile import Profile
from qaws_proto.testing.users import User
from qaws_proto.testing.world import Node, World

CALM = Profile(users=1, chaos=5.0, asks_every=1.0)


@pytest.fixture
def world() -> World:
    """One in which nothing went wrong."""
    world = World(1, profile=CALM)
    world.run()
    return world


def judge_reads(world: World) -> None:
    check_reads(world.past[0], world.ids_from, world.streams.stream("reads again"))


@pytest.mark.clause("C2")
@pytest.mark.clause("C3")
@pytest.mark.parametrize(
    ("judge", "found"),
    [(lambda world: check_replay(world.past[0], world.ids_from), "C2: "), (judge_reads, "C3: ")],
)
def test_a_history_that_does_not_come_again_is_found(world: World, judge: Callable[[World], None], found: str) -> None:
    judge(world)
    history = world.past[0].node.history
    at = next(at for at, (_, _, effects) in enumerate(history) if any(isinstance(one, SendBytes) for one in effects))
    event, now, effects = history[at]
    history[at] = (event, now, [*effects, SendBytes(0, b"more")])
    with pytest.raises(AssertionError, match=found):
        judge(world)


@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    "leak",
    [
        SendBytes(0, b"a secret"),
        Note("run", "ERROR", "run_ended", {"text": "a secret"}),
        SaveRecords(1, (EventRecord("ana", "s", "e", 1, b"a secret"),), 0.0),
        SendBytes(0, CANARY.encode()),
    ],
)
def test_a_secret_that_is_told_is_found(world: World, leak: SendBytes | Note | SaveRecords) -> None:
    life = world.past[0]
    check_secrets(life, ["a secret"])
    life.node.history[0][2].append(leak)
    with pytest.raises(AssertionError, match="C12: "):
        check_secrets(life, ["a secret"])


@pytest.mark.clause("C12")
@pytest.mark.parametrize("part", [slice(11, 40), slice(30, 60), slice(-30, None)])
def test_a_part_of_a_token_that_is_told_is_found(world: World, part: slice) -> None:
    life, secret = world.past[0], f"{'h' * 20}.{'claims' * 5}{'x' * 40}.{'s' * 10}{'signature' * 4}"
    check_secrets(life, [secret])
    life.node.history[0][2].append(Note("security", "WARNING", "auth_failed", {"token": secret[part]}))
    with pytest.raises(AssertionError, match="C12: "):
        check_secrets(life, [secret])


def too_many_events(world: World) -> None:
    for _ in range(world.config.sessions.max_events):
        session_of(world).log._payloads.append(b"")


def too_many_bytes(world: World) -> None:
    log, size = session_of(world).log, world.config.sessions.max_bytes + 1
    log._payloads.appendleft(bytes(size))
    log._held += size


def uncounted_bytes(world: World) -> None:
    session_of(world).log._payloads.append(b"more")


def too_many_ids(world: World) -> None:
    session_of(world).known.update({f"m{number}": "r" for number in range(world.config.sessions.known_ids)})


def too_many_promises(world: World) -> None:
    node_of(world).gateway._sessions._promised.update({("ana", str(number)): "e" for number in range(9)})


def too_many_of_the_past(world: World) -> None:
    names = {("ana", str(number)): None for number in range(world.config.sessions.max_sessions + 1)}
    node_of(world).gateway._sessions._past.update(names)


def too_many_awaited(world: World) -> None:
    (connection, *_) = node_of(world).gateway._connections.values()
    connection.awaits = frozenset(("ana", str(number)) for number in range(world.config.sessions.per_user + 1))


def too_many_sessions(world: World) -> None:
    sessions = node_of(world).gateway._sessions
    for number in range(world.config.sessions.max_sessions):
        sessions.make("ana", str(number), "e")


def uncounted_session(world: World) -> None:
    node_of(world).gateway._sessions.held -= 1


def node_of(world: World) -> Node:
    assert world.node is not None
    return world.node


def session_of(world: World) -> Session:
    return next(session for session in node_of(world).gateway._sessions if session.log.head)


@pytest.mark.clause("C7")
@pytest.mark.parametrize(
    "grow",
    [
        too_many_events, too_many_bytes, uncounted_bytes, too_many_ids, too_many_promises, too_many_of_the_past,
        too_many_awaited, too_many_sessions, uncounted_session,
    ],
)  # fmt: skip
def test_what_grows_beyond_its_bound_is_found(world: World, grow: Callable[[World], None]) -> None:
    check_bounds(node_of(world))
    grow(world)
    with pytest.raises(AssertionError, match="C7: "):
        check_bounds(node_of(world))


@pytest.mark.row("S3")
def test_a_session_that_is_to_end_too_soon_is_found(world: World) -> None:
    unread, node, session = Unread(), node_of(world), session_of(world)
    ttl = node.config.sessions.ttl
    unread.check(node)
    node.gateway._timers.set(Reason.SESSION, session.number, node.now.mono + ttl)
    unread.check(node)
    node._move_to(node.now.mono + 5)
    unread.check(node)
    node.gateway._timers.set(Reason.SESSION, session.number, node.now.mono + ttl - 5.1)
    with pytest.raises(AssertionError, match="S3: "):
        unread.check(node)


@pytest.mark.clause("C6")
def test_connections_that_are_closed_are_told_of_too() -> None:
    world = World(1, profile=Profile(users=1, chaos=20.0, hostile=("probes",), hostile_every=2.0))
    world.run()
    closed, late = set[int](), set[type]()
    for event, _, effects in node_of(world).history:
        if getattr(event, "connection", None) in closed:
            late.add(type(event))
        closed |= {effect.connection for effect in effects if isinstance(effect, DropConnection)}
    assert late == {BytesReceived, EofReceived, ConnectionLost, WriteBlocked, WriteProgressed, WriteDrained}


@pytest.mark.clause("C5")
@pytest.mark.clause("C7")
@pytest.mark.parametrize(
    ("seconds", "size", "found"), [(-0.1, 2, "C5: "), (601.0, 2, "C5: "), (1.0, (8 << 20) + 1, "C7: ")]
)
def test_an_answer_that_took_too_long_or_is_too_large_is_found(
    world: World, seconds: float, size: int, found: str
) -> None:
    node = node_of(world)
    assert (node.config.agent.max_duration, node.config.agent.max_response_size) == (600, 8 << 20)
    event = {"type": "agent_response", "content": "x" * size, "processing_time": seconds}
    with pytest.raises(AssertionError, match=found):
        node.clients[0]._check(event)


@pytest.mark.parametrize(("reason", "owner"), [(Reason.HEARTBEAT, 77), (Reason.RUN, "a run"), (Reason.SESSION, 77)])
def test_a_timer_for_the_dead_is_found(world: World, reason: Reason, owner: int | str) -> None:
    assert world.node is not None
    check_timers(world.node)
    world.node.gateway._timers.set(reason, owner, 1e9)
    with pytest.raises(AssertionError, match=str(owner)):
        check_timers(world.node)


def test_a_client_that_gives_up_for_no_reason_is_found() -> None:
    world = World(1, profile=CALM)
    world.start_node()
    user = User(world, 1, tabs=1)
    with pytest.raises(AssertionError, match="user-1a gave up"):
        world.judge_end(user.tabs[0], ClientFault("PROTOCOL", "it said nonsense", 1002))
    world.excuses.add("4403")
    world.judge_end(user.tabs[0], ClientFault("CLOSED", "blocked", 4403))


def test_a_world_that_does_not_recover_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1, profile=CALM)
    monkeypatch.setattr(World, "connect", lambda world, tab: None)
    with pytest.raises(AssertionError, match=r"not recovered within 240.0 s: .*user-1a: flowing False"):
        world.run()
