"""A principal for as long as its token is good."""

from __future__ import annotations

import pytest

from qaws_proto.admission.credential import TICK, Credential
from qaws_proto.admission.tokens import ANONYMOUS, Principal
from qaws_proto.clock import Now

LEEWAY = 30.0


def credential(expires_at: float, unix: float) -> Credential:
    return Credential(Principal("u", None, {}, expires_at), LEEWAY, Now(0.0, unix))


def test_what_has_no_end_never_ends() -> None:
    endless, late = Credential(ANONYMOUS, LEEWAY, Now(0.0, 0.0)), Now(0.0, 1e12)
    assert not endless.expired(late)
    assert not endless.warn(late)
    assert (endless.expires_in(late), endless.next_look(late)) == (None, None)


@pytest.mark.row("A4")
@pytest.mark.parametrize(
    ("expires_at", "unix", "end"),
    [(1000.0, 0.0, 1000.0), (1000.0, 999.0, 1000.0), (1000.0, 1000.0, 1030.0), (1000.0, 1029.0, 1030.0)],
)
def test_it_ends_at_exp_or_behind_the_leeway_that_let_it_in(expires_at: float, unix: float, end: float) -> None:
    held = credential(expires_at, unix)
    assert not held.expired(Now(0.0, end - 0.001))
    assert held.expired(Now(0.0, end))
    lefts = [(1.75, 2), (1.5, 2), (1.25, 1), (0.75, 1), (0.25, 0), (0.0, 0), (-5.0, 0)]
    assert [held.expires_in(Now(0.0, end - left)) for left, _ in lefts] == [said for _, said in lefts]


@pytest.mark.row("A4")
def test_it_warns_once_a_minute_before_the_end() -> None:
    held = credential(1000.0, 0.0)
    assert held.next_look(Now(5.0, 0.0)) == 945.0
    assert [held.warn(Now(0.0, unix)) for unix in (939.0, 940.0, 941.0)] == [False, True, False]
    assert held.next_look(Now(945.0, 940.0)) == 1005.0


def test_who_logs_in_in_the_last_minute_is_not_warned_again() -> None:
    assert not credential(1000.0, 950.0).warn(Now(0.0, 990.0))


@pytest.mark.clause("C5")
def test_the_next_look_lies_ahead_whatever_the_wall_clock_says() -> None:
    assert credential(1000.0, 0.0).next_look(Now(7.0, 5000.0)) == 7.0 + TICK
