"""docs/guarantees.md lists every promise with the tests that keep it: the page and the marks of the tests agree.

`python -m tests.test_guarantees` writes the tests of each row into the page anew.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, NamedTuple

import pytest

from qaws_proto import WebSocketConfig
from tests.autobahn.verdicts import PROOFS
from tests.helpers.evidence import KINDS, ROOT, Evidence, Module, Promise, evidence, kinds, marked, read

PAGE = ROOT / "docs" / "guarantees.md"
ROW = re.compile(
    r"^\| (?P<id>[A-Z]\d+) \| (?P<promise>.+?) \| (?:(?P<kinds>[A-Z](?: [A-Z])*) \| )?(?P<tests>.*?) ?\|$", re.MULTILINE
)


class Listed(NamedTuple):
    """A promise of the page: the kinds of tests that it asks for, and its last column."""

    kinds: tuple[str, ...]
    tests: str


def mark(page: str, at: int) -> str:
    """Which mark the table at a place of the page is of; an empty one where it lists no promises."""
    heads = re.findall(r"^\| (?:(row|clause) \| promise|[^|\n]*) \|.*\n\|-", page[:at], re.MULTILINE)
    return str(heads[-1])


def listed(page: str) -> dict[Promise, Listed]:
    """The promises of the page."""
    rows = [((mark(page, row.start()), row["id"]), row) for row in ROW.finditer(page)]
    rows = [one for one in rows if one[0][0]]
    promises = [promise for promise, _ in rows]
    assert len(set(promises)) == len(promises), "a promise stands once"
    return {promise: Listed(tuple((row["kinds"] or "").split()), row["tests"]) for promise, row in rows}


def letters(found: list[Evidence]) -> str:
    """The kinds of some tests, in the order in which they are told."""
    there = frozenset().union(*(one.kinds for one in found))
    return " ".join(kind for kind in KINDS if kind in there)


def told(found: list[Evidence]) -> str:
    """The last column: the files of tests, each with the kinds of those in it that keep the promise."""
    files: defaultdict[str, list[Evidence]] = defaultdict(list)
    for one in found:
        files[one.file].append(one)
    return ", ".join(f"`{file}` {letters(ours)}" for file, ours in files.items())


def written(page: str, tests: dict[Promise, list[Evidence]]) -> str:
    """The page with these tests in it."""

    def row(match: re.Match[str]) -> str:
        if not mark(page, match.start()):
            return match[0]
        columns = [match["id"], match["promise"], *([match["kinds"]] if match["kinds"] else [])]
        return f"| {' | '.join([*columns, told(tests.get((mark(page, match.start()), match['id']), []))])} |"

    return ROW.sub(row, page)


def missing(page: str, tests: dict[Promise, list[Evidence]]) -> set[tuple[str, str]]:
    """The kinds that rows of a page ask for, and have no test of."""
    return {
        (row, kind)
        for (of, row), asked in listed(page).items()
        for kind in asked.kinds
        if of == "row" and kind not in letters(tests.get(("row", row), [])).split()
    }


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tests() -> dict[Promise, list[Evidence]]:
    return evidence()


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text("utf-8")


def test_every_promise_has_a_test_and_every_mark_a_promise(page: str, tests: dict[Promise, list[Evidence]]) -> None:
    promised, kept = set(listed(page)), set(tests)
    assert {"promises without a test": sorted(promised - kept), "marks without a promise": sorted(kept - promised)} == {
        "promises without a test": [],
        "marks without a promise": [],
    }


def test_the_page_names_the_tests_and_their_kinds(page: str, tests: dict[Promise, list[Evidence]]) -> None:
    assert written(page, tests) == page, "python -m tests.test_guarantees writes them anew"


def test_every_row_names_the_kinds_of_its_tests_and_they_are_told(page: str) -> None:
    unclear = {row for (of, row), asked in listed(page).items() if of == "row" and not set(asked.kinds) <= KINDS.keys()}
    assert not unclear
    assert not {row for (of, row), asked in listed(page).items() if of == "row" and not asked.kinds}
    assert all(f"\n| {kind} | {meaning[0].upper()}{meaning[1:]}" in page for kind, meaning in KINDS.items())


def test_every_kind_has_a_test(page: str, tests: dict[Promise, list[Evidence]]) -> None:
    assert missing(page, tests) == set()


def test_rows_that_ask_for_cases_of_autobahn_have_them(page: str, tests: dict[Promise, list[Evidence]]) -> None:
    asking = {row for (of, row), asked in listed(page).items() if "A" in asked.kinds}
    proved = {row for (of, row), found in tests.items() if "A" in letters(found).split()}
    assert asking == proved == set(PROOFS)


SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")


def test_the_security_policy_names_promises_that_there_are(page: str) -> None:
    promised = {name for _, name in listed(page)}
    ranges = re.findall(r"\b([A-Z])(\d+) to \1(\d+)\b", SECURITY)
    named = set(re.findall(r"\b[A-Z]\d+\b", SECURITY))
    named |= {f"{kind}{number}" for kind, first, last in ranges for number in range(int(first), int(last) + 1)}
    assert {"C2", "H1", "M3"} <= named
    assert named <= promised


def test_the_security_policy_names_settings_that_there_are() -> None:
    sections = "|".join(WebSocketConfig.model_fields)
    named = re.findall(rf"`((?:{sections})(?:\.[a-z_]+)+)", SECURITY)
    assert "server.trusted_proxies" in named
    for name in named:
        model: Any = WebSocketConfig
        for part in name.split("."):
            assert part in model.model_fields, f"{name} is no setting"
            model = model.model_fields[part].annotation


# ── how it is found out ──────────────────────────────────────────────────────────────────────────────────────────────

SOURCE = """
import socket
import subprocess
import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from tests.helpers.node import NodeUnderTest as Node

