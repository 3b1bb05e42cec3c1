"""A session's log: numbers, bounds, and what is held behind a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.conversation.log import Log, joined
from qaws_proto.events import AgentChunk, SystemEvent, dump


def test_events_are_numbered_from_one() -> None:
    log = Log("e", 10, 1000)
    assert (log.epoch, log.head, log.held, log.total) == ("e", 0, 0, 0)
    assert list(log.after(0)) == []
    log.append(b"a")
    log.append(b"bcd")
    assert (log.head, log.held, log.total) == (2, 4, 4)


@pytest.mark.parametrize(
    ("seq", "held", "payloads"),
    [(0, False, None), (1, False, None), (2, True, [b"3", b"4"]), (3, True, [b"4"]), (4, True, []), (5, False, None)],
)
def test_the_newest_events_are_held(seq: int, held: bool, payloads: list[bytes] | None) -> None:
    log = Log("e", 2, 1000)
    for payload in (b"1", b"2", b"3", b"4"):
        log.append(payload)
    assert log.holds_after(seq) is held
    if payloads is not None:
        assert list(log.after(seq)) == payloads


@pytest.mark.row("S1")
@pytest.mark.clause("C7")
@pytest.mark.parametrize(
    ("sizes", "kept"),
    [([4, 4], [4, 4]), ([4, 4, 1], [4, 4, 1]), ([5, 4, 9], [4, 9]), ([9], [9]), ([8, 9], [8, 9]), ([9, 1], [1])],
)
def test_the_oldest_go_beyond_the_bytes_but_never_the_newest(sizes: list[int], kept: list[int]) -> None:
    log = Log("e", 100, 8)
    for size in sizes:
        log.append(b"x" * size)
    assert list(map(len, log.after(log.head - len(kept)))) == kept
    assert log.holds_after(log.head - len(kept))
    assert len(sizes) == len(kept) or not log.holds_after(log.head - len(kept) - 1)
    assert (log.held, log.total) == (sum(kept), sum(sizes))


@pytest.mark.row("S1")
@given(st.lists(st.binary(max_size=20), max_size=60), st.integers(1, 10), st.integers(1, 60))
def test_a_log_holds_a_tail_of_what_was_said(payloads: list[bytes], max_events: int, max_bytes: int) -> None:
    log = Log("e", max_events, max_bytes)
    for payload in payloads:
        log.append(payload)
    held = [seq for seq in range(len(payloads) + 1) if log.holds_after(seq)]
    assert held == list(range(held[0], len(payloads) + 1))
    for seq in held:
        assert list(log.after(seq)) == payloads[seq:]
    kept = len(payloads) - held[0]
    assert kept <= max_events
    assert kept <= 1 or log.held - len(payloads[-1]) <= max_bytes
    assert kept >= min(1, len(payloads))


# ── what is let go, and what a store gives back ──────────────────────────────────────────────────────────────────────


def holding(*payloads: bytes) -> Log:
    """A log with these events."""
    log = Log("e", 100, 1000)
    for payload in payloads:
        log.append(payload)
    return log


@pytest.mark.row("S5")
@pytest.mark.parametrize(
    ("seq", "kept"), [(0, [b"1", b"22", b"333"]), (1, [b"22", b"333"]), (2, [b"333"]), (3, []), (9, [])]
)
def test_what_is_let_go_up_to_a_number_is_that_and_no_more(seq: int, kept: list[bytes]) -> None:
    log = holding(b"1", b"22", b"333")
    log.trim(seq)
    log.trim(seq)
    assert list(log.after(log.floor)) == kept
    assert (log.head, log.floor, log.held, log.total) == (3, 3 - len(kept), sum(map(len, kept)), 6)


@pytest.mark.row("S4")
@pytest.mark.parametrize(
    ("size", "kept"),
    [(0, [b"1", b"22", b"333"]), (1, [b"22", b"333"]), (2, [b"333"]), (3, [b"333"]), (4, [b"333"]), (9, [b"333"])],
)
def test_the_oldest_make_room_but_never_the_newest(size: int, kept: list[bytes]) -> None:
    log = holding(b"1", b"22", b"333")
    log.shrink(size)
    assert list(log.after(log.floor)) == kept
    assert (log.head, log.held) == (3, sum(map(len, kept)))


def test_what_a_store_has_is_taken_over_with_its_numbers() -> None:
    log = Log("e", 2, 1000)
    log.restore("another", 9, [b"a", b"bb", b"ccc"])
    assert (log.epoch, log.head, log.floor, log.held) == ("another", 9, 7, 5)
    assert list(log.after(8)) == [b"ccc"]
    log.append(b"d")
    assert log.head == 10


def chunk(run_id: str, offset: int, content: str, seq: int) -> bytes:
    return dump(AgentChunk(session_id="s", seq=seq, run_id=run_id, offset=offset, content=content))


@pytest.mark.row("S1")
def test_chunks_of_a_run_that_follow_each_other_are_one() -> None:
    other = dump(SystemEvent(event_name="run_started", data={}, session_id="s", seq=3))
    assert joined([]) == []
    assert joined([other]) == [other]
    assert joined([chunk("r", 0, "ab", 1), chunk("r", 2, "c", 2), other]) == [chunk("r", 0, "abc", 2), other]
    assert joined([other, chunk("r", 3, "d", 4), chunk("r", 4, "e", 5)]) == [other, chunk("r", 3, "de", 5)]
    assert joined([chunk("r", 0, "a", 1), chunk("q", 0, "b", 2), chunk("r", 1, "c", 3)]) == [
        chunk("r", 0, "a", 1), chunk("q", 0, "b", 2), chunk("r", 1, "c", 3),
    ]  # fmt: skip
