"""Random streams by name: all from one seed, and none moved by another."""

from __future__ import annotations

from qaws_proto.testing.streams import Streams


def test_who_draws_more_does_not_move_the_others() -> None:
    quiet, busy = Streams(1), Streams(1)
    for _ in range(100):
        busy.stream("busy").random()
    assert quiet.stream("other").random() == busy.stream("other").random()


def test_a_stream_has_its_place_and_its_seed() -> None:
    streams = Streams(1)
    first = streams.stream("a").random()
    assert streams.stream("a").random() != first
    assert Streams(1).stream("a").random() == first
    assert len({Streams(seed).stream(name).random() for seed in (1, 2) for name in "ab"}) == 4


def test_numbers_are_those_of_every_process() -> None:
    assert Streams(1).stream("a").randrange(1 << 32) == RECORDED
    assert Streams(1).text("a") == Streams(1).text("a") != Streams(1).text("b")


RECORDED = 618735177  # in one process, once
