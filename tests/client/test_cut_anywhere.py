"""An answer of 500 pieces over connections that are cut at every event and at 1,000 random bytes: lost 0, doubled 0."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import NamedTuple

import pytest

from qaws_proto.events import AgentResponse
from tests.client.pipe import World

PIECES = 500
WORLDS, CUTS = 50, 20  # of random bytes: 1,000 in all
SEED = 20_261


class Count(NamedTuple):
    """What became of the pieces of an answer."""

    cuts: int
    lost: int
    duplicated: int


def begun() -> tuple[World, str]:
    """A client that hears an answer, and its run."""
    world = World({"agent": {"roll_up": 0, "timeout": 86_400, "max_duration": 86_400}})
    world.start()
    world.flush()
    world.ask(stream=True)
    world.flush()
    return world, world.node.only_run


def come_back(world: World) -> None:
    """Let the network be kind until messages flow."""
    for _ in range(200):
        if world.flowing:
            return
        world.advance(0.5)
        world.flush()
    raise AssertionError(f"the client did not come back: {world.ended}")


def ended(world: World, run_id: str, cuts: int) -> Count:
    """Let the answer come to its end, and count."""
    world.node.finish(run_id)
    world.settle()
    end = world.caller.ends["m1"]
    assert isinstance(end, AgentResponse)
    assert world.caller.gaps == []
    expected = [f"<{n}>" for n in range(PIECES)]
    assert end.content == "".join(expected)
    heard = Counter(re.findall(r"<\d+>", world.caller.texts[run_id]))
    lost = sum(heard[piece] == 0 for piece in expected)
    assert world.caller.texts[run_id] == end.content or lost or max(heard.values()) > 1
    return Count(cuts, lost, sum(count > 1 for count in heard.values()))


@pytest.mark.clause("C10")
@pytest.mark.row("S1")
def test_cut_at_every_event() -> None:
    world, run_id = begun()
    for n in range(PIECES):
        world.node.chunk(run_id, f"<{n}>")
        world.cut()  # with the event on its way
        come_back(world)
        world.cut(half=True)  # behind it; the server does not notice until later
        come_back(world)
    count = ended(world, run_id, 2 * PIECES)
    print(f"\ncut at every event: {count}")
    assert count == (2 * PIECES, 0, 0)


@pytest.mark.clause("C10")
@pytest.mark.row("S1")
def test_cut_at_random_bytes() -> None:
    dice = random.Random(SEED)
    counts = []
    for _ in range(WORLDS):
        world, run_id = begun()
        told = cuts = 0
        while cuts < CUTS:
            more = min(PIECES, told + dice.randint(0, 2 * PIECES // CUTS))
            for n in range(told, more):
                world.node.chunk(run_id, f"<{n}>")
            told = more
            assert world.tap is not None
            world.send_down(dice.randint(0, len(world.tap.written)))
            world.cut(half=dice.random() < 0.5)
            cuts += 1
            while dice.random() < 0.5:  # the way back is cut as well
                world.advance(3.0)
                world.open()
                for _ in range(6):
                    world.send_up(dice.randint(1, 300))
                    world.send_down(dice.randint(1, 300))
                world.cut(half=dice.random() < 0.5)
                cuts += 1
            come_back(world)
        for n in range(told, PIECES):
            world.node.chunk(run_id, f"<{n}>")
        counts.append(ended(world, run_id, cuts))
    total = Count(*map(sum, zip(*counts, strict=True)))
    print(f"\ncut at random bytes, seed {SEED}: {total}")
    assert total.cuts >= WORLDS * CUTS
    assert total[1:] == (0, 0)
