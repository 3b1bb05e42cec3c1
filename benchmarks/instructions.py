"""How many instructions the core takes for each scenario, against a baseline: a gate that no busy machine moves.

    python -m benchmarks instructions           # fails where one differs by more than 3 %, to either side
    python -m benchmarks instructions --write   # makes what is counted the baseline

valgrind counts; nothing is timed. What is counted belongs to an interpreter, its libraries and a machine architecture,
which the baseline names.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from .options import Options
from .processes import ROOT
from .report import Goal, installed, table
from .scenarios import SCENARIOS, Scenario

BASELINE = Path(__file__).with_name("instructions.json")
COUNTED = "benchmarks.scenarios"
TOLERANCE = 0.03  # of the baseline; the same code laid out otherwise in memory differs by a hundredth
PATIENCE = 600.0  # seconds for all of it
PACKAGES = ("pydantic", "pydantic-core", "wsproto", "h11", "PyJWT", "cryptography")
HEADERS = ("scenario", "instructions", "baseline", "difference")
RENEW = "python -m benchmarks instructions --write"
SUMMARY = re.compile(r"^summary: (\d+)", re.MULTILINE)


class CountError(RuntimeError):
    """Nothing can be counted, or nothing compared, or too much has changed; the text says what to do."""


class Baseline(NamedTuple):
    """What was counted, by scenario, and with what."""

    belongs_to: Mapping[str, str]
    counts: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """The committed one. Raises CountError where there is none."""
        try:
            held = json.loads(path.read_text())
        except FileNotFoundError:
            raise CountError(f"there is no baseline: write one with `{RENEW}`") from None
        return cls(held["belongs_to"], held["counts"])

    def write(self, path: Path) -> None:
        """Make it the committed one."""
        path.write_text(json.dumps(self._asdict(), indent=2) + "\n")


def run(options: Options) -> list[Goal]:
    """Count, and compare with the baseline, or renew it. Raises CountError."""
    if options.write:
        counted = Baseline(here(), count())
        counted.write(BASELINE)
        print(report(counted.counts, counted), end="\n\n")
        print(f"The baseline is written to {BASELINE.relative_to(ROOT)}: commit it.", flush=True)
    else:
        baseline = Baseline.read(BASELINE)
        check_alike(baseline.belongs_to, here())  # before it takes a minute to count
        compare(count(), baseline)
    return []


def compare(counts: Mapping[str, int], baseline: Baseline) -> None:
    """Print both. Raises CountError where they differ too much."""
    print(report(counts, baseline), end="\n\n", flush=True)
    judge(counts, baseline.counts)


def report(counts: Mapping[str, int], baseline: Baseline) -> str:
    """A table for people."""
    rows = [_row(name, counted, baseline.counts.get(name)) for name, counted in counts.items()]
    with_what = ", ".join(f"{name} {version}" for name, version in baseline.belongs_to.items())
    return f"### instructions of one operation\n\n{with_what}.\n\n{table(HEADERS, rows)}"


def _row(name: str, counted: int, baseline: int | None) -> list[str]:
    if baseline is None:
        return [name, f"{counted:,}", "none", ""]
    return [name, f"{counted:,}", f"{baseline:,}", f"{counted / baseline - 1:+.2%}"]


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def judge(counts: Mapping[str, int], baseline: Mapping[str, int]) -> None:
    """Raises CountError where a scenario takes more than 3 % more than the baseline says, or less, or has none."""
    if counts.keys() != baseline.keys():
        raise CountError(f"the baseline has other scenarios than there are: renew it with `{RENEW}`, and commit it")
    changes = {name: counted / baseline[name] - 1 for name, counted in counts.items()}
    slower = [f"{name} ({change:+.1%})" for name, change in changes.items() if change > TOLERANCE]
    faster = [f"{name} ({change:+.1%})" for name, change in changes.items() if change < -TOLERANCE]
    if slower:
        raise CountError(
            f"slower than the baseline allows: {', '.join(slower)}. Find what costs it; where it is worth that, renew "
            f"the baseline with `{RENEW}`, and say in the commit why"
        )
    if faster:
        raise CountError(
            f"faster than the baseline: {', '.join(faster)}. Renew it with `{RENEW}`, and commit it, so that what was "
            "won is not lost again unseen"
        )


def here() -> dict[str, str]:
    """What counts depend on beside our own code."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        platform.python_implementation(): ".".join(platform.python_version_tuple()[:2]),
        "built with": f"{platform.python_compiler()}{', optimised by profile' if optimised else ''}",
        "for": platform.machine(),
        **{package: installed(package) or "(missing)" for package in PACKAGES},
    }


def check_alike(of_baseline: Mapping[str, str], of_here: Mapping[str, str]) -> None:
    """Raises CountError where the baseline belongs to something else than what is here."""
    names = sorted(of_baseline.keys() | of_here.keys())
    differ = [
        f"{name}: {of_baseline.get(name, 'none')} there, {of_here.get(name, 'none')} here"
        for name in names
        if of_baseline.get(name) != of_here.get(name)
    ]
    if differ:
        raise CountError(
            f"the baseline belongs to something else ({'; '.join(differ)}): its counts cannot be compared. Use what it "
            f"was written with, or renew it with `{RENEW}` on the code before your change, and compare with that"
        )


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def count() -> dict[str, int]:
    """The instructions of one operation of each scenario. Raises CountError where valgrind is missing or fails."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CountError("valgrind is not installed: apt-get install valgrind")
    _python("-c", f"import {COUNTED}")  # or the first one would compile: memory is laid out otherwise after that
    with TemporaryDirectory() as folder:
        options = ("--cache-sim=no", "--branch-sim=no", "--quiet", f"--cachegrind-out-file={folder}/%p",
                   "--log-file=/dev/null")  # fmt: skip
        said = _python("-m", COUNTED, under=(valgrind, "--tool=cachegrind", *options))
        processes = [json.loads(line) for line in said.splitlines()]
        return {
            scenario.name: _difference(Path(folder), scenario, *both)
            for scenario, both in zip(SCENARIOS, processes, strict=True)
        }


def _python(*arguments: str, under: Sequence[str] = ()) -> str:
    """What Python says. Raises CountError where it fails."""
    command = [*under, sys.executable, *arguments]
    try:
        ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise CountError(f"counting has not ended in {PATIENCE:.0f} s") from None
    if ended.returncode:
        raise CountError(f"counting failed with status {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return ended.stdout


def environment() -> dict[str, str]:
    """What the counted process finds: as little as may be, since all of it could move something."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}


def _difference(folder: Path, scenario: Scenario, few: int, many: int) -> int:
    """Instructions of one operation: what more of them took in one process, and nothing that both did."""
    difference = _total(folder / str(many)) - _total(folder / str(few))
    return round(difference / (scenario.many - scenario.few))


def _total(path: Path) -> int:
    found = SUMMARY.search(path.read_text())
    if found is None:
        raise CountError(f"valgrind has written no sum: {path.read_text()[:200]!r}")
    return int(found[1])
