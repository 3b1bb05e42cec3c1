"""Stores: where sessions are kept beyond the life of the process. `docs/extending.md` says how to write one."""

from __future__ import annotations

import time
from collections.abc import Callable

from qaws_proto.config import WebSocketConfig

from .interface import RestrictionStore, Store, StoreError

__all__ = ["RestrictionStore", "Store", "StoreError", "check_store", "store_of"]


def store_of(config: WebSocketConfig, *, clock: Callable[[], float] = time.time) -> Store | None:
    """The store that the configuration names, by this wall clock; None: sessions are kept in memory. Raises StoreError
    where it cannot be made; it is not opened."""
    if config.store.kind == "memory":
        return None
    try:
        from .sqlite import SqliteStore
    except ImportError as error:  # a Python without SQLite, or a system without the locks of Unix
        raise StoreError(f"store.kind: sqlite cannot be used here: {error}") from error
    return SqliteStore(config, clock=clock)


def check_store(config: WebSocketConfig) -> None:
    """Raise StoreError where the store that the configuration names could not be opened. Changes nothing, and may be
    asked beside a server that has it open."""
    if store_of(config) is not None and config.store.path is not None:
        from .database import check

        check(config.store.path)
