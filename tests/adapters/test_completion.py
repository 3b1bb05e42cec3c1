"""What an OpenAI-compatible agent is made of: events out of bytes, answers out of events, histories."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws import AgentFailure, AgentStep
from qaws.agents.completion import Answer, retry_after
from qaws.agents.sse import EventReader, EventTooLong
from tests.helpers.openai_server import DONE, chunk, event

# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = st.text(st.sampled_from(" :dañ😀\x00\u2028"), max_size=5)
BYTES = st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"x", b"\xff", b"\xef\xbb\xbf"])).map(b"".join)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def data_line(text: str, spaced: bool) -> tuple[str, str | None]:
    """A line of data; one space behind the colon does not count."""
    return f"data: {text}" if spaced or text.startswith(" ") else f"data:{text}", text


LINES = st.one_of(
    st.builds(data_line, TEXTS, st.booleans()),
    st.just(("data", "")),
    TEXTS.map(lambda text: (f":{text}", None)),
    TEXTS.map(lambda text: (f"event:{text}", None)),
    st.sampled_from(["id", "event", "dat:x", "datas: x", " data: x"]).map(lambda line: (line, None)),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A stream of events, and the data that is in it."""
    text, found = draw(st.sampled_from(["", "\ufeff"])), []
    for lines in draw(st.lists(st.lists(LINES, max_size=4))):
        end = draw(LINE_ENDS)
        text += "".join(f"{line}{end}" for line, _ in lines) + end
        data = [said for _, said in lines if said is not None]
        if data:
            found.append("\n".join(data))
    return text.encode(), found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def singly(data: bytes) -> list[bytes]:
    """The bytes, one at a time."""
    return [data[place : place + 1] for place in range(len(data))]


PLACES = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)


def read(reads: list[bytes], limit: int) -> tuple[list[bytes], bool]:
    """The events of a stream, and whether one of them was too long."""
    reader, found = EventReader(limit), []
    try:
        for data in reads:
            for event in reader.feed(data):
                found.append(event)
    except EventTooLong:
        return found, True
    return found, False


@given(streams(), PLACES)
def test_how_a_stream_is_cut_makes_no_difference(stream: tuple[bytes, list[str]], places: list[int]) -> None:
    data, found = stream
    events = [text.encode() for text in found]
    assert read(cut(data, places), 100_000) == read(singly(data), 100_000) == (events, False)


@given(BYTES, PLACES, st.integers(min_value=0, max_value=40))
def test_nor_does_it_for_any_bytes_and_any_limit(data: bytes, places: list[int], limit: int) -> None:
    assert read(cut(data, places), limit) == read([data], limit) == read(singly(data), limit)


def test_an_event_and_a_line_have_a_size() -> None:
    assert read([b"data: 1234\n\n"] * 3, 10) == ([b"1234"] * 3, False)
    assert read([b"data: 12345\n\n"], 10) == ([], True)
    assert read([b": keep-alive\n"], 10) == ([], True)
    assert read([b"data: 12\n", b"data\n\n", b"data: 1234567"], 12) == ([b"12\n"], True)
    assert read([b"data: 12\n", b"data: 34\n\n"], 12) == ([], True)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CONTENT = chunk("A", reasoning="T1\n\nT2") + chunk("Ñ😀") + chunk("", reasoning="T3") + chunk(finish="length") + DONE


@given(PLACES)
def test_how_an_answer_is_cut_makes_no_difference(places: list[int]) -> None:
    answer = Answer("host")
    answer.begin(200, {}, 0)
    said = [piece for data in cut(CONTENT, places) for piece in answer.feed(data)] + list(answer.end())
    steps = [piece.content for piece in said if isinstance(piece, AgentStep)]
    assert [piece for piece in said if isinstance(piece, str)] == ["A", "Ñ😀"]
    assert steps == ["T1", "T2", "T3", "The answer ends early: it reached the limit of tokens."]
    assert (answer.text, answer.done) == ("AÑ😀", True)


@given(st.binary(max_size=300), PLACES, st.sampled_from([{}, {"content-type": "application/json"}]))
def test_whatever_a_server_answers_is_an_answer_or_a_failure(
    data: bytes, places: list[int], headers: dict[str, str]
) -> None:
    answer, failure = Answer("host"), None
    answer.begin(200, headers, 0)
    try:
        for part in cut(data, places):
            list(answer.feed(part))
        list(answer.end())
    except AgentFailure as error:
        failure = error
    assert answer.finished is (failure is None)
    if failure is not None:
        assert failure.reason == "unavailable"
        assert failure.__suppress_context__ or failure.__context__ is None  # which would quote the server


@pytest.fixture
def _elsewhere() -> Iterator[None]:
    """A machine whose clock on the wall is five hours behind UTC."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TZ", "XYZ+5")
        time.tzset()
        yield
    time.tzset()


NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "9" * 400}, float("inf")),  # which the core drops
        ({"retry-after": "٣"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1, 2"}, None),
        ({"retry-after": "Tue, 03 Feb 2026 04:06:06 GMT"}, 60),
        ({"retry-after": "Tue, 03 Feb 2026 04:06:06 -0000"}, 60),
        ({"retry-after": "Tue, 03 Feb 2026 05:06:06 +0100"}, 60),
        ({"retry-after": "Tue, 03 Feb 2026 04:04:06 GMT"}, 0),
        ({"retry-after": "7", "retry-after-ms": "2500"}, 2.5),
        ({"retry-after": "7", "retry-after-ms": "soon"}, 7),
    ],
)
def test_when_to_come_back(headers: dict[str, str], wait: float | None) -> None:
    assert retry_after(headers, NOW.timestamp()) == wait


NUMBERS = st.integers(min_value=-(10**30), max_value=10**30)


@given(
    st.one_of(
        st.text(),
        st.datetimes(timezones=st.just(UTC)).map(format_datetime),
        st.builds("Tue, {} Feb {} {}:{}:{} {:+}".format, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    )
)
def test_no_date_is_too_odd(text: str) -> None:
    wait = retry_after({"retry-after": text}, NOW.timestamp())
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 0}, (12, 0)),
        ({"completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}, (None, 3)),
        ({"prompt_tokens": -1, "completion_tokens": "3"}, (None, None)),
        ({"prompt_tokens": 1.5, "completion_tokens": True}, (None, None)),
        ({}, (None, None)),
        ([12, 3], (None, None)),
        (None, (None, None)),
    ],
)
def test_tokens_are_what_the_server_counts_and_nothing_else(
    usage: object, tokens: tuple[int | None, int | None]
) -> None:
    answer = Answer("host")
    answer.begin(200, {}, 0.0)
    stream = [chunk("Hello"), chunk(finish="stop"), event({"choices": [], "usage": usage}), DONE]
    assert [piece for data in stream for piece in answer.feed(data)] == ["Hello"]
    assert list(answer.end()) == []
    assert (answer.input_tokens, answer.output_tokens) == tokens


def test_of_numbers_that_grow_with_the_answer_the_newest_count() -> None:
    answer = Answer("host")
    answer.begin(200, {}, 0.0)
    for written in (1, 2, 7):
        usage = {"prompt_tokens": 5, "completion_tokens": written}
        choice = {"delta": {"content": "x"}}
        assert list(answer.feed(event({"choices": [choice], "usage": usage}))) == ["x"]
    assert (answer.input_tokens, answer.output_tokens) == (5, 7)
