"""Nothing secret leaves where it was put: canaries in all that is secret, looked for in all that comes out (C12)."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.streams.tls
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from qaws import EventContext, EventType, WebSocketAuth, WebSocketConfig
from qaws.telemetry import JsonFormatter, NoteLogger, TextFormatter
from qaws_proto.admission.gate import Applicant, Gate, Refusal
from qaws_proto.config import LoggingConfig
from qaws_proto.effects import Effect, Note
from qaws_proto.events import ClientEvent
from qaws_proto.inputs import (
    BytesReceived,
    Input,
    LoadFailed,
    MessageReceived,
    RunChunk,
    RunFailed,
    RunFinished,
    SaveFailed,
)
from qaws_proto.wire.client import Accepted, Rejected

from .byte_servers import Client, rest, until
from .certificates import Authority
from .hosts import EVERY, Adapter, Node, serving
from .peers import Recorded, open_config
from .spans import Spans, recorded

pytestmark = [pytest.mark.anyio, pytest.mark.clause("C12")]

SHORTEST = 12  # characters of a canary that are a leak
OF_HOSTS = ("uvicorn", "websockets", "asyncio")  # loggers that are not ours; at DEBUG they show what is sent


@pytest.fixture(params=["asyncio-asyncio", "anyio-trio", "asgi-uvicorn-sansio"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return EVERY[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


class Canaries:
    """Texts that stand for secrets, each with its kind; what is `said` may go over the wire and into the store."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}  # by piece
        self._said: set[str] = set()

    def new(self, kind: str, *, said: bool = False) -> str:
        """A canary that was nowhere before."""
        return self.add(kind, secrets.token_urlsafe(48).replace("-", "a").replace("_", "b"), said=said)

    def add(self, kind: str, text: str, *, said: bool = False) -> str:
        """Something that is secret already."""
        for at in range(len(text) - SHORTEST + 1):
            self._kinds[text[at : at + SHORTEST]] = kind
        self._said |= {kind} if said else set()
        return text

    def found_in(self, *places: object, said: bool = True) -> set[str]:
        """The kinds of which a part stands in any of the places; what is said, where `said` is."""
        found = set()
        for place in places:
            text = place.decode("latin-1") if isinstance(place, bytes) else str(place)
            pieces = (text[at : at + SHORTEST] for at in range(len(text) - SHORTEST + 1))
            found |= {self._kinds[piece] for piece in pieces if piece in self._kinds}
        return found if said else found - self._said


class Tapped(anyio.abc.ByteStream):
    """A stream that keeps what came."""

    def __init__(self, stream: anyio.abc.ByteStream, kept: bytearray) -> None:
        self._stream = stream
        self._kept = kept

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self._kept += data
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Watched(Recorded):
    """A manager that keeps what it performed, too."""

    def __init__(self, config: WebSocketConfig, **ports: Any) -> None:
        super().__init__(config, **ports)
        self.effects: list[Effect] = []
        self._perform = {effect: self._kept(perform) for effect, perform in self._perform.items()}

    def _kept(self, perform: Callable[[Any], None]) -> Callable[[Any], None]:
        def keep(effect: Effect) -> None:
            self.effects.append(effect)
            perform(effect)

        return keep


class Poke(ClientEvent):
    """An event of a user."""

    type: Literal["poke"]
    key: str = Field(repr=False)


