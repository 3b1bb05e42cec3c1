"""Log records as lines: of text, and of JSON. Both say of records of any origin no more than may be said (C12, M7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from .raised import Raised, raised
from .values import json_of, printable


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line, for any handler of the standard `logging`.

    Its keys are `time` (RFC 3339, UTC), `level`, `logger`, `event`, the fields of what happened, and `raised` where
    there was an exception. Of a record that was not made by qaws, `event` is its message. A field of the name of one
    of those keys gets a `_` behind it.
    """

    def format(self, record: logging.LogRecord) -> str:
        event, fields, errors = _parts(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage() if event is None else event,
        }
        pairs = [f"{json_of(key)}:{json_of(value)}" for key, value in line.items()]
        taken = {*line, "raised"}
        for name, value in fields.items():
            while name in taken:
                name += "_"
            taken.add(name)
            pairs.append(f"{json_of(name)}:{json_of(value)}")
        if errors:
            pairs.append(f'"raised":[{",".join(map(_error, errors))}]')
        return "{" + ",".join(pairs) + "}"


def _error(error: Raised) -> str:
    text = "" if error.text is None else f',"text":{json_of(error.text)}'
    return f'{{"type":{json_of(error.type)}{text},"at":[{",".join(map(json_of, error.at))}]}}'


class TextFormatter(logging.Formatter):
    """A record as a line of text, with lines for what was raised below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s ")

    def format(self, record: logging.LogRecord) -> str:
        event, _, errors = _parts(record)
        record.asctime = self.formatTime(record)
        head = self.formatMessage(record)
        if event is not None:  # its message has everything, in lines that are made to be read
            return head + record.getMessage()
        return "\n".join([head + printable(record.getMessage()), *(line for one in errors for line in one.lines())])


def _parts(record: logging.LogRecord) -> tuple[str | None, Mapping[str, object], tuple[Raised, ...]]:
    """What happened, its fields, and what was raised; of a record that others made no event and no fields."""
    event, fields = getattr(record, "event", None), getattr(record, "fields", None)
    if isinstance(event, str) and isinstance(fields, dict):
        return event, fields, getattr(record, "raised", ())
    error = record.exc_info[1] if record.exc_info else None
    return None, {}, () if error is None else raised(error)
