"""What is judged at the end of a world: that it can be replayed, that nothing leaked, that nothing is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaws_proto.client.io import ClientFault
from qaws_proto.clock import Reason
from qaws_proto.effects import Note, SaveRecords, SendBytes
from qaws_proto.records import EventRecord
from qaws_proto.testing.agents import CANARY
from qaws_proto.testing.judge import check_reads, check_replay, check_secrets, check_timers
from qaws_proto.testing.profile import Profile
from qaws_proto.testing.users import User
from qaws_proto.testing.world import World

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
