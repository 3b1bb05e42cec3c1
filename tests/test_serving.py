"""`qaws serve` on every server and event loop, as a process: where it listens, what signals do, what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_sync

from qaws.cli import main
from qaws.serving import Choice, UsageError, choose
from tests.adapters.certificates import Authority
from tests.helpers.keys import Pair, pair
from tests.helpers.process import PATIENCE, Served, qaws, serving

AGENTS = """
import pathlib, anyio

async def patient(message):
    yield "first "
    while not pathlib.Path("release").exists():
        await anyio.sleep(0.005)
    for number in range(20):
        await anyio.sleep(0.001)
        yield f"{message}.{number} "

async def stubborn(message):
    yield "first "
    with anyio.CancelScope(shield=True):
        await anyio.sleep(3600)
"""

CHOICES = [
    ("protocol", "asyncio"), ("protocol", "uvloop"), ("asyncio", "asyncio"), ("asyncio", "uvloop"),
    ("anyio", "asyncio"), ("anyio", "uvloop"), ("anyio", "trio"),
]  # fmt: skip
EVERYWHERE = pytest.mark.parametrize("choice", CHOICES, ids="-".join)


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory with some agents in it, and nothing of this machine's settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("WEBSOCKET_", "QAWS_", "LISTEN_")):
            monkeypatch.delenv(name)
    (tmp_path / "my_agents.py").write_text(AGENTS)


def arguments(choice: tuple[str, str], *more: str) -> list[str]:
    return ["--no-auth", "--host", "127.0.0.1", "--adapter", choice[0], "--backend", choice[1], *more]


async def hear(client: ClientConnection, **fields: Any) -> dict[str, Any]:
    """The next event with those fields; the ones before it are passed over."""
    while True:
        event: dict[str, Any] = json.loads(await client.recv())
        if all(event.get(name) == value for name, value in fields.items()):
            return event


async def answered(client: ClientConnection) -> tuple[str, str]:
    """What was streamed from here on, and the whole answer."""
    streamed = ""
    while (event := json.loads(await client.recv()))["type"] != "agent_response":
        streamed += event["content"] if event["type"] == "agent_chunk" else ""
    assert event["status"] == "completed"
    return streamed, event["content"]


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@EVERYWHERE
@pytest.mark.row("D1")
def test_sigterm_under_a_hundred_streaming_clients_loses_no_answer(choice: tuple[str, str], tmp_path: Path) -> None:
    streaming = asyncio.Barrier(101)
    told = asyncio.Barrier(101)

    async def visit(url: str, number: int) -> int | None:
        async with connect(url) as client:
            await client.send(json.dumps({"type": "chat_message", "content": str(number), "stream": True}))
            first = (await hear(client, type="agent_chunk"))["content"]
            await streaming.wait()
            await hear(client, event_name="server_draining")
            await told.wait()
            streamed, whole = await answered(client)
            assert whole == "first " + "".join(f"{number}.{turn} " for turn in range(20))
            assert first + streamed == whole
            await client.wait_closed()
            return client.close_code

    async def crowd(server: Served) -> list[int | None]:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            visits = [group.create_task(visit(server.url, number)) for number in range(100)]
            await streaming.wait()
            server.process.send_signal(signal.SIGTERM)
            await told.wait()
            (tmp_path / "release").touch()
        return [one.result() for one in visits]

    (tmp_path / "file.yaml").write_text("websocket: {security: {rate_limiting: {enabled: false}}}\n")  # one address
    with serving(*arguments(choice, "--agent", "my_agents:patient", "--config", "file.yaml")) as server:
        assert asyncio.run(crowd(server)) == [1012] * 100
        assert server.process.wait(PATIENCE) == 0
    assert "Traceback" not in "\n".join(server.log)


@EVERYWHERE
@pytest.mark.row("D1")
@pytest.mark.row("G5")
@pytest.mark.parametrize("agent", ["patient", "stubborn"])
def test_a_second_signal_ends_it_now(choice: tuple[str, str], agent: str, tmp_path: Path) -> None:
    waits = "agent: {cancel_grace: 600}, drain: {timeout: 600}"  # neither of which is waited for
    (tmp_path / "patient.yaml").write_text(f"websocket: {{{waits}}}\n")
    with serving(*arguments(choice, "--agent", f"my_agents:{agent}", "--config", "patient.yaml")) as server:
        with connect_sync(server.url) as client:
            client.send('{"type":"chat_message","content":"?","stream":true}')
            while json.loads(client.recv())["type"] != "agent_chunk":
                pass
            server.process.send_signal(signal.SIGTERM)
            while json.loads(client.recv()).get("event_name") != "server_draining":
                pass
            server.process.send_signal(signal.SIGINT)
            while (event := json.loads(client.recv(PATIENCE)))["type"] != "agent_response":
                pass
            assert event["status"] == "cancelled"
        assert server.process.wait(PATIENCE) == 0
    assert "Traceback" not in "\n".join(server.log)


@EVERYWHERE
def test_sighup_reads_the_certificate_again(choice: tuple[str, str], tmp_path: Path) -> None:
    first, second = Authority("first"), Authority("second")
    made = first.issue(tmp_path)
    (tmp_path / "tls.yaml").write_text(
        f"websocket: {{security: {{ssl: {{enabled: true, cert_file: {made.cert_file}, key_file: {made.key_file}}}}}}}\n"
    )

    def trusted(authority: Authority) -> bool:
        port = urlsplit(server.url).port
        with socket.create_connection(("localhost", port), PATIENCE) as plain:  # by hand, in this thread alone
            try:
                authority.trusting().wrap_socket(plain, server_hostname="localhost").close()
            except ssl.SSLCertVerificationError:
                return False
        return True

    with serving(*arguments(choice, "--config", "tls.yaml")) as server:
        assert server.url.startswith("wss://")
        assert (trusted(first), trusted(second)) == (True, False)
        with connect_sync(server.url, ssl=first.trusting(), server_hostname="localhost") as open_before:
            second.issue(tmp_path)
            server.process.send_signal(signal.SIGHUP)
            server.logged("tls_reloaded")
            assert (trusted(first), trusted(second)) == (False, True)
            made.key_file.write_text("no key")
            server.process.send_signal(signal.SIGHUP)
            server.logged("tls_not_reloaded")
            assert (trusted(first), trusted(second)) == (False, True)
            open_before.send('{"type":"chat_message","content":"hola"}')
            while json.loads(open_before.recv())["type"] != "agent_response":
                pass


@pytest.mark.row("A7")
@EVERYWHERE
def test_the_keys_of_tokens_are_read_again_on_a_signal(choice: tuple[str, str], tmp_path: Path) -> None:
    first, second = pair("ES256", None), pair("ES256", None, 1)
    (tmp_path / "key.pem").write_bytes(first.public_pem)
    (tmp_path / "keys.yaml").write_text(
        "security: {authentication: {algorithm: ES256, public_key_file: key.pem}}\nserver: {host: 127.0.0.1}"
    )
    flags = ["--config", "keys.yaml", "--adapter", choice[0], "--backend", choice[1]]
    with serving(*flags) as server:
        server.logged("keys_loaded keys=1")
        assert [status(server, key) for key in (first, second)] == [101, 401]
        (tmp_path / "key.pem").write_bytes(second.public_pem)
        server.process.send_signal(signal.SIGHUP)
        wait_for_more(server, "keys_loaded keys=1", 2)
        assert [status(server, key) for key in (first, second)] == [401, 101]
        (tmp_path / "key.pem").write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        server.logged("keys_failed")
        assert [status(server, key) for key in (first, second)] == [401, 101]


def status(server: Served, key: Pair) -> int:
    """What an upgrade with a token of this key is answered with."""
    headers = {"Authorization": f"Bearer {key.token(unix=time.time())}"}
    try:
        connect_sync(server.url, additional_headers=headers).close()
    except InvalidStatus as refused:
        return refused.response.status_code
    return 101


def wait_for_more(server: Served, part: str, count: int) -> None:
    """Wait until that has been logged so often."""
    with server.changed:
        assert server.changed.wait_for(lambda: sum(part in line for line in server.log) >= count, PATIENCE)


@EVERYWHERE
def test_without_tls_a_terminal_that_hangs_up_ends_it(choice: tuple[str, str]) -> None:
    with serving(*arguments(choice), ends_with=-signal.SIGHUP) as server:
        server.process.send_signal(signal.SIGHUP)
        server.process.wait(PATIENCE)


# ── where it listens ─────────────────────────────────────────────────────────────────────────────────────────────────


async def echoed(client: ClientConnection) -> str:
    await client.send('{"type":"chat_message","content":"hola"}')
    content: str = (await hear(client, type="agent_response"))["content"]
    return content


@EVERYWHERE
def test_it_listens_wherever_it_is_told_to_and_says_so(choice: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "qaws.sock"
    listen = ["--listen", "127.0.0.1:0", "--listen", f"unix:{path}", "--adapter", choice[0], "--backend", choice[1]]

    async def talk(urls: list[str]) -> list[str]:
        async with asyncio.timeout(PATIENCE), connect(urls[0]) as one, unix_connect(str(path)) as other:
            return [await echoed(one), await echoed(other)]

    with serving("--no-auth", *listen, port=None) as server:
        urls = [server.url, server.logged("listening on ws+unix:").removeprefix("listening on ")]
        assert urls[1] == f"ws+unix:{path}:/"
        assert asyncio.run(talk(urls)) == ["hola", "hola"]
    assert not path.exists()


SYSTEMD = """
import os, sys
descriptor = int(sys.argv[1])
os.dup2(descriptor, 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


@EVERYWHERE
def test_sockets_of_systemd_are_taken(choice: tuple[str, str]) -> None:
    async def talk() -> str:
        async with asyncio.timeout(PATIENCE), connect(f"ws://127.0.0.1:{port}/") as client:
            return await echoed(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", SYSTEMD, str(listener.fileno())]
        listen = ["--no-auth", "--listen", "systemd", "--adapter", choice[0], "--backend", choice[1]]
        with serving(*listen, port=None, before=command, pass_fds=[listener.fileno()]) as server:
            assert server.url == f"ws://127.0.0.1:{port}/"
            assert asyncio.run(talk()) == "hola"


def test_a_port_on_the_command_line_goes_over_the_addresses_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(f"websocket: {{server: {{listen: ['unix:{tmp_path}/a.sock']}}}}\n")
    with serving("--no-auth", "--config", "file.yaml") as server:
        assert server.url.startswith("ws://localhost:")
    with serving("--no-auth", "--config", "file.yaml", port=None) as server:
        assert server.url == f"ws+unix:{tmp_path}/a.sock:/"


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        (["--adapter", "asyncio", "--backend", "trio"], 2, "--adapter asyncio does not run on --backend trio"),
        (["--backend", "curio"], 2, "curio"),
        (["--listen", "127.0.0.1:0", "--port", "0"], 2, "--listen stands instead of --host and --port"),
        (["--listen", "0.0.0.0:0"], 1, "authentication is off and '0.0.0.0' can be reached by others"),
        (["--listen", "127.0.0.1"], 1, "an address to listen on is host:port"),
        (["--listen", "unix:/nowhere/qaws.sock"], 1, "cannot listen on unix:/nowhere/qaws.sock: No such file"),
        (["--listen", "fd:999"], 1, "cannot listen on fd:999: Bad file descriptor"),
        (["--listen", "fd:0"], 1, "cannot listen on fd:0"),
        (["--listen", "systemd"], 1, "no sockets were passed to this process"),
    ],
)
def test_D6_what_cannot_be_is_refused_in_one_line(asked: list[str], status: int, said: str) -> None:
    done = subprocess.run(
        qaws("serve", "--no-auth", *asked), capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("qaws: ")
    assert said in line


@pytest.mark.parametrize("missing", ["uvloop", "trio"])
def test_a_backend_that_is_not_installed_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--no-auth", "--backend", missing])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"qaws: --backend {missing}: {missing} is not installed (pip install 'qaws-gateway[{missing}]')\n"
    )


