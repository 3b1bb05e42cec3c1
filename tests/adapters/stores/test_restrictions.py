"""Who is kept out, in stores: what SQLite keeps, what a file of before becomes, and stores of users (A5)."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import WebSocketManager
from qaws.stores import RestrictionStore, Store, StoreError
from qaws.stores.history import open_history
from qaws.stores.schema import MIGRATIONS
from qaws.stores.sqlite import EXPIRY_INTERVAL, SqliteStore
from qaws_proto.records import RestrictionKind, RestrictionRecord, RunEnded, StoredSession
from tests.adapters.byte_servers import PATIENCE, echo, until
from tests.adapters.peers import Recorded, driven, open_config

from .files import DAY, NOW, config, event, opened, payloads, run, stored
from .kept import Kept

pytestmark = pytest.mark.anyio

BEFORE = Path(__file__).parents[2] / "fixtures" / "sessions-version-1.db.gz"  # a file as version 1 wrote it
GUARDED = {"security": {"authentication": {"enabled": True, "jwt_secret": "a secret of this test, long enough"}}}


def restriction(
    name: str = "ana", kind: RestrictionKind = "blocked_user", until: float | None = None, **fields: Any
) -> RestrictionRecord:
    return RestrictionRecord(kind, name, "ops", "spam", NOW, until)._replace(**fields)


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A5")
async def test_of_each_kind_and_name_the_newest_is_there_after_the_next_opening(tmp_path: Path) -> None:
    odd = restriction(
        "ñ'\"; DROP TABLE restrictions;--\x00\U0001f600", "revoked_token", NOW + 0.1 + 0.2, by="", reason=""
    )
    network = restriction("192.0.2.0/24", "blocked_network", since=NOW + 1)
    async with stored(tmp_path / "q.db") as store:
        assert await store.restrictions() == ()
        await store.save([restriction(until=NOW + 60), run("r1"), event(1), odd, restriction("eva")], NOW)
        await store.save([restriction(kind="revoked_user"), RunEnded("r1"), network], NOW)
        await store.save([restriction(reason="again"), restriction("eva", lifted=True)], NOW)
        await store.save([restriction("nobody", lifted=True)], NOW)
    async with stored(tmp_path / "q.db") as store:
        assert await store.restrictions() == (
            restriction(reason="again"), odd, restriction(kind="revoked_user"), network
        )  # fmt: skip
        assert await store.load("u", "s") == StoredSession("u", "s", "e", 1, payloads([1]))


async def test_a_restriction_is_kept_with_its_batch_or_not_at_all(tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([restriction("eva")], NOW)
        with pytest.raises(StoreError):
            await store.save([restriction(), restriction("eva", lifted=True), RunEnded("never begun")], NOW)
        assert await store.restrictions() == (restriction("eva"),)


async def test_what_is_over_is_left_out_and_deleted_in_the_time_of_the_sessions(tmp_path: Path) -> None:
    path = tmp_path / "q.db"

    def names() -> list[str]:
        with opened(path) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM restrictions ORDER BY name")]

    async with stored(path, retention_days=1) as store:
        later = restriction("eva", until=NOW + 60), restriction("leo", until=NOW + 2 * DAY)
        await store.save([restriction(), *later], NOW)
    async with stored(path, retention_days=1, now=NOW + 60) as store:
        assert [one.name for one in await store.restrictions()] == ["ana", "leo"]
    assert names() == ["ana", "eva", "leo"]  # a clock that is ahead deletes nothing at once
    async with stored(path, retention_days=1, now=NOW + 61 + DAY) as store:
        assert names() == ["ana", "leo"]
        await store.save([event(1)], NOW + 4 * DAY)  # it serves on
        assert names() == ["ana"]
        await store.save([restriction("max", until=NOW)], NOW + 4 * DAY)
        await store.save([event(2)], NOW + 4 * DAY + EXPIRY_INTERVAL - 1)
        assert names() == ["ana", "max"]  # it is not looked every time


@pytest.mark.row("D5")
@pytest.mark.parametrize("change", ["name = 'eva'", "until = 1.0 + until", "since = 0", "reason = ''", "checksum = 0"])
async def test_a_damaged_restriction_keeps_the_store_shut(change: str, tmp_path: Path) -> None:
    async with stored(tmp_path / "q.db") as store:
        await store.save([restriction(until=NOW + 60)], NOW)
    with opened(tmp_path / "q.db") as connection:
        connection.execute(f"UPDATE restrictions SET {change}")
    async with stored(tmp_path / "q.db") as store:
        with pytest.raises(StoreError, match="damaged"):
            await store.restrictions()


async def test_a_file_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.write_bytes(gzip.decompress(BEFORE.read_bytes()))
    with open_history(str(path)) as history:  # it can be read as it is
        found = [(one.session_id, one.events, one.unfinished) for one in history.sessions()]
        assert found == [("t", 1, 0), ("s", 3, 1)]
    store = SqliteStore(config(path), clock=lambda: NOW)
    try:
        (unfinished,) = await store.open()
        assert unfinished == StoredSession(
            "u", "s", "e", 3, payloads([1, 2, 3]), (("m1", "r1"), ("m2", "r2")), (run("r2", "m2"),)
        )
        assert await store.restrictions() == ()
        await store.save([restriction(), event(4), RunEnded("r2")], NOW)
        assert await store.restrictions() == (restriction(),)
        assert await store.load("u", "t") == StoredSession("u", "t", "e", 1, payloads([1]))
    finally:
        await store.aclose()
    with opened(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


# ── through a manager ────────────────────────────────────────────────────────────────────────────────────────────────


class Keeping(Kept):
    """A store of a user's own that keeps restrictions too."""

    def __init__(self, *restrictions: Any) -> None:
        super().__init__()
        self.held: Any = restrictions

    async def restrictions(self) -> tuple[RestrictionRecord, ...]:
        self._call("restrictions")
        held: tuple[RestrictionRecord, ...] = self.held
        return held


