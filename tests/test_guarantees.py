"""docs/guarantees.md lists every promise with the tests that keep it: the page and the marks of the tests agree.

`python -m tests.test_guarantees` writes the tests of each row into the page anew.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"
ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| ?(.*?) ?\|$", re.MULTILINE)
MARKS = ("row", "clause")

Promise = tuple[str, str]  # the mark, and the id in it


def marks(source: str) -> Iterator[Promise]:
    """Every `pytest.mark.row("…")` and `pytest.mark.clause("…")` of a module, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MARKS):
            continue
        if ast.unparse(node.func.value) not in ("pytest.mark", "mark"):
            continue
        assert node.args, "a mark names its row"
        for argument in node.args:
            assert isinstance(argument, ast.Constant), f"line {node.lineno}: a mark names its row by a literal"
            yield node.func.attr, str(argument.value)


def marked() -> dict[Promise, list[str]]:
    """The files of the tests that keep each promise, as the page names them."""
    found: defaultdict[Promise, list[str]] = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        if file == Path(__file__):
            continue
        for promise in sorted(set(marks(file.read_text("utf-8")))):
            found[promise].append(file.relative_to(TESTS.parent).as_posix())
    return dict(found)


def kind(page: str, at: int) -> str:
    """Which mark the table at a place of the page is of."""
    heads = re.findall(r"^\| (row|clause) \|", page[:at], re.MULTILINE)
    return str(heads[-1])


def listed(page: str) -> dict[Promise, list[str]]:
    """The promises of the page, with the tests that it names."""
    rows = [((kind(page, row.start()), row[1]), re.findall(r"`([^`]+)`", row[3])) for row in ROW.finditer(page)]
    promises = [promise for promise, _ in rows]
    assert len(set(promises)) == len(promises), "a promise stands once"
    return dict(rows)


def written(page: str, tests: dict[Promise, list[str]]) -> str:
    """The page with these tests in it."""

    def row(match: re.Match[str]) -> str:
        files = tests.get((kind(page, match.start()), match[1]), [])
        return f"| {match[1]} | {match[2]} | {', '.join(f'`{file}`' for file in files)} |"

    return ROW.sub(row, page)


def test_every_promise_has_a_test_and_every_mark_a_promise() -> None:
    promised, kept = set(listed(PAGE.read_text("utf-8"))), set(marked())
    assert {"promises without a test": sorted(promised - kept), "marks without a promise": sorted(kept - promised)} == {
        "promises without a test": [],
        "marks without a promise": [],
    }


def test_the_page_names_the_files_of_the_tests() -> None:
    assert listed(PAGE.read_text("utf-8")) == marked(), "python -m tests.test_guarantees writes them anew"


def test_marks_are_found_wherever_they_stand() -> None:
    source = """
pytestmark = pytest.mark.row("H1")
@pytest.mark.row("H2")
@pytest.mark.clause("C3")
def test_it(): ...
CASES = [pytest.param(1, marks=[pytest.mark.row("H3", "H4")])]
table.row("no mark")
"""
    assert sorted(marks(source)) == [("clause", "C3"), ("row", "H1"), ("row", "H2"), ("row", "H3"), ("row", "H4")]


def test_writing_a_page_changes_its_last_column_alone() -> None:
    page = "| row | promise | tests |\n|---|---|---|\n| H1 | It `holds` a or b. | |\n| H2 | It ends. | `old.py` |\n"
    assert written(page, {("row", "H1"): ["a.py", "b.py"]}) == (
        "| row | promise | tests |\n|---|---|---|\n| H1 | It `holds` a or b. | `a.py`, `b.py` |\n| H2 | It ends. |  |\n"
    )


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8"), marked()), "utf-8")
