"""C11 and D2 for histories that nobody would think of: whatever was heard before a crash is there after it.

A history of `tests/test_contract.py` is played on a node with a store, and the process ends where it ends: what was
said and not saved is gone, what the store was asked last may have been kept without an answer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.effects import SaveRecords
from qaws_proto.testing.client import Client
from qaws_proto.testing.histories import Act
from qaws_proto.testing.node import counter
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest
from tests.test_contract import STORED, histories, play


def heard_in_sessions(client: Client, owner: str) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """The events of sessions that a client has heard, without snapshots, each with its session."""
    found, snapshot = [], {}
    for event in client.heard:
        name = (owner, event.get("session_id", ""))
        if event.get("event_name") == "session_resumed" and not event["data"]["recovered"]:
            snapshot[name] = event["data"]["to"]
        elif "seq" in event and not (event["type"] == "agent_chunk" and snapshot.get(name, 0) >= event["seq"]):
            found.append((name, event))
    return found


def is_kept(store: StoreModel, name: tuple[str, str], event: dict[str, Any]) -> bool:
    """Whether a store has an event; of chunks that came as one, each of them."""
    kept = [json.loads(payload) for payload in store.events[name][: event["seq"]]]
    if event["type"] != "agent_chunk" or kept[-1] == event:
        return bool(kept[-1] == event)
    chunks = [other for other in kept if other["type"] == "agent_chunk" and other["run_id"] == event["run_id"]]
    return bool(event["content"] == "".join(one["content"] for one in chunks if one["offset"] >= event["offset"]))


@pytest.mark.clause("C11")
@pytest.mark.row("D2")
@given(histories, st.sampled_from(sorted(STORED)), st.booleans(), st.sampled_from(["fail", "rerun"]))
def test_what_was_heard_before_a_crash_is_there_after_it(
    history: list[Act], config: str, kept: bool, on_restart: str
) -> None:
    node = play(history, STORED[config])
    store = node.store
    assert store is not None
    if kept and node.asked and isinstance(node.asked[0], SaveRecords):
        store.save(node.asked[0].records)
    for client in node.clients.values():
        for event in client.heard:
            if event.get("event_name") == "message_accepted":
                run = store.runs[event["data"]["run_id"]]
                assert run.message_id == event["correlation_id"]
        for owner in {name[0] for name in store.events}:
            for name, event in heard_in_sessions(client, owner):
                assert name not in store.events or is_kept(store, name, event), event
    check_restart(node, store, on_restart)


def check_restart(node: NodeUnderTest, store: StoreModel, on_restart: str) -> None:
    """Every run that was cut has its one end, or begins again; and then nothing is unfinished."""
    cut = {run.run_id for session in store.unfinished() for run in session.unfinished}
    section = node.config.store.model_copy(update={"on_restart": on_restart})
    ids = counter()
    again = NodeUnderTest(node.config.model_copy(update={"store": section}), store, ids=lambda: f"later-{ids()}")
    finished = set()
    while again.runs:
        run_id = next(iter(again.runs))
        finished.add(run_id)
        again.finish(run_id, "after all")
    assert finished == (cut if on_restart == "rerun" else set())
    assert store.unfinished() == ()
    for events in store.events.values():
        ends = [json.loads(payload) for payload in events]
        ended = [end["run_id"] for end in ends if end["type"] in ("agent_response", "error")]
        assert len(ended) == len(set(ended)), "a run ended twice"
