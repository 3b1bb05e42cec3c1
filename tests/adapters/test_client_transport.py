"""One connection of a client: what goes out behind its end, what a server cannot make it hold, what is not heard."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from qaws import QAWebSocketClient, WebSocketAuth
from qaws.client_inbox import Gate
from qaws.client_transport import READ, UNSENT, ClientTransport, parse_address
from qaws.host import AnyioHost
from qaws_proto.client.io import ClientInput, DataReceived, TransportLost, TransportOpened
from tests.helpers.proxy import proxying

from .byte_servers import PATIENCE, echo, until
from .hosts import EVERY, Adapter, nothing_left, serving
from .raw import Raw, masked

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture(params=["asyncio-asyncio", "anyio-uvloop", "anyio-trio"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """A server on each event loop."""
    return EVERY[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


class Connected:
    """A transport, what it has told, and the other end of it."""

    def __init__(self, transport: ClientTransport, told: list[ClientInput], peer: Raw) -> None:
        self.transport, self.told, self.peer = transport, told, peer


@asynccontextmanager
async def connected() -> AsyncIterator[Connected]:
    """A transport that is open. Nothing is left of it."""
    told: list[ClientInput] = []
    with anyio.fail_after(PATIENCE):
        async with nothing_left():
            host = AnyioHost(lambda: None)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = parse_address(f"ws://127.0.0.1:{listener.getsockname()[1]}/")
                transport = ClientTransport(address, None, Gate(), host, lambda _, event: told.append(event))
                transport.open()
                listener.setblocking(False)
                await anyio.wait_readable(listener)
                accepted, _ = listener.accept()
            with accepted:
                accepted.setblocking(False)
                await until(lambda: told == [TransportOpened()])
                yield Connected(transport, told, Raw(accepted))
                transport.abort()
                await host.finish(PATIENCE)


async def test_what_was_written_goes_out_before_the_end(adapter: Adapter) -> None:
    async with connected() as one:
        one.transport.write(b"x" * 3_000_000)
        one.transport.write(b"y")
        one.transport.close()
        data = await one.peer.all()
        assert data == b"x" * 3_000_000 + b"y"
    assert one.told == [TransportOpened()]


async def test_a_server_that_does_not_read_what_it_asks_for_is_not_read_either(adapter: Adapter) -> None:
    """It floods with bytes that each have to be answered."""
    async with connected() as one:
        blocked = 0
        while blocked < 1000:  # turns in which nothing moves any more
            blocked += 1
            with suppress(BlockingIOError):
                if one.peer.socket.send(b"x" * 64 * 1024):
                    blocked = 0
            await anyio.lowlevel.checkpoint()
            while len(one.told) > 1:
                answered = one.told.pop()
                assert isinstance(answered, DataReceived)
                one.transport.write(b"y" * len(answered.data))
                blocked = 0
        # Two reads may end between two turns of this loop, and one be under way, before they are answered.
        assert len(one.transport._unsent) <= UNSENT + 3 * READ
        one.told.clear()


async def test_a_transport_that_was_lost_takes_no_more_and_says_so_once(adapter: Adapter) -> None:
    async with connected() as one:
        one.peer.reset()
        await until(lambda: one.told[-1] == TransportLost())
        for _ in range(3):
            one.transport.write(b"x" * 100_000)
            await until(lambda: one.transport._writing is None)
        assert one.told == [TransportOpened(), TransportLost()]
        assert one.transport._broken


async def test_what_an_old_transport_tells_is_not_heard(adapter: Adapter) -> None:
    async with serving(adapter) as node, QAWebSocketClient(f"ws://127.0.0.1:{node.port}/") as client:
        driver = client._driver
        assert driver._transport is not None
        old = ClientTransport(parse_address("ws://localhost/"), None, Gate(), driver._host, driver._told)
        driver._told(old, DataReceived(masked(0x81, b"not even a frame of a server")))
        driver._told(old, TransportLost())
        assert (await client.ask("?")).content == "?"
        assert node.manager.gateway.connections == 1


async def test_while_there_is_no_room_no_connection_is_made(adapter: Adapter) -> None:
    states: list[str] = []
    async with (
        serving(adapter, echo) as node,
        proxying(node.port) as proxy,
        QAWebSocketClient(
            proxy.url(), connect_timeout=0.05, backoff_cap=0.01, on_state=lambda state, _: states.append(state)
        ) as client,
    ):
        client._gate.hold(client)
        proxy.reset()
        await until(lambda: states.count("reconnecting") > 3)
        assert proxy.connections == 1
        client._gate.release(client)
        assert (await client.ask("?")).content == "?"


async def test_a_function_that_hangs_is_asked_again_for_the_next_connection(adapter: Adapter) -> None:
    guarded: dict[str, Any] = {"security": {"authentication": {"enabled": True, "jwt_secret": SECRET}}}
    asked = 0
    async with serving(adapter, **guarded) as node, proxying(node.port) as proxy:

        async def fetch() -> str:
            nonlocal asked
            asked += 1
            if asked == 2:
                await anyio.sleep_forever()
            return WebSocketAuth(node.manager.config).generate_token("ana")

        async with QAWebSocketClient(proxy.url(), token=fetch, connect_timeout=0.2, backoff_cap=0.01) as client:
            proxy.reset()
            assert (await client.ask("?")).content == "?"
    assert asked >= 3


async def test_a_refresh_that_hangs_is_given_up_and_the_next_token_is_fetched(adapter: Adapter) -> None:
    guarded: dict[str, Any] = {"security": {"authentication": {"enabled": True, "jwt_secret": SECRET}}}
    asked = 0
    gave_up = anyio.Event()
    async with serving(adapter, **guarded) as node, proxying(node.port) as proxy:

        async def fetch() -> str:
            nonlocal asked
            asked += 1
            if asked == 2:
                try:
                    await anyio.sleep_forever()
                finally:
                    gave_up.set()
            # One minute before its end the server asks for another one.
            return WebSocketAuth(node.manager.config).generate_token("ana", expires_in=61)

        async with QAWebSocketClient(proxy.url(), token=fetch, connect_timeout=1, backoff_cap=0.01) as client:
            with anyio.fail_after(PATIENCE):
                await gave_up.wait()
                assert (await client.ask("?")).content == "?"
                assert proxy.connections == 1
                proxy.reset()
                assert (await client.ask("?")).content == "?"
    assert asked >= 3


async def test_a_function_that_hangs_is_left_when_the_client_is(adapter: Adapter) -> None:
    guarded: dict[str, Any] = {"security": {"authentication": {"enabled": True, "jwt_secret": SECRET}}}
    entered = anyio.Event()

    async def fetch() -> str:
        entered.set()
        await anyio.sleep_forever()
        return ""

    async with serving(adapter, **guarded) as node:
        client = QAWebSocketClient(f"ws://127.0.0.1:{node.port}/", token=fetch, connect_timeout=1000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await entered.wait()
            tasks.cancel_scope.cancel()
        assert client._driver._host.running == 0
