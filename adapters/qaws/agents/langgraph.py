"""Compiled graphs of LangGraph (1 or later) whose state has `messages`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langgraph.pregel import Pregel

from .bridge import Bridge, FrameworkAgent, Piece
from .interface import RunContext
from .memory import name_of
from .steps import Reasoning, reply, tool_finished, tool_started


class LangGraphAgent(FrameworkAgent):
    """A compiled graph. Where it has a checkpointer, each session is a thread of its own there."""

    def __init__(self, graph: Pregel[Any, Any, Any, Any], bridge: Bridge | None = None) -> None:
        super().__init__(bridge)
        self._graph = graph

    async def answer(self, message: str, context: RunContext) -> AsyncGenerator[Piece, None]:
        """One run: what models say in its nodes, token by token, and the tools that they call."""
        run = _Messages()
        events: Any = self._graph.astream(
            {"messages": [("user", message)]},
            {"configurable": {"thread_id": name_of(context), "user_id": context.user_id}},
            stream_mode=["messages", "updates"],
        )
        async with aclosing(events):
            async for mode, event in events:
                if mode == "messages":
                    for piece in run.pieces(event[0]):
                        yield piece
                else:  # a node is done
                    if "__interrupt__" in event:
                        raise RuntimeError("the graph waits for a human, which cannot be done here")
                    for piece in run.calls():
                        yield piece
        if run.usage is not None:
            yield reply(run.said, run.usage)


class Usage(NamedTuple):
    """Tokens that models have read and written."""

    input_tokens: int
    output_tokens: int


class _Messages:
    """The messages of one run, read."""

    def __init__(self) -> None:
        self._reasoning = Reasoning()
        self._whole: dict[str | None, AIMessage] = {}  # of this node, so far; arguments of tools come by the token
        self._tools: dict[str | None, str] = {}  # their names, by the id of the call
        self.said = ""
        self.usage: Usage | None = None  # of all models that told theirs

    def pieces(self, message: BaseMessage) -> Iterator[Piece]:
        """What a message, or a token of one, means to a client."""
        if isinstance(message, ToolMessage):
            name = message.name or self._tools.get(message.tool_call_id)
            yield tool_finished(name, message.text, failed=message.status == "error")
        elif isinstance(message, AIMessage):
            before = self._whole.get(message.id)
            if isinstance(before, AIMessageChunk) and isinstance(message, AIMessageChunk):
                self._whole[message.id] = before + message
            else:
                self._whole[message.id] = message
            for block in message.content_blocks:
                if block["type"] == "reasoning":
                    yield from self._reasoning.add(block.get("reasoning", ""))
            if message.text:
                yield from self._reasoning.flush()
                self.said += str(message.text)
                yield str(message.text)

    def calls(self) -> Iterator[Piece]:
        """The tool calls of the messages that are whole now."""
        yield from self._reasoning.flush()
        for message in self._whole.values():
            if message.usage_metadata is not None:
                before = self.usage or Usage(0, 0)
                told = message.usage_metadata
                self.usage = Usage(
                    before.input_tokens + told["input_tokens"], before.output_tokens + told["output_tokens"]
                )
            for call in message.tool_calls:
                self._tools[call["id"]] = call["name"]
                yield tool_started(call["name"], call["args"])
        self._whole.clear()
