"""Runs: from acceptance to the one end, whatever the agent does."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from qaws_proto.effects import CancelRun, StartRun
from qaws_proto.faults import Fault
from qaws_proto.inputs import Input, RunChunk, RunFailed, RunFinished, RunStarted
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure
from tests.helpers.node import NodeUnderTest


def asked(node: NodeUnderTest, **fields: Any) -> tuple[Client, str]:
    """A client that has asked something, and the run that was started for it."""
    client = node.connect()
    client.chat(**fields)
    client.forget()
    return client, node.only_run


# ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G7")
def test_messages_of_a_session_wait_for_each_other_and_are_told_their_place() -> None:
    node = NodeUnderTest()
    client = node.connect()
    for n in range(3):
        client.chat(f"question {n}", id=f"m{n}")
        assert client.expect_system("message_accepted", correlation_id=f"m{n}")["position"] == n
    for n in range(3):
        assert node.started[node.only_run].content == f"question {n}"
        node.finish(node.only_run, f"answer {n}")
        client.expect_event("agent_response", content=f"answer {n}", correlation_id=f"m{n}")
        if n < 2:
            data = client.expect_system("run_started", correlation_id=f"m{n + 1}")
            assert data == {"run_id": node.only_run}
    client.expect_silence()


@pytest.mark.row("G7")
def test_a_message_without_an_id_waits_in_silence() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node)
    client.chat()
    node.finish(run_id, "x")
    client.expect_event("agent_response")
    client.expect_silence()
    assert node.only_run != run_id


@pytest.mark.row("G7")
def test_a_fifth_waiting_message_is_refused_and_may_come_again() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node)
    for n in range(5):
        client.chat(id=f"m{n}")
    for _ in range(4):
        client.expect_system("message_accepted")
    client.expect_error("BUSY", correlation_id="m4")
    node.finish(run_id, "x")
    client.forget()
    client.chat(id="m4")
    assert client.expect_system("message_accepted") == {
        "run_id": "id-8", "position": 4, "duplicate": False, "content": "hi",
    }  # fmt: skip


@pytest.mark.row("G7")
def test_sessions_do_not_wait_for_each_other_until_the_node_is_full() -> None:
    node = NodeUnderTest(configure(agent={"max_runs": 2}))
    client = node.connect()
    client.chat(session_id="a")
    client.chat(session_id="b")
    assert len(node.runs) == 2
    client.chat(session_id="c", id="m3")
    assert client.expect_error("OVERLOADED", correlation_id="m3")["details"] == {"retry_after": 5}
    node.finish(next(iter(node.runs)), "x")
    client.chat(session_id="c")
    assert len(node.runs) == 2


# ── streaming ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pieces_within_40_ms_are_joined_and_the_first_goes_at_once() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, id="m1", stream=True)
    node.chunk(run_id, "¡H")
    client.expect_event("agent_chunk", content="¡H", offset=0, run_id=run_id, correlation_id="m1", seq=2)
    node.advance(0.01)
    node.chunk(run_id, "ol")
    node.advance(0.02)
    node.chunk(run_id, "a")
    node.advance(0.0099)
    client.expect_silence()
    node.advance(0.0001)
    client.expect_event("agent_chunk", content="ola", offset=2)
    node.advance(0.04)
    client.expect_silence()
    node.chunk(run_id, "!")
    client.expect_event("agent_chunk", content="!", offset=5)
    node.chunk(run_id, "!")
    node.finish(run_id)
    client.expect_event("agent_chunk", content="!", offset=6)
    client.expect_event("agent_response", content="¡Hola!!")
    node.advance(1)
    client.expect_silence()


def test_an_empty_piece_is_not_sent() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, stream=True)
    assert node.chunk(run_id, "") == []
    client.expect_silence()


def test_without_stream_there_is_only_the_answer() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node)
    node.chunk(run_id, "he")
    node.tell(run_id, "reasoning", content="think")
    node.tell(run_id, "tool_started", "search")
    node.chunk(run_id, "llo")
    node.advance(1)
    client.expect_silence()
    node.finish(run_id)
    client.expect_event(
        "agent_response", content="hello", reasoning_steps=["think"], tools_used=["search"], status="completed"
    )


def test_steps_are_told_in_order_with_the_pieces() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, id="m1", stream=True)
    node.chunk(run_id, "a")
    node.chunk(run_id, "b")
    node.tell(run_id, "tool_started", "search", "cats")
    node.tell(run_id, "tool_finished", "search")
    node.tell(run_id, "reasoning", content="hm")
    client.expect_event("agent_chunk", content="a")
    client.expect_event("agent_chunk", content="b", offset=1)
    step = client.expect_event("agent_step", kind="tool_started", name="search", content="cats", correlation_id="m1")
    assert step.keys() == {"type", "kind", "name", "content", "session_id", "seq", "run_id", "correlation_id"}
    assert "content" not in client.expect_event("agent_step", kind="tool_finished", name="search")
    client.expect_event("agent_step", kind="reasoning", content="hm")
    node.finish(run_id, tools_used=("search", "", "calculator"), reasoning_steps=("so",))
    client.expect_event("agent_response", tools_used=["search", "calculator"], reasoning_steps=["hm", "so"])


@pytest.mark.clause("C8")
@pytest.mark.parametrize(
    ("pieces", "content", "rest"),
    [("ab", "abcd", "cd"), ("ab", "ab", None), ("", "ab", "ab"), ("ab", "xy", None), ("ab", "", None)],
)
def test_an_answer_that_goes_beyond_its_pieces_is_streamed_to_its_end(
    pieces: str, content: str, rest: str | None
) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, stream=True)
    node.chunk(run_id, pieces)
    client.forget()
    node.finish(run_id, content)
    if rest is not None:
        client.expect_event("agent_chunk", content=rest, offset=len(pieces))
    client.expect_event("agent_response", content=content)
    assert dict(node.note("run_ended").fields)["characters"] == len(content)


# ── agents that misbehave ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G1")
def test_an_agent_that_hangs_is_cancelled_and_the_next_message_served() -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 86_400}))
    client, run_id = asked(node, id="m1")
    client.chat(id="m2")
    client.forget()
    node.advance(59.999)
    client.expect_silence()
    node.advance(0.001)
    error = client.expect_error("AGENT_TIMEOUT", run_id=run_id, correlation_id="m1", seq=3)
    assert error["details"].keys() == {"error_id"}
    assert node.cancelled == {run_id}
    node.fail(run_id)
    client.expect_system("run_started", correlation_id="m2")
    node.finish(node.only_run, "ok")
    client.expect_event("agent_response", content="ok")


@pytest.mark.row("G1")
@pytest.mark.parametrize(
    "sign",
    [
        lambda node, run_id: node.chunk(run_id, ""),
        lambda node, run_id: node.chunk(run_id, "x"),
        lambda node, run_id: node.tell(run_id, "reasoning", content="x"),
        lambda node, run_id: node.step(RunStarted(run_id)),
    ],
)
def test_an_agent_that_moves_does_not_hang(sign: Callable[[NodeUnderTest, str], object]) -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 86_400}))
    _, run_id = asked(node)
    node.advance(50)
    sign(node, run_id)
    node.advance(59.999)
    assert not node.ended
    node.advance(0.001)
    assert node.ended == {run_id}


@pytest.mark.row("G3")
def test_an_endless_answer_ends_after_ten_minutes() -> None:
    node = NodeUnderTest(configure(server={"heartbeat_interval": 86_400}))
    client, run_id = asked(node)
    for _ in range(11):
        node.advance(54)
        node.chunk(run_id, "")
    client.expect_silence()
    node.advance(6)
    client.expect_error("AGENT_TIMEOUT")
    assert node.cancelled == {run_id}


@pytest.mark.row("G3")
@pytest.mark.clause("C7")
def test_tiny_pieces_cost_little_more_than_their_text() -> None:
    node = NodeUnderTest(configure(limits={"frame_burst": 1000}))
    client, run_id = asked(node)
    tracemalloc.start()
    for number in range(20_000):
        node.gateway.step(RunChunk(run_id, f"{number % 1000:03}"), node.now)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * 60_000  # kept as they came, they would take more than a million bytes
    node.finish(run_id)
    answer = "".join(f"{number % 1000:03}" for number in range(20_000))
    client.expect_event("agent_response", content=answer)


@pytest.mark.row("G2")
@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    "cause", [RuntimeError("secret"), ExceptionGroup("secret", [ValueError()]), RecursionError(), None]
)
def test_an_agent_that_raises_is_an_error_with_an_opaque_id(cause: BaseException | None) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, id="m1", stream=True)
    node.chunk(run_id, "a")
    node.chunk(run_id, "b")
    client.forget()
    node.fail(run_id, cause)
    client.expect_event("agent_chunk", content="b", offset=1)
    error = client.expect_error("AGENT_ERROR", run_id=run_id, correlation_id="m1")
    assert "secret" not in str(error)
    note = node.note("run_ended")
    assert (note.level, note.cause) == ("ERROR", cause)
    assert dict(note.fields)["error_id"] == error["details"]["error_id"]
    assert "secret" not in str(note.fields)
    assert (node.gateway.runs, node.cancelled) == (0, set())


@pytest.mark.row("G2")
@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("busy", Fault.AGENT_BUSY),
        ("unavailable", Fault.AGENT_UNAVAILABLE),
        ("refused", Fault.AGENT_REFUSED),
        ("secret", Fault.AGENT_ERROR),
        (["busy"], Fault.AGENT_ERROR),
        (None, Fault.AGENT_ERROR),
    ],
)
def test_an_agent_that_says_why_it_failed_has_the_text_for_it(reason: Any, fault: Fault) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, id="m1")
    node.fail(run_id, RuntimeError("secret"), reason=reason, retry_after=12.345)
    error = client.expect_error("AGENT_ERROR", run_id=run_id, correlation_id="m1", error_message=fault.value.text)
    assert error["details"] == {"error_id": "id-4", "retry_after": 12.345}
    fields = dict(node.note("run_ended").fields)
    assert (fields["end"], fields["reason"], fields["retry_after"]) == ("AGENT_ERROR", fault.value.word, 12.345)
    assert "secret" not in f"{error} {fields}"


class Seconds(float):
    """A subclass, which could answer anything when it is compared or written."""


@pytest.mark.row("G2")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (0, 0), (7, 7), (0.25, 0.25), (86_400, 86_400), (86_401, 86_400), (10**400, 86_400), (1e308, 86_400),
        (-1, None), (-0.001, None), (float("nan"), None), (float("inf"), None), (float("-inf"), None),
        (True, None), ("7", None), (b"7", None), ([7], None), (Seconds(7), None), (None, None),
    ],
)  # fmt: skip
def test_a_client_is_told_to_wait_for_a_sane_time_or_for_none(given: Any, told: float | None) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node)
    node.fail(run_id, reason="busy", retry_after=given)
    details = client.expect_error("AGENT_ERROR")["details"]
    assert details == {"error_id": details["error_id"], **({} if told is None else {"retry_after": told})}


@pytest.mark.row("G3")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [1024, 1025])
def test_an_answer_has_a_size(size: int, stream: bool) -> None:
    node = NodeUnderTest(configure(agent={"max_response_size": 1024, "roll_up": 0}))
    client, run_id = asked(node, stream=stream)
    node.chunk(run_id, "é" * 512)
    client.forget()
    if size > 1024:
        node.chunk(run_id, "x")
        client.expect_error("RESPONSE_TOO_LARGE", run_id=run_id)
        assert node.cancelled == {run_id}
        assert node.chunk(run_id, "y") == node.tell(run_id, "reasoning") == []
    else:
        node.finish(run_id)
        assert len(client.expect_event("agent_response")["content"]) == 512


@pytest.mark.row("G3")
@pytest.mark.parametrize(
    ("finish", "fits"),
    [
        ({"content": "x" * 1024}, True),
        ({"content": "x" * 1025}, False),
        ({"reasoning_steps": ("x" * 900,)}, True),
        ({"reasoning_steps": ("x" * 961,)}, False),
        ({"tools_used": ("",) * 16}, True),
        ({"tools_used": ("",) * 17}, False),
        ({"content": "é" * 481, "tools_used": ("x",)}, False),
    ],
)
def test_the_end_of_an_answer_counts_too(finish: dict[str, Any], fits: bool) -> None:
    node = NodeUnderTest(configure(agent={"max_response_size": 1024}))
    client, run_id = asked(node)
    node.finish(run_id, **finish)
    if fits:
        client.expect_event("agent_response")
    else:
        client.expect_error("RESPONSE_TOO_LARGE")
    assert node.cancelled == set()  # it has ended by itself
    assert node.gateway.runs == 0


@pytest.mark.row("G3")
def test_pieces_repeated_in_the_answer_count_once_and_others_twice() -> None:
    node = NodeUnderTest(configure(agent={"max_response_size": 1024}))
    client, run_id = asked(node)
    node.chunk(run_id, "x" * 1000)
    node.finish(run_id, "x" * 1000 + "y")
    client.expect_event("agent_response")
    client.chat()
    node.chunk(node.only_run, "x" * 1000)
    node.finish(node.only_run, "y" * 1000)
    client.expect_error("RESPONSE_TOO_LARGE")


@pytest.mark.row("G3")
def test_steps_are_bounded_like_the_answer() -> None:
    node = NodeUnderTest(configure(agent={"max_response_size": 1024}))
    client, run_id = asked(node)
    for _ in range(16):
        node.tell(run_id, "tool_started")
    client.expect_silence()
    node.tell(run_id, "tool_started")
    client.expect_error("RESPONSE_TOO_LARGE")
    assert node.cancelled == {run_id}


class Text(str):
    """A text of an agent's own making."""

    __slots__ = ()

    def encode(self, *args: object, **kwargs: object) -> bytes:
        raise RuntimeError("secret")

    isascii = encode  # type: ignore[assignment]


