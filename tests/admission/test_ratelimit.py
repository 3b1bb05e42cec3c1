"""The windows of the rate limit against a model that counts, the bound of its table, and the budget of frames."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.ratelimit import FrameBudget, Seldom, SlidingWindows, seconds_until
from qaws_proto.config import WebSocketConfig

MEBIBYTE = 1024 * 1024


class RateLimiter:
    """Windows under one pair of limits: looks, and counts where there is room."""

    def __init__(self, per_minute: int | None, burst: int | None, max_keys: int) -> None:
        security = {"rate_limiting": {"max_keys": max_keys}}
        self.windows = SlidingWindows(WebSocketConfig.model_validate({"security": security}))
        self.limits = per_minute, burst

    def __len__(self) -> int:
        return len(self.windows)

    def admit(self, key: str, mono: float) -> float:
        wait = self.windows.wait(key, mono, *self.limits)
        assert self.windows.wait(key, mono, *self.limits) == wait, "looking counts nothing"
        if wait == 0.0:
            self.windows.count(key, mono)
        return wait


def _limiter(per_minute: int | None = 60, burst: int | None = 10, max_keys: int = 100_000) -> RateLimiter:
    return RateLimiter(per_minute, burst, max_keys)


class Model:
    """Every accepted message for ever; the windows are counted anew each time."""

    def __init__(self, per_minute: int | None, burst: int | None) -> None:
        self.limits = [(window, limit) for window, limit in ((60.0, per_minute), (1.0, burst)) if limit is not None]
        self.accepted: dict[str, list[float]] = {}

    def admits(self, key: str, mono: float) -> bool:
        times = self.accepted.setdefault(key, [])
        free = all(sum(1 for at in times if at + window > mono) < limit for window, limit in self.limits)
        if free:
            times.append(mono)
        return free


# Gaps on both sides of each window's end, and those that no binary fraction can hold.
GAPS = st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.3, 0.999, 1.0, 1.001, 29.7, 59.999, 60.0, 60.001, 300.0]) | st.floats(
    0, 100, allow_subnormal=False
)
MESSAGES = st.lists(st.tuples(st.sampled_from(["user a", "user b", "192.0.2.1"]), GAPS), min_size=1, max_size=60)
# A clock that has just begun, one that counts whole seconds, and one of an age at which a millisecond is hard to tell.
STARTS = st.sampled_from([0, 0.0, 5, -1e6, 1e9, 2.0**40]) | st.floats(-1e7, 1e7) | st.integers(-(10**6), 10**6)
LIMITS = st.none() | st.integers(1, 6)


@pytest.mark.row("R1")
@given(LIMITS, LIMITS, STARTS, MESSAGES)
def test_the_windows_slide_exactly_and_the_wait_is_exact(
    per_minute: int | None, burst: int | None, start: float, messages: list[tuple[str, float]]
) -> None:
    limiter, model, mono = _limiter(per_minute, burst), Model(per_minute, burst), start
    for key, gap in messages:
        mono += gap
        wait = limiter.admit(key, mono)
        assert (wait == 0.0) is model.admits(key, mono)
        if wait == 0.0:
            continue
        assert 0 < wait <= 60.001
        assert wait == round(wait, 3)
        a_millisecond_less = (round(wait * 1000) - 1) / 1000
        assert limiter.admit(key, mono + a_millisecond_less) > 0  # too early, and a refusal costs nothing
        mono += wait
        assert limiter.admit(key, mono) == 0.0
        assert model.admits(key, mono)


@pytest.mark.row("R1")
@given(
    st.integers(30, 90),
    st.none() | st.integers(1, 90),
    st.lists(st.tuples(st.integers(1, 80), GAPS | st.floats(0, 0.01)), max_size=12),
)
def test_a_key_that_has_many_is_counted_as_exactly(
    per_minute: int, burst: int | None, bursts: list[tuple[int, float]]
) -> None:
    limiter, model, mono = _limiter(per_minute, burst), Model(per_minute, burst), 1000.0
    for count, gap in bursts:
        mono += gap
        for _ in range(count):
            assert (limiter.admit("u", mono) == 0.0) is model.admits("u", mono)
            mono += 0.001


@pytest.mark.row("R1")
@given(st.lists(st.tuples(GAPS, st.integers(1, 40), LIMITS), max_size=60))
def test_limits_may_change_at_any_time(messages: list[tuple[float, int, int | None]]) -> None:
    limiter, model, mono = _limiter(), Model(None, None), 1000.0
    for gap, per_minute, burst in messages:
        mono += gap
        limiter.limits = per_minute, burst
        model.limits = Model(per_minute, burst).limits
        assert (limiter.admit("u", mono) == 0.0) is model.admits("u", mono)


@pytest.mark.row("R1")
@given(st.floats(-1e9, 1e10), st.floats(0, 86_400))
def test_a_wait_is_the_first_millisecond_that_is_not_too_early(now: float, seconds: float) -> None:
    opens = now + seconds
    wait = seconds_until(opens, now)
    milliseconds = round(wait * 1000)
    assert wait == milliseconds / 1000
    assert now + wait >= opens
    assert not wait or now + (milliseconds - 1) / 1000 < opens
    assert abs(Fraction(opens) - Fraction(now) - Fraction(wait)) <= Fraction(1, 1000) + Fraction(1, 2**18)


@pytest.mark.row("R1")
@pytest.mark.clause("C7")
def test_a_message_copies_nothing_of_the_many_before_it() -> None:
    limiter = _limiter(per_minute=100_000, burst=None)
    for number in range(90_000):
        assert limiter.admit("u", 1000 + number / 2000) == 0.0
    tracemalloc.start()
    try:
        for number in range(1000):
            assert limiter.admit("u", 1045 + number / 2000) == 0.0
        # A copy takes 16 bytes for each of them; the one array is moved once in a while, as it grows.
        assert tracemalloc.get_traced_memory()[1] < 12 * 90_000
    finally:
        tracemalloc.stop()
    assert limiter.admit("u", 1120.0) == 0.0
    assert len(limiter.windows._times["u"]) == 8, "what is over a minute ago takes no room"


@pytest.mark.row("R1")
def test_sixty_a_minute_and_ten_a_second() -> None:
    limiter = _limiter()
    assert [limiter.admit("u", 100.0) for _ in range(11)] == [0.0] * 10 + [1.0]
    for second in range(1, 6):
        assert [limiter.admit("u", 100.0 + second) for _ in range(10)] == [0.0] * 10
    assert limiter.admit("u", 106.0) == 54.0
    assert limiter.admit("u", 106.25) == 53.75
    assert limiter.admit("u", 159.999) == 0.001
    assert [limiter.admit("u", 160.0) for _ in range(11)] == [0.0] * 10 + [1.0]
    assert limiter.admit("other", 160.0) == 0.0


@pytest.mark.row("R1")
def test_the_clock_may_count_whole_seconds() -> None:
    limiter = _limiter(per_minute=1, max_keys=1)
    assert limiter.admit("u", 5) == 0.0
    assert limiter.admit("u", 6) == 59.0
    assert limiter.admit("other", 70) == 0.0


@pytest.mark.row("R3")
def test_refusals_do_not_make_the_wait_longer() -> None:
    limiter = _limiter(per_minute=1)
    limiter.admit("u", 0.0)
    for hundredth in range(1, 6000):
        assert limiter.admit("u", hundredth / 100) > 0
    assert limiter.admit("u", 60.0) == 0.0


def _keys(count: int, first: int = 0) -> Iterator[str]:
    return (f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64" for number in range(first, first + count))


@pytest.mark.row("R2")
@pytest.mark.clause("C7")
def test_a_million_keys_are_held_in_16_mebibytes_and_never_open_the_gate() -> None:
    limiter = _limiter()
    tracemalloc.start()
    try:
        let_in = sum(limiter.admit(key, 1000.0) == 0.0 for key in _keys(200_000))
        # Those that are held keep a limit of their own, and a second message of each stays within the bound too.
        assert all(limiter.admit(key, 1010.0) == 0.0 for key in _keys(100_000))
        assert tracemalloc.get_traced_memory()[1] <= 16 * MEBIBYTE
    finally:
        tracemalloc.stop()
    let_in += sum(
        limiter.admit(key, 1020 + number / 20_000) == 0.0 for number, key in enumerate(_keys(800_000, 200_000))
    )
    assert len(limiter) == 100_001
    # Each key of the table once; all others together as many as one key may, which is 60 in the minute.
    assert let_in == 100_000 + 60


@pytest.mark.row("R2")
def test_idle_keys_make_room() -> None:
    limiter = _limiter(per_minute=1, max_keys=3)
    for number, key in enumerate("abc"):
        assert limiter.admit(key, float(number)) == 0.0
    assert limiter.admit("d", 10.0) == 0.0  # the shared limit
    assert limiter.admit("e", 10.5) == 59.5
    assert len(limiter) == 4
    assert limiter.admit("e", 60.5) == 9.5  # one of four is silent for a minute, and there is room for three
    assert limiter.admit("e", 61.5) == 0.0  # now for one more
    assert limiter.admit("e", 61.6) == 59.9
    assert limiter.admit("c", 61.7) == 0.3  # who was not silent has not been forgotten
    assert limiter.admit("f", 70.0) == 0.0
    assert len(limiter) == 2


@pytest.mark.row("R2")
def test_a_full_table_is_searched_once_a_second_at_most() -> None:
    limiter = _limiter(max_keys=1)
    limiter.admit("a", 0.0)
    limiter.admit("b", 59.5)  # searched in vain
    limiter.admit("c", 60.0)  # "a" is silent, but nobody looks yet
    assert len(limiter) == 2
    limiter.admit("d", 60.5)
    assert limiter.windows._times.keys() == {"\0overflow"}  # which spoke at 60.5 as well


@pytest.mark.row("R2")
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 20).map(str), st.floats(0, 40, allow_subnormal=False)), max_size=80),
)
def test_a_full_table_never_lets_a_key_have_more_than_its_own_and_the_shared_limit(
    max_keys: int, messages: list[tuple[str, float]]
) -> None:
    limiter, mono, accepted = _limiter(per_minute=2, burst=2, max_keys=max_keys), 0.0, list[tuple[str, float]]()
    for key, gap in messages:
        mono += gap
        if limiter.admit(key, mono) == 0.0:
            accepted.append((key, mono))
        assert len(limiter) <= max_keys + 1
        minute = [key for key, at in accepted if at > mono - 60]
        assert len(minute) <= 2 * (max_keys + 1)
        assert all(minute.count(key) <= 4 for key in set(minute))


@pytest.mark.row("F8")
def test_a_budget_allows_a_burst_and_then_the_rate() -> None:
    budget = FrameBudget()
    assert budget.charge(400, 1000.0, 200, 400)
    assert not budget.charge(1, 1000.0, 200, 400)
    assert budget.charge(199, 1001.0, 200, 400)
    assert not budget.charge(2, 1001.0, 200, 400)
    assert budget.charge(400, 2000.0, 200, 400)  # long silence fills it, and no further
    assert not budget.charge(1, 2000.0, 200, 400)


@pytest.mark.row("F8")
@given(
    st.integers(1, 20),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 10), st.integers(0, 64).map(lambda gap: gap / 64)), max_size=50),
)
def test_a_budget_is_kept_in_every_window(rate: int, burst: int, charges: list[tuple[int, float]]) -> None:
    budget, mono, allowed = FrameBudget(), 0.0, list[tuple[float, int]]()
    for frames, gap in charges:
        mono += gap
        if not budget.charge(frames, mono, rate, burst):
            total = 0  # it is refused only where some window ending now holds too much
            over = False
            for at, earlier in [(mono, frames), *reversed(allowed)]:
                total += earlier
                over = over or total > burst + rate * (mono - at)
            assert over
            return
        allowed.append((mono, frames))
        total = 0
        for at, earlier in reversed(allowed):
            total += earlier
            assert total <= burst + rate * (mono - at)


@pytest.mark.row("H3")
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=60))
def test_one_of_a_key_passes_in_ten_seconds(calls: list[tuple[str, int]]) -> None:
    seldom, mono, passed = Seldom(10.0, 2), 0.0, dict[str, float]()
    for key, gap in calls:
        mono += gap
        recent = {name: at for name, at in passed.items() if at > mono - 10.0}
        expected = key not in recent and len(recent) < 2
        assert seldom.admit(key, mono) is expected
        if expected:
            passed[key] = mono
