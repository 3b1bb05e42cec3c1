"""Chat replies per second over loopback, and how long they take at a rate that is not the most."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from secrets import token_hex

from .comparison import BEST, Results, Task, compare, goal, interleaved, python_peer, rates
from .load import Plan, Result, drive
from .options import Options
from .pacing import Plan as Pace
from .pacing import Waits
from .pacing import drive as keep
from .peers import FASTAPI_SANSIO, FASTAPI_WSPROTO, PICOWS, QAWS, QAWS_ANYIO, QAWS_ASGI, Peer
from .peers.work import Terms
from .plots import bars
from .report import Goal, Spread, at_least, at_most, table

SHARE = 0.7  # of what qaws can do at most, for the waits
RIVALS = 3  # whose waits are measured as well: the fastest ones
HEADERS = ("server", "p50, ms", "p99, ms", "highest, ms", "qaws against it, p99", "generator late (p99), ms")


def run(options: Options) -> list[Goal]:
    """Measure, and print a table for each number of messages in flight, and one of waits."""
    goals: list[Goal] = []
    found: dict[int, Results] = {}
    for in_flight in options.in_flight:
        heading = f"chat: {options.connections} connections, {in_flight} in flight"
        task = Task(heading, f"chat-{in_flight}", "replies", "reply")
        found[in_flight] = compare(task, options, partial(measure, options, in_flight))
        goals += reached(heading, found[in_flight], in_flight)
    return goals + waits(options, list(found.values()))


def measure(options: Options, in_flight: int, peer: Peer) -> Result:
    """One measurement as the options say."""
    return once(peer, options.connections, in_flight, options.seconds)


def once(peer: Peer, connections: int, in_flight: int, seconds: float) -> Result:
    """One measurement, with a fresh server. Raises ChildError where it does not answer as it should."""
    terms = Terms(secret=token_hex(32))
    with peer.start(terms) as server:
        port = server.hear()["port"]
        return drive(Plan(port, users(terms, connections), in_flight, seconds, server.pid, dialect=peer.dialect))


def users(terms: Terms, count: int) -> list[str]:
    """A token for each of so many users."""
    return [terms.token(f"user-{number:06}") for number in range(count)]


def reached(heading: str, results: Results, in_flight: int) -> list[Goal]:
    """What is aimed at with so many messages in flight."""
    fastapi = (FASTAPI_WSPROTO, FASTAPI_SANSIO)
    goals: list[Goal] = []
    if in_flight == 1:
        goals += goal(f"{heading}, against picows", at_least(1.0), results, lambda peer: peer == PICOWS, "picows")
    else:
        goals += goal(f"{heading}, against {BEST}", at_least(1.1), results, python_peer, BEST)
    framework = f"{heading}, against uvicorn and FastAPI"
    goals += goal(framework, at_least(2.5), results, lambda peer: peer in fastapi, "FastAPI")
    adapters = f"{heading}, the anyio adapter against the asyncio adapter"
    goals += goal(adapters, at_least(0.7), results, lambda peer: peer == QAWS, "qaws", QAWS_ANYIO)
    hosted = f"{heading}, ASGI on uvicorn against FastAPI on it"
    goals += goal(hosted, at_least(1.3), results, lambda peer: peer == FASTAPI_SANSIO, "FastAPI", QAWS_ASGI)
    return goals


# ── waits at a rate ──────────────────────────────────────────────────────────────────────────────────────────────────


def waits(options: Options, results: Sequence[Results]) -> list[Goal]:
    """How long replies take at 70 % of what qaws can do at most, and how long with its rivals at the same rate."""
    if not all(QAWS in one for one in results):
        return []
    most: dict[Peer, float] = {}
    for one in results:
        most |= {peer: max(Spread.of(rates(found)).median, most.get(peer, 0.0)) for peer, found in one.items()}
    rivals = sorted((peer for peer in most if not peer.ours), key=lambda peer: -most[peer])[:RIVALS]
    rate = SHARE * most[QAWS]
    found, notes = interleaved(
        (QAWS, *rivals), options, "waits", lambda peer: at_rate(peer, options, rate),
        lambda one: f"{1000 * one.most:.2f} ms (p99)",
    )  # fmt: skip
    heading = f"waits: {options.connections} connections, {rate:,.0f} messages a second"
    print(f"### {heading}\n")
    print(f"{100 * SHARE:.0f} % of the most that qaws has reached above, at a fixed rate, counted from the moment at "
          f"which a message was due. {options.rounds} interleaved rounds of {options.seconds:g} s.\n")  # fmt: skip
    print(table(HEADERS, [row(peer, theirs, found[QAWS]) for peer, theirs in found.items()]), *notes, sep="\n\n")
    print(flush=True)
    figures = {peer.name: Spread.of(1000 * one.most for one in theirs) for peer, theirs in found.items()}
    bars(options, "waits", heading, "ms until 99 % have their reply", figures, digits=2)
    return tail(found, heading)


def at_rate(peer: Peer, options: Options, rate: float) -> Waits:
    """One measurement, with a fresh server."""
    terms = Terms(secret=token_hex(32))
    with peer.start(terms) as server:
        port = server.hear()["port"]
        return keep(Pace(port, users(terms, options.connections), rate, options.seconds, peer.dialect))


def row(peer: Peer, theirs: Sequence[Waits], ours: Sequence[Waits]) -> list[str]:
    """The waits of one server."""
    columns = ([1000 * getattr(one, name) for one in theirs] for name in ("middle", "most", "highest"))
    return [
        peer.title,
        *(Spread.of(column).text(2) for column in columns),
        shorter(ours, theirs).text(2),
        Spread.of(1000 * one.late for one in theirs).text(2),
    ]


def shorter(ours: Sequence[Waits], theirs: Sequence[Waits]) -> Spread:
    """How our 99th percentile is to theirs, round by round."""
    return Spread.of(our.most / their.most for our, their in zip(ours, theirs, strict=True))


def tail(found: dict[Peer, list[Waits]], heading: str) -> list[Goal]:
    """What is aimed at: the shortest of their 99th percentiles."""
    others = {peer: Spread.of(one.most for one in theirs).median for peer, theirs in found.items() if peer != QAWS}
    what = f"p99 of {heading}"
    if not others:
        return [Goal(what, at_most(1.0), None, "the best peer")]
    rival = min(others, key=lambda peer: others[peer])
    return [Goal(what, at_most(1.0), shorter(found[QAWS], found[rival]), rival.name)]
