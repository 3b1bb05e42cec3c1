"""Agno's agents and teams behind a gateway, with the real package: on asyncio and on trio."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from agno.agent import Agent
from agno.db.base import BaseDb
from agno.db.in_memory import InMemoryDb
from agno.db.json import JsonDb
from agno.metrics import MessageMetrics
from agno.models.base import Model
from agno.models.openai.like import OpenAILike
from agno.models.response import ModelResponse
from agno.run.agent import ReasoningContentDeltaEvent, RunContentEvent
from agno.run.base import RunStatus
from agno.team import Team
from agno.tools import tool
from agno.tools.reasoning import ReasoningTools
from pydantic import BaseModel
from websockets.asyncio.client import connect

from qaws import AgentError, WebSocketManager
from qaws.agents import Agent as AnyAgent
from qaws.agents import AgentReply, AgentStep, RunContext, load_agent
from qaws.agents.agno import _Events
from qaws.agents.bridge import BRIDGE
from qaws_proto.inputs import WriteBlocked
from tests.helpers import process
from tests.helpers.model_server import HANG as SILENT
from tests.helpers.model_server import model_server, tool_call

from .bridged import all_runs_have_ended, in_thread, left, serving, until_answered
from .peers import Peer, open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After a test no task is left in the thread of the frameworks."""
    yield
    gc.collect()  # a client of openai's that is forgotten closes itself in a task of whatever event loop runs then
    if BRIDGE._loop is not None:
        assert in_thread(BRIDGE, left()) == set()


Said = ModelResponse
HANG = Said(content="\0")  # a model that says nothing more


def calls(name: str, arguments: str = "{}", id: str = "call-1") -> ModelResponse:
    return Said(tool_calls=[{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}])


def thinks(text: str) -> ModelResponse:
    return Said(reasoning_content=text)


@dataclass
class Scripted(Model):
    """A model that says one turn after the other, the last one again and again."""

    id: str = "scripted"
    turns: list[list[ModelResponse | Exception]] = field(default_factory=list)
    heard: list[list[tuple[str, Any]]] = field(default_factory=list)  # messages of each request
    begun: threading.Event = field(default_factory=threading.Event)  # it hangs

    async def ainvoke_stream(self, messages: Any, **_: Any) -> AsyncIterator[ModelResponse]:
        self.heard.append([(message.role, message.content) for message in messages])
        for one in self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]:
            await asyncio.sleep(0)
            if isinstance(one, Exception):
                raise one
            if one is HANG:
                self.begun.set()
                await asyncio.Event().wait()
            yield one

    async def ainvoke(self, messages: Any, **_: Any) -> ModelResponse:
        return Said(content="".join([said.content or "" async for said in self.ainvoke_stream(messages)]))

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **_: Any) -> ModelResponse:
        raise NotImplementedError

    def invoke(self, *_: Any, **__: Any) -> ModelResponse:
        raise NotImplementedError

    def invoke_stream(self, *_: Any, **__: Any) -> Iterator[ModelResponse]:
        raise NotImplementedError


def scripted(*turns: list[ModelResponse | Exception]) -> Scripted:
    return Scripted(turns=list(turns))


def memory() -> BaseDb:
    return InMemoryDb()  # type: ignore[no-untyped-call]


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def fail(reason: str) -> str:
    """Fails."""
    raise ValueError(reason)


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_tells_text_reasoning_and_tools(stream: bool, anyio_backend: str) -> None:
    model = scripted(
        [thinks("A sum.\nSo"), thinks(" I add."), Said(content="Let me "), Said(content="see: "),
         calls("add", '{"a": 1, "b": 2}')],
        [Said(content="it is "), Said(content="3")],
    )  # fmt: skip
    async with serving(Agent(model=model, tools=[add]), anyio_backend, agent={"roll_up": 0}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="1 + 2?", id="m1", stream=stream)
        answer, told = await until_answered(peer)
    assert answer.content == "Let me see: it is 3"
    assert answer.reasoning_steps == ["A sum.", "So I add."]
    assert answer.tools_used == ["add"]
    assert told == (
        [
            ("reasoning", None, "A sum."),
            ("reasoning", None, "So I add."),
            "Let me ",
            "see: ",
            ("tool_started", "add", "a=1, b=2"),
            ("tool_finished", "add", "3"),
            "it is ",
            "3",
        ]
        if stream
        else []
    )


