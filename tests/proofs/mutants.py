"""Does a test fail when the core is wrong? One small fault at a time (a mutant), and the tests that should find it.

`python -m tests.proofs.mutants wire/frames.py clock.py` tries every mutant of these modules; `--sample 300 --seed 1` so
many of them, or of the whole core, as that seed draws them. mutmut says which mutants there are: in functions and
methods, not in properties, nor in what stands outside of functions. They are run here and not by `mutmut run`, which
knows one order of tests, the fastest first, and draws no sample. Here a mutant meets its module's own tests, and where
it survives those, the tests of the core. What survives its own tests is shown as a diff.

Each mutant is tried in a process of its own, forked from this one, in which everything has been imported. For the own
tests only the function with the fault is exchanged; for those of the core, all is imported anew.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from math import sqrt
from types import FunctionType, ModuleType
from typing import Any

import libcst
import pytest
from mutmut.mutation.file_mutation import Mutation, create_mutations, deep_replace

from .modules import CORE, OWN_TESTS, ROOT, SELECTED, core_tests, dotted, own_tests

SLOWEST = 10  # times as long as without a fault, and as many seconds: then it hangs
MEMORY = 4 << 30  # bytes; a fault may let something grow without end
UNFIT = 99  # the exit code of a process in which a fault could not be planted
PYTEST = (
    "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "timeout=0", "-k", SELECTED,
    "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault in one module."""

    module: str  # its path within the core
    number: int
    tree: libcst.Module
    mutation: Mutation

    @property
    def name(self) -> str:
        return f"{self.module}:{self.number}"

    def function(self, namespace: Mapping[str, Any]) -> FunctionType:
        """The function that it is in, among the names of the module."""
        inside = self.mutation.contained_by_top_level_function
        assert inside is not None
        for statement in self.tree.body:
            if statement is inside:
                return plain(namespace[statement.name.value])
            if isinstance(statement, libcst.ClassDef) and inside in statement.body.body:
                return plain(vars(namespace[statement.name.value])[inside.name.value])
        raise LookupError(self.name)

    def source(self) -> str:
        """The module with the fault."""
        changed = deep_replace(self.tree, self.mutation.original_node, self.mutation.mutated_node)
        assert isinstance(changed, libcst.Module)
        return changed.code

    def diff(self) -> str:
        """What it changes, in two lines of context."""
        before, after = self.tree.code.splitlines(), self.source().splitlines()
        return "\n".join(list(difflib.unified_diff(before, after, lineterm="", n=2))[2:])


def plain(function: Any) -> FunctionType:
    """A function without what makes it a static or a class method."""
    bare = getattr(function, "__func__", function)
    assert isinstance(bare, FunctionType)
    return bare


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module."""
    path = CORE / module
    tree, mutations, *_ = create_mutations(str(path), path.read_text())
    inside = [one for one in mutations if isinstance(one.contained_by_top_level_function, libcst.FunctionDef)]
    return [Mutant(module, number, tree, mutation) for number, mutation in enumerate(inside)]


class Planted(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from a text instead of its file."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._name else None

    def get_source(self, fullname: str) -> str:
        return self._source


def exchange(mutant: Mutant) -> None:
    """Give the function with the fault its faulty code, wherever it is in use."""
    name = dotted(mutant.module)
    faulty = ModuleType(name)
    faulty.__package__ = name.rpartition(".")[0]
    code = compile(mutant.source(), mutant.module, "exec")
    try:
        exec(code, vars(faulty))
    except Exception:  # what cannot be imported is noticed
        os._exit(pytest.ExitCode.INTERNAL_ERROR)
    function, other = (mutant.function(vars(module)) for module in (sys.modules[name], faulty))
    if function.__code__.co_freevars != other.__code__.co_freevars:  # such as the fault took a `super()` away
        import_anew(mutant)
        return
    function.__code__ = other.__code__
    function.__defaults__, function.__kwdefaults__ = other.__defaults__, other.__kwdefaults__


def import_anew(mutant: Mutant) -> None:
    """Forget what was imported of the core and of the tests; when it is imported again, the fault is in it."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("qaws_proto", "tests"):
            del sys.modules[name]
    sys.meta_path.insert(0, Planted(dotted(mutant.module), mutant.source()))


def run(tests: Sequence[str], seconds: float, plant: Callable[[], None] = lambda: None) -> int:
    """Fork a process that plants a fault and runs tests; its number. It ends with pytest's exit code, or by SIGALRM."""
    pid = os.fork()
    if pid:
        return pid
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    code = UNFIT
    try:
        plant()
        code = int(pytest.main([*PYTEST, "-x", *tests]))
    finally:
        os._exit(code)


def clean(tests: Sequence[str]) -> float:
    """How many seconds these tests take where there is no fault."""
    began = time.monotonic()
    _, status = os.waitpid(run(tests, 3600), 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"these tests fail without a fault: {' '.join(tests)}")
    return time.monotonic() - began


