"""Clients that we did not write hold a conversation with `qaws serve`: websockets, aiohttp, Node's ws, a browser."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import time
from typing import Any

import aiohttp
import jwt
import pytest
import websockets

from tests.helpers.process import PATIENCE, Served, serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLE = HERE.parent / "fixtures" / "agent_config.yaml"
SECRET = secrets.token_urlsafe(48)
NODE_PACKAGES = Path(os.environ.get("QAWS_NODE_PACKAGES", ROOT / ".venv" / "node"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAYS = ("message", "header", "subprotocol")
CONTENT = "¡Hola, mundo! " * 100  # long enough for every client to compress it, where that is agreed

Event = dict[str, Any]


def token() -> str:
    """A token as another program makes it, by PyJWT alone."""
    now = int(time())
    claims = {"sub": "user-456", "iat": now, "exp": now + 600, "jti": secrets.token_hex(8)}
    return jwt.encode({**claims, "iss": "qa-intelligence", "aud": "websocket-client"}, SECRET, "HS256")


@pytest.fixture(scope="module")
def sample_server() -> Iterator[Served]:
    """`qaws serve` with the sample configuration of the protocol, its secret in the environment."""
    with serving("--config", str(SAMPLE), env={"WEBSOCKET_JWT_SECRET": SECRET}) as served:
        yield served


@pytest.fixture(scope="module")
def compressing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`qaws serve` that agrees on compression."""
    config = tmp_path_factory.mktemp("compressing") / "config.yaml"
    config.write_text("websocket: {server: {compression: {enabled: true, min_size: 0}}}\n", "utf-8")
    with serving("--config", str(config), env={"WEBSOCKET_SECRET_KEY": SECRET}) as served:
        yield served


async def with_websockets(url: str, way: str) -> list[Event]:
    events: list[Event] = []
    bearer = token()
    subprotocols = ["qaws.v1", f"qaws.bearer.{bearer}"] if way == "subprotocol" else ["qaws.v1"]
    headers = {"Authorization": f"Bearer {bearer}"} if way == "header" else {}
    async with websockets.connect(
        url, subprotocols=[websockets.Subprotocol(name) for name in subprotocols], additional_headers=headers
    ) as socket:
        async for text in socket:
            events.append(json.loads(text))
            if answer := answer_to(events[-1], bearer):
                await socket.send(json.dumps(answer))
            if events[-1]["type"] == "agent_response":
                break
        await socket.close()
        compressed = bool(socket.protocol.extensions)
        events.append({"closed": socket.close_code, "protocol": socket.subprotocol, "compressed": compressed})
    return events


async def with_aiohttp(url: str, way: str) -> list[Event]:
    events: list[Event] = []
    bearer = token()
    protocols = ["qaws.v1", f"qaws.bearer.{bearer}"] if way == "subprotocol" else ["qaws.v1"]
    headers = {"Authorization": f"Bearer {bearer}"} if way == "header" else {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            url.replace("ws://", "http://", 1), protocols=protocols, headers=headers, compress=15
        ) as socket,
    ):
        async for message in socket:
            events.append(message.json())
            if answer := answer_to(events[-1], bearer):
                await socket.send_json(answer)
            if events[-1]["type"] == "agent_response":
                break
        await socket.close()
        compressed = bool(socket.compress)
        events.append({"closed": socket.close_code, "protocol": socket.protocol, "compressed": compressed})
    return events


