"""Chat replies per second over loopback: ours and its peers in turn, each server in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from secrets import token_hex

from .load import Plan, Result, drive
from .options import Options
from .peers import CONSTANT, PEERS, QAWS, Peer
from .peers.work import Terms
from .report import Spread, table

HEADERS = ("server", "replies/s", "qaws against it", "server µs a reply", "generator busy")


def run(options: Options) -> None:
    """Measure, and print a table for each number of messages in flight."""
    peers, notes = available(PEERS)
    for in_flight in options.in_flight:
        results = measure((*peers, CONSTANT), options, in_flight)
        ceiling = results.pop(CONSTANT)
        print(f"### chat: {options.connections} connections, {in_flight} in flight\n")
        print(f"{options.rounds} interleaved rounds of {options.seconds:g} s; median (lowest to highest).\n")
        print(table(HEADERS, rows(results)), end="\n\n")
        print(headroom(ceiling, results), *notes, sep="\n", end="\n\n", flush=True)


def available(peers: Sequence[Peer]) -> tuple[list[Peer], list[str]]:
    """The peers whose packages are installed, and a line for each that has to be left out."""
    notes = [f"Left out: {peer.name}; not installed: {', '.join(peer.missing)}." for peer in peers if peer.missing]
    return [peer for peer in peers if not peer.missing], notes


def measure(peers: Sequence[Peer], options: Options, in_flight: int) -> dict[Peer, list[Result]]:
    """Every peer once a round, so that what disturbs the machine disturbs them alike."""
    results: dict[Peer, list[Result]] = {peer: [] for peer in peers}
    for number in range(1, options.rounds + 1):
        for peer in peers:
            result = once(peer, options.connections, in_flight, options.seconds)
            results[peer].append(result)
            print(f"round {number}/{options.rounds}, {in_flight} in flight, {peer.name}: "
                  f"{result.rate:,.0f} replies/s", file=sys.stderr, flush=True)  # fmt: skip
    return results


def once(peer: Peer, connections: int, in_flight: int, seconds: float) -> Result:
    """One measurement, with a fresh server. Raises ChildError where it does not answer as it should."""
    terms = Terms(secret=token_hex(32))
    tokens = [terms.token(f"user-{number:06}") for number in range(connections)]
    with peer.start(terms) as server:
        return drive(Plan(server.hear()["port"], tokens, in_flight, seconds, server.pid))


def rows(results: Mapping[Peer, Sequence[Result]]) -> list[list[str]]:
    """A row for each server. Ratios are those within a round."""
    ours = results.get(QAWS, ())
    return [
        [
            peer.title,
            Spread.of(result.rate for result in theirs).text(),
            Spread.of(our.rate / their.rate for our, their in zip(ours, theirs, strict=True)).text(2) if ours else "",
            _server_cost(theirs),
            f"{Spread.of(100 * result.generator_cpu / result.seconds for result in theirs).median:.0f} %",
        ]
        for peer, theirs in results.items()
    ]


def headroom(ceiling: Sequence[Result], results: Mapping[Peer, Sequence[Result]]) -> str:
    """How far the load generator was from being what is measured."""
    most = Spread.of(result.rate for result in ceiling)
    fastest = max(Spread.of(result.rate for result in found).median for found in results.values())
    return (
        f"Ceiling of the load generator, against a server that answers with a constant: {most.text()} replies/s, "
        f"{most.median / fastest:.1f} times the fastest server."
    )


def _server_cost(results: Sequence[Result]) -> str:
    """Processor time, which other work on the machine disturbs less than the rate."""
    costs = [1e6 * result.server_cpu / result.replies for result in results if result.server_cpu and result.replies]
    return Spread.of(costs).text(1) if costs else "unknown"