@pytest.mark.parametrize("counted", [True, False])
async def test_the_tokens_of_a_run_come_with_the_answer(counted: bool, anyio_backend: str) -> None:
    def usage(read: int, written: int) -> MessageMetrics | None:
        return MessageMetrics(input_tokens=read, output_tokens=written) if counted else None

    model = scripted(
        [calls("add", '{"a": 1, "b": 2}'), Said(response_usage=usage(5, 1))],
        [Said(content="It is 3"), Said(response_usage=usage(10, 2))],
    )

    async def emit(piece: object) -> None:
        assert piece is not None

    agent = AnyAgent(Agent(model=model, tools=[add]), threads=1)
    reply = await agent.run("1 + 2?", RunContext("r", "s", "ana"), emit, lambda: None)
    assert reply == (AgentReply("It is 3", (), (), 15, 3) if counted else AgentReply("It is 3"))


async def test_steps_of_reasoning_are_told(anyio_backend: str) -> None:
    model = scripted([calls("think", '{"title": "Plan", "thought": "Be brief"}')], [Said(content="ok")])
    async with serving(Agent(model=model, tools=[ReasoningTools()]), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        answer, _ = await until_answered(peer)
    assert (answer.content, answer.reasoning_steps) == ("ok", ["Plan\nBe brief"])


async def test_reasoning_of_a_model_that_only_reasons_is_told() -> None:
    events = _Events("run")
    texts = ("Be ", "brief.\nAnd ", "kind.")
    steps = [step for text in texts for step in events.pieces(ReasoningContentDeltaEvent(reasoning_content=text))]
    steps += events.pieces(RunContentEvent(run_id="run", content="ok"))
    assert steps == [AgentStep("reasoning", content="Be brief."), AgentStep("reasoning", content="And kind."), "ok"]


async def test_a_tool_that_fails_is_told_once_and_the_run_goes_on(anyio_backend: str) -> None:
    model = scripted([calls("fail", '{"reason": "no network"}')], [Said(content="Sorry.")])
    async with serving(Agent(model=model, tools=[fail]), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        answer, told = await until_answered(peer)
    assert answer.content == "Sorry."
    assert told == [
        ("tool_started", "fail", "reason='no network'"),
        ("tool_finished", "fail", "failed: no network"),
        "Sorry.",
    ]


async def test_a_team_speaks_with_one_voice_and_tells_what_its_members_do(anyio_backend: str) -> None:
    member = Agent(
        name="Counter", id="counter", role="counts", tools=[add],
        model=scripted([calls("add", '{"a": 1, "b": 2}')], [Said(content="three")]),
    )  # fmt: skip
    delegate = calls("delegate_task_to_member", '{"member_id": "counter", "task": "1 + 2"}', "call-2")
    team = Team(members=[member], model=scripted([delegate], [Said(content="It is "), Said(content="3.")]))
    async with serving(team, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="1 + 2?", stream=True)
        answer, told = await until_answered(peer)
    assert answer.content == "It is 3." == "".join(text for text in told if isinstance(text, str))
    assert answer.tools_used == ["delegate_task_to_member", "add"]
    assert ("tool_finished", "add", "3") in told
    assert (team.telemetry, member.telemetry) == (False, False)


async def test_output_that_is_no_text_is_its_json(anyio_backend: str) -> None:
    class City(BaseModel):
        name: str

    agent = Agent(model=scripted([Said(content='{"name": '), Said(content='"Roma"}')]), output_schema=City)
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        answer, told = await until_answered(peer)
    assert answer.content == '{"name":"Roma"}' == "".join(told)


# ── whose run it is ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_session_user_and_run_are_those_of_the_gateway(anyio_backend: str) -> None:
    db = memory()
    async with serving(Agent(model=scripted([Said(content="ok")]), db=db), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", user_id="user123", session_id="session456")
        answer, _ = await until_answered(peer)
    session: Any = Agent(db=db).get_session(session_id="user123/session456")
    (run,) = session.runs
    assert (session.user_id, run.run_id, run.status) == ("user123", answer.run_id, RunStatus.completed)


async def test_a_session_is_remembered_and_no_other_user_shares_it(anyio_backend: str) -> None:
    model = scripted([Said(content="ok")])
    agent = Agent(model=model, db=memory(), add_history_to_context=True)
    async with serving(agent, anyio_backend) as manager:
        for user, text in (("ann", "first"), ("bob", "hello"), ("ann", "second")):
            peer = Peer(manager)
            peer.say("chat_message", content=text, user_id=user, session_id="holiday")
            await until_answered(peer)
    assert model.heard == [
        [("user", "first")],
        [("user", "hello")],
        [("user", "first"), ("assistant", "ok"), ("user", "second")],
    ]


def test_nothing_is_told_to_the_makers_of_agno() -> None:
    inner, agent = Agent(), Agent()
    team = Team(members=[Team(members=[inner])])
    for one in (agent, team):
        assert one.telemetry
        AnyAgent(one, threads=1)
    assert [one.telemetry for one in (agent, team, inner)] == [False, False, False]


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G2")
async def test_an_error_of_the_provider_is_an_agents_error(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = scripted(
        [Said(content="so far"), RuntimeError("quota of ann@example.org is used up")], [Said(content="ok")]
    )
    async with serving(Agent(model=model), anyio_backend, logging={"log_agent_errors": True}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        error, told = await until_answered(peer)
        peer.say("chat_message", content="again")
        answer, _ = await until_answered(peer)
    assert error.error_code == "AGENT_ERROR"
    assert "quota" not in repr(error)
    assert "the run failed: RuntimeError: quota of ann@example.org" in caplog.text
    assert told == ["so far"]
    assert answer.content == "ok"


async def test_a_run_that_waits_for_a_human_is_an_error_that_says_so(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    @tool(requires_confirmation=True)
    def delete_everything() -> str:
        """Deletes everything."""
        raise AssertionError

    agent = Agent(model=scripted([calls("delete_everything")]), tools=[delete_everything])
    async with serving(agent, anyio_backend, logging={"log_agent_errors": True}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        error, _ = await until_answered(peer)
    assert error.error_code == "AGENT_ERROR"
    assert "waits for a human" in caplog.text


async def test_the_first_event_that_ends_a_run_decides(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def give_up() -> str:
        """Cancels the run that it is called in, as an operator would."""
        (run_id,) = manager._runs.active
        assert await Agent.acancel_run(run_id)
        return "done"

    agent = Agent(model=scripted([Said(content="so far "), calls("give_up")], [Said(content="more")]), tools=[give_up])
    async with serving(agent, anyio_backend, logging={"log_agent_errors": True}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        error, told = await until_answered(peer)
    assert error.error_code == "AGENT_ERROR"
    assert "Agno cancelled the run" in caplog.text
    assert "more" not in told


def in_memory(path: Path) -> BaseDb:
    return memory()


def in_files(path: Path) -> BaseDb:
    return JsonDb(db_path=str(path))


@pytest.mark.row("G8")
@pytest.mark.parametrize("database", [in_memory, in_files])
@pytest.mark.parametrize("team", [False, True])
async def test_a_cancelled_run_is_kept_as_cancelled(
    team: bool, database: Any, anyio_backend: str, tmp_path: Path
) -> None:
    db = database(tmp_path)
    model = scripted([Said(content="first")], [Said(content="so far"), HANG], [Said(content="third")])
    agent: Agent | Team
    if team:
        agent = Team(members=[Agent(name="idle")], model=model, db=db, add_history_to_context=True)
    else:
        agent = Agent(model=model, db=db, add_history_to_context=True)
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        for number, text in enumerate(("one", "two", "three")):
            peer.say("chat_message", content=text, id=text, stream=True, session_id="s", user_id="ann")
            if number == 1:
                await anyio.to_thread.run_sync(model.begun.wait, 10)
                peer.say("cancel", correlation_id="two")
            answer, _ = await until_answered(peer)
            assert answer.status == ("cancelled" if number == 1 else "completed")
            assert manager.ends_of(answer.run_id) == (0 if number == 1 else 1)
    runs: Any = agent.get_session(session_id="ann/s").runs  # type: ignore[union-attr]
    assert [run.status for run in runs] == [RunStatus.completed, RunStatus.cancelled, RunStatus.completed]
    assert runs[1].content == "so far"
    assert ("user", "one") in model.heard[-1]


@pytest.mark.row("G8")
async def test_a_run_that_is_held_back_and_cancelled_is_kept_as_cancelled(anyio_backend: str) -> None:
    db = memory()
    model = scripted([Said(content="x" * 200)] * 200)
    limits = {"out_high": 1024, "out_top": 1024 * 1024}
    async with serving(Agent(model=model, db=db), anyio_backend, limits=limits, agent={"roll_up": 0}) as manager:
        peer = Peer(manager)
        peer.held = []
        manager.feed(WriteBlocked(peer.number))
        peer.say("chat_message", content="?", id="m1", stream=True, session_id="s", user_id="ann")
        (run,) = manager._runs.active.values()
        while run.resumed is None:
            await anyio.lowlevel.checkpoint()
        peer.say("cancel", correlation_id="m1")
        await all_runs_have_ended(manager)
    session: Any = Agent(db=db).get_session(session_id="ann/s")
    assert [run.status for run in session.runs] == [RunStatus.cancelled]
    assert 0 < len(session.runs[0].content) < 200 * 200


# ── with a model provider ────────────────────────────────────────────────────────────────────────────────────────────


def openai_like(url: str) -> OpenAILike:
    return OpenAILike(id="scripted", base_url=url, api_key="none", max_retries=0)


async def test_a_model_behind_http_streams_and_calls_tools(anyio_backend: str) -> None:
    with model_server([tool_call("add", '{"a": 1, "b": 2}')], ["It is ", "3."]) as server:
        async with serving(Agent(model=openai_like(server.url), tools=[add]), anyio_backend) as manager:
            peer = Peer(manager)
            peer.say("chat_message", content="1 + 2?", stream=True)
            answer, told = await until_answered(peer)
        assert answer.content == "It is 3." == "".join(text for text in told if isinstance(text, str))
        assert ("tool_finished", "add", "3") in told
        assert [message["role"] for message in server.requests[1]["messages"]] == ["user", "assistant", "tool"]


@pytest.mark.row("G2")
async def test_a_model_behind_http_that_refuses_is_an_agents_error(anyio_backend: str) -> None:
    with model_server(500, ["ok"]) as server:
        async with serving(Agent(model=openai_like(server.url)), anyio_backend) as manager:
            peer = Peer(manager)
            peer.say("chat_message", content="?")
            error, _ = await until_answered(peer)
            peer.say("chat_message", content="again")
            answer, _ = await until_answered(peer)
    assert (error.error_code, answer.content) == ("AGENT_ERROR", "ok")


@pytest.mark.row("G8")
async def test_cancelling_closes_the_connection_to_the_model(anyio_backend: str) -> None:
    with model_server(["so far", SILENT]) as server:
        async with serving(Agent(model=openai_like(server.url)), anyio_backend) as manager:
            peer = Peer(manager)
            peer.say("chat_message", content="?", id="m1", stream=True)
            await peer.hear("agent_chunk")
            peer.say("cancel", correlation_id="m1")
            answer, told = await until_answered(peer)
            await anyio.to_thread.run_sync(server.gone.wait, 10)
            await all_runs_have_ended(manager)
    assert (answer.status, answer.content, told) == ("cancelled", "so far", [])
    assert server.gone.is_set()


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MODULE = """
from agno.agent import Agent

class Helper(Agent):
    def __init__(self):
        super().__init__(name="helper")

def make():
    return Helper()

agent = Helper()
number = 42
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "agents_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "agents_of_a_user"
    sys.modules.pop("agents_of_a_user", None)


@pytest.mark.parametrize("prefix", ["", "agno:"])
@pytest.mark.parametrize("attribute", ["agent", "Helper", "make"])
def test_an_object_a_class_or_a_factory_of_agno_is_found_by_its_name(module: str, attribute: str, prefix: str) -> None:
    found = load_agent(f"{prefix}{module}:{attribute}")
    assert isinstance(found, Agent)
    WebSocketManager(open_config(), agent=found)
    assert not found.telemetry


def test_what_is_named_as_an_agent_of_agno_has_to_be_one(module: str) -> None:
    with pytest.raises(AgentError, match="an object of type int is no agent or team of Agno"):
        load_agent(f"agno:{module}:number")
    with pytest.raises(AgentError, match="'agents_of_a_user' names no agent"):
        load_agent(f"agno:{module}")


def test_where_agno_is_not_installed_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agno", None)
    with pytest.raises(AgentError) as refused:
        load_agent("agno:agents_of_a_user:agent")
    assert str(refused.value) == ("""'agno:agents_of_a_user:agent' needs Agno: pip install "qaws-gateway[agno]\"""")


SERVED = """
from agno.agent import Agent
from agno.db.json import JsonDb
from agno.models.openai.like import OpenAILike

agent = Agent(model=OpenAILike(id="scripted", base_url="{url}"), db=JsonDb(db_path="kept"))
"""


async def ask(url: str) -> str:
    async with connect(url) as client:
        await client.send(json.dumps({"type": "chat_message", "content": "?", "session_id": "s", "user_id": "ann"}))
        while True:
            event = json.loads(await client.recv())
            if event["type"] == "agent_response":
                return str(event["content"])


def test_the_command_serves_an_agent_of_agno_and_ends_cleanly(tmp_path: Path) -> None:
    with model_server(["It is ", "3."]) as model:
        (tmp_path / "my_agents.py").write_text(SERVED.format(url=model.url))
        with process.serving("--no-auth", "--agent", "agno:my_agents:agent", cwd=str(tmp_path)) as served:
            assert asyncio.run(ask(served.url)) == "It is 3."
    assert "Traceback" not in "\n".join(served.log)
    session: Any = Agent(db=in_files(tmp_path / "kept")).get_session(session_id="ann/s")
    assert [run.status for run in session.runs] == [RunStatus.completed]


# ── what is logged ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Agno's own loggers say, none of which propagates."""
    loggers = [logging.getLogger(name) for name in ("agno", "agno-team")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    yield caplog
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)


@pytest.mark.clause("C12")
@pytest.mark.parametrize("team", [False, True])
async def test_agnos_own_log_repeats_no_text(team: bool, heard: pytest.LogCaptureFixture, anyio_backend: str) -> None:
    model = scripted([calls("fail", '{"reason": "hush"}')], [ValueError("hush: key sk-1")])
    agent = Team(members=[], model=model, tools=[fail]) if team else Agent(model=model, tools=[fail])
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="hush?")
        answer, _ = await until_answered(peer)
    assert answer.type == "error"
    said = [(record.levelname, record.getMessage()) for record in heard.records if record.name.startswith("agno")]
    assert any(level == "ERROR" and "ValueError (withheld" in text for level, text in said)
    assert all(text.startswith("agno.") and not text.startswith("agno.utils.log:") for _, text in said)
    assert "hush" not in heard.text


async def test_agnos_debug_mode_logs_texts(heard: pytest.LogCaptureFixture, anyio_backend: str) -> None:
    agent = Agent(model=scripted([ValueError("no such model")]), debug_mode=True)
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        await until_answered(peer)
    assert "no such model" in next(text for text in heard.messages if "Error in Agent run" in text)