async def with_node(url: str, way: str) -> list[Event]:
    if shutil.which("node") is None or not (NODE_PACKAGES / "node_modules" / "ws").exists():
        pytest.skip(f"needs Node.js and its package ws: npm install --prefix {NODE_PACKAGES} --no-save ws")
    process = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "conversation.mjs"),
        url,
        way,
        token(),
        CONTENT,
        env={**os.environ, "WS_FROM": str(NODE_PACKAGES / "package.json")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


def answer_to(event: Event, bearer: str) -> Event | None:
    """What the client of these tests says to an event."""
    if event.get("event_name") == "auth_required":
        return {"type": "auth", "token": bearer}
    if event.get("event_name") == "connection_established":
        return {"type": "chat_message", "content": CONTENT, "id": "m1", "stream": True}
    return None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("client", [with_websockets, with_aiohttp, with_node])
def test_a_foreign_client_holds_a_conversation(
    sample_server: Served, client: Callable[[str, str], Awaitable[list[Event]]], way: str
) -> None:
    assert_conversation(held(client, sample_server, way), way, compressed=False)


@pytest.mark.parametrize("client", [with_websockets, with_aiohttp, with_node])
def test_a_foreign_client_holds_a_compressed_conversation(
    compressing_server: Served, client: Callable[[str, str], Awaitable[list[Event]]]
) -> None:
    assert_conversation(held(client, compressing_server, "header"), "header", compressed=True)


def held(client: Callable[[str, str], Awaitable[list[Event]]], served: Served, way: str) -> list[Event]:
    """What a client hears."""

    async def conversation() -> list[Event]:
        async with asyncio.timeout(PATIENCE):
            return await client(served.url, way)

    return asyncio.run(conversation())


def assert_conversation(events: list[Event], way: str, *, compressed: bool | None = None) -> None:
    """What a client has heard, which logged in this way, is the whole conversation and nothing else."""
    if way == "message":
        assert events.pop(0) == {"type": "system_event", "event_name": "auth_required", "data": {"timeout": 10}}
    established, accepted, *chunks, response, closed = events
    assert set(established) == {"type", "event_name", "data"}
    data = established["data"]
    assert set(data) == {
        "user_id", "session_id", "epoch", "seq",
        "protocol", "heartbeat_interval", "max_message_size", "token_expires_in",
    }  # fmt: skip
    assert (data["user_id"], data["seq"], data["protocol"]) == ("user-456", 0, "qaws.v1")
    assert (data["heartbeat_interval"], data["max_message_size"]) == (30, 262144)
    assert 590 <= data["token_expires_in"] <= 600

    assert set(accepted) == {"type", "event_name", "data", "correlation_id", "session_id", "seq"}
    assert accepted["event_name"] == "message_accepted"
    run_id = accepted["data"]["run_id"]
    assert accepted["data"] == {"run_id": run_id, "position": 0, "duplicate": False, "content": CONTENT}

    place = {"session_id": data["session_id"], "run_id": run_id, "correlation_id": "m1"}
    for chunk in chunks:
        assert set(chunk) == {"type", "content", "offset", "run_id", "correlation_id", "session_id", "seq"}
        assert chunk["type"] == "agent_chunk"
        assert place.items() <= chunk.items()
    assert "".join(chunk["content"] for chunk in chunks) == CONTENT

    assert set(response) == {
        "type", "content", "session_id", "user_id", "processing_time", "reasoning_steps", "tools_used", "status",
        "run_id", "correlation_id", "seq",
    }  # fmt: skip
    assert (response["type"], response["content"]) == ("agent_response", CONTENT)
    assert (response["status"], response["user_id"]) == ("completed", "user-456")
    assert place.items() <= response.items()
    assert [event["seq"] for event in (accepted, *chunks, response)] == list(range(1, len(chunks) + 3))
    agreed = closed.pop("compressed", None)
    assert compressed in (None, agreed)
    assert closed == {"closed": 1000, "protocol": "qaws.v1"}


@pytest.fixture(scope="module")
def page_origin() -> Iterator[str]:
    """A web server of another port, as a front end has one in development."""
    handler = partial(QuietHandler, directory=str(HERE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news here."""


def in_a_browser(page: str, script: str, argument: str) -> object:
    """What a script gives on a page of a real browser."""
    if CHROMIUM is None:
        pytest.skip("needs a Chromium browser (Debian's package chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        try:
            tab = browser.new_page()
            tab.goto(page)
            return tab.evaluate(script, argument)
        finally:
            browser.close()


def test_a_browser_page_without_subprotocol_reads_the_answer(page_origin: str) -> None:
    with serving("--no-auth") as served:
        answer = in_a_browser(f"{page_origin}/page.html", "url => window.conversation(url)", served.url)
    assert isinstance(answer, dict)
    assert (answer["content"], answer["user_id"], answer["session_id"]) == ("¿Qué tal?", "user123", "session456")


def test_a_browser_page_logs_in_by_subprotocol(page_origin: str, sample_server: Served) -> None:
    script = """url => new Promise((resolve, reject) => {
        const [address, token] = url.split(" ");
        const socket = new WebSocket(address, ["qaws.v1", "qaws.bearer." + token]);
        socket.onmessage = (message) => { socket.close(); resolve([socket.protocol, JSON.parse(message.data)]); };
        socket.onerror = () => reject(new Error("refused"));
    })"""
    # The sample lets in pages of http://localhost:3000 alone: this one is refused, whatever its token.
    with pytest.raises(Exception, match="refused"):
        in_a_browser(f"{page_origin}/page.html", script, f"{sample_server.url} {token()}")
    with serving(env={"WEBSOCKET_SECRET_KEY": SECRET}) as served:
        heard = in_a_browser(f"{page_origin}/page.html", script, f"{served.url} {token()}")
    assert isinstance(heard, list)
    assert heard[0] == "qaws.v1"
    assert heard[1]["data"]["user_id"] == "user-456"


def test_a_browser_page_talks_compressed(page_origin: str, compressing_server: Served) -> None:
    script = """argument => new Promise((resolve, reject) => {
        const [address, token, content] = JSON.parse(argument);
        const socket = new WebSocket(address, ["qaws.v1", "qaws.bearer." + token]);
        socket.onmessage = (message) => {
            const event = JSON.parse(message.data);
            if (event.event_name === "connection_established")
                socket.send(JSON.stringify({ type: "chat_message", content }));
            if (event.type === "agent_response") { socket.close(); resolve([socket.extensions, event.content]); }
        };
        socket.onclose = (event) => reject(new Error("closed with " + event.code));
    })"""
    argument = json.dumps([compressing_server.url, token(), CONTENT])
    heard = in_a_browser(f"{page_origin}/page.html", script, argument)
    assert isinstance(heard, list)
    assert heard[0].partition(";")[0] == "permessage-deflate"
    assert heard[1] == CONTENT
