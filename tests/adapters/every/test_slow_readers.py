"""Peers that do not read, or slowly (C1)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from qaws_proto.inputs import BytesReceived, WriteBlocked, WriteDrained, WriteProgressed

from ..byte_servers import ADAPTERS, until
from ..hosts import EVERY, Adapter, client, on_byte_servers, serving
from ..peers import Recorded, open_config
from ..raw import let_in, masked

pytestmark = [pytest.mark.anyio, pytest.mark.row("C1")]

ASKED = masked(0x81, b'{"type":"chat_message","content":"flood","stream":true}')


async def test_a_client_that_never_reads_is_closed_and_others_are_not_affected(adapter: Adapter) -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        if message != "flood":
            yield message
            return
        while True:
            yield "x" * 10_000

    limits = {"out_high": 64 * 1024, "out_top": 256 * 1024, "write_timeout": 0.2, "close_timeout": 0.2}
    limits |= {"frame_burst": 1_000_000}
    async with serving(adapter, agent, limits=limits, agent={"roll_up": 0}, send_buffer=32 * 1024) as node:
        gateway = node.manager.gateway
        async with let_in(node, receive_buffer=4096) as deaf:
            await deaf.say(ASKED)
            await until(lambda: gateway.runs == 1)
            async with client(node) as other:
                while gateway.connections == 2:  # the other one is answered until the deaf one is gone
                    assert await other.ask("hola") == "hola"
                    for number in node.manager._transports:
                        assert gateway.buffered_bytes(number) < 2 * 1024 * 1024
                assert await other.ask("hola") == "hola"


@pytest.mark.parametrize(
    ("adapter", "pieces"),
    [*((name, 300) for name in EVERY), *((name, 1) for name in ADAPTERS)],  # a host takes a message as a whole
    indirect=["adapter"],
)
async def test_a_client_that_reads_slowly_but_steadily_is_not_closed(
    adapter: Adapter, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver in ("asyncio_protocol", "asyncio_server"):
        monkeypatch.setattr(f"qaws.{driver}.PROGRESS", 0.02)  # how often these look
    size, timeout = 3_000_000, 0.4

    async def agent(message: str) -> AsyncIterator[str]:
        for _ in range(pieces):
            yield "x" * (size // pieces)

    def told(kind: type) -> int:
        return sum(isinstance(one, kind) for one in manager.inputs)

    limits = {"write_timeout": timeout, "out_top": 3 * size}
    manager = Recorded(open_config(limits=limits, agent={"roll_up": 0}), agent=agent)
    async with (
        serving(adapter, manager=manager, send_buffer=32 * 1024) as node,
        let_in(node, receive_buffer=32 * 1024) as peer,
    ):
        await peer.say(ASKED)
        read, ends = 0, anyio.current_time() + 3 * timeout
        while (turn := anyio.current_time()) < ends:  # no more than 16 KiB in 10 milliseconds
            read += len(await peer.read(16 * 1024))
            await anyio.sleep_until(turn + 0.01)
        assert read < size  # it was slow indeed
        assert manager.gateway.connections == 1
        assert told(WriteProgressed) > 0
        rest = await peer.until(b'"status":"completed"}')  # and what is left is there too
        assert read + len(rest) > 2 * size  # every piece, and the whole answer
        await until(lambda: told(WriteBlocked) == told(WriteDrained) > 0)


@on_byte_servers
@pytest.mark.row("F7")
async def test_only_the_newest_ping_is_answered_to_a_client_that_did_not_read(adapter: Adapter) -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        yield "x" * 2_000_000

    pings = [masked(0x89, b"ping %02d" % number) for number in range(20)]
    manager = Recorded(open_config(agent={"roll_up": 0}, limits={"out_top": 8_000_000}), agent=agent)

    def received() -> bytes:
        return b"".join(one.data for one in manager.inputs if isinstance(one, BytesReceived))

    async with (
        serving(adapter, manager=manager, send_buffer=32 * 1024) as node,
        let_in(node, receive_buffer=4096) as peer,
    ):
        await peer.say(ASKED)
        await until(lambda: any(isinstance(one, WriteBlocked) for one in manager.inputs))
        for ping in pings:
            await peer.say(ping)
        await until(lambda: received().endswith(b"".join(pings)))
        assert not any(isinstance(one, WriteDrained) for one in manager.inputs)
        read = await peer.until(b"\x8a\x07ping 19")
        assert read.count(b"\x8a\x07ping ") == 1
