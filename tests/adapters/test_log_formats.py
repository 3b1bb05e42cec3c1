"""Log records as lines of JSON and of text: one line each, whole or cut, whoever made the record."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws.stores import StoreError
from qaws.telemetry import JsonFormatter, NoteLogger, TextFormatter, configure_logging, log_event
from qaws.telemetry.redaction import MASK, redacted
from qaws.telemetry.values import VALUE_LENGTH, bounded, json_of
from qaws_proto.config import LoggingConfig
from qaws_proto.effects import Note, Scalar

HOSTILE = [
    "x",
    "\n",
    "\r",
    "\x1b",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202e",
    "ñ",
    "\\",
    '"',
    "\U0001f600",
    "\U000e0001",
    "\x00",
]
texts = (
    st.text(st.characters())
    | st.text(min_size=400, max_size=600)
    | st.text(st.sampled_from(HOSTILE), min_size=80, max_size=700)
    | st.tuples(st.sampled_from(HOSTILE), st.sampled_from([510, 2000])).map(lambda pair: pair[0] * pair[1])
)
scalars = texts | st.integers() | st.floats() | st.booleans() | st.none()


def formatted(formatter: logging.Formatter, *notes: Note, **settings: Any) -> list[str]:
    """The lines that a handler with this formatter writes for notes."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger = logging.getLogger("qaws")
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        write = NoteLogger(LoggingConfig(**settings)).write
        for note in notes:
            write(note)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate
    return out.getvalue().splitlines()


def as_json(*notes: Note, **settings: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in formatted(JsonFormatter(), *notes, **settings)]


