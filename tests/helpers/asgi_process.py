"""ASGI hosts as processes of their own, as a user starts them."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple

from .process import PATIENCE, Served

FACTORY = "qaws.asgi:create_app"


class Host(NamedTuple):
    """How to start a host; `{port}` and `{app}` are replaced."""

    command: str
    status: tuple[int, ...] = (0,)  # what it may end with after SIGTERM

    def line(self, port: int, app: str = "") -> list[str]:
        """The command line: of the factory, or of an application in a module."""
        module, *arguments = shlex.split(self.command)
        if app:
            arguments = [one for one in arguments if one not in ("--factory", FACTORY, f"{FACTORY}()")] + [app]
        return [sys.executable, "-m", module, *(one.format(port=port) for one in arguments)]


UVICORN = f"uvicorn --factory {FACTORY} --port {{port}} --lifespan on "
HYPERCORN = f"hypercorn {FACTORY}() --bind 127.0.0.1:{{port}} --graceful-timeout 20 "

HOSTS = {
    # uvicorn raises the signal again once it has stopped
    "uvicorn-websockets": Host(UVICORN + "--ws websockets --loop uvloop", (-15, 0)),
    "uvicorn-websockets-sansio": Host(UVICORN + "--ws websockets-sansio --loop asyncio --http h11", (-15, 0)),
    "uvicorn-wsproto": Host(UVICORN + "--ws wsproto --loop uvloop --http httptools", (-15, 0)),
    "uvicorn-two-workers": Host(UVICORN + "--workers 2"),
    "hypercorn-asyncio": Host(HYPERCORN + "-k asyncio"),
    "hypercorn-uvloop": Host(HYPERCORN + "-k uvloop -w 0"),
    "hypercorn-trio": Host(HYPERCORN + "-k trio"),
    "hypercorn-trio-alone": Host(HYPERCORN + "-k trio -w 0", (-15,)),
    "granian": Host(f"granian --interface asgi --factory {FACTORY} --port {{port}}"),
}


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Until somebody listens. Each host says so in its own words, and some of them too early."""
    for _ in range(PATIENCE * 10):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            threading.Event().wait(0.1)
        else:
            return
    raise AssertionError("nobody listens")


@contextmanager
def hosted(
    host: Host, *, env: Mapping[str, str], cwd: Path, app: str = "", config: str | None = None
) -> Iterator[Served]:
    """A host that is ready; it is asked to stop at the end, and must end as it says. `config` is a file's content."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("WEBSOCKET_", "QAWS_"))}
    if config is not None:
        (cwd / "qaws.yaml").write_text(config, "utf-8")
        variables["QAWS_CONFIG"] = "qaws.yaml"
    port = free_port()
    process = subprocess.Popen(
        host.line(port, app), cwd=cwd, env={**variables, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    log: list[str] = []
    changed = threading.Condition()
    assert process.stdout is not None
    lines = process.stdout

    def read() -> None:
        for line in lines:
            with changed:
                log.append(line.rstrip("\n"))
                changed.notify_all()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_for(port)
        yield Served(f"ws://localhost:{port}/", process, log, changed)
        process.terminate()
        assert process.wait(PATIENCE) in host.status, "\n".join(log)
        reader.join(PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, SIGKILL)  # its workers too
        process.wait()
        reader.join(PATIENCE)
        lines.close()
