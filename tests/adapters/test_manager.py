"""The manager on asyncio and on trio: effects in order, agents of every temper, one end for each run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from qaws import (
    AgentError,
    AgentFailure,
    AgentReply,
    AgentStep,
    ConfigError,
    RunContext,
    WebSocketConfig,
    WebSocketManager,
)
from qaws.manager import PIECE
from qaws_proto.faults import Fault
from qaws_proto.inputs import BytesReceived, ConnectionLost, WriteBlocked, WriteDrained

from .peers import Peer, Recorded, driven, open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def serving(agent: object, backend: str, /, **sections: Any) -> AsyncIterator[Recorded]:
    manager = Recorded(open_config(**sections), agent=agent)
    with anyio.fail_after(10):
        async with driven(manager, backend):
            yield manager


async def echo(message: str) -> str:
    return message


# ── effects and inputs ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C4")
async def test_effects_are_performed_in_order(anyio_backend: str) -> None:
    async with serving(echo, anyio_backend) as manager:
        peer = Peer(manager)
        manager.feed(BytesReceived(peer.number, b"\x88\x82\x00\x00\x00\x00\x03\xe8"))  # its Close, with code 1000
        manager.feed(ConnectionLost(peer.number))
        assert peer.done == ["send", "send", "close_write", "drop"]  # 101 and greeting, our Close, and the end
        assert peer.close_code == 1000


async def test_inputs_fed_while_effects_are_performed_wait_for_their_turn(anyio_backend: str) -> None:
    class Meddler(Peer):
        """Reports another connection as lost from within `send`."""

        def send(self, data: bytes) -> None:
            super().send(data)
            manager.feed(ConnectionLost(other.number))
            self.seen = list(other.done)

    async with serving(echo, anyio_backend) as manager:
        other = Peer(manager)
        meddler = Meddler(manager)
        assert "drop" not in meddler.seen  # not while the effects of this turn were performed
        assert other.done[-1] == "drop"  # but right after it


async def test_a_turn_writes_once(anyio_backend: str) -> None:
    """Acknowledgements go out before an agent is called, and all answers of agents that never wait together."""

    async def agent(message: str) -> str:
        called.append(list(peer.done))
        return message

    called: list[list[str]] = []
    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="first")  # on asyncio the next runs begin at once
        await peer.hear("agent_response")
        await anyio.wait_all_tasks_blocked()
        called.clear()
        peer.done.clear()
        peer.say_all(*(("chat_message", {"content": name, "id": name}) for name in "abc"))
        assert [(await peer.hear("agent_response")).content for _ in "abc"] == ["a", "b", "c"]
        assert called[0] == ["send"]
        assert peer.done == (["send"] * 2 if anyio_backend == "asyncio" else ["send"] * 4)


async def test_a_turn_of_the_event_loop_writes_once_to_each_connection(anyio_backend: str) -> None:
    """However many inputs it had; what closes or drops a connection writes first."""
    later: list[Callable[[], None]] = []
    async with serving(echo, anyio_backend) as manager:
        peer, other = Peer(manager), Peer(manager)
        manager._soon = later.append
        for one in (peer, other):
            one.done.clear()
        for number in range(3):
            peer.say("ping", id=str(number))
            other.say("ping", id=str(number))
        assert (peer.done, other.done, len(later)) == ([], [], 1)
        later.pop()()
        assert (peer.done, other.done, later) == (["send"], ["send"], [])
        assert [(await peer.hear("pong")).id for _ in range(3)] == ["0", "1", "2"]
        peer.say("ping", id="last")
        manager.feed(ConnectionLost(peer.number))
        assert peer.done == ["send", "send", "drop"]
        other.say("ping", id="last")
        manager.feed(BytesReceived(other.number, b"\x88\x82\x00\x00\x00\x00\x03\xe8"))  # its Close
        assert other.done == ["send", "send", "close_write"]
        assert (await other.hear("pong", id="last")).id == "last"
        assert len(later) == 1
        later.pop()()  # nothing is left to write


async def test_a_write_has_so_many_bytes_and_no_more(anyio_backend: str) -> None:
    class Measuring(Peer):
        def send(self, data: bytes) -> None:
            written.append(len(data))
            super().send(data)

    async def agent(message: str) -> AsyncIterator[str]:
        for _ in range(10):
            yield "x" * 30_000

    written: list[int] = []
    async with serving(agent, anyio_backend, agent={"roll_up": 0}) as manager:
        peer = Measuring(manager)
        peer.say("chat_message", content="?", stream=True)
        assert (await peer.hear("agent_response")).content == "x" * 300_000
        pieces = [size for size in written if size < 300_000]
        assert sum(pieces) > 300_000
        assert max(pieces) <= PIECE


async def test_a_mistake_of_an_adapter_leaves_the_manager_usable(anyio_backend: str) -> None:
    async with serving(echo, anyio_backend) as manager:
        with pytest.raises(ValueError, match="was never opened"):
            manager.feed(BytesReceived(99, b""))
        peer = Peer(manager)
        peer.say("chat_message", content="hola")
        assert (await peer.hear("agent_response")).content == "hola"


async def test_what_waits_behind_a_mistake_comes_before_what_is_fed_later(anyio_backend: str) -> None:
    dropped: list[int] = []

    class Leaving(Peer):
        """Says that it is dropped, and what it makes happen meanwhile."""

        meanwhile: tuple[int, ...] = ()

        def drop(self) -> None:
            dropped.append(self.number)
            for number in self.meanwhile:
                manager.feed(ConnectionLost(number))

    async with serving(echo, anyio_backend) as manager:
        first, second, third = Leaving(manager), Leaving(manager), Leaving(manager)
        first.meanwhile = (99, second.number)
        with pytest.raises(ValueError, match="was never opened"):
            manager.feed(ConnectionLost(first.number))
        manager.feed(ConnectionLost(third.number))
        assert dropped == [first.number, second.number, third.number]


FORKING = """
import os, sys
from qaws.ids import random_id