class World:
    """A node with canaries in it, and everything that came out of it."""

    def __init__(self, adapter: Adapter, folder: Path, caplog: pytest.LogCaptureFixture, spans: Spans) -> None:
        self.canaries = canaries = Canaries()
        self.adapter = adapter
        self.heard = bytearray()
        self.log = caplog
        self.spans = spans
        self.folder = folder
        self.authority = Authority("tests") if adapter.bytewise else None
        self.secret = canaries.new("jwt_secret")
        self.asked, self.answered = canaries.new("content", said=True), canaries.new("answer", said=True)
        authentication = {"enabled": True, "jwt_secret": self.secret}
        sections: dict[str, Any] = {
            "security": {"authentication": authentication},
            "store": {"kind": "sqlite", "path": str(folder / "qaws.db")},
            "logging": {"level": "DEBUG"},
            "tracing": {"enabled": True},
        }
        if self.authority is not None:
            issued = self.authority.issue(folder)
            sections["security"]["ssl"] = issued.section()
            for line in issued.key_file.read_text().splitlines()[1:-1]:
                canaries.add("tls_key", line)
        self.metrics = b""  # what `/metrics` answered
        self.metrics_token = canaries.new("metrics_token")
        if "metrics" in WebSocketConfig.model_fields:
            sections["metrics"] = {"token": self.metrics_token}
        self.config = open_config(**sections)
        self.manager = Watched(
            self.config,
            agent=self._agent,
            events=[EventType(Poke, self._poke)],
            upgrade_checks=[self._check],
        )
        self.auth = WebSocketAuth(self.config)

    async def _agent(self, message: str) -> object:
        what, _, text = message.partition(" ")
        if what == "raise":
            self._raise()
        if what == "refused":
            return {"key": self.canaries.new("agent_reply")}
        if what == "leak":
            logging.getLogger("qaws.theirs").warning("asked %s", {"text": text})
        if what == "wait":
            await anyio.sleep_forever()
        return self.answered

    def _raise(self) -> None:
        try:
            try:
                raise KeyError(self.canaries.new("agent_context"))
            except KeyError:
                raise OSError(self.canaries.new("agent_cause"))  # noqa: B904
        except OSError as cause:
            error = ExceptionGroup(self.canaries.new("agent_group"), [ValueError(self.canaries.new("agent_error"))])
            error.add_note(self.canaries.new("agent_note"))
            error.__dict__["key"] = self.canaries.new("agent_attribute")
            raise error from cause

    def _poke(self, context: EventContext, event: Poke) -> None:
        raise ValueError(self.canaries.new("handler"), event.key)

    def _check(self, gate: Gate, applicant: Applicant) -> Refusal | None:
        if applicant.request.value("x-check") is not None:
            raise ValueError(self.canaries.new("check"), applicant.request.value("authorization"))
        return None

    def token(self, kind: str, user: str = "ana") -> str:
        """A token that is good."""
        return self.canaries.add(kind, self.auth.generate_token(user, claims=self.canaries.new("claim")))

    @asynccontextmanager
    async def dial(self, node: Node) -> AsyncIterator[Client]:
        """A client that has said nothing yet."""
        stream: anyio.abc.ByteStream = await anyio.connect_tcp("127.0.0.1", node.port)
        if self.authority is not None:
            context: ssl.SSLContext = self.authority.trusting()
            stream = await anyio.streams.tls.TLSStream.wrap(
                stream, hostname="localhost", ssl_context=context, standard_compatible=False
            )
        async with aclosing(stream):
            yield Client(Tapped(stream, self.heard))

    # ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def lines(self) -> list[str]:
        """Every record of the log, in every form in which it could be written."""
        found = []
        for record in self.log.get_records("call"):
            if record.name.partition(".")[0] not in OF_HOSTS:
                forms = (JsonFormatter(), TextFormatter(), logging.Formatter())
                found += [*(form.format(record) for form in forms), repr(record.__dict__), str(record.args)]
        return found

    def leaks(self) -> dict[str, set[str]]:
        """The kinds of canaries in each place where they are not to be."""
        manager, said = self.manager, self.canaries.found_in
        reprs = [
            *manager.inputs,
            *manager.effects,
            manager,
            manager.gateway,
            manager._log,
            *manager._transports.values(),
        ]
        held = [self.config, self.config.security, self.auth, vars(self.auth), *manager.gateway._connections.values()]
        files = [file.read_bytes() for file in self.folder.iterdir() if file.name.startswith("qaws.db")]
        assert len(files) >= 1
        assert self.heard
        assert len(self.lines) > 50
        found = {
            "wire": said(bytes(self.heard), said=False),
            "metrics": said(self.metrics),
            "store": said(*files, said=False),
            "log": said(*self.lines),
            "repr": said(*map(repr, [*reprs, *held]), said=False),
            "str": said(*map(str, [*reprs, *held]), said=False),
            "spans": said(*(span.to_json() for span in self.spans.ended)),
        }
        return {place: kinds for place, kinds in found.items() if kinds}