def verdicts(
    chosen: Sequence[Mutant], tests: Callable[[str], Sequence[str]], plant: Callable[[Mutant], None], jobs: int
) -> Iterator[tuple[Mutant, str]]:
    """Try each on its tests: `killed`, `hangs` or `survives`, as they end."""
    limits: dict[tuple[str, ...], float] = {}
    running: dict[int, Mutant] = {}
    waiting = list(reversed(chosen))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            selected = tuple(tests(mutant.module))
            if selected not in limits:
                limits[selected] = SLOWEST * (1 + clean(selected))
            running[run(selected, limits[selected], partial(plant, mutant))] = mutant
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        if code in (UNFIT, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise SystemExit(f"{running[pid].name} cannot be tried: exit code {code}")
        yield running.pop(pid), "survives" if code == 0 else "hangs" if code == -signal.SIGALRM else "killed"


def interval(found: int, tried: int) -> tuple[float, float]:
    """Between which shares the true one is, with 95 % confidence (Wilson)."""
    z, share = 1.96, found / tried
    middle, spread = share + z * z / (2 * tried), z * sqrt(share * (1 - share) / tried + z * z / (4 * tried * tried))
    return (middle - spread) / (1 + z * z / tried), (middle + spread) / (1 + z * z / tried)


def main(arguments: Sequence[str]) -> int:
    """Try mutants, show those that survive, and print the score."""
    parser = argparse.ArgumentParser(prog="make mutate", description="Small faults in the core: do tests find them?")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as wire/frames.py; without one, the core")
    parser.add_argument("--sample", type=int, metavar="N", help="try so many of them")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which ones (0)")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=(), help="try these, such as clock.py:39")
    parser.add_argument("--own", action="store_true", help="on their own tests alone, which is quick")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="so many at once")
    options = parser.parse_args(arguments)

    modules = options.modules or dict.fromkeys(name.partition(":")[0] for name in options.only) or OWN_TESTS
    known = [one for module in modules for one in mutants(module) if not options.only or one.name in options.only]
    chosen = known
    if options.sample is not None and options.sample < len(known):
        chosen = random.Random(options.seed).sample(known, options.sample)
    print(f"{len(chosen)} of {len(known)} mutants", flush=True)
    counts: dict[str, Counter[str]] = {module: Counter() for module in OWN_TESTS}
    try:
        attempt(chosen, counts, options.jobs, core=not options.own)
    except KeyboardInterrupt:  # they come in the order in which they were drawn: what was tried is a sample, too
        print("stopped", flush=True)
    report(counts, whole=sum(count.total() for count in counts.values()) == len(known))
    return 0


def attempt(chosen: Sequence[Mutant], counts: dict[str, Counter[str]], jobs: int, *, core: bool) -> None:
    """Try mutants, on the tests of the core those that survive their own, and count what becomes of them."""
    os.environ["HYPOTHESIS_PROFILE"] = "short"
    files = dict.fromkeys(path for mutant in chosen for path in own_tests(mutant.module))
    with open(os.devnull, "w") as silence, redirect_stdout(silence):
        pytest.main([*PYTEST, "--collect-only", *files])  # imports them
    gc.freeze()

    left = []
    for number, (mutant, verdict) in enumerate(verdicts(chosen, own_tests, exchange, jobs), 1):
        counts[mutant.module]["own" if verdict == "killed" else verdict] += 1
        print(f"{number} {mutant.name} {verdict}", file=sys.stderr, flush=True)
        if verdict == "survives":
            left.append(mutant)
            print(f"\n{mutant.name} survives its own tests\n{mutant.diff()}", flush=True)
    for mutant, verdict in verdicts(left if core else (), lambda module: core_tests(), import_anew, jobs):
        counts[mutant.module]["core" if verdict == "killed" else verdict] += 1
        counts[mutant.module]["survives"] -= 1
        print(f"{mutant.name} {verdict}: tests of the core", flush=True)


def report(counts: dict[str, Counter[str]], *, whole: bool) -> None:
    """Print the table and the score."""
    print(f"\n{'module':28} {'mutants':>7} {'own tests':>9} {'core':>6} {'hangs':>6} {'survive':>7}")
    total = sum(counts.values(), Counter[str]())
    for module, count in {**counts, "total": total}.items():
        if count.total():
            row = (count["own"], count["core"], count["hangs"], count["survives"])
            print(f"{module:28} {count.total():7} {row[0]:9} {row[1]:6} {row[2]:6} {row[3]:7}")
    found = total.total() - total["survives"]
    low, high = interval(found, total.total())
    print(f"score {found / total.total():.1%}" + ("" if whole else f" (95 %: {low:.1%} to {high:.1%})"))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    raise SystemExit(main(sys.argv[1:]))
