"""The parts of a client that are plain values: texts, messages, delays, and how events are read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.client.events import read_event
from qaws_proto.client.messages import Messages
from qaws_proto.client.retry import Backoff, retry_of_close, retry_of_error, retry_of_status, seconds
from qaws_proto.client.texts import Hole, Piece, Texts, TooMuch
from qaws_proto.events import AgentResponse, ChatMessage, ErrorEvent, Pong, SystemEvent
from qaws_proto.faults import Fault
from tests.client.scripted import chunk, error, response, step, system

# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_letters = st.text("ab", max_size=4)


@given(st.lists(st.tuples(st.integers(0, 12), st.one_of(_letters, _letters.map(lambda text: text * 3000)))))
def test_pieces_make_the_text_that_the_chunks_make(chunks: list[tuple[int, str]]) -> None:
    texts = Texts(1, 1 << 20)
    model = told = ""
    for offset, content in chunks:
        placed = texts.place("r", offset, content)
        if offset > len(model):
            assert placed == Hole()
            continue
        if not model[offset:].startswith(content):  # what is held and what comes go on differently, or it is longer
            model = model[:offset] + content
        if placed is not None:
            assert isinstance(placed, Piece)
            assert placed.content
            assert placed.offset <= len(told)
            told = told[: placed.offset] + placed.content
        assert told == model
        assert texts.held == len(model) + len("r") * ("r" in texts)


@given(_letters, _letters, st.integers(0, 4))
def test_what_is_told_is_never_told_again(held: str, more: str, offset: int) -> None:
    texts = Texts(1, 1000)
    texts.place("r", 0, held)
    whole = held + more
    placed = texts.place("r", min(offset, len(held)), whole[min(offset, len(held)) :])
    assert placed == (Piece(len(held), more) if more else None)


def test_a_text_in_many_pieces_is_held_in_few() -> None:
    texts = Texts(1, 1 << 20)
    for offset in range(20_000):
        assert texts.place("r", offset, "ab"[offset % 2]) is not None
    assert texts.place("r", 4095, "ba" * 3) is None
    assert texts.place("r", 4095, "bb") == Piece(4095, "bb")
    assert texts.held == 4097 + 1


def test_a_run_that_has_ended_holds_nothing() -> None:
    texts = Texts(2, 10)
    texts.place("r1", 0, "abc")
    texts.begin("r2")
    assert "r1" in texts
    assert texts.held == 7
    texts.end("r1")
    texts.end("r1")
    texts.keep(())
    assert (len(texts), texts.held) == (0, 0)


def test_there_is_no_more_than_the_bounds() -> None:
    texts = Texts(2, 10)
    texts.begin("r1")
    texts.begin("r2")
    with pytest.raises(TooMuch):
        texts.begin("r3")
    texts.keep(["r2"])
    texts.place("r2", 0, "12345678")
    with pytest.raises(TooMuch):
        texts.place("r2", 8, "9")
    with pytest.raises(TooMuch):
        Texts(2, 10).begin("a name that is too long")


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_missing_is_lost_once_a_later_snapshot_has_come() -> None:
    messages = Messages(9)
    first, second, third = (
        messages.add(ChatMessage(type="chat_message", content="hi", id=message_id)) for message_id in "abc"
    )
    messages.accept(first, "r1")
    messages.accept(second, "r2")
    assert messages.missing({"r2"}) == ([], True)
    messages.begin_snapshot()
    messages.accept(third, "r3")
    assert messages.missing({"r2"}) == ([first], True)
    messages.end("a")
    messages.end("a")
    messages.end(None)
    assert messages.find("a") is None
    assert messages.missing({"r2", "r3"}) == ([], False)
    assert len(messages) == 2


# ── coming back ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_close_code_one_status_and_one_error_mean_one_thing() -> None:
    for fault in Fault:
        row = fault.value
        if row.close is not None and row.status is None:
            assert retry_of_close(row.close) is row.retry, fault
        if row.status is not None:
            assert retry_of_status(row.status) is row.retry, fault
        if row.code is not None and row.code != "AGENT_ERROR":  # which ends a message, and no connection
            assert retry_of_error(row.code) is row.retry, fault


@pytest.mark.parametrize(
    ("status", "retry"),
    [(0, "no"), (101, "no"), (204, "no"), (302, "no"), (402, "no"), (425, "back_off"), (501, "no"), (502, "back_off"),
     (504, "back_off"), (599, "back_off")],
)  # fmt: skip
def test_statuses_that_are_not_ours(status: int, retry: str) -> None:
    assert retry_of_status(status).value == retry


@pytest.mark.parametrize(
    ("code", "retry"),
    [(1000, "back_off"), (1005, "back_off"), (1006, "back_off"), (1010, "no"), (3000, "back_off"), (4409, "no")],
)
def test_closes_that_are_not_ours(code: int, retry: str) -> None:
    assert retry_of_close(code).value == retry


def test_an_error_of_a_newer_server_may_pass_the_next_time() -> None:
    assert retry_of_error("NEW_IN_VERSION_9").value == "back_off"


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1e6))
def test_a_delay_is_within_its_bounds(attempts: int, jitter: float, at_least: float) -> None:
    backoff = Backoff(0.5, 30.0, lambda: jitter)
    for _ in range(min(attempts, 80)):
        backoff.next()
    delay = backoff.next(at_least)
    assert at_least <= delay <= at_least + min(30.0, 0.5 * 2 ** min(attempts, 80))


def test_a_delay_begins_anew() -> None:
    backoff = Backoff(1.0, 30.0, lambda: 0.5)
    assert [backoff.next(), backoff.next(), backoff.next()] == [0.5, 1.0, 2.0]
    backoff.reset()
    assert backoff.next() == 0.5


@pytest.mark.parametrize(
    ("value", "wait"),
    [(3, 3.0), (2.5, 2.5), (-1, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (10**400, 86_400.0), ("3", 0.0),
     (True, 0.0), (None, 0.0), ([], 0.0)],
)  # fmt: skip
def test_seconds(value: object, wait: float) -> None:
    assert seconds(value) == wait


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (chunk("r", 0, "a", 1), None),
        (response("m", "r", "a", 1), AgentResponse),
        (system("x", {"a": None}), SystemEvent),
        (error("X"), ErrorEvent),
        ({"type": "pong"}, Pong),
    ],
)
def test_events_are_read_whatever_else_is_in_them(event: dict[str, object], kind: type | None) -> None:
    read = read_event(json.dumps({**event, "of_next_year": [{"a": 1}]}))
    assert read == read_event(json.dumps(event))
    assert not isinstance(read, Fault)
    assert read is not None
    assert kind is None or isinstance(read, kind)
    assert read.model_dump(exclude_none=True).items() >= {key: value for key, value in event.items() if value}.items()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"a"', "{}", '{"type":1}', '{"type":"error"}', '{"type":"agent_chunk"}', "[" * 100_000,
     '{"type":"agent_response","content":1}', '{"type":"agent_chunk","content":"\\ud800","offset":0}'],
)  # fmt: skip
def test_what_is_no_event_is_no_protocol(text: str) -> None:
    assert read_event(text) is Fault.PROTOCOL_VIOLATION


@pytest.mark.parametrize("event", [{"type": "new"}, system("x", {"a": [1]}), step("r", 1, kind="new"), {"type": ""}])
def test_what_a_newer_server_may_say_is_nothing_to_us(event: dict[str, object]) -> None:
    assert read_event(json.dumps(event)) is None
