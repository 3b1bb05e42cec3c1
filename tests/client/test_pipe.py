"""What a client delivers over a bad network is what one with a good network would have heard (S1, S2, M5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.events import AgentResponse, ErrorEvent
from tests.client.pipe import World

_sizes = st.integers(1, 400)
_which = st.integers(0, 5)
ACTIONS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "ask": (st.sampled_from((True, True, False)),),
    "cancel": (_which,),
    "open": (st.just(False),),
    "refuse": (),
    "up": (_sizes,),
    "down": (_sizes,),
    "flush": (),
    "block": (),
    "unblock": (),
    "cut": (),
    "half": (),
    "notice": (),
    "say": (_which, st.sampled_from((1, 5, 300))),
    "tell": (_which,),
    "finish": (_which,),
    "fail": (_which,),
    "advance": (st.sampled_from((0.05, 0.3, 2.0, 40.0)),),
}
Action = tuple[str, tuple[Any, ...]]


def actions(*more: str, without: tuple[str, ...] = ()) -> st.SearchStrategy[list[Action]]:
    """Histories of a world."""
    names = [name for name in [*ACTIONS, *more] if name not in without]
    # what makes a history go on is drawn more often than what ends it
    weighted = [*names, *("flush", "say", "down", "up") * 4, "ask", "ask", "tell", "cut"]
    one = st.sampled_from(weighted).flatmap(lambda name: st.tuples(st.just(name), st.tuples(*ACTIONS.get(name, ()))))
    begin: list[Action] = [("flush", ()), ("ask", (True,)), ("flush", ())]
    return st.lists(one, min_size=10, max_size=80).map(lambda history: begin + history)


def save(world: World) -> None:
    """The store answers what it was asked first."""
    if world.node.asked:
        world.node.answer()


def play(world: World, history: list[Action]) -> World:
    """Everything of a history, and then peace."""
    does: dict[str, Callable[..., None]] = {
        "ask": lambda stream: world.ask(stream=stream),
        "cancel": world.cancel,
        "open": lambda refuse: world.open(refuse=refuse),
        "refuse": lambda: world.open(refuse=True),
        "up": world.send_up,
        "down": world.send_down,
        "flush": world.flush,
        "block": world.block,
        "unblock": world.unblock,
        "cut": world.cut,
        "half": lambda: world.cut(half=True),
        "notice": world.notice,
        "say": world.say,
        "tell": world.tell,
        "finish": world.finish,
        "fail": world.fail,
        "advance": world.advance,
        "restart": world.restart,
        "save": lambda: save(world),
    }
    world.start()
    for name, arguments in history:
        does[name](*arguments)
    world.settle()
    return world


def check_ends(world: World) -> None:
    """Every message has its end, and every answer is what the agent said."""
    caller = world.caller
    assert caller.ends.keys() == set(world.asked)
    for message_id in world.asked:
        end = caller.ends[message_id]
        if isinstance(end, AgentResponse):
            assert end.run_id is not None
            said = world.said.get(end.run_id, [""])[-1]
            assert end.content == said if end.status == "completed" else said.startswith(end.content)
            if not world.restarts:  # after one, a run may begin anew, and come to less
                assert end.content.startswith(caller.texts.get(end.run_id, ""))
        elif end.run_id is None:
            assert end.error_code == "BUSY", "it was refused, and that was all"
            assert message_id not in caller.accepted
        else:
            assert end.error_code in ("AGENT_ERROR", "AGENT_TIMEOUT", "LOST", "ANSWERED")


def check_whole(world: World) -> None:
    """Nothing is missing."""
    caller = world.caller
    assert caller.gaps == []
    for message_id, end in caller.ends.items():
        if end.run_id is None:
            continue
        assert caller.accepted[message_id] == end.run_id
        if isinstance(end, AgentResponse):
            streamed = end.run_id in caller.texts or end.run_id in caller.steps
            assert not streamed or caller.texts.get(end.run_id, "") == end.content
            if streamed and end.status == "completed":
                assert caller.steps.get(end.run_id, []) == world.told.get(end.run_id, [])


@pytest.mark.row("S1")
@pytest.mark.row("M5")
@given(actions())
def test_a_bad_network_changes_nothing_of_what_is_delivered(history: list[Action]) -> None:
    world = play(World({}), history)
    check_ends(world)
    check_whole(world)
    assert not world.caller.replaced


@given(actions())
def test_nor_does_a_token_that_runs_out(history: list[Action]) -> None:
    world = play(World({}, authentication=True), history)
    check_ends(world)
    check_whole(world)
    assert not world.caller.replaced


@pytest.mark.row("S2")
@given(actions())
def test_what_the_server_holds_no_more_is_a_gap_that_is_told(history: list[Action]) -> None:
    world = play(World({"sessions": {"max_events": 5}}), history)
    check_ends(world)
    assert not world.caller.replaced
    if not world.caller.gaps:
        check_whole(world)


@pytest.mark.row("C1")
@given(actions())
def test_a_reader_that_is_slow_misses_nothing_that_it_is_not_told_of(history: list[Action]) -> None:
    limits = {"out_high": 1024, "out_top": 4096}
    world = play(World({"sessions": {"max_events": 8, "double_text": "concurrent"}, "limits": limits}), history)
    check_ends(world)
    assert not world.caller.replaced
    if not world.caller.gaps:
        check_whole(world)


@pytest.mark.row("D2")
@given(actions("restart"))
def test_a_server_with_a_store_that_dies_forgets_nothing(history: list[Action]) -> None:
    world = play(World({"store": {"on_restart": "rerun"}}, durable=True), history)
    check_ends(world)
    assert world.caller.gaps == []
    for end in world.caller.ends.values():
        assert not (isinstance(end, ErrorEvent) and end.error_code in ("LOST", "ANSWERED"))
        if isinstance(end, AgentResponse) and end.run_id in world.caller.texts:
            assert world.caller.texts[end.run_id].startswith(end.content)


@pytest.mark.parametrize("held", [1000, 5])
@given(history=actions("save", "save", "save"))
def test_a_store_that_is_slow_loses_no_end_that_is_about_to_be_heard(held: int, history: list[Action]) -> None:
    world = play(World({"sessions": {"max_events": held}}, durable=True, prompt=False), history)
    check_ends(world)
    assert not world.caller.replaced
    if not world.caller.gaps:
        check_whole(world)
        assert not any(
            isinstance(end, ErrorEvent) and end.error_code in ("LOST", "ANSWERED") for end in world.caller.ends.values()
        )


@given(actions("restart"))
def test_a_server_without_one_forgets_everything_and_that_is_told(history: list[Action]) -> None:
    world = play(World({}), history)
    check_ends(world)
    if not world.restarts:
        check_whole(world)


@given(actions("restart"))
def test_a_named_session_is_heard_like_one_of_its_own(history: list[Action]) -> None:
    config = {"session_id": "a-name", "history": True}
    world = play(World({"sessions": {"max_events": 5}}, client=config, durable=True), history)
    check_ends(world)
