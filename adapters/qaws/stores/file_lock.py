"""A lock file beside the database: a store is for one process.

The database itself is never locked, nor opened beside SQLite: closing any descriptor of a file ends all POSIX locks
that the process has on it, SQLite's too (https://sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import fcntl
import os

from .interface import StoreError


class FileLock:
    """Held from its making to `release`, or to the end of the process however it ends. The file itself stays."""

    def __init__(self, database: str) -> None:
        """`database` is the path of what is locked. Raises StoreError where somebody holds it, OSError for the file."""
        path = f"{database}.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise StoreError(
                f"{database}: in use by process {holder or 'unknown'}, which holds {path}; a store is for one process"
            ) from None
        except BaseException:
            os.close(self._file)
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)
