"""The examples of docs/embedding.md hold what a node promises, to clients that we did not write.

tests/test_docs.py runs them as they stand. Here the server on plain sockets also meets resets, slow readers and a
drain; its node is one that keeps a record, so that a test waits for what it is about instead of for a time.
"""

from __future__ import annotations

import ast
import json
import runpy
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.uri import parse_uri

from qaws_proto import Gateway, Now
from qaws_proto.effects import CloseWrite, DropConnection, Effect, Note, PauseReading, ResumeReading
from qaws_proto.inputs import (
    BytesReceived,
    ConnectionLost,
    DrainRequested,
    EofReceived,
    Input,
    RunFinished,
    WriteBlocked,
    WriteDrained,
    WriteProgressed,
)
from tests.adapters.peers import open_config
from tests.test_docs import PATIENCE, PORT, blocks, environment, free_port, program

README = Path(__file__).parents[1] / "README.md"
PAGE = README.parent / "docs" / "embedding.md"
SOCKETS = next(block for block in blocks(PAGE) if block.info == "python serve")
PIPES = next(block for block in blocks(PAGE) if "os.pipe()" in block.text)
LONG = "x" * 9_000  # characters, nearly the longest message
QUESTION = {"type": "chat_message", "content": LONG}
TIMES = 30  # the answers of LAVISH are longer so many times
LAVISH = SOCKETS.text.replace('f"You said: {content}"', f"content * {TIMES}")  # an agent whose answers are large
RAISING = SOCKETS.text.replace("return question.upper()", "raise LookupError(question)")
SMALL = 32 * 1024  # bytes of a socket's buffer
CRAMPED = {"read": 1024, "inbox": 256, "frames_per_turn": 1}  # limits of a node that pauses a peer soon


class Recorded(Gateway):
    """A node that keeps what it was told and what it said, and lets another thread wait for it."""

    def __init__(self, **sections: Any) -> None:
        super().__init__(open_config(**sections), ids=lambda: secrets.token_hex(16))
        self.trace: list[Input | Effect] = []
        self._changed = Condition()

    def step(self, event: Input, now: Now) -> list[Effect]:
        if isinstance(event, BytesReceived):
            assert 0 < len(event.data) <= self.read_size(event.connection)
        effects = super().step(event, now)
        with self._changed:
            self.trace += [event, *effects]
            self._changed.notify_all()
        return effects

    def wait_for(self, *kinds: type, times: int = 1) -> None:
        """Until so many of these happened."""

        def there() -> bool:
            return len(self.of(*kinds)) >= times

        with self._changed:
            assert self._changed.wait_for(there, PATIENCE), [type(one).__name__ for one in self.trace[-20:]]

    def of(self, *kinds: type) -> list[Any]:
        return [one for one in self.trace if isinstance(one, kinds)]


class Served(SimpleNamespace):
    """The server of the page, in a thread."""

    gateway: Recorded
    port: int
    post: Callable[[Input], None]

    def connect(self, **options: Any) -> Connection:
        """A client, to which `connection_established` has been said."""
        client = connect(f"ws://127.0.0.1:{self.port}/", **options)
        assert json.loads(client.recv(PATIENCE))["event_name"] == "connection_established"
        return client

    def dial(self, receive_buffer: int | None = None) -> socket.socket:
        """A socket."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock


@contextmanager
def served(tmp_path: Path, text: str = SOCKETS.text, **sections: Any) -> Iterator[Served]:
    """The server, until it has drained; nothing is left of it."""
    file = tmp_path / "example.py"
    file.write_text(text, "utf-8")
    example = runpy.run_path(str(file))
    gateway, agents = Recorded(**sections), example["Agents"]()
    with socket.create_server(("127.0.0.1", 0)) as listener, agents.waker, agents.woken:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        thread = Thread(target=example["serve"], args=(gateway, listener, agents), daemon=True)
        thread.start()
        try:
            yield Served(gateway=gateway, port=listener.getsockname()[1], post=agents.post)
        finally:
            agents.post(DrainRequested())
            thread.join(PATIENCE)
        assert not thread.is_alive(), "it has not drained"
        assert gateway.connections == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


def ask(client: Connection, content: str, **fields: Any) -> None:
    client.send(json.dumps({"type": "chat_message", "content": content, **fields}))


def hear(client: Connection, type: str) -> Any:
    """The next event of that type; the ones before it are passed over."""
    while True:
        event = json.loads(client.recv(PATIENCE))
        assert event["type"] != "error", event
        if event["type"] == type:
            return event


def close_code(client: Connection) -> int | None:
    """The code the server closed with, whatever it says before."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(PATIENCE)
    return client.close_code


