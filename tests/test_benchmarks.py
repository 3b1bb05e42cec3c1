"""Every measured server does the work that it is measured for, and the tables are printed. No figure is judged."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from random import Random

import pytest

from benchmarks import soak
from benchmarks.__main__ import main
from benchmarks.abuse import ABUSES
from benchmarks.chat import available, once
from benchmarks.crowd import Tally
from benchmarks.load import CONTENT, Plan, Result, drive, masked_frame
from benchmarks.peers import CONSTANT, PEERS, Peer
from benchmarks.peers.work import Terms
from benchmarks.processes import ChildError
from benchmarks.report import Goal, Spread, Target, at_least, at_most
from benchmarks.watching import Sample, Slope, percentile
from qaws_proto.wire.frames import Frames, TextReceived

TERMS = Terms(secret="a secret of this test, long enough for HS256")
TINY = ("--connections", "2", "--in-flight", "1", "--seconds", "0.05", "--rounds", "1")
FIELDS = {
    "type", "content", "session_id", "user_id", "processing_time", "reasoning_steps", "tools_used", "status", "run_id",
    "seq",
}  # fmt: skip


def named(peer: Peer) -> str:
    return peer.name


@pytest.fixture(scope="module", params=PEERS, ids=named)
def started(request: pytest.FixtureRequest) -> Iterator[Plan]:
    """A server that does the work, and a short plan for it."""
    peer: Peer = request.param
    assert not peer.missing
    with peer.start(TERMS) as server:
        tokens = [TERMS.token(user) for user in ("ana", "bo")]
        yield Plan(server.hear()["port"], tokens, in_flight=3, seconds=0.05, server_pid=server.pid)


def driven(plan: Plan, **changes: object) -> Result:
    values = {name: getattr(plan, name) for name in Plan.__slots__}
    return drive(Plan(**{**values, **changes}))


def test_a_server_answers_every_message_with_the_same_fields(started: Plan) -> None:
    result = driven(started)
    assert result.replies > 0
    assert set(result.reply) == FIELDS
    assert result.reply["content"] == f"You said: {CONTENT}"
    assert (result.reply["type"], result.reply["user_id"]) == ("agent_response", "ana")
    assert result.reply["seq"] > 1


def test_a_server_verifies_tokens(started: Plan) -> None:
    forged = TERMS._replace(secret="another secret, as long as the one of this test").token("ana")
    with pytest.raises(ChildError, match="did not let a client in"):
        driven(started, tokens=[forged])


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"chat_message"}',
        '{"type":"chat_message","content":""}',
        '{"type":"chat_message","content":7}',
        '{"type":"chat_message","content":"hello","colour":"blue"}',
    ],
)
def test_a_server_validates_events(started: Plan, message: str) -> None:
    with pytest.raises(ChildError, match="INVALID_EVENT"):
        driven(started, message=message)


@pytest.mark.parametrize("peer", PEERS, ids=named)
def test_a_server_keeps_the_limit_of_a_user(peer: Peer) -> None:
    terms = TERMS._replace(requests_per_minute=7)
    with peer.start(terms) as server:
        plan = Plan(server.hear()["port"], [terms.token("ana")] * 2, in_flight=1, seconds=5.0, server_pid=server.pid)
        with pytest.raises(ChildError, match="RATE_LIMIT"):
            drive(plan)


def test_the_constant_server_answers_the_load_generator() -> None:
    result = once(CONSTANT, connections=2, in_flight=3, seconds=0.05)
    assert result.replies > 0
    assert set(result.reply) == FIELDS


def test_a_server_that_cannot_start_is_named() -> None:
    with Peer("nobody", "no_such_module", ()).start(TERMS) as server, pytest.raises(ChildError, match="nobody ended"):
        server.hear()


@pytest.mark.parametrize("length", [1, 125, 126, 127, 4097, 65535])
def test_the_frames_of_the_load_generator_are_what_a_server_reads(length: int) -> None:
    frames = Frames(client=False, max_message=1 << 16, max_fragments=1)
    text = "¿" * (length // 2) + "x" * (length % 2)
    frames.receive(masked_frame(text.encode()))
    assert frames.next_event() == TextReceived(text)
    assert frames.waiting == 0


def test_all_prints_a_table_for_each_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["all", *TINY]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{platform.python_implementation()} {platform.python_version()}; ")
    assert "### core" in printed
    assert "### chat: 2 connections, 1 in flight" in printed
    assert "### stores: one message in flight a client" in printed
    stores = ("memory", "sqlite, synchronous: normal", "sqlite, synchronous: full")
    assert all(printed.count(f"\n| {store} |") == 3 for store in stores)  # alone, with others, and its latency
    for row in ("without `id`", "with `id`", *(peer.title for peer in PEERS)):
        assert f"\n| {row}" in printed
    assert "Ceiling of the load generator" in printed
    assert os.getcwd() not in printed
    assert platform.node() not in printed


def test_a_soak_prints_levels_and_slopes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "--minutes", "0.1", "--connections", "8"]) in (0, 1)  # what is new may well grow
    printed, told = capsys.readouterr()
    assert "### soak: 8 honest clients, 1 of each kind of abuse, 0.1 minutes" in printed, told
    for row in (*(one.name for one in soak.WATCHED), *ABUSES):
        assert f"\n| {row} | " in printed


def samples(memory: Callable[[int], float]) -> list[Sample]:
    """Ten minutes of a server whose memory goes like that, second by second."""
    return [Sample(float(at), int(memory(at)), 20, 1, 5.0, 0.1, 0.2) for at in range(600)]


def noise(at: int) -> float:
    """Bytes that come and go, of a level that lasts for some seconds."""
    return 60e6 + 4e6 * Random(at // 7).random()


@pytest.mark.parametrize(
    ("memory", "grows"),
    [
        (noise, False),
        (lambda at: noise(at) + 20_000 * at, True),  # 69 MiB an hour
        (lambda at: noise(at) + 1_000 * at, False),  # 3 MiB: it may be nothing
        (lambda at: noise(at) - 20_000 * at, False),
        (lambda at: 60e6 + 30e6 * min(1.0, at / 100), False),  # within the first fifth
    ],
)
def test_a_soak_fails_where_memory_grows(
    memory: Callable[[int], float], grows: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(asked=1, answered=1, waits=[0.1], samples=samples(memory), seconds=600.0)
    with pytest.raises(soak.GrowthError, match="memory") if grows else nullcontext():
        soak.report(tally, 64, 8)
    assert "| memory, MiB | " in capsys.readouterr().out


def test_a_slope_is_that_of_the_line_and_its_error_that_of_the_noise() -> None:
    times = [float(at) for at in range(1600)]
    exact = Slope.of(times, [3.0 * at for at in times], 100)
    assert exact == pytest.approx((3 * 3600, 0), abs=1e-6)
    noisy = [3.0 * at + Random(int(at) // 10).gauss(0, 500) for at in times]
    found = Slope.of(times, noisy, 100)
    assert abs(found.an_hour - 3 * 3600) < 4 * found.error
    assert found.error < 3600
    with pytest.raises(ValueError, match="too few"):
        Slope.of(times[:2], times[:2], 1)


@pytest.mark.parametrize(("rank", "value"), [(0, 1.0), (50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0)])
def test_a_percentile_is_a_value_that_there_was(rank: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], rank) == value


def test_a_peer_whose_package_is_missing_is_left_out_by_name() -> None:
    absent = Peer("Absent", "absent", ("pydantic", "no-such-distribution"))
    present, notes = available([absent, *PEERS])
    assert present == list(PEERS)
    assert notes == ["Left out: Absent; not installed: no-such-distribution."]


@pytest.mark.parametrize(
    ("target", "figures", "cells"),
    [
        (at_least(1.1), [1.2, 1.1, 1.0], ["≥ 1.1", "1.10 (1.00 to 1.20)", "them", ""]),
        (at_least(1.1), [1.05], ["≥ 1.1", "1.05 (1.05 to 1.05)", "them", "not reached"]),
        (at_most(15), [14.9], ["≤ 15", "14.90 (14.90 to 14.90)", "them", ""]),
        (at_most(15), [15.1], ["≤ 15", "15.10 (15.10 to 15.10)", "them", "not reached"]),
        (at_most(15), [], ["≤ 15", "not measured", "them", ""]),
    ],
)
def test_a_goal_that_is_not_reached_says_so(target: Target, figures: list[float], cells: list[str]) -> None:
    assert Goal("it", target, Spread.of(figures) if figures else None, "them").row() == ["it", *cells]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chatt"], "there is no benchmark 'chatt'; there are core, chat, stores, all, soak"),
        ([], "the following arguments are required: core|chat|stores|all|soak"),
        (["core", "--rounds", "0"], "argument --rounds: '0' is not a whole number of at least 1"),
        (["chat", "--in-flight", "x"], "argument --in-flight: 'x' is not a whole number of at least 1"),
        (["chat", "--seconds", "nan"], "argument --seconds: 'nan' is not a number of seconds, above 0 and up to 3600"),
        (["chat", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"benchmarks: {says}\n")
