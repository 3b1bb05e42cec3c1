"""What counts as an agent, how each form is called, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws.agents import PIECES, Agent, AgentError, AgentReply, AgentStep, RunContext, echo, load_agent

pytestmark = pytest.mark.anyio

CONTEXT = RunContext("run-1", "session-1", "user-1", stream=True, metadata={"lang": "es"})
STEP = AgentStep("tool_started", "search", "weather")
REPLY = AgentReply("hola", ["thought"], ("search",))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def call(agent: object, message: str = "hola") -> tuple[list[object], object]:
    """What an agent yields, and what it returns."""
    pieces: list[object] = []

    async def emit(piece: object) -> None:
        pieces.append(piece)

    with anyio.fail_after(10):
        answer = await Agent(agent, threads=4).run(message, CONTEXT, emit, lambda: None)
    return pieces, answer


# ── the forms of an agent ────────────────────────────────────────────────────────────────────────────────────────────


async def async_function(message: str) -> str:
    await anyio.lowlevel.checkpoint()
    return f"{message}!"


def sync_function(message: str) -> str:
    return f"{message}!"


async def async_pieces(message: str) -> AsyncIterator[object]:
    yield message
    yield STEP
    yield "!"


def sync_pieces(message: str) -> Iterator[object]:
    yield message
    yield STEP
    yield "!"


def sync_iterator(message: str) -> Iterator[object]:
    return iter([message, STEP, "!"])


async def async_pieces_and_reply(message: str) -> AsyncIterator[object]:
    yield message
    yield REPLY


def sync_pieces_and_reply(message: str) -> Iterator[object]:
    yield message
    yield REPLY


def returns_a_coroutine(message: str) -> Awaitable[str]:
    return async_function(message)


def returns_pieces(message: str) -> AsyncIterator[object]:
    return async_pieces(message)


async def resolves_to_pieces(message: str) -> AsyncIterator[object]:
    return async_pieces(message)


class Iterable:
    """What streaming clients of model providers return: no iterator itself."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __aiter__(self) -> AsyncIterator[object]:
        return async_pieces(self.message)


def nothing_sync(message: str) -> None:
    return


async def nothing_async(message: str) -> None:
    return


class AsyncChat:
    async def chat(self, message: str) -> str:
        return f"{message}!"


class SyncChat:
    def chat(self, message: str) -> str:
        return f"{message}!"


class ReplyingChat:
    async def chat(self, message: str) -> AgentReply:
        return REPLY


class YieldingChat:
    async def chat(self, message: str) -> AsyncIterator[object]:
        yield message
        yield STEP
        yield "!"


class StaticChat:
    @staticmethod
    async def chat(message: str) -> str:
        return f"{message}!"


class Called:
    async def __call__(self, message: str) -> str:
        return f"{message}!"


class CalledSync:
    def __call__(self, message: str) -> str:
        return f"{message}!"


class HoldsAChat:
    """`chat` is no method but something callable."""

    def __init__(self) -> None:
        self.chat = Called()


