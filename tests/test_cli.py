"""The command `qaws`, through real processes and real sockets."""

from __future__ import annotations

import codecs
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from qaws_proto import COMPILED
from tests.helpers.keys import pair
from tests.helpers.openai_server import Answer, ModelServer, says

QAWS = (sys.executable, "-m", "qaws")
SECRET = "a secret of more than thirty-two bytes"
PATIENCE = 30  # seconds after which a process counts as hung

AGENTS = """
import asyncio, pathlib, time

def here(message):
    return f"from the working directory: {message}"

async def slow(message):
    yield "first "
    while not pathlib.Path("release").exists():
        await asyncio.sleep(0.005)
    yield "second"

async def stubborn(message):
    yield "never ending"
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def stuck(message):
    yield "stuck"
    time.sleep(3600)

async def hostile(message):
    yield "\\x1b[2Jred\\x07"

async def failing(message):
    raise ValueError("hush")

number = 42
"""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory with some agents in it, and nothing of this machine's settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("WEBSOCKET_", "QAWS_", "OPENAI_")):
            monkeypatch.delenv(name)
    (tmp_path / "my_agents.py").write_text(AGENTS)
    (tmp_path / "broken_agents.py").write_text("import a_module_nobody_has\n")


def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(
        [*QAWS, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **(env or {})},
        check=False,
    )


class Server:
    """A `qaws serve` that is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.ready = ""
        self.log: list[str] = []
        self.ready = self.logged("listening on ")
        self.url = self.ready.removeprefix("listening on ").strip()

    def logged(self, part: str) -> str:
        """The next line on standard error with that in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if part in line:
                return line
        raise AssertionError(f"{part!r} was not said, but {self.log}")

    def before(self, part: str) -> str:
        """The line with that in it that was said before it was ready."""
        (line,) = [line for line in self.log if part in line]
        return line

    def end(self) -> tuple[int, str]:
        """Wait for the end: its status, and the rest of its standard error."""
        assert self.process.stderr is not None
        rest = self.process.stderr.read()
        return self.process.wait(PATIENCE), rest


