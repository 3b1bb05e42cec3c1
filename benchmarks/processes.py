"""Servers and load generators in processes of their own, told what to do and heard in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 10.0  # seconds that a child has to end

Result = TypeVar("Result")


class ChildError(RuntimeError):
    """A server or the load generator did not do what it was asked; the text says which and why."""


class Child:
    """A process that runs `python -m module`, or `node module` where that is a file for it.

    It ends when its standard input does, with this process at the latest.
    """

    def __init__(self, name: str, module: str, told: object, home: Path | None = None) -> None:
        """`name` is for people. `told` is the first line that it reads. `home` is of another Python and its tree."""
        self._name = name
        python = sys.executable if home is None else home / "bin" / "python"
        self._process = subprocess.Popen(
            ["node", module] if module.endswith(".mjs") else [python, "-m", module],
            cwd=ROOT if home is None else home / "tree",
            env={**os.environ, "QAWS_NODE_FROM": str(node_packages() / "package.json")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; the child hears of it by our end
            preexec_fn=_first_core if module.endswith(".mjs") else None,
        )
        self.tell(told)

    def tell(self, said: object) -> None:
        """Say one more line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def hear(self) -> Any:
        """The next line that it says. Raises ChildError where it ends instead, or says that it failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(f"{self._name} ended with status {self._process.wait(PATIENCE)}")
        heard = json.loads(line)
        if "failed" in heard:
            raise ChildError(f"{self._name}: {heard['failed']}")
        return heard

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def node_packages() -> Path:
    """The folder that packages for Node.js are in."""
    return Path(os.environ.get("QAWS_NODE_PACKAGES", ROOT / ".venv" / "node"))


def compiled() -> Path | None:
    """What `make compiled` makes, where QAWS_COMPILED names it: an environment, and in it the tree with the core
    compiled."""
    named = os.environ.get("QAWS_COMPILED")
    return ROOT / named if named else None


# ── on the other side ────────────────────────────────────────────────────────────────────────────────────────────────


def listen_to_parent() -> Any:
    """In a child: what it is told. From then on the process ends when its parent lets go of it."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return told


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def take_cores(*, server: bool) -> None:
    """In a child: run on the first core, or on all the others, so that a server has one and a load generator has its
    own (Linux, where there are several)."""
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, cores[:1] if server else cores[1:])


def _first_core() -> None:
    take_cores(server=True)


def raise_limits() -> None:
    """In a child: let it have as many descriptors as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def tell_parent(said: object) -> None:
    """In a child: say a line. Where output is not buffered, `print` may write a part of a long one and no more."""
    line = json.dumps(said).encode() + b"\n"
    while line:
        line = line[os.write(sys.stdout.fileno(), line) :]


def run_fast(main: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
