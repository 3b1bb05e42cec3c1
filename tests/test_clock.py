"""Timers against a model so simple that it is right by sight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qaws_proto.clock import Owner, Reason, Timers

REASONS = st.sampled_from([Reason.HEAD, Reason.HEARTBEAT, Reason.RUN])
OWNERS: st.SearchStrategy[Owner] = st.integers(0, 4) | st.sampled_from(["run-a", "run-b"])
TIMES = st.integers(0, 50).map(float)


class TimersAgainstModel(RuleBasedStateMachine):
    """The model: a dictionary of deadlines in the order in which they were set."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.model: dict[tuple[Reason, Owner], float] = {}

    @rule(reason=REASONS, owner=OWNERS, at=TIMES)
    def set(self, reason: Reason, owner: Owner, at: float) -> None:
        self.timers.set(reason, owner, at)
        self.model.pop((reason, owner), None)
        self.model[reason, owner] = at

    @rule(reason=REASONS, owner=OWNERS, at=TIMES, times=st.integers(1, 80))
    def set_many_times(self, reason: Reason, owner: Owner, at: float, times: int) -> None:
        for later in range(times):
            self.set(reason, owner, at + later)

    @rule(reason=REASONS, owner=OWNERS)
    def clear(self, reason: Reason, owner: Owner) -> None:
        self.timers.clear(reason, owner)
        self.model.pop((reason, owner), None)

    @rule(reasons=st.lists(REASONS), owner=OWNERS)
    def clear_all(self, reasons: list[Reason], owner: Owner) -> None:
        self.timers.clear_all(reasons, owner)
        for reason in reasons:
            self.model.pop((reason, owner), None)

    @rule(mono=TIMES)
    def pop_due(self, mono: float) -> None:
        due = [(at, name) for name, at in self.model.items() if at <= mono]
        expected = min(due, key=lambda one: one[0])[1] if due else None  # of equal ones the first that was set
        assert self.timers.pop_due(mono) == expected
        if expected is not None:
            del self.model[expected]

    @rule(mono=TIMES)
    def pop_all_due(self, mono: float) -> None:
        while self.timers.pop_due(mono) is not None:
            pass
        self.model = {name: at for name, at in self.model.items() if at > mono}

    @invariant()
    def agrees(self) -> None:
        assert self.timers.soonest == min(self.model.values(), default=None)
        assert self.timers.soonest == min(self.model.values(), default=None)  # reading changed nothing
        assert len(self.timers) == len(self.model)
        for name, at in self.model.items():
            assert self.timers.at(*name) == at

    @invariant()
    def stale_entries_are_bounded(self) -> None:
        assert len(self.timers._heap) <= max(64, 2 * len(self.model))


TestTimers = pytest.mark.clause("C5")(TimersAgainstModel.TestCase)


@pytest.mark.clause("C5")
@given(st.lists(st.tuples(OWNERS, TIMES), min_size=1))
def test_an_early_timer_is_harmless_and_a_due_one_moves_on(deadlines: list[tuple[Owner, float]]) -> None:
    timers = Timers()
    for owner, at in deadlines:
        timers.set(Reason.RUN, owner, at)
    while (soonest := timers.soonest) is not None:
        assert timers.pop_due(soonest - 0.5) is None
        assert timers.soonest == soonest
        while timers.pop_due(soonest) is not None:
            pass
        assert timers.soonest is None or timers.soonest > soonest


@pytest.mark.clause("C2")
def test_of_equal_deadlines_the_first_that_was_set_comes_first() -> None:
    timers = Timers()
    for owner in (2, 1, 3):
        timers.set(Reason.RUN, owner, 5.0)
    timers.set(Reason.RUN, 2, 5.0)  # set again, and so the last
    assert [timers.pop_due(5.0) for _ in range(4)] == [(Reason.RUN, 1), (Reason.RUN, 3), (Reason.RUN, 2), None]


def test_what_was_never_set_is_nowhere() -> None:
    timers = Timers()
    timers.clear(Reason.HEAD, 1)
    assert timers.soonest is None
    assert timers.at(Reason.HEAD, 1) is None
    assert timers.pop_due(1e9) is None


@pytest.mark.clause("C7")
def test_many_moves_of_one_timer_leave_a_small_heap() -> None:
    timers = Timers()
    for number in range(100):
        timers.set(Reason.TOKEN, number, 1.0)
    for at in range(20_000):
        timers.set(Reason.HEARTBEAT, 1, 2.0 + at)  # behind the others, where nothing brings stale entries to the top
        assert len(timers._heap) <= 2 * 101
    assert timers.soonest == 1.0
    assert timers.at(Reason.HEARTBEAT, 1) == 20_001
