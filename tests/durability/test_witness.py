"""The judge of the rounds finds what is wrong: histories with one mistake each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from .witness import Seen, Stored, Verdict, Witness, judge

Mistake = Callable[[Witness, dict[str, Stored]], object]


def accepted(seq: int, message_id: str, run_id: str) -> dict[str, Any]:
    data = {"run_id": run_id, "position": 0, "duplicate": False, "content": f"{message_id}?"}
    return {
        "type": "system_event",
        "event_name": "message_accepted",
        "seq": seq,
        "correlation_id": message_id,
        "data": data,
    }


def chunk(seq: int, run_id: str, offset: int, content: str) -> dict[str, Any]:
    return {"type": "agent_chunk", "seq": seq, "run_id": run_id, "offset": offset, "content": content}


def response(seq: int, run_id: str) -> dict[str, Any]:
    return {"type": "agent_response", "seq": seq, "run_id": run_id, "content": "whole"}


def rerun(seq: int, run_id: str) -> dict[str, Any]:
    return {"type": "system_event", "event_name": "run_started", "seq": seq, "data": {"run_id": run_id, "rerun": True}}


def history() -> tuple[Witness, dict[str, Stored]]:
    """Two messages, the second of them run again; one client heard some chunks as one."""
    log = [
        accepted(1, "m1", "r1"), chunk(2, "r1", 0, "wh"), chunk(3, "r1", 2, "ole"), response(4, "r1"),
        accepted(5, "m2", "r2"), chunk(6, "r2", 0, "x"), rerun(7, "r2"), chunk(8, "r2", 0, "whole"), response(9, "r2"),
    ]  # fmt: skip
    witness = Witness({"m1": "m1?", "m2": "m2?"}, {"m1": "r1", "m2": "r2"})
    for event in (log[0], chunk(3, "r1", 0, "whole"), *log[3:]):
        witness.receive("s", "e", deepcopy(event))
    return witness, {"s": Stored("e", {event["seq"]: event for event in log}, 0)}


def test_a_good_history_is_good() -> None:
    assert judge(*history()) == Verdict([], [])


def receive(event: dict[str, Any], session: str = "s", epoch: str = "e") -> Mistake:
    return lambda witness, _: witness.received.append(Seen(session, epoch, event))


def store(event: dict[str, Any]) -> Mistake:
    return lambda _, sessions: sessions["s"].events.update({event["seq"]: event})


@pytest.mark.parametrize(
    ("mistake", "lost"),
    [
        (receive(response(10, "r3")), "s: event 10 was received and is not there"),
        (receive(response(1, "r3"), session="t"), "t: event 1 was received and is not there"),
        (receive(chunk(2, "r1", 0, "wh"), epoch="f"), "s: event 2 was received under another epoch"),
        (receive(chunk(2, "r1", 0, "who")), "s: event 2 is not the text that was received"),
        (receive(chunk(8, "r2", 1, "hole!")), "s: event 8 is not the text that was received"),
        (store(response(4, "r1") | {"content": "other"}), "s: event 4 is not what was received"),
        (lambda witness, _: witness.received.pop(2), "s: event 4 was passed over"),
        (lambda witness, sessions: sessions["s"].events.pop(2), "s: not numbered without a hole"),
        (lambda witness, sessions: sessions["s"].events[2].update(seq=3), "s: event 2 says 3"),
        (lambda witness, sessions: sessions.update(s=sessions["s"]._replace(unfinished=1)), "s: 1 runs without an end"),
        (lambda witness, _: witness.accepted.update(m3="r3"), "message m3 was accepted and is not there"),
        (lambda witness, _: witness.accepted.update(m1="r3"), "message m1 was accepted and is not there"),
        (lambda witness, _: witness.attempted.update(m1="other"), "message m1 has another content"),
        (store(accepted(10, "m1", "r3")), "run r3 has no end"),
    ],
)
def test_what_is_lost_is_found(mistake: Mistake, lost: str) -> None:
    witness, sessions = history()
    mistake(witness, sessions)
    assert lost in judge(witness, sessions).lost


@pytest.mark.parametrize(
    ("mistake", "duplicated"),
    [
        (receive(response(4, "r1")), "s: event 4 came 2 times"),
        (store(accepted(10, "m1", "r3")), "message m1 has 2 runs"),
        (store(response(10, "r1")), "run r1 has 2 ends"),
        (store(chunk(10, "r1", 5, "!")), "run r1 said something behind its end"),
    ],
)
def test_what_is_there_twice_is_found(mistake: Mistake, duplicated: str) -> None:
    witness, sessions = history()
    mistake(witness, sessions)
    assert duplicated in judge(witness, sessions).duplicated
