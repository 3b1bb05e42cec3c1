"""A node with a store: nothing is heard that is not kept, and what is kept is heard again after a crash (C11, D2, D4).

The store of these tests is a model of one; where it is not `prompt`, the test says when it answers, and whether.
"""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.effects import LoadSession, SaveRecords
from qaws_proto.inputs import DrainRequested, LoadFailed, RecordsSaved, SaveFailed, SessionLoaded, StopRequested
from qaws_proto.records import StoredSession
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure, counter
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

CONFIG = configure(authentication=True, agent={"roll_up": 0})
USER = "ana"


def slow_store(**sections: Any) -> tuple[NodeUnderTest, Client]:
    """A node whose store answers when it is told to, and a client of it."""
    config = configure(authentication=True, **{"agent": {"roll_up": 0}, **sections})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    return node, node.connect(USER)


def restarted(node: NodeUnderTest, **sections: Any) -> NodeUnderTest:
    """Another process on the same store, after a crash of the first one."""
    ids = counter()
    config = configure(authentication=True, **{"agent": {"roll_up": 0}, **sections}) if sections else node.config
    return NodeUnderTest(config, node.store, ids=lambda: f"later-{ids()}")


# ── accepted means kept ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C11")
def test_a_message_is_accepted_and_begins_once_it_is_kept() -> None:
    node, client = slow_store()
    client.chat(id="m1")
    client.expect_silence()
    assert node.started == {}
    node.answer()
    client.expect_system("message_accepted", correlation_id="m1", seq=1)
    assert len(node.runs) == 1


@pytest.mark.clause("C11")
@pytest.mark.row("D2")
def test_no_event_is_heard_before_it_is_kept() -> None:
    node, client = slow_store()
    client.chat(id="m1", stream=True)
    node.answer()
    client.forget()
    node.chunk(node.only_run, "a")
    client.expect_silence()
    node.answer()
    client.expect_event("agent_chunk", content="a")
    node.finish(node.only_run)
    client.expect_silence()
    node.answer()
    client.expect_event("agent_response", content="a")


def test_what_is_said_while_the_store_works_is_saved_together_behind_it() -> None:
    node, client = slow_store()
    other = node.connect("eva")
    client.chat(id="m1", stream=True)
    for n in range(3):
        other.chat(id=f"m{n}")
    assert len(node.asked) == 1
    node.answer()
    (save,) = node.asked
    assert isinstance(save, SaveRecords)
    assert len(save.records) == 6
    other.expect_silence()
    node.answer()
    assert [other.expect_system("message_accepted")["position"] for _ in range(3)] == [0, 1, 2]
    assert len(node.runs) == 2


@pytest.mark.row("M5")
@pytest.mark.clause("C11")
def test_a_repeated_message_is_not_acknowledged_before_it_is_kept() -> None:
    node, client = slow_store()
    session_id = client.heard[-1]["data"]["session_id"]
    client.chat(id="m1")
    again = node.connect(USER)
    again.chat(id="m1", session_id=session_id)
    again.expect_silence()
    node.answer()
    for _ in range(2):  # the event of the session, and the answer to who asked again
        again.expect_system("message_accepted", correlation_id="m1")
    assert [event["data"]["duplicate"] for event in again.heard[-2:]] == [False, True]
    assert len(node.started) == 1


@pytest.mark.clause("C11")
def test_a_run_cancelled_before_it_is_kept_never_begins() -> None:
    node, client = slow_store()
    client.chat(id="m1")
    client.send({"type": "cancel", "correlation_id": "m1"})
    node.answer_all()
    client.expect_system("message_accepted")
    client.expect_event("agent_response", status="cancelled", seq=2)
    assert node.started == {}
    assert node.gateway.runs == 0
    assert node.store is not None
    assert node.store.unfinished() == ()


def test_an_agent_is_held_back_by_a_store_that_does_not_keep_up() -> None:
    node, client = slow_store(limits={"out_high": 1024})
    client.chat(id="m1", stream=True)
    node.answer()
    node.chunk(node.only_run, "x" * 2000)
    assert node.paused == node.runs.keys()
    node.answer()
    assert not node.paused


