"""Peers that break off, break the rules or flood. What is HTTP and frames is the host's own where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from ..byte_servers import until
from ..hosts import Adapter, Node, client, on_byte_servers, serving
from ..raw import UPGRADE, Raw, close_code, let_in, masked, raw

pytestmark = pytest.mark.anyio


# ── over every adapter ───────────────────────────────────────────────────────────────────────────────────────────────


class Endless:
    """An agent that streams for ever."""

    def __init__(self) -> None:
        self.entered = anyio.Event()

    async def chat(self, message: str) -> AsyncIterator[str]:
        while True:
            yield "x" * 100
            self.entered.set()
            await anyio.sleep(0)


async def gone(node: Node) -> None:
    """Wait until the node has forgotten every connection."""
    await until(lambda: node.manager.gateway.connections == 0 and not node.manager._transports)


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What of the log is more than information."""
    return [record.getMessage() for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


@pytest.mark.row("F12")
@pytest.mark.row("C3")
@pytest.mark.parametrize("end", ["reset", "end"])
@pytest.mark.parametrize("where", ["frame", "answer"])
async def test_a_connection_that_breaks_leaves_one_line_and_nothing_else(
    adapter: Adapter, where: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    agent = Endless()
    said = {
        "frame": masked(0x81, b"x" * 100)[:50],
        "answer": masked(0x81, b'{"type":"chat_message","content":"?","stream":true}'),
    }[where]
    async with serving(adapter, agent, agent={"roll_up": 0}, sessions={"ttl": 0.01}) as node:
        async with let_in(node) as peer:
            await peer.say(said)
            if where == "answer":
                await agent.entered.wait()
            if end == "reset":
                peer.reset()
        await gone(node)
        await until(lambda: node.manager.gateway.sessions == 0)  # nobody came back, and the run ends with it
    assert len([message for message in caplog.messages if message.startswith("closed ")]) == 1
    assert not troubles(caplog)


async def test_a_client_that_leaves_in_the_middle_of_its_answer_is_no_trouble(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    entered, release = anyio.Event(), anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield "first "
        entered.set()
        await release.wait()
        yield "second"

    async with serving(adapter, agent) as node:
        async with client(node) as ana:
            await ana.say("?", stream=True)
            await entered.wait()
        await gone(node)
        release.set()
        await until(lambda: node.manager.gateway.runs == 0)
    assert not troubles(caplog)


@pytest.mark.row("M1")
async def test_what_is_no_event_is_answered_and_too_much_of_it_is_closed(adapter: Adapter) -> None:
    async with serving(adapter) as node, client(node) as ana:
        await ana.hear(event_name="connection_established")
        for _ in range(9):
            await ana.send("no JSON")
            assert (await ana.hear())["error_code"] == "INVALID_JSON"
        assert await ana.ask("hola") == "hola"
        await ana.send("no JSON")
        assert (await ana.hear())["error_code"] == "INVALID_JSON"
        assert await ana.ended() == 1008


@pytest.mark.row("M1")
async def test_a_binary_message_is_closed(adapter: Adapter) -> None:
    async with serving(adapter) as node, let_in(node) as peer:
        await peer.say(masked(0x82, b"{}"))
        assert await told_and_answered(peer) == 1003


@pytest.mark.row("F3")
async def test_a_message_that_is_too_big_is_closed(adapter: Adapter) -> None:
    async with serving(adapter, limits={"max_message_size": 1024}) as node, let_in(node) as peer:
        await peer.say(masked(0x81, b"x" * 2000))
        assert await told_and_answered(peer) == 1009


async def told_and_answered(peer: Raw) -> int:
    """The code of the server's Close, which is answered, since hosts wait for that."""
    opcode, said = await peer.frame()
    assert opcode == 8, said
    await peer.say(masked(0x88, said[:2]))
    return int.from_bytes(said[:2])


# ── over byte servers ────────────────────────────────────────────────────────────────────────────────────────────────


@on_byte_servers
@pytest.mark.row("F12")
@pytest.mark.row("C3")
@pytest.mark.parametrize("said", [b"", UPGRADE[:40]], ids=["nothing", "head"])
async def test_a_reset_before_the_upgrade_leaves_nothing(
    adapter: Adapter, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(adapter) as node:
        async with raw(node, said) as peer:
            await until(lambda: node.manager.gateway.connections == 1)
            peer.reset()
        await gone(node)
    assert not [message for message in caplog.messages if message.startswith("closed ")]
    assert not troubles(caplog)


@on_byte_servers
@pytest.mark.row("F13")
async def test_the_peer_sees_the_close_code_although_it_was_still_sending(adapter: Adapter) -> None:
    async with serving(adapter) as node, raw(node, UPGRADE) as peer:
        await peer.until(b"\r\n\r\n")
        for _ in range(20):
            await peer.say(masked(0xC1, b"reserved bit") + masked(0x81, b"x" * 2000))
        assert await close_code(peer) == 1002


@on_byte_servers
@pytest.mark.row("H2")
async def test_a_head_that_is_never_finished_is_answered_with_408(adapter: Adapter) -> None:
    async with serving(adapter, limits={"head_timeout": 0.1}) as node, raw(node, UPGRADE[:-2]) as peer:
        assert (await peer.all()).startswith(b"HTTP/1.1 408 ")


@on_byte_servers
@pytest.mark.row("H3")
@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (bytes(range(256)), b"400"),
    ],
    ids=["TLS", "HTTP/2", "bytes"],
)
async def test_what_is_no_http_is_answered_and_no_more_than_a_line_of_log(
    adapter: Adapter, said: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(adapter) as node, raw(node, said) as peer:
        assert (await peer.all()).startswith(b"HTTP/1.1 " + status)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Traceback" not in caplog.text


@on_byte_servers
@pytest.mark.row("F4")
async def test_fragments_without_end_are_too_many(adapter: Adapter) -> None:
    async with serving(adapter) as node, raw(node, UPGRADE + masked(0x01) + masked(0x00) * 500) as peer:
        assert await close_code(peer) == 1009


@on_byte_servers
@pytest.mark.row("F4")
async def test_a_message_that_is_never_finished_is_closed(adapter: Adapter) -> None:
    limits = {"message_timeout": 0.1, "close_timeout": 0.1}
    async with serving(adapter, limits=limits) as node, raw(node, UPGRADE + masked(0x01, b"{")) as peer:
        assert await close_code(peer) == 1008


@on_byte_servers
@pytest.mark.row("F7")
@pytest.mark.row("F8")
@pytest.mark.parametrize("opcode", [0x89, 0x8A], ids=["ping", "pong"])
async def test_a_flood_of_pings_or_pongs_is_closed(adapter: Adapter, opcode: int) -> None:
    flood = UPGRADE + masked(opcode, b"flood") * 500
    limits: dict[str, Any] = {"frame_burst": 20, "frames_per_second": 1}
    async with serving(adapter, limits=limits) as node, raw(node, flood) as peer:
        data = await peer.all()
        assert data.count(b"\x8a\x05flood") <= 20
        assert int.from_bytes(data[data.rindex(b"\x88") + 2 :][:2]) == 1008


@on_byte_servers
async def test_a_silent_client_is_pinged(adapter: Adapter) -> None:
    async with serving(adapter, server={"heartbeat_interval": 0.05, "timeout": 0.5}) as node, raw(node, UPGRADE) as one:
        for _ in range(2):
            await one.until(b"\x89\x00")
            await one.say(masked(0x8A))
