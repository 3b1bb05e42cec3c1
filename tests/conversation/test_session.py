"""Sessions: who hears what when, how far a reader may fall behind, and the table of them all."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.clock import Now, Reason, Timers
from qaws_proto.config import LimitsConfig, SessionsConfig
from qaws_proto.conversation.session import Session, Sessions
from qaws_proto.faults import Fault
from qaws_proto.inputs import DrainRequested
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import MONO, UNIX, configure
from tests.helpers.node import NodeUnderTest

NOW = Now(MONO, UNIX)


def sessions(*, bounded: bool = True, **fields: int) -> tuple[Sessions, Timers]:
    """A table of sessions by itself."""
    timers = Timers()
    return Sessions(
        SessionsConfig.model_validate(fields), LimitsConfig(), timers, bounded=bounded, durable=False
    ), timers


def opened(table: Sessions, owner: str, name: str) -> Session:
    """A new session."""
    session = table.open(owner, name, lambda: f"epoch of {name}")
    assert isinstance(session, Session)
    return session


def streaming(node: NodeUnderTest, *clients: Client) -> str:
    """The id of a run whose pieces all the clients hear."""
    for client in clients:
        client.chat(session_id="s", id=f"m{client.number}", stream=True)
    for client in clients:
        client.forget()
    return node.only_run


# ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C4")
def test_a_blocked_reader_hears_all_of_it_later_and_in_order() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}))
    fast, slow = node.connect(), node.connect()
    run_id = streaming(node, fast, slow)
    slow.block()
    for piece in "abc":
        node.chunk(run_id, piece)
    slow.expect_silence()
    slow.unblock()
    assert [fast.expect_event("agent_chunk")["content"] for _ in "abc"] == ["a", "b", "c"]
    slow.expect_event("agent_chunk", content="abc", offset=0, seq=5)
    node.chunk(run_id, "d")
    slow.expect_event("agent_chunk", content="d")


@pytest.mark.clause("C4")
def test_a_late_reader_hears_what_is_said_from_then_on() -> None:
    node = NodeUnderTest()
    first = node.connect()
    first.chat(session_id="s", id="m1")
    second = node.connect()
    second.chat(session_id="s", id="m2")
    assert second.expect_system("message_accepted", seq=2)["position"] == 1


@pytest.mark.row("C1")
def test_an_agent_is_not_pulled_while_every_reader_is_behind() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0, "timeout": 5}, limits={"out_high": 1024}))
    slow, slower = node.connect(), node.connect()
    run_id = streaming(node, slow, slower)
    slow.block()
    slower.block()
    node.chunk(run_id, "x" * 500)
    assert not node.paused
    node.chunk(run_id, "x" * 500)
    assert node.paused == {run_id}
    node.chunk(run_id, "one that was on its way")
    node.tell(run_id, "reasoning", content="and a step")
    node.advance(9)  # longer than its timeout: it cannot move
    assert node.paused == {run_id}
    slow.unblock()
    assert not node.paused
    node.advance(4.999)
    assert not node.ended
    node.advance(0.001)
    assert node.ended == {run_id}


@pytest.mark.row("C1")
@pytest.mark.parametrize("roll_up", [0, 10])
@pytest.mark.parametrize("end", [Client.lose, Client.eof])
def test_an_agent_is_pulled_again_when_the_slow_reader_leaves(end: object, roll_up: float) -> None:
    node = NodeUnderTest(configure(agent={"roll_up": roll_up}, limits={"out_high": 1024, "write_timeout": 60}))
    slow, slower = node.connect(), node.connect()
    run_id = streaming(node, slow, slower)
    node.chunk(run_id, "first")
    slow.block()
    slower.block()
    node.chunk(run_id, "x" * 2000)
    node.advance(roll_up)
    assert node.paused == {run_id}
    assert callable(end)
    end(slow)
    assert node.paused == {run_id}
    end(slower)
    assert not node.paused


@pytest.mark.row("C1")
def test_an_agent_goes_on_for_a_reader_that_keeps_up() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}, limits={"out_high": 1024}))
    fast, slow = node.connect(), node.connect()
    run_id = streaming(node, fast, slow)
    slow.block()
    for n in range(10):
        node.chunk(run_id, "x" * 500)
        fast.expect_event("agent_chunk", offset=500 * n)
    assert not node.paused
    slow.unblock()
    slow.expect_event("agent_chunk", content="x" * 5000, offset=0)


@pytest.mark.row("C1")
@pytest.mark.parametrize("sessions", [{"max_events": 5}, {"max_bytes": 4096}], ids=["events held", "bytes held"])
def test_a_reader_behind_what_is_held_gets_a_snapshot(sessions: Any) -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}, sessions=sessions))
    fast, slow = node.connect(), node.connect()
    run_id = streaming(node, fast, slow)
    slow.block()
    for _ in range(10):
        node.chunk(run_id, "x" * 800)
    slow.unblock()
    told = slow.expect_system("session_resumed", session_id="s")
    assert (told["recovered"], told["reason"], told["to"]) == (False, "gap", 12)
    slow.expect_event("agent_chunk", content="x" * 8000, offset=0, seq=12)
    slow.expect_event("agent_chunk", content="", offset=0, seq=12)  # of the message that waits
    node.chunk(run_id, "live")
    slow.expect_event("agent_chunk", content="live", offset=8000, seq=13)


@pytest.mark.row("C1")
def test_a_paused_run_still_has_to_end_some_day() -> None:
    node = NodeUnderTest(
        configure(
            agent={"roll_up": 0, "max_duration": 100},
            limits={"out_high": 1024, "write_timeout": 1000},
            server={"heartbeat_interval": 1000},
        )
    )
    client = node.connect()
    run_id = streaming(node, client)
    client.block()
    node.chunk(run_id, "x" * 2000)
    node.advance(99.9)
    assert node.paused == {run_id}
    node.advance(0.1)
    assert node.cancelled == {run_id}


@pytest.mark.row("C1")
def test_a_cancelled_run_stays_ended_when_its_reader_catches_up() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0, "cancel_grace": 1000}, limits={"out_high": 1024}))
    client = node.connect()
    run_id = streaming(node, client)
    client.block()
    node.chunk(run_id, "x" * 2000)
    client.send({"type": "cancel", "run_id": run_id})
    client.unblock()
    client.expect_event("agent_chunk")
    client.expect_event("agent_response", status="cancelled")
    node.advance(29)
    node.advance(29)  # its silence counts no more
    assert node.ended == {run_id}


@pytest.mark.row("C1")
def test_a_reader_too_far_behind_is_closed_and_the_others_are_not() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}, limits={"out_top": 4096}))
    fast, slow = node.connect(), node.connect()
    run_id = streaming(node, fast, slow)
    slow.block()
    for _ in range(5):
        assert not slow.stream.frames
        node.chunk(run_id, "x" * 800)
    node.chunk(run_id, "x" * 800)
    slow.expect_close(1008, "slow_consumer")
    assert len(fast.stream.frames) == 6
    node.finish(run_id)
    fast.forget()
    slow.lose()
    node.chunk(node.only_run, "the next message goes on")
    fast.expect_event("agent_chunk")


@pytest.mark.row("C1")
def test_an_answer_greater_than_all_bounds_reaches_who_reads() -> None:
    node = NodeUnderTest(configure(limits={"out_top": 4096}, sessions={"max_bytes": 4096}))
    client = node.connect()
    client.chat()
    node.finish(node.only_run, "x" * 100_000)
    assert len(client.expect_event("agent_response")["content"]) == 100_000


@pytest.mark.clause("C4")
def test_an_answer_held_alone_still_reaches_a_blocked_reader() -> None:
    node = NodeUnderTest(configure(sessions={"max_bytes": 4096}))
    client = node.connect()
    client.chat()
    client.block()
    node.finish(node.only_run, "x" * 100_000)
    client.unblock()
    assert len(client.expect_event("agent_response")["content"]) == 100_000


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Silent:
    """A reader that is never told anything."""

    def __init__(self, number: int) -> None:
        self.number = number

    ready = False

    def say(self, message: object) -> None:
        raise AssertionError("not ready")

    def tell(self, message: object, now: Now) -> None:
        raise AssertionError("nothing was asked")

    def fall_behind(self, now: Now) -> None:
        raise AssertionError("nothing was said")


def read(table: Sessions, session: Session, number: int) -> None:
    """Let a reader of this number attend."""
    session.attach(Silent(number))
    table.attached(session)


def test_a_session_is_one_for_its_owner_and_name() -> None:
    table, _ = sessions()
    first = opened(table, "ana", "s")
    assert opened(table, "ana", "s") is first
    assert opened(table, "eva", "s") is not first
    assert table.find("ana", "s") is table.by_number(first.number) is first
    assert table.find("ana", "t") is table.find("nobody", "s") is None
    assert (len(table), first.log.epoch) == (2, "epoch of s")


@pytest.mark.row("S4")
def test_the_longest_unread_of_the_owner_makes_room() -> None:
    table, timers = sessions(per_user=2)
    a, b = opened(table, "ana", "a"), opened(table, "ana", "b")
    other = opened(table, "eva", "a")
    for number, session in enumerate((other, a, b)):
        read(table, session, number)
    assert table.open("ana", "c", lambda: "e") is Fault.TOO_MANY_SESSIONS
    for number, session in ((0, other), (2, b), (1, a)):
        table.detach(session, number, NOW)
    assert opened(table, "ana", "c") is table.find("ana", "c")
    assert (table.find("ana", "a"), table.find("ana", "b"), table.find("eva", "a")) == (a, None, other)
    assert timers.at(Reason.SESSION, b.number) is None
    assert len(table) == 3


@pytest.mark.row("S4")
def test_owners_that_are_not_bounded_share_the_node() -> None:
    table, _ = sessions(bounded=False, per_user=1, max_sessions=2)
    assert isinstance(table.open("anonymous", "a", lambda: "e"), Session)
    assert isinstance(table.open("anonymous", "b", lambda: "e"), Session)
    assert table.open("anonymous", "c", lambda: "e") is Fault.OVERLOADED


@pytest.mark.row("S4")
def test_a_session_lives_for_its_time_behind_its_last_reader() -> None:
    table, timers = sessions(ttl=100, max_sessions=1)
    session = opened(table, "ana", "s")
    read(table, session, 1)
    read(table, session, 2)
    read(table, session, 2)
    table.detach(session, 1, NOW)
    assert len(timers) == 0
    table.detach(session, 2, NOW)
    assert timers.at(Reason.SESSION, session.number) == NOW.mono + 100
    read(table, session, 3)
    assert len(timers) == 0
    table.detach(session, 3, NOW)
    table.forget(session)
    assert (len(timers), len(table), table.find("ana", "s")) == (0, 0, None)
    read(table, opened(table, "ana", "t"), 4)
    assert table.open("ana", "u", lambda: "e") is Fault.OVERLOADED


@pytest.mark.row("C1")
def test_an_answer_larger_than_all_bounds_waits_for_a_blocked_reader() -> None:
    node = NodeUnderTest(configure(limits={"out_high": 1024, "out_top": 4096}, sessions={"max_bytes": 2048}))
    client = node.connect()
    client.chat()
    client.block()
    node.chunk(node.only_run, "x" * 50_000)
    node.finish(node.only_run)
    client.expect_silence()
    client.unblock()
    client.expect_event("agent_response", content="x" * 50_000)


@pytest.mark.row("C1")
def test_the_next_message_waits_until_a_reader_has_caught_up() -> None:
    node = NodeUnderTest(configure(limits={"out_high": 1024, "out_top": 1 << 20}))
    client = node.connect()
    client.chat("first")
    client.chat("second", id="m2")
    client.expect_system("message_accepted")
    client.block()
    node.finish(node.only_run, "x" * 2000)
    assert node.runs == {}
    client.chat("third", id="m3")
    assert node.runs == {}
    client.unblock()
    assert node.started[node.only_run].content == "second"
    heard = [event.get("event_name", event["type"]) for event in client.heard[-3:]]
    assert heard == ["agent_response", "message_accepted", "run_started"]
    assert client.heard[-2]["data"]["position"] == 1


@pytest.mark.row("D1")
def test_a_drain_waits_until_an_answer_has_gone_out() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    node.step(DrainRequested())
    client.block()
    node.finish(node.only_run, "the answer")
    node.advance(5)
    client.unblock()
    node.advance(0.1)
    client.expect_system("server_draining")
    client.expect_event("agent_response", content="the answer")
    client.expect_close(1012)


@pytest.mark.row("C1")
def test_a_message_to_an_idle_session_waits_as_well_until_a_reader_has_caught_up() -> None:
    node = NodeUnderTest(configure(limits={"out_high": 1024, "out_top": 1 << 20}))
    client = node.connect()
    client.chat("first")
    client.block()
    node.finish(node.only_run, "x" * 2000)
    client.chat("second")
    assert node.runs == {}
    client.unblock()
    assert node.started[node.only_run].content == "second"