drawn = [random_id()]
child = os.fork()
if child:
    os.waitpid(child, 0)
print(*(random_id() for _ in range(100)), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_gives_other_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=True)
    given = done.stdout.split()
    assert len(given) == len(set(given)) == 200
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in given)


# ── what agents give ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_pieces_steps_and_a_reply_become_the_answer(anyio_backend: str) -> None:
    async def agent(message: str) -> AsyncIterator[object]:
        yield AgentStep("reasoning", None, "thinking")
        yield AgentStep("tool_started", "search", "weather")
        yield "sun"
        yield "ny"
        yield AgentReply("sunny", ["done"], ["search", "map"])

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", id="m1", stream=True)
        assert (await peer.hear("agent_step")).kind == "reasoning"
        assert (await peer.hear("agent_step")).name == "search"
        assert (await peer.hear("agent_chunk")).content == "sun"
        answer = await peer.hear("agent_response")
        assert (answer.content, answer.correlation_id, answer.status) == ("sunny", "m1", "completed")
        assert (answer.reasoning_steps, answer.tools_used) == (["thinking", "done"], ["search", "map"])


async def test_the_context_is_that_of_the_run(anyio_backend: str) -> None:
    seen: list[RunContext] = []

    def agent(message: str, context: RunContext) -> str:
        seen.append(context)
        return ""

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", user_id="user123", session_id="session456", metadata={"lang": "es"})
        answer = await peer.hear("agent_response")
    assert seen == [RunContext(answer.run_id, "session456", "user123", False, {"lang": "es"})]


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Unmade(AgentFailure):
    def __init__(self) -> None:
        return


class Spiteful(AgentFailure):
    def __getattribute__(self, name: str) -> Any:
        if name in ("reason", "retry_after"):
            raise ValueError("secret")
        return super().__getattribute__(name)


def recurse(message: str) -> str:
    return recurse(message)


ERRORS: dict[str, BaseException] = {
    "Exception": ValueError("secret"),
    "BaseException": BaseException("secret"),
    "ExceptionGroup": ExceptionGroup("secret", [ValueError("secret"), KeyError("secret")]),
    "BaseExceptionGroup": BaseExceptionGroup("secret", [SystemExit(3)]),
    "CancelledError": asyncio.CancelledError("secret"),
    "SystemExit": SystemExit(3),
    "GeneratorExit": GeneratorExit("secret"),
    "StopIteration": StopIteration("secret"),
    "StopAsyncIteration": StopAsyncIteration("secret"),
    "TimeoutError": TimeoutError("secret"),
    "without a text": Wordless(),
    "AgentFailure made wrong": Unmade(),
    "AgentFailure that fails": Spiteful("busy", "secret"),
}


