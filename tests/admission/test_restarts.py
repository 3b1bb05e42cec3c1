"""Restrictions as records and back, where clocks are not what they were (A5)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto import Now
from qaws_proto.admission.blocks import Blocks, Restriction, Revocations
from qaws_proto.admission.restarts import record_of, restore
from qaws_proto.config import AuthenticationConfig, LimitsConfig
from qaws_proto.records import RestrictionRecord

NOW = Now(5000.0, 1_750_000_000.0)
BOOT = 3.0  # what the monotonic clock shows when the next node begins
HOUR = 3600.0
ANA = "blocked_user", "ana"


class Tables:
    """The tables of a node that has just begun, when the wall clock shows `unix`."""

    def __init__(self, unix: float, *records: Any, newer: tuple[tuple[str, str], ...] = (), room: int = 10) -> None:
        limits = LimitsConfig(blocks=room, revocations=room)
        self.now = Now(BOOT, unix)
        self.blocks = Blocks(limits)
        self.revocations = Revocations(limits, AuthenticationConfig())
        restore(records, self.blocks, self.revocations, newer, self.now)

    def blocked(self, *, mono: float = 0, wall: float | None = None) -> bool:
        """Whether ana is, after so many seconds, of which the wall clock shows `wall`."""
        later = Now(self.now.mono + mono, self.now.unix + (mono if wall is None else wall))
        return self.blocks.user("ana", later)


def hour(now: Now = NOW) -> RestrictionRecord:
    return record_of("blocked_user", "ana", Restriction("ops", "spam", now.unix, now.mono + HOUR), now)


@pytest.mark.row("A5")
def test_what_is_left_of_a_block_goes_on_behind_a_restart() -> None:
    tables = Tables(NOW.unix + 1000, hour())
    found = tables.blocks.users.find("ana", tables.now)
    assert found is not None
    assert (found.by, found.reason, found.since, found.left(tables.now)) == ("ops", "spam", NOW.unix, HOUR - 1000)
    assert tables.blocked(mono=HOUR - 1001)
    assert not tables.blocked(mono=HOUR - 1000)
    assert not Tables(NOW.unix + HOUR, hour()).blocked()


@pytest.mark.row("A5")
def test_a_block_for_ever_stays_whatever_the_clock_shows() -> None:
    record = record_of("blocked_user", "ana", Restriction("ops", "", NOW.unix), NOW)
    assert record.until is None
    for unix in (0.0, NOW.unix, 4e9):
        assert Tables(unix, record).blocked(mono=1e9, wall=-1e9)


@pytest.mark.row("A5")
def test_a_wall_clock_that_is_set_meanwhile_lifts_no_block_early() -> None:
    tables = Tables(NOW.unix + 1000, hour())
    assert tables.blocked(mono=10, wall=1e6)  # set forward: the monotonic one ends it
    assert tables.blocked(mono=HOUR, wall=0)  # set back: it has not come to the end that it gave
    assert not tables.blocked(mono=HOUR, wall=HOUR)


@pytest.mark.row("A5")
def test_a_wall_clock_that_was_behind_at_the_start_makes_a_block_no_longer_than_it_was() -> None:
    tables = Tables(0.0, hour())  # as of a machine whose clock is not set yet
    assert tables.blocked(mono=HOUR - 1, wall=NOW.unix + HOUR)
    assert not tables.blocked(mono=HOUR, wall=NOW.unix + HOUR)


@pytest.mark.row("A5")
@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_no_clock_ends_a_block_before_the_wall_clock_says_so(seconds: int, down: int, jump: int, later: int) -> None:
    restriction = Restriction("ops", "", NOW.unix, NOW.mono + seconds)
    tables = Tables(NOW.unix + down, record_of("blocked_user", "ana", restriction, NOW))
    wall = NOW.unix + down + later + jump
    still = wall < NOW.unix + seconds or later < seconds - down
    assert tables.blocked(mono=later, wall=later + jump) == (still and down < seconds)


@pytest.mark.row("A5")
def test_each_kind_comes_back_to_its_table() -> None:
    forever = Restriction("ops", "spam", NOW.unix)
    records = [
        record_of("blocked_network", "192.0.2.0/24", forever, NOW),
        record_of("blocked_network", "2001:db8::/64", forever, NOW),
        record_of("revoked_token", "t1", Restriction("ops", "", NOW.unix, NOW.mono + 1, NOW.unix + 60), NOW),
        record_of("revoked_user", "eva", forever, NOW),
    ]
    tables = Tables(NOW.unix, *records)
    assert tables.blocks.address(ip_address("192.0.2.9"), tables.now)
    assert tables.blocks.address(ip_address("2001:db8::9"), tables.now)
    assert not tables.blocks.address(ip_address("192.0.3.9"), tables.now)
    assert list(tables.revocations.tokens) == ["t1"]
    assert records[2].until == NOW.unix + 60  # a revocation lasts until both clocks say so
    assert list(tables.revocations.users) == ["eva"]


@pytest.mark.clause("C7")
def test_those_there_were_stay_where_there_is_room_for_fewer_and_no_one_more_is_taken() -> None:
    names = ("ana", "eva", "leo")
    records = [RestrictionRecord("blocked_user", name, "ops", "", NOW.unix, None) for name in names]
    tables = Tables(NOW.unix, *records, room=2)
    assert list(tables.blocks.users) == ["ana", "eva", "leo"]
    with pytest.raises(ValueError, match=r"limits\.blocks"):
        tables.blocks.users.impose("max", Restriction("ops", "", NOW.unix), tables.now)
    tables.blocks.users.impose("ana", Restriction("ops", "again", NOW.unix), tables.now)


def test_what_is_newer_is_not_overwritten() -> None:
    assert not Tables(NOW.unix, hour(), newer=(ANA,)).blocked()
    assert Tables(NOW.unix, hour(), newer=(("revoked_user", "ana"),)).blocked()


@pytest.mark.clause("C1")
@pytest.mark.parametrize(
    "wrong",
    [
        "ana",
        hour()._replace(kind="banned"),  # type: ignore[arg-type]
        hour()._replace(lifted=True),
        hour()._replace(name=None),  # type: ignore[arg-type]
        hour()._replace(reason=b"spam"),  # type: ignore[arg-type]
        hour()._replace(until=float("nan")),
        hour()._replace(until=10**400),
        hour()._replace(since=float("-inf")),
        hour()._replace(since=None),  # type: ignore[arg-type]
        hour()._replace(kind="blocked_network"),
    ],
    ids=repr,
)
def test_what_is_no_record_raises_and_changes_nothing(wrong: object) -> None:
    tables = Tables(NOW.unix)
    with pytest.raises(ValueError, match=r"restriction|address or a CIDR"):
        restore((hour(), wrong), tables.blocks, tables.revocations, (), tables.now)  # type: ignore[arg-type]
    assert not tables.blocked()
