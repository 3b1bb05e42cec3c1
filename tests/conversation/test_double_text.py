"""A message that comes while the agent works on another of its session: what each policy does with it."""

from __future__ import annotations

import pytest

from qaws_proto.testing.node import configure
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest


def node_with(policy: str, queue: int = 4) -> NodeUnderTest:
    """A node with this policy."""
    return NodeUnderTest(configure(sessions={"double_text": policy, "queue": queue}))


def test_reject_refuses_it_until_the_other_has_ended() -> None:
    node = node_with("reject")
    client = node.connect()
    client.chat(id="m1")
    client.expect_system("message_accepted")
    client.chat(id="m2")
    client.expect_error("BUSY", correlation_id="m2")
    node.finish(node.only_run, "x")
    client.expect_event("agent_response")
    client.chat(id="m2")
    assert client.expect_system("message_accepted")["position"] == 0


def test_interrupt_ends_the_others_with_what_they_have() -> None:
    node = node_with("interrupt")
    client, other = node.connect(), node.connect()
    client.chat(id="m1", session_id="s")
    first = node.only_run
    node.chunk(first, "half an ans")
    other.chat(id="m2", session_id="s")
    other.chat(id="m3", session_id="s")
    assert client.expect_system("message_accepted", correlation_id="m1")["position"] == 0
    for reader in (client, other):
        assert reader.expect_system("message_accepted", correlation_id="m2")["position"] == 0
        reader.expect_event("agent_response", status="cancelled", content="half an ans", correlation_id="m1")
        reader.expect_system("message_accepted", correlation_id="m3")
        reader.expect_event("agent_response", status="cancelled", content="", correlation_id="m2")
    assert node.cancelled == {first} == node.runs.keys()  # the next one waits until it has stopped
    node.fail(first)
    node.finish(node.only_run, "the last one's")
    client.expect_event("agent_response", status="completed", correlation_id="m3")


def test_interrupt_bounds_what_waits_for_an_agent_that_does_not_stop() -> None:
    node = node_with("interrupt", queue=1)
    client = node.connect()
    for n in range(20):
        client.chat(f"{n}", id=f"m{n}")
    assert len(node.runs) == 1
    assert node.gateway.runs == 2
    (first,) = node.runs
    node.fail(first)
    assert node.started[node.only_run].content == "19"


def test_interrupt_bounds_what_waits_for_a_store() -> None:
    config = configure(sessions={"double_text": "interrupt", "queue": 1})
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    client = node.connect()
    for n in range(4):
        client.chat(id=f"m{n}")
    for n in (2, 3):
        client.expect_error("BUSY", correlation_id=f"m{n}")
    node.answer_all()
    for n in (0, 1):
        client.expect_system("message_accepted", correlation_id=f"m{n}")


def test_concurrent_runs_them_side_by_side_up_to_a_bound() -> None:
    node = node_with("concurrent", queue=1)
    client = node.connect()
    client.chat(id="m1", stream=True)
    (first,) = node.runs
    client.chat(id="m2", stream=True)
    (second,) = node.runs.keys() - {first}
    client.forget()
    for run_id, piece in ((first, "a"), (second, "b")):
        node.chunk(run_id, piece)
        client.expect_event("agent_chunk", content=piece, offset=0, run_id=run_id)
    client.chat(id="m4")
    client.expect_error("BUSY", correlation_id="m4")
    node.finish(second)
    client.expect_event("agent_response", content="b", correlation_id="m2")
    client.chat(id="m4")
    assert client.expect_system("message_accepted")["position"] == 0
    assert len(node.runs) == 2
    for run_id in list(node.runs):
        node.finish(run_id, "x")
    assert node.gateway.runs == 0


def test_chunks_of_runs_side_by_side_stay_apart() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}, sessions={"double_text": "concurrent"}))
    client = node.connect()
    for name in ("m1", "m2"):
        client.chat(id=name, stream=True, session_id="s")
    first, second = node.runs
    for n in range(3):
        node.chunk(first, f"a{n}")
        node.chunk(second, f"b{n}")
    late = node.connect()
    late.resume("s", 0, node.gateway._sessions.by_number(1).log.epoch)
    late.expect_system("session_resumed")
    late.expect_system("message_accepted")
    late.expect_system("message_accepted")
    for n in range(3):  # who is cut off behind one of them lacks none before it
        late.expect_event("agent_chunk", content=f"a{n}", offset=2 * n, run_id=first)
        late.expect_event("agent_chunk", content=f"b{n}", offset=2 * n, run_id=second)


@pytest.mark.parametrize("policy", ["enqueue", "reject", "interrupt", "concurrent"])
def test_every_policy_accepts_into_a_session_at_rest(policy: str) -> None:
    node = node_with(policy)
    client = node.connect()
    for n in range(3):
        client.chat(id=f"m{n}")
        assert client.expect_system("message_accepted")["position"] == 0
        node.finish(node.only_run, "x")
        client.expect_event("agent_response", status="completed")
