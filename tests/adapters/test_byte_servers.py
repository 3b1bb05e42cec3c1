"""What byte servers do by themselves, each on each of its event loops: listening, starting, stopping, TLS."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives import serialization

from qaws import ConfigError, WebSocketConfig, WebSocketManager

from .byte_servers import ADAPTERS, PATIENCE, Adapter, connected, echo, serving, tcp, until
from .certificates import Authority, Issued
from .peers import open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """The adapter, by its name."""
    return ADAPTERS[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    """The event loop of that adapter."""
    return adapter.backend


# ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_localhost_is_heard_on_both_families_on_one_port(adapter: Adapter) -> None:
    async with serving(adapter, server={"host": "localhost"}) as server:
        assert server.url == f"ws://localhost:{server.port}/"
        families = {listener.family for listener in server.sockets}
        assert len({listener.getsockname()[1] for listener in server.sockets}) == 1
        known = {found[0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        assert socket.AF_INET in families
        assert families <= known
        for listener in server.sockets:
            stream = await anyio.connect_tcp(listener.getsockname()[0], server.port)
            async with connected(stream) as client:
                assert await client.ask("hola") == "hola"


@pytest.mark.row("D6")
async def test_a_port_in_use_is_an_error_that_leaves_nothing_behind(adapter: Adapter) -> None:
    async with serving(adapter) as server:
        other = adapter.server(echo, open_config(server={"port": server.port}))
        with pytest.raises(OSError, match="in use"):
            await other.start()
        assert not other.sockets
    with anyio.fail_after(PATIENCE):
        async with other:  # now that the port is free
            assert other.port == server.port


@pytest.mark.row("D6")
async def test_a_server_that_would_be_unsafe_does_not_start(adapter: Adapter) -> None:
    config = WebSocketConfig.model_validate(
        {"server": {"host": "0.0.0.0", "port": 0}, "security": {"authentication": {"enabled": False}}}
    )
    server = adapter.server(echo, config)
    with pytest.raises(ConfigError, match="authentication is off"):
        await server.start()
    assert not server.sockets


async def test_a_manager_brings_its_own_configuration(adapter: Adapter) -> None:
    manager = WebSocketManager(open_config())
    with pytest.raises(ConfigError, match="brings its own configuration"):
        adapter.server(manager, open_config())
    manager.set_qa_agent(echo)
    with anyio.fail_after(PATIENCE):
        async with adapter.server(manager) as server, connected(await tcp(server)) as client:
            assert await client.ask("hola") == "hola"


async def test_a_server_that_was_stopped_is_not_started_again(adapter: Adapter) -> None:
    server = adapter.server(echo, open_config())
    with anyio.fail_after(PATIENCE):
        async with server:
            pass
        with pytest.raises(RuntimeError, match="given to a server before; a server is started once"):
            await server.start()
    assert all(listener.fileno() == -1 for listener in server.sockets)


# ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_may_be_stopped_by_another_task(adapter: Adapter) -> None:
    with anyio.fail_after(PATIENCE):
        server = adapter.server(echo, open_config())
        async with anyio.create_task_group() as starting:
            starting.start_soon(server.start)
        async with connected(await tcp(server)) as client, anyio.create_task_group() as stopping:
            assert await client.ask("hola") == "hola"
            stopping.start_soon(server.stop)
            assert (await client.hear(event_name="server_draining"))["data"]["reconnect_after"] == 1
            assert await client.ended() == 1012


@pytest.mark.row("D1")
async def test_serve_forever_drains_when_its_scope_is_cancelled(adapter: Adapter) -> None:
    release = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        await release.wait()
        yield "second"

    server, scope = adapter.server(agent, open_config()), anyio.CancelScope()

    async def serve() -> None:
        with scope:
            await server.serve_forever()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            await until(lambda: server.sockets)
            async with connected(await tcp(server)) as client:
                await client.say("?", stream=True)
                await client.hear(type="agent_chunk")
                scope.cancel()
                await client.hear(event_name="server_draining")
                release.set()
                assert (await client.hear(type="agent_response"))["content"] == "first second"
                assert await client.ended() == 1012


@pytest.mark.row("G5")
async def test_a_stop_lets_an_agent_go_that_ignores_its_cancellation(adapter: Adapter) -> None:
    release = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        with anyio.CancelScope(shield=True):
            await release.wait()

    drain, limits = {"timeout": 0.01, "interval": 0.01}, {"close_timeout": 0.05}
    async with serving(adapter, agent, agent={"cancel_grace": 0.05}, drain=drain, limits=limits) as server:
        async with connected(await tcp(server)) as client:
            await client.say("?", stream=True)
            await client.hear(type="agent_chunk")
            await server.stop()
            assert server.manager.gateway.runs == 1
        release.set()


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    """A certificate for localhost, and its key."""
    return Authority("tests").issue(tmp_path)


@pytest.mark.parametrize("wrong", ["other key", "no PEM", "missing", "none"])
async def test_files_that_make_no_tls_are_a_config_error(
    adapter: Adapter, wrong: str, issued: Issued, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "no.pem").write_text("no PEM")
    key_file = {
        "other key": str(Authority("others").issue(tmp_path / "other").key_file),
        "no PEM": str(tmp_path / "no.pem"),
        "missing": str(tmp_path / "missing.pem"),
        "none": None,
    }[wrong]
    config = open_config(security={"ssl": issued.section(key_file=key_file)})
    with pytest.raises(ConfigError, match=r"security\.ssl"):
        await adapter.server(echo, config).start()


@pytest.mark.parametrize("missing", ["cert_file", "key_file"])
async def test_the_error_names_the_file_that_is_missing(
    adapter: Adapter, missing: str, issued: Issued, tmp_path: Path
) -> None:
    config = open_config(security={"ssl": issued.section(**{missing: str(tmp_path / "missing.pem")})})
    with pytest.raises(ConfigError) as refused:
        await adapter.server(echo, config).start()
    assert str(refused.value) == f"security.ssl: No such file or directory: {tmp_path / 'missing.pem'}"


async def test_a_key_that_asks_for_a_passphrase_is_a_config_error(adapter: Adapter, issued: Issued) -> None:
    key = serialization.load_pem_private_key(issued.key_file.read_bytes(), None)
    issued.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(ConfigError, match="the private key is encrypted; give one without a passphrase"):
        await adapter.server(echo, open_config(security={"ssl": issued.section()})).start()


# ── an agent that holds something ────────────────────────────────────────────────────────────────────────────────────


class Holding:
    """An agent whose `aclose` is given by the test."""

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self.aclose = close

    async def chat(self, message: str) -> str:
        return message


async def test_an_agent_that_is_cancelled_by_itself_as_it_closes_does_not_cancel_who_stops(adapter: Adapter) -> None:
    async def close() -> None:
        raise anyio.get_cancelled_exc_class() if adapter.backend[0] == "asyncio" else SystemExit

    async with serving(adapter, Holding(close)) as server, connected(await tcp(server)) as client:
        assert await client.ask("hola") == "hola"


@pytest.mark.row("G5")
async def test_an_agent_that_does_not_close_is_let_go(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    release = anyio.Event()

    async def close() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async with serving(adapter, Holding(close), agent={"cancel_grace": 0.01}):
        pass
    release.set()
    assert "agent_not_closed seconds=0.01" in caplog.messages


async def test_stops_that_overlap_wait_for_no_patience_of_each_other(adapter: Adapter) -> None:
    # A stop that waited out its patience, ten times that of a test, would not end.
    with anyio.fail_after(PATIENCE):
        server = adapter.server(echo, open_config(agent={"cancel_grace": 10 * PATIENCE}))
        async with server, anyio.create_task_group() as tasks:
            for stop in (server.stop, server.stop, server.stop_now):
                tasks.start_soon(stop)
