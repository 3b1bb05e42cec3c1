"""What becomes of a client's messages: each is run once, and has one end, whatever happens to the connection."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.client.io import MessageRequested
from qaws_proto.client.session import ANSWERED_TEXT, LOST_TEXT
from qaws_proto.events import ChatMessage
from tests.client.scripted import (
    EPOCH,
    SESSION,
    ClientUnderTest,
    Event,
    accepted,
    chunk,
    error,
    established,
    gap,
    response,
    resumed,
    system,
)


def asked(*message_ids: str, **config: Any) -> ClientUnderTest:
    """A client that has sent messages, of which it has heard nothing."""
    under = ClientUnderTest(**config)
    under.welcome()
    for message_id in message_ids:
        under.ask("hi", message_id)
        under.expect("chat_message", id=message_id)
    return under


def lost(message_id: str, run_id: str) -> Event:
    event = {"type": "error", "error_code": "LOST", "error_message": LOST_TEXT, "session_id": SESSION}
    return {**event, "run_id": run_id, "correlation_id": message_id}


def test_a_message_waits_until_messages_flow() -> None:
    under = ClientUnderTest()
    under.ask("early", "m1")
    under.upgrade()
    under.ask("hi", "m2", metadata={"a": 1}, stream=True, user_id="u")
    under.expect_silence()
    under.tell(established())
    assert under.expect("chat_message", id="m1")["content"] == "early"
    assert under.expect("chat_message", id="m2") == {
        "type": "chat_message", "content": "hi", "id": "m2", "session_id": SESSION, "stream": True,
        "metadata": {"a": 1}, "user_id": "u",
    }  # fmt: skip


def test_what_was_not_acknowledged_is_sent_again_in_order() -> None:
    under = asked("m1", "m2", "m3")
    under.tell(accepted("m2", "r2", 1))
    under.reconnect()
    under.expect_silence()
    under.tell(resumed(2, 1))
    under.expect("chat_message", id="m1")
    under.expect("chat_message", id="m3")
    under.expect_silence()


def test_what_the_replay_acknowledges_is_not_sent_again() -> None:
    under = asked("m1", "m2")
    under.reconnect()
    under.tell(resumed(1, 2), accepted("m1", "r1", 1))
    under.expect_silence()
    under.tell(accepted("m2", "r2", 2))
    under.expect_silence()
    assert under.take() == [accepted("m1", "r1", 1), accepted("m2", "r2", 2)]


def test_an_acknowledgement_is_delivered_once_whichever_comes_first() -> None:
    under = asked("m1")
    under.tell(accepted("m1", "r1", 1), accepted("m1", "r1"))
    assert under.take() == [accepted("m1", "r1", 1)]
    under = asked("m1")
    under.tell(chunk("r1", 0, "", 1), accepted("m1", "r1"), accepted("m1", "r1", 2))
    assert under.take() == [accepted("m1", "r1")]


def test_one_that_has_ended_is_acknowledged_no_more() -> None:
    under = asked("m1")
    under.tell(response("m1", "r1", "x", 1), accepted("m1", "r1"))
    assert under.take() == [response("m1", "r1", "x", 1)]


def test_messages_of_others_are_told() -> None:
    under = asked()
    under.tell(accepted("theirs", "r1", 1), response("theirs", "r1", "x", 2))
    assert under.take() == [accepted("theirs", "r1", 1), response("theirs", "r1", "x", 2)]


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", ["RATE_LIMIT", "BUSY", "OVERLOADED", "FORBIDDEN", "INVALID_EVENT", "OF_NEXT_YEAR"])
def test_a_message_that_is_refused_has_had_its_end(code: str) -> None:
    under = asked("m1")
    under.tell(error(code, correlation_id="m1", details={"retry_after": 3}))
    assert under.take() == [error(code, correlation_id="m1", details={"retry_after": 3})]
    under.ask("again", "m1")
    under.expect("chat_message", id="m1", content="again")


def test_one_that_was_sent_before_may_have_been_accepted_and_is_sent_again_in_a_while() -> None:
    under = asked("m1")
    under.reconnect()
    under.tell(resumed(1, 0))
    under.expect("chat_message", id="m1")
    under.tell(error("RATE_LIMIT", correlation_id="m1", details={"retry_after": 3}))
    assert under.take() == []
    under.advance(3)
    under.expect_silence()
    under.advance(1)
    under.expect("chat_message", id="m1")
    under.tell(accepted("m1", "r1", 1))
    assert under.take() == [accepted("m1", "r1", 1)]


def test_only_what_was_refused_is_sent_again_in_a_while() -> None:
    under = asked("m1", "m2")
    under.reconnect()
    under.tell(resumed(1, 0))
    for message_id in ("m1", "m2"):
        under.expect("chat_message", id=message_id)
    under.tell(error("RATE_LIMIT", correlation_id="m2", details={"retry_after": 3}))
    under.advance(4)
    under.expect("chat_message", id="m2")
    under.expect_silence()


def test_what_a_server_that_is_about_to_stop_does_not_take_the_next_one_gets() -> None:
    under = asked("m1")
    draining = system("server_draining", {"deadline": 30, "reconnect_after": 2})
    under.tell(draining, error("OVERLOADED", correlation_id="m1"))
    under.ask("late", "m2")
    under.expect_silence()
    assert under.take() == [draining]
    under.close(1012)
    under.reconnect()
    under.tell(resumed(1, 0))
    under.expect("chat_message", id="m1")
    under.expect("chat_message", id="m2")


def test_a_message_whose_token_ran_out_is_sent_with_the_next_one() -> None:
    under = asked("m1", token=True)
    under.tell(error("TOKEN_EXPIRED", correlation_id="m1"))
    under.close(4401)
    assert under.take() == []
    under.reconnect()
    under.tell(resumed(1, 0))
    under.expect("chat_message", id="m1")


# ── lost ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_neither_in_progress_nor_answered_after_a_gap_is_lost() -> None:
    under = asked("m1", "m2", "m3")
    under.tell(accepted("m1", "r1", 1), accepted("m2", "r2", 2), accepted("m3", "r3", 3))
    under.take()
    under.reconnect()
    under.tell(gap(10, 12), chunk("r2", 0, "", 12), resumed(10, 12), response("m3", "r3", "x", 10))
    assert under.take() == [gap(10, 12), response("m3", "r3", "x", 10)]
    under.tell({"type": "agent_step", "kind": "reasoning", "session_id": SESSION, "run_id": "r2", "seq": 12})
    assert under.take()[1:] == [lost("m1", "r1")]
    under.tell(response("m2", "r2", "y", 13))
    assert under.take() == [response("m2", "r2", "y", 13)]


def test_a_server_that_has_forgotten_the_session_gets_what_it_never_acknowledged() -> None:
    under = asked("m1", "m2")
    under.tell(accepted("m1", "r1", 1), chunk("r1", 0, "ab", 2))
    under.take()
    under.reconnect()
    under.tell(error("SESSION_NOT_FOUND"))
    assert under.take() == [error("SESSION_NOT_FOUND"), lost("m1", "r1")]
    under.expect("chat_message", id="m2", session_id=SESSION)
    under.expect_silence()
    under.tell(accepted("m2", "r1", 1))
    under.expect("resume", epoch="", seq=0)
    under.tell(gap(1, 2, epoch="e2"), resumed(1, 2), accepted("m2", "r1", 1), chunk("r1", 0, "xy", 2))
    assert under.take() == [accepted("m2", "r1", 1), chunk("r1", 0, "xy", 2)]


def duplicate() -> ClientUnderTest:
    """A client that asks what was asked in its session before."""
    under = ClientUnderTest(session_id=SESSION)
    under.upgrade()
    under.tell(established("other"))
    under.expect("resume")
    under.tell(gap(1, 5, reason="epoch"), resumed(6, 5))
    under.expect("resume", seq=5)
    under.ask("hi", "m1")
    under.expect("chat_message", id="m1")
    under.take()
    under.tell(accepted("m1", "r1"))
    assert under.take() == [accepted("m1", "r1")]
    under.expect("resume", epoch="", seq=0)
    return under


def test_a_duplicate_of_a_run_that_has_ended_has_the_answer_that_is_held_and_nothing_else_is_told_again() -> None:
    under = duplicate()
    under.tell(gap(2, 5))
    under.expect("resume", epoch=EPOCH, seq=1)
    under.tell(resumed(2, 5), response("m0", "r0", "x", 2), chunk("r1", 0, "ab", 3), response("m1", "r1", "ab", 4))
    assert under.take() == [response("m1", "r1", "ab", 4)]
    under.ask("hi", "m2")
    under.expect_silence()
    under.tell(response("m3", "r3", "x", 5), response("m4", "r4", "x", 6))
    under.expect("chat_message", id="m2")
    assert under.take() == [response("m4", "r4", "x", 6)]


def test_the_search_for_an_answer_survives_the_connection() -> None:
    under = duplicate()
    under.tell(gap(1, 5), resumed(1, 5), accepted("m1", "r1", 1))
    under.reconnect()
    under.tell(gap(1, 5))
    under.expect("resume", epoch=EPOCH, seq=0)
    under.tell(
        resumed(1, 5),
        accepted("m1", "r1", 1),
        error("AGENT_ERROR", correlation_id="m1", run_id="r1", seq=5, session_id=SESSION),
    )
    assert [event["error_code"] for event in under.take()] == ["AGENT_ERROR"]


def test_a_duplicate_whose_answer_is_not_held_any_more_is_not_said_to_be_lost() -> None:
    under = duplicate()
    under.tell(gap(5, 5), resumed(5, 5), response("m0", "r0", "x", 5))
    assert under.take() == [{**lost("m1", "r1"), "error_code": "ANSWERED", "error_message": ANSWERED_TEXT}]


def test_a_duplicate_of_a_run_that_goes_on_is_not() -> None:
    under = duplicate()
    under.tell(gap(1, 6), chunk("r1", 0, "ab", 6), resumed(6, 6), chunk("r1", 1, "b", 6))
    assert under.take() == [chunk("r1", 0, "ab", 6)]
    under.tell(response("m1", "r1", "ab", 7))
    assert under.take() == [response("m1", "r1", "ab", 7)]


def test_a_duplicate_of_a_run_that_ended_meanwhile_has_its_answer() -> None:
    under = duplicate()
    under.tell(gap(1, 6), resumed(6, 6), response("m1", "r1", "ab", 6))
    assert under.take() == [response("m1", "r1", "ab", 6)]


def test_a_duplicate_that_comes_between_snapshot_and_replay_waits_for_another_snapshot() -> None:
    under = asked("m1")
    under.tell(gap(13, 12), accepted("m1", "r1"), resumed(13, 12))
    under.expect("resume", seq=12)
    under.expect("resume", epoch="", seq=0)
    assert under.take() == [gap(13, 12), accepted("m1", "r1")]
    under.tell(gap(13, 12), chunk("r1", 0, "", 12), resumed(13, 12))
    assert under.take() == []


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cancel_is_sent_at_once_and_once() -> None:
    under = asked("m1")
    under.cancel("m1")
    under.cancel("m1")
    under.cancel("unknown")
    assert under.expect("cancel") == {"type": "cancel", "correlation_id": "m1"}
    under.expect_silence()
    under.tell(response("m1", "r1", "", 1, status="cancelled"))
    under.cancel("m1")
    under.expect_silence()


def test_a_cancel_without_a_connection_is_sent_when_messages_flow() -> None:
    under = asked("m1", "m2")
    under.tell(accepted("m1", "r1", 1))
    under.lose()
    under.ask("hi", "m3")
    for message_id in ("m3", "m2", "m1"):
        under.cancel(message_id)
    under.reconnect()
    under.expect_silence()
    under.tell(resumed(2, 1))
    under.expect("cancel", correlation_id="m1")
    for message_id in ("m2", "m3"):
        under.expect("chat_message", id=message_id)
        under.expect("cancel", correlation_id=message_id)
    under.expect_silence()


def test_a_cancel_that_may_not_have_arrived_is_sent_again() -> None:
    under = asked("m1")
    under.tell(accepted("m1", "r1", 1))
    under.cancel("m1")
    under.reconnect()
    under.tell(resumed(2, 1))
    under.expect("cancel", correlation_id="m1")


def test_a_cancel_of_what_the_server_does_not_know_tells_nobody_of_an_end() -> None:
    under = asked("m1")
    under.tell(accepted("m1", "r1", 1))
    under.take()
    under.cancel("m1")
    under.expect("cancel")
    under.tell(error("RUN_NOT_FOUND", correlation_id="m1"))
    assert under.take() == []
    under.expect("resume", epoch="", seq=0)
    under.tell(gap(1, 1), resumed(2, 1))
    assert under.take() == [lost("m1", "r1")]
    under.tell(error("RUN_NOT_FOUND", correlation_id="m1"))
    assert under.take() == []


def test_a_cancel_before_its_message_was_accepted_is_sent_again_with_it() -> None:
    under = asked("m1")
    under.cancel("m1")
    under.expect("cancel", correlation_id="m1")
    under.tell(error("RUN_NOT_FOUND", correlation_id="m1"))
    under.expect_silence()
    assert under.take() == []
    under.reconnect()
    under.tell(resumed(1, 0))
    under.expect("chat_message", id="m1")
    under.expect("cancel", correlation_id="m1")


def test_a_cancel_that_fails_before_everything_was_heard_asks_for_nothing_more() -> None:
    under = asked("m1")
    under.tell(accepted("m1", "r1", 1))
    under.cancel("m1")
    under.reconnect()
    under.tell(error("RUN_NOT_FOUND", correlation_id="m1"))
    under.expect_silence()
    under.tell(resumed(2, 2), response("m1", "r1", "a", 2))
    under.expect_silence()
    assert under.take() == [accepted("m1", "r1", 1), response("m1", "r1", "a", 2)]


def test_such_a_cancel_is_not_sent_again() -> None:
    under = asked("m1")
    under.tell(accepted("m1", "r1", 1))
    under.cancel("m1")
    under.expect("cancel")
    under.tell(error("RUN_NOT_FOUND", correlation_id="m1"))
    under.expect("resume", epoch="", seq=0)
    under.tell(gap(1, 1), chunk("r1", 0, "", 1), resumed(2, 1))
    under.expect("resume", epoch=EPOCH, seq=1)
    under.expect_silence()


# ── mistakes of the caller ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "chat",
    [
        ChatMessage(type="chat_message", content="hi"),
        ChatMessage(type="chat_message", content="hi", id="m1"),
        ChatMessage(type="chat_message", content="hi", id="m3", session_id="another"),
        ChatMessage(type="chat_message", content="hi", id="m3"),
    ],
)
def test_a_message_that_cannot_be_sent_changes_nothing(chat: ChatMessage) -> None:
    under = asked("m1", "m2", max_pending=2)
    with pytest.raises(ValueError):
        under.step(MessageRequested(chat))
    under.reconnect()
    under.tell(resumed(1, 0))
    under.expect("chat_message", id="m1")
    under.expect("chat_message", id="m2")
    under.expect_silence()


def test_a_message_may_name_the_session_that_it_is_for() -> None:
    under = asked()
    under.ask("hi", "m1", session_id=SESSION)
    under.expect("chat_message", id="m1", session_id=SESSION)


def test_there_is_room_again_when_a_message_has_ended() -> None:
    under = asked("m1", max_pending=1)
    under.tell(response("m1", "r1", "x", 1))
    under.ask("hi", "m2")
    under.expect("chat_message", id="m2")


def test_the_epoch_of_a_fresh_session_is_known() -> None:
    under = asked("m1")
    assert under.reconnect() == {"type": "resume", "session_id": SESSION, "epoch": EPOCH, "seq": 0}
