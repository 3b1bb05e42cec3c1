"""How fast clients get in: handshake and login a second, and thousands who come at once."""

from __future__ import annotations

from secrets import token_hex

from .arriving import Plan, Storm, drive
from .arriving import storm as come
from .comparison import BEST, Results, Task, best, compare, goal, interleaved, python_peer
from .load import Result
from .options import Options
from .peers import CONSTANT, QAWS, Peer
from .peers.work import Terms
from .report import Goal, Spread, at_least, table

RATE = 10.0  # messages a second of each client that talks during the storm
RIVALS = 2  # who see the storm as well: the fastest Python peers
HEADERS = ("server", "seconds until all are in", "p99 of the others' waits, ms", "highest, ms", "refused")


def run(options: Options) -> list[Goal]:
    """Measure, and print a table of logins and one of the storm."""
    heading = f"handshake and login, {options.connections} at a time, no token twice"
    results = compare(Task(heading, "handshake", "logins", "login"), options, lambda peer: measure(peer, options))
    storms(options, results)
    return goal(f"{heading}, against {BEST}", at_least(1.0), results, python_peer, BEST)


def measure(peer: Peer, options: Options) -> Result:
    """One measurement, with a fresh server."""
    terms = Terms(secret=token_hex(32))
    with peer.start(terms) as server:
        port = server.hear()["port"]
        told = terms._asdict()
        return drive(Plan(port, told, options.connections, options.seconds, server.pid, peer.dialect))


def storms(options: Options, results: Results) -> None:
    """Print how qaws and the fastest of its Python peers stand the storm."""
    peers = [QAWS] if QAWS in results else []
    rivals = dict(results)
    while len(peers) <= RIVALS and (rival := best(rivals, python_peer)) is not None:
        del rivals[rival]
        peers.append(rival)
    if not peers:
        return
    found, notes = interleaved(
        (*peers, CONSTANT), options, "storm", lambda peer: storm(peer, options), lambda one: f"{one.seconds:.2f} s"
    )
    print(f"### storm: {options.crowd} clients at once, while {options.connections} talk\n")
    print(f"Who talks says {RATE:g} messages a second, by the clock. {options.rounds} interleaved rounds.\n")
    ceiling = found.pop(CONSTANT, [])
    print(table(HEADERS, [row(peer, theirs) for peer, theirs in found.items()]), *notes, sep="\n\n", end="\n\n")
    if ceiling:
        spread = Spread.of(one.seconds for one in ceiling)
        print(f"A server that lets everybody in unseen has all in after {spread.text(2)} seconds.\n", flush=True)


def storm(peer: Peer, options: Options) -> Storm:
    """One measurement, with a fresh server."""
    terms = Terms(secret=token_hex(32))
    with peer.start(terms) as server:
        port, talking = server.hear()["port"], options.connections
        return come(
            Plan(port, terms._asdict(), 0, 0.0, server.pid, peer.dialect, talking, RATE * talking, options.crowd)
        )


def row(peer: Peer, found: list[Storm]) -> list[str]:
    """What the storm was for one server."""
    return [
        peer.title,
        Spread.of(one.seconds for one in found).text(2),
        Spread.of(1000 * one.most for one in found).text(1),
        Spread.of(1000 * one.highest for one in found).text(1),
        Spread.of(one.refused for one in found).text(),
    ]
