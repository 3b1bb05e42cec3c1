"""What models and frameworks are told again of a session."""

from __future__ import annotations

import pytest

from qaws.agents.memory import Memory

A, B, C, D = (("ana", session) for session in "abcd")


def memory(turns: int = 10, characters: int = 100, sessions: int = 10) -> Memory[str]:
    return Memory(turns=turns, characters=characters, sessions=sessions, size=len)


def test_a_session_keeps_its_newest_turns() -> None:
    by_count, by_size = memory(turns=2), memory(characters=10)
    for turn in ("one: 1", "two: 2", "six: 6"):
        by_count.add(A, turn)
        by_size.add(A, turn[-4:])
    assert by_count.recall(A) == ["two: 2", "six: 6"]
    assert by_size.recall(A) == ["o: 2", "x: 6"]
    by_size.add(A, "too much by itself")
    assert (by_size.recall(A), len(by_size)) == ([], 0)


def test_the_session_that_was_used_least_lately_is_forgotten() -> None:
    held = memory(sessions=2)
    held.add(A, "1")
    held.add(B, "2")
    assert held.recall(A) == ["1"]  # asked for, and so used
    held.add(C, "3")
    assert [held.recall(key) for key in (A, B, C)] == [["1"], [], ["3"]]
    held.add(A, "4")  # added to, and so used
    held.add(D, "5")
    assert [held.recall(key) for key in (A, C, D)] == [["1", "4"], [], ["5"]]


def test_no_user_hears_what_another_said_in_a_session_of_the_same_name() -> None:
    held = memory()
    held.add(("ana", "s"), "1")
    assert held.recall(("eva", "s")) == []


def test_what_was_recalled_stays_as_it_was() -> None:
    held = memory()
    held.add(A, "1")
    before = held.recall(A)
    held.add(A, "2")
    assert before == ["1"]


@pytest.mark.parametrize("zero", ["turns", "characters", "sessions"])
def test_a_memory_of_nothing_keeps_nothing(zero: str) -> None:
    held = memory(**{zero: 0})
    held.add(A, "1")
    assert (held.recall(A), len(held)) == ([], 0)


def test_messages_of_frameworks_are_counted_as_they_are_written_down() -> None:
    held: Memory[list[object]] = Memory(characters=20)
    held.add(A, [{"role": "user"}])
    assert held.recall(A) == [[{"role": "user"}]]
    held.add(A, [{"role": "assistant"}])
    assert held.recall(A) == []
