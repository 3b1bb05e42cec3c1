"""Two thousand clients, most of them abusive, against `qaws serve`: its memory is bounded, and no honest one is harmed.

The figures are printed at the end of the test run. None of them is judged but the memory, which has a bound that
follows from the configuration.
"""

from __future__ import annotations

import re
import resource
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.abuse import ABUSES
from benchmarks.crowd import ADDRESSES, PAIR, Plan, Tally, drive
from benchmarks.crowd_server import Bound, Serving, serving, settings, tokens
from benchmarks.peers.work import Terms
from benchmarks.report import table
from benchmarks.watching import descriptors_of, memory_of, percentile
from qaws_proto import WebSocketConfig

HONEST, TURNS = 300, 3
ABUSIVE = {
    "slow heads": 400, "silent": 200, "garbage": 100, "wrong tokens": 100, "floods": 100, "huge messages": 100,
    "half-open": 400, "never reading": 200, "churn": 100,
}  # fmt: skip
CLIENTS = HONEST + sum(ABUSIVE.values())
DESCRIPTORS = 4500  # open files that the server, or the crowd, may need
TOO_MANY = {"429", "4429"}  # what an address gets that does any of this too often
PATIENCE = 30  # seconds for the server to let go of who has left


@pytest.fixture
def descriptors() -> None:
    """Enough of them, for the processes that are started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"the hard limit of open files is {hard}; it takes {DESCRIPTORS} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and the addresses 127.x.x.x are those of Linux")
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("descriptors")
@pytest.mark.row("H2", "H3", "F3", "F4", "F8", "F11", "C1", "C3")
@pytest.mark.clause("C7")
@pytest.mark.clause("C8")
def test_two_thousand_clients_harm_neither_the_server_nor_each_other(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    assert CLIENTS == 2000
    terms = Terms(secrets.token_urlsafe(32))
    config = settings(terms.secret, clients=CLIENTS)
    bound = Bound.of(WebSocketConfig.model_validate(config))
    with serving(tmp_path, config) as server:
        memory, files = memory_of(server.pid), descriptors_of(server.pid)
        abusive = {kind: tokens(terms, kind.replace(" ", "-"), count) for kind, count in ABUSIVE.items()}
        tally = drive(Plan(server.port, server.pid, tokens(terms, "honest", HONEST), abusive, turns=TURNS))
        record_property("figures", figures(tally, memory, bound))
        deadline = time.monotonic() + PATIENCE
        while descriptors_of(server.pid) > files and time.monotonic() < deadline:
            time.sleep(0.1)
        assert descriptors_of(server.pid) <= files, "C3: sockets are left"
    assert tally.asked == tally.answered >= HONEST * TURNS * PAIR
    for kind, abuse in ABUSES.items():
        ends = tally.ends[kind].keys()
        assert ends & abuse.ends, f"{abuse.row}: no client of the kind {kind!r} was ended as it should be, but {ends}"
        assert ends <= abuse.ends | TOO_MANY, f"{abuse.row}: {kind!r} ended by {ends - abuse.ends}"
    assert max(sample.memory for sample in tally.samples) - memory <= sum(bound), bound.text()
    check_log(server, tally.seconds)


def check_log(server: Serving, seconds: float) -> None:
    """No traceback, and what is refused fills no log: a line for an address in ten seconds."""
    log = server.log.read_text()
    assert "Traceback" not in log
    refused = Counter(re.findall(r" refused .*address=(\S+)", log))
    assert refused.keys() <= {f"127.2.0.{number + 1}" for number in range(ADDRESSES)}
    assert max(refused.values()) <= seconds / 10 + 2


def figures(tally: Tally, before: int, bound: Bound) -> str:
    """What there was to see, as tables."""
    waits = sorted(tally.waits)
    peak = max(sample.memory for sample in tally.samples)
    opened = max(sample.descriptors for sample in tally.samples)
    rows = [
        [kind, str(count), ", ".join(f"{end}: {times}" for end, times in tally.ends[kind].items())]
        for kind, count in ABUSIVE.items()
    ]
    return "\n".join(
        [
            f"{CLIENTS} clients for {tally.seconds:.0f} s, up to {opened} descriptors of the server at once; it "
            f"took {tally.server_cpu:.0f} s of a core, the clients {tally.crowd_cpu:.0f} s.",
            f"Memory: {before >> 20} MiB at rest, {peak >> 20} MiB at most; "
            f"allowed beyond rest: {bound.text()}.",
            f"{HONEST} honest clients got {tally.answered} answers to {tally.asked} messages, after seconds: "
            + ", ".join(f"{percentile(waits, rank):.2f} (p{rank})" for rank in (50, 90, 99, 100)) + ".",
            "",
            table(("abuse", "clients", "how the server ended it"), rows),
        ]
    )  # fmt: skip
