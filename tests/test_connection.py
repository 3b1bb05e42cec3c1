"""One connection, from its first byte to its last: phases, deadlines, limits, and how each of them ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto import Now
from qaws_proto.admission.gate import Gate
from qaws_proto.clock import Reason, Timers
from qaws_proto.connection import TRANSITIONS, Connection, Node, Phase
from qaws_proto.conversation.session import Sessions
from qaws_proto.counts import Counts
from qaws_proto.effects import DropConnection, Effect, SendBytes
from qaws_proto.events import Auth, Cancel, ChatMessage, ClientEvents, Ping
from qaws_proto.faults import Fault
from qaws_proto.inputs import WriteBlocked, WriteDrained, WriteProgressed
from qaws_proto.outbox import Outbox
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import MONO, UNIX, configure, counter, token
from qaws_proto.testing.peer import BINARY, CLOSE, PING, PONG, TEXT, chat, close_frame, frame, text, upgrade
from qaws_proto.wire.link import ByteLink
from tests.helpers.node import NodeUnderTest

NOW = Now(MONO, UNIX)


# ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def a_connection() -> Connection:
    """A connection by itself, in its first phase."""
    config = configure(authentication=True)
    events = ClientEvents([Auth, ChatMessage, Cancel, Ping], config.limits.json_depth)
    timers = Timers()
    sessions = Sessions(config.sessions, config.limits, timers, bounded=True, durable=False)
    node = Node(config, Gate(config), events, timers, Outbox(), counter(), sessions, Counts({}))
    return Connection(1, None, ByteLink(config.limits), node, NOW)


def says(data: bytes) -> Callable[[Connection], None]:
    """Bytes of the peer."""

    def act(connection: Connection) -> None:
        connection.receive(data, NOW)

    return act


def closes(connection: Connection) -> None:
    """A reason of the server."""
    connection.close(Fault.GOING_AWAY, NOW)


def loses(connection: Connection) -> None:
    """The transport breaks."""
    connection.gone(NOW)


REACH: dict[Phase, list[Callable[[Connection], None]]] = {
    Phase.HANDSHAKING: [],
    Phase.AUTHENTICATING: [says(upgrade())],
    Phase.OPEN: [says(upgrade()), says(text({"type": "auth", "token": token()}))],
    Phase.CLOSING: [says(upgrade()), closes],
    Phase.CLOSED: [loses],
}
STEPS: dict[tuple[Phase, Phase], Callable[[Connection], None]] = {
    (Phase.HANDSHAKING, Phase.AUTHENTICATING): says(upgrade()),
    (Phase.HANDSHAKING, Phase.CLOSING): says(b"GET / HTTP/1.0\r\n"),
    (Phase.HANDSHAKING, Phase.CLOSED): loses,
    (Phase.AUTHENTICATING, Phase.OPEN): says(text({"type": "auth", "token": token()})),
    (Phase.AUTHENTICATING, Phase.CLOSING): says(close_frame()),
    (Phase.AUTHENTICATING, Phase.CLOSED): loses,
    (Phase.OPEN, Phase.CLOSING): closes,
    (Phase.OPEN, Phase.CLOSED): loses,
    (Phase.CLOSING, Phase.CLOSED): lambda connection: connection.due(Reason.CLOSE, NOW),
}


def test_every_transition_of_the_table_has_a_test() -> None:
    assert set(STEPS) == {(before, after) for before, ends in TRANSITIONS.items() for after in ends}


@pytest.mark.parametrize(("before", "after"), STEPS, ids=lambda phase: phase.value)
def test_a_connection_makes_each_transition(before: Phase, after: Phase) -> None:
    connection = a_connection()
    for reach in REACH[before]:
        reach(connection)
    assert connection.phase is before
    STEPS[before, after](connection)
    assert connection.phase is after


@pytest.mark.clause("C6")
@pytest.mark.parametrize("again", [closes, loses, says(upgrade()), lambda connection: connection.drop(NOW)])
def test_a_closed_connection_makes_no_more_effects(again: Callable[[Connection], None]) -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.lose()
    assert client.send_bytes(upgrade()) == client.block() == client.unblock() == client.eof() == client.lose() == []
    connection = a_connection()
    loses(connection)
    connection._node.outbox.take()
    again(connection)
    assert connection._node.outbox.take() == []


@pytest.mark.row("C3")
def test_nothing_of_a_closed_connection_is_left() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send_bytes(frame(TEXT, b'{"type"', fin=False))
    client.block()
    client.lose()
    assert (node.gateway.connections, node.gateway.buffered_bytes(0), node.gateway.wake_at) == (0, 0, None)


# ── the handshake ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("H2")
def test_a_head_that_is_never_finished_is_answered_408_at_an_absolute_deadline() -> None:
    node = NodeUnderTest()
    client = node.open()
    for byte in b"GET ":
        client.send_bytes(bytes([byte]))
        node.advance(1)
    assert client.stream.head is None
    node.advance(0.999)
    assert client.stream.head is None
    node.advance(0.001)
    client.expect_http(408)
    node.advance(1)
    client.expect_dropped()


@pytest.mark.row("H2")
def test_a_peer_that_says_nothing_is_let_go_without_an_answer() -> None:
    node = NodeUnderTest()
    client = node.open()
    node.advance(5)
    client.expect_dropped()
    assert client.stream.head is None


@pytest.mark.row("H14")
def test_an_address_has_its_share_of_connections_and_ipv6_counts_by_64() -> None:
    node = NodeUnderTest(configure(limits={"connections_per_address": 2}))
    first = node.connect(peer="2001:db8::1")
    node.connect(peer="2001:db8::ffff:1")
    head = node.upgrade(peer="2001:db8::2").expect_http(429)
    assert head.headers["retry-after"] == "5"
    node.connect(peer="2001:db8:0:1::1")
    first.lose()
    node.connect(peer="2001:db8::3")


@pytest.mark.row("H14")
def test_a_full_node_answers_503() -> None:
    node = NodeUnderTest(configure(server={"max_connections": 1}))
    node.connect(peer="192.0.2.1")
    assert node.upgrade(peer="192.0.2.2").expect_http(503).headers["retry-after"] == "5"


@pytest.mark.row("H14")
def test_sockets_that_say_nothing_are_bounded_too() -> None:
    node = NodeUnderTest(configure(limits={"handshakes": 3, "connections_per_address": 2}))
    node.open("192.0.2.1")
    node.open("192.0.2.1")
    node.open("192.0.2.1").expect_http(429)
    assert node.open("192.0.2.2").expect_http(503).headers["retry-after"] == "5"


@pytest.mark.row("H5")
@pytest.mark.row("H9")
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (upgrade().replace(b"GET", b"PUT"), 405),
        (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (upgrade().replace(b"Version: 13", b"Version: 12"), 426),
        (upgrade().replace(b"Host: localhost", b"Host: a b"), 400),
        (upgrade("/", "Transfer-Encoding: chunked"), 400),
        (upgrade("/?token=x"), 400),
        (upgrade("/", "X: " + "x" * 17_000), 431),
    ],
)
def test_an_upgrade_that_is_none_is_refused_by_its_status(request_bytes: bytes, status: int) -> None:
    client = NodeUnderTest(configure(authentication=True)).open()
    client.send_bytes(request_bytes)
    client.expect_http(status)


@pytest.mark.row("H9")
def test_a_refused_upgrade_is_answered_once_and_noted() -> None:
    node = NodeUnderTest()
    client = node.open()
    client.send_bytes(upgrade("/elsewhere") + upgrade())
    client.expect_http(404)
    assert dict(node.note("refused").fields)["status"] == 404
    assert client.send_bytes(upgrade()) == []


@pytest.mark.row("H7")
def test_frames_that_come_with_the_upgrade_are_read_behind_the_101() -> None:
    node = NodeUnderTest()
    client = node.open()
    client.send_bytes(upgrade() + text({"type": "ping", "id": "1"}) + text({"type": "ping", "id": "2"}))
    client.expect_http(101)
    client.expect_system("connection_established")
    client.expect_event("pong", id="1")
    client.expect_event("pong", id="2")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [((), None), (("Sec-WebSocket-Protocol: qaws.v1",), "qaws.v1"), (("Sec-WebSocket-Protocol: other",), None)],
)
def test_the_subprotocol_is_chosen_where_it_is_offered(offered: tuple[str, ...], chosen: str | None) -> None:
    client = NodeUnderTest().upgrade(*offered)
    assert client.expect_http(101).headers.get("sec-websocket-protocol") == chosen


def test_a_probe_is_answered_and_half_closed() -> None:
    client = NodeUnderTest().open()
    client.send_bytes(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.expect_http(200).body == b'{"status":"ok"}'


def test_reads_are_small_before_the_upgrade() -> None:
    node = NodeUnderTest()
    client = node.open()
    assert node.gateway.read_size(client.number) == 4096
    client.send_bytes(upgrade())
    assert node.gateway.read_size(client.number) == 16384
    client.lose()
    assert node.gateway.read_size(client.number) == 16384


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────

VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "reserved bit": (frame(TEXT, b"{}", reserved=4), 1002),
    "reserved opcode": (frame(3, b""), 1002),
    "unmasked": (frame(TEXT, b"{}", mask=False), 1002),
    "fragmented ping": (frame(PING, b"", fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "reserved close code": (close_frame(1005), 1002),
    "invalid UTF-8": (frame(TEXT, b"\xff"), 1007),
    "too big": (frame(TEXT, b"x" * 1025), 1009),
    "too many fragments": (frame(TEXT, b"x", fin=False) + frame(0, b"", fin=False) * 2, 1009),
    "binary": (frame(BINARY, b"{}"), 1003),
}


@pytest.mark.row("F1")
@pytest.mark.row("F13")
@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_answered_with_its_code_and_what_follows_is_ignored(data: bytes, code: int) -> None:
    node = NodeUnderTest(configure(limits={"max_message_size": 1024, "max_fragments": 2}))
    client = node.connect()
    client.send_bytes(data + text({"type": "ping"}))
    client.expect_close(code)
    assert client.write_closed
    assert client.send_bytes(text({"type": "ping"}) + close_frame()) == []
    node.advance(0.999)
    assert not client.dropped
    node.advance(0.001)
    client.expect_dropped()
    assert dict(node.note("closed").fields)["code"] == code


@pytest.mark.row("F6")
def test_a_ping_is_answered_at_once_with_its_payload() -> None:
    client = NodeUnderTest().connect()
    client.send_bytes(frame(TEXT, b'{"type":', fin=False) + frame(PING, b"now") + frame(0, b'"ping"}'))
    assert client.next_frame() == (PONG, b"now")
    client.expect_event("pong")


@pytest.mark.row("F7")
def test_only_the_newest_ping_is_answered_while_the_peer_does_not_read() -> None:
    client = NodeUnderTest().connect()
    client.block()
    client.send_bytes(frame(PING, b"1") + frame(PING, b"2"))
    client.send_bytes(frame(PING, b"3"))
    client.expect_silence()
    client.unblock()
    assert client.next_frame() == (PONG, b"3")
    client.expect_silence()


@pytest.mark.row("F7")
@pytest.mark.row("F8")
@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize("blocked", [False, True])
def test_frames_beyond_the_budget_end_the_connection(opcode: int, blocked: bool) -> None:
    node = NodeUnderTest(configure(limits={"frame_burst": 20, "frames_per_second": 10}))
    client = node.connect()
    if blocked:
        client.block()
    client.send_bytes(frame(opcode) * 20)
    assert not client.write_closed
    node.advance(1)
    client.send_bytes(frame(opcode) * 10)
    assert not client.write_closed
    client.forget()
    client.send_bytes(frame(opcode) * 2)
    if blocked:  # the newest pong, which waited
        assert [client.next_frame() for _ in range(opcode == PING)] == [(PONG, b"")] * (opcode == PING)
    client.expect_close(1008, "frame flood")
    assert client.write_closed


@pytest.mark.row("F8")
def test_a_turn_has_64_frames_and_the_rest_waits_for_the_others() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send_bytes(text({"type": "ping"}) * 200)
    for handled in (64, 128, 192):
        assert len(client.heard) - 1 == handled
        wake_at = node.gateway.wake_at
        assert wake_at is not None
        assert 0 < wake_at - node.now.mono < 1e-6
        node.advance(wake_at - node.now.mono)
    assert len(client.heard) - 1 == 200


@pytest.mark.row("F8")
@pytest.mark.clause("C7")
def test_reading_pauses_while_too_much_is_unread() -> None:
    node = NodeUnderTest(configure(limits={"inbox": 256, "frames_per_turn": 4}))
    client = node.connect()
    client.send_bytes(text({"type": "ping"}) * 30)
    assert client.paused
    node.settle()
    assert not client.paused
    assert len(client.heard) - 1 == 30


@pytest.mark.row("F9")
def test_what_comes_behind_our_close_is_ignored_until_it_is_too_much() -> None:
    node = NodeUnderTest(configure(limits={"discard": 1024}))
    client = node.connect()
    client.send_bytes(frame(BINARY))
    client.expect_close(1003)
    client.send_bytes(b"x" * 1024)
    assert not client.dropped
    client.send_bytes(b"x")
    client.expect_dropped()


@pytest.mark.row("F9")
def test_bytes_of_the_read_that_ended_it_count_as_ignored_too() -> None:
    node = NodeUnderTest(configure(authentication=True, limits={"discard": 1024}))
    client = node.upgrade()
    client.send_bytes(text(chat()) + frame(PONG, b"x" * 100) * 9)
    client.send_bytes(frame(PONG, b"x" * 64))
    assert not client.dropped
    client.send_bytes(frame(PONG))
    client.expect_dropped()


@pytest.mark.row("F9")
@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999, None])
def test_a_close_of_the_peer_is_answered_with_its_code_and_nothing_behind_it_counts(code: int | None) -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send_bytes(close_frame(code) + text(chat()))
    client.expect_close(code or 1005)
    assert client.write_closed
    assert not node.started
    node.advance(1)
    client.expect_dropped()
    assert dict(node.note("closed").fields)["code"] == (code or 1005)


@pytest.mark.row("F10")
def test_a_peer_that_never_answers_close_is_dropped() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.send(chat())
    node.advance(4.999)
    assert not client.dropped
    assert not client.write_closed
    node.advance(0.001)
    client.expect_dropped()


@pytest.mark.row("F13")
def test_a_late_answer_to_our_close_still_has_its_second() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.send(chat())
    node.advance(4.5)
    client.send_bytes(close_frame(4401))
    node.advance(0.999)
    assert not client.dropped
    node.advance(0.001)
    client.expect_dropped()


@pytest.mark.row("F10")
@pytest.mark.parametrize("answer", [close_frame(4401), frame(3), b"\xff\xff", frame(PING) * 500])
def test_while_we_wait_for_the_answer_its_end_is_seen_and_its_events_are_not(answer: bytes) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.send_bytes(text(chat()) + text({"type": "auth", "token": token()}) + frame(BINARY) + frame(PING))
    client.expect_system("auth_required")
    client.expect_error("AUTH_REQUIRED")
    client.expect_close(4401)
    assert not client.write_closed
    client.send_bytes(answer)
    node.settle()
    assert client.write_closed
    node.advance(1)
    client.expect_dropped()


@pytest.mark.row("F10")
def test_an_answer_to_our_close_is_found_behind_a_full_turn() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.send_bytes(text(chat()) + frame(PONG) * 100 + close_frame(4401))
    node.settle()
    assert client.write_closed


@pytest.mark.row("F10")
def test_an_answer_is_found_that_waited_unread_when_the_server_closed() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send_bytes(frame(PONG) * 100 + close_frame(1000))
    client.block()
    node.gateway._connections[client.number].close(Fault.GOING_AWAY, node.now)
    node.settle()
    client.expect_close(1001)
    assert client.write_closed


@pytest.mark.row("F12")
@pytest.mark.parametrize("said", [b"", frame(TEXT, b"{", fin=False), frame(TEXT, b"{}")[:3], text(chat())])
@pytest.mark.parametrize("end", [Client.eof, Client.lose])
def test_an_end_in_the_middle_of_anything_is_one_note(said: bytes, end: Callable[[Client], list[Effect]]) -> None:
    node = NodeUnderTest()
    client = node.connect()
    if said:
        client.send_bytes(said)
    effects = end(client)
    assert effects[0] == DropConnection(client.number)
    fields = dict(node.note("closed").fields)
    assert (fields["code"], fields["reason"]) == (1006, "disconnected")
    assert end(client) == []


@pytest.mark.row("F4")
def test_a_message_has_its_time_to_be_finished() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send_bytes(frame(TEXT, b'{"type":', fin=False))
    node.advance(29)
    client.forget()
    client.send_bytes(frame(PING) + frame(0, b"", fin=False))
    node.advance(0.999)
    assert client.next_frame() == (PONG, b"")
    client.expect_silence()
    node.advance(0.001)
    client.expect_close(1008, "message timeout")


@pytest.mark.row("F4")
def test_each_message_has_a_time_of_its_own() -> None:
    whole = frame(TEXT, b'{"type":"ping"}')
    node = NodeUnderTest()
    client = node.connect()
    client.send_bytes(whole[:9])
    for _ in range(20):
        node.advance(20)
        client.send_bytes(whole[9:] + whole[:9])
    assert not client.write_closed
    client.send_bytes(whole[9:])
    client.forget()
    node.advance(29)
    client.expect_silence()


# ── heartbeat ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F11")
def test_a_silent_peer_is_pinged_and_dropped_and_its_session_stays() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    node.advance(29.999)
    client.expect_silence()
    node.advance(0.001)
    assert client.next_frame() == (PING, b"")
    node.advance(29.999)
    client.expect_silence()
    node.advance(0.001)
    client.expect_dropped()
    assert dict(node.note("closed").fields)["reason"] == "heartbeat"
    assert (node.gateway.sessions, len(node.runs)) == (1, 1)


@pytest.mark.row("F11")
@pytest.mark.parametrize("sign", [frame(PONG), frame(PING), text({"type": "ping"}), b"\x81"])
def test_any_byte_is_a_sign_of_life(sign: bytes) -> None:
    node = NodeUnderTest(configure(limits={"message_timeout": 86_400}))
    client = node.connect()
    node.advance(45)
    client.send_bytes(sign)
    client.forget()
    node.advance(29.999)
    client.expect_silence()
    node.advance(0.001)
    assert client.next_frame() == (PING, b"")


@pytest.mark.row("F3")
def test_each_message_in_pieces_has_a_deadline_of_its_own() -> None:
    node = NodeUnderTest(configure(limits={"message_timeout": 5}))
    client = node.connect()
    begin, end = frame(TEXT, b'{"type":', fin=False), frame(0, b'"ping"}')
    client.send_bytes(begin)
    for _ in range(3):
        node.advance(4)
        client.send_bytes(end + begin)
        client.expect_event("pong")
    node.advance(4.999)
    client.expect_silence()
    node.advance(0.001)
    client.expect_close(1008, "message timeout")


@pytest.mark.row("F11")
def test_a_peer_that_talks_is_not_pinged() -> None:
    node = NodeUnderTest()
    client = node.connect()
    for _ in range(100):
        node.advance(29)
        client.send_bytes(frame(PONG))
    client.expect_silence()


@pytest.mark.row("F11")
def test_a_peer_that_answers_pings_gets_one_each_interval_however_patient_the_server_is() -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 10, "timeout": 60}))
    client = node.connect()
    for _ in range(5):
        node.advance(10)
        assert client.next_frame() == (PING, b"")
        client.send_bytes(frame(PONG))
    node.advance(10)
    assert client.next_frame() == (PING, b"")
    node.advance(59.999)
    client.expect_silence()
    node.advance(0.001)
    client.expect_dropped()


@pytest.mark.clause("C5")
def test_a_heartbeat_whose_sum_is_rounded_moves_on() -> None:
    node = NodeUnderTest()
    client = node.connect()
    heard_at = next(at for at in (MONO + n / 1000 for n in range(1, 100_000)) if at + 30 - at < 30)
    node.advance(heard_at - node.now.mono)
    node.now = Now(heard_at, node.now.unix)
    client.send_bytes(frame(PONG))
    node.advance(30.001)
    assert client.next_frame() == (PING, b"")


# ── who it is ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A10")
def test_a_client_that_never_authenticates_is_closed_with_4408() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    assert client.expect_system("auth_required") == {"timeout": 10}
    client.send_bytes(frame(PING) + text("no json"))
    assert client.next_frame() == (PONG, b"")
    client.expect_error("INVALID_JSON")
    node.advance(9.999)
    client.expect_silence()
    node.advance(0.001)
    client.expect_close(4408, "auth timeout")


@pytest.mark.row("M6")
@pytest.mark.parametrize("event", [chat(), chat(id="m1"), {"type": "cancel", "run_id": "r"}, {"type": "ping"}])
def test_an_event_before_the_token_ends_it_and_runs_nothing(event: dict[str, Any]) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.send(event)
    client.expect_system("auth_required")
    error = client.expect_error("AUTH_REQUIRED")
    assert error.get("correlation_id") == event.get("id") if event["type"] == "chat_message" else True
    client.expect_close(4401)
    assert not node.started


before_the_token = st.lists(
    st.one_of(
        st.builds(lambda said: text(chat(said, id="m1")), st.text(max_size=5)),
        st.sampled_from([
            text(chat()), text(chat(session_id="s", stream=True)), text({"type": "cancel", "run_id": "id-1"}),
            text({"type": "resume", "session_id": "s", "epoch": "", "seq": 0}), text({"type": "ping"}),
            text({"type": "ack", "session_id": "s", "seq": 0}), text({"type": "auth", "token": "wrong"}),
            text("no json"), text({"type": "nonsense"}), text({"type": "auth"}), frame(PING, b"x"), frame(PONG),
        ]),
    ),
    max_size=6,
)  # fmt: skip


@pytest.mark.row("M6")
@given(before_the_token, st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_nothing_that_is_said_before_the_token_runs_anything(said: list[bytes], sizes: list[int]) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    stream = b"".join([*said, text(chat("the last word", id="m9"))])
    while stream and client.stream.closed is None:
        for size in sizes:
            if data := stream[:size]:
                client.send_bytes(data)
                node.settle()
            stream = stream[size:]
    assert client.stream.closed is not None
    assert client.stream.closed[0] == 4401
    assert client.heard[-1]["error_code"] in ("AUTH_REQUIRED", "AUTH_FAILED")
    assert {event["type"] for event in client.heard[1:]} == {"error"}
    assert (node.started, node.gateway.sessions, node.gateway.runs) == ({}, 0, 0)


def test_a_first_message_with_a_token_opens_the_connection() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.expect_system("auth_required")
    client.send({"type": "auth", "token": token("ana", expires_in=100)})
    welcome = client.expect_system("connection_established")
    assert welcome == {
        "user_id": "ana", "session_id": "id-1", "epoch": "id-2", "seq": 0, "protocol": "qaws.v1",
        "heartbeat_interval": 30, "max_message_size": 262_144, "token_expires_in": 100,
    }  # fmt: skip
    node.advance(10)
    client.expect_silence()


def test_a_token_of_the_upgrade_needs_no_message() -> None:
    node = NodeUnderTest(configure(authentication=True))
    assert node.upgrade(f"Authorization: Bearer {token('ana')}").expect_system("connection_established")["user_id"] == (
        "ana"
    )
    node.upgrade("Authorization: Bearer wrong").expect_http(401)


def test_without_authentication_everybody_is_anonymous_and_a_token_is_not_understood() -> None:
    client = NodeUnderTest(configure(server={"heartbeat_interval": 0.5})).upgrade()
    welcome = client.expect_system("connection_established")
    assert (welcome["user_id"], welcome["token_expires_in"], welcome["heartbeat_interval"]) == ("anonymous", None, 0.5)
    client.send({"type": "auth", "token": "x"})
    client.expect_error("INVALID_EVENT")
    client.expect_silence()


@pytest.mark.row("A3")
@pytest.mark.parametrize(
    ("ahead", "expires_in", "known"),
    [
        (0, 3600, True),
        (30, 3600, True),  # issued in the future, within the leeway
        (31, 3600, False),
        (-3629, 3600, True),  # expired, within the leeway
        (-3630, 3600, False),
    ],
)
def test_a_token_is_judged_by_the_clock_that_comes_in(ahead: int, expires_in: int, known: bool) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.expect_system("auth_required")
    client.send({"type": "auth", "token": token(unix=UNIX + ahead, expires_in=expires_in)})
    if known:
        client.expect_system("connection_established")
    else:
        client.expect_error("AUTH_FAILED")
        client.expect_close(4401)
        assert node.note("auth_failed").topic == "security"


@pytest.mark.row("A3")
def test_a_token_that_only_the_leeway_let_in_ends_with_the_leeway() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.expect_system("auth_required")
    client.send({"type": "auth", "token": token(unix=UNIX - 3610)})
    assert client.expect_system("connection_established")["token_expires_in"] == 20
    node.advance(19.9)
    client.chat()
    client.expect_silence()
    node.advance(0.1)
    client.expect_error("TOKEN_EXPIRED")
    client.expect_close(4401)


@pytest.mark.row("A4")
def test_a_token_is_said_to_expire_a_minute_before_and_then_ends_the_connection() -> None:
    node = NodeUnderTest(configure(authentication=True, server={"heartbeat_interval": 86_400}))
    client = node.connect("ana")
    node.advance(3539.9)
    client.expect_silence()
    node.advance(0.1)
    assert client.expect_system("token_expiring") == {"token_expires_in": 60}
    node.advance(59.9)
    client.expect_silence()
    node.advance(0.1)
    client.expect_error("TOKEN_EXPIRED")
    client.expect_close(4401)


@pytest.mark.row("A4")
def test_a_refreshed_token_of_the_same_user_goes_on() -> None:
    node = NodeUnderTest(configure(authentication=True, server={"heartbeat_interval": 86_400}))
    client = node.connect("ana")
    node.advance(3550)
    client.expect_system("token_expiring")
    client.send({"type": "auth", "token": token("ana", unix=node.now.unix)})
    assert client.expect_system("token_refreshed") == {"token_expires_in": 3600}
    node.advance(3539)
    client.expect_silence()
    node.advance(1)
    client.expect_system("token_expiring")


@pytest.mark.row("A4")
@pytest.mark.parametrize("wrong", [token("eva"), "x", token("ana", unix=UNIX - 9999)])
def test_a_refresh_with_another_users_or_a_wrong_token_ends_it(wrong: str) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.connect("ana")
    client.send({"type": "auth", "token": wrong})
    client.expect_error("AUTH_FAILED")
    client.expect_close(4401)


@pytest.mark.row("A4")
@pytest.mark.clause("C5")
def test_a_jump_of_the_wall_clock_changes_the_tokens_verdict_and_nothing_else() -> None:
    node = NodeUnderTest(configure(authentication=True, server={"heartbeat_interval": 86_400}))
    client = node.connect("ana")
    node.jump(-1000)
    node.advance(3600)
    client.expect_silence()
    node.jump(2000)
    client.expect_silence()
    client.chat(id="m1")
    client.expect_error("TOKEN_EXPIRED", correlation_id="m1")
    client.expect_close(4401)
    assert not node.started


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("M1")
def test_ten_messages_a_minute_that_are_no_json_end_it() -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 86_400}))
    client = node.connect()
    for _ in range(9):
        client.send("no json")
        client.expect_error("INVALID_JSON")
    node.advance(60)
    client.forget()
    for _ in range(9):
        client.send("[]")
        client.expect_error("INVALID_JSON")
        client.send({"type": "nonsense"})
        client.expect_error("UNKNOWN_EVENT")
        client.send({"type": "chat_message", "content": 1})
        assert client.expect_error("INVALID_EVENT")["details"] == {
            "errors": [{"loc": ["content"], "type": "string_type"}]
        }
    client.send("\ufeff{}")
    client.expect_error("INVALID_JSON")
    client.expect_close(1008, "bad messages")


LIMITED = {"rate_limiting": {"requests_per_minute": 60, "burst_size": 2}}


@pytest.mark.row("R1")
def test_a_message_over_the_rate_is_not_run_and_told_when_to_come_back() -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect()
    client.chat()
    node.advance(0.25)
    client.chat()
    client.chat(id="m3")
    error = client.expect_error("RATE_LIMIT", correlation_id="m3")
    assert error["details"] == {"retry_after": pytest.approx(0.75, abs=0.0011)}
    assert node.gateway.runs == 2
    node.advance(error["details"]["retry_after"])
    client.chat(id="m3")
    client.expect_system("message_accepted")


@pytest.mark.row("R1")
def test_five_refusals_in_a_row_end_it() -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect()
    for _ in range(2 + 4):
        client.chat()
    node.advance(1)
    client.chat()  # in between one is let in: they are counted from the beginning again
    client.chat()
    client.forget()
    for _ in range(5):
        assert not client.write_closed
        client.chat()
        client.send({"type": "ping"})  # is not counted there, and changes nothing
    for _ in range(4):
        client.expect_error("RATE_LIMIT")
        client.expect_event("pong")
    client.expect_error("RATE_LIMIT")
    client.expect_close(4429, "rate limit")


@pytest.mark.row("R3")
@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_jump_of_the_wall_clock_opens_no_limit(jump: float) -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect()
    client.chat()
    client.chat()
    node.jump(jump)
    client.chat()
    assert client.expect_error("RATE_LIMIT")["details"] == {"retry_after": pytest.approx(1, abs=0.0011)}


@pytest.mark.row("R3")
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.4, 1.0, 30.0]), st.floats(-1e6, 1e6)), max_size=15))
def test_limits_are_those_of_a_clock_that_never_jumps(history: list[tuple[float, float]]) -> None:
    def heard(*, jumping: bool) -> list[tuple[str, object]]:
        node = NodeUnderTest(configure(security=LIMITED))
        client = node.connect()
        for seconds, jump in history:
            node.advance(seconds)
            if jumping:
                node.jump(jump)
            if client.stream.closed is None:
                client.chat()
        return [(str(event.get("error_code")), event.get("details")) for event in client.heard]

    assert heard(jumping=True) == heard(jumping=False)


@pytest.mark.row("R4")
def test_a_limit_follows_the_user_and_the_address_and_not_the_socket() -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect(peer="192.0.2.1")
    client.chat()
    client.chat()
    client.lose()
    again = node.connect(peer="192.0.2.1")
    again.chat()
    again.expect_error("RATE_LIMIT")
    other = node.connect(peer="192.0.2.2")
    other.chat()
    other.expect_silence()

    node = NodeUnderTest(configure(authentication=True, security=LIMITED))
    node.connect("ana", peer="192.0.2.1").chat()
    node.connect("ana", peer="192.0.2.2").chat()
    third = node.connect("ana", peer="192.0.2.3")
    third.chat()
    third.expect_error("RATE_LIMIT")


# ── slow readers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("C1")
def test_a_peer_that_does_not_read_for_ten_seconds_is_closed() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    client.block()
    client.block()
    client.send({"type": "ping"})
    node.advance(9.999)
    client.expect_silence()
    node.advance(0.001)
    client.expect_close(1008, "slow_consumer")
    assert node.gateway.sessions == 1


@pytest.mark.row("C1")
def test_progress_in_time_keeps_a_slow_reader() -> None:
    node = NodeUnderTest()
    client = node.connect()
    for _ in range(5):
        client.block()
        node.advance(9)
        client.unblock()
    assert client.unblock() == []
    node.advance(9)
    assert not client.write_closed


@pytest.mark.row("C1")
@pytest.mark.clause("C7")
def test_replies_wait_for_a_blocked_peer_within_bounds() -> None:
    node = NodeUnderTest(configure(limits={"out_high": 1024, "out_top": 4096, "inbox": 1 << 20}))
    client = node.connect()
    client.block()
    while not client.paused:
        client.send({"type": "ping", "id": "x"})
        client.expect_silence()
    held = node.gateway.buffered_bytes(client.number)
    assert held > 1024
    client.send({"type": "ping", "id": "x"})  # a read that was on its way does not open the tap again
    assert client.paused
    client.unblock()
    assert not client.paused
    assert len([event for event in client.heard if event["type"] == "pong"]) > 20
    assert node.gateway.buffered_bytes(client.number) == 0


@pytest.mark.row("C1")
@pytest.mark.clause("C7")
def test_too_many_replies_for_a_blocked_peer_end_it() -> None:
    node = NodeUnderTest(configure(limits={"out_high": 1024, "out_top": 4096, "frames_per_turn": 400}))
    client = node.connect()
    client.block()
    client.send_bytes(text({"type": "ping", "id": "x" * 64}) * 60)
    client.expect_close(1008, "slow_consumer")
    assert not client.paused
    assert node.gateway.buffered_bytes(client.number) == 0


@pytest.mark.row("C1")
@pytest.mark.clause("C7")
def test_the_bounds_of_what_waits_are_exact() -> None:
    ping = text({"type": "ping", "id": "x" * 42})
    size = len(b"\x81.") + len(b'{"type":"pong","id":""}') + 42
    node = NodeUnderTest(configure(limits={"out_high": 4 * size, "out_top": 6 * size}))
    client = node.connect()
    client.block()
    for waiting in range(1, 7):
        client.send_bytes(ping)
        assert node.gateway.buffered_bytes(client.number) == waiting * size
        assert client.paused is (waiting > 4)
    client.send_bytes(ping)
    client.expect_close(1008, "slow_consumer")


def test_a_blocked_peer_is_told_why_it_ends() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.block()
    client.send_bytes(text({"type": "ping"}) + frame(BINARY))
    client.expect_event("pong")
    client.expect_close(1003)
    assert client.unblock() == []


def test_a_peer_that_is_not_upgraded_cannot_be_blocked() -> None:
    node = NodeUnderTest()
    client = node.open()
    client.block()
    client.send_bytes(upgrade())
    client.expect_http(101)
    client.expect_system("connection_established")


def test_what_a_turn_says_is_one_write() -> None:
    client = NodeUnderTest().connect()
    effects = client.send_bytes(text({"type": "ping"}) * 3 + frame(PING))
    assert [type(effect) for effect in effects] == [SendBytes]


def test_notes_name_who_it_was() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.connect("ana")
    node.advance(2)
    client.lose()
    opened, closed = node.note("opened"), node.note("closed")
    who = {"connection": 0, "address": "192.0.2.1", "user_id": "ana"}
    assert opened.fields == {**who, "path": "/", "traceparent": None}
    assert dict(closed.fields) == {
        **who, "session_id": "id-1", "code": 1006, "reason": "disconnected", "seconds": 2,
        "messages_received": 0, "messages_sent": 1, "sessions": 0, "resumes": 0,
    }  # fmt: skip


@pytest.mark.parametrize("hosted", [False, True])
def test_what_went_over_a_connection_is_noted_at_its_end(hosted: bool) -> None:
    node = NodeUnderTest(configure(authentication=True))
    before = node.connect("ana", hosted=hosted)
    before.chat(id="m1")
    node.finish(node.only_run, "hola")
    before.lose()
    after = node.connect("ana", hosted=hosted)
    after.resume("id-1", 1, before.heard[0]["data"]["epoch"])
    after.send("no JSON")
    after.send({"type": "ping"})
    after.chat(session_id="s", stream=True)
    node.chunk(node.only_run, "ho")
    node.finish(node.only_run, "hola")
    after.send_bytes(close_frame(1000))
    after.lose()
    first, second = (dict(note.fields) for note in node.notes if note.name == "closed")
    assert (first["messages_received"], first["messages_sent"]) == (1, len(before.heard)) == (1, 3)
    assert (first["session_id"], first["sessions"], first["resumes"]) == ("id-1", 1, 0)
    assert (second["messages_received"], second["messages_sent"]) == (4, len(after.heard)) == (4, 8)
    assert (second["sessions"], second["resumes"], second["code"]) == (2, 1, 1000)


@pytest.mark.row("H3")
@pytest.mark.parametrize(
    ("limits", "loud"),
    [
        ({}, [True, False, True, False]),
        ({"refusal_interval": 4}, [True, True, True, True]),
        ({"refusal_addresses": 1}, [True, False, False, True]),
    ],
)
def test_how_often_a_refusal_is_logged_is_configured(limits: dict[str, Any], loud: list[bool]) -> None:
    node = NodeUnderTest(configure(limits=limits))
    for peer in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
        node.upgrade(path="/nowhere", peer=peer).expect_http(404)
        node.advance(4.0)
    assert [note.level == "WARNING" for note in node.notes if note.name == "refused"] == loud


@pytest.mark.row("H3")
def test_an_address_that_is_refused_again_and_again_fills_no_log() -> None:
    node = NodeUnderTest()
    for peer in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"):
        node.upgrade(path="/nowhere", peer=peer).expect_http(404)
        node.advance(4.0)
    node.upgrade(path="/nowhere", peer="192.0.2.1").expect_http(404)
    refused = [(note.fields["address"], note.level) for note in node.notes if note.name == "refused"]
    assert refused == [
        ("192.0.2.1", "WARNING"),
        ("192.0.2.1", "DEBUG"),
        ("192.0.2.2", "WARNING"),
        ("192.0.2.1", "WARNING"),
        ("192.0.2.1", "DEBUG"),
    ]


def test_a_login_by_message_is_noted() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    assert node.note("opened").fields["user_id"] is None
    client.send({"type": "auth", "token": token("ana")})
    assert node.note("authenticated").fields["user_id"] == "ana"


@pytest.mark.row("F12")
@pytest.mark.parametrize("end", [Client.eof, Client.lose])
def test_an_end_in_the_middle_of_a_head_is_noted_once(end: Callable[[Client], list[Effect]]) -> None:
    node = NodeUnderTest()
    silent = node.open()
    end(silent)
    assert [note.name for note in node.notes] == []
    client = node.open()
    client.send_bytes(upgrade()[:20])
    end(client)
    (note,) = node.notes
    assert (note.name, note.level, note.fields["code"], note.fields["reason"]) == (
        "closed", "DEBUG", 1006, "disconnected",
    )  # fmt: skip


@pytest.mark.row("C1")
def test_a_slow_peer_that_moves_is_not_closed() -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 86_400}))
    client = node.connect()
    client.block()
    for _ in range(5):
        node.advance(9)
        node.step(WriteProgressed(client.number))
    client.expect_silence()
    node.advance(10)
    client.expect_close(1008, "slow_consumer")
    assert node.step(WriteProgressed(client.number)) == []


@pytest.mark.clause("C1")
def test_word_of_a_transport_that_was_not_blocked_changes_nothing() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(id="m1")
    client.expect_system("message_accepted")
    due = node.gateway.wake_at
    for word in (WriteProgressed, WriteDrained):
        assert node.step(word(client.number)) == []
        assert node.gateway.wake_at == due
    client.block()
    assert node.step(WriteBlocked(client.number)) == []  # nor does it twice


@pytest.mark.row("H14")
def test_sockets_far_beyond_the_limit_are_dropped_without_a_word() -> None:
    node = NodeUnderTest(configure(limits={"handshakes": 2, "connections_per_address": 100}))
    for _ in range(2):
        node.open()
    for _ in range(2):
        node.open().expect_http(503)
    flood = node.open()
    flood.expect_dropped()
    assert node.gateway.connections == 4


@pytest.mark.clause("C1")
def test_a_refused_event_says_which_it_was() -> None:
    client = NodeUnderTest().connect()
    client.send({"type": "chat_message", "content": "", "id": "m1"})
    client.expect_error("INVALID_EVENT", correlation_id="m1")
    client.send({"type": "nothing", "id": "m2"})
    client.expect_error("UNKNOWN_EVENT", correlation_id="m2")