def test_a_snapshot_shows_no_more_than_is_kept() -> None:
    node, client = slow_store()
    session_id = client.heard[-1]["data"]["session_id"]
    client.chat(id="m1", stream=True)
    node.answer()
    node.chunk(node.only_run, "kept")
    node.answer()
    node.chunk(node.only_run, " and not yet")
    late = node.connect(USER)
    late.resume(session_id)
    late.expect_system("session_resumed")
    late.expect_event("agent_chunk", content="kept", offset=0, seq=2)
    node.answer()
    late.expect_event("agent_chunk", content=" and not yet", offset=4, seq=3)


# ── where it cannot be kept ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D4")
@pytest.mark.clause("C11")
def test_what_could_not_be_kept_was_never_accepted() -> None:
    node, client = slow_store()
    session_id = client.heard[-1]["data"]["session_id"]
    client.chat(id="m1")
    again = node.connect(USER)
    again.chat(id="m1", session_id=session_id)
    node.answer(fail=True)
    for each in (client, again):
        each.expect_error("STORAGE_UNAVAILABLE", correlation_id="m1")
        each.expect_silence()
    assert node.started == {}
    assert node.gateway.runs == 0
    assert str(node.note("save_failed").cause) == "the disk is full"
    client.chat(id="m1")  # the next commit succeeds
    node.answer()
    assert client.expect_system("message_accepted", seq=1)["duplicate"] is False


@pytest.mark.parametrize("fail", [False, True])
def test_who_repeated_a_message_and_left_is_not_told(fail: bool) -> None:
    node, client = slow_store()
    session_id = client.heard[-1]["data"]["session_id"]
    client.chat(id="m1")
    again = node.connect(USER)
    again.chat(id="m1", session_id=session_id)
    again.lose()
    node.answer(fail=fail)
    if fail:
        client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m1")
    else:
        client.expect_system("message_accepted", correlation_id="m1")
    client.expect_silence()


@pytest.mark.row("D4")
def test_what_a_run_says_is_tried_again_and_messages_are_refused_meanwhile() -> None:
    node, client = slow_store()
    client.chat(id="m1", stream=True)
    node.answer()
    client.forget()
    run_id = node.only_run
    client.chat(id="m2")
    node.chunk(run_id, "he")
    node.answer(fail=True)
    client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m2")
    node.chunk(run_id, "llo")
    client.chat(id="m3")
    client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m3")
    assert node.asked == []
    node.advance(0.999)
    assert node.asked == []
    node.advance(0.001)
    node.answer(fail=True)
    node.advance(1)
    node.answer_all()
    client.expect_event("agent_chunk", content="he", seq=2)
    client.expect_event("agent_chunk", content="llo", offset=2, seq=3)
    client.chat(id="m2")
    node.answer()
    client.expect_system("message_accepted", seq=4)


@pytest.mark.row("D4")
def test_the_log_is_told_at_once_that_saving_fails_and_then_every_ten_seconds() -> None:
    node, client = slow_store()
    client.chat(id="m1", stream=True)
    node.answer()
    node.chunk(node.only_run, "a")
    counts = []
    for _ in range(22):
        node.answer(fail=True)
        counts.append(sum(note.name == "save_failed" for note in node.notes))
        node.advance(1)
    assert counts == [1] * 10 + [2] * 10 + [3] * 2
    node.answer()
    node.chunk(node.only_run, "b")
    node.answer(fail=True)  # anew
    assert sum(note.name == "save_failed" for note in node.notes) == 4


@pytest.mark.row("D4")
def test_the_cancel_of_a_message_that_could_not_be_kept_goes_with_it() -> None:
    node, client = slow_store()
    client.chat(id="m1")
    client.send({"type": "cancel", "correlation_id": "m1"})
    node.answer(fail=True)
    client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m1")
    node.advance(2)
    assert node.asked == []
    client.expect_silence()
    client.chat(id="m2")
    node.answer()
    client.expect_system("message_accepted", seq=1)


