"""`qaws serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

READY = re.compile(r"^listening on (ws{1,2}://\S+)$")
PATIENCE = 30  # seconds for a process to say that it is ready, or to end


class Served(NamedTuple):
    """A running server: where it is, its process, and the lines it wrote to standard error so far."""

    url: str
    process: subprocess.Popen[str]
    log: list[str]


@contextmanager
def serving(*arguments: str, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Iterator[Served]:
    """A server that is ready, on a free port; it is asked to stop at the end, and must end with 0."""
    process = subprocess.Popen(
        qaws("serve", "--port", "0", *arguments),
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log: list[str] = []
    ready, found = threading.Event(), []
    assert process.stderr is not None
    lines = process.stderr

    def read() -> None:
        for line in lines:
            log.append(line.rstrip("\n"))
            match = READY.match(log[-1])
            if match:
                found.append(match[1])
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(PATIENCE), "the server said nothing"
        assert found, "\n".join(log)
        yield Served(found[0], process, log)
        process.terminate()
        assert process.wait(PATIENCE) == 0, "\n".join(log)
    finally:
        process.kill()
        process.wait()
        reader.join(PATIENCE)
        lines.close()


def qaws(*arguments: str) -> Sequence[str]:
    """The command line of `qaws` with these arguments, in this very environment."""
    return [sys.executable, "-m", "qaws", *arguments]
