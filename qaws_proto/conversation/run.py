"""One run: a call of the agent for one accepted message, and what it has said so far."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..clock import Now
from ..effects import Scalar
from ..events import ChatMessage
from ..faults import Fault
from .session import Session

PIECES = 256  # kept apart until they are joined
LONGEST_WAIT = 86_400.0  # seconds that a client is told to wait: what an agent gives beyond a day is no help


class State(Enum):
    """Where a run is. `STOPPING`: it has ended for the client, and the agent has been told to stop."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    GIVEN_UP = "given up"


class Run:
    """One call of the agent. Belongs to a session, never to a socket."""

    __slots__ = (
        "_blocks", "_pieces", "accepted", "askers", "chars", "correlation_id", "first_chunk_at", "id", "last_sent",
        "message", "moved_at", "paused", "pending", "position", "reasoning", "rerun", "sent", "session", "shown",
        "size", "started_at", "state", "submitted_at", "tools", "user_id",
    )  # fmt: skip

    def __init__(self, run_id: str, session: Session, user_id: str, message: ChatMessage, now: Now) -> None:
        self.id = run_id
        self.session = session
        self.user_id = user_id
        self.message = message
        self.correlation_id = message.id
        self.state = State.QUEUED
        self.accepted = False  # its message is kept: it may begin (C11)
        self.askers: list[int] = []  # the connections that wait to hear that; the first one brought the message
        self.position = 0  # how many runs of the session were before it as it came
        self.rerun = False  # it was cut by a restart, and begins again
        self.paused = False
        self.submitted_at = self.started_at = self.moved_at = now.mono
        self.first_chunk_at: float | None = None
        self._pieces: list[str] = []  # the answer so far: its newest pieces, and
        self._blocks: list[str] = []  # those before them, joined, since a string of two characters takes fifty bytes
        self.chars = 0  # its characters
        self.size = 0  # bytes of it and of the steps
        self.pending: list[str] = []  # pieces that wait to be joined
        self.sent = 0  # characters that became chunks
        self.shown = 0  # characters of chunks that are kept: clients may have heard them
        self.last_sent = float("-inf")
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

    def add(self, piece: str) -> None:
        """Take one more piece of the answer."""
        self.chars += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) == PIECES:
            self._blocks.append("".join(self._pieces))
            self._pieces.clear()

    def metrics(self, now: Now) -> dict[str, Scalar]:
        """How long it took, in seconds, and how much it has said."""
        started_at = now.mono if self.state is State.QUEUED else self.started_at
        figures: dict[str, Scalar] = {
            "seconds": round(now.mono - started_at, 6),
            "queued_seconds": round(started_at - self.submitted_at, 6),
            "characters": self.chars,
        }
        if self.first_chunk_at is not None:
            figures["first_chunk_seconds"] = round(self.first_chunk_at - self.started_at, 6)
        return figures

    def use(self, tool: str) -> None:
        """Count a tool among those used, once."""
        if tool:
            self.tools[tool] = None


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


def fault_of(reason: object) -> Fault:
    """The fault of an agent that failed for this reason; another reason than the known ones counts as none."""
    return _FAULTS.get(reason, Fault.AGENT_ERROR) if type(reason) is str else Fault.AGENT_ERROR


def wait_of(retry_after: float | None) -> float | None:
    """What an agent gave as seconds to wait, a day at most; None where it is no such number."""
    if retry_after is None or type(retry_after) not in (int, float):  # a subclass could answer anything
        return None
    return min(retry_after, LONGEST_WAIT) if 0 <= retry_after < float("inf") else None


_FAULTS: Mapping[str, Fault] = {
    "busy": Fault.AGENT_BUSY, "unavailable": Fault.AGENT_UNAVAILABLE, "refused": Fault.AGENT_REFUSED,
}  # fmt: skip
