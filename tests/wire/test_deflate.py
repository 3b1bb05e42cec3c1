"""permessage-deflate: what is agreed, what is read and what is written, against zlib (tests/helpers/deflate.py)."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame as ForeignFrame
from websockets.frames import Opcode as ForeignOpcode

from qaws_proto.config import DEFLATE_OVERHEAD, DEFLATE_SLICE, CompressionConfig
from qaws_proto.faults import Fault
from qaws_proto.testing.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, byte_by_byte, cut, dump
from qaws_proto.testing.peer import REMOVED, compressed, finished
from qaws_proto.testing.server_stream import inflated
from qaws_proto.testing.strategies import badly_compressed, compressed_messages, splits
from qaws_proto.wire.deflate import Deflate, Inflate
from qaws_proto.wire.frames import Encoded, Frames, text_frame
from tests.helpers.deflate import verdicts
from tests.helpers.wire import Heard, listen

M = 20_000
HEADER = 14  # bytes of the longest frame header
RSV1 = 4
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def deflate(**settings: int) -> Deflate:
    return Deflate(CompressionConfig(enabled=True, **settings))


def answer(*header: str) -> str | None:
    agreement = deflate().agree(header)
    return None if agreement is None else agreement.answer


def server(max_message: int = M, max_fragments: int = 128) -> Frames:
    return Frames(client=False, max_message=max_message, max_fragments=max_fragments, deflate=True)


def noise(seed: int, size: int) -> bytes:
    """Bytes that cannot be made smaller; the same for the same seed."""
    return random.Random(seed).randbytes(size)


def violated(at: int, fault: Fault) -> Heard:
    return Heard(at, "Violated", fault)


def values(said: Sequence[Heard]) -> list[object]:
    return [each.value for each in said]


# ── what is agreed (RFC 7692 section 7.1) ────────────────────────────────────────────────────────────────────────────

TAKEN = {
    "permessage-deflate": ANSWER,
    " \tpermessage-deflate\t ": ANSWER,
    "permessage-deflate; client_max_window_bits": ANSWER,  # what browsers offer
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover": ANSWER,
    "permessage-deflate;client_max_window_bits=8": ANSWER,
    "permessage-deflate; server_max_window_bits=15": ANSWER + "; server_max_window_bits=15",
    "permessage-deflate; server_max_window_bits = 9": ANSWER + "; server_max_window_bits=9",
    'permessage-deflate; server_max_window_bits="10"': ANSWER + "; server_max_window_bits=10",
    "permessage-deflate; client_max_window_bits=12; server_max_window_bits=12": ANSWER + "; server_max_window_bits=12",
    # the first that can be taken
    "permessage-deflate; server_max_window_bits=11, permessage-deflate": ANSWER + "; server_max_window_bits=11",
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": ANSWER,
    "x-webkit-deflate-frame, permessage-bzip2; a=1; a=2,, permessage-deflate; b, permessage-deflate": ANSWER,
}

DECLINED = [
    "", " ", ",", "x-webkit-deflate-frame", "permessage-deflate2", "PERMESSAGE-DEFLATE",
    *(f"permessage-deflate; {parameters}" for parameters in (
        "unknown", "unknown=1", "server_max_window_bits", "server_max_window_bits=7", "server_max_window_bits=16",
        "server_max_window_bits=8",  # allowed, and more than zlib can do
        "server_max_window_bits=010", "server_max_window_bits=+10", "server_max_window_bits=1_0",
        "server_max_window_bits=" + "1" * 5000, "server_max_window_bits=abc", "client_max_window_bits=7",
        "client_max_window_bits=16", "client_max_window_bits=08", "client_max_window_bits=x",
        "server_no_context_takeover=1", "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover", "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits=10; server_max_window_bits=10",
    )),
    # what is malformed anywhere is malformed
    *(f"{malformed}, permessage-deflate" for malformed in (
        "=abc", "a b", "a;", "a; ;b", "a; =1", "a; b=", 'a; b=""', 'a; b="', 'a; b="x', 'a; b="x y"', "a; b==",
        "ñ", "a; ñ=1", "a; b=\xff", "a\x7f", "a; b=1; c d",
    )),
    'a; b="x,permessage-deflate,y"',
]  # fmt: skip


@pytest.mark.row("H8")
@pytest.mark.parametrize("offer", TAKEN)
def test_an_offer_is_taken(offer: str) -> None:
    assert answer(offer) == TAKEN[offer]
    assert answer("x-other", offer) == answer(offer, "x-other; a=b") == TAKEN[offer]


@pytest.mark.row("H8")
@pytest.mark.parametrize("offer", DECLINED, ids=lambda offer: offer[:60])
def test_an_offer_is_declined(offer: str) -> None:
    assert answer(offer) is None
    assert answer() is None


_parameters = st.one_of(
    st.sampled_from(["server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits", "unknown"]),
    st.builds(
        "{}_max_window_bits={}".format,
        st.sampled_from(["client", "server"]),
        st.one_of(st.integers(7, 16), st.sampled_from(["", "08", "x", '"10"', '"'])),
    ),
)
_offers = st.builds(
    lambda name, parameters: "; ".join([name, *parameters]),
    st.sampled_from(["permessage-deflate"] * 4 + ["x-other", "=abc", ""]),
    st.lists(_parameters, max_size=3),
)


@pytest.mark.row("H8")
@given(st.lists(st.one_of(st.lists(_offers, max_size=3).map(", ".join), st.text(max_size=30)), max_size=3))
def test_whatever_is_offered_is_answered_with_something_that_was_offered_or_not_at_all(header: list[str]) -> None:
    taken = answer(*header)
    if taken is not None:
        window = taken.removeprefix(ANSWER).removeprefix("; ")
        plain = ",".join(header).replace('"', "")
        assert "permessage-deflate" in plain
        assert window in plain
        # a client of another make, which offered the same, agrees
        bits = int(window.partition("=")[2]) if window else None
        _, *parameters = taken.split("; ")
        pairs = [(key, value or None) for key, _, value in (part.partition("=") for part in parameters)]
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=bits)
        extension = factory.process_response_params(pairs, [])
        assert extension.remote_no_context_takeover
        assert extension.local_no_context_takeover
        assert extension.remote_max_window_bits == (bits or 15)


def test_a_server_offers_nothing() -> None:
    assert Inflate(M).offer() is False


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────

_TEXTS = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.builds(lambda piece, times: (piece * times).encode(), st.text(max_size=9), st.integers(0, 600)),
    st.builds(lambda seed, size: noise(seed, size).hex().encode(), st.integers(0, 99), st.integers(0, 6000)),
)
_CONTROLS = st.lists(st.builds(Frame, st.sampled_from([PING, PONG]), st.binary(max_size=9)), max_size=2)


@st.composite
def in_frames(draw: st.DrawFn, opcode: int, message: bytes, *, rsv: int = RSV1) -> tuple[list[Frame], list[Frame]]:
    """A message in fragments, some of them empty, with control frames between them; and these alone."""
    pieces = cut(message, draw(st.lists(st.integers(0, len(message)), max_size=4)))
    frames: list[Frame] = []
    controls: list[Frame] = []
    for at, piece in enumerate(pieces):
        between = draw(_CONTROLS) if at else []
        controls += between
        last = at == len(pieces) - 1
        frames += [*between, Frame(CONTINUATION if at else opcode, piece, fin=last, rsv=0 if at else rsv)]
    return frames, controls


def told(frame: Frame) -> Heard:
    return Heard(0, "PingReceived" if frame.opcode == PING else "PongReceived", frame.payload)


def check_held(frames: Frames, max_message: int = M) -> None:
    """C7, F5: never more than a message and a slice."""
    assert frames.held <= max_message + DEFLATE_SLICE + HEADER
    assert frames.unfinished or frames.held == 0


@pytest.mark.row("F5")
@pytest.mark.row("F6")
@pytest.mark.clause("C3")
@pytest.mark.clause("C7")
@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), compressed_messages(_TEXTS), st.booleans()), max_size=3),
    st.data(),
)
def test_what_a_client_compresses_is_read(
    sent: list[tuple[int, tuple[bytes, bytes], bool]], data: st.DataObject
) -> None:
    """Of every level and window, in any fragments and reads, among messages that are not compressed."""
    stream, should = b"", []
    for opcode, (payload, message), is_plain in sent:
        frames, controls = data.draw(in_frames(opcode, payload if is_plain else message, rsv=0 if is_plain else RSV1))
        stream += dump(frames)
        whole = ("TextReceived", payload.decode()) if opcode == TEXT else ("BinaryReceived", payload)
        should += [*map(told, controls), Heard(0, *whole)]
    reader = server(24_000)
    said = listen(reader, data.draw(splits(stream)), lambda _: check_held(reader, 24_000))
    assert [each._replace(at=0) for each in said] == should
    assert (reader.held, reader.unfinished) == (0, False)


@pytest.mark.row("F5")
@pytest.mark.row("F2")
@pytest.mark.clause("C1")
@pytest.mark.clause("C3")
@pytest.mark.clause("C7")
@given(
    st.one_of(badly_compressed(_TEXTS), compressed_messages(_TEXTS).map(lambda both: both[1])),
    st.sampled_from([0, 10, 400, M]),
    st.data(),
)
@example(b"\x00", 0, None)
@example(b"\x01", 0, None)
@example(b"", 10, None)
@example(b"\x00\x64\x00\x9b\xffno hundred bytes", 400, None)  # of a block that is not compressed
def test_what_is_no_stream_is_refused(message: bytes, max_message: int, data: st.DataObject | None) -> None:
    """As zlib sees it, byte by byte; and the reads do not matter."""
    if data is None:
        frames = [Frame(BINARY, message, rsv=RSV1)]
        controls: list[Frame] = []
        reads, others = byte_by_byte(dump(frames)), [dump(frames)]
    else:
        frames, controls = data.draw(in_frames(BINARY, message))
        reads, others = data.draw(splits(dump(frames))), data.draw(splits(dump(frames)))
    reader = server(max_message)
    said = listen(reader, reads, lambda _: check_held(reader, max_message))
    assert values(listen(server(max_message), others)) == values(said)
    should = verdicts(message, max_message)
    last = said.pop()
    assert last.value in should
    assert (last.kind == "Violated") == isinstance(last.value, Fault)
    assert [each._replace(at=0) for each in said] == [told(frame) for frame in controls][: len(said)]
    assert len(said) == len(controls) or last.kind == "Violated"


@pytest.mark.row("F2")
@pytest.mark.row("F5")
@pytest.mark.clause("C3")
@given(st.text(min_size=1, max_size=30).map(str.encode), st.binary(max_size=4), st.data())
def test_text_that_is_no_text_is_refused_as_one_that_is_not_compressed(
    text: bytes, more: bytes, data: st.DataObject
) -> None:
    """Across fragments, which may end within a character."""
    place = data.draw(st.integers(0, len(text)))
    payload = text[:place] + more + text[place:]
    frames, _ = data.draw(in_frames(TEXT, compressed(payload)))
    said = listen(server(), data.draw(splits(dump(frames))))
    plain = listen(Frames(client=False, max_message=M, max_fragments=9), [Frame(TEXT, payload).dump()])
    assert values(said[-1:]) == values(plain)


@pytest.mark.row("F2")
def test_text_is_judged_as_its_frame_ends() -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    first = compressor.compress(b"\xe2\x28") + compressor.flush(zlib.Z_SYNC_FLUSH)
    data = Frame(TEXT, first, fin=False, rsv=RSV1).dump()
    assert listen(server(), byte_by_byte(data)) == [violated(len(data), Fault.INVALID_UTF8)]


HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692 section 7.2.3.1 and those behind it
EXAMPLES = {
    "one block": [HELLO],
    "fragments": [HELLO[:3], HELLO[3:]],
    "no compression": [bytes.fromhex("000500faff48656c6c6f00")],
    "a final block": [bytes.fromhex("f348cdc9c9070000")],
    "two blocks": [bytes.fromhex("f24805000000ffffcac9c90700")],
}


@pytest.mark.row("F5")
@pytest.mark.parametrize("pieces", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_the_rfc(pieces: list[bytes]) -> None:
    frames = [
        Frame(CONTINUATION if at else TEXT, piece, fin=at == len(pieces) - 1, rsv=0 if at else RSV1)
        for at, piece in enumerate(pieces)
    ]
    data = dump(frames)
    assert listen(server(), byte_by_byte(data)) == [Heard(len(data), "TextReceived", "Hello")]


@pytest.mark.row("F5")
def test_nothing_is_taken_over_from_the_message_before() -> None:
    """RFC 7692 section 7.2.3.2: the second message refers to the first, which was agreed not to be."""
    data = Frame(TEXT, HELLO, rsv=RSV1).dump()
    second = Frame(TEXT, bytes.fromhex("f200110000"), rsv=RSV1).dump()
    said = listen(server(), [data, second])
    assert values(said) == ["Hello", Fault.BAD_COMPRESSION]


@pytest.mark.row("F5")
@pytest.mark.parametrize(
    "message",
    [finished(b"{}") + b"\x00", finished(b"{}")[:-1] + b"junk", finished(b"{}")[:-1] + compressed(b"{}"), b"",
     compressed(b"x" * 500)[:-3], b"\x03", compressed(b"{}") + b"\x07", b"\xff" * 9],
    ids=["one byte too many", "junk", "another stream", "nothing", "cut off", "cut off in its last block",
         "a wrong block", "no stream"],
)  # fmt: skip
def test_what_follows_or_lacks_the_end_of_a_stream_is_refused(message: bytes) -> None:
    data = Frame(TEXT, message, rsv=RSV1).dump()
    reader = server()
    assert listen(reader, byte_by_byte(data)) == [violated(len(data), Fault.BAD_COMPRESSION)]
    assert (reader.held, reader.readable) == (0, False)
    assert listen(reader, [Frame(TEXT, b"{}").dump()]) == []


# ── reserved bits (RFC 7692 section 6) ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F1")
@pytest.mark.parametrize(
    "frames",
    [
        [Frame(PING, b"x", rsv=RSV1)],
        [Frame(CLOSE, b"", rsv=RSV1)],
        [Frame(TEXT, b"{", fin=False), Frame(CONTINUATION, HELLO, rsv=RSV1)],
        [Frame(TEXT, HELLO[:3], fin=False, rsv=RSV1), Frame(CONTINUATION, HELLO[3:], rsv=RSV1)],
        [Frame(TEXT, HELLO[:3], fin=False, rsv=RSV1), Frame(PING, HELLO, rsv=RSV1)],
        [Frame(TEXT, HELLO[:3], fin=False, rsv=RSV1), Frame(TEXT, HELLO, rsv=RSV1)],
        [Frame(TEXT, HELLO, rsv=RSV1 | 2)],
        [Frame(TEXT, HELLO, rsv=1)],
        [Frame(CONTINUATION, HELLO, rsv=RSV1)],
    ],
    ids=lambda frames: f"{frames[-1].opcode} {frames[-1].rsv} {len(frames)}",
)
def test_a_reserved_bit_anywhere_else_is_a_violation(frames: list[Frame]) -> None:
    data = dump(frames)
    for reads in (byte_by_byte(data), [data]):
        assert values(listen(server(), reads)) == [Fault.PROTOCOL_VIOLATION]


@pytest.mark.row("F1")
@pytest.mark.parametrize("length", [7, M + 1, M + DEFLATE_OVERHEAD + 1])
def test_without_an_agreement_it_is_a_violation_everywhere(length: int) -> None:
    header = Frame(TEXT, length=length, rsv=RSV1).dump()
    reader = Frames(client=False, max_message=M, max_fragments=9)
    assert values(listen(reader, byte_by_byte(header))) == [Fault.PROTOCOL_VIOLATION]


# ── bombs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F3")
@pytest.mark.row("F5")
@pytest.mark.parametrize("limit", [1, 1024, DEFLATE_SLICE, 65_536])
def test_a_message_is_inflated_up_to_the_limit_and_no_further(limit: int) -> None:
    for opcode, kind in ((TEXT, "TextReceived"), (BINARY, "BinaryReceived")):
        for level, make in product((0, 1, 9), (compressed, finished)):
            for size, too_big in ((limit, False), (limit + 1, True)):
                data = Frame(opcode, make(b"a" * size, level=level), rsv=RSV1).dump()
                for step in (1, 4096) if limit < 2000 else (4096,):
                    (said,) = listen(server(limit), cut(data, range(step, len(data), step)))
                    assert said.kind == ("Violated" if too_big else kind)
                    assert said.value == Fault.MESSAGE_TOO_BIG if too_big else said.value in (b"a" * size, "a" * size)


@pytest.mark.row("F5")
def test_a_bomb_is_refused_before_its_message_ends() -> None:
    """The fragment that brings it is the last that is read."""
    first = compressed(b" " * (M + 1)) + REMOVED
    bomb = dump([Frame(TEXT, compressed(b"{") + REMOVED, fin=False, rsv=RSV1), Frame(CONTINUATION, first, fin=False)])
    reader = server()
    assert listen(reader, byte_by_byte(bomb)) == [violated(len(bomb), Fault.MESSAGE_TOO_BIG)]
    assert reader.held == 0


@pytest.mark.row("F5")
@pytest.mark.clause("C7")
@pytest.mark.parametrize("size", [1 << 20, 1 << 28])
def test_a_bomb_costs_no_more_the_larger_it_is(size: int) -> None:
    """What is held on the way is a few times the limit, whatever the bomb would come to."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    blank = bytes(1 << 20)
    bomb = b"".join(compressor.compress(blank) for _ in range(size >> 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    limit = 100_000
    data = Frame(BINARY, bomb[:limit], rsv=RSV1).dump()
    reads = cut(data, range(16_384, len(data), 16_384))
    reader = server(limit)
    tracemalloc.start()
    try:
        said = listen(reader, reads, lambda _: check_held(reader, limit))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values(said) == [Fault.MESSAGE_TOO_BIG]
    assert peak < 3 * limit + DEFLATE_OVERHEAD


@pytest.mark.row("F5")
@pytest.mark.clause("C7")
def test_a_message_on_its_way_holds_what_it_has_come_to_and_little_more() -> None:
    """The limit of the row: the message and 64 KiB, for what zlib and a slice hold."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    first = compressor.compress(noise(1, M - 1)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    data = Frame(BINARY, first, rsv=RSV1, fin=False).dump() + Frame(CONTINUATION, b"\x00" * 4000).dump()[:-1]
    reads = cut(data, range(1000, len(data), 1000))
    reader = server()
    tracemalloc.start()
    try:
        assert listen(reader, reads) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert M - 1 < reader.held < held < M + 64 * 1024
    reader.stop()
    assert reader.held == 0


@pytest.mark.row("F3")
@pytest.mark.row("F5")
def test_the_bytes_on_the_wire_are_bounded_from_the_header() -> None:
    """Empty blocks inflate to nothing, however many come."""
    most = M + DEFLATE_OVERHEAD
    empty = b"\x00" + REMOVED
    blocks = (empty * (most // 5 + 1))[:most]
    data = Frame(BINARY, blocks, rsv=RSV1, fin=False).dump()
    reader = server()
    assert listen(reader, cut(data, range(4096, len(data), 4096)), lambda _: check_held(reader)) == []
    over = Frame(CONTINUATION, length=1).dump()
    assert values(listen(reader, byte_by_byte(over))) == [Fault.MESSAGE_TOO_BIG]

    header = Frame(BINARY, length=most + 1, rsv=RSV1).dump()
    assert listen(server(), byte_by_byte(header)) == [violated(len(header), Fault.MESSAGE_TOO_BIG)]
    plain = Frame(BINARY, length=M + 1).dump()
    assert listen(server(), byte_by_byte(plain)) == [violated(len(plain), Fault.MESSAGE_TOO_BIG)]


@pytest.mark.row("F5")
def test_a_message_that_cannot_be_made_smaller_may_be_as_big_as_any_other() -> None:
    payload = noise(2, M)
    for level, memory in product((0, 1, 9), (1, 9)):
        compressor = zlib.compressobj(level, zlib.DEFLATED, -9, memory)
        message = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        data = Frame(BINARY, message, rsv=RSV1).dump()
        assert len(message) > M
        assert values(listen(server(), [data])) == [payload]


@pytest.mark.row("F4")
def test_fragments_of_a_compressed_message_are_counted_too() -> None:
    frames = [Frame(CONTINUATION if at else TEXT, b"", fin=False, rsv=0 if at else RSV1) for at in range(5)]
    reader = server(max_fragments=4)
    assert values(listen(reader, byte_by_byte(dump(frames)))) == [Fault.TOO_MANY_FRAGMENTS]


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_by_others(frame: bytes, window: int) -> bytes:
    """What the extension of the package `websockets` reads in a frame, with a window of so many bits and no more."""
    length, head = frame[1], 2
    if length > 125:
        head = 4 if length == 126 else 10
        length = int.from_bytes(frame[2:head])
    assert len(frame) == head + length
    extension = PerMessageDeflate(True, True, window, 15)
    foreign = ForeignFrame(ForeignOpcode.TEXT, frame[head:], rsv1=bool(frame[0] & 0x40))
    return bytes(extension.decode(foreign).data)


@given(_TEXTS, st.integers(1, 9), st.sampled_from([0, 1, 100]), st.one_of(st.none(), st.integers(9, 15)))
def test_what_is_compressed_is_read_by_others_and_smaller(
    payload: bytes, level: int, min_size: int, bits: int | None
) -> None:
    offer = "permessage-deflate" if bits is None else f"permessage-deflate; server_max_window_bits={bits}"
    agreement = deflate(level=level, min_size=min_size).agree([offer])
    assert agreement is not None
    frame = Encoded(payload).compressed(agreement)
    plain = text_frame(payload)
    if frame[0] == 0xC1:
        assert len(payload) >= min_size
        assert len(frame) < len(plain)
        assert read_by_others(frame, bits or 15) == payload
        head = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
        assert inflated(frame[head:], window=bits or 15) == payload
    else:
        assert frame == plain
        assert len(payload) < min_size or len(compressed(payload, level=level, window=bits or 15)) + 5 >= len(payload)


def test_messages_below_the_least_size_are_not_compressed() -> None:
    payload = b"a" * 200
    large, small = (deflate(min_size=size).agree(["permessage-deflate"]) for size in (200, 201))
    assert large is not None
    assert small is not None
    assert Encoded(payload).compressed(large)[0] == 0xC1
    message = Encoded(payload)
    assert message.compressed(small) is message.frame, "what is not compressed is the frame of all others"


def test_the_level_is_zlibs() -> None:
    payload = b" ".join(b"%d" % (n * n) for n in range(2000))
    sizes = []
    for level in (1, 6, 9):
        agreement = deflate(level=level).agree(["permessage-deflate"])
        assert agreement is not None
        frame = Encoded(payload).compressed(agreement)
        assert frame[4:] == compressed(payload, level=level, window=agreement.window(len(payload)))
        sizes.append(len(frame))
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("bits", range(9, 16))
def test_no_window_is_used_that_is_larger_than_asked_for(bits: int) -> None:
    piece = noise(3, 1 << bits).hex().encode()[: 1 << bits]
    payload = piece + piece[::-1] + piece
    agreement = deflate(level=9).agree([f"permessage-deflate; server_max_window_bits={bits}"])
    assert agreement is not None
    frame = Encoded(payload).compressed(agreement)
    head = 4 if frame[1] == 126 else 10
    assert inflated(frame[head:], window=bits) == payload
    if bits < 15:
        with pytest.raises(zlib.error, match="too far back"):
            inflated(compressed(payload, window=15), window=bits)


def test_a_message_is_compressed_once_for_all_who_read_it() -> None:
    """Also for those who asked for a window that is no smaller than the message."""
    node = deflate()
    agreements = [
        node.agree([f"permessage-deflate{bits}"])
        for bits in ("", "; server_max_window_bits=15", "; server_max_window_bits=9", "; server_max_window_bits=10")
    ]
    message = Encoded(b"a" * 500)
    frames = {id(message.compressed(agreement)) for agreement in agreements if agreement is not None}
    assert len(frames) == 1
    message = Encoded(b"a" * 5000)
    frames = {id(message.compressed(agreement)) for agreement in agreements * 2 if agreement is not None}
    assert len(frames) == 3


def test_a_connection_holds_nothing_between_messages() -> None:
    reader = server()
    listen(reader, [Frame(TEXT, compressed(b"a" * M), rsv=RSV1).dump()])
    tracemalloc.start()
    try:
        for _ in range(3):
            assert listen(reader, [Frame(TEXT, compressed(b"b" * M), rsv=RSV1).dump()])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4096