async def be_refused(world: World, node: Node) -> None:
    """Come with secrets and be turned away."""
    wrong = f"{world.auth.generate_token('eve')[:-20]}{world.canaries.new('wrong_token')}"
    refused: list[tuple[int, tuple[str, ...], dict[str, str]]] = [
        (401, (), {"Authorization": f"Bearer {wrong}"}),
        (401, ("qaws.v1", f"qaws.bearer.{wrong}"), {}),
        (
            403,
            (),
            {"Authorization": f"Bearer {world.token('token')}", "Origin": f"https://{world.canaries.new('origin')}"},
        ),
        (500, (), {"Authorization": f"Bearer {world.token('token')}", "X-Check": "1"}),
    ]
    for status, subprotocols, headers in refused:
        async with world.dial(node) as client:
            verdict = await client.upgrade(subprotocols, **headers)
            assert isinstance(verdict, Rejected)
            assert verdict.status == status, verdict
    async with world.dial(node) as client:
        query = f"GET /?token={world.token('token')} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        key = "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        await client.stream.send(f"{query}{key}".encode())
        assert (await client.stream.receive()).startswith(b"HTTP/1.1 400 ")
    for event in (
        {"type": "auth", "token": wrong},
        {"type": "chat_message", "content": world.canaries.new("too_early")},
    ):
        async with world.dial(node) as client:
            assert isinstance(await client.upgrade(), Accepted)
            await client.tell(**event)
            await client.hear(type="error")
            await client.ended()


async def converse(world: World, node: Node) -> None:
    """Log in in every way, ask, and let everything fail that can."""
    async with world.dial(node) as client:
        assert isinstance(await client.upgrade(Authorization=f"Bearer {world.token('token')}"), Accepted)
        await client.say("hush", id="m0", session_id="tabs")
        await client.hear(type="agent_response")
    async with world.dial(node) as client:
        assert isinstance(await client.upgrade(("qaws.v1", f"qaws.bearer.{world.token('token')}")), Accepted)
        await client.hear(event_name="connection_established")
    async with world.dial(node) as client:
        assert isinstance(await client.upgrade(), Accepted)
        await client.tell(type="auth", token=world.token("token"))
        await client.hear(event_name="connection_established")
        await client.tell(type="auth", token=world.token("token"))
        await client.hear(event_name="token_refreshed")
        await client.say(f"answer {world.asked}", id="m1", stream=True, metadata={"key": world.asked})
        assert (await client.hear(type="agent_response"))["content"] == world.answered
        for message in ("raise", "refused"):
            await client.say(message)
            await client.hear(type="error", error_code="AGENT_ERROR")
        await client.say(f"wait {world.asked}", id="m2")
        await client.tell(type="cancel", correlation_id="m2")
        await client.hear(type="agent_response", status="cancelled")
        await client.tell(type="poke", key=world.canaries.new("own_event"))
        await client.hear(type="error", error_code="INTERNAL")
        await client.send(world.canaries.new("no_json"))
        await client.hear(type="error", error_code="INVALID_JSON")
        unknown = world.canaries.new("unknown_field", said=True)  # it is named to who sent it
        await client.tell(**{"type": "ping", unknown: world.canaries.new("unknown_value")})
        await client.hear(type="error", error_code="INVALID_EVENT")
        await client.tell(type=world.canaries.new("unknown_type"))
        await client.hear(type="error", error_code="UNKNOWN_EVENT")
        await client.tell(type="auth", token=world.token("token", "somebody else"))
        await client.hear(type="error", error_code="AUTH_FAILED")
        assert await client.ended() in (4401, None)
    async with world.dial(node) as client:
        head = (
            f"Host: localhost\r\nX: {world.canaries.new('header')}\r\nAuthorization: Bearer {world.metrics_token}\r\n"
        )
        await client.stream.send(f"GET /metrics HTTP/1.1\r\n{head}\r\n".encode())
        world.metrics = await rest(client.stream)
        assert world.metrics.startswith(b"HTTP/1.1 ")


