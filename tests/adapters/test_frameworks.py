"""Agents of Pydantic AI, LangGraph and openai-agents behind a gateway, and how a framework's are told from others."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import agents as openai_agents
import anyio
import pytest
from agents.items import ModelResponse as OpenAIResponse
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningTextDeltaEvent,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAI
from pydantic_ai import DeferredToolRequests, ModelRetry
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from qaws import AgentError
from qaws.agents import PIECES, Agent, AgentReply, RunContext, load_agent
from qaws.agents.bridge import BRIDGE
from qaws.agents.frameworks import adapted, framework_of
from qaws.agents.memory import name_of
from qaws.agents.steps import LINE, SHORT, Reasoning, tool_started
from qaws_proto.inputs import WriteBlocked

from .bridged import all_runs_have_ended, in_thread, left, serving, until_answered
from .peers import Peer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After a test no task is left in the thread of the frameworks."""
    yield
    if BRIDGE._loop is not None:
        assert in_thread(BRIDGE, left()) == set()


def add(a: int, b: int) -> int:
    """Adds; small numbers only."""
    if a + b > 100:
        raise ModelRetry("too big")
    return a + b


class Heard:
    """What models were asked, and whether one hangs."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []  # the texts of the messages of each request
        self.begun = threading.Event()
        self.cancelled = False

    async def hang(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True


# ── Pydantic AI ──────────────────────────────────────────────────────────────────────────────────────────────────────


def pydantic_ai_agent(heard: Heard) -> object:
    async def model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        parts = [part for message in messages for part in message.parts if part.part_kind != "tool-call"]
        heard.asked.append([str(getattr(part, "content", "")) for part in parts])
        question = heard.asked[-1][-1]
        if question == "1 + 2?":
            yield {0: DeltaThinkingPart(content="A ")}
            yield {0: DeltaThinkingPart(content="sum.")}
            yield "Let me see: "
            yield {2: DeltaToolCall(name="add", json_args='{"a": 1,', tool_call_id="c1")}
            yield {2: DeltaToolCall(json_args=' "b": 2}', tool_call_id="c1")}
        elif question == "99 + 2?":
            yield {0: DeltaToolCall(name="add", json_args='{"a": 99, "b": 2}', tool_call_id="c1")}
        elif question == "3":
            yield "it is "
            yield "3"
        else:
            yield "so far"
            for _ in range(100 if question == "much" else 0):
                yield "x" * 200
            if question in ("hang", "much"):
                await heard.hang()
            elif question == "fail":
                raise ValueError("quota")

    return PydanticAI(FunctionModel(stream_function=model), tools=[add])


# ── LangGraph ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ChatModel(BaseChatModel):
    """A model of LangChain's that streams."""

    heard: Any

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        self.heard.asked.append([str(message.content) for message in messages])
        question = self.heard.asked[-1][-1]
        if question == "1 + 2?":
            yield chunk([{"type": "reasoning", "reasoning": "A sum."}])
            yield chunk("Let me see: ")
            yield chunk("", name="add", args='{"a": 1,', id="c1")
            yield chunk("", name=None, args=' "b": 2}', id=None)
            yield chunk("", usage={"input_tokens": 5, "output_tokens": 1, "total_tokens": 6})
        elif question == "99 + 2?":
            yield chunk("", name="add", args='{"a": 99, "b": 2}', id="c1")
        elif question == "3":
            yield chunk("it is ")
            yield chunk("3")
            yield chunk("", usage={"input_tokens": 10, "output_tokens": 2, "total_tokens": 12})
        else:
            yield chunk("so far")
            for _number in range(100 if question == "much" else 0):
                yield chunk("x" * 200)
            if question in ("hang", "much"):
                await self.heard.hang()
            elif question == "fail":
                raise ValueError("quota")


def chunk(content: Any, *, usage: UsageMetadata | None = None, **call: str | None) -> ChatGenerationChunk:
    calls: Any = [{**call, "index": 0, "type": "tool_call_chunk"}] if call else []
    return ChatGenerationChunk(message=AIMessageChunk(content=content, tool_call_chunks=calls, usage_metadata=usage))


