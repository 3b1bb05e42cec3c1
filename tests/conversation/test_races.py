"""Moments that are hard to meet: between an end and its being kept, between runs that speak at once, and the like."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.inputs import RecordsSaved, StopRequested
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure, counter
from qaws_proto.testing.peer import close_frame
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

USER = "ana"


def slow_store(**sections: Any) -> tuple[NodeUnderTest, Client, str]:
    """A node whose store answers when it is told to, a client of it, and its session."""
    config = configure(authentication=True, **{"agent": {"roll_up": 0}, **sections})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    client = node.connect(USER)
    return node, client, client.heard[-1]["data"]["session_id"]


def snapshot(client: Client) -> list[tuple[str, str]]:
    """The runs that a client is shown which cannot be told how it came to that, with their texts."""
    assert client.expect_system("session_resumed")["recovered"] is False
    shown = []
    while client.stream.frames:
        event = client.expect_event("agent_chunk", offset=0)
        shown.append((event["run_id"], event["content"]))
    return shown


@pytest.mark.row("S2")
def test_a_run_that_has_ended_is_in_no_snapshot_though_its_agent_still_stops() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}))
    client = node.connect()
    client.chat(id="m1", session_id="s")
    client.send({"type": "cancel", "correlation_id": "m1"})
    late = node.connect()
    late.resume("s")
    assert snapshot(late) == []


@pytest.mark.row("S2")
@pytest.mark.clause("C10")
def test_a_run_whose_end_is_not_kept_yet_is_in_a_snapshot() -> None:
    node, client, session_id = slow_store()
    client.chat(id="m1", stream=True)
    node.answer()
    run_id = node.only_run
    node.chunk(run_id, "kept")
    node.answer()
    node.chunk(run_id, " and more")
    node.finish(run_id)
    late = node.connect(USER)
    late.resume(session_id)
    assert snapshot(late) == [(run_id, "kept")]
    node.answer_all()
    late.expect_event("agent_chunk", content=" and more", offset=4)
    late.expect_event("agent_response", content="kept and more")


@pytest.mark.clause("C11")
def test_a_message_that_is_not_kept_yet_is_in_no_snapshot() -> None:
    node, client, session_id = slow_store()
    client.chat(id="m1")
    late = node.connect(USER)
    late.resume(session_id)
    assert snapshot(late) == []
    node.answer(fail=True)
    late.expect_silence()


@pytest.mark.clause("C11")
@pytest.mark.row("M5")
def test_a_message_that_was_cancelled_and_repeated_is_not_acknowledged_before_it_is_kept() -> None:
    node, client, _ = slow_store()
    client.chat(id="m1")
    client.send({"type": "cancel", "correlation_id": "m1"})
    client.chat(id="m1")
    client.expect_silence()
    node.answer(fail=True)
    for _ in range(2):
        client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m1")


@pytest.mark.row("D4")
def test_what_waits_begins_once_what_held_it_up_is_refused() -> None:
    node, client, _ = slow_store(sessions={"queue": 20}, limits={"out_high": 65_536})
    client.chat(id="m1")
    for n in range(8):
        client.chat("x" * 9000, id=f"b{n}")
    node.answer()
    assert node.started == {}  # too much of the session is not kept
    node.answer(fail=True)
    assert len(node.runs) == 1


@pytest.mark.row("D1")
def test_nothing_begins_that_was_loaded_behind_a_stop() -> None:
    node, client, session_id = slow_store()
    node.prompt = True
    client.chat(id="m1")
    node.answer_all()
    node.finish(node.only_run, "x")
    ids = counter()
    node = NodeUnderTest(node.config, node.store, prompt=False, ids=lambda: f"later-{ids()}")
    client = node.connect(USER)
    client.chat(id="m2", session_id=session_id)
    node.step(StopRequested())
    node.answer_all()
    assert node.runs == {}
    client.send_bytes(close_frame(1001))
    assert client.write_closed  # the answer to our Close was read, though an event had waited for the store
    node.advance(10)
    assert node.drained


@pytest.mark.row("S2")
def test_an_epoch_is_never_that_of_two_logs() -> None:
    node = NodeUnderTest(configure(authentication=True, sessions={"ttl": 10}))
    first, second = node.connect(USER), node.connect(USER)
    named = first.heard[-1]["data"]
    second.chat("one", session_id=named["session_id"])
    node.finish(node.only_run, "one")
    second.lose()
    node.advance(11)
    for text in ("two", "three"):
        first.chat(text)
        node.finish(node.only_run, text)
    back = node.connect(USER)
    back.resume(named["session_id"], 1, named["epoch"])
    assert back.expect_system("session_resumed")["reason"] == "epoch"


@pytest.mark.clause("C10")
def test_who_is_cut_off_within_a_replay_of_two_runs_lacks_nothing() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}, sessions={"double_text": "concurrent"}))
    client = node.connect()
    for name in ("m1", "m2"):
        client.chat(id=name, session_id="s", stream=True)
    first, second = node.runs
    for run_id, piece in ((first, "a"), (second, "b"), (first, "c")):
        node.chunk(run_id, piece)
    late = node.connect()
    late.resume("s")
    epoch = late.expect_system("session_resumed")["epoch"]
    heard: dict[str, str] = {}
    seq = 2
    while seq < 5:
        late = node.connect()
        late.resume("s", seq, epoch)
        late.expect_system("session_resumed")
        event = late.expect_event("agent_chunk")  # the first one reaches it, and no more
        assert event["offset"] == len(heard.get(event["run_id"], ""))
        heard[event["run_id"]] = heard.get(event["run_id"], "") + event["content"]
        seq = event["seq"]
    assert heard == {first: "ac", second: "b"}


def test_a_cancel_means_the_run_that_goes_on_where_two_sessions_know_its_message() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(id="m1", session_id="a")
    node.finish(node.only_run, "x")
    client.chat(id="m1", session_id="b")
    run_id = node.only_run
    client.send({"type": "cancel", "correlation_id": "m1"})
    assert node.cancelled == {run_id}


@pytest.mark.row("C1")
def test_a_reader_that_comes_by_a_message_lets_the_agent_go_on() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}, limits={"out_high": 1024}))
    slow = node.connect()
    slow.chat(id="m1", session_id="s", stream=True)
    slow.block()
    node.chunk(node.only_run, "x" * 3000)
    assert node.paused
    node.connect().chat(id="m2", session_id="s")
    assert not node.paused


@pytest.mark.row("S4")
def test_a_session_that_is_waited_for_does_not_stand_in_its_own_way() -> None:
    node = NodeUnderTest(configure(sessions={"per_user": 1}))
    client = node.connect()
    client.resume("s")
    client.expect_error("SESSION_NOT_FOUND")
    client.chat(id="m1", session_id="s")
    client.expect_system("message_accepted")


@pytest.mark.row("D1")
def test_a_stop_ends_though_a_store_never_answers_what_came_behind_it() -> None:
    node, client, _ = slow_store()
    client.chat(id="m1")
    node.answer()
    node.chunk(node.only_run, "x")
    node.step(StopRequested())
    node.fail(node.only_run)
    client.lose()
    node.advance(10)
    assert node.drained
    asked = list(node.asked)
    node.advance(node.config.sessions.ttl)
    assert node.asked == asked, "nothing is saved behind the end"
    assert (node.gateway.sessions, node.gateway.wake_at) == (0, None)


@pytest.mark.row("D4")
@pytest.mark.clause("C7")
def test_messages_without_an_id_count_among_what_waits_to_be_saved() -> None:
    _, client, _ = slow_store(store={"max_unsaved": 4096}, sessions={"queue": 100})
    client.chat("x" * 3000)
    for _ in range(3):
        client.chat("x" * 3000)
    client.expect_error("STORAGE_UNAVAILABLE")


@pytest.mark.clause("C7")
@pytest.mark.row("M5")
def test_who_repeats_a_message_is_answered_once_when_it_is_kept() -> None:
    node, client, _ = slow_store()
    for _ in range(30):
        client.chat(id="m1")
    node.answer()
    assert [client.expect_system("message_accepted")["duplicate"] for _ in range(2)] == [False, True]
    client.expect_silence()


def test_what_a_store_says_is_no_input_of_a_node_without_one() -> None:
    with pytest.raises(TypeError, match="no input of this gateway"):
        NodeUnderTest().step(RecordsSaved(1))