@pytest.fixture
def world(adapter: Adapter, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    caplog.set_level(logging.DEBUG)
    with recorded() as spans:
        yield World(adapter, tmp_path, caplog, spans)


async def test_nothing_secret_is_in_anything_that_comes_out(world: World) -> None:
    async with serving(world.adapter, manager=world.manager) as node:
        await be_refused(world, node)
        await converse(world, node)
        assert world.leaks() == {}
    assert world.leaks() == {}


async def test_a_leak_would_be_found_in_each_place(world: World, tmp_path: Path) -> None:
    planted = world.canaries.new("planted")
    async with serving(world.adapter, manager=world.manager) as node:
        await be_refused(world, node)
        await converse(world, node)
        async with world.dial(node) as client:
            await client.upgrade(Authorization=f"Bearer {world.token('token')}")
            await client.say(f"leak {planted}")  # it is logged, and kept as any message
            await client.hear(type="agent_response")
            await until(lambda: world.leaks().get("log") == {"planted"})
    assert world.leaks()["store"] == {"planted"}
    assert world.leaks()["repr"] == {"planted"}  # of StartRun
    assert "wire" not in world.leaks()
    world.heard.extend(planted[20:40].encode())
    assert world.leaks()["wire"] == {"planted"}
    world.metrics += world.asked.encode()
    assert world.leaks()["metrics"] == {"content"}


# ── wherever it is cut ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 63), st.integers(0, 700), st.text("ab \n", max_size=10))
def test_any_part_of_a_canary_that_is_long_enough_is_found(at: int, before: int, noise: str) -> None:
    canaries = Canaries()
    canary = canaries.new("planted")
    piece = canary[at : at + SHORTEST]
    found = canaries.found_in(f"{'x' * before}{noise}{piece}{noise}")
    assert found == ({"planted"} if len(piece) == SHORTEST else set())


@given(st.integers(0, 700), st.integers(1, 64), st.booleans())
def test_what_was_raised_is_in_no_line_wherever_it_would_be_cut(before: int, size: int, grouped: bool) -> None:
    canaries = Canaries()
    error: Exception = ValueError("x" * before + canaries.new("raised")[:size])
    if grouped:
        error = ExceptionGroup("x" * before + canaries.new("raised"), [error])
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment]
    logger = logging.getLogger("qaws.run")
    logger.addHandler(handler)
    logger.propagate = False
    note = Note("run", "ERROR", "run_ended", {"run_id": "r"}, error)
    try:
        NoteLogger(LoggingConfig()).write(note)
        NoteLogger(LoggingConfig(log_agent_errors=True)).write(note)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    silent, told = records
    for record, found in ((silent, False), (told, before + size <= 480 and size >= SHORTEST)):
        shown = [JsonFormatter().format(record), TextFormatter().format(record), repr(vars(record))]
        assert not found or all(canaries.found_in(one) for one in shown)
        assert record is told or not canaries.found_in(*shown)
    assert not canaries.found_in(repr(note), str(note))


def test_reprs_of_what_goes_in_show_no_bytes_and_no_text_of_exceptions() -> None:
    hush: list[Input | Effect] = [
        BytesReceived(1, b"hush"), MessageReceived(1, "hush"), MessageReceived(1, b"hush"),
        RunChunk("r", b"hush"), RunFinished("r", {"a": "hush"}), RunFinished("r", "a", ("b",)),
        RunFailed("r", ValueError("hush"), "busy", 1.5), SaveFailed(1, ValueError("hush")),
        LoadFailed("o", "s", ValueError("hush")), Note("run", "ERROR", "n", {"a": 1}, ValueError("hush")),
    ]  # fmt: skip
    assert [repr(one) for one in hush] == [
        "BytesReceived(connection=1, data=<4 bytes>)",
        "MessageReceived(connection=1, data=<str of 4>)",
        "MessageReceived(connection=1, data=<bytes of 4>)",
        "RunChunk('r', <bytes>)",
        "RunFinished('r', <dict>, (), ())",
        "RunFinished('r', 'a', ('b',), ())",
        "RunFailed('r', <ValueError>, 'busy', 1.5)",
        "SaveFailed(1, <ValueError>)",
        "LoadFailed('o', 's', <ValueError>)",
        "Note('run', 'ERROR', 'n', {'a': 1}, <ValueError>)",
    ]
