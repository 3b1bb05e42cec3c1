"""What a connection costs that says nothing: memory of each server's process, and of what our core holds by itself."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from itertools import pairwise
from secrets import token_hex
from typing import NamedTuple

from qaws_proto.inputs import RunFinished
from qaws_proto.testing.peer import chat, text

from .comparison import chosen, interleaved
from .load import CONTENT
from .options import Options
from .peers import QAWS, Peer
from .peers.work import Terms
from .report import Goal, Spread, at_most, table
from .rig import VirtualNode
from .standing import Standing, most_connections
from .watching import memory_of

FEW, MANY = 200, 2000  # connections; what a server holds for itself is there with the few
SETTLE = 1.0  # seconds until memory is looked at
HELD = 500  # connections of a node alone
EVENTS = 10  # of a session with a history
KIB = 1024
STATES = ("idle, authenticated", f"more with a session of {EVENTS} events", "more with a run in flight")
HEADERS = ("server", "KiB a connection", "against the leanest Python peer", "MiB with all")


class Cost(NamedTuple):
    """Bytes of resident memory: for each connection, and of the server with all of them."""

    each: float
    whole: int


Costs = Mapping[Peer, Sequence[Cost]]


def run(options: Options) -> list[Goal]:
    """Measure, and print the tables."""
    peers, missing = chosen(options)
    many = min(MANY, options.largest, most_connections())
    costs, failed = interleaved(
        peers, options, "idle", lambda peer: slope(peer, FEW, many), lambda cost: f"{cost.each / KIB:.1f} KiB each"
    )
    print("### idle: memory of an authenticated connection that says nothing\n")
    print(f"{options.rounds} rounds, a fresh server each; what {many - FEW} connections more take of resident memory, "
          f"beside {FEW}; median (lowest to highest).\n")  # fmt: skip
    other = leanest(costs)
    print(table(HEADERS, [_row(costs, peer, other) for peer in costs]), *missing, *failed, sep="\n\n", end="\n\n")
    print("What `Gateway` holds of it, and what else it may hold for a connection, by tracemalloc:\n")
    print(table(("state", "bytes"), [[name, f"{size:,.0f}"] for name, size in held(HELD).items()]), end="\n\n")
    if QAWS not in costs:
        return []
    reached = None if other is None else Spread.of(_ratios(costs, QAWS, other))
    return [Goal("idle: memory of a connection, against the leanest Python peer", at_most(1.0), reached,
                 "no peer" if other is None else other.name)]  # fmt: skip


def slope(peer: Peer, few: int, many: int) -> Cost:
    """What each connection beyond `few` takes of a fresh server that has `many` at last."""
    terms = Terms(secret=token_hex(32))
    tokens = [terms.token(f"user-{number:06}") for number in range(many)]
    with peer.start(terms) as server, Standing(server.hear()["port"], peer.dialect) as clients:
        sizes = []
        for some in (tokens[:few], tokens[few:]):
            clients.more(some)
            time.sleep(SETTLE)
            sizes.append(memory_of(server.pid))
    return Cost((sizes[1] - sizes[0]) / (many - few), sizes[1])


def leanest(costs: Costs) -> Peer | None:
    """The Python peer that takes least."""
    found = {peer: _each(theirs).median for peer, theirs in costs.items() if peer.in_python}
    return min(found, key=lambda peer: found[peer], default=None)


def held(connections: int) -> dict[str, float]:
    """Bytes that a node holds for each of its connections, in the states that one goes through."""
    Holding(1).speak(2)  # what is made once is no part of it
    node, sizes = Holding(0), []
    tracemalloc.start()
    try:
        for work in (lambda: None, lambda: node.open(connections), lambda: node.speak(EVENTS), node.ask_all):
            work()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    grown = [(behind - before) / connections for before, behind in pairwise(sizes)]
    return dict(zip(STATES, grown, strict=True))


class Holding(VirtualNode):
    """A node whose memory is looked at."""

    def __init__(self, connections: int) -> None:
        super().__init__()
        self._frame = text(chat(CONTENT))
        self._numbers: list[int] = []
        self.open(connections)

    def open(self, connections: int) -> None:
        """Let clients in."""
        self._numbers += [self.connect(f"user-{number:06}") for number in range(connections)]
        self.own.clear()  # ours, not the node's

    def speak(self, times: int) -> None:
        """Have every client ask so often, and be answered."""
        for _ in range(times):
            for run_id in self.ask_all():
                self.step(RunFinished(run_id, f"You said: {CONTENT}"))

    def ask_all(self) -> list[str]:
        """The runs of one message of every client."""
        return [self.ask(number, self._frame).run_id for number in self._numbers]


def _row(costs: Costs, peer: Peer, other: Peer | None) -> list[str]:
    each = _each(costs[peer])
    return [
        peer.title,
        Spread(*(size / KIB for size in each)).text(1),
        "" if other is None else Spread.of(_ratios(costs, peer, other)).text(2),
        f"{Spread.of(cost.whole / KIB / KIB for cost in costs[peer]).median:.0f}",
    ]


def _each(costs: Sequence[Cost]) -> Spread:
    return Spread.of(cost.each for cost in costs)


def _ratios(costs: Costs, ours: Peer, theirs: Peer) -> list[float]:
    """Those within a round."""
    return [one.each / other.each for one, other in zip(costs[ours], costs[theirs], strict=True)]
