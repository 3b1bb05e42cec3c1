"""A transport between a peer and a node, as bad networks are: late, cut into other reads, stalled, broken.

A `Lane` is one direction; a `Pipe` is both, with what a transport tells a node of its writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .client import Client
from .schedule import MICROSECOND, Schedule
from .streams import Random

SINGLE = 400  # bytes that may be cut into single ones: more would only take long


class Network(NamedTuple):
    """How bad a network is. Times are seconds; those that end in `_p` are probabilities."""

    latency: float = 0.02
    jitter: float = 0.0
    split_p: float = 0.0  # that what is written is read in several pieces
    bytes_p: float = 0.0  # that it is read byte by byte
    join: float = 0.0  # what comes within this time is read at once
    window: int = 1 << 20  # bytes that the transport holds for a peer that does not read
    refuse_p: float = 0.0  # that a connection cannot be had
    cut_every: float = 0.0  # between two breaks of a connection, on average; 0: none
    stall_every: float = 0.0  # between two stalls, on average; 0: none
    stall: float = 0.0  # the longest
    half_open_p: float = 0.0  # that only the client hears of a break

    def calm(self) -> Network:
        """The same network on a good day."""
        return Network(latency=self.latency)


class Lane:
    """One direction of a pipe: what is written comes out later, in order, in other pieces, and then perhaps an end."""

    def __init__(self, what: str, schedule: Schedule, network: Network, random: Random, out: Callable[[bytes], None],
                 end: Callable[[], None]) -> None:  # fmt: skip
        self.network = network
        self.held = 0  # bytes on their way
        self.pieces = 0  # that came out
        self._what = what
        self._schedule = schedule
        self._random = random
        self._out = out
        self._end = end
        self._segments: deque[tuple[float, bytes | None]] = deque()  # when it arrives; None is the end
        self._free_at = 0.0  # before that nothing comes out
        self._held_up = False
        self._closed = False

    def write(self, data: bytes) -> None:
        """Let these bytes come out in a while."""
        for piece in self._cut(data):
            self.held += len(piece)
            self._add(piece)

    def finish(self) -> None:
        """Let the other side know, behind all that was written, that there is no more."""
        self._add(None)

    def _cut(self, data: bytes) -> list[bytes]:
        network, random = self.network, self._random
        if len(data) <= SINGLE and random.random() < network.bytes_p:
            return [data[at : at + 1] for at in range(len(data))]
        if len(data) > 1 and random.random() < network.split_p:
            places = sorted({random.randrange(1, len(data)) for _ in range(random.randint(1, 4))})
            return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
        return [data]

    def _add(self, segment: bytes | None) -> None:
        if self._closed:
            return
        delay = self.network.latency + self._random.random() * self.network.jitter
        before = self._segments[-1][0] if self._segments else 0.0
        at = max(self._schedule.mono + delay, before, self._free_at)
        self._segments.append((at, segment))
        self._wake(at)

    def _wake(self, at: float) -> None:
        self._schedule.plan(max(0.0, at - self._schedule.mono), self._what, self._arrive)

    def _arrive(self) -> None:
        """Let out what has arrived; what comes at nearly the same time is read at once."""
        now, segments = self._schedule.mono, self._segments
        if self._held_up or not segments:
            return
        if now + MICROSECOND < self._free_at:
            self._wake(self._free_at)
            return
        data = bytearray()
        until = now + self.network.join + MICROSECOND  # plans are rounded
        while segments and segments[0][0] <= until and segments[0][1] is not None:
            data += segments.popleft()[1] or b""
        if data:
            self.held -= len(data)
            self.pieces += 1
            self._out(bytes(data))
        if not self._held_up and segments and segments[0][1] is None and segments[0][0] <= until:
            self.close()
            self._end()

    def stall(self, seconds: float) -> None:
        """Let nothing out for so long."""
        self._free_at = max(self._free_at, self._schedule.mono + seconds)

    def flow(self) -> None:
        """End a stall."""
        self._free_at = 0.0
        if self._segments:
            self._wake(self._schedule.mono)

    def hold(self) -> None:
        """The reader reads no more until `release`."""
        self._held_up = True

    def release(self) -> None:
        """The reader reads on."""
        self._held_up = False
        for at, _ in self._segments:
            self._wake(max(at, self._schedule.mono))

    def close(self) -> None:
        """Nothing will ever come out again."""
        self._segments.clear()
        self.held = 0
        self._closed = True


class End(Protocol):
    """What a client has at its end of a pipe."""

    def receive(self, pipe: Pipe, data: bytes) -> None:
        """Bytes came from the node."""

    def lose(self, pipe: Pipe) -> None:
        """The transport is gone."""


class Pipe:
    """The transport between a client's `end` and the node's `peer`. `number` is that of the connection at the node."""

    def __init__(self, name: str, schedule: Schedule, network: Network, random: Random, end: End) -> None:
        self.peer: Client | None = None  # None before the node has heard of it, and when it hears no more
        self.end: End | None = end  # None where the client hears no more
        self.name = name
        self._schedule = schedule
        self._random = random
        self._early = bytearray()  # what came before the node heard of it
        self.up = Lane(f"bytes of {name}", schedule, network, random, self._reach_node, self._eof_at_node)
        self.down = Lane(f"bytes for {name}", schedule, network, random, self._reach_client, self._lose_client)

    def set_network(self, network: Network) -> None:
        """What the network is like from now on."""
        self.up.network = self.down.network = network
        self.up.flow()
        self.down.flow()

    # ── the node's side ──────────────────────────────────────────────────────────────────────────────────────────────

    def _reach_node(self, data: bytes) -> None:
        peer = self.peer
        while data and peer is not None and not peer.dropped:
            size = peer.node.gateway.read_size(peer.number)
            peer.send_bytes(data[:size])
            data = data[size:]

    def _eof_at_node(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None and not peer.dropped:
            peer.eof() if self._random.random() < 0.5 else peer.lose()

    def written(self, data: bytes) -> None:
        """The node has written; where the transport holds too much now, it says so."""
        if self.end is None:
            self.down.held += len(data)  # nobody takes it
        else:
            self.down.write(data)
        if self.down.held > self.down.network.window:
            self._schedule.plan(0.0, f"{self.name} is full", self._block)

    def _block(self) -> None:
        peer = self.peer
        if peer is not None and not peer.dropped and not peer.blocked and self.down.held > self.down.network.window:
            peer.block()

    def write_closed(self) -> None:
        """The node has half-closed."""
        self.down.finish()

    def dropped(self) -> None:
        """The node has let the transport go: what is on its way may be lost with it."""
        self.peer = None
        self.up.close()
        if self._random.random() < 0.5:
            self.down.close()
            self._schedule.plan(self.down.network.latency, f"{self.name} is reset", self._lose_client)
        else:
            self.down.finish()

    # ── the client's side ────────────────────────────────────────────────────────────────────────────────────────────

    def _reach_client(self, data: bytes) -> None:
        if self.end is not None:
            self.end.receive(self, data)
        peer = self.peer
        if peer is not None and not peer.dropped and peer.blocked:
            if self.down.held <= self.down.network.window // 2:
                peer.unblock()
            else:
                peer.progress()

    def _lose_client(self) -> None:
        end, self.end = self.end, None
        self.down.close()
        self.up.finish()  # its system closes the other direction, too
        if end is not None:
            end.lose(self)

    def close(self) -> None:
        """The client has closed: the node hears of it behind all that was written, or before."""
        self.end = None
        self.down.close()
        if self._random.random() < 0.3:
            self.up.close()
            self._schedule.plan(self.up.network.latency, f"{self.name} is gone", self._eof_at_node)
        else:
            self.up.finish()

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def cut(self, *, half: bool) -> None:
        """Break it. The node does not hear of that where it is `half` open then."""
        self.up.close()
        self._lose_client()
        if not half:
            self._schedule.plan(self.up.network.latency, f"{self.name} is gone", self._eof_at_node)

    def stall(self, seconds: float) -> None:
        """Let nothing through for so long, one way or both."""
        which = self._random.randrange(3)
        if which != 1:
            self.up.stall(seconds)
        if which != 0:
            self.down.stall(seconds)

    def crash(self) -> None:
        """The node is gone, and hears and says nothing more; the client learns of it now, or by the silence."""
        self.peer = None
        self.up.close()
        self.down.close()
        if self._random.random() < 0.7:
            self._schedule.plan(self.down.network.latency, f"{self.name} is reset", self._lose_client)
