"""The asyncio server over real sockets, on asyncio's own event loop and on uvloop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from qaws import ConfigError, WebSocketAuth, WebSocketConfig, WebSocketManager, WebSocketServer
from qaws_proto.inputs import WriteProgressed

from .peers import KEY, Recorded, open_config

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than thirty-two bytes"
UPGRADE = (
    f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
).encode()


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


async def echo(message: str) -> str:
    return message


@asynccontextmanager
async def serving(agent: object = echo, /, **sections: Any) -> AsyncIterator[WebSocketServer]:
    """A server on a free port, without authentication unless the sections say otherwise. Nothing is left of it."""
    async with asyncio.timeout(15):
        server = WebSocketServer(agent, open_config(**sections))
        async with server:
            yield server
        assert server.manager.gateway.connections == 0
        assert not server.manager._transports
        assert server._host.running == 0


def guarded(**more: Any) -> dict[str, Any]:
    """Sections with authentication on."""
    return {"security": {"authentication": {"enabled": True, "jwt_secret": SECRET, **more}}}


def masked(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame, its mask all zero."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([opcode]) + length + bytes(4) + payload


class Raw:
    """A client that says any bytes at all, and reads what comes until the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, end: bytes) -> bytes:
        return await self.reader.readuntil(end)

    async def all(self) -> bytes:
        return await self.reader.read()

    def reset(self) -> None:
        """End the connection with a RST."""
        ours = self.writer.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def raw(server: WebSocketServer, first: bytes = b"", **options: Any) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, **options)
    writer.write(first)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def close_frame(client: Raw) -> int:
    """The code of the server's Close, which comes last."""
    data = await client.all()
    assert data[-2 - data[data.rindex(b"\x88") + 1] :][:1] == b"\x88", data
    return int.from_bytes(data[data.rindex(b"\x88") + 2 :][:2])


async def hear(client: ClientConnection, **fields: Any) -> dict[str, Any]:
    """The next event with those fields; the ones before it are passed over."""
    while True:
        event: dict[str, Any] = json.loads(await client.recv())
        if all(event.get(name) == value for name, value in fields.items()):
            return event


async def ask(client: ClientConnection, content: str, **fields: Any) -> dict[str, Any]:
    await client.send(json.dumps({"type": "chat_message", "content": content, **fields}))
    return await hear(client, type="agent_response")


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds; the test's own time limit is the end of it."""
    while not condition():
        await asyncio.sleep(0)


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_conversation_without_authentication() -> None:
    async with serving() as server, connect(server.url) as client:
        assert (await hear(client, event_name="connection_established"))["data"]["user_id"] == "anonymous"
        answer = await ask(client, "¿Cómo estás?", user_id="user123", session_id="session456", id="m1")
        assert (answer["content"], answer["user_id"], answer["session_id"]) == ("¿Cómo estás?", "user123", "session456")


async def test_a_conversation_by_message_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(**guarded()) as server, connect(server.url) as client:
        assert (await hear(client, type="system_event"))["event_name"] == "auth_required"
        token = WebSocketAuth(server.config).generate_token("ana")
        await client.send(json.dumps({"type": "auth", "token": token}))
        assert (await hear(client, event_name="connection_established"))["data"]["user_id"] == "ana"
        assert (await ask(client, "hola"))["content"] == "hola"
    assert users_noted(caplog) == [("opened", "None"), ("authenticated", "ana")]


