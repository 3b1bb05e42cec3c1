"""Whether what something costs depends on how much else there is: connections, timers, sessions, and a long absence.

Each size has a process of its own, since Python's garbage collector looks at everything a process holds. They take
turns within a round. The last series is over sockets.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from secrets import token_hex
from typing import NamedTuple

from qaws_proto import Now
from qaws_proto.effects import SendBytes
from qaws_proto.inputs import BytesReceived, ConnectionLost, RunFinished, TimerFired
from qaws_proto.testing.frames import PONG
from qaws_proto.testing.peer import chat, frame, text

from .core import Rig
from .load import Plan, Result, drive
from .options import Options
from .peers import QAWS
from .peers.work import Terms
from .processes import Child, tell_parent
from .report import Goal, Spread, at_most, table
from .rig import A_DAY, UNIX, VirtualNode
from .scenarios import behind
from .standing import Standing, most_connections

FLAT = at_most(1.25)
SPEAKERS = 10  # connections that speak where the others are silent
SHARE = 0.2  # of `--seconds` that one of many measurements takes
WARM_UP = 0.1  # seconds
HEARTBEAT, TOO_EARLY = "a heartbeat (its timer, a ping, the pong)", "a timer that fires too early"
TICKS = 256  # that are timed at once, since reading the clock takes as long as some of them
OFTEN = 0.1  # seconds between two pings, so that no token ends meanwhile
OF_ONE_USER = 100  # sessions
APART = 1e-6  # seconds between the pongs of two connections, so that no two heartbeats are due at once
SILENT = {"server": {"heartbeat_interval": A_DAY}}  # in our time a measurement is longer than the usual interval
SIZES = (64, 1_000, 10_000)  # connections over sockets; the first so many chat

Measure = Callable[[float], float]  # of about so many seconds: what one takes of the processor, in seconds


class Series(NamedTuple):
    """One thing that should not depend on a size. `make` builds it at a size, and gives what is measured of it."""

    name: str
    size: str  # of what
    sizes: tuple[int, ...]
    make: Callable[[int], Mapping[str, Measure]]
    flat: tuple[str, ...]  # those of its measures that are to stay within `FLAT` of the smallest size


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def messages(connections: int) -> Mapping[str, Measure]:
    """Chat round trips."""
    rig = Rig(connections, with_id=False, settings=SILENT)
    return {
        f"{SPEAKERS} of them speak": lambda seconds: rig.measure(seconds, SPEAKERS).total,
        "all speak at once": lambda seconds: rig.measure(seconds).total,
    }


def timers(connections: int) -> Mapping[str, Measure]:
    """Ticks of the one timer, with connections that are silent but for pongs."""
    node = Beating(connections)
    return {HEARTBEAT: node.beat, TOO_EARLY: node.idle}


class Beating(VirtualNode):
    """Connections that are pinged, and answer."""

    def __init__(self, connections: int) -> None:
        super().__init__({"server": {"heartbeat_interval": OFTEN, "timeout": OFTEN}})
        self._pong = frame(PONG)
        for number in [self.connect(f"user-{number:06}") for number in range(connections)]:
            self.mono += APART
            self.gateway.step(BytesReceived(number, self._pong), self._here())

    def beat(self, seconds: float) -> float:
        """Seconds of a heartbeat."""
        end, began, pinged = time.perf_counter() + seconds, time.process_time(), 0
        while not pinged or time.perf_counter() < end:
            wake_at = self.gateway.wake_at
            assert wake_at is not None
            self.mono = max(self.mono, wake_at)
            for effect in self.gateway.step(TimerFired(), self._here()):
                assert type(effect) is SendBytes, effect
                pinged += 1
                self.gateway.step(BytesReceived(effect.connection, self._pong), self._here())
        return (time.process_time() - began) / pinged

    def _here(self) -> Now:
        return Now(self.mono, UNIX + self.mono)

    def idle(self, seconds: float) -> float:
        """Seconds of a tick with nothing due."""
        gateway, now = self.gateway, Now(0.0, UNIX)
        end, spent, ticks = time.perf_counter() + seconds, 0.0, 0
        while time.perf_counter() < end:
            began = time.process_time()
            for _ in range(TICKS):
                assert gateway.wake_at is not None
                gateway.step(TimerFired(), now)
            spent += time.process_time() - began
            ticks += TICKS
        return spent / ticks


def sessions(held: int) -> Mapping[str, Measure]:
    """Chat round trips beside sessions that nobody reads at the moment."""
    rooms = {"per_user": OF_ONE_USER, "max_sessions": held + SPEAKERS, "ttl": A_DAY}
    rig = Rig(SPEAKERS, with_id=False, settings={**SILENT, "sessions": rooms})
    for user in range(held // OF_ONE_USER):
        number = rig.connect(f"past-{user:06}")
        for name in range(OF_ONE_USER):
            run = rig.ask(number, text(chat("hello", session_id=f"session {user} {name}")))
            rig.step(RunFinished(run.run_id, "hello"))
        rig.step(ConnectionLost(number))
    rig.own.clear()
    assert rig.gateway.sessions == held
    return {"a chat message": lambda seconds: rig.measure(seconds).total}


def absences(events: int) -> Mapping[str, Measure]:
    """Coming back to a session after so many events."""
    resume = behind(events)
    return {"one event of a resume": lambda seconds: _timed(resume, seconds) / events}


def _timed(operation: Callable[[], object], seconds: float) -> float:
    end, began, times = time.perf_counter() + seconds, time.process_time(), 0
    while not times or time.perf_counter() < end:
        operation()
        times += 1
    return (time.process_time() - began) / times


SERIES = (
    Series("messages", "connections", (10, 100, 1_000, 10_000), messages, (f"{SPEAKERS} of them speak",)),
    Series("timers", "connections", (10, 100, 1_000, 10_000), timers, (HEARTBEAT, TOO_EARLY)),
    Series("sessions", "sessions", (100, 1_000, 10_000, 100_000), sessions, ("a chat message",)),
    Series("absences", "events", (10, 100, 1_000), absences, ("one event of a resume",)),
)  # fmt: skip


# ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(options: Options) -> list[Goal]:
    """Measure, and print a table for each series."""
    goals = [goal for series in SERIES for goal in alone(series, options)]
    return [*goals, over_sockets(options)]


def alone(series: Series, options: Options) -> list[Goal]:
    """Measure one series through `Gateway.step`, and print its table."""
    series = series._replace(sizes=tuple(size for size in series.sizes if size <= options.largest))
    costs = measure(series, options.seconds * SHARE, options.rounds)
    print(f"### growth: {series.name}\n")
    print(f"{options.rounds} interleaved rounds, a process for each size; µs of processor time, median (lowest to "
          "highest); garbage collector on, and where it says *frozen* what was there before is hidden from it.\n"
          )  # fmt: skip
    print(table((series.size, *costs[series.sizes[0]]), _rows(series, costs)), end="\n\n", flush=True)
    what, sizes = f"growth, {series.name}", f"{series.sizes[-1]:,} {series.size} against {series.sizes[0]}"
    return [Goal(f"{what}: {one}, {sizes}", FLAT, _ratio(series, costs, one), "itself") for one in series.flat]


Costs = Mapping[int, Mapping[str, list[float]]]  # by size and measure: seconds of each round


def measure(series: Series, seconds: float, rounds: int) -> Costs:
    """Every size once a round, so that what disturbs the machine disturbs them alike."""
    costs: dict[int, dict[str, list[float]]] = {size: {} for size in series.sizes}
    with ExitStack() as stack:
        children = {
            size: stack.enter_context(Child(series.name, "benchmarks.growth", [series.name, size]))
            for size in series.sizes
        }
        for child in children.values():
            child.hear()
        for number in range(1, rounds + 1):
            print(f"round {number}/{rounds}, {series.name}", file=sys.stderr, flush=True)
            for size, child in children.items():
                child.tell(seconds)
                for what, cost in child.hear().items():
                    costs[size].setdefault(what, []).append(cost)
    return costs


def _rows(series: Series, costs: Costs) -> list[list[str]]:
    rows = [
        [f"{size:,}", *(Spread.of(1e6 * cost for cost in found).text(2) for found in costs[size].values())]
        for size in series.sizes
    ]
    ratios = [_ratio(series, costs, what).text(2) for what in costs[series.sizes[0]]]
    return [*rows, [f"{series.sizes[-1]:,} ÷ {series.sizes[0]}", *ratios]]


def _ratio(series: Series, costs: Costs, what: str) -> Spread:
    """The largest size against the smallest, within each round."""
    small, large = (costs[series.sizes[at]][what] for at in (0, -1))
    return Spread.of(ours / theirs for ours, theirs in zip(large, small, strict=True))


# ── over sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────


def over_sockets(options: Options, sizes: Sequence[int] = SIZES) -> Goal:
    """Replies a second of as many clients as the first size is, beside others that are open and silent."""
    most, chatting = min(options.largest, most_connections()), sizes[0]
    found: dict[int, list[Result]] = {size: [] for size in sizes if size <= most}
    for number in range(1, options.rounds + 1):
        for size, results in found.items():
            results.append(_among(size, chatting, options.seconds))
            print(f"round {number}/{options.rounds}, {size:,} connections: {results[-1].rate:,.0f} replies/s",
                  file=sys.stderr, flush=True)  # fmt: skip
    print(f"### growth: {chatting} connections that chat, 1 in flight, among others over loopback\n")
    print(f"{options.rounds} interleaved rounds of {options.seconds:g} s; median (lowest to highest).\n")
    headers = ("connections", "replies/s", "server µs a reply")
    print(table(headers, [[f"{size:,}", *_cells(results)] for size, results in found.items()]), end="\n\n", flush=True)
    largest = max(found)
    ratio = Spread.of(_cost(large) / _cost(small) for large, small in zip(found[largest], found[chatting], strict=True))
    what = f"growth over loopback: server time of a reply, {largest:,} connections against {chatting}"
    return Goal(what, FLAT, ratio, "itself")


def _among(connections: int, chatting: int, seconds: float) -> Result:
    terms = Terms(secret=token_hex(32))
    tokens = [terms.token(f"user-{number:06}") for number in range(connections)]
    with QAWS.start(terms) as server:
        port = server.hear()["port"]
        with Standing(port, QAWS.dialect) as others:
            others.more(tokens[chatting:])
            return drive(Plan(port, tokens[:chatting], 1, seconds, server.pid))


def _cost(result: Result) -> float:
    return (result.server_cpu or result.seconds) / result.replies


def _cells(results: Sequence[Result]) -> list[str]:
    rates = Spread.of(result.rate for result in results)
    return [rates.text(), Spread.of(1e6 * _cost(result) for result in results).text(1)]


# ── in the process of one size ───────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Build what the first line names, and measure it for so many seconds whenever a line says so."""
    name, size = json.loads(sys.stdin.readline())
    measures = next(series for series in SERIES if series.name == name).make(size)
    for one in measures.values():
        one(WARM_UP)
    tell_parent({})
    for line in sys.stdin:
        seconds = float(line)
        costs = {}
        for what, one in measures.items():
            gc.collect()
            costs[what] = one(seconds)
        gc.collect()
        gc.freeze()
        costs |= {f"{what}, frozen": one(seconds) for what, one in measures.items()}
        gc.unfreeze()
        tell_parent(costs)


if __name__ == "__main__":
    main()
