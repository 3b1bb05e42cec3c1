"""One run: a call of the agent for one accepted message, and what it has said so far."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from ..admission.budget import Reservation
from ..clock import Now, rounded
from ..effects import Scalar
from ..events import ChatMessage
from ..faults import Fault
from ..trace_context import TraceContext, of_metadata
from .session import Session

PIECES = 256  # kept apart until they are joined
LONGEST_WAIT = 86_400.0  # seconds that a client is told to wait: what an agent gives beyond a day is no help
MOST_TOKENS = 1_000_000_000  # of one run, in or out: what is beyond is a mistake of the agent


class State(Enum):
    """Where a run is. `STOPPING`: it has ended for the client, and the agent has been told to stop."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    GIVEN_UP = "given up"


class Asker(Protocol):
    """The connection that brings a message: its number, what its runs are counted under, and the trace it is in."""

    number: int
    account: str
    trace: TraceContext | None


class Run:
    """One call of the agent. Belongs to a session, never to a socket."""

    # What most runs never change: one is made for every message, and setting all of this took two microseconds.
    state = State.QUEUED
    connection: int | None = None  # that brought the message
    reservation: Reservation | None = None  # what was charged in advance
    accepted = False  # its message is kept: it may begin (C11)
    position = 0  # how many runs of the session were before it as it came
    rerun = False  # it was cut by a restart, and begins again
    paused = False
    first_chunk_at: float | None = None
    chars = 0  # of the answer so far
    size = 0  # bytes of it and of the steps
    chunks = 0
    sent = 0  # characters that became chunks
    shown = 0  # characters of chunks that are kept: clients may have heard them
    last_sent = float("-inf")
    input_tokens: int | None = None  # that the agent has used, where it says so
    output_tokens: int | None = None

    def __init__(
        self, run_id: str, session: Session, user_id: str, message: ChatMessage, account: str, now: Now
    ) -> None:
        self.id = run_id
        self.account = account  # it has a place of it until it is over
        self.session = session
        self.user_id = user_id
        self.message = message
        self.correlation_id = message.id
        self.stream = message.stream
        self.trace = None if message.metadata is None else of_metadata(message.metadata)
        self.askers: list[int] = []  # the connections that wait to hear of it; the first one brought the message
        self.submitted_at = self.started_at = self.moved_at = now.mono
        self._pieces: list[str] = []  # the answer so far: its newest pieces, and
        self._blocks: list[str] = []  # those before them, joined, since a string of two characters takes fifty bytes
        self.pending: list[str] = []  # pieces that wait to be joined
        self.reasoning: list[str] = []
        self.tools: dict[str, None] = {}

    @property
    def answer(self) -> str:
        """What the agent has said so far."""
        return "".join((*self._blocks, *self._pieces))

    @property
    def heard(self) -> str:
        """What clients may have heard of it, chunk by chunk; nothing where it does not stream."""
        return self.answer[: self.shown]

    @property
    def tokens(self) -> int | None:
        """What it has used in all; None where that is not known. A run whose agent was never called has used none."""
        if self.input_tokens is None and self.output_tokens is None:
            return 0 if self.state is State.QUEUED else None
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    def add(self, piece: str) -> None:
        """Take one more piece of the answer."""
        self.chars += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) == PIECES:
            self._blocks.append("".join(self._pieces))
            self._pieces.clear()

    def measure(self, figures: dict[str, Scalar], now: Now) -> None:
        """Add how long it took, in seconds, and how much it has said. One that was never started has only waited."""
        started_at = now.mono if self.state is State.QUEUED else self.started_at
        figures["seconds"] = rounded(now.mono - started_at)
        figures["queued_seconds"] = rounded(started_at - self.submitted_at)
        figures["characters"] = self.chars
        figures["chunks"] = self.chunks
        figures["reasoning_steps"] = len(self.reasoning)
        figures["tools_used"] = len(self.tools)
        if self.first_chunk_at is not None:
            figures["first_chunk_seconds"] = rounded(self.first_chunk_at - self.started_at)
        if self.input_tokens is not None:
            figures["input_tokens"] = self.input_tokens
        if self.output_tokens is not None:
            figures["output_tokens"] = self.output_tokens

    def use(self, tool: str) -> None:
        """Count a tool among those used, once."""
        if tool:
            self.tools[tool] = None


def begun(run: Run) -> Run:
    """The run, whose agent was called; of another nothing can be reported, and whoever does is mistaken (C1)."""
    if run.state is State.QUEUED:
        raise ValueError(f"run {run.id} has not been started: there was no StartRun for it")
    return run


def clean(text: object) -> tuple[str | None, int]:
    """An agent's text and its bytes in UTF-8, lone surrogates replaced (G4); None where it is no text."""
    if type(text) is not str:
        if not issubclass(type(text), str):
            return None, 0
        text = str.__str__(text)  # a subclass could answer anything
    if text.isascii():
        return text, len(text)
    try:
        return text, len(text.encode())
    except UnicodeEncodeError:
        replaced = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return replaced, len(replaced.encode())


def tokens_of(count: object) -> int | None:
    """What an agent gave as a number of tokens, `MOST_TOKENS` at most; None where it is no such number."""
    return min(count, MOST_TOKENS) if type(count) is int and count >= 0 else None


def fault_of(reason: object) -> Fault:
    """The fault of an agent that failed for this reason; another reason than the known ones counts as none."""
    return _FAULTS.get(reason, Fault.AGENT_ERROR) if type(reason) is str else Fault.AGENT_ERROR


def wait_of(retry_after: object) -> float | None:
    """What an agent gave as seconds to wait, a day at most; None where it is no such number."""
    if type(retry_after) is int or type(retry_after) is float:  # a subclass could answer anything
        return min(retry_after, LONGEST_WAIT) if 0 <= retry_after < float("inf") else None
    return None


_FAULTS: Mapping[str, Fault] = {
    "busy": Fault.AGENT_BUSY, "unavailable": Fault.AGENT_UNAVAILABLE, "refused": Fault.AGENT_REFUSED,
}  # fmt: skip
