"""The agents of simulated worlds: what each kind leads to."""

from __future__ import annotations

import pytest

from qaws_proto.testing.agents import KINDS, seen
from qaws_proto.testing.profile import SMALL, Profile
from qaws_proto.testing.world import World

COMPLETED, FAILED, TIMED_OUT = "run completed", "agent failed", "agent timed out"
LEADS_TO: dict[str, set[str]] = {
    "echo": {COMPLETED},
    "slow": {COMPLETED},
    "bursty": {COMPLETED},
    "steps": {COMPLETED},
    "hanging": {TIMED_OUT},
    "raising": {FAILED},
    "huge": {"response too large"},
    "endless": {TIMED_OUT},
    "deaf": {TIMED_OUT, "deaf agent given up"},
    "late": {COMPLETED},
    "on the dot": {COMPLETED, TIMED_OUT},
    "strange": {COMPLETED, FAILED},
    "wrong": {FAILED},
}


@pytest.mark.row("G1")
@pytest.mark.row("G2")
@pytest.mark.row("G3")
@pytest.mark.row("G4")
@pytest.mark.row("G5")
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_agent_comes_to_its_end(kind: str) -> None:
    settings = {"agent": SMALL["agent"] | {"max_runs": 50}}
    world = World(1, profile=Profile(settings=settings, users=1, chaos=60.0, asks_every=1.5, agents=(kind,)))
    world.run()
    ends = {name for names in LEADS_TO.values() for name in names if world.counters.counts[name]}
    assert ends - {COMPLETED} == LEADS_TO[kind] - {COMPLETED}  # in the quiet phase there are answers in any case
    others = [end for tab in world.users[0].tabs for end in tab.heard.ends.values()]
    assert others


def test_halves_of_characters_are_seen_as_they_are_sent() -> None:
    assert seen("a\ud83db") == "a\ufffdb"
    assert seen("\U0001f600") == "\U0001f600"
