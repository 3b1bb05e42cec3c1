"""Every measured server does the work that it is measured for, and the tables are printed. No figure is judged."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from typing import TypeVar
from unittest.mock import Mock

import pytest

from benchmarks import arriving, chat, fanout, pacing, plots, soak, stream
from benchmarks.__main__ import APART, BENCHMARKS, main
from benchmarks.abuse import ABUSES
from benchmarks.comparison import goal, interleaved
from benchmarks.crowd import Tally
from benchmarks.load import CONTENT, MESSAGE, Client, Plan, Result, connect, drive, finish, masked_frame, message_frame
from benchmarks.options import Options
from benchmarks.peers import CONSTANT, PEERS, PICOWS, QAWS, QAWS_INTERPRETED, Peer, available
from benchmarks.peers.constant import GREETING, REPLY
from benchmarks.peers.work import PIECES, Service, Terms
from benchmarks.processes import ROOT, ChildError
from benchmarks.report import Goal, Spread, Target, at_least, at_most
from benchmarks.watching import Sample, Slope, percentile
from qaws_proto.wire.frames import Frames, TextReceived, text_frame

LIMIT = 3000  # messages a minute of one user
TERMS = Terms(secret="a secret of this test, long enough for HS256", requests_per_minute=LIMIT)
TINY = Options(connections=2, in_flight=(1,), seconds=0.02, rounds=1, readers=5, crowd=20)
ARGUMENTS = (
    "--connections", "2", "--in-flight", "1", "--seconds", "0.02", "--rounds", "1", "--readers", "5", "--crowd", "20",
    "--largest", "400", "--peers", "qaws", "picows",
)  # fmt: skip
NAMES = (*BENCHMARKS, "all", *APART)
FIELDS = {
    "type", "content", "session_id", "user_id", "processing_time", "reasoning_steps", "tools_used", "status", "run_id",
    "seq",
}  # fmt: skip


def named(peer: Peer) -> str:
    return peer.name


def needed(peer: Peer) -> Peer:
    """A peer whose packages are here; what is missing is Node's, all others are development tools of this project."""
    if any(package.startswith("npm:") for package in peer.missing):
        pytest.skip(f"needs Node.js and {', '.join(peer.missing)}: make .venv/node/.ready")
    assert not peer.missing
    return peer


@pytest.fixture(scope="module", params=PEERS, ids=named)
def started(request: pytest.FixtureRequest) -> Iterator[Plan]:
    """A server that does the work, and a short plan for it."""
    peer = needed(request.param)
    with peer.start(TERMS) as server:
        port = server.hear()["port"]
        yield Plan(port, users("ana", "bo"), in_flight=3, seconds=0.01, server_pid=server.pid, dialect=peer.dialect)


def users(*names: str) -> list[str]:
    return [TERMS.token(name) for name in names]


def test_a_server_answers_every_message_with_the_same_fields(started: Plan) -> None:
    result = drive(started)
    assert result.replies > 0
    assert set(result.reply) == FIELDS
    assert result.reply["content"] == f"You said: {CONTENT}"
    assert (result.reply["type"], result.reply["user_id"]) == ("agent_response", "ana")
    assert result.reply["seq"] > 1


def test_a_server_verifies_tokens(started: Plan) -> None:
    forged = TERMS._replace(secret="another secret, as long as the one of this test").token("ana")
    with pytest.raises(ChildError, match="did not let a client in"):
        drive(replace(started, tokens=[forged]))


INVALID = (
    '{"type":"chat_message","content":"hello","colour":"blue"}',
    '{"type":"chat_message"}',
    '{"type":"chat_message","content":""}',
    '{"type":"chat_message","content":7}',
)


def test_a_server_validates_events(started: Plan) -> None:
    with pytest.raises(ChildError, match="INVALID_EVENT"):
        drive(replace(started, tokens=users("cleo"), message=INVALID[0]))


@pytest.mark.parametrize("message", INVALID[1:])
@pytest.mark.parametrize("started", [peer for peer in PEERS if peer.name in ("picows", "Node's ws")], indirect=True)
def test_a_server_validates_each_field(started: Plan, message: str) -> None:
    with pytest.raises(ChildError, match="INVALID_EVENT"):
        drive(replace(started, tokens=users("cleo"), message=message))


