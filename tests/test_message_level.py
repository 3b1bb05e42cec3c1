"""A node behind a host that does HTTP and frames by itself: what it still does there, and how each connection ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws_proto import Gateway, Now
from qaws_proto.admission.gate import Refusal
from qaws_proto.effects import (
    AcceptUpgrade,
    CloseWrite,
    DropConnection,
    Effect,
    Note,
    PauseReading,
    SendClose,
    SendMessage,
    SendResponse,
)
from qaws_proto.faults import Fault
from qaws_proto.inputs import (
    BytesReceived,
    CloseReceived,
    ConnectionOpened,
    DrainRequested,
    Input,
    MessageReceived,
    RequestReceived,
    StopRequested,
    WriteProgressed,
)
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import ADDRESS, MONO, UNIX, configure, counter, token
from qaws_proto.testing.peer import chat, request, upgrade
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

PING = json.dumps({"type": "ping", "id": "x"})


def of_wire(effects: list[Effect]) -> list[Effect]:
    """What is for the host, and no note."""
    return [effect for effect in effects if not isinstance(effect, Note)]


def closed(node: NodeUnderTest) -> tuple[object, object]:
    """The code and the word in the note of the one connection that closed."""
    fields = node.note("closed").fields
    return fields["code"], fields["reason"]


# ── the handshake ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_is_messages() -> None:
    node = NodeUnderTest()
    client = node.connect(hosted=True)
    client.say(json.dumps(chat("hi", id="m1", stream=True)))
    client.expect_system("message_accepted")
    node.chunk(node.only_run, "hel")
    client.expect_event("agent_chunk", content="hel", offset=0)
    rest, done = [effect for effect in node.finish(node.only_run, "hello ñ") if isinstance(effect, SendMessage)]
    assert (json.loads(rest.text)["content"], json.loads(done.text)["content"]) == ("lo ñ", "hello ñ")
    client.expect_event("agent_chunk", content="lo ñ", offset=3)
    client.expect_event("agent_response", content="hello ñ")


def test_an_upgrade_is_accepted_and_welcomed_in_this_order() -> None:
    node = NodeUnderTest()
    client = node.request()
    first, second = of_wire(node.history[0][2])
    assert first == AcceptUpgrade(client.number, None)
    assert isinstance(second, SendMessage)
    assert json.loads(second.text)["event_name"] == "connection_established"
    assert dict(node.note("opened").fields) == {
        "connection": 0, "address": ADDRESS, "user_id": None, "path": "/", "traceparent": None,
    }  # fmt: skip


@pytest.mark.parametrize("by", ["Authorization: Bearer {}", "Sec-WebSocket-Protocol: qaws.v1, qaws.bearer.{}"])
def test_a_token_comes_with_the_request(by: str) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.request(upgrade("/", by.format(token("ana"))))
    assert client.expect_http(101).headers.get("sec-websocket-protocol") == ("qaws.v1" if "Sec" in by else None)
    assert client.expect_system("connection_established")["user_id"] == "ana"


def test_a_token_comes_as_the_first_message() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.request()
    assert client.expect_system("auth_required") == {"timeout": 10}
    client.say(json.dumps({"type": "auth", "token": token("ana")}))
    assert client.expect_system("connection_established")["user_id"] == "ana"
    node.advance(10)
    client.expect_silence()


@pytest.mark.row("A10")
def test_no_token_in_time_ends_in_4408() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.request()
    client.expect_system("auth_required")
    node.advance(10)
    client.expect_close(4408, "auth timeout")
    assert client.write_closed


@pytest.mark.row("M6")
def test_a_chat_before_the_token_runs_nothing() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.request()
    client.forget()
    client.say(json.dumps(chat()))
    client.expect_error("AUTH_REQUIRED")
    client.expect_close(4401, "auth required")
    assert not node.started


REFUSED: dict[str, tuple[Fault, bytes, dict[str, Any]]] = {
    "a wrong token": (Fault.BAD_TOKEN, upgrade("/", "Authorization: Bearer x"), {}),
    "a page of another site": (Fault.ORIGIN_REFUSED, upgrade("/", "Origin: https://evil.example"), {}),
    "a blocked address": (Fault.ADDRESS_REFUSED, upgrade(), {"security": {"addresses": {"block": ["192.0.2.0/24"]}}}),
    "another path": (Fault.NOT_FOUND, upgrade("/elsewhere"), {}),
    "another host": (Fault.WRONG_HOST, upgrade(), {"server": {"allowed_hosts": ["qaws.example"]}}),
    "a token in the query": (Fault.QUERY_TOKEN, upgrade("/?token=x"), {}),
    "a body": (Fault.BODY_REFUSED, upgrade("/", "Content-Length: 1"), {}),
    "two hosts": (Fault.BAD_REQUEST, upgrade().replace(b"Host: localhost", b"Host: a b"), {}),
    "a full address": (Fault.ADDRESS_FULL, upgrade(), {"limits": {"connections_per_address": 1}}),
    "a full node": (Fault.AT_CAPACITY, upgrade(), {"server": {"max_connections": 1}}),
    "a node about to stop": (Fault.DRAINING, upgrade(), {}),
}


def refused(case: str, *, denial: bool) -> tuple[NodeUnderTest, Client, list[Effect]]:
    """A node that has just refused, the client, and the effects of it."""
    fault, head, sections = REFUSED[case]
    node = NodeUnderTest(configure(authentication=True, **sections))
    if fault in (Fault.ADDRESS_FULL, Fault.AT_CAPACITY, Fault.DRAINING):
        node.request(upgrade("/", f"Authorization: Bearer {token()}"))
    if fault is Fault.DRAINING:
        node.step(DrainRequested())
    client = node.request(head, denial=denial)
    return node, client, of_wire(node.history[-1][2])


@pytest.mark.row("H9")
@pytest.mark.row("H10")
@pytest.mark.row("H11")
@pytest.mark.row("H12")
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_upgrade_has_its_status_where_the_host_can_deny(case: str) -> None:
    row = REFUSED[case][0].value
    node, client, effects = refused(case, denial=True)
    answer = client.expect_http(row.status or 0)
    assert answer.body.decode() == row.word + "\n"
    assert answer.headers.get("www-authenticate") == ("Bearer" if row.status == 401 else None)
    assert answer.headers.get("retry-after") == {429: "5", 503: "1" if "stop" in case else "5"}.get(row.status or 0)
    assert [type(effect) for effect in effects] == [SendResponse, CloseWrite]
    assert [note.fields["status"] for note in node.notes if note.name == "refused"] == [row.status]
    node.advance(1)
    client.expect_dropped()


@pytest.mark.row("H9")
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_upgrade_has_its_close_code_where_the_host_can_not(case: str) -> None:
    row = REFUSED[case][0].value
    _, client, effects = refused(case, denial=False)
    assert effects == [SendClose(client.number, row.close or 0, row.word), CloseWrite(client.number)]
    assert client.refused == (row.close, row.word)


def test_what_a_user_refuses_without_a_close_code_is_a_violation() -> None:
    node = NodeUnderTest(upgrade_checks=[lambda gate, applicant: Refusal(Fault.METHOD_REFUSED)])
    assert node.request(denial=False).refused == (1002, "method not allowed")


# ── plain HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D1")
@pytest.mark.parametrize("denial", [False, True])
@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_answered(path: str, draining: bool, denial: bool) -> None:
    node = NodeUnderTest()
    node.connect(hosted=True)
    if draining:
        node.step(DrainRequested())
    busy = draining and path == "/readyz"
    client = node.request(request(path), denial=denial)
    answer = client.expect_http(503 if busy else 200)
    assert answer.body == (b'{"status":"draining"}' if busy else b'{"status":"ok"}')
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("retry-after") == ("1" if busy else None)
    assert client.write_closed


def test_a_head_request_has_no_body_but_its_length() -> None:
    node = NodeUnderTest()
    answer = node.request(request("/healthz", method="HEAD")).expect_http(200)
    assert (answer.body, answer.headers["content-length"]) == (b"", "15")


@pytest.mark.row("H9")
def test_a_preflight_is_answered_for_an_allowed_origin() -> None:
    node = NodeUnderTest(configure(security={"cors": {"origins": ["https://a.example"]}}))
    headers = node.request(request("/readyz", "Origin: https://a.example", method="OPTIONS")).expect_http(204).headers
    assert headers["access-control-allow-origin"] == "https://a.example"
    assert "content-length" not in headers
    headers = node.request(request("/readyz", "Origin: https://b.example", method="OPTIONS")).expect_http(204).headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.row("H5")
@pytest.mark.row("H6")
@pytest.mark.parametrize(
    ("data", "status", "allow"),
    [
        (request("/healthz", method="POST"), 405, "GET, HEAD, OPTIONS"),
        (request("/", method="POST"), 405, "GET"),
        (request("/", method="HEAD"), 405, "GET"),
        (request("/", method="OPTIONS"), 405, "GET"),
        (request("/healthz", "Content-Length: 5", method="POST"), 400, None),
        (request("/healthz", "Transfer-Encoding: chunked", method="POST"), 400, None),
        (request("/"), 400, None),
        (request("/nothing"), 404, None),
    ],
)
def test_other_requests_are_refused(data: bytes, status: int, allow: str | None) -> None:
    answer = NodeUnderTest().request(data, denial=False).expect_http(status)
    assert answer.headers.get("allow") == allow


def test_nothing_is_read_behind_an_answer() -> None:
    node = NodeUnderTest()
    client = node.request(request("/healthz"))
    assert client.say(PING) == client.leave(1006) == client.block() == client.unblock() == []
    assert client.lose() == [DropConnection(client.number)]


# ── too many ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("H14")
@pytest.mark.parametrize("denial", [False, True])
def test_requests_of_one_address_and_in_all_are_bounded(denial: bool) -> None:
    node = NodeUnderTest(configure(limits={"handshakes": 3, "connections_per_address": 2}))
    for _ in range(2):
        node.request(request("/healthz"), peer="192.0.2.1").expect_http(200)  # it lingers
    expected = [("192.0.2.1", 429, "too many connections"), ("192.0.2.2", 503, "at capacity")]
    for peer, status, word in expected:
        client = node.request(denial=denial, peer=peer)
        assert client.stream.head is not None
        assert client.refused == (None if denial else (1013, word))
        assert client.stream.head.status == (status if denial else 403)
        assert client.stream.head.headers.get("retry-after") == ("5" if denial else None)
    node.advance(1)
    node.request(peer="192.0.2.1").expect_http(101)


@pytest.mark.row("H14")
def test_requests_far_beyond_are_dropped_without_a_word() -> None:
    node = NodeUnderTest(configure(limits={"handshakes": 2, "connections_per_address": 100}))
    probes = [node.request(request("/healthz")) for _ in range(5)]
    assert [probe.stream.head.status if probe.stream.head else None for probe in probes] == [200, 200, 503, 503, None]
    probes[4].expect_dropped()
    assert of_wire(node.history[-1][2]) == [DropConnection(4)]
    assert (probes[4].say(PING), probes[4].leave()) == ([], [])
    node.advance(1)
    assert node.gateway.connections == 0
    assert node.gateway.wake_at is None


# ── what peers say ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("F2")
@pytest.mark.row("F3")
@pytest.mark.row("M1")
@pytest.mark.parametrize(
    ("message", "code", "word"),
    [
        ("x" * 1025, 1009, "message too big"),
        ("ñ" * 512 + "x", 1009, "message too big"),
        (b"x" * 1025, 1009, "message too big"),
        ("\ud800", 1007, "invalid utf-8"),
        (b"{}", 1003, "binary refused"),
    ],
)
def test_a_violation_is_closed_with_its_code_and_what_follows_is_ignored(
    message: str | bytes, code: int, word: str
) -> None:
    node = NodeUnderTest(configure(limits={"max_message_size": 1024}))
    client = node.connect(hosted=True)
    assert of_wire(client.say(message)) == [SendClose(client.number, code, word), CloseWrite(client.number)]
    client.expect_close(code, word)
    assert client.say(PING) == client.say(b"") == client.leave(code) == []
    node.advance(0.999)
    assert not client.dropped
    node.advance(0.001)
    client.expect_dropped()
    assert closed(node) == (code, word)


@pytest.mark.row("F3")
def test_a_message_of_just_the_size_is_read() -> None:
    client = NodeUnderTest(configure(limits={"max_message_size": 1024})).connect(hosted=True)
    client.say("ñ" * 512)
    client.expect_error("INVALID_JSON")
    client.expect_silence()


@pytest.mark.row("M1")
def test_ten_messages_in_a_minute_that_are_no_json_end_it() -> None:
    node = NodeUnderTest()
    client = node.connect(hosted=True)
    for _ in range(9):
        client.say("no json")
        client.expect_error("INVALID_JSON")
    node.advance(60)
    for _ in range(9):
        client.say("no json")
        client.expect_error("INVALID_JSON")
    client.expect_silence()
    client.say("no json")
    client.expect_error("INVALID_JSON")
    client.expect_close(1008, "bad messages")


@pytest.mark.row("F8")
def test_messages_are_charged_to_the_frame_budget() -> None:
    node = NodeUnderTest(configure(limits={"frame_burst": 20, "frames_per_second": 10}))
    client = node.connect(hosted=True)
    for _ in range(20):
        client.say(PING)
    node.advance(1)
    for _ in range(10):
        client.say(PING)
    assert len(client.heard) == 31
    client.forget()
    assert of_wire(client.say(PING)) == [SendClose(client.number, 1008, "frame flood"), CloseWrite(client.number)]
    client.expect_close(1008, "frame flood")
    assert client.say(PING) == []


@pytest.mark.row("R1")
def test_messages_over_the_rate_end_in_4429() -> None:
    security = {"rate_limiting": {"requests_per_minute": 1, "burst_size": 1, "strikes": 2}}
    client = NodeUnderTest(configure(security=security)).connect(hosted=True)
    client.say(json.dumps(chat()))
    client.forget()
    for _ in range(2):
        client.say(json.dumps(chat()))
        client.expect_error("RATE_LIMIT")
    client.expect_close(4429)


# ── slow readers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("C1")
@pytest.mark.clause("C7")
def test_what_waits_for_a_blocked_peer_has_exact_bounds() -> None:
    size = len(b"\x81.") + len(b'{"type":"pong","id":""}') + 42
    ping = json.dumps({"type": "ping", "id": "x" * 42})
    node = NodeUnderTest(configure(limits={"out_high": 4 * size, "out_top": 6 * size}))
    client = node.connect(hosted=True)
    client.block()
    for waiting in range(1, 7):
        assert client.say(ping) == ([PauseReading(client.number)] if waiting == 5 else [])
        assert node.gateway.buffered_bytes(client.number) == waiting * size
    assert client.paused
    client.say(ping)
    client.expect_close(1008, "slow_consumer")
    assert not client.paused
    assert node.gateway.buffered_bytes(client.number) == 0
    assert [event["type"] for event in client.heard] == ["system_event"], "what waited is not said"


@pytest.mark.row("C1")
def test_what_waited_comes_in_order_once_there_is_room() -> None:
    node = NodeUnderTest(configure(limits={"out_high": 256}))
    client = node.connect(hosted=True)
    client.block()
    numbers = [str(number) for number in range(10)]
    for number in numbers:
        client.say(json.dumps({"type": "ping", "id": number}))
    assert client.paused
    client.expect_silence()
    client.unblock()
    for number in numbers:
        client.expect_event("pong", id=number)
    assert not client.paused


@pytest.mark.row("C1")
def test_a_peer_without_progress_is_closed_and_its_session_stays() -> None:
    node = NodeUnderTest()
    client = node.connect(hosted=True)
    client.chat(stream=True)
    client.block()
    node.advance(9)
    node.step(WriteProgressed(client.number))
    node.advance(9.999)
    assert not client.write_closed
    node.advance(0.001)
    client.expect_close(1008, "slow_consumer")
    assert node.gateway.sessions == 1


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("authentication", [False, True])
def test_the_host_pings_and_the_node_does_not(authentication: bool) -> None:
    node = NodeUnderTest(configure(authentication=authentication))
    client = node.connect(None if not authentication else "ana", hosted=True)
    node.advance(1000)
    client.expect_silence()
    if not authentication:
        assert node.gateway.wake_at is None, "no timer is left"


@pytest.mark.row("C3")
@pytest.mark.row("F12")
@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 3000])
@pytest.mark.parametrize("blocked", [False, True])
def test_the_code_of_a_peer_that_closed_is_noted_and_nothing_is_said_to_it(code: int, blocked: bool) -> None:
    node = NodeUnderTest()
    client = node.connect(hosted=True)
    client.chat(stream=True)
    client.forget()
    if blocked:
        client.block()
        client.say(PING)  # its answer waits
    assert of_wire(client.leave(code)) == [CloseWrite(client.number)]
    assert client.say(PING) == client.leave(1000) == []
    node.chunk(node.only_run, "nobody hears this")
    node.advance(1)
    client.expect_dropped()
    assert closed(node) == (code, "peer")
    assert not client.stream.frames
    assert node.gateway.buffered_bytes(client.number) == node.gateway.connections == 0


def test_a_peer_that_closed_while_its_session_is_loaded_is_told_nothing_more() -> None:
    node = NodeUnderTest(store=StoreModel(), prompt=False)
    client = node.connect(hosted=True)
    client.chat(stream=True)
    node.answer()
    client.block()
    client.resume("another")
    assert of_wire(client.leave()) == []
    run_id = node.only_run
    node.chunk(run_id, "nobody hears this")
    node.finish(run_id)
    node.asked.append(node.asked.pop(0))  # what was said is kept before the other session is here
    node.answer()
    assert of_wire(client.unblock()) == []
    assert of_wire(node.answer()) == [CloseWrite(client.number)]


@pytest.mark.row("F13")
@pytest.mark.parametrize("answers", [False, True])
def test_a_close_of_ours_waits_for_no_answer_and_is_dropped_a_second_later(answers: bool) -> None:
    node = NodeUnderTest()
    client = node.connect(hosted=True)
    assert of_wire(node.step(StopRequested())) == [
        SendClose(client.number, 1001, "going away"), CloseWrite(client.number),
    ]  # fmt: skip
    if answers:
        assert client.leave(1001) == []
    node.advance(0.999)
    assert not client.dropped
    node.advance(0.001)
    client.expect_dropped()
    assert closed(node) == (1001, "going away")
    assert node.drained


@pytest.mark.row("D1")
def test_a_drain_lets_runs_finish_and_closes_with_1012() -> None:
    node = NodeUnderTest()
    client, idle = node.connect(hosted=True), node.connect(hosted=True)
    client.chat()
    node.step(DrainRequested())
    for each in (client, idle):
        each.expect_system("server_draining")
    idle.expect_close(1012, "restarting")
    client.expect_silence()
    client.say(json.dumps(chat()))
    client.expect_error("OVERLOADED")
    node.finish(node.only_run, "the answer")
    client.expect_event("agent_response", content="the answer")
    node.advance(2)
    client.expect_close(1012, "restarting")
    node.advance(2)
    assert node.drained


@pytest.mark.row("F12")
def test_a_lost_transport_is_one_note() -> None:
    node = NodeUnderTest()
    client = node.connect(hosted=True)
    assert of_wire(client.lose()) == [DropConnection(client.number)]
    assert client.lose() == client.eof() == client.leave() == client.say(PING) == []
    assert closed(node) == (1006, "disconnected")


# ── misuse, and what nobody would send ───────────────────────────────────────────────────────────────────────────────

MISUSE: dict[str, tuple[Input, str]] = {
    "bytes for a host": (BytesReceived(0, b"\x89\x80abcd"), "takes messages, not bytes"),
    "a message for bytes": (MessageReceived(1, PING), "takes bytes, not messages"),
    "a close for bytes": (CloseReceived(1, 1000), "takes bytes, not messages"),
    "a number again": (RequestReceived(1, None, "GET", "/", (("host", "a"),), upgrade=True), "not greater"),
    "a lower number": (RequestReceived(0, None, "GET", "/", (("host", "a"),), upgrade=True), "not greater"),
    "a request's number opened": (ConnectionOpened(0, None), "not greater"),
    "a message of nobody": (MessageReceived(2, PING), "never opened"),
    "a close of nobody": (CloseReceived(2, 1000), "never opened"),
}


@pytest.mark.clause("C1")
@pytest.mark.parametrize(("event", "says"), MISUSE.values(), ids=MISUSE)
def test_misuse_raises_and_leaves_the_node_as_it_was(event: Input, says: str) -> None:
    def a_node() -> NodeUnderTest:
        node = NodeUnderTest()
        node.connect(hosted=True)
        node.connect()
        return node

    node, untouched = a_node(), a_node()
    with pytest.raises(ValueError, match=says):
        node.gateway.step(event, node.now)
    for each in (node, untouched):
        each.clients[0].say(PING)
        each.clients[1].send({"type": "ping", "id": "x"})
        each.connect(hosted=True)
        each.advance(100)
    assert repr(node.history) == repr(untouched.history)


headers = st.lists(
    st.tuples(
        st.sampled_from(["host", "origin", "authorization", "sec-websocket-protocol", "x-forwarded-for", "x",
                         "forwarded", "content-length", "transfer-encoding"]),
        st.one_of(st.text(max_size=20), st.builds("Bearer {}".format, st.text(max_size=9)), st.just("qaws.v1")),
    ),
    max_size=6,
)  # fmt: skip
targets = st.one_of(
    st.just("/"), st.text(max_size=20), st.builds("/?token={}".format, st.text(max_size=9)), st.just("/healthz")
)


@pytest.mark.clause("C1")
@pytest.mark.row("H8")
@example("GET", "/", [("host", "localhost"), ("authorization", "Bearer \ud800")], None, True, True)
@example("GET", "/", [("host", "localhost"), ("x-forwarded-for", "\ud800")], "::1", True, True)
@given(
    st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "", "\ud800"]), targets, headers,
    st.sampled_from([None, "127.0.0.1", "::1", "no address"]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_whatever_a_host_lets_pass_is_answered_once(
    method: str, target: str, headers: list[tuple[str, str]], peer: str | None, upgrade: bool, denial: bool
) -> None:
    config = configure(authentication=True, server={"trusted_proxies": ["127.0.0.1", "::1"]})
    gateway = Gateway(config, ids=counter())
    if not any(name == "host" for name, _ in headers):
        headers = [("host", "localhost"), *headers]
    effects = gateway.step(RequestReceived(0, peer, method, target, tuple(headers), upgrade, denial), Now(MONO, UNIX))
    first, *rest = of_wire(effects)
    if isinstance(first, AcceptUpgrade):
        assert upgrade
        assert [type(effect) for effect in rest] == [SendMessage]
    else:
        assert isinstance(first, SendClose if upgrade and not denial else SendResponse)
        assert rest == [CloseWrite(0)]


@pytest.mark.clause("C12")
def test_a_request_prints_no_token() -> None:
    event = RequestReceived(0, None, "GET", "/?token=secret", (("authorization", "Bearer secret"),), upgrade=True)
    assert repr(event) == "RequestReceived(connection=0, method='GET', upgrade=True)"
