"""The SQLite store when all is well: what is saved is loaded, in a window, on both event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from qaws.stores import Store, StoreError, store_of
from qaws.stores.database import Database
from qaws.stores.schema import MIGRATIONS
from qaws.stores.sqlite import SqliteStore
from qaws_proto.config import SessionsConfig, WebSocketConfig
from qaws_proto.records import Record, RunEnded, StoredSession

from .files import NOW, answered, config, event, opened, payloads, run, stored

pytestmark = pytest.mark.anyio


async def test_what_is_saved_is_there_after_the_next_opening(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([run("r1", "m1"), event(1), event(2)], NOW)
        await store.save([event(3), RunEnded("r1"), *answered("r2", 1, session="t")], NOW)
    async with stored(tmp_path / "q.db") as store:
        assert await store.load("u", "s") == StoredSession("u", "s", "e", 3, payloads([1, 2, 3]), (("m1", "r1"),))
        assert await store.load("u", "t") == StoredSession("u", "t", "e", 1, payloads([1]))


async def test_sessions_of_others_and_unknown_ones_are_none(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([event(1)], NOW)
        assert await store.load("u", "other") is None
        assert await store.load("another", "s") is None


@pytest.mark.row("D2")
async def test_unfinished_runs_are_given_on_opening_in_the_order_of_their_messages(tmp_path: Path) -> None:
    runs = [run("r2", "m2"), run("r1", None), run("r3", "m3")]
    async with stored(tmp_path / "q.db") as store:
        await store.save([runs[0], event(1), runs[1], runs[2]], NOW)
        await store.save(answered("r4", 1, session="done"), NOW)
        await store.save([run("r5", session="second")], NOW)
        await store.save([event(2), RunEnded("r2")], NOW)
    store = SqliteStore(config(tmp_path / "q.db"))
    try:
        first, second = await store.open()
    finally:
        await store.aclose()
    assert first == StoredSession("u", "s", "e", 2, payloads([1, 2]), (("m2", "r2"), ("m3", "r3")), tuple(runs[1:]))
    assert second == StoredSession("u", "second", "e", 0, (), (), (run("r5", session="second"),))


async def test_a_session_may_begin_behind_its_first_event(tmp_path: Path) -> None:
    """What was before is deleted: retention, while a node held it in memory."""
    async with stored(tmp_path / "q.db") as store:
        await store.save([run("r1"), event(58), event(59)], NOW)
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert (loaded.head, loaded.payloads) == (59, payloads([58, 59]))


@pytest.mark.row("S1")
@pytest.mark.parametrize(
    ("bounds", "held"),
    [
        ({"max_events": 3}, [8, 9, 10]),
        ({"max_events": 1}, [10]),
        ({"max_bytes": 256}, [8, 9, 10]),  # the newest is not counted
        ({"max_bytes": 255 + 257}, [6, 7, 8, 9, 10]),
        ({"max_bytes": 100_000}, list(range(1, 11))),
    ],
)
async def test_no_more_is_loaded_than_is_held(bounds: dict[str, int], held: list[int], tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db", sessions=bounds) as store:
        await store.save([event(seq, b"%128d" % seq) for seq in range(1, 11)], NOW)
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert loaded.head == 10
        assert [int(payload) for payload in loaded.payloads] == held


@pytest.mark.row("M5")
async def test_the_newest_message_ids_are_known_the_oldest_first(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db", sessions={"known_ids": 2}) as store:
        for number in range(1, 5):
            await store.save([run(f"r{number}", f"m{number}"), event(number), RunEnded(f"r{number}")], NOW)
        await store.save([run("r5"), event(5), RunEnded("r5")], NOW)  # its message has no id
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert loaded.known == (("m3", "r3"), ("m4", "r4"))


def test_loading_reads_by_index_and_no_more_than_the_window(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "q.db"))
    try:
        database.save([event(seq) for seq in range(1, 5001)] + [event(1, session="t")], NOW)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        assert database._connection is not None
        costs = []
        for bound in (10, 1000):
            database._connection.set_progress_handler(count, 10)
            steps = 0
            assert database.load("u", "s", SessionsConfig(max_events=bound)) is not None
            costs.append(steps)
        database._connection.set_progress_handler(None, 0)
    finally:
        database.close()
    assert costs[0] * 20 < costs[1]  # the cost grows with the window, and not with the history


async def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([event(1)], NOW)
        for wrong in ([event(2), event(4)], [event(2), event(2)], [event(2), RunEnded("r9")], [event(2, epoch="f")]):
            with pytest.raises(StoreError):
                await store.save([run("r1", session="new"), *wrong], NOW)
        assert await store.load("u", "new") is None
        await store.save([event(2)], NOW)
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert loaded.payloads == payloads([1, 2])


async def test_any_text_and_any_bytes_are_kept(tmp_path: Path) -> None:
    owner, session, epoch, payload = "ñ'\"; DROP TABLE events;--", "\x00\U0001f600", "", bytes(range(256))
    async with stored(tmp_path / "ñ %23?.db") as store:
        await store.save([event(1, payload, owner=owner, session=session, epoch=epoch)], NOW)
        assert await store.load(owner, session) == StoredSession(owner, session, epoch, 1, (payload,))
    assert (tmp_path / "ñ %23?.db").is_file()


async def test_one_thread_works_at_a_time(tmp_path: Path) -> None:
    begun: list[int] = []
    go_on = threading.Event()

    class Slow(SqliteStore):
        def _save(self, records: Sequence[Record], unix: float) -> None:
            begun.append(len(records))
            assert go_on.wait(10)
            super()._save(records, unix)

    store = Slow(config(tmp_path / "q.db"))
    await store.open()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.save, [event(1)], NOW)
            tasks.start_soon(store.save, [event(1, session="t"), event(2, session="t")], NOW)
            await anyio.wait_all_tasks_blocked()
            waiting = store._threads.statistics().tasks_waiting
            go_on.set()
        assert waiting == 1
        assert sorted(begun) == [1, 2]
        assert [await store.load("u", name) is not None for name in ("s", "t")] == [True, True]
    finally:
        await store.aclose()


async def test_a_cancelled_save_is_answered_by_what_became_of_it(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(SqliteStore):
        def _save(self, records: Sequence[Record], unix: float) -> None:
            begun.set()
            assert go_on.wait(10)
            super()._save(records, unix)

    store = Slow(config(tmp_path / "q.db"))
    await store.open()
    answers: list[str] = []

    async def save() -> None:
        await store.save([event(1)], NOW)
        answers.append("saved")

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save)
            await anyio.to_thread.run_sync(begun.wait)
            tasks.cancel_scope.cancel()
            go_on.set()
        assert answers == ["saved"]
        assert await store.load("u", "s") is not None
    finally:
        await store.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_save_whose_task_asyncio_kills_goes_on_before_the_next(tmp_path: Path) -> None:
    """asyncio's own cancellation does not wait for a thread: the database does."""
    begun, go_on = threading.Event(), threading.Event()
    store = SqliteStore(config(tmp_path / "q.db"))
    await store.open()
    try:
        assert store._database is not None
        assert store._database._connection is not None

        def slow() -> int:
            begun.set()
            assert go_on.wait(10)
            return 0

        store._database._connection.create_function("slow", 0, slow)
        store._database._connection.execute("CREATE TEMP TRIGGER late AFTER INSERT ON events BEGIN SELECT slow(); END")
        first = asyncio.create_task(store.save([event(1)], NOW))
        await anyio.to_thread.run_sync(begun.wait)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(store.save([event(2)], NOW))
        await anyio.wait_all_tasks_blocked()
        assert not second.done()
        go_on.set()
        await second
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert loaded.payloads == payloads([1, 2])
    finally:
        go_on.set()
        await store.aclose()


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    store = SqliteStore(config(tmp_path / "q.db"))
    await store.aclose()
    with pytest.raises(StoreError, match="not open"):
        await store.save([event(1)], NOW)
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreError, match="is closed"):
        await store.load("u", "s")
    assert await store.open() == ()
    await store.aclose()


