"""A trace through the core again: bit for bit what it was, whatever came from outside; and what is not is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given

from qaws_proto import EventContext, EventType, Now
from qaws_proto.admission.gate import Gate, Passage, Refusal
from qaws_proto.admission.tokens import Principal, TokenVerifier
from qaws_proto.effects import Effect, Note
from qaws_proto.events import ChatMessage, ClientEvent
from qaws_proto.faults import Fault
from qaws_proto.inputs import BytesReceived, ConnectionOpened, Input
from qaws_proto.records import kind
from qaws_proto.testing import configure
from qaws_proto.testing.histories import Act
from qaws_proto.testing.node import UNIX, counter
from qaws_proto.testing.peer import chat, text, upgrade
from qaws_proto.testing.recording import RecordedGateway
from qaws_proto.testing.replay import Replay, Replayed
from qaws_proto.testing.trace import Trace, TraceError, raised
from tests.test_contract import CONFIGS, STORED, all_configs, histories, play

NOW = Now(5.0, UNIX)


def recorded(happened: Sequence[tuple[Input, Now]], config: Any = None, **ports: Any) -> list[str]:
    """The trace of a node that all this has happened to."""
    lines: list[str] = []
    node = RecordedGateway(
        config or configure(), ids=counter(), write=lambda step: lines.append(step.line()), **ports
    )  # fmt: skip
    for event, now in happened:
        node.step(event, now)
    return [node.head.line(), *lines]


def replayed(lines: Sequence[str], **events: Any) -> list[Replayed]:
    """The steps of a trace that was read, taken again."""
    return list(Replay(Trace.read(lines), **events).steps())


@pytest.mark.clause("C2")
@given(histories, all_configs)
def test_any_history_replays_to_the_same_effects(history: list[Act], config: str) -> None:
    node = play(history, (CONFIGS | STORED)[config])
    lines = recorded([step[:2] for step in node.history], node.config, durable=node.store is not None)
    again = replayed(lines)
    assert [step.difference for step in again] == [None] * len(node.history)
    for step, (_, _, effects) in zip(again, node.history, strict=True):
        assert comparable(step.effects) == comparable(effects)


def comparable(effects: Sequence[Effect]) -> list[object]:
    """Effects; exceptions are equal by their types."""
    return [one._replace(cause=raised(kind(one.cause))) if isinstance(one, Note) else one for one in effects]


# ── what a user has added ────────────────────────────────────────────────────────────────────────────────────────────


class Vote(ClientEvent):
    type: Literal["vote"]
    count: int


def vote(context: EventContext, event: Vote) -> None:
    context.note("voted", count=event.count)


VOTES = [EventType(Vote, vote)]


class Fickle:
    """A check that nobody could foresee."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, gate: Gate, passage: Passage) -> Refusal | None:
        self.asked += 1
        if self.asked == 2:
            raise OSError
        return Refusal(Fault.OVERLOADED, 2.5) if isinstance(passage.event, ChatMessage) and self.asked > 2 else None


def voting() -> list[str]:
    said = upgrade() + b"".join(
        text(event) for event in ({"type": "vote", "count": 3}, chat("a"), chat("b"), chat("c"))
    )
    happened: list[tuple[Input, Now]] = [(ConnectionOpened(1, "192.0.2.1"), NOW), (BytesReceived(1, said), NOW)]
    return recorded(happened, events=VOTES, event_checks=[Fickle()])


def test_what_a_users_check_said_is_said_again_without_it() -> None:
    (_, step) = replayed(voting(), events=VOTES)
    assert step.difference is None
    assert [verdict for name, verdict in step.step.verdicts][2:] == [Refusal(Fault.OVERLOADED, 2.5)] * 2
    assert "voted" in repr(step.effects)


class Odd(TokenVerifier):
    """One of a user, which may raise, and whose principals are more than ours."""

    def __init__(self) -> None:
        pass

    def recall(self, token: str, unix: float) -> Principal | None:
        return None

    def verify(self, token: str, unix: float) -> Principal | None:
        if token == "raises":
            raise OSError(token)
        return Member("ana", None, {"iat": 1}, unix + 60, frozenset(), frozenset())