@contextmanager
def serve(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    host = [] if "--host" in arguments else ["--host", "127.0.0.1"]
    port = [] if "--port" in arguments else ["--port", "0"]
    with subprocess.Popen(
        [*QAWS, "serve", *host, *port, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """It failed with clear lines that say those parts, and nothing else."""
    assert result.returncode not in (0, None)
    assert result.returncode > 0
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines
    for line in lines:
        assert line.startswith("qaws: ")
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.stderr


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_serve_says_where_it_listens_and_answers() -> None:
    with serve("--no-auth") as server:
        assert re.fullmatch(r"listening on ws://127\.0\.0\.1:\d+/\n", server.ready)
        answer = run("chat", server.url, "--message", "¿Cómo estás?")
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "¿Cómo estás?\n", "")


def test_dev_prints_a_token_that_works_and_lets_pages_of_localhost_in() -> None:
    with serve("--dev") as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline()
        assert line.startswith("token for user dev: ")
        token = line.removeprefix("token for user dev: ").strip()
        answer = run("chat", server.url, "--message", "hola", "--token", token)
        assert (answer.returncode, answer.stdout) == (0, "hola\n")
        with connect(server.url, origin=Origin("http://localhost:5173")) as page:
            assert json.loads(page.recv())["event_name"] == "auth_required"


def test_two_dev_servers_have_two_secrets() -> None:
    with serve("--dev") as one, serve("--dev") as other:
        assert one.process.stdout is not None
        token = one.process.stdout.readline().rpartition(" ")[2].strip()
        refused(run("chat", other.url, "--message", "hola", "--token", token), "AUTH_FAILED")


def test_an_agent_is_found_in_the_working_directory() -> None:
    with serve("--no-auth", "--agent", "my_agents:here") as server:
        assert run("chat", server.url, "--message", "hola").stdout == "from the working directory: hola\n"


def test_a_file_gives_the_settings_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "agent_config.yaml").write_text(
        "websocket:\n  server: {path: /ws, port: 1}\n  security:\n    authentication: {jwt_secret: '${TEST_SECRET}'}\n"
    )
    env = {"TEST_SECRET": SECRET}
    with serve("--config", "agent_config.yaml", env=env) as server:
        assert server.url.endswith("/ws")
        token = run("token", "ana", "--config", "agent_config.yaml", env=env).stdout.strip()
        assert run("chat", server.url, "--message", "hola", env={"QAWS_TOKEN": token}).stdout == "hola\n"


@pytest.mark.row("D1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_status_is_0(number: signal.Signals, tmp_path: Path) -> None:
    with serve("--no-auth", "--agent", "my_agents:slow") as server, connect(server.url) as client:
        client.send('{"type":"chat_message","content":"?","stream":true}')
        while json.loads(client.recv())["type"] != "agent_chunk":
            pass
        server.process.send_signal(number)
        while json.loads(client.recv()).get("event_name") != "server_draining":
            pass
        (tmp_path / "release").touch()
        while (event := json.loads(client.recv()))["type"] != "agent_response":
            pass
        assert (event["content"], event["status"]) == ("first second", "completed")
        status, rest = server.end()
        assert status == 0
        assert "Traceback" not in rest


@pytest.mark.row("D1")
@pytest.mark.row("G5")
@pytest.mark.parametrize("agent", ["slow", "stubborn", "stuck"])
def test_a_second_signal_ends_it_now_whatever_the_agent_does(agent: str, tmp_path: Path) -> None:
    (tmp_path / "patient.yaml").write_text("websocket: {agent: {cancel_grace: 600}}\n")  # which is not waited for
    with serve("--no-auth", "--agent", f"my_agents:{agent}", "--config", "patient.yaml") as server:
        with connect(server.url) as client:
            client.send('{"type":"chat_message","content":"?","stream":true}')
            while json.loads(client.recv())["type"] != "agent_chunk":
                pass
            server.process.send_signal(signal.SIGTERM)
            while json.loads(client.recv()).get("event_name") != "server_draining":
                pass
            server.process.send_signal(signal.SIGTERM)
            while (event := json.loads(client.recv()))["type"] != "agent_response":
                pass
            assert event["status"] == "cancelled"
            server.process.wait(PATIENCE)
            status, rest = server.end()
        assert status == 0
        assert "Traceback" not in rest


@pytest.mark.clause("C12")
def test_what_an_agent_raised_is_told_to_the_operator_without_its_text() -> None:
    with serve("--no-auth", "--agent", "my_agents:failing") as server:
        refused(run("chat", server.url, "--message", "?"), "The agent failed (AGENT_ERROR)")
        assert "end=AGENT_ERROR" in server.logged("run_ended")
        assert "raised=ValueError" in server.logged("raised")
        server.process.terminate()
        server.end()
        assert "hush" not in "".join(server.log)


@pytest.mark.clause("C12")
def test_a_model_answers_behind_the_gateway_and_its_key_is_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "verbose.yaml").write_text("websocket: {logging: {level: DEBUG, log_agent_errors: true}}\n")
    env = {"OPENAI_API_KEY": "sk-hush"}
    with ModelServer(says("¡Ho", "la!"), Answer([b"hush"], status=429, headers={"Retry-After": "7"})) as model:
        arguments = ["--agent", "openai:m1", "--agent-url", model.url, "--agent-system", "Be brief."]
        with serve("--no-auth", "--config", "verbose.yaml", *arguments, env=env) as server:
            assert run("chat", server.url, "--message", "¿?").stdout == "¡Hola!\n"
            refused(run("chat", server.url, "--message", "¿?"), "ask again later (AGENT_ERROR); try again in 7 seconds")
            server.process.terminate()
            status, rest = server.end()
    assert status == 0
    assert "127.0.0.1 answered 429" in rest
    assert "hush" not in "".join(server.log) + rest
    assert [request.headers["authorization"] for request in model.requests] == ["Bearer sk-hush"] * 2
    assert model.requests[0].body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_without_its_extra_a_model_is_refused_with_what_to_install() -> None:
    code = "import sys; sys.modules['httpx2'] = None; from qaws.cli import main; main(sys.argv[1:])"
    arguments = ["serve", "--no-auth", "--agent", "openai:m1"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    refused(result, 'this agent needs the package httpx2: pip install "qaws-gateway[openai]"')
    assert len(result.stderr.splitlines()) == 1


FILES = {
    "cookies.yaml": "{security: {cors: {origins: ['*'], credentials: true}}}",
    "trusting.yaml": "{server: {trusted_proxies: ['0.0.0.0/1', '128.0.0.0/1']}}",
    "unread.yaml": "{store: {path: qaws.db}}",
    "listen.yaml": "{server: {listen: ['127.0.0.1:0']}}",
    "typo.yaml": "{server: {prot: 1}}",
}

# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ([], {}, "there is no secret"),
        ([], {"WEBSOCKET_SECRET_KEY": "weak-hush"}, "shorter than 32 bytes"),
        (["--config", "cookies.yaml"], {"WEBSOCKET_SECRET_KEY": SECRET}, "may connect with that user's cookies"),
        (["--no-auth", "--config", "trusting.yaml"], {}, "server.trusted_proxies: every IPv4 address is trusted"),
        (["--no-auth", "--config", "unread.yaml"], {}, "store.path: nothing reads it, since store.kind is memory"),
        (["--no-auth", "--config", "listen.yaml"], {"WEBSOCKET_PORT": "1"}, "server.port: nothing reads it"),
        (["--no-auth", "--config", "typo.yaml"], {}, "unknown key `server.prot`; did you mean `server.port`?"),
        (["--no-auth", "--host", "0.0.0.0"], {}, "authentication is off and '0.0.0.0' can be reached by others"),
        (["--no-auth", "--host", "192.0.2.1"], {}, "authentication is off"),
        (
            ["--no-auth", "--host", "no.such.host.invalid", "--allow-public"],
            {},
            "cannot listen on no.such.host.invalid",
        ),
        (["--no-auth", "--unknown"], {}, "--unknown"),
        (["--no-auth", "--port", "http"], {}, "port"),
        (["--no-auth", "--port", "70000"], {}, "server.port"),
        (["--no-auth", "--agent", "nothing"], {}, "'nothing' names no agent"),
        (["--no-auth", "--agent", "no_such_module:bot"], {}, "there is no module 'no_such_module'"),
        (["--no-auth", "--agent", "my_agents:robot"], {}, "my_agents has no 'robot'"),
        (["--no-auth", "--agent", "my_agents:number"], {}, "an object of type int is no agent"),
        (["--no-auth", "--agent", "broken_agents:bot"], {}, "No module named 'a_module_nobody_has'"),
        (["--no-auth", "--agent", "openai:"], {}, "the name of a model is missing"),
        (["--no-auth", "--agent", "openai:m1", "--agent-url", "localhost"], {}, "begins with http:// or https://"),
        (
            ["--no-auth", "--agent", "openai:m1", "--agent-url", "http://192.0.2.1/v1"],
            {"OPENAI_API_KEY": "sk-hush"},
            "the key would go to 192.0.2.1 unencrypted",
        ),
        (["--no-auth", "--agent-url", "http://localhost/v1"], {}, "--agent-url and --agent-system go with --agent"),
        (["--no-auth", "--agent-system", "Be brief."], {}, "--agent-url and --agent-system go with --agent"),
        (["--no-auth", "--config", "missing.yaml"], {}, "missing.yaml"),
        (["--no-auth"], {"WEBSOCKET_ENABLED": "false"}, "turned off"),
        (["--no-auth"], {"WEBSOCKET_PORT": "many"}, "WEBSOCKET_PORT"),
    ],
)
def test_D6_serve_refuses_with_a_clear_line(arguments: list[str], env: dict[str, str], said: str) -> None:
    for name, text in FILES.items():
        Path(name).write_text(f"websocket: {text}\n")
    result = run("serve", *arguments, env=env)
    refused(result, said)
    assert len(result.stderr.splitlines()) == 1
    assert "hush" not in result.stderr


