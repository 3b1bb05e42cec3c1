"""What README and docs say is run and compared: programs, command lines, settings, tables, links.

Fenced blocks say by the words behind `python` how they run:

- `python`: to its end, as a program;
- `python serve`: as a server, which says its address and maybe a token; one that begins with `# name.py` can be
  imported by the others of its page;
- `python client`: as a program beside the server above it, with that token in QAWS_TOKEN;
- `python agent`: defines `agent`, which is asked `Hello`;
- `python model`: the same, with a model behind http://localhost:11434/v1 that says what stands below.

A `text` block next below one of them is what it prints, or answers. The port 8765 is replaced by a free one, the token
`eyJ…` by a real one. `python -m tests.test_docs` writes the table of settings in docs/configuration.md anew.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple, get_args

import pytest
from click import UsageError
from cyclopts import CycloptsError
from granian.cli import cli as granian
from hypercorn.config import Config as HypercornConfig
from pydantic import BaseModel
from uvicorn.main import main as uvicorn
from websockets.asyncio.client import connect

import qaws
from qaws import WebSocketConfig, WebSocketServer, __version__
from qaws.cli import app
from qaws.settings import load
from qaws_proto.config import Section
from qaws_proto.effects import Effect
from qaws_proto.events import (
    Ack,
    Auth,
    Cancel,
    ChatMessage,
    ClientEvents,
    Ping,
    Refused,
    Resume,
    ServerEvents,
    parse_server_event,
)
from qaws_proto.faults import Fault
from qaws_proto.inputs import Input
from qaws_proto.safety import READ_WHERE, findings
from tests.foreign.test_foreign_clients import in_a_browser
from tests.helpers.model_server import model_server

ROOT = Path(__file__).parents[1]
SECRET = "a secret of more than thirty-two bytes"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
PATIENCE = 30  # seconds for a program to end
SETTING = re.compile(r"`(--[a-z0-9-]+ [a-z0-9]+|[a-z0-9_]+ = \d+)`")  # of an ASGI server
PORT, TOKEN, MODEL = "8765", "eyJ…", "http://localhost:11434/v1"


class Block(NamedTuple):
    """A fenced block. `after` is the block next below it on its page."""

    page: Path
    line: int
    info: str
    text: str
    after: Block | None

    @property
    def output(self) -> str | None:
        """What the page says that it prints."""
        return self.after.text if self.after is not None and self.after.info == "text" else None


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    matches = list(re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text := page.read_text("utf-8"), re.MULTILINE))
    for match in reversed(matches):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2], found[-1] if found else None))
    return found[::-1]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    prose = re.sub(r"^```.*\n(?:.*\n)*?```$", "", page.read_text("utf-8"), flags=re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def of_kind(info: str) -> list[Any]:
    found = [block for block in BLOCKS if block.info == info]
    assert found, f"no page has a block of {info!r}"
    return [pytest.param(block, id=f"{block.page.name}:{block.line}") for block in found]


def cells(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    below = read(page).partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table, f"{page} has no table below {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table[0].splitlines()[2:]]


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of the gateway."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WEBSOCKET_", "QAWS_"))}
    return {**kept, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", **variables}


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


class Server(NamedTuple):
    port: str
    token: str
    said: list[str]


@contextmanager
def running(command: list[str], port: str, cwd: Path) -> Iterator[Server]:
    """A server until it is told to end; from the line on that says where it listens."""
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(WEBSOCKET_PORT=port), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if "ws://" in line:
                break
        assert f"ws://localhost:{port}/" in (said or [""])[-1], "\n".join(said)
        token = re.search(r"eyJ[\w.-]+", "\n".join(said))
        yield Server(port, token[0] if token else "", said)
        process.terminate()
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, -SIGTERM), rest
        assert "Warning" not in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.communicate()


def run(command: list[str], cwd: Path, **variables: str) -> str:
    """What a program prints; it must end well and complain of nothing."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.mark.parametrize("block", of_kind("python"))
def test_programs_print_what_stands_below_them(block: Block, tmp_path: Path) -> None:
    assert block.output is not None, "a program has a text block below it"
    assert run(program(block.text), tmp_path) == block.output