class Pretender:
    """What says of itself that it is a text."""

    __class__: Any = str

    def __bool__(self) -> bool:
        raise RuntimeError("secret")


@pytest.mark.row("G4")
@pytest.mark.clause("C1")
@pytest.mark.parametrize(
    ("piece", "said"),
    [("a\ud800b", "a\ufffdb"), ("\ud83d\ude00", "😀"), ("\udfff", "\ufffd"), ("\0\x1b", "\0\x1b"), (Text("ñ"), "ñ")],
    ids=["lone", "pair", "low", "control", "subclass"],
)
def test_a_piece_that_utf8_cannot_carry_is_replaced(piece: str, said: str) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, stream=True)
    node.chunk(run_id, piece)
    client.expect_event("agent_chunk", content=said)
    node.tell(run_id, "reasoning", piece, piece)
    client.expect_event("agent_step", name=said, content=said)
    node.finish(run_id, piece, reasoning_steps=(piece,), tools_used=[piece])
    client.expect_event("agent_response", content=said, reasoning_steps=[said, said], tools_used=[said])


@pytest.mark.row("G4")
@pytest.mark.clause("C1")
@pytest.mark.parametrize("wrong", [b"bytes", 1, [1], Pretender()], ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize(
    ("say", "stops"),
    [
        (lambda node, run_id, wrong: node.chunk(run_id, wrong), True),
        (lambda node, run_id, wrong: node.chunk(run_id, None), True),
        (lambda node, run_id, wrong: node.tell(run_id, wrong, content="x"), True),
        (lambda node, run_id, wrong: node.tell(run_id, "reasoning", name=wrong), True),
        (lambda node, run_id, wrong: node.tell(run_id, "reasoning", content=wrong), True),
        (lambda node, run_id, wrong: node.finish(run_id, wrong), False),
        (lambda node, run_id, wrong: node.finish(run_id, "x", reasoning_steps=(wrong,)), False),
        (lambda node, run_id, wrong: node.finish(run_id, "x", tools_used=wrong), False),
    ],
    ids=["chunk", "nothing", "step kind", "step name", "step content", "answer", "reasoning", "tools"],
)
def test_what_is_no_text_is_an_agent_error_and_the_connection_lives(
    say: Callable[[NodeUnderTest, str, object], object], stops: bool, wrong: object
) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node)
    say(node, run_id, wrong)
    client.expect_error("AGENT_ERROR", run_id=run_id)
    assert isinstance(node.note("run_ended").cause, TypeError)
    assert node.cancelled == ({run_id} if stops else set())
    if stops:
        node.fail(run_id)
    client.chat(id="m2")
    client.expect_system("message_accepted")


