"""The work of a chat server, as one would write it by hand: each peer does all of it, and nothing else.

A JWT is verified when a client connects; each event is validated by a discriminated Pydantic union; each user has a
sliding window of messages; an async agent answers; a Pydantic model with the fields of `agent_response` is dumped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from secrets import token_hex
from typing import Annotated, Literal, NamedTuple

import jwt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MINUTE = 60.0

Ready = Callable[[int], None]  # told the port, once clients may connect


class Terms(NamedTuple):
    """What every server of a comparison is started with."""

    secret: str
    issuer: str = "qa-intelligence"
    audience: str = "websocket-client"
    requests_per_minute: int = 100_000  # of one user; the highest that qaws takes, so that nothing is refused

    def token(self, user_id: str, *, lives: int = 3600) -> str:
        """A token for a user, valid for some seconds."""
        now = int(time.time())
        claims = {
            "sub": user_id, "iss": self.issuer, "aud": self.audience,
            "iat": now, "exp": now + lives, "jti": token_hex(16),
        }  # fmt: skip
        return jwt.encode(claims, self.secret, "HS256")


async def agent(message: str) -> str:
    """The agent of all servers. It answers at once, so that what is measured is everything else."""
    return f"You said: {message}"


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Event(BaseModel):
    """Base of what a client may send."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Auth(Event):
    """A new token."""

    type: Literal["auth"]
    token: Annotated[str, Field(min_length=1, max_length=8192)]


class ChatMessage(Event):
    """A message to the agent."""

    type: Literal["chat_message"]
    content: Annotated[str, Field(min_length=1, max_length=10_000)]
    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    session_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    user_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    stream: bool = False
    metadata: Annotated[dict[str, str | int | float | bool], Field(max_length=32)] | None = None


class Cancel(Event):
    """Stop a run."""

    type: Literal["cancel"]
    run_id: str | None = None
    correlation_id: str | None = None


class Ping(Event):
    """Is anybody there?"""

    type: Literal["ping"]
    id: Annotated[str, Field(max_length=64)] | None = None


EVENTS: TypeAdapter[Auth | ChatMessage | Cancel | Ping] = TypeAdapter(
    Annotated[Auth | ChatMessage | Cancel | Ping, Field(discriminator="type")]
)


class SystemEvent(BaseModel):
    """Something about the connection."""

    type: Literal["system_event"] = "system_event"
    event_name: str
    data: dict[str, str | int | float | bool | None]


class AgentResponse(BaseModel):
    """An answer, with every field that qaws sends."""

    type: Literal["agent_response"] = "agent_response"
    content: str
    session_id: str
    user_id: str
    processing_time: float
    reasoning_steps: list[str] = []
    tools_used: list[str] = []
    status: Literal["completed"] = "completed"
    run_id: str
    correlation_id: str | None = None
    seq: int


class ErrorEvent(BaseModel):
    """A refusal."""

    type: Literal["error"] = "error"
    error_code: str
    error_message: str
    correlation_id: str | None = None


# ── the server's side ────────────────────────────────────────────────────────────────────────────────────────────────


class Window:
    """The messages of one user in the last minute."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Count a message at `now`; False where there were too many."""
        times = self._times
        while times and times[0] <= now - MINUTE:
            times.popleft()
        if len(times) >= self._limit:
            return False
        times.append(now)
        return True


class Service:
    """What the connections of a server share."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._windows: dict[str, Window] = {}

    def log_in(self, authorization: str | None) -> Conversation | None:
        """The conversation of the user whose token is in this header; None where it is not valid."""
        terms = self._terms
        try:
            claims = jwt.decode(
                (authorization or "").removeprefix("Bearer "), terms.secret, algorithms=["HS256"],
                issuer=terms.issuer, audience=terms.audience, options={"require": ["sub", "exp", "iat"]},
            )  # fmt: skip
        except jwt.PyJWTError:
            return None
        user_id: str = claims["sub"]
        window = self._windows.setdefault(user_id, Window(terms.requests_per_minute))
        return Conversation(user_id, window, int(claims["exp"] - time.time()))


class Conversation:
    """One client that has logged in."""

    def __init__(self, user_id: str, window: Window, expires_in: int) -> None:
        self._user_id = user_id
        self._window = window
        self._expires_in = expires_in
        self._session_id = token_hex(16)
        self._seq = 0

    def greeting(self) -> str:
        """The first thing that the client is sent."""
        data: dict[str, str | int | float | bool | None] = {
            "user_id": self._user_id, "session_id": self._session_id, "epoch": token_hex(16), "seq": 0,
            "protocol": "qaws.v1", "heartbeat_interval": 20, "max_message_size": 1024 * 1024,
            "token_expires_in": self._expires_in,
        }  # fmt: skip
        return SystemEvent(event_name="connection_established", data=data).model_dump_json()

    async def answer(self, text: str) -> str:
        """The one reply to a message of the client."""
        try:
            event = EVENTS.validate_json(text)
        except ValidationError:
            return _refusal("INVALID_EVENT", "Invalid event")
        if not isinstance(event, ChatMessage):
            return _refusal("INVALID_EVENT", "Only chat messages are measured")
        if event.user_id not in (None, self._user_id):
            return _refusal("FORBIDDEN", "user_id is not the user of the token", event.id)
        started = time.monotonic()
        if not self._window.admit(started):
            return _refusal("RATE_LIMIT", "Rate limit exceeded", event.id)
        content = await agent(event.content)
        self._seq += 1
        reply = AgentResponse(
            content=content, session_id=event.session_id or self._session_id, user_id=self._user_id,
            processing_time=round(time.monotonic() - started, 6), run_id=token_hex(16), correlation_id=event.id,
            seq=self._seq,
        )  # fmt: skip
        return reply.model_dump_json(exclude_none=True)


def _refusal(code: str, text: str, correlation_id: str | None = None) -> str:
    event = ErrorEvent(error_code=code, error_message=text, correlation_id=correlation_id)
    return event.model_dump_json(exclude_none=True)
