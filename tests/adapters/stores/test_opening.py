"""A store opens and closes with what serves its manager: byte servers, ASGI applications."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from qaws import WebSocketConfig, WebSocketManager, anyio_server
from qaws.asgi import WebSocketApp
from qaws.stores import StoreError, port
from qaws.stores.sqlite import SqliteStore
from qaws_proto.records import EventRecord
from tests.adapters.asgi_host import AsgiHost, hosting
from tests.adapters.byte_servers import PATIENCE, connected, echo, tcp, until
from tests.adapters.peers import Peer, Recorded, driven, open_config

from .kept import Kept

pytestmark = pytest.mark.anyio


def with_file(path: Path) -> WebSocketConfig:
    return open_config(store={"kind": "sqlite", "path": str(path)})


# ── with a server ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D5")
async def test_a_server_whose_store_cannot_be_opened_does_not_listen(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_text("my notes\n" * 1000)
    server = anyio_server.WebSocketServer(echo, with_file(tmp_path / "q.db"))
    with pytest.raises(StoreError, match="no SQLite database"):
        await server.start()
    assert not server.sockets
    (tmp_path / "q.db").unlink()
    with anyio.fail_after(PATIENCE):
        async with server:
            assert server.sockets


async def test_a_server_that_cannot_listen_closes_its_store() -> None:
    store = Kept()
    with anyio.fail_after(PATIENCE):
        async with anyio_server.WebSocketServer(echo, open_config()) as other:
            manager = WebSocketManager(open_config(server={"port": other.port}), agent=echo, store=store)
            server = anyio_server.WebSocketServer(manager)
            with pytest.raises(OSError, match="in use"):
                await server.start()
            assert store.calls == ["open", "close"]
        async with server:
            assert store.calls[2:] == ["open"]
    assert store.calls[2:] == ["open", "close"]


async def test_a_manager_that_is_served_keeps_its_store_when_it_is_given_away_again() -> None:
    store = Kept()
    manager = WebSocketManager(open_config(), agent=echo, store=store)
    with anyio.fail_after(PATIENCE):
        async with anyio_server.WebSocketServer(manager) as server:
            with pytest.raises(RuntimeError, match="a server is started once"):
                await anyio_server.WebSocketServer(manager).start()
            assert store.calls == ["open"]
            async with connected(await tcp(server)) as client:
                assert await client.ask("hola") == "hola"


class Closing:
    """An agent that tells when it is closed."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.asked = anyio.Event()

    async def chat(self, message: str) -> str:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        self._calls.append("agent closed")


async def test_the_store_is_closed_behind_the_agent_and_the_last_save() -> None:
    store = Kept()
    agent = Closing(store.calls)
    config = open_config(limits={"close_timeout": 0.05})  # for as long the node waits for the store
    server = anyio_server.WebSocketServer(WebSocketManager(config, agent=agent, store=store))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await server.start()
            async with connected(await tcp(server)) as client:
                await client.say("hola", id="m1")
                await agent.asked.wait()
                store.ready = anyio.Event()
                tasks.start_soon(server.stop_now)
                await client.ended()
            await until(lambda: "agent closed" in store.calls)
            await anyio.wait_all_tasks_blocked()
            assert store.calls[-2:] == ["save", "agent closed"]  # the end of the run, which was cancelled
            store.ready.set()
    assert store.calls[-3:] == ["save", "agent closed", "close"]
    assert b'"cancelled"' in [one.payload for one in store.records if isinstance(one, EventRecord)][-1]


async def test_a_stop_that_is_cancelled_closes_the_store_all_the_same() -> None:
    store = Kept()
    agent = Closing([])
    server = anyio_server.WebSocketServer(WebSocketManager(open_config(), agent=agent, store=store))
    with anyio.fail_after(PATIENCE):
        await server.start()
        async with connected(await tcp(server)) as client:
            await client.say("hola", id="m1")
            await agent.asked.wait()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await server.stop()
            await client.ended()
    assert scope.cancelled_caught
    assert store.calls[-1] == "close"


async def test_a_store_that_does_not_close_is_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(port, "PATIENCE", 0.01)
    go_on = anyio.Event()

    class Stuck(Kept):
        async def aclose(self) -> None:
            await go_on.wait()

    for store, said in ((Stuck(), "store_not_closed seconds=0.01"), (Kept(), "store_not_closed\n  raised=KeyError")):
        with anyio.fail_after(PATIENCE), caplog.at_level(logging.ERROR, "qaws.node"):
            async with anyio_server.WebSocketServer(WebSocketManager(open_config(), agent=echo, store=store)):
                store.errors = [KeyError("x")]
        assert said in caplog.text
    go_on.set()
    await anyio.lowlevel.checkpoint()


async def test_everybody_who_closes_a_store_waits_no_longer_than_the_least_patient(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = anyio.Event()

    class Stuck(Kept):
        async def aclose(self) -> None:
            await go_on.wait()

    manager = Recorded(open_config(), agent=echo, store=Stuck())
    with anyio.fail_after(PATIENCE), caplog.at_level(logging.ERROR, "qaws.node"):
        await manager.open_store()
        async with driven(manager, anyio_backend):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.close_store, 600)
                await anyio.wait_all_tasks_blocked()
                await manager.close_store(0.01)
            await manager.close_store(600)  # which has been let go
            assert caplog.text.count("store_not_closed") == 1
            go_on.set()
            await until(lambda: manager.store_port is not None and manager.store_port.released)


