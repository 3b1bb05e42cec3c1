"""The ASGI application under a host in memory: what it makes of scopes and messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from qaws import WebSocketAuth, WebSocketConfig
from qaws.asgi import WebSocketApp
from qaws.asgi_transport import AsgiTransport

from .asgi_host import HOST, NO_DENIAL, hosting, open_app
from .byte_servers import echo, until

pytestmark = pytest.mark.anyio

SECRET = "a secret of this test, which is long enough"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def authenticating() -> tuple[WebSocketApp, str]:
    config = WebSocketConfig.model_validate({"security": {"authentication": {"jwt_secret": SECRET}}})
    return WebSocketApp(echo, config), WebSocketAuth(config).generate_token("user-456")


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_conversation() -> None:
    async with hosting(open_app()) as host:
        client = await host.open()
        assert (await client.hear(event_name="connection_established"))["data"]["protocol"] == "qaws.v1"
        client.say("¿Cómo estás?", id="m1")
        assert (await client.hear(type="agent_response"))["content"] == "¿Cómo estás?"
        client.tell("websocket.disconnect", code=1000)
        await client.end()


async def test_a_token_may_come_by_header_by_subprotocol_or_by_message() -> None:
    app, token = authenticating()
    async with hosting(app) as host:
        header = await host.open(headers=[*HOST, (b"Authorization", f"Bearer {token}".encode())])
        assert (await header.hear())["data"]["user_id"] == "user-456"

        offered = f"qaws.v1, qaws.bearer.{token}"
        by_header = await host.connect(headers=[*HOST, (b"sec-websocket-protocol", offered.encode())])
        by_scope = await host.connect(subprotocols=offered.split(", "))  # as uvicorn with wsproto says it
        for client in (by_header, by_scope):
            assert await client.next() == {"type": "websocket.accept", "subprotocol": "qaws.v1"}
            assert (await client.hear())["data"]["user_id"] == "user-456"

        message = await host.open()
        assert (await message.hear())["event_name"] == "auth_required"
        message.tell("websocket.receive", text=f'{{"type":"auth","token":"{token}"}}', bytes=None)
        assert (await message.hear())["data"]["user_id"] == "user-456"


REFUSALS = [
    pytest.param({"query_string": b"token=eyJ"}, 400, 1002, id="token-in-the-query", marks=pytest.mark.row("H12")),
    pytest.param({"headers": [*HOST, (b"origin", b"https://evil.example")]}, 403, 4403, id="origin",
                 marks=pytest.mark.row("H10")),
    pytest.param({"path": "/nowhere"}, 404, 1002, id="path"),
    pytest.param({"headers": []}, 400, 1002, id="no-host"),
]  # fmt: skip


@pytest.mark.parametrize(("scope", "status", "code"), REFUSALS)
async def test_a_refusal_is_an_http_answer_or_else_a_close_code(scope: dict[str, Any], status: int, code: int) -> None:
    async with hosting(open_app()) as host:
        denied = await host.connect(**scope)
        assert (await denied.answer())[0] == status
        closed = await host.connect(**scope, **NO_DENIAL)
        assert (await closed.closed())[0] == code


@pytest.mark.parametrize(
    ("path", "method", "status", "body"),
    [
        ("/healthz", "GET", 200, b'{"status":"ok"}'),
        ("/readyz", "GET", 200, b'{"status":"ok"}'),
        ("/healthz", "HEAD", 200, b""),
        ("/healthz", "OPTIONS", 204, b""),
        ("/healthz", "POST", 405, b"method not allowed\n"),
        ("/", "GET", 400, b"websocket only\n"),
        ("/nowhere", "GET", 404, b"not found\n"),
    ],
)
async def test_http_beside_the_socket(path: str, method: str, status: int, body: bytes) -> None:
    async with hosting(open_app()) as host:
        answer = await host.get(path, method)
    assert (answer[0], answer[2]) == (status, body)
    if method == "HEAD":
        assert answer[1][b"content-length"] == b"15"


async def test_a_host_may_say_as_little_as_the_specification_allows() -> None:
    async with hosting(open_app()) as host:
        socket = await host.call("websocket", path="/", headers=HOST)
        socket.tell("websocket.connect")
        assert await socket.next() == {"type": "websocket.accept", "subprotocol": None}
        socket.tell("websocket.receive", bytes=None, text='{"type":"ping"}')
        assert await socket.hear(type="pong")
        socket.tell("websocket.disconnect")
        await socket.end()

        request = await host.call("http", method="GET", path="/healthz", headers=HOST)
        assert (await request.answer())[0] == 200

        other = await host.call("webtransport")
        await other.over.wait()
        assert isinstance(other.error, ValueError)
        assert "'webtransport'" in str(other.error)


async def test_the_clients_address_is_that_of_the_scope(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qaws")
    async with hosting(open_app()) as host:
        client = await host.open(client=("192.0.2.99", 1))
        await client.hear()
        client.tell("websocket.disconnect", code=4242)
        await client.end()
    closed = next(record.message for record in caplog.records if record.message.startswith("closed"))
    assert "address=192.0.2.99 " in closed
    assert " code=4242 reason=peer " in closed


PLACES = [  # server.path, root_path, path, whether the WebSocket is there
    ("/", "", "/", True),
    ("/", "/ws", "/ws/", True),  # a mount
    ("/", "/ws", "/ws", True),
    ("/", "/ws", "/", True),  # a host that keeps its root path to itself
    ("/", "/ws", "/wsx", False),
    ("/", "/ws", "/ws/chat", False),
    ("/chat", "/api/", "/api/chat", True),
    ("/chat", "/ws", "/ws/chat", True),
    ("/chat", "/ws", "/ws/", False),
    ("/ws", "", "/ws", True),  # a route
    ("/ws", "/ws", "/ws/", True),  # and a mount at the same place
    ("/ws", "", "/", False),
    ("/a%20b", "", "/a b", True),
]


@pytest.mark.parametrize(("setting", "root", "path", "there"), PLACES)
async def test_the_path_is_what_is_below_the_place_of_the_mount(
    setting: str, root: str, path: str, there: bool
) -> None:
    async with hosting(open_app(server={"path": setting})) as host:
        client = await host.connect(path, root_path=root)
        if there:
            assert (await client.next())["type"] == "websocket.accept"
            client.tell("websocket.disconnect")
        else:
            assert (await client.answer())[0] == 404


async def test_health_is_below_the_mount() -> None:
    async with hosting(open_app(server={"path": "/ws"})) as host:
        assert (await host.get("/ws/healthz", root_path="/ws"))[0] == 200
        assert (await host.get("/healthz", root_path="/ws"))[0] == 200
        assert (await host.get("/ws/healthz", root_path=""))[0] == 404


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_that_is_too_big_or_binary_closes() -> None:
    async with hosting(open_app()) as host:
        big = await host.open()
        big.tell("websocket.receive", text="x" * (256 * 1024 + 1))
        assert await big.closed() == (1009, "message too big")
        binary = await host.open()
        binary.tell("websocket.receive", bytes=b"\0", text=None)
        assert await binary.closed() == (1003, "binary refused")


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_what_the_host_takes_at_once_costs_no_task() -> None:
    made: list[object] = []

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(work)
        return asyncio.Task(work, loop=loop, **options)

    async with hosting(open_app()) as host:
        client = await host.open()
        client.prompt = True
        client.say("first")
        await client.hear(type="agent_response")
        asyncio.get_running_loop().set_task_factory(make)
        for content in ("second", "third"):
            client.say(content)
            assert (await client.hear(type="agent_response"))["content"] == content
        asyncio.get_running_loop().set_task_factory(None)
        assert made == []


async def test_the_address_of_the_host_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    app = open_app()
    async with hosting(app) as host:
        monkeypatch.setattr(app.manager, "require_safe", looked.append)
        for address in ("127.0.0.1", "127.0.0.1", "::1"):
            assert (await host.get("/healthz", server=(address, 80)))[0] == 200
    assert looked == [["127.0.0.1"], ["::1"]]


async def pieces(message: str) -> AsyncIterator[str]:
    for _ in range(int(message)):
        yield "x" * 10_000
        await anyio.sleep(0)


@pytest.mark.row("C1")
async def test_an_agent_is_not_pulled_for_a_host_that_cannot_send() -> None:
    pulled = 0

    async def agent(message: str) -> AsyncIterator[str]:
        nonlocal pulled
        for _ in range(int(message)):
            pulled += 1
            yield "x" * 10_000
            await anyio.sleep(0)

    app = open_app(agent, agent={"roll_up": 0.001}, limits={"write_timeout": 2})
    async with hosting(app) as host:
        client = await host.open()
        await client.hear()
        client.room = anyio.Event()
        client.say("1000", stream=True)
        await until(lambda: pulled > 0)
        await anyio.wait_all_tasks_blocked()
        assert pulled < 100
        await client.over.wait()  # nothing went out for write_timeout
        assert client.error is None


@pytest.mark.row("C1")
async def test_a_host_that_can_send_again_gets_the_rest() -> None:
    async with hosting(open_app(pieces, agent={"roll_up": 0.001})) as host:
        client = await host.open()
        await client.hear()
        client.room, held = anyio.Event(), client.room
        client.say("100", stream=True)
        transport = next(iter(host._app.manager._transports.values()))
        assert isinstance(transport, AsgiTransport)
        await until(lambda: transport._outgoing.unsent > 64 * 1024)
        held, client.room = client.room, held
        held.set()
        assert (await client.hear(type="agent_response"))["content"] == "x" * 1_000_000


async def test_reading_waits_while_the_node_holds_it_back() -> None:
    async with hosting(open_app()) as host:
        client = await host.open()
        await client.hear()
        transport = next(iter(host._app.manager._transports.values()))
        transport.pause_reading()
        client.tell("websocket.receive", text='{"type":"ping","id":"1"}')
        client.tell("websocket.receive", text='{"type":"ping","id":"2"}')
        assert (await client.hear())["id"] == "1"  # the read that was waiting
        await anyio.wait_all_tasks_blocked()
        assert len(client.unread.messages) == 1
        transport.resume_reading()
        assert (await client.hear())["id"] == "2"


# ── the end of a connection ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F12")
async def test_a_peer_that_has_gone_ends_the_connection_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qaws")
    async with hosting(open_app()) as host:
        client = await host.open()
        await client.hear()
        client.broken = OSError("the peer has gone")
        client.say("?")
        await client.end()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert sum(record.message.startswith("closed") for record in caplog.records) == 1


@pytest.mark.row("C3")
async def test_a_cancelled_call_leaves_nothing() -> None:
    release = anyio.Event()

    async def agent(message: str) -> str:
        await release.wait()
        return message

    app = open_app(agent)
    async with hosting(app) as host:
        client = await host.open()
        client.say("?", id="m1")
        await client.hear(event_name="message_accepted")
        client.cancelled.cancel()
        await client.over.wait()
        assert app.manager.gateway.connections == 0
        assert not app.manager._transports
        release.set()


async def test_a_mistake_of_the_host_is_logged_and_ends_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with hosting(open_app()) as host:
        other, client = await host.open(), await host.open()
        await client.hear()
        client.broken = RuntimeError("no such state")
        client.say("?")
        await client.over.wait()
        other.say("hola")
        assert (await other.hear(type="agent_response"))["content"] == "hola"
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [error.splitlines()[0] for error in errors] == ["task_failed"]
