"""qaws.safety and the servers: what is said in the log as they start, and what a program's own store changes (D6)."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaws import ConfigError, WebSocketManager
from qaws.asgi import STARTUP_FAILURE, create_app
from qaws.safety import OTHER_FILES, warnings
from qaws.stores.sqlite import SqliteStore
from qaws_proto import WebSocketConfig

from .asgi_host import hosting, open_app
from .byte_servers import ADAPTERS, Adapter, echo, serving
from .peers import open_config

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture
def files() -> Iterator[int]:
    """How many files this process may open, put back at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(soft, 512) if soft != resource.RLIM_INFINITY else 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    yield lowered
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_connections_than_files_are_warned_of(files: int) -> None:
    room = files - 256 - OTHER_FILES
    assert warnings(open_config(server={"max_connections": room})) == []
    (one,) = warnings(open_config(server={"max_connections": room + 1}))
    assert (one.setting, one.refuses) == ("server.max_connections", False)
    assert f"may take {files + 1} files, and this process may open {files}" in one.wrong


@pytest.mark.anyio
@pytest.mark.parametrize("adapter", [ADAPTERS["asyncio-asyncio"], ADAPTERS["anyio-asyncio"]], ids=["asyncio", "anyio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.row("D6")
async def test_a_server_warns_by_the_addresses_that_are_really_listened_on(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    security = {"authentication": {"jwt_secret": SECRET}}
    caplog.set_level(logging.WARNING, "qaws")
    async with serving(adapter, security=security):
        assert caplog.messages == []
    async with serving(adapter, server={"host": "0.0.0.0"}, security=security):
        records = caplog.records[:]
    assert {(record.name, record.levelno) for record in records} == {("qaws.node", logging.WARNING)}
    for record, setting in zip(records, ("security.ssl.enabled", "metrics.token"), strict=True):
        assert record.getMessage().startswith(f"setting_warning setting={setting} reason=\"'0.0.0.0' can be reached")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_application_warns_once_and_not_of_addresses(caplog: pytest.LogCaptureFixture) -> None:
    ssl = {"enabled": True}  # which is the host's business, and nothing reads it here
    async with hosting(open_app(logging={"log_messages": True}, security={"ssl": ssl})) as host:
        for _ in range(2):
            assert (await host.get("/healthz"))[0] == 200
    assert [message.partition(" reason=")[0] for message in caplog.messages if "warning" in message] == [
        "setting_warning setting=logging.log_messages",
        "setting_warning setting=security.ssl.enabled",
    ]


@pytest.mark.row("D6")
def test_the_factory_ends_the_process_on_unsafe_settings_before_the_agent_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unsafe.yaml").write_text("websocket: {server: {trusted_proxies: ['::/0']}, store: {path: a.db}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QAWS_CONFIG", "unsafe.yaml")
    monkeypatch.setenv("QAWS_AGENT", "no_such_module:agent")
    monkeypatch.setenv("WEBSOCKET_SECRET_KEY", SECRET)
    logger = logging.getLogger("qaws")  # which the application sets up
    for name in ("propagate", "handlers", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    with pytest.raises(SystemExit) as caught:
        create_app()
    assert caught.value.code == STARTUP_FAILURE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert ' ERROR   qaws.node not_started reason="server.trusted_proxies: every IPv6 address' in lines[0]
    assert ' ERROR   qaws.node not_started reason="store.path: nothing reads it' in lines[1]


def test_a_store_that_a_program_gives_may_read_what_the_settings_say_of_stores(tmp_path: Path) -> None:
    config = WebSocketConfig.model_validate(
        {"security": {"authentication": {"enabled": False}}, "store": {"path": str(tmp_path / "q.db")}}
    )
    with pytest.raises(ConfigError, match=r"store\.path: nothing reads it"):
        WebSocketManager(config, agent=echo).require_safe()
    WebSocketManager(config, agent=echo, store=SqliteStore(config)).require_safe()
