"""What an agent is: anything that answers a text. Told apart once, then called in one way."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import anyio.from_thread
import anyio.to_thread

from .frameworks import adapted


class AgentInterface(Protocol):
    """The least an agent can be: an object with `async def chat(self, message: str) -> str`."""

    async def chat(self, message: str) -> str:
        """The answer to a message."""


@dataclass(frozen=True, slots=True)
class AgentReply:
    """A whole answer and how it came about: returned by `chat`, or yielded as the last thing.

    The tokens are those that models have read and written for it, tools included; None where that is not known.
    """

    content: str
    reasoning_steps: tuple[str, ...] | list[str] = ()
    tools_used: tuple[str, ...] | list[str] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class AgentStep:
    """Something an agent does on its way; yield it between pieces of text. Streaming clients see it at once."""

    kind: Literal["reasoning", "tool_started", "tool_finished"]
    name: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class RunContext:
    """What an agent may know of the run it is called for: take a parameter `context`, or any of these by its name."""

    run_id: str
    session_id: str
    user_id: str
    stream: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """What a RunContext is made of: `StartRun`, or such a context."""

    @property
    def run_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


class AgentError(TypeError):
    """This object cannot be called as an agent; the text says why."""


class AgentFailure(Exception):
    """An agent raises this to say why it failed, so that its client is told whether to ask again.

    `reason` is `busy` (too much to do), `unavailable` (broken or out of reach) or `refused` (asking again will not
    help); `retry_after` is seconds, where they are known. `text` is for the log alone, and only where
    `logging.log_agent_errors` lets texts in.
    """

    def __init__(
        self, reason: Literal["busy", "unavailable", "refused"], text: str = "", *, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.retry_after = retry_after


#: What is called first in the thread of a framework, where a run goes on in an empty context; None: nothing.
carried: ContextVar[Callable[[], object] | None] = ContextVar("qaws-carried", default=None)

PIECES = object()  # what `Agent.run` gives where the pieces were the answer
Emit = Callable[[object], Coroutine[Any, Any, None]]
NAME_LENGTH = 128  # characters of an agent's name in traces
_CONTEXT = ("run_id", "session_id", "user_id", "stream", "metadata")


class Agent:
    """An agent made callable in one way, whatever it is. Looks at it once, when it is made."""

    def __init__(self, agent: object, *, threads: int) -> None:
        """`threads` bounds how many blocking calls go on at once (G6). Raises AgentError for what is no agent."""
        self.name = _name_of(agent)
        self._call = _callable_of(adapted(agent))
        self._aclose = getattr(agent, "aclose", None)
        self._wants = _context_parameters(self._call)
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None  # made on the loop that it belongs to
        # What a decorator hides is not asked for: a plain function around a coroutine may well block (`asyncio.run`).
        self._blocking = not (inspect.iscoroutinefunction(self._call) or inspect.isasyncgenfunction(self._call))

    async def run(self, message: str, run: Run, emit: Emit, started: Callable[[], None]) -> object:
        """Call the agent. Pieces and steps go to `emit`, as they come; what it returns is returned, or PIECES.

        `started` is called where the call had to wait for a thread. A blocking agent keeps its thread until it
        returns, cancelled or not: Python cannot stop a thread.
        """
        arguments = self._arguments(run) if self._wants else {}
        if self._blocking:
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(self._threads)
            (result,) = await anyio.to_thread.run_sync(
                self._run_blocking, message, arguments, emit, started, limiter=self._limiter
            )
        else:
            result = self._call(message, **arguments)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, AsyncIterable):
            return await _exhaust(result, emit)
        return result

    async def aclose(self) -> None:
        """Let the agent close what it holds, where it has an `aclose`; once."""
        aclose, self._aclose = self._aclose, None
        if aclose is not None:
            await aclose()

    def _run_blocking(
        self, message: str, arguments: dict[str, Any], emit: Emit, started: Callable[[], None]
    ) -> tuple[Any]:
        """In a thread: call, and where pieces come out pass each on before the next is made.

        What was returned is in a tuple, for trio takes no coroutine out of a thread.
        """
        anyio.from_thread.run_sync(started)
        try:
            result = self._call(message, **arguments)
            return (_exhaust_blocking(result, emit) if isinstance(result, Iterator) else result,)
        except (KeyboardInterrupt, GeneratorExit) as error:
            # The agent's own, since Ctrl-C interrupts the main thread alone; out there they would end more than a run.
            raise RuntimeError(f"the agent raised {type(error).__name__}") from error

    def _arguments(self, run: Run) -> dict[str, Any]:
        context = RunContext(run.run_id, run.session_id, run.user_id, run.stream, run.metadata)
        return {name: context if name == "context" else getattr(context, name) for name in self._wants}


async def _exhaust(pieces: AsyncIterable[object], emit: Emit) -> object:
    """Pass pieces on; an AgentReply among them is the answer. What is left of a generator is closed."""
    answer: object = PIECES
    try:
        async for piece in pieces:
            if isinstance(piece, AgentReply):
                answer = piece
            else:
                await emit(piece)
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    return answer


def _exhaust_blocking(pieces: Iterator[object], emit: Emit) -> object:
    """The same in a thread; a cancelled run ends at its next piece."""
    answer: object = PIECES
    try:
        for piece in pieces:
            if isinstance(piece, AgentReply):
                answer = piece
            else:
                anyio.from_thread.run(emit, piece)
    finally:
        if isinstance(pieces, Generator):
            pieces.close()
    return answer


def _callable_of(agent: object) -> Callable[..., Any]:
    if inspect.isclass(agent):
        raise AgentError(f"{agent.__name__} is a class; give an instance of it")
    chat = getattr(agent, "chat", None)
    call = chat if callable(chat) else agent
    if not callable(call):
        raise AgentError(
            f"an object of type {type(agent).__name__} is no agent: it has no `chat` method and cannot be called"
        )
    if not inspect.isroutine(call) and not isinstance(call, functools.partial):  # an object with __call__: look at that
        call = call.__call__
    return call


def _name_of(agent: object) -> str:
    """The name that an agent gives itself, or that of its function or class."""
    own = getattr(agent, "name", None) or getattr(agent, "__name__", None)
    return (own if isinstance(own, str) else type(agent).__name__)[:NAME_LENGTH]


def _context_parameters(call: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the parameters behind the message that take something of the context."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # built in, without a signature: it gets the message alone
        return ()
    name = getattr(call, "__qualname__", type(call).__name__)
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not variadic:
        raise AgentError(f"{name} takes no message: an agent is called with the text of one")
    wanted = []
    for parameter in parameters:
        if parameter in positional[:1] or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in (*_CONTEXT, "context") and parameter.kind is not parameter.POSITIONAL_ONLY:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise AgentError(
                f"{name} asks for {parameter.name!r}; besides the message an agent may ask for "
                f"context, {', '.join(_CONTEXT)}"
            )
    return tuple(wanted)
