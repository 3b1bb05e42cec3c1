"""Writing the trace of a node into a file, while it serves (docs/replay.md)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qaws_proto import ConfigError, WebSocketConfig
from qaws_proto.testing.recording import RecordedGateway
from qaws_proto.testing.trace import Step

from .telemetry import log_event

LOGGER = logging.getLogger("qaws.node")


class Recording:
    """One file in a folder, for one node. What cannot be written ends the recording, and nothing else."""

    def __init__(self, folder: str | os.PathLike[str], config: WebSocketConfig, ids: Callable[[], str], **ports: Any):
        """`ports` are those of a `Gateway`. Raises ConfigError where the configuration cannot be used."""
        self._folder = Path(folder)
        self._file: int | None = None
        self._path: Path | None = None
        self.gateway = RecordedGateway(config, ids=ids, write=self._write, redacted=True, **ports)

    def open(self) -> None:
        """Make the file, and the folder where it is not there; both for this user alone. Twice is once.

        Raises ConfigError where that cannot be done.
        """
        if self._path is not None:
            return
        moment = time.time_ns() // 1000
        started = time.strftime("%Y%m%dT%H%M%S", time.gmtime(moment // 1_000_000))
        path = self._folder / f"{started}.{moment % 1_000_000:06}-{os.getpid()}.jsonl"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._append(self.gateway.head.line())
        except OSError as error:
            self._stop()
            raise ConfigError(f"nothing can be recorded in {self._folder}: {error.strerror or error}") from None
        self._path = path

    def close(self) -> None:
        """Write what waits, and close the file. What still comes is not recorded."""
        self.gateway.finish()
        self._stop()

    def _write(self, step: Step) -> None:
        if self._file is None:
            return
        try:
            self._append(step.line())
        except OSError as error:
            log_event(LOGGER, logging.ERROR, "recording_failed", error, file=str(self._path), reason=error.strerror)
            self._stop()

    def _append(self, line: str) -> None:
        assert self._file is not None
        data = line.encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._file, data) :]

    def _stop(self) -> None:
        self.gateway.write = None
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
