"""Agents of Pydantic AI (2 or later)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from pydantic_ai import AgentRunResultEvent, DeferredToolRequests
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
)

from .bridge import Bridge, FrameworkAgent, Piece
from .interface import RunContext
from .memory import Memory, key_of
from .steps import Reasoning, reply, text_of, tool_finished, tool_started


class PydanticAgent(FrameworkAgent):
    """A Pydantic AI agent, with the messages of a session's newest turns as its history."""

    def __init__(self, agent: AbstractAgent[Any, Any], bridge: Bridge | None = None) -> None:
        super().__init__(bridge)
        self._agent = agent
        self._memory: Memory[list[ModelMessage]] = Memory()

    async def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        """One run. Output that is no text is the answer as its JSON."""
        reasoning, said = Reasoning(), ""
        history = [each for turn in self._memory.recall(key_of(context)) for each in turn]
        async with self._agent.run_stream_events(message, message_history=history) as events:
            async for event in events:
                match event:
                    case (
                        PartStartEvent(part=ThinkingPart(content=text))
                        | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text))
                    ):
                        for step in reasoning.add(text or ""):
                            yield step
                        continue
                for step in reasoning.flush():
                    yield step
                match event:
                    case (
                        PartStartEvent(part=TextPart(content=text))
                        | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                    ):
                        said += text
                        yield text
                    case FunctionToolCallEvent(part=call):
                        yield tool_started(call.tool_name, call.args)
                    case FunctionToolResultEvent(part=part):
                        yield tool_finished(part.tool_name, part.content, failed=part.outcome != "success")
                    case AgentRunResultEvent(result=result):
                        output = _text(result.output)
                        self._memory.add(key_of(context), result.new_messages())
                        yield reply(said if said.endswith(output) else output, result.usage)


def _text(output: object) -> str:
    if isinstance(output, DeferredToolRequests):
        raise RuntimeError("the run waits for a human to approve a tool call, which cannot be done here")
    return text_of(output)
