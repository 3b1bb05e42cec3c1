"""A TCP proxy between real clients and a real server, whose network is bad in a way that one seed decides.

It runs on any event loop of anyio. What it did to the connections stands in `proxy.faults`, for the message of a test
that fails: with the same seed, and the same bytes going through, it does the same again.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Literal, NamedTuple

import anyio
import anyio.abc
import anyio.lowlevel

Direction = Literal["up", "down"]  # to the server, to the client
Kind = Literal["reset", "end", "stall"]
KINDS: tuple[Kind, ...] = ("reset", "end", "stall")
DIRECTIONS: tuple[Direction, ...] = ("up", "down")

WHOLE = 64 * 1024  # bytes read at once where reads are left as they come
PIECES = (1, 2, 7, 64, 500, 4096)  # the longest piece of a read, where reads are split
TURNS = 4  # turns of the event loop that a piece may wait
NAP = 0.002  # seconds that one may wait now and then, beyond what turns are good for


class Fault(NamedTuple):
    """What happens to a connection when so many bytes have gone through in a direction.

    `reset` ends it for both sides by a RST; `end` by a FIN behind the last byte; `stall` forwards nothing any more, in
    either direction, and closes nothing: the connection is half-open.
    """

    kind: Kind
    direction: Direction
    after: int


Plan = Callable[[int, Random], Fault | None]  # what happens to a connection, by its number, counted from 1


def fair(number: int, random: Random) -> Fault | None:
    """Nothing happens to any connection."""
    return None


def cutting(*faults: Fault | None) -> Plan:
    """One fault for each connection in turn; those behind the last have none."""
    return lambda number, random: faults[number - 1] if number <= len(faults) else None


def foul(down: int, up: int, *, connections: int, kinds: tuple[Kind, ...] = KINDS) -> Plan:
    """Something happens to each of the first connections, within so many bytes of a direction; then all is fair."""

    def plan(number: int, random: Random) -> Fault | None:
        if number > connections:
            return None
        direction: Direction = random.choice(("down", "down", "down", "up"))
        return Fault(random.choice(kinds), direction, random.randrange(down if direction == "down" else up))

    return plan


class Proxy:
    """Made by `proxying`. Clients connect to `port` of 127.0.0.1."""

    def __init__(self, target: Callable[[], int], seed: int, plan: Plan, *, split: bool, delay: bool) -> None:
        self.faults: list[str] = []
        self.connections = 0  # that were accepted so far
        self.turned_away = 0
        self._target = target
        self._seed = seed
        self._plan = plan
        self._split = split
        self._delay = delay
        self._refusing = 0
        self._links: set[_Link] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def __repr__(self) -> str:
        done = "; ".join(self.faults) or "nothing happened"
        return f"<proxy with seed {self._seed}, {self.connections} connections: {done}>"

    def url(self, path: str = "/") -> str:
        """The WebSocket address of the server, by way of this proxy."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def stall(self, *directions: Direction) -> None:
        """Forward nothing more on the connections that are there, in some directions or in both."""
        for link in self._links:
            link.stall(directions or DIRECTIONS)

    def flow(self) -> None:
        """Forward again what has been stalled."""
        for link in self._links:
            link.flow()

    def reset(self) -> None:
        """End all connections by a RST."""
        for link in list(self._links):
            self.faults.append(f"connection {link.number}: reset when told to")
            link.reset()

    def end(self) -> None:
        """End all connections by a FIN."""
        for link in list(self._links):
            self.faults.append(f"connection {link.number}: end when told to")
            link.end()

    def refuse(self, connections: int) -> None:
        """Turn away the next so many connections."""
        self._refusing = connections

    # ── what runs it ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Accept and forward until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(self._listener)
                try:
                    client, _ = self._listener.accept()
                except OSError:  # it has gone already
                    continue
                if self._refusing:
                    self._refusing -= 1
                    self.turned_away += 1
                    self.faults.append("a connection was turned away")
                    _reset(client)
                else:
                    self.connections += 1
                    tasks.start_soon(self._serve, client, self.connections)

    async def _serve(self, client: socket.socket, number: int) -> None:
        server = socket.socket()
        client.setblocking(False)
        try:
            server.connect(("127.0.0.1", self._target()))  # of this machine: it is let in or refused at once
        except OSError:
            self.faults.append(f"connection {number}: there is no server")
            _reset(client)
            server.close()
            return
        server.setblocking(False)
        link = _Link(client, server, number, self.faults)
        self._links.add(link)
        try:
            await self._forward_both(link)
        finally:
            self._links.remove(link)
            link.close()

    async def _forward_both(self, link: _Link) -> None:
        def random(purpose: str) -> Random:  # its own for each, so that what one draws does not depend on the others
            return Random(f"{self._seed} {link.number} {purpose}")

        fault = self._plan(link.number, random("fault"))
        with link.scope:
            async with anyio.create_task_group() as tasks:
                for direction in DIRECTIONS:
                    mine = fault if fault is not None and fault.direction == direction else None
                    tasks.start_soon(self._forward, link, direction, mine, random(direction))

    async def _forward(self, link: _Link, direction: Direction, fault: Fault | None, random: Random) -> None:
        """Forward in one direction, until its end or until a fault ends it."""
        source, sink = link.ends(direction)
        gone = 0
        while True:
            if fault is not None and gone >= fault.after:
                link.suffer(fault)
                fault = None
            try:
                await anyio.wait_readable(source)
                await link.flowing(direction)
                size = random.randint(1, random.choice(PIECES)) if self._split else WHOLE
                data = source.recv(size if fault is None else min(size, fault.after - gone))
                if not data:
                    link.end_of(sink)
                    return
                if self._delay:
                    await _dawdle(random)
                gone += len(data)
                if not link.ended:
                    await _send(sink, data)
            except OSError:  # one side has broken: so has the other
                link.reset()
                return


