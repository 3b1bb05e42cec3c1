"""Reading metrics: over HTTP as a scraper does, and what promtool has to say of them."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import NamedTuple

import anyio.to_thread
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

PROMTOOL = shutil.which("promtool")
PATIENCE = 30  # seconds for promtool

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian's package prometheus)")


def promtool(*arguments: str, text: str = "") -> str:
    """What promtool says, which must be content."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], input=text, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Scraped(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def samples(self) -> Samples:
        """The value of each series."""
        return samples(text_string_to_metric_families(self.text))


def samples(families: Iterable[Metric]) -> Samples:
    """The value of each series, by its name and labels."""
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """The key of a series."""
    return name, frozenset(labels.items())


async def scrape(url: str, method: str = "GET", **headers: str) -> Scraped:
    """Ask over HTTP, in a thread."""
    return await anyio.to_thread.run_sync(_ask, url, method, headers)


def _ask(url: str, method: str, headers: dict[str, str]) -> Scraped:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return Scraped(answer.status, _lower(answer.headers.items()), answer.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Scraped(refused.code, _lower(refused.headers.items()), refused.read().decode())


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}