def test_a_server_keeps_the_limit_of_a_user(started: Plan) -> None:
    with pytest.raises(ChildError, match="RATE_LIMIT"):
        drive(replace(started, tokens=users("dan", "dan"), in_flight=8, seconds=10.0))


def test_a_server_lets_in_whoever_comes(started: Plan) -> None:
    result = arriving.drive(
        arriving.Plan(started.port, TERMS._asdict(), 2, 0.05, started.server_pid, started.dialect)
    )  # fmt: skip
    assert result.count > 0


@pytest.mark.parametrize("peer", PEERS, ids=named)
def test_a_server_streams_each_piece_as_a_chunk(peer: Peer) -> None:
    result = stream.measure(needed(peer), TINY)
    assert result.count > 0
    assert set(result.reply) == FIELDS
    assert result.reply["content"] == "".join(PIECES)
    assert result.reply["seq"] % (len(PIECES) + 1) == 0


@pytest.mark.parametrize("peer", PEERS, ids=named)
def test_everybody_in_a_session_hears_everything(peer: Peer) -> None:
    result = fanout.measure(needed(peer), TINY)
    assert result.count > 0
    assert set(result.reply) == FIELDS
    assert result.reply["session_id"] == "everybody"


@pytest.mark.parametrize(
    "measure",
    [lambda: chat.measure(TINY, 3, CONSTANT), lambda: stream.measure(CONSTANT, TINY),
     lambda: fanout.measure(CONSTANT, TINY)],
    ids=["chat", "stream", "fanout"],
)  # fmt: skip
def test_the_constant_server_answers_the_load_generator(measure: Callable[[], Result]) -> None:
    result = measure()
    assert result.count > 0
    assert set(result.reply) == FIELDS


def test_no_token_of_those_who_arrive_comes_twice() -> None:
    fresh = list(islice(arriving.tokens(TERMS, "guest", users=3), 10))
    assert len(set(fresh)) == 10
    found = [Service(TERMS).log_in(f"Bearer {token}") for token in fresh]
    assert all(found)


HELD = 10  # messages


async def answering_in_tens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that holds back its answers until it has ten."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + GREETING)
    with suppress(asyncio.IncompleteReadError):
        while True:
            await reader.readexactly(HELD * len(message_frame(MESSAGE)))
            writer.write(HELD * REPLY)
    writer.close()


Outcome = TypeVar("Outcome")


def beside_them(client: Callable[[int], Coroutine[None, None, Outcome]]) -> Outcome:
    """What a client of that server makes of its port."""

    async def both() -> Outcome:
        async with await asyncio.start_server(answering_in_tens, "127.0.0.1", 0) as server:
            return await client(server.sockets[0].getsockname()[1])

    return asyncio.run(asyncio.wait_for(both(), 30))


def test_a_rate_is_kept_by_the_clock_whatever_is_answered() -> None:
    waits = beside_them(lambda port: pacing.generate(pacing.Plan(port, ["a token"], rate=398, seconds=0.25)))
    assert waits.count == 100  # as many as were due; who waits for answers would have sent one
    assert waits.highest >= (HELD - 1) / 398
    assert waits.middle >= 0.4 * HELD / 398


def test_a_reply_is_read_whose_length_looks_like_a_brace() -> None:
    payload = json.dumps({"content": "x" * 300})
    payload += " " * (0x17B - len(payload))  # 379 bytes: the second byte of their number is that of `{`
    client = Client(Mock(), Mock())
    client.due = 1
    client.data_received(text_frame(payload.encode()))
    assert client.last_event() == {"content": "x" * 300}


def test_a_wait_counts_from_when_its_message_was_due() -> None:
    pace = pacing.Pace(counts_from=-inf)

    async def late_by_an_hour(port: int) -> None:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client = pacing.Paced((await connect(port, ["a token"], ""))[0], "", pace, failed)
        for _ in range(HELD):
            now = time.perf_counter()
            client.send(now - 3600, now)
        await finish([client], failed)

    beside_them(late_by_an_hour)
    assert len(pace.waits) == HELD
    assert min(pace.waits) > 3600
    assert pace.late == pytest.approx([3600] * HELD)


