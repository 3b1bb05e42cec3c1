"""The client's side of the wire: against our own server's link, and against answers that are broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.config import LimitsConfig
from qaws_proto.faults import Fault
from qaws_proto.testing.strategies import splits
from qaws_proto.wire.client import MAX_ANSWER, Accepted, ClientLink, Rejected
from qaws_proto.wire.frames import CloseReceived, PingReceived, PongReceived, TextReceived, Violated, text_frame
from qaws_proto.wire.http import Request, refusal
from qaws_proto.wire.link import ByteLink

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
GOOD = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: qaws.v1\r\n\r\n"
).encode()


def client(max_message: int = 1024) -> ClientLink:
    return ClientLink("localhost:8765", "/", KEY, subprotocols=["qaws.v1"], max_message=max_message)


def said(link: ClientLink, pieces: Iterable[bytes]) -> list[object]:
    """Everything a link says of the bytes, read as they come."""
    events: list[object] = []
    for piece in pieces:
        link.receive(piece)
        while (event := link.next_event()) is not None:
            events.append(event)
    return events


def one(link: ClientLink, data: bytes) -> object:
    (event,) = said(link, [data])
    return event


# ── with our own server ──────────────────────────────────────────────────────────────────────────────────────────────


def upgraded(subprotocol: str | None = "qaws.v1") -> tuple[ClientLink, ByteLink, bytes]:
    """A client and a server that have met; the bytes of the 101 are still to be read."""
    link, server = client(), ByteLink(LimitsConfig())
    server.receive(link.request)
    request = server.next_event()
    assert isinstance(request, Request)
    return link, server, server.accept(request, subprotocol)


def test_the_request_is_what_our_server_expects() -> None:
    link, server = client(), ByteLink(LimitsConfig())
    server.receive(link.request)
    request = server.next_event()
    assert isinstance(request, Request)
    assert (request.method, request.target) == ("GET", "/")
    assert dict(request.headers) == {
        "host": "localhost:8765",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "qaws.v1",
    }


@pytest.mark.clause("C3")
@given(data=st.data(), texts=st.lists(st.text(max_size=200), max_size=5))
def test_what_our_server_says_is_heard_in_any_split(data: st.DataObject, texts: list[str]) -> None:
    link, server, answer = upgraded()
    stream = (
        answer + server.ping(b"p") + b"".join(text_frame(text.encode()) for text in texts) + server.close(1012, "x")
    )
    heard = said(link, data.draw(splits(stream)))
    assert heard == [Accepted("qaws.v1"), PingReceived(b"p"), *map(TextReceived, texts), CloseReceived(1012)]


@pytest.mark.clause("C3")
@given(data=st.data(), texts=st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_what_the_client_says_is_heard_by_our_server(data: st.DataObject, texts: list[str]) -> None:
    link, server, answer = upgraded(None)
    assert said(link, [answer]) == [Accepted(None)]
    stream = b"".join(link.text(text.encode()) for text in texts) + link.pong(b"p") + link.close()
    heard: list[object] = []
    for piece in data.draw(splits(stream)):
        server.receive(piece)
        while (event := server.next_event()) is not None:
            heard.append(event)
    assert heard == [*map(TextReceived, texts), PongReceived(b"p"), CloseReceived(1000)]


def test_nothing_is_sent_behind_a_close_of_either_side() -> None:
    for close in (lambda link, server: link.close(), lambda link, server: said(link, [server.close(1001)])):
        link, server, answer = upgraded()
        said(link, [answer])
        close(link, server)
        assert (link.text(b"x"), link.pong(b""), link.ping()) == (b"", b"", b"")
        link.close()
        assert link.close() == b""


def test_a_close_or_a_ping_before_the_upgrade_is_nothing() -> None:
    assert (client().close(), client().ping()) == (b"", b"")


def test_a_ping_reaches_the_server() -> None:
    link, server, answer = upgraded()
    said(link, [answer])
    server.receive(link.ping())
    assert server.next_event() == PingReceived(b"")


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.value.status is not None])
def test_every_refusal_of_our_server_is_read(fault: Fault) -> None:
    answer = one(client(), refusal(fault, retry_after=7).encode())
    assert isinstance(answer, Rejected)
    assert (answer.status, answer.retry_after) == (fault.value.status, 7)
    assert answer.reason


# ── with broken servers ──────────────────────────────────────────────────────────────────────────────────────────────


def without(name: str) -> bytes:
    return b"\r\n".join(line for line in GOOD.split(b"\r\n") if not line.lower().startswith(name.encode() + b":"))


def changed(old: str, new: str) -> bytes:
    assert old.encode() in GOOD
    return GOOD.replace(old.encode(), new.encode())


ANSWERS: dict[str, tuple[bytes, object]] = {
    "good": (GOOD, Accepted("qaws.v1")),
    "without a subprotocol": (without("sec-websocket-protocol"), Accepted(None)),
    "other letter case": (changed("Upgrade: websocket", "UPGRADE: WebSocket"), Accepted("qaws.v1")),
    "list of options": (changed("Connection: Upgrade", "Connection: keep-alive, upgrade"), Accepted("qaws.v1")),
    "behind hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2 + GOOD, Accepted("qaws.v1")),
    "wrong accept": (
        changed(ACCEPT, "AAAA" + ACCEPT[4:]),
        Rejected(101, None, "Sec-WebSocket-Accept does not answer the key"),
    ),
    "no accept": (
        without("sec-websocket-accept"),
        Rejected(101, None, "Sec-WebSocket-Accept does not answer the key"),
    ),
    "two accepts": (
        changed("Connection:", f"Sec-WebSocket-Accept: {ACCEPT}\r\nConnection:"),
        Rejected(101, None, "Sec-WebSocket-Accept does not answer the key"),
    ),
    "no upgrade": (without("upgrade"), Rejected(101, None, "the server switched to something else")),
    "other upgrade": (
        changed("Upgrade: websocket", "Upgrade: h2c"),
        Rejected(101, None, "the server switched to something else"),
    ),
    "no connection": (without("connection"), Rejected(101, None, "the server did not say Connection: Upgrade")),
    "other subprotocol": (
        changed("qaws.v1", "mqtt"),
        Rejected(101, None, "the server selected a subprotocol that was not offered"),
    ),
    "extension": (
        changed("Connection:", "Sec-WebSocket-Extensions: permessage-deflate\r\nConnection:"),
        Rejected(101, None, "the server selected an extension that was not offered"),
    ),
    "page": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Rejected(200, None, "OK")),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", Rejected(302, None, "Found")),
    "retry": (b"HTTP/1.1 503 Full\r\nRetry-After: 5\r\n\r\n", Rejected(503, 5, "Full")),
    "retry at a date": (b"HTTP/1.1 503 Full\r\nRetry-After: Mon, 1 Jan\r\n\r\n", Rejected(503, None, "Full")),
    "retry never": (
        b"HTTP/1.1 503 Full\r\nRetry-After: " + b"9" * 5000 + b"\r\n\r\n",
        Rejected(503, None, "Full"),
    ),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", Rejected(0, None, "no HTTP answer")),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", Rejected(0, None, "no HTTP answer")),
    "endless head": (
        b"HTTP/1.1 101 x\r\nx: " + b"y" * MAX_ANSWER,
        Rejected(0, None, "the answer's head is too long"),
    ),
    "endless hints": (
        b"HTTP/1.1 100 x\r\n\r\n" * 100,
        Rejected(0, None, "no HTTP answer behind many hints"),
    ),
}


@pytest.mark.clause("C3")
@pytest.mark.parametrize("name", ANSWERS)
@given(data=st.data())
def test_an_answer_is_judged_the_same_in_any_split(name: str, data: st.DataObject) -> None:
    stream, verdict = ANSWERS[name]
    assert said(client(), data.draw(splits(stream))) == [verdict]


@pytest.mark.parametrize("stream", [b"HTTP/1.1 1x1 Hm\r\n\r\n", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"])
def test_a_head_that_is_wrong_is_no_answer(stream: bytes) -> None:
    (rejected,) = said(client(), [stream])
    assert isinstance(rejected, Rejected)
    assert rejected[:2] == (0, None)
    assert rejected.reason.startswith("no HTTP answer: ")


@pytest.mark.parametrize("stream", [GOOD, b"HTTP/1.1 503 Full\r\n\r\n"])
def test_an_answer_is_judged_at_its_last_byte(stream: bytes) -> None:
    link = client()
    assert said(link, [stream[index : index + 1] for index in range(len(stream) - 1)]) == []
    assert len(said(link, [stream[-1:]])) == 1


@pytest.mark.clause("C1")
@given(data=st.data(), stream=st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: GOOD + tail))
def test_no_bytes_of_a_server_make_it_raise_and_splits_do_not_matter(data: st.DataObject, stream: bytes) -> None:
    whole, cut = said(client(), [stream]), said(client(), data.draw(splits(stream)))
    assert whole == cut
    rejected = [event for event in whole if isinstance(event, Rejected | CloseReceived | Violated)]
    assert rejected == whole[len(whole) - len(rejected) :]  # nothing follows an end
    assert len(rejected) <= 1


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (b"\x81\x85\0\0\0\0hello", Fault.PROTOCOL_VIOLATION),  # masked (RFC 6455 section 5.1)
        (b"\x81\x7e\x04\x01", Fault.MESSAGE_TOO_BIG),
        (b"\x81\x01\xff", Fault.INVALID_UTF8),
        (b"\xc1\x00", Fault.PROTOCOL_VIOLATION),
    ],
)
def test_a_server_that_breaks_the_protocol_is_found_out(frame: bytes, fault: Fault) -> None:
    link = client()
    assert said(link, [GOOD, frame]) == [Accepted("qaws.v1"), Violated(fault)]
    assert link.text(b"x") == b""
    assert said(link, [text_frame(b"x")]) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClientLink("local\r\nhost", "/", KEY),
        lambda: ClientLink("localhost", "/a b", KEY),
        lambda: ClientLink("localhost", "/ñ", KEY),
        lambda: ClientLink("localhost", "/", KEY, headers=[("Authorization", "Bearer a\nb")]),
        lambda: ClientLink("localhost", "/", KEY, subprotocols=["a\r\nb"]),
    ],
)
def test_what_cannot_stand_in_a_request_is_refused(make: Callable[[], ClientLink]) -> None:
    with pytest.raises(ValueError, match="this makes no HTTP request"):
        make()
