"""What everybody in a session hears, a second; and how soon all of a node's clients know that it drains."""

from __future__ import annotations

from secrets import token_hex

from .chat import users
from .comparison import BEST, Task, compare, goal, interleaved, python_peer
from .hearing import Plan, drive
from .load import Result
from .options import Options
from .peers import QAWS, Peer
from .peers.work import Terms
from .report import Goal, Spread, at_least

IN_FLIGHT = 2  # messages that not all have heard: with one, the server waits for the load generator


def run(options: Options) -> list[Goal]:
    """Measure, and print a table, and a line on draining."""
    heading = f"fan-out: one session, {options.readers} readers"
    task = Task(heading, "fanout", "deliveries", "delivery")
    results = compare(task, options, lambda peer: measure(peer, options))
    if QAWS in results:
        draining(options)
    return goal(f"{heading}, against {BEST}", at_least(1.5), results, python_peer, BEST)


def measure(peer: Peer, options: Options) -> Result:
    """One measurement, with a fresh server."""
    terms = Terms(secret=token_hex(32), scene="fanout")
    with peer.start(terms) as server:
        port = server.hear()["port"]
        tokens = [terms.token("user-000000") for _ in range(options.readers)]
        return drive(Plan(port, tokens, IN_FLIGHT, options.seconds, server.pid, peer.dialect))


def draining(options: Options) -> None:
    """Print how long it takes until all clients, each with a session of its own, have heard that qaws drains."""
    found, _ = interleaved(
        [QAWS], options, "drain", lambda peer: drain(peer, options), lambda one: f"{1000 * one.seconds:.0f} ms"
    )
    spread = Spread.of(1000 * one.seconds for one in found[QAWS])
    print(f"qaws tells {options.readers} clients with a session each that it drains within {spread.text(1)} ms "
          "of the signal.", end="\n\n", flush=True)  # fmt: skip


def drain(peer: Peer, options: Options) -> Result:
    """One measurement, with a fresh server."""
    terms = Terms(secret=token_hex(32))
    with peer.start(terms) as server:
        port = server.hear()["port"]
        return drive(Plan(port, users(terms, options.readers), 1, options.seconds, server.pid, drain=True))
