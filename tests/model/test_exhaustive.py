"""Every interleaving of a few acts on one session, to a depth of eight, and no seed: what holds after each of them.

The walk is breadth-first, so that what fails is as short as can be. Histories that lead to one state are gone on from
once (`state.py` says what a state is, and the tests below prove it); the histories that the counts stand for are 10^8
and more. What is looked at in each state is in `machine.py`, and in the harness.

What fails prints the part and the acts; `again(part, *acts)` does them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.model.machine import Machine, Part
from tests.model.snapshot import set_up, take_down
from tests.model.state import LEFT_OUT, LOOKED_AT, answered, described, key, swap

T = TypeVar("T")


def both(*acts: str) -> tuple[str, ...]:
    """The same acts for each of ana's tabs."""
    return tuple(f"ana-{tab} {act}" for act in acts for tab in (1, 2))


TIMES = ("agent yields", "agent ends", "time ttl")
EVAS = ("eva opens", "eva leaves", "eva says m1", "eva resumes first", "eva cancels m1", "eva cancels run")

RESUME = Part(
    "coming and going, resume from each place, expiry",
    (*both("opens", "leaves", "says m1", "resumes first", "resumes last", "resumes blind"), *TIMES),
    away=("eva",),
)
CANCEL = Part(
    "cancelling what runs and what waits",
    (
        "ana-1 says m1", "ana-2 says m2", "ana-1 cancels m1", "ana-2 cancels m1", "ana-1 cancels m2",
        "ana-2 resumes first", "agent yields", "agent ends", "agent fails", "time grace",
    ),
    away=("eva",),
)  # fmt: skip
TAKE_OVER = Part(
    "taking a session over",
    (*both("opens", "leaves", "says m1", "resumes last"), *TIMES),
    sessions=(("exclusive", True),),
    away=("eva",),
)
STRANGERS = Part(
    "a stranger beside",
    ("ana-1 opens", "ana-1 leaves", "ana-1 says m1", *TIMES, *EVAS),
    away=("ana-2",),
)
KEPT = Part(
    "a store that answers when it likes, or fails",
    (*both("opens", "leaves", "says m1", "resumes last"), *TIMES, "store answers", "store fails"),
    durable=True,
    away=("eva",),
)
BOUNDS = Part(
    "a log that holds three events, and less once they are acknowledged",
    (
        *both("acks", "resumes last"), "ana-1 says m1", "ana-2 resumes first", "ana-2 leaves", "ana-2 opens",
        "agent yields", "agent ends",
    ),
    sessions=(("max_events", 3),),
    away=("eva",),
)  # fmt: skip
WHOLE = Part(
    "all of it at once",
    (
        *both(
            "opens", "leaves", "says m1", "says m2", "resumes first", "resumes last", "resumes blind", "cancels m1",
            "cancels m2", "acks",
        ),
        *TIMES, "time grace", "agent fails", *EVAS,
    ),
)  # fmt: skip
PARTS = [RESUME, CANCEL, TAKE_OVER, STRANGERS, KEPT, BOUNDS, WHOLE]


def again(part: Part, *acts: str) -> Machine:
    """What a history has led to, done act by act."""
    machine = Machine(part)
    machine.check()
    for act in acts:
        machine.do(act)
        machine.check()
    return machine


def walk(part: Part, depth: int) -> tuple[int, int]:
    """Go every way there is, to this depth; how many states and how many steps from one to the next there are."""
    machine = again(part)
    seen, steps = {key(machine)}, 0
    ways: list[tuple[tuple[str, ...], bytes]] = [((), take_down(machine))]
    for left in reversed(range(depth)):
        further = []
        for way, down in ways:
            machine = set_up(down)
            here = there = key(machine)
            for act in machine.enabled():
                if there != here:  # else it is where it was, and goes on from there
                    machine = set_up(down)
                there = _step(machine, part, way, act)
                steps += 1
                if there not in seen:
                    seen.add(there)
                    further.append(((*way, act), take_down(machine) if left else b""))
                    _told(part, (*way, act), machine.end)
        ways = further
    return len(seen), steps


def _step(machine: Machine, part: Part, way: tuple[str, ...], act: str) -> bytes:
    def step() -> bytes:
        machine.do(act)
        machine.check()
        return key(machine)

    return _told(part, (*way, act), step)


