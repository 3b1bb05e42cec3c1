"""What users test their gateways with: each strategy makes what it says, and reaches what it is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from qaws_proto import inputs
from qaws_proto.events import Ack, Auth, Cancel, ChatMessage, ClientEvents, Ping, Refused, Resume
from qaws_proto.faults import Fault
from qaws_proto.testing import strategies
from qaws_proto.testing.frames import BINARY, CONTINUATION, PING, Cut, Frame, byte_by_byte, dump
from qaws_proto.testing.histories import AT_CLIENT, AT_NODE, AT_RUN, Act, in_reads_of, perform, play
from qaws_proto.testing.node import NodeUnderTest, configure, token
from qaws_proto.testing.peer import text, upgrade
from qaws_proto.wire.frames import (
    BinaryReceived,
    CloseReceived,
    FrameEvent,
    Frames,
    PingReceived,
    TextReceived,
    Violated,
)
from qaws_proto.wire.http import HeadReader, Request, check_request, check_upgrade

EVENTS = ClientEvents([Auth, ChatMessage, Cancel, Resume, Ack, Ping], depth=32)
LIMITS = configure().limits
TOKENS = [token("ana"), "wrong"]
Made = TypeVar("Made")
GENERATE = settings(max_examples=4000, database=None, phases=[Phase.generate], deadline=None)


def reach(strategy: st.SearchStrategy[Made], wanted: Iterable[Any], found: Callable[[Made], Iterable[Any]]) -> None:
    """All that is wanted is found in the first few thousand that a strategy makes; they are the same every time."""
    missing = set(wanted)

    def is_last(made: Made) -> bool:
        missing.difference_update(found(made))
        return not missing

    try:
        find(strategy, is_last, settings=GENERATE, random=Random(1))
    except NoSuchExample:
        pytest.fail(f"never made: {missing}")


def heard(data: bytes, *, client: bool = False, deflate: bool = False) -> list[FrameEvent]:
    """What bytes behind an upgrade say."""
    frames = Frames(client=client, max_message=1024, max_fragments=4, deflate=deflate)
    frames.receive(data)
    return list(iter(frames.next_event, None))


def kinds(said: Iterable[FrameEvent]) -> Iterator[Fault | type[FrameEvent]]:
    """What is wrong with what was said, or of which kinds it is."""
    return (event.fault if isinstance(event, Violated) else type(event) for event in said)


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(strategies.events(TOKENS, st.text(st.characters(exclude_characters="\0"), min_size=1)))
def test_events_are_taken(event: dict[str, Any]) -> None:
    assert not isinstance(EVENTS.parse(json.dumps(event)), Refused)


@given(strategies.bad_events())
def test_bad_events_are_refused(event: str) -> None:
    assert isinstance(EVENTS.parse(event), Refused)


def test_events_are_of_every_type() -> None:
    reach(strategies.events(TOKENS), EVENTS.types.values(), lambda event: [event["type"]])


def test_bad_events_are_bad_in_every_way() -> None:
    def refused(event: str) -> list[Fault]:
        parsed = EVENTS.parse(event)
        return [parsed.fault] if isinstance(parsed, Refused) else []

    reach(strategies.bad_events(), [Fault.INVALID_JSON, Fault.UNKNOWN_EVENT, Fault.INVALID_EVENT], refused)


def test_the_texts_of_chats_can_be_given() -> None:
    mine = st.just("what I ask for")
    for strategy in (strategies.chats(mine), strategies.events([], mine)):
        reach(strategy, ["what I ask for"], lambda event: [event.get("content")])


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(strategies.good_frames())
def test_good_frames_break_no_rule_of_frames(frames: list[Frame]) -> None:
    reader = Frames(client=False, max_message=1 << 20, max_fragments=1000)
    reader.receive(dump(frames))
    assert not any(isinstance(event, Violated | CloseReceived) for event in iter(reader.next_event, None))
    assert not reader.unfinished


@given(strategies.event_frames(TOKENS))
def test_frames_of_events_break_no_rule(data: bytes) -> None:
    reader = Frames(client=False, max_message=4096, max_fragments=4, deflate=True)
    reader.receive(data)
    said = list(iter(reader.next_event, None))
    assert said
    assert not any(isinstance(event, Violated | CloseReceived) for event in said)
    assert not reader.unfinished


def test_good_frames_have_fragments_with_a_ping_between_them() -> None:
    def pairs(frames: list[Frame]) -> Iterator[tuple[bool, int]]:
        return ((one.fin, two.opcode) for one, two in pairwise(frames))

    reach(strategies.good_frames(), [(False, PING), (False, CONTINUATION)], pairs)


@pytest.mark.parametrize("client", [False, True])
def test_streams_of_frames_keep_the_rules_and_break_them(client: bool) -> None:
    wanted = [TextReceived, BinaryReceived, PingReceived, Fault.PROTOCOL_VIOLATION, Fault.INVALID_UTF8]
    reach(strategies.frame_streams(client=client), wanted, lambda data: kinds(heard(data, client=client)))


def test_broken_frames_break_every_rule() -> None:
    wanted = [Fault.PROTOCOL_VIOLATION, Fault.INVALID_UTF8, Fault.MESSAGE_TOO_BIG, Fault.TOO_MANY_FRAGMENTS]
    wanted += [Fault.BAD_COMPRESSION]
    reach(strategies.broken_frames(), wanted, lambda data: kinds(heard(data, deflate=True)))


def test_messages_are_made_on_both_sides_of_the_limit() -> None:
    """Plain and compressed ones."""

    def around(data: bytes) -> Iterator[tuple[int, object]]:
        for event in heard(data, deflate=True):
            large = isinstance(event, TextReceived) and len(event.text) > 1000
            yield data[0], "large" if large else event[0]

    wanted = [(first, said) for first in (0x81, 0xC1) for said in ("large", Fault.MESSAGE_TOO_BIG)]
    reach(strategies.broken_frames(1024), wanted, around)


@given(strategies.compressed_messages(st.binary(max_size=100)))
def test_compressed_messages_say_their_payload(made: tuple[bytes, bytes]) -> None:
    payload, message = made
    assert heard(Frame(BINARY, message, rsv=4).dump(), deflate=True) == [BinaryReceived(payload)]


def test_bad_compression_is_mostly_bad() -> None:
    """What was changed may say something else, or the same."""
    payloads = st.binary(min_size=1, max_size=100)
    wanted = [Fault.BAD_COMPRESSION, BinaryReceived]
    strategy = strategies.badly_compressed(payloads)
    reach(strategy, wanted, lambda message: kinds(heard(Frame(BINARY, message, rsv=4).dump(), deflate=True)))


@given(strategies.cuts(st.binary(max_size=40)))
def test_reads_are_all_the_bytes_in_order(made: Cut) -> None:
    assert b"".join(made.reads) == made.data


def test_reads_are_whole_and_single_bytes_and_empty() -> None:
    data = b"some bytes"
    wanted = [(data,), tuple(byte_by_byte(data)), (b"", data)]
    reach(strategies.splits(data), wanted, lambda reads: [tuple(reads)])


# ── requests and byte streams ────────────────────────────────────────────────────────────────────────────────────────


def verdict_of(head: bytes) -> Request | Fault | None:
    verdict = HeadReader(LIMITS).receive(head)
    return check_request(verdict) or check_upgrade(verdict) or verdict if isinstance(verdict, Request) else verdict


@given(strategies.upgrades(TOKENS, "/chat"))
def test_upgrades_are_good(head: bytes) -> None:
    request = verdict_of(head)
    assert isinstance(request, Request)
    assert request.path == "/chat"


@given(strategies.requests(TOKENS))
def test_requests_are_good_http(head: bytes) -> None:
    assert isinstance(HeadReader(LIMITS).receive(head), Request)


def test_heads_are_also_none() -> None:
    wanted = {None, Fault.BAD_REQUEST, Fault.BAD_VERSION, Fault.NOT_WEBSOCKET, Fault.NO_UPGRADE, Fault.BODY_REFUSED}
    reach(strategies.heads(), wanted, lambda head: wanted & {verdict_of(head)})


def ends_of(stream: bytes) -> Iterator[tuple[bool, int]]:
    """Whether a run was begun for one who said this, and the status or the code it ended with."""
    node = NodeUnderTest(configure(limits={"max_message_size": 1024, "max_fragments": 4}))
    client = node.open()
    client.send_bytes(stream)
    node.settle()
    if client.stream.head is not None:
        yield bool(node.started), client.stream.head.status
    if client.stream.closed is not None:
        yield bool(node.started), client.stream.closed[0]


def test_byte_streams_are_refused_or_hold_conversations_and_end_them() -> None:
    wanted = [(False, 400), (False, 404), (False, 505), (True, 101), (True, 1000), (True, 1002), (True, 1009)]
    reach(strategies.byte_streams(TOKENS), [*wanted, (False, 1007), (False, 1003)], ends_of)


# ── histories ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_act_is_done() -> None:
    acts = ["say", *AT_NODE, *AT_RUN, *AT_CLIENT]
    reach(strategies.histories(tokens=TOKENS, keys=[b"{}"]), acts, lambda history: {act.do for act in history})


def test_what_is_no_act_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'shout' is no act: answer, .*say.*"):
        perform(NodeUnderTest(), Act("shout"))


@pytest.mark.parametrize("act", [Act("say", 0, b"x"), Act("block"), Act("answer", 0, "x"), Act("late"), Act("keys")])
def test_an_act_that_nobody_is_there_for_is_none(act: Act) -> None:
    node = NodeUnderTest()
    perform(node, act)
    assert node.history == []


@given(strategies.histories(tokens=TOKENS, users=["ana"]), st.booleans(), st.lists(st.integers(1, 300), min_size=1))
def test_a_history_can_be_played_on_ones_own_node(history: list[Act], authenticate: bool, sizes: list[int]) -> None:
    node = NodeUnderTest(configure(authentication=authenticate), prompt=False)
    assert play(history, node, in_reads_of(sizes), paused=False) is node
    assert len(node.marks) == len(history)


@given(strategies.histories(tokens=TOKENS, keys=[b"{}", None]))
def test_a_printed_history_can_be_pasted(history: list[Act]) -> None:
    printed = repr(history)
    assert repr(eval(printed, {**vars(inputs), "Act": Act})) == printed


def test_histories_come_to_every_end() -> None:
    def ends(history: Sequence[Act]) -> Iterator[object]:
        node = play(history, NodeUnderTest(configure(authentication=True), prompt=False))
        yield from (note.fields["end"] for note in node.notes if note.name == "run_ended")
        yield from (one.stream.closed[0] for one in node.clients.values() if one.stream.closed)
        if node.drained:
            yield "drained"

    reach(strategies.histories(tokens=TOKENS), ["completed", "cancelled", "drained", 404, 4401, 4403], ends)


def test_a_history_is_cut_as_asked() -> None:
    node = play([Act("open"), Act("say", 0, upgrade() + text("x"))], NodeUnderTest(), in_reads_of([7, 50]))
    reads = [event.data for event, _, _ in node.history if isinstance(event, inputs.BytesReceived)]
    assert [len(read) for read in reads[:4]] == [7, 50, 7, 50]
    assert b"".join(reads) == upgrade() + text("x")
