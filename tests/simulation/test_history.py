"""The oracles of what was heard: each passes what is right, and finds what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from qaws_proto.events import AgentChunk, AgentResponse, AgentStepEvent, ErrorEvent, ServerEvents, SystemEvent
from qaws_proto.testing.history import Heard, Rules, Truth, check_heard, check_log

M1, RUN = "user-1a.1", "run-1"
STRICT = Rules(durable=True, forgets=False, restarted=False)


def accepted(seq: int = 1, message_id: str = M1, run_id: str = RUN) -> SystemEvent:
    data: dict[str, Any] = {"run_id": run_id, "position": 0, "duplicate": False, "content": f"{message_id} hi"}
    return SystemEvent(event_name="message_accepted", data=data, session_id="s", seq=seq, correlation_id=message_id)


def chunk(seq: int, offset: int, content: str) -> AgentChunk:
    return AgentChunk(content=content, offset=offset, session_id="s", seq=seq, run_id=RUN, correlation_id=M1)


def step(seq: int, content: str) -> AgentStepEvent:
    return AgentStepEvent(
        kind="reasoning", name=None, content=content, session_id="s", seq=seq, run_id=RUN, correlation_id=M1
    )


def response(seq: int, content: str, **fields: Any) -> AgentResponse:
    told = {"status": "completed", "run_id": RUN, **fields}
    return AgentResponse(
        content=content, user_id="user-1", processing_time=0.1, session_id="s", seq=seq, correlation_id=M1, **told
    )


def error(code: str, run_id: str | None = None, seq: int | None = None) -> ErrorEvent:
    return ErrorEvent(error_code=code, error_message="", session_id="s", seq=seq, run_id=run_id, correlation_id=M1)


def gap() -> SystemEvent:
    data: dict[str, Any] = {"recovered": False, "reason": "gap", "epoch": "e", "from": 3, "to": 3}
    return SystemEvent(event_name="session_resumed", data=data, session_id="s")


def truth(*pieces: str, steps: tuple[str, ...] = (), ended: bool = True) -> Truth:
    """An agent that was asked `M1` has said this."""
    told = Truth()
    told.begin(RUN, f"{M1} hi")
    life = told.life(RUN)
    life.pieces.extend(pieces)
    life.steps.extend(steps)
    if ended:
        life.answers.append("".join(pieces))
    return told


def heard(*events: ServerEvents) -> Heard:
    told = Heard("user-1a.")
    for event in events:
        told.hear(event)
    return told


def judge(events: tuple[ServerEvents, ...], said: Truth, rules: Rules = STRICT) -> None:
    check_heard(heard(*events), [M1], said, rules)


RIGHT: dict[str, tuple[tuple[ServerEvents, ...], Truth]] = {
    "streamed": ((accepted(), chunk(2, 0, "a"), step(3, "t"), chunk(4, 1, "b"), response(5, "ab")),
                 truth("a", "b", steps=("t",))),
    "whole": ((accepted(), response(2, "ab")), truth("ab")),
    "cancelled": ((accepted(), response(2, "a", status="cancelled")), truth("a", "b", ended=False)),
    "failed": ((accepted(), chunk(2, 0, "a"), error("AGENT_ERROR", RUN, 3)), truth("a", ended=False)),
    "refused": ((error("BUSY"),), Truth()),
    "a gap": ((accepted(), gap(), chunk(5, 0, "ab"), response(6, "ab")), truth("ab")),
    "lost": ((accepted(), gap(), error("LOST", RUN)), truth("ab")),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    judge(*RIGHT[name])


#: What is told at once, or at the end: events, what the agent said, and what is found.
WRONG: dict[str, tuple[tuple[ServerEvents, ...], Truth, str]] = {
    "no end": ((accepted(),), truth("a"), "C8: no end"),
    "two ends": ((accepted(), response(2, "a"), response(3, "a")), truth("a"), "C10: .* after"),
    "accepted twice": ((accepted(), accepted(2, run_id="other")), truth("a"), "C10: accepted twice"),
    "accepted behind its end": ((response(1, "a"), accepted(2)), truth("a"), "C10: accepted behind"),
    "an answer of nobody": ((accepted(), response(2, "b")), truth("a"), "C10: .* is not what the agent said"),
    "half an answer": ((accepted(), response(2, "a")), truth("a", "b"), "C10: .* is not what the agent said"),
    "a cancelled answer of nobody": ((accepted(), response(2, "x", status="cancelled")), truth("a"), "C10: .* nothing"),
    "chunks that make another": ((accepted(), chunk(2, 0, "a"), response(3, "ab")), truth("a", "b"), "C10: the chunks"),
    "a step that was not heard": ((accepted(), chunk(2, 0, "a"), response(3, "a")), truth("a", steps=("t",)),
                                  "C10: the steps"),
    "a hole in the text": ((accepted(), chunk(2, 1, "b")), truth("a", "b"), "C10: a hole"),
    "an empty chunk": ((accepted(), chunk(2, 0, "")), truth("a"), "C10: an empty chunk"),
    "a chunk behind the end": ((accepted(), response(2, "a"), chunk(3, 0, "a")), truth("a"), "C8: behind the end"),
    "told again": ((accepted(), chunk(2, 0, "a"), chunk(2, 1, "b")), truth("a", "b"), "C10: .* behind 2"),
    "refused and run": ((error("BUSY"),), truth("a"), "C8: refused, and run"),
    "refused and accepted": ((accepted(), error("BUSY")), truth("a"), "C8: accepted, and refused"),
    "lost without a gap": ((accepted(), error("LOST", RUN)), truth("a"), "C10: .* nobody was told"),
    "ended and never accepted": ((response(1, "a"),), truth("a"), "C8: .* its run was not accepted"),
}  # fmt: skip


@pytest.mark.clause("C10")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    events, said, found = WRONG[name]
    with pytest.raises(AssertionError, match=found):
        judge(events, said)


def test_behind_a_gap_others_may_be_accepted_again_and_own_messages_not() -> None:
    ours = heard(accepted(), gap())
    other = Heard("user-1b.")
    for event in (accepted(), gap(), accepted(1, run_id="again")):
        other.hear(event)
    with pytest.raises(AssertionError, match="C10: accepted twice"):
        ours.hear(accepted(1, run_id="again"))


@pytest.mark.row("G7")
def test_messages_of_a_session_are_begun_in_their_order() -> None:
    told = heard(accepted(), accepted(2, "user-2a.1", "run-2"), accepted(3, "user-2a.2", "never begun"))
    in_order, reversed_ = Truth(), Truth()
    for run_id in (RUN, "run-2"):
        in_order.begin(run_id, "hi")
    for run_id in ("run-2", RUN):
        reversed_.begin(run_id, "hi")
    check_heard(told, [], in_order, STRICT)
    with pytest.raises(AssertionError, match="G7: "):
        check_heard(told, [], reversed_, STRICT)


def again(said: Truth) -> None:
    said.begin("run-2", f"{M1} hi")


def called_again(said: Truth) -> None:
    said.begin(RUN, f"{M1} hi")


@pytest.mark.clause("C8")
@pytest.mark.parametrize(
    ("twice", "forgets", "reruns", "found"),
    [(again, False, True, "run twice"), (called_again, True, False, "called again")],
)
def test_a_message_is_run_once(twice: Callable[[Truth], None], forgets: bool, reruns: bool, found: str) -> None:
    said = truth("a")
    said.check_once(forgets=False, reruns=False)
    twice(said)
    with pytest.raises(AssertionError, match=found):
        said.check_once(forgets=forgets, reruns=reruns)
    said.check_once(forgets=True, reruns=True)


def test_the_end_of_a_message_that_was_sent_again_may_be_an_older_one() -> None:
    pointed = accepted().model_copy(update={"seq": None})
    judge((accepted(7, "user-2a.1", "run-2"), pointed, response(3, "a")), truth("a"))
    with pytest.raises(AssertionError, match=r"C10: .* behind 7"):
        heard(accepted(1), accepted(7, "user-2a.1", "run-2"), response(3, "a"))


LOG: list[ServerEvents] = [accepted(), chunk(2, 0, "a"), chunk(3, 1, "b"), step(4, "t"), response(5, "ab")]
PAYLOADS = [json.dumps(event.model_dump(mode="json")).encode() for event in LOG]


@pytest.mark.clause("C10")
def test_a_log_was_heard_whole_but_for_chunks_that_were_joined() -> None:
    joined = chunk(3, 0, "ab")
    check_log(heard(LOG[0], joined, *LOG[3:]), PAYLOADS)
    check_log(heard(gap(), LOG[4]), PAYLOADS)
    with pytest.raises(AssertionError, match=r"C10: .* was not heard"):
        check_log(heard(LOG[0], joined, LOG[4]), PAYLOADS)
    with pytest.raises(AssertionError, match="C10: 5 was heard, and is in no log"):
        check_log(heard(*LOG), PAYLOADS[:4])
