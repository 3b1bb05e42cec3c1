"""The core as extension modules: what is compiled is what pyproject.toml names, and it can be told."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from qaws_proto import COMPILED

ROOT = Path(__file__).parent.parent


def named() -> Iterator[str]:
    """The modules that the build hook compiles."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    for pattern in hook["include"]:
        found = [file for file in ROOT.glob(pattern.removeprefix("/")) if file.name not in hook["exclude"]]
        assert found, f"{pattern} names nothing"
        yield from (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in found)


def test_every_module_that_is_to_be_compiled_is_so_and_else_none() -> None:
    files = {name: str(import_module(name).__file__) for name in named()}
    assert {name for name, file in files.items() if not file.endswith(".py")} == (set(files) if COMPILED else set())
