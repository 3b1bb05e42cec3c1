"""Simulated worlds: whole histories with everything that can go wrong, each from one number."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qaws_proto.testing import configure
from qaws_proto.testing.profile import Profile
from qaws_proto.testing.simulation import Outcome, simulate, summarize
from qaws_proto.testing.world import World

FIRST = 1_000_000
WORLDS, PARTS = 80, 8  # of a run of the tests; `qaws simulate` has many more


@pytest.mark.clause("C1")
@pytest.mark.clause("C2")
@pytest.mark.clause("C3")
@pytest.mark.clause("C4")
@pytest.mark.clause("C5")
@pytest.mark.clause("C6")
@pytest.mark.clause("C7")
@pytest.mark.clause("C8")
@pytest.mark.clause("C10")
@pytest.mark.clause("C11")
@pytest.mark.parametrize("part", range(PARTS))
def test_worlds_recover_from_all_that_goes_wrong(part: int) -> None:
    size = WORLDS // PARTS
    outcomes = [simulate(FIRST + part * size + number)[1] for number in range(size)]
    assert [f"seed {one.seed}, step {one.steps}: {one.failure}" for one in outcomes if one.failure] == []


def told(world: World) -> tuple[int, str]:
    """What tells a history from others."""
    return world.steps, world.digest


@pytest.mark.clause("C2")
def test_a_seed_is_a_history() -> None:
    first, again, other = World(7), World(7), World(8)
    for world in (first, again, other):
        world.run()
    assert told(first) == told(again)
    assert told(first) != told(other)


@pytest.mark.clause("C2")
def test_a_history_does_not_depend_on_the_process() -> None:
    code = "from qaws_proto.testing.simulation import *\n"
    code += "print(summarize(simulate(seed)[1] for seed in (3, 4, 5, 6)).digest)"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hashing, **paths()},
        ).stdout
        for hashing in ("1", "2")
    }
    assert len(told) == 1, told


def paths() -> dict[str, str]:
    """Where this process finds its modules."""
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_a_world_stops_at_a_step() -> None:
    whole, part = World(7), World(7, until=40)
    whole.run()
    part.run()
    assert (part.steps, whole.steps > 40) == (40, True)
    assert part.latest[-1].split()[0] == "40"


def test_what_is_found_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(world: World) -> None:
        raise KeyError("what no gateway raises")

    monkeypatch.setattr(World, "run", broken)
    _, outcome = simulate(1)
    assert outcome.failure is not None
    assert outcome.failure.startswith("KeyError: 'what no gateway raises'\n  at test_worlds.py:")


def test_outcomes_make_a_summary_in_the_order_of_their_seeds() -> None:
    two, one = Outcome(2, 20, "b", {"crash": 1}, "lost"), Outcome(1, 10, "a", {"crash": 2}, None)
    summary = summarize([two, one])
    assert (summary.worlds, summary.steps, summary.failures) == (2, 30, (two,))
    assert summary.counters.counts["crash"] == 3
    assert "stop" in summary.counters.missing
    assert summary.digest == summarize([one, two]).digest != summarize([one]).digest


def test_everybody_goes_where_the_configuration_serves() -> None:
    server = {"path": "/chat", "allowed_hosts": ["chat.example"]}
    security = {"addresses": {"allow": ["10.0.0.0/8"], "block": ["192.0.2.0/24"]}}
    profile = Profile(users=1, chaos=20.0, hostile=("binary",), hostile_every=2.0)
    world = World(1, config=configure(server=server, security=security), profile=profile)
    world.run()
    assert world.counters.counts["binary message"]
    assert world.counters.counts["run completed"]