class Wire:
    """The sans-IO client of `websockets` on a socket that is read only when the test says so."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._protocol = ClientProtocol(parse_uri("ws://localhost/"), max_size=None)
        self._protocol.send_request(self._protocol.connect())
        self.flush()
        while not isinstance(next(iter(self._protocol.events_received()), None), Response):
            self._protocol.receive_data(sock.recv(1))
        assert self._protocol.handshake_exc is None

    def flush(self) -> None:
        self.socket.sendall(b"".join(self._protocol.data_to_send()))

    def say(self, event: dict[str, str]) -> None:
        self._protocol.send_text(json.dumps(event).encode())
        self.flush()

    def flood(self, frames: int) -> None:
        """Send frames that are not answered, all in one write."""
        for _ in range(frames):
            self._protocol.send_pong(b"")
        self.flush()

    def close(self) -> None:
        self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        self.flush()

    def events(self) -> Iterator[Any]:
        """What the server says, until it closes."""
        while data := self.socket.recv(4096):
            self._protocol.receive_data(data)
            for frame in self._protocol.events_received():
                if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                    yield json.loads(bytes(frame.data))

    @property
    def close_code(self) -> int | None:
        return self._protocol.close_rcvd.code if self._protocol.close_rcvd else None

    def reset(self) -> None:
        """Break the connection as a crashed host does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


