"""Every test of this folder runs over every adapter, by name; `on_byte_servers` keeps one to those that see bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from ..hosts import EVERY, Adapter


@pytest.fixture(params=EVERY)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """The adapter, by its name."""
    return EVERY[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    """The event loop of that adapter."""
    return adapter.backend


@pytest.fixture(autouse=True)
def _nobody_complains(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No host and no event loop has caught a mistake of ours and gone on."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    ours = [record for record in errors if record.name.startswith("qaws.")]
    assert [record for record in errors if record not in ours] == []
    assert [one.getMessage() for one in ours if getattr(one, "event", None) in ("task_failed", "timer_failed")] == []