def decorated(function: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(function)
    def wrapper(message: str) -> Any:
        return function(message)

    return wrapper


def runs_its_own_loop(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """A plain function around a coroutine, which blocks: it must not be called on the event loop."""

    @functools.wraps(function)
    def wrapper(message: str) -> Any:
        return asyncio.run(function(message))

    return wrapper


async def exclaim_in_asyncio(message: str) -> str:
    await asyncio.sleep(0)
    return f"{message}!"


ANSWERS: dict[str, tuple[object, tuple[list[object], object]]] = {
    "async function": (async_function, ([], "hola!")),
    "sync function": (sync_function, ([], "hola!")),
    "lambda": (lambda message: f"{message}!", ([], "hola!")),
    "async generator": (async_pieces, (["hola", STEP, "!"], PIECES)),
    "sync generator": (sync_pieces, (["hola", STEP, "!"], PIECES)),
    "sync iterator": (sync_iterator, (["hola", STEP, "!"], PIECES)),
    "async iterable": (Iterable, ([], PIECES)),  # a class: replaced below
    "async generator with a reply": (async_pieces_and_reply, (["hola"], REPLY)),
    "sync generator with a reply": (sync_pieces_and_reply, (["hola"], REPLY)),
    "sync function that returns a coroutine": (returns_a_coroutine, ([], "hola!")),
    "sync function that returns pieces": (returns_pieces, (["hola", STEP, "!"], PIECES)),
    "async function that returns pieces": (resolves_to_pieces, (["hola", STEP, "!"], PIECES)),
    "async chat": (AsyncChat(), ([], "hola!")),
    "sync chat": (SyncChat(), ([], "hola!")),
    "chat that replies": (ReplyingChat(), ([], REPLY)),
    "chat that yields": (YieldingChat(), (["hola", STEP, "!"], PIECES)),
    "static chat": (StaticChat(), ([], "hola!")),
    "bound method": (AsyncChat().chat, ([], "hola!")),
    "async callable object": (Called(), ([], "hola!")),
    "sync callable object": (CalledSync(), ([], "hola!")),
    "object that holds a callable chat": (HoldsAChat(), ([], "hola!")),
    "partial of an async function": (functools.partial(async_function), ([], "hola!")),
    "partial of a sync function": (functools.partial(sync_function), ([], "hola!")),
    "decorated async function": (decorated(async_function), ([], "hola!")),
    "decorated generator": (decorated(async_pieces), (["hola", STEP, "!"], PIECES)),
    "coroutine behind a blocking wrapper": (runs_its_own_loop(exclaim_in_asyncio), ([], "hola!")),
    "function without a `return`": (nothing_sync, ([], None)),
    "async function without a `return`": (nothing_async, ([], None)),
    "generator without a piece": (lambda message: iter(()), ([], PIECES)),
    "built-in function": (str.upper, ([], "HOLA")),
}
ANSWERS["async iterable"] = (lambda message: Iterable(message), (["hola", STEP, "!"], PIECES))


@pytest.mark.parametrize("form", ANSWERS)
async def test_each_form_of_an_agent_answers(form: str) -> None:
    agent, expected = ANSWERS[form]
    assert await call(agent) == expected


async def test_echo_answers_with_every_character_it_was_told() -> None:
    for message in ("¿Cómo estás?", "  two  spaces ", "\n\t", "one"):
        pieces, answer = await call(echo, message)
        assert ("".join(map(str, pieces)), answer) == (message, PIECES)


# ── the run's context ────────────────────────────────────────────────────────────────────────────────────────────────


async def wants_the_context(message: str, context: RunContext) -> RunContext:
    return context


def wants_it_by_keyword(message: str, *, context: RunContext) -> RunContext:
    return context


async def wants_names(
    message: str, session_id: str, user_id: str, *, run_id: str, stream: bool, metadata: Any
) -> object:
    return RunContext(run_id, session_id, user_id, stream, metadata)


class ChatWithContext:
    async def chat(self, message: str, context: RunContext) -> RunContext:
        return context


class CallWithContext:
    def __call__(self, message: str, context: RunContext) -> RunContext:
        return context


async def prefixed(prefix: str, message: str, context: RunContext) -> RunContext:
    return context


@pytest.mark.parametrize(
    "agent",
    [
        wants_the_context,
        wants_it_by_keyword,
        wants_names,
        ChatWithContext(),
        CallWithContext(),
        functools.partial(prefixed, ">"),
    ],
)
async def test_an_agent_gets_the_context_it_asks_for(agent: object) -> None:
    assert await call(agent) == ([], CONTEXT)


async def test_parameters_with_defaults_are_left_alone_and_the_first_one_is_the_message() -> None:
    async def agent(context: str, limit: int = 3, *rest: object, **options: object) -> object:
        return context, limit, rest, options

    assert await call(agent) == ([], ("hola", 3, (), {}))


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def takes_nothing() -> str:
    return ""


def takes_keywords_only(*, message: str) -> str:
    return message


def asks_for_too_much(message: str, database: object) -> str:
    return message


def asks_by_position(message: str, user_id: str, /) -> str:
    return message


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        (None, "an object of type NoneType is no agent: it has no `chat` method and cannot be called"),
        (42, "an object of type int is no agent"),
        ("echo", "an object of type str is no agent"),
        (AsyncChat, "AsyncChat is a class; give an instance of it"),
        (takes_nothing, "takes_nothing takes no message"),
        (takes_keywords_only, "takes_keywords_only takes no message"),
        (asks_for_too_much, "asks_for_too_much asks for 'database'; besides the message an agent may ask for context"),
        (asks_by_position, "asks_by_position asks for 'user_id'"),
        (functools.partial(asks_for_too_much), "partial asks for 'database'"),
    ],
)
def test_what_is_no_agent_is_refused_with_the_reason(agent: object, text: str) -> None:
    with pytest.raises(AgentError) as refused:
        Agent(agent, threads=1)
    assert text in str(refused.value)