@pytest.mark.row("D4")
@pytest.mark.clause("C7")
def test_what_waits_to_be_saved_is_bounded() -> None:
    node, client = slow_store(store={"max_unsaved": 4096})
    client.chat("x" * 5000, id="m1")
    client.chat(id="m2")
    client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m2")
    node.answer()
    client.expect_system("message_accepted", correlation_id="m1")
    client.chat(id="m2")
    node.answer()
    client.expect_system("message_accepted", correlation_id="m2")


def test_an_answer_for_another_batch_is_none() -> None:
    node, client = slow_store()
    client.chat(id="m1")
    for event in (RecordsSaved(0), RecordsSaved(2), SaveFailed(2)):
        assert node.step(event) == []
    node.answer()
    assert node.step(RecordsSaved(1)) == node.step(SaveFailed(1)) == []
    client.expect_system("message_accepted")


# ── sessions that are loaded ─────────────────────────────────────────────────────────────────────────────────────────


def with_history(**sections: Any) -> tuple[NodeUnderTest, str, str]:
    """A restarted node that has a session of three events in its store; its name and epoch."""
    node, client = slow_store(**sections)
    data = client.heard[-1]["data"]
    node.prompt = True
    client.chat(id="m1", stream=True)
    node.answer_all()
    run_id = node.only_run
    node.chunk(run_id, "hello")
    node.finish(run_id)
    return restarted(node), data["session_id"], data["epoch"]


@pytest.mark.row("S1")
@pytest.mark.row("D2")
@pytest.mark.clause("C10")
def test_a_session_is_come_back_to_after_a_restart() -> None:
    node, session_id, epoch = with_history()
    client = node.connect(USER)
    client.resume(session_id, 1, epoch)
    assert client.expect_system("session_resumed") == {"recovered": True, "from": 2, "to": 3}
    client.expect_event("agent_chunk", content="hello", seq=2)
    client.expect_event("agent_response", content="hello", seq=3)
    client.chat(id="m2", session_id=session_id)
    client.expect_system("message_accepted", seq=4)


@pytest.mark.row("M5")
def test_a_message_of_before_the_restart_runs_nothing() -> None:
    node, session_id, _ = with_history()
    client = node.connect(USER)
    client.chat(id="m1", session_id=session_id)
    assert client.expect_system("message_accepted")["duplicate"] is True
    client.send({"type": "cancel", "correlation_id": "m1"})
    client.expect_silence()
    assert node.started == {}


def test_what_a_client_says_next_waits_behind_a_session_that_is_loaded() -> None:
    node, session_id, epoch = with_history()
    node.prompt = False
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.chat(id="m2", session_id=session_id)
    client.send({"type": "cancel", "correlation_id": "m2"})
    client.send({"type": "ping"})
    client.expect_silence()
    assert node.asked == [LoadSession(USER, session_id)]
    node.answer()
    client.expect_system("session_resumed")
    node.settle()
    node.answer_all()
    client.expect_event("pong")
    client.expect_system("message_accepted", seq=4)
    client.expect_event("agent_response", status="cancelled", seq=5)


def test_a_client_that_leaves_while_its_session_is_loaded_leaves_nothing() -> None:
    node, session_id, epoch = with_history()
    node.prompt = False
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.lose()
    assert node.gateway.sessions == 1
    node.answer()
    assert node.gateway.sessions == 0


@pytest.mark.parametrize("found", [False, True])
def test_a_session_that_nobody_asked_for_is_ignored(found: bool) -> None:
    node, client = slow_store()
    stored = StoredSession(USER, "s", "e", 0, ()) if found else None
    assert node.step(SessionLoaded(USER, "s", stored)) == []
    assert node.step(LoadFailed(USER, "s", OSError("the disk is gone"))) == []
    assert node.gateway.sessions == 0
    client.expect_silence()


