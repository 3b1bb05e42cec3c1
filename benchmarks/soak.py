"""`python -m benchmarks soak --minutes 10`: a constant load, honest and abusive; whether anything grows under it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from .abuse import ABUSES
from .crowd import Plan, Tally, drive
from .crowd_server import serving, settings, tokens
from .options import Options
from .peers.work import Terms
from .report import table
from .watching import Sample, Slope, percentile

MISBEHAVING = 8  # honest clients for each abusive one of a kind
SETTLING = 0.2  # of the time: tables fill, memory is taken for the first time
BATCHES = 16  # into which the rest is divided: values within one are alike, and count once
MIB = 1024 * 1024


class Watched(NamedTuple):
    """What is looked at: how it is called, its value in a sample, and by how much an hour it may rise."""

    name: str
    of: str  # the field of a sample
    unit: float
    most: float | None = None  # in its unit; None: it is told, and not judged


WATCHED = (
    Watched("memory, MiB", "memory", MIB, 16.0),
    Watched("descriptors", "descriptors", 1.0, 20.0),
    Watched("threads", "threads", 1.0, 2.0),
    Watched("answers/s", "answers", 1.0),
    Watched("p50 of a second's waits, ms", "median", 0.001),
    Watched("p99 of a second's waits, ms", "most", 0.001),
)


class GrowthError(RuntimeError):
    """Something grows that should not; the text says what."""


def run(options: Options) -> None:
    """Load a server for so many minutes, and print what became of it. Raises GrowthError."""
    seconds = options.minutes * 60
    honest = options.connections
    each = max(1, honest // MISBEHAVING)
    clients = honest + each * len(ABUSES)
    terms = Terms(token_urlsafe(32))
    with TemporaryDirectory() as folder, serving(Path(folder), settings(terms.secret, clients=clients)) as server:
        abusive = {kind: tokens(terms, kind.replace(" ", "-"), each, lives=86_400) for kind in ABUSES}
        users = tokens(terms, "honest", honest, lives=86_400)
        print(f"{clients} clients for {options.minutes:g} minutes", file=sys.stderr, flush=True)
        tally = drive(Plan(server.port, server.pid, users, abusive, seconds=seconds, window=min(1.0, seconds / 100)))
    report(tally, honest, each)


def report(tally: Tally, honest: int, each: int) -> None:
    """Print the figures. Raises GrowthError."""
    waits = sorted(tally.waits)
    settled = tally.samples[int(len(tally.samples) * SETTLING) :]
    print(f"### soak: {honest} honest clients, {each} of each kind of abuse, {tally.seconds / 60:.1f} minutes\n")
    print(
        f"{tally.answered} answers to {tally.asked} messages; waits "
        + ", ".join(f"{1000 * percentile(waits, rank):.0f} ms (p{rank})" for rank in (50, 90, 99, 100))
        + f". The server took {100 * tally.server_cpu / tally.seconds:.0f} % of a core. "
        f"Slopes are of the last {100 * (1 - SETTLING):.0f} % of the time, with one standard error.\n"
    )
    slopes = {watched: slope(watched, settled) for watched in WATCHED}
    print(table(("", "median", "lowest", "highest", "an hour more"), [row(*one, settled) for one in slopes.items()]))
    print()
    ends = [
        [kind, ", ".join(f"{end}: {count}" for end, count in sorted(found.items()))]
        for kind, found in tally.ends.items()
    ]
    print(table(("abuse", "ended by"), ends), end="\n\n", flush=True)
    growing = [one.name for one, found in slopes.items() if one.most is not None and found.grows(one.most)]
    if growing:
        raise GrowthError(f"{', '.join(growing)}: growing beyond all doubt")


def slope(watched: Watched, samples: Sequence[Sample]) -> Slope:
    """How it goes. A window in which nobody was answered has no waits to tell of."""
    told = [one for one in samples if one.answers or watched.of not in ("median", "most")]
    times = [one.at for one in told]
    return Slope.of(times, [getattr(one, watched.of) / watched.unit for one in told], max(1, len(told) // BATCHES))


def row(watched: Watched, found: Slope, samples: Sequence[Sample]) -> list[str]:
    """A line of the table."""
    values = [getattr(one, watched.of) / watched.unit for one in samples]
    level = [f"{value:,.1f}" for value in (median(values), min(values), max(values))]
    return [watched.name, *level, f"{found.an_hour:+,.1f} ± {found.error:,.1f}"]
