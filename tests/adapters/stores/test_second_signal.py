"""A second signal ends the process, whatever its store does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.helpers.process import PATIENCE, READY

PROGRAM = """
import sys, time
import anyio
from qaws import WebSocketConfig, WebSocketManager, anyio_server
from qaws.serving import serve_until_signal
from qaws.telemetry import configure_logging

class Stuck:
    async def open(self):
        return ()

    async def save(self, records, unix):
        print("saving", file=sys.stderr, flush=True)
        if trouble == "thread":
            await anyio.to_thread.run_sync(time.sleep, 3600)
        elif trouble == "deaf":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3600)

    async def load(self, owner, session_id):
        return None

    async def aclose(self):
        print("closing", file=sys.stderr, flush=True)
        if trouble == "close":
            await anyio.to_thread.run_sync(time.sleep, 3600)

async def echo(message):
    return message

trouble, backend = sys.argv[1:]
config = WebSocketConfig.model_validate({
    "server": {"host": "127.0.0.1", "port": 0}, "security": {"authentication": {"enabled": False}},
    "drain": {"timeout": 600}, "limits": {"close_timeout": 600}, "agent": {"cancel_grace": 600},
})
configure_logging(config.logging)
server = anyio_server.WebSocketServer(WebSocketManager(config, agent=echo, store=Stuck()))
anyio.run(serve_until_signal, server, backend=backend)
"""


@pytest.mark.row("D1")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("trouble", ["thread", "deaf", "close"])
def test_a_second_signal_ends_it_though_the_store_hangs(trouble: str, backend: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), trouble, backend]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ready = READY.match(process.stderr.readline())
            assert ready is not None
            with connect(ready[1]) as client:
                client.send('{"type":"chat_message","content":"hola","id":"m1"}')
                while process.stderr.readline() != "saving\n":
                    pass
                process.send_signal(signal.SIGTERM)
                while "draining" not in process.stderr.readline():
                    pass
                if trouble == "close":
                    client.close()
                    while process.stderr.readline() != "closing\n":
                        pass
                process.send_signal(signal.SIGTERM)
                said = process.stderr.read()
            assert process.wait(PATIENCE) == 0
            assert "store_not_closed" in said
            assert "closing" not in said
            assert "Traceback" not in said
        finally:
            process.kill()
