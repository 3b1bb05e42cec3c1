"""What a benchmark can be asked for on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

SMALL = 400  # of whatever grows: fewer say nothing


class OptionsError(ValueError):
    """The command line cannot be understood; the text is one line."""


@dataclass(frozen=True, slots=True)
class Options:
    """The size of a measurement; the same words for every benchmark."""

    connections: int
    in_flight: tuple[int, ...]
    seconds: float
    rounds: int
    minutes: float = 10.0
    readers: int = 1000
    crowd: int = 5000
    largest: int = 100_000  # connections, sessions or events, up to which growth is measured
    peers: tuple[str, ...] = ()  # names; none: all
    plots: Path | None = None  # a folder
    page: Path | None = None  # a file with a place for figures
    write: bool = False  # the baseline


def parse(arguments: Sequence[str], names: Sequence[str], peers: Sequence[str] = ()) -> tuple[str, Options]:
    """What is asked for, one of `names`, and its size. Raises OptionsError."""
    parser = _Parser(prog="python -m benchmarks", description="Measure the gateway and its peers.")
    parser.add_argument("name", metavar="|".join(names), help="what to measure")
    parser.add_argument("--connections", type=_count, default=64, metavar="N", help="open connections, a user each")
    parser.add_argument(
        "--in-flight", type=_count, nargs="+", default=[1, 16], metavar="N",
        help="messages that a connection has unanswered; several give a table each",
    )  # fmt: skip
    parser.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="length of one measurement")
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="measurements of each server")
    parser.add_argument("--minutes", type=_seconds, default=10.0, metavar="M", help="length of a soak")
    parser.add_argument("--readers", type=_count, default=1000, metavar="N", help="connections that hear one session")
    parser.add_argument("--crowd", type=_count, default=5000, metavar="N", help="clients that come at once")
    parser.add_argument(
        "--largest", type=partial(_count, least=SMALL), default=100_000, metavar="N",
        help="connections, sessions or events up to which growth is measured",
    )  # fmt: skip
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="servers to measure; all by default")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw SVG files there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write what is printed where this page has figures")
    parser.add_argument("--write", action="store_true", help="make the instructions counted the baseline")
    found = parser.parse_args(arguments)
    if found.name not in names:
        raise OptionsError(f"there is no benchmark {found.name!r}; there are {', '.join(names)}")
    if unknown := [peer for peer in found.peers if peer not in peers]:
        raise OptionsError(f"there is no server {unknown[0]!r}; there are {', '.join(peers)}")
    found.in_flight, found.peers = tuple(found.in_flight), tuple(found.peers)
    return found.name, Options(**{name: getattr(found, name) for name in Options.__slots__})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong without repeating the usage: one line is enough."""
        raise OptionsError(message)


def _count(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, above 0 and up to 3600")
    return value
