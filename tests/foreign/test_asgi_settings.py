"""What docs/guarantees.md says of the hosts of ASGI applications: with its settings they keep what it says they do."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import hypercorn
import pytest

from tests.adapters.raw import UPGRADE, masked
from tests.helpers.asgi_process import HOSTS, Host, hosted
from tests.helpers.process import PATIENCE, Served

PAGE = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text("utf-8")
NAMES = ("uvicorn", "hypercorn", "granian")
SETTING = re.compile(r"^\| (uvicorn|hypercorn|granian) \| `([^`]+)` \|", re.MULTILINE)
KEPT = re.compile(r"^\| ([HF]\d+) \| [^|]+ \| (yes|no)\b[^|]* \| (yes|no)\b[^|]* \| (yes|no)\b[^|]* \|$", re.MULTILINE)
#: Seconds, and milliseconds, of the page, and those with which nobody has to wait.
SOONER = {
    "--ws-ping-interval 30": "--ws-ping-interval 1 --ws-ping-timeout 1", "websocket_ping_interval = 30":
    "websocket_ping_interval = 1", "read_timeout = 60": "read_timeout = 2", "graceful_timeout = 40":
    "graceful_timeout = 5", "--http1-header-read-timeout 5000":
    "--http1-header-read-timeout 1000",
}  # fmt: skip
STILL = 5.0  # seconds after which a connection is held to stay, with those
LATE = 15.0  # seconds for what takes a host its own time
OPEN = """
websocket:
  security: {authentication: {enabled: false}, rate_limiting: {enabled: false}}
  limits: {max_message_size: 1048576, frames_per_second: 100000, frame_burst: 100000}
"""


def settings(name: str) -> list[str]:
    """What the page says should be set."""
    return [setting for host, setting in SETTING.findall(PAGE) if host == name]


def said(name: str) -> dict[str, bool]:
    """Which rows a host keeps, by the page."""
    column = NAMES.index(name)
    return {row: cells[column] == "yes" for row, *cells in KEPT.findall(PAGE)}


@contextmanager
def serving(name: str, told: list[str], folder: Path) -> Iterator[Served]:
    """A host with these settings."""
    like = {"uvicorn": "uvicorn-websockets-sansio", "hypercorn": "hypercorn-asyncio", "granian": "granian"}[name]
    command, status = HOSTS[like].command, HOSTS[like].status
    if name == "hypercorn":
        (folder / "hypercorn.toml").write_text("\n".join(told) + "\n")
        command = re.sub(r"--graceful-timeout \d+", "-c hypercorn.toml", command)
    else:
        command = shlex.join([*shlex.split(command), *(word for one in told for word in one.split())])
    with hosted(Host(command, status), env={}, cwd=folder, config=OPEN) as served:
        yield served


def test_hypercorn_knows_its_settings() -> None:
    """It would take any name; the others refuse to start."""
    told = settings("hypercorn")
    assert told
    assert not [one for one in told if not hasattr(hypercorn.Config, one.split(" = ")[0])]


# ── what they keep ───────────────────────────────────────────────────────────────────────────────────────────────────


class Conversation(NamedTuple):
    """What was heard, and whether the host has ended it."""

    heard: bytes
    ended: bool


def converse(port: int, *said: bytes, wait: float = STILL, upgraded: bool = True, enough: bytes = b"") -> Conversation:
    """Say these, each in a write of its own; listen to the end, or until nothing more comes, or until it is enough."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
        if upgraded:
            one.sendall(UPGRADE)
            greeting = b""
            while b"connection_established" not in greeting:
                greeting += one.recv(65536)
        heard = b""
        one.settimeout(wait)
        try:
            for data in said:
                one.sendall(data)
            while data := one.recv(65536):
                heard += data
                if enough and enough in heard:
                    return Conversation(heard, False)
        except TimeoutError:
            return Conversation(heard, False)
        except ConnectionError:  # it was ended while we said more
            pass
        return Conversation(heard, True)


def upgrades(port: int, head: bytes) -> bool:
    """Whether this head is let in."""
    return converse(port, head, upgraded=False, enough=b"\r\n\r\n").heard.startswith(b"HTTP/1.1 101 ")


TEXT, LARGE = b'{"type":"ping","id":"p"}', b"\x81\xff" + (300_000).to_bytes(8) + bytes(4) + b" " * 300_000
PIECES = [masked(0x01, TEXT[:9]), *[masked(0x00)] * 1000, masked(0x80, TEXT[9:])]
CLOSED = masked(0x88, b"\x03\xe8")
PROBES: dict[str, Callable[[int], bool]] = {
    "H1": lambda port: converse(port, UPGRADE[:-2] + b"X: ", *[b"a" * 1000] * 100, upgraded=False).ended,
    "H2": lambda port: converse(port, UPGRADE[:-2], upgraded=False).ended,
    "H4": lambda port: not upgrades(port, UPGRADE.replace(b"\r\n", b"\n")),
    "F1": lambda port: converse(port, masked(0xC1, TEXT), wait=0.8).ended,
    "F2": lambda port: converse(port, masked(0x81, b"\xff"), wait=0.8).ended,
    "F3": lambda port: b"\x03\xf1" in converse(port, LARGE, enough=b"INVALID_JSON").heard,
    "F4": lambda port: b'"pong"' not in converse(port, b"".join(PIECES), enough=b'"pong"').heard,
    "F6": lambda port: b'"pong"' in converse(
        port, PIECES[0], masked(0x89, b"among"), PIECES[-1], enough=b'"pong"').heard.partition(b"\x8a\x05among")[2],
    "F7": lambda port: converse(port, masked(0x89, b"flood") * 3000, wait=0.8).heard.count(b"\x8a\x05flood") < 3000,
    "F9": lambda port: converse(port, CLOSED + masked(0x81, TEXT)).heard.endswith(b"\x88\x02\x03\xe8"),
    "F10": lambda port: converse(port, masked(0x82, b"binary"), wait=LATE).ended,
    "F11": lambda port: converse(port).ended,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_host_keeps_what_the_page_says_and_no_more(name: str, tmp_path: Path) -> None:
    told = [SOONER.get(one, one) for one in settings(name)]
    assert told != settings(name)
    with serving(name, told, tmp_path) as served, ThreadPoolExecutor(len(PROBES)) as threads:
        port = int(served.url.rstrip("/").rpartition(":")[2])
        ready = converse(port, UPGRADE, wait=PATIENCE, upgraded=False, enough=b"connection_established")
        assert not ready.ended  # it may listen some seconds before it reads
        asked = {row: threads.submit(probe, port) for row, probe in PROBES.items()}
        kept = {row for row, verdict in asked.items() if verdict.result(PATIENCE)}
    assert asked.keys() == said(name).keys()
    assert kept == {row for row, says in said(name).items() if says}
