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

READY = re.compile(
    r'(?:listening on |.*"event":"listening","url":")(wss?(?:://|\+unix:)[^"\s]+)'
)  # in text, and in JSON
PATIENCE = 30  # seconds for a process to say that it is ready, or to end


class Served(NamedTuple):
    """A running server: where it is, its process, and the lines it wrote to standard error so far."""

    url: str
    process: subprocess.Popen[str]
    log: list[str]
    changed: threading.Condition

    def logged(self, part: str) -> str:
        """The first line on standard error with that in it, now or soon."""
        with self.changed:
            found = self.changed.wait_for(lambda: [line for line in self.log if part in line], PATIENCE)
        assert found, f"{part!r} was not said, but {self.log}"
        return found[0]


@contextmanager
def serving(
    *arguments: str,
    port: str | None = "0",
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    ends_with: int = 0,
) -> Iterator[Served]:
    """A server that is ready, on a free port; it is asked to stop at the end, and must end with 0, or as the test says.

    `before` is a command that ends by executing the one behind it.
    """
    process = subprocess.Popen(
        [*before, *qaws("serve", *([] if port is None else ["--port", port]), *arguments)],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    log: list[str] = []
    ready, found, changed = threading.Event(), [], threading.Condition()
    assert process.stderr is not None
    lines = process.stderr

    def read() -> None:
        for line in lines:
            with changed:
                log.append(line.rstrip("\n"))
                changed.notify_all()
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
        yield Served(found[0], process, log, changed)
        process.terminate()
        assert process.wait(PATIENCE) == ends_with, "\n".join(log)
    finally:
        process.kill()
        process.wait()
        reader.join(PATIENCE)
        lines.close()


def qaws(*arguments: str) -> Sequence[str]:
    """The command line of `qaws` with these arguments, in this very environment."""
    return [sys.executable, "-m", "qaws", *arguments]