def raising(error: BaseException, form: str) -> object:
    """An agent of that form that raises the error, but answers to `again`."""

    def check(message: str) -> str:
        if message != "again":
            raise error.with_traceback(None)
        return message

    async def coroutine(message: str) -> str:
        return check(message)

    async def pieces(message: str) -> AsyncIterator[str]:
        yield "partial "
        yield check(message)

    def blocking_pieces(message: str) -> Iterator[str]:
        yield "partial "
        yield check(message)

    return {"blocking": check, "coroutine": coroutine, "pieces": pieces, "blocking pieces": blocking_pieces}[form]


@pytest.mark.row("G2")
@pytest.mark.parametrize("form", ["coroutine", "blocking", "pieces", "blocking pieces"])
@pytest.mark.parametrize("name", ERRORS)
async def test_whatever_an_agent_raises_ends_its_run_and_the_next_message_is_served(
    name: str, form: str, anyio_backend: str
) -> None:
    async with serving(raising(ERRORS[name], form), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="now", id="m1")
        error = await peer.hear("error")
        assert (error.error_code, error.correlation_id, list(error.details)) == ("AGENT_ERROR", "m1", ["error_id"])
        assert "secret" not in repr(error)
        assert manager.ends_of(error.run_id) == 1
        peer.say("chat_message", content="again")
        assert (await peer.hear("agent_response")).content.endswith("again")
        assert manager.gateway.runs == 0


@pytest.mark.row("G2")
@pytest.mark.clause("C12")
@pytest.mark.parametrize("form", ["coroutine", "blocking", "pieces", "blocking pieces"])
async def test_an_agent_may_say_why_it_failed_and_when_to_ask_again(form: str, anyio_backend: str) -> None:
    failure = AgentFailure("busy", "secret", retry_after=1.5)
    assert str(failure) == "secret"
    async with serving(raising(failure, form), anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="now", id="m1")
        error = await peer.hear("error")
        assert (error.error_code, error.error_message) == ("AGENT_ERROR", Fault.AGENT_BUSY.value.text)
        assert error.details == {"error_id": error.details["error_id"], "retry_after": 1.5}
        assert "secret" not in repr(error)


