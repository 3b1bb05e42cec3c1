"""Notes of the core as records of the standard `logging`, under `qaws.*`. Nothing is configured on import."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from itertools import islice

from qaws_proto.config import LoggingConfig
from qaws_proto.effects import Note, Scalar

from ..stores import StoreError

VALUE_LENGTH = 512  # bytes of one value in a log line (M7)
PLACES = 20  # innermost places of a traceback that are logged
FIGURES = frozenset({"seconds", "queued_seconds", "first_chunk_seconds", "characters"})  # of a run that has ended
CAUSES = 8  # exceptions of a group, and of what they came from, that are logged


class NoteLogger:
    """Writes each note to the logger of its topic: `qaws.connection`, `qaws.run`, `qaws.message` …

    The text of an agent's exception may hold secrets, so it is written only where `log_agent_errors` says so; its type
    and the places in the code always are (C12, G2). The text of a StoreError is for the operator, and says all that
    there is to say.
    """

    def __init__(self, config: LoggingConfig) -> None:
        self._loggers: dict[str, logging.Logger] = {}
        self._connections = config.log_connections
        self._agent_errors = config.log_agent_errors
        self._hidden = frozenset() if config.performance_metrics else FIGURES

    def write(self, note: Note) -> None:
        """Log one note."""
        if note.topic == "connection" and note.level == "INFO" and not self._connections:
            return
        logger = self._loggers.get(note.topic)
        if logger is None:
            logger = self._loggers[note.topic] = logging.getLogger(f"qaws.{note.topic}")
        level = logging.getLevelName(note.level)
        if not logger.isEnabledFor(level):
            return
        hidden = self._hidden if note.name == "run_ended" else ()
        fields = (f"{key}={printable(value)}" for key, value in note.fields.items() if key not in hidden)
        lines = [" ".join([note.name, *fields])]
        if note.cause is not None:
            for error in islice(_errors(note.cause), CAUSES):
                lines.append(f"  raised={printable(type(error).__qualname__)}")
                if self._agent_errors or isinstance(error, StoreError):
                    lines[-1] += f" text={printable(_text(error))}"
                lines += [] if isinstance(error, StoreError) else _places(error)
        logger.log(level, "%s", "\n".join(lines))


def _errors(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what is in it if it is a group, and what each came from."""
    seen: set[int] = set()
    left = [error]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        if isinstance(error, StoreError):
            continue
        left += [error.__cause__ or (None if error.__suppress_context__ else error.__context__)]
        left += reversed(error.exceptions) if isinstance(error, BaseExceptionGroup) else ()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - an agent's own class may raise anything here
        return f"({type(another).__qualname__} instead of a text)"


def _places(error: BaseException) -> list[str]:
    """Where it was raised, without its text and without lines of source, which may hold secrets as well."""
    walk = traceback.walk_tb(error.__traceback__)
    frames = traceback.StackSummary.extract(walk, limit=-PLACES, lookup_lines=False)
    return [f"    {printable(frame.filename)}:{frame.lineno} in {printable(frame.name)}" for frame in frames]


def printable(value: Scalar) -> str:
    """A value as it may stand in a log line: bounded, and nothing in it that ends the line or moves a terminal.

    Texts that could be taken for more than one value are quoted, with backslashes before quotes and backslashes.
    """
    whole = str(value)
    text = whole[:VALUE_LENGTH]  # no more can be shown of it
    if not text.isprintable():  # control characters, and U+2028 and its like
        text = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    elif '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    room = VALUE_LENGTH - 2  # for the quotes
    if len(text.encode()) > room or len(whole) > VALUE_LENGTH:
        text = text.encode()[: room - 3].decode("utf-8", "ignore").rstrip("\\") + "…"
    return f'"{text}"' if not text or any(mark in text for mark in ' "=\\') else text


def configure_logging(config: LoggingConfig) -> None:
    """Write `qaws.*` to standard error, for programs that have no logging of their own (the command line)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    logger = logging.getLogger("qaws")
    logger.handlers[:] = [handler]
    logger.setLevel(config.level)
    logger.propagate = False
