"""Running the agent: a task for each run, which the node starts, holds back and cancels, and which tells it the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel

from qaws_proto.effects import CancelRun, Note, PauseRun, ResumeRun, StartRun
from qaws_proto.inputs import Input, RunChunk, RunFailed, RunFinished, RunStarted, RunStep

from .agents import PIECES, Agent, AgentFailure, AgentReply, AgentStep, RunContext
from .host import Spawn, start_task

if TYPE_CHECKING:
    from .telemetry.traces import Traces

_UNTRACED = nullcontext()
YIELD_EVERY = 32  # pieces of an agent that never waits, after which others get their turn


class AgentRuns:
    """An agent, and its runs."""

    def __init__(
        self, feed: Callable[[Input], None], note: Callable[[Note], None], performing: Callable[[], bool],
        traces: Traces | None,
    ) -> None:  # fmt: skip
        """`performing` says whether effects of a step are being performed."""
        self.agent: Agent | None = None
        self._feed = feed
        self._note = note
        self._performing = performing
        self._traces = traces
        self._spawn: Spawn | None = None
        self.active: dict[str, _ActiveRun] = {}  # by run id

    def attach(self, spawn: Spawn) -> None:
        """The event loop, on which runs are tasks from now on."""
        self._spawn = spawn

    def start(self, run: StartRun) -> None:
        """Call the agent, in a task of its own."""
        assert self._spawn is not None
        assert self.agent is not None
        active = self.active[run.run_id] = _ActiveRun()
        if self._traces is not None:
            active.traced = self._traces.start(run, self.agent.name)
        self._spawn(self._run, run)

    def cancel(self, effect: CancelRun) -> None:
        """Tell the agent to stop. The end of the run is told to the node all the same."""
        active = self.active.get(effect.run_id)
        if active is not None:
            active.cancel()

    def pause(self, effect: PauseRun) -> None:
        """Take no more pieces."""
        active = self.active.get(effect.run_id)
        if active is not None:
            active.resumed = anyio.Event()

    def resume(self, effect: ResumeRun) -> None:
        """Take pieces again."""
        active = self.active.get(effect.run_id)
        if active is not None and active.resumed is not None:
            active.resumed.set()
            active.resumed = None

    async def close(self, patience: float) -> None:
        """Have the agent close what it holds, in `patience` seconds; then it is let go."""
        agent, closed, scope = self.agent, anyio.Event(), anyio.CancelScope()
        if agent is None:
            return

        async def close() -> None:
            try:
                with scope:
                    await agent.aclose()
            except BaseException as error:  # noqa: BLE001 - it may raise anything, and the server stops all the same
                self._note(Note("node", "ERROR", "agent_not_closed", {}, error))
            finally:
                closed.set()

        start_task(close)  # of its own: what ignores its cancellation must not hold up who stops
        with anyio.move_on_after(patience):
            await closed.wait()
        if not closed.is_set():
            scope.cancel()
            self._note(Note("node", "ERROR", "agent_not_closed", {"seconds": patience}))

    async def _run(self, run: StartRun) -> None:
        """One run of the agent, in a task of its own. However it ends, the node is told once (C8)."""
        assert self.agent is not None
        active = self.active[run.run_id]
        context = RunContext(run.run_id, run.session_id, run.user_id, run.stream, run.metadata)
        end: Input = RunFailed(run.run_id)
        try:
            if self._performing():  # the loop begins tasks at once: first all that goes with the start, a cancel too
                await anyio.lowlevel.checkpoint()
            with active.traced, anyio.CancelScope() as active.scope:
                if not active.cancelled:
                    end = await self._call(self.agent, run, context, active)
        finally:
            del self.active[run.run_id]
            self._feed(end)

    async def _call(self, agent: Agent, run: StartRun, context: RunContext, active: _ActiveRun) -> Input:
        async def emit(piece: object) -> None:
            await self._emit(run.run_id, active, piece)

        def started() -> None:
            self._feed(RunStarted(run.run_id))

        try:
            answer = await agent.run(run.content, context, emit, started)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # An agent may raise anything, its own CancelledError and SystemExit too; only a real cancellation goes on.
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled(active):
                raise
            return _failed(run.run_id, error)
        if answer is PIECES:
            return RunFinished(run.run_id)
        reply = answer if isinstance(answer, AgentReply) else AgentReply(cast(str, answer))
        if reply.content is None:
            return RunFailed(run.run_id, TypeError("the agent answered None: is there a `return` missing?"))
        return RunFinished(
            run.run_id,
            reply.content,
            _tuple(reply.reasoning_steps),
            _tuple(reply.tools_used),
            reply.input_tokens,
            reply.output_tokens,
        )

    async def _emit(self, run_id: str, active: _ActiveRun, piece: object) -> None:
        """A piece or a step for the node. Waits while the node wants no more, and now and then for the others."""
        if isinstance(piece, AgentStep):
            self._feed(RunStep(run_id, piece.kind, piece.name, piece.content))
        else:
            self._feed(RunChunk(run_id, piece))
        active.yielded += 1
        if active.resumed is not None:
            await active.resumed.wait()
        if active.yielded % YIELD_EVERY == 0 or active.cancelled:
            await anyio.lowlevel.checkpoint()


class _ActiveRun:
    """An agent at work: how to cancel it, and how to hold it back."""

    __slots__ = ("cancelled", "resumed", "scope", "traced", "yielded")

    def __init__(self) -> None:
        self.cancelled = False
        self.scope: anyio.CancelScope | None = None  # made by its task: a timer's callback may start a run, not a scope
        self.resumed: anyio.Event | None = None  # set while the node wants no more pieces
        self.yielded = 0
        self.traced: AbstractContextManager[None] = _UNTRACED  # what the agent runs in

    def cancel(self) -> None:
        """Tell the agent to stop, at once or as soon as it begins."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()


def _failed(run_id: str, error: BaseException) -> RunFailed:
    """The end of a run whose agent raised, with its advice where it gave some."""
    if not isinstance(error, AgentFailure):
        return RunFailed(run_id, error)
    given = vars(error)  # what a subclass makes of the names may raise in its turn, or never have been set
    return RunFailed(run_id, error, given.get("reason"), given.get("retry_after"))


def _cancelled(active: _ActiveRun) -> bool:
    """Whether the run, or what it is part of, has been told to stop."""
    return active.cancelled or anyio.current_effective_deadline() == float("-inf")


def _tuple(texts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """What an agent gave as its steps or tools. Whether they are texts is the node's to judge (G4)."""
    return tuple(texts) if isinstance(texts, list) else texts
