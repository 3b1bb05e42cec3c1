"""Conversations in a terminal: `qaws chat`."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qaws_proto.events import AgentChunk, AgentResponse, AgentStepEvent, ErrorEvent, ServerEvents, SystemEvent

from .anyio_client import QAWebSocketClient, State

FAILURE = 1
LINE = 1024 * 1024  # bytes of a piped line; longer ones end the conversation
PROMPT = "you › "


async def one_shot(client: QAWebSocketClient, message: str, *, stream: bool) -> int:
    """Ask once; the answer on standard output, an error on standard error and in the status."""
    async with client, Conversation(client, shared=False) as conversation:
        return await conversation.exchange(message, stream=stream)


async def converse(client: QAWebSocketClient, *, stream: bool) -> int:
    """Ask whatever is typed, until the end of input; what others say in the session is shown as well.

    Ctrl-C stops an answer, at the prompt it ends the conversation.
    """
    async with client, Conversation(client, shared=True) as conversation:
        terminal = sys.stdin.isatty()
        if terminal:
            user = plain(str(client.user_id))
            print(f"Talking to {client.url} as {user}. Ctrl-C stops an answer, Ctrl-D ends.")
        status = 0
        async for line in _typed_lines(conversation.screen) if terminal else _piped_lines():
            if line.strip():
                status = await conversation.exchange(line, stream=stream)
        return status


def announcing() -> Callable[[State, str], None]:
    """What tells the user that the connection has broken and is made anew, once for each time it breaks."""
    told = False

    def announce(state: State, reason: str) -> None:
        nonlocal told
        if state == "reconnecting" and not told:
            dim, plainly = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
            print(f"{dim}[reconnecting]{plainly}", file=sys.stderr, flush=True)
        told = state == "reconnecting"

    return announce


class Screen:
    """What is shown: answers as they come, whole lines while somebody types below them."""

    def __init__(self) -> None:
        self._prompting = False
        self._held = ""  # of a line that waits for its end, or for that of the prompt
        self._midline = False

    @contextmanager
    def prompting(self) -> Iterator[None]:
        """While this lasts somebody types."""
        self.end_line()
        self._prompting = True
        try:
            yield
        finally:
            self._prompting = False
            held, self._held = self._held, ""
            self.write(held)

    def write(self, text: str) -> None:
        """Show text, behind what is there."""
        if self._prompting:
            lines, newline, self._held = (self._held + text).rpartition("\n")
            text = lines + newline
        if text:
            print(plain(text), end="", flush=True)
            self._midline = not text.endswith("\n")

    def end_line(self) -> None:
        """What comes next begins a line."""
        if self._held or (self._midline and not self._prompting):
            self.write("\n")

    def complain(self, text: str) -> None:
        """Show text that belongs to no answer."""
        self.end_line()
        print(plain(text), file=sys.stderr, flush=True)


class Conversation:
    """Shows the events of a session, and knows which answers are waited for.

    While it lasts (`async with`) Ctrl-C stops those; where none is waited for, it ends the task.
    """

    def __init__(self, client: QAWebSocketClient, *, shared: bool) -> None:
        """`shared`: what others say in the session is shown as well."""
        self.screen = Screen()
        self._client = client
        self._shared = shared
        self._mine: set[str] = set()
        self._ends: dict[str, asyncio.Future[int]] = {}  # of answers that are waited for, with a status
        self._shown: dict[str, str] = {}  # of each run that has not ended, the text
        self._current = ""  # the run whose text was shown last
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Conversation:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._listening = loop.create_task(self._listen())
        loop.add_signal_handler(signal.SIGINT, lambda: self._interrupt() or task.cancel())
        return self

    async def __aexit__(self, *exception: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self._listening.cancel()
        await asyncio.wait([self._listening])

    async def exchange(self, message: str, *, stream: bool) -> int:
        """Send a message, and wait until its answer has been shown; a status for the command."""
        message_id = secrets.token_hex(16)
        self._mine.add(message_id)
        ended = self._ends[message_id] = asyncio.get_running_loop().create_future()
        try:
            await self._client.send_chat_message(message, stream=stream, id=message_id)
            status: int = await ended
        except ValueError as error:
            self.screen.complain(f"qaws: {error}")
            return FAILURE
        finally:
            del self._ends[message_id]
        return status

    async def _listen(self) -> None:
        """Show what is said. When the client comes to its end, so do the answers that are waited for."""
        try:
            async for event in self._client.listen_for_responses():
                self._show(event)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            for ended in self._ends.values():
                if not ended.done():
                    ended.set_exception(error)

    def _interrupt(self) -> bool:
        """Stop the answers that are waited for. Whether there are any."""
        for message_id in self._ends:
            task = asyncio.get_running_loop().create_task(self._client.cancel(message_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return bool(self._ends)

    def _show(self, event: ServerEvents) -> None:
        message_id = getattr(event, "correlation_id", None)
        if message_id not in self._mine and not self._shared:
            return
        match event:
            case AgentChunk():
                self._show_chunk(event)
            case AgentStepEvent():
                self.screen.complain(f"[{event.kind} {event.name or ''}] {event.content or ''}")
            case AgentResponse():
                self._show_answer(event)
                self._end(message_id, FAILURE if event.status == "cancelled" else 0)
            case ErrorEvent():
                self._show_error(event)
                self._end(message_id, FAILURE)
            case SystemEvent(event_name="message_accepted"):
                self._show_message(event)
            case SystemEvent(event_name="session_resumed"):
                self.screen.complain("[some of the conversation is not held any more]")

    def _show_message(self, event: SystemEvent) -> None:
        """What somebody else has typed."""
        content = event.data.get("content")
        if event.correlation_id not in self._mine and isinstance(content, str):
            self.screen.end_line()
            self.screen.write(f"{PROMPT}{content}\n")

    def _show_chunk(self, chunk: AgentChunk) -> None:
        run_id = chunk.run_id or ""
        shown = self._shown.get(run_id, "")
        if run_id != self._current:
            self.screen.end_line()
            self._current = run_id
        if chunk.offset < len(shown):  # the agent was started again, and answers differently
            self.screen.end_line()
            shown = shown[: chunk.offset]
            self.screen.write(shown)
        self.screen.write(chunk.content)
        self._shown[run_id] = shown + chunk.content

    def _show_answer(self, answer: AgentResponse) -> None:
        """What the end of an answer adds to what is shown of it."""
        shown = self._shown.pop(answer.run_id or "", "")
        if answer.run_id != self._current:
            self.screen.end_line()
        rest = answer.content[len(shown) :] if answer.content.startswith(shown) else f"\n{answer.content}"
        self.screen.write(rest + (" [cancelled]\n" if answer.status == "cancelled" else "\n"))

    def _show_error(self, error: ErrorEvent) -> None:
        self._shown.pop(error.run_id or "", None)
        wait = (error.details or {}).get("retry_after")
        again = f"; try again in {wait:g} seconds" if isinstance(wait, int | float) else ""
        self.screen.complain(f"qaws: {error.error_message} ({error.error_code}){again}")

    def _end(self, message_id: str | None, status: int) -> None:
        ended = self._ends.get(message_id or "")
        if ended is not None and not ended.done():
            ended.set_result(status)


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


async def _typed_lines(screen: Screen) -> AsyncIterator[str]:
    """What is typed, with editing and a history that is kept; what is shown meanwhile stands above it."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.patch_stdout import patch_stdout

    session: PromptSession[str] = PromptSession(history=FileHistory(str(_history_file())))
    while True:
        try:
            with screen.prompting(), patch_stdout(raw=True):
                typed = await asyncio.to_thread(session.prompt, PROMPT, in_thread=False)
        except (EOFError, KeyboardInterrupt):
            return
        yield typed


def _history_file() -> Path:
    """Where the history is kept, for this user alone."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "qaws"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = state / "history"
    file.touch(mode=0o600)
    return file
