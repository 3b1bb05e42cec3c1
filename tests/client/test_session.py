"""What a client hears of its session: each thing once, in order, and never with a hole that nobody was told of."""

from __future__ import annotations

from typing import Any

import pytest

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
    step,
    system,
)


def begun(**config: Any) -> ClientUnderTest:
    """A client with one message in progress, of which `ab` has been said."""
    under = ClientUnderTest(**config)
    under.welcome()
    under.ask("hi", "m1", stream=True)
    under.expect("chat_message", id="m1", content="hi", session_id=SESSION)
    under.tell(accepted("m1", "r1", 1), chunk("r1", 0, "ab", 2))
    assert under.take() == [accepted("m1", "r1", 1), chunk("r1", 0, "ab", 2)]
    return under


def test_what_is_new_is_delivered() -> None:
    under = begun()
    rest = [step("r1", 3), chunk("r1", 2, "c", 4), response("m1", "r1", "abc", 5)]
    under.tell(*rest)
    assert under.take() == rest


def test_a_client_resumes_behind_the_last_event_it_has_told() -> None:
    under = begun()
    assert under.reconnect() == {"type": "resume", "session_id": SESSION, "epoch": EPOCH, "seq": 2}
    assert len(under.welcomes) == 1
    under.tell(resumed(3, 4), chunk("r1", 2, "c", 3))
    assert len(under.welcomes) == 1, "the replay is not over"
    under.tell(response("m1", "r1", "abc", 4))
    assert under.take() == [chunk("r1", 2, "c", 3), response("m1", "r1", "abc", 4)]
    assert [(each.session_id, each.first) for each in under.welcomes] == [(SESSION, True), (SESSION, False)]


def test_what_was_told_is_not_told_again() -> None:
    under = begun()
    under.tell(accepted("m1", "r1", 1), chunk("r1", 0, "ab", 2), chunk("r1", 2, "c", 3))
    assert under.take() == [chunk("r1", 2, "c", 3)]


def test_of_joined_chunks_only_what_is_new_is_delivered_at_its_place() -> None:
    under = begun()
    under.reconnect()
    under.tell(resumed(3, 7), chunk("r1", 0, "abcde", 7))
    assert under.take() == [chunk("r1", 2, "cde", 7)]


def test_events_that_come_before_the_answer_come_again_and_are_not_told_twice() -> None:
    under = begun()
    under.reconnect()
    under.tell(chunk("r1", 3, "d", 4), resumed(3, 4), chunk("r1", 2, "c", 3), chunk("r1", 3, "d", 4))
    assert under.take() == [chunk("r1", 2, "c", 3), chunk("r1", 3, "d", 4)]


def test_a_run_that_begins_anew_with_the_same_text_goes_on() -> None:
    under = begun()
    again = system("run_started", {"run_id": "r1", "rerun": True}, session_id=SESSION, seq=3, correlation_id="m1")
    under.tell(again, chunk("r1", 0, "a", 4), chunk("r1", 1, "bc", 5))
    assert under.take() == [again, chunk("r1", 2, "c", 5)]


def test_a_run_that_begins_anew_with_another_text_replaces_it() -> None:
    under = begun()
    again = system("run_started", {"run_id": "r1", "rerun": True}, session_id=SESSION, seq=3)
    under.tell(again, chunk("r1", 0, "a", 4), chunk("r1", 1, "x", 5), chunk("r1", 2, "y", 6))
    assert under.take() == [again, chunk("r1", 1, "x", 5), chunk("r1", 2, "y", 6)]


def test_the_same_text_may_begin_another_run() -> None:
    under = begun()
    under.tell(response("m1", "r1", "ab", 3), chunk("r2", 0, "ab", 4))
    assert under.take() == [response("m1", "r1", "ab", 3), chunk("r2", 0, "ab", 4)]


def test_events_of_other_sessions_are_not_ours() -> None:
    under = begun()
    under.tell(chunk("r1", 2, "c", 3, session_id="another"), accepted("m1", "r9", session_id="another"))
    assert under.take() == []
    under.tell(chunk("r1", 2, "c", 3))
    assert under.take() == [chunk("r1", 2, "c", 3)]


