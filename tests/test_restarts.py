"""Blocks and revocations across restarts: what an operator did holds for the next node of the same store (A5, D4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto import Now, WebSocketConfig
from qaws_proto.effects import SaveRecords
from qaws_proto.inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    StopRequested,
    StoreOpened,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from qaws_proto.records import RestrictionRecord
from qaws_proto.testing.node import configure
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest
from tests.test_control import bearer, connect

BY = ("ops", "spam")
BOOT = 7.0  # what the monotonic clock shows when a node begins again
GUARDED = configure(authentication=True)
LIFETIME = 24 * 3600 + 60  # seconds that a revocation is remembered


def restart(node: NodeUnderTest, down: float = 5, config: WebSocketConfig | None = None, **how: Any) -> NodeUnderTest:
    """The process ends as it stands, and begins again `down` seconds later."""
    ids, now = count(), Now(BOOT, node.now.unix + down)
    config = config or node.config
    return NodeUnderTest(config, node.store, now=now, ids=lambda: f"later-{now.unix}-{next(ids)}", **how)


def status(node: NodeUnderTest, user: str = "ana", jti: str | None = None, **how: Any) -> int:
    """What the request of a client with a token of a user is answered."""
    head = node.upgrade(bearer(node, user, jti), **how).stream.head
    assert head is not None
    return head.status


def being_saved(node: NodeUnderTest) -> list[RestrictionRecord]:
    """Who is let in or kept out by what is being saved."""
    (save,) = node.asked
    assert isinstance(save, SaveRecords)
    return [record for record in save.records if isinstance(record, RestrictionRecord)]


# ── each command ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
def test_a_blocked_user_is_blocked_behind_a_restart_until_he_is_unblocked() -> None:
    node = NodeUnderTest(GUARDED, StoreModel())
    node.step(UserBlocked(*BY, "ana"))
    node = restart(restart(node))
    assert (status(node), status(node, "eva")) == (403, 101)
    (info,) = node.gateway.control.blocks(node.now)
    assert (info.name, info.by, info.reason, info.since, info.seconds) == ("ana", *BY, node.now.unix - 10, None)
    node.step(UserUnblocked(*BY, "ana"))
    assert status(restart(node)) == 101


@pytest.mark.row("A5")
def test_a_blocked_network_is_blocked_behind_a_restart_until_it_is_unblocked() -> None:
    node = NodeUnderTest(GUARDED, StoreModel())
    node.step(AddressBlocked(*BY, "192.0.2.9/24"))
    node.step(AddressBlocked(*BY, "2001:db8::9"))
    node = restart(node)
    assert status(node, peer="192.0.2.200") == status(node, peer="2001:db8::1") == 403
    assert status(node, peer="192.0.3.1") == 101
    node.step(AddressUnblocked(*BY, "192.0.2.0/24"))
    node = restart(node)
    assert (status(node, peer="192.0.2.200"), status(node, peer="2001:db8::1")) == (101, 403)


@pytest.mark.row("A5")
def test_a_revoked_token_stays_revoked_as_long_as_it_could_be_good() -> None:
    node = NodeUnderTest(GUARDED, StoreModel())
    node.step(TokenRevoked(*BY, "t1"))
    node = restart(node)
    assert (status(node, jti="t1"), status(node, jti="t2")) == (401, 101)
    assert status(restart(node, LIFETIME - 6), jti="t1") == 401
    assert status(restart(node, LIFETIME), jti="t1") == 101


@pytest.mark.row("A5")
def test_tokens_that_were_revoked_with_their_user_stay_so_and_newer_ones_are_good() -> None:
    node = NodeUnderTest(GUARDED, StoreModel())
    old = bearer(node, "ana")
    node.step(UserRevoked(*BY, "ana"))
    node = restart(node)
    node.upgrade(old).expect_http(401)
    connect(node, "ana")


@pytest.mark.row("A5")
def test_a_block_goes_on_for_what_is_left_of_it() -> None:
    node = NodeUnderTest(GUARDED, StoreModel())
    node.step(UserBlocked(*BY, "ana", 100))
    node.advance(30)
    node = restart(node, down=20)
    node.advance(49)
    assert status(node) == 403
    node.advance(1)
    assert status(node) == 101
    assert status(restart(node)) == 101


@pytest.mark.row("A5")
@pytest.mark.row("D2")
def test_the_cut_runs_of_a_blocked_user_end_where_those_of_others_begin_again() -> None:
    config = configure(authentication=True, store={"kind": "sqlite", "path": "a model", "on_restart": "rerun"})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    ana, eva = node.connect("ana"), node.connect("eva")
    for client in (ana, eva):
        client.chat(session_id="s")
        node.answer_all()
    node.step(UserBlocked(*BY, "ana"))  # and what becomes of her run is not kept
    assert node.store is not None
    node.store.save(being_saved(node))
    node = restart(node)
    assert [run.user_id for run in node.runs.values()] == ["eva"]
    node.finish(node.only_run, "after all")
    assert node.store is not None
    assert node.store.unfinished() == ()


# ── stores that fail, stores that do not know ────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
@pytest.mark.row("D4")
def test_a_block_that_cannot_be_kept_holds_at_once_and_is_kept_later() -> None:
    node = NodeUnderTest(GUARDED, StoreModel(), prompt=False)
    ana, eva = node.connect("ana"), node.connect("eva")
    node.step(UserBlocked(*BY, "ana"))
    ana.expect_close(4403)
    node.answer(fail=True)
    assert node.note("save_failed").level == "ERROR"
    assert status(node) == 403
    assert status(restart(node)) == 101  # so far a crash would lose it
    eva.chat("hello", session_id="s")
    node.answer_all()  # the session is loaded
    eva.expect_error("STORAGE_UNAVAILABLE")
    node.step(TokenRevoked(*BY, "t1"))
    node.advance(node.config.store.retry)
    node.answer_all()
    node = restart(node)
    assert (status(node), status(node, "eva", "t1")) == (403, 401)


@pytest.mark.row("D4")
def test_of_several_changes_to_one_name_the_last_is_kept_though_the_first_came_back() -> None:
    node = NodeUnderTest(GUARDED, StoreModel(), prompt=False)
    node.step(UserBlocked(*BY, "ana"))
    node.step(UserUnblocked(*BY, "ana"))  # while the block is on its way
    node.step(UserBlocked(*BY, "eva"))
    node.answer(fail=True)
    node.advance(node.config.store.retry)
    assert [(record.name, record.lifted) for record in being_saved(node)] == [("ana", True), ("eva", False)]
    node.answer_all()
    assert (status(restart(node)), status(restart(node), "eva")) == (101, 403)


@pytest.mark.clause("C7")
def test_while_a_store_fails_no_more_waits_for_it_than_can_be_in_force() -> None:
    config = configure(authentication=True, limits={"blocks": 2, "revocations": 1})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    node.step(TokenRevoked(*BY, "t1"))
    node.answer(fail=True)
    for number in range(20):
        node.step(UserBlocked(*BY, f"short-{number}", 1))
        node.advance(0.01)
        node.step(UserUnblocked(*BY, f"short-{number}"))
    for name in ("ana", "eva"):
        node.step(UserBlocked(*BY, name))
        node.step(AddressBlocked(*BY, {"ana": "192.0.2.1", "eva": "192.0.2.2"}[name]))
    node.step(UserRevoked(*BY, "leo"))
    assert [note.fields["what"] for note in node.notes if note.name == "lifting_not_kept"] == [
        f"short-{number}" for number in range(20)
    ]
    node.advance(node.config.store.retry)
    names = [record.name for record in being_saved(node)]
    assert names == ["t1", "ana", "192.0.2.1/32", "eva", "192.0.2.2/32", "leo"]


@pytest.mark.clause("C7")
def test_what_is_over_makes_room_before_what_was_lifted() -> None:
    config = configure(authentication=True, limits={"blocks": 1, "revocations": 1})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    node.step(UserUnblocked(*BY, "max"))
    node.answer(fail=True)
    for number in range(10):
        node.step(UserBlocked(*BY, f"short-{number}", 0.01))
        node.advance(0.01)
    assert "lifting_not_kept" not in [note.name for note in node.notes]


@pytest.mark.row("A5")
@pytest.mark.clause("C7")
def test_what_is_in_force_is_kept_though_a_node_with_more_room_began_it() -> None:
    names = [f"user-{number}" for number in range(9)]
    node = NodeUnderTest(configure(authentication=True, limits={"blocks": 9}), StoreModel())
    for name in names:
        node.step(UserBlocked(*BY, name))
    node = restart(node, config=configure(authentication=True, limits={"blocks": 1, "revocations": 1}), prompt=False)
    for name in names:
        node.step(UserBlocked("ops", "worse spam", name))
    node.answer(fail=True)
    node.advance(node.config.store.retry)
    assert [(record.name, record.reason) for record in being_saved(node)] == [(name, "worse spam") for name in names]


def test_a_drain_waits_until_what_was_commanded_is_kept() -> None:
    node = NodeUnderTest(GUARDED, StoreModel(), prompt=False)
    node.step(UserBlocked(*BY, "ana"))
    node.step(StopRequested())
    assert not node.drained
    node.answer_all()
    assert node.drained
    assert status(restart(node)) == 403


def test_a_store_that_keeps_no_restrictions_is_given_none() -> None:
    config = configure(authentication=True, limits={"blocks": 2, "revocations": 1})
    node = NodeUnderTest(config, StoreModel(), opened=False)
    node.step(UserBlocked(*BY, "ana"))
    node.step(StoreOpened())
    node.step(UserBlocked(*BY, "eva"))
    for number in range(10):
        node.step(UserUnblocked(*BY, f"user-{number}"))
    assert node.asked == []
    assert "lifting_not_kept" not in [note.name for note in node.notes]  # nothing of it waits for the store
    assert (status(node), status(node, "eva")) == (403, 403)


# ── commands before the store is open ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
def test_commands_from_before_the_store_is_open_are_newer_than_what_is_in_it() -> None:
    first = NodeUnderTest(GUARDED, StoreModel())
    for name in ("ana", "eva", "leo"):
        first.step(UserBlocked(*BY, name, 1000))
    store = first.store
    assert store is not None
    node = restart(first, opened=False)
    node.step(UserUnblocked(*BY, "ana"))
    node.step(UserBlocked(*BY, "eva"))
    assert node.asked == []
    node.step(StoreOpened(store.unfinished(), store.restrictions()))
    assert {info.name: info.seconds for info in node.gateway.control.blocks(node.now)} == {"leo": 995, "eva": None}
    assert status(node) == 101
    again = restart(node)
    assert {info.name: info.seconds for info in again.gateway.control.blocks(again.now)} == {"leo": 990, "eva": None}


def test_restrictions_that_no_node_has_given_are_the_callers_mistake() -> None:
    node = NodeUnderTest(GUARDED, StoreModel(), opened=False)
    wrong = RestrictionRecord("blocked_network", "nowhere", "ops", "", 0.0, None)
    with pytest.raises(ValueError, match="an address or a CIDR"):
        node.gateway.step(StoreOpened((), (wrong,)), node.now)
    node.step(StoreOpened((), ()))


# ── any commands, failures and crashes ───────────────────────────────────────────────────────────────────────────────

USERS, PEERS, TOKENS = ("ana", "eva"), ("192.0.2.0/24", "203.0.113.1/32"), ("t1", "t2")
spans = st.one_of(st.none(), st.integers(0, 200).map(lambda seconds: seconds + 0.5))  # advances are whole seconds
commands = st.one_of(
    st.builds(UserBlocked, *map(st.just, BY), st.sampled_from(USERS), spans),
    st.builds(UserUnblocked, *map(st.just, BY), st.sampled_from(USERS)),
    st.builds(AddressBlocked, *map(st.just, BY), st.sampled_from(PEERS), spans),
    st.builds(AddressUnblocked, *map(st.just, BY), st.sampled_from(PEERS)),
    st.builds(TokenRevoked, *map(st.just, BY), st.sampled_from(TOKENS)),
    st.builds(UserRevoked, *map(st.just, BY), st.sampled_from(USERS)),
)
acts = st.one_of(
    st.tuples(st.just("command"), commands),
    st.tuples(st.just("command"), commands),
    st.tuples(st.just("answer"), st.booleans()),
    st.tuples(st.just("advance"), st.integers(1, 150)),
    st.tuples(st.just("crash"), st.booleans(), st.sampled_from([0, 40, 150, LIFETIME - 100])),
)


class Played:
    """A node with a store, and who should be kept out of it: the changes so far, and how many of them are kept."""

    def __init__(self) -> None:
        self.node = NodeUnderTest(GUARDED, StoreModel(), prompt=False)
        self.changes: list[tuple[str, str, float | None]] = []  # table, name, and until when: unix seconds
        self.asked = self.kept = 0
        self.save: object = None  # the one that is under way

    def command(self, command: Command) -> None:
        self.node.step(command)
        kind, name, until = expected(command, self.node.now.unix)
        self.changes.append((kind, name, until))

    def answer(self, fail: bool) -> None:
        if self.node.asked:
            self.node.answer(fail=fail)
            self.kept, self.save = self.kept if fail else self.asked, None

    def advance(self, seconds: int) -> None:
        self.node.advance(seconds)

    def crash(self, written: bool, down: float) -> None:
        """The process ends; what it asked last may have been `written` all the same."""
        save, store = next(iter(self.node.asked), None), self.node.store
        if written and isinstance(save, SaveRecords) and store is not None:
            store.save(save.records)
            self.kept = self.asked
        del self.changes[self.kept :]
        self.node, self.asked, self.save = restart(self.node, down, prompt=False), self.kept, None

    def look(self) -> None:
        """Hold the node to what it should be. A save that is new has everything that was commanded so far."""
        save = next(iter(self.node.asked), None)
        if save is not self.save:
            self.save, self.asked = save, len(self.changes)
        control, now = self.node.gateway.control, self.node.now
        held = {("blocked", info.name) for info in control.blocks(now)}
        held |= {("revoked " + info.kind, info.name) for info in control.revocations(now)}
        ends = {(kind, name): until for kind, name, until in self.changes}
        assert held == {name for name, until in ends.items() if until is None or until > now.unix}


def expected(command: Command, unix: float) -> tuple[str, str, float | None]:
    """What a command does: to which table and name, and until when."""
    if isinstance(command, UserBlocked | AddressBlocked):
        name = command.user_id if isinstance(command, UserBlocked) else command.address
        return "blocked", name, None if command.seconds is None else unix + command.seconds
    if isinstance(command, UserUnblocked | AddressUnblocked):
        return "blocked", command.user_id if isinstance(command, UserUnblocked) else command.address, unix
    if isinstance(command, TokenRevoked):
        return "revoked token", command.token_id, unix + LIFETIME
    assert isinstance(command, UserRevoked)
    return "revoked user", command.user_id, unix + LIFETIME


@pytest.mark.row("A5")
@pytest.mark.row("D4")
@given(st.lists(acts, min_size=5, max_size=40))
def test_whoever_was_kept_out_when_it_was_saved_is_behind_any_crash(history: Sequence[tuple[Any, ...]]) -> None:
    played = Played()
    for do, *arguments in history:
        getattr(played, do)(*arguments)
        played.look()
