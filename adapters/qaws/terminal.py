"""Conversations in a terminal: `qaws chat` and `qaws demo`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from qaws_proto.events import AgentChunk, AgentResponse, AgentStepEvent, ErrorEvent, ServerEvents

from .conversation import Conversation

FAILURE = 1


async def one_shot(conversation: Conversation, message: str, *, stream: bool) -> int:
    """Ask once; the answer on standard output, an error on standard error and in the status."""
    async with conversation:
        return await _print_answer(conversation, message, stream=stream)


async def converse(conversation: Conversation, *, stream: bool) -> int:
    """Ask whatever is typed, until the end of input. Ctrl-C stops an answer, at the prompt it ends the conversation."""
    async with conversation:
        if sys.stdin.isatty():
            print(f"Talking to {conversation.url} as {conversation.user_id}. Ctrl-C stops an answer, Ctrl-D ends.")
        status = 0
        while (line := await _read_line()) is not None:
            if line.strip():
                status = await _print_answer(conversation, line, stream=stream)
        return status


async def print_exchange(conversation: Conversation, question: str) -> None:
    """Ask, and print both sides as they come."""
    print(f"client  {question}", flush=True)
    print("agent   ", end="", flush=True)
    await _print_answer(conversation, question, stream=True)


async def _print_answer(conversation: Conversation, message: str, *, stream: bool) -> int:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, conversation.cancel)
    status, printed = 0, ""
    try:
        async for event in conversation.ask(message, stream=stream):
            if isinstance(event, AgentChunk):
                printed += event.content
                print(_plain(event.content), end="", flush=True)
            elif isinstance(event, AgentStepEvent):
                print(_plain(f"[{event.kind} {event.name or ''}] {event.content or ''}"), file=sys.stderr)
            else:
                status = _print_end(event, printed)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return status


def _print_end(event: ServerEvents, printed: str) -> int:
    """What the last event of an answer adds to what is printed."""
    if isinstance(event, AgentResponse):
        rest = event.content[len(printed) :] if event.content.startswith(printed) else f"\n{event.content}"
        print(_plain(rest) + (" [cancelled]" if event.status == "cancelled" else ""), flush=True)
    elif isinstance(event, ErrorEvent):
        if printed:
            print(flush=True)
        wait = (event.details or {}).get("retry_after")
        again = f"; try again in {wait:g} seconds" if isinstance(wait, int | float) else ""
        print(f"qaws: {event.error_message} ({event.error_code}){again}", file=sys.stderr)
        return FAILURE
    return 0


def _plain(text: str) -> str:
    """Text as a terminal may show it: an agent's answer must not move the cursor or change the screen."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


async def _read_line() -> str | None:
    """A line of input; None at its end. A terminal gets editing and a history that is kept."""
    if not sys.stdin.isatty():
        line = await asyncio.to_thread(sys.stdin.readline)
        return line.rstrip("\n") if line else None
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    session: PromptSession[str] = PromptSession(history=FileHistory(str(_history_file())))
    try:
        return await asyncio.to_thread(session.prompt, "you › ", in_thread=False)
    except (EOFError, KeyboardInterrupt):
        return None


def _history_file() -> Path:
    """Where the history is kept, for this user alone."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "qaws"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = state / "history"
    file.touch(mode=0o600)
    return file
