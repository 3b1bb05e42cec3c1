"""`kill -9` behind an operator's command: who was kept out is kept out by the next process (A5)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

PATIENCE = 30.0  # seconds for anything
PROGRAM = """
import sys

import anyio
from qaws import WebSocketAuth, WebSocketConfig, anyio_server

async def agent(message):
    if message == "block":
        server.manager.block_user("eva", by="ana", reason="asked to")
        server.manager.revoke_token("stolen")
    elif message == "lift":
        server.manager.unblock_user("eva")
    return "done"

async def main():
    async with server:
        tokens = [auth.generate_token(user) for user in ("ana", "eva")]
        print(server.url, *tokens, flush=True)
        await server.serve_forever()

config = WebSocketConfig.model_validate({
    "server": {"host": "127.0.0.1", "port": 0},
    "security": {"authentication": {"jwt_secret": "a secret of this test, which is long enough"}},
    "store": {"kind": "sqlite", "path": sys.argv[1]},
})
auth = WebSocketAuth(config)
server = anyio_server.WebSocketServer(agent, config)
anyio.run(main)
"""


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, str, str]]:
    """A server: its address and the tokens of ana and eva; killed at the end, as no program can hear of."""
    command = [sys.executable, str(folder / "program.py"), str(folder / "q.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url, ana, eva = process.stdout.readline().split()
            yield url, ana, eva
        finally:
            process.kill()


@contextmanager
def opened(url: str, token: str) -> Iterator[Connection]:
    headers = {"Authorization": f"Bearer {token}"}
    with connect(url, additional_headers=headers, open_timeout=PATIENCE, close_timeout=0) as socket:
        yield socket


def say(url: str, token: str, content: str) -> None:
    """Wait until it is answered: what the agent has done is kept before that."""
    with opened(url, token) as socket:
        socket.send(json.dumps({"type": "chat_message", "content": content, "id": content}))
        while json.loads(socket.recv(PATIENCE))["type"] != "agent_response":
            pass


def hear_all(socket: Connection) -> None:
    while True:
        socket.recv(PATIENCE)


@pytest.mark.row("A5")
def test_a_killed_process_leaves_the_door_shut_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with running(tmp_path) as (url, ana, eva), opened(url, eva) as socket:
        say(url, ana, "block")
        with pytest.raises(ConnectionClosed, match="4403"):
            hear_all(socket)
    with running(tmp_path) as (url, ana, eva):
        with pytest.raises(InvalidStatus, match="403"), opened(url, eva):
            pass
        say(url, ana, "lift")
    with running(tmp_path) as (url, _, eva):
        say(url, eva, "hello")
