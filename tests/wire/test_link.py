"""The joint of HTTP and frames: what is pipelined, refused, discarded and counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.config import LimitsConfig
from qaws_proto.faults import Fault
from qaws_proto.testing.frames import CLOSE, PING, TEXT, Frame, byte_by_byte, close_payload, dump, fragmented
from qaws_proto.testing.strategies import frame_streams, splits
from qaws_proto.wire.frames import TextReceived, Violated
from qaws_proto.wire.http import Request, refusal
from qaws_proto.wire.link import ByteLink
from tests.helpers.wire import Heard, decode, heard, said_in_reads
from tests.wire.test_http import head

LIMITS = LimitsConfig(max_message_size=1024, max_fragments=4)
HEAD = head()
ANSWER = refusal(Fault.NOT_FOUND)


class Conversation:
    """A link and what it has said; it accepts the request as a connection does, once it has the patience."""

    def __init__(self, patience: int = 0) -> None:
        self.link = ByteLink(LIMITS)
        self.said: list[Heard] = []
        self.request: Request | None = None
        self.sent = b""
        self._at = 0
        self._patience = patience  # reads that come between the request and its answer

    def receive(self, read: bytes) -> None:
        self._at += len(read)
        self.link.receive(read)
        self._listen()
        if self.request is not None and not self.link.upgraded:
            if self._patience == 0:
                self.sent += self.link.accept(self.request, None)
                self._listen()
            self._patience -= 1

    def _listen(self) -> None:
        while (event := self.link.next_event()) is not None:
            if isinstance(event, Request):
                assert self.request is None
                self.request = event
            else:
                self.said.append(heard(self._at, event))


@pytest.mark.row("H7")
@pytest.mark.row("F9")
@pytest.mark.clause("C3")
@given(frame_streams(), st.data())
def test_what_is_behind_the_head_is_read_as_frames(behind: bytes, data: st.DataObject) -> None:
    """Whatever the reads, across the 101 too."""
    reads = data.draw(splits(HEAD + behind))
    conversation = Conversation()
    for read in reads:
        conversation.receive(read)
    should = decode(behind, client=False, max_message=1024, max_fragments=4)
    moved = [each._replace(at=each.at + len(HEAD)) for each in should]
    assert conversation.said == said_in_reads(moved, reads)
    assert conversation.sent.startswith(b"HTTP/1.1 101 ")
    assert conversation.request is not None
    assert conversation.request.target == "/"


@pytest.mark.row("H7")
@given(st.integers(0, 3), st.data())
def test_an_answer_that_takes_a_while_loses_nothing(patience: int, data: st.DataObject) -> None:
    conversation = Conversation(patience)
    frames = dump([Frame(TEXT, b"a"), Frame(PING, b"b")])
    reads = [*data.draw(splits(HEAD + frames)), b"", b"", b"", b""]
    for read in reads:
        conversation.receive(read)
    assert [each[1:] for each in conversation.said] == [("TextReceived", "a"), ("PingReceived", b"b")]


def test_a_link_says_where_it_is() -> None:
    link = ByteLink(LIMITS)

    def place() -> tuple[bool, bool, int, int, bool]:
        return link.began, link.upgraded, link.held, link.frames, link.unfinished

    assert place() == (False, False, 0, 0, False)
    link.receive(b"GET")
    assert link.next_event() is None
    assert place() == (True, False, 3, 0, False)
    assert not link.readable
    link.receive(HEAD[3:] + b"\x81")
    request = link.next_event()
    assert isinstance(request, Request)
    assert link.next_event() is None
    assert place() == (True, False, len(HEAD) + 1, 0, False)
    assert link.waiting == 1
    link.accept(request, "qaws.v1")
    assert place() == (True, True, 1, 0, False)
    assert link.waiting == 1
    assert link.next_event() is None
    assert place() == (True, True, 1, 1, True)
    assert link.waiting == 0
    assert link.readable
    link.stop()
    assert place() == (True, True, 0, 1, False)
    assert not link.readable


@pytest.mark.row("H9")
@pytest.mark.row("F9")
@pytest.mark.clause("C6")
@pytest.mark.parametrize("pipelined", [b"", HEAD, b"\x00" * 100])
def test_what_comes_behind_a_refused_head_is_ignored(pipelined: bytes) -> None:
    """The node refuses it, or the head was none."""
    for stream, event in ((HEAD, Request), (b"GET / HTTP/1.0\r\n", Violated), (b"\x16", Violated)):
        link = ByteLink(LIMITS)
        link.receive(stream + pipelined)
        assert isinstance(link.next_event(), event)
        assert link.next_event() is None
        assert link.refuse(ANSWER, 1002, "not found") == ANSWER.encode()
        for read in (HEAD, b"", pipelined):
            link.receive(read)
            assert link.next_event() is None
        assert (link.began, link.upgraded, link.held, link.waiting, link.readable) == (True, False, 0, 0, False)
        link.stop()


@pytest.mark.row("H9")
@pytest.mark.parametrize(
    ("stream", "bodyless"),
    [
        (head("HEAD / HTTP/1.1"), True),
        (head("HEAD /nothing HTTP/1.1"), True),
        (b"HEAD / HTTP/1.0\r\n", True),
        (b"HEAD /" + b"a" * 5000, True),
        (b"HEADER / HTTP/1.1\r\n\r\n", False),
        (b"HEAD", False),
        (HEAD, False),
        (b"", False),
    ],
)
def test_head_is_answered_without_a_body(stream: bytes, bodyless: bool) -> None:
    link = ByteLink(LIMITS)
    link.receive(stream)
    assert link.refuse(ANSWER, 1002, "not found") == ANSWER.encode(bodyless=bodyless)


def test_a_link_answers_once() -> None:
    link = ByteLink(LIMITS)
    link.receive(HEAD)
    request = link.next_event()
    assert isinstance(request, Request)
    link.accept(request, None)
    with pytest.raises(AssertionError, match="answers once"):
        link.accept(request, None)
    with pytest.raises(AssertionError, match="answers once"):
        link.refuse(ANSWER, 1002, "not found")


@pytest.mark.row("F8")
def test_frames_are_counted_up_to_the_number_asked_for() -> None:
    link = ByteLink(LIMITS)
    link.receive(HEAD + dump([Frame(TEXT, b"1"), *fragmented(TEXT, [b"2", b"3"]), Frame(TEXT, b"4")]))
    request = link.next_event(0)
    assert isinstance(request, Request), "a head is no frame"
    link.accept(request, None)
    assert link.next_event(0) is None
    assert link.waiting == 28
    assert link.next_event(2) == TextReceived("1")
    assert link.next_event(2) is None
    assert (link.frames, link.waiting, link.unfinished) == (2, 14, True)
    assert link.next_event(4) == TextReceived("23")
    assert link.next_event(4) == TextReceived("4")
    assert link.next_event(4) is None
    assert (link.frames, link.waiting, link.unfinished) == (4, 0, False)


def test_a_close_without_a_reason_says_none() -> None:
    link = ByteLink(LIMITS)
    link.receive(HEAD)
    request = link.next_event()
    assert isinstance(request, Request)
    link.accept(request, None)
    assert link.close(1001) == b"\x88\x02\x03\xe9"


@pytest.mark.row("F9")
def test_a_close_can_be_sent_once_the_101_is_out() -> None:
    link = ByteLink(LIMITS)
    assert link.close(1001) == b""
    link.receive(HEAD)
    request = link.next_event()
    assert isinstance(request, Request)
    assert link.close(1001) == b""
    link.accept(request, None)
    assert link.ping() == b"\x89\x00"
    assert link.ping(b"a") == b"\x89\x01a"
    assert link.pong(b"a") == b"\x8a\x01a"
    assert link.close(1001, "bye") == b"\x88\x05\x03\xe9bye"
    assert link.close(1001) == b""
    assert link.pong(b"a") == b""
    conversation = []
    for read in byte_by_byte(dump([Frame(TEXT, b"late"), Frame(CLOSE, close_payload(1001)), Frame(TEXT, b"later")])):
        link.receive(read)
        conversation += [event for event in [link.next_event()] if event is not None]
    assert conversation == [("late",), (1001,)]
    assert (link.held, link.readable) == (0, False)


@pytest.mark.row("F3")
@pytest.mark.row("F4")
def test_the_limits_are_those_of_the_configuration() -> None:
    for frames, fault in (
        ([Frame(TEXT, length=1025)], Fault.MESSAGE_TOO_BIG),
        (fragmented(TEXT, [b""] * 5), Fault.TOO_MANY_FRAGMENTS),
    ):
        conversation = Conversation()
        conversation.receive(HEAD + dump(frames))
        assert [each.value for each in conversation.said] == [fault]
    conversation = Conversation()
    conversation.receive(HEAD + dump([Frame(TEXT, b"a" * 1024), *fragmented(TEXT, [b""] * 4)]))
    assert [each.value for each in conversation.said] == ["a" * 1024, ""]
