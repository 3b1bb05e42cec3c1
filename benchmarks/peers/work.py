"""The work of a chat server, as one would write it by hand: each peer does all of it, and nothing else.

A JWT is verified when a client connects; each event is validated by a discriminated Pydantic union; each user has a
sliding window of messages; an async agent answers; a Pydantic model with the fields of what qaws sends is dumped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Set
from secrets import token_hex
from typing import Annotated, Any, Literal, NamedTuple

import jwt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MINUTE = 60.0
PIECES = tuple(f"piece {number:02}, " for number in range(64))  # of a streamed answer

Ready = Callable[[int], None]  # told the port, once clients may connect
Scene = Literal["chat", "stream", "fanout"]


class Terms(NamedTuple):
    """What every server of a comparison is started with."""

    secret: str
    issuer: str = "qa-intelligence"
    audience: str = "websocket-client"
    requests_per_minute: int = 100_000  # of one user; the highest that qaws takes, so that nothing is refused
    scene: Scene = "chat"  # what is asked for: one answer, one in pieces, or one for everybody in the session

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


async def streaming_agent(message: str) -> AsyncIterator[str]:
    """The same where answers are streamed: many small pieces, all at once."""
    for piece in PIECES:
        yield piece


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


class Resume(Event):
    """Hear what is said in a session."""

    type: Literal["resume"]
    session_id: Annotated[str, Field(min_length=1, max_length=128)]
    epoch: Annotated[str, Field(max_length=128)]
    seq: Annotated[int, Field(ge=0)]


class Ping(Event):
    """Is anybody there?"""

    type: Literal["ping"]
    id: Annotated[str, Field(max_length=64)] | None = None


ClientEvent = Auth | ChatMessage | Cancel | Resume | Ping
EVENTS: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


class SystemEvent(BaseModel):
    """Something about the connection."""

    type: Literal["system_event"] = "system_event"
    event_name: str
    data: dict[str, str | int | float | bool | None]
    session_id: str | None = None


class AgentChunk(BaseModel):
    """A piece of an answer, with every field that qaws sends."""

    type: Literal["agent_chunk"] = "agent_chunk"
    content: str
    offset: int
    session_id: str
    seq: int
    run_id: str
    correlation_id: str | None = None


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


def as_json(event: BaseModel) -> bytes:
    """What goes on the wire. The fastest way that Pydantic has: no text in between, no look at the arguments."""
    return event.__pydantic_serializer__.to_json(event, exclude_none=True)


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


class Session:
    """What several connections of a user hear together. A member is whatever the library of a peer sends with."""

    def __init__(self) -> None:
        self.members: set[Any] = set()
        self.seq = 0


class Service:
    """What the connections of a server share."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._windows: dict[str, Window] = {}
        self.sessions: dict[tuple[str, str], Session] = {}  # by user and name

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
        return Conversation(self, user_id, window, int(claims["exp"] - time.time()))


