"""Limits as clients meet them: whom each counts, what is told, and that neither a new socket nor a clock opens it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.node import NodeUnderTest, configure

WIDE: dict[str, Any] = {"requests_per_minute": 1000, "burst_size": 1000}
USERS_RATE = {"requests_per_minute": 2, "burst_size": 2}
ADDRESS_RATE = {**WIDE, "address_requests_per_minute": 2}
NODE_RATE = {**WIDE, "node_requests_per_minute": 2}


def _node(rates: dict[str, Any] | None = None, **sections: Any) -> NodeUnderTest:
    security = {} if rates is None else {"security": {"rate_limiting": rates}}
    return NodeUnderTest(configure(authentication=True, **security, **sections))


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("R4")
@pytest.mark.parametrize(
    ("rates", "same", "other"),
    [
        (USERS_RATE, ("ana", "192.0.2.9"), ("bob", "192.0.2.1")),
        (ADDRESS_RATE, ("bob", "192.0.2.1"), ("ana", "192.0.2.9")),
        (NODE_RATE, ("bob", "192.0.2.9"), None),
    ],
)
@pytest.mark.parametrize("hosted", [False, True])
def test_a_limit_follows_who_it_is_of_through_new_connections(
    rates: dict[str, Any], same: tuple[str, str], other: tuple[str, str] | None, hosted: bool
) -> None:
    node = _node(rates)
    first = node.connect("ana", peer="192.0.2.1", hosted=hosted)
    first.chat()
    first.chat()
    first.lose()
    for user, peer in (("ana", "192.0.2.1"), same):
        again = node.connect(user, peer=peer, hosted=hosted)
        again.chat(id="m")
        error = again.expect_error("RATE_LIMIT", correlation_id="m")
        assert error["details"] == {"retry_after": pytest.approx(60, abs=0.0011)}
    assert node.gateway.runs == 2
    if other is not None:
        user, peer = other
        node.connect(user, peer=peer, hosted=hosted).chat()
        assert node.gateway.runs == 3


@pytest.mark.row("R3")
@pytest.mark.parametrize("rates", [USERS_RATE, ADDRESS_RATE, NODE_RATE])
@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_jump_of_the_wall_clock_opens_no_rate(rates: dict[str, Any], jump: float) -> None:
    node = _node(rates)
    client = node.connect("ana")
    client.chat()
    client.chat()
    node.jump(jump)
    client.chat()
    if jump < 0:
        assert client.expect_error("RATE_LIMIT")["details"]["retry_after"] == pytest.approx(60, abs=0.0011)
    else:
        client.expect_error("TOKEN_EXPIRED")
    assert node.gateway.runs == 2


@pytest.mark.row("R1")
def test_who_is_told_to_wait_since_the_node_is_full_is_not_struck_for_it() -> None:
    node = _node({**NODE_RATE, "strikes": 2})
    node.connect("ana").chat()
    node.connect("ana").chat()
    bob = node.connect("bob")
    for _ in range(10):
        bob.chat()
        bob.expect_error("RATE_LIMIT")
    assert not bob.write_closed


@pytest.mark.row("R1")
def test_on_trial_a_limit_refuses_nothing_and_closes_nobody() -> None:
    node = _node({**USERS_RATE, "strikes": 1, "dry_run": True})
    client = node.connect("ana")
    for _ in range(4):
        client.chat()
        node.finish(node.only_run, "done")
        client.expect_event("agent_response")
    assert not client.write_closed
    assert [note.level for note in node.notes if note.name == "limit_dry_run"] == ["WARNING", "DEBUG"]


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("H14")
@pytest.mark.row("R3")
@pytest.mark.row("R4")
@pytest.mark.parametrize("jump", [-1e6, 0, 1e6])
def test_an_address_opens_so_many_connections_in_a_minute_however_soon_it_leaves(jump: float) -> None:
    node = NodeUnderTest(configure(limits={"connections_per_minute": 2}))
    for _ in range(2):
        node.connect(peer="2001:db8::1").lose()
        node.advance(0.5)
    node.jump(jump)
    head = node.upgrade(peer="2001:db8::2").expect_http(429)
    assert (head.headers["retry-after"], head.body) == ("59", b"connection rate\n")
    node.upgrade(peer="2001:db8:0:1::1").expect_http(101)
    node.advance(58.9)
    assert node.upgrade(peer="2001:db8::2").expect_http(429).headers["retry-after"] == "1"
    node.advance(0.1)
    node.upgrade(peer="2001:db8::2").expect_http(101)


@pytest.mark.row("H14")
@pytest.mark.parametrize("denial", [True, False])
def test_behind_a_host_it_is_told_as_far_as_the_host_can(denial: bool) -> None:
    node = NodeUnderTest(configure(limits={"connections_per_minute": 1}))
    node.request(denial=denial).expect_http(101)
    client = node.request(denial=denial)
    assert client.stream.head is not None
    assert client.refused == (None if denial else (1013, "connection rate"))
    assert client.stream.head.status == (429 if denial else 403)
    assert client.stream.head.headers.get("retry-after") == ("60" if denial else None)
