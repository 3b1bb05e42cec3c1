"""Between a node and its store: performs what the node says, and tells it what became of that."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import anyio

from qaws_proto.admission.restarts import check
from qaws_proto.effects import LoadSession, Note, SaveRecords
from qaws_proto.inputs import Input, LoadFailed, RecordsSaved, SaveFailed, SessionLoaded, StoreOpened
from qaws_proto.records import RestrictionRecord, StoredSession

from ..host import Spawn, start_task
from .interface import RestrictionStore, Store, StoreError

PATIENCE = 10.0  # seconds for a store to close
Result = TypeVar("Result")


class StorePort:
    """Opens a store, saves and loads in tasks of their own, and closes it behind the last save."""

    def __init__(
        self, store: Store, feed: Callable[[Input], None], note: Callable[[Note], None],
        answered: Callable[[str, float, bool], None] | None = None,
    ) -> None:  # fmt: skip
        """`answered` is told of each `save` and `load`, how many seconds it took, and whether it failed."""
        self._store = store
        self._feed = feed
        self._note = note
        self._answered = answered
        self._opened: StoreOpened | None = None  # what the node is told first; None: it is closed
        self._spawn: Spawn | None = None
        self._saving: _Save | None = None  # the one that is not answered
        self._loading = 0
        self._let_go = False  # it did not close in time, which has been noted
        self._refusing = False  # it is closed, or let go: nothing more is asked of it
        self._closed: anyio.Event | None = None  # set when it is closed; None: it is not being closed
        self._deadline = inf  # until when those who close it wait; however many they are, they wait once
        self._waits: set[anyio.CancelScope] = set()

    @property
    def released(self) -> bool:
        """Whether the store is closed, and nothing that was asked of it is under way."""
        return self._opened is None and self._saving is None and not self._loading

    async def open(self) -> None:
        """Open the store, unless it is open. Raises StoreError, whatever the store raises."""
        if self._opened is not None:
            return
        unfinished = await _asked(self._store.open)
        if not isinstance(unfinished, tuple) or not all(isinstance(one, StoredSession) for one in unfinished):
            raise StoreError("the store cannot be opened: what its open() returns is no tuple of StoredSession")
        try:
            opened = StoreOpened(unfinished, await _restrictions(self._store))
        except BaseException:
            await self._let_close()
            raise
        self._opened, self._closed = opened, None
        self._refusing, self._let_go, self._deadline = False, False, inf

    async def _let_close(self) -> None:
        """Close a store that is open and will not be used, in `PATIENCE` seconds."""
        with anyio.move_on_after(PATIENCE, shield=True):
            try:
                await self._store.aclose()
            except Exception as error:  # noqa: BLE001 - why it is not used says more
                self._note(Note("node", "ERROR", "store_not_closed", {}, error))

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
        if self._refusing:
            self._feed(SaveFailed(effect.batch, StoreError("the store is closed")))
            return
        self._saving = _Save(effect.batch, monotonic(), anyio.Event())
        self._spawn(self._save, effect, self._saving)

    def load(self, effect: LoadSession) -> None:
        """Begin to load; the node is told."""
        assert self._spawn is not None
        self._spawn(self._load, effect)

    async def _save(self, effect: SaveRecords, save: _Save) -> None:
        answer: Input = SaveFailed(effect.batch)
        try:
            answer = await self._answer(
                "save",
                lambda: self._store.save(effect.records, effect.unix),
                lambda _: RecordsSaved(effect.batch),
                lambda error: SaveFailed(effect.batch, error),
            )
        finally:
            self._saving = None  # before the node is told, which may save again at once
            self._feed(answer)
            save.ended.set()

    async def _load(self, effect: LoadSession) -> None:
        answer: Input = LoadFailed(effect.owner, effect.session_id)
        self._loading += 1
        try:
            answer = await self._answer(
                "load",
                lambda: self._store.load(effect.owner, effect.session_id),
                lambda stored: SessionLoaded(effect.owner, effect.session_id, _checked(stored)),
                lambda error: LoadFailed(effect.owner, effect.session_id, error),
            )
        finally:
            self._loading -= 1
            self._feed(answer)

    async def _answer(
        self,
        operation: str,
        work: Callable[[], Coroutine[Any, Any, Any]],
        done: Callable[[Any], Input],
        failed: Callable[[BaseException], Input],
    ) -> Input:
        if self._refusing:
            return failed(StoreError("the store is closed"))
        began, succeeded = anyio.current_time(), False
        try:
            answer = done(await work())
            succeeded = True
            return answer
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # A store may raise anything, its own CancelledError too; only the end of the event loop goes on.
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled():
                raise
            return failed(error)
        finally:
            if self._answered is not None:
                self._answered(operation, anyio.current_time() - began, not succeeded)

    def give_up(self, patience: float) -> None:
        """Have the node wait no more for a save that is under way for `patience` seconds, nor whoever closes it."""
        save = self._saving
        if save is not None and monotonic() - save.began >= patience and not self._refusing:
            self._refusing, self._deadline = True, anyio.current_time()
            self._feed(SaveFailed(save.batch, StoreError("the store did not answer")))

    async def close(self, patience: float | None = None) -> None:
        """Close the store behind the last save. It has `patience` seconds (or `PATIENCE`), then it is let go. Twice is
        once: others that wait already wait no longer than this one."""
        if self._opened is None:
            return
        patience = PATIENCE if patience is None else patience
        self._deadline = min(self._deadline, anyio.current_time() + patience)
        for scope in self._waits:
            scope.deadline = min(scope.deadline, self._deadline)
        if self._closed is None:
            self._closed = anyio.Event()
            start_task(
                self._close, self._closed
            )  # of its own: what ignores its cancellation must not hold up who stops
        closed = self._closed
        with anyio.CancelScope(deadline=self._deadline) as scope:
            self._waits.add(scope)
            try:
                await closed.wait()
            finally:
                self._waits.discard(scope)
        if not closed.is_set() and not self._let_go:
            self._let_go = self._refusing = True
            self._note(Note("node", "ERROR", "store_not_closed", {"seconds": patience}))

    async def _close(self, closed: anyio.Event) -> None:
        try:
            while self._saving is not None:  # also where it is let go: a store is never closed under a save
                await self._saving.ended.wait()
            self._refusing = True
            await self._store.aclose()
        except BaseException as error:  # it may raise anything, and the server stops all the same
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled():
                raise  # the event loop ends
            self._note(Note("node", "ERROR", "store_not_closed", {}, error))
        finally:
            self._opened = None
            closed.set()


class _Save(NamedTuple):
    """A save that is under way, since `began` (seconds of the monotonic clock, since a callback may begin it)."""

    batch: int
    began: float
    ended: anyio.Event


async def _asked(ask: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """What a store says at the start. Raises StoreError, whatever it raises."""
    try:
        return await ask()
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"the store cannot be opened: {type(error).__name__}") from error


async def _restrictions(store: Store) -> tuple[RestrictionRecord, ...] | None:
    """Who is kept out; None: the store does not keep that. Raises StoreError: without it the door would be open."""
    if not isinstance(store, RestrictionStore):
        return None
    records = await _asked(store.restrictions)
    try:
        if not isinstance(records, tuple):
            raise ValueError("its restrictions() returns no tuple")
        for record in records:
            check(record)
    except ValueError as error:
        raise StoreError(f"the store cannot be opened: {error}") from error
    return records


def _checked(stored: object) -> StoredSession | None:
    """What a store has loaded. Raises TypeError where that is no session."""
    if stored is None or isinstance(stored, StoredSession):
        return stored
    raise TypeError(f"the store's load() returned {type(stored).__name__}, no StoredSession")


def _cancelled() -> bool:
    """Whether the task has been told to stop."""
    return anyio.current_effective_deadline() == float("-inf")
