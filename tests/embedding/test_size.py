"""The examples stay as small as they are said to be."""

from __future__ import annotations

import ast

from tests.embedding.served import README, SOCKETS
from tests.test_docs import blocks


def logic(text: str) -> int:
    """Lines that are not blank, no comment, no import and no docstring."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if isinstance(node, ast.stmt) and (said or isinstance(node, ast.Import | ast.ImportFrom)):
            skipped.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(number not in skipped and line.strip()[:1] not in ("", "#") for number, line in lines)


def test_a_whole_server_takes_sixty_lines() -> None:
    assert logic('"""What\n\nfor"""\nimport os\n\n# why\nx = (\n    1)  # one\n"a" "b"\nf("c")') == 3
    assert logic(SOCKETS.text) <= 60
    assert max(map(len, SOCKETS.text.splitlines())) <= 120
    statements = [node.lineno for node in ast.walk(ast.parse(SOCKETS.text)) if isinstance(node, ast.stmt)]
    assert len(statements) == len(set(statements)), "each has a line of its own"


def test_the_readme_drives_a_node_in_ten_lines() -> None:
    [block] = [block for block in blocks(README) if "gateway.step(" in block.text]
    assert block.info == "python"
    assert len(list(filter(str.strip, block.text.splitlines()))) <= 10
