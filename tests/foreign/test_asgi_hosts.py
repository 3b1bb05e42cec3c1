"""The ASGI application under hosts that we did not write, as processes of their own, with clients that we did not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from qaws_proto.testing.peer import chat, text, upgrade
from tests.helpers.asgi_process import HOSTS, hosted
from tests.helpers.process import PATIENCE, Served

from .test_foreign_clients import SAMPLE, SECRET, WAYS, assert_conversation, token, with_aiohttp, with_websockets

OPEN = """
security: {authentication: {enabled: false}, rate_limiting: {enabled: false}}
"""
STREAMING = '''
import os
import anyio

async def agent(message):
    """One piece, and the others once there is a file of this name."""
    yield "0 "
    while not os.path.exists(message):
        await anyio.sleep(0.05)
    for number in range(1, 10):
        yield f"{number} "
        await anyio.sleep(0.1)

class Closing:
    chat = staticmethod(agent)

    async def aclose(self):
        open("closed", "w").close()

closing = Closing()

async def endless(message):
    while True:
        yield "x" * 10_000
        await anyio.sleep(0)
'''


@pytest.fixture(scope="module", params=HOSTS)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each host with the sample configuration of the protocol."""
    env = {"WEBSOCKET_JWT_SECRET": SECRET}
    folder = tmp_path_factory.mktemp("host")
    with hosted(HOSTS[request.param], env=env, cwd=folder, config=SAMPLE.read_text("utf-8")) as served:
        yield served
    assert "Traceback" not in "\n".join(served.log), "\n".join(served.log)


def port_of(served: Served) -> int:
    return int(served.url.rstrip("/").rpartition(":")[2])


def get(served: Served, path: str, method: str = "GET") -> tuple[int, bytes]:
    """The status and body of an HTTP answer."""
    connection = HTTPConnection("127.0.0.1", port_of(served), timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# ── the same conversation everywhere ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", WAYS)
def test_a_foreign_client_holds_a_conversation(sample: Served, way: str) -> None:
    assert_conversation(asyncio.run(asyncio.wait_for(with_websockets(sample.url, way), PATIENCE)), way)


def test_another_foreign_client_holds_it_too(sample: Served) -> None:
    assert_conversation(asyncio.run(asyncio.wait_for(with_aiohttp(sample.url, "header"), PATIENCE)), "header")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        pytest.param("?token=eyJ", {}, 400, marks=pytest.mark.row("H12")),
        ("", {"Authorization": "Bearer nonsense"}, 401),
        pytest.param("", {"Origin": "https://evil.example"}, 403, marks=pytest.mark.row("H10")),
        ("nowhere", {}, 404),
    ],
)
def test_a_refusal_is_an_http_answer(sample: Served, path: str, headers: dict[str, str], status: int) -> None:
    async def refused() -> int:
        with pytest.raises(websockets.InvalidStatus) as refusal:
            await connect(sample.url + path, additional_headers=headers)
        return refusal.value.response.status_code

    assert asyncio.run(asyncio.wait_for(refused(), PATIENCE)) == status


def test_http_beside_the_socket(sample: Served) -> None:
    assert get(sample, "/healthz") == (200, b'{"status":"ok"}')
    assert get(sample, "/readyz") == (200, b'{"status":"ok"}')
    assert get(sample, "/healthz", "HEAD") == (200, b"")
    assert get(sample, "/healthz", "OPTIONS") == (204, b"")
    assert get(sample, "/healthz", "POST") == (405, b"method not allowed\n")
    assert get(sample, "/") == (400, b"websocket only\n")
    assert get(sample, "/nowhere") == (404, b"not found\n")


def test_a_message_too_big_or_binary_is_closed_with_its_code(sample: Served) -> None:
    async def closed(message: str | bytes) -> int | None:
        async with connect(sample.url, additional_headers={"Authorization": f"Bearer {token()}"}) as client:
            await client.recv()
            await client.send(message)
            await client.wait_closed()
            return client.close_code

    assert asyncio.run(asyncio.wait_for(closed("x" * 300_000), PATIENCE)) == 1009
    assert asyncio.run(asyncio.wait_for(closed(b"\0"), PATIENCE)) == 1003


@pytest.mark.row("A5")
@pytest.mark.parametrize("name", HOSTS)
def test_a_close_goes_out_at_once(name: str, tmp_path: Path) -> None:
    async def closed(url: str) -> int | None:
        async with connect(url) as client:
            await client.recv()
            await client.send(b"\0")
            await client.wait_closed()
            return client.close_code

    patient = OPEN + f"limits: {{linger: {PATIENCE * 10}}}\n"
    with hosted(HOSTS[name], env={}, cwd=tmp_path, config=patient) as served:
        assert asyncio.run(asyncio.wait_for(closed(served.url), PATIENCE / 2)) == 1003


