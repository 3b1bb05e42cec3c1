"""The command `qaws simulate`: whole worlds in virtual time, by their seeds, and what was found in them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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
LONGEST = 60.0  # seconds of processor time for one world, of which most take a tenth of one
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
    require_all: Annotated[bool, Flag()] = False,
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
    require_all
        Fail where one of the rare states that are counted was not reached.
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
    if summary.failures:
        _keep(*happen(summary.failures[0].seed, settings))
    return 1 if summary.failures or (require_all and summary.counters.missing) else 0


def _happen(seeds: range, config: WebSocketConfig | None, jobs: int) -> Iterator[Outcome]:
    """The outcomes of these seeds, as they come."""
    batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    if jobs == 1:
        for batch in batches:
            yield from _batch(batch, config)
        return
    ending = (signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a process that simulates at once
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=signal.signal, initargs=ending)
    try:
        for done in as_completed([pool.submit(_batch, batch, config) for batch in batches]):
            yield from done.result()
    except BrokenProcessPool:
        time.sleep(1)  # where Ctrl-C has ended a process before this one has heard of it, it does now
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _batch(seeds: range, config: WebSocketConfig | None) -> list[Outcome]:
    return [happen(seed, config)[1] for seed in seeds]


class Endless(BaseException):
    """A world takes far longer than any that goes on; no part of it may catch this."""


def happen(seed: int, config: WebSocketConfig | None = None, *, until: int | None = None) -> tuple[World, Outcome]:
    """The world of a seed; one that is stuck within a step is a failure, too, where the system can tell (POSIX)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return simulate(seed, config=config, until=until)

    def stuck(number: int, frame: object) -> None:
        raise Endless(f"not over within {LONGEST:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stuck)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
    try:
        return simulate(seed, config=config, until=until)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _one(seed: int, config: WebSocketConfig | None, until: int | None, *, verbose: bool) -> int:
    """One world, with its last steps where it was stopped or has failed."""
    world, outcome = happen(seed, config, until=until)
    if verbose or until is not None or outcome.failure is not None:
        _describe(world, outcome)
        print("\n".join(world.latest))
        for line in world.state():
            print(line)
    print(f"seed {seed}: {outcome.steps} steps, trace {outcome.digest[:16]}")
    if outcome.failure is not None:
        print(f"step {outcome.steps}: {outcome.failure}", file=sys.stderr)
        _keep(world, outcome)
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


def _keep(world: World, outcome: Outcome) -> None:
    """Write the trace of the node that a failure was found in, here, for `qaws replay` or a regression test."""
    path = Path(f"simulation-{outcome.seed}.jsonl")
    path.write_text("".join(world.trace()), "utf-8")
    print(f"its trace is in {path}", file=sys.stderr)
