"""Coming back to a session: what is heard again, what is told of what cannot be, and who may (S1 to S5)."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.inputs import DrainRequested
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

USER = "ana"


def welcomed(node: NodeUnderTest, user_id: str = USER) -> tuple[Client, str, str]:
    """A client, and the name and epoch of its session."""
    client = node.connect(user_id)
    data = client.heard[-1]["data"]
    return client, data["session_id"], data["epoch"]


def talked(**sections: Any) -> tuple[NodeUnderTest, str, str, str]:
    """A node where a client has heard two chunks of a run that goes on, and is gone; session, epoch, run."""
    node = NodeUnderTest(configure(authentication=True, **{"agent": {"roll_up": 0}, **sections}))
    client, session_id, epoch = welcomed(node)
    client.chat(id="m1", stream=True)
    run_id = node.only_run
    node.chunk(run_id, "hel")
    node.chunk(run_id, "lo")
    assert client.heard[-1]["seq"] == 3
    client.lose()
    return node, session_id, epoch, run_id


# ── S1 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S1")
@pytest.mark.clause("C10")
def test_what_was_missed_is_heard_and_then_what_is_said() -> None:
    node, session_id, epoch, run_id = talked()
    node.chunk(run_id, " wor")
    node.chunk(run_id, "ld")
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    assert client.expect_system("session_resumed", session_id=session_id) == {"recovered": True, "from": 4, "to": 5}
    client.expect_event("agent_chunk", content=" world", offset=5, seq=5)
    client.expect_silence()
    node.chunk(run_id, "!")
    client.expect_event("agent_chunk", content="!", offset=11, seq=6)
    node.finish(run_id)
    client.expect_event("agent_response", content="hello world!", seq=7, correlation_id="m1")


@pytest.mark.row("S1")
def test_from_zero_all_is_heard_with_the_chunks_of_a_run_as_one() -> None:
    node, session_id, epoch, run_id = talked()
    node.tell(run_id, "tool_started", "search", "…")
    node.chunk(run_id, "!")
    node.chunk(run_id, "?")
    node.finish(run_id)
    client = node.connect(USER)
    client.resume(session_id, 0, epoch)
    client.expect_system("session_resumed")
    client.expect_system("message_accepted", seq=1)
    client.expect_event("agent_chunk", content="hello", offset=0, seq=3)
    client.expect_event("agent_step", name="search", seq=4)
    client.expect_event("agent_chunk", content="!?", offset=5, seq=6)
    client.expect_event("agent_response", content="hello!?", seq=7)
    client.expect_silence()


@pytest.mark.row("S1")
@pytest.mark.parametrize("gone", [True, False], ids=["closed", "half-open"])
def test_a_session_in_which_nothing_was_said_is_come_back_to(gone: bool) -> None:
    node = NodeUnderTest(configure(authentication=True))
    first, session_id, epoch = welcomed(node)
    if gone:
        first.lose()
    client = node.connect(USER)
    client.resume(session_id, 0, epoch)
    assert client.expect_system("session_resumed") == {"recovered": True, "from": 1, "to": 0}
    client.chat(id="m1", session_id=session_id)
    client.expect_system("message_accepted", seq=1)
    if not gone:
        first.chat(id="m2")
        assert first.expect_system("message_accepted", seq=2)["position"] == 1


@pytest.mark.row("S1")
def test_a_half_open_socket_does_not_stand_in_the_way() -> None:
    node, session_id, epoch, run_id = talked()
    old = node.connect(USER)
    old.resume(session_id, 3, epoch)
    old.block()
    node.chunk(run_id, " there")
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.expect_system("session_resumed")
    client.expect_event("agent_chunk", content=" there", offset=5)
    node.advance(10)  # the old one has not moved for its time
    assert old.stream.closed is not None
    node.finish(run_id)
    client.expect_event("agent_response")


@pytest.mark.row("F11")
@pytest.mark.row("S1")
def test_a_peer_that_is_given_up_as_silent_finds_its_session() -> None:
    node, session_id, epoch, run_id = talked(agent={"roll_up": 0, "timeout": 1000})
    silent = node.connect(USER)
    silent.resume(session_id, 3, epoch)
    node.advance(60)  # a ping after 30 s of silence, and 30 s for its answer
    silent.expect_dropped()
    node.chunk(run_id, "!")
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.expect_system("session_resumed")
    client.expect_event("agent_chunk", content="!", offset=5)


@pytest.mark.row("G8")
def test_a_cancel_on_one_tab_is_heard_on_all_at_once_and_changes_nothing_twice() -> None:
    node, session_id, epoch, run_id = talked()
    tabs = [node.connect(USER) for _ in range(3)]
    for tab in tabs:
        tab.resume(session_id, 3, epoch)
        tab.forget()
    for tab in tabs:
        tab.send({"type": "cancel", "run_id": run_id})
    for tab in tabs:
        tab.expect_event("agent_response", status="cancelled", content="hello", seq=4)
        tab.expect_silence()
    assert node.cancelled == {run_id}


@pytest.mark.row("S1")
@pytest.mark.clause("C4")
def test_a_replay_to_a_blocked_reader_waits_behind_the_answer() -> None:
    node, session_id, epoch, run_id = talked()
    client = node.connect(USER)
    client.block()
    client.resume(session_id, 1, epoch)
    node.chunk(run_id, "!")
    client.expect_silence()
    client.unblock()
    assert client.expect_system("session_resumed")["from"] == 2
    client.expect_event("agent_chunk", content="hello!", offset=0, seq=4)


@pytest.mark.row("S1")
def test_to_resume_again_is_to_hear_again() -> None:
    node, session_id, epoch, _ = talked()
    client = node.connect(USER)
    for _ in range(2):
        client.resume(session_id, 0, epoch)
        client.expect_system("session_resumed")
        client.expect_system("message_accepted")
        client.expect_event("agent_chunk", content="hello")


@pytest.mark.row("S1")
@pytest.mark.row("G8")
def test_a_run_goes_on_with_nobody_there_and_its_end_is_heard_later() -> None:
    node, session_id, epoch, run_id = talked()
    node.advance(30)
    node.chunk(run_id, "!")
    node.finish(run_id)
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.expect_system("session_resumed")
    client.expect_event("agent_chunk", content="!", offset=5)
    client.expect_event("agent_response", content="hello!", status="completed")


def test_a_draining_node_is_still_come_back_to() -> None:
    node, session_id, epoch, run_id = talked()
    client, other = node.connect(USER), node.connect(USER)
    other.resume(session_id, 3, epoch)  # so that it is not closed at once
    client.resume(session_id, 3, epoch)
    node.step(DrainRequested())
    client.forget()
    client.resume(session_id, 0, epoch)
    client.expect_system("session_resumed")
    client.expect_system("message_accepted")
    client.expect_event("agent_chunk")
    node.finish(run_id)
    client.expect_event("agent_response")


def test_a_session_for_one_reader_is_taken_over_by_the_newest() -> None:
    node, session_id, epoch, run_id = talked(sessions={"exclusive": True})
    first, second = node.connect(USER), node.connect(USER)
    first.resume(session_id, 3, epoch)
    first.expect_system("session_resumed")
    node.chunk(run_id, "!")
    first.expect_event("agent_chunk")
    second.resume(session_id, 3, epoch)
    first.expect_close(4409, "taken over")
    second.expect_system("session_resumed")
    second.expect_event("agent_chunk", content="!")
    second.resume(session_id, 4, epoch)
    second.expect_system("session_resumed")
    node.connect(USER).chat(session_id=session_id)
    second.expect_close(4409)
    node.finish(run_id)


def test_tabs_that_are_there_before_a_session_is_hear_it_from_its_beginning() -> None:
    node = NodeUnderTest(configure(authentication=True))
    first, second, gone, stranger = (node.connect(user) for user in (USER, USER, USER, "eva"))
    for tab in (first, second, gone, stranger):
        tab.resume("s")
        tab.resume("s")
        tab.expect_error("SESSION_NOT_FOUND")
        tab.expect_error("SESSION_NOT_FOUND")
    gone.lose()
    first.chat(id="m1", session_id="s")
    for tab in (first, second):
        tab.expect_system("message_accepted", session_id="s", seq=1)
    second.resume("s")
    assert snapshot(second, "epoch")["from"] == 1
    stranger.expect_silence()


def test_who_waited_for_a_session_alone_and_left_is_not_told() -> None:
    node = NodeUnderTest()
    gone, other = node.connect(), node.connect()
    gone.resume("s")
    gone.lose()
    other.chat(session_id="s", id="m1")
    other.expect_system("message_accepted", seq=1)


@pytest.mark.row("S4")
def test_who_reads_enough_meanwhile_does_not_read_what_was_waited_for() -> None:
    node = NodeUnderTest(configure(sessions={"per_user": 1}))
    client, other = node.connect(), node.connect()
    client.resume("s")
    client.expect_error("SESSION_NOT_FOUND")
    client.chat(session_id="t", id="m1")
    client.expect_system("message_accepted", session_id="t")
    other.chat(session_id="s", id="m1")
    other.expect_system("message_accepted", session_id="s")
    client.expect_silence()


@pytest.mark.row("S4")
def test_sessions_that_are_waited_for_are_bounded() -> None:
    node = NodeUnderTest(configure(sessions={"per_user": 2}))
    client, other = node.connect(), node.connect()
    for name in "abc":
        client.resume(name)
        client.expect_error("SESSION_NOT_FOUND")
    for name in "abc":
        other = node.connect()
        other.chat(session_id=name, id="m1")
    for name in "ab":
        client.expect_system("message_accepted", session_id=name)
    client.expect_silence()


# ── S2 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def snapshot(client: Client, reason: str) -> dict[str, Any]:
    """The answer to a resume that cannot be."""
    data = client.expect_system("session_resumed")
    assert (data["recovered"], data["reason"]) == (False, reason)
    return data


@pytest.mark.row("S2")
def test_behind_what_is_held_there_is_a_snapshot() -> None:
    node, session_id, epoch, run_id = talked(sessions={"max_events": 2})
    node.chunk(run_id, "!")
    client = node.connect(USER)
    client.resume(session_id, 1, epoch)
    assert snapshot(client, "gap") == {"recovered": False, "reason": "gap", "epoch": epoch, "from": 3, "to": 4}
    client.expect_event("agent_chunk", content="hello!", offset=0, seq=4, run_id=run_id, correlation_id="m1")
    client.expect_silence()
    node.chunk(run_id, "?")
    client.expect_event("agent_chunk", content="?", offset=6, seq=5)


@pytest.mark.row("S2")
def test_ahead_of_what_was_said_is_a_gap_too() -> None:
    node, session_id, epoch, _ = talked()
    client = node.connect(USER)
    client.resume(session_id, 4, epoch)
    assert snapshot(client, "gap")["to"] == 3


@pytest.mark.row("S2")
def test_who_knows_the_name_alone_is_told_the_epoch_and_what_is_held() -> None:
    node, session_id, _, run_id = talked()
    client = node.connect(USER)
    client.resume(session_id)
    data = snapshot(client, "epoch")
    client.expect_event("agent_chunk", content="hello", offset=0)
    client.resume(session_id, data["from"] - 1, data["epoch"])
    assert client.expect_system("session_resumed") == {"recovered": True, "from": 1, "to": 3}
    client.expect_system("message_accepted")
    client.expect_event("agent_chunk", content="hello", offset=0, run_id=run_id)
    client.expect_silence()


@pytest.mark.row("S2")
def test_each_run_that_has_not_ended_is_in_a_snapshot() -> None:
    node, session_id, _, run_id = talked(sessions={"double_text": "concurrent"})
    client = node.connect(USER)
    client.chat(id="m2", session_id=session_id)
    (other,) = node.runs.keys() - {run_id}
    node.chunk(other, "it does not stream")
    client.forget()
    client.resume(session_id)
    snapshot(client, "epoch")
    client.expect_event("agent_chunk", content="hello", offset=0, run_id=run_id)
    client.expect_event("agent_chunk", content="", offset=0, run_id=other, correlation_id="m2")


@pytest.mark.row("S2")
def test_a_session_whose_time_is_over_begins_anew() -> None:
    node, session_id, epoch, run_id = talked(sessions={"ttl": 20})
    node.advance(20)
    assert node.cancelled == {run_id}
    node.fail(run_id)
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    data = snapshot(client, "expired")
    assert data["epoch"] != epoch
    assert (data["from"], data["to"]) == (1, 0)
    client.chat(id="m1", session_id=session_id)
    assert client.expect_system("message_accepted", seq=1)["duplicate"] is False
    client.resume(session_id, 0, data["epoch"])
    assert client.expect_system("session_resumed") == {"recovered": True, "from": 1, "to": 1}


# ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S3")
def test_a_session_of_another_user_answers_like_one_that_is_not_there() -> None:
    node, session_id, epoch, _ = talked()
    answers = []
    for name in (session_id, "never was"):
        stranger = node.connect("eva")
        stranger.resume(name, 0, epoch)
        answers.append(stranger.next_frame())
        stranger.expect_silence()
    assert answers[0] == answers[1]
    assert b'"SESSION_NOT_FOUND"' in answers[0][1]


def test_a_cancel_of_what_is_not_there_names_what_it_was_for() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send({"type": "cancel", "correlation_id": "m9"})
    client.expect_error("RUN_NOT_FOUND", correlation_id="m9")
    client.expect_silence()


@pytest.mark.row("S3")
def test_nor_does_a_cancel_or_an_ack_of_a_stranger_do_anything() -> None:
    node, session_id, _, run_id = talked()
    stranger = node.connect("eva")
    stranger.ack(session_id, 9)
    stranger.expect_silence()
    stranger.send({"type": "cancel", "run_id": run_id})
    stranger.expect_error("RUN_NOT_FOUND")
    assert node.runs.keys() == {run_id}


# ── S4 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S4")
def test_sessions_that_one_connection_reads_are_bounded() -> None:
    node = NodeUnderTest(configure(sessions={"per_user": 2}))
    first, reader = node.connect(), node.connect()
    for name in "ab":
        first.chat(session_id=name)
    other = node.connect()
    other.chat(session_id="c")
    for name in "ab":
        reader.resume(name)
        reader.expect_system("session_resumed")
        reader.expect_event("agent_chunk")
    reader.resume("c")
    reader.expect_error("BUSY")
    reader.resume("a")
    reader.expect_system("session_resumed")


@pytest.mark.row("S4")
@pytest.mark.clause("C7")
@pytest.mark.parametrize("bound", ["user_bytes", "node_bytes"])
def test_the_longest_unread_makes_room_for_what_is_said(bound: str) -> None:
    node = NodeUnderTest(configure(authentication=True, sessions={bound: 8192}))
    for name in "abc":
        client = node.connect(USER)
        client.chat(session_id=name)
        node.finish(node.only_run, "x" * 2500)
        client.lose()
    reader = node.connect(USER)
    reader.chat(session_id="d")
    node.finish(node.only_run, "x" * 2500)
    assert node.gateway.sessions == 3
    reader.forget()
    reader.resume("a", 1)
    assert snapshot(reader, "expired")["to"] == 0
    reader.resume("b", 1)
    assert snapshot(reader, "epoch")["to"] == 1


@pytest.mark.row("S4")
@pytest.mark.clause("C7")
@pytest.mark.parametrize("bound", ["user_bytes", "node_bytes"])
def test_where_nothing_else_can_go_the_oldest_events_do(bound: str) -> None:
    node = NodeUnderTest(configure(authentication=True, sessions={bound: 8192}))
    client = node.connect(USER)
    for _ in range(6):
        client.chat(session_id="s")
        node.finish(node.only_run, "x" * 2500)
    client.forget()
    client.resume("s")
    data = snapshot(client, "epoch")
    assert (data["from"], data["to"]) == (4, 6)


# ── S5 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S5")
def test_what_every_reader_has_acked_is_let_go() -> None:
    node, session_id, epoch, run_id = talked()
    first, second = node.connect(USER), node.connect(USER)
    for client in (first, second):
        client.resume(session_id, 3, epoch)
    first.ack(session_id, 2)
    late = node.connect(USER)
    late.resume(session_id, 0, epoch)
    assert late.expect_system("session_resumed")["recovered"] is True
    late.lose()
    second.ack(session_id, 1)
    late = node.connect(USER)
    late.resume(session_id, 0, epoch)
    assert snapshot(late, "gap")["from"] == 2
    late.lose()
    first.lose()
    second.ack(session_id, 3)
    node.finish(run_id)
    late = node.connect(USER)
    late.resume(session_id, 3, epoch)
    assert late.expect_system("session_resumed") == {"recovered": True, "from": 4, "to": 4}
    late.expect_event("agent_response")


@pytest.mark.row("S5")
def test_an_ack_backwards_is_ignored_and_one_ahead_ends_the_connection() -> None:
    node, session_id, epoch, _ = talked()
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.forget()
    for seq in (3, 1, 0, 3):
        client.ack(session_id, seq)
    client.ack("another session", 9)
    client.expect_silence()
    client.ack(session_id, 4)
    client.expect_close(4400, "ack ahead")


@pytest.mark.row("S5")
def test_what_was_not_sent_to_a_blocked_reader_cannot_be_acked() -> None:
    node, session_id, epoch, run_id = talked()
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.forget()
    client.block()
    node.chunk(run_id, "!")
    client.ack(session_id, 4)
    client.expect_close(4400)


def test_acks_are_not_counted_and_resumes_are() -> None:
    node = NodeUnderTest(configure(authentication=True, security={"rate_limiting": {"burst_size": 2}}))
    client, session_id, epoch = welcomed(node)
    for _ in range(2):
        client.resume(session_id, 0, epoch)
        client.expect_system("session_resumed")
    for _ in range(20):
        client.ack(session_id, 0)
    client.expect_silence()
    client.resume(session_id, 0, epoch)
    client.expect_error("RATE_LIMIT", details={"retry_after": 1})


@pytest.mark.row("S1")
@pytest.mark.parametrize("durable", [False, True])
def test_a_session_has_the_epoch_that_its_connection_was_told_however_many_came_since(durable: bool) -> None:
    node = NodeUnderTest(configure(sessions={"max_sessions": 2}), StoreModel() if durable else None)
    client = node.connect()
    own = client.heard[-1]["data"]
    for _ in range(3):
        node.connect().lose()
    client.chat(id="m1")
    node.finish(node.only_run, "hello")
    client.lose()
    again = node.connect()
    again.resume(own["session_id"], 0, own["epoch"])
    assert again.expect_system("session_resumed") == {"recovered": True, "from": 1, "to": 2}
