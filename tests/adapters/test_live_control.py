"""What an operator calls: the methods of a manager, where they may be called, and what our own client makes of it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import ClientError, QAWebSocketClient, WebSocketAuth, WebSocketManager
from qaws.anyio_server import WebSocketServer
from qaws.control import LiveControl
from qaws_proto.live_settings import CHANGEABLE
from qaws_proto.overview import BlockInfo

from .byte_servers import PATIENCE
from .peers import HOSTS, Peer, open_config

PAGE = (Path(__file__).parents[2] / "docs" / "control.md").read_text("utf-8")
GUARDED: dict[str, Any] = {
    "server": {"host": "127.0.0.1", "port": 0},
    "security": {"authentication": {"enabled": True, "jwt_secret": secrets.token_urlsafe(48)}},
}


async def echo(message: str) -> str:
    return message


def guarded() -> WebSocketManager:
    return WebSocketManager(open_config(**GUARDED), agent=echo)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_names_every_method_and_every_setting() -> None:
    tables = "".join(line for line in PAGE.splitlines(keepends=True) if line.startswith("| `"))
    methods = {name for name in vars(LiveControl) if name[0] != "_" and name not in ("feed", "gateway")}
    assert set(re.findall(r"`(\w+)\(", tables)) == methods
    section = PAGE.partition("## Limits\n")[2].partition("\n## ")[0]
    assert tuple(sorted(re.findall(r"`(\w+\.[\w.]+)`", section.partition("`manager.config`")[0]))) == tuple(
        sorted(CHANGEABLE)
    )


# ── the methods ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_commands_may_be_given_before_the_server_starts() -> None:
    manager = guarded()
    manager.block_user("ana", seconds=60, by="ops", reason="spam")
    manager.block_address("192.0.2.7")
    manager.revoke_token("t1", by="ops")
    manager.revoke_user("eva", reason="left")
    user, address = manager.blocks()
    assert user.seconds is not None
    assert 59 < user.seconds <= 60
    assert (user[:4], address[:4]) == (("user", "ana", "ops", "spam"), ("address", "192.0.2.7/32", "operator", ""))
    assert [one[:4] for one in manager.revocations()] == [
        ("token", "t1", "ops", ""),
        ("user", "eva", "operator", "left"),
    ]
    assert all(isinstance(one, BlockInfo) for one in manager.revocations())
    assert manager.unblock_user("ana", by="ops").changed
    assert manager.unblock_address("192.0.2.7", by="ops").changed
    assert (manager.blocks(), manager.connections(), manager.sessions()) == ([], [], [])


def test_limits_are_changed_for_the_node_and_not_in_what_the_manager_was_given() -> None:
    manager = guarded()
    outcome = manager.change_limits({"agent.max_runs": 7, "server.max_connections": 100}, by="ops", reason="test")
    assert (outcome.before, outcome.after) == (
        {"agent.max_runs": 1000, "server.max_connections": 100},
        {"agent.max_runs": 7, "server.max_connections": 100},
    )
    assert manager.limits()["agent.max_runs"] == manager.gateway.config.agent.max_runs == 7
    assert manager.config.agent.max_runs == 1000


def test_what_cannot_be_done_raises_and_the_manager_goes_on() -> None:
    manager = guarded()
    wrong: dict[str, Callable[[], object]] = {
        "a user id": lambda: manager.block_user(""),
        "an address or a CIDR": lambda: manager.block_address("nowhere"),
        "a token id": lambda: manager.revoke_token(""),
        "cannot be changed": lambda: manager.change_limits({"server.port": 1}),
        "has to be named": manager.disconnect,
    }
    for problem, command in wrong.items():
        with pytest.raises(ValueError, match=problem):
            command()
    assert manager.blocks() == manager.revocations() == []
    manager.block_user("ana")
    assert len(manager.blocks()) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_within_a_step_of_the_node_commands_are_refused_and_left_to_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused: list[str] = []

    def check(_gate: object, applicant: Any) -> None:
        try:
            manager.block_address(str(applicant.address))
        except RuntimeError as error:
            refused.append(str(error))
            asyncio.get_running_loop().call_soon(manager.block_address, str(applicant.address))

    manager = WebSocketManager(open_config(), agent=echo, upgrade_checks=[check])
    host = HOSTS["asyncio"](manager)
    caplog.set_level(logging.INFO, "qaws.control")
    async with host.running():
        manager.attach(host)
        peer = Peer(manager)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert peer.close_code == 4403
    assert refused == ["AddressBlocked within a step of the node: leave it to the event loop (loop.call_soon)"]
    (record,) = [record for record in caplog.records if record.name == "qaws.control"]
    assert record.getMessage().startswith("address_blocked by=operator ")


# ── our own client ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
@pytest.mark.row("A5")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_our_client_does_not_come_back_when_its_user_is_blocked() -> None:
    manager = guarded()
    token = WebSocketAuth(manager.config).generate_token("ana")
    with anyio.fail_after(PATIENCE):
        async with WebSocketServer(manager) as server, QAWebSocketClient(server.url, token=token) as client:
            assert (await client.ask("hello")).content == "hello"
            manager.block_user("ana")
            with pytest.raises(ClientError, match="4403"):
                await client.ask("hello again")
            assert manager.connections() == [] or {one.phase for one in manager.connections()} == {"closing"}
            with pytest.raises(ClientError, match="403"):
                async with QAWebSocketClient(server.url, token=token):
                    pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_our_client_comes_back_where_it_was_only_disconnected() -> None:
    manager = guarded()
    token = WebSocketAuth(manager.config).generate_token("ana")
    with anyio.fail_after(PATIENCE):
        async with WebSocketServer(manager) as server, QAWebSocketClient(server.url, token=token) as client:
            assert (await client.ask("hello")).content == "hello"
            assert manager.disconnect(user_id="ana", reason="an exercise").closed == 1
            assert (await client.ask("hello again")).content == "hello again"
