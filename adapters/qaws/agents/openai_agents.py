"""Agents of the OpenAI Agents SDK (`openai-agents`, imported as `agents`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from agents import Agent, ItemHelpers, RunConfig, Runner, RunResultStreaming, TResponseInputItem
from openai.types.responses import (
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseReasoningTextDeltaEvent,
    ResponseTextDeltaEvent,
)

from .bridge import Bridge, FrameworkAgent, Piece
from .interface import RunContext
from .memory import Memory, key_of
from .steps import Reasoning, reply, text_of, tool_finished, tool_started


class OpenAIAgent(FrameworkAgent):
    """An agent of the SDK, with the items of a session's newest turns as its input. Traces are not sent."""

    def __init__(self, agent: Agent[Any], bridge: Bridge | None = None) -> None:
        super().__init__(bridge)
        self._agent = agent
        self._memory: Memory[list[TResponseInputItem]] = Memory()

    async def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        """One run. Output that is no text is the answer as its JSON."""
        before = [item for turn in self._memory.recall(key_of(context)) for item in turn]
        items = [*before, *ItemHelpers.input_to_new_input_list(message)]
        result = Runner.run_streamed(self._agent, items, run_config=RunConfig(tracing_disabled=True))
        said = ""
        try:
            async for piece in _pieces(result):
                said += piece if isinstance(piece, str) else ""
                yield piece
        finally:  # what works behind the events goes on by itself
            if not result.is_complete:
                result.cancel()
            if result.run_loop_task is not None:
                await asyncio.wait([result.run_loop_task])
        if result.interruptions:
            raise RuntimeError("the run waits for a human to approve a tool call, which cannot be done here")
        self._memory.add(key_of(context), result.to_input_list()[len(before) :])
        output = text_of(result.final_output)
        yield reply(said if said.endswith(output) else output, result.context_wrapper.usage)


async def _pieces(result: RunResultStreaming) -> AsyncGenerator[Piece, None]:
    reasoning = Reasoning()
    names: dict[str | None, str | None] = {}
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            match event.data:
                case ResponseReasoningTextDeltaEvent(delta=text) | ResponseReasoningSummaryTextDeltaEvent(delta=text):
                    for step in reasoning.add(text):
                        yield step
                case ResponseTextDeltaEvent(delta=text):
                    for step in reasoning.flush():
                        yield step
                    yield text
        elif event.type == "run_item_stream_event":
            for step in reasoning.flush():
                yield step
            item = event.item
            if item.type == "tool_call_item":
                names[item.call_id] = item.tool_name
                yield tool_started(item.tool_name, getattr(item.raw_item, "arguments", None))
            elif item.type == "tool_call_output_item":
                yield tool_finished(names.get(item.call_id), item.output)
