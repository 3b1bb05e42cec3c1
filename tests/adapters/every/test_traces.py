"""Traces recorded from one adapter are the same on all: the same bytes, or under a host the same messages (C9)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from ..byte_servers import PATIENCE
from ..hosts import Adapter, serving
from ..raw import Raw
from ..traces import TRACES, Stage, Trace, heard, read, shown

pytestmark = pytest.mark.anyio

#: What a host says as it likes: its own heads, pings and pongs, and when it ends the connection.
OF_HOSTS = ("ping", "pong", "end")
CONTROL = (9, 10)


@pytest.mark.clause("C9")
@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
async def test_every_adapter_answers_a_trace_as_the_one_it_was_recorded_from(adapter: Adapter, path: Path) -> None:
    trace = Trace(path)
    ended: set[str] = set()
    with Stage(trace) as stage:
        async with serving(adapter, manager=stage.manager) as node:
            for number, step in enumerate(trace.steps, 1):
                leaving = stage.clients.get(step.action.removesuffix(" leaves"))
                if leaving is not None and step.action.removesuffix(" leaves") in ended:
                    await nothing_more(leaving, adapter)
                await stage.do(step.action, node)
                for name, what in step.heard.items():
                    got: list[str] = []
                    with anyio.move_on_after(PATIENCE / 3):
                        if adapter.bytewise:
                            await hear_bytes(stage.clients[name], what, got)
                        else:
                            await hear_messages(stage.clients[name], what, got)
                    expected = what if adapter.bytewise else [plain(one) for one in of_the_node(what)]
                    assert got == expected, f"{path.name}, step {number}, {step.action!r}: {name} heard"
                    ended |= {name} if "end" in what else set()
    assert trace.steps
    assert not stage.clients, "everybody leaves, so that nothing that was said is missed"


async def hear_bytes(client: Raw, what: list[str], got: list[str]) -> None:
    """Hear exactly these bytes; `got` is what they say."""
    expected = b"".join(heard(one) for one in what)
    data = await client.exactly(len(expected))
    got.extend(what if data == expected else [f"bytes {data!r}"])


async def hear_messages(client: Raw, what: list[str], got: list[str]) -> None:
    """Hear as many messages as are expected; `got` is what they say."""
    for one in of_the_node(what):
        if one.startswith("http "):
            head = (await client.until(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
            body = await client.exactly(int(length[1])) if length is not None else b""
            got.append(answer(head, body.decode()))
        else:
            opcode, payload = await client.frame()
            while opcode in CONTROL:
                opcode, payload = await client.frame()
            got.append(shown(opcode, payload))


def of_the_node(what: Iterable[str]) -> list[str]:
    """What the node itself says under a host."""
    return [one for one in what if one.partition(" ")[0] not in OF_HOSTS]


def plain(one: str) -> str:
    """The same without what a host writes as it likes."""
    if not one.startswith("http "):
        return one
    head, end, body = heard(one).decode("latin-1").partition("\r\n\r\n")
    return answer(head + end, body)


def answer(head: str, body: str) -> str:
    """Of an HTTP answer: its status, what the client acts on, and its body."""
    fields = dict(re.findall(r"\r\n([\w-]+): ([^\r]*)", head.lower()))
    names = ("sec-websocket-accept", "sec-websocket-protocol", "retry-after", "www-authenticate")
    return f"{head[9:12]} { ({name: fields[name] for name in names if name in fields}) } {body!r}"


async def nothing_more(client: Raw, adapter: Adapter) -> None:
    """The connection ends behind what was heard."""
    rest = list(read(await client.all(), ended=False, upgraded=True))
    assert (rest if adapter.bytewise else of_the_node(rest)) == []
