"""Runs and sessions for histories that nobody would think of: each promise against a model of a few lines."""

from __future__ import annotations

import re
from collections import deque
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws_proto.faults import Fault
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure
from qaws_proto.testing.peer import text
from tests.helpers.node import NodeUnderTest

# ── agents that fail, or say what is no text ─────────────────────────────────────────────────────────────────────────

SECRET = "canary-7f3a"


class Odd(Exception):
    """An exception that will not be looked at."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


secrets = st.text(max_size=20).map(SECRET.__add__)
raised = st.recursive(
    st.builds(
        lambda kind, said: kind(said),
        st.sampled_from([ValueError, OSError, RecursionError, SystemExit, KeyboardInterrupt, StopIteration, Odd]),
        secrets,
    ),
    lambda inner: st.builds(BaseExceptionGroup, secrets, st.lists(inner, min_size=1, max_size=3)),
    max_leaves=5,
)
anything: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), secrets, st.binary(max_size=5), st.just([SECRET])
)
REASONS = {"busy": Fault.AGENT_BUSY, "unavailable": Fault.AGENT_UNAVAILABLE, "refused": Fault.AGENT_REFUSED}
reasons = st.one_of(st.sampled_from(sorted(REASONS)), anything)


def serves(node: NodeUnderTest, client: Client) -> None:
    """The connection lives: its next message is answered."""
    client.forget()
    client.chat("still there?", id="next")
    client.expect_system("message_accepted")
    node.finish(node.only_run, "yes")
    client.expect_event("agent_response", content="yes", correlation_id="next")


@pytest.mark.row("G2")
@pytest.mark.clause("C12")
@given(st.none() | raised, reasons, anything)
def test_whatever_an_agent_raises_is_one_error_with_an_opaque_id(
    cause: BaseException | None, reason: Any, retry_after: Any
) -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(id="m1")
    client.forget()
    run_id = node.only_run
    node.fail(run_id, cause, reason=reason, retry_after=retry_after)
    error = client.expect_error("AGENT_ERROR", run_id=run_id, correlation_id="m1")
    fault = REASONS.get(reason, Fault.AGENT_ERROR) if isinstance(reason, str) else Fault.AGENT_ERROR
    assert error["error_message"] == fault.value.text
    assert error["details"].keys() <= {"error_id", "retry_after"}
    assert re.fullmatch(r"id-\d+", error["details"]["error_id"])
    note = node.note("run_ended")
    assert note.cause is cause
    assert SECRET not in f"{error} {dict(note.fields)}"
    serves(node, client)


def told_as(piece: str) -> str:
    """A piece as UTF-8 can carry it: pairs of surrogates are the character they stand for, lone ones U+FFFD."""

    def paired(pair: re.Match[str]) -> str:
        high, low = map(ord, pair[0])
        return chr(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00)

    return re.sub("[\ud800-\udfff]", "\ufffd", re.sub("[\ud800-\udbff][\udc00-\udfff]", paired, piece))


any_texts = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=12)
no_texts: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.integers(), st.floats(), st.binary(max_size=5), st.lists(any_texts, max_size=2), st.just(object())
)


@pytest.mark.row("G4")
@pytest.mark.clause("C1")
@example(["\ud83d", "\ude00", "\ud83d\ude00\udfff"])
@given(st.lists(any_texts, min_size=1, max_size=8))
def test_any_text_of_an_agent_is_told_whole_with_lone_surrogates_replaced(pieces: list[str]) -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}))
    client = node.connect()
    client.chat(id="m1", stream=True)
    run_id = node.only_run
    for piece in pieces:
        node.chunk(run_id, piece)
    node.finish(run_id)
    whole = "".join(map(told_as, pieces))
    chunks = [event["content"] for event in client.heard if event["type"] == "agent_chunk"]
    assert "".join(chunks) == whole
    assert client.heard[-1]["content"] == whole
    serves(node, client)


@pytest.mark.row("G4")
@pytest.mark.clause("C1")
@given(st.lists(any_texts, max_size=3), no_texts)
def test_anything_that_is_no_text_ends_the_run_and_not_the_connection(pieces: list[str], wrong: Any) -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(id="m1", stream=True)
    run_id = node.only_run
    for piece in pieces:
        node.chunk(run_id, piece)
    node.chunk(run_id, wrong)
    assert (client.heard[-1]["type"], client.heard[-1].get("error_code")) == ("error", "AGENT_ERROR")
    assert node.cancelled == {run_id}
    node.chunk(run_id, "more")
    node.fail(run_id)
    assert client.heard[-1]["type"] == "error"
    serves(node, client)


# ── the queue of a session, and the places of a node ─────────────────────────────────────────────────────────────────

QUEUE, PLACES = 2, 5


@pytest.mark.row("G7")
@example([("a", n % 2) for n in range(8)])
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "end"]), st.integers(0, 9)), max_size=40))
def test_messages_are_answered_in_order_and_there_is_only_so_much_room(history: list[tuple[str, int]]) -> None:
    node = NodeUnderTest(configure(sessions={"queue": QUEUE}, agent={"max_runs": PLACES}))
    client = node.connect()
    queues: dict[str, deque[str]] = {"a": deque(), "b": deque(), "c": deque()}  # the first of each has the agent
    answered: list[str] = []
    for number, (do, which) in enumerate(history):
        client.forget()
        busy = [queue for queue in queues.values() if queue]
        if do == "end" and busy:
            queue = busy[which % len(busy)]
            (run_id,) = [run_id for run_id, run in node.runs.items() if run.content == queue[0]]
            node.finish(run_id, "x")
            client.expect_event("agent_response", correlation_id=queue[0])
            answered.append(queue.popleft())
        elif do != "end":
            name = f"m{number}"
            client.chat(name, id=name, session_id=do)
            if sum(map(len, queues.values())) == PLACES:
                assert client.expect_error("OVERLOADED", correlation_id=name)["details"] == {"retry_after": 5}
            elif len(queues[do]) == QUEUE + 1:
                client.expect_error("BUSY", correlation_id=name)
            else:
                data = client.expect_system("message_accepted", correlation_id=name)
                assert data["position"] == len(queues[do])
                queues[do].append(name)
        assert {run.content for run in node.runs.values()} == {queue[0] for queue in queues.values() if queue}
    ends = [event["correlation_id"] for event in client.heard if event["type"] == "agent_response"]
    assert ends == answered


# ── what strangers learn of a session ────────────────────────────────────────────────────────────────────────────────

MINE, OTHER = "the-session", "one-not-there"  # of the same length
strangers_ask = st.lists(
    st.one_of(
        st.builds(
            lambda seq, epoch: {"type": "resume", "session_id": MINE, "epoch": epoch, "seq": seq},
            st.integers(0, 9),
            st.sampled_from(["", "id-1", "id-2", "id-3", "id-4"]),
        ),
        st.builds(lambda seq: {"type": "ack", "session_id": MINE, "seq": seq}, st.integers(0, 9)),
        st.builds(lambda n: {"type": "cancel", "run_id": f"id-{n}"}, st.integers(1, 6)),
        st.just({"type": "cancel", "correlation_id": "m1"}),
        st.builds(
            lambda n, name: {"type": "chat_message", "content": "mine?", "id": f"m{n}", "session_id": name},
            st.integers(1, 3),
            st.sampled_from([MINE, "another"]),
        ),
        st.just({"type": "ping"}),
    ),
    max_size=8,
)


def asked_about(session_id: str, events: list[dict[str, Any]], *, ended: bool) -> tuple[bytes, NodeUnderTest, Client]:
    """What a stranger hears who asks about `MINE`, where ana has talked in the session of this name."""
    node = NodeUnderTest(configure(authentication=True))
    ana = node.connect("ana")
    ana.chat("a secret", id="m1", session_id=session_id, stream=True)
    node.chunk(node.only_run, "another one")
    if ended:
        node.finish(node.only_run)
    eva = node.connect("eva")
    ana.forget()
    for event in events:
        eva.send_bytes(text(event))
        node.advance(0.1)
    return b"".join(payload for _, payload in eva.stream.frames), node, ana


@pytest.mark.row("S3")
@given(strangers_ask, st.booleans())
def test_a_stranger_cannot_tell_a_session_from_one_that_is_not_there(events: list[dict[str, Any]], ended: bool) -> None:
    of_one_that_is, node, ana = asked_about(MINE, events, ended=ended)
    of_one_that_is_not, _, _ = asked_about(OTHER, events, ended=ended)
    assert of_one_that_is == of_one_that_is_not
    assert b"secret" not in of_one_that_is
    assert b"another one" not in of_one_that_is
    ana.expect_silence()
    assert ended or [run.user_id for run in node.runs.values()].count("ana") == 1, "cancelled by a stranger"
    assert not node.cancelled & {run.run_id for run in node.started.values() if run.user_id == "ana"}


# ── what is acknowledged is let go ───────────────────────────────────────────────────────────────────────────────────


class Told(NamedTuple):
    """A reader acknowledges so far; or, without a reader, one more event is said."""

    reader: int | None
    seq: int = 0


acks = st.builds(Told, st.sampled_from([None, None, 0, 1, 2]), st.integers(0, 6))


@pytest.mark.row("S5")
@example([Told(None), Told(0, 2), Told(0, 1), Told(1, 2), Told(2, 2)])
@given(st.lists(acks, max_size=20))
def test_what_is_let_go_is_what_every_reader_has_acknowledged(history: list[Told]) -> None:
    node = NodeUnderTest(configure(authentication=True, agent={"roll_up": 0}))
    first = node.connect("ana")
    welcome = first.heard[-1]["data"]
    session_id, epoch = welcome["session_id"], welcome["epoch"]
    first.chat(id="m1", stream=True)
    readers = [first, node.connect("ana"), node.connect("ana")]
    for other in readers[1:]:
        other.resume(session_id, 0, epoch)
    head, floor, acked = 1, 0, {0: 0, 1: 0, 2: 0}
    for reader, seq in history:
        if reader is None:
            node.chunk(node.only_run, "x")
            head += 1
        elif reader in acked:
            readers[reader].forget()
            readers[reader].ack(session_id, seq)
            if seq > head:
                readers[reader].expect_close(4400, "ack ahead")
                node.advance(node.config.limits.close_timeout)
                del acked[reader]
            else:
                readers[reader].expect_silence()
                acked[reader] = max(acked[reader], seq)
                floor = max(floor, min(acked.values()))
    late = node.connect("ana")
    late.resume(session_id, 0, epoch)
    data = late.expect_system("session_resumed")
    if floor == 0:
        assert data == {"recovered": True, "from": 1, "to": head}
    else:
        assert data == {"recovered": False, "reason": "gap", "epoch": epoch, "from": floor + 1, "to": head}