def kept(records: Sequence[object]) -> list[RestrictionRecord]:
    return [record for record in records if isinstance(record, RestrictionRecord)]


@pytest.mark.row("A5")
async def test_blocks_go_to_the_store_and_are_there_when_it_is_opened(anyio_backend: str) -> None:
    store = Keeping(restriction("eva", since=0.0))
    manager = Recorded(open_config(**GUARDED), agent=echo, store=store)
    manager.unblock_user("leo")  # before the store is open
    with anyio.fail_after(PATIENCE):
        await manager.open_store()
        async with driven(manager, anyio_backend):
            assert [info.name for info in manager.blocks()] == ["eva"]
            manager.block_user("ana", by="boss", reason="rude", seconds=60)
            await until(lambda: len(kept(store.records)) == 2)
            await manager.close_store()
    lifted, block = kept(store.records)
    assert (lifted.name, lifted.lifted) == ("leo", True)
    assert (block.kind, block.name, block.by, block.reason, block.lifted) == (
        "blocked_user", "ana", "boss", "rude", False
    )  # fmt: skip
    assert block.until is not None
    assert block.until - block.since == pytest.approx(60)


async def test_a_store_without_the_method_is_given_none(anyio_backend: str) -> None:
    store = Kept()
    assert isinstance(store, Store)
    assert not isinstance(store, RestrictionStore)
    manager = Recorded(open_config(**GUARDED), agent=echo, store=store)
    with anyio.fail_after(PATIENCE):
        await manager.open_store()
        async with driven(manager, anyio_backend):
            manager.block_user("ana")
            assert [info.name for info in manager.blocks()] == ["ana"]
            await manager.close_store()
    assert store.calls == ["open", "close"]


@pytest.mark.row("D5")
@pytest.mark.parametrize(
    ("held", "problem"),
    [
        (["ana"], "no tuple"),
        (("ana",), "a restriction of a store is a RestrictionRecord"),
        ((restriction("nowhere", "blocked_network"),), "an address or a CIDR"),
    ],
)
async def test_restrictions_that_cannot_be_read_keep_the_server_from_starting(held: Any, problem: str) -> None:
    store = Keeping()
    store.held = held
    manager = WebSocketManager(open_config(**GUARDED), agent=echo, store=store)
    with pytest.raises(StoreError, match=problem):
        await manager.open_store()
    assert store.calls == ["open", "restrictions", "close"]


async def test_a_store_that_raises_over_its_restrictions_is_closed_again() -> None:
    store = Keeping()
    manager = WebSocketManager(open_config(**GUARDED), agent=echo, store=store)

    async def damaged() -> tuple[RestrictionRecord, ...]:
        raise KeyError("a name")

    store.restrictions = damaged  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="the store cannot be opened: KeyError"):
        await manager.open_store()
    assert store.calls == ["open", "close"]
