"""`qaws serve` with very few file descriptors: it refuses who is too many, and goes on (C2)."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.helpers.process import PATIENCE, Served, serving

LIMIT = 48  # descriptors of the server
CROWD = 150
CHOICES = [("asyncio", "asyncio"), ("asyncio", "uvloop"), ("anyio", "asyncio"), ("anyio", "uvloop"), ("anyio", "trio")]
SETTINGS = {
    "server": {"max_connections": 1000},
    "limits": {"connections_per_address": 1000, "handshakes": 1000, "head_timeout": 600},
    "security": {"rate_limiting": {"enabled": False}},
}


def ask(client: Connection, content: str) -> str:
    """What the agent answers, which is an echo."""
    client.send(json.dumps({"type": "chat_message", "content": content}))
    while (event := json.loads(client.recv(PATIENCE)))["type"] != "agent_response":
        pass
    return str(event["content"])


def refused(one: socket.socket) -> bool:
    """Whether the server ends a connection on which nothing was said, now or soon."""
    one.settimeout(PATIENCE)
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def come_again(server: Served) -> Connection:
    """A new client, as soon as one is let in."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, EOFError, WebSocketException):
            return connect(server.url)
    raise AssertionError("nobody is let in any more")


@pytest.mark.skipif(sys.platform == "win32", reason="its limits are others")
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
@pytest.mark.row("C2")
def test_without_descriptors_the_server_refuses_and_goes_on(choice: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "few.json").write_text(json.dumps({"websocket": SETTINGS}))
    arguments = ["--no-auth", "--host", "127.0.0.1", "--adapter", choice[0], "--backend", choice[1]]
    few = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh"]
    began = time.monotonic()
    with (
        serving(*arguments, "--config", str(tmp_path / "few.json"), before=few, cwd=str(tmp_path)) as server,
        connect(server.url) as early,
    ):
        assert ask(early, "before") == "before"
        port = int(server.url.rstrip("/").rpartition(":")[2])
        with ExitStack() as crowd:
            others = [
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(CROWD)
            ]
            assert refused(others[-1])
            assert ask(early, "while there is none left") == "while there is none left"
            for _ in range(3):  # each is told at once, and not left to wait
                assert refused(crowd.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)))
            server.logged("accept_failed error=EMFILE")
        with come_again(server) as late:
            assert ask(late, "after") == "after"
        assert ask(early, "still here") == "still here"
        lines = [line for line in server.log if "accept_failed" in line]
        assert len(lines) <= 1 + (time.monotonic() - began) / 10
    assert not [line for line in server.log if "Traceback" in line]
