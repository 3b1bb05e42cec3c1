"""The server on plain sockets of docs/embedding.md meets probes, slow readers, resets and a drain.

tests/test_docs.py runs it as it stands.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise, takewhile
from pathlib import Path

import pytest
from websockets.sync.client import connect

from qaws_proto.effects import CloseWrite, Drained, DropConnection, Effect, PauseReading, ResumeReading, SendBytes
from qaws_proto.inputs import (
    BytesReceived,
    ConnectionLost,
    ConnectionOpened,
    DrainRequested,
    EofReceived,
    Input,
    StopRequested,
    TimerFired,
    WriteDrained,
    WriteProgressed,
)
from tests.embedding.served import (
    CRAMPED,
    LONG,
    QUESTION,
    SMALL,
    SOCKETS,
    Served,
    Wire,
    ask,
    close_code,
    hear,
    served,
)
from tests.test_docs import PATIENCE, PORT, environment, free_port, program

TIMES = 30  # the answers of LAVISH are longer so many times
ANSWER = 'f"You said: {question}"'
LAVISH = SOCKETS.text.replace(ANSWER, f"question * {TIMES}")  # an agent whose answers are large
FEW_DESCRIPTORS = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
RAISING = SOCKETS.text.replace(ANSWER, '{"Hello": "Hi"}[question]')


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_clients_are_answered(server: Served) -> None:
    with server.connect() as client, server.connect() as other:
        ask(client, "Why?")
        ask(other, "Hello")
        assert hear(other, "agent_response")["content"] == "You said: Hello"
        assert hear(client, "agent_response")["content"] == "You said: Why?"
        assert client.ping().wait(PATIENCE)
    assert not server.gateway.of(ConnectionLost)
    assert [opened.peer for opened in server.gateway.of(ConnectionOpened)] == ["127.0.0.1"] * 2


def test_an_agent_that_raises_fails_its_run_alone(tmp_path: Path) -> None:
    with served(tmp_path, RAISING) as server, server.connect() as client:
        ask(client, "Why?")
        error = json.loads(client.recv(PATIENCE))
        assert (error["type"], error["error_code"]) == ("error", "AGENT_ERROR")
        ask(client, "Hello")
        assert hear(client, "agent_response")["content"] == "Hi"


def test_a_probe_is_answered_and_half_closed(server: Served) -> None:
    with server.dial() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'{"status":"ok"}')
        assert not server.gateway.of(DropConnection)
    server.gateway.wait_for(EofReceived)
    server.gateway.wait_for(DropConnection)


# ── slow readers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_answer_reaches_a_slow_reader_in_parts(tmp_path: Path) -> None:
    with served(tmp_path, LAVISH) as server, server.connect(sock=server.dial(SMALL), max_queue=1) as client:
        for number in range(4):
            ask(client, f"{number}{LONG}")
        server.gateway.wait_for(WriteProgressed)
        with server.connect() as other:  # who is not kept waiting
            ask(other, "Hello")
            assert hear(other, "agent_response")["content"] == "Hello" * TIMES
        for number in range(4):
            assert hear(client, "agent_response")["content"] == f"{number}{LONG}" * TIMES
        server.gateway.wait_for(WriteDrained)


def test_a_half_close_waits_for_what_is_unsent(tmp_path: Path) -> None:
    with served(tmp_path, LAVISH, limits={"linger": 60}) as server, server.dial(SMALL) as sock:
        wire = Wire(sock)
        wire.say(QUESTION)
        server.gateway.wait_for(WriteProgressed)
        wire.close()
        server.gateway.wait_for(CloseWrite)
        assert list(wire.events())[-1]["content"] == LONG * TIMES
        assert wire.close_code == 1000


def test_a_half_close_waits_for_nothing_where_all_is_sent(tmp_path: Path) -> None:
    with served(tmp_path, limits={"linger": 60}) as server, server.dial() as sock:
        wire = Wire(sock)
        server.terminate()
        while wire.close_code is None:
            assert wire.read()
        wire.flush()  # its answer to the Close frame
        assert not wire.read()
        assert not server.gateway.of(DropConnection)


def pauses_hold(trace: list[Input | Effect]) -> bool:
    """Whether nothing was read between a pause and its end."""
    paused = False
    for one in trace:
        if isinstance(one, PauseReading | ResumeReading):
            paused = isinstance(one, PauseReading)
        elif paused and isinstance(one, BytesReceived):
            return False
    return True


def test_a_peer_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    with served(tmp_path, LAVISH, limits={"out_high": 1024}) as server, server.dial(SMALL) as sock:
        wire = Wire(sock)
        wire.say(QUESTION)
        server.gateway.wait_for(WriteProgressed)
        ids = [f"{number:060}" for number in range(60)]
        for ping in ids[:40]:
            wire.say({"type": "ping", "id": ping})
        server.gateway.wait_for(PauseReading)
        for ping in ids[40:]:
            wire.say({"type": "ping", "id": ping})
        pongs = (event["id"] for event in wire.events() if event["type"] == "pong")
        assert list(islice(pongs, len(ids))) == ids
        assert server.gateway.of(ResumeReading)
        assert pauses_hold(server.gateway.trace)


def test_a_peer_that_says_too_much_at_once_is_held_up(tmp_path: Path) -> None:
    with served(tmp_path, limits=CRAMPED) as server, server.dial() as sock:
        wire = Wire(sock)
        wire.flood(300)
        wire.say({"type": "ping", "id": "p1"})
        server.gateway.wait_for(PauseReading)
        server.gateway.wait_for(ResumeReading)
        wire.close()
        assert list(wire.events())[-1] == {"type": "pong", "id": "p1"}
        assert pauses_hold(server.gateway.trace)


# ── broken connections ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("unsent", [False, True])
def test_a_reset_ends_one_connection(tmp_path: Path, unsent: bool) -> None:
    with served(tmp_path, LAVISH) as server, server.connect() as other:
        wire = Wire(server.dial(SMALL))
        if unsent:
            wire.say(QUESTION)
            server.gateway.wait_for(WriteProgressed)
        wire.reset()
        server.gateway.wait_for(ConnectionLost)
        ask(other, "Hello")
        assert hear(other, "agent_response")["content"] == "Hello" * TIMES
        assert server.gateway.connections == 1


def test_a_peer_that_only_listens_is_dropped(server: Served) -> None:
    with server.dial() as sock:
        wire = Wire(sock)
        sock.shutdown(socket.SHUT_WR)
        server.gateway.wait_for(EofReceived)
        assert [event["event_name"] for event in wire.events()] == ["connection_established"]
        assert wire.close_code is None


def test_a_peer_that_says_nothing_is_dropped_in_time(tmp_path: Path) -> None:
    with served(tmp_path, limits={"head_timeout": 0.05}) as server, server.dial() as sock:
        assert sock.recv(1) == b""


def test_a_busy_peer_keeps_neither_the_timer_nor_its_answer_waiting(tmp_path: Path) -> None:
    limits = {"read": 1024, "frames_per_second": 1_000_000, "frame_burst": 1_000_000}
    with served(tmp_path, limits=limits) as server, server.dial() as sock:
        wire = Wire(sock)
        wire.say({"type": "ping", "id": "p1"}, flood=4_000)
        wire.say({"type": "ping", "id": "p2"})
        assert {"type": "pong", "id": "p2"} in iter(wire.events())
        trace = server.gateway.trace
        turns = [type(one) for one in trace if isinstance(one, BytesReceived | TimerFired)]
        assert len(turns) > 2 * 20
        assert (BytesReceived, BytesReceived) not in pairwise(turns)
        answered = next(i for i, one in enumerate(trace) if isinstance(one, SendBytes) and b"p1" in one.data)
        meanwhile = takewhile(lambda one: not isinstance(one, WriteDrained), trace[answered:])
        assert sum(isinstance(one, BytesReceived) for one in meanwhile) <= 1


def test_a_want_of_descriptors_passes(tmp_path: Path) -> None:
    def connected(port: str) -> socket.socket:
        sock = socket.create_connection(("localhost", int(port)), PATIENCE)
        sock.sendall(b"GET /")
        return sock

    with started(tmp_path, FEW_DESCRIPTORS) as (process, port):
        with connect(f"ws://localhost:{port}/") as client:
            many = [connected(port) for _ in range(40)]
            ask(client, "Hello")
            assert hear(client, "agent_response")["content"] == "You said: Hello"
            for sock in many:
                sock.close()
            with connect(f"ws://localhost:{port}/") as other:
                ask(other, "Hello")
                assert hear(other, "agent_response")["content"] == "You said: Hello"
        assert process.poll() is None


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sigterm_drains_and_another_one_stops(tmp_path: Path) -> None:
    with served(tmp_path, limits={"close_timeout": 600}) as server, server.dial() as sock:
        wire = Wire(sock)
        server.terminate()
        server.gateway.wait_for(DrainRequested)
        events = wire.events()
        assert [next(events)["event_name"], next(events)["event_name"]] == ["connection_established", "server_draining"]
        assert not server.gateway.of(Drained, StopRequested)
        server.terminate()
        server.gateway.wait_for(StopRequested)
    server.join()
    assert len(server.gateway.of(DrainRequested)) == len(server.gateway.of(StopRequested)) == 1


def test_a_byte_that_is_no_sigterm_only_wakes(server: Served) -> None:
    with server.connect() as client:
        server.wake(b"\0" * 100 + bytes([signal.SIGINT]))
        ask(client, "Hello")
        assert hear(client, "agent_response")["content"] == "You said: Hello"
        assert not server.gateway.of(DrainRequested, StopRequested)


@contextmanager
def started(folder: Path, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program as a process, once it listens, and its port."""
    port = free_port()
    process = subprocess.Popen(
        program(before + SOCKETS.text.replace(PORT, port)), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ws://localhost:{port}/\n"
        yield process, port
    finally:
        process.kill()
        process.communicate()


def test_a_signal_ends_the_program(tmp_path: Path) -> None:
    with started(tmp_path) as (process, port), connect(f"ws://localhost:{port}/") as client:
        client.recv(PATIENCE)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (0, "")
        assert close_code(client) == 1012


def test_a_signal_ends_a_program_without_clients(tmp_path: Path) -> None:
    with started(tmp_path) as (process, _):
        process.terminate()
        said, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (0, "")
