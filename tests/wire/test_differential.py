"""Our `wire` beside the sans-IO server of the package `websockets`: the same frames mean the same to both.

Where they do not, `DIFFERENCES` says so, with the reason: it is consulted here, shown in docs/differences.md, and each
row of it is met by its example. Whatever differs and is not on the list fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame as ForeignFrame
from websockets.frames import Opcode
from websockets.http11 import Request as ForeignRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from qaws_proto.config import CompressionConfig, LimitsConfig
from qaws_proto.testing.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    byte_by_byte,
    close_payload,
    dump,
    fragmented,
)
from qaws_proto.testing.peer import compressed, upgrade
from qaws_proto.testing.strategies import (
    OFFER,
    badly_compressed,
    compressed_messages,
    frame_streams,
    good_frames,
    splits,
)
from qaws_proto.wire.deflate import Deflate
from qaws_proto.wire.frames import BinaryReceived, CloseReceived, PingReceived, TextReceived, Violated
from qaws_proto.wire.http import Request
from qaws_proto.wire.link import ByteLink

LIMIT = 1024  # bytes of a message, for both
LIMITS = LimitsConfig(max_message_size=LIMIT, max_fragments=1024)  # theirs knows no limit of fragments: out of reach
HEAD = upgrade("/", OFFER)

Said = tuple[str, str | bytes]


class Outcome(NamedTuple):
    """What one side made of a stream: messages and pings in order, and how it ended: the code it sent, and why."""

    said: tuple[Said, ...]
    code: int | None  # None: it goes on
    why: str
    at: int  # bytes of the stream that had come when it ended


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ours(stream: bytes, reads: Sequence[bytes], *, deflate: bool) -> Outcome:
    """What our link makes of frames behind an upgrade, driven as a connection does; its writes are read back."""
    link = ByteLink(LIMITS, Deflate(CompressionConfig(enabled=True)) if deflate else None)
    link.receive(HEAD)
    request = link.next_event()
    assert isinstance(request, Request)
    link.accept(request, None)
    said: list[Said] = []
    written, end, at = b"", None, 0
    for read in reads:
        at += len(read)
        link.receive(read)
        while (event := link.next_event()) is not None:
            assert end is None, f"{event} behind the end"
            if isinstance(event, TextReceived):
                said.append(("text", event.text))
            elif isinstance(event, BinaryReceived):
                said.append(("binary", event[0]))
            elif isinstance(event, PingReceived):
                said.append(("ping", event.payload))
                written += link.pong(event.payload)
            elif isinstance(event, CloseReceived):
                written += link.close(event.code)
                end = ("the peer closed", at)
            elif isinstance(event, Violated):
                assert event.fault.value.close is not None
                written += link.close(event.fault.value.close)
                end = (event.fault.name, at)
    return Outcome(tuple(said), sent(written, said), *(end or ("", at)))


def sent(written: bytes, said: Sequence[Said]) -> int | None:
    """The code that a server has sent, which has answered every ping before it."""
    pongs: list[bytes] = []
    codes: list[int] = []
    while written:
        assert not codes, "a frame behind Close"
        opcode, payload = written[0] & 15, written[2 : 2 + written[1]]
        assert written[1] < 126
        if opcode == CLOSE:
            codes.append(int.from_bytes(payload[:2]) if payload else 1005)
        else:
            assert opcode == PONG
            pongs.append(payload)
        written = written[2 + len(payload) :]
    assert pongs == [value for kind, value in said if kind == "ping"]
    return codes[0] if codes else None


# ── theirs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Theirs:
    """Their server, and what the drivers of that package do for it: they join fragments and decode text."""

    def __init__(self, *, deflate: bool) -> None:
        factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
        self.protocol = ServerProtocol(max_size=LIMIT, extensions=[factory] if deflate else None)
        self.said: list[Said] = []
        self._kind: Opcode | None = None
        self._message = b""
        self._badly = False
        self._written = b""

    def receive(self, read: bytes) -> None:
        self.protocol.receive_data(read)
        for event in self.protocol.events_received():
            if isinstance(event, ForeignRequest):
                self.protocol.send_response(self.protocol.accept(event))
                self.protocol.data_to_send()
            else:
                assert isinstance(event, ForeignFrame)
                self._take(event)
        self._written += b"".join(self.protocol.data_to_send())

    def _take(self, frame: ForeignFrame) -> None:
        if frame.opcode is Opcode.PING:
            self.said.append(("ping", bytes(frame.data)))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._kind = self._kind or frame.opcode
            self._message += bytes(frame.data)
            if frame.fin:
                self._finish()

    def _finish(self) -> None:
        message, kind, self._message, self._kind = self._message, self._kind, b"", None
        if kind is Opcode.BINARY:
            self.said.append(("binary", message))
            return
        try:
            self.said.append(("text", message.decode()))
        except UnicodeDecodeError:
            self._badly = True
            self.protocol.fail(1007)

    def outcome(self, at: int) -> Outcome:
        protocol = self.protocol
        if protocol.state is State.OPEN:
            return Outcome(tuple(self.said), None, "", at)
        assert protocol.close_sent is not None
        assert sent(self._written, self.said) == protocol.close_sent.code
        why = "no text" if self._badly else str(protocol.parser_exc or "the peer closed")
        return Outcome(tuple(self.said), protocol.close_sent.code, why, at)


def theirs(stream: bytes, *, deflate: bool) -> Outcome:
    """What their server makes of it, byte by byte: only so it hears at once what its driver makes of a text."""
    side = Theirs(deflate=deflate)
    side.receive(HEAD)
    assert side.protocol.state is State.OPEN
    end = len(stream)
    for at, read in enumerate(byte_by_byte(stream) if stream else [], 1):
        side.receive(read)
        if side.protocol.state is not State.OPEN and end == len(stream):
            end = at
    return side.outcome(end)


# ── what differs ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Header(NamedTuple):
    """The header of a frame, whatever is wrong with it, and where the frame begins."""

    begin: int
    opcode: int
    fin: bool
    rsv: int
    length: int
    minimal: bool


def header_at(stream: bytes, at: int) -> Header | None:
    """The header of the frame that byte number `at` of a stream is the last one of, or stands in."""
    begin = 0
    while begin + 2 <= len(stream):
        first, second = stream[begin], stream[begin + 1]
        length, size = second & 127, 2
        if length > 125:
            least, size = (126, 4) if length == 126 else (65536, 10)
            length = int.from_bytes(stream[begin + 2 : begin + size])
        minimal = size == 2 or length >= least
        end = begin + size + (4 if second & 128 else 0) + length
        if at <= end:
            return Header(begin, first & 15, first > 127, first >> 4 & 7, length, minimal)
        begin = end
    return None


class Difference(NamedTuple):
    """One way in which both sides may differ: when it applies, and a stream that shows it (compressed or not)."""

    what: str
    rfc: str
    reason: str
    applies: Callable[[Outcome, Outcome, bytes], bool]
    example: bytes
    deflate: bool = False


def only_pings_more(mine: Outcome, other: Outcome) -> bool:
    more = other.said[len(mine.said) :]
    return other.said[: len(mine.said)] == mine.said and all(kind == "ping" for kind, _ in more)


def is_long_form(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    header = header_at(stream, mine.at)
    return mine.why == "PROTOCOL_VIOLATION" and header is not None and not header.minimal


def is_certain_sooner(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    """We refuse in the middle of a frame, and they have not seen its end."""
    return mine.why not in ("", "the peer closed", "INVALID_UTF8") and other.code is None and mine.said == other.said


def is_text_sooner(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    return mine.why == "INVALID_UTF8" and other.at >= mine.at and only_pings_more(mine, other)


def is_length_first(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    """Both refuse the same frame, of which two things are wrong."""
    same = header_at(stream, mine.at), header_at(stream, other.at)
    return mine.why == "PROTOCOL_VIOLATION" and other.code == 1009 and same[0] == same[1] and mine.said == other.said


def is_code_first(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    """The code of a Close is wrong, and its reason is no text."""
    header = header_at(stream, mine.at)
    close = header is not None and header.opcode == CLOSE and (mine.said, mine.at) == (other.said, other.at)
    return close and mine.why == "PROTOCOL_VIOLATION" and other.code == 1007


def is_close_in_message(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    incomplete = other.why == "incomplete fragmented message"
    return mine.why == "the peer closed" and incomplete and (mine.said, mine.at) == (other.said, other.at)


def is_1014(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    return mine.why == "PROTOCOL_VIOLATION" and other.code == 1014 and (mine.said, mine.at) == (other.said, other.at)


def is_small_room(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    header = header_at(stream, other.at)
    room = other.code == 1009 and header is not None and header.opcode > 7
    return room and mine.at >= other.at and mine.said[: len(other.said)] == other.said


def is_bad_stream(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    return mine.why == "BAD_COMPRESSION" and other.why == "decompression failed" and mine.said == other.said


def is_unfinished_stream(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    """They hear a message in it, or go on to hear one."""
    later = other.at >= mine.at and other.said[: len(mine.said)] == mine.said
    return mine.why == "BAD_COMPRESSION" and later and not is_bad_stream(mine, other, stream)


def is_large_on_the_wire(mine: Outcome, other: Outcome, stream: bytes) -> bool:
    header = header_at(stream, other.at)
    large = other.code == 1009 and header is not None and header.opcode < 8
    return large and mine.at >= other.at and mine.said[: len(other.said)] == other.said and header is not None


DIFFERENCES = [
    Difference(
        "A length that would fit into a shorter form is a violation; theirs takes it.",
        "RFC 6455 section 5.2", "“the minimal number of bytes MUST be used to encode the length”",
        is_long_form, Frame(TEXT, b"hi", width=2).dump(),
    ),
    Difference(
        "What breaks a rule is refused with the byte that makes it certain, often in the header; theirs reads the "
        "whole frame first.",
        "RFC 6455 section 7.1.7", "nobody who breaks the rules can make a server hold what is not going to be used",
        is_certain_sooner, Frame(TEXT, b"hi", rsv=2).dump()[:-1],
    ),
    Difference(
        "Text that is no UTF-8 is refused with the first wrong byte, also within a message; theirs decodes whole "
        "messages, and answers pings until then.",
        "RFC 6455 section 8.1", "the section lets an endpoint fail as soon as it sees the byte",
        is_text_sooner, dump([Frame(TEXT, b"\xff", fin=False), Frame(PING, b"x"), Frame(CONTINUATION)]),
    ),
    Difference(
        "Of a frame that breaks a rule and is too large, the rule is named (1002); theirs looks at the size first "
        "(1009).",
        "RFC 6455 section 7.4.1", "a length that no frame can have, or of a frame that may not stand there, is no size",
        is_length_first, Frame(TEXT, b"", rsv=2, length=LIMIT + 1).dump(),
    ),
    Difference(
        "Of a Close with a wrong code and a reason that is no UTF-8, the code is named (1002); theirs names the text "
        "(1007).",
        "RFC 6455 section 7.4.1", "the code comes first",
        is_code_first, Frame(CLOSE, close_payload(1005, b"\xff")).dump(),
    ),
    Difference(
        "A Close between the fragments of a message is a Close, and its code is answered; theirs answers 1002.",
        "RFC 6455 sections 5.4 and 5.5.1", "control frames may stand in the middle of a message, and Close is one",
        is_close_in_message, dump([Frame(TEXT, b"a", fin=False), Frame(CLOSE, close_payload(1000))]),
    ),
    Difference(
        "Close code 1014 is refused with 1002; theirs answers it.",
        "RFC 6455 section 7.4.2", "it was registered for gateways after the RFC, and says nothing to a server",
        is_1014, Frame(CLOSE, close_payload(1014)).dump(),
    ),
    Difference(
        "The limit of a message is no limit of a control frame; theirs refuses one that is larger than what is left "
        "of it.",
        "RFC 6455 section 5.5", "125 bytes are what limits it",
        is_small_room, dump([Frame(BINARY, b"a" * (LIMIT - 1), fin=False), Frame(PING, b"ab")]),
    ),
    Difference(
        "A message that is not compressed as agreed is invalid data (1007); theirs is a protocol error (1002).",
        "RFC 7692 section 7.2.2", "the RFC names no code; the frame is well formed, what is in it is not",
        is_bad_stream, Frame(TEXT, b"\xff\xff\xff", rsv=4).dump(), True,
    ),
    Difference(
        "A compressed message has to end where a block does; theirs gives out what it has by then.",
        "RFC 7692 section 7.2.2", "what was cut off would be taken for the whole",
        is_unfinished_stream, Frame(TEXT, compressed(b"x" * 500)[:-1], rsv=4).dump(), True,
    ),
    Difference(
        "A compressed message may be larger on the wire than the limit, which is of what it says; theirs limits "
        "both.",
        "RFC 7692 section 7.2.1", "what cannot be compressed becomes larger by a few bytes",
        is_large_on_the_wire, Frame(BINARY, compressed(b"a" * LIMIT, level=0), rsv=4).dump(), True,
    ),
]  # fmt: skip


def check(stream: bytes, reads: Sequence[bytes], *, deflate: bool) -> list[Difference]:
    """Both make the same of a stream, or differ as agreed; the rows that say so."""
    in_reads, mine, other = (
        ours(stream, reads, deflate=deflate),
        ours(stream, byte_by_byte(stream) if stream else [], deflate=deflate),
        theirs(stream, deflate=deflate),
    )
    assert in_reads[:3] == mine[:3], "reads matter"
    if mine[:2] == other[:2]:
        return []
    rows = [row for row in DIFFERENCES if row.deflate <= deflate and row.applies(mine, other, stream)]
    assert rows, f"not on the list:\n  ours   {mine}\n  theirs {other}"
    return rows


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_shows_each_difference() -> None:
    shown = (Path(__file__).parents[2] / "docs" / "differences.md").read_text("utf-8")
    assert [row for row in DIFFERENCES if f"| {row.what} | {row.reason} | {row.rfc} |" not in shown] == []


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.what[:50])
def test_each_difference_is_met_by_its_example(row: Difference) -> None:
    assert row in check(row.example, [row.example], deflate=row.deflate)


@st.composite
def near_the_limit(draw: st.DrawFn) -> bytes:
    """Messages of about as many bytes as there may be, in fragments, with pings between them."""
    size = draw(st.integers(LIMIT - 2, LIMIT + 2))
    places = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    pieces = [b"a" * (end - begin) for begin, end in zip([0, *places], [*places, size], strict=True)]
    frames: list[Frame] = []
    for each in fragmented(draw(st.sampled_from([TEXT, BINARY])), pieces):
        frames += [*draw(st.lists(st.builds(Frame, st.just(PING), st.binary(max_size=9)), max_size=1)), each]
    return dump(frames)


_PAYLOADS = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.builds(lambda piece, times: (piece * times).encode(), st.text(max_size=9), st.integers(0, 300)),
)
_MESSAGES = st.one_of(compressed_messages(_PAYLOADS).map(lambda both: both[1]), badly_compressed(_PAYLOADS))


@st.composite
def compressed_frames(draw: st.DrawFn) -> bytes:
    """Compressed messages, good and bad, in fragments."""
    message = draw(_MESSAGES)
    places = sorted(draw(st.lists(st.integers(0, len(message)), max_size=2)))
    pieces = [message[begin:end] for begin, end in zip([0, *places], [*places, len(message)], strict=True)]
    first, *rest = fragmented(draw(st.sampled_from([TEXT, BINARY])), pieces)
    ping = [Frame(PING, b"p")] * draw(st.integers(0, 1))
    return dump([replace(first, rsv=4), *ping, *rest])


streams = st.lists(st.one_of(frame_streams(), good_frames().map(dump), near_the_limit()), min_size=1, max_size=3).map(
    b"".join
)
compressed_streams = st.lists(
    st.one_of(frame_streams(), good_frames().map(dump), compressed_frames(), compressed_frames()),
    min_size=1,
    max_size=3,
).map(b"".join)


@pytest.mark.row("F1")
@pytest.mark.row("F2")
@pytest.mark.row("F3")
@pytest.mark.row("F6")
@pytest.mark.row("F9")
@given(streams, st.data())
def test_frames_mean_the_same_to_both(stream: bytes, data: st.DataObject) -> None:
    check(stream, data.draw(splits(stream)), deflate=False)


@pytest.mark.row("F1")
@pytest.mark.row("F5")
@pytest.mark.row("F6")
@given(compressed_streams, st.data())
def test_compressed_messages_mean_the_same_to_both(stream: bytes, data: st.DataObject) -> None:
    check(stream, data.draw(splits(stream)), deflate=True)