def langgraph_agent(heard: Heard) -> object:
    async def model(state: MessagesState) -> MessagesState:
        if state["messages"][-1].content == "human":
            interrupt("may I?")
        return {"messages": [await ChatModel(heard=heard).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([add], handle_tool_errors=True))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver())


# ── openai-agents ────────────────────────────────────────────────────────────────────────────────────────────────────


class OpenAIModel(openai_agents.Model):
    _texts: ClassVar = {
        "1 + 2?": ["Let me ", "see: "],
        "3": ["it is ", "3"],
        "city": ['{"name": ', '"Roma"}'],
        "much": ["x" * 200] * 100,
    }

    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    async def get_response(self, *_: Any, **__: Any) -> OpenAIResponse:
        raise NotImplementedError

    async def stream_response(self, instructions: Any, items: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        self._heard.asked.append([_text(item) for item in items if item.get("type") != "function_call"])
        question = self._heard.asked[-1][-1]
        texts = self._texts.get(question, ["so far"])
        if question == "1 + 2?":
            yield ResponseReasoningTextDeltaEvent(
                content_index=0, delta="A sum.", item_id="r1", output_index=0, sequence_number=0,
                type="response.reasoning_text.delta",
            )  # fmt: skip
        for text in texts:
            yield ResponseTextDeltaEvent(
                content_index=0, delta=text, item_id="m1", output_index=0, sequence_number=0, logprobs=[],
                type="response.output_text.delta",
            )  # fmt: skip
        if question in ("hang", "much"):
            await self._heard.hang()
        elif question == "fail":
            raise ValueError("quota")
        content = ResponseOutputText(annotations=[], text="".join(texts), type="output_text")
        output: list[Any] = [
            ResponseOutputMessage(id="m1", content=[content], role="assistant", status="completed", type="message")
        ]
        if question == "1 + 2?":
            output.append(
                ResponseFunctionToolCall(arguments='{"a": 1, "b": 2}', call_id="c1", name="add", type="function_call")
            )
        response = Response(
            id="x", created_at=0, model="scripted", object="response", output=output, parallel_tool_calls=False,
            tool_choice="auto", tools=[], usage=_usage(5, 1) if question == "1 + 2?" else _usage(10, 2),
        )  # fmt: skip
        yield ResponseCompletedEvent(response=response, sequence_number=0, type="response.completed")


def _usage(read: int, written: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=read, output_tokens=written, total_tokens=read + written,
        input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
    )  # fmt: skip


def _text(item: Any) -> str:
    content = item.get("content", item.get("output"))
    return str(content if isinstance(content, str) else content[0]["text"])


def openai_agent(heard: Heard) -> object:
    return openai_agents.Agent(name="a", model=OpenAIModel(heard), tools=[openai_agents.function_tool(add)])


# ── what they have in common ─────────────────────────────────────────────────────────────────────────────────────────

MAKERS: dict[str, Callable[[Heard], object]] = {
    "pydantic-ai": pydantic_ai_agent,
    "langgraph": langgraph_agent,
    "openai-agents": openai_agent,
}


@pytest.fixture(params=MAKERS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def replied(agent: object, message: str) -> object:
    """What is returned for a whole answer."""

    async def emit(piece: object) -> None:
        assert piece is not None

    context = RunContext("r", "s", "ana")
    return await Agent(agent, threads=1).run(message, context, emit, lambda: None)


async def test_the_tokens_of_all_models_of_a_run_come_with_the_answer(framework: str, anyio_backend: str) -> None:
    reply = await replied(MAKERS[framework](Heard()), "1 + 2?")
    assert isinstance(reply, AgentReply)
    assert reply.content == "Let me see: it is 3"
    if framework == "pydantic-ai":  # its model of functions counts by itself
        assert 0 < (reply.output_tokens or 0) < (reply.input_tokens or 0)
    else:
        assert (reply.input_tokens, reply.output_tokens) == (15, 3)


async def test_where_nobody_counts_the_tokens_are_not_known(anyio_backend: str) -> None:
    assert await replied(langgraph_agent(Heard()), "?") is PIECES


async def test_an_agent_tells_text_reasoning_and_tools(framework: str, anyio_backend: str) -> None:
    async with serving(MAKERS[framework](Heard()), anyio_backend, agent={"roll_up": 0}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="1 + 2?", stream=True)
        answer, told = await until_answered(peer)
        peer.say("chat_message", content="1 + 2?", session_id="another")
        unstreamed, untold = await until_answered(peer)
    texts = [text for text in told if isinstance(text, str)]
    steps = [step for step in told if not isinstance(step, str)]
    assert "".join(texts) == answer.content == unstreamed.content
    assert answer.content == "Let me see: it is 3"
    assert len(texts) > 2
    called = "a=1, b=2" if framework == "langgraph" else '{"a": 1, "b": 2}'
    assert steps == [("reasoning", None, "A sum."), ("tool_started", "add", called), ("tool_finished", "add", "3")]
    assert (answer.tools_used, untold) == (["add"], [])


async def test_a_session_is_remembered_and_no_other_user_shares_it(framework: str, anyio_backend: str) -> None:
    heard = Heard()
    async with serving(MAKERS[framework](heard), anyio_backend) as manager:
        for user, text in (("ann", "first"), ("bob", "hello"), ("ann", "second"), ("ann", "third")):
            peer = Peer(manager)
            peer.say("chat_message", content=text, user_id=user, session_id="holiday")
            await until_answered(peer)
    assert heard.asked == [
        ["first"],
        ["hello"],
        ["first", "so far", "second"],
        ["first", "so far", "second", "so far", "third"],
    ]


@pytest.mark.row("G8")
async def test_a_cancelled_run_stops_the_model(framework: str, anyio_backend: str) -> None:
    heard = Heard()
    async with serving(MAKERS[framework](heard), anyio_backend, agent={"roll_up": 0}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="hang", id="m1", stream=True)
        await anyio.to_thread.run_sync(heard.begun.wait, 10)
        peer.say("cancel", correlation_id="m1")
        answer, _ = await until_answered(peer)
        await all_runs_have_ended(manager)
        assert heard.cancelled
        peer.say("chat_message", content="next")
        next_answer, _ = await until_answered(peer)
    assert (answer.status, next_answer.content) == ("cancelled", "so far")


@pytest.mark.row("G8")
async def test_a_run_that_is_held_back_and_cancelled_ends(framework: str, anyio_backend: str) -> None:
    limits, agent = {"out_high": 1024, "out_top": 1024 * 1024}, {"roll_up": 0}
    async with serving(MAKERS[framework](Heard()), anyio_backend, limits=limits, agent=agent) as manager:
        peer = Peer(manager)
        peer.held = []
        manager.feed(WriteBlocked(peer.number))
        peer.say("chat_message", content="much", id="m1", stream=True)
        (run,) = manager._runs.active.values()
        while run.resumed is None:
            await anyio.lowlevel.checkpoint()
        peer.say("cancel", correlation_id="m1")
        await all_runs_have_ended(manager)
        assert manager.gateway.runs == 0


@pytest.mark.row("G2")
async def test_an_error_of_the_model_is_an_agents_error(
    framework: str, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(MAKERS[framework](Heard()), anyio_backend, logging={"log_agent_errors": True}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="fail")
        error, _ = await until_answered(peer)
        peer.say("chat_message", content="next")
        answer, _ = await until_answered(peer)
    assert (error.error_code, answer.content) == ("AGENT_ERROR", "so far")
    assert "quota" not in repr(error)
    assert "ValueError text=quota" in caplog.text


# ── what they have not ───────────────────────────────────────────────────────────────────────────────────────────────


class City(BaseModel):
    name: str


async def test_output_that_is_no_text_is_its_json(anyio_backend: str) -> None:
    for agent in (
        PydanticAI(TestModel(custom_output_args={"name": "Roma"}), output_type=City),
        openai_agents.Agent(name="a", model=OpenAIModel(Heard()), output_type=City),
    ):
        async with serving(agent, anyio_backend) as manager:
            peer = Peer(manager)
            peer.say("chat_message", content="city")
            answer, _ = await until_answered(peer)
        assert answer.content == '{"name":"Roma"}'


@pytest.mark.parametrize("framework", ["pydantic-ai", "langgraph"])
async def test_a_tool_that_fails_is_told_as_such_and_the_run_goes_on(framework: str, anyio_backend: str) -> None:
    async with serving(MAKERS[framework](Heard()), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="99 + 2?", stream=True)
        answer, told = await until_answered(peer)
    assert answer.content == "so far"
    (finished,) = [step for step in told if step[0] == "tool_finished"]
    assert finished[1] == "add"
    assert finished[2].startswith("failed: ")
    assert "too big" in finished[2]


async def test_openai_agents_makes_no_traces(anyio_backend: str) -> None:
    traces: list[object] = []

    class Recorder(openai_agents.TracingProcessor):
        def on_trace_start(self, trace: object) -> None:
            traces.append(trace)

        def on_span_start(self, span: object) -> None:
            traces.append(span)

        on_trace_end = on_trace_start
        on_span_end = on_span_start

        def shutdown(self) -> None:
            return

        force_flush = shutdown

    openai_agents.set_trace_processors([Recorder()])
    async with serving(openai_agent(Heard()), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="1 + 2?")
        answer, _ = await until_answered(peer)
    assert answer.status == "completed"
    assert traces == []


async def test_a_run_that_waits_for_a_human_is_an_error_that_says_so(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    pydantic_ai = PydanticAI(TestModel(), output_type=[str, DeferredToolRequests])
    pydantic_ai.tool_plain(requires_approval=True)(add)
    tool: Any = openai_agents.function_tool(add, needs_approval=True)
    openai: object = openai_agents.Agent(name="a", model=OpenAIModel(Heard()), tools=[tool])
    for agent, question in ((pydantic_ai, "?"), (openai, "1 + 2?"), (langgraph_agent(Heard()), "human")):
        caplog.clear()
        async with serving(agent, anyio_backend, logging={"log_agent_errors": True}) as manager:
            peer = Peer(manager)
            peer.say("chat_message", content=question)
            error, _ = await until_answered(peer)
        assert error.error_code == "AGENT_ERROR"
        assert "waits for a human" in caplog.text


# ── telling them apart ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("framework", MAKERS)
def test_each_is_told_by_its_class(framework: str) -> None:
    found = framework_of(MAKERS[framework](Heard()))
    assert found is not None
    assert found.name == framework


class OwnChat(PydanticAI[Any, Any]):
    async def chat(self, message: str) -> str:
        return message


async def function(message: str) -> str:
    return message


@pytest.fixture
def namesake() -> ModuleType:
    """A user's own package that is called `agents`."""
    module = ModuleType("agents.mine")
    exec("class Agent:\n    def __call__(self, message):\n        return message", vars(module))
    return module


def test_what_only_looks_like_one_is_left_as_it_is(namesake: ModuleType) -> None:
    for agent in (namesake.Agent(), OwnChat(TestModel()), function, PydanticAI):
        assert framework_of(agent) is None
        assert adapted(agent) is agent
    with pytest.raises(AgentError, match="Agent is a class; give an instance of it"):
        Agent(PydanticAI, threads=1)


def test_one_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "graph_of_a_user.py").write_text(
        "from tests.adapters.test_frameworks import Heard, langgraph_agent\n"
        "graph = langgraph_agent(Heard())\n"
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        found = framework_of(load_agent("graph_of_a_user:graph"))
    finally:
        sys.modules.pop("graph_of_a_user", None)
    assert found is not None
    assert found.name == "langgraph"


# ── memory and steps ─────────────────────────────────────────────────────────────────────────────────────────────────


def context(user: str = "ann", session: str = "s") -> RunContext:
    return RunContext("r", session, user)


def test_no_two_users_sessions_have_one_name() -> None:
    pairs = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b"), ("b", "a")]
    assert len({name_of(context(user, session)) for user, session in pairs}) == len(pairs)
    assert name_of(context("ann@example.org", "s")) == "ann@example.org/s"


def test_steps_are_short() -> None:
    content = tool_started("search", {"query": "x" * 10_000}).content
    assert content is not None
    assert content.startswith("query='xxx")
    assert len(content) == SHORT


def test_reasoning_is_told_by_lines_and_never_kept_for_long() -> None:
    reasoning = Reasoning()
    told = [step.content for text in ("one", " line\n\ntwo", "\n", "x" * LINE, "y") for step in reasoning.add(text)]
    assert told == ["one line", "two", "x" * LINE]
    assert [step.content for step in reasoning.flush()] == ["y"]
    assert list(reasoning.flush()) == []