# ── its size ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def logic(text: str) -> int:
    """Lines that are not blank, no comment and no import."""
    imports = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom))
    imported = {number for node in imports for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = enumerate(text.splitlines(), 1)
    return sum(number not in imported and line.strip()[:1] not in ("", "#") for number, line in lines)


def test_sixty_lines_drive_the_sockets() -> None:
    sockets, ruler, agents = SOCKETS.text.partition("# ── the agent ──")
    assert ruler
    assert logic("import os\n\n# why\nx = (\n    1)\n") == 2
    assert logic(sockets) <= 60
    assert logic("#" + agents) <= 42
    assert max(map(len, SOCKETS.text.splitlines())) <= 120


def test_the_readme_drives_a_node_in_ten_lines() -> None:
    [block] = [block for block in blocks(README) if "gateway.step(" in block.text]
    assert block.info == "python"
    assert len(list(filter(str.strip, block.text.splitlines()))) <= 10


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_answers_come_from_the_loop_and_from_a_thread(server: Served) -> None:
    with server.connect() as client, server.connect() as other:
        ask(client, "Why?")
        ask(other, "Hello")
        assert hear(other, "agent_response")["content"] == "You said: Hello"
        assert client.ping().wait(PATIENCE)
        assert hear(client, "agent_response")["content"] == "WHY?"
    assert not server.gateway.of(ConnectionLost)


def test_a_cancelled_run_ends_and_frees_its_place(server: Served) -> None:
    with server.connect() as client:
        ask(client, "x" * 3000 + "?", id="m1")  # five minutes
        ask(client, "Hello", id="m2")
        assert hear(client, "system_event")["correlation_id"] == "m1"
        client.send(json.dumps({"type": "cancel", "correlation_id": "m1"}))
        assert hear(client, "agent_response")["status"] == "cancelled"
        assert hear(client, "agent_response")["content"] == "You said: Hello"
    assert len(server.gateway.of(RunFinished)) == 2
    assert "run_given_up" not in [note.name for note in server.gateway.of(Note)]


def test_an_agent_that_raises_fails_its_run_alone(tmp_path: Path) -> None:
    with served(tmp_path, RAISING) as server, server.connect() as client:
        ask(client, "Why?")
        error = json.loads(client.recv(PATIENCE))
        assert (error["type"], error["error_code"]) == ("error", "AGENT_ERROR")
        ask(client, "Hello")
        assert hear(client, "agent_response")["content"] == "You said: Hello"


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
        server.gateway.wait_for(WriteBlocked)
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
        server.gateway.wait_for(WriteBlocked)
        wire.close()
        server.gateway.wait_for(CloseWrite)
        assert list(wire.events())[-1]["content"] == LONG * TIMES
        assert wire.close_code == 1000


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
    with (
        served(tmp_path, LAVISH, limits={"out_high": 1024}) as server,
        server.connect(sock=server.dial(SMALL), max_queue=1) as client,
    ):
        ask(client, LONG)
        server.gateway.wait_for(WriteBlocked)
        ids = [f"{number:060}" for number in range(60)]
        for ping in ids[:40]:
            client.send(json.dumps({"type": "ping", "id": ping}))
        server.gateway.wait_for(PauseReading)
        for ping in ids[40:]:
            client.send(json.dumps({"type": "ping", "id": ping}))
        assert [hear(client, "pong")["id"] for _ in ids] == ids
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
            server.gateway.wait_for(WriteBlocked)
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


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_drain_lets_the_agent_finish(server: Served) -> None:
    with server.connect() as client:
        ask(client, "How long?", id="m1")
        assert hear(client, "system_event")["event_name"] == "message_accepted"
        server.post(DrainRequested())
        assert hear(client, "system_event")["event_name"] == "server_draining"
        assert hear(client, "agent_response")["content"] == "HOW LONG?"
        assert close_code(client) == 1012


@pytest.mark.parametrize(("wish", "code"), [(signal.SIGTERM, 1012), (signal.SIGINT, 1001)])
def test_a_signal_ends_the_program(wish: signal.Signals, code: int, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        program(SOCKETS.text.replace(PORT, port)), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"ws://localhost:{port}/\n"
        with connect(f"ws://localhost:{port}/") as client:
            client.recv(PATIENCE)
            process.send_signal(wish)
            said, _ = process.communicate(timeout=PATIENCE)
            assert (process.returncode, said) == (0, "")
            assert close_code(client) == code
    finally:
        process.kill()
        process.communicate()


# ── bytes that travel by other ways ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node on the standard input and output of a process, which ends well by itself."""
    limits = json.dumps({**CRAMPED, "linger": 86_400})  # so that only a half-close ends it in time
    text = PIPES.text.partition("if __name__")[0].replace('{"security"', f'{{"limits": {limits}, "security"')
    process = subprocess.Popen(
        program(f"{text}serve(0, 1)"), cwd=tmp_path, env=environment(), bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def over(node: subprocess.Popen[bytes]) -> socket.socket:
    """The pipes of a process, as far as `Wire` needs a socket."""
    assert node.stdin is not None
    assert node.stdout is not None
    return cast(socket.socket, SimpleNamespace(sendall=node.stdin.write, recv=node.stdout.read))


def test_a_node_at_the_end_of_pipes_answers_a_foreign_client(node: subprocess.Popen[bytes]) -> None:
    wire = Wire(over(node))
    wire.flood(300)
    wire.say(QUESTION)
    answers: list[str] = []
    for event in wire.events():
        if event["type"] == "agent_response":
            answers.append(event["content"])
            wire.close()
    assert answers == [LONG.upper()]
    assert wire.close_code == 1000


def test_a_node_at_the_end_of_pipes_ends_with_what_it_reads(node: subprocess.Popen[bytes]) -> None:
    wire = Wire(over(node))
    assert node.stdin is not None
    node.stdin.close()
    assert list(wire.events())[-1]["event_name"] == "connection_established"


def test_a_node_at_the_end_of_pipes_ends_with_who_reads_it(node: subprocess.Popen[bytes]) -> None:
    wire = Wire(over(node))
    assert node.stdout is not None
    node.stdout.close()
    wire.say(QUESTION)