@pytest.mark.row("G2")
async def test_a_recursion_without_end_is_an_agents_error(anyio_backend: str) -> None:
    async with serving(recurse, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        assert (await peer.hear("error")).error_code == "AGENT_ERROR"


@pytest.mark.row("G2")
async def test_an_agent_that_cancels_itself_ends_alone(anyio_backend: str) -> None:
    async def agent(message: str) -> str:
        if message == "again":
            return message
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        if anyio_backend == "asyncio":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()
        raise TimeoutError

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        assert (await peer.hear("error")).error_code == "AGENT_ERROR"
        peer.say("chat_message", content="again")
        assert (await peer.hear("agent_response")).content == "again"


Reply: Any = AgentReply  # of what an agent without types gives it


@pytest.mark.row("G4")
@pytest.mark.parametrize(
    "given",
    [None, 42, b"bytes", ["list"], Reply(None), Reply(42), Reply("x", None), Reply("x", "abc"), Reply("x", [1]),
     Reply("x", (), [None]), object(), AgentStep],
    ids=lambda given: type(given).__name__,  # the same in every process, unlike what repr says of an object()
)  # fmt: skip
async def test_what_is_no_text_is_an_agents_error(given: object, anyio_backend: str) -> None:
    async def agent(message: str) -> object:
        return message if message == "again" else given

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        assert (await peer.hear("error")).error_code == "AGENT_ERROR"
        peer.say("chat_message", content="again")
        assert (await peer.hear("agent_response")).content == "again"


@pytest.mark.row("G4")
@pytest.mark.parametrize("blocking", [False, True])
async def test_a_generator_may_say_nothing_and_a_blocking_agent_may_not(blocking: bool, anyio_backend: str) -> None:
    async def pieces(message: str) -> AsyncIterator[str]:
        for _ in range(0):
            yield message

    def blocking_pieces(message: str) -> Iterator[str]:
        yield from ()

    def forgetful(message: str) -> None:
        return

    async with serving(blocking_pieces if blocking else pieces, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?")
        answer = await peer.hear("agent_response")
        assert (answer.content, answer.status) == ("", "completed")
        manager.set_qa_agent(forgetful)
        peer.say("chat_message", content="?")
        assert (await peer.hear("error")).error_code == "AGENT_ERROR"


# ── cancelling, holding back, taking turns ───────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G8")
@pytest.mark.clause("C8")
async def test_a_cancelled_run_stops_its_agent_and_ends_once(anyio_backend: str) -> None:
    stopped = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        if message == "again":
            yield message
            return
        yield "so far"
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="?", id="m1", stream=True)
        await peer.hear("agent_chunk")
        peer.say("cancel", correlation_id="m1")
        answer = await peer.hear("agent_response")
        assert (answer.status, answer.content) == ("cancelled", "so far")
        await stopped.wait()
        peer.say("chat_message", content="again")
        assert (await peer.hear("agent_response")).content == "again"
        assert manager.ends_of(answer.run_id) == 1


async def test_a_run_that_is_cancelled_before_its_task_begins_never_calls_the_agent(anyio_backend: str) -> None:
    called: list[str] = []

    async def agent(message: str) -> str:
        called.append(message)
        return message

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        chat: dict[str, Any] = {"content": "never", "id": "m1"}
        peer.say_all(
            ("chat_message", chat), ("cancel", {"correlation_id": "m1"}), ("chat_message", {"content": "next"})
        )
        answer = await peer.hear("agent_response")
        assert answer.status == "cancelled"
        assert (await peer.hear("agent_response")).content == "next"
        assert called == ["next"]
        assert manager.ends_of(answer.run_id) == 1


@pytest.mark.row("G5")
async def test_the_next_message_is_served_though_an_agent_ignores_its_cancellation(anyio_backend: str) -> None:
    await outlast_a_stubborn_agent(anyio_backend)


@pytest.mark.row("G5")
def test_the_same_on_an_event_loop_that_anyio_has_not_started() -> None:
    # Where sniffio is installed, anyio does not know the event loop in a callback of it.
    asyncio.run(outlast_a_stubborn_agent("asyncio"))


async def outlast_a_stubborn_agent(backend: str) -> None:
    # The timer that gives the agent up starts the next run: from a callback of the event loop, not from a task.
    entered, release = anyio.Event(), anyio.Event()

    async def agent(message: str) -> str:
        if message == "stubborn":
            entered.set()
            with anyio.CancelScope(shield=True):
                await release.wait()
        return message

    async with serving(agent, backend, agent={"cancel_grace": 0.02}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="stubborn", id="m1")
        peer.say("chat_message", content="next", id="m2")
        await entered.wait()
        peer.say("cancel", correlation_id="m1")
        assert (await peer.hear("agent_response", correlation_id="m2")).content == "next"
        assert manager.gateway.runs == 1  # it keeps its place
        release.set()
        peer.say("chat_message", content="last", id="m3")
        await peer.hear("agent_response", correlation_id="m3")
        while manager.gateway.runs:
            await anyio.lowlevel.checkpoint()


@pytest.mark.row("G1")
async def test_an_agent_that_hangs_is_cancelled_by_the_timer(anyio_backend: str) -> None:
    async def agent(message: str) -> str:
        if message == "hang":
            await anyio.sleep_forever()
        return message

    async with serving(agent, anyio_backend, agent={"timeout": 0.02}) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="hang")
        peer.say("chat_message", content="next")
        assert (await peer.hear("error")).error_code == "AGENT_TIMEOUT"
        assert (await peer.hear("agent_response")).content == "next"


