"""The node at the end of two pipes (docs/embedding.md), against a client that we did not write."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.embedding.served import CRAMPED, LONG, PIPES, QUESTION, Wire
from tests.test_docs import PATIENCE, environment, program


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
