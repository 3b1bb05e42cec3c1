"""The two things of a manager that differ from run to run, and how tests give their own."""

from __future__ import annotations

import time
from itertools import count

import anyio
import pytest

from qaws import WebSocketManager
from qaws_proto import Now
from qaws_proto.inputs import ConnectionLost

from .byte_servers import echo
from .peers import Peer, driven, open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_both_may_be_given(anyio_backend: str) -> None:
    ids, clock = map("id{}".format, count()), Now(time.monotonic() + 3600, 0.0)
    manager = WebSocketManager(open_config(), agent=echo, ids=lambda: next(ids), clock=lambda: clock)
    with anyio.fail_after(10):
        async with driven(manager, anyio_backend):
            peer = Peer(manager)
            assert (await peer.hear(event_name="connection_established")).data["session_id"] == "id0"
            peer.say("chat_message", content="?")
            answer = await peer.hear("agent_response")
            assert answer.run_id.startswith("id")
            assert answer.processing_time == 0.0
            peer.held = []
            manager.wake()
            assert peer.held == []
            clock = Now(clock.mono + manager.config.server.heartbeat_interval, 0.0)
            manager.wake()
            assert peer.held == [b"\x89\x00"]  # its ping
            manager.feed(ConnectionLost(peer.number))


async def test_by_default_ids_cannot_be_guessed_and_clocks_are_this_machines(anyio_backend: str) -> None:
    manager = WebSocketManager(open_config(), agent=echo)
    with anyio.fail_after(10):
        async with driven(manager, anyio_backend):
            before, peers = time.monotonic(), (Peer(manager), Peer(manager))
            found = [(await peer.hear(event_name="connection_established")).data for peer in peers]
            ids = {data[name] for data in found for name in ("session_id", "epoch")}
            assert len(ids) > 2
            assert all(len(bytes.fromhex(one)) == 16 for one in ids)
            assert manager.gateway.wake_at is not None
            beat = manager.config.server.heartbeat_interval
            assert before + beat <= manager.gateway.wake_at <= time.monotonic() + beat
            for peer in peers:
                manager.feed(ConnectionLost(peer.number))
