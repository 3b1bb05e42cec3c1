"""Connections and runs as spans, over real sockets; the agent's own are below its run, wherever it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from qaws import AgentStep, RunContext, WebSocketAuth
from qaws.agents.bridge import FrameworkAgent, Piece
from qaws.telemetry.traces import Traces
from qaws_proto.effects import Note, StartRun
from qaws_proto.trace_context import of_metadata

from .byte_servers import ADAPTERS, Adapter, connected, serving, tcp, until
from .spans import Spans, recorded

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than thirty-two bytes"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-01"
TRACING: dict[str, Any] = {"tracing": {"enabled": True}}
JOINED: dict[str, Any] = {"agent": {"roll_up": 10}}
CHILD = "of the agent"


@pytest.fixture(params=["asyncio-asyncio", "anyio-trio"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as found:
        yield found


def parent_of(span: ReadableSpan) -> str | None:
    """The parent as a `traceparent`."""
    parent = span.parent
    return None if parent is None else f"00-{parent.trace_id:032x}-{parent.span_id:016x}-{parent.trace_flags:02x}"


def work() -> None:
    """What an instrumented library does within an agent."""
    trace.get_tracer("library").start_span(CHILD).end()


async def weather(message: str) -> AsyncIterator[str | AgentStep]:
    work()
    yield AgentStep("tool_started", "sky")
    for piece in ("It ", "is ", "fine."):
        yield piece


async def test_a_connection_and_its_runs_are_spans(adapter: Adapter, spans: Spans) -> None:
    async with (
        serving(adapter, weather, **TRACING, **JOINED) as server,
        connected(await tcp(server), traceparent=PARENT, tracestate="vendor=1") as client,
    ):
        await client.say("hush", session_id="s", id="m1", stream=True)
        await client.hear(type="agent_response")
        await client.say("hush", metadata={"traceparent": OTHER})
        await client.hear(type="agent_response")
        await client.stream.send(client._link.close(1000))
        await client.ended()
    first, second = spans.named("invoke_agent weather")
    (connect,) = spans.named("connect")
    assert (connect.kind, parent_of(connect)) == (SpanKind.SERVER, PARENT)
    assert connect.attributes is not None
    expected = {
        "network.protocol.name": "websocket",
        "url.path": "/",
        "client.address": "127.0.0.1",
        "qaws.sessions": 2,
    }
    assert expected.items() <= connect.attributes.items()
    assert connect.attributes["qaws.close.code"] == 1000
    assert (first.kind, parent_of(first), parent_of(second)) == (SpanKind.INTERNAL, PARENT, OTHER)
    assert first.parent is not None
    assert first.parent.trace_state == {"vendor": "1"}
    assert connect.context is not None
    for run in (first, second):
        assert [link.context.span_id for link in run.links] == [connect.context.span_id]
    told = dict(first.attributes or {})
    assert isinstance(told.pop("qaws.run.id"), str)
    assert float(str(told.pop("gen_ai.response.time_to_first_chunk"))) > 0
    assert float(str(told.pop("qaws.run.queued_seconds"))) >= 0
    assert told == {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "weather", "gen_ai.conversation.id": "s",
        "gen_ai.request.stream": True, "user.id": "anonymous", "qaws.message.id": "m1", "qaws.run.end": "completed",
        "qaws.run.characters": 11, "qaws.run.chunks": 2, "qaws.run.reasoning_steps": 0, "qaws.run.tools_used": 1,
    }  # fmt: skip
    (chunk,) = first.events
    assert chunk.name == "first_chunk"
    assert 0 < (first.start_time or 0) <= chunk.timestamp <= (first.end_time or 0)
    assert first.status.status_code is StatusCode.UNSET
    assert spans.started == len(spans.ended) == 5


async def plain(message: str) -> str:
    work()
    return message


def blocking(message: str) -> str:
    work()
    return message


def blocking_pieces(message: str) -> Iterator[str]:
    yield message
    work()


class Framework(FrameworkAgent):
    name = "framework"

    async def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        work()
        yield message


@pytest.mark.parametrize(
    "agent", [plain, weather, blocking, blocking_pieces, Framework()], ids=lambda agent: type(agent)
)
async def test_what_an_agent_does_is_below_its_run(adapter: Adapter, agent: Any, spans: Spans) -> None:
    async with serving(adapter, agent, **TRACING) as server, connected(await tcp(server)) as client:
        await client.say("one")
        await client.say("two")  # which the end of the first one starts
        for _ in range(2):
            await client.hear(type="agent_response")
    name = getattr(agent, "name", None) or agent.__name__
    runs, children = spans.named(f"invoke_agent {name}"), spans.named(CHILD)
    assert [run.parent for run in runs] == [None, None]
    assert len(runs) == 2
    assert [child.parent for child in children] == [run.context for run in runs]


async def test_the_end_of_a_run_says_what_went_wrong_and_no_text_of_it(adapter: Adapter, spans: Spans) -> None:
    async def agent(message: str) -> str:
        if message == "raise":
            raise ValueError("hush")
        await anyio.sleep_forever()
        return message

    async with serving(adapter, agent, **TRACING) as server, connected(await tcp(server)) as client:
        await client.say("raise")
        error = await client.hear(type="error")
        await client.say("wait", id="m1")
        await client.say("behind", id="m2")
        for message in ("m2", "m1"):
            await client.tell(type="cancel", correlation_id=message)
            await client.hear(type="agent_response", status="cancelled")
    failed, cancelled = spans.named("invoke_agent agent")  # the other one was never started
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert (failed.attributes["error.type"], failed.attributes["qaws.error.id"]) == (
        "AGENT_ERROR", error["details"]["error_id"],
    )  # fmt: skip
    assert cancelled.attributes is not None
    assert (cancelled.attributes["qaws.run.end"], cancelled.status.status_code) == ("cancelled", StatusCode.UNSET)
    assert "error.type" not in cancelled.attributes
    assert not failed.events


@pytest.mark.clause("C12")
async def test_no_span_has_content_or_a_token(adapter: Adapter, spans: Spans) -> None:
    async def agent(message: str) -> str:
        if message.endswith("raise"):
            raise ValueError("hush-raised")
        return "hush-answer"

    authentication = {"enabled": True, "jwt_secret": SECRET}
    sections: dict[str, Any] = {"security": {"authentication": authentication}, "logging": {"log_messages": True}}
    async with serving(adapter, agent, **TRACING, **sections) as server:
        token = WebSocketAuth(server.config).generate_token("ana")
        async with connected(await tcp(server)) as client:
            await client.tell(type="auth", token=token)
            await client.say("hush-question", metadata={"tracestate": "hush", "note": "hush"})
            await client.hear(type="agent_response")
            await client.say("hush-raise")
            await client.hear(type="error")
            await client.tell(type="auth", token=f"{token}hush")
            await client.hear(type="error")
    shown = "".join(span.to_json() for span in spans.ended)
    assert "eyJ" not in shown
    assert "hush" not in shown
    (connect,) = spans.named("connect")
    assert [event.name for event in connect.events] == ["authenticated", "auth_failed", "event_refused"]
    assert (connect.attributes or {})["user.id"] == "ana"


async def test_there_is_no_span_for_a_piece(adapter: Adapter, spans: Spans) -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        for _ in range(500):
            yield "x"

    sections = {**TRACING, "agent": {"roll_up": 0}}
    async with serving(adapter, agent, **sections) as server, connected(await tcp(server)) as client:
        await client.say("go", stream=True)
        await client.hear(type="agent_response")
    assert spans.started == 2
    assert [len(span.events) for span in spans.named("invoke_agent agent")] == [1]


async def test_without_the_setting_there_are_no_spans(adapter: Adapter, spans: Spans) -> None:
    async with serving(adapter, plain) as server, connected(await tcp(server), traceparent=PARENT) as client:
        assert await client.ask("?") == "?"
        assert server.manager._traces is None
    (child,) = spans.ended
    assert (child.name, child.parent) == (CHILD, None)


async def test_a_provider_that_raises_harms_nobody(
    adapter: Adapter, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    spans.mood = RuntimeError("hush")

    async def agent(message: str) -> str:
        return message

    async with serving(adapter, agent, **TRACING) as server, connected(await tcp(server)) as client:
        assert await client.ask("one") == "one"
        spans.mood = None
        await client.say("two")
        await client.hear(content="two")
        spans.mood = RuntimeError("hush")
    complaints = [record for record in caplog.records if getattr(record, "event", None) == "trace_failed"]
    assert len(complaints) == 2  # as the connection opened, and as the first run began
    assert "hush" not in caplog.text
    await until(lambda: spans.named("invoke_agent agent"))


# ── without sockets ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C1")
@given(
    st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
    st.text() | st.text("ab=,; 1@", max_size=80),
)
def test_whatever_a_message_names_the_run_has_a_span(parent: str, state: str) -> None:
    with recorded() as spans:
        traces = Traces()
        named = of_metadata({"traceparent": parent, "tracestate": state})
        run = StartRun("r", "s", "u", "?", False, {}, 1, named)
        with traces.start(run, "agent"):
            current = trace.get_current_span().get_span_context()
        traces.hear(Note("run", "INFO", "run_ended", {"run_id": "r", "end": "completed", "seconds": 0.5}))
        (span,) = spans.ended
        assert span.context == current
        assert (span.end_time or 0) - (span.start_time or 0) == 500_000_000
        if named is None:
            assert span.parent is None
        else:
            assert (parent_of(span) or "")[3:] == parent[3:55]  # its version is ours


def test_a_note_that_belongs_to_no_span_makes_none() -> None:
    with recorded() as spans:
        traces = Traces()
        for note in (
            Note("message", "INFO", "closed", {"connection": 1}),
            Note("connection", "DEBUG", "closed", {"connection": 1, "code": 1006}),
            Note("security", "WARNING", "auth_failed", {"connection": 1}),
            Note("run", "INFO", "run_ended", {"run_id": "r", "end": "cancelled"}),
        ):
            traces.hear(note)
        assert (spans.started, spans.ended) == (0, ())


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


MANAGER = """
import sys
from qaws import ConfigError, WebSocketConfig, WebSocketManager
import qaws.cli, qaws.asgi
def manager(enabled):
    config = {"tracing": {"enabled": enabled}, "security": {"authentication": {"enabled": False}}}
    return WebSocketManager(WebSocketConfig.model_validate(config), agent=print)
"""


def test_nothing_of_opentelemetry_is_imported_without_the_setting() -> None:
    loaded = "print(sorted(name for name in sys.modules if name.startswith('opentelemetry'))[:1])"
    assert run_python(f"{MANAGER}\nmanager(False)\n{loaded}") == "[]"
    assert run_python(f"{MANAGER}\nmanager(True)\n{loaded}") == "['opentelemetry']"


def test_the_setting_without_opentelemetry_says_what_to_install() -> None:
    code = f"""{MANAGER}
sys.modules["opentelemetry"] = None
try:
    manager(True)
except ConfigError as error:
    print(error)
"""
    assert run_python(code) == ("tracing.enabled: OpenTelemetry is not installed (pip install 'qaws-gateway[otel]')")
