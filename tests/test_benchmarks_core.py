"""What is measured of the core alone: each scenario does what it says, and the gate of instructions judges right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth
from benchmarks.idle import STATES, held, slope
from benchmarks.instructions import Baseline, CountError, check_alike, compare, here, judge
from benchmarks.options import Options
from benchmarks.peers import QAWS
from benchmarks.scenarios import ANSWER, BEHIND, PIECES, READERS, SCENARIOS, Operation, Scenario
from qaws_proto.effects import Effect, SendBytes
from qaws_proto.wire.frames import Frames, TextReceived

TINY = Options(connections=2, in_flight=(1,), seconds=0.05, rounds=1)
IDLE_BYTES = 3_400  # that the core holds for a connection that is logged in and silent
COUNTS = {"chat": 1_000_000, "resume": 2_000_000}
WHAT = {"CPython": "3.11", "for": "x86_64"}


# ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────────


def prepared(name: str) -> Operation:
    """A scenario of this name, for three repetitions."""
    return next(one for one in SCENARIOS if one.name == name).prepare(3)


def events(effects: list[Effect]) -> dict[int, list[dict[str, Any]]]:
    """The events that each connection is sent, behind the answer to its request if that is among them."""
    heard: dict[int, list[dict[str, Any]]] = {}
    for effect in effects:
        if isinstance(effect, SendBytes):
            frames = Frames(client=True, max_message=1 << 20, max_fragments=1)
            frames.receive(effect.data.rpartition(b"\r\n\r\n")[2])
            while (event := frames.next_event()) is not None:
                assert isinstance(event, TextReceived)
                heard.setdefault(effect.connection, []).append(json.loads(event.text))
    return heard


def test_a_chat_round_trip_is_one_answer() -> None:
    operation = prepared("chat round trip")
    for _ in range(3):
        (answer,) = events(operation())[1]
        assert (answer["type"], answer["content"]) == ("agent_response", ANSWER)


def test_a_streamed_answer_is_sixteen_chunks_and_the_whole() -> None:
    operation = prepared("streamed answer of 16 chunks")
    for _ in range(3):
        *chunks, answer = events(operation())[1]
        assert [chunk["content"] for chunk in chunks] == PIECES
        assert {chunk["type"] for chunk in chunks} == {"agent_chunk"}
        assert (answer["type"], answer["content"]) == ("agent_response", "".join(PIECES))


def test_a_handshake_is_that_of_another_user_each_time() -> None:
    operation = prepared("handshake with a new token")
    users = set()
    for number in range(1, 4):
        effects = operation()
        assert any(isinstance(effect, SendBytes) and b" 101 " in effect.data for effect in effects)
        (greeting,) = events(effects)[number]
        assert greeting["event_name"] == "connection_established"
        users.add(greeting["data"]["user_id"])
    assert len(users) == 3


def test_an_answer_is_heard_by_a_hundred_readers() -> None:
    operation = prepared("answer for 100 readers")
    for _ in range(3):
        heard = events(operation())
        assert len(heard) == READERS
        assert all([event["content"] for event in told] == [ANSWER] for told in heard.values())


def test_a_resume_is_a_hundred_answers_again() -> None:
    operation = prepared("resume behind 100 events")
    for _ in range(3):
        resumed, *answers = events(operation())[1]
        assert resumed["data"]["recovered"]
        assert [answer["seq"] for answer in answers] == list(range(1, BEHIND + 1))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_scenario_is_the_same_in_every_run(scenario: Scenario) -> None:
    first, second = scenario.prepare(3), scenario.prepare(3)
    assert [first() for _ in range(3)] == [second() for _ in range(3)]


@pytest.mark.parametrize("change", [-0.029, -0.02, 0.0, 0.02, 0.029])
def test_counts_within_three_percent_pass(change: float) -> None:
    judge({**COUNTS, "chat": round(COUNTS["chat"] * (1 + change))}, COUNTS)


@pytest.mark.parametrize(
    ("change", "says"), [(0.04, "slower than .*chat .+4.0%"), (-0.04, "faster than .*chat .-4.0%")]
)
def test_counts_beyond_that_fail_and_it_says_what_to_do(change: float, says: str) -> None:
    with pytest.raises(CountError, match=says) as failed:
        judge({**COUNTS, "chat": round(COUNTS["chat"] * (1 + change))}, COUNTS)
    assert "resume" not in str(failed.value)
    assert "--write" in str(failed.value)


@pytest.mark.parametrize("counts", [{}, {"chat": 1_000_000}, {**COUNTS, "new": 1}])
def test_other_scenarios_than_those_of_the_baseline_fail(counts: dict[str, int]) -> None:
    with pytest.raises(CountError, match="other scenarios"):
        judge(counts, COUNTS)


@pytest.mark.parametrize("other", [{**WHAT, "CPython": "3.12"}, {**WHAT, "h11": "0.16"}, {"CPython": "3.11"}])
def test_a_baseline_of_something_else_is_not_compared_with(other: dict[str, str]) -> None:
    with pytest.raises(CountError, match="cannot be compared"):
        check_alike(WHAT, other)


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(CountError, match="--write"):
        Baseline.read(path)
    Baseline(WHAT, COUNTS).write(path)
    compare({**COUNTS, "chat": 1_010_000}, Baseline.read(path))
    assert "| chat | 1,010,000 | 1,000,000 | +1.00% |" in capsys.readouterr().out


def test_what_is_here_can_be_compared_with_itself() -> None:
    check_alike(here(), here())
    assert "(missing)" not in here().values()


# ── growth and memory ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("series", growth.SERIES, ids=lambda one: one.name)
def test_growth_is_measured_at_each_size(series: growth.Series, capsys: pytest.CaptureFixture[str]) -> None:
    small = series._replace(sizes=(100, 200) if series.size == "sessions" else (2, 4))
    goals = growth.alone(small, TINY)
    printed = capsys.readouterr().out
    assert all(f"\n| {size} | " in printed for size in small.sizes)
    assert f"\n| {small.sizes[1]} ÷ {small.sizes[0]} | " in printed
    assert [goal.reached is not None and goal.reached.low > 0 for goal in goals] == [True] * len(series.flat)


def test_growth_is_measured_over_sockets(capsys: pytest.CaptureFixture[str]) -> None:
    goal = growth.over_sockets(replace(TINY, seconds=0.5), (2, 5))  # other work may stop a server for a while
    printed = capsys.readouterr().out
    assert all(f"\n| {size} | " in printed for size in (2, 5))
    assert goal.reached is not None


def test_the_memory_of_idle_connections_is_measured() -> None:
    cost = slope(QAWS, 2, 6)
    assert cost.whole > 1 << 20
    assert abs(cost.each) < cost.whole


def test_the_core_holds_little_for_an_idle_connection() -> None:
    sizes = held(100)
    assert list(sizes) == list(STATES)
    assert 0 < sizes[STATES[0]] < IDLE_BYTES
    assert all(size > 0 for size in sizes.values())
