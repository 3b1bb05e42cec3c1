"""Notes as log records: escaped and bounded, silent about secrets, and switched by the settings."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws import WebSocketAuth, WebSocketConfig, WebSocketManager
from qaws.telemetry import NoteLogger, configure_logging
from qaws.telemetry.values import VALUE_LENGTH, printable
from qaws_proto.config import LoggingConfig
from qaws_proto.effects import Note, Scalar

from .peers import Peer, driven, open_config

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("M7")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("¿Qué?", "¿Qué?"),
        ("two words", '"two words"'),
        ("", '""'),
        (None, "None"),
        (1.5, "1.5"),
        ("a\r\nERROR forged", '"a\\r\\nERROR forged"'),
        ("\x1b[2J", '"\\x1b[2J"'),
        ("a\u2028b\x85c", '"a\\u2028b\\x85c"'),
        ("\u202egnp.exe", '"\\u202egnp.exe"'),
        ("\ud800", '"\\ud800"'),
        ('x" level=high', '"x\\" level=high"'),
        ('x"\n', '"x\\"\\n"'),
        ("a\\nb", '"a\\\\nb"'),
        ("key=value", '"key=value"'),
    ],
)
def test_M7_a_value_is_shown_so_that_it_is_one_value(value: Scalar, shown: str) -> None:
    assert printable(value) == shown


@pytest.mark.row("M7")
@given(st.text() | st.text(min_size=400, max_size=700) | st.sampled_from(["x", "\n", "ñ", "\\", '"', "\U0001f600"]).map(
    lambda char: char * 1_000_000
))  # fmt: skip
def test_M7_every_value_is_bounded_printable_and_closed(value: str) -> None:
    shown = printable(value)
    assert len(shown.encode()) <= VALUE_LENGTH
    assert shown.isprintable()
    if shown.startswith('"'):
        inside = shown[1:-1].replace("\\\\", "").replace('\\"', "")
        assert shown.endswith('"')
        assert '"' not in inside  # nothing in it ends it
    else:
        assert not set(shown) & set(' "=')


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def written(note: Note, caplog: pytest.LogCaptureFixture, **settings: Any) -> list[logging.LogRecord]:
    caplog.set_level(logging.DEBUG, "qaws")
    NoteLogger(LoggingConfig(**settings)).write(note)
    return caplog.records


def test_a_note_becomes_one_record_of_its_topic_and_level(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = written(Note("run", "WARNING", "run_ended", {"run_id": "r 1", "seconds": 0.5}), caplog)
    assert (record.name, record.levelname) == ("qaws.run", "WARNING")
    assert record.getMessage() == 'run_ended run_id="r 1" seconds=0.5'


def test_a_percent_sign_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = written(Note("message", "INFO", "accepted", {"content": "%s%d100%"}), caplog)
    assert record.getMessage() == "accepted content=%s%d100%"


class Hostile(Exception):
    def __str__(self) -> str:
        raise ValueError("no text here")


def cause() -> BaseException:
    """An exception with everything that can hang on one."""
    try:
        try:
            raise KeyError("token=hush-1")
        except KeyError as error:
            raise ExceptionGroup("hush-2", [ValueError("hush-3\nERROR forged"), Hostile()]) from error
    except ExceptionGroup as error:
        return error


@pytest.mark.clause("C12")
@pytest.mark.row("G2")
def test_what_an_agent_raised_is_told_by_type_and_place_alone(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = written(Note("run", "ERROR", "run_ended", {}, cause()), caplog)
    text = caplog.text
    assert "hush" not in text
    for told in ("raised=ExceptionGroup", "raised=ValueError", "raised=Hostile", "raised=KeyError", " in cause"):
        assert told in text
    assert __file__ in text
    assert record.exc_info is None


def test_log_agent_errors_adds_the_text_escaped(caplog: pytest.LogCaptureFixture) -> None:
    written(Note("run", "ERROR", "run_ended", {}, cause()), caplog, log_agent_errors=True)
    for told in ("hush-1", "hush-2", 'text="hush-3\\nERROR forged"', "ValueError instead of a text"):
        assert told in caplog.text
    assert "\nERROR forged" not in caplog.text


@pytest.mark.row("G2")
def test_a_cause_without_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as raised:
        recurse()
    error: BaseException = raised.value
    for _ in range(100):
        error, inner = ValueError(), error
        error.__cause__ = inner
    deepest = raised.value
    deepest.__context__ = error  # and a circle
    written(Note("run", "ERROR", "run_ended", {}, deepest), caplog)
    assert len(caplog.text.splitlines()) < 100


def test_log_connections_decides_over_the_lines_of_connections(caplog: pytest.LogCaptureFixture) -> None:
    opened = Note("connection", "INFO", "opened", {"connection": 1})
    refused = Note("connection", "WARNING", "refused", {"status": 400})
    assert not written(opened, caplog, log_connections=False)
    assert len(written(refused, caplog, log_connections=False)) == 1
    assert len(written(opened, caplog, log_connections=True)) == 2


def test_the_level_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("qaws")
    handlers, level_before, propagate = logger.handlers[:], logger.level, logger.propagate
    try:
        configure_logging(LoggingConfig(level="WARNING"))
        configure_logging(LoggingConfig(level="WARNING"))  # which does not double the lines
        notes = NoteLogger(LoggingConfig())
        for level in ("INFO", "WARNING"):
            notes.write(Note("node", level, f"at_{level}", {}))
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level_before)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["at_WARNING"]


# ── a whole conversation ─────────────────────────────────────────────────────────────────────────────────────────────


async def converse(logging_settings: dict[str, Any]) -> WebSocketConfig:
    """A conversation with everything that must stay silent: tokens good and bad, the secret, what an agent raises."""

    async def agent(message: str) -> str:
        if message == "raise":
            raise ValueError("agent-says-hush")
        return message

    config = open_config(
        security={"authentication": {"enabled": True, "jwt_secret": SECRET}, "rate_limiting": {"enabled": False}},
        logging=logging_settings,
    )
    manager = WebSocketManager(config, agent=agent)
    with anyio.fail_after(10):
        async with driven(manager, "asyncio"):
            bad = Peer(manager)
            bad.say("auth", token=WebSocketAuth(config).generate_token("eve")[:-2] + "hush")
            await bad.hear("error")
            peer = Peer(manager)
            peer.say("auth", token=WebSocketAuth(config).generate_token("ana"))
            await peer.hear("system_event", event_name="connection_established")
            peer.say("chat_message", content="hola\r\nERROR forged")
            await peer.hear("agent_response")
            peer.say("chat_message", content="raise")
            await peer.hear("error")
    return config


@pytest.mark.anyio
@pytest.mark.clause("C12")
async def test_tokens_secrets_and_what_agents_say_in_exceptions_are_in_no_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.NOTSET)
    config = await converse({})
    assert "run_ended" in caplog.text
    for record in caplog.records:
        text = f"{record.getMessage()} {record.__dict__!r}"
        for secret in (SECRET, "hush", "eyJ", "forged"):
            assert secret not in text, record
    for shown in (repr(config), str(config), repr(WebSocketAuth(config).__dict__)):
        assert SECRET not in shown


@pytest.mark.anyio
async def test_log_messages_shows_the_beginning_of_their_content_escaped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await converse({"log_messages": True})
    assert 'content="hola\\r\\nERROR forged"' in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("wanted", [True, False])
async def test_performance_metrics_are_on_the_line_of_each_run(wanted: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await converse({"performance_metrics": wanted})
    (line,) = [message for message in caplog.messages if "end=completed" in message]
    assert ("seconds=" in line and "characters=18" in line) is wanted