# ── threads, cancellation, cleaning up ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("G6")
async def test_a_blocking_agent_runs_in_a_thread_of_which_there_are_no_more_than_allowed() -> None:
    main, entered, leave = threading.get_ident(), threading.Semaphore(0), threading.Event()
    threads: set[int] = set()
    within = threading.Semaphore(2)
    started: list[int] = []

    def agent(message: str) -> str:
        assert within.acquire(blocking=False)
        threads.add(threading.get_ident())
        entered.release()
        assert leave.wait(10)
        within.release()
        return message

    async def emit(piece: object) -> None:
        raise AssertionError("it yields nothing")

    pool = Agent(agent, threads=2)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(pool.run, f"{number}", CONTEXT, emit, lambda number=number: started.append(number))
            for _ in range(2):
                await anyio.to_thread.run_sync(entered.acquire)
            assert len(started) == 2  # the third waits, and is told to have begun only when it does
            leave.set()
    assert len(started) == 3
    assert main not in threads


@pytest.mark.parametrize("blocking", [False, True])
async def test_what_is_left_of_a_generator_is_closed_when_its_run_is_cancelled(blocking: bool) -> None:
    closed = threading.Event()

    def sync_endless(message: str) -> Iterator[str]:
        try:
            while True:
                yield message
        finally:
            closed.set()

    async def async_endless(message: str) -> AsyncIterator[str]:
        try:
            while True:
                yield message
        finally:
            closed.set()

    emitted = 0
    with anyio.fail_after(10), anyio.CancelScope() as scope:

        async def emit(piece: object) -> None:
            nonlocal emitted
            emitted += 1
            if emitted == 3:
                scope.cancel()
            await anyio.lowlevel.checkpoint()

        await Agent(sync_endless if blocking else async_endless, threads=1).run("x", CONTEXT, emit, lambda: None)
    assert scope.cancelled_caught
    assert emitted == 3
    assert closed.is_set()


@pytest.mark.row("G2")
async def test_a_keyboard_interrupt_that_a_blocking_agent_raises_is_its_error() -> None:
    def agent(message: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        await call(agent)


# ── agents by name ───────────────────────────────────────────────────────────────────────────────────────────────────


MODULE = """
import functools

class Bot:
    async def chat(self, message):
        return f"bot: {message}"

class Needy:
    def __init__(self, model):
        pass

async def answer(message):
    return f"answer: {message}"

def make():
    return Bot()

async def make_later():
    return Bot()

class Namespace:
    bot = Bot()

bot = Bot()
number = 42
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user, and one beside it that misses another."""
    (tmp_path / "some_agents.py").write_text(MODULE)
    (tmp_path / "broken_agents.py").write_text("import a_module_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "some_agents"
    for name in ("some_agents", "broken_agents"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        ("bot", "bot: hola"),
        ("Bot", "bot: hola"),
        ("make", "bot: hola"),
        ("answer", "answer: hola"),
        ("Namespace.bot", "bot: hola"),
    ],
)
async def test_an_object_a_class_or_a_factory_is_found_by_its_name(module: str, attribute: str, answer: str) -> None:
    assert await call(load_agent(f"{module}:{attribute}")) == ([], answer)


def test_echo_is_found_by_its_name() -> None:
    assert load_agent("echo") is echo


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "some_agents",
            "'some_agents' names no agent; give `echo`, `openai:MODEL`, `module:attribute` or `agno:module:attribute`",
        ),
        ("some_agents:", "names no agent"),
        (":bot", "names no agent"),
        ("", "names no agent"),
        (".some_agents:bot", "names no agent"),
        ("no_such_module:bot", "there is no module 'no_such_module'"),
        ("some_agents.inner:bot", "there is no module 'some_agents.inner'"),
        ("some_agents:robot", "some_agents has no 'robot'"),
        ("some_agents:bot:chat", "some_agents has no 'bot:chat'"),
        ("some_agents:Namespace.robot", "some_agents has no 'robot'"),
        ("some_agents:Needy", "Needy cannot be made: missing a required argument: 'model'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_with_where_it_ended(module: str, spec: str, text: str) -> None:
    with pytest.raises(AgentError) as refused:
        load_agent(spec)
    assert text in str(refused.value)


def test_a_factory_that_has_to_be_awaited_is_no_agent(module: str) -> None:
    with pytest.raises(AgentError, match="make_later takes no message"):
        Agent(load_agent(f"{module}:make_later"), threads=1)


def test_a_module_that_misses_another_says_which(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_nobody_has"):
        load_agent("broken_agents:bot")