@pytest.mark.parametrize("block", of_kind("python serve"))
def test_servers_serve_the_clients_below_them(block: Block, tmp_path: Path) -> None:
    port = free_port()
    assert PORT in block.text, "its port can be replaced"
    below = BLOCKS[BLOCKS.index(block) + 1 :]
    ends = (i for i, other in enumerate(below) if other.page != block.page or other.info == "python serve")
    clients = [other for other in below[: next(ends, None)] if other.info == "python client"]
    assert clients, "a server has a client below it"
    for other in BLOCKS:
        if other.page == block.page and (name := re.match(r"# (\w+\.py)\n", other.text)):
            (tmp_path / name[1]).write_text(other.text, "utf-8")
    with running(program(block.text.replace(PORT, port)), port, tmp_path) as server:
        for client in clients:
            printed = run(program(client.text.replace(PORT, port)), tmp_path, QAWS_TOKEN=server.token)
            assert printed.strip()
            assert client.output is None or printed == client.output


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("block", of_kind("python agent"))
def test_agents_answer_what_stands_below_them(block: Block, stream: bool, tmp_path: Path) -> None:
    assert_answers(block, block.text, stream, tmp_path)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("block", of_kind("python model"))
def test_agents_with_a_model_answer_what_it_says(block: Block, stream: bool, tmp_path: Path) -> None:
    assert block.output is not None
    with model_server(re.findall(r"\S+ ?", block.output)) as server:
        assert MODEL in block.text, "its model can be replaced"
        assert_answers(block, block.text.replace(MODEL, server.url), stream, tmp_path)
    gc.collect()  # a client of openai's that is forgotten closes itself in a task of whatever event loop runs then
    (request,) = server.requests
    assert request["messages"][-1] == {"role": "user", "content": "Hello"}


