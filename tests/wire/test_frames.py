"""Frames read and written, against a simple decoder of whole byte strings (tests/helpers/wire.py)."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import SERVER, Connection
from wsproto.events import TextMessage

from qaws_proto.faults import Fault
from qaws_proto.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Cut,
    Frame,
    byte_by_byte,
    close_payload,
    cut,
    dump,
    fragmented,
)
from qaws_proto.testing.strategies import cuts, frame_streams, good_frames, splits
from qaws_proto.wire.frames import Encoded, Frames, text_frame
from tests.helpers.wire import Heard, decode, listen, said_in_reads

M = 70_000
HEADER = 14  # bytes of the longest frame header


def server(max_message: int = M, max_fragments: int = 128) -> Frames:
    return Frames(client=False, max_message=max_message, max_fragments=max_fragments)


def client(max_message: int = M, max_fragments: int = 128) -> Frames:
    return Frames(client=True, max_message=max_message, max_fragments=max_fragments)


def violated(at: int, fault: Fault) -> Heard:
    return Heard(at, "Violated", fault)


# ── any bytes, in any reads ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F1")
@pytest.mark.row("F2")
@pytest.mark.row("F3")
@pytest.mark.row("F4")
@pytest.mark.row("F6")
@pytest.mark.row("F9")
@pytest.mark.clause("C1")
@pytest.mark.clause("C3")
@pytest.mark.clause("C7")
@pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])
@given(st.data(), st.sampled_from((1, 10, 40, 126, 300)), st.sampled_from((1, 2, 4)))
def test_any_bytes_in_any_reads(is_client: bool, data: st.DataObject, max_message: int, max_fragments: int) -> None:
    """What is said, and with which read, is what the whole byte string says; no more is held than the limits let."""
    stream, reads = data.draw(cuts(frame_streams(client=is_client)))
    frames = Frames(client=is_client, max_message=max_message, max_fragments=max_fragments)

    def check(read: bytes) -> None:
        assert frames.waiting == 0
        assert frames.held < max_message + HEADER
        assert frames.unfinished or frames.held == 0

    said = listen(frames, reads, check)
    should = decode(stream, client=is_client, max_message=max_message, max_fragments=max_fragments)
    assert said == said_in_reads(should, reads)

    whole = Frames(client=is_client, max_message=max_message, max_fragments=max_fragments)
    listen(whole, [stream])
    assert (frames.frames, frames.held, frames.unfinished) == (whole.frames, whole.held, whole.unfinished)

    ended = bool(should) and should[-1].kind in ("Violated", "CloseReceived")
    assert frames.readable is not ended
    if ended:
        assert frames.held == 0


@pytest.mark.row("F6")
@pytest.mark.clause("C3")
@given(good_frames(), st.data())
def test_what_is_sent_well_is_heard_whole(frames: list[Frame], data: st.DataObject) -> None:
    """Messages come out as they went in, and each ping at its own last byte, between the fragments of a message too."""
    should: list[Heard] = []
    at, message, kind = 0, b"", 0
    for frame in frames:
        at += len(frame.dump())
        if frame.opcode in (PING, PONG):
            should.append(Heard(at, "PingReceived" if frame.opcode == PING else "PongReceived", frame.payload))
            continue
        message, kind = message + frame.payload, frame.opcode or kind
        if frame.fin:
            whole = ("TextReceived", message.decode()) if kind == TEXT else ("BinaryReceived", message)
            should.append(Heard(at, *whole))
            message = b""
    reads = data.draw(splits(dump(frames)))
    reader = server()
    assert listen(reader, reads) == said_in_reads(should, reads)
    assert (reader.frames, reader.held, reader.unfinished) == (len(frames), 0, False)


# ── violations (F1) ──────────────────────────────────────────────────────────────────────────────────────────────────

BROKEN = {
    "the first reserved bit": (Frame(TEXT, b"a", rsv=4), 2),
    "the second reserved bit": (Frame(TEXT, b"a", rsv=2), 2),
    "the third reserved bit": (Frame(PING, b"a", rsv=1), 2),
    "no mask": (Frame(TEXT, b"abc", mask=None), 2),
    "no mask on a control frame": (Frame(PING, mask=None), 2),
    "no mask on 126 bytes": (Frame(TEXT, b"a" * 126, mask=None), 4),
    "a continuation of nothing": (Frame(CONTINUATION, b"a"), 6),
    "an empty continuation of nothing": (Frame(CONTINUATION), 6),
    "a ping in fragments": (Frame(PING, b"a", fin=False), 2),
    "a close in fragments": (Frame(CLOSE, b"", fin=False), 2),
    "a ping of 126 bytes": (Frame(PING, b"a" * 126), 2),
    "a pong of 65,536 bytes": (Frame(PONG, b"a" * 65536), 2),
    "a close of 126 bytes": (Frame(CLOSE, close_payload(1000, b"a" * 124)), 2),
    "125 in two bytes": (Frame(TEXT, b"a" * 125, width=2), 4),
    "none in two bytes": (Frame(TEXT, width=2), 4),
    "65,535 in eight bytes": (Frame(TEXT, b"a" * 65535, width=8), 10),
    "a length with its highest bit set": (Frame(BINARY, length=1 << 63, width=8), 10),
    "a close of one byte": (Frame(CLOSE, b"\x03"), 7),
    **{f"opcode {code}": (Frame(code, b"a"), 2) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{
        f"close code {code}": (Frame(CLOSE, close_payload(code)), 8)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.row("F1")
@pytest.mark.parametrize(("frame", "at"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_frame_is_refused_at_its_first_certain_byte(frame: Frame, at: int) -> None:
    reader = server()
    before = Frame(TEXT, b"hi").dump()
    data = before + frame.dump() + Frame(TEXT, b"later").dump()
    said = listen(reader, byte_by_byte(data[: len(before) + 200]))
    assert said == [Heard(8, "TextReceived", "hi"), violated(8 + at, Fault.PROTOCOL_VIOLATION)]
    assert (reader.frames, reader.held, reader.readable) == (2, 0, False)
    assert listen(server(), [data])[-1] == violated(len(data), Fault.PROTOCOL_VIOLATION)


@pytest.mark.row("F1")
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("declared", [0, 1, M + 1])
def test_a_second_message_may_not_begin_inside_the_first(opcode: int, declared: int) -> None:
    """A violation comes before a limit, and is told by the header alone."""
    begun = Frame(TEXT, b"a", fin=False).dump()
    second = Frame(opcode, b"", fin=True, length=declared).dump()
    said = listen(server(), byte_by_byte(begun + second))
    assert said == [violated(len(begun + second), Fault.PROTOCOL_VIOLATION)]


@pytest.mark.row("F1")
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1013, 3000, 3999, 4000, 4401, 4999])
def test_a_close_with_a_code_is_heard(code: int) -> None:
    data = Frame(CLOSE, close_payload(code, "adiós".encode())).dump()
    assert listen(server(), byte_by_byte(data)) == [Heard(len(data), "CloseReceived", code)]


@pytest.mark.row("F1")
def test_a_client_refuses_what_is_masked() -> None:
    assert listen(client(), byte_by_byte(Frame(TEXT, b"a").dump())) == [violated(2, Fault.PROTOCOL_VIOLATION)]


# ── UTF-8 (F2) ───────────────────────────────────────────────────────────────────────────────────────────────────────

BAD_TEXT = {  # the bytes, and how many of them it takes to know (a surrogate: three, to Python's decoder)
    b"\xff": 1, b"a\x80": 2, b"\xc0\xaf": 1, b"\xc1\xbf": 1, b"\xe0\x9f\xbf": 2, b"\xed\xa0\x80": 3, b"\xf0\x8f\xbf": 2,
    b"\xf4\x90\x80\x80": 2, b"\xf5\x80": 1, b"\xf8": 1, b"\xc3\x28": 2, b"\xe2\x82\x28": 3, b"\xf0\x9f\x98\x28": 4,
    b"ok \xce\xba\xed\xbf\xbf ok": 8,
}  # fmt: skip


@pytest.mark.row("F2")
@pytest.mark.parametrize(("payload", "enough"), BAD_TEXT.items(), ids=map(repr, BAD_TEXT))
def test_the_bad_byte_is_refused_as_it_comes(payload: bytes, enough: int) -> None:
    assert listen(server(), byte_by_byte(Frame(TEXT, payload).dump())) == [violated(6 + enough, Fault.INVALID_UTF8)]
    for place in range(len(payload) + 1):  # in fragments, with a ping between them
        first, second = fragmented(TEXT, cut(payload, [place]))
        data = dump([first, Frame(PING), second])
        at = 6 + enough if enough <= place else 18 + enough
        said = listen(server(), byte_by_byte(data))
        assert said[-1] == violated(at, Fault.INVALID_UTF8)
        assert said[:-1] == ([] if enough <= place else [Heard(12 + place, "PingReceived", b"")])


@pytest.mark.row("F2")
@pytest.mark.parametrize("payload", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"ok \xf0"])
def test_text_ends_with_a_whole_character(payload: bytes) -> None:
    data = Frame(TEXT, payload).dump()
    assert listen(server(), byte_by_byte(data)) == [violated(len(data), Fault.INVALID_UTF8)]
    data = dump(fragmented(TEXT, [payload, b"", b""]))
    assert listen(server(), byte_by_byte(data)) == [violated(len(data), Fault.INVALID_UTF8)]


@pytest.mark.row("F2")
def test_the_reason_of_a_close_is_text_too() -> None:
    data = Frame(CLOSE, close_payload(1000, b"\xff")).dump()
    assert listen(server(), byte_by_byte(data)) == [violated(len(data), Fault.INVALID_UTF8)]


def test_bytes_of_a_binary_message_are_not_text() -> None:
    data = dump(fragmented(BINARY, [b"\xff\x00", b"", b"\xc0"]))
    assert listen(server(), byte_by_byte(data)) == [Heard(len(data), "BinaryReceived", b"\xff\x00\xc0")]


# ── sizes (F3, F4) ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F3")
@pytest.mark.clause("C3")
@pytest.mark.parametrize("limit", [1, 125, 126, 127, 65535, 65536, 65537])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_is_as_big_as_the_limit_and_no_bigger(limit: int, opcode: int) -> None:
    kind = "TextReceived" if opcode == TEXT else "BinaryReceived"
    payload = b"a" * limit
    data = Frame(opcode, payload).dump()
    whole = payload.decode() if opcode == TEXT else payload
    assert listen(server(limit), cut(data, range(0, len(data), 4096))) == [Heard(len(data), kind, whole)]

    header = Frame(opcode, length=limit + 1).dump()
    assert listen(server(limit), byte_by_byte(header)) == [violated(len(header), Fault.MESSAGE_TOO_BIG)]
    assert listen(server(limit), [header + payload]) == [violated(len(header + payload), Fault.MESSAGE_TOO_BIG)]

    data = dump(fragmented(opcode, [payload[1:], b"a", b""]))
    assert listen(server(limit), [data]) == [Heard(len(data), kind, whole)]
    data = dump([Frame(opcode, payload, fin=False), Frame(CONTINUATION, length=1)])
    assert listen(server(limit), [data]) == [violated(len(data), Fault.MESSAGE_TOO_BIG)]
    assert listen(server(limit), [data[:-1]]) == []


@pytest.mark.row("F3")
@pytest.mark.parametrize("declared", [M + 1, 1 << 20, (1 << 63) - 1])
def test_a_declared_length_is_refused_from_the_header(declared: int) -> None:
    header = Frame(TEXT, length=declared).dump()
    reader = server()
    assert listen(reader, byte_by_byte(header)) == [violated(len(header), Fault.MESSAGE_TOO_BIG)]
    assert reader.held == 0


@pytest.mark.row("F3")
def test_the_limit_is_for_each_message_anew() -> None:
    data = dump([*fragmented(TEXT, [b"a"] * 4), *fragmented(BINARY, [b"b"] * 4), Frame(TEXT, b"c" * 4)])
    kinds = [each.kind for each in listen(server(4, 4), byte_by_byte(data))]
    assert kinds == ["TextReceived", "BinaryReceived", "TextReceived"]


@pytest.mark.row("F4")
@pytest.mark.clause("C3")
@pytest.mark.parametrize("last", [b"", b"a"])
@pytest.mark.parametrize("piece", [b"", b"a"])
def test_a_message_has_so_many_fragments_and_no_more(piece: bytes, last: bytes) -> None:
    """Control frames between them are no fragments. The message is not heard where its last frame is one too many."""
    pieces = [piece] * 127
    data = dump([frame for part in fragmented(TEXT, [*pieces, last]) for frame in (part, Frame(PING))])
    said = listen(server(), byte_by_byte(data))
    assert [each.value for each in said if each.kind == "TextReceived"] == [(b"".join(pieces) + last).decode()]
    assert len(said) == 129

    data = dump(fragmented(TEXT, [*pieces, piece, last]))
    assert listen(server(), byte_by_byte(data)) == [violated(len(data) - len(last), Fault.TOO_MANY_FRAGMENTS)]
    assert listen(server(), [data]) == [violated(len(data), Fault.TOO_MANY_FRAGMENTS)]


@pytest.mark.row("F4")
def test_one_fragment_too_many_is_not_read() -> None:
    """Its limit is told by its header; that the text ends in half a character would be told by its end."""
    data = dump(fragmented(TEXT, [b"\xe2\x82", b"", b""]))
    assert listen(server(M, 2), byte_by_byte(data)) == [violated(len(data), Fault.TOO_MANY_FRAGMENTS)]


@pytest.mark.row("F4")
def test_empty_fragments_are_stored_nowhere() -> None:
    reader = server()
    listen(reader, [Frame(TEXT, b"", fin=False).dump()])
    for _ in range(126):
        assert listen(reader, [Frame(CONTINUATION, b"", fin=False).dump()]) == []
        assert (reader.held, reader.unfinished) == (0, True)
    assert listen(reader, [Frame(CONTINUATION, b"!").dump()]) == [Heard(7, "TextReceived", "!")]
    assert not reader.unfinished


@pytest.mark.row("F3")
@pytest.mark.clause("C7")
@pytest.mark.parametrize("text", ["a", "ñ", "😀"])
def test_a_message_in_tiny_reads_costs_no_more_than_its_bytes(text: str) -> None:
    size = 8000
    data = Frame(TEXT, text.encode() * (size // len(text.encode()))).dump()
    reads = byte_by_byte(data[:-1])
    reader = server()
    tracemalloc.start()
    try:
        listen(reader, reads)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * size
    assert len(listen(reader, [data[-1:]])) == 1


def test_what_is_begun_is_unfinished() -> None:
    data = dump([*fragmented(TEXT, [b"ab", b"c"]), Frame(PING, b"xy")])
    reader = server()
    seen = []
    for read in byte_by_byte(data):
        listen(reader, [read])
        seen.append((reader.unfinished, reader.held))
    first = [(True, at) for at in range(1, 6)] + [(True, 2)] * 3
    second = [(True, 2 + at) for at in range(1, 6)] + [(True, 3), (False, 0)]
    ping = [(True, at) for at in range(1, 6)] + [(True, 0), (True, 0), (False, 0)]
    assert seen == first + second + ping


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F8")
@pytest.mark.clause("C3")
@given(good_frames(), st.integers(1, 3), st.data())
def test_no_frame_is_begun_beyond_until(frames: list[Frame], step: int, data: st.DataObject) -> None:
    """A frame counts from its first byte, in any reads; what is begun is finished."""
    reader, whole = server(), server()
    reads = data.draw(splits(dump(frames)))
    said = []
    for read in reads:
        reader.receive(read)
        while True:
            until = reader.frames + step
            while (event := reader.next_event(until)) is not None:
                said.append(event)
                assert reader.frames <= until
            if not reader.waiting:
                break
            assert reader.frames == until
    whole.receive(dump(frames))
    for event in said:
        assert whole.next_event() == event
    assert whole.next_event() is None
    assert reader.frames == whole.frames == len(frames)


@pytest.mark.row("F8")
@pytest.mark.clause("C3")
def test_a_frame_begun_is_finished_whatever_until_says() -> None:
    data = dump([Frame(TEXT, b"ab"), Frame(TEXT, b"cd")])
    for place in range(1, 8):
        reader = server()
        reader.receive(data[:place])
        assert reader.next_event(1) is None
        assert reader.frames == 1
        reader.receive(data[place:])
        assert reader.next_event(1) == ("ab",)
        assert reader.next_event(1) is None
        assert reader.waiting == 8


# ── after the end (F9) ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F9")
@pytest.mark.clause("C6")
@given(st.sampled_from([Frame(CLOSE), Frame(CLOSE, close_payload(1001)), Frame(3)]), frame_streams(), st.data())
def test_nothing_is_heard_behind_the_end(end: Frame, behind: bytes, data: st.DataObject) -> None:
    reader = server()
    reads = data.draw(splits(end.dump() + behind))
    said = listen(reader, reads)
    assert len(said) == 1
    assert (reader.held, reader.waiting, reader.unfinished, reader.readable) == (0, 0, False, False)
    assert reader.frames == 1
    reader.close(1002)
    assert listen(reader, [behind]) == []


@pytest.mark.row("F9")
@given(cuts(good_frames().map(dump)))
def test_what_comes_behind_our_close_is_read_until_the_answer(stream: Cut) -> None:
    """The peer may have sent more before it saw our Close."""
    reader = server()
    assert reader.close(1000)
    answer = Frame(CLOSE, close_payload(1000)).dump()
    said = listen(reader, [*stream.reads, answer])
    assert said == said_in_reads(
        decode(stream.data + answer, client=False, max_message=M, max_fragments=128), [*stream.reads, answer]
    )
    assert listen(reader, [b"more"]) == []
    assert reader.close(1000) == b""


@pytest.mark.row("F9")
def test_a_violation_behind_our_close_is_one() -> None:
    reader = server()
    reader.close(1000)
    assert listen(reader, [Frame(3).dump()]) == [violated(6, Fault.PROTOCOL_VIOLATION)]


@pytest.mark.row("F9")
def test_stopped_means_deaf() -> None:
    reader = server()
    reader.receive(dump([Frame(TEXT, b"a"), Frame(TEXT, b"b")]))
    assert reader.next_event() == ("a",)
    reader.stop()
    assert reader.next_event() is None
    assert listen(reader, [Frame(TEXT, b"c").dump()]) == []
    assert (reader.held, reader.waiting, reader.readable) == (0, 0, False)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, M]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_text_frame_is_what_wsproto_sends(length: int) -> None:
    text = "a" * length
    frame = bytes(Connection(SERVER).send(TextMessage(text)))
    assert text_frame(text.encode()) == frame
    assert server().text(text.encode()) == frame
    encoded = Encoded(text.encode())
    assert encoded.frame == frame
    assert encoded.frame is encoded.frame, "it is built once"
    assert (encoded.payload, encoded.text, encoded.size) == (text.encode(), text, len(frame))


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_goes_both_ways(length: int) -> None:
    payload = b"x" * length
    for writer, reader in ((client(), server()), (server(), client())):
        data = writer.text(payload) + writer.binary(payload)
        said = listen(reader, cut(data, range(1, len(data), 8192)))
        assert [each[1:] for each in said] == [("TextReceived", payload.decode()), ("BinaryReceived", payload)]


_SAYINGS = st.one_of(
    st.tuples(st.just("TextReceived"), st.text(max_size=200)),
    st.tuples(st.just("BinaryReceived"), st.binary(max_size=200)),
    st.tuples(st.just("PingReceived"), st.binary(max_size=125)),
    st.tuples(st.just("PongReceived"), st.binary(max_size=125)),
)


def say(writer: Frames, kind: str, value: str | bytes) -> bytes:
    if isinstance(value, str):
        return writer.text(value.encode())
    return {"BinaryReceived": writer.binary, "PingReceived": writer.ping, "PongReceived": writer.pong}[kind](value)


@pytest.mark.parametrize("from_client", [True, False])
@given(st.lists(_SAYINGS, max_size=6), st.sampled_from((1000, 1001, 1005, 3000, 4401)), st.data())
def test_one_side_hears_what_the_other_says(
    from_client: bool, sayings: list[tuple[str, str | bytes]], code: int, data: st.DataObject
) -> None:
    writer, reader = (client(), server()) if from_client else (server(), client())
    stream = b"".join(say(writer, kind, value) for kind, value in sayings) + writer.close(code, "")
    said = listen(reader, data.draw(splits(stream)))
    assert [each[1:] for each in said] == [*sayings, ("CloseReceived", code)]
    answer = reader.close(code)
    assert [each[1:] for each in listen(writer, data.draw(splits(answer)))] == [("CloseReceived", code)]
    assert (reader.close(code), writer.close(code)) == (b"", b"")
    assert (reader.pong(b""), writer.pong(b"")) == (b"", b"")


def test_a_server_writes_these_bytes() -> None:
    writer = server()
    assert writer.ping(b"hey") == b"\x89\x03hey"
    assert writer.pong(b"you") == b"\x8a\x03you"
    assert writer.binary(b"\x00") == b"\x82\x01\x00"
    assert writer.close(4408, "late") == b"\x88\x06\x11\x38late"
    assert writer.close(4408, "late") == b""
    assert writer.pong(b"you") == b"", "no pong follows a Close (RFC 6455 section 5.5.1)"
    assert server().close(1005) == b"\x88\x00"


def test_a_client_masks_what_it_writes() -> None:
    frame = client().text(b"hola")
    assert frame[:2] == b"\x81\x84"
    assert len(frame) == 10
    assert len({client().text(b"hola")[2:6] for _ in range(8)}) > 1, "with a fresh key (RFC 6455 section 5.3)"
    assert MASK not in {client().text(b"hola")[2:6] for _ in range(2)}
