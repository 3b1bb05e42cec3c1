"""Files that a store does not open: each is named with what to do, and not a byte of it is changed (D5)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qaws.stores import StoreError, check_store
from qaws.stores.database import Database
from qaws.stores.schema import MIGRATIONS
from qaws.stores.sqlite import SqliteStore

from .files import NOW, config, content, drop_privileges, event, opened, payloads, run, stored, without_privileges

pytestmark = [pytest.mark.anyio, pytest.mark.row("D5")]


def filled(path: Path, events: int = 2000) -> Path:
    """A file of many pages."""
    database = Database(str(path))
    database.save([run("r1", "m1"), *(event(seq, b"%100d" % seq) for seq in range(1, events + 1))], NOW)
    database.close()
    return path


async def refused(path: Path, match: str) -> None:
    """Opening it and looking at it both raise this, and change nothing; and the lock is free again."""
    before = content(path.parent) if path.parent.is_dir() else {}
    store = SqliteStore(config(path))
    for _ in range(2):
        with pytest.raises(StoreError, match=match):
            await store.open()
    with pytest.raises(StoreError, match=match):
        check_store(config(path))
    assert before == (content(path.parent) if path.parent.is_dir() else {})


async def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_text("my notes\n" * 1000)
    await refused(tmp_path / "q.db", "no SQLite database; nothing was changed.*store.path")


async def test_a_database_of_another_program(tmp_path: Path) -> None:
    with opened(tmp_path / "q.db") as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    await refused(tmp_path / "q.db", "another program's; nothing was changed")


async def test_a_database_that_says_that_it_is_another_programs(tmp_path: Path) -> None:
    with opened(tmp_path / "q.db") as other:
        other.execute("PRAGMA application_id = 42")
    await refused(tmp_path / "q.db", "another program's")


async def test_a_newer_one(tmp_path: Path) -> None:
    with opened(filled(tmp_path / "q.db")) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    await refused(tmp_path / "q.db", rf"newer qaws.*version {len(MIGRATIONS) + 1}.*knows {len(MIGRATIONS)}")


def garbage_in_the_middle(data: bytearray) -> None:
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xa5" * 4096


def no_end(data: bytearray) -> None:
    del data[len(data) // 2 :]


def zeros_behind_the_head(data: bytearray) -> None:
    data[4096:8192] = bytes(4096)


@pytest.mark.parametrize("damage", [garbage_in_the_middle, no_end, zeros_behind_the_head])
async def test_a_damaged_one(damage: Callable[[bytearray], None], tmp_path: Path) -> None:
    data = bytearray(filled(tmp_path / "q.db").read_bytes())
    damage(data)
    (tmp_path / "q.db").write_bytes(data)
    await refused(tmp_path / "q.db", "is damaged.*nothing was deleted.*qaws sessions export --path")


async def test_a_damaged_one_keeps_the_log_beside_it(tmp_path: Path) -> None:
    """What the end of a reading would move into the damaged file stays where it can be saved from."""
    path = filled(tmp_path / "q.db")
    with opened(path) as writer:
        writer.execute("INSERT INTO meta VALUES ('note', 'in the log')")
        log = path.with_name("q.db-wal").read_bytes()
        data = bytearray(path.read_bytes())
    garbage_in_the_middle(data)
    path.write_bytes(data)
    path.with_name("q.db-wal").write_bytes(log)
    assert len(log) > 4096
    await refused(path, "is damaged")


async def test_a_damaged_message_of_an_unfinished_run(tmp_path: Path) -> None:
    with opened(filled(tmp_path / "q.db")) as other:
        other.execute("UPDATE runs SET message = 'other'")
    for _ in range(2):  # the lock is free again
        with pytest.raises(StoreError, match=r"is damaged.*the message of run r1"):
            await SqliteStore(config(tmp_path / "q.db")).open()


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE events SET payload = CAST('{\"seq\":9}' AS BLOB) WHERE seq = 3", "event 3 "),
        ("UPDATE events SET payload = 'text' WHERE seq = 3", "event 3 "),
        ("UPDATE events SET checksum = checksum + 1 WHERE seq = 3", "event 3 "),
        ("DELETE FROM events WHERE seq = 3", "event 3 "),
        ("DELETE FROM events WHERE seq = 5", "event 5 "),
        ("DELETE FROM events WHERE seq = 1", "event 1 "),
        ("UPDATE events SET seq = 6 WHERE seq = 5", "event 5 "),
        ("DELETE FROM events", "event 5 "),
        (  # whole rows, in each other's place
            "UPDATE events SET (payload, checksum) = (SELECT payload, checksum FROM events AS other "
            "WHERE other.session = events.session AND other.seq = 3) WHERE seq = 2",
            "event 2 ",
        ),
    ],
)
async def test_an_event_that_is_not_as_it_was_written_fails_its_session_alone(
    damage: str, finding: str, tmp_path: Path
) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([event(1, session="t"), *map(event, range(1, 6))], NOW)
    with opened(tmp_path / "q.db") as other:
        (number,) = other.execute("SELECT number FROM sessions WHERE session_id = 's'").fetchone()
        separator = "AND" if "WHERE" in damage else "WHERE"
        other.execute(f"{damage} {separator} session = {number}")
    async with stored(tmp_path / "q.db") as store:
        with pytest.raises(StoreError, match=f"is damaged.*{finding}"):
            await store.load("u", "s")
        assert await store.load("u", "t") is not None
        await store.save([event(2, session="t")], NOW)


async def test_a_byte_that_changed_on_the_disk_is_found(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with stored(path) as store:
        await store.save([event(1, b'{"content":"a word that stands once"}'), event(2)], NOW)
    data = path.read_bytes()
    assert data.count(b"a word that") == 1
    path.write_bytes(data.replace(b"a word that", b"a w\x00rd that"))
    async with stored(path) as store:
        with pytest.raises(StoreError, match=r"is damaged.*event 1 "):
            await store.load("u", "s")


@pytest.mark.row("D2")
async def test_a_log_that_was_cut_holds_whole_batches(tmp_path: Path) -> None:
    """As after a loss of power under `normal`, or a copy that was made while it was written."""
    path, copy = tmp_path / "q.db", tmp_path / "copy" / "q.db"
    copy.parent.mkdir()
    async with stored(path) as store:
        for batch in range(20):
            await store.save([event(seq) for seq in range(batch * 3 + 1, batch * 3 + 4)], NOW)
        file, log = path.read_bytes(), path.with_name("q.db-wal").read_bytes()
    heads = set()
    for cut in range(0, len(log), 1999):
        copy.write_bytes(file)
        copy.with_name("q.db-wal").write_bytes(log[:cut])
        copy.with_name("q.db-shm").unlink(missing_ok=True)
        try:
            async with stored(copy) as store:
                loaded = await store.load("u", "s")
        except StoreError as error:
            pytest.fail(f"cut at {cut}: {error}")
        head = 0 if loaded is None else loaded.head
        assert head % 3 == 0
        assert (loaded.payloads if loaded else ()) == payloads(range(1, head + 1))
        heads.add(head)
    assert len(heads) > 10


async def test_a_place_where_there_can_be_no_file(tmp_path: Path) -> None:
    await refused(tmp_path / "nowhere" / "q.db", "there is no directory .*nowhere; make it")
    (tmp_path / "folder").mkdir()
    await refused(tmp_path / "folder", "this is no file")


async def test_a_file_that_may_only_be_read() -> None:
    with without_privileges() as folder:
        path = filled(folder / "q.db")
        path.chmod(0o444)
        for file in folder.iterdir():
            if file != path:
                file.chmod(0o666)
        folder.chmod(0o777)
        drop_privileges()
        with pytest.raises(StoreError, match="cannot be written; see to its permissions"):
            await SqliteStore(config(path)).open()


async def test_a_directory_that_may_only_be_read() -> None:
    with without_privileges() as folder:
        folder.chmod(0o555)
        drop_privileges()
        with pytest.raises(StoreError, match=re.escape(f"{folder}/q.db.lock: Permission denied")):
            await SqliteStore(config(folder / "q.db")).open()
        with pytest.raises(StoreError, match="no file can be made in its directory"):
            check_store(config(folder / "q.db"))


HOLDER = """
import anyio, sys
from qaws.stores.sqlite import SqliteStore
from tests.adapters.stores.files import config

async def main():
    await SqliteStore(config(sys.argv[1])).open()
    print("open", flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            store = SqliteStore(config(link))  # another name for the same file
            with pytest.raises(StoreError, match=f"in use by process {holder.pid}.*one process"):
                await store.open()
            check_store(config(path))  # nothing is wrong with it
        finally:
            holder.send_signal(signal.SIGKILL)
    await store.open()
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
        await SqliteStore(config(path)).open()
    await store.aclose()


async def test_a_program_that_holds_the_write_lock_fails_a_save_and_nothing_else(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        with opened(tmp_path / "q.db") as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="another program is writing to it"):
                await store.save([event(1)], NOW)
            other.execute("ROLLBACK")
        await store.save([event(1)], NOW)


async def test_a_row_that_is_not_kept_refuses_to_start(tmp_path: Path) -> None:
    """A disk that says yes and keeps something else, as a trigger does here."""
    with opened(filled(tmp_path / "q.db")) as other:
        other.execute("CREATE TRIGGER liar AFTER INSERT ON meta BEGIN UPDATE meta SET value = 'lies'; END")
    with pytest.raises(StoreError, match="what is written is not what is read"):
        await SqliteStore(config(tmp_path / "q.db")).open()