@pytest.mark.row("C1")
@pytest.mark.parametrize("blocking", [False, True])
async def test_an_agent_is_not_pulled_while_its_reader_is_behind(blocking: bool, anyio_backend: str) -> None:
    pulled = 0
    pieces, size = 40, 200

    def count() -> str:
        nonlocal pulled
        pulled += 1
        return "x" * size

    async def async_agent(message: str) -> AsyncIterator[str]:
        for _ in range(pieces):
            yield count()

    def sync_agent(message: str) -> Iterator[str]:
        for _ in range(pieces):
            yield count()

    limits = {"out_high": 1024, "out_top": 1024 * 1024}
    agent = sync_agent if blocking else async_agent
    async with serving(agent, anyio_backend, limits=limits, agent={"roll_up": 0}) as manager:
        peer = Peer(manager)
        peer.held = []
        manager.feed(WriteBlocked(peer.number))
        peer.say("chat_message", content="?", stream=True)
        (run,) = manager._runs.active.values()
        while run.resumed is None:  # until the node has said that it wants no more
            await anyio.lowlevel.checkpoint()
        held_back = pulled
        for _ in range(100):  # nothing more comes, however long one waits
            await anyio.lowlevel.checkpoint()
        assert held_back == pulled < pieces / 2
        peer.read_on()
        manager.feed(WriteDrained(peer.number))
        assert (await peer.hear("agent_response")).content == "x" * size * pieces
        assert pulled == pieces


async def test_an_agent_that_never_waits_lets_others_have_their_turn(anyio_backend: str) -> None:
    answered = anyio.Event()

    async def agent(message: str) -> AsyncIterator[str]:
        yield message
        while message == "endless" and not answered.is_set():
            yield ""

    async with serving(agent, anyio_backend) as manager:
        peer = Peer(manager)
        peer.say("chat_message", content="endless", session_id="a")
        peer.say("chat_message", content="short", session_id="b")
        assert (await peer.hear("agent_response")).content == "short"
        answered.set()
        assert (await peer.hear("agent_response")).content == "endless"


async def test_runs_end_when_the_event_loop_stops_them(anyio_backend: str) -> None:
    begun = anyio.Event()

    async def agent(message: str) -> str:
        begun.set()
        await anyio.sleep_forever()
        return message

    async with serving(agent, anyio_backend) as manager:
        Peer(manager).say("chat_message", content="?")
        await begun.wait()
        assert manager.gateway.runs == 1
    assert manager.gateway.runs == 0


# ── setting up ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_set_qa_agent_decides_who_answers_from_then_on(anyio_backend: str) -> None:
    def says(text: str) -> Callable[[str], Awaitable[str]]:
        async def agent(message: str) -> str:
            return text

        return agent

    async with serving(says("first"), anyio_backend) as manager:
        peer = Peer(manager)
        for text in ("first", "second"):
            manager.set_qa_agent(says(text))
            peer.say("chat_message", content="?")
            assert (await peer.hear("agent_response")).content == text
        with pytest.raises(AgentError):
            manager.set_qa_agent(None)
        peer.say("chat_message", content="?")
        assert (await peer.hear("agent_response")).content == "second"


class NoHost:
    def spawn(self, function: object, *arguments: object) -> None:
        raise AssertionError

    def soon(self, function: object) -> None:
        raise AssertionError

    def wake_at(self, deadline: float | None) -> None:
        return


def test_a_manager_without_an_agent_is_not_served() -> None:
    manager = WebSocketManager(open_config(metrics={"enabled": False}))
    with pytest.raises(ConfigError, match="no agent is set"):
        manager.attach(NoHost())
    manager.set_qa_agent(echo)
    manager.attach(NoHost())
    with pytest.raises(RuntimeError, match="given to a server before; a server is started once"):
        manager.attach(NoHost())


@pytest.mark.row("D6")
def test_a_manager_that_would_let_everybody_in_is_not_served() -> None:
    config = WebSocketConfig.model_validate(
        {"server": {"host": "0.0.0.0"}, "security": {"authentication": {"enabled": False}}}
    )
    with pytest.raises(ConfigError, match="authentication is off"):
        WebSocketManager(config, agent=echo).attach(NoHost())


@pytest.mark.row("D6")
def test_a_manager_without_a_secret_is_not_made() -> None:
    with pytest.raises(ConfigError, match="there is no secret"):
        WebSocketManager(WebSocketConfig(), agent=echo)


def test_without_a_configuration_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBSOCKET_PORT", "4711")
    monkeypatch.setenv("WEBSOCKET_SECRET_KEY", "a secret of more than thirty-two bytes")
    assert WebSocketManager(agent=echo).config.server.port == 4711
