"""Blocks of users and addresses, and revoked tokens: who is covered, how long, and what a full table does (A5)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto import Now
from qaws_proto.admission.addresses import Address
from qaws_proto.admission.blocks import (
    Blocks,
    Restriction,
    Restrictions,
    Revocations,
    key_of,
    network_of,
    parse_network,
)
from qaws_proto.admission.tokens import Principal
from qaws_proto.config import AuthenticationConfig, LimitsConfig

NOW = Now(1000.0, 1_750_000_000.0)
DAY = 86_400.0


def later(seconds: float, *, wall: float | None = None) -> Now:
    """The time after so many seconds, of which the wall clock shows `wall`."""
    return Now(NOW.mono + seconds, NOW.unix + (seconds if wall is None else wall))


def restriction(until: float | None = None) -> Restriction:
    return Restriction("ops", "spam", NOW.unix, until)


def principal(user_id: str = "ana", token_id: str | None = "t1", issued: object = NOW.unix) -> Principal:
    claims = {} if issued is None else {"iat": issued}
    return Principal(user_id, token_id, claims, NOW.unix + 3600)


def revocations(limit: int = 10, **authentication: float) -> Revocations:
    return Revocations(LimitsConfig(revocations=limit), AuthenticationConfig.model_validate(authentication))


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_imposed_since_holds_over_what_is_restored() -> None:
    table: Restrictions[str] = Restrictions(2, "limits.blocks")
    table.impose("ana", restriction(), NOW)
    table.restore({"ana": restriction(NOW.mono + 1), "eva": restriction(NOW.mono + 1)})
    assert table.find("ana", later(2)) is not None
    assert table.find("eva", NOW) is not None
    assert table.find("eva", later(2)) is None


def test_what_is_left_of_a_restriction_is_for_the_later_of_both_clocks() -> None:
    assert restriction().left(NOW) is None
    assert [restriction(NOW.mono + 9).left(later(seconds)) for seconds in (0, 8, 9, 10)] == [9, 1, 0, 0]
    until_both = Restriction("ops", "spam", NOW.unix, NOW.mono + 9, NOW.unix + 9)
    assert [until_both.left(later(9, wall=wall)) for wall in (0, 9, 10)] == [9, 0, 0]
    assert until_both.left(later(4, wall=10)) == 5


def test_a_restriction_holds_until_its_time_and_not_longer() -> None:
    table: Restrictions[str] = Restrictions(2, "limits.blocks")
    table.impose("ana", restriction(NOW.mono + 10), NOW)
    assert table.find("ana", later(9.999)) is not None
    assert table.find("ana", later(10)) is None
    table.impose("eva", restriction(), NOW)
    assert table.find("eva", later(1e9)) is not None
    table.lift("eva")
    table.lift("eva")
    assert table.find("eva", NOW) is None


def test_a_full_table_refuses_and_stays_as_it_was() -> None:
    table: Restrictions[str] = Restrictions(2, "limits.blocks")
    table.impose("ana", restriction(NOW.mono + 10), NOW)
    table.impose("eva", restriction(), NOW)
    with pytest.raises(ValueError, match=r"2 already, as many as limits\.blocks allows"):
        table.impose("leo", restriction(), NOW)
    assert (list(table), len(table)) == (["ana", "eva"], 2)
    table.impose("ana", restriction(NOW.mono + 20), NOW)  # no further one
    assert table.find("ana", later(15)) is not None


def test_what_is_over_makes_room_when_it_is_needed() -> None:
    table: Restrictions[str] = Restrictions(2, "limits.blocks")
    table.impose("ana", restriction(NOW.mono + 10), NOW)
    table.impose("eva", restriction(), NOW)
    table.impose("leo", restriction(), later(10))
    assert list(table) == ["eva", "leo"]


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.7/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::1", "2001:db8::/64"),  # a host has all of its /64
        ("2001:db8::1/128", "2001:db8::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),  # as which its clients are known
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
    ],
)
def test_an_address_or_network_is_read_as_what_it_stands_for(text: str, network: str) -> None:
    parsed = parse_network(text)
    assert str(parsed) == network
    assert network_of(key_of(parsed)) == network


@pytest.mark.parametrize(
    "text", ["", "localhost", "192.0.2.7/33", "192.0.2", "2001:db8::/129", None, 7, b"\x01\x02\x03\x04"]
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="an address or a CIDR"):
        parse_network(text)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
near = st.builds(
    lambda number, base: ip_address(int(ip_address(base)) + number),
    st.integers(0, 1000),
    st.sampled_from(["192.0.2.0", "2001:db8::", "2001:db8:0:1::"]),
)
cidrs = st.builds(
    lambda address, cut: f"{address}/{max(0, address.max_prefixlen - cut)}",
    st.one_of(near, addresses),
    st.integers(0, 70),
)


@pytest.mark.row("A5")
@given(st.lists(cidrs, max_size=8), st.lists(cidrs, max_size=3), st.one_of(near, addresses))
def test_an_address_is_blocked_where_it_is_in_a_blocked_network(
    blocked: list[str], lifted: list[str], address: Address
) -> None:
    blocks = Blocks(LimitsConfig())
    for cidr in blocked:
        blocks.block_network(ip_network(cidr, strict=False), restriction(), NOW)
    for cidr in lifted:
        blocks.unblock_network(ip_network(cidr, strict=False))
    left = {ip_network(cidr, strict=False) for cidr in blocked} - {ip_network(cidr, strict=False) for cidr in lifted}
    assert blocks.address(address, NOW) is any(address in network for network in left)


def test_a_client_without_an_address_cannot_be_blocked_by_one() -> None:
    blocks = Blocks(LimitsConfig())
    blocks.block_network(ip_network("0.0.0.0/0"), restriction(), NOW)
    assert not blocks.address(None, NOW)
    assert blocks.address(ip_address("192.0.2.1"), NOW)
    assert not blocks.address(ip_address("2001:db8::1"), NOW)


def test_a_block_of_an_address_ends_in_its_time() -> None:
    blocks = Blocks(LimitsConfig())
    blocks.block_network(ip_network("192.0.2.0/24"), restriction(NOW.mono + 5), NOW)
    assert blocks.address(ip_address("192.0.2.1"), later(4))
    assert not blocks.address(ip_address("192.0.2.1"), later(5))


# ── revocations ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
def test_a_token_is_revoked_by_its_id_and_no_other_is() -> None:
    table = revocations()
    table.revoke_token("t1", "ops", "", NOW)
    assert table.covers(principal(token_id="t1"), NOW)
    assert not table.covers(principal(token_id="t2"), NOW)
    assert not table.covers(principal(token_id=None), NOW)


@pytest.mark.row("A5")
@pytest.mark.parametrize(
    ("issued", "revoked"),
    [
        (NOW.unix - 60, True),
        (NOW.unix, True),
        (NOW.unix + 0.5, False),
        (NOW.unix + 1, False),
        (None, True),
        ("1", True),
    ],
)
def test_a_users_tokens_are_revoked_until_now_and_newer_ones_are_good(issued: object, revoked: bool) -> None:
    table = revocations()
    table.revoke_user("ana", "ops", "", NOW)
    assert table.covers(principal(issued=issued), later(1)) is revoked
    assert not table.covers(principal("eva", issued=issued), later(1))


def test_a_revocation_is_forgotten_when_no_token_of_then_could_be_good() -> None:
    table = revocations(limit=1, max_lifetime=3600, leeway=30)
    table.revoke_token("t1", "ops", "", NOW)
    table.revoke_user("ana", "ops", "", NOW)
    last = 3600 + 2 * 30  # issued by a clock that is ahead, ended by one that is behind
    for revoke in (table.revoke_token, table.revoke_user):
        with pytest.raises(ValueError, match=r"limits\.revocations"):
            revoke("another", "ops", "", later(last - 0.001))
        revoke("another", "ops", "", later(last))
    assert not table.covers(principal(), later(last))
    assert (len(table.tokens), len(table.users)) == (1, 1)


def test_a_wall_clock_that_is_set_back_makes_no_revoked_token_good() -> None:
    table = revocations(max_lifetime=3600)
    table.revoke_token("t1", "ops", "", NOW)
    assert table.covers(principal(), later(2 * DAY, wall=-60))
    table.revoke_user("ana", "ops", "", later(1, wall=-20))
    table.revoke_user("ana", "ops", "", later(2, wall=-25))
    assert table.covers(principal(token_id="t2", issued=NOW.unix - 21), later(2, wall=-25))
    table.revoke_user("eva", "ops", "", later(1, wall=DAY * 365))  # a clock that was far ahead, and is put right
    table.revoke_user("eva", "ops", "", NOW)
    assert not table.covers(principal("eva", "t3", issued=NOW.unix + 31), later(31))
