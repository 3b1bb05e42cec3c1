"""Between a node and its store: performs what the node says, and tells it what became of that."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from qaws_proto.effects import LoadSession, Note, SaveRecords
from qaws_proto.inputs import Input, LoadFailed, RecordsSaved, SaveFailed, SessionLoaded, StoreOpened

from ..host import start_task
from .interface import Store, StoreError

PATIENCE = 10.0  # seconds for a store to close

Spawn = Callable[..., None]


class StorePort:
    """Opens a store, saves and loads in tasks of their own, and closes it behind the last save."""

    def __init__(self, store: Store, feed: Callable[[Input], None], note: Callable[[Note], None]) -> None:
        self._store = store
        self._feed = feed
        self._note = note
        self._opened: StoreOpened | None = None  # what the node is told first; None: it is closed
        self._spawn: Spawn | None = None
        self._saving: anyio.Event | None = None  # while a save is not answered; set when it is
        self._closed: anyio.Event | None = None  # set when it is closed; None: it is not being closed

    async def open(self) -> None:
        """Open the store, unless it is open. Raises what the store raises."""
        if self._opened is None:
            self._opened, self._closed = StoreOpened(await self._store.open()), None

    def attach(self, spawn: Spawn) -> StoreOpened:
        """What the node has to be told first. `spawn` runs an async function in a task of its own."""
        if self._opened is None:
            raise RuntimeError("the store is not open: call manager.open_store() before it is attached")
        self._spawn = spawn
        opened, self._opened = self._opened, StoreOpened()  # what there was is the node's to hold
        return opened

    def save(self, effect: SaveRecords) -> None:
        """Begin to save; the node is told."""
        assert self._spawn is not None
        self._saving = anyio.Event()
        self._spawn(self._save, effect, self._saving)

    def load(self, effect: LoadSession) -> None:
        """Begin to load; the node is told."""
        assert self._spawn is not None
        self._spawn(self._load, effect)

    async def _save(self, effect: SaveRecords, saved: anyio.Event) -> None:
        answer: Input = SaveFailed(effect.batch)
        try:
            answer = await self._answer(
                lambda: self._store.save(effect.records, effect.unix),
                lambda _: RecordsSaved(effect.batch),
                lambda error: SaveFailed(effect.batch, error),
            )
        finally:
            self._saving = None  # before the node is told, which may save again at once
            self._feed(answer)
            saved.set()

    async def _load(self, effect: LoadSession) -> None:
        answer: Input = LoadFailed(effect.owner, effect.session_id)
        try:
            answer = await self._answer(
                lambda: self._store.load(effect.owner, effect.session_id),
                lambda stored: SessionLoaded(effect.owner, effect.session_id, stored),
                lambda error: LoadFailed(effect.owner, effect.session_id, error),
            )
        finally:
            self._feed(answer)

    async def _answer(
        self,
        work: Callable[[], Coroutine[Any, Any, Any]],
        done: Callable[[Any], Input],
        failed: Callable[[BaseException], Input],
    ) -> Input:
        if self._closed is not None:
            return failed(StoreError("the store is closed"))
        try:
            return done(await work())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # A store may raise anything, its own CancelledError too; only the end of the event loop goes on.
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled():
                raise
            return failed(error)

    async def close(self) -> None:
        """Close the store behind the last save. It has `PATIENCE` seconds, then it is let go. Twice is once."""
        if self._opened is None:
            return
        if self._closed is not None:
            await self._closed.wait()
            return
        with anyio.move_on_after(PATIENCE):
            while self._saving is not None:
                await self._saving.wait()
        closed = self._closed = anyio.Event()
        start_task(self._close, closed)  # of its own: what ignores its cancellation must not hold up who stops
        with anyio.move_on_after(PATIENCE):
            await closed.wait()
        if not closed.is_set():
            self._note(Note("node", "ERROR", "store_not_closed", {"seconds": PATIENCE}))

    async def _close(self, closed: anyio.Event) -> None:
        try:
            await self._store.aclose()
        except BaseException as error:  # noqa: BLE001 - it may raise anything, and the server stops all the same
            self._note(Note("node", "ERROR", "store_not_closed", {}, error))
        finally:
            self._opened = None
            closed.set()


def _cancelled() -> bool:
    """Whether the task has been told to stop."""
    return anyio.current_effective_deadline() == float("-inf")