def users_noted(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Who the log says opened a connection, and who logged in on it."""
    notes = [record.getMessage() for record in caplog.records if record.name == "qaws.connection"]
    found = (re.match(r"(opened|authenticated) .*\buser_id=(\S+)", note) for note in notes)
    return [(match[1], match[2]) for match in found if match]


async def test_a_conversation_by_header_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(**guarded()) as server:
        token = WebSocketAuth(server.config).generate_token("ana")
        async with connect(server.url, additional_headers={"Authorization": f"Bearer {token}"}) as client:
            assert (await hear(client, type="system_event"))["event_name"] == "connection_established"
            assert (await ask(client, "hola"))["user_id"] == "ana"
    assert users_noted(caplog) == [("opened", "ana")]


async def test_a_conversation_by_subprotocol_token() -> None:
    async with serving(**guarded()) as server:
        token = WebSocketAuth(server.config).generate_token("ana")
        offered = [Subprotocol("qaws.v1"), Subprotocol(f"qaws.bearer.{token}")]
        async with connect(server.url, subprotocols=offered) as client:
            assert client.subprotocol == "qaws.v1"
            assert (await ask(client, "hola"))["user_id"] == "ana"


async def test_a_wrong_token_is_refused_before_and_after_the_upgrade() -> None:
    async with serving(**guarded()) as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url, additional_headers={"Authorization": "Bearer wrong"})
        assert refused.value.response.status_code == 401
        async with connect(server.url) as client:
            await client.send(json.dumps({"type": "auth", "token": "wrong"}))
            assert (await hear(client, type="error"))["error_code"] == "AUTH_FAILED"
            await client.wait_closed()
            assert client.close_code == 4401


async def test_many_connections_at_once_each_get_their_own_answers() -> None:
    async def converse(number: int) -> list[str]:
        async with connect(server.url) as client:
            return [(await ask(client, f"{number}.{turn}"))["content"] for turn in range(5)]

    async with serving() as server:
        answers = await asyncio.gather(*(converse(number) for number in range(30)))
    assert answers == [[f"{number}.{turn}" for turn in range(5)] for number in range(30)]


@pytest.mark.row("G6")
async def test_heartbeats_and_others_go_on_while_an_agent_blocks() -> None:
    release = threading.Event()

    def agent(message: str) -> str:
        if message == "block":
            assert release.wait(10)
        return message

    async with (
        serving(agent, server={"heartbeat_interval": 0.05, "timeout": 0.5}) as server,
        raw(server, UPGRADE) as client,
    ):
        client.say(masked(0x81, b'{"type":"chat_message","content":"block"}'))
        await client.until(b"\x89\x00")  # the server's ping
        async with connect(server.url) as other:
            assert (await ask(other, "hola"))["content"] == "hola"
        client.say(masked(0x8A))
        await client.until(b"\x89\x00")
        release.set()
        await client.until(b'"content":"block"')


# ── hostile peers ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("C1")
async def test_a_client_that_never_reads_is_closed_and_others_are_not_affected() -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        if message != "flood":
            yield message
            return
        while True:
            yield "x" * 10_000

    limits = {"out_high": 64 * 1024, "out_top": 256 * 1024, "write_timeout": 0.2, "close_timeout": 0.2}
    limits |= {"frame_burst": 1_000_000}
    async with serving(agent, limits=limits, agent={"roll_up": 0}) as server:
        gateway = server.manager.gateway
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with deaf:
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(UPGRADE + masked(0x81, b'{"type":"chat_message","content":"flood","stream":true}'))
            await until(lambda: gateway.runs == 1)
            async with connect(server.url) as other:
                while gateway.connections == 2:  # the other one is answered until the deaf one is gone
                    assert (await ask(other, "hola"))["content"] == "hola"
                    for number in server.manager._transports:
                        assert gateway.buffered_bytes(number) < 2 * 1024 * 1024
                assert (await ask(other, "hola"))["content"] == "hola"


@pytest.mark.row("C1")
async def test_a_client_that_reads_slowly_but_steadily_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qaws.asyncio_server.PROGRESS", 0.02)
    size, timeout = 3_000_000, 0.4

    async def agent(message: str) -> str:
        return "x" * size

    manager = Recorded(open_config(limits={"write_timeout": timeout, "out_top": 2 * size}), agent=agent)
    async with asyncio.timeout(15), WebSocketServer(manager) as server:
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)  # inherited by what it accepts
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        ours.connect(("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=ours, limit=8 * 1024)
        client, loop = Raw(reader, writer), asyncio.get_running_loop()
        client.say(UPGRADE + masked(0x81, b'{"type":"chat_message","content":"?"}'))
        read, begun, turn = 0, loop.time(), 0.0
        while turn < begun + 3 * timeout:  # no more than 16 KiB in 10 milliseconds
            read += len(await reader.read(16 * 1024))
            turn = loop.time() + 0.01
            await until(partial(_is_past, turn))
        assert read < size  # it was slow indeed
        assert server.manager.gateway.connections == 1
        assert any(isinstance(one, WriteProgressed) for one in manager.inputs)
        while read < size:  # and what is left is there too
            data = await reader.read(size)
            assert data
            read += len(data)
        writer.close()


def _is_past(moment: float) -> bool:
    return asyncio.get_running_loop().time() >= moment


@pytest.mark.row("F12")
@pytest.mark.row("C3")
@pytest.mark.parametrize("where", ["nothing", "head", "frame", "answer"])
async def test_a_reset_in_the_middle_leaves_one_note_and_nothing_else(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    begun = asyncio.Event()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def agent(message: str) -> AsyncIterator[str]:
        for _ in range(2000):
            yield "x" * 100
            begun.set()
            await asyncio.sleep(0)

    said = {
        "nothing": b"",
        "head": UPGRADE[:40],
        "frame": UPGRADE + masked(0x81, b"x" * 100)[:50],
        "answer": UPGRADE + masked(0x81, b'{"type":"chat_message","content":"?","stream":true}'),
    }[where]
    async with serving(agent, agent={"roll_up": 0}) as server:
        manager = server.manager
        async with raw(server, said) as client:
            if where in ("frame", "answer"):
                await client.until(b"\r\n\r\n")
            if where == "answer":
                await begun.wait()
            await until(lambda: manager.gateway.connections == 1)
            client.reset()
        await until(lambda: manager.gateway.connections == 0 and not manager._transports)
        await until(lambda: server._host.running == len(server.sockets))
    closed = [message for message in caplog.messages if message.startswith("closed ")]
    assert len(closed) == (1 if where in ("frame", "answer") else 0)
    assert not complaints
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.row("F13")
async def test_the_peer_sees_the_close_code_although_it_was_still_sending() -> None:
    async with serving() as server, raw(server, UPGRADE) as client:
        await client.until(b"\r\n\r\n")
        for _ in range(20):
            client.say(masked(0xC1, b"reserved bit") + masked(0x81, b"x" * 2000))
        assert await close_frame(client) == 1002


@pytest.mark.row("F13")
async def test_the_peer_of_a_tls_connection_sees_the_close_code_too(certificate: Certificate) -> None:
    said, tls = UPGRADE + masked(0xC1), {"ssl": certificate.context, "server_hostname": "localhost"}
    async with serving(security={"ssl": certificate.section}) as server, raw(server, said, **tls) as client:
        assert await close_frame(client) == 1002


@pytest.mark.row("H2")
async def test_a_head_that_is_never_finished_is_answered_with_408() -> None:
    async with serving(limits={"head_timeout": 0.1}) as server, raw(server, UPGRADE[:-2]) as client:
        assert (await client.all()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.row("H3")
@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (bytes(range(256)), b"400"),
    ],
)
async def test_what_is_no_http_is_answered_and_no_more_than_a_line_of_log(
    said: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server, raw(server, said) as client:
        assert (await client.all()).startswith(b"HTTP/1.1 " + status)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Traceback" not in caplog.text


@pytest.mark.row("H14")
async def test_a_full_address_and_a_full_node_say_when_to_come_back() -> None:
    async def turned_away(server: WebSocketServer) -> bytes:
        async with raw(server, UPGRADE) as client:
            answer = await client.all()
            assert b"\r\nRetry-After: 5\r\n" in answer
            return answer.partition(b"\r\n")[0]

    async with serving(server={"max_connections": 2}) as server, connect(server.url), connect(server.url):
        assert await turned_away(server) == b"HTTP/1.1 503 Service Unavailable"
    async with serving(limits={"connections_per_address": 1}) as server, connect(server.url):
        assert await turned_away(server) == b"HTTP/1.1 429 Too Many Requests"


@pytest.mark.row("F4")
async def test_fragments_without_end_are_too_many() -> None:
    async with serving() as server, raw(server, UPGRADE + masked(0x01) + masked(0x00) * 500) as client:
        assert await close_frame(client) == 1009


@pytest.mark.row("F4")
async def test_a_message_that_is_never_finished_is_closed() -> None:
    limits = {"message_timeout": 0.1, "close_timeout": 0.1}
    async with serving(limits=limits) as server, raw(server, UPGRADE + masked(0x01, b"{")) as client:
        assert await close_frame(client) == 1008


@pytest.mark.row("F7")
@pytest.mark.row("F8")
@pytest.mark.parametrize("opcode", [0x89, 0x8A])
async def test_a_flood_of_pings_or_pongs_is_closed(opcode: int) -> None:
    flood, limits = UPGRADE + masked(opcode, b"flood") * 500, {"frame_burst": 20, "frames_per_second": 1}
    async with serving(limits=limits) as server, raw(server, flood) as client:
        data = await client.all()
        assert data.count(b"\x8a\x05flood") <= 20
        assert int.from_bytes(data[data.rindex(b"\x88") + 2 :][:2]) == 1008


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Gate:
    """An agent that answers when it is let."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()

    async def chat(self, message: str) -> AsyncIterator[str]:
        yield "first "
        self.entered.set()
        await self.open.wait()
        yield "second"


async def get(server: WebSocketServer, path: str) -> bytes:
    async with raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as client:
        return await client.all()


@pytest.mark.row("D1")
async def test_a_drain_loses_nothing_and_says_when_to_come_back() -> None:
    gate = Gate()
    async with serving(gate, drain={"interval": 0.01}) as server, connect(server.url) as client:
        assert (await get(server, "/readyz")).startswith(b"HTTP/1.1 200 ")
        await client.send('{"type":"chat_message","content":"?","stream":true,"id":"m1"}')
        await gate.entered.wait()
        stopping = asyncio.create_task(server.stop())
        notice = await hear(client, event_name="server_draining")
        assert set(notice["data"]) == {"deadline", "reconnect_after"}
        assert (await get(server, "/readyz")).startswith(b"HTTP/1.1 503 ")
        assert (await get(server, "/healthz")).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url)
        assert refused.value.response.status_code == 503
        await client.send('{"type":"chat_message","content":"late","id":"m2"}')
        assert (await hear(client, type="error"))["error_code"] == "OVERLOADED"
        assert not stopping.done()
        gate.open.set()
        assert (await hear(client, type="agent_response"))["content"] == "first second"
        await client.wait_closed()
        assert client.close_code == 1012
        await stopping
        with pytest.raises(OSError):
            await get(server, "/readyz")
        await server.stop()  # which changes nothing


