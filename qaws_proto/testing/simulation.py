"""Worlds by their seeds: what became of each, as a value that can be sent from one process to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple

from ..config import WebSocketConfig
from .counters import Counters
from .world import World

PLACES = 4  # in the code that are named for a failure, the innermost ones


class Outcome(NamedTuple):
    """What became of one world. `digest` tells its history from every other."""

    seed: int
    steps: int
    digest: str
    counts: Mapping[str, int]  # how often each rare state was reached
    failure: str | None  # what should never be, and where it was found


def simulate(seed: int, *, config: WebSocketConfig | None = None, until: int | None = None) -> tuple[World, Outcome]:
    """Let the world of a seed happen, up to step `until` where that is given; the world as it is then."""
    world = World(seed, config=config, until=until)
    failure = None
    try:
        world.run()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - what an agent of the world raises must not come out, either
        failure = _told(error)
    return world, Outcome(seed, world.steps, world.digest, dict(world.counters.counts), failure)


def _told(error: BaseException) -> str:
    places, place = [], error.__traceback__
    while place is not None:
        code = place.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{place.tb_lineno} {code.co_name}")
        place = place.tb_next
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return f"{kind}{error}\n  at {' < '.join(reversed(places[-PLACES:]))}"


class Summary(NamedTuple):
    """What became of many worlds."""

    worlds: int
    steps: int
    digest: str  # of all histories, in the order of their seeds
    counters: Counters
    failures: tuple[Outcome, ...]


def summarize(outcomes: Iterable[Outcome]) -> Summary:
    """All of them together, in the order of their seeds."""
    worlds, steps, digest, counters, failures = 0, 0, sha256(), Counters(), []
    for outcome in sorted(outcomes, key=lambda outcome: outcome.seed):
        worlds += 1
        steps += outcome.steps
        digest.update(outcome.digest.encode())
        counters.counts.update(outcome.counts)
        if outcome.failure is not None:
            failures.append(outcome)
    return Summary(worlds, steps, digest.hexdigest(), counters, tuple(failures))