# ── peers that vanish, and that do not read ──────────────────────────────────────────────────────────────────────────


def raw_client(served: Served) -> socket.socket:
    """A client that has asked something and reads nothing by itself."""
    client = socket.socket()
    client.settimeout(PATIENCE)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port_of(served)))
    client.sendall(upgrade())
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    client.sendall(text(chat("?", stream=True)))
    return client


@pytest.mark.row("C1", "F12")
@pytest.mark.parametrize("name", HOSTS)
def test_peers_that_vanish_or_do_not_read_leave_one_line_each(name: str, tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(STREAMING, "utf-8")
    limits = "limits: {write_timeout: 1}\nagent: {max_response_size: 67108864}\n"
    with hosted(HOSTS[name], env={"QAWS_AGENT": "my_agents:endless"}, cwd=tmp_path, config=OPEN + limits) as served:
        gone = raw_client(served)
        assert gone.recv(1)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()  # a reset
        served.logged("qaws.connection closed")
        with raw_client(served):
            served.logged("code=1008 reason=slow_consumer")
    log = "\n".join(served.log)
    assert len(re.findall("qaws.connection closed", log)) == 2, log
    assert "Traceback" not in log, log


# ── SIGTERM (D1) ─────────────────────────────────────────────────────────────────────────────────────────────────────

TWO_GATEWAYS = """
from contextlib import asynccontextmanager

from my_agents import agent
from starlette.applications import Starlette
from starlette.routing import Mount

from qaws import WebSocketConfig
from qaws.asgi import WebSocketApp

config = WebSocketConfig.model_validate({"security": {"authentication": {"enabled": False}}})
one, other = WebSocketApp(agent, config), WebSocketApp(agent, config)

@asynccontextmanager
async def lifespan(app):
    async with one.lifespan(), other.lifespan():
        yield

app = Starlette(routes=[Mount("/one", one), Mount("/other", other)], lifespan=lifespan)
"""
CLIENTS = 100
WHOLE = "0 1 2 3 4 5 6 7 8 9 "
DRAINS = (
    "uvicorn-websockets", "uvicorn-websockets-sansio", "uvicorn-wsproto", "uvicorn-two-workers", "hypercorn-trio-alone",
)  # fmt: skip
GRACEFUL = ("hypercorn-asyncio", "hypercorn-uvloop", "hypercorn-trio")


async def hear(client: ClientConnection, **fields: object) -> dict[str, Any]:
    """The next event with those fields."""
    while True:
        event: dict[str, Any] = json.loads(await client.recv())
        if all(event.get(name) == value for name, value in fields.items()):
            return event


async def ask(url: str, content: str = "release") -> ClientConnection:
    """A client whose answer has begun."""
    client = await connect(url)
    await client.send(json.dumps(chat(content, stream=True)))
    await hear(client, type="agent_chunk")
    return client


async def answers_at_the_end(
    stop: Callable[[int], object], served: Served, release: Callable[[], object], *, told: bool
) -> list[tuple[str, int]]:
    """The answer of each client, and the code its connection was closed with: `stop` is called in the midst of them.

    `told`: the clients hear of it, and stay until they are closed.
    """
    async with asyncio.timeout(PATIENCE):
        clients = await asyncio.gather(*(ask(served.url) for _ in range(CLIENTS)))
        stop(SIGTERM)
        if told:
            for client in clients:
                await hear(client, event_name="server_draining")
        release()

        async def rest(client: ClientConnection) -> tuple[str, int]:
            answer = (await hear(client, type="agent_response"))["content"]
            if told:
                await client.wait_closed()
            else:
                await client.close()
            assert client.close_code is not None
            return answer, client.close_code

        return await asyncio.gather(*map(rest, clients))


@pytest.mark.row("D1")
@pytest.mark.parametrize("name", [*DRAINS, *GRACEFUL])
def test_sigterm_loses_no_answer(name: str, tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(STREAMING, "utf-8")
    with hosted(HOSTS[name], env={"QAWS_AGENT": "my_agents:closing"}, cwd=tmp_path, config=OPEN) as served:
        release = (tmp_path / "release").touch
        ends = asyncio.run(answers_at_the_end(served.process.send_signal, served, release, told=name in DRAINS))
        served.process.wait(PATIENCE)
    assert ends == [(WHOLE, 1012 if name in DRAINS else 1000)] * CLIENTS
    log = "\n".join(served.log)
    assert "Traceback" not in log, log
    by_the_signal = name == "hypercorn-trio-alone"
    assert (tmp_path / "closed").exists() is not by_the_signal
    assert ("Application shutdown complete" in log) is name.startswith("uvicorn"), log  # which goes on to its own end


@pytest.mark.row("D1")
def test_two_gateways_in_one_application_both_drain(tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(STREAMING, "utf-8")
    (tmp_path / "two.py").write_text(TWO_GATEWAYS, "utf-8")

    async def ends(served: Served) -> list[tuple[str, int | None]]:
        async with asyncio.timeout(PATIENCE):
            clients = {path: await ask(f"{served.url}{path}/", path) for path in ("one", "other")}
            served.process.send_signal(SIGTERM)
            found = []
            for client in clients.values():
                await hear(client, event_name="server_draining")
            for path, client in clients.items():  # the second ends well after the first
                (tmp_path / path).touch()
                answer = (await hear(client, type="agent_response"))["content"]
                await client.wait_closed()
                found.append((answer, client.close_code))
            return found

    with hosted(HOSTS["uvicorn-websockets"], app="two:app", env={}, cwd=tmp_path) as served:
        assert asyncio.run(ends(served)) == [(WHOLE, 1012)] * 2
        served.process.wait(PATIENCE)
    assert "Application shutdown complete" in "\n".join(served.log), "\n".join(served.log)


@pytest.mark.row("D1")
@pytest.mark.parametrize("name", ["hypercorn-asyncio", "hypercorn-trio"])
def test_workers_of_hypercorn_drain_where_they_hear_the_signal_themselves(name: str, tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(STREAMING, "utf-8")
    with hosted(HOSTS[name], env={"QAWS_AGENT": "my_agents:agent"}, cwd=tmp_path, config=OPEN) as served:
        stop = partial(os.killpg, served.process.pid)  # as systemd does it
        ends = asyncio.run(answers_at_the_end(stop, served, (tmp_path / "release").touch, told=True))
        served.process.wait(PATIENCE)
    assert ends == [(WHOLE, 1012)] * CLIENTS


@pytest.mark.row("D1")
@pytest.mark.parametrize("name", [name for name in DRAINS if "workers" not in name])  # a supervisor hears one signal
def test_a_second_signal_stops_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(STREAMING, "utf-8")

    async def closed(served: Served) -> int | None:
        async with asyncio.timeout(PATIENCE):
            client = await ask(served.url)
            served.process.send_signal(SIGTERM)
            await hear(client, event_name="server_draining")
            served.process.send_signal(SIGTERM)
            await client.wait_closed()
            return client.close_code

    with hosted(HOSTS[name], env={"QAWS_AGENT": "my_agents:agent"}, cwd=tmp_path, config=OPEN) as served:
        # ours, or that of the host; or none, where the signal kills
        assert asyncio.run(closed(served)) in ((1006,) if name.startswith("hypercorn") else (1001, 1012))
        served.process.wait(PATIENCE)


# ── refusals to start, and to serve ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({}, "security.authentication.jwt_secret: authentication is on and there is no secret"),
        ({"WEBSOCKET_SECRET_KEY": "short"}, "the secret is shorter than 32 bytes"),
        ({"WEBSOCKET_SECRET_KEY": SECRET, "WEBSOCKET_ENABLED": "false"}, "enabled: the gateway is turned off"),
        ({"WEBSOCKET_SECRET_KEY": SECRET, "QAWS_CONFIG": "nowhere.yaml"}, "nowhere.yaml"),
        ({"WEBSOCKET_SECRET_KEY": SECRET, "QAWS_AGENT": "nowhere:agent"}, "there is no module 'nowhere'"),
        ({"WEBSOCKET_SECRET_KEY": SECRET, "QAWS_AGENT": "broken:agent"}, "ZeroDivisionError"),
    ],
)
def test_the_factory_refuses_in_one_line(variables: dict[str, str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n", "utf-8")
    done = start("uvicorn-wsproto", variables, tmp_path)
    assert done.returncode == 3
    assert complaint in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout


@pytest.mark.row("D6")
@pytest.mark.parametrize("name", ["hypercorn-uvloop", "hypercorn-asyncio", "granian"])
def test_other_hosts_do_not_start_either(name: str, tmp_path: Path) -> None:
    done = start(name, {"WEBSOCKET_SECRET_KEY": "short"}, tmp_path)
    assert done.stdout.count("the secret is shorter than 32 bytes") == 1, done.stdout
    assert "Traceback" not in done.stdout, done.stdout


def start(name: str, variables: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A host that should end by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WEBSOCKET_", "QAWS_"))}
    return subprocess.run(
        HOSTS[name].line(0), cwd=folder, env={**clean, **variables}, timeout=PATIENCE, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
