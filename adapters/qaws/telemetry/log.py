"""Notes of the core as records of the standard `logging`, under `qaws.*`. Nothing is configured on import."""

from __future__ import annotations

import logging
import sys
import traceback

from qaws_proto.config import LoggingConfig
from qaws_proto.effects import Note, Scalar

VALUE_LENGTH = 512  # bytes of one value in a log line (M7)


class NoteLogger:
    """Writes each note to the logger of its topic: `qaws.connection`, `qaws.run`, `qaws.message` …

    The text of an agent's exception may hold secrets, so it is written only where `log_agent_errors` says so; its type
    and the places in the code always are (C12, G2).
    """

    def __init__(self, config: LoggingConfig) -> None:
        self._loggers: dict[str, logging.Logger] = {}
        self._connections = config.log_connections
        self._agent_errors = config.log_agent_errors

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
        line = " ".join([note.name, *(f"{key}={printable(value)}" for key, value in note.fields.items())])
        if note.cause is None:
            logger.log(level, "%s", line)
            return
        logger.log(level, "%s raised=%s%s", line, type(note.cause).__qualname__, _places(note.cause))
        if self._agent_errors:
            logger.log(level, "%s", note.name, exc_info=note.cause)


def _places(error: BaseException) -> str:
    """Where it was raised, without its text and without lines of source, which may hold secrets as well."""
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)


def printable(value: Scalar) -> str:
    """A value as it may stand in a log line: bounded, and nothing in it that ends the line or moves a terminal."""
    text = str(value)
    if not text.isprintable():  # control characters, and U+2028 and its like
        text = text.encode("unicode_escape").decode("ascii")
    if len(text.encode("utf-8", "replace")) > VALUE_LENGTH:
        text = text.encode("utf-8", "replace")[: VALUE_LENGTH - 3].decode("utf-8", "ignore") + "…"
    return f'"{text}"' if " " in text or not text else text


def configure_logging(config: LoggingConfig) -> None:
    """Write `qaws.*` to standard error, for programs that have no logging of their own (the command line)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    logger = logging.getLogger("qaws")
    logger.handlers[:] = [handler]
    logger.setLevel(config.level)
    logger.propagate = False