def test_a_server_that_cannot_start_is_named() -> None:
    with Peer("nobody", "no_such_module", ()).start(TERMS) as server, pytest.raises(ChildError, match="nobody ended"):
        server.hear()


def test_a_peer_that_fails_is_left_out_by_name_but_qaws_is_not() -> None:
    def measure(peer: Peer) -> str:
        raise ChildError(f"{peer.name}: it broke")

    found, notes = interleaved([PICOWS], TINY, "nothing", measure, str)
    assert (found, notes) == ({}, ["Failed, and left out: picows: it broke."])
    with pytest.raises(ChildError, match="qaws: it broke"):
        interleaved([QAWS], TINY, "nothing", measure, str)


@pytest.mark.parametrize("length", [1, 125, 126, 127, 4097, 65535])
def test_the_frames_of_the_load_generator_are_what_a_server_reads(length: int) -> None:
    frames = Frames(client=False, max_message=1 << 16, max_fragments=1)
    text = "¿" * (length // 2) + "x" * (length % 2)
    frames.receive(masked_frame(text.encode()))
    assert frames.next_event() == TextReceived(text)
    assert frames.waiting == 0


@pytest.mark.timeout(300)  # many servers, one after the other
def test_all_prints_a_table_for_each_benchmark(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    assert main(["all", *ARGUMENTS, "--plots", str(tmp_path / "plots"), "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{platform.python_implementation()} {platform.python_version()}; ")
    for heading in (
        "core", "chat: 2 connections, 1 in flight", "waits: 2 connections", "handshake and login, 2 at a time",
        "storm: 20 clients at once, while 2 talk", "stream: 2 connections", "fan-out: one session, 5 readers",
        "idle", "growth: messages", "growth: 64 connections that chat",
        "stores: one message in flight a client", "targets",
    ):  # fmt: skip
        assert f"\n### {heading}" in printed
    targets = printed.partition("### targets")[2]
    for row in (
        "core: ", "chat: ", "p99 of waits: ", "handshake and login", "stream: ", "fan-out: ", "idle: ",
        "growth, messages: 10 of them speak, 100 connections against 10", "growth over loopback: ",
    ):  # fmt: skip
        assert f"\n| {row}" in targets
    assert "A server that lets everybody in unseen has all in after " in printed
    assert "qaws tells 5 clients with a session each that it drains within " in printed
    stores = ("memory", "sqlite, synchronous: normal", "sqlite, synchronous: full")
    assert all(printed.count(f"\n| {store} |") == 3 for store in stores)  # alone, with others, and its latency
    for row in ("without `id`", "with `id`"):
        assert f"\n| {row}" in printed
    compared = ("chat-1", "handshake", "stream", "fanout")
    for peer in (QAWS, PICOWS):
        assert printed.count(f"\n| {peer.title} |") == len(compared) + 3  # waits, storm, idle
    assert printed.count("Ceiling of the load generator, against") == len(compared)
    assert "left out" not in printed
    assert os.getcwd() not in printed
    assert platform.node() not in printed
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {f"{name}.svg" for name in (*compared, "waits")}
    assert "](plots/chat-1.svg)" in page.read_text()
    assert page.read_text() == f"before\n<!-- figures -->\n\n{printed.strip()}\n\n<!-- end of figures -->\nafter\n"


def results(**rates: float) -> dict[Peer, list[Result]]:
    """Two rounds, the second half as fast."""
    known = {"qaws": QAWS, "picows": PICOWS}
    peers = {known.get(name, Peer(name, name, ("x",))): rate for name, rate in rates.items()}
    return {peer: [Result(rate, one, 0.0, None) for one in (1.0, 2.0)] for peer, rate in peers.items()}


def test_a_goal_is_against_the_fastest_within_each_round() -> None:
    def aim(among: Callable[[Peer], bool], **rates: float) -> list[Goal]:
        return goal("it", at_least(1.1), results(**rates), among, "anybody")

    def python(peer: Peer) -> bool:
        return peer.in_python

    reached = Spread(1.25, 1.25, 1.25)
    assert aim(python, qaws=100, picows=40, other=80) == [Goal("it", at_least(1.1), reached, "other")]
    assert aim(lambda peer: peer == PICOWS, qaws=50, picows=40, other=80)[0].against == "picows"
    assert aim(python, qaws=100) == [Goal("it", at_least(1.1), None, "anybody")]
    assert aim(python, picows=100) == []


def test_a_plot_is_the_same_file_for_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"qaws": Spread(2000.0, 1500.0, 2500.0), "other": Spread(1000.0, 900.0, 1100.0)}
    drawn = []
    for folder in ("one", "two"):
        plots.bars(replace(TINY, plots=tmp_path / folder), "it", "a title", "things a second", figures)
        drawn.append((tmp_path / folder / "it.svg").read_bytes())
    assert drawn[0] == drawn[1]
    assert all(text in drawn[0] for text in (b"a title", b"things a second", b"qaws", b"2,000", b"other"))
    plots.bars(TINY, "it", "a title", "things a second", figures)
    assert capsys.readouterr().out.count("![a title](") == 2


def test_what_stands_alone_is_compared_with_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["handshake", *ARGUMENTS[:-2], "aiohttp"]) == 0
    printed = capsys.readouterr().out
    assert "\n| aiohttp (aiohttp " in printed
    assert "### targets" not in printed  # they are those of qaws


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
    present, notes = available([absent, QAWS])
    assert present == [QAWS]
    assert notes == ["Left out: Absent; not installed: no-such-distribution."]


def test_qaws_is_measured_both_ways_where_a_compiled_core_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\ntouch asked\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "tree").mkdir()
    for name in ("benchmarks", "qaws_proto"):
        (tmp_path / "tree" / name).symlink_to(ROOT / name)
    present, (note,) = available([QAWS, QAWS_INTERPRETED])
    assert present == [QAWS]
    assert note.startswith("Left out: qaws, interpreted; so is qaws")
    monkeypatch.setenv("QAWS_COMPILED", str(tmp_path))
    assert available([QAWS, QAWS_INTERPRETED]) == ([QAWS, QAWS_INTERPRETED], [])
    assert QAWS.title.startswith("qaws, compiled (")
    assert QAWS_INTERPRETED.title.startswith("qaws, interpreted (")
    for peer, there in ((QAWS_INTERPRETED, False), (QAWS, True)):
        assert chat.once(peer, connections=1, in_flight=1, seconds=0.01).count > 0
        assert (tmp_path / "tree" / "asked").exists() is there
    assert main(["core", *ARGUMENTS]) == 0
    printed = capsys.readouterr().out
    assert "\n| without `id`, compiled | " in printed
    assert "\n| core: µs of `step` a chat round trip, without `id`, compiled | " in printed


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
        (["chatt"], f"there is no benchmark 'chatt'; there are {', '.join(NAMES)}"),
        ([], f"the following arguments are required: {'|'.join(NAMES)}"),
        (["core", "--rounds", "0"], "argument --rounds: '0' is not a whole number of at least 1"),
        (["idle", "--largest", "399"], "argument --largest: '399' is not a whole number of at least 400"),
        (["chat", "--in-flight", "x"], "argument --in-flight: 'x' is not a whole number of at least 1"),
        (["chat", "--seconds", "nan"], "argument --seconds: 'nan' is not a number of seconds, above 0 and up to 3600"),
        (["chat", "--colour"], "unrecognized arguments: --colour"),
        (["chat", "--peers", "qaws", "quaws"], "there is no server 'quaws'; there are " + ", ".join(map(named, PEERS))),
        (["chat", "--page", "no such.md"], "no such.md: No such file or directory"),
        (
            ["chat", "--page", "pyproject.toml"],
            "pyproject.toml: no place for figures, between <!-- figures --> and <!-- end of figures -->",
        ),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"benchmarks: {says}\n")
