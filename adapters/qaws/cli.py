"""The command `qaws`: serve, token, chat, demo, check and more. Errors are lines on standard error and a status."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter

from qaws_proto import COMPILED
from qaws_proto.config import ConfigError, WebSocketConfig

from . import __version__
from .agents import AgentError, find_agent, load_agent
from .asyncio_server import WebSocketServer
from .auth import WebSocketAuth
from .client_errors import ClientError
from .manager import WebSocketManager
from .safety import require_safe, warnings
from .serving import AdapterName, Backend, UsageError, choose, serve_until_signal
from .settings import load
from .stores import check_store
from .tls import tls_context

USAGE_ERROR, FAILURE = 2, 1
DEV_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")

app = App(
    name="qaws",
    help="The gateway between people and an AI agent, over WebSocket.",
    version=f"{__version__} (core compiled)" if COMPILED else __version__,
    help_on_error=False,
)
app.command("qaws.fuzz_cli:fuzz", name="fuzz")
app.command("qaws.replay_cli:replay", name="replay")
app.command("qaws.sessions_cli:sessions", name="sessions", help="What a SQLite store holds of sessions.")
app.command("qaws.simulate_cli:simulation", name="simulate", help="Let many worlds go wrong, and see what holds.")

Result = TypeVar("Result")
Flag = partial(Parameter, negative=())


@app.command
def serve(
    *,
    config: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    listen: Annotated[list[str] | None, Parameter(negative=())] = None,
    agent: str = "echo",
    agent_url: str | None = None,
    agent_system: str | None = None,
    adapter: AdapterName | None = None,
    backend: Backend | None = None,
    no_auth: Annotated[bool, Flag()] = False,
    dev: Annotated[bool, Flag()] = False,
    allow_public: Annotated[bool, Flag()] = False,
    allow_weak_secret: Annotated[bool, Flag()] = False,
    record: Path | None = None,
) -> int:
    """Serve an agent until Ctrl-C or SIGTERM, then drain; a second signal stops at once. SIGHUP reloads TLS and keys.

    Parameters
    ----------
    config
        YAML file with a `websocket:` section (default: .env and the environment alone).
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one.
    listen
        Address to listen on instead, as often as wanted: host:port, [IPv6]:port, unix:/path, fd:number, systemd.
    agent
        `echo`, `openai:MODEL`, `module:attribute` (an object, a class or a factory), or `agno:module:attribute`.
    agent_url
        For `openai:MODEL`: the server, such as http://localhost:11434/v1 (default: OpenAI). Its key: OPENAI_API_KEY.
    agent_system
        For `openai:MODEL`: the system prompt.
    adapter
        The server: `asyncio`, the faster one, or `anyio`, which runs on trio too.
    backend
        The event loop (default: uvloop where it is installed). `trio` implies the adapter `anyio`.
    no_auth
        Let everybody in without a token; refused on a public address without --allow-public.
    dev
        For development: a fresh secret, a token for the user `dev` printed, pages of localhost let in.
    allow_public
        Allow authentication to be off where others can reach the node.
    allow_weak_secret
        Allow a secret shorter than 32 bytes.
    record
        Folder in which to write all that happens, without secrets, for `qaws replay`.
    """
    choice = choose(adapter, backend)
    if (agent_url is not None or agent_system is not None) and not agent.startswith("openai:"):
        raise UsageError("--agent-url and --agent-system go with --agent openai:MODEL")
    overrides = _addresses(host, port, listen)
    if no_auth:
        overrides["security.authentication.enabled"] = False
    if allow_public:
        overrides["security.authentication.allow_public"] = True
    if allow_weak_secret:
        overrides["security.authentication.allow_weak_secret"] = True
    if dev:
        overrides["security.authentication.jwt_secret"] = secrets.token_urlsafe(48)
        listed = load(config, overrides=overrides).config.security.cors.origins
        overrides["security.cors.origins"] = list(dict.fromkeys([*listed, *DEV_ORIGINS]))
    settings = load(config, overrides=overrides).config
    _require_usable(settings)  # before the agent is loaded, which may take its time
    from .telemetry import configure_logging

    configure_logging(settings.logging)
    found = find_agent(agent, url=agent_url, system=agent_system)
    server = choice.server(WebSocketManager.of(found, settings, record=record))
    if dev and settings.security.authentication.enabled:
        print(f"token for user dev: {WebSocketAuth(settings).generate_token('dev')}", flush=True)
    choice.run(serve_until_signal, server)
    return 0


def _addresses(host: str | None, port: int | None, listen: list[str] | None) -> dict[str, object]:
    """What the command line says about where to listen: it goes over the whole of what the file says."""
    if listen and (host is not None or port is not None):
        raise UsageError("--listen stands instead of --host and --port: give one or the other")
    overrides: dict[str, object] = {}
    if host is not None:
        overrides["server.host"] = host
    if port is not None:
        overrides["server.port"] = port
    if listen or overrides:
        overrides["server.listen"] = listen or []
    return overrides


@app.command
def token(user: str, /, *, config: Path | None = None, expires_in: int | None = None) -> int:
    """Print a token for a user.

    Parameters
    ----------
    user
        The user id, `sub` of the token.
    config
        YAML file with a `websocket:` section (default: .env and the environment alone).
    expires_in
        Seconds it lives (default: `token_expiry` of the configuration).
    """
    print(WebSocketAuth(load(config).config).generate_token(user, expires_in=expires_in))
    return 0


@app.command
def chat(
    url: str,
    /,
    *,
    token: str | None = None,
    message: str | None = None,
    session: str | None = None,
    no_stream: Annotated[bool, Flag()] = False,
    no_reconnect: Annotated[bool, Flag()] = False,
) -> int:
    """Talk to a gateway: one question with --message, else a conversation in the terminal.

    Parameters
    ----------
    url
        Where the gateway is, such as ws://localhost:8765/.
    token
        The token to log in with (default: QAWS_TOKEN of the environment).
    message
        Ask this, print the answer, end.
    session
        The session to talk in (default: a new one). A conversation begins with what was said in it, and shows what
        others say there.
    no_stream
        Print answers when they are whole.
    no_reconnect
        End where the connection breaks, instead of making it anew.
    """
    from .anyio_client import QAWebSocketClient
    from .terminal import announcing, converse, one_shot

    client = QAWebSocketClient(
        url,
        token=token or os.environ.get("QAWS_TOKEN"),
        session_id=session,
        history=message is None,
        reconnect=not no_reconnect,
        on_state=announcing(),
    )
    talk = (
        converse(client, stream=not no_stream) if message is None else one_shot(client, message, stream=not no_stream)
    )
    return _run(talk)


@app.command
def demo() -> int:
    """Start a server on a free port, log in over a real socket, ask two questions, print both sides."""
    return _run(_demo())


@app.command
def check(file: Path | None = None) -> int:
    """Print every setting in force and where its value comes from, and what to look at; or what is wrong.

    Warnings, and the reasons why `qaws serve` would refuse, are lines on standard error.

    Parameters
    ----------
    file
        YAML file with a `websocket:` section (default: .env and the environment alone).
    """
    settings = load(file)
    rows = settings.rows()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, source in rows:
        print(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}")
    for warning in warnings(settings.config):
        _complain(f"warning: {warning}")
    _require_usable(settings.config)
    check_store(settings.config)
    WebSocketManager(settings.config)  # what only shows where a node is made of them: keys, events, packages
    return 0


def _require_usable(config: WebSocketConfig) -> None:
    """Raise ConfigError where nothing would be served."""
    if not config.enabled:
        raise ConfigError("enabled: the gateway is turned off in the configuration (or by WEBSOCKET_ENABLED)")
    require_safe(config)
    tls_context(config.security.ssl)


def main(arguments: list[str] | None = None) -> None:
    """The entry point of the command; ends the process."""
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()  # where its reader has gone, it is told here and not when the interpreter ends
    except (CycloptsError, UsageError) as error:
        _complain(" ".join(str(error).split()))
        status = USAGE_ERROR
    except (ConfigError, AgentError, ClientError, ValueError) as error:
        for line in str(error).splitlines():
            _complain(line)
        status = FAILURE
    except ImportError as error:
        if __debug__:
            raise
        _complain(f"{error.__cause__ or error}")  # of the commands that judge by assertions
        status = FAILURE
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        _complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        status = FAILURE
    except (KeyboardInterrupt, asyncio.CancelledError):  # Ctrl-C
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _complain(text: str) -> None:
    from .terminal import plain

    print(plain(f"qaws: {text}"), file=sys.stderr)


def _run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run on the fastest event loop that is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    try:
        from uvloop import new_event_loop as factory
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def _demo() -> int:
    from .demo import demo_client

    config = WebSocketConfig.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": 0},
            "security": {"authentication": {"jwt_secret": secrets.token_urlsafe(48)}},
        }
    )
    async with WebSocketServer(load_agent("echo"), config) as server:
        print(f"server  listening on {server.url}")
        await demo_client(server.url, config=config)
    print("server  drained")
    return 0
