"""Notes of the core, and what adapters have to say, as records of the standard `logging` under `qaws.*`.

Nothing is configured on import. A record's message is its line of text; for other formats it has the attributes `event`
(a name), `fields` (a dict of its values) and `raised` (what exceptions say, or nothing).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import NamedTuple

from qaws_proto.config import LoggingConfig
from qaws_proto.effects import Note

from .formats import JsonFormatter, TextFormatter
from .raised import Raised, raised
from .redaction import redacted
from .values import bounded, printable

#: What `performance_metrics` is about, by topic: durations, and how much there was.
FIGURES: Mapping[str, frozenset[str]] = {
    "connection": frozenset({"seconds", "messages_received", "messages_sent"}),
    "run": frozenset(
        {
            "seconds",
            "queued_seconds",
            "first_chunk_seconds",
            "characters",
            "chunks",
            "input_tokens",
            "output_tokens",
        }
    ),
}


_LEVELS = logging.getLevelNamesMapping()


class NoteLogger:
    """Writes each note to the logger of its topic: `qaws.connection`, `qaws.run`, `qaws.message` …

    The text of an agent's exception may hold secrets, so it is written only where `log_agent_errors` says so; its type
    and the places in the code always are (C12, G2). Fields that are None are left out.
    """

    def __init__(self, config: LoggingConfig) -> None:
        self._loggers: dict[str, logging.Logger] = {}
        self._connections = config.log_connections
        self._agent_errors = config.log_agent_errors
        self._hidden = {} if config.performance_metrics else FIGURES

    def write(self, note: Note) -> None:
        """Log one note."""
        if note.topic == "connection" and note.level == "INFO" and not self._connections:
            return
        logger = self._loggers.get(note.topic)
        if logger is None:
            logger = self._loggers[note.topic] = logging.getLogger(f"qaws.{note.topic}")
        level = _LEVELS[note.level]
        if not logger.isEnabledFor(level):
            return
        hidden = self._hidden.get(note.topic, ())
        fields = {key: value for key, value in note.fields.items() if value is not None and key not in hidden}
        if "content" in fields:
            fields["content"] = redacted(str(fields["content"]))
        _write(logger, level, note.name, fields, note.cause, texts=self._agent_errors)


def log_event(
    logger: logging.Logger, level: int, event: str, cause: BaseException | None = None, /, **fields: object
) -> None:
    """Log something that an adapter met, as a note of the core would be. Of `cause` types and places are told."""
    if logger.isEnabledFor(level):
        _write(logger, level, event, fields, cause, texts=False)


def _write(
    logger: logging.Logger, level: int, event: str, fields: Mapping[str, object], cause: BaseException | None,
    *, texts: bool,
) -> None:  # fmt: skip
    extra: dict[str, object] = {"event": event, "fields": {key: bounded(value) for key, value in fields.items()}}
    errors: tuple[Raised, ...] = () if cause is None else raised(cause, texts=texts)
    if errors:
        extra["raised"] = errors
    logger.log(level, "%s", _Text(event, fields, errors), extra=extra)


class _Text(NamedTuple):
    """What happened as text, made where a handler wants text."""

    event: str
    fields: Mapping[str, object]
    errors: tuple[Raised, ...]

    def __str__(self) -> str:
        pairs = (f"{_name(key)}={printable(value)}" for key, value in self.fields.items())
        line = " ".join([_name(self.event), *pairs])
        return "\n".join([line, *(line for error in self.errors for line in error.lines())])

    def __repr__(self) -> str:  # what handlers show of a record's arguments
        return str(self)


def _name(name: str) -> str:
    """A name of an event or a field; users' own may be anything."""
    return name if name.isidentifier() else printable(name)


def configure_logging(config: LoggingConfig) -> None:
    """Write `qaws.*` to standard error, for programs that have no logging of their own (the command line)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logger = logging.getLogger("qaws")
    logger.handlers[:] = [handler]
    logger.setLevel(config.level)
    logger.propagate = False
