"""Disks that are full or fail (D4), ends that were none (D3), and what is deleted in time."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qaws.stores import StoreError
from qaws.stores.sqlite import EXPIRY_BATCH, EXPIRY_INTERVAL, SqliteStore
from qaws_proto.records import RunEnded

from .files import DAY, NOW, answered, event, opened, payloads, run, stored

pytestmark = pytest.mark.anyio

LARGE = b"x" * 100_000


@contextmanager
def no_more_pages(store: SqliteStore) -> Iterator[None]:
    """The file may not grow: SQLite's own way to a full disk."""
    assert store._database is not None
    connection = store._database._connection
    assert connection is not None
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {count}")
    try:
        yield
    finally:
        connection.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def no_larger_files(store: SqliteStore) -> Iterator[None]:
    """The system lets no file grow beyond the size of the log: its writes fail in the middle of a batch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(f"{store._path}-wal") + 10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.row("D4")
@pytest.mark.parametrize(
    ("trouble", "text"), [(no_more_pages, r"the disk is full.*SQLITE_FULL"), (no_larger_files, "failed.*SQLITE_IOERR")]
)
async def test_a_batch_for_which_there_is_no_room_is_not_kept_and_the_next_one_is(
    trouble: Callable[[SqliteStore], Iterator[None]], text: str, tmp_path: Path
) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([run("r1", "m1"), event(1)], NOW)
        with trouble(store):  # type: ignore[attr-defined]
            for _ in range(3):
                with pytest.raises(StoreError, match=text):
                    await store.save([event(2), run("r2", "m2"), event(3, LARGE), RunEnded("r1")], NOW)
            loaded = await store.load("u", "s")
            assert loaded is not None
            assert (loaded.payloads, loaded.known) == (payloads([1]), (("m1", "r1"),))
            assert [one.run_id for one in loaded.unfinished] == ["r1"]
        await store.save([event(2), RunEnded("r1")], NOW)
    async with stored(tmp_path / "q.db") as store:
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert (loaded.payloads, loaded.unfinished) == (payloads([1, 2]), ())


@pytest.mark.row("D4")
async def test_a_full_disk_takes_what_needs_no_room(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([run("r1"), event(1)], NOW)
        with no_more_pages(store):
            await store.save([event(2), RunEnded("r1")], NOW)
        loaded = await store.load("u", "s")
        assert loaded is not None
        assert loaded.head == 2


# ── an unclean end ───────────────────────────────────────────────────────────────────────────────────────────────────


async def abandoned(path: Path, synchronous: str) -> Path:
    """What is on the disk while a store is open: as after `kill -9`."""
    left = path.parent / "left"
    left.mkdir()
    async with stored(path, synchronous=synchronous) as store:
        await store.save([event(1), event(1, session="t")], NOW)
        for suffix in ("", "-wal"):
            (left / f"{path.name}{suffix}").write_bytes((path.parent / f"{path.name}{suffix}").read_bytes())
    return left / path.name


async def epochs(path: Path, synchronous: str = "full") -> list[str]:
    async with stored(path, synchronous=synchronous) as store:
        loaded = [await store.load("u", session) for session in ("s", "t")]
    return [one.epoch for one in loaded if one is not None]


@pytest.mark.row("D3")
@pytest.mark.parametrize("next_time", ["full", "normal"])
async def test_after_an_unclean_end_of_normal_sessions_have_new_epochs(next_time: str, tmp_path: Path) -> None:
    path = await abandoned(tmp_path / "q.db", "normal")
    new = await epochs(path, next_time)
    assert len({*new, "e"}) == 3
    assert await epochs(path, next_time) == new  # which was a clean end
    async with stored(path) as store:
        await store.save([event(2, epoch=new[0])], NOW)
        with pytest.raises(StoreError, match="another epoch"):
            await store.save([event(3)], NOW)


@pytest.mark.row("D3")
async def test_after_an_unclean_end_of_full_they_keep_them(tmp_path: Path) -> None:
    assert await epochs(await abandoned(tmp_path / "q.db", "full")) == ["e", "e"]


@pytest.mark.row("D3")
async def test_after_a_clean_end_of_normal_they_keep_them(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db", synchronous="normal") as store:
        await store.save([event(1), event(1, session="t")], NOW)
    assert await epochs(tmp_path / "q.db") == ["e", "e"]


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def there(store: SqliteStore, *sessions: str) -> list[str]:
    return [name for name in sessions if await store.load("u", name) is not None]


async def test_old_sessions_are_deleted_at_opening(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save(answered("r1", 1, session="old"), NOW - 11 * DAY)
        await store.save([run("r2", session="unfinished")], NOW - 11 * DAY)
        await store.save(answered("r3", 1, session="young"), NOW - 9 * DAY)
        await store.save(answered("r4", 1, session="older"), NOW - 12 * DAY)
        await store.save(answered("r5", 2, session="older"), NOW)  # its last record counts
    async with stored(tmp_path / "q.db", retention_days=10) as store:
        assert await there(store, "old", "unfinished", "young", "older") == ["unfinished", "young", "older"]
    with opened(tmp_path / "q.db") as file:
        assert file.execute("SELECT count(*) FROM events").fetchone() == (3,)
        assert file.execute("SELECT run_id FROM runs ORDER BY 1").fetchall() == [("r2",), ("r3",), ("r4",), ("r5",)]


async def test_old_sessions_are_deleted_once_an_hour_while_saving(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db", retention_days=1) as store:
        await store.save([event(1)], NOW - DAY + 60)
        await store.save([event(1, session="t")], NOW + EXPIRY_INTERVAL - 1)
        assert await there(store, "s", "t") == ["s", "t"]  # though it is old by now
        await store.save([event(2, session="t")], NOW + EXPIRY_INTERVAL)
        assert await there(store, "s", "t") == ["t"]


async def test_many_old_sessions_are_deleted_a_part_at_a_save(tmp_path: Path) -> None:
    names = [str(number) for number in range(EXPIRY_BATCH + 10)]
    async with stored(tmp_path / "q.db", retention_days=1) as store:
        await store.save([event(1, session=name) for name in names], NOW)
        later = NOW + 2 * DAY
        await store.save([event(1, session="t")], later)
        assert len(await there(store, *names)) == 10
        await store.save([event(2, session="t")], later)
        assert await there(store, *names, "t") == ["t"]
    async with stored(tmp_path / "other.db", retention_days=1) as store:
        await store.save([event(1, session=name) for name in names], NOW - 2 * DAY)
    async with stored(tmp_path / "other.db", retention_days=1) as store:  # at opening nobody waits: all at once
        assert await there(store, *names) == []


async def test_a_deletion_that_fails_is_told_and_the_save_is_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stored(tmp_path / "q.db", retention_days=1) as store:
        await store.save([event(1)], NOW)
        with opened(tmp_path / "q.db") as other:
            other.execute("CREATE TRIGGER kept BEFORE DELETE ON sessions BEGIN SELECT raise(ABORT, 'not this'); END")
        with caplog.at_level(logging.WARNING, "qaws.node"):
            await store.save([event(1, session="t")], NOW + 2 * DAY)
        assert "sessions_not_expired reason=" in caplog.text
        assert "not this" in caplog.text
        assert await there(store, "s", "t") == ["s", "t"]


async def test_the_room_of_deleted_sessions_is_used_again(tmp_path: Path) -> None:
    sizes = []
    for turn in range(4):
        async with stored(tmp_path / "q.db", now=NOW + 2 * turn * DAY, retention_days=1) as store:
            await store.save([event(seq, LARGE, session=str(turn)) for seq in range(1, 6)], NOW + 2 * turn * DAY)
        sizes.append((tmp_path / "q.db").stat().st_size)
    assert sizes[3] == sizes[0]
