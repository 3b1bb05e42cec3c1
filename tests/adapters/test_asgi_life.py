"""The ASGI application under a host in memory: how it starts and ends, and where it refuses to serve."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from qaws import WebSocketAuth, WebSocketConfig, WebSocketManager
from qaws.asgi import WebSocketApp, create_app
from qaws.interception import stopping_first
from tests.helpers.openai_server import ModelServer

from .asgi_host import HOST, NO_DENIAL, AsgiHost, hosting, open_app
from .byte_servers import PATIENCE, echo, until
from .peers import open_config

pytestmark = pytest.mark.anyio

PUBLIC: dict[str, Any] = {"server": ("192.0.2.7", 80)}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D1")
async def test_the_lifespan_drains() -> None:
    release = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        await release.wait()
        yield "second"

    app = open_app(agent)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            host = AsgiHost(app, tasks)
            life = await host.call("lifespan")
            life.tell("lifespan.startup")
            await life.next()
            idle, client = await host.open(), await host.open()
            client.say("?", stream=True)
            await client.hear(type="agent_chunk")
            life.tell("lifespan.shutdown")
            await client.hear(event_name="server_draining")
            assert (await host.get("/readyz"))[0] == 503
            assert (await host.get("/healthz"))[0] == 200
            assert (await (await host.connect()).answer())[0] == 503
            assert await (await host.connect(**NO_DENIAL)).closed() == (1012, "draining")
            assert await idle.closed() == (1012, "restarting")
            release.set()
            assert (await client.hear(type="agent_response"))["content"] == "first second"
            assert await client.closed() == (1012, "restarting")
            assert await life.next() == {"type": "lifespan.shutdown.complete"}
            await life.end()
    assert app._host.running == 0


@pytest.mark.row("D1")
async def test_a_cancelled_lifespan_stops_at_once() -> None:
    forever = anyio.Event()
    cancelled = anyio.Event()

    async def agent(message: str) -> str:
        try:
            await forever.wait()
        finally:
            cancelled.set()
        return message

    app = open_app(agent)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            host = AsgiHost(app, tasks)
            life = await host.call("lifespan")
            life.tell("lifespan.startup")
            await life.next()
            client = await host.open()
            client.say("?", id="m1")
            await client.hear(event_name="message_accepted")
            life.cancelled.cancel()
            await cancelled.wait()
            assert await client.closed() == (1001, "going away")


async def test_without_a_lifespan_the_first_connection_starts_it() -> None:
    async with hosting(open_app(), lifespan=False) as host:
        client = await host.open()
        client.say("hola")
        assert (await client.hear(type="agent_response"))["content"] == "hola"


async def test_an_application_is_started_once() -> None:
    app = open_app()
    async with hosting(app):
        pass
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            life = await AsgiHost(app, tasks).call("lifespan")
            life.tell("lifespan.startup")
            failed = await life.next()
            await life.end()
    assert failed["type"] == "lifespan.startup.failed"
    assert "started once" in failed["message"]


@pytest.mark.row("D6")
async def test_the_lifespan_refuses_to_start_where_the_settings_are_unsafe() -> None:
    app = open_app(server={"host": "0.0.0.0"})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            life = await AsgiHost(app, tasks).call("lifespan")
            life.tell("lifespan.startup")
            failed = await life.next()
            await life.end()
    assert failed["type"] == "lifespan.startup.failed"
    assert "'0.0.0.0' can be reached by others" in failed["message"]


async def test_a_manager_serves_with_its_own_configuration() -> None:
    config = open_config(server={"path": "/mine"})
    async with hosting(WebSocketApp(WebSocketManager(config, agent=echo))) as host:
        client = await host.open("/mine")
        client.tell("websocket.disconnect")


# ── where everybody would be let in (D6) ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D6")
async def test_without_authentication_a_public_address_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with hosting(open_app()) as host:
        for _ in range(3):
            assert (await host.get("/healthz", **PUBLIC))[0] == 503
            assert (await (await host.connect(**PUBLIC)).answer())[0] == 503
            assert (await (await host.connect(**PUBLIC, **NO_DENIAL)).closed())[0] == 1013
        assert (await host.get("/", server=("example.org", 80)))[0] == 503
        assert (await host.get("/healthz"))[0] == 200
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["'192.0.2.7'" in errors[0], "'example.org'" in errors[1], len(errors)] == [True, True, 2]
    assert all(record.exc_info is None for record in caplog.records)


@pytest.mark.row("D6")
async def test_complaints_of_addresses_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with hosting(open_app(limits={"refusal_addresses": 2})) as host:
        for number in range(5):
            assert (await host.get("/healthz", server=(f"192.0.2.{number}", 80)))[0] == 503
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2


@pytest.mark.row("D6")
@pytest.mark.parametrize("server", [("127.0.0.9", 1), ("::1", 1), ("localhost", 1), ("/run/qaws.sock", None), None])
async def test_private_addresses_are_served_without_authentication(server: Any) -> None:
    async with hosting(open_app()) as host:
        assert (await host.get("/healthz", server=server))[0] == 200


@pytest.mark.row("D6")
async def test_public_addresses_are_served_where_that_is_meant() -> None:
    allowed = open_app(security={"authentication": {"enabled": False, "allow_public": True}})
    authenticating = WebSocketConfig.model_validate(
        {"security": {"authentication": {"jwt_secret": "a secret of more than thirty-two bytes"}}}
    )
    for app in (allowed, WebSocketApp(echo, authenticating)):
        async with hosting(app) as host:
            assert (await host.get("/healthz", **PUBLIC))[0] == 200


@pytest.mark.row("D6")
async def test_unsafe_settings_without_a_lifespan_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with hosting(open_app(server={"host": "0.0.0.0"}), lifespan=False) as host:
        for _ in range(2):
            assert (await host.get("/healthz"))[0] == 503
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_the_environment_names_an_agent_its_address_and_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("qaws")  # which the application sets up
    for name, value in {"propagate": logger.propagate, "handlers": [*logger.handlers], "level": logger.level}.items():
        monkeypatch.setattr(logger, name, value)
    with ModelServer() as model:
        monkeypatch.setenv("WEBSOCKET_SECRET_KEY", "a secret of more than thirty-two bytes")
        monkeypatch.setenv("QAWS_AGENT", "openai:llama")
        monkeypatch.setenv("QAWS_AGENT_URL", model.url)
        monkeypatch.setenv("QAWS_AGENT_SYSTEM", "Be brief.")
        app = create_app()
        token = WebSocketAuth(app.config).generate_token("ana")
        async with hosting(app) as host:
            client = await host.open(headers=[*HOST, (b"authorization", f"Bearer {token}".encode())])
            client.say("hola")
            assert (await client.hear(type="agent_response"))["content"] == "Hello"
    (request,) = model.requests
    assert (request.body["model"], request.body["messages"][0]["content"]) == ("llama", "Be brief.")


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D1")
async def test_all_applications_drain_before_the_host_hears_of_the_signal() -> None:
    drained: list[str] = []
    heard: list[int] = []
    release = anyio.Event()

    class Host:
        def handle_exit(self, number: int, frame: object) -> None:
            heard.append(number)

    async def quick() -> None:
        drained.append("quick")

    async def slow() -> None:
        await release.wait()
        drained.append("slow")

    Host.__module__ = "uvicorn.server"
    host = Host()
    before = signal.signal(signal.SIGTERM, host.handle_exit)
    try:
        with anyio.fail_after(PATIENCE), stopping_first(quick), stopping_first(slow):
            await until(lambda: signal.getsignal(signal.SIGTERM) != host.handle_exit)
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: drained == ["quick"])
            assert heard == []
            release.set()
            await until(lambda: bool(heard))
            assert signal.getsignal(signal.SIGTERM) == host.handle_exit
        assert (drained, heard) == (["quick", "slow"], [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_life_that_fails_behind_its_start_says_so() -> None:
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        if sent:
            raise RuntimeError("the host has lost its way")
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with anyio.fail_after(PATIENCE):
        await open_app()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


async def test_a_path_that_no_host_should_give_is_not_found() -> None:
    app = open_app()
    async with hosting(app) as host:
        assert (await host.get("/\ud800"))[0] == 404
        assert not app.manager._transports
