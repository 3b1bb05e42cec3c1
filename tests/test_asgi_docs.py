"""What README and docs say about ASGI is run: applications under uvicorn, and each command line that starts a host.

A block `python app` defines `app`; the addresses of WebSockets in it are asked, and `/healthz` beside each.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import connect

from qaws import WebSocketAuth, WebSocketConfig
from tests.helpers.asgi_process import HOSTS, Host, hosted
from tests.helpers.process import PATIENCE, Served
from tests.test_docs import BLOCKS, SHOWN, Block, of_kind

SECRET = "a secret of this test, which is long enough"
ADDRESS = "ws://localhost:8000/"
PORT_OPTIONS = {"uvicorn": "--port {port}", "hypercorn": "--bind 127.0.0.1:{port}", "granian": "--port {port}"}
COMMANDS = [line for line in SHOWN if line.split()[0] in PORT_OPTIONS]


def ask(url: str) -> str:
    """What is answered to `Hello`."""
    config = WebSocketConfig.model_validate({"security": {"authentication": {"jwt_secret": SECRET}}})
    headers = {"Authorization": f"Bearer {WebSocketAuth(config).generate_token('user-456')}"}

    async def conversation() -> str:
        async with asyncio.timeout(PATIENCE), connect(url, additional_headers=headers) as client:
            await client.send(json.dumps({"type": "chat_message", "content": "Hello"}))
            async for text in client:
                event = json.loads(text)
                if event["type"] == "agent_response":
                    return str(event["content"])
        raise AssertionError("no answer")

    return asyncio.run(conversation())


def get(served: Served, path: str) -> int:
    """The status of a page."""
    with urlopen(served.url.replace("ws", "http", 1) + path.lstrip("/"), timeout=PATIENCE) as page:
        return int(page.status)


@pytest.mark.parametrize("block", of_kind("python app"))
def test_applications_serve_the_gateway_beside_their_own_routes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "my_app.py").write_text(block.text, "utf-8")
    paths = re.findall(rf"{ADDRESS}(\S+)", block.text)
    assert paths
    host = HOSTS["uvicorn-websockets-sansio"]
    with hosted(host, app="my_app:app", env={"WEBSOCKET_SECRET_KEY": SECRET}, cwd=tmp_path) as served:
        for path in paths:
            assert ask(served.url + path) == "You said: Hello"
        assert get(served, "/ws/healthz") == 200
        if "index" in block.text:
            assert get(served, "/") == 200
    assert "Traceback" not in "\n".join(served.log), "\n".join(served.log)


@pytest.mark.parametrize("command", COMMANDS)
def test_shown_commands_start_a_host(command: str, tmp_path: Path) -> None:
    application = next(block.text for block in BLOCKS if block.info == "python app" and block.page.name == "asgi.md")
    (tmp_path / "my_app.py").write_text(application, "utf-8")
    (tmp_path / "my_agents.py").write_text("async def agent(message): return f'You said: {message}'\n", "utf-8")
    name, *arguments = shlex.split(command)
    line = shlex.join([name, *arguments]) + " " + PORT_OPTIONS[name]
    env = {"WEBSOCKET_SECRET_KEY": SECRET, "QAWS_AGENT": "my_agents:agent"}
    with hosted(Host(line, (0, -15)), env=env, cwd=tmp_path) as served:
        assert ask(served.url + ("ws" if "my_app" in command else "")) == "You said: Hello"


def test_every_host_is_shown() -> None:
    assert {line.split()[0] for line in COMMANDS} == set(PORT_OPTIONS)
