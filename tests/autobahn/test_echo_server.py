"""The echo node, started as a test suite of others starts it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from qaws_proto.faults import Fault

from .echo_server import ADAPTERS, MESSAGE_SIZE

SCRIPT = Path(__file__).with_name("echo_server.py")
PATIENCE = 30  # seconds


def start(adapter: str, port: str = "0") -> subprocess.Popen[str]:
    """The echo node as a process of its own."""
    command = [sys.executable, str(SCRIPT), "--adapter", adapter, "--port", port]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def closed_by(client: Connection) -> tuple[int, str]:
    """Code and reason of the Close that comes."""
    with pytest.raises(ConnectionClosedError) as closed:
        client.recv(timeout=PATIENCE)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.fixture(scope="module", params=ADAPTERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with start(request.param) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on ws://localhost:"), process.communicate()[1]
            yield line.split()[-1]
            process.terminate()
            assert process.communicate(timeout=PATIENCE) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_text_and_binary_come_back_as_they_are_and_nothing_else_does(url: str, compression: str | None) -> None:
    messages: list[str | bytes] = ["", "¿Cómo estás?", b"", b"\x00\xff", "x" * 70_000, b"y" * 70_000, "{}"]
    with connect(url, compression=compression) as client:
        assert bool(client.protocol.extensions) is (compression == "deflate")
        for message in messages:
            client.send(message)
        assert [client.recv(timeout=PATIENCE) for _ in messages] == messages
        client.close(4000)
        assert client.protocol.close_code == 4000


def test_a_message_may_come_in_many_fragments(url: str) -> None:
    with connect(url) as client:
        client.send("ab" for _ in range(2000))
        assert client.recv(timeout=PATIENCE) == "ab" * 2000


def test_the_largest_message_of_the_suite_passes_and_no_larger_one(url: str) -> None:
    with connect(url, compression=None, max_size=None) as client:
        client.send(b"z" * MESSAGE_SIZE)
        assert client.recv(timeout=PATIENCE) == b"z" * MESSAGE_SIZE
        client.socket.sendall(b"\x82\xff" + (MESSAGE_SIZE + 1).to_bytes(8) + bytes(4))  # the head of a frame
        assert closed_by(client) == (1009, Fault.MESSAGE_TOO_BIG.value.word)


def test_it_closes_as_the_gateway_does(url: str) -> None:
    with connect(url) as client:
        client.socket.sendall(b"\x83\x80\x00\x00\x00\x00")  # a reserved opcode
        assert closed_by(client) == (1002, Fault.PROTOCOL_VIOLATION.value.word)
    with pytest.raises(InvalidStatus), connect(f"{url}elsewhere"):
        pass


def test_ctrl_c_ends_it() -> None:
    with start("asyncio") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 0


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with start("asyncio", port) as process:
            assert process.communicate(timeout=PATIENCE) == (
                "", f"cannot listen on port {port}: Address already in use\n",
            )  # fmt: skip
    assert process.returncode == 1