async def test_a_store_is_not_closed_under_a_save_that_does_not_end(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Kept()
    server = anyio_server.WebSocketServer(WebSocketManager(open_config(), agent=echo, store=store))
    with anyio.fail_after(PATIENCE), caplog.at_level(logging.ERROR, "qaws.node"):
        await server.start()
        async with connected(await tcp(server)) as client:
            store.ready = anyio.Event()
            await client.say("hola", id="m1")
            await until(lambda: "save" in store.calls)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.stop_now)
                await client.ended()
        assert "store_not_closed" in caplog.text
        assert server.manager.store_port is not None
        assert not server.manager.store_port.released
        assert store.calls == ["open", "save"]
        store.ready.set()
        await until(lambda: store.calls == ["open", "save", "close"])


async def test_what_is_said_behind_the_end_is_not_kept(anyio_backend: str) -> None:
    store = Kept()
    manager = Recorded(open_config(), agent=echo, store=store)
    with anyio.fail_after(PATIENCE):
        await manager.open_store()
        async with driven(manager, anyio_backend):
            peer = Peer(manager)
            await manager.close_store()
            peer.say("chat_message", content="late", id="m1")
            assert (await peer.hear("error")).error_code == "STORAGE_UNAVAILABLE"
    assert store.calls == ["open", "close"]


async def test_a_store_is_opened_once_and_before_its_manager_is_attached() -> None:
    store = Kept()
    manager = Recorded(open_config(), agent=echo, store=store)
    with pytest.raises(RuntimeError, match=r"not open: call manager\.open_store"):
        manager.attach(NoHost())
    for _ in range(2):
        await manager.open_store()
    assert store.calls == ["open"]


class NoHost:
    def spawn(self, function: object, *arguments: object) -> None:
        raise AssertionError

    def soon(self, function: object) -> None:
        raise AssertionError

    def wake_at(self, deadline: float | None) -> None:
        raise AssertionError


def test_the_configuration_makes_the_store(tmp_path: Path) -> None:
    with_store = WebSocketManager(with_file(tmp_path / "q.db"), agent=echo)
    assert isinstance(with_store.store_port and with_store.store_port._store, SqliteStore)
    assert WebSocketManager(open_config(), agent=echo).store_port is None


# ── under ASGI ───────────────────────────────────────────────────────────────────────────────────────────────────────


def app_with(store: Any, **sections: Any) -> WebSocketApp:
    return WebSocketApp(WebSocketManager(open_config(**sections), agent=echo, store=store))


async def test_the_lifespan_opens_and_closes_the_store() -> None:
    store = Kept()
    async with hosting(app_with(store)) as host:
        assert store.calls == ["open"]
        client = await host.open()
        client.say("hola")
        await client.hear(type="agent_response", content="hola")
    assert store.calls[-1] == "close"


@pytest.mark.row("D5")
async def test_the_lifespan_fails_where_the_store_cannot_be_opened() -> None:
    store = Kept()
    store.errors = [StoreError("the file is another program's")]
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            life = await AsgiHost(app_with(store), tasks).call("lifespan")
            life.tell("lifespan.startup")
            assert await life.next() == {
                "type": "lifespan.startup.failed", "message": "qaws: the file is another program's",
            }  # fmt: skip
            await life.end()


@pytest.mark.row("D5")
@pytest.mark.parametrize(
    ("unfinished", "error", "said"),
    [
        ((), OSError(13, "a secret"), "PermissionError"),
        ((), RuntimeError("a secret"), "RuntimeError"),
        (None, None, "no tuple of StoredSession"),
        ((None,), None, "no tuple of StoredSession"),
    ],
)
async def test_the_lifespan_fails_where_a_store_opens_in_no_way_that_it_should(
    unfinished: Any, error: Exception | None, said: str
) -> None:
    store = Kept()
    store.unfinished = unfinished
    store.errors = [] if error is None else [error]
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            life = await AsgiHost(app_with(store), tasks).call("lifespan")
            life.tell("lifespan.startup")
            failed = await life.next()
            await life.end()
    assert failed["type"] == "lifespan.startup.failed"
    assert failed["message"].startswith("qaws: the store cannot be opened: ")
    assert failed["message"].endswith(said)


async def test_without_a_lifespan_the_first_connections_open_the_store_once(caplog: pytest.LogCaptureFixture) -> None:
    store = Kept()
    store.errors = [StoreError("busy"), StoreError("busy")]
    async with hosting(app_with(store), lifespan=False) as host:
        for _ in range(2):
            assert (await host.get("/healthz"))[0] == 503
        assert caplog.text.count("busy") == 1
        first, second = await host.connect(), await host.connect()
        for client in (first, second):
            assert (await client.next())["type"] == "websocket.accept"
            await client.hear(event_name="connection_established")
    assert store.calls == ["open", "open", "open"]


def test_a_configuration_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="the sqlite store needs a file"):
        WebSocketConfig.model_validate({"store": {"kind": "sqlite"}})
    with pytest.raises(StoreError, match=r"store\.path"):
        SqliteStore(open_config())
