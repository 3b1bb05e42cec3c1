"""The node as a whole: what it routes, what users add to it, its sessions, and how it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jwt
import pytest

from qaws_proto import ConfigError, EventContext, EventType, Gateway, Now
from qaws_proto.admission.gate import Applicant, Gate, Passage, Refusal
from qaws_proto.effects import CancelRun, Drained, SendBytes, StartRun
from qaws_proto.events import ChatMessage, ClientEvent, Pong, SystemEvent
from qaws_proto.faults import Fault
from qaws_proto.inputs import (
    BytesReceived,
    ConnectionOpened,
    DrainRequested,
    Input,
    RunChunk,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStep,
    StopRequested,
    TimerFired,
)
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import MONO, SECRET, UNIX, configure, counter, token
from qaws_proto.testing.peer import chat, frame, text, upgrade
from tests.helpers.node import NodeUnderTest

NOW = Now(MONO, UNIX)


# ── the contract with the caller ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C1")
@pytest.mark.parametrize(
    ("event", "error"),
    [
        (BytesReceived(1, b"x"), ValueError),
        (ConnectionOpened(0), ValueError),
        (ConnectionOpened(-1), ValueError),
        ("no input", TypeError),
        (SendBytes(0, b""), TypeError),
    ],
)
def test_misuse_raises_and_leaves_the_node_as_it_was(event: Any, error: type[Exception]) -> None:
    node = NodeUnderTest()
    client = node.connect()
    before = node.gateway.wake_at, node.gateway.connections
    with pytest.raises(error):
        node.gateway.step(event, node.now)
    assert (node.gateway.wake_at, node.gateway.connections) == before
    client.chat("still here", id="m1")
    client.expect_system("message_accepted")


def test_a_node_needs_a_way_to_verify_tokens() -> None:
    with pytest.raises(ConfigError, match="jwt_secret"):
        Gateway(configure(security={"authentication": {"enabled": True}}), ids=counter())


@pytest.mark.clause("C5")
def test_a_node_with_nothing_to_do_sets_no_timer() -> None:
    gateway = Gateway(configure(), ids=counter())
    assert gateway.wake_at is None
    assert gateway.step(TimerFired(), NOW) == []


@pytest.mark.clause("C8")
@pytest.mark.parametrize(
    "late", [RunStarted("r"), RunChunk("r", "x"), RunStep("r", "reasoning"), RunFinished("r"), RunFailed("r")]
)
def test_results_of_a_run_that_nobody_knows_are_ignored(late: Input) -> None:
    node = NodeUnderTest()
    node.connect()
    assert node.step(late) == []


def test_the_node_counts_what_it_holds() -> None:
    node = NodeUnderTest()
    node.open()
    client = node.connect()
    client.chat()
    gateway = node.gateway
    assert (gateway.connections, gateway.sessions, gateway.runs) == (2, 1, 1)


@pytest.mark.clause("C4")
@pytest.mark.row("H14")
def test_an_address_that_is_none_is_like_no_address() -> None:
    node = NodeUnderTest(configure(limits={"connections_per_address": 1}))
    node.connect(peer="not an address")
    node.upgrade(peer=None).expect_http(429)


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_is_answered() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat("hola", id="m1", metadata={"lang": "es", "n": 1}, user_id="ana")
    assert client.expect_system("message_accepted", correlation_id="m1", seq=1, session_id="id-1") == {
        "run_id": "id-3", "position": 0, "duplicate": False, "content": "hola",
    }  # fmt: skip
    run = node.started["id-3"]
    assert run == StartRun("id-3", "id-1", "ana", "hola", False, {"lang": "es", "n": 1}, asker=0)
    node.advance(1.5)
    node.finish("id-3", "¡Hola!", reasoning_steps=("think",), tools_used=("chat_model",))
    assert client.expect_event("agent_response") == {
        "type": "agent_response", "content": "¡Hola!", "status": "completed", "user_id": "ana", "processing_time": 1.5,
        "reasoning_steps": ["think"], "tools_used": ["chat_model"], "run_id": "id-3", "correlation_id": "m1",
        "session_id": "id-1", "seq": 2,
    }  # fmt: skip


def test_a_message_without_an_id_is_not_acknowledged() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    client.expect_silence()
    node.finish(node.only_run, "x")
    assert "correlation_id" not in client.expect_event("agent_response", user_id="anonymous", seq=1)


def test_a_message_cannot_speak_for_another_user() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.connect("ana")
    client.chat(id="m1", user_id="eva")
    client.expect_error("FORBIDDEN", correlation_id="m1", error_message="user_id is not the user of the token")
    client.chat(user_id="ana")
    assert node.started[node.only_run].user_id == "ana"


@pytest.mark.row("M5")
def test_the_same_id_again_runs_nothing_and_is_pointed_to() -> None:
    node = NodeUnderTest()
    client, other = node.connect(), node.connect()
    client.chat(id="m1", session_id="s")
    other.chat(id="m2", session_id="s")
    first, _ = (client.expect_system("message_accepted")["run_id"] for _ in range(2))
    second = other.expect_system("message_accepted")["run_id"]
    other.chat("something else", id="m1", session_id="s")
    again = other.expect_event("system_event", event_name="message_accepted", correlation_id="m1", session_id="s")
    assert again["data"] == {"run_id": first, "position": 0, "duplicate": True}
    assert "seq" not in again
    client.chat(id="m2", session_id="s")
    assert client.expect_system("message_accepted") == {"run_id": second, "position": 1, "duplicate": True}
    node.finish(first, "x")
    client.chat(id="m1", session_id="s")
    client.expect_event("agent_response")
    client.expect_system("run_started", correlation_id="m2")
    assert client.expect_system("message_accepted") == {"run_id": first, "position": 0, "duplicate": True}
    assert len(node.started) == 2
    client.chat(id="m1")  # in another session it is another message
    assert len(node.started) == 3


@pytest.mark.row("M5")
def test_ids_are_remembered_within_a_window() -> None:
    node = NodeUnderTest(configure(sessions={"known_ids": 2}))
    client = node.connect()
    for name in ("m1", "m2", "m3", "m2", "m1"):
        client.chat(id=name)
        for run_id in list(node.runs):
            node.finish(run_id, "x")
    assert len(node.started) == 4


def test_a_session_is_heard_by_all_who_read_it() -> None:
    node = NodeUnderTest(configure(authentication=True))
    typing, reading, other = node.connect("ana"), node.connect("ana"), node.connect("eva")
    for client in (typing, reading, other):
        client.chat(session_id="s")
        node.finish(node.only_run, "x")
        client.forget()
    typing.forget()
    typing.chat("to both", id="m1", session_id="s")
    node.finish(node.only_run, "y")
    for client in (typing, reading):
        assert client.expect_system("message_accepted")["content"] == "to both"
        client.expect_event("agent_response", content="y")
    other.expect_silence()  # a session of that name, but of another user


def test_messages_are_noted_where_that_is_asked_for() -> None:
    node = NodeUnderTest(configure(logging={"log_messages": True}))
    node.connect().chat("secret of ana")
    assert dict(node.note("accepted").fields)["content"] == "secret of ana"
    node = NodeUnderTest()
    node.connect().chat()
    assert not [note for note in node.notes if note.name == "accepted"]


def test_runs_are_cancelled_by_their_id_or_the_messages() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(id="m1")
    client.send({"type": "cancel", "correlation_id": "m1"})
    client.expect_system("message_accepted")
    client.expect_event("agent_response", status="cancelled", content="", correlation_id="m1")
    assert node.cancelled == {"id-3"}
    for again in ({"correlation_id": "m1"}, {"run_id": "id-3"}):
        client.send({"type": "cancel", **again})
        client.expect_silence()
    node.fail("id-3")
    client.chat()
    client.send({"type": "cancel", "run_id": node.only_run})
    client.expect_event("agent_response", status="cancelled")
    for wrong in ({"correlation_id": "m9"}, {"run_id": "r9"}):
        client.send({"type": "cancel", **wrong})
        client.expect_error("RUN_NOT_FOUND")


@pytest.mark.parametrize(
    ("authentication", "user_id", "may"), [(True, "ana", True), (True, "eva", False), (False, None, False)]
)
def test_a_run_is_cancelled_by_its_owner_or_by_who_reads_it(
    authentication: bool, user_id: str | None, may: bool
) -> None:
    node = NodeUnderTest(configure(authentication=authentication))
    first = node.connect("ana" if authentication else None)
    first.chat(id="m1")
    other = node.connect(user_id)
    other.send({"type": "cancel", "run_id": node.only_run})
    assert bool(node.cancelled) is may
    if not may:
        other.expect_error("RUN_NOT_FOUND")
    other.send({"type": "cancel", "correlation_id": "m1"})
    other.expect_error("RUN_NOT_FOUND")


def test_a_ping_is_answered() -> None:
    client = NodeUnderTest().connect()
    client.send({"type": "ping", "id": "p1"})
    client.expect_event("pong", id="p1")
    client.send({"type": "ping"})
    assert client.expect_event("pong") == {"type": "pong"}


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("S4")
def test_a_user_has_its_share_of_sessions_and_the_longest_unread_makes_room() -> None:
    node = NodeUnderTest(configure(authentication=True, sessions={"per_user": 3}))

    def visit(name: str, *, leave: bool = True) -> Client:
        client = node.connect("ana")
        client.chat(session_id=name)
        if node.runs:
            node.finish(node.only_run, "x")
            client.forget()
        if leave:
            client.lose()
        node.advance(1)
        return client

    visit("a")
    visit("b")
    visit("c")
    visit("a")  # read again: now b is the longest unread
    visit("d")
    stay = visit("c", leave=False)
    stay.chat(session_id="a")
    node.finish(node.only_run, "x")
    stay.chat(session_id="d")
    node.finish(node.only_run, "x")
    stay.forget()
    visit("b").expect_error("BUSY")  # all three are read
    eva = node.connect("eva")
    eva.chat(id="m")
    eva.expect_system("message_accepted")
    assert node.gateway.sessions == 4


@pytest.mark.row("S4")
def test_a_session_that_works_makes_no_room() -> None:
    node = NodeUnderTest(configure(sessions={"max_sessions": 1}))
    client = node.connect()
    client.chat()
    client.lose()
    other = node.connect()
    other.chat()
    assert other.expect_error("OVERLOADED")["details"] == {"retry_after": 5}
    node.finish(node.only_run, "x")
    other.chat()
    assert node.gateway.sessions == 1
    assert len(node.started) == 2


@pytest.mark.row("S4")
def test_a_connection_reads_a_bounded_number_of_sessions() -> None:
    node = NodeUnderTest(configure(sessions={"per_user": 2}))
    client = node.connect()
    for name in ("a", "b", "c", "a"):
        client.chat(session_id=name)
    client.expect_error("BUSY")
    assert node.gateway.sessions == 2
    other = node.connect()
    other.chat(session_id="a", id="m1")
    other.expect_system("message_accepted")
    other.chat(session_id="d")
    client.chat(session_id="d")
    client.forget()
    client.chat(session_id="d")
    client.expect_error("BUSY")


@pytest.mark.row("S4")
@pytest.mark.row("G8")
def test_a_session_ends_when_nobody_has_read_it_for_its_time() -> None:
    node = NodeUnderTest(configure(sessions={"ttl": 100}, agent={"timeout": 1000, "max_duration": 1000}))
    client = node.connect()
    client.chat(session_id="s")
    client.chat(session_id="s")
    client.lose()
    node.advance(99)
    again = node.connect()
    again.chat(session_id="s", id="m3")
    assert again.expect_system("message_accepted", seq=1)["position"] == 2
    again.lose()
    node.advance(99.999)
    assert (node.gateway.sessions, node.cancelled) == (1, set())
    node.advance(0.001)
    assert (node.gateway.sessions, len(node.ended)) == (0, 3)
    assert node.cancelled == set(node.runs)
    assert node.gateway.runs == 1  # the agent keeps its place until it ends
    assert node.fail(node.only_run) == []
    assert node.gateway.runs == 0


@pytest.mark.row("S4")
def test_an_idle_session_ends_too() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    node.finish(node.only_run, "x")
    client.lose()
    node.advance(3600)
    assert (node.gateway.sessions, node.gateway.wake_at) == (0, None)


@pytest.mark.row("S4")
def test_a_session_that_is_being_stopped_can_end() -> None:
    node = NodeUnderTest(configure(sessions={"ttl": 3}))
    client = node.connect()
    client.chat(id="m1")
    client.send({"type": "cancel", "correlation_id": "m1"})
    client.lose()
    node.advance(10)
    assert (node.gateway.sessions, node.gateway.wake_at) == (0, None)
    assert node.finish(node.only_run, "late") == []
    assert node.gateway.runs == 0


# ── what users add ───────────────────────────────────────────────────────────────────────────────────────────────────


class Note(ClientEvent):
    """An event of this test."""

    type: Literal["note"]
    text: str
    id: str | None = None

    @property
    def correlation(self) -> str | None:
        return self.id


class Free(ClientEvent):
    """One that no rate limit counts."""

    counted: ClassVar[bool] = False

    type: Literal["free"]


def with_handler(handler: Callable[[EventContext, Any], None], **sections: Any) -> NodeUnderTest:
    """A node that understands `note` and `free`."""
    return NodeUnderTest(configure(**sections), events=[EventType(Note, handler), EventType(Free, handler)])


def test_a_note_of_a_user_has_a_level_of_the_log() -> None:
    def handler(context: EventContext, event: Note | Free) -> None:
        context.note("noted", "info")

    node = with_handler(handler)
    client = node.connect()
    client.send({"type": "note", "text": "abc"})
    client.expect_error("INTERNAL")
    assert isinstance(node.note("handler_failed").cause, ValueError)


def test_an_event_of_a_user_is_parsed_counted_and_handled() -> None:
    seen: list[object] = []

    def handler(context: EventContext, event: Note | Free) -> None:
        seen.append((event, context.event, context.now, context.principal.user_id, context.session_id))
        context.reply(SystemEvent(event_name="noted", data={"n": len(seen)}))
        context.note("noted", "DEBUG", size=3)

    node = with_handler(handler, security={"rate_limiting": {"burst_size": 1}})
    client = node.connect()
    client.send({"type": "note", "text": "abc"})
    assert client.expect_system("noted") == {"n": 1}
    event = Note(type="note", text="abc")
    assert seen == [(event, event, node.now, "anonymous", "id-1")]
    assert node.note("noted").fields == {"connection": 0, "size": 3}
    assert node.note("noted").level == "DEBUG"
    client.send({"type": "note"})
    client.expect_error("INVALID_EVENT")
    client.send({"type": "note", "text": "x", "id": "n2"})
    client.expect_error("RATE_LIMIT", correlation_id="n2")
    client.send({"type": "free"})
    client.expect_system("noted")


@pytest.mark.parametrize(
    ("fault", "code", "close"), [(Fault.FORBIDDEN, "FORBIDDEN", None), (Fault.TOKEN_EXPIRED, "TOKEN_EXPIRED", 4401)]
)
def test_a_handler_may_refuse(fault: Fault, code: str, close: int | None) -> None:
    node = with_handler(lambda context, event: context.refuse(fault, "not so", 2.5))
    client = node.connect()
    client.send({"type": "note", "text": "x", "id": "n1"})
    client.expect_error(code, correlation_id="n1", error_message="not so", details={"retry_after": 2.5})
    if close is None:
        client.expect_silence()
    else:
        client.expect_close(close)


def raising(context: EventContext, event: ClientEvent) -> None:
    raise RecursionError("secret")


def unspeakable(context: EventContext, event: ClientEvent) -> None:
    context.reply(Pong(id="\ud800"))


def unanswerable(context: EventContext, event: ClientEvent) -> None:
    context.refuse(Fault.NOT_FOUND)


@pytest.mark.clause("C1")
@pytest.mark.clause("C12")
@pytest.mark.parametrize("handler", [raising, unspeakable, unanswerable])
def test_a_handler_that_raises_is_an_internal_error_and_the_connection_lives(
    handler: Callable[[EventContext, Any], None],
) -> None:
    node = with_handler(handler)
    client = node.connect()
    client.send({"type": "note", "text": "x", "id": "n1"})
    error = client.expect_error("INTERNAL", correlation_id="n1")
    assert "secret" not in str(error)
    note = node.note("handler_failed")
    assert (note.level, note.fields, note.cause is None) == ("ERROR", {"connection": 0, "event": "note"}, False)
    client.send({"type": "ping"})
    client.expect_event("pong")


def test_own_checks_come_behind_the_built_in_ones() -> None:
    asked: list[str] = []

    def no_curl(gate: Gate, applicant: Applicant) -> Refusal | None:
        asked.append(applicant.request.path)
        return Refusal(Fault.AT_CAPACITY, 1.5) if applicant.request.value("user-agent") == "curl" else None

    def no_shouting(gate: Gate, passage: Passage) -> Refusal | None:
        event = passage.event
        shouts = isinstance(event, ChatMessage) and event.content.isupper()
        return Refusal(Fault.FORBIDDEN, text="do not shout") if shouts else None

    node = NodeUnderTest(upgrade_checks=[no_curl], event_checks=[no_shouting])
    node.upgrade("Origin: https://evil.example").expect_http(403)
    assert asked == []
    assert node.upgrade("User-Agent: curl").expect_http(503).headers["retry-after"] == "2"
    client = node.connect()
    assert asked == ["/", "/"]
    client.chat("HELLO", id="m1")
    client.expect_error("FORBIDDEN", error_message="do not shout", correlation_id="m1")
    client.chat("hello", id="m2")
    client.expect_system("message_accepted")


def fails(gate: Gate, asked: object) -> Refusal | None:
    raise RuntimeError("secret")


def answers_wrong(gate: Gate, asked: object) -> Any:
    return True


def never_retry(gate: Gate, asked: object) -> Refusal | None:
    return Refusal(Fault.INTERNAL, float("inf"))


@pytest.mark.clause("C1")
@pytest.mark.parametrize("check", [fails, answers_wrong, never_retry, lambda gate, asked: Refusal(Fault.RATE_LIMIT)])
def test_an_upgrade_check_that_fails_lets_nobody_in(check: Any) -> None:
    node = NodeUnderTest(upgrade_checks=[check])
    assert b"secret" not in node.upgrade().expect_http(500).body
    note = node.note("check_failed")
    assert (note.level, isinstance(note.cause, Exception)) == ("ERROR", True)


@pytest.mark.clause("C1")
@pytest.mark.parametrize("check", [fails, answers_wrong, never_retry, lambda gate, asked: Refusal(Fault.NOT_FOUND)])
def test_an_event_check_that_fails_lets_nothing_through(check: Any) -> None:
    node = NodeUnderTest(event_checks=[check])
    client = node.connect()
    client.chat(id="m1")
    client.expect_error("INTERNAL", correlation_id="m1")
    client.expect_silence()
    assert not node.started
    assert isinstance(node.note("check_failed").cause, Exception)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D1")
def test_a_drain_lets_runs_finish_and_then_closes_with_1012() -> None:
    node = NodeUnderTest()
    busy, idle = node.connect(), node.connect()
    busy.chat(id="m1")
    busy.chat(id="m2")
    busy.forget()
    node.step(DrainRequested())
    for client in (busy, idle):
        assert client.expect_system("server_draining") == {"deadline": 30, "reconnect_after": 1}
    idle.expect_close(1012)
    assert node.note("draining").fields == {"connections": 2, "runs": 2, "by": "operator", "reason": ""}
    assert node.step(DrainRequested()) == []
    idle.send_bytes(frame(8, (1012).to_bytes(2)))
    busy.chat(id="m3")
    assert busy.expect_error("OVERLOADED", correlation_id="m3")["details"] == {"retry_after": 1}
    for answer in ("first", "second"):
        node.advance(3)
        node.finish(node.only_run, answer)
        busy.expect_event("agent_response", content=answer)
        if answer == "first":
            busy.expect_system("run_started")
    busy.expect_silence()
    node.advance(0.1)
    busy.expect_close(1012)
    assert not node.drained
    node.advance(6)
    assert node.drained
    assert node.note("drained").fields == {"runs": 0}


@pytest.mark.row("D1")
def test_a_drain_refuses_new_clients_and_tells_probes() -> None:
    node = NodeUnderTest(configure(drain={"reconnect_after": 2.5}))
    client, early = node.connect(), node.open()
    client.chat()
    node.step(DrainRequested())
    early.expect_silence()
    early.send_bytes(upgrade())
    early.expect_http(503)
    assert node.upgrade().expect_http(503).headers["retry-after"] == "3"
    probe = node.open()
    node.advance(1)
    probe.send_bytes(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    probe.expect_http(503)
    late = node.open()
    node.finish(node.only_run, "x")
    node.advance(0.1)
    client.send_bytes(frame(8, (1012).to_bytes(2)))
    node.advance(1)
    assert node.drained
    late.expect_dropped()
    assert node.gateway.connections == 0


@pytest.mark.row("D1")
def test_a_drain_that_takes_too_long_cancels_what_is_left() -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 60}))
    client, gone = node.connect(), node.connect()
    client.chat(id="m1")
    client.chat(id="m2")
    gone.chat()
    gone.lose()
    client.forget()
    node.step(DrainRequested())
    node.advance(29.95)
    client.expect_system("server_draining")
    client.expect_silence()
    node.advance(0.1)
    client.expect_event("agent_response", status="cancelled", correlation_id="m2")
    client.expect_event("agent_response", status="cancelled", correlation_id="m1")
    client.expect_close(1012)
    assert len(node.cancelled) == 2
    node.advance(5)
    assert node.drained


@pytest.mark.row("D1")
def test_a_drain_waits_for_runs_that_nobody_hears() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    client.lose()
    node.step(DrainRequested())
    node.advance(10)
    assert not node.drained
    node.finish(node.only_run, "x")
    node.advance(0.1)
    assert node.drained


@pytest.mark.row("D1")
def test_the_closes_of_a_drain_are_spread_out() -> None:
    node = NodeUnderTest(configure(drain={"closes": 2, "interval": 0.5}))
    clients = [node.connect() for _ in range(5)]
    node.step(DrainRequested())
    closed = []
    for _ in range(3):
        closed.append(sum(client.stream.closed is not None for client in clients))
        node.advance(0.5)
    assert closed == [2, 4, 5]


@pytest.mark.row("D1")
def test_a_drain_of_an_empty_node_is_over_at_once() -> None:
    node = NodeUnderTest()
    effects = node.step(DrainRequested())
    assert effects[-1] == Drained()
    assert node.gateway.wake_at is None
    assert node.step(StopRequested()) == []


@pytest.mark.row("D1")
def test_a_stop_ends_everything_now() -> None:
    node = NodeUnderTest(configure(authentication=True))
    talking, asking, knocking, gone = node.connect("ana"), node.upgrade(), node.open(), node.connect("eva")
    gone.chat()
    gone.lose()
    talking.chat(id="m1")
    talking.chat(id="m2")
    talking.forget()
    asking.forget()
    effects = node.step(StopRequested())
    assert len([effect for effect in effects if isinstance(effect, CancelRun)]) == 2
    talking.expect_event("agent_response", status="cancelled", correlation_id="m2")
    talking.expect_event("agent_response", status="cancelled", correlation_id="m1")
    for client in (talking, asking):
        client.expect_close(1001)
    knocking.expect_dropped()
    assert len(node.started) == 2
    assert node.step(StopRequested()) == []
    for client in (talking, asking):
        client.send_bytes(frame(8, (1001).to_bytes(2)))
    node.advance(1)
    assert node.drained
    assert node.fail(next(iter(node.runs))) == []
    node.open().expect_dropped()
    node.request(upgrade()).expect_http(503)


@pytest.mark.row("D1")
def test_a_second_signal_stops_a_drain() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    node.step(DrainRequested())
    client.expect_system("server_draining")
    node.step(StopRequested())
    client.expect_event("agent_response", status="cancelled")
    client.expect_close(1001)
    client.lose()
    assert node.drained


@pytest.mark.clause("C1")
@pytest.mark.clause("C12")
@pytest.mark.parametrize("claims", [{"card_number": "\ud800"}, {"card_number": [1]}])
def test_claims_of_a_token_reach_nobody(claims: dict[str, Any]) -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    effects: Sequence[object] = client.send({"type": "auth", "token": token("ana", **claims)})
    client.expect_system("auth_required")
    client.expect_system("connection_established")
    assert "card_number" not in str(effects)


@pytest.mark.clause("C1")
def test_a_user_id_that_no_text_can_carry_is_no_user() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.upgrade()
    client.expect_system("auth_required")
    claims = {"iss": "qa-intelligence", "aud": "websocket-client", "iat": UNIX, "exp": UNIX + 60}
    client.send({"type": "auth", "token": jwt.encode({"sub": "\ud800", **claims}, SECRET, "HS256")})
    client.expect_error("AUTH_FAILED")


def test_a_whole_conversation_with_a_pipelined_client() -> None:
    node = NodeUnderTest()
    client = node.open(None)
    client.send_bytes(upgrade() + b"".join(text(chat(str(n), id=f"m{n}")) for n in range(3)))
    for answer in ("a", "b", "c"):
        node.finish(node.only_run, answer)
    assert [event.get("content") for event in client.heard if event["type"] == "agent_response"] == ["a", "b", "c"]
    assert [event["seq"] for event in client.heard if "seq" in event] == list(range(1, 9))