@pytest.mark.row("D1")
async def test_a_second_stop_ends_everything_now() -> None:
    gate = Gate()
    async with serving(gate) as server, connect(server.url) as client:
        await client.send('{"type":"chat_message","content":"?"}')
        await gate.entered.wait()
        stopping = asyncio.create_task(server.stop())
        await hear(client, event_name="server_draining")
        await server.stop_now()
        answer = await hear(client, type="agent_response")
        assert (answer["status"], answer["content"]) == ("cancelled", "first ")
        await client.wait_closed()
        assert client.close_code == 1001
        await stopping


class Holder:
    """An agent that holds something, and closes it in its own way."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.closed = 0
        self.running = 0

    async def chat(self, message: str) -> str:
        self.running += 1
        try:
            await asyncio.sleep(0.02)
            return message
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.closed += 1
        assert self.running == 0
        if self.way == "raises":
            raise ValueError("secret")
        if self.way == "hangs":
            await asyncio.Event().wait()


@pytest.mark.row("D1")
@pytest.mark.clause("C12")
@pytest.mark.parametrize("way", ["plain", "raises", "hangs"])
async def test_an_agent_closes_what_it_holds_once_the_server_has_stopped(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Holder(way)
    async with serving(agent, agent={"cancel_grace": 0.05}) as server:
        async with connect(server.url) as client:
            await client.send('{"type":"chat_message","content":"?"}')
            await until(lambda: agent.running == 1)
            stopping = asyncio.create_task(server.stop())
            assert (await hear(client, type="agent_response"))["content"] == "?"
        await stopping
        assert agent.closed == 1
        await server.stop()
    assert agent.closed == 1
    failed = [message for message in caplog.messages if message.startswith("agent_not_closed")]
    assert len(failed) == (1 if way == "raises" else 0)
    assert "secret" not in caplog.text


@pytest.mark.row("D1")
@pytest.mark.row("G5")
async def test_stopping_now_does_not_wait_for_an_agent_that_blocks() -> None:
    release = threading.Event()

    def agent(message: str) -> Iterator[str]:
        yield "first "
        assert release.wait(20)

    async with serving(agent, agent={"cancel_grace": 60}) as server, connect(server.url) as client:
        try:
            await client.send('{"type":"chat_message","content":"?","stream":true}')
            await hear(client, type="agent_chunk")
            await server.stop_now()
            assert server.manager.gateway.runs == 1
        finally:
            release.set()


async def test_a_stop_that_is_cancelled_stops_now() -> None:
    gate = Gate()
    async with serving(gate) as server, connect(server.url) as client:
        await client.send('{"type":"chat_message","content":"?"}')
        await gate.entered.wait()
        stopping = asyncio.create_task(server.stop())
        await hear(client, event_name="server_draining")
        stopping.cancel()
        await client.wait_closed()
        assert client.close_code == 1001


async def test_serve_forever_drains_when_it_is_cancelled() -> None:
    async with asyncio.timeout(10):
        server = WebSocketServer(echo, open_config())
        serving = asyncio.create_task(server.serve_forever())
        await until(lambda: bool(server.sockets))
        async with connect(server.url) as client:
            assert (await ask(client, "hola"))["content"] == "hola"
            serving.cancel()
            await client.wait_closed()
            assert client.close_code == 1012
        with pytest.raises(asyncio.CancelledError):
            await serving


@pytest.mark.row("C3")
async def test_nothing_is_left_of_connections_that_have_closed() -> None:
    def kept() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), len(server.manager.gateway._node.timers)

    async def visit() -> None:
        async with connect(server.url) as client:
            await ask(client, "hola")
        async with raw(server, UPGRADE) as abrupt:
            await abrupt.until(b"connection_established")
        async with raw(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as probe:
            await probe.all()
        async with raw(server, UPGRADE[:10]):
            pass
        await until(lambda: server.manager.gateway.connections == 0 and server._host.running == len(server.sockets))

    async with serving(sessions={"ttl": 0.001}) as server:
        await visit()
        await until(lambda: server.manager.gateway.sessions == 0)
        before = kept()
        for _ in range(10):
            await visit()
        await until(lambda: server.manager.gateway.sessions == 0)
        assert kept() == before
        assert not server.manager._transports
        assert not server.manager._active


# ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_localhost_is_heard_on_both_families_on_one_port() -> None:
    async with serving(server={"host": "localhost"}) as server:
        assert server.url == f"ws://localhost:{server.port}/"
        families = {listener.family for listener in server.sockets}
        assert len({listener.getsockname()[1] for listener in server.sockets}) == 1
        known = {found[0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        assert socket.AF_INET in families
        assert families <= known
        for listener in server.sockets:
            async with connect(f"ws://localhost:{server.port}/", host=listener.getsockname()[0]) as client:
                assert (await ask(client, "hola"))["content"] == "hola"


@pytest.mark.row("D6")
async def test_a_port_in_use_is_an_error_that_leaves_nothing_behind() -> None:
    async with serving() as server:
        other = WebSocketServer(echo, open_config(server={"port": server.port}))
        with pytest.raises(OSError, match="in use"):
            await other.start()
        assert not other.sockets
    async with asyncio.timeout(5), other:  # now that the port is free
        assert other.port == server.port


@pytest.mark.row("D6")
async def test_a_server_that_would_be_unsafe_does_not_start() -> None:
    config = WebSocketConfig.model_validate(
        {"server": {"host": "0.0.0.0", "port": 0}, "security": {"authentication": {"enabled": False}}}
    )
    server = WebSocketServer(echo, config)
    with pytest.raises(ConfigError, match="authentication is off"):
        await server.start()
    assert all(listener.fileno() == -1 for listener in server.sockets)


async def test_a_manager_brings_its_own_configuration() -> None:
    manager = WebSocketManager(open_config())
    with pytest.raises(ConfigError, match="brings its own configuration"):
        WebSocketServer(manager, open_config())
    manager.set_qa_agent(echo)
    async with asyncio.timeout(5), WebSocketServer(manager) as server, connect(server.url) as client:
        assert (await ask(client, "hola"))["content"] == "hola"


async def test_a_server_that_was_stopped_is_not_started_again() -> None:
    server = WebSocketServer(echo, open_config())
    async with asyncio.timeout(5):
        async with server:
            pass
        with pytest.raises(RuntimeError, match="given to a server before; a server is started once"):
            await server.start()
    assert all(listener.fileno() == -1 for listener in server.sockets)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Certificate:
    """A certificate for localhost, signed by itself, and what a server and a client need of it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.cert_file, self.key_file = folder / "cert.pem", folder / "key.pem"
        self.cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.section = {"enabled": True, "cert_file": str(self.cert_file), "key_file": str(self.key_file)}
        self.context = ssl.create_default_context(cafile=str(self.cert_file))


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


