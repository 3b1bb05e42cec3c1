"""The strict reader of what a node writes: each violation that could be planted is refused, so that it is not blind."""

from __future__ import annotations

import json
from collections import deque
from random import Random

import pytest

from qaws_proto.testing.client import Client
from qaws_proto.testing.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_payload
from qaws_proto.testing.node import NodeUnderTest
from qaws_proto.testing.peer import REMOVED, compressed, finished, request, upgrade
from qaws_proto.testing.server_stream import ServerStream

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10, x-other"
REQUEST = upgrade("/", "Sec-WebSocket-Protocol: qaws.v1, other", OFFER)
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
ANSWER = [
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Accept: {ACCEPT}",
]
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
AGREED = f"{DEFLATE}; client_no_context_takeover; server_max_window_bits=10"
REFUSAL = ["HTTP/1.1 404 Not Found", "Connection: close", "Content-Length: 2"]
PONG_EVENT = b'{"type":"pong","id":"x"}'


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def changed(lines: list[str], old: str, new: str) -> bytes:
    text = head(*lines).decode()
    assert old in text
    return text.replace(old, new).encode("latin-1")


def read(*writes: bytes, asked: bytes = REQUEST, own_events: bool = False) -> ServerStream:
    stream = ServerStream(asked, own_events=own_events)
    for write in writes:
        stream.receive(write)
    return stream


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, width: int | None = None) -> bytes:
    return Frame(opcode, payload, fin, rsv, None, width).dump()


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD: dict[str, tuple[bytes, bytes]] = {
    "an upgrade": (head(*ANSWER), REQUEST),
    "a subprotocol": (head(*ANSWER, "Sec-WebSocket-Protocol: qaws.v1"), REQUEST),
    "an extension": (head(*ANSWER, AGREED), REQUEST),
    "connection twice": (head(*ANSWER, "Connection: keep-alive"), REQUEST),
    "a refusal": (head(*REFUSAL) + b"no", REQUEST),
    "a refusal of no HTTP": (head(*REFUSAL) + b"no", b"\x16\x03"),
    "a refusal of HEAD": (head(*REFUSAL), request(method="HEAD")),
    "no content": (head("HTTP/1.1 204 No Content", "Connection: close"), request(method="OPTIONS")),
    "unauthorized": (head("HTTP/1.1 401 x", *REFUSAL[1:], "WWW-Authenticate: Bearer") + b"no", REQUEST),
}


@pytest.mark.parametrize(("answer", "asked"), GOOD.values(), ids=GOOD)
def test_an_answer_is_read(answer: bytes, asked: bytes) -> None:
    stream = read(answer, asked=asked)
    assert stream.head is not None
    assert (stream.closed is None) == (stream.head.status == 101)


def test_frames_are_read() -> None:
    message = json.dumps({"type": "pong", "id": "x" * 64}).encode()
    said = frame(TEXT, PONG_EVENT) + frame(PING) + frame(PONG, b"p" * 125)
    stream = read(head(*ANSWER, AGREED) + said, frame(TEXT, compressed(message, window=10), rsv=4), frame(CLOSE))
    assert list(stream.frames) == [
        (TEXT, PONG_EVENT), (PING, b""), (PONG, b"p" * 125), (TEXT, message), (CLOSE, b"")
    ]  # fmt: skip
    assert (stream.closed, stream.compressed) == ((1005, ""), 1)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4401, 4999])
def test_a_close_is_read(code: int) -> None:
    reason = "ñ" * 61
    stream = read(head(*ANSWER), frame(CLOSE, close_payload(code, reason.encode())))
    assert stream.closed == (code, reason)


@pytest.mark.parametrize("size", [64, 125, 126, 65535, 65536])
def test_a_message_of_any_size_is_read(size: int) -> None:
    event = b'{"type":"agent_chunk","session_id":"s","seq":1,"offset":0,"content":""}'
    event = event.replace(b'""', b'"%s"' % (b"x" * (size - len(event)))) if size > len(event) else event
    assert read(head(*ANSWER), frame(TEXT, event)).frames == deque([(TEXT, event)])


def test_events_of_users_are_read_where_there_are_any() -> None:
    own = frame(TEXT, b'{"type":"thanks"}')
    assert read(head(*ANSWER), own, own_events=True).frames
    with pytest.raises(AssertionError, match="an unknown event"):
        read(head(*ANSWER), own)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

