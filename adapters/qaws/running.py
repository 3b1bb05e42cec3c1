"""Running the agent: the node starts, holds back and cancels runs, and is told their ends.

On asyncio a run takes its first step at once (`eager`), and an agent that never waits needs no more; else, and on trio,
each run has a task.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel

from qaws_proto.effects import CancelRun, Note, PauseRun, ResumeRun, StartRun
from qaws_proto.inputs import Input, RunChunk, RunFailed, RunFinished, RunStarted, RunStep

from .agents import PIECES, Agent, AgentFailure, AgentReply, AgentStep
from .eager import EagerTasks, on_trio
from .host import Spawn, start_task

if TYPE_CHECKING:
    from .telemetry.traces import Traces

_UNTRACED = nullcontext()
YIELD_EVERY = 32  # pieces of an agent that never waits, after which others get their turn


class AgentRuns:
    """An agent, and its runs."""

    def __init__(self, feed: Callable[[Input], None], note: Callable[[Note], None], traces: Traces | None) -> None:
        self.agent: Agent | None = None
        self._feed = feed
        self._note = note
        self._traces = traces
        self._tasks: EagerTasks | None = None
        self._loop: object = None
        self.active: dict[str, _ActiveRun] = {}  # by run id
        self.starting: deque[StartRun] = deque()  # those that `begin` has to begin
        self.beginning = False  # first steps are being taken

    def attach(self, spawn: Spawn) -> None:
        """The event loop, on which runs are tasks from now on."""
        self._tasks = EagerTasks(spawn)
        self._loop = _event_loop()

    def start(self, run: StartRun) -> None:
        """Call the agent with the next `begin`, behind all that goes with the start; a cancel may be among it."""
        assert self.agent is not None
        active = self.active[run.run_id] = _ActiveRun()
        if self._traces is not None:
            active.traced = self._traces.start(run, self.agent.name)
        self.starting.append(run)

    def begin(self) -> None:
        """Begin what was started. What is started meanwhile waits for its turn, and not on top of who starts it."""
        self.beginning = True
        try:
            while self.starting:
                self._begin(self.starting.popleft())
        finally:
            self.beginning = False

    def _begin(self, run: StartRun) -> None:
        assert self._tasks is not None
        active = self.active[run.run_id]
        self._tasks.begin(self._run(run, active), active)

    def release(self) -> None:
        """No run starts any more."""
        if self._tasks is not None:
            self._tasks.release()

    @property
    def parked(self) -> bool:
        """Whether there is a task that waits for a run."""
        return self._tasks is not None and self._tasks.carrier is not None

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

    async def _run(self, run: StartRun, active: _ActiveRun) -> None:
        """One run of the agent. However it ends, the node is told once (C8)."""
        assert self.agent is not None
        end: Input | None = RunFailed(run.run_id)
        try:
            with active.traced:
                if not active.cancelled:
                    end = await self._call(self.agent, run, active)
        except GeneratorExit:
            end = None
            raise
        finally:
            del self.active[run.run_id]
            if end is not None:
                self._feed(end)

    async def _call(self, agent: Agent, run: StartRun, active: _ActiveRun) -> Input:
        def started() -> None:
            self._feed(RunStarted(run.run_id))

        try:
            answer = await agent.run(run.content, run, partial(self._emit, run.run_id, active), started)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _event_loop() is not self._loop:  # ours has ended without us
                raise
            # An agent may raise anything, its own CancelledError and SystemExit too; only a real cancellation goes on.
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled(active):
                raise
            return _failed(run.run_id, error)
        if type(answer) is str:
            return RunFinished(run.run_id, answer)
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

    __slots__ = ("cancelled", "resumed", "stop", "traced", "yielded")

    def __init__(self) -> None:
        self.cancelled = False
        self.stop: Callable[[], object] | None = None  # once it has begun
        self.resumed: anyio.Event | None = None  # set while the node wants no more pieces
        self.yielded = 0
        self.traced: AbstractContextManager[None] = _UNTRACED  # what the agent runs in

    def cancel(self) -> None:
        """Tell the agent to stop, at once or as soon as it begins."""
        self.cancelled = True
        if self.stop is not None:
            self.stop()


def _failed(run_id: str, error: BaseException) -> RunFailed:
    """The end of a run whose agent raised, with its advice where it gave some."""
    if not isinstance(error, AgentFailure):
        return RunFailed(run_id, error)
    given = vars(error)  # what a subclass makes of the names may raise in its turn, or never have been set
    return RunFailed(run_id, error, given.get("reason"), given.get("retry_after"))


def _cancelled(active: _ActiveRun) -> bool:
    """Whether the run, or what it is part of, has been told to stop."""
    return active.cancelled or anyio.current_effective_deadline() == float("-inf")


def _event_loop() -> object:
    """What tells one event loop from others; None where none runs."""
    if on_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _tuple(texts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """What an agent gave as its steps or tools. Whether they are texts is the node's to judge (G4)."""
    return tuple(texts) if isinstance(texts, list) else texts
