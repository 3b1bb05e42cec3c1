"""Numbers for people: medians with their spread, Markdown tables, and the machine they come from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .processes import node_packages


class Spread(NamedTuple):
    """The median of some measurements of one thing, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        held = list(values)
        return cls(median(held), min(held), max(held))

    def text(self, digits: int = 0) -> str:
        """Such as `12,345 (12,001 to 12,600)`."""
        middle, low, high = (f"{value:,.{digits}f}" for value in self)
        return f"{middle} ({low} to {high})"


class Target(NamedTuple):
    """What a figure should be: at least so much, or at most."""

    value: float
    most: bool = False

    def text(self) -> str:
        """Such as `≥ 1.1`."""
        return f"{'≤' if self.most else '≥'} {self.value:g}"

    def met_by(self, figure: float) -> bool:
        """Whether a figure is as it should be."""
        return figure <= self.value if self.most else figure >= self.value


class Goal(NamedTuple):
    """A line of the table of targets: what is aimed at, and what was reached against whom."""

    what: str
    target: Target
    reached: Spread | None  # None: there was nothing to measure against
    against: str

    @property
    def met(self) -> bool:
        """Whether the median reaches the target."""
        if self.reached is None:
            return False
        return self.target.met_by(self.reached.median)

    def row(self) -> list[str]:
        """The cells of its line."""
        if self.reached is None:
            return [self.what, self.target.text(), "not measured", self.against, ""]
        return [self.what, self.target.text(), self.reached.text(2), self.against, "" if self.met else "not reached"]


GOAL_HEADERS = ("what", "target", "reached", "against", "")


def at_least(value: float) -> Target:
    """A figure that should be as high as this."""
    return Target(value)


def at_most(value: float) -> Target:
    """A figure that should be as low as this."""
    return Target(value, most=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rule, *rows))


def installed(package: str) -> str | None:
    """The version of a distribution, or of `npm:package`; None where it is not installed."""
    if package.startswith("npm:"):
        return _installed_for_node(package.removeprefix("npm:"))
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _installed_for_node(package: str) -> str | None:
    manifest = node_packages() / "node_modules" / package / "package.json"
    if shutil.which("node") is None or not manifest.exists():
        return None
    return str(json.loads(manifest.read_text("utf-8"))["version"])


def versions(packages: Iterable[str]) -> str:
    """Such as `uvicorn 0.1, fastapi 0.2`."""
    return ", ".join(f"{package.removeprefix('npm:')} {installed(package) or '(missing)'}" for package in packages)


def machine() -> str:
    """What the figures depend on, without the names of hosts or paths."""
    uvloop = installed("uvloop")
    parts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"uvloop {uvloop}" if uvloop else "asyncio's own loop (uvloop is not installed)",
        versions(("pydantic", "PyJWT")),
        *_node(),
        f"{platform.system()} {platform.machine()}",
        f"{os.cpu_count()} cores",
        *_processor(),
        *_load(),
    ]
    return "; ".join(parts)


def _node() -> list[str]:
    node = shutil.which("node")
    if node is None:
        return []
    return [f"Node.js {subprocess.run([node, '--version'], capture_output=True, text=True, check=True).stdout.strip()}"]


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][:1]


def _load() -> list[str]:
    """How busy the machine was already: figures of a busy one are noisy."""
    return [f"load average before {os.getloadavg()[0]:.1f}"] if hasattr(os, "getloadavg") else []