@pytest.mark.row("D6")
def test_D6_all_that_is_unsafe_is_said_at_once_and_before_the_agent_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "noticed.py").write_text("open('loaded', 'w').close()\nagent = str\n")
    (tmp_path / "unsafe.yaml").write_text("websocket: {server: {trusted_proxies: ['::/0']}, store: {path: a.db}}\n")
    arguments = ["--no-auth", "--host", "0.0.0.0", "--config", "unsafe.yaml", "--agent", "noticed:agent"]
    result = run("serve", *arguments)
    refused(result, "authentication is off", "every IPv6 address", "store.path")
    assert len(result.stderr.splitlines()) == 3
    assert not (tmp_path / "loaded").exists()
    checked = run("check", "unsafe.yaml", env={"WEBSOCKET_SECRET_KEY": SECRET})
    assert checked.returncode == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in checked.stderr.splitlines()] == [
        "server.trusted_proxies", "store.path",
    ]  # fmt: skip


@pytest.mark.row("D6")
def test_D6_a_port_in_use_is_told_by_its_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused(run("serve", "--no-auth", "--host", "127.0.0.1", "--port", port), f"cannot listen on 127.0.0.1:{port}")


@pytest.mark.row("D6")
def test_D6_an_address_for_metrics_that_is_in_use_is_told_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file = tmp_path / "agent_config.yaml"
        file.write_text(f"websocket: {{metrics: {{listen: '{address}'}}}}")
        result = run("serve", "--no-auth", "--host", "127.0.0.1", "--port", "0", "--config", str(file))
        refused(result, f"metrics.listen: cannot listen on {address}: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.row("D6")
def test_D6_allow_public_and_allow_weak_secret_are_the_flags_for_it() -> None:
    with serve("--no-auth", "--allow-public", "--host", "0.0.0.0") as server:
        assert server.url.startswith("ws://0.0.0.0:")
    with serve("--allow-weak-secret", env={"WEBSOCKET_SECRET_KEY": "weak"}) as server:
        assert server.url.startswith("ws://127.0.0.1:")


# ── token, check, demo ───────────────────────────────────────────────────────────────────────────────────────────────


def test_token_prints_the_token_alone() -> None:
    env = {"WEBSOCKET_SECRET_KEY": SECRET}
    result = run("token", "ana", "--expires-in", "60", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", result.stdout)
    with serve(env=env) as server:
        talk = run("chat", server.url, "--message", "hola", "--token", result.stdout.strip())
        assert (talk.returncode, talk.stdout) == (0, "hola\n")


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["ana"], {}, "jwt_secret"),
        ([], {"WEBSOCKET_SECRET_KEY": SECRET}, "USER"),
        (["ana", "--expires-in", "0"], {"WEBSOCKET_SECRET_KEY": SECRET}, "a token lives 1 to 86400 seconds"),
        (["ana", "--expires-in", "soon"], {"WEBSOCKET_SECRET_KEY": SECRET}, "soon"),
        ([""], {"WEBSOCKET_SECRET_KEY": SECRET}, "a user or token id has"),
    ],
)
def test_token_refuses_with_a_clear_line(arguments: list[str], env: dict[str, str], said: str) -> None:
    refused(run("token", *arguments, env=env), said)