def made(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    """A record that qaws did not make."""
    return logging.getLogger("qaws.theirs").makeRecord(
        "qaws.theirs", logging.WARNING, "f.py", 1, message, arguments, more.pop("exc_info", None), extra=more
    )


def clean(text: str) -> str:
    """A text as JSON in UTF-8 can say it."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("M7")
@given(scalars)
@example("\ud83d\ude00")
@example(10**5000)
@example(float("nan"))
def test_M7_a_value_in_json_is_itself_or_its_cut(value: Any) -> None:
    line = json_of(value)
    assert len(line.encode()) <= VALUE_LENGTH
    assert line.isprintable()
    read = json.loads(line, parse_constant=pytest.fail)
    if isinstance(value, str):
        whole = clean(value)
        assert read == whole or (read.endswith("…") and whole.startswith(read[:-1]) and len(line.encode()) > 490)
    elif value in (float("inf"), float("-inf")) or value != value or (type(value) is int and value.bit_length() > 1024):
        assert isinstance(read, str)
    else:
        assert read == value
        assert type(read) is type(value)


@pytest.mark.row("M7")
@given(scalars)
def test_M7_a_value_for_others_is_bounded_and_can_be_encoded(value: Any) -> None:
    held = bounded(value)
    assert type(held) is type(value) or isinstance(held, str)
    if isinstance(held, str):
        assert len(held.encode()) <= VALUE_LENGTH
        assert isinstance(value, int) or clean(value).startswith(held.removesuffix("…"))


@pytest.mark.row("M7")
@given(st.dictionaries(st.text(max_size=20) | st.sampled_from(["time", "level", "event", "raised"]), scalars), texts)
def test_M7_every_line_of_json_is_one_object_with_all_the_fields(fields: dict[str, Any], content: str) -> None:
    (line,) = formatted(JsonFormatter(), Note("message", "INFO", "accepted", {**fields, "content": content}))
    read = json.loads(line)
    given = {key for key, value in fields.items() if value is not None} | {"content"}
    assert len(read) == 4 + len(given)
    assert (read["level"], read["logger"], read["event"]) == ("INFO", "qaws.message", "accepted")
    assert line.isprintable()


@pytest.mark.row("M7")
@given(texts)
def test_M7_a_line_of_text_ends_where_it_should(value: str) -> None:
    note = Note("connection", "INFO", "opened", {"path": value})
    assert len(formatted(TextFormatter(), note)) == 1
    assert formatted(TextFormatter(), note)[0].isprintable()
    assert len(TextFormatter().format(made("%s", value)).splitlines()) == 1


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_note_in_json() -> None:
    before = datetime.now(UTC)
    (line,) = as_json(Note("run", "INFO", "run_ended", {"run_id": "r", "seconds": 0.5, "message_id": None, "n": 1}))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert before <= datetime.fromisoformat(time) <= datetime.now(UTC)
    assert line == {
        "level": "INFO", "logger": "qaws.run", "event": "run_ended", "run_id": "r", "seconds": 0.5, "n": 1,
    }  # fmt: skip


def test_a_field_that_is_named_as_a_key_of_every_line_gets_a_mark() -> None:
    fields: dict[str, Scalar] = {"level": "high", "level_": 1, "time": 0, "raised": False}
    (line,) = as_json(Note("message", "INFO", "x", fields))
    assert (line["level"], line["level_"], line["level__"]) == ("INFO", "high", 1)
    assert (line["time_"], line["raised_"]) == (0, False)


def failure() -> BaseException:
    try:
        try:
            raise KeyError("hush-1")
        except KeyError as error:
            raise ExceptionGroup("hush-2", [StoreError("the disk is full")]) from error
    except ExceptionGroup as error:
        return error


@pytest.mark.clause("C12")
@pytest.mark.row("G2")
def test_what_was_raised_is_in_json_by_type_and_place_alone() -> None:
    (line,) = as_json(Note("run", "ERROR", "run_ended", {}, failure()))
    assert [(one["type"], one.get("text")) for one in line["raised"]] == [
        ("ExceptionGroup", None), ("StoreError", "the disk is full"), ("KeyError", None),
    ]  # fmt: skip
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+ in failure", line["raised"][0]["at"][-1])
    assert "hush" not in str(line)
    (line,) = as_json(Note("run", "ERROR", "run_ended", {}, failure()), log_agent_errors=True)
    assert "hush-1" in line["raised"][2]["text"]


@pytest.mark.clause("C12")
def test_records_of_others_are_one_line_and_tell_no_text_of_exceptions() -> None:
    error = failure()
    record = made("a\n%s", "b", exc_info=(type(error), error, error.__traceback__), password="hush-3")
    line = json.loads(JsonFormatter().format(record))
    assert (line["event"], line["level"], line["logger"]) == ("a\nb", "WARNING", "qaws.theirs")
    assert line.keys() == {"time", "level", "logger", "event", "raised"}
    shown = TextFormatter().format(record)
    assert '"a\\nb"' in shown.splitlines()[0]
    assert "  raised=ExceptionGroup" in shown.splitlines()
    assert "hush" not in f"{line}{shown}"


def test_attributes_of_others_that_are_named_as_ours_are_none_of_ours() -> None:
    assert json.loads(JsonFormatter().format(made("said", event=1, fields={"a": 1})))["event"] == "said"
    assert json.loads(JsonFormatter().format(made("said", event="x", fields=[1])))["event"] == "said"


def test_other_formats_find_the_values_on_the_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "qaws")
    log_event(logging.getLogger("qaws.node"), logging.WARNING, "store_slow", failure(), seconds=2, path="x" * 600)
    (record,) = caplog.records
    attributes = vars(record)
    assert attributes["event"] == "store_slow"
    assert attributes["fields"] == {"seconds": 2, "path": "x" * 509 + "…"}
    assert [one.type for one in attributes["raised"]] == ["ExceptionGroup", "StoreError", "KeyError"]
    assert "hush" not in repr(attributes)


def test_nothing_is_made_of_what_nobody_listens_to(caplog: pytest.LogCaptureFixture) -> None:
    class Unread:
        def __str__(self) -> str:
            raise AssertionError("nobody asked")

    caplog.set_level(logging.ERROR, "qaws")
    log_event(logging.getLogger("qaws.node"), logging.DEBUG, "unheard", field=Unread())
    assert not caplog.records


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_format_is_that_of_the_settings(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, err = logging.getLogger("qaws"), io.StringIO()
    for name, value in {"handlers": [*logger.handlers], "level": logger.level, "propagate": logger.propagate}.items():
        monkeypatch.setattr(logger, name, value)
    monkeypatch.setattr(sys, "stderr", err)
    config = LoggingConfig.model_validate({"format": format})
    configure_logging(config)
    NoteLogger(config).write(Note("node", "INFO", "drained", {"runs": 0}))
    line = err.getvalue()
    assert line.startswith("{") is (format == "json")
    assert ("drained runs=0" in line) is (format == "text")


def test_performance_metrics_off_leaves_out_durations_and_amounts_of_runs_and_connections() -> None:
    fields: dict[str, Scalar] = {"seconds": 1.5, "messages_sent": 2, "characters": 3, "code": 1000}
    notes = [Note(topic, "INFO", "x", fields) for topic in ("connection", "run", "message")]
    connection, run, message = as_json(*notes, performance_metrics=False)
    assert {"seconds", "messages_sent", "characters", "code"} & connection.keys() == {"characters", "code"}
    assert {"seconds", "messages_sent", "characters", "code"} & run.keys() == {"messages_sent", "code"}
    assert fields.items() <= message.items()
    for line in as_json(*notes, performance_metrics=True):
        assert fields.items() <= line.items()


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SECRETS = [
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmF0dXJl",
    "Authorization: Basic YW5hOmh1bnRlcjI=",
    "bearer abcdefgh12345",
    "password=hunter2",
    '"api_key": "s3cr3t value"',
    "la contraseña es hunter2",
    "my password is hunter2",
    "client-secret: hunter2",
    "https://ana:hunter2@example.org/",
    "sk-proj-abcdefghijklmnop",
    "ghp_abcdefghijklmnopqrstuvwxyz",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-not-a-real-token",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2\nHqpNLoGi\n-----END EC PRIVATE KEY-----",
]
PARTS = [
    "hunter2",
    "s3cr3t",
    "eyJzdWI",
    "YW5hO",
    "abcdefgh",
    "IOSFODNN7",
    "real-token",
    "884c7d65",
    "IIrYSSNQ",
    "HqpNLoGi",
]


@pytest.mark.clause("C12")
@given(st.text(max_size=600), st.sampled_from(SECRETS), st.text(max_size=100))
@example("x" * 505, SECRETS[0], "")
@example("", SECRETS[-1][:60], "")
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(before: str, secret: str, after: str) -> None:
    content = f"{before} {secret} {after}"
    (line,) = as_json(Note("message", "INFO", "accepted", {"content": content}))
    (text,) = formatted(TextFormatter(), Note("message", "INFO", "accepted", {"content": content}))
    for part in PARTS:
        if part not in before + after:
            assert part not in line["content"] + text
    assert MASK in redacted(content)


@pytest.mark.parametrize(
    "content",
    [
        "¿Cómo estás? Tell me about tokens, keys and passwords.",
        "The bearer of this letter knows basic algebra.",
        "A keyboard costs 49.90 EUR at https://example.org/shop?page=2 (tel. +49 30 123456).",
        "donaudampfschifffahrtsgesellschaftskapitän",
        "Is the secretary in? sk-8 is a postcode; version 1.2.3-alpha.4",
    ],
)
def test_what_does_not_look_like_a_secret_stays(content: str) -> None:
    assert redacted(content) == content


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "a1",
        "/",
        "-----BEGIN A-----",
        "eyJaaaa.",
        "://a:",
        "password=",
        'token="',
        "bearer ",
        "sk-",
        "=",
        "is ",
    ],
)
def test_no_content_takes_long_to_look_at(piece: str) -> None:
    assert redacted(piece * 100_000)  # minutes, were it looked at again and again
