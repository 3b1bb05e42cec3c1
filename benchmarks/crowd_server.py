"""The server that a crowd comes to: `qaws serve` with limits that are near, and what they let it hold."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from qaws.outgoing import WRITE_HIGH
from qaws_proto import WebSocketConfig

from .peers.work import Terms
from .processes import ROOT, ChildError

SEND_BUFFER = 16 * 1024  # bytes that the kernel may hold for who does not read; else it is megabytes
PATIENCE = 60.0  # seconds to end
OBJECTS = 32 * 1024  # bytes of Python's objects, and of the kernel's in this process, for each socket
TABLES = 16 * 1024 * 1024  # bytes of what is counted by number and not by size: sessions, limiters, timers, heaps


def settings(secret: str, *, clients: int) -> dict[str, Any]:
    """The configuration of the server: what it may hold is small, and is reached soon; half-open clients too."""
    return {
        "server": {"max_connections": clients + 100, "heartbeat_interval": 4, "timeout": 8},
        "security": {"authentication": {"jwt_secret": secret}},
        "limits": {
            "handshakes": 1000, "max_message_size": 4096, "read": 4096, "inbox": 4096, "out_high": 8192,
            "out_top": 16384, "write_timeout": 4,
        },
        "agent": {"max_response_size": 65536, "max_runs": max(1000, clients)},
        "sessions": {"node_bytes": 32 * 1024 * 1024, "max_sessions": 2 * clients, "ttl": 10,
                     "max_events": 200, "known_ids": 50},
        "logging": {"level": "WARNING"},
    }  # fmt: skip


class Bound(NamedTuple):
    """What a configuration lets a server hold beyond what it takes to be there at all, in bytes."""

    sockets: int
    answers: int
    sessions: int
    tables: int = TABLES

    @classmethod
    def of(cls, config: WebSocketConfig) -> Bound:
        """The sum of its limits."""
        limits = config.limits
        each = limits.inbox + limits.read + limits.max_message_size + limits.out_top + WRITE_HIGH + OBJECTS
        return cls(
            (config.server.max_connections + limits.handshakes) * each,
            config.agent.max_runs * config.agent.max_response_size,
            config.sessions.node_bytes,
        )

    def text(self) -> str:
        """The sum and what it is of."""
        parts = " + ".join(f"{value >> 20} {name}" for name, value in self._asdict().items())
        return f"{sum(self) >> 20} MiB = {parts}"


class Serving(NamedTuple):
    """A server that is ready."""

    port: int
    pid: int
    log: Path  # what it wrote to standard error


@contextmanager
def serving(folder: Path, config: dict[str, Any]) -> Iterator[Serving]:
    """`qaws serve` in a process of its own. Raises ChildError where it does not begin, or ends with a status."""
    (folder / "crowd.json").write_text(json.dumps({"websocket": config}))
    log = folder / "crowd.log"
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, log.open("w") as errors:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # inherited by what is accepted
        arguments = [
            "serve", "--config", str(folder / "crowd.json"), "--agent", "benchmarks.talker:agent",
            "--listen", f"fd:{listener.fileno()}",
        ]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "qaws", *arguments],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, pass_fds=[listener.fileno()],
        )  # fmt: skip
        try:
            _wait_until_ready(listener.getsockname()[1], process, log)
            yield Serving(listener.getsockname()[1], process.pid, log)
            process.terminate()
            if process.wait(PATIENCE) != 0:
                raise ChildError(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask for its health: the kernel lets the question wait until the server listens."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as probe:
        probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while True:
            try:
                answer = probe.recv(1024)
                break
            except TimeoutError as error:
                raise ChildError(f"the server said nothing: {log.read_text()[-2000:]}") from error
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ChildError(f"the server is not ready: {answer!r} {process.poll()} {log.read_text()[-2000:]}")


def tokens(terms: Terms, kind: str, count: int, *, lives: int = 3600) -> list[str]:
    """Tokens for so many users, valid for some seconds."""
    return [terms.token(f"{kind}-{number}", lives=lives) for number in range(count)]
