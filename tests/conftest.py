"""What every test runs under: the Hypothesis profile that HYPOTHESIS_PROFILE names (dev, ci, short or deep).

Figures that a test has measured (`record_property("figures", …)`) are printed at the end, wherever it has run.
Tests name the promise they keep by `@pytest.mark.row("H1")` and `@pytest.mark.clause("C3")`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings

from qaws_proto import COMPILED

# dev is quick at the desk; ci gives the same verdict every time, on a machine of any speed;
# short is for a further Python, when another one had its full share; deep is for a long night.
settings.register_profile("dev", max_examples=50, deadline=timedelta(seconds=1))
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, print_blob=True)
settings.register_profile("short", max_examples=20, deadline=None, derandomize=True, print_blob=True)
settings.register_profile("deep", max_examples=5000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

#: What shows itself in the source alone: faults planted there, machines taken to pieces by `pickle`, and connections of
#: the Autobahn|Testsuite, which override methods. The rest holds of the compiled core as well.
collect_ignore = ["autobahn", "model/test_exhaustive.py", "proofs", "zoo"] if COMPILED else []


def pytest_configure() -> None:
    """In the environment of `make test-on-compiled`, tests of anything else would show nothing."""
    if Path(sys.prefix).name == "compiled" and not COMPILED:
        raise pytest.UsageError("the core is not compiled here")


def pytest_report_header() -> str:
    """Which core is tested."""
    return f"core: {'compiled' if COMPILED else 'interpreted'}"


def pytest_collection_finish() -> None:
    """Hide from the garbage collector what there is before the first test: many tests let it look at all there is."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is there (CI), a skipped test is a failed one: it says what is missing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured, also those that passed and those that ran in another process."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if name == "figures":
                    terminalreporter.section(f"figures of {report.nodeid}", sep="-")
                    terminalreporter.line(str(value))
