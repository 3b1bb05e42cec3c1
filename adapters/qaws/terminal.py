"""Conversations in a terminal: `qaws chat` and `qaws demo`."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from qaws_proto.events import AgentChunk, AgentResponse, AgentStepEvent, ErrorEvent, ServerEvents

from .conversation import Conversation, MessageError

FAILURE = 1
LINE = 1024 * 1024  # bytes of a piped line; longer ones end the conversation


async def one_shot(conversation: Conversation, message: str, *, stream: bool) -> int:
    """Ask once; the answer on standard output, an error on standard error and in the status."""
    async with conversation:
        with _interrupts(conversation):
            return await _print_answer(conversation, message, stream=stream)


async def converse(conversation: Conversation, *, stream: bool) -> int:
    """Ask whatever is typed, until the end of input. Ctrl-C stops an answer, at the prompt it ends the conversation."""
    async with conversation:
        terminal = sys.stdin.isatty()
        if terminal:
            user = plain(conversation.user_id)
            print(f"Talking to {conversation.url} as {user}. Ctrl-C stops an answer, Ctrl-D ends.")
        status = 0
        with _interrupts(conversation):
            async for line in _typed_lines() if terminal else _piped_lines():
                if line.strip():
                    status = await _print_answer(conversation, line, stream=stream)
        return status


@contextmanager
def _interrupts(conversation: Conversation) -> Iterator[None]:
    """While this lasts, Ctrl-C stops an answer, or where none is heard the task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGINT, lambda: conversation.cancel() or task.cancel())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def print_exchange(conversation: Conversation, question: str) -> None:
    """Ask, and print both sides as they come."""
    print(f"client  {question}", flush=True)
    print("agent   ", end="", flush=True)
    await _print_answer(conversation, question, stream=True)


async def _print_answer(conversation: Conversation, message: str, *, stream: bool) -> int:
    status, printed = 0, ""
    try:
        async for event in conversation.ask(message, stream=stream):
            if isinstance(event, AgentChunk):
                printed += event.content
                print(plain(event.content), end="", flush=True)
            elif isinstance(event, AgentStepEvent):
                print(plain(f"[{event.kind} {event.name or ''}] {event.content or ''}"), file=sys.stderr)
            else:
                status = _print_end(event, printed)
    except MessageError as error:
        print(f"qaws: {error}", file=sys.stderr)
        status = FAILURE
    return status


def _print_end(event: ServerEvents, printed: str) -> int:
    """What the last event of an answer adds to what is printed."""
    if isinstance(event, AgentResponse):
        rest = event.content[len(printed) :] if event.content.startswith(printed) else f"\n{event.content}"
        print(plain(rest) + (" [cancelled]" if event.status == "cancelled" else ""), flush=True)
        return FAILURE if event.status == "cancelled" else 0
    if isinstance(event, ErrorEvent):
        if printed:
            print(flush=True)
        wait = (event.details or {}).get("retry_after")
        again = f"; try again in {wait:g} seconds" if isinstance(wait, int | float) else ""
        print(plain(f"qaws: {event.error_message} ({event.error_code}){again}"), file=sys.stderr)
        return FAILURE
    return 0


def plain(text: str) -> str:
    """Text as a terminal may show it: what comes from elsewhere must not move the cursor or change the screen."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


async def _piped_lines() -> AsyncIterator[str]:
    """The lines of a pipe, waited for by the event loop, so that Ctrl-C is heard meanwhile; or those of a file."""
    if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):  # which is always ready, and no event loop waits for it
        for line in sys.stdin.buffer:
            yield line.decode("utf-8", "replace").rstrip("\r\n")
        return
    reader = asyncio.StreamReader(limit=LINE)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while piped := await reader.readline():
            yield piped.decode("utf-8", "replace").rstrip("\r\n")
    finally:
        transport.close()


async def _typed_lines() -> AsyncIterator[str]:
    """What is typed, with editing and a history that is kept."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    session: PromptSession[str] = PromptSession(history=FileHistory(str(_history_file())))
    while True:
        try:
            yield await asyncio.to_thread(session.prompt, "you › ", in_thread=False)
        except (EOFError, KeyboardInterrupt):
            return


def _history_file() -> Path:
    """Where the history is kept, for this user alone."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "qaws"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = state / "history"
    file.touch(mode=0o600)
    return file