class Conversation:
    """One client that has logged in."""

    def __init__(self, service: Service, user_id: str, window: Window, expires_in: int) -> None:
        self._service = service
        self._user_id = user_id
        self._window = window
        self._expires_in = expires_in
        self._session_id = token_hex(16)
        self._session = Session()
        self._joined: list[Session] = []

    def greeting(self) -> bytes:
        """The first thing that the client is sent."""
        return as_json(self.welcome())

    def welcome(self) -> SystemEvent:
        """The same, as an event."""
        data: dict[str, str | int | float | bool | None] = {
            "user_id": self._user_id, "session_id": self._session_id, "epoch": token_hex(16), "seq": 0,
            "protocol": "qaws.v1", "heartbeat_interval": 20, "max_message_size": 1024 * 1024,
            "token_expires_in": self._expires_in,
        }  # fmt: skip
        return SystemEvent(event_name="connection_established", data=data)

    async def answer(self, data: str | bytes) -> bytes:
        """The one reply to a message of the client."""
        try:
            event = EVENTS.validate_json(data)
        except ValidationError:
            return as_json(INVALID)
        return as_json(await self.reply(event))

    async def stream(self, data: str | bytes) -> AsyncIterator[bytes]:
        """The pieces of the reply to a message of the client, and the whole reply."""
        try:
            event = EVENTS.validate_json(data)
        except ValidationError:
            yield as_json(INVALID)
            return
        async for reply in self.replies(event):
            yield as_json(reply)

    async def turn(self, data: str | bytes, member: Any) -> tuple[Set[Any], bytes]:
        """The reply to a message of the client, and whoever hears it: `member` alone, or its session."""
        try:
            event = EVENTS.validate_json(data)
        except ValidationError:
            return {member}, as_json(INVALID)
        hearers, reply = await self.take_turn(event, member)
        return hearers, as_json(reply)

    async def take_turn(self, event: ClientEvent, member: Any) -> tuple[Set[Any], BaseModel]:
        """The same, as events."""
        if isinstance(event, Resume):
            self.join(event.session_id, member)
            resumed = SystemEvent(
                event_name="session_resumed", data={"recovered": True}, session_id=event.session_id
            )  # fmt: skip
            return {member}, resumed
        if isinstance(event, ChatMessage) and event.session_id not in (None, self._session_id):
            self.join(event.session_id, member)
        reply = await self.reply(event)
        return (self._session.members if reply.type == "agent_response" else {member}), reply

    async def reply(self, event: ClientEvent) -> AgentResponse | ErrorEvent:
        """The answer of the agent, or why there is none."""
        started = time.monotonic()
        message = self._admitted(event, started)
        if isinstance(message, ErrorEvent):
            return message
        content = await agent(message.content)
        return self._response(message, content, token_hex(16), started)

    async def replies(self, event: ClientEvent) -> AsyncIterator[AgentChunk | AgentResponse | ErrorEvent]:
        """The pieces of the answer as they come, and all of it; or why there is none."""
        started = time.monotonic()
        message = self._admitted(event, started)
        if isinstance(message, ErrorEvent):
            yield message
            return
        run_id, session_id, session = token_hex(16), message.session_id or self._session_id, self._session
        content = ""
        async for piece in streaming_agent(message.content):
            session.seq += 1
            yield AgentChunk(
                content=piece, offset=len(content), session_id=session_id, seq=session.seq, run_id=run_id,
                correlation_id=message.id,
            )  # fmt: skip
            content += piece
        yield self._response(message, content, run_id, started)

    def join(self, session_id: str, member: Any) -> None:
        """Let `member` hear a session, which this client's messages go to from now on."""
        self._session_id = session_id
        self._session = self._service.sessions.setdefault((self._user_id, session_id), Session())
        self._session.members.add(member)
        self._joined.append(self._session)

    def leave(self, member: Any) -> None:
        """The connection has ended."""
        for session in self._joined:
            session.members.discard(member)

    def _admitted(self, event: ClientEvent, now: float) -> ChatMessage | ErrorEvent:
        if not isinstance(event, ChatMessage):
            return ErrorEvent(error_code="INVALID_EVENT", error_message="Only chat messages are measured")
        if event.user_id not in (None, self._user_id):
            text = "user_id is not the user of the token"
            return ErrorEvent(error_code="FORBIDDEN", error_message=text, correlation_id=event.id)
        if not self._window.admit(now):
            return ErrorEvent(error_code="RATE_LIMIT", error_message="Rate limit exceeded", correlation_id=event.id)
        return event

    def _response(self, message: ChatMessage, content: str, run_id: str, started: float) -> AgentResponse:
        self._session.seq += 1
        return AgentResponse(
            content=content, session_id=message.session_id or self._session_id, user_id=self._user_id,
            processing_time=round(time.monotonic() - started, 6), run_id=run_id, correlation_id=message.id,
            seq=self._session.seq,
        )  # fmt: skip


INVALID = ErrorEvent(error_code="INVALID_EVENT", error_message="Invalid event")
