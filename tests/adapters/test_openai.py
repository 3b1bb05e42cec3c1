"""OpenAI-compatible endpoints as an agent, against a server on a loopback port, on asyncio and on trio."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from qaws import AgentError, AgentFailure, AgentReply, AgentStep
from qaws.agents import load_agent, openai
from qaws.agents.completion import CUT_SHORT
from qaws.agents.openai import OpenAIAgent
from qaws_proto.faults import Fault
from tests.helpers.openai_server import BREAK, DONE, Answer, Gate, ModelServer, chunk, event, happened, says

from .certificates import Authority
from .peers import Peer, Recorded, driven, open_config

pytestmark = pytest.mark.anyio
KEY = "sk-secret-key"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@asynccontextmanager
async def serving(agent: OpenAIAgent, backend: str, /, **sections: Any) -> AsyncIterator[Recorded]:
    """A gateway in front of the agent, which closes its connections at the end."""
    manager = Recorded(open_config(**sections), agent=agent)
    with anyio.fail_after(20):
        async with driven(manager, backend):
            try:
                yield manager
            finally:
                await manager.close_agent(5)


async def asked(peer: Peer, content: str = "?", **fields: Any) -> Any:
    """Ask, and hear the end of it."""
    peer.say("chat_message", content=content, **fields)
    while (said := await peer.hear()).type not in ("agent_response", "error"):
        pass
    return said


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


# ── a conversation ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_is_streamed_piece_by_piece(model: ModelServer, anyio_backend: str) -> None:
    gate = Gate()
    model.answers.append(
        Answer([chunk(role="assistant"), chunk("¡Ho"), gate, chunk("la! 😀"), chunk(finish="stop"), DONE])
    )
    agent = OpenAIAgent("m1", url=model.url, key=KEY, system="Be brief.", parameters={"temperature": 0.5})
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="Hi", stream=True)
        assert (await peer.hear("agent_chunk")).content == "¡Ho"  # while the model is still at it
        await gate.reached()
        gate.open()
        answer = await peer.hear("agent_response")
        assert (answer.content, answer.status, answer.reasoning_steps) == ("¡Hola! 😀", "completed", [])
    (request,) = model.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "m1", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5,
        "messages": [{"role": "system", "content": "Be brief."}, user("Hi")],
    }  # fmt: skip


async def test_a_session_is_remembered_for_its_user_alone(model: ModelServer, anyio_backend: str) -> None:
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        model.answers.extend([says("One", "."), says("Two.")])
        await asked(peer, "1?", session_id="a", user_id="ana")
        await asked(peer, "2?", session_id="a", user_id="ana")
        await asked(peer, "3?", session_id="a", user_id="ana")
        await asked(peer, "4?", session_id="b", user_id="ana")
        await asked(peer, "5?", session_id="a", user_id="eva")
    sent = [request.body["messages"] for request in model.requests]
    first, second = [user("1?"), assistant("One.")], [user("2?"), assistant("Two.")]
    assert sent[:3] == [[user("1?")], [*first, user("2?")], [*first, *second, user("3?")]]
    assert sent[3:] == [[user("4?")], [user("5?")]]
    assert "authorization" not in model.requests[0].headers


async def test_what_has_failed_or_was_cancelled_is_not_remembered(model: ModelServer, anyio_backend: str) -> None:
    gate = Gate()
    model.answers.extend([Answer([chunk("par"), BREAK]), Answer([chunk("partial"), gate]), says("whole")])
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        assert (await asked(peer, "1?")).type == "error"
        peer.say("chat_message", content="2?", id="m2", stream=True)
        await peer.hear("agent_chunk", content="partial")
        peer.say("cancel", correlation_id="m2")
        assert (await peer.hear("agent_response")).status == "cancelled"
        await asked(peer, "3?")
        await asked(peer, "4?")
    assert model.requests[-1].body["messages"] == [user("3?"), assistant("whole"), user("4?")]


async def test_runs_at_once_in_one_session_do_not_disturb_each_others_history(
    model: ModelServer, anyio_backend: str
) -> None:
    gates = [Gate(), Gate()]
    model.answers.append(says("zero"))
    model.answers.extend(Answer([chunk("an"), gate, chunk("swer"), chunk(finish="stop"), DONE]) for gate in gates)
    agent = OpenAIAgent("m1", url=model.url)

    async def ask(question: str) -> None:
        assert [piece async for piece in agent.chat(question, session_id="s")] == ["an", "swer"]

    with anyio.fail_after(20):
        assert [piece async for piece in agent.chat("0?", session_id="s")] == ["zero"]
        async with anyio.create_task_group() as tasks:
            for question, gate in zip(("1?", "2?"), gates, strict=True):
                tasks.start_soon(ask, question)
                await gate.reached()
            for gate in reversed(gates):
                gate.open()
        async for _ in agent.chat("3?", session_id="s"):
            pass
        await agent.aclose()
    *before, last = [request.body["messages"] for request in model.requests]
    zero = [user("0?"), assistant("zero")]
    assert before[1:] == [[*zero, user("1?")], [*zero, user("2?")]]
    assert last[:2] == zero
    pairs = [last[2:4], last[4:6]]
    assert sorted(pairs, key=str) == [[user("1?"), assistant("answer")], [user("2?"), assistant("answer")]]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_comes_as_steps_by_the_paragraph(name: str, model: ModelServer, anyio_backend: str) -> None:
    thoughts = ["A gree", "ting.\n", "\nSo I ", "greet.\n", "\n", "x" * 300, "y" * 300, "z\n"]
    model.answers.append(
        Answer([*(chunk(**{name: text}) for text in thoughts), chunk("¡Hola!"), chunk(finish="stop"), DONE])
    )
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        steps = ["A greeting.", "So I greet.", "x" * 300 + "y" * 300, "z"]
        for step in steps:
            said = await peer.hear("agent_step")
            assert (said.kind, said.content) == ("reasoning", step)
        answer = await peer.hear("agent_response")
        assert (answer.content, answer.reasoning_steps) == ("¡Hola!", steps)


async def test_an_answer_that_reached_its_limit_says_so(model: ModelServer, anyio_backend: str) -> None:
    model.answers.append(Answer([chunk("Once upon", reasoning=None), chunk(finish="length"), DONE]))
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        answer = await asked(peer)
        assert (answer.content, answer.status, answer.reasoning_steps) == ("Once upon", "completed", [CUT_SHORT])
        await asked(peer, "Go on")
    assert model.requests[-1].body["messages"] == [user("?"), assistant("Once upon"), user("Go on")]


JSON = {"Content-Type": "application/json; charset=utf-8"}


def whole(**message: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}).encode()


ENDS: dict[str, Answer] = {
    "an event that is cut anywhere": Answer([chunk("¡Hola")[:-3], chunk("¡Hola")[-3:], chunk("!"), DONE]),
    "a character that is cut": Answer([chunk("¡Hola!")[:79], chunk("¡Hola!")[79:], DONE]),
    "no [DONE]": Answer([chunk("¡Hola!", finish="stop")]),
    "no reason": Answer([chunk("¡Hola!"), DONE]),
    "broken behind its end": Answer([chunk("¡Hola!", finish="stop"), BREAK]),
    "broken behind [DONE]": Answer([chunk("¡Hola!"), DONE, BREAK]),
    "carriage returns, comments, names": Answer(
        [b": ping\r\n\r\nevent: x\r\nid: 7\r\n" + chunk("¡Hola!").replace(b"\n", b"\r\n") + b"data:\r\n\r\n" + DONE]
    ),
    "data in several lines": Answer([b'data: {"choices":\ndata: [{"delta":{"content":"\xc2\xa1Hola!"}}]}\n\n' + DONE]),
    "unknown fields, empty choices": Answer(
        [event({"choices": [], "x": [1]}), chunk("¡Hola!", y={}), event({"choices": None, "usage": {}}), DONE]
    ),
    "other types of content": Answer([chunk("¡Hola!"), DONE], headers={"Content-Type": "text/plain"}),
    "in one piece": Answer([whole(content="¡Hola!", reasoning_content="")], headers=JSON),
    "in one piece, which is cut": Answer([whole(content="¡Hola!")[:50], whole(content="¡Hola!")[50:]], headers=JSON),
}


@pytest.mark.parametrize("name", ENDS)
async def test_streams_of_every_kind_are_understood(name: str, model: ModelServer, anyio_backend: str) -> None:
    model.answers.append(ENDS[name])
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        answer = await asked(peer, stream=True)
        assert (answer.type, answer.content) == ("agent_response", "¡Hola!")
        assert (await asked(peer)).content == "Hello"
    assert model.requests[-1].body["messages"][1] == assistant("¡Hola!")


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def counted(read: object, written: object) -> bytes:
    """The event with the numbers of tokens; there are no choices in it."""
    return event({"choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": 0}})


async def said_by(agent: OpenAIAgent) -> list[str | AgentStep | AgentReply]:
    try:
        return [piece async for piece in agent.chat("?")]
    finally:
        await agent.aclose()


async def test_the_tokens_that_the_server_counts_come_with_the_whole_answer(model: ModelServer) -> None:
    model.answers.append(Answer([chunk("Hel"), chunk("lo"), chunk(finish="stop"), counted(12, 2), DONE]))
    assert await said_by(OpenAIAgent("m1", url=model.url)) == [
        "Hel", "lo", AgentReply("Hello", input_tokens=12, output_tokens=2),
    ]  # fmt: skip


async def test_tokens_are_charged_to_the_budget(model: ModelServer, anyio_backend: str) -> None:
    ends = [chunk("¡Hola!"), chunk(finish="stop"), counted(900, 101), DONE]
    model.answers.extend([Answer(ends), Answer(ends)])
    budget = {"unit": "tokens", "per_day": 2000, "reserve": 1000}
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend, agent={"budget": budget}) as manager:
        peer = Peer(manager)
        assert (await asked(peer, stream=True)).content == "¡Hola!"
        assert (await asked(peer)).error_code == "RATE_LIMIT"
    assert len(model.requests) == 1


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_does_not_know_how_to_count_is_asked_without(model: ModelServer, status: int) -> None:
    model.answers.append(Answer([b"{}"], status=status, headers=JSON))
    agent = OpenAIAgent("m1", url=model.url)
    assert await said_by(agent) == ["Hello"]
    assert await said_by(agent) == ["Hello"]
    assert ["stream_options" in request.body for request in model.requests] == [True, False, False]


async def test_a_request_that_is_wrong_in_itself_does_not_change_what_is_asked(model: ModelServer) -> None:
    model.answers.extend([Answer([b"{}"], status=400, headers=JSON)] * 2)
    agent = OpenAIAgent("m1", url=model.url)
    with pytest.raises(AgentFailure) as caught:
        await said_by(agent)
    assert caught.value.reason == "refused"
    assert await said_by(agent) == ["Hello"]
    assert ["stream_options" in request.body for request in model.requests] == [True, False, True]


async def test_what_the_parameters_say_of_it_holds(model: ModelServer) -> None:
    model.answers.append(Answer([b"{}"], status=400, headers=JSON))
    agent = OpenAIAgent("m1", url=model.url, parameters={"stream_options": {"include_usage": False}})
    with pytest.raises(AgentFailure):
        await said_by(agent)
    assert [request.body["stream_options"] for request in model.requests] == [{"include_usage": False}]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BUSY, AWAY, REFUSED = Fault.AGENT_BUSY, Fault.AGENT_UNAVAILABLE, Fault.AGENT_REFUSED
SECRET = b'{"error": {"message": "hush: the key sk-secret-key may not use this model"}}'


def status(number: int, **headers: str) -> Answer:
    fields = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Answer([SECRET], status=number, headers=fields)


FAILURES: dict[str, tuple[Answer, Fault, float | None]] = {
    "400": (status(400), REFUSED, None),
    "401": (status(401), REFUSED, None),
    "403": (status(403), REFUSED, None),
    "404": (status(404), REFUSED, None),
    "408": (status(408), AWAY, None),
    "422": (status(422), REFUSED, None),
    "a redirect": (status(307, Location="/v1/elsewhere"), REFUSED, None),
    "429": (status(429), BUSY, None),
    "429 with seconds": (status(429, Retry_After="7"), BUSY, 7),
    "429 with milliseconds": (status(429, Retry_After="7", Retry_After_ms="1250.5"), BUSY, 1.2505),
    "429 with nonsense": (status(429, Retry_After="soon", Retry_After_ms="-1"), BUSY, None),
    "429 with a date that has passed": (status(429, Retry_After=formatdate(0, usegmt=True)), BUSY, 0),
    "500": (status(500), AWAY, None),
    "503 with seconds": (status(503, Retry_After="120"), AWAY, 120),
    "529": (status(529), AWAY, None),
    "nothing": (Answer(), AWAY, None),
    "no end": (Answer([chunk("Once")]), AWAY, None),
    "broken": (Answer([chunk("Once"), BREAK]), AWAY, None),
    "broken at once": (Answer([BREAK]), AWAY, None),
    "no JSON": (Answer([chunk("Once"), b"data: {hush\n\n", DONE]), AWAY, None),
    "no UTF-8": (Answer([b'data: {"choices": "\xff"}\n\n', DONE]), AWAY, None),
    "wrong JSON": (Answer([event({"choices": [{"delta": {"content": 7}}]}), DONE]), AWAY, None),
    "a page": (Answer([b"<html>hush</html>"], headers={"Content-Type": "text/html"}), AWAY, None),
    "an event without end": (Answer([b"data: ", *[b" " * 65536] * 17, chunk("Once")[6:], DONE]), AWAY, None),
    "an error": (Answer([chunk("Once"), event({"error": {"message": "hush"}}), DONE]), AWAY, None),
    "an error in one word": (Answer([event({"error": "hush"}), DONE]), AWAY, None),
    "an error that is busy": (Answer([event({"error": {"message": "hush", "code": 429}}), DONE]), BUSY, None),
    "an error that refuses": (Answer([event({"error": {"message": "hush", "code": "400"}}), DONE]), REFUSED, None),
    "a filter": (Answer([chunk("Once"), chunk(finish="content_filter"), DONE]), REFUSED, None),
    "an empty body": (Answer([], headers=JSON), AWAY, None),
    "a body without choices": (Answer([b'{"choices": [], "x": "hush"}'], headers=JSON), AWAY, None),
    "a body that is an error": (Answer([SECRET], headers=JSON), AWAY, None),
    "a body without end": (Answer([*[b" " * 65536] * 257, whole(content="hush")], headers=JSON), AWAY, None),
}  # fmt: skip


@pytest.mark.row("G2")
@pytest.mark.clause("C12")
@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_says_whether_to_ask_again_and_nothing_of_its_cause(
    name: str, model: ModelServer, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    script, fault, wait = FAILURES[name]
    asked_twice = script.status in (400, 422)  # a second time without what the server may not know
    model.answers.extend([script] * (2 if asked_twice else 1))
    caplog.set_level(logging.INFO)
    agent = OpenAIAgent("m1", url=f"{model.url}?version=hush", key=KEY, system="hush")
    async with serving(agent, anyio_backend, logging={"log_agent_errors": True}) as manager:
        peer = Peer(manager)
        error = await asked(peer, "hush", stream=True)
        assert (error.error_code, error.error_message) == ("AGENT_ERROR", fault.value.text)
        assert error.details.keys() == ({"error_id"} if wait is None else {"error_id", "retry_after"})
        assert error.details.get("retry_after") == wait
        (ended,) = [record.getMessage() for record in caplog.records if record.name == "qaws.run"]
        assert "raised=AgentFailure" in ended
        assert "127.0.0.1" in ended
        if name[:3].isdigit():
            assert f"answered {name[:3]}" in ended
        qaws = [record.getMessage() for record in caplog.records if record.name.startswith("qaws")]
        assert not [line for line in [*qaws, repr(error), repr(agent)] if "hush" in line or "secret" in line]
        assert (await asked(peer, "again")).content == "Hello"  # the next one is served
    assert model.requests[-1].body["messages"] == [{"role": "system", "content": "hush"}, user("again")]
    assert model.requests[-1].path == "/v1/chat/completions?version=hush"


async def test_a_date_to_come_back_is_told_in_seconds(model: ModelServer, anyio_backend: str) -> None:
    soon = datetime.fromtimestamp(int(datetime.now(UTC).timestamp()) + 1000, UTC)
    model.answers.append(status(503, Retry_After=format_datetime(soon, usegmt=True)))
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        wait = (await asked(Peer(manager))).details["retry_after"]
        assert 900 < wait <= 1000


async def test_a_server_that_is_not_there_is_unavailable(anyio_backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with serving(OpenAIAgent("m1", url=f"http://127.0.0.1:{port}"), anyio_backend) as manager:
        error = await asked(Peer(manager))
        assert (error.error_message, list(error.details)) == (AWAY.value.text, ["error_id"])


@pytest.mark.row("G8")
@pytest.mark.parametrize("where", ["before the head", "in the stream"])
async def test_a_cancel_closes_the_request_at_once(where: str, anyio_backend: str) -> None:
    gate = Gate()
    script = Answer([chunk("so far"), gate]) if where == "in the stream" else Answer([gate], headers={})
    with ModelServer(script) as model:
        async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
            peer = Peer(manager)
            peer.say("chat_message", content="?", id="m1", stream=True)
            await gate.reached()
            if where == "in the stream":
                await peer.hear("agent_chunk")
            assert not model.disconnected.is_set()
            peer.say("cancel", correlation_id="m1")
            assert (await peer.hear("agent_response")).status == "cancelled"
            await happened(model.disconnected)
            assert (await asked(peer)).content == "Hello"


@pytest.mark.row("G1")
async def test_a_model_that_falls_silent_is_the_gateways_to_end(model: ModelServer, anyio_backend: str) -> None:
    model.answers.append(Answer([chunk("so far"), Gate()]))
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend, agent={"timeout": 1}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        await peer.hear("agent_chunk")
        assert (await peer.hear("error")).error_code == "AGENT_TIMEOUT"
        await happened(model.disconnected)


@pytest.mark.row("G3")
async def test_an_answer_that_grows_too_large_closes_the_request(model: ModelServer, anyio_backend: str) -> None:
    # The generator is left where it gave a piece, not where it waits for one.
    model.answers.append(Answer([*[chunk("x" * 600)] * 4, Gate()]))
    agent = OpenAIAgent("m1", url=model.url)
    async with serving(agent, anyio_backend, agent={"max_response_size": 1024}) as manager:
        assert (await asked(Peer(manager))).error_code == "RESPONSE_TOO_LARGE"
        await happened(model.disconnected)


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_connection_is_used_again_and_closed_in_the_end(model: ModelServer, anyio_backend: str) -> None:
    agent = OpenAIAgent("m1", url=model.url)
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        for _ in range(3):
            await asked(peer)
        assert [request.connection for request in model.requests] == [1, 1, 1]
    with anyio.fail_after(20):
        assert [piece async for piece in agent.chat("?")] == ["Hello"]  # it stays usable
        await agent.aclose()
        await agent.aclose()
    assert model.requests[-1].connection == 2


async def test_a_connection_is_used_again_though_the_end_of_its_stream_came_late(
    model: ModelServer, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "TAIL", 20)
    gate = Gate()
    model.answers.append(Answer([chunk("¡Hola!"), DONE, gate]))
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", stream=True)
        await peer.hear("agent_chunk")
        await gate.reached()
        gate.open()
        await peer.hear("agent_response")
        await asked(peer)
    assert [request.connection for request in model.requests] == [1, 1]


async def test_a_stream_that_stays_open_behind_its_end_is_left(model: ModelServer, anyio_backend: str) -> None:
    model.answers.append(Answer([chunk("¡Hola!"), DONE, Gate()]))
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        assert (await asked(Peer(manager))).content == "¡Hola!"
        await happened(model.disconnected)


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio")])
def test_one_agent_serves_one_event_loop_after_the_other(backends: tuple[str, str], model: ModelServer) -> None:
    agent = OpenAIAgent("m1", url=model.url)

    async def ask() -> list[str | AgentStep | AgentReply]:
        try:
            return [piece async for piece in agent.chat("?")]
        finally:
            await agent.aclose()

    for backend in backends:
        assert anyio.run(ask, backend=backend) == ["Hello"]


def test_one_agent_serves_two_event_loops_at_once(model: ModelServer) -> None:
    gate = Gate()
    model.answers.append(Answer([chunk("slow"), gate, chunk(finish="stop"), DONE]))
    agent = OpenAIAgent("m1", url=model.url)

    async def ask_and_close() -> list[str | AgentStep | AgentReply]:
        try:
            return [piece async for piece in agent.chat("?", session_id="other")]
        finally:
            await agent.aclose()

    async def ask() -> list[str | AgentStep | AgentReply]:
        said: list[str | AgentStep | AgentReply] = []
        with anyio.fail_after(20):
            async for piece in agent.chat("?"):
                said.append(piece)
                await gate.reached()
                said += await anyio.to_thread.run_sync(lambda: anyio.run(ask_and_close, backend="trio"))
                gate.open()
            await agent.aclose()
        return said

    assert anyio.run(ask) == ["slow", "Hello"]


async def test_neither_a_proxy_nor_a_cookie_comes_between(
    model: ModelServer, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    model.answers.append(says("Hello"))
    model.answers[0].headers["Set-Cookie"] = "user=ana; Path=/"
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        peer = Peer(manager)
        for _ in range(2):
            assert (await asked(peer)).content == "Hello"
    assert "cookie" not in model.requests[1].headers


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_server_proves_who_it_is(
    trusted: bool, tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority("the endpoint's")
    issued, known = authority.issue(tmp_path), tmp_path / "authority.pem"
    known.write_text(authority.pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(issued.cert_file, issued.key_file)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(known))
    with ModelServer(tls=tls) as model:
        async with serving(OpenAIAgent("m1", url=model.url, key=KEY), anyio_backend) as manager:
            end = await asked(Peer(manager))
        assert end.type == ("agent_response" if trusted else "error")
        assert len(model.requests) == int(trusted)


# ── how one is made ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
async def test_the_address_may_be_the_base_or_the_endpoint(end: str, model: ModelServer, anyio_backend: str) -> None:
    async with serving(OpenAIAgent("m1", url=model.url + end), anyio_backend) as manager:
        await asked(Peer(manager))
    assert model.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "url",
    ["", "localhost:11434/v1", "ftp://localhost/v1", "http://", "https:///v1", "http://localhost:99999/v1",
     "http://localhost\n/v1", "http://a..b/v1", "http://user:hush@localhost/v1", "http://localhost/v1#hush",
     "http://localhost/v1?key=hush", "http://localhost/v1?v=1&API-Key=hush", "http://localhost/v1?api_key=hush",
     "http://localhost/v1?access_token=hush", "http://localhost/v1?code=hush", "http://localhost/v1?sig=hush"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(AgentError, match="the address of an OpenAI-compatible server") as caught:
        OpenAIAgent("m1", url=url)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": ""}, "the name of a model is missing"),
        ({"model": "\udcff"}, "have to fit into JSON"),
        ({"system": "\udcff"}, "have to fit into JSON"),
        ({"parameters": {"stop": {"a"}}}, "have to fit into JSON"),
        ({"parameters": {"temperature": float("nan")}}, "have to fit into JSON"),
        ({"history_messages": -1}, "limits of the history"),
        ({"history_characters": -1}, "limits of the history"),
        ({"history_sessions": -1}, "limits of the history"),
        ({"connect_timeout": 0}, "the time to connect"),
        ({"connect_timeout": float("nan")}, "the time to connect"),
        ({"key": "hush\nhush"}, "OPENAI_API_KEY"),
        ({"key": "hush hush"}, "OPENAI_API_KEY"),
        ({"key": "hüsh"}, "OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_used_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentError, match=said) as caught:
        OpenAIAgent(**{"model": "m1", **given})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTPS_PROXY", "junk://hush", "HTTPS_PROXY"),
        ("ALL_PROXY", "http://hush:port", "ALL_PROXY"),
        ("ALL_PROXY", "socks5://hush", "socksio"),
        ("SSL_CERT_FILE", "/hush/absent.pem", "cannot be read.*SSL_CERT_FILE"),
        ("SSL_CERT_FILE", __file__, "cannot be read.*SSL_CERT_FILE"),
    ],
)
def test_what_cannot_be_used_of_the_environment_is_said_at_the_start(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(AgentError, match=said) as caught:
        OpenAIAgent("m1")
    assert "hush" not in str(caught.value)
    OpenAIAgent("m1", url="http://localhost/v1")  # neither is needed for this very machine


async def test_the_address_keeps_what_else_is_asked_for_in_it(model: ModelServer, anyio_backend: str) -> None:
    async with serving(OpenAIAgent("m1", url=f"{model.url}?api-version=2024-10-21"), anyio_backend) as manager:
        await asked(Peer(manager))
    assert model.requests[0].path == "/v1/chat/completions?api-version=2024-10-21"


@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.example.com/v1", True), ("http://localhost:1/v1", True), ("http://127.0.0.2/v1", True),
        ("http://[::1]/v1", True), ("http://box.localhost/v1", True), ("http://192.0.2.1/v1", False),
        ("http://example.com/v1", False), ("http://localhost.example.com/v1", False), ("http://0.0.0.0/v1", False),
    ],
)  # fmt: skip
def test_a_key_leaves_this_machine_encrypted_or_not_at_all(
    url: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    if kept:
        assert KEY not in repr(OpenAIAgent("m1", url=url))
    else:
        with pytest.raises(AgentError, match=r"would go to .* unencrypted: use an https address"):
            OpenAIAgent("m1", url=url)
        OpenAIAgent("m1", url=url, allow_insecure_key=True)
    OpenAIAgent("m1", url=url, key="")


async def test_the_key_comes_from_the_environment(
    model: ModelServer, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    async with serving(OpenAIAgent("m1", url=model.url), anyio_backend) as manager:
        await asked(Peer(manager))
    async with serving(OpenAIAgent("m1", url=model.url, key=""), anyio_backend) as manager:
        await asked(Peer(manager))
    assert [request.headers.get("authorization") for request in model.requests] == [f"Bearer {KEY}", None]


async def test_one_is_found_by_its_name(model: ModelServer, anyio_backend: str) -> None:
    agent = load_agent("openai:llama3.1:8b", url=model.url, system="Be brief.")
    assert isinstance(agent, OpenAIAgent)
    assert repr(load_agent("openai:gpt")) == "OpenAIAgent('gpt', host='api.openai.com')"
    async with serving(agent, anyio_backend) as manager:
        await asked(Peer(manager))
    assert model.requests[0].body["model"] == "llama3.1:8b"
    assert model.requests[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
    for url, system in (("http://localhost", None), (None, "Be brief.")):
        with pytest.raises(AgentError, match="'echo' takes no address and no system prompt"):
            load_agent("echo", url=url, system=system)