async def test_a_conversation_over_tls(certificate: Certificate) -> None:
    async with serving(server={"host": "localhost"}, security={"ssl": certificate.section}) as server:
        assert server.url.startswith("wss://localhost:")
        async with connect(server.url, ssl=certificate.context) as client:
            assert (await ask(client, "hola"))["content"] == "hola"
            assert (await ask(client, "x" * 10_000))["content"] == "x" * 10_000


@pytest.mark.row("H3")
@pytest.mark.row("H2")
async def test_a_tls_listener_bears_clients_that_speak_plainly_or_not_at_all(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(security={"ssl": certificate.section}, limits={"head_timeout": 0.1}) as server:
        async with raw(server, UPGRADE) as plain:
            with suppress(ConnectionError):
                await plain.all()
        async with raw(server) as silent:
            with suppress(ConnectionError):
                assert await silent.all() == b""
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("wrong", ["other key", "no PEM", "missing", "none"])
async def test_files_that_make_no_tls_are_a_config_error(wrong: str, certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "no.pem").write_text("no PEM")
    key_file = {
        "other key": str(Certificate(tmp_path / "other").key_file),
        "no PEM": str(tmp_path / "no.pem"),
        "missing": str(tmp_path / "missing.pem"),
        "none": None,
    }[wrong]
    config = open_config(security={"ssl": {**certificate.section, "key_file": key_file}})
    with pytest.raises(ConfigError, match=r"security\.ssl"):
        await WebSocketServer(echo, config).start()


@pytest.mark.parametrize("missing", ["cert_file", "key_file"])
async def test_the_error_names_the_file_that_is_missing(missing: str, certificate: Certificate, tmp_path: Path) -> None:
    config = open_config(security={"ssl": {**certificate.section, missing: str(tmp_path / "missing.pem")}})
    with pytest.raises(ConfigError) as refused:
        await WebSocketServer(echo, config).start()
    assert str(refused.value) == f"security.ssl: No such file or directory: {tmp_path / 'missing.pem'}"


async def test_a_key_that_asks_for_a_passphrase_is_a_config_error(certificate: Certificate) -> None:
    key = serialization.load_pem_private_key(certificate.key_file.read_bytes(), None)
    certificate.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(ConfigError, match="the private key is encrypted; give one without a passphrase"):
        await WebSocketServer(echo, open_config(security={"ssl": certificate.section})).start()


async def test_a_client_that_leaves_in_the_middle_of_its_answer_is_no_trouble() -> None:
    gate = Gate()
    async with serving(gate) as server:
        async with connect(server.url) as client:
            await client.send('{"type":"chat_message","content":"?","stream":true}')
            await gate.entered.wait()
        gate.open.set()
        await until(lambda: server.manager.gateway.runs == 0)
