"""The wire behind a host that does HTTP and frames: what is read of its messages, and what it is told."""

from __future__ import annotations

import pytest

from qaws_proto.config import LimitsConfig
from qaws_proto.effects import AcceptUpgrade, SendClose, SendMessage, SendResponse
from qaws_proto.faults import Fault
from qaws_proto.wire.frames import BinaryReceived, CloseReceived, Encoded, TextReceived, Violated
from qaws_proto.wire.http import Request, refusal, response
from qaws_proto.wire.link import MessageLink, WireEvent

LIMITS = LimitsConfig(max_message_size=1024)
NUMBER = 7
ANSWER = refusal(Fault.AT_CAPACITY, retry_after=5)


def asking(method: str = "GET", *headers: tuple[str, str]) -> Request:
    return Request(method, "/", (("host", "localhost"), *headers))


def link(method: str = "GET", *, upgrade: bool = True, denial: bool = True) -> MessageLink:
    """A link whose request is not looked at yet."""
    return MessageLink(NUMBER, asking(method), LIMITS, upgrade=upgrade, denial=denial)


def opened() -> MessageLink:
    """A link behind its handshake."""
    made = link()
    request = made.next_event()
    assert isinstance(request, Request)
    made.accept(request, None)
    return made


def said(made: MessageLink) -> list[WireEvent]:
    """Everything that it says now."""
    events = []
    while (event := made.next_event()) is not None:
        events.append(event)
    return events


def heard(made: MessageLink, data: str | bytes) -> list[WireEvent]:
    """What it says of a message."""
    made.receive(data)
    return said(made)


def test_the_request_comes_first_and_once() -> None:
    made = link()
    assert said(made) == [asking()]
    assert said(made) == []


def test_a_link_says_where_it_is_and_holds_nothing() -> None:
    made = link()
    assert (made.framed, made.began, made.upgraded, made.frames) == (True, True, False, 0)
    made = opened()
    heard(made, "a" * 1000)
    heard(made, b"a")
    assert (made.upgraded, made.frames) == (True, 2)
    assert (made.held, made.waiting, made.unfinished, made.readable) == (0, 0, False, False)


