"""The agent in a thread of docs/embedding.md: others are served meanwhile, and it can be told to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from qaws_proto.effects import Note
from qaws_proto.inputs import ConnectionLost, DrainRequested, RunFailed, RunFinished, StopRequested, TimerFired
from tests.embedding.served import THREADS, Served, ask, close_code, hear, load_threads, threaded
from tests.test_docs import PATIENCE

FOR_MINUTES = "x" * 3000  # what it thinks about for five
RAISING = THREADS.text.replace("return question.upper()", 'return {"Hello": "HI"}[question]')


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with threaded(tmp_path) as running:
        yield running


def test_others_are_served_while_an_agent_thinks(server: Served) -> None:
    with server.connect() as client, server.connect() as other:
        ask(client, FOR_MINUTES, id="m1")
        ask(other, "Hello")
        assert hear(other, "agent_response")["content"] == "HELLO"
        assert client.ping().wait(PATIENCE)
        client.send(json.dumps({"type": "cancel", "correlation_id": "m1"}))
        assert hear(client, "agent_response")["status"] == "cancelled"
    assert not server.gateway.of(ConnectionLost)


def test_a_cancelled_run_ends_and_frees_its_place(server: Served) -> None:
    with server.connect() as client:
        ask(client, FOR_MINUTES, id="m1")
        ask(client, "Hello", id="m2")
        assert hear(client, "system_event")["correlation_id"] == "m1"
        client.send(json.dumps({"type": "cancel", "correlation_id": "m1"}))
        assert hear(client, "agent_response")["status"] == "cancelled"
        assert hear(client, "agent_response")["content"] == "HELLO"
        assert not server.cancelled, "it forgets the runs that have ended"
    assert len(server.gateway.of(RunFinished)) == 2
    assert "run_given_up" not in [note.name for note in server.gateway.of(Note)]


def test_an_agent_that_raises_fails_its_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with threaded(tmp_path, RAISING) as server, server.connect() as client:
        ask(client, "Why?")
        error = json.loads(client.recv(PATIENCE))
        assert (error["type"], error["error_code"]) == ("error", "AGENT_ERROR")
        ask(client, "Hello")
        assert hear(client, "agent_response")["content"] == "HI"
        assert [type(failed.cause) for failed in server.gateway.of(RunFailed)] == [KeyError]
    assert "KeyError" in caplog.text
    assert "Why?" not in caplog.text  # what was raised may hold a secret


def test_a_drain_lets_the_agent_finish(server: Served) -> None:
    with server.connect() as client:
        ask(client, "How long?", id="m1")
        assert hear(client, "system_event")["event_name"] == "message_accepted"
        server.terminate()
        assert hear(client, "system_event")["event_name"] == "server_draining"
        assert hear(client, "agent_response")["content"] == "HOW LONG?"
        assert close_code(client) == 1012
    assert not server.gateway.of(StopRequested)
    assert len(server.gateway.of(TimerFired)) < 50, "it waits, and does not ask again and again"


def test_a_second_wish_stops_the_agent(server: Served) -> None:
    with server.connect() as client:
        ask(client, FOR_MINUTES, id="m1")
        assert hear(client, "system_event")["event_name"] == "message_accepted"
        server.terminate()
        server.gateway.wait_for(DrainRequested)
        server.terminate()
        assert close_code(client) == 1001
    server.join()


def test_an_agent_may_outlive_the_server(tmp_path: Path) -> None:
    example = load_threads(tmp_path)
    example["waker"].close()
    example["woken"].close()
    cancelled = Event()
    cancelled.set()
    example["think"]("run-1", "Why?", cancelled)
    assert list(example["inbox"]) == [RunFinished("run-1", "WHY?")]
