"""The command `qaws simulate`: whole worlds in virtual time, by their seeds, and what was found in them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from qaws_proto.config import WebSocketConfig
from qaws_proto.testing.simulation import Outcome, Summary, simulate, summarize
from qaws_proto.testing.world import World

from . import __version__
from .serving import UsageError
from .settings import load

BATCH = 20  # worlds that a process is given at once
FAILURES = 5  # that are told at length

simulation = App(name="simulate", help="Let many worlds go wrong in virtual time, and see what holds.")

Flag = partial(Parameter, negative=())
Positive = Annotated[int, Parameter(validator=Number(gte=1))]


def first_seed() -> int:
    """Where seeds begin that nobody has chosen: the same for all runs of one version."""
    return int.from_bytes(sha256(__version__.encode()).digest()[:4])


@simulation.default
def run(
    *,
    seeds: Positive = 100,
    seed: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    until: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    verbose: Annotated[bool, Flag()] = False,
    jobs: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    config: Path | None = None,
) -> int:
    """Let worlds happen, and print what was reached in them; status 1 where something was found that must not be.

    Parameters
    ----------
    seeds
        How many worlds.
    seed
        The seed of the first one (default: one that is fixed by the version).
    until
        With --seeds 1: stop behind this step, and print the last ones.
    verbose
        Print of each world what was drawn for it.
    jobs
        Processes (default: as many as there are processors).
    config
        YAML file with a `websocket:` section to simulate with, in the place of configurations that are drawn.
    """
    settings = None if config is None else load(config).config
    first = first_seed() if seed is None else seed
    if until is not None and seeds != 1:
        raise UsageError("--until is a step of one world: add --seeds 1")
    if seeds == 1:
        return _one(first, settings, until, verbose=verbose)
    began = time.monotonic()
    outcomes = []
    for outcome in _happen(range(first, first + seeds), settings, jobs or os.cpu_count() or 1):
        outcomes.append(outcome)
        if verbose:
            _describe(World(outcome.seed, config=settings), outcome)
    summary = summarize(outcomes)
    _print(summary, time.monotonic() - began, verbose=verbose)
    for failed in summary.failures[:FAILURES]:
        _fail(failed, config)
    return 1 if summary.failures else 0


def _happen(seeds: range, config: WebSocketConfig | None, jobs: int) -> Iterator[Outcome]:
    """The outcomes of these seeds, as they come."""
    batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    if jobs == 1:
        for batch in batches:
            yield from _batch(batch, config)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_batch, batch, config) for batch in batches]):
            yield from done.result()


def _batch(seeds: range, config: WebSocketConfig | None) -> list[Outcome]:
    return [simulate(seed, config=config)[1] for seed in seeds]


def _one(seed: int, config: WebSocketConfig | None, until: int | None, *, verbose: bool) -> int:
    """One world, with its last steps where it was stopped or has failed."""
    world, outcome = simulate(seed, config=config, until=until)
    if verbose or until is not None or outcome.failure is not None:
        _describe(world, outcome)
        print("\n".join(world.latest))
        for line in world.state():
            print(line)
    print(f"seed {seed}: {outcome.steps} steps, trace {outcome.digest[:16]}")
    if outcome.failure is not None:
        print(outcome.failure, file=sys.stderr)
        return 1
    return 0


def _describe(world: World, outcome: Outcome) -> None:
    print(f"seed {outcome.seed}, {outcome.steps} steps")
    for name, value in world.profile.faults().items():
        print(f"    {name}: {value}")


def _print(summary: Summary, seconds: float, *, verbose: bool) -> None:
    for name, count in sorted(summary.counters.counts.items()):
        if verbose or count:
            print(f"{count:>9}  {name}")
    missing = summary.counters.missing
    if missing:
        print(f"{len(missing)} states were not reached: {', '.join(missing)}")
    speed = f"{summary.worlds / seconds:.1f} worlds/s"
    print(f"{summary.worlds} worlds, {summary.steps} steps, {speed}, {len(summary.failures)} failed")
    print(f"trace {summary.digest}")


def _fail(failed: Outcome, config: Path | None) -> None:
    """Say what was found, and the one command that finds it again."""
    chosen = "" if config is None else f" --config {config}"
    print(f"seed {failed.seed}, step {failed.steps}: {failed.failure}", file=sys.stderr)
    print(f"    qaws simulate --seeds 1 --seed {failed.seed}{chosen}", file=sys.stderr)