class _Link:
    """One connection through a proxy: two sockets."""

    def __init__(self, client: socket.socket, server: socket.socket, number: int, faults: list[str]) -> None:
        self.number = number
        self.scope = anyio.CancelScope()
        self._client, self._server = client, server
        self._faults = faults
        self._stalled: dict[Direction, anyio.Event] = {}
        self._abrupt = False
        self.ended = False  # both sides were told that nothing more will come
        for one in (client, server):  # what is split stays split, and little is on its way
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ends(self, direction: Direction) -> tuple[socket.socket, socket.socket]:
        """Where bytes of a direction come from, and where they go."""
        return (self._client, self._server) if direction == "up" else (self._server, self._client)

    async def flowing(self, direction: Direction) -> None:
        """Wait while this direction is stalled."""
        while direction in self._stalled:
            await self._stalled[direction].wait()

    def suffer(self, fault: Fault) -> None:
        """The bytes have gone through behind which this happens."""
        self._faults.append(f"connection {self.number}: {fault.kind} after {fault.after} bytes {fault.direction}")
        match fault.kind:
            case "reset":
                self.reset()
            case "end":
                self.end()
            case "stall":
                for direction in DIRECTIONS:
                    self._stalled.setdefault(direction, anyio.Event())

    def stall(self, directions: tuple[Direction, ...]) -> None:
        """Forward nothing more in these directions."""
        self._faults.append(f"connection {self.number}: stall {' and '.join(directions)}")
        for direction in directions:
            self._stalled.setdefault(direction, anyio.Event())

    def flow(self) -> None:
        """Forward again."""
        stalled, self._stalled = self._stalled, {}
        for event in stalled.values():
            event.set()

    def end_of(self, sink: socket.socket) -> None:
        """Say to one side that nothing more will come; what it still says is read, or closing would be a RST."""
        with suppress(OSError):  # it was faster
            sink.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """End both sides by a FIN."""
        self.ended = True
        for one in (self._client, self._server):
            self.end_of(one)

    def reset(self) -> None:
        """End both sides by a RST."""
        self._abrupt = True
        self.scope.cancel()

    def close(self) -> None:
        """Close both sockets; nobody waits for them any more."""
        for one in (self._client, self._server):
            if self._abrupt:
                _reset(one)
            else:
                one.close()


async def _dawdle(random: Random) -> None:
    """Let the others run for some turns, and now and then for a moment."""
    for _ in range(random.randrange(TURNS)):
        await anyio.lowlevel.checkpoint()
    if random.random() < 0.05:
        await anyio.sleep(random.uniform(0, NAP))


async def _send(sink: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sink.send(data) :]
        except BlockingIOError:
            await anyio.wait_writable(sink)


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


@asynccontextmanager
async def proxying(
    target: int | Callable[[], int], seed: int = 0, plan: Plan = fair, *, split: bool = False, delay: bool = False
) -> AsyncIterator[Proxy]:
    """A proxy to a port of this machine, which may change; its connections end with it.

    `split` reads in pieces of random sizes, `delay` lets pieces wait for some turns of the event loop.
    """
    proxy = Proxy(target if callable(target) else lambda: target, seed, plan, split=split, delay=delay)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.run)
            try:
                yield proxy
            finally:
                tasks.cancel_scope.cancel()
    finally:
        proxy._listener.close()
