"""Branch coverage of the core by the tests of the core; `--each` adds what each module gets by its own tests alone.

Hypothesis draws the same examples every time here, so the figure is the same every time. Fails where a line or a branch
of the core is not reached.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import coverage

from .modules import CORE, OWN_TESTS, ROOT, SELECTED, core_tests, own_tests


def measure(data: Path) -> int:
    """Run the tests of the core, on every CPU; pytest's exit code."""
    command = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        "-m",
        "pytest",
        "-q",
        "-n",
        "auto",
        "-p",
        "tests.proofs.contexts",
    ]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "short", "COVERAGE_FILE": str(data)}
    return subprocess.run([*command, "-k", SELECTED, *core_tests()], cwd=ROOT, env=environment, check=False).returncode


def share(measured: coverage.Coverage, module: str, contexts: Sequence[str] | None) -> tuple[float, str]:
    """Percent of a module's lines and branches that were reached in these contexts, and what was not."""
    text = io.StringIO()
    # A context is a regular expression. The empty one stands for definitions, which are run when the core is imported.
    reached = None if contexts is None else [f"^{context}$" for context in contexts]
    path = str(CORE / module)
    percent = measured.report([path], contexts=reached, show_missing=True, file=text)
    return percent, text.getvalue().splitlines()[2].partition("%")[2].strip()


def main(arguments: Sequence[str]) -> int:
    """Measure, print what is not reached, and fail where that is anything."""
    parser = argparse.ArgumentParser(prog="make coverage", description="Branch coverage of the core.")
    parser.add_argument("--each", action="store_true", help="also by each module's own tests alone")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "coverage")
        if measure(data) != 0:
            return 1
        measured = coverage.Coverage(data_file=str(data), config_file=str(ROOT / "pyproject.toml"))
        measured.combine([folder])
        if options.each:
            print(f"\n{'module':28} {'own tests':>9} {'all':>6}  not reached by its own tests")
            for module in OWN_TESTS:
                own, missing = share(measured, module, ["", *own_tests(module)])
                print(f"{module:28} {own:9.1f} {share(measured, module, None)[0]:6.1f}  {missing}")
        print()
        total = measured.report(show_missing=True, skip_covered=True)
        return 0 if total == 100 else 1


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main(sys.argv[1:]))
