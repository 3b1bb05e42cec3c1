"""Agents and teams of Agno (3.1 or later)."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from .bridge import Bridge, FrameworkAgent, Piece
from .interface import AgentReply, AgentStep, RunContext
from .memory import name_of
from .steps import Reasoning, reply, text_of, tool_finished, tool_started

if TYPE_CHECKING:
    from agno.agent import Agent
    from agno.team import Team

_LOGGERS = (  # Agno's own; the longer names are used instead where a program has set them up
    "agno", "agno-team", "agno-workflow", "agno.agno", "agno.agno-team", "agno.agno-workflow", "agno.utils.http",
)  # fmt: skip
_ENDS = ("RunCompleted", "RunError", "RunCancelled", "RunPaused")


class AgnoAgent(FrameworkAgent):
    """An Agno agent or team. What it remembers of a session is its own affair."""

    def __init__(self, agent: Agent | Team, bridge: Bridge | None = None) -> None:
        """`agent` tells Agno's makers nothing of its runs from now on, nor do a team's members.

        Agno's own log says in this process only where something happened, unless Agno's debug mode is on (C12).
        """
        super().__init__(bridge)
        self._agent = agent
        _switch_telemetry_off(agent)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_without_text)

    async def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        """One run. It is read to its very end: Agno stores a run that is left before as a cancelled one."""
        run = _Events(context.run_id)
        events: Any = self._agent.arun(
            message, stream=True, stream_events=True,
            session_id=name_of(context), user_id=context.user_id, run_id=context.run_id,
        )  # fmt: skip
        async with aclosing(events):
            async for event in events:
                for piece in run.pieces(event):
                    yield piece
        yield run.reply()


class _Events:
    """The events of one run, read: pieces and steps as they come, and how it ended."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._reasoning = Reasoning()
        self._finished: set[str] = set()  # tool calls; one that failed is told twice
        self._end: Any = None  # the first event that ends the run: a completed one follows a cancelled one

    def pieces(self, event: Any) -> Iterator[str | AgentStep]:
        """What an event means to a client. Of a team's members only the steps do."""
        kind = event.event.removeprefix("Team")
        if kind == "ReasoningContentDelta" and event.reasoning_content:
            yield from self._reasoning.add(event.reasoning_content)
        elif kind == "RunContent" and event.run_id == self._run_id:
            if event.reasoning_content:
                yield from self._reasoning.add(event.reasoning_content)
            if event.content is not None:
                yield from self._reasoning.flush()
                yield text_of(event.content)
        elif kind == "ReasoningStep":
            yield from self._reasoning.flush()
            yield AgentStep("reasoning", content=_step_text(event.content))
        elif kind == "ToolCallStarted":
            yield from self._reasoning.flush()
            yield tool_started(event.tool.tool_name, event.tool.tool_args)
        elif kind in ("ToolCallCompleted", "ToolCallError") and event.tool.tool_call_id not in self._finished:
            self._finished.add(event.tool.tool_call_id)
            failed = kind == "ToolCallError" or bool(event.tool.tool_call_error)
            yield tool_finished(event.tool.tool_name, event.tool.result, failed=failed)
        elif kind in _ENDS and event.run_id == self._run_id and self._end is None:
            yield from self._reasoning.flush()
            self._end = event

    def reply(self) -> AgentReply:
        """The whole answer. Raises RuntimeError where the run ended in any other way than with one."""
        end = self._end
        kind = None if end is None else end.event.removeprefix("Team")
        if kind == "RunCompleted":
            return reply("" if end.content is None else text_of(end.content), end.metrics)
        if kind == "RunError":
            raise RuntimeError(f"the run failed: {end.error_type}: {end.content}")
        if kind == "RunCancelled":
            raise RuntimeError(f"Agno cancelled the run: {end.reason}")
        if kind == "RunPaused":
            raise RuntimeError("the run waits for a human to approve a tool call, which cannot be done here")
        raise RuntimeError("the run ended without an event that says how")


def _step_text(step: Any) -> str:
    """A `ReasoningStep` of Agno's."""
    return "\n".join(text for text in (step.title, step.reasoning, step.action, step.result) if text)


def _switch_telemetry_off(agent: Agent | Team) -> None:
    agent.telemetry = False
    members = getattr(agent, "members", None)  # or a function that makes them, for each run
    for member in members if isinstance(members, list | tuple) else ():
        _switch_telemetry_off(member)


def _without_text(record: logging.LogRecord) -> bool:
    """Keep of a record its level, its place, and the type of what was raised: texts quote providers, tools and users.

    Not in Agno's debug mode: it is asked for, by a program or by `AGNO_DEBUG`, and is all about texts.
    """
    if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
        raised = sys.exc_info()[0]
        what = "a text" if raised is None else raised.__name__
        record.msg = f"{_place()}: {what} (withheld: Agno's debug mode shows it)"
        record.args = ()
        record.exc_info = record.exc_text = record.stack_info = None
    return True


def _place() -> str:
    """What has logged, behind the functions by which Agno does."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("logging", "agno.utils.log"):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__')}:{frame.f_lineno}"
