"""What a client has heard and nobody has read: its bounds, and answers put together of what is delivered."""

from __future__ import annotations

import tracemalloc
from typing import Any, Literal

import anyio
import pytest

from qaws import AnswerCancelled, AnswerError, AnswerLost, ClosedError
from qaws.client_inbox import EVENT, UNREAD, Answer, Gate, Inbox, size_of
from qaws_proto.client.events import read_event
from qaws_proto.events import AgentChunk, AgentResponse, ErrorEvent, ServerEvents, SystemEvent

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def chunk(content: str, offset: int) -> AgentChunk:
    return AgentChunk(content=content, offset=offset, session_id="s", seq=1, run_id="r", correlation_id="m1")


def response(content: str, status: Literal["completed", "cancelled"] = "completed") -> AgentResponse:
    return AgentResponse(
        content=content, status=status, user_id="u", processing_time=0.1,
        session_id="s", seq=2, run_id="r", correlation_id="m1",
    )  # fmt: skip


def error(code: str) -> ErrorEvent:
    return ErrorEvent(error_code=code, error_message="no", details={"retry_after": 7}, correlation_id="m1")


AGAIN = SystemEvent(event_name="run_started", data={"run_id": "r", "rerun": True}, correlation_id="m1")


async def told(*events: ServerEvents) -> tuple[list[str], Any]:
    """The pieces that an answer of these events is told in, and its end: the text, or an error."""
    answer, pieces = Answer("m1", Gate()), []
    for event in events:
        answer.hear(event)
    try:
        while (piece := await answer.piece()) is not None:
            pieces.append(piece)
        return pieces, (await answer.response()).content
    except AnswerError as end:
        return pieces, end


@pytest.mark.parametrize(
    ("events", "pieces", "end"),
    [
        ([chunk("so ", 0), chunk("far", 3), response("so far")], ["so ", "far"], "so far"),
        ([response("so far")], ["so far"], "so far"),
        ([chunk("so ", 0), response("so far")], ["so ", "far"], "so far"),
        ([chunk("so ", 0), AGAIN, chunk("far", 3), response("so far")], ["so ", "far"], "so far"),
        ([chunk("so ", 0), AGAIN, response("so far")], ["so ", "far"], "so far"),
        ([response("")], [], ""),
        # the agent's own will
        ([chunk("draft", 0), response("final")], ["draft"], "final"),
    ],
)
async def test_pieces_make_up_the_answer(events: list[ServerEvents], pieces: list[str], end: str) -> None:
    assert await told(*events) == (pieces, end)


@pytest.mark.parametrize(
    ("events", "pieces", "kind"),
    [
        ([chunk("so ", 0), AGAIN, chunk("no", 0), response("no")], ["so "], AnswerLost),
        ([chunk("so ", 0), AGAIN, response("no")], ["so "], AnswerLost),
        ([chunk("so ", 0), response("so ", "cancelled")], ["so "], AnswerCancelled),
        ([response("so ", "cancelled")], ["so "], AnswerCancelled),
        ([chunk("so ", 0), error("AGENT_ERROR")], ["so "], AnswerError),
        ([error("LOST")], [], AnswerLost),
    ],
)
async def test_an_answer_that_is_not_whole_ends_in_an_error_behind_its_pieces(
    events: list[ServerEvents], pieces: list[str], kind: type[AnswerError]
) -> None:
    heard, end = await told(*events)
    assert (heard, type(end), end.message_id) == (pieces, kind, "m1")


async def test_the_first_end_is_the_end() -> None:
    answer = Answer("m1", Gate())
    answer.hear(response("so far"))
    answer.fail(ClosedError("closed"))
    assert (await answer.response()).content == "so far"


async def test_the_gate_is_shut_while_one_of_them_has_too_much_unread() -> None:
    gate = Gate()
    one, other = Inbox[str](gate, read=True), Inbox[str](gate, read=True)
    one.put("x", UNREAD)
    other.put("x", 1)
    assert gate.open
    one.put("y", 1)
    other.put("x", UNREAD)
    other.put("y", 1)
    assert not gate.open
    assert [await one.get(), gate.open] == ["x", False]
    assert [await other.get(), gate.open] == ["x", False]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.passed)
        await anyio.wait_all_tasks_blocked()
        assert [await other.get(), gate.open] == ["x", True]
    assert [await one.get(), await other.get()] == ["y", "y"]


async def test_what_nobody_will_read_opens_the_gate() -> None:
    gate = Gate()
    inbox = Inbox[str](gate, read=True)
    inbox.put("x", UNREAD + 1)
    assert not gate.open
    inbox.forget()
    assert gate.open
    inbox.end()
    assert await inbox.get() is None


async def test_while_nobody_reads_the_newest_are_kept_and_the_gate_is_open() -> None:
    gate = Gate()
    inbox = Inbox[int](gate, read=False)
    for number in range(10):
        inbox.put(number, UNREAD // 4 + 1)
    assert gate.open
    inbox.read = True
    inbox.put(10, UNREAD)
    assert not gate.open
    inbox.end()
    heard = [await inbox.get() for _ in range(4)]
    assert heard == [7, 8, 9, 10]
    inbox.put(11, UNREAD + 1)
    inbox.read = False
    assert gate.open
    assert await inbox.get() is None


@pytest.mark.parametrize("length", [1, 100, 10_000])
async def test_what_is_unread_takes_about_what_it_may(length: int) -> None:
    inbox = Inbox[ServerEvents](Gate(), read=False)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2 * UNREAD // (EVENT + length)):
            event = read_event(chunk("x" * length, number).model_dump_json())
            assert isinstance(event, AgentChunk)
            inbox.put(event, size_of(event))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert UNREAD / 2 < held < UNREAD * 3 / 2
