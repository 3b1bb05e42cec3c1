"""docs/logging.md tells of every note and every line of the log, and of none that there is not."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from qaws.telemetry.log import FIGURES
from qaws_proto.effects import Note
from tests.helpers.node import NodeUnderTest
from tests.helpers.notes import Told, check, documented

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "qaws_proto").rglob("*.py"), *(ROOT / "adapters" / "qaws").rglob("*.py")])
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

Found = tuple[str, str, set[str], set[str]]  # topic, name, levels, and those fields that can be told from the source


def texts(node: ast.AST | None) -> set[str]:
    """The names and constants that an expression may be."""
    if node is None:
        return set()
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    if isinstance(node, ast.Attribute):
        return {node.attr}
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def calls(tree: ast.AST) -> Iterator[Found]:
    """Every call in a module that tells something."""
    loggers = {
        ast.unparse(node.targets[0]): ast.unparse(node.value.args[0]).strip("'").removeprefix("qaws.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.args
        if "getLogger" in ast.unparse(node.value.func)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        words = {word.arg: word.value for word in node.keywords if word.arg is not None}
        if called == "Note" and len(node.args) >= 4 and texts(node.args[0]) and texts(node.args[2]):
            (topic,), (name,), fields = texts(node.args[0]), texts(node.args[2]), node.args[3]
            keys = [key for key in fields.keys if key] if isinstance(fields, ast.Dict) else []
            yield topic, name, texts(node.args[1]), set().union(*map(texts, keys))
        elif called == "_note" and len(node.args) == 2 and texts(node.args[0]) <= LEVELS and texts(node.args[1]):
            (topic,), (name,) = texts(words.pop("topic", None)) or {"connection"}, texts(node.args[1])
            yield topic, name, texts(node.args[0]), set(words)
        elif called in ("_done", "_note") and len(node.args) >= 3 and texts(node.args[0]):  # commands of operators
            yield "control", texts(node.args[0]).pop(), {"INFO"}, set(words)
        elif called == "log_event":
            yield loggers[ast.unparse(node.args[0])], texts(node.args[2]).pop(), texts(node.args[1]), set(words)


@cache
def in_the_source() -> dict[tuple[str, str], list[Found]]:
    found: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for path in SOURCES:
        for call in calls(ast.parse(path.read_text("utf-8"))):
            found[call[0], call[1]].append(call)
    return found


def test_the_page_tells_of_every_event_and_of_no_other() -> None:
    assert len(in_the_source()) > 30
    assert sorted(in_the_source()) == sorted(documented())


@pytest.mark.parametrize("event", sorted(in_the_source()), ids=".".join)
def test_the_page_tells_levels_and_fields(event: tuple[str, str]) -> None:
    told, found = documented()[event], in_the_source()[event]
    assert set().union(*(levels for _, _, levels, _ in found)) == told.levels
    assert set().union(*(fields for _, _, _, fields in found)) <= told.fields


def test_no_other_lines_are_written() -> None:
    """Everything goes through `log_event` and notes, which bound, escape and withhold."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and path.name != "log.py":
                of = ast.unparse(node.func.value)
                assert not (
                    ("log" in of.lower().split(".")[-1])
                    and node.func.attr in {*map(str.lower, LEVELS), "exception", "log"}
                ), f"{path}:{node.lineno}"


def test_the_marks_of_the_page_are_what_the_setting_hides() -> None:
    for topic, name in (("connection", "closed"), ("run", "run_ended")):
        assert documented()[topic, name].figures == FIGURES[topic]
    assert {event for event, told in documented().items() if told.figures} == {
        ("connection", "closed"), ("run", "run_ended"),
    }  # fmt: skip


def test_every_field_of_the_two_that_matter_is_seen() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(id="m1", stream=True)
    node.chunk(node.only_run, "a")
    node.fail(node.only_run, reason="busy", retry_after=1.5)
    client.chat(id="m2")
    node.finish(node.only_run, "a", input_tokens=2, output_tokens=1)
    client.lose()
    for topic, name in (("connection", "closed"), ("run", "run_ended")):
        seen = set().union(*(note.fields for note in node.notes if note.name == name))
        assert seen == documented()[topic, name].fields


def test_a_note_that_says_more_than_the_page_is_found() -> None:
    check(Note("node", "INFO", "drained", {"runs": 1}))
    for wrong in (Note("node", "INFO", "drained", {"token": "x"}), Note("node", "ERROR", "drained", {})):
        with pytest.raises(AssertionError):
            check(wrong)
    assert isinstance(documented()["node", "drained"], Told)