pytestmark = pytest.mark.row("H1")
CASES = [pytest.param(1, marks=[pytest.mark.row("H3", "H4")])]

@pytest.mark.row("H2")
@pytest.mark.clause("C3")
def test_values(): ...

@pytest.mark.parametrize("case", CASES)
def test_cases(case): ...

@given(st.integers())
def test_property(number): ...

def world():
    return Node()

@pytest.fixture
def node():
    return world()

def test_simulated(node): ...

@given(st.integers())
def test_simulated_property(number):
    world()

def test_named_alike(world): ...

def run():
    subprocess.run(["true"])

def test_process():
    world()
    run()

class Machine(RuleBasedStateMachine): ...

TestMachine = pytest.mark.row("H5")(Machine.TestCase)

table.row("no mark")
"""


@pytest.fixture(scope="module")
def example() -> Module:
    return read("tests.example", SOURCE)


@pytest.mark.parametrize(
    ("test", "kept"),
    [
        ("test_values", {("row", "H1"), ("row", "H2"), ("clause", "C3")}),
        ("test_cases", {("row", "H1"), ("row", "H3"), ("row", "H4")}),
        ("test_property", {("row", "H1")}),
        ("TestMachine", {("row", "H1"), ("row", "H5")}),
    ],
)
def test_marks_are_found_wherever_they_stand(example: Module, test: str, kept: set[Promise]) -> None:
    assert marked(example)[test] == kept


def test_a_mark_on_no_test_is_told() -> None:
    with pytest.raises(AssertionError, match="H1"):
        marked(read("tests.example", '@pytest.mark.row("H1")\ndef tset_misspelt(): ...'))


@pytest.mark.parametrize(
    ("test", "by"),
    [
        ("test_values", "U"),
        ("test_property", "P"),
        ("TestMachine", "P"),
        ("test_simulated", "S"),
        ("test_simulated_property", "P S"),
        ("test_named_alike", "U"),
        ("test_process", "R"),
    ],
)
def test_a_kind_follows_from_what_a_test_reaches(example: Module, test: str, by: str) -> None:
    assert " ".join(kind for kind in KINDS if kind in kinds(example, test)) == by


PAGE_OF_ONE = """| row | promise | kinds | tests |
|---|---|---|---|
| H1 | It `holds` a or b. | U P | |
| H2 | It ends. | R | `old.py` U |

| clause | promise | tests |
|---|---|---|
| C1 | Total. | |

| row | host |
|---|---|
| H1 | yes |
"""
FOUND = {
    ("row", "H1"): [
        Evidence("a.py", "test_one", frozenset("P")),
        Evidence("a.py", "test_two", frozenset("SU")),
        Evidence("b.py", "test_three", frozenset("R")),
    ],
    ("clause", "C1"): [Evidence("c.py", "test_four", frozenset("P"))],
}


def test_writing_a_page_changes_its_last_column_alone() -> None:
    new = PAGE_OF_ONE.replace("U P | |", "U P | `a.py` U P S, `b.py` R |").replace("`old.py` U", "")
    assert written(PAGE_OF_ONE, FOUND) == new.replace("| Total. | |", "| Total. | `c.py` P |")


def test_what_is_missing_is_found() -> None:
    assert missing(PAGE_OF_ONE, FOUND) == {("H2", "R")}
    assert missing(PAGE_OF_ONE, {}) == {("H1", "U"), ("H1", "P"), ("H2", "R")}


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8"), evidence()), "utf-8")