@pytest.mark.row("G5")
def test_an_agent_that_ignores_its_cancellation_is_given_up_but_keeps_its_place() -> None:
    node = NodeUnderTest(configure(agent={"max_runs": 3}))
    client, run_id = asked(node, id="m1")
    client.chat(id="m2")
    client.chat(id="m3")
    client.send({"type": "cancel", "run_id": run_id})
    client.forget()
    node.advance(4.999)
    client.expect_silence()
    node.advance(0.001)
    client.expect_system("run_started", correlation_id="m2")
    assert dict(node.note("run_given_up").fields) == {"run_id": run_id, "given_up": 1}
    assert node.gateway.runs == 3
    client.chat()
    client.expect_error("OVERLOADED")
    assert node.chunk(run_id, "late") == node.fail(run_id) == []
    assert node.gateway.runs == 2
    assert node.fail(run_id) == []
    client.chat(id="m4")
    assert client.expect_system("message_accepted")["position"] == 2


@pytest.mark.row("G8")
@pytest.mark.clause("C8")
@pytest.mark.parametrize("late", ["chunk", "step", "finish", "fail"])
def test_a_cancelled_run_ends_at_once_with_the_text_it_has_and_nothing_follows(late: str) -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, id="m1", stream=True)
    node.chunk(run_id, "a")
    node.chunk(run_id, "b")
    node.advance(0.01)
    client.forget()
    effects = client.send({"type": "cancel", "correlation_id": "m1"})
    assert CancelRun(run_id) in effects
    client.expect_event("agent_chunk", content="b", offset=1)
    client.expect_event("agent_response", content="ab", status="cancelled", processing_time=0.01)
    client.chat(id="m2")
    client.forget()
    effects = {
        "chunk": lambda: node.chunk(run_id, "c"),
        "step": lambda: node.tell(run_id, "reasoning"),
        "finish": lambda: node.finish(run_id, "abc"),
        "fail": lambda: node.fail(run_id),
    }[late]()
    if late in ("finish", "fail"):
        client.expect_system("run_started", correlation_id="m2")
        assert isinstance(effects[0], StartRun)
    else:
        assert effects == []
    node.advance(4)
    client.expect_silence()
    node.advance(2)  # when it would have been given up
    assert not [note for note in node.notes if note.name == "run_given_up" and late in ("finish", "fail")]