def test_what_of_a_session_is_of_no_run_is_told() -> None:
    under = begun()
    news = [
        system("node_moves", session_id=SESSION, seq=3),
        error("ODD", session_id=SESSION, seq=4),
        response("m1", "r1", "ab", 5),
    ]
    under.tell(*news)
    assert under.take() == news


def test_a_second_welcome_changes_nothing() -> None:
    under = begun()
    under.tell(established("another", "e2"), chunk("r1", 2, "c", 3))
    under.expect_silence()
    assert under.take() == [chunk("r1", 2, "c", 3)]


def test_what_was_answered_after_all_is_not_asked_again() -> None:
    under = begun()
    under.reconnect()
    under.tell(error("STORAGE_UNAVAILABLE"), resumed(3, 4), chunk("r1", 2, "c", 3))
    under.advance(5)
    under.expect_silence()
    under.tell(chunk("r1", 3, "d", 4))
    assert under.take() == [chunk("r1", 2, "c", 3), chunk("r1", 3, "d", 4)]


# ── recovery in two steps ────────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_gap_everything_that_is_held_is_told_once_and_the_snapshot_fills_the_rest() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(10, 12), chunk("r1", 0, "abcdefgh", 12))
    assert under.take() == [gap(10, 12)]
    under.expect("resume", epoch=EPOCH, seq=9)
    under.tell(chunk("r1", 8, "i", 13))  # live, and comes again
    under.tell(resumed(10, 13), step("r1", 10), chunk("r1", 6, "gh", 12))
    assert under.take() == [step("r1", 10), chunk("r1", 2, "cdefgh", 12)]
    assert len(under.welcomes) == 1
    under.tell(chunk("r1", 8, "i", 13))
    assert under.take() == [chunk("r1", 8, "i", 13)]
    assert len(under.welcomes) == 2


def test_a_snapshot_fills_no_more_than_what_is_missing_where_the_replay_comes_to_it() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(10, 12), chunk("r1", 0, "abcdefgh", 12), resumed(10, 12))
    under.take()
    under.tell(chunk("r1", 4, "e", 10), step("r1", 11), chunk("r1", 5, "fgh", 12))
    assert under.take() == [chunk("r1", 2, "cde", 10), step("r1", 11), chunk("r1", 5, "fgh", 12)]


def test_a_snapshot_alone_fills_what_no_event_can() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(13, 12), chunk("r1", 0, "abcd", 12), chunk("r2", 0, "", 12))
    under.expect("resume", epoch=EPOCH, seq=12)
    under.tell(resumed(13, 12))
    assert under.take() == [gap(13, 12), chunk("r1", 2, "cd", 12)]
    assert len(under.welcomes) == 2


def test_a_snapshot_that_differs_replaces_what_was_told() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(13, 12), chunk("r1", 0, "xyz", 12), resumed(13, 12))
    assert under.take() == [gap(13, 12), chunk("r1", 0, "xyz", 12)]


def test_of_a_run_that_began_and_ended_in_the_gap_the_answer_alone_is_told() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(10, 12), chunk("r1", 0, "ab", 12), resumed(10, 12), chunk("r8", 5, "end", 11))
    under.tell(response(None, "r8", "the whole end", 12))
    assert under.take() == [gap(10, 12), response(None, "r8", "the whole end", 12)]


def test_where_all_is_still_held_there_was_no_gap_to_tell_of() -> None:
    under = begun()
    under.tell(gap(1, 4), chunk("r1", 0, "abc", 4))  # unasked: we read too slowly
    under.expect("resume", epoch=EPOCH, seq=2)
    under.tell(resumed(3, 4), step("r1", 3), chunk("r1", 2, "c", 4))
    assert under.take() == [step("r1", 3), chunk("r1", 2, "c", 4)]
    assert len(under.welcomes) == 1, "it is the same connection"