@pytest.mark.row("D1")
def test_a_message_whose_session_comes_in_a_drain_is_refused() -> None:
    node, session_id, epoch = with_history()
    node.prompt = False
    reader, writer = node.connect(USER), node.connect(USER)
    reader.resume(session_id, 3, epoch)
    writer.chat(id="m2", session_id=session_id)
    node.step(DrainRequested())
    for client in (reader, writer):
        client.expect_system("server_draining")
    node.answer()
    writer.expect_error("OVERLOADED", correlation_id="m2")
    reader.expect_system("session_resumed")
    assert node.started == {}


def test_several_clients_wait_for_one_load() -> None:
    node, session_id, epoch = with_history()
    node.prompt = False
    clients = [node.connect(USER) for _ in range(3)]
    for client in clients:
        client.resume(session_id, 3, epoch)
    assert len(node.asked) == 1
    node.answer()
    for client in clients:
        client.expect_system("session_resumed")


@pytest.mark.row("S3")
def test_a_session_that_no_store_has_is_not_found_until_something_is_said_in_it() -> None:
    node, session_id, epoch = with_history()
    node.prompt = False
    stranger, other = node.connect("eva"), node.connect("eva")
    stranger.resume(session_id, 0, epoch)
    node.answer()
    stranger.expect_error("SESSION_NOT_FOUND")
    assert node.gateway.sessions == 0
    other.chat(id="m1", session_id=session_id)
    stranger.resume(session_id, 0, epoch)
    node.answer_all()
    other.expect_system("message_accepted", seq=1)
    assert stranger.expect_system("session_resumed")["reason"] == "epoch"


@pytest.mark.row("D4")
def test_a_session_that_cannot_be_read_is_no_session_of_nobody() -> None:
    node, session_id, epoch = with_history()
    node.prompt = False
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    node.answer(fail=True)
    client.expect_error("STORAGE_UNAVAILABLE")
    client.chat(id="m2", session_id=session_id)
    node.answer(fail=True)
    client.expect_error("STORAGE_UNAVAILABLE", correlation_id="m2")
    assert node.gateway.sessions == 0
    assert [str(note.cause) for note in node.notes if note.name == "load_failed"] == ["the disk is gone"] * 2
    client.resume(session_id, 3, epoch)
    node.answer()
    client.expect_system("session_resumed")


@pytest.mark.row("S4")
def test_a_session_that_made_room_is_loaded_again() -> None:
    node, session_id, epoch = with_history(sessions={"ttl": 10})
    client = node.connect(USER)
    client.resume(session_id, 3, epoch)
    client.lose()
    node.advance(10)
    assert node.gateway.sessions == 0
    client = node.connect(USER)
    client.resume(session_id, 2, epoch)
    assert client.expect_system("session_resumed") == {"recovered": True, "from": 3, "to": 3}


def test_a_session_whose_time_is_over_ends_its_runs_before_it_is_forgotten() -> None:
    node, client = slow_store(sessions={"ttl": 10})
    client.chat(id="m1")
    node.answer()
    run_id = node.only_run
    client.lose()
    node.advance(10)
    assert node.cancelled == {run_id}
    assert node.gateway.sessions == 1
    node.answer()
    node.advance(2)
    assert node.gateway.sessions == 0
    assert node.store is not None
    assert node.store.unfinished() == ()


# ── runs that a restart has cut ──────────────────────────────────────────────────────────────────────────────────────


def cut(on_restart: str) -> tuple[NodeUnderTest, str, str]:
    """A node restarted in the middle of an answer, with another message waiting; the session and its epoch."""
    node, client = slow_store()
    node.prompt = True
    data = client.heard[-1]["data"]
    client.chat("one", id="m1", stream=True)
    node.answer_all()
    client.chat("two", metadata={"n": 2})
    node.chunk(node.only_run, "half")
    return restarted(node, store={"on_restart": on_restart}), data["session_id"], data["epoch"]


