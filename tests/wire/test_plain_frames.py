"""The short way for plain frames says what wsproto says: the same events, bytes, faults and state, after every read."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import cycle, product
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.utilities import LocalProtocolError

from qaws_proto import wire
from qaws_proto.testing.frames import BINARY, CLOSE, MASK, PING, PONG, TEXT, Frame
from qaws_proto.testing.strategies import compressed_messages, cuts, frame_streams, splits
from qaws_proto.wire.frames import Frames
from tests.helpers.wire import heard

ACTS: tuple[Callable[[Frames], bytes], ...] = (
    lambda frames: b"",
    lambda frames: frames.ping(b"are you there?"),
    lambda frames: frames.pong(b""),
    lambda frames: frames.pong(b"p" * 125),
    lambda frames: frames.text("¿qué?".encode()),
    lambda frames: frames.close(1000),
    lambda frames: frames.close(1005),
    lambda frames: frames.close(4401, "auth"),
    lambda frames: frames.close(1000, "bye"),
)


def from_source() -> type[Frames]:
    """`Frames` from its source: nothing of a compiled class can be overridden."""
    spec = spec_from_file_location("qaws_proto.wire.frames_from_source", Path(wire.__path__[0], "frames.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Frames] = module.Frames
    return found


#: Gives every frame to wsproto.
Judged: type[Frames] = type("Judged", (from_source(),), {"__slots__": (), "_read_plain": lambda frames: None})


def pair(
    *, client: bool, max_message: int = 1 << 20, max_fragments: int = 8, deflate: bool = False
) -> tuple[Frames, Frames]:
    """Both ways to read."""
    kinds = (Frames, Judged)
    quick, judged = (
        kind(client=client, max_message=max_message, max_fragments=max_fragments, deflate=deflate) for kind in kinds
    )
    return quick, judged


def agree(quick: Frames, judged: Frames, until: int | None = None) -> None:
    """Have both say all they can, up to a frame, and compare what they say and how they stand after each thing."""
    while True:
        event, verdict = quick.next_event(until), judged.next_event(until)
        assert (event and heard(0, event)) == (verdict and heard(0, verdict))
        for name in ("frames", "waiting", "held", "unfinished", "readable"):
            assert getattr(quick, name) == getattr(judged, name), name
        if event is None:
            return


def written(act: Callable[[Frames], bytes], frames: Frames) -> bytes | str:
    """What is written; a client that says something behind its Close is mistaken."""
    try:
        return act(frames)
    except LocalProtocolError as error:
        return str(error)


def same_masks() -> AbstractContextManager[object]:
    """wsproto draws masks of a client at random: for the time of an act they are all the same."""
    return patch.object(os, "urandom", lambda size: b"mask"[:size])


@pytest.mark.clause("C3")
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@given(st.data())
def test_any_bytes_in_any_reads(client: bool, data: st.DataObject) -> None:
    """With sends of our own between the reads, a Close among them, and stops at any frame."""
    _, reads = data.draw(cuts(frame_streams(client=client)))
    limit = data.draw(st.sampled_from((1, 40, 125, 126, 300, 70_000)))
    quick, judged = pair(client=client, max_message=limit, max_fragments=data.draw(st.sampled_from((1, 4))))
    acts = data.draw(st.lists(st.sampled_from(range(len(ACTS))), min_size=1, max_size=6))
    for read, act in zip(reads, cycle([*acts, 0]), strict=False):
        quick.receive(read)
        judged.receive(read)
        agree(quick, judged, quick.frames + data.draw(st.sampled_from((0, 1, 2))))
        with same_masks():
            assert written(ACTS[act], quick) == written(ACTS[act], judged)
        agree(quick, judged)


@pytest.mark.clause("C3")
@given(st.lists(compressed_messages(st.binary(max_size=300)), max_size=3), st.data())
def test_plain_frames_between_compressed_ones(messages: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    """Compression is agreed, and used for some messages only."""
    plain = data.draw(frame_streams())
    frames = [Frame(BINARY, shrunk, rsv=4).dump() for _, shrunk in messages]
    stream = b"".join(data.draw(st.permutations([*frames, Frame(TEXT, "¡sí!".encode()).dump(), plain])))
    quick, judged = pair(client=False, max_message=500, deflate=True)
    for read in data.draw(splits(stream)):
        quick.receive(read)
        judged.receive(read)
        agree(quick, judged)


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE, 0, 3, 11])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 300, 65_535, 65_536])
def test_every_length_and_opcode(client: bool, opcode: int, length: int) -> None:
    """Each whole, one byte short of it, and with one byte more; a limit at, below and above it."""
    whole = Frame(opcode, b"a" * length, mask=None if client else MASK).dump()
    for stream in (whole, whole[:-1], whole + b"\x81", whole * 2):
        for limit in (length - 1, length, length + 1):
            quick, judged = pair(client=client, max_message=max(limit, 1))
            quick.receive(stream)
            judged.receive(stream)
            agree(quick, judged)


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("begun", [TEXT, BINARY])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE, 0])
def test_a_frame_inside_a_message(client: bool, begun: int, opcode: int) -> None:
    """Control frames may stand there, and the message goes on behind them."""
    mask = None if client else MASK
    frames = (Frame(begun, b"a", fin=False), Frame(opcode, b""), Frame(0, b"b"), Frame(TEXT, b"c"))
    quick, judged = pair(client=client)
    for frame in frames:
        stream = replace(frame, mask=mask).dump()
        quick.receive(stream)
        judged.receive(stream)
        agree(quick, judged)


@pytest.mark.parametrize("first", range(256))
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_every_head_of_two_bytes(first: int, client: bool) -> None:
    """Every first byte with second ones of each kind, before bytes that may be a length, a key and text."""
    for second in (0, 1, 5, 6, 125, 126, 127, 128, 129, 133, 134, 253, 254, 255):
        for rest in (b"", b"\x00", b"\x00\x7d", b"\x00\x05abcd" + b"x" * 125, b"\x00\x7eabcd" + b"x" * 126):
            quick, judged = pair(client=client)
            stream = bytes((first, second)) + rest
            quick.receive(stream)
            judged.receive(stream)
            agree(quick, judged)


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("before", [None, Frame(TEXT, b"a"), Frame(TEXT, b"a", fin=False), Frame(BINARY, b"a")])
@pytest.mark.parametrize("reason", [b"", b"bye", b"\xff", "¿qué?".encode()[:-2], "¿qué?".encode()])
def test_every_close(client: bool, before: Frame | None, reason: bytes) -> None:
    """Every code there may be a rule for, behind other frames and before another one, and each thing said to it."""
    mask = None if client else MASK
    codes = [b"", b"\x03", *(code.to_bytes(2) for code in (0, 999, *range(1000, 1017), 2999, 3000, 4401, 4999, 5000))]
    for code, act in product(codes, ACTS):
        quick, judged = pair(client=client)
        frames = [Frame(CLOSE, code + reason), Frame(PING, b"p")]
        for frame in frames if before is None else [before, *frames]:
            for each in (quick, judged):
                each.receive(replace(frame, mask=mask).dump())
            agree(quick, judged)
        for said in (act, ACTS[1], ACTS[5], ACTS[7]):
            with same_masks():
                assert written(said, quick) == written(said, judged)


def test_wsproto_is_not_made_for_plain_frames() -> None:
    """An idle connection, which pings and hears pongs, holds none."""
    quick, _ = pair(client=False)
    for frame in (Frame(TEXT, "¿qué?".encode()), Frame(PING, b"p"), Frame(PONG, b"")):
        quick.receive(frame.dump())
        assert quick.next_event() is not None
    assert quick.ping(b"")
    assert quick.pong(b"p")
    leaving, _ = pair(client=False)
    leaving.receive(Frame(CLOSE, (1000).to_bytes(2)).dump())
    assert leaving.next_event() is not None
    assert leaving.close(1000)
    assert leaving._wsproto is quick._wsproto is None
    quick.receive(Frame(BINARY, b"").dump())
    assert quick.next_event() is not None
    assert quick._wsproto is not None


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_nothing_is_asked_or_answered_behind_our_close(client: bool) -> None:
    for frames in pair(client=client):
        assert frames.ping(b"")
        assert frames.pong(b"")
        assert frames.close(1000)
        assert (frames.ping(b""), frames.pong(b""), frames.close(1000)) == (b"", b"", b"")
