"""A manager with a store: nothing is heard that is not kept, and stores of users that misbehave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from qaws.stores import StoreError
from qaws.stores.sqlite import SqliteStore
from qaws_proto.inputs import LoadFailed
from qaws_proto.records import EventRecord, RunRecord, StoredSession
from tests.adapters.byte_servers import PATIENCE, echo, until
from tests.adapters.peers import Peer, Recorded, driven, open_config

from .kept import Kept

pytestmark = pytest.mark.anyio

RETRY = {"store": {"retry": 0.01}}


@asynccontextmanager
async def serving(store: Any, backend: str, agent: Any = echo, /, **sections: Any) -> AsyncIterator[Recorded]:
    """A manager that has opened its store; closed at the end."""
    manager = Recorded(open_config(**sections), agent=agent, store=store)
    with anyio.fail_after(PATIENCE):
        await manager.open_store()
        async with driven(manager, backend):
            yield manager
            await manager.close_store()


def sqlite(path: Path, **sections: Any) -> tuple[SqliteStore, dict[str, Any]]:
    sections["store"] = {"kind": "sqlite", "path": str(path), **sections.get("store", {})}
    return SqliteStore(open_config(**sections)), sections


# ── saving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C11")
async def test_a_message_is_accepted_when_it_is_kept(anyio_backend: str) -> None:
    store = Kept()
    async with serving(store, anyio_backend) as manager:
        peer = Peer(manager)
        store.ready = anyio.Event()
        peer.say("chat_message", content="hola", id="m1")
        await until(lambda: "save" in store.calls)
        peer.say("ping", id="p")
        await peer.hear("pong")  # and no message_accepted before it
        assert store.records == []
        assert all(event.type != "system_event" for event in peer._unread)
        store.ready.set()
        await peer.hear(event_name="message_accepted")
        await peer.hear("agent_response", content="hola")
        kinds = [type(record) for record in store.records]
        assert kinds[:2] == [RunRecord, EventRecord]
        assert isinstance(store.records[0], RunRecord)
        assert b'"hola"' in store.records[0].message


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.row("D4")
@pytest.mark.parametrize(
    "error",
    [StoreError("the disk is full"), OSError(28, "No space left"), KeyError("x"), SystemExit(3), Unprintable(),
     asyncio.CancelledError(), BaseExceptionGroup("many", [ValueError("x"), SystemExit(1)])],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_whatever_a_store_raises_refuses_the_message_and_the_next_one_is_kept(
    error: BaseException, anyio_backend: str
) -> None:
    store = Kept()
    async with serving(store, anyio_backend, **RETRY) as manager:
        peer = Peer(manager)
        await peer.hear(event_name="connection_established")
        store.errors = [error]
        peer.say("chat_message", content="lost", id="m1")
        refusal = await peer.hear()
        assert (refusal.error_code, refusal.correlation_id) == ("STORAGE_UNAVAILABLE", "m1")
        assert store.records == []
        while True:  # until the node tries again
            peer.say("chat_message", content="kept", id="m1")
            answer = await peer.hear()
            if answer.type != "error":
                break
            assert answer.error_code == "STORAGE_UNAVAILABLE"
        await peer.hear("agent_response", content="kept")


@pytest.mark.row("D4")
async def test_what_a_store_says_is_in_the_log(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Kept()
    async with serving(store, anyio_backend, **RETRY) as manager:
        peer = Peer(manager)
        store.errors = [StoreError("/srv/q.db: the disk is full\nreally")]
        with caplog.at_level(logging.ERROR, "qaws.node"):
            peer.say("chat_message", content="lost", id="m1")
            await peer.hear("error")
        assert "save_failed" in caplog.text
        assert 'raised=StoreError text="/srv/q.db: the disk is full\\nreally"' in caplog.text
        assert ".py:" not in caplog.records[-1].getMessage()  # no places: an operator needs none


async def test_messages_of_many_turns_are_saved_together(anyio_backend: str) -> None:
    store = Kept()
    async with serving(store, anyio_backend, sessions={"queue": 20}) as manager:
        peer = Peer(manager)
        store.ready = anyio.Event()
        for number in range(10):
            peer.say("chat_message", content=str(number), id=str(number))
        await until(lambda: "save" in store.calls)
        assert store.calls.count("save") == 1  # while it is not answered there is no other
        store.ready.set()
        for number in range(10):
            await peer.hear("agent_response", content=str(number))
        assert store.calls.count("save") < 20
        seqs = [record.seq for record in store.records if isinstance(record, EventRecord)]
        assert seqs == list(range(1, len(seqs) + 1))


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_that_the_store_has_is_gone_on_with(anyio_backend: str) -> None:
    store = Kept()
    payload = b'{"type":"agent_step","kind":"reasoning","session_id":"s","seq":7}'
    store.sessions["s"] = StoredSession("anonymous", "s", "e", 7, (payload,), (("m1", "r1"),))
    async with serving(store, anyio_backend) as manager:
        peer = Peer(manager)
        await peer.hear(event_name="connection_established")
        peer.say("resume", session_id="s", epoch="e", seq=6)
        resumed = await peer.hear(event_name="session_resumed")
        assert (resumed.data["recovered"], resumed.data["to"]) == (True, 7)
        assert (await peer.hear("agent_step")).seq == 7
        peer.say("chat_message", content="again", id="m1", session_id="s")
        assert (await peer.hear(event_name="message_accepted")).data["duplicate"] is True
        peer.say("chat_message", content="on", id="m2", session_id="s")
        assert (await peer.hear(event_name="message_accepted")).seq == 8
        peer.say("resume", session_id="unknown", epoch="e", seq=0)
        assert (await peer.hear("error")).error_code == "SESSION_NOT_FOUND"


@pytest.mark.row("D5")
async def test_a_session_that_cannot_be_read_is_refused(
    anyio_backend: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, sections = sqlite(tmp_path / "q.db")
    async with serving(store, anyio_backend, **sections) as manager:
        assert store._database is not None
        connection = store._database._connection
        assert connection is not None
        await store.save(
            [EventRecord("anonymous", "s", "e", 1, b"{}"), EventRecord("anonymous", "s", "e", 2, b"{}")], 0
        )
        connection.execute("UPDATE events SET checksum = 0 WHERE seq = 1")
        peer = Peer(manager)
        with caplog.at_level(logging.ERROR, "qaws.node"):
            peer.say("chat_message", content="hola", id="m1", session_id="s")
            assert (await peer.hear("error")).error_code == "STORAGE_UNAVAILABLE"
        assert "event 1 of session number 1" in caplog.text
        peer.say("chat_message", content="hola", id="m2", session_id="t")
        await peer.hear("agent_response", content="hola")


async def test_what_is_no_session_fails_to_load(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Kept()
    store.sessions["s"] = 5  # type: ignore[assignment]  # the mistake of a user
    async with serving(store, anyio_backend) as manager:
        peer = Peer(manager)
        with caplog.at_level(logging.ERROR, "qaws.node"):
            peer.say("chat_message", content="hola", id="m1", session_id="s")
            assert (await peer.hear("error")).error_code == "STORAGE_UNAVAILABLE"
        (failed,) = [one for one in manager.inputs if isinstance(one, LoadFailed)]
        assert isinstance(failed.cause, TypeError)
        assert "load_failed" in caplog.text


# ── restarts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D2")
@pytest.mark.parametrize("on_restart", ["fail", "rerun"])
async def test_a_run_that_a_stop_has_cut_ends_as_configured(
    on_restart: str, anyio_backend: str, tmp_path: Path
) -> None:
    calls: list[str] = []

    async def patient(message: str) -> str:
        calls.append(message)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return message.upper()

    store, sections = sqlite(tmp_path / "q.db", store={"on_restart": on_restart})
    async with serving(store, anyio_backend, patient, **sections) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="hola", id="m1", session_id="s")
        accepted = await peer.hear(event_name="message_accepted")
        await until(lambda: calls)
        await manager.close_store()  # before the run has an end: this process stops here
    store, sections = sqlite(tmp_path / "q.db", store={"on_restart": on_restart})
    async with serving(store, anyio_backend, patient, **sections) as manager:
        peer = Peer(manager)
        epoch = (await store.load("anonymous", "s")).epoch  # type: ignore[union-attr]
        peer.say("resume", session_id="s", epoch=epoch, seq=accepted.seq)
        end = await peer.hear("agent_response" if on_restart == "rerun" else "error", correlation_id="m1")
        assert end.run_id == accepted.data["run_id"]
        assert getattr(end, "content", None) == ("HOLA" if on_restart == "rerun" else None)
    assert calls == ["hola"] * (2 if on_restart == "rerun" else 1)
