"""Compression of a whole node: agreed with some of its clients, in both directions, within the same limits."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from qaws_proto.effects import SendBytes
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure, token
from qaws_proto.testing.peer import CLOSE, PING, PONG, TEXT, chat, compressed, deflated, frame
from tests.helpers.node import NodeUnderTest

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def compressing(**settings: Any) -> NodeUnderTest:
    compression = {"enabled": True, "min_size": 0, **settings.pop("compression", {})}
    return NodeUnderTest(configure(server={"compression": compression}, **settings))


def connect(node: NodeUnderTest, *headers: str) -> Client:
    client = node.upgrade(*headers)
    client.expect_http(101)
    client.expect_system("connection_established")
    return client


@pytest.mark.row("H8")
@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (OFFER, ANSWER),
        (
            "Sec-WebSocket-Extensions: x-other, permessage-deflate; server_max_window_bits=10",
            ANSWER + "; server_max_window_bits=10",
        ),
        ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99999", None),
        ("Sec-WebSocket-Extensions: =abc, permessage-deflate", None),
        ("Sec-WebSocket-Extensions: permessage-deflate; a=" + "9" * 5000, None),
        ("X-Other: permessage-deflate", None),
    ],
)
def test_a_client_is_answered_what_it_offered(offer: str, answer: str | None) -> None:
    node = compressing()
    client = connect(node, offer)
    assert client.stream.head is not None
    assert client.stream.head.headers.get("sec-websocket-extensions") == answer
    assert client.stream.compressed == (0 if answer is None else 1)
    client.send({"type": "ping", "id": "a" * 60})
    client.expect_event("pong", id="a" * 60)


def test_offers_on_two_lines_are_one_list() -> None:
    lines = ("Sec-WebSocket-Extensions: permessage-deflate; unknown", "Sec-WebSocket-Extensions: permessage-deflate")
    client = connect(compressing(), *lines)
    assert client.stream.compressed == 1


@pytest.mark.row("F1")
def test_nothing_is_agreed_unless_that_is_switched_on() -> None:
    node = NodeUnderTest(configure())
    client = connect(node, OFFER)
    assert client.stream.head is not None
    assert "sec-websocket-extensions" not in client.stream.head.headers
    assert client.stream.compressed == 0
    client.send_bytes(deflated({"type": "ping"}))
    client.expect_close(1002)


@pytest.mark.row("F1")
def test_who_offered_nothing_may_compress_nothing() -> None:
    client = connect(compressing())
    client.send_bytes(deflated({"type": "ping"}))
    client.expect_close(1002)


@pytest.mark.row("F6")
def test_a_conversation_is_compressed_both_ways() -> None:
    node = compressing(compression={"min_size": 100})
    client = connect(node, OFFER)
    message = compressed(json.dumps(chat("¿Qué tal? " * 50, id="m1", stream=True)).encode())
    client.send_bytes(frame(TEXT, message[:20], fin=False, reserved=4) + frame(PING, b"now"))
    assert client.next_frame() == (PONG, b"now")
    client.send_bytes(frame(0, message[20:]))
    client.expect_system("message_accepted")
    assert node.started[node.only_run].content == "¿Qué tal? " * 50
    node.chunk(node.only_run, "¡Bien! " * 50)
    node.finish(node.only_run, "¡Bien! " * 50)
    client.expect_event("agent_chunk", content="¡Bien! " * 50)
    client.expect_event("agent_response", content="¡Bien! " * 50)
    before = client.stream.compressed
    client.send({"type": "ping", "id": "p"})  # not compressed, in either direction
    client.expect_event("pong", id="p")
    assert client.stream.compressed == before > 3


def test_what_a_session_says_is_compressed_once_for_all_who_read_it() -> None:
    """They are sent the very same bytes, and those who agreed on nothing the same text."""
    node = NodeUnderTest(configure(authentication=True, server={"compression": {"enabled": True}}))
    bearer = f"Authorization: Bearer {token('ana')}"
    small = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9"
    clients = [connect(node, bearer, *offer) for offer in ([OFFER], [OFFER], [small], [])]
    for client in clients:
        client.chat(session_id="s", stream=True)
    run_id = next(iter(node.runs))
    for content, different in (("a" * 300, 2), ("b" * 5000, 3)):  # a window larger than the message is of no use
        effects = node.chunk(run_id, content)
        sent = {effect.connection: effect.data for effect in effects if isinstance(effect, SendBytes)}
        assert sent[0] is sent[1]
        assert len(sent) == 4
        assert len({id(data) for data in sent.values()}) == different
        node.advance(1)
    node.finish(run_id)
    for client in clients:
        ends = [event["content"] for event in client.heard if event["type"] == "agent_response"]
        assert ends == ["a" * 300 + "b" * 5000]
    assert [client.stream.compressed > 2 for client in clients] == [True, True, True, False]


@pytest.mark.row("F5")
@pytest.mark.row("F3")
@pytest.mark.parametrize(("size", "code"), [(1024, None), (1025, 1009), (100 << 20, 1009)])
def test_a_bomb_is_closed(size: int, code: int | None) -> None:
    node = compressing(limits={"max_message_size": 1024})
    client = connect(node, OFFER)
    bomb = frame(TEXT, compressed(b" " * size, level=9), reserved=4)
    client.send_bytes(bomb)
    if code is None:
        client.expect_error("INVALID_JSON")
        client.expect_silence()
    else:
        client.expect_close(code, "message too big")
        assert node.gateway.buffered_bytes(client.number) == 0


@pytest.mark.row("F5")
def test_a_bad_stream_is_closed() -> None:
    client = connect(compressing(), OFFER)
    client.send_bytes(frame(TEXT, b"\x07", reserved=4) + deflated(chat()))
    client.expect_close(1007, "bad compression")
    assert not client.stream.frames


@pytest.mark.row("F4")
def test_a_compressed_message_has_to_be_finished_in_time() -> None:
    node = compressing()
    client = connect(node, OFFER)
    client.send_bytes(frame(TEXT, compressed(b"{"), fin=False, reserved=4))
    node.advance(node.config.limits.message_timeout)
    assert client.stream.frames.pop()[0] == CLOSE
    assert client.stream.closed == (1008, "message timeout")


@pytest.mark.clause("C7")
def test_an_idle_connection_holds_no_compressor() -> None:
    """What it costs to let connections compress is a few hundred bytes each, and not windows."""

    def cost(*headers: str) -> float:
        node = compressing(limits={"connections_per_address": 1000})
        clients = [connect(node, *headers) for _ in range(5)]
        tracemalloc.start()
        try:
            for client in clients:
                client.send_bytes(deflated({"type": "ping", "id": "a" * 60}) if headers else frame(PING))
            for _ in range(50):
                number = len(node.clients)
                connect(node, *headers)
                client = node.clients[number]
                client.send_bytes(deflated({"type": "ping", "id": "a" * 60}) if headers else frame(PING))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return held / 50

    assert cost(OFFER) - cost() < 4096