def test_check_prints_every_setting_and_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "agent_config.yaml").write_text("websocket:\n  server:\n    port: 9000\n")
    result = run("check", "agent_config.yaml", env={"WEBSOCKET_SECRET_KEY": SECRET, "WEBSOCKET_HOST": "::1"})
    assert (result.returncode, result.stderr) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
    assert rows["server.port"] == ["9000", "agent_config.yaml:3"]
    assert rows["server.host"] == ["::1", "environment WEBSOCKET_HOST"]
    assert rows["server.timeout"] == ["30", "default"]
    assert SECRET not in result.stdout


def test_check_shows_what_a_role_may_send(tmp_path: Path) -> None:
    text = (
        f"security: {{authentication: {{jwt_secret: {SECRET}}}, authorization: {{events: {{cancel: [admin, user]}}}}}}"
    )
    (tmp_path / "roles.yaml").write_text(text)
    result = run("check", "roles.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(
        r"^security\.authorization\.events +cancel: admin, user +roles\.yaml:1$", result.stdout, re.MULTILINE
    )


KEY_FILES = [
    ("jwks: no.json", "security.authentication.jwks: no.json cannot be read: No such file or directory"),
    ("jwks: keys.json", "security.authentication.jwks: it is no key set"),
    (
        "{algorithm: RS256, public_key_file: no.pem}",
        "public_key_file: no.pem cannot be read: No such file or directory",
    ),
    (
        "{algorithm: RS256, public_key_file: keys.json}",
        "public_key_file: the key for RS256 is not one, or one of another",
    ),
    ("{algorithm: RS256}", "there is no secret"),
]


