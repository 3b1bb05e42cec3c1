"""Limits as clients meet them: whom each counts, what is told, and that neither a new socket nor a clock opens it."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.testing.client import Client
from qaws_proto.testing.node import ADDRESS, UNIX, configure
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

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


# ── runs of a user ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G7")
@pytest.mark.row("R4")
def test_a_user_has_so_many_messages_at_once_on_all_connections_and_in_all_sessions() -> None:
    node = _node(agent={"runs_per_user": 2})
    one, two = node.connect("ana", peer="192.0.2.1"), node.connect("ana", peer="192.0.2.2")
    one.chat(id="m1")
    two.chat(id="m2", session_id="other")
    for client in (one, two, node.connect("ana")):
        client.forget()
        client.chat(id="m3")
        assert client.expect_error("BUSY", correlation_id="m3")["error_message"] == (
            "This user has enough messages waiting"
        )
        client.expect_silence()
    node.connect("bob").chat()
    assert node.gateway.runs == 3
    node.finish(next(iter(node.runs)), "done")
    one.forget()
    one.chat(id="m4")
    one.expect_system("message_accepted", correlation_id="m4")


@pytest.mark.row("G7")
def test_without_authentication_an_address_has_so_many() -> None:
    node = NodeUnderTest(configure(agent={"runs_per_user": 1}))
    node.connect(peer="2001:db8::1").chat(user_id="ana")
    other = node.connect(peer="2001:db8::2")
    other.chat(user_id="bob")
    other.expect_error("BUSY")
    node.connect(peer="2001:db8:0:1::1").chat()
    assert node.gateway.runs == 2


@pytest.mark.row("G5")
def test_an_agent_that_does_not_stop_keeps_its_place_of_its_user() -> None:
    node = _node(agent={"runs_per_user": 1})
    client = node.connect("ana")
    client.chat(id="m1")
    (run_id,) = node.runs
    client.send({"type": "cancel", "correlation_id": "m1"})
    node.advance(6)
    assert node.note("run_given_up").fields["run_id"] == run_id
    client.forget()
    client.chat()
    client.expect_error("BUSY")
    node.fail(run_id)
    client.chat()
    assert len(node.runs) == 1


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TO_MIDNIGHT = 86_400 - UNIX % 86_400


def _with_budget(**budget: Any) -> NodeUnderTest:
    return NodeUnderTest(configure(agent={"budget": {"per_day": 250, "reserve": 100, **budget}}))


def _ask(client: Client, **fields: Any) -> bool:
    """Whether the message is let in; where not, the budget says so."""
    client.forget()
    before = client.node.gateway.runs
    client.chat(**fields)
    if client.node.gateway.runs > before:
        return True
    assert client.expect_error("RATE_LIMIT")["error_message"] == "The budget of this day is spent"
    client.expect_silence()
    return False


def _spend(client: Client, count: int) -> None:
    assert _ask(client)
    client.node.finish(client.node.only_run, "x" * count)


@pytest.mark.row("R1")
@pytest.mark.row("R4")
def test_a_budget_that_is_spent_runs_nothing_until_the_next_day_and_on_no_connection() -> None:
    node = _with_budget()
    client = node.connect(peer="192.0.2.1")
    _spend(client, 100)
    _spend(client, 50)
    _spend(client, 700)  # what an answer uses is known when it is there
    node.advance(0.25)
    client.forget()
    client.chat(id="m1")
    error = client.expect_error("RATE_LIMIT", correlation_id="m1")
    assert error["details"] == {"retry_after": TO_MIDNIGHT - 0.25}
    for _ in range(10):  # nobody is closed for it
        assert not _ask(client)
    assert not client.write_closed
    assert not _ask(node.connect(peer="192.0.2.1"))
    assert _ask(node.connect(peer="192.0.2.2"))
    node.advance(error["details"]["retry_after"] - 0.001)
    again = node.connect(peer="192.0.2.1")
    assert not _ask(again)
    node.advance(0.001)
    assert _ask(again)


@pytest.mark.row("R1")
def test_messages_whose_answers_are_to_come_hold_their_share() -> None:
    node = _with_budget()
    client = node.connect()
    assert _ask(client, session_id="one")
    assert _ask(client, session_id="two")
    assert not _ask(client, session_id="three")
    node.finish(next(iter(node.runs)), "x" * 49)
    assert _ask(client, session_id="three")
    assert not _ask(client, session_id="four")


@pytest.mark.row("R1")
def test_an_answer_that_fails_or_is_cancelled_counts_with_what_there_was_of_it() -> None:
    node = _with_budget()
    client = node.connect()
    assert _ask(client)
    node.chunk(node.only_run, "x" * 30)
    node.fail(node.only_run)
    assert _ask(client, id="m2")
    run_id = node.only_run
    node.chunk(run_id, "x" * 60)
    client.send({"type": "cancel", "correlation_id": "m2"})
    node.fail(run_id)
    _spend(client, 60)  # 150 of 250
    assert _ask(client)
    assert not _ask(client, session_id="other")


@pytest.mark.row("R1")
def test_a_message_that_is_cancelled_in_the_queue_has_used_nothing() -> None:
    node = _with_budget()
    client = node.connect()
    assert _ask(client, id="m1")
    assert _ask(client, id="m2")
    client.send({"type": "cancel", "correlation_id": "m2"})
    assert _ask(client, id="m3")
    assert not _ask(client, id="m4")


@pytest.mark.row("R1")
def test_a_message_that_could_not_be_kept_has_used_nothing() -> None:
    config = configure(agent={"budget": {"per_day": 100, "reserve": 100}, "runs_per_user": 1})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    client = node.connect()
    client.chat(id="m1")
    node.answer(fail=True)
    client.expect_error("STORAGE_UNAVAILABLE")
    node.advance(1)
    client.chat(id="m1")
    node.answer_all()
    client.expect_system("message_accepted", correlation_id="m1")


@pytest.mark.row("R1")
def test_a_message_that_was_accepted_is_pointed_to_when_the_budget_is_spent() -> None:
    node = _with_budget()
    client = node.connect()
    assert _ask(client, id="m1")
    node.finish(node.only_run, "x" * 250)
    client.forget()
    client.chat(id="m1")
    assert client.expect_system("message_accepted", correlation_id="m1")["duplicate"] is True


@pytest.mark.row("R1")
@pytest.mark.parametrize(
    ("tokens", "more"),
    [((40, 10), 2), ((None, 50), 2), ((90, 60), 1), ((0, 0), 2), ((None, None), 1), ((-5, -5), 1), (("1", True), 1)],
)
def test_tokens_are_those_that_the_agent_reports_and_else_those_reserved(tokens: tuple[Any, Any], more: int) -> None:
    node = _with_budget(unit="tokens")
    client = node.connect()
    assert _ask(client)
    node.finish(node.only_run, "x" * 10_000, input_tokens=tokens[0], output_tokens=tokens[1])
    client.expect_event("agent_response", content="x" * 10_000)
    asked = [_ask(client, session_id=f"s{number}") for number in range(4)]
    assert asked == [number < more for number in range(4)]


@pytest.mark.row("R1")
def test_an_agent_that_was_cancelled_may_still_say_what_it_has_used() -> None:
    node = _with_budget(unit="tokens")
    client = node.connect()
    assert _ask(client, id="m1")
    run_id = node.only_run
    client.send({"type": "cancel", "correlation_id": "m1"})
    node.finish(run_id, "late", input_tokens=240, output_tokens=0)
    assert not _ask(client)


def test_the_note_of_a_run_has_the_tokens_that_were_reported() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    node.finish(node.only_run, "hi", input_tokens=12, output_tokens=10**12)
    fields = node.note("run_ended").fields
    assert (fields["input_tokens"], fields["output_tokens"]) == (12, 1_000_000_000)
    client.chat()
    node.notes.clear()
    node.finish(node.only_run, "hi", input_tokens=None, output_tokens=-1)
    assert not {"input_tokens", "output_tokens"} & node.note("run_ended").fields.keys()


@pytest.mark.row("R3")
def test_a_wall_clock_that_is_put_back_gives_no_budget_twice() -> None:
    node = _with_budget()
    client = node.connect()
    _spend(client, 250)
    node.jump(-86_400)
    client.forget()
    client.chat()
    assert client.expect_error("RATE_LIMIT")["details"] == {"retry_after": TO_MIDNIGHT + 86_400}
    node.jump(86_400)
    assert not _ask(client)
    node.jump(86_400)
    assert _ask(client)


@pytest.mark.row("R1")
def test_on_trial_a_budget_refuses_nothing_and_is_not_charged_with_what_it_would_refuse() -> None:
    rates = {"enabled": False, "dry_run": True}
    budget = {"per_day": 100, "reserve": 100}
    node = NodeUnderTest(configure(security={"rate_limiting": rates}, agent={"budget": budget}))
    client = node.connect()
    assert _ask(client, session_id="one")
    first = node.only_run
    assert _ask(client, session_id="two")
    note = node.note("limit_dry_run")
    assert note.fields == {"limit": "budget", "key": ADDRESS, "retry_after": TO_MIDNIGHT}
    (second,) = node.runs.keys() - {first}
    node.finish(second, "x" * 500)
    node.finish(first, "")
    _spend(client, 100)
    assert node.note("limit_dry_run") == note, "the only one"


@pytest.mark.row("R4")
def test_a_message_that_runs_again_after_a_restart_is_charged_and_not_refused() -> None:
    store = StoreModel()
    config = configure(
        authentication=True, store={"kind": "memory", "on_restart": "rerun"},
        agent={"budget": {"per_day": 100, "reserve": 100}, "runs_per_user": 1},
    )  # fmt: skip
    first = NodeUnderTest(config, store)
    client = first.connect("ana")
    client.chat(id="m1", session_id="one")
    assert len(first.runs) == 1
    again = NodeUnderTest(config, store)
    assert len(again.runs) == 1
    client = again.connect("ana")
    client.chat(id="m2", session_id="two")
    client.expect_error("BUSY")
    again.finish(again.only_run, "x" * 100)
    assert not _ask(client, session_id="two")
