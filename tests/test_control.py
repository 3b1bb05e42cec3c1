"""Live control of a node: what operators' commands do to connections, runs and whoever comes next (A5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto import WebSocketConfig
from qaws_proto.control import WORDS, Outcome
from qaws_proto.inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    DisconnectRequested,
    DrainRequested,
    LimitsChanged,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from qaws_proto.overview import BlockInfo, ConnectionInfo
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import ADDRESS, AT_ONCE, configure, token
from qaws_proto.testing.peer import chat, request, text, upgrade
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest
from tests.test_contract import check_ends, check_replay

BY = ("ops", "spam")


def guarded(**sections: Any) -> NodeUnderTest:
    return NodeUnderTest(configure(authentication=True, **sections))


def done(node: NodeUnderTest, command: Command) -> Outcome:
    """Give a command; what it did."""
    node.step(command)
    return node.gateway.control.outcome


def connect(node: NodeUnderTest, user_id: str, jti: str | None = None, **how: Any) -> Client:
    """A client with a token of a user, of its own `jti`."""
    client = node.upgrade(bearer(node, user_id, jti), **how)
    client.expect_http(101)
    client.expect_system("connection_established")
    return client


def bearer(node: NodeUnderTest, user_id: str, jti: str | None = None) -> str:
    return f"Authorization: Bearer {signed(node, user_id, jti)}"


def signed(node: NodeUnderTest, user_id: str, jti: str | None = None) -> str:
    return token(user_id, unix=node.now.unix, token_id=jti or "t")


# ── users ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
@pytest.mark.parametrize("hosted", [False, True])
def test_blocking_a_user_closes_its_connections_and_leaves_the_others_alone(hosted: bool) -> None:
    node = guarded()
    ana, again, eva = node.connect("ana", hosted=hosted), node.connect("ana"), node.connect("eva", hosted=hosted)
    outcome = done(node, UserBlocked(*BY, "ana"))
    for client in (ana, again):
        client.expect_close(4403, "forbidden")
    assert (outcome.closed, outcome.before, outcome.after) == (2, {"ana": "allowed"}, {"ana": "blocked"})
    eva.expect_silence()
    eva.chat("still here", id="m1")
    eva.expect_system("message_accepted")


@pytest.mark.row("A5")
def test_runs_of_a_blocked_user_are_cancelled_and_those_that_wait_never_start() -> None:
    node = guarded()
    ana, eva = node.connect("ana"), node.connect("eva")
    for session in ("s", "s", "s", "t"):
        ana.chat(session_id=session)
    eva.chat()
    (eva_run,) = [run_id for run_id, run in node.runs.items() if run.user_id == "eva"]
    ana_runs = set(node.runs) - {eva_run}
    outcome = done(node, UserBlocked(*BY, "ana"))
    assert (outcome.closed, outcome.cancelled, len(ana_runs)) == (1, 4, 2)
    assert node.cancelled == ana_runs
    for run_id in ana_runs:
        node.fail(run_id)
    node.advance(50)
    assert node.started.keys() == {eva_run, *ana_runs}
    assert node.runs.keys() == {eva_run}
    assert eva_run not in node.cancelled


@pytest.mark.row("A5")
def test_a_message_behind_the_block_in_the_same_read_runs_nothing() -> None:
    node = guarded()
    ana = node.connect("ana")
    ana.send_bytes(text(chat("1", session_id="s")) * 40)  # more than a turn takes
    node.step(UserBlocked(*BY, "ana"))
    started = len(node.started)
    ana.chat("2")
    node.settle()
    node.advance(10)
    assert len(node.started) == started
    ana.expect_dropped()


@pytest.mark.row("A5")
@pytest.mark.row("A9")
def test_a_blocked_user_is_refused_before_the_upgrade_and_at_the_auth_event() -> None:
    node = guarded()
    node.step(UserBlocked(*BY, "ana"))
    answer = node.upgrade(bearer(node, "ana")).expect_http(403)
    assert answer.body == b"forbidden\n"
    assert node.request(upgrade("/", bearer(node, "ana")), denial=False).refused == (4403, "forbidden")
    late = node.upgrade()
    late.expect_system("auth_required")
    late.send({"type": "auth", "token": signed(node, "ana")})
    error = late.expect_error("FORBIDDEN")
    assert set(error) == {"type", "error_code", "error_message"}
    late.expect_close(4403, "forbidden")
    wrong = node.upgrade()
    wrong.expect_system("auth_required")
    wrong.send({"type": "auth", "token": "wrong"})
    wrong.expect_error("AUTH_FAILED")


@pytest.mark.row("A5")
def test_a_block_ends_in_its_time_by_the_monotonic_clock_or_when_it_is_lifted() -> None:
    node = guarded()
    node.step(UserBlocked(*BY, "ana", 60))
    node.jump(1000)
    node.upgrade(bearer(node, "ana")).expect_http(403)
    node.advance(60)
    assert node.gateway.control.blocks(node.now) == []
    connect(node, "ana")
    node.step(UserBlocked(*BY, "ana"))
    outcome = done(node, UserUnblocked("eve", "", "ana"))
    assert (outcome.changed, outcome.before) == (True, {"ana": "blocked"})
    assert not done(node, UserUnblocked("eve", "", "ana")).changed
    connect(node, "ana")


@pytest.mark.row("A5")
def test_a_block_may_last_parts_of_a_second() -> None:
    node = guarded()
    node.step(UserBlocked(*BY, "ana", 0.4))
    node.advance(0.399)
    node.upgrade(bearer(node, "ana")).expect_http(403)
    node.advance(0.001)
    connect(node, "ana")


@pytest.mark.row("A5")
def test_a_blocked_user_who_does_not_read_is_told_nothing_more() -> None:
    node = guarded()
    ana = node.connect("ana")
    ana.chat(stream=True)
    ana.block()
    node.chunk(node.only_run, "x" * 1000)
    ana.send({"type": "ping", "id": "p"})
    node.step(UserBlocked(*BY, "ana"))
    ana.expect_close(4403)


@pytest.mark.row("A5")
def test_a_blocked_user_whose_session_is_being_loaded_opens_nothing() -> None:
    node = NodeUnderTest(configure(authentication=True), StoreModel(), prompt=False)
    ana = node.connect("ana")
    ana.chat("hello", session_id="s")  # held until the store answers
    assert done(node, UserBlocked(*BY, "ana")).closed == 1
    ana.expect_close(4403)
    node.answer_all()
    assert (node.started, node.gateway.sessions) == ({}, 0)


@pytest.mark.row("A5")
def test_a_message_that_is_not_kept_yet_is_cancelled_with_its_user() -> None:
    store = StoreModel()
    node = NodeUnderTest(configure(authentication=True), store, prompt=False)
    ana = node.connect("ana")
    ana.chat("hello")
    assert done(node, UserBlocked(*BY, "ana")).cancelled == 1
    node.answer_all()
    assert node.started == {}
    assert store.ended == set(store.runs)


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
@pytest.mark.parametrize(
    ("blocked", "inside", "outside"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("192.0.2.0/24", "192.0.2.200", "192.0.3.1"),
        ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
        ("2001:db8::7/128", "2001:db8::7", "2001:db8::8"),
    ],
)
def test_blocking_an_address_closes_its_connections_in_every_phase(blocked: str, inside: str, outside: str) -> None:
    node = guarded()
    knocking, other = node.open(inside), connect(node, "ana", peer=outside)
    asked, there = node.upgrade(peer=inside), connect(node, "ana", peer=inside)
    asked.expect_system("auth_required")
    outcome = done(node, AddressBlocked(*BY, blocked, 60))
    assert outcome.closed == 2
    asked.expect_close(4403, "forbidden")
    there.expect_close(4403, "forbidden")
    knocking.send_bytes(upgrade())
    knocking.expect_http(403)
    node.upgrade(peer=inside).expect_http(403)
    other.expect_silence()
    connect(node, "ana", peer=outside)
    done(node, AddressUnblocked(*BY, blocked))
    connect(node, "ana", peer=inside)


@pytest.mark.row("A5")
def test_a_blocked_address_is_that_of_the_client_behind_its_proxy() -> None:
    node = NodeUnderTest(configure(server={"trusted_proxies": [ADDRESS]}))
    bad, good = node.upgrade("X-Forwarded-For: 203.0.113.9"), node.upgrade("X-Forwarded-For: 203.0.113.10")
    for client in (bad, good):
        client.expect_system("connection_established")
    assert done(node, AddressBlocked(*BY, "203.0.113.9")).closed == 1
    bad.expect_close(4403)
    good.expect_silence()
    assert node.upgrade("X-Forwarded-For: 203.0.113.9").expect_http(403).body == b"address refused\n"


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
@pytest.mark.row("A9")
def test_revoking_a_token_closes_its_connections_and_leaves_the_users_others_alone() -> None:
    node = guarded()
    stolen, twice, own = connect(node, "ana", "t1"), connect(node, "ana", "t1"), connect(node, "ana", "t2")
    assert done(node, TokenRevoked(*BY, "t1")).closed == 2
    stolen.expect_close(4403, "forbidden")
    twice.expect_close(4403, "forbidden")
    own.chat("still here")
    assert len(node.runs) == 1
    wrong = node.upgrade("Authorization: Bearer wrong").expect_http(401)
    assert node.upgrade(bearer(node, "ana", "t1")).expect_http(401) == wrong
    late = node.upgrade()
    late.expect_system("auth_required")
    late.send({"type": "auth", "token": signed(node, "ana", "t1")})
    late.expect_error("AUTH_FAILED")
    late.expect_close(4401)
    connect(node, "ana", "t2")


@pytest.mark.row("A5")
def test_a_connection_whose_token_was_refreshed_is_held_to_the_newer_one() -> None:
    node = guarded()
    client = connect(node, "ana", "t1")
    client.send({"type": "auth", "token": signed(node, "ana", "t2")})
    client.expect_system("token_refreshed")
    assert done(node, TokenRevoked(*BY, "t1")).closed == 0
    assert done(node, TokenRevoked(*BY, "t2")).closed == 1
    client.expect_close(4403)


@pytest.mark.row("A5")
def test_an_open_connection_is_not_refreshed_by_a_revoked_token() -> None:
    node = guarded()
    client = connect(node, "ana", "t1")
    node.step(TokenRevoked(*BY, "t2"))
    client.send({"type": "auth", "token": signed(node, "ana", "t2")})
    client.expect_error("AUTH_FAILED")
    client.expect_close(4401)


@pytest.mark.row("A5")
def test_revoking_a_user_ends_the_tokens_issued_until_then_and_newer_ones_are_good() -> None:
    node = guarded()
    ana, eva = connect(node, "ana", "t1"), connect(node, "eva", "t2")
    old = bearer(node, "ana", "t3")
    assert done(node, UserRevoked(*BY, "ana")).closed == 1
    ana.expect_close(4403)
    node.upgrade(old).expect_http(401)
    eva.expect_silence()
    node.advance(1)
    node.upgrade(old).expect_http(401)
    newer = connect(node, "ana", "t4")
    node.advance(20)
    newer.expect_silence()


@pytest.mark.row("A5")
def test_revoking_a_user_ends_tokens_in_use_whose_issuers_clock_is_ahead() -> None:
    node = guarded()
    ahead = f"Authorization: Bearer {token('ana', unix=node.now.unix + 20)}"
    client = node.upgrade(ahead)
    client.expect_system("connection_established")
    assert done(node, UserRevoked(*BY, "ana")).closed == 1
    client.expect_close(4403)
    node.upgrade(ahead).expect_http(401)
    node.advance(5)
    assert node.upgrade(f"Authorization: Bearer {token('ana', unix=node.now.unix + 20)}").expect_http(101)


@pytest.mark.row("A5")
@pytest.mark.row("A8")
def test_a_revoked_token_that_comes_again_and_again_is_charged_as_any_other_failure() -> None:
    node = guarded(limits={"failed_tokens_per_minute": 3})
    connect(node, "ana", "t1")
    node.step(TokenRevoked(*BY, "t1"))
    for status in (401, 401, 401, 429, 429):
        node.upgrade(bearer(node, "ana", "t1")).expect_http(status)
    node.advance(60)
    node.upgrade(bearer(node, "ana", "t1")).expect_http(401)


def test_runs_go_on_where_a_token_is_revoked() -> None:
    node = guarded()
    client = connect(node, "ana", "t1")
    client.chat(session_id="s")
    assert done(node, TokenRevoked(*BY, "t1")).cancelled == 0
    node.finish(node.only_run, "done")
    again = connect(node, "ana", "t2")
    again.resume("s")
    again.expect_system("session_resumed")


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_disconnected_client_may_come_back() -> None:
    node = guarded()
    ana, again, eva = connect(node, "ana"), connect(node, "ana"), connect(node, "eva")
    assert done(node, DisconnectRequested(*BY, number=ana.number)).closed == 1
    ana.expect_close(1008, "closed by operator")
    again.chat(session_id="s")
    eva.chat(session_id="s")  # another session: of another user
    assert done(node, DisconnectRequested(*BY, user_id="ana", session_id="s")).closed == 1
    again.expect_close(1008)
    assert done(node, DisconnectRequested(*BY, session_id="s")).closed == 1
    eva.expect_close(1008)
    assert done(node, DisconnectRequested(*BY, user_id="ana")) == Outcome()
    connect(node, "ana")


def test_a_connection_that_is_not_upgraded_can_be_dropped() -> None:
    node = guarded()
    silent = node.open()
    assert done(node, DisconnectRequested(*BY, number=silent.number)).closed == 1
    silent.expect_dropped()
    assert done(node, DisconnectRequested(*BY, number=silent.number)).closed == 0


def test_a_drain_says_who_asked_for_it_and_why() -> None:
    node = NodeUnderTest()
    node.step(DrainRequested("ops", "an update"))
    assert node.note("draining").fields == {"connections": 0, "runs": 0, "by": "ops", "reason": "an update"}


# ── notes, lists, misuse ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("command", "name", "fields"),
    [
        (
            DisconnectRequested(*BY, 0, "ana"), "connection_disconnected",
            {"what": "connection=0 user_id=ana", "before": None, "after": None, "closed": 1, "cancelled": 0},
        ),
        (
            UserBlocked(*BY, "ana", 60), "user_blocked",
            {"what": "ana", "before": "allowed", "after": "blocked for 60.000 seconds", "until": 1_750_000_060.0,
             "closed": 1, "cancelled": 1},
        ),
        (
            UserUnblocked(*BY, "ana"), "user_unblocked",
            {"what": "ana", "before": "allowed", "after": "allowed", "closed": 0, "cancelled": 0},
        ),
        (
            AddressBlocked(*BY, "192.0.2.1"), "address_blocked",
            {"what": "192.0.2.1/32", "before": "allowed", "after": "blocked", "until": None, "closed": 1,
             "cancelled": 0},
        ),
        (
            AddressUnblocked(*BY, "192.0.2.1"), "address_unblocked",
            {"what": "192.0.2.1/32", "before": "allowed", "after": "allowed", "closed": 0, "cancelled": 0},
        ),
        (
            TokenRevoked(*BY, "t1"), "token_revoked",
            {"what": "t1", "before": "good", "after": "revoked", "closed": 1, "cancelled": 0},
        ),
        (
            UserRevoked(*BY, "ana"), "user_revoked",
            {"what": "ana", "before": "good", "after": "revoked", "until": 1_750_000_000.0, "closed": 1,
             "cancelled": 0},
        ),
        (
            LimitsChanged(*BY, {"agent.max_runs": 7}), "limits_changed",
            {"what": "agent.max_runs", "before": 1000, "after": 7},
        ),
    ],
)  # fmt: skip
def test_each_command_is_a_note_of_who_did_what(command: Command, name: str, fields: dict[str, Any]) -> None:
    node = guarded()
    connect(node, "ana", "t1").chat()
    node.step(command)
    note = node.note(name)
    assert (note.topic, note.level) == ("control", "INFO")
    assert note.fields == {"by": "ops", "reason": "spam", **fields}


def test_lists_show_what_there_is() -> None:
    node = guarded()
    knocking, ana = node.open("2001:db8::7"), connect(node, "ana", "t1")
    node.advance(2)
    for _ in range(2):
        ana.chat(session_id="s", id="m1" if not node.runs else "m2")
    control = node.gateway.control
    assert control.connections(node.now) == [
        ConnectionInfo(knocking.number, "2001:db8::7", None, None, "handshaking", 2.0, (), 0),
        ConnectionInfo(ana.number, ADDRESS, "ana", "t1", "open", 2.0, ("s",), 0),
    ]
    (session,) = control.sessions()
    assert session._replace(held=0) == ("s", "ana", (ana.number,), (node.only_run,), 1, 2, 2, 0)
    assert session.held == sum(len(event) for event in node.gateway._sessions.by_number(1).log.after(0))
    for command in (UserBlocked(*BY, "eva"), AddressBlocked(*BY, "203.0.113.0/24", 60), TokenRevoked(*BY, "t9"),
                    UserRevoked(*BY, "leo")):  # fmt: skip
        node.step(command)
    node.advance(10)
    unix, lifetime = node.now.unix - 10, 86_400 + 60
    assert control.blocks(node.now) == [
        BlockInfo("user", "eva", "ops", "spam", unix, None),
        BlockInfo("address", "203.0.113.0/24", "ops", "spam", unix, 50.0),
    ]
    assert control.revocations(node.now) == [
        BlockInfo("token", "t9", "ops", "spam", unix, lifetime - 10),
        BlockInfo("user", "leo", "ops", "spam", unix, lifetime - 10),
    ]


@pytest.mark.clause("C1")
@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (DisconnectRequested(*BY), "has to be named"),
        (DisconnectRequested(*BY, "0"), "a whole number"),  # type: ignore[arg-type]
        (DisconnectRequested(*BY, user_id="x" * 129), "a user id is"),
        (DisconnectRequested(*BY, session_id=""), "a session id is"),
        (UserBlocked(*BY, ""), "a user id is a text of 1 to 128 characters"),
        (UserBlocked(*BY, "x" * 129), "a user id is"),
        (UserBlocked(*BY, "ana\ud800"), "a user id is"),
        (TokenRevoked("ops", "\udfff", "t1"), "`by` and `reason`"),
        (UserUnblocked(*BY, None), "a user id is"),  # type: ignore[arg-type]
        (UserBlocked(*BY, "ana", 0), "`seconds` is how long"),
        (UserBlocked(*BY, "ana", -1), "`seconds` is how long"),
        (UserBlocked(*BY, "ana", float("nan")), "`seconds` is how long"),
        (UserBlocked(*BY, "ana", 10**400), "`seconds` is how long"),
        (UserBlocked(*BY, "ana", True), "`seconds` is how long"),
        (UserBlocked(*BY, "ana", "60"), "`seconds` is how long"),  # type: ignore[arg-type]
        (AddressBlocked(*BY, "localhost"), "an address or a CIDR"),
        (AddressBlocked(*BY, ADDRESS, 0), "`seconds` is how long"),
        (AddressUnblocked(*BY, "localhost"), "an address or a CIDR"),
        (TokenRevoked(*BY, ""), "a token id"),
        (UserRevoked(*BY, ""), "a user id is"),
        (UserBlocked("x" * (WORDS + 1), "", "ana"), "`by` and `reason`"),
        (AddressBlocked("ops", "x" * (WORDS + 1), ADDRESS), "`by` and `reason`"),
        (UserUnblocked("ops", None, "ana"), "`by` and `reason`"),  # type: ignore[arg-type]
        (AddressUnblocked("ops", None, ADDRESS), "`by` and `reason`"),  # type: ignore[arg-type]
        (DisconnectRequested(None, "", 0), "`by` and `reason`"),  # type: ignore[arg-type]
        (TokenRevoked(None, "", "t1"), "`by` and `reason`"),  # type: ignore[arg-type]
        (UserRevoked(None, "", "ana"), "`by` and `reason`"),  # type: ignore[arg-type]
        (LimitsChanged(None, "", {"agent.max_runs": 7}), "`by` and `reason`"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_command_that_cannot_be_done_raises_and_changes_nothing(command: Command, problem: str) -> None:
    node = guarded()
    ana = connect(node, "ana", "t1")
    before = state(node)
    with pytest.raises(ValueError, match=problem):
        node.gateway.step(command, node.now)
    assert state(node) == before
    ana.chat("still here")
    assert node.runs


def state(node: NodeUnderTest) -> object:
    control = node.gateway.control
    lists = control.connections(node.now), control.blocks(node.now), control.revocations(node.now), control.limits()
    return lists, control.outcome, node.gateway.wake_at


@pytest.mark.parametrize("command", [UserBlocked(*BY, "ana"), UserUnblocked(*BY, "ana"), UserRevoked(*BY, "ana"),
                                     TokenRevoked(*BY, "t1")])  # fmt: skip
def test_without_authentication_nobody_is_known_by_a_user_or_token(command: Command) -> None:
    node = NodeUnderTest()
    client = node.connect()
    with pytest.raises(ValueError, match="authentication is off"):
        node.gateway.step(command, node.now)
    client.expect_silence()


@pytest.mark.clause("C7")
@pytest.mark.parametrize(
    ("first", "second", "setting"),
    [
        (UserBlocked(*BY, "ana", 60), UserBlocked(*BY, "eva"), "limits.blocks"),
        (AddressBlocked(*BY, "192.0.2.9", 60), AddressBlocked(*BY, ADDRESS), "limits.blocks"),
        (TokenRevoked(*BY, "t9"), TokenRevoked(*BY, "t2"), "limits.revocations"),
        (UserRevoked(*BY, "ana"), UserRevoked(*BY, "eva"), "limits.revocations"),
    ],
)
def test_a_full_table_refuses_the_command(first: Command, second: Command, setting: str) -> None:
    node = guarded(limits={"blocks": 1, "revocations": 1})
    eva = connect(node, "eva", "t2")
    node.step(first)
    with pytest.raises(ValueError, match=setting):
        node.gateway.step(second, node.now)
    eva.expect_silence()
    node.advance(24 * 3600 + 61)  # what was over makes room
    node.step(second)
    assert len(node.gateway.control.blocks(node.now) + node.gateway.control.revocations(node.now)) == 1


def test_probes_are_answered_for_a_blocked_address() -> None:
    node = NodeUnderTest()
    node.step(AddressBlocked(*BY, "0.0.0.0/0"))
    client = node.open()
    client.send_bytes(request("/healthz"))
    client.expect_http(200)


# ── any commands beside any conversation ─────────────────────────────────────────────────────────────────────────────

USERS = ("ana", "eva", "leo")
PEERS = ("192.0.2.1", "192.0.2.77", "203.0.113.1")
TOKEN_IDS = ("t1", "t2")
OTHER, OTHER_PEER = "other", "198.51.100.1"  # whom no command is about


class Played:
    """A node, and what has been commanded so far, kept the simple way."""

    def __init__(self, config: WebSocketConfig) -> None:
        self.node = NodeUnderTest(config, StoreModel() if config.store.kind == "sqlite" else None)
        self.users: set[str] = set()
        self.addresses: set[str] = set()
        self.tokens: set[str] = set()
        self.clients: list[tuple[Client, str, str, str]] = []
        self.other = connect(self.node, OTHER, "t0", peer=OTHER_PEER)

    def connect(self, user: str, jti: str, peer: str) -> None:
        client = self.node.upgrade(bearer(self.node, user, jti), peer=peer)
        assert client.stream.head is not None
        kept_out = 403 if peer in self.addresses else 401 if jti in self.tokens else 403 if user in self.users else 101
        assert client.stream.head.status == kept_out
        if kept_out == 101:
            self.clients.append((client, user, jti, peer))

    def say(self, which: int, session: str) -> None:
        if self.clients:
            client, *_ = self.clients[which % len(self.clients)]
            if not client.dropped:
                client.chat(session_id=session, stream=True)

    def work(self, which: int, end: bool) -> None:
        runs = sorted(self.node.runs)
        if runs:
            run_id = runs[which % len(runs)]
            self.node.finish(run_id, "done") if end else self.node.chunk(run_id, "a")

    def command(self, command: Command) -> None:
        self.node.step(command)
        if isinstance(command, UserBlocked):
            self.users.add(command.user_id)
        elif isinstance(command, UserUnblocked):
            self.users.discard(command.user_id)
        elif isinstance(command, AddressBlocked):
            self.addresses.add(command.address)
        elif isinstance(command, AddressUnblocked):
            self.addresses.discard(command.address)
        elif isinstance(command, TokenRevoked):
            self.tokens.add(command.token_id)
        for client, user, jti, peer in self.clients:
            kept_out = user in self.users or peer in self.addresses or jti in self.tokens
            assert client.stream.closed or client.dropped or not kept_out, "somebody kept out is open"

    @property
    def working(self) -> set[str]:
        """Runs whose agents were not told to stop."""
        return self.node.runs.keys() - self.node.cancelled


commands = st.one_of(
    st.sampled_from([UserBlocked("ops", "", user) for user in USERS]),
    st.sampled_from([UserBlocked("ops", "", user) for user in USERS]),
    st.sampled_from([UserUnblocked("ops", "", user) for user in USERS]),
    st.sampled_from([AddressBlocked("ops", "", peer) for peer in PEERS]),
    st.sampled_from([AddressUnblocked("ops", "", peer) for peer in PEERS]),
    st.sampled_from([TokenRevoked("ops", "", jti) for jti in TOKEN_IDS]),
    st.sampled_from([DisconnectRequested("ops", "", user_id=user) for user in USERS]),
    st.integers(1, 9).map(lambda number: DisconnectRequested("ops", "", number)),
    st.integers(100, 200).map(lambda runs: LimitsChanged("ops", "", {"agent.max_runs": runs})),
)
acts = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from(USERS), st.sampled_from(TOKEN_IDS), st.sampled_from(PEERS)),
    st.tuples(st.just("say"), st.integers(0, 9), st.sampled_from("st")),
    st.tuples(st.just("say"), st.integers(0, 9), st.sampled_from("st")),
    st.tuples(st.just("work"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("command"), commands),
)
CONFIGS = {
    "usual": configure(authentication=True),
    "beside": configure(authentication=True, sessions={"queue": 2, "double_text": "concurrent"}),
    "kept": configure(authentication=True, store={"kind": "sqlite", "path": "a model of it"}),
}


@pytest.mark.row("A5")
@pytest.mark.clause("C2")
@pytest.mark.clause("C8")
@given(st.lists(acts, min_size=5, max_size=30), st.sampled_from(sorted(CONFIGS)))
def test_nobody_who_is_kept_out_is_there_and_the_others_notice_nothing(
    history: Sequence[tuple[Any, ...]], config: str
) -> None:
    played = Played(CONFIGS[config])
    for do, *arguments in history:
        getattr(played, do)(*arguments)
        played.node.advance(AT_ONCE)
        assert {played.node.runs[run_id].user_id for run_id in played.working}.isdisjoint(played.users)
    played.other.expect_silence()
    played.other.chat("still here", id="m1")
    played.other.expect_system("message_accepted")
    check_ends(played.node)
    check_replay(played.node)
