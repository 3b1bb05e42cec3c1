"""Compression over real sockets, through every byte server. Behind a host it is the host's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import connect

from qaws_proto.testing.peer import TEXT, compressed, frame

from ..byte_servers import PATIENCE
from ..hosts import Adapter, Node, client, on_byte_servers, serving
from ..raw import UPGRADE, Raw, close_code, raw

pytestmark = [pytest.mark.anyio, on_byte_servers]

COMPRESSION: dict[str, Any] = {"compression": {"enabled": True, "min_size": 0}}
OFFERING = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
TEXT_OF_ALL = "¿Qué tal? " * 1000


async def echo_twice(message: str) -> AsyncIterator[str]:
    yield message
    yield message


@asynccontextmanager
async def offering(node: Node) -> AsyncIterator[Raw]:
    """A peer that has agreed on compression, and was let in."""
    async with raw(node, OFFERING) as peer:
        head = await peer.until(b"\r\n\r\n")
        assert b"\r\nSec-WebSocket-Extensions: permessage-deflate; " in head
        await peer.frame()
        yield peer


def foreign_conversation(port: int) -> tuple[object, list[dict[str, Any]]]:
    """What the client of the package `websockets` agrees on and hears, which compresses by itself."""
    with connect(f"ws://127.0.0.1:{port}/", compression="deflate", open_timeout=PATIENCE, max_size=None) as socket:
        message = json.dumps({"type": "chat_message", "content": TEXT_OF_ALL, "stream": True}, ensure_ascii=False)

        def fragments() -> Iterator[str]:
            for start in range(0, len(message), 3000):
                yield message[start : start + 3000]
                socket.ping()

        heard = [json.loads(socket.recv(PATIENCE))]
        socket.send(fragments())
        while heard[-1]["type"] != "agent_response":
            heard.append(json.loads(socket.recv(PATIENCE)))
        (extension,) = socket.protocol.extensions
        return extension, heard


@pytest.mark.row("F6")
async def test_a_client_of_another_make_talks_compressed(adapter: Adapter) -> None:
    async with serving(adapter, echo_twice, server=COMPRESSION) as node:
        extension, heard = await anyio.to_thread.run_sync(foreign_conversation, node.port)
        assert isinstance(extension, PerMessageDeflate)
        assert extension.local_no_context_takeover
        assert extension.remote_no_context_takeover
        chunks = [event["content"] for event in heard if event["type"] == "agent_chunk"]
        assert "".join(chunks) == heard[-1]["content"] == TEXT_OF_ALL * 2


async def test_its_answers_take_less_of_the_wire(adapter: Adapter) -> None:
    async with serving(adapter, server=COMPRESSION) as node, offering(node) as peer:
        content = "again " * 1000
        await peer.say(frame(TEXT, compressed(f'{{"type":"chat_message","content":"{content}"}}'.encode()), reserved=4))
        opcode, said = await peer.frame()
        assert opcode == 1
        assert len(said) < 300


@pytest.mark.row("F5")
@pytest.mark.parametrize("fin", [True, False], ids=["whole", "fragment"])
async def test_a_bomb_is_closed_and_others_talk_on(adapter: Adapter, fin: bool) -> None:
    """64 MiB in 64 KiB of it, in one frame; its message need not end."""
    bomb = frame(TEXT, compressed(b" " * (64 << 20), level=9), fin=fin, reserved=4)
    async with serving(adapter, server=COMPRESSION) as node, client(node) as ana, offering(node) as peer:
        await peer.say(bomb)
        assert await close_code(peer) == 1009
        assert await ana.ask("hola") == "hola"


@pytest.mark.row("F5")
async def test_a_bad_stream_is_closed(adapter: Adapter) -> None:
    async with serving(adapter, server=COMPRESSION) as node, offering(node) as peer:
        await peer.say(frame(TEXT, b"\x07", reserved=4))
        assert await close_code(peer) == 1007