@pytest.mark.row("G8")
def test_a_waiting_message_that_is_cancelled_never_starts() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, id="m1")
    client.chat(id="m2")
    client.chat(id="m3")
    client.forget()
    client.send({"type": "cancel", "correlation_id": "m2"})
    client.expect_event("agent_response", status="cancelled", correlation_id="m2", content="", processing_time=0)
    assert not node.cancelled
    node.finish(run_id, "x")
    client.expect_event("agent_response", correlation_id="m1")
    client.expect_system("run_started", correlation_id="m3")
    assert len(node.started) == 2
    assert node.gateway.runs == 1


@pytest.mark.row("G8")
def test_a_run_goes_on_when_nobody_is_there_any_more() -> None:
    node = NodeUnderTest()
    client, run_id = asked(node, session_id="s", stream=True)
    client.lose()
    node.chunk(run_id, "a")
    node.finish(run_id)
    assert node.ended == {run_id}
    again = node.connect()
    again.chat(session_id="s", id="m2")
    again.expect_system("message_accepted", seq=3)


@pytest.mark.parametrize("metrics", [True, False])
def test_the_end_of_a_run_is_noted_with_its_durations_whatever_is_logged(metrics: bool) -> None:
    node = NodeUnderTest(configure(logging={"performance_metrics": metrics}))
    _, first = asked(node, id="m1", user_id="ana")
    node.clients[0].chat(id="m2", user_id="ana", stream=True)
    node.advance(2)
    node.finish(first, "x")
    run_id = node.only_run
    node.tell(run_id, "reasoning", content="hm")
    node.tell(run_id, "tool_started", "search")
    node.tell(run_id, "tool_finished", "search")
    node.advance(0.75)
    node.chunk(run_id, "hé")
    node.advance(0.5)
    node.finish(run_id, "hé!", reasoning_steps=("so",), tools_used=("search", "book"))
    note = [note for note in node.notes if note.name == "run_ended"][-1]
    assert dict(note.fields) == {
        "run_id": run_id, "session_id": "id-1", "user_id": "ana", "connection": 0, "message_id": "m2",
        "end": "completed", "seconds": 1.25, "queued_seconds": 2.0, "first_chunk_seconds": 0.75,
        "characters": 3, "chunks": 2, "reasoning_steps": 2, "tools_used": 2,
    }  # fmt: skip
    assert (note.topic, note.level, note.cause) == ("run", "INFO", None)


