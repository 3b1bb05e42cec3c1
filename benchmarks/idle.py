"""What a connection costs that says nothing: memory of each server's process, and of what our core holds by itself."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from secrets import token_hex

from qaws_proto.inputs import RunFinished
from qaws_proto.testing.peer import chat, text

from .chat import available
from .load import CONTENT
from .options import Options
from .peers import PEERS, QAWS, Peer
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
HEADERS = ("server", "KiB a connection", "against the leanest peer", "MiB with all")

Costs = dict[Peer, list[tuple[float, int]]]  # bytes a connection, and of the process with all of them


def run(options: Options) -> list[Goal]:
    """Measure, and print the tables."""
    peers, notes = available(PEERS)
    many = min(MANY, most_connections())
    costs: Costs = {peer: [] for peer in peers}
    for number in range(1, options.rounds + 1):
        for peer, found in costs.items():
            found.append(slope(peer, FEW, many))
            print(f"round {number}/{options.rounds}, {peer.name}: {found[-1][0] / KIB:.1f} KiB a connection",
                  file=sys.stderr, flush=True)  # fmt: skip
    leanest = min((peer for peer in peers if peer is not QAWS), key=lambda peer: _median(costs[peer]), default=None)
    print("### idle: memory of an authenticated connection that says nothing\n")
    print(f"{options.rounds} rounds, a fresh server each; what {many - FEW} connections more take of resident memory, "
          f"beside {FEW}; median (lowest to highest).\n")  # fmt: skip
    print(table(HEADERS, _rows(costs, leanest)), end="\n\n")
    print(*notes, sep="\n", end="\n\n" if notes else "")
    print("Of that, what `Gateway` holds, by tracemalloc, in a process of its own state:\n")
    print(table(("state", "bytes"), [[name, f"{size:,.0f}"] for name, size in held(HELD).items()]), end="\n\n")
    if leanest is None:
        return [Goal("idle memory per connection", at_most(1.0), None, "no peer")]
    return [Goal("idle memory per connection", at_most(1.0), Spread.of(_ratios(costs, QAWS, leanest)), leanest.name)]


def slope(peer: Peer, few: int, many: int) -> tuple[float, int]:
    """Bytes of resident memory for each connection beyond `few`, and of a fresh server with `many`."""
    terms = Terms(secret=token_hex(32))
    tokens = [terms.token(f"user-{number:06}") for number in range(many)]
    with peer.start(terms) as server, Standing(server.hear()["port"]) as clients:
        sizes = []
        for some in (tokens[:few], tokens[few:]):
            clients.more(some)
            time.sleep(SETTLE)
            sizes.append(memory_of(server.pid))
    return (sizes[1] - sizes[0]) / (many - few), sizes[1]


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


def _rows(costs: Costs, leanest: Peer | None) -> list[list[str]]:
    return [
        [
            peer.title,
            Spread.of(size / KIB for size, _ in found).text(1),
            "" if leanest is None else Spread.of(_ratios(costs, peer, leanest)).text(2),
            f"{Spread.of(whole / KIB / KIB for _, whole in found).median:.0f}",
        ]
        for peer, found in costs.items()
    ]


def _ratios(costs: Costs, ours: Peer, theirs: Peer) -> list[float]:
    """Those within a round."""
    return [one / other for (one, _), (other, _) in zip(costs[ours], costs[theirs], strict=True)]


def _median(found: Sequence[tuple[float, int]]) -> float:
    return Spread.of(size for size, _ in found).median