@pytest.mark.row("D2")
@pytest.mark.clause("C8")
def test_a_run_that_a_restart_has_cut_ends_with_an_error() -> None:
    node, session_id, epoch = cut("fail")
    assert node.started == {}
    client = node.connect(USER)
    client.resume(session_id, 2, epoch)
    assert client.expect_system("session_resumed") == {"recovered": True, "from": 3, "to": 4}
    error = client.expect_error("AGENT_ERROR", correlation_id="m1", seq=3)
    assert "interrupted" in error["error_message"]
    client.expect_error("AGENT_ERROR", seq=4)
    assert restarted(node).gateway.sessions == 0  # they have ended for good


@pytest.mark.row("S2")
@pytest.mark.row("D2")
def test_until_that_is_kept_who_asks_is_told_that_it_has_not_ended() -> None:
    node, session_id, _ = cut("fail")
    assert node.store is not None
    node.store.ended.clear()
    for events in node.store.events.values():
        del events[2:]
    node = NodeUnderTest(node.config, node.store, prompt=False)
    client = node.connect(USER)
    client.resume(session_id, 0, "another epoch")
    assert client.expect_system("session_resumed")["to"] == 2
    first = client.expect_event("agent_chunk", correlation_id="m1", content="", offset=0, seq=2)
    second = client.expect_event("agent_chunk", content="", offset=0, seq=2)
    client.expect_silence()
    node.answer_all()
    client.expect_error("AGENT_ERROR", run_id=first["run_id"], seq=3)
    client.expect_error("AGENT_ERROR", run_id=second["run_id"], seq=4)
    client.resume(session_id, 0, "another epoch")
    assert client.expect_system("session_resumed")["to"] == 4
    client.expect_silence()


@pytest.mark.row("D2")
@pytest.mark.clause("C8")
def test_or_is_run_again_as_configured() -> None:
    node, session_id, epoch = cut("rerun")
    run_id = node.only_run
    assert node.started[run_id].content == "one"
    client = node.connect(USER)
    client.resume(session_id, 2, epoch)
    client.expect_system("session_resumed")
    assert client.expect_system("run_started", seq=3) == {"run_id": run_id, "rerun": True}
    node.chunk(run_id, "whole")
    client.expect_event("agent_chunk", content="whole", offset=0, run_id=run_id, correlation_id="m1")
    node.finish(run_id)
    client.expect_event("agent_response", content="whole")
    client.expect_system("run_started")
    assert (node.started[node.only_run].content, node.started[node.only_run].metadata) == ("two", {"n": 2})


@pytest.mark.row("D2")
def test_a_run_that_this_version_cannot_read_ends_with_an_error() -> None:
    node, session_id, epoch = cut("fail")
    store = node.store
    assert store is not None
    store.ended.clear()
    for events in store.events.values():
        del events[2:]
    store.runs = {run_id: run._replace(message=b"{}") for run_id, run in store.runs.items()}
    node = restarted(node, store={"on_restart": "rerun"})
    assert node.started == {}
    assert node.notes[1].name == "run_not_restored"
    client = node.connect(USER)
    client.resume(session_id, 2, epoch)
    client.expect_system("session_resumed")
    client.expect_error("AGENT_ERROR", correlation_id="m1")


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D1")
@pytest.mark.parametrize("end", [DrainRequested(), StopRequested()])
def test_a_node_ends_when_all_is_kept(end: DrainRequested | StopRequested) -> None:
    node, client = slow_store()
    client.chat(id="m1")
    node.answer()
    run_id = node.only_run
    node.finish(run_id, "x")
    node.step(end)
    client.lose()
    node.advance(1)
    assert not node.drained
    node.answer_all()
    assert node.drained
    assert node.store is not None
    assert node.store.unfinished() == ()


@pytest.mark.row("D1")
def test_a_store_that_never_answers_does_not_keep_a_node() -> None:
    node, client = slow_store()
    client.chat(id="m1")
    node.step(StopRequested())
    client.lose()
    node.advance(10)
    assert node.drained