BAD_HEADS: dict[str, tuple[bytes, str]] = {
    "in two writes": (head(*ANSWER)[:-1], "at once"),
    "another version": (changed(ANSWER, "HTTP/1.1", "HTTP/1.0"), "no status line"),
    "no reason": (changed(ANSWER, " Switching Protocols", ""), "no status line"),
    "two spaces": (changed(ANSWER, "1.1 101", "1.1  101"), "no status line"),
    "four digits": (changed(ANSWER, "101", "1010"), "no status line"),
    "a bare line feed": (changed(ANSWER, "websocket\r\n", "websocket\n"), "no header"),
    "a folded line": (changed(ANSWER, "Upgrade: websocket", "Upgrade:\r\n websocket"), "no header"),
    "a space before the colon": (changed(ANSWER, "Upgrade: websocket", "Upgrade : websocket"), "no header"),
    "no space behind it": (changed(ANSWER, "Upgrade: websocket", "Upgrade:websocket"), "no header"),
    "a space at the end": (changed(ANSWER, "websocket\r\n", "websocket \r\n"), "no header"),
    "an empty value": (changed(ANSWER, "Upgrade: websocket", "Upgrade: "), "no header"),
    "no ASCII": (changed(ANSWER, "websocket", "websocket\xf1"), "no header"),
    "a control character": (changed(ANSWER, "websocket", "web\x00socket"), "no header"),
    "no token": (changed(ANSWER, "Upgrade: web", "Up grade: web"), "no header"),
    "a doubled header": (head(*ANSWER, "Upgrade: websocket"), "a doubled header"),
    "chunks": (head(*ANSWER, "Transfer-Encoding: chunked"), "unknown length"),
    "a length in a 101": (head(*ANSWER, "Content-Length: 0"), "no length in a 101"),
    "another upgrade": (changed(ANSWER, "Upgrade: websocket", "Upgrade: h2c"), "something else"),
    "no upgrade": (head(*(line for line in ANSWER if not line.startswith("Upgrade"))), "something else"),
    "no connection": (changed(ANSWER, "Connection: Upgrade", "Connection: close"), "Upgrade is named"),
    "another key": (changed(ANSWER, "s3pPLM", "AAAAAA"), "not for this key"),
    "no accept": (head(*ANSWER[:3]), "not for this key"),
    "two accepts": (head(*ANSWER, f"Sec-WebSocket-Accept: {ACCEPT}"), "a doubled header"),
    "another subprotocol": (head(*ANSWER, "Sec-WebSocket-Protocol: mqtt"), "a subprotocol that was not offered"),
    "all subprotocols": (head(*ANSWER, "Sec-WebSocket-Protocol: qaws.v1, other"), "a subprotocol that was not offered"),
    "another extension": (head(*ANSWER, "Sec-WebSocket-Extensions: x-other"), "an extension that was not offered"),
    "a larger window": (head(*ANSWER, AGREED.replace("=10", "=11")), "not what was offered"),
    "no window": (head(*ANSWER, DEFLATE), "not what was offered"),
    "a window that is none": (head(*ANSWER, AGREED.replace("=10", "=16")), "no window"),
    "a window with a zero": (head(*ANSWER, AGREED.replace("=10", "=09")), "no window"),
    "a limit for the client": (head(*ANSWER, AGREED + "; client_max_window_bits=9"), "a limit nobody offered"),
    "an unknown parameter": (head(*ANSWER, AGREED + "; x=1"), "an unknown parameter"),
    "a doubled parameter": (head(*ANSWER, AGREED + "; client_no_context_takeover"), "a doubled parameter"),
    "a context": (head(*ANSWER, AGREED.replace("server_no_context_takeover; ", "")), "depend on each other"),
    "a value": (head(*ANSWER, AGREED.replace("client_no_context_takeover", "client_no_context_takeover=1")), "a value"),
    "hints": (head("HTTP/1.1 103 Early Hints", "Connection: close"), "none yet"),
    "a refusal that goes on": (changed(REFUSAL, "close", "keep-alive") + b"no", "the connection ends"),
    "a refusal without connection": (head(REFUSAL[0], REFUSAL[2]) + b"no", "the connection ends"),
    "no length": (head(*REFUSAL[:2]), "an answer without a length"),
    "a length that is none": (changed(REFUSAL, "Length: 2", "Length: +2") + b"no", "no length"),
    "a length with a zero": (changed(REFUSAL, "Length: 2", "Length: 02") + b"no", "no length"),
    "too little": (head(*REFUSAL) + b"n", "one whole answer"),
    "too much": (head(*REFUSAL) + b"no!", "one whole answer"),
    "two answers": ((head(*REFUSAL) + b"no") * 2, "one whole answer"),
    "the length of no content": (head("HTTP/1.1 204 x", REFUSAL[1], "Content-Length: 0"), "the length of no content"),
    "content of 204": (head("HTTP/1.1 204 x", REFUSAL[1]) + b"no", "content behind 204"),
    "401 of nothing": (changed(REFUSAL, "404", "401") + b"no", "401 without"),
    "405 of nothing": (changed(REFUSAL, "404", "405") + b"no", "405 without"),
    "426 of nothing": (changed(REFUSAL, "404", "426") + b"no", "426 without"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "why"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_answer_is_refused(answer: bytes, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        read(answer)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (b"", "a 101 to what is no GET"),
        (REQUEST.replace(b"GET", b"PUT"), "a 101 to what is no GET"),
        (request(), "a 101 that nobody asked for"),
        (REQUEST.replace(b"dGhl", b"AAAA"), "not for this key"),
        (REQUEST.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: AAAA\r\n\r\n"), "not for this key"),
        (upgrade("/", OFFER), "a subprotocol that was not offered"),
        (upgrade("/", "Sec-WebSocket-Protocol: qaws.v1"), "not what was offered"),
        (REQUEST.replace(b"bits=10", b"bits=9"), "not what was offered"),
        (REQUEST.replace(b"bits=10", b"bits=abc"), "not what was offered"),
    ],
)
def test_an_upgrade_answers_its_request(asked: bytes, why: str) -> None:
    answer = head(*ANSWER, "Sec-WebSocket-Protocol: qaws.v1", AGREED)
    assert read(answer).head is not None
    with pytest.raises(AssertionError, match=why):
        read(answer, asked=asked)


def test_head_is_answered_without_a_body() -> None:
    with pytest.raises(AssertionError, match="one whole answer"):
        read(head(*REFUSAL) + b"no", asked=request(method="HEAD"))


NOISE = Random(1).randbytes(900).hex().encode()
FAR = NOISE + bytes(range(256)) * 8 + NOISE  # its end refers to its beginning, if it may
CHUNK = {"type": "agent_chunk", "session_id": "s", "seq": 1, "offset": 0, "content": "x"}
BAD_FRAMES: dict[str, tuple[bytes, str]] = {
    "one byte": (b"\x81", "written whole"),
    "half a length": (b"\x81\x7e\x00", "written whole"),
    "half a payload": (frame(TEXT, PONG_EVENT)[:-1], "written whole"),
    "a fragment": (frame(TEXT, b"{", fin=False), "a whole frame"),
    "a continuation": (frame(CONTINUATION, b"}"), "opcode 0"),
    "bytes": (frame(BINARY, b"x"), "opcode 2"),
    "a reserved opcode": (frame(3), "opcode 3"),
    "a reserved control opcode": (frame(11), "opcode 11"),
    "RSV2": (frame(TEXT, PONG_EVENT, rsv=2), "reserved bits"),
    "RSV3": (frame(TEXT, PONG_EVENT, rsv=1), "reserved bits"),
    "RSV1 and RSV2": (frame(TEXT, PONG_EVENT, rsv=6), "reserved bits"),
    "a compressed ping": (frame(PING, compressed(b"x" * 99), rsv=4), "reserved bits"),
    "a masked frame": (Frame(TEXT, PONG_EVENT).dump(), "does not mask"),
    "125 in two bytes": (frame(TEXT, b"x" * 125, width=2), "the shortest length"),
    "65,535 in eight bytes": (frame(TEXT, b"x" * 65535, width=8), "the shortest length"),
    "a length of 64 bits": (b"\x81\x7f" + b"\xff" * 8, "the shortest length"),
    "a long ping": (frame(PING, b"x" * 126), "a control frame is short"),
    "a long close": (frame(CLOSE, close_payload(1000, b"x" * 124)), "a control frame is short"),
    "half a code": (frame(CLOSE, b"\x03"), "half a close code"),
    **{
        f"close code {code}": (frame(CLOSE, close_payload(code)), f"{code} is not sent")
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "a frame behind Close": (frame(CLOSE) + frame(PING), "nothing comes after Close"),
    "two closes": (frame(CLOSE) * 2, "nothing comes after Close"),
    "no object": (frame(TEXT, b"[]"), "no JSON object"),
    "a doubled key": (frame(TEXT, b'{"type":"pong","type":"pong"}'), "a doubled key"),
    "NaN": (frame(TEXT, json.dumps(CHUNK | {"offset": float("nan")}).encode()), "NaN is no JSON"),
    "null": (frame(TEXT, b'{"type":"pong","id":null}'), "a field that is null"),
    "no type": (frame(TEXT, b'{"id":"x"}'), "no type"),
    "an unknown type": (frame(TEXT, b'{"type":"x"}'), "an unknown event"),
    "what the peer says": (frame(TEXT, b'{"type":"ping"}'), "an unknown event"),
    "no smaller": (frame(TEXT, compressed(PONG_EVENT, level=0), rsv=4), "no smaller"),
    "a final block": (frame(TEXT, compressed(b"x" * 99) + REMOVED + b"\x01", rsv=4), "a stream with an end"),
    "more than a stream": (frame(TEXT, finished(b"x" * 99) + b"more", rsv=4), "more than a stream"),
    "no stream": (frame(TEXT, b"\xff\xff", rsv=4), "cannot be read: .*invalid"),
    "a window that is too large": (frame(TEXT, compressed(FAR, level=9), rsv=4), "cannot be read: .*too far back"),
    "no UTF-8": (frame(TEXT, b'{"type":"pong","id":"\xff"}'), "cannot be read: .*utf-8"),
    "a surrogate": (frame(TEXT, b'{"type":"pong","id":"\xed\xa0\x80"}'), "cannot be read: .*utf-8"),
    "half a character": (frame(CLOSE, close_payload(1000, b"\xc3")), "cannot be read: .*utf-8"),
    "no JSON": (frame(TEXT, b"{"), "cannot be read"),
    "two objects": (frame(TEXT, PONG_EVENT * 2), "cannot be read: Extra data"),
    "a field missing": (frame(TEXT, json.dumps({**CHUNK, "type": "agent_response"}).encode()), "user_id"),
    "a field too many": (frame(TEXT, json.dumps(CHUNK | {"more": 1}).encode()), "more"),
    "a field of another type": (frame(TEXT, json.dumps(CHUNK | {"seq": "x"}).encode()), "seq"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "why"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_is_refused(said: bytes, why: str) -> None:
    stream = read(head(*ANSWER, AGREED))
    with pytest.raises(AssertionError, match=why):
        stream.receive(said)


def test_compression_has_to_be_agreed() -> None:
    message = frame(TEXT, compressed(json.dumps(CHUNK | {"content": "x" * 99}).encode()), rsv=4)
    assert read(head(*ANSWER, AGREED), message).compressed == 1
    with pytest.raises(AssertionError, match="nothing was agreed"):
        read(head(*ANSWER), message)


def test_nothing_is_written_behind_the_end_nor_nothing_at_all() -> None:
    for closed in (read(head(*ANSWER), frame(CLOSE)), read(head(*REFUSAL) + b"no")):
        with pytest.raises(AssertionError, match="after Close"):
            closed.receive(frame(PING))
    with pytest.raises(AssertionError, match="an empty write"):
        read(b"")


# ── where it is used ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split", [1, 30, 1000])
def test_a_client_holds_the_answer_to_its_own_request(split: int) -> None:
    """Whatever the reads its request comes in, and behind a host."""
    node = NodeUnderTest()
    client = node.open()
    for at in range(0, len(REQUEST), split):
        client.send_bytes(REQUEST[at : at + split])
    hosted = node.request(REQUEST)
    for one in (client, hosted):
        one.expect_http(101)
        assert one.stream.request == REQUEST


def test_a_client_refuses_an_answer_to_another_request() -> None:
    node = NodeUnderTest()
    client = Client(node, 0)
    client.stream.request = REQUEST.replace(b"dGhl", b"AAAA")
    with pytest.raises(AssertionError, match="not for this key"):
        client.hear(head(*ANSWER))
