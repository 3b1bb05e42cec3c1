"""Which tests keep a promise, and by what means: read from the sources of the tests, which are not imported.

A test is marked by `pytest.mark.row("H1")` or `pytest.mark.clause("C3")`: on itself, its module, or one of its cases.
What it reaches by name, through fixtures and helpers of any module of the tests and benchmarks, says by what means it
judges. Cases of the Autobahn|Testsuite are no tests of pytest: which of them keep which row is a table of its own, and
a run of the suite fails where one of them does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.autobahn.verdicts import PROOFS

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
MARKS = ("row", "clause")

#: Each kind of evidence, in the order in which it is told.
KINDS = {
    "U": "unit: chosen values",
    "P": "property: values that Hypothesis looks for",
    "S": "simulated world: whole nodes and clients in virtual time",
    "R": "real sockets and processes, through the real adapters",
    "A": "Autobahn",
}
#: What a test of a kind reaches: the name itself, or one within it.
PROPERTIES = ("hypothesis.given", "hypothesis.stateful.RuleBasedStateMachine")
WORLDS = (
    "qaws_proto.testing.node.NodeUnderTest", "qaws_proto.testing.world.World", "qaws_proto.testing.simulation.simulate",
    "tests.client.pipe.World", "tests.client.scripted.ClientUnderTest",
)  # fmt: skip
REAL = (
    "socket.socket", "socket.create_connection", "socket.create_server", "socket.socketpair", "subprocess",
    "urllib.request", "anyio.connect_tcp", "anyio.connect_unix", "anyio.create_tcp_listener", "anyio.open_process",
    "anyio.run_process", "asyncio.open_connection", "asyncio.start_server", "asyncio.create_subprocess_exec",
    "qaws.WebSocketServer", "qaws.anyio_server", "qaws.asyncio_server",
)  # fmt: skip

Promise = tuple[str, str]  # the mark, and the id in it


class Evidence(NamedTuple):
    """One test of a promise."""

    file: str  # as the page names it
    test: str
    kinds: frozenset[str]


class Module(NamedTuple):
    """What a module of the tests defines, and the full names of what it imports."""

    name: str
    tree: ast.Module
    defined: dict[str, ast.stmt]
    imported: dict[str, str]


# ── promises ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def evidence() -> dict[Promise, list[Evidence]]:
    """The tests of each promise, by file and in their order there."""
    found = _tests()
    for row, proof in PROOFS.items():
        cases = Evidence("tests/autobahn/verdicts.py", ", ".join(proof.cases), frozenset("A"))
        found[("row", row)] = sorted([*found.get(("row", row), []), cases], key=lambda one: one.file)
    return found


def _tests() -> dict[Promise, list[Evidence]]:
    found: dict[Promise, list[Evidence]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        if file.name == "test_guarantees.py":  # what it has of marks are examples
            continue
        name = file.relative_to(ROOT).as_posix()
        module = _module(_dotted(file))
        assert module is not None
        for test, promises in marked(module).items():
            one = Evidence(name, test, kinds(module, test))
            for promise in sorted(promises):
                found.setdefault(promise, []).append(one)
    return found


def marked(module: Module) -> dict[str, set[Promise]]:
    """The promises of each test of a module. Every mark belongs to a test."""
    tests = {name: node for name, node in module.defined.items() if _is_test(node, name)}
    given = {name: set(_marks(node)) for name, node in module.defined.items()}
    everywhere = given.pop("pytestmark", set())
    kept: dict[str, set[Promise]] = {}
    for name, node in tests.items():
        decorators = getattr(node, "decorator_list", [])
        cases = [given[used.id] for one in decorators for used in _names(one) if used.id in given]
        kept[name] = set().union(everywhere, given[name], *cases)
    lost = set(_marks(module.tree)).difference(*kept.values())
    assert not lost, f"{module.name}: {sorted(lost)} marks no test"
    return kept


def _is_test(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return name.startswith("test_")
    return isinstance(node, ast.Assign) and name.startswith("Test")  # of a state machine


def _marks(node: ast.AST) -> Iterator[Promise]:
    for one in ast.walk(node):
        if not (isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr in MARKS):
            continue
        if ast.unparse(one.func.value) not in ("pytest.mark", "mark"):
            continue
        assert one.args, f"line {one.lineno}: a mark names its row"
        for argument in one.args:
            assert isinstance(argument, ast.Constant), f"line {one.lineno}: a mark names its row by a literal"
            yield one.func.attr, str(argument.value)


# ── kinds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def kinds(module: Module, test: str) -> frozenset[str]:
    """By what means a test judges: real sockets, else a simulated world; a property in either; or values alone."""
    reached = reach(module, test)
    found = set()
    if _any(reached, PROPERTIES):
        found.add("P")
    if _any(reached, REAL):
        found.add("R")
    elif _any(reached, WORLDS):
        found.add("S")
    return frozenset(found or "U")


def _any(reached: set[str], of: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for name in reached for one in of)


def reach(module: Module, name: str) -> set[str]:
    """The full name of all that something of a module names, and what that names in turn."""
    reached: set[str] = set()
    waiting = [f"{module.name}.{name}"]
    known = {module.name: module}
    while waiting:
        full = waiting.pop()
        if full in reached:
            continue
        reached.add(full)
        home, _, last = full.rpartition(".")
        found = known.get(home) or _module(home)
        if found is not None and last in found.defined:
            waiting += _used(found, found.defined[last])
    return reached


def _used(module: Module, node: ast.stmt) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Name | ast.Attribute):
            dotted = ast.unparse(one)
            first, _, rest = dotted.partition(".")
            if first in module.imported:
                yield f"{module.imported[first]}.{rest}" if rest else module.imported[first]
            elif first in module.defined:
                yield f"{module.name}.{first}"
        elif isinstance(one, ast.arg):  # a fixture, maybe
            yield from _fixture(module, one.arg)


def _fixture(module: Module, name: str) -> Iterator[str]:
    """What a parameter stands for: a fixture of the module, what it imported, or of the nearest conftest."""
    if name in module.imported:
        yield module.imported[name]
        return
    folder = module.name
    homes = [module]
    while "." in folder:
        folder = folder.rpartition(".")[0]
        if (conftest := _module(f"{folder}.conftest")) is not None:
            homes.append(conftest)
    for home in homes:
        if name in home.defined and _is_fixture(home.defined[name]):
            yield f"{home.name}.{name}"
            return


def _is_fixture(node: ast.stmt) -> bool:
    return any("fixture" in ast.unparse(one) for one in getattr(node, "decorator_list", []))


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _module(name: str) -> Module | None:
    """A module of the tests, or of what they drive, by its full name; None where there is none."""
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if name.startswith(("tests", "benchmarks")) and file.is_file():
            return read(name, file.read_text("utf-8"), package=file.name == "__init__.py")
    return None


def read(name: str, source: str, *, package: bool = False) -> Module:
    """A module from its source."""
    tree = ast.parse(source)
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined.update({one.id: node for target in targets for one in _names(target)})
    for one in ast.walk(tree):  # some are imported within functions
        if isinstance(one, ast.Import):
            imported.update({alias.asname or alias.name.split(".")[0]: alias.name if alias.asname
                             else alias.name.split(".")[0] for alias in one.names})  # fmt: skip
        elif isinstance(one, ast.ImportFrom):
            home = _home(name, one, package)
            imported.update({alias.asname or alias.name: f"{home}.{alias.name}" for alias in one.names})
    return Module(name, tree, defined, imported)


def _home(name: str, node: ast.ImportFrom, package: bool) -> str:
    """The full name of what a module imports from."""
    if not node.level:
        return str(node.module)
    parts = name.split(".")
    parts = parts[: len(parts) - node.level + package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Name))


def _dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)
