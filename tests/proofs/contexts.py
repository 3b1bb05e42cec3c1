"""A pytest plugin: tells coverage which file runs, so that one run tells what each module gets by its own tests."""

from __future__ import annotations

import importlib
from collections.abc import Generator

import coverage
import pytest

from .modules import OWN_TESTS, dotted


def enter(context: str) -> None:
    """What runs from now on belongs to this file."""
    measured = coverage.Coverage.current()
    if measured is not None:  # nothing is measured in the process that hands out the tests
        measured.switch_context(context)


def pytest_sessionstart() -> None:
    """Import the core before any file does, so that its definitions belong to none."""
    for module in OWN_TESTS:
        importlib.import_module(dotted(module))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    enter(collector.nodeid.partition("::")[0] if isinstance(collector, pytest.Module) else "")
    report = yield
    enter("")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    enter(item.nodeid.partition("::")[0])
    result = yield
    enter("")
    return result