def _told(part: Part, way: tuple[str, ...], do: Callable[[], T]) -> T:
    """What is done; where it fails, how it came to that."""
    try:
        return do()
    except Exception as error:
        error.add_note(f"part: {part.name}\nacts: {', '.join(way)}")
        raise


@pytest.mark.row("S1")
@pytest.mark.row("S2")
@pytest.mark.row("S3")
@pytest.mark.clause("C4")
@pytest.mark.clause("C8")
@pytest.mark.clause("C10")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("part", "depth", "states", "steps"),
    [
        pytest.param(RESUME, 8, 9000, 30000, id="resume"),
        pytest.param(CANCEL, 8, 2500, 12000, id="cancel"),
        pytest.param(TAKE_OVER, 8, 400, 1200, id="take-over"),
        pytest.param(STRANGERS, 8, 6000, 20000, id="strangers"),
        pytest.param(KEPT, 8, 1800, 6000, id="kept"),
        pytest.param(BOUNDS, 8, 2000, 7000, id="bounds"),
        pytest.param(WHOLE, 4, 3000, 10000, id="whole"),
    ],
)
def test_every_interleaving_keeps_what_is_promised(
    part: Part, depth: int, states: int, steps: int, record_property: Callable[[str, object], None]
) -> None:
    found_states, found_steps = walk(part, depth)
    record_property("figures", f"{part.name}: {found_states} states, {found_steps} steps, to depth {depth}")
    assert found_states >= states
    assert found_steps >= steps


# ── what the walk stands on ──────────────────────────────────────────────────────────────────────────────────────────


def ways(part: Part, depth: int) -> Iterator[tuple[tuple[str, ...], bytes, tuple[str, ...], bytes]]:
    """Each step of a walk that takes ana's tabs for two: the way there and what it has led to, with the way on which
    that state was come upon first, and what that had led to."""
    machine = again(part)
    ends: list[tuple[tuple[str, ...], bytes]] = [((), take_down(machine))]
    first = {described(machine): ends[0]}
    for _ in range(depth):
        further = []
        for way, down in ends:
            for act in set_up(down).enabled():
                machine = set_up(down)
                machine.do(act)
                there = (*way, act), take_down(machine)
                known = first.setdefault(described(machine), there)
                if known is there:
                    further.append(there)
                yield *there, *known
        ends = further


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_what_is_one_state_answers_alike(part: Part) -> None:
    met = 0
    for way, down, other, its in ways(part, 2 if part is WHOLE else 3):
        if way == other:
            continue
        met += 1
        acts = set_up(down).enabled()
        assert set_up(its).enabled() == acts
        for act in acts:
            one, two = set_up(its), set_up(down)
            one.do(act)
            two.do(act)
            assert answered(one) == answered(two), f"{act} behind {other} and behind {way}"
    assert met > 20


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_machine_that_was_set_up_again_is_the_one_it_was(part: Part) -> None:
    for way, down, _, _ in ways(part, 2):
        assert answered(set_up(down)) == answered(again(part, *way)), way


@pytest.mark.parametrize("part", [part for part in PARTS if part.symmetric], ids=lambda part: part.name)
def test_it_does_not_matter_which_tab_is_which(part: Part) -> None:
    for way, down, _, _ in ways(part, 2 if part is WHOLE else 3):
        mirrored = again(part, *map(swap, way))
        assert described(set_up(down)) == described(mirrored, swapped=True), way


def test_all_of_a_state_is_looked_at_or_left_out_with_a_reason() -> None:
    machine = again(KEPT, "ana-1 says m1")
    session = machine.session("ana")
    assert session is not None
    gateway = machine.node.gateway
    things: list[object] = [
        gateway._sessions, session, session.log, *session.cursors.values(), gateway._runs, *gateway._runs,
        *gateway._connections.values(), gateway._journal, gateway._timers, gateway._chats, *machine.seats.values(),
    ]  # fmt: skip
    assert {type(thing) for thing in things} == LOOKED_AT.keys() == LEFT_OUT.keys()
    for thing in things:
        kind = type(thing)
        defaults = {name for name, value in vars(kind).items() if name[:2] != "__" and not hasattr(value, "__get__")}
        has = set(getattr(kind, "__slots__", None) or vars(thing).keys() | defaults)
        assert LOOKED_AT[kind] | LEFT_OUT[kind].keys() == has, f"{kind.__name__}: decide whether it makes a difference"
        assert not LOOKED_AT[kind] & LEFT_OUT[kind].keys()