class Member(Principal):
    """One that a user has made of ours."""


def test_what_a_users_verifier_did_is_done_again() -> None:
    lines: list[str] = []
    config = configure(authentication=True)
    node = RecordedGateway(config, ids=counter(), write=lambda step: lines.append(step.line()), verifier=Odd())
    for number, word in enumerate(("good", "raises"), 1):
        node.step(ConnectionOpened(number), NOW)
        said = BytesReceived(number, upgrade("/", f"Authorization: Bearer {word}"))
        if word == "good":
            node.step(said, NOW)
        else:
            with pytest.raises(OSError, match="raises"):
                node.step(said, NOW)
    steps = replayed([node.head.line(), *lines])
    assert [step.difference for step in steps] == [None] * 4
    assert steps[3].step.effects == "!OSError"


def test_events_of_a_user_have_to_be_there() -> None:
    with pytest.raises(TraceError, match=r"events of its user: vote; .*`events`"):
        Replay(Trace.read(voting()))


def test_an_event_that_the_node_did_not_have_is_refused() -> None:
    with pytest.raises(TraceError, match="events of its user: none"):
        Replay(Trace.read(recorded([])), events=VOTES)


# ── differences ──────────────────────────────────────────────────────────────────────────────────────────────────────

HISTORY: list[Input] = [ConnectionOpened(1), BytesReceived(1, upgrade()), BytesReceived(1, text({"type": "ping"}))]


def test_a_node_that_raised_raises_again() -> None:
    lines: list[str] = []
    node = RecordedGateway(configure(), ids=counter(), write=lambda step: lines.append(step.line()))
    with pytest.raises(ValueError, match="never opened"):
        node.step(BytesReceived(7, b"a"), NOW)
    (step,) = replayed([node.head.line(), *lines])
    assert (step.effects, step.difference) == ([], None)


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.__setitem__(name, value)


@pytest.mark.parametrize(("change", "difference"), [
    (lambda step: step["ids"].pop(), "more ids are drawn"),
    (lambda step: step["ids"].append("another"), "1 fewer ids are drawn"),
    (lambda step: step["ids"].reverse(), "effect 2 was SendBytes and is another"),
    (lambda step: step["verdicts"].append(["verify", None]), "1 fewer verdicts are asked for"),
    (put("effects", ""), "effect 1 was not there and is Note"),
    (put("effects", "Drained:0123"), "effect 1 was Drained and is Note"),
    (put("effects", "!KeyError"), "effect 1 was KeyError, raised and is Note"),
    (put("input", {"is": "EofReceived", "connection": 1}), "effect 1 was Note and is DropConnection"),
    (put("input", {"is": "EofReceived", "connection": 2}), "effect 1 was Note and is ValueError, raised"),
])  # fmt: skip
def test_the_first_difference_is_named_and_ends_it(change: Callable[[dict[str, Any]], None], difference: str) -> None:
    lines = recorded([(event, NOW) for event in HISTORY])
    second = json.loads(lines[2])
    change(second)
    lines[2] = json.dumps(second)
    steps = replayed(lines)
    assert [step.difference for step in steps] == [None, difference]


def test_a_verdict_that_nobody_gave_is_a_difference() -> None:
    said = upgrade("/", "Authorization: Bearer wrong")
    lines = recorded([(ConnectionOpened(1), NOW), (BytesReceived(1, said), NOW)], configure(authentication=True))
    second = json.loads(lines[2])
    assert second["verdicts"] == [["recall", None], ["verify", None]]
    for verdicts, difference in (
        ([["recall", None]], "`verify` is asked, and was not: nothing more"),
        ([["verify", None]], "`recall` is asked, and was not: verify"),
    ):
        lines[2] = json.dumps({**second, "verdicts": verdicts})
        assert replayed(lines)[1].difference == difference
