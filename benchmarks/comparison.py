"""Servers side by side: in turn within each round, and ratios within a round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from .load import Result
from .options import Options
from .peers import CONSTANT, PEERS, QAWS, Peer, available
from .plots import bars
from .processes import ChildError
from .report import Goal, Spread, Target, table

Measured = TypeVar("Measured")
Results = Mapping[Peer, Sequence[Result]]


class Task(NamedTuple):
    """What is compared: its heading, its name in a file, and what is counted."""

    heading: str
    name: str
    unit: str  # of a rate, such as `replies`
    one: str  # of a cost, such as `reply`


def chosen(options: Options) -> tuple[list[Peer], list[str]]:
    """The peers that were asked for and are installed, and a line for each that has to be left out."""
    return available([peer for peer in PEERS if not options.peers or peer.name in options.peers])


def interleaved(
    peers: Sequence[Peer],
    options: Options,
    what: str,
    measure: Callable[[Peer], Measured],
    said: Callable[[Measured], str],
) -> tuple[dict[Peer, list[Measured]], list[str]]:
    """Every peer once a round, so that what disturbs the machine disturbs them alike; and a line for each that failed.

    Raises ChildError where it is qaws that fails.
    """
    results: dict[Peer, list[Measured]] = {peer: [] for peer in peers}
    notes: list[str] = []
    for number in range(1, options.rounds + 1):
        for peer in list(results):
            try:
                results[peer].append(measure(peer))
            except ChildError as error:
                if peer.ours:
                    raise
                del results[peer]
                notes.append(f"Failed, and left out: {error}.")
                continue
            told = said(results[peer][-1])
            print(f"round {number}/{options.rounds}, {what}, {peer.name}: {told}", file=sys.stderr, flush=True)
    return results, notes


def compare(task: Task, options: Options, measure: Callable[[Peer], Result]) -> Results:
    """Measure rates, and print a table of them with its ceiling. Raises ChildError where it is qaws that fails."""
    peers, missing = chosen(options)
    results, failed = interleaved(
        (*peers, CONSTANT), options, task.name, measure, lambda result: f"{result.rate:,.0f} {task.unit}/s"
    )
    ceiling = results.pop(CONSTANT, [])
    print(f"### {task.heading}\n")
    print(f"{options.rounds} interleaved rounds of {options.seconds:g} s; median (lowest to highest).\n")
    headers = ("server", f"{task.unit}/s", "qaws against it", f"server µs a {task.one}", "generator busy")
    print(table(headers, rows(results)), end="\n\n")
    print(headroom(ceiling, results, task.unit), *missing, *failed, sep="\n\n", end="\n\n", flush=True)
    figures = {peer.name: Spread.of(rates(found)) for peer, found in results.items()}
    bars(options, task.name, task.heading, f"{task.unit} a second", figures)
    return results


def rates(results: Sequence[Result]) -> list[float]:
    """How many a second, round by round."""
    return [result.rate for result in results]


def rows(results: Results) -> list[list[str]]:
    """A row for each server. Ratios are those within a round."""
    ours = results.get(QAWS)
    return [
        [
            peer.title,
            Spread.of(rates(theirs)).text(),
            ratio(ours, theirs).text(2) if ours else "",
            _server_cost(theirs),
            f"{_busy(theirs):.0f} %",
        ]
        for peer, theirs in results.items()
    ]


def _busy(results: Sequence[Result]) -> float:
    """How much of a core the load generator took, in percent."""
    return Spread.of(100 * result.generator_cpu / result.seconds for result in results).median


def _server_cost(results: Sequence[Result]) -> str:
    """Processor time, which other work on the machine disturbs less than the rate."""
    costs = [1e6 * result.server_cpu / result.count for result in results if result.server_cpu and result.count]
    return Spread.of(costs).text(1) if costs else "unknown"


def headroom(ceiling: Sequence[Result], results: Results, unit: str) -> str:
    """How far the load generator was from being what is measured."""
    if not ceiling or not results:
        return "There is nothing to compare with the ceiling of the load generator."
    most = Spread.of(rates(ceiling))
    fastest = max(Spread.of(rates(found)).median for found in results.values())
    return (
        f"Ceiling of the load generator, against a server that answers with a constant: {most.text()} {unit}/s, "
        f"{most.median / fastest:.1f} times the fastest server; with that one it was busy {_busy(ceiling):.0f} %."
    )


# ── what is aimed at ─────────────────────────────────────────────────────────────────────────────────────────────────


def ratio(ours: Sequence[Result], theirs: Sequence[Result]) -> Spread:
    """How much faster we were, round by round."""
    return Spread.of(our / their for our, their in zip(rates(ours), rates(theirs), strict=True))


def best(results: Results, among: Callable[[Peer], bool]) -> Peer | None:
    """The fastest of some peers; None where there is none of them."""
    found = {peer: Spread.of(rates(theirs)).median for peer, theirs in results.items() if among(peer)}
    return max(found, key=lambda peer: found[peer], default=None)


def goal(
    what: str, target: Target, results: Results, among: Callable[[Peer], bool], nobody: str, of: Peer = QAWS
) -> list[Goal]:
    """What one of our faces reaches against the fastest of some peers. Nothing, where it was not measured itself."""
    if of not in results:
        return []
    other = best(results, among)
    if other is None:
        return [Goal(what, target, None, nobody)]
    return [Goal(what, target, ratio(results[of], results[other]), other.name)]


BEST = "the best Python peer"


def python_peer(peer: Peer) -> bool:
    """Whether a peer counts where the best Python peer is asked for."""
    return peer.in_python