def test_a_log_of_another_epoch_is_another_log() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(1, 1, epoch="e2", reason="epoch"), resumed(1, 1))
    under.expect("resume", epoch="e2", seq=0)
    under.tell(accepted("m9", "r9", 1), response("m9", "r9", "x", 2))
    told = under.take()
    assert told[0] == gap(1, 1, epoch="e2", reason="epoch")
    assert told[1] == accepted("m9", "r9", 1)
    assert told[-1] == response("m9", "r9", "x", 2)
    assert under.reconnect()["seq"] == 2


def test_a_log_that_was_cut_back_is_a_gap() -> None:
    under = begun()
    under.tell(response("m1", "r1", "ab", 3))
    under.reconnect()
    under.tell(gap(1, 1))
    under.expect("resume", epoch=EPOCH, seq=1)
    under.tell(resumed(2, 1), accepted("m2", "r2", 2))
    assert under.take()[1:] == [gap(1, 1), accepted("m2", "r2", 2)]


def test_a_chunk_behind_a_hole_is_not_delivered_but_asked_for() -> None:
    under = begun()
    under.tell(chunk("r1", 4, "ef", 5))
    under.expect("resume", epoch="", seq=0)
    under.tell(gap(1, 5), chunk("r1", 0, "abcdef", 5))
    under.expect("resume", epoch=EPOCH, seq=2)
    under.tell(resumed(3, 5), chunk("r1", 2, "cdef", 5))
    assert under.take() == [chunk("r1", 2, "cdef", 5)]


def test_holes_that_were_filled_do_not_add_up() -> None:
    under = begun()
    seq, text = 2, "ab"
    for _ in range(9):
        under.tell(chunk("r1", len(text) + 1, "d", seq + 2))
        under.expect("resume", epoch="", seq=0)
        under.tell(gap(1, seq + 2), chunk("r1", 0, text + "cd", seq + 2))
        under.expect("resume", epoch=EPOCH, seq=seq)
        under.tell(resumed(seq + 1, seq + 2), chunk("r1", len(text), "cd", seq + 2))
        under.tell(chunk("r1", len(text) + 2, "e", seq + 3))
        assert [event["content"] for event in under.take()] == ["cd", "e"]
        seq, text = seq + 3, text + "cde"


def test_a_server_that_says_nothing_but_holes_is_left() -> None:
    under = begun()
    for seq in range(5, 8):
        under.tell(chunk("r1", 4, "ef", seq))
        under.expect("resume", epoch="", seq=0)
        under.tell(resumed(3, 2))  # as if there were none
    under.tell(chunk("r1", 4, "ef", 8))
    under.expect_close(1002)
    under.expect_end("PROTOCOL")
    assert under.take() == []


def test_a_replay_that_begins_too_late_is_a_hole() -> None:
    under = begun()
    under.reconnect()
    under.tell(resumed(5, 6))
    under.expect("resume", epoch="", seq=0)
    assert under.take() == []


def test_a_gap_that_comes_while_a_resume_is_answered_is_told_once_and_nothing_twice() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(10, 12), chunk("r1", 0, "abcd", 12), gap(11, 13), chunk("r1", 0, "abcde", 13))
    assert under.take() == [gap(10, 12), gap(11, 13)]
    under.expect("resume", seq=9)
    under.expect("resume", seq=10)
    under.tell(resumed(10, 13), step("r1", 10), step("r1", 11), step("r1", 12), chunk("r1", 4, "e", 13))
    under.tell(resumed(11, 13), step("r1", 11), step("r1", 12), chunk("r1", 4, "e", 13))
    assert under.take() == [step("r1", 11), step("r1", 12), chunk("r1", 2, "cde", 13)]


def test_what_cannot_be_recovered_was_not() -> None:
    under = named(history=True)
    under.tell(resumed(1, 3))
    under.expect_close(1002)
    under.expect_end("PROTOCOL")


def test_a_connection_lost_between_the_steps_does_not_lose_the_snapshot() -> None:
    under = begun()
    under.reconnect()
    under.tell(gap(10, 12), chunk("r1", 0, "abcdefgh", 12))
    under.expect("resume", seq=9)
    under.take()
    assert under.reconnect() == {"type": "resume", "session_id": SESSION, "epoch": "", "seq": 0}
    under.tell(gap(10, 12), chunk("r1", 0, "abcdefgh", 12))
    under.expect("resume", epoch=EPOCH, seq=9)
    under.tell(resumed(10, 12), chunk("r1", 7, "h", 12))
    assert under.take() == [chunk("r1", 2, "cdefgh", 12)], "and it is told of one gap once"


