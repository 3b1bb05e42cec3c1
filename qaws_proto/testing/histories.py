"""Histories: what peers, agents, stores, clocks and operators do to a node, as a list of acts that can be played.

    play([Act("connect", what=upgrade()), Act("say", what=text(chat("hi"))), Act("fail")], NodeUnderTest())

`qaws_proto.testing.strategies.histories` makes histories that nobody would think of. Whatever the node under test finds
wrong on the way is an AssertionError; a history that found something can be pasted into a test as it was printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import cycle
from math import floor
from typing import Any, NamedTuple, TypeVar

from ..inputs import Command, DrainRequested, RunStarted, StopRequested, TimerFired
from .client import Client
from .node import NodeUnderTest


class Act(NamedTuple):
    """One thing that is done (a key of the tables below); `who` picks among those there are, `what` depends on `do`."""

    do: str
    who: int = 0
    what: Any = None


Cut = Callable[[bytes], Iterable[bytes]]
Node = TypeVar("Node", bound=NodeUnderTest)


def whole(data: bytes) -> Iterator[bytes]:
    """One read."""
    yield data


def in_reads_of(sizes: Sequence[int]) -> Cut:
    """Reads of these sizes in bytes, over and over."""

    def cut(data: bytes) -> Iterator[bytes]:
        start = 0
        for size in cycle(sizes):
            if start >= len(data):
                return
            yield data[start : start + size]
            start += size

    return cut


def play(history: Sequence[Act], node: Node, cut: Cut = whole, *, paused: bool = True) -> Node:
    """Perform a history on a node. `paused`: peers that the server does not read do not send.

    Behind each act the node has handled all that it received, and `node.marks` has the length of `node.history`.
    """
    node.advance(0.0001235)  # no round number: the smallest step of time should not change what is printed
    for act in history:
        perform(node, act, cut, paused=paused)
        node.settle()
        # The next one comes a microsecond later, however many steps this one took: what is due of both has one order.
        node.advance((floor(node.now.mono * 1e6) + 1.5) / 1e6 - node.now.mono)
        node.marks.append(len(node.history))
    return node


def perform(node: NodeUnderTest, act: Act, cut: Cut = whole, *, paused: bool = True) -> None:
    """Perform one act; one that nobody is there for is none."""
    if act.do in AT_NODE:
        AT_NODE[act.do](node, act.what)
    elif act.do in AT_RUN:
        runs = list(node.started if act.do == "late" else node.runs)
        if runs:
            AT_RUN[act.do](node, runs[act.who % len(runs)], act.what)
    elif act.do == "say" or act.do in AT_CLIENT:
        if node.clients:
            _at_client(node, node.clients[act.who % len(node.clients)], act, cut, paused)
    else:
        raise ValueError(f"{act.do!r} is no act: {', '.join(sorted(['say', *AT_NODE, *AT_RUN, *AT_CLIENT]))}")


def _at_client(node: NodeUnderTest, client: Client, act: Act, cut: Cut, paused: bool) -> None:
    if act.do != "say":
        AT_CLIENT[act.do](client)
    elif not (paused and client.paused):
        for read in cut(act.what):
            client.send_bytes(read)
            node.settle()


def _late(node: NodeUnderTest, run_id: str, what: object) -> None:
    """What comes for a run that may be over."""
    if run_id not in node.runs:
        assert node.chunk(run_id, what) == node.tell(run_id, "reasoning") == node.fail(run_id) == []


def _stop(node: NodeUnderTest) -> None:
    """Stop now: no agent goes on."""
    node.step(StopRequested())
    assert node.runs.keys() <= node.cancelled


def _command(node: NodeUnderTest, given: Command) -> None:
    """What an operator wants; where it cannot be done, nothing is. Whoever is kept out is not there any more (A5)."""
    before = node.gateway.wake_at
    try:
        node.step(given)
    except ValueError:
        assert node.gateway.wake_at == before
    control, now = node.gateway.control, node.now
    users = {block.name for block in control.blocks(now) if block.kind == "user"}
    networks = [ip_network(block.name) for block in control.blocks(now) if block.kind == "address"]
    for one in control.connections(now):
        if one.phase in ("authenticating", "open"):
            assert one.user_id not in users
            assert one.address is None or not any(ip_address(one.address) in network for network in networks)


def _read_keys(node: NodeUnderTest, document: bytes | None) -> None:
    """What becomes of reading the keys, where that is under way: a document, or none."""
    if node.loading is None:
        return
    if document is None:
        node.fail_keys()
    else:
        node.give_keys(document)


#: What happens to the node: `what` is a peer, bytes, a request and whether its host can refuse it, seconds, a body of
#: metrics, whether the store fails, a set of keys, a command.
AT_NODE: dict[str, Callable[[NodeUnderTest, Any], object]] = {
    "open": lambda node, peer: node.open(peer),
    "connect": lambda node, hello: node.open().send_bytes(hello),
    "request": lambda node, asked: node.request(asked[0], denial=asked[1]),
    "wait": lambda node, seconds: node.advance(seconds),
    "wake": lambda node, _: node.step(TimerFired()),
    "metrics": lambda node, body: node.scrapes and node.collected(body),
    "jump": lambda node, seconds: node.jump(seconds),
    "store": lambda node, fail: node.asked and node.answer(fail=fail),
    "keys": _read_keys,
    "command": _command,
    "drain": lambda node, _: node.step(DrainRequested()),
    "stop": lambda node, _: _stop(node),
}
#: What the agent does: `what` is a piece, a step, fields of the end, the rest of the answer, an exception.
AT_RUN: dict[str, Callable[[NodeUnderTest, str, Any], object]] = {
    "yield": lambda node, run_id, piece: node.chunk(run_id, piece),
    "tell": lambda node, run_id, step: node.tell(run_id, *step),
    "finish": lambda node, run_id, end: node.finish(run_id, **end),
    "answer": lambda node, run_id, more: node.finish(run_id, node.said.get(run_id, "") + more),
    "fail": lambda node, run_id, cause: node.fail(run_id, cause),
    "began": lambda node, run_id, _: node.step(RunStarted(run_id)),
    "late": _late,
}
#: What a peer does besides "say" (its bytes).
AT_CLIENT: dict[str, Callable[[Client], object]] = {
    "eof": Client.eof,
    "lose": Client.lose,
    "block": Client.block,
    "unblock": Client.unblock,
}