def test_a_run_that_was_cancelled_before_its_start_has_waited_for_all_of_its_time() -> None:
    node = NodeUnderTest()
    client, _ = asked(node)
    client.chat(id="m2")
    node.advance(2)
    client.send({"type": "cancel", "correlation_id": "m2"})
    client.expect_system("message_accepted")
    client.expect_event("agent_response", status="cancelled", processing_time=0)
    fields = dict(node.note("run_ended").fields)
    assert (fields["end"], fields["seconds"], fields["queued_seconds"]) == ("cancelled", 0, 2)
    assert (fields["characters"], fields["chunks"], "first_chunk_seconds" in fields) == (0, 0, False)


@pytest.mark.row("C1")
def test_pieces_that_come_at_once_are_sent_before_they_are_too_many_and_hold_the_agent_back() -> None:
    node = NodeUnderTest(configure(agent={"chunk_size": 100}, limits={"out_high": 1024, "out_top": 1 << 20}))
    client, run_id = asked(node, stream=True)
    client.block()
    for _ in range(40):
        node.chunk(run_id, "x" * 30)
    assert node.paused == {run_id}
    client.unblock()
    assert node.paused == set()
    chunk = client.expect_event("agent_chunk", offset=0)  # all of them as one
    assert chunk["content"] == "x" * (chunk["seq"] - 1) * 120 + "x" * 30


@pytest.mark.clause("C1")
@pytest.mark.parametrize("report", [RunFinished, RunFailed])
def test_the_end_of_a_run_that_was_not_started_is_a_mistake(report: Callable[[str], Input]) -> None:
    node = NodeUnderTest()
    client, first = asked(node)
    client.chat("second", id="m2")
    queued = client.expect_system("message_accepted")["run_id"]
    with pytest.raises(ValueError, match="has not been started"):
        node.gateway.step(report(queued), node.now)
    node.finish(first, "one")
    node.finish(queued, "two")
    assert [event["content"] for event in client.heard if event["type"] == "agent_response"] == ["one", "two"]