# ── which session ────────────────────────────────────────────────────────────────────────────────────────────────────


def named(*, history: bool) -> ClientUnderTest:
    under = ClientUnderTest(session_id=SESSION, history=history)
    under.upgrade()
    under.tell(established("other"))
    assert under.expect("resume") == {"type": "resume", "session_id": SESSION, "epoch": "", "seq": 0}
    return under


def test_a_named_session_is_heard_from_now_on() -> None:
    under = named(history=False)
    under.tell(gap(1, 5, reason="epoch"), chunk("r1", 0, "ab", 5))
    under.expect("resume", epoch=EPOCH, seq=5)
    under.tell(resumed(6, 5))
    assert under.take() == [gap(1, 5, reason="epoch"), chunk("r1", 0, "ab", 5)]
    assert [each.session_id for each in under.welcomes] == [SESSION]


def test_a_named_session_is_heard_with_its_history() -> None:
    under = named(history=True)
    under.tell(gap(1, 2, reason="epoch"), chunk("r1", 0, "ab", 2))
    under.expect("resume", epoch=EPOCH, seq=0)
    under.tell(resumed(1, 2), accepted("m0", "r1", 1), chunk("r1", 0, "ab", 2))
    assert under.take() == [accepted("m0", "r1", 1), chunk("r1", 0, "ab", 2)], "nothing is missing"


def test_of_a_history_that_is_not_whole_the_client_is_told() -> None:
    under = named(history=True)
    under.tell(gap(2, 2, reason="epoch"), resumed(2, 2), response("m0", "r0", "x", 2))
    under.expect("resume", epoch=EPOCH, seq=1)
    assert under.take() == [gap(2, 2, reason="epoch"), response("m0", "r0", "x", 2)]


def test_a_named_session_that_is_not_there_is_opened_by_its_first_message() -> None:
    under = named(history=False)
    under.tell(error("SESSION_NOT_FOUND"))
    assert under.take() == []
    assert len(under.welcomes) == 1
    under.ask("hi", "m1")
    under.expect("chat_message", session_id=SESSION)
    under.tell(accepted("m1", "r1", 1))
    assert under.take() == [], "nothing that could not be resumed"
    under.expect("resume", epoch="", seq=0)
    under.tell(gap(1, 1, epoch="e7", reason="epoch"), chunk("r1", 0, "", 1))
    under.expect("resume", epoch="e7", seq=0)
    under.tell(resumed(1, 2), accepted("m1", "r1", 1), response("m1", "r1", "x", 2))
    assert under.take() == [accepted("m1", "r1", 1), response("m1", "r1", "x", 2)]
    under.expect_silence()
    assert under.reconnect() == {"type": "resume", "session_id": SESSION, "epoch": "e7", "seq": 2}


def test_a_session_that_was_never_used_is_left_for_a_fresh_one() -> None:
    under = ClientUnderTest()
    under.welcome()
    under.lose()
    under.advance(1)
    under.welcome("second", "e2")
    under.expect_silence()
    assert [each.session_id for each in under.welcomes] == [SESSION, "second"]
    under.ask("hi", "m1")
    under.expect("chat_message", session_id="second")


@pytest.mark.parametrize(
    "answer",
    [
        system("session_resumed", {"recovered": True}, session_id=SESSION),
        system("session_resumed", {"recovered": False, "epoch": "", "from": 1, "to": 2}, session_id=SESSION),
        system("session_resumed", {"recovered": False, "epoch": "e", "from": 0, "to": 2}, session_id=SESSION),
        system("session_resumed", {"recovered": "maybe"}, session_id=SESSION),
        system("session_resumed", {}, session_id=SESSION),
    ],
)
def test_an_answer_that_says_nothing_is_no_protocol(answer: Event) -> None:
    under = begun()
    under.reconnect()
    under.tell(answer)
    under.expect_close(1002)
    under.expect_end("PROTOCOL", close_code=1002)
