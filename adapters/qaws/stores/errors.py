"""What SQLite says as what an operator can do about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from .interface import StoreError

PRIMARY = 0xFF  # of an extended result code (https://sqlite.org/rescode.html#pve): which kind of error it is

_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full; the store goes on by itself when there is room",
    sqlite3.SQLITE_BUSY: "another program is writing to it",
    sqlite3.SQLITE_READONLY: "the file cannot be written; see to its permissions and those of its directory",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; see to its permissions and those of its directory",
    sqlite3.SQLITE_PERM: "the file cannot be opened; see to its permissions and those of its directory",
    sqlite3.SQLITE_IOERR: "reading or writing failed; see to the disk",
    sqlite3.SQLITE_NOTADB: "this is no SQLite database; nothing was changed. Give `store.path` another name",
}


def damaged(path: str, finding: str, *, export: bool = True) -> StoreError:
    """What to say of a file in which something is not as it was written (D5); `export`: whether to advise that."""
    rescue = f"`qaws sessions export --path {path}` prints what can still be read; then put" if export else "Put"
    return StoreError(
        f"{path}: the database is damaged ({finding}); nothing was deleted. {rescue} an older copy in its place, "
        "or move it away to begin with an empty one"
    )


@contextmanager
def explained(path: str, *, export: bool = True) -> Iterator[None]:
    """Errors of SQLite and of the system as StoreErrors, which advise to `export` a damaged file, or do not."""
    try:
        yield
    except sqlite3.Error as error:
        code: int | None = getattr(error, "sqlite_errorcode", None)  # None: not by SQLite, but by Python's module
        if code is not None and code & PRIMARY == sqlite3.SQLITE_CORRUPT:
            raise damaged(path, str(error), export=export) from error
        meaning = _MEANINGS.get(code & PRIMARY) if code is not None else None
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise StoreError(f"{path}: {meaning or error} ({name})") from error
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror or error}") from error
