"""The budget of a day against a model that keeps every answer, the bound of its table, and clocks that are put back."""

from __future__ import annotations

import tracemalloc
from math import floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qaws_proto.admission.budget import DAY, Budget, Reservation
from qaws_proto.clock import Now
from qaws_proto.config import WebSocketConfig

NOON = 20_000.5 * DAY
MEBIBYTE = 1024 * 1024


def _budget(**settings: Any) -> Budget:
    return Budget(WebSocketConfig.model_validate({"agent": {"budget": settings}}))


def _at(unix: float) -> Now:
    return Now(1000.0, unix)


def _taken(budget: Budget, account: str, unix: float) -> Reservation:
    assert budget.wait(account, _at(unix)) == 0.0
    reservation = budget.reserve(account, _at(unix))
    assert reservation is not None
    return reservation


class Model:
    """What each account has taken on which day; days are those of the latest time there was."""

    def __init__(self, per_day: int, reserve: int) -> None:
        self.per_day, self.reserve = per_day, reserve
        self.latest = 0.0
        self.taken: list[tuple[str, int, int]] = []  # account, day, units

    def day(self, unix: float) -> int:
        self.latest = max(self.latest, unix)
        return floor(self.latest / DAY)

    def fits(self, account: str, unix: float) -> bool:
        day = self.day(unix)
        used = sum(units for who, when, units in self.taken if (who, when) == (account, day))
        return used + self.reserve <= self.per_day


MOVES = st.sampled_from([0.0, 1.0, 3600.0, -3600.0, DAY / 2, float(DAY), -float(DAY), 3.0 * DAY]) | st.floats(-DAY, DAY)
ASK = st.tuples(st.sampled_from("ab"), MOVES, st.none() | st.integers(0, 400))


@pytest.mark.row("R1")
@pytest.mark.row("R3")
@given(st.integers(100, 500), st.lists(st.tuples(ASK, st.integers(0, 3)), max_size=40))
def test_a_budget_is_kept_to_the_unit_and_never_given_twice(
    per_day: int, asks: list[tuple[tuple[str, float, int | None], int]]
) -> None:
    budget, model, unix = _budget(per_day=per_day, reserve=100), Model(per_day, 100), NOON
    open_runs: list[tuple[Reservation, int, int | None]] = []  # with their places in the model
    for (account, move, used), ends in asks:
        unix += move
        wait = budget.wait(account, _at(unix))
        assert (wait == 0.0) is model.fits(account, unix)
        if wait:
            assert unix + wait >= (model.day(unix) + 1) * DAY > unix + wait - 0.0011, "when the next day begins"
        else:
            reservation = budget.reserve(account, _at(unix))
            assert reservation is not None
            open_runs.append((reservation, len(model.taken), used))
            model.taken.append((account, model.day(unix), 100))
        for _ in range(min(ends, len(open_runs))):
            reservation, place, spent = open_runs.pop(0)
            budget.settle(reservation, spent)
            who, when, _units = model.taken[place]
            model.taken[place] = (who, when, 100 if spent is None else spent)


def test_without_a_budget_nothing_is_taken() -> None:
    budget = _budget()
    assert budget.wait("ana", _at(NOON)) == 0.0
    assert budget.reserve("ana", _at(NOON)) is None
    assert len(budget) == 0


def test_an_answer_of_yesterday_does_not_count_for_today() -> None:
    budget = _budget(per_day=100, reserve=100)
    yesterday = _taken(budget, "ana", NOON)
    today = _taken(budget, "ana", NOON + DAY)
    budget.settle(yesterday, 5000)
    budget.settle(today, 0)
    assert budget.wait("ana", _at(NOON + DAY)) == 0.0


@pytest.mark.row("R3")
def test_a_clock_that_is_put_back_gives_no_budget_twice() -> None:
    budget = _budget(per_day=100, reserve=100)
    budget.settle(_taken(budget, "ana", NOON), 100)
    assert budget.wait("ana", _at(NOON - DAY)) == 1.5 * DAY
    assert budget.wait("ana", _at(NOON)) == DAY / 2
    budget.settle(_taken(budget, "ana", NOON + DAY), 100)
    assert budget.wait("ana", _at(NOON)) == 1.5 * DAY


@pytest.mark.row("R2")
@pytest.mark.clause("C7")
def test_a_full_table_shares_one_budget_until_the_next_day() -> None:
    budget = _budget(per_day=100, reserve=50, max_users=2)
    for account in ("ana", "bob"):
        budget.settle(_taken(budget, account, NOON), 10)
    budget.settle(_taken(budget, "eve", NOON), 60)
    assert budget.wait("joe", _at(NOON)) == DAY / 2, "what eve used"
    assert budget.wait("ana", _at(NOON)) == 0.0
    assert len(budget) == 3
    assert budget.wait("joe", _at(NOON + DAY)) == 0.0
    assert len(budget) == 0


@pytest.mark.row("R2")
def test_an_account_of_which_nothing_is_left_makes_room() -> None:
    budget = _budget(per_day=100, reserve=50, max_users=1)
    budget.settle(_taken(budget, "ana", NOON), 0)
    assert len(budget) == 0
    budget.settle(_taken(budget, "bob", NOON), 100)
    assert len(budget) == 1
    assert budget.wait("ana", _at(NOON)) == 0.0, "of bob, not of all"
    assert budget.wait("bob", _at(NOON)) == DAY / 2


@pytest.mark.row("R2")
@pytest.mark.clause("C7")
def test_a_million_users_are_held_in_16_mebibytes() -> None:
    budget = _budget(per_day=1000, reserve=500)

    def come(numbers: range) -> None:
        for number in numbers:
            account = f"user 2001-db8-{number:x}"
            if budget.wait(account, _at(NOON)) == 0.0:
                budget.reserve(account, _at(NOON))

    tracemalloc.start()
    try:
        come(range(200_000))  # twice as many as there is room for
        assert tracemalloc.get_traced_memory()[1] <= 16 * MEBIBYTE
    finally:
        tracemalloc.stop()
    come(range(200_000, 1_000_000))
    assert len(budget) == 100_001


def test_a_budget_below_what_is_reserved_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        _budget(per_day=999)
    assert "below `reserve`" in str(caught.value)
    _budget(per_day=1000)
