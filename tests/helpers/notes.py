"""What docs/logging.md says of notes: every note of a simulated node is held to it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from qaws_proto.effects import Note

PAGE = Path(__file__).parents[2] / "docs" / "logging.md"
ROW = re.compile(r"^\| `qaws\.(\w+)` \| `(\w+)` \| ([A-Z, ]+) \|(.*)\|$", re.MULTILINE)


class Told(NamedTuple):
    """What the page says of one event."""

    levels: frozenset[str]
    fields: frozenset[str]
    figures: frozenset[str]  # those with a mark


@cache
def documented() -> dict[tuple[str, str], Told]:
    """The rows of the page, by topic and name."""
    rows = ROW.findall(PAGE.read_text("utf-8"))
    found = {
        (topic, name): Told(
            frozenset(levels.split(", ")),
            frozenset(re.findall(r"`(\w+)`", fields)),
            frozenset(re.findall(r"`(\w+)`∗", fields)),
        )
        for topic, name, levels, fields in rows
    }
    assert len(found) == len(rows), "an event stands once"
    return found


def check(note: Note) -> None:
    """A note says no more than the page tells of it. Those of users' own events are not there."""
    assert note.topic in {topic for topic, _ in documented()}
    told = documented().get((note.topic, note.name))
    if told is not None:
        assert note.fields.keys() <= told.fields, f"{note.name}: {sorted(note.fields.keys() - told.fields)}"
        assert note.level in told.levels, f"{note.name} at {note.level}"
