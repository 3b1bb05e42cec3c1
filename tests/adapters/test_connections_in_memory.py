"""Connections in memory: they do what sockets do, and what a network does to those."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anyio
import pytest

from qaws.memory import CAPACITY, Link, MemoryStream, Wire
from qaws.virtual_time import Stuck, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    try:
        yield loop
        loop.abandon()
    finally:
        loop.close()


async def all_of(wire: Wire, size: int = 100) -> list[bytes]:
    """Each read, to the end or to the cut."""
    reads: list[bytes] = []
    try:
        while data := await wire.read(size):
            reads.append(data)
    except ConnectionResetError:
        reads.append(b"<cut>")
    return reads


def test_bytes_arrive_in_order_and_then_the_end(loop: VirtualLoop) -> None:
    wire = Wire()
    wire.put(b"one ")
    wire.put(b"two")
    wire.end()
    assert loop.finish(all_of(wire, 5), within=1) == [b"one t", b"wo"]


def test_no_more_arrive_together_than_the_network_lets_through(loop: VirtualLoop) -> None:
    wire = Wire()
    wire.split(2)
    wire.put(b"abcde")
    wire.end()
    assert loop.finish(all_of(wire), within=1) == [b"ab", b"cd", b"e"]


def test_a_wire_is_cut_behind_so_many_bytes_and_its_link_with_it(loop: VirtualLoop) -> None:
    link = Link()
    link.down.cut_after(3)
    link.down.put(b"abcde")
    link.up.put(b"lost")
    assert loop.finish(all_of(link.down), within=1) == [b"abc", b"<cut>"]
    assert loop.finish(all_of(link.up), within=1) == [b"<cut>"]


def test_what_was_on_its_way_is_lost_with_a_cut(loop: VirtualLoop) -> None:
    wire = Wire()
    wire.put(b"on its way")
    wire.cut()
    wire.put(b"too late")
    assert loop.finish(all_of(wire), within=1) == [b"<cut>"]


def test_a_writer_waits_for_room(loop: VirtualLoop) -> None:
    wire = Wire()
    writing = loop.create_task(wire.write(b"x" * (CAPACITY + 1)))
    loop.settle()
    assert not writing.done()
    assert len(loop.finish(wire.read(CAPACITY), within=1)) == CAPACITY
    loop.settle()
    assert writing.done()
    with pytest.raises(Stuck):
        loop.finish(wire.write(b"x" * CAPACITY), within=1)


def test_a_writer_that_waits_is_told_of_a_cut(loop: VirtualLoop) -> None:
    wire = Wire()
    writing = loop.create_task(wire.write(b"x" * (CAPACITY + 1)))
    loop.settle()
    wire.cut()
    loop.settle()
    assert isinstance(writing.exception(), ConnectionResetError)


def test_a_stream_tells_of_ends_and_cuts_as_every_stream_does(loop: VirtualLoop) -> None:
    async def conversation() -> None:
        link = Link()
        stream = MemoryStream(link)
        await stream.send(b"hello")
        await stream.send_eof()
        assert [await link.up.read(10), await link.up.read(10)] == [b"hello", b""]
        link.down.put(b"bye")
        link.down.end()
        assert await stream.receive(10) == b"bye"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive(10)
        link.cut()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive(10)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")

    loop.finish(conversation(), within=1)


def test_what_is_stalled_arrives_later(loop: VirtualLoop) -> None:
    wire = Wire()
    wire.stall(True)
    wire.put(b"late")
    reading: asyncio.Task[bytes] = loop.create_task(wire.read(10))
    loop.pass_time(100)
    assert not reading.done()
    wire.stall(False)
    loop.settle()
    assert reading.result() == b"late"