@pytest.mark.row("D6")
@pytest.mark.parametrize(("keys", "said"), KEY_FILES)
def test_a_key_file_that_cannot_be_used_is_one_clear_line(keys: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    keys = keys if keys.startswith("{") else f"{{{keys}}}"
    (tmp_path / "keys.yaml").write_text(f"security: {{authentication: {keys}}}")
    served = run("serve", "--config", "keys.yaml", "--host", "127.0.0.1", "--port", "0")
    refused(served, said)
    checked = run("check", "keys.yaml")
    assert checked.returncode == 1
    assert said in checked.stderr
    assert len(served.stderr.splitlines()) == len(checked.stderr.splitlines()) == 1


def test_token_signs_with_a_private_key_or_says_who_does(tmp_path: Path) -> None:
    key = pair("RS256", None)
    (tmp_path / "public.pem").write_bytes(key.public_pem)
    (tmp_path / "private.pem").write_bytes(key.private_pem)
    both = "algorithm: RS256, public_key_file: public.pem"
    (tmp_path / "own.yaml").write_text(f"security: {{authentication: {{{both}, private_key_file: private.pem}}}}")
    (tmp_path / "theirs.yaml").write_text(f"security: {{authentication: {{{both}}}}}")
    result = run("token", "ana", "--config", "own.yaml")
    with serve("--config", "theirs.yaml") as server:
        server.logged("keys_loaded")
        headers = {"Authorization": f"Bearer {result.stdout.strip()}"}
        with connect(server.url, additional_headers=headers) as client:
            assert json.loads(client.recv())["data"]["user_id"] == "ana"
    refused(run("token", "ana", "--config", "theirs.yaml"), "nothing to sign a token with", "private_key_file")


@pytest.mark.row("D6")
def test_check_warns_of_what_serve_does_all_the_same_and_serve_logs_it(tmp_path: Path) -> None:
    (tmp_path / "chatty.yaml").write_text(
        "websocket: {server: {max_connections: 10000000}, logging: {log_messages: true}, store: {retry: 2}}\n"
    )
    env = {"WEBSOCKET_SECRET_KEY": SECRET}
    checked = run("check", "chatty.yaml", env=env)
    assert checked.returncode == 0
    assert len(checked.stdout.splitlines()) > 100
    with serve("--config", "chatty.yaml", env=env) as server:
        for line, setting in zip(
            checked.stderr.splitlines(), ["logging.log_messages", "store.retry", "server.max_connections"], strict=True
        ):
            assert line.startswith(f"qaws: warning: {setting}: ")
            said = server.before(f"setting_warning setting={setting} reason=")
            assert " WARNING " in said


def test_what_a_flag_overrides_is_not_unread(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text("websocket: {server: {host: 192.0.2.1, port: 1}}\n")
    with serve("--no-auth", "--config", "both.yaml", "--port", "0") as server:
        assert server.url.startswith("ws://127.0.0.1:")
    (tmp_path / "unix.yaml").write_text("websocket: {server: {listen: ['unix:qaws.sock'], unix_mode: 660}}\n")
    with serve("--no-auth", "--config", "unix.yaml", "--port", "0") as server:
        assert server.url.startswith("ws://127.0.0.1:")


def test_check_names_what_is_wrong_and_the_nearest_key(tmp_path: Path) -> None:
    (tmp_path / "agent_config.yaml").write_text("websocket:\n  server:\n    prot: 9000\n    timeout: soon\n")
    result = run("check", "agent_config.yaml")
    refused(result, "`server.prot`; did you mean `server.port`? (agent_config.yaml:3)", "agent_config.yaml:4")
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("security: {authorization: {events: {chat_mesage: [user]}}}", "there is no event 'chat_mesage'"),
        ("tracing: {enabled: true}", "tracing.enabled: OpenTelemetry is not installed"),
    ],
)
def test_check_says_why_serve_would_refuse(tmp_path: Path, section: str, complaint: str) -> None:
    (tmp_path / "odd.yaml").write_text(f"websocket:\n  {section}\n")
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError(name='opentelemetry')\n")
    env = {"WEBSOCKET_SECRET_KEY": SECRET, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    refused(run("serve", "--config", "odd.yaml", "--port", "0", env=env), complaint)
    checked = run("check", "odd.yaml", env=env)
    assert checked.returncode == 1
    assert complaint in checked.stderr.splitlines()[-1]


def test_demo_shows_both_sides_of_a_conversation() -> None:
    result = run("demo")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for question in ("¿Cómo estás?", "¿Cuál es la capital de España?"):
        assert lines.index(f"agent   {question}") == lines.index(f"client  {question}") + 1


def test_without_a_command_help_is_shown() -> None:
    result = run()
    assert result.returncode == 0
    for command in ("serve", "token", "chat", "demo", "check"):
        assert command in result.stdout


def test_the_version_is_told() -> None:
    core = " (core compiled)" if COMPILED else ""
    assert re.fullmatch(r"\d+\.\d+\.\d+" + re.escape(core) + r"\n", run("--version").stdout)


# ── chat ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that lets everybody in."""
    with serve("--no-auth") as server:
        yield server.url


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
def test_a_piped_conversation_answers_each_line(gateway: str, flags: list[str]) -> None:
    result = run("chat", gateway, *flags, stdin="uno dos\n\n¿tres?\ncuatro")
    assert (result.returncode, result.stdout, result.stderr) == (0, "uno dos\n¿tres?\ncuatro\n", "")


def test_a_conversation_is_read_from_a_file_too(gateway: str, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes(b"uno\r\ndos \xff\n")
    with (tmp_path / "lines.txt").open() as lines:
        result = subprocess.run(
            [*QAWS, "chat", gateway], stdin=lines, capture_output=True, timeout=PATIENCE, check=True
        )
    assert result.stdout.decode() == "uno\ndos \N{REPLACEMENT CHARACTER}\n"


def test_a_message_that_cannot_be_sent_does_not_end_the_conversation(gateway: str) -> None:
    result = run("chat", gateway, stdin="x" * 10_001 + "\nhola\n")
    assert (result.returncode, result.stdout) == (0, "hola\n")
    assert result.stderr.startswith("qaws: a message has 1 to 10000 characters")
    refused(run("chat", gateway, "--message", ""), "a message has 1 to 10000 characters")


def test_two_talk_in_one_session_without_taking_each_others_ids(gateway: str) -> None:
    for message in ("one", "two"):
        assert run("chat", gateway, "--session", "shared", "--message", message).stdout == f"{message}\n"


def test_an_interrupt_ends_a_conversation_that_waits_for_input(gateway: str) -> None:
    with subprocess.Popen(
        [*QAWS, "chat", gateway], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("hola\n")
        process.stdin.flush()
        assert process.stdout.readline() == "hola\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_an_interrupt_stops_an_answer() -> None:
    with (
        serve("--no-auth", "--agent", "my_agents:slow") as server,
        subprocess.Popen([*QAWS, "chat", server.url, "--message", "?"], stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.read(5) == "first"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "  [cancelled]\n"
        assert process.wait(PATIENCE) == 1


def test_an_answer_cannot_move_the_cursor() -> None:
    with serve("--no-auth", "--agent", "my_agents:hostile") as server:
        assert run("chat", server.url, "--message", "?").stdout == "\ufffd[2Jred\ufffd\n"


def test_chat_refuses_with_a_clear_line(gateway: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    port = gateway.rpartition(":")[2].strip("/")
    for arguments, said in [
        (
            [f"ws://127.0.0.1:{closed}/", "--message", "?"],
            f"the server cannot be reached: 127.0.0.1:{closed}: Connection refused",
        ),
        (["ws://127.0.0.1:0/", "--message", "?"], "the server cannot be reached: 127.0.0.1:0: "),
        ([gateway + "elsewhere", "--message", "?"], "the server did not accept the connection: 404"),
        (["http://localhost/", "--message", "?"], "is no WebSocket address"),
        (["ws://localhost:99999/", "--message", "?"], "is no address"),
        ([f"ws://127.0.0.1:{port}/ñ", "--message", "?"], "is no usable address"),
        ([], "URL"),
    ]:
        refused(run("chat", *arguments), said)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["check", "token", "chat", "demo"])
def test_a_reader_that_has_seen_enough_is_no_error(command: str, unbuffered: str, gateway: str) -> None:
    arguments = {"token": ["token", "ana"], "chat": ["chat", gateway, "--message", "hola"]}.get(command, [command])
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as stdout:
        result = subprocess.run(
            [*QAWS, *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "WEBSOCKET_SECRET_KEY": SECRET, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.row("A9")
def test_chat_tells_that_a_token_is_missing_or_wrong() -> None:
    with serve(env={"WEBSOCKET_SECRET_KEY": SECRET}) as server:
        refused(run("chat", server.url, "--message", "?"), "the server asks for a token")
        refused(
            run("chat", server.url, "--message", "?", "--token", "wrong"),
            "the server refused the token",
            "(AUTH_FAILED)",
        )


def test_chat_tells_that_the_server_went_away() -> None:
    with (
        serve("--no-auth", "--agent", "my_agents:slow") as server,
        chatting(server.url, "--message", "?", "--no-reconnect") as process,
    ):
        assert read(process, "first ") == "first "
        server.process.kill()
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b"qaws: the connection was lost (LOST)\n"


# ── chat that goes on ────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def chatting(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `qaws chat` whose lines are piped."""
    with subprocess.Popen(
        [*QAWS, "chat", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())


def read(process: subprocess.Popen[bytes], end: str) -> str:
    """What it prints, up to these words."""
    assert process.stdout is not None
    data = b""
    while not data.endswith(end.encode()):
        data += (byte := process.stdout.read(1))
        assert byte, f"ended behind {data!r}"
    return data.decode()


def test_a_chat_goes_on_when_the_server_is_started_again() -> None:
    with serve("--no-auth") as first, chatting(first.url) as process:
        say(process, "uno")
        assert read(process, "\n") == "uno\n"
        first.process.kill()
        assert process.stderr is not None
        assert process.stderr.readline() == b"[reconnecting]\n"
        first.process.wait()
        say(process, "dos")
        with serve("--no-auth", "--port", first.url.rpartition(":")[2].strip("/")):
            assert read(process, "\n") == "dos\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130


@pytest.mark.row("G8")
def test_two_terminals_of_a_session_show_the_same_words() -> None:
    with (
        serve("--no-auth") as server,
        chatting(server.url, "--session", "shared") as ana,  # which is not there yet
        chatting(server.url, "--session", "shared") as eva,
    ):
        say(ana, "uno")
        assert read(ana, "\n") == "uno\n"
        assert read(eva, "uno\nuno\n") == "you › uno\nuno\n"
        say(eva, "dos")
        assert read(eva, "\n") == "dos\n"
        assert read(ana, "dos\ndos\n") == "you › dos\ndos\n"
        with chatting(server.url, "--session", "shared") as late:
            assert read(late, "dos\ndos\n") == "you › uno\nuno\nyou › dos\ndos\n"


@pytest.mark.row("G8")
def test_the_end_of_one_terminal_is_not_that_of_the_answer(tmp_path: Path) -> None:
    with (
        serve("--no-auth", "--agent", "my_agents:slow") as server,
        chatting(server.url, "--session", "shared") as ana,
    ):
        say(ana, "uno")
        assert read(ana, "first ") == "first "
        with chatting(server.url, "--session", "shared") as eva:
            assert read(eva, "first ") == "you › uno\nfirst "
            ana.kill()
            ana.wait()
            (tmp_path / "release").touch()
            assert read(eva, "\n") == "second\n"


@pytest.mark.row("G8")
def test_an_interrupt_in_one_terminal_shows_in_both() -> None:
    with (
        serve("--no-auth", "--agent", "my_agents:slow") as server,
        chatting(server.url, "--session", "shared") as ana,
    ):
        say(ana, "uno")
        assert read(ana, "first ") == "first "
        with chatting(server.url, "--session", "shared") as eva:
            assert read(eva, "first ") == "you › uno\nfirst "
            ana.send_signal(signal.SIGINT)
            for process in (ana, eva):
                assert read(process, "\n") == " [cancelled]\n"


def test_what_others_say_stands_above_what_is_being_typed() -> None:
    with serve("--no-auth") as server:
        run("chat", server.url, "--session", "shared", "--message", "uno")
        terminal, other_end = os.openpty()
        with subprocess.Popen(
            [*QAWS, "chat", server.url, "--session", "shared"], stdin=other_end, stdout=other_end, stderr=other_end,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        ) as ana:  # fmt: skip
            os.close(other_end)
            try:
                screen = Terminal(terminal)
                screen.shows("you › uno\nuno\nyou ›")
                os.write(terminal, b"dos\r")
                screen.shows("you › uno\nuno\nyou › dos\ndos\nyou ›")
                os.write(terminal, b"half a wo")
                screen.shows("dos\nyou › half a wo")
                run("chat", server.url, "--session", "shared", "--message", "tres")
                screen.shows("dos\nyou › tres\ntres\nyou › half a wo")
                os.write(terminal, b"\x15\x04")  # nothing typed, and the end
                assert ana.wait(PATIENCE) == 0
            finally:
                ana.kill()
                os.close(terminal)


class Terminal:
    """What stands on the screen of a terminal, of what programs do to it: enough for lines, and a prompt below them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._unread = ""  # of a sequence whose end is still to come
        self._lines = [""]
        self._row = self._column = 0

    def shows(self, expected: str) -> None:
        """Read until the screen ends like this."""
        while not self.text.endswith(expected):
            ready, _, _ = select.select([self._descriptor], [], [], PATIENCE)
            assert ready, f"{expected!r} is not shown, but {self.text!r}"
            self._receive(self._unread + self._decoder.decode(os.read(self._descriptor, 4096)))

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._lines)

    def _receive(self, text: str) -> None:
        for count, final, char in re.findall(r"\x1b\[\??([0-9;]*)([A-Za-z])|(\x1b[=>]|[^\x1b])", text):
            self._move(int(count or 1), final) if final else self._write(char)
        self._unread = text[text.rfind("\x1b") :] if re.search(r"\x1b(\[[?0-9;]*)?$", text) else ""

    def _move(self, count: int, final: str) -> None:
        if final in "CD":
            self._column = max(0, self._column + (count if final == "C" else -count))
        elif final in "AB":
            self._row = max(0, self._row + (count if final == "B" else -count))
        elif final in "JK":
            self._lines[self._row] = self._lines[self._row][: self._column]
            if final == "J":
                del self._lines[self._row + 1 :]

    def _write(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._row += 1
            self._lines += [""] * (self._row + 1 - len(self._lines))
        elif char == "\b":
            self._column -= 1
        elif len(char) == 1:
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
            self._column += 1


@pytest.mark.parametrize("command", [("fuzz",), ("simulate",), ("serve", "--no-auth", "--record", "records")])
def test_what_judges_by_assertions_needs_them(command: tuple[str, ...], tmp_path: Path) -> None:
    line = [sys.executable, "-O", "-m", "qaws", *command]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "qaws: qaws_proto.testing judges by assertions: run Python without -O\n"