@pytest.mark.row("F3")
@pytest.mark.parametrize("character", ["a", "ñ", "€", "😀"])
def test_the_size_of_a_message_is_that_of_its_utf8_to_the_byte(character: str) -> None:
    size = len(character.encode())
    at_limit = character * (1024 // size) + "a" * (1024 % size)
    assert len(at_limit.encode()) == 1024
    assert heard(opened(), at_limit[:-1]) == [TextReceived(at_limit[:-1])]
    assert heard(opened(), at_limit) == [TextReceived(at_limit)]
    assert heard(opened(), at_limit + "a") == [Violated(Fault.MESSAGE_TOO_BIG)]


@pytest.mark.row("F3")
@pytest.mark.parametrize(("size", "fault"), [(0, None), (1023, None), (1024, None), (1025, Fault.MESSAGE_TOO_BIG)])
def test_a_binary_message_has_the_same_limit(size: int, fault: Fault | None) -> None:
    (event,) = heard(opened(), b"\xff" * size)
    assert type(event) is (BinaryReceived if fault is None else Violated)
    assert event == (BinaryReceived(b"\xff" * size) if fault is None else Violated(fault))


@pytest.mark.row("F2")
@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udcff" * 2000, "\ude00\ud83d"])
def test_surrogates_are_no_text_whatever_their_number(text: str) -> None:
    assert heard(opened(), text) == [Violated(Fault.INVALID_UTF8)]


@pytest.mark.parametrize("subprotocol", [None, "qaws.v1"])
def test_a_handshake_is_one_effect_and_can_be_told_of(subprotocol: str | None) -> None:
    made = link()
    assert made.accept(asking(), subprotocol) == AcceptUpgrade(NUMBER, subprotocol)
    assert made.upgraded
    assert made.text(Encoded('{"a":"ñ"}'.encode())) == SendMessage(NUMBER, '{"a":"ñ"}')


@pytest.mark.row("H9")
def test_a_refused_upgrade_is_answered_with_http_where_the_host_can() -> None:
    answered = SendResponse(NUMBER, 503, ANSWER.headers, b"at capacity\n")
    assert link(denial=True).refuse(ANSWER, 1013, "at capacity") == answered
    assert link(denial=False).refuse(ANSWER, 1013, "at capacity") == SendClose(NUMBER, 1013, "at capacity")


@pytest.mark.row("H9")
@pytest.mark.parametrize("denial", [False, True])
def test_a_plain_request_is_answered_with_http_always_and_head_without_a_body(denial: bool) -> None:
    health = response(200, '{"status":"ok"}', [("Cache-Control", "no-store")], media_type="application/json")
    for method, body in (("GET", b'{"status":"ok"}'), ("OPTIONS", b'{"status":"ok"}'), ("HEAD", b"")):
        made = link(method, upgrade=False, denial=denial)
        assert made.refuse(health, 1002, "ok") == SendResponse(NUMBER, 200, health.headers, body)
    assert ("Content-Length", "15") in health.headers


@pytest.mark.row("F9")
@pytest.mark.row("H9")
@pytest.mark.parametrize("denial", [False, True])
@pytest.mark.parametrize("upgrade", [False, True])
def test_nothing_is_read_behind_a_refusal(upgrade: bool, denial: bool) -> None:
    made = link(upgrade=upgrade, denial=denial)
    made.refuse(ANSWER, 1013, "at capacity")
    made.disconnect(1006)
    assert said(made) == heard(made, "late") == heard(made, b"late") == heard(made, "\ud800") == []
    assert (made.upgraded, made.frames) == (False, 0)


@pytest.mark.row("F9")
@pytest.mark.clause("C6")
def test_nothing_is_read_behind_a_stop() -> None:
    made = opened()
    made.receive("a message that nobody has looked at")
    assert made.waiting == made.held > 0
    made.stop()
    assert said(made) == heard(made, "late") == []
    made.disconnect(1000)
    assert said(made) == []
    assert made.frames == made.waiting == 0


def test_messages_wait_in_order_until_they_are_read() -> None:
    made = opened()
    for message in ("one", "", b"three"):
        made.receive(message)
    made.disconnect(1000)
    assert made.over
    assert (made.next_event(until=1), made.next_event(until=1)) == (TextReceived("one"), None)
    assert made.waiting > 0
    assert said(made) == [TextReceived(""), BinaryReceived(b"three"), CloseReceived(1000)]
    assert (made.frames, made.waiting) == (3, 0)


def test_a_peer_that_closes_first_has_been_answered() -> None:
    made = opened()
    made.disconnect(3000)
    assert said(made) == [CloseReceived(3000)]
    assert made.close(3000) is None
    assert made.close(1001, "going away") is None


def test_a_close_of_ours_comes_before_that_of_the_peer() -> None:
    made = opened()
    assert made.close(1001, "going away") == SendClose(NUMBER, 1001, "going away")
    made.disconnect(1001)
    assert said(made) == [CloseReceived(1001)]


@pytest.mark.row("H5")
@pytest.mark.parametrize(
    ("method", "upgrade", "fault"),
    [
        ("GET", True, None),
        ("GET", False, Fault.NO_UPGRADE),
        ("POST", False, Fault.METHOD_REFUSED),
        ("HEAD", False, Fault.METHOD_REFUSED),
    ],
)
def test_the_host_says_whether_it_is_an_upgrade(method: str, upgrade: bool, fault: Fault | None) -> None:
    assert link(method, upgrade=upgrade).check_upgrade(asking(method)) is fault


@pytest.mark.row("H8")
@pytest.mark.parametrize(
    ("offered", "fault"),
    [
        ([], None),
        (["qaws.v1"], None),
        (["qaws.v1, qaws.bearer.a"], None),
        (["qaws.v1", "other"], None),
        (["qaws.v1, qaws.v1"], Fault.BAD_UPGRADE),
        (["qaws.v1", "qaws.v1"], Fault.BAD_UPGRADE),
        (["qaws v1"], Fault.BAD_UPGRADE),
        (["qaws.v1, ñ"], Fault.BAD_UPGRADE),
    ],
)
def test_subprotocols_keep_their_rules(offered: list[str], fault: Fault | None) -> None:
    request = asking("GET", *(("sec-websocket-protocol", value) for value in offered))
    assert link().check_upgrade(request) is fault
