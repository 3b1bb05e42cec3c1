"""Experiments on what an adapter does with settings: real sockets, files, threads and log lines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import ssl
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from websockets.asyncio.client import ClientConnection, connect

from qaws import ConfigError, WebSocketConfig, WebSocketServer
from qaws.cli import main
from qaws.stores import store_of
from qaws.stores.sqlite import SqliteStore
from qaws.telemetry import configure_logging
from qaws_proto.testing.node import SECRET
from tests.adapters.certificates import Authority
from tests.adapters.stores.files import DAY, NOW, event

from .experiment import Experiment

PATIENCE = 30  # seconds after which an experiment counts as hung


async def echo(message: str) -> str:
    return message


def observed(work: Awaitable[Any]) -> Any:
    """What comes out of it, in an event loop of its own."""

    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(bounded())


@contextmanager
def elsewhere() -> Iterator[Path]:
    """An empty working directory."""
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


async def heard(client: ClientConnection, *types: str) -> dict[str, Any]:
    """The next event of one of these types."""
    while True:
        said: dict[str, Any] = json.loads(await client.recv())
        if said["type"] in types:
            return said


# ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────────


def status_of_check(config: WebSocketConfig) -> object:
    """How `qaws check` ends, where a variable says this."""
    variables = {"WEBSOCKET_ENABLED": str(config.enabled), "WEBSOCKET_SECRET_KEY": SECRET}
    with elsewhere(), patch.dict(os.environ, variables), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            main(["check"])
        except SystemExit as end:
            return end.code
    raise AssertionError("a command ends the process")


def where_it_listens(config: WebSocketConfig) -> list[object]:
    async def look() -> list[object]:
        async with WebSocketServer(echo, config) as server:
            return [one.getsockname()[0] if server.port else one.getsockname() for one in server.sockets]

    with elsewhere():
        found: list[object] = observed(look())
        return found


def port_that_it_takes(config: WebSocketConfig) -> str:
    """The port, also where somebody else has it."""

    async def look() -> str:
        try:
            async with WebSocketServer(echo, config) as server:
                return str(server.port)
        except OSError as error:
            return str(error.filename).rpartition(":")[2]

    return str(observed(look()))


def permissions_of_its_socket(config: WebSocketConfig) -> int:
    async def look() -> int:
        async with WebSocketServer(echo, config):
            return stat.S_IMODE(os.stat("qaws.sock").st_mode)

    with elsewhere():
        return int(observed(look()))


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def authority() -> Authority:
    return Authority("authority of an experiment")


def answer_to_a_probe(config: WebSocketConfig, *, tls: bool) -> str:
    """The first line that a program hears which asks for its health."""

    async def look() -> str:
        context = authority().trusting() if tls else None
        async with WebSocketServer(echo, config) as server:
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", server.port, ssl=context, server_hostname="localhost" if tls else None
                )
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                line = await reader.readline()
                writer.close()
            except (ssl.SSLError, ConnectionError) as error:
                return type(error).__name__
            return line.decode("ascii", "replace") if line.startswith(b"HTTP") else "no HTTP"

    with elsewhere() as folder:
        for name in ("one", "other"):
            (folder / name).mkdir()
            authority().issue(folder / name)
        (folder / "ca.pem").write_text(authority().pem)
        try:
            return str(observed(look()))
        except ConfigError as error:
            return str(error)


def answer_without_tls(config: WebSocketConfig) -> str:
    return answer_to_a_probe(config, tls=False)


def answer_within_tls(config: WebSocketConfig) -> str:
    return answer_to_a_probe(config, tls=True)


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def log_of_a_conversation(config: WebSocketConfig) -> list[str]:
    """The lines on standard error of a server that is asked two questions, of which its agent fails at one."""

    async def agent(message: str) -> str:
        if message == "raise":
            raise ValueError("the text of it")
        return message

    async def talk() -> None:
        async with WebSocketServer(agent, config) as server, connect(server.url) as client:
            for content in ("hola", "raise"):
                await client.send(json.dumps({"type": "chat_message", "content": content}))
                await heard(client, "agent_response", "error")

    logger = logging.getLogger("qaws")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    written = io.StringIO()
    try:
        with redirect_stderr(written):
            configure_logging(config.logging)
            observed(talk())
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)  # not the attribute alone: what is enabled is remembered
    return written.getvalue().splitlines()


def logged(*parts: str) -> Callable[[WebSocketConfig], bool]:
    """Whether a line of that conversation has all these parts."""

    def look(config: WebSocketConfig) -> bool:
        return any(all(part in line for part in parts) for line in log_of_a_conversation(config))

    return look


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def blocking_calls_at_once(config: WebSocketConfig) -> int:
    """The most calls of a blocking agent at one time, of two that are asked for."""
    lock, began, release = threading.Lock(), threading.Semaphore(0), threading.Event()
    active = most = 0

    def agent(message: str) -> str:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        began.release()
        release.wait(PATIENCE)
        with lock:
            active -= 1
        return message

    async def talk() -> int:
        async with (
            WebSocketServer(agent, config) as server,
            connect(server.url) as one,
            connect(server.url) as other,
        ):
            for client in (one, other):
                await client.send(json.dumps({"type": "chat_message", "content": "hola", "id": "m1"}))
                while (await heard(client, "system_event"))["event_name"] != "message_accepted":
                    pass
            for _ in range(config.agent.threads):
                await asyncio.to_thread(began.acquire)
            release.set()
            for client in (one, other):
                await heard(client, "agent_response")
        return most

    return int(observed(talk()))


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────


def files_of_the_store(config: WebSocketConfig) -> list[str]:
    """What a store leaves in its directory."""

    async def keep() -> None:
        store = store_of(config)
        if store is not None:
            await store.open()
            await store.save([event(1)], NOW)
            await store.aclose()

    with elsewhere() as folder:
        observed(keep())
        return sorted(path.name for path in folder.iterdir() if path.suffix == ".db")


def session_behind_a_kill(config: WebSocketConfig) -> bool:
    """Whether a session keeps its epoch where the process was killed: what is known to be on the disk is believed."""

    async def look() -> bool:
        killed = SqliteStore(config, clock=lambda: NOW)
        await killed.open()
        await killed.save([event(1)], NOW)
        Path("restarted").mkdir()
        for file in Path().glob("qaws.db*"):
            shutil.copy(file, "restarted")
        await killed.aclose()
        os.chdir("restarted")
        store = SqliteStore(config, clock=lambda: NOW)
        await store.open()
        loaded = await store.load("u", "s")
        await store.aclose()
        assert loaded is not None
        return loaded.epoch == "e"

    with elsewhere():
        return bool(observed(look()))


def session_a_week_later(config: WebSocketConfig) -> bool:
    """Whether a session is still there."""

    async def look() -> bool:
        for time, found in ((NOW, False), (NOW + 7 * DAY, True)):
            store = SqliteStore(config, clock=lambda time=time: time)  # type: ignore[misc]
            await store.open()
            if not found:
                await store.save([event(1)], NOW)
            else:
                there = await store.load("u", "s") is not None
            await store.aclose()
        return there

    with elsewhere():
        return bool(observed(look()))


FREE_PORT = {"server.host": "127.0.0.1", "server.port": 0}
ON_A_UNIX_SOCKET = {"server.listen": ["unix:qaws.sock"]}
ONE = {"security.ssl.cert_file": "one/cert.pem", "security.ssl.key_file": "one/key.pem"}
TLS = {**FREE_PORT, **ONE, "security.ssl.enabled": True}
SQLITE = {"store.kind": "sqlite", "store.path": "qaws.db"}

EXPERIMENTS = {
    "enabled": Experiment(True, False, status_of_check),
    "server.host": Experiment("127.0.0.1", "127.0.0.2", where_it_listens, {"server.port": 0}),
    "server.port": Experiment(47_811, 47_812, port_that_it_takes, {"server.host": "127.0.0.1"}),
    "server.listen": Experiment(["127.0.0.1:0"], ["127.0.0.1:0", "127.0.0.2:0"], where_it_listens),
    "server.unix_mode": Experiment("600", "660", permissions_of_its_socket, ON_A_UNIX_SOCKET),
    "security.ssl.enabled": Experiment(False, True, answer_without_tls, {**FREE_PORT, **ONE}),
    "security.ssl.cert_file": Experiment("one/cert.pem", "other/cert.pem", answer_within_tls, TLS),
    "security.ssl.key_file": Experiment("one/key.pem", "other/key.pem", answer_within_tls, TLS),
    "security.ssl.client_ca_file": Experiment(None, "ca.pem", answer_within_tls, TLS),
    "logging.level": Experiment("INFO", "WARNING", logged(" INFO "), FREE_PORT),
    "logging.format": Experiment("text", "json", logged('{"time":'), FREE_PORT),
    "logging.log_connections": Experiment(True, False, logged("opened"), FREE_PORT),
    "logging.log_agent_errors": Experiment(True, False, logged("the text of it"), FREE_PORT),
    "logging.log_messages": Experiment(True, False, logged("hola"), FREE_PORT),
    "logging.performance_metrics": Experiment(True, False, logged("run_ended", "seconds="), FREE_PORT),
    "agent.threads": Experiment(1, 2, blocking_calls_at_once, FREE_PORT),
    "store.kind": Experiment("memory", "sqlite", files_of_the_store, {"store.path": "qaws.db"}),
    "store.path": Experiment("one.db", "other.db", files_of_the_store, {"store.kind": "sqlite"}),
    "store.synchronous": Experiment("full", "normal", session_behind_a_kill, SQLITE),
    "store.retention_days": Experiment(3, 30, session_a_week_later, SQLITE),
}