def assert_answers(block: Block, text: str, stream: bool, tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(text, "utf-8")
    agent = runpy.run_path(str(tmp_path / "my_agents.py"))["agent"]
    config = WebSocketConfig.model_validate(
        {"server": {"host": "127.0.0.1", "port": 0}, "security": {"authentication": {"enabled": False}}}
    )

    async def conversation() -> tuple[str, str]:
        async with WebSocketServer(agent, config) as server, connect(server.url) as client:
            await client.send(json.dumps({"type": "chat_message", "content": "Hello", "stream": stream}))
            streamed = ""
            async for text in client:
                event = json.loads(text)
                assert event["type"] != "error", event
                streamed += event["content"] if event["type"] == "agent_chunk" else ""
                if event["type"] == "agent_response":
                    assert event["status"] == "completed"
                    return event["content"], streamed
        raise AssertionError("no answer")

    answer, streamed = asyncio.run(conversation())
    assert block.output is not None
    assert answer.rstrip(" ") == block.output.rstrip("\n")
    assert streamed == (answer if stream else "")


@contextmanager
def served_as_shown(cwd: Path) -> Iterator[Server]:
    """The server that README starts, which says what README shows."""
    shown = next(block for block in blocks(ROOT / "README.md") if block.text.startswith("$ qaws serve"))
    command, *lines = shown.text.splitlines()
    port = free_port()
    with running(shell(command), port, cwd) as server:
        assert server.said == [real(line, server) for line in lines]
        yield server


def real(text: str, server: Server) -> str:
    return text.replace(PORT, server.port).replace(TOKEN, server.token)


def test_the_terminal_talks_to_the_server_of_the_readme(tmp_path: Path) -> None:
    shown = next(block for block in blocks(ROOT / "README.md") if block.text.startswith("$ qaws chat"))
    with served_as_shown(tmp_path) as server:
        assert run(shell(real(shown.text.strip(), server)), tmp_path) == "¿Cómo estás?\n"


@pytest.mark.parametrize("block", of_kind("js"))
def test_a_browser_talks_to_the_server_of_the_readme(block: Block, tmp_path: Path) -> None:
    page = (
        "script => new Promise(done => { const said = []; console.log = text => said.push(text);"
        " const ws = new Function(script + '; return ws')(); ws.onclose = () => done(said.join('')); })"
    )
    with served_as_shown(tmp_path) as server:
        heard = in_a_browser(f"http://localhost:{server.port}/healthz", page, real(block.text, server))
    assert heard == "¿Cómo estás?"


def shell(line: str) -> list[str]:
    """The `qaws` of a shown line, in this environment."""
    _, name, *arguments = shlex.split(line)
    assert name == "qaws"
    return [sys.executable, "-m", "qaws", *arguments]


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN = [
    line[2:] for block in BLOCKS if block.info == "console" for line in block.text.splitlines() if line[:2] == "$ "
]


def parses(line: str) -> bool:
    try:
        app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
    except CycloptsError:
        return False
    return True


def test_shown_commands_parse() -> None:
    shown = [line for line in SHOWN if line.startswith("qaws ")]
    assert len(shown) > 5
    assert not [line for line in shown if not parses(line)]
    assert not parses("qaws serve --prot 1")


def options() -> dict[str, set[str]]:
    """The options of each command, those of a group (`sessions list`) among them; a group itself has none."""
    known: dict[str, set[str]] = {}
    for name in [name for name in app if not name.startswith("-")]:
        known[name] = set()
        inner = [one for one in app[name] if not one.startswith("-")]
        for command, parsed in [(f"{name} {one}", app[name][one]) for one in inner] or [(name, app[name])]:
            known[command] = {option for argument in parsed.assemble_argument_collection() for option in argument.names}
    return known


def test_commands_and_options_named_in_the_text_exist() -> None:
    known = options()
    named = [span for page in PAGES for span in spans(page)]
    commands = [span.split() for span in named if re.match(r"qaws [a-z]", span)]
    flags = [span for span in named if re.fullmatch(r"--[a-z-]+", span)]
    assert len(commands) >= 5
    assert len(flags) > 5
    for _, command, *arguments in commands:
        group = any(name.startswith(f"{command} ") for name in known)
        name = f"{command} {arguments[0]}" if group and arguments else command
        assert {one for one in arguments if one.startswith("--")} <= known[name]
    assert set(flags) <= set.union(*known.values())


def test_make_targets_exist() -> None:
    shown = [line.split()[1] for line in SHOWN if line.startswith("make ")]
    named = [span.split()[1] for page in PAGES for span in spans(page) if span.startswith("make ")]
    assert {"demo", "test"} <= set(shown)
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    assert {*shown, *named} <= set(targets)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MARKERS = ("<!-- settings: written by `python -m tests.test_docs` -->\n", "<!-- /settings -->")


def sections(model: type[Section] = WebSocketConfig, prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section by its dotted name, the outer before the inner."""
    yield prefix, model
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from sections(info.annotation, f"{prefix}.{name}".lstrip("."))


def settings_of(model: type[Section]) -> list[str]:
    inner = (info.annotation for info in model.model_fields.values())
    return [
        name
        for name, annotation in zip(model.model_fields, inner, strict=True)
        if not (isinstance(annotation, type) and issubclass(annotation, Section))
    ]


def settings_table() -> str:
    """The part of docs/configuration.md that is made of `WebSocketConfig`."""
    parts: list[str] = []
    for prefix, model in sections():
        if not settings_of(model):
            continue
        about = re.sub(r" \([^)]*\)", "", (model.__doc__ or "").strip())
        schema = model.model_json_schema(by_alias=False)["properties"]
        parts.append(f"### {prefix}\n\n{about}\n" if prefix else "### The section itself\n")
        parts.append("| setting | default | allowed | meaning |\n|---|---|---|---|")
        for name in settings_of(model):
            info = model.model_fields[name]
            meaning = re.sub(r" \([A-Z]\d+\)", "", info.description or "")
            assert meaning, f"{prefix}.{name} has no description"
            key = f"{prefix}.{name}".lstrip(".")
            parts.append(f"| `{key}` | {printed(info.default)} | {allowed(schema[name])} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def printed(default: object) -> str:
    if default is None:
        return "not set"
    if default in ([], {}):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def allowed(schema: dict[str, Any]) -> str:
    """What values a setting takes, of its JSON Schema."""
    if "anyOf" in schema:
        schema = next(one for one in schema["anyOf"] if one["type"] != "null")
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"boolean": "true, false", "string": "text", "array": "list", "object": "mapping"}.get(schema["type"])
    if kind is not None:
        return kind
    top = f"{schema['maximum']:,.10g}"
    return f"over {schema['exclusiveMinimum']:g}, to {top}" if "exclusiveMinimum" in schema else (
        f"{schema['minimum']:,.10g} to {top}"
    )  # fmt: skip


def write_settings() -> None:
    page = ROOT / "docs" / "configuration.md"
    before, _, rest = page.read_text("utf-8").partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    page.write_text(before + MARKERS[0] + settings_table() + MARKERS[1] + after, "utf-8")


def test_the_table_of_settings_is_that_of_the_code() -> None:
    shown = read("docs/configuration.md").partition(MARKERS[0])[2].partition(MARKERS[1])[0]
    assert shown == settings_table(), "python -m tests.test_docs writes it anew"
    assert len(re.findall(r"^\| `", shown, re.MULTILINE)) == sum(len(settings_of(model)) for _, model in sections())


def test_settings_named_in_the_text_exist() -> None:
    known = {f"{prefix}.{name}".lstrip(".") for prefix, model in sections() for name in settings_of(model)}
    known |= {prefix for prefix, _ in sections()}
    outer = "|".join(prefix for prefix, _ in sections() if prefix and "." not in prefix)
    named = [span for page in PAGES for span in spans(page) if re.fullmatch(rf"(?:{outer})\.[a-z_.]+", span)]
    assert len(named) > 50
    assert not set(named) - known


@pytest.mark.parametrize("block", of_kind("yaml"))
def test_shown_files_are_configurations(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "agent_config.yaml"
    file.write_text(block.text, "utf-8")
    secrets = {"WEBSOCKET_JWT_SECRET": SECRET, "METRICS_TOKEN": SECRET.replace(" ", "-")}
    settings = load(file, environ=secrets, dotenv=None)
    assert not [one for one in findings(settings.config) if one.refuses]
    ours = [source for source in settings.sources.values() if source.startswith(f"{file}:")]
    assert len(ours) > 1


def test_the_sample_of_the_settings_page_is_the_one_the_tests_serve() -> None:
    sample = next(block for block in blocks(ROOT / "docs" / "configuration.md") if block.info == "yaml")
    assert sample.text == read("tests/fixtures/agent_config.yaml")


def test_the_table_of_what_nothing_reads_is_that_of_the_code() -> None:
    rows = cells("docs/configuration.md", "### Settings that nothing reads")
    assert [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])] == [row.setting for row in READ_WHERE]


def test_variables_set_what_their_table_says() -> None:
    samples = {
        "WEBSOCKET_ENABLED": "false", "WEBSOCKET_HOST": "127.0.0.1", "WEBSOCKET_PORT": "9000",
        "WEBSOCKET_SECRET_KEY": SECRET, "WEBSOCKET_MAX_CONNECTIONS": "7",
    }  # fmt: skip
    table = {row[0].strip("`"): row[1].strip("`") for row in cells("docs/configuration.md", "## The environment")}
    assert set(table) == set(samples)
    settings = load(environ=samples, dotenv=None)
    from_environment = {key: source for key, source in settings.sources.items() if source != "default"}
    assert from_environment == {key: f"environment {name}" for name, key in table.items()}


# ── tables of the protocol and of the drive loop ─────────────────────────────────────────────────────────────────────

CLIENT_EVENTS = (Auth, ChatMessage, Cancel, Resume, Ack, Ping)


def type_of(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["type"].annotation)[0])


def test_shown_events_are_events() -> None:
    client = ClientEvents(CLIENT_EVENTS, depth=32)
    types = {type_of(model) for model in CLIENT_EVENTS}
    seen: set[str] = set()
    for block in blocks(ROOT / "docs" / "protocol.md"):
        if block.info != "json":
            continue
        for line in block.text.splitlines():
            kind = json.loads(line)["type"]
            seen.add(kind)
            if kind in types:
                assert not isinstance(client.parse(line), Refused), line
            else:
                event = parse_server_event(line)
                assert event.model_fields_set == set(json.loads(line))
    assert seen == {*types, *(type_of(model) for model in get_args(ServerEvents))}


def test_fields_of_client_events() -> None:
    shown = {
        row[0].strip("`"): {name.rstrip("?") for name in re.findall(r"`([a-z_]+\??)`", row[1])}
        for row in cells("docs/protocol.md", "## Client events")
    }
    assert shown == {type_of(model): set(model.model_fields) - {"type"} for model in CLIENT_EVENTS}


def test_error_codes() -> None:
    shown = [row[0].strip("`") for row in cells("docs/protocol.md", "## Error codes")]
    assert sorted(shown) == sorted({fault.value.code for fault in Fault if fault.value.code is not None})


def test_close_codes() -> None:
    shown = [row[0] for row in cells("docs/protocol.md", "## Close codes")]
    # Faults with a status as well are told before the upgrade, or (INTERNAL) by an error event.
    sent = {fault.value.close for fault in Fault if fault.value.close is not None and fault.value.status is None}
    assert shown == ["1000 and others", *map(str, sorted(sent))]


def test_statuses() -> None:
    shown = [row[0] for row in cells("docs/protocol.md", "## Before the upgrade")]
    assert shown == [str(status) for status in sorted({fault.value.status for fault in Fault if fault.value.status})]


def test_system_events() -> None:
    shown = {row[0].strip("`") for row in cells("docs/protocol.md", "### System events")}
    source = "".join(file.read_text("utf-8") for file in (ROOT / "qaws_proto").rglob("*.py"))
    assert shown == set(re.findall(r'(?:event_name=|_system\()"(\w+)"', source))


def leaves(union: object) -> set[Any]:
    return {leaf for one in get_args(union) for leaf in leaves(one)} or {union}


@pytest.mark.parametrize(
    ("head", "union"), [("input (`qaws_proto.inputs`)", Input), ("effect (`qaws_proto.effects`)", Effect)]
)
def test_inputs_and_effects_of_the_drive_loop(head: str, union: object) -> None:
    table = re.search(rf"^\| {re.escape(head)} \|.*\n(?:\|.*\n)+", read("docs/embedding.md"), re.MULTILINE)
    assert table
    shown = set(re.findall(r"`(\w+\([\w, ]*\))`", table[0]))
    assert shown == {f"{one.__name__}({', '.join(one._fields)})" for one in leaves(union)}


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_errors_of_the_client() -> None:
    shown = {error.strip("`") for error, *_ in cells("docs/client.md", "## Errors")}
    defined = {name for name in qaws.__all__ if is_a(getattr(qaws, name), qaws.ClientError)}
    assert shown == defined - {"ClientError"}


def test_verbs_of_the_client() -> None:
    shown = {name for call, *_ in cells("docs/client.md", "## Verbs") for name in re.findall(r"client\.(\w+)", call)}
    defined = {name for name, value in vars(qaws.QAWebSocketClient).items() if name[0] != "_" and callable(value)}
    assert shown == defined


def is_a(value: object, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


# ── links, paths, versions ───────────────────────────────────────────────────────────────────────────────────────────


def is_a_setting(host: str, setting: str) -> bool:
    """Whether an ASGI server takes a setting, as it is installed."""
    if host == "hypercorn":
        name, _, value = setting.partition(" = ")
        default = getattr(HypercornConfig, name, ...)
        return default is not ... and isinstance(int(value), int)
    command = {"uvicorn": uvicorn, "granian": granian}[host]
    try:
        command.make_context(host, ["module:app", *setting.split()])
    except UsageError:
        return False
    return True


def test_settings_of_asgi_servers_are_theirs() -> None:
    rows = cells("docs/guarantees.md", "## Under ASGI")
    assert {host for host, *_ in rows} == {"uvicorn", "hypercorn", "granian"}
    named = [(host, setting) for host, *cells in rows for cell in cells for setting in SETTING.findall(cell)]
    assert len(named) >= len(rows)
    assert not [setting for setting in named if not is_a_setting(*setting)]
    assert not is_a_setting("uvicorn", "--ws-max-sise 1")
    assert not is_a_setting("granian", "--http1-buffer-size 1")
    assert not is_a_setting("hypercorn", "websocket_max_size = 1")


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")) if not link.startswith("https://")]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT)
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert {page for page in PAGES if page.name != "README.md"} <= linked


def test_paths_exist() -> None:
    named = {
        span
        for page in PAGES
        for span in spans(page)
        if re.match(r"(qaws_proto|adapters|tests|docs|benchmarks)/", span)
    }
    assert len(named) >= 20
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_layout_names_every_module() -> None:
    roots = (ROOT / "qaws_proto", ROOT / "adapters" / "qaws")
    modules = {entry for root in roots for entry in root.iterdir() if entry.name[0] != "_"}
    there = {
        f"{entry.relative_to(ROOT).as_posix()}{'/' if entry.is_dir() else ''}"
        for entry in modules
        if entry.suffix == ".py" or (entry / "__init__.py").exists()
    }
    assert len(there) > 20
    assert there <= set(spans(ROOT / "docs" / "architecture.md"))


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == __version__


if __name__ == "__main__":
    write_settings()