def test_the_fastest_that_is_installed_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(None, None) == Choice("protocol", "uvloop")
    assert choose(None, "trio") == Choice("anyio", "trio")
    assert choose("anyio", None) == Choice("anyio", "uvloop")
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert choose(None, None) == Choice("protocol", "asyncio")
    for adapter in ("protocol", "asyncio"):
        with pytest.raises(UsageError):
            choose(adapter, "trio")


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("security: {ssl: {enabled: true, cert_file: nowhere.pem, key_file: nowhere.pem}}", "nowhere.pem"),
        ("enabled: false", "the gateway is turned off"),
    ],
)
def test_D6_check_says_what_serve_would_refuse(section: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(f"websocket: {{{section}}}\n")
    env = {**os.environ, "WEBSOCKET_SECRET_KEY": "a secret of more than thirty-two bytes"}
    done = subprocess.run(qaws("check", "file.yaml"), capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("qaws: ")
    assert said in line


def test_in_json_every_line_is_an_object_from_the_first_to_the_last(tmp_path: Path) -> None:
    (tmp_path / "json.yaml").write_text("websocket: {logging: {format: json}}\n")
    with serving(*arguments(CHOICES[0], "--config", "json.yaml"), cwd=str(tmp_path)) as server:
        with connect_sync(server.url) as client:
            client.send('{"type":"chat_message","content":"?"}')
            while json.loads(client.recv(PATIENCE))["type"] != "agent_response":
                pass
        server.logged('"closed"')
    lines = [json.loads(line) for line in server.log]
    assert [line["event"] for line in lines] == ["listening", "opened", "run_ended", "closed", "draining", "drained"]
    assert lines[2]["end"] == "completed"
