"""`qaws.testing`: one's own agent behind the real manager, in memory and virtual time."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from qaws import AgentReply, AnswerError, AuthenticationError, ClosedError, ConnectError
from qaws.agents.bridge import FrameworkAgent, Piece
from qaws.agents.interface import RunContext
from qaws.testing import Stuck, play
from qaws_proto.testing import configure, token
from qaws_proto.testing.peer import BINARY, frame

SECRET = {"authentication": {"enabled": True, "jwt_secret": "only for this test, and long enough for it"}}


async def echo(message: str) -> str:
    return message


async def slow(message: str) -> AsyncIterator[str]:
    for word in message.split():
        await asyncio.sleep(10)
        yield f"{word} "


def test_an_agent_is_asked() -> None:
    with play(echo) as node:
        ana = node.connect("ana")
        answer = ana.ask("¿qué tal?")
    assert (answer.content, answer.user_id, answer.status) == ("¿qué tal?", "ana", "completed")


def test_an_answer_takes_its_time_and_none_of_ours() -> None:
    with play(slow, {"agent": {"timeout": 20}}) as node:
        ana = node.connect()
        began, watch = node.now, time.monotonic()
        assert "".join(ana.stream("one two three")) == "one two three "
        assert node.now == began + 30
    assert time.monotonic() - watch < 25


def test_time_passes_only_where_it_is_told_to() -> None:
    with play(slow) as node:
        ana = node.connect()
        asked = ana.send("one two")
        assert ana.text(asked) == ""
        node.advance(10)
        assert ana.text(asked) == "one "
        node.advance(10)
        assert ana.text(asked) == "one two "


def test_what_is_said_while_the_network_is_down_is_heard_afterwards() -> None:
    with play(slow) as node:
        ana = node.connect()
        asked = ana.send("one two three")
        node.advance(11)
        ana.lose(seconds=60)
        node.advance(30)
        assert (ana.text(asked), ana.client.connected) == ("one ", False)
        node.advance(60)
        assert (ana.text(asked), ana.client.connected) == ("one two three ", True)
        assert ana.ask("still there").content == "still there "


@pytest.mark.parametrize("count", range(0, 1200, 37))
def test_an_answer_is_whole_wherever_the_connection_breaks(count: int) -> None:
    with play(slow) as node:
        ana = node.connect()
        ana.lose_after(count)
        ana.split(7)
        assert "".join(ana.stream("one two three")) == "one two three "


def test_bytes_may_come_one_by_one() -> None:
    with play(echo) as node:
        ana = node.connect()
        ana.split()
        assert ana.ask("x" * 5000).content == "x" * 5000
        ana.split(None)
        assert ana.ask("y").content == "y"


def test_a_network_that_is_silent_is_found_out() -> None:
    with play(slow, {"server": {"heartbeat_interval": 30, "timeout": 30}}) as node:
        ana = node.connect()
        ana.stall()
        assert len(node.manager.connections()) == 1
        node.advance(100)  # both ends give the connection up, and the client makes a new one
        (connection,) = node.manager.connections()
        assert connection.number == 2
        assert ana.client.connected


def test_what_was_stalled_arrives() -> None:
    with play(echo) as node:
        ana = node.connect()
        ana.stall()
        asked = ana.send("hi")
        node.advance(5)
        assert ana.text(asked) == ""
        ana.flow()
        assert ana.text(asked) == "hi"


def test_a_plain_function_works_in_a_thread_and_time_stands_still() -> None:
    here = threading.get_ident()
    seen: list[int] = []

    def agent(message: str) -> Iterator[str]:
        seen.append(threading.get_ident())
        for word in message.split():
            time.sleep(0.01)
            yield word

    with play(agent, {"agent": {"timeout": 0.001}}) as node:
        assert "".join(node.connect().stream("one two")) == "onetwo"
        assert node.now == 1000.0
    assert here not in seen


def test_a_thread_that_is_held_back_by_a_reader_holds_nothing_up() -> None:
    def endless(message: str) -> Iterator[str]:
        while True:
            yield "x" * 10_000

    limits = {"limits": {"write_timeout": 10}, "sessions": {"ttl": 60}}
    with play(endless, {**limits, "agent": {"max_response_size": 8 << 20}}) as node:
        peer = node.peer("ana")
        peer.block()
        peer.chat("go on", stream=True)
        node.advance(15)
        assert peer.stream.closed is None
        assert node.manager.connections() == []


class InAnotherLoop(FrameworkAgent):
    async def answer(self, message: str, context: RunContext) -> AsyncIterator[Piece]:  # type: ignore[override]
        await asyncio.sleep(0.05)  # of this machine's time
        yield message
        await asyncio.sleep(0.01)
        yield AgentReply(message)


def test_a_framework_works_in_its_own_loop_and_time_stands_still() -> None:
    with play(InAnotherLoop(), {"agent": {"timeout": 0.01}}) as node:
        assert node.connect().ask("hi").content == "hi"
        assert node.now == 1000.0


def test_what_an_agent_raises_is_the_cause_of_what_the_client_raises() -> None:
    async def agent(message: str) -> str:
        raise KeyError(message)

    with play(agent) as node:
        with pytest.raises(AnswerError) as caught:
            node.connect().ask("hi")
        assert (caught.value.code, repr(caught.value.__cause__)) == ("AGENT_ERROR", "KeyError('hi')")
        assert node.raised == [caught.value.__cause__]


def test_an_agent_that_hangs_runs_into_its_time_limit() -> None:
    async def agent(message: str) -> None:
        await asyncio.Event().wait()

    with play(agent, {"agent": {"timeout": 42}}) as node:
        with pytest.raises(AnswerError, match="AGENT_TIMEOUT"):
            node.connect().ask("hi")
        assert node.now == 1042


def test_what_cannot_be_waited_for_is_told() -> None:
    async def my_agent(message: str) -> None:
        await asyncio.sleep(1e9)

    unbounded = {"agent": {"timeout": 80_000, "max_duration": 80_000}}
    with play(my_agent, unbounded) as node, pytest.raises(Stuck, match=r"in 600 seconds(?s:.)*my_agent"):
        node.connect().ask("hi", within=600)


def test_tokens_are_judged_by_the_virtual_clock() -> None:
    with play(echo, {"security": SECRET}) as node:
        ana = node.connect("ana")
        node.advance(3600 + 100)
        assert ana.ask("with a new token").user_id == "ana"
        old = node.token("ana", expires_in=60)
        node.jump(500)
        with pytest.raises(AuthenticationError):
            node.connect("ana", token=old)


def test_an_operator_takes_effect_at_once() -> None:
    with play(echo) as node:
        ana = node.connect("ana", reconnect=False)
        ana.ask("hi")
        node.call(node.manager.block_address, "192.0.2.1", reason="a test")
        with pytest.raises(ClosedError):
            ana.ask("hi")
        with pytest.raises(ConnectError):
            node.connect("eva")
        assert "blocked" in str([note.name for note in node.notes])


def test_a_node_may_be_stopped_by_the_test() -> None:
    with play(slow) as node:
        ana = node.connect(reconnect=False)
        asked = ana.send("one two")
        node.call(node.manager.drain)
        node.advance(60)
        assert (ana.text(asked), ana.client.connected) == ("one two ", False)


def test_a_peer_speaks_the_protocol_by_itself() -> None:
    with play(slow) as node:
        peer = node.peer("ana")
        peer.expect_http(101)
        peer.expect_system("connection_established")
        peer.chat("one", id="m1", stream=True)
        peer.expect_system("message_accepted")
        node.advance(10)
        peer.expect_event("agent_chunk", content="one ", offset=0)
        peer.expect_event("agent_response", content="one ")
        node.advance(86_400)  # it answers pings by itself
        peer.expect_silence()
        peer.send_bytes(frame(BINARY))
        peer.expect_close(1003)
        assert peer.write_closed
        assert not peer.dropped
        node.advance(5)
        peer.expect_dropped()
        peer.chat("to nobody")


def test_a_peer_that_answers_no_pings_is_dropped() -> None:
    with play(echo, {"server": {"heartbeat_interval": 30, "timeout": 20}}) as node:
        peer = node.peer("ana")
        peer.answers_pings = False
        node.advance(49)
        assert len(node.manager.connections()) == 1
        node.advance(2)
        assert node.manager.connections() == []


def test_a_peer_may_leave_in_every_way() -> None:
    with play(echo) as node:
        gone, done = node.peer("ana"), node.peer("eva")
        gone.lose()
        done.eof()
        assert gone.dropped
        assert done.write_closed
        assert done.dropped
        assert node.manager.connections() == []


def test_a_peer_that_does_not_read_is_heard_of() -> None:
    with play(echo) as node:
        peer = node.peer("ana")
        peer.block()
        peer.chat("x" * 9000)
        assert [event["type"] for event in peer.heard] == ["system_event"]
        peer.unblock()
        assert peer.heard[-1]["type"] == "agent_response"


def test_a_peer_says_what_it_wants_before_the_upgrade() -> None:
    with play(echo, {"security": SECRET}) as node:
        slow_one = node.peer()
        slow_one.send_bytes(b"GET / HTTP/1.1\r\n")
        node.advance(6)
        slow_one.expect_http(408)
        unknown = node.peer(None, f"Authorization: Bearer {token('ana')}")
        unknown.expect_http(401)


def test_the_same_play_gives_the_same_bytes() -> None:
    def once() -> list[str]:
        with play(slow, {"security": SECRET}) as node:
            peers = [node.peer(user) for user in ("ana", "eva", "ana")]
            for peer in peers:
                peer.chat("one two three", stream=True)
            node.advance(100)
            return [str(peer.heard) for peer in peers]

    assert once() == once()


def test_sessions_are_kept_by_a_store(tmp_path: Path) -> None:
    config = configure(store={"kind": "sqlite", "path": str(tmp_path / "qaws.db")})
    with play(slow, config) as node:
        ana = node.connect(session_id="s")
        ana.ask("one two")
    with play(slow, config) as node:
        again = node.connect(session_id="s", history=True)
        node.settle()
        assert [event.type for event in again.heard].count("agent_response") == 1


def test_everybody_says_goodbye_at_the_end() -> None:
    with play(echo) as node:
        ana = node.connect()
    assert [note.fields["code"] for note in node.notes if note.name == "closed"] == [1000]
    assert not ana.client.connected


def test_the_end_waits_for_nobody() -> None:
    told: list[str] = []

    class Agent:
        async def chat(self, message: str) -> None:
            while True:
                try:
                    await asyncio.sleep(1e6)
                except asyncio.CancelledError:
                    if message == "polite":
                        told.append("cancelled")
                        raise

        async def aclose(self) -> None:
            told.append("closed")

    with play(Agent()) as node:
        ana = node.connect()
        ana.send("polite")
        ana.send("deaf", id="m2")
        node.connect().send("deaf")
    assert told == ["cancelled", "closed"]


def test_what_a_test_raises_is_what_is_seen() -> None:
    def a_test() -> None:
        with play(echo) as node:
            node.connect().send("hi")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        a_test()


def test_what_the_node_gets_wrong_is_raised_where_it_is_waited_for() -> None:
    with play(echo) as node:
        peer = node.peer("ana")
        transport: Any = node.manager._transports[1]
        with pytest.raises(AssertionError, match="server does not mask"):
            node.call(transport.send, b"\x81\x80\x00\x00\x00\x00")
        assert peer.number == 1


def test_time_stands_still_while_a_process_works() -> None:
    async def my_agent(message: str) -> str:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(input())", stdin=PIPE, stdout=PIPE)
        said, _ = await process.communicate(message.encode() + b"\n")
        return said.decode().strip()

    with play(my_agent) as node:
        began = node.now
        assert node.connect().ask("hello").content == "hello"
        assert node.now == began


def test_nothing_happens_before_a_play_or_behind_it() -> None:
    with pytest.raises(RuntimeError, match="outside of the block"):
        play(echo).connect()
    with play(echo) as node:
        ana = node.connect()
    with pytest.raises(RuntimeError, match="outside of the block"):
        ana.ask("hello")


def test_an_async_test_is_no_place_for_a_play() -> None:
    async def test() -> None:
        with play(echo):
            pass

    with pytest.raises(RuntimeError, match="in a plain function"):
        asyncio.run(test())


def test_time_does_not_pass_backwards() -> None:
    with play(echo) as node:
        for seconds in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="can pass"):
                node.advance(seconds)


def test_an_agent_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="no agent"):
        play(42)