async def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([event(1)], NOW)
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("q.db", "q.db-wal", "q.db-shm", "q.db.lock"), "0o600")


@pytest.mark.row("D3")
@pytest.mark.parametrize(("synchronous", "value"), [("full", 2), ("normal", 1)])
async def test_the_disk_is_waited_for_as_configured(synchronous: str, value: int, tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db", synchronous=synchronous) as store:
        assert store._database is not None
        connection = store._database._connection
        assert connection is not None
        assert connection.execute("PRAGMA synchronous").fetchone() == (value,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_migrations_bring_a_file_up_to_date(tmp_path: Path) -> None:
    path = str(tmp_path / "q.db")
    Database(path).close()
    further = (*MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN title TEXT", "UPDATE sessions SET title = 'none'"))
    for _ in range(2):
        Database(path, migrations=further).close()
        with opened(path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (len(further),)
            assert connection.execute("SELECT title FROM sessions").fetchall() == []


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "q.db")
    Database(path).close()
    further = (*MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN title TEXT", "UPDATE missing SET title = 'none'"))
    with pytest.raises(StoreError, match="no such table: missing"):
        Database(path, migrations=further)
    with opened(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert "title" not in str(connection.execute("SELECT sql FROM sqlite_master").fetchall())
    Database(path).close()


def test_the_configuration_names_the_store(tmp_path: Path) -> None:
    assert store_of(WebSocketConfig.model_validate({"security": {"authentication": {"enabled": False}}})) is None
    store = store_of(config(tmp_path / "q.db"))
    assert isinstance(store, SqliteStore)
    assert isinstance(store, Store)
    assert not list(tmp_path.iterdir())  # until it is opened
