"""What measures the tests is right itself: the table of own tests is whole, faults are where they are said to be."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.proofs.modules import CORE, CORE_TESTS, OWN_TESTS, ROOT, core_tests, dotted, own_tests
from tests.proofs.mutants import interval, mutants, report


def test_every_module_has_tests_of_its_own() -> None:
    modules = {str(path.relative_to(CORE)) for path in CORE.rglob("*.py") if path.name != "__init__.py"}
    assert {module for module in modules if not module.startswith("testing/")} == OWN_TESTS.keys()
    for module in OWN_TESTS:
        for path in own_tests(module):
            assert (ROOT / path).is_file(), path
            assert path.removeprefix("tests/") in CORE_TESTS or path.split("/")[1] in CORE_TESTS
    for path in core_tests():
        assert (ROOT / path).exists(), path


def test_a_module_is_named_as_it_is_imported() -> None:
    assert dotted("wire/frames.py") == "qaws_proto.wire.frames"


def test_a_mutant_is_one_change_within_one_function() -> None:
    found = mutants("trace_context.py")
    assert len(found) > 20
    namespace = vars(__import__(dotted("trace_context.py"), fromlist=["_"]))
    for mutant in found:
        changed = [line for line in mutant.diff().splitlines() if line[0] in "+-"]
        assert changed
        assert mutant.function(namespace).__module__ == dotted("trace_context.py")


def test_what_tests_find_is_told_from_what_they_do_not() -> None:
    known = mutants("clock.py")
    (found,) = [one for one in known if "+        return None if due is not None else due[0]" in one.diff()]
    (same,) = [one for one in known if "+        self._count += 2" in one.diff()]  # any numbers do that go up
    command = [sys.executable, "-m", "tests.proofs.mutants", "--own", "--only", found.name, same.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{found.name} survives" not in done.stdout
    assert f"{same.name} survives" in done.stdout
    assert done.stdout.splitlines()[-2].split() == ["total", "2", "1", "0", "0", "1"]
    assert done.stdout.endswith("score 50.0%\n")


@pytest.mark.parametrize(
    ("found", "tried", "low", "high"), [(90, 100, 0.8256, 0.9448), (100, 100, 0.9630, 1.0), (0, 100, 0.0, 0.0370)]
)
def test_the_interval_is_that_of_wilson(found: int, tried: int, low: float, high: float) -> None:
    assert interval(found, tried) == pytest.approx((low, high), abs=0.0001)


def test_the_score_of_a_sample_has_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {
        "a.py": Counter(own=50, core=9, survives=6),
        "b.py": Counter(own=30, hangs=1, survives=4),
        "c.py": Counter(),
    }
    report(counts, whole=False)
    head, first, second, total, score = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["module", "mutants", "own", "tests", "core", "hangs", "survive"]
    assert first.split() == ["a.py", "65", "50", "9", "0", "6"]
    assert second.split() == ["b.py", "35", "30", "0", "1", "4"]
    assert total.split() == ["total", "100", "80", "9", "1", "10"]
    assert score == "score 90.0% (95 %: 82.6% to 94.5%)"
