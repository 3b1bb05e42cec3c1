"""The client on anyio: on asyncio, uvloop and trio alike. It drives the node `qaws_proto.client.Client`.

Two things are bounded. What was heard and is unread waits in an inbox for each reader, and while 4 MiB of text wait for
one of them the socket is not read: the server sees a slow reader, joins what it has to say, and may close. Pings go out
meanwhile, so that it knows us alive; where that lasts longer than a heartbeat the connection is left, and taken up
where it was once there is room. And no more than 1,024 messages wait for their answers; then sending waits.
"""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, TypeVar

import anyio
import anyio.lowlevel
from pydantic import ValidationError

from qaws_proto import ConfigError, WebSocketConfig
from qaws_proto.client import ClientConfig
from qaws_proto.client.io import (
    CancelRequested,
    ClientFault,
    CloseRequested,
    ConnectRequested,
    Deliver,
    Disconnected,
    Ended,
    MessageRequested,
    Welcomed,
)
from qaws_proto.events import CONTENT_LENGTH, AgentResponse, ChatMessage, ErrorEvent, ServerEvents

from .auth import WebSocketAuth
from .client_driver import ClientDriver, Surroundings, Token
from .client_errors import AnswerTimeout, AuthenticationError, ClientError, ClosedError, of_fault
from .client_inbox import Answer, Gate, Inbox, size_of
from .client_transport import parse_address
from .telemetry import log_event

State = Literal["connected", "reconnecting", "closed"]
Metadata = Mapping[str, str | int | float | bool]

Result = TypeVar("Result")

LOGGER = logging.getLogger("qaws.client")


class QAWebSocketClient:
    """A client of a gateway, for one session. Use with `async with`, or `connect` and `close`; it connects once.

    Once it is connected it stays so: a connection that breaks is made anew, and what was missed is heard then. Its
    methods may be called from several tasks of one event loop at once.
    """

    _around = Surroundings()  # this machine; `qaws.testing` has others

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        session_id: str | None = None,
        history: bool = False,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 10,
        timeout: float | None = None,
        reconnect: bool = True,
        max_attempts: int | None = None,
        backoff_cap: float = 30,
        heartbeat: float = 30,
        heartbeat_timeout: float = 30,
        config: WebSocketConfig | None = None,
        on_state: Callable[[State, str], None] | None = None,
    ) -> None:
        """Where and how to connect. All times are seconds. Raises ValueError where `url` or `headers` cannot be used.

        - `url`: `ws://…` or `wss://…`; for the latter `ssl_context` (default: what this machine trusts).
        - `token`: a text, or a function, async or not, that gives one; it is called for each new connection.
        - `session_id`: the session to talk in (default: a new one); with `history` it is heard from its beginning,
          as far as the server holds it, and not from now on.
        - `headers`: more headers of the upgrade, such as a reverse proxy in front of the gateway may ask for.
        - `connect_timeout`: for the connection, the upgrade, the login and what was missed, together.
        - `timeout`: for each wait of `chat` for the next piece, of `ask` for the answer, and of a message for its turn
          to be sent. None: as long as it takes.
        - `reconnect`, `max_attempts`, `backoff_cap`: whether to come back, after how many attempts in a row to give
          up (None: never), and the longest pause between two of them.
        - `heartbeat`, `heartbeat_timeout`: a silent server is pinged, and left where nothing comes back.
        - `config`: settings of the server, for `connect(user_id)` (default: those of this environment).
        - `on_state`: is told of each change, and why; it must not wait.
        """
        self._address = parse_address(url)
        self._context = (ssl_context or ssl.create_default_context()) if self._address.secure else None
        self._settings = ClientConfig(
            host=self._address.host,
            target=self._address.target,
            headers=tuple((headers or {}).items()),
            session_id=session_id,
            history=history,
            reconnect=reconnect,
            insist=False,  # the first time it is the caller who may try again
            max_attempts=max_attempts,
            backoff_cap=backoff_cap,
            connect_timeout=connect_timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )
        self._token = token
        self._config = config
        self._timeout = timeout
        self._on_state = on_state
        self.session_id = session_id
        self.user_id: str | None = None
        self.connected = False
        self._named: str | None = None  # who speaks, where nobody is asked for a token
        self._began = False
        self._settled = anyio.Event()  # connected for the first time, or ended before
        self._over = anyio.Event()
        self._fault: ClientFault | None = None  # why it is over; None: it was closed
        self._gate = Gate()
        self._inbox: Inbox[ServerEvents] = Inbox(self._gate, read=False)
        self._answers: dict[str, Answer] = {}
        self._pending: set[str] = set()  # messages that have not ended
        self._room = anyio.Event()  # set when one of them has, or nothing will be sent any more
        try:
            self._driver = self._make_driver()
        except ValueError:  # whose text may quote a header
            raise ValueError(
                f"{self._address.origin!r} is no usable address, or a header or the session's name cannot be sent"
            ) from None

    def __repr__(self) -> str:
        state = "closed" if self._over.is_set() else "connected" if self.connected else "not connected"
        return f"<QAWebSocketClient {self._address} session_id={self.session_id!r} {state}>"

    @property
    def url(self) -> str:
        """Where it connects, without user, password and query."""
        return str(self._address)

    # ── connecting and closing ───────────────────────────────────────────────────────────────────────────────────────

    async def connect(self, user_id: str | None = None) -> None:
        """Connect and log in, with the token given.

        With a `user_id` a token is made for it, by the secret in the settings: for development. Where they say that
        authentication is off, the name alone is used. Raises ConnectError, or AuthenticationError.
        """
        if user_id is not None:
            self._speak_as(user_id)
        await self._connect()

    async def connect_with_token(self, token: Token) -> None:
        """Connect and log in with this token. Raises ConnectError, or AuthenticationError."""
        self._token = token
        await self._connect()

    async def close(self) -> None:
        """Say goodbye and close; runs that have not ended go on at the server. Closing twice is closing once."""
        if not self._began:
            return
        try:
            if not self._over.is_set():
                self._driver.feed(CloseRequested())
            await self._over.wait()
        finally:  # where this is cancelled, there is no time left for goodbyes
            self._end(None)
            with anyio.CancelScope(shield=True):
                await self._driver.finish()

    async def __aenter__(self) -> QAWebSocketClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _speak_as(self, user_id: str) -> None:
        try:
            if self._config is None:
                from .settings import load

                self._config = load().config
            if self._config.security.authentication.enabled:
                self._token = WebSocketAuth(self._config).generate_token(user_id)
            else:
                self._named = user_id
        except ConfigError as error:
            text = f"no token can be made for a user here ({error}): use connect_with_token"
            raise AuthenticationError(text, code="TOKEN_UNAVAILABLE") from None

    async def _connect(self) -> None:
        if self._began:
            raise RuntimeError("a client connects once; make another one")
        self._began = True
        self._driver = self._make_driver()
        try:
            self._driver.feed(ConnectRequested())
            await self._settled.wait()
        except BaseException:
            await self.close()
            raise
        if self._over.is_set():
            await self.close()
            raise self._error()

    def _make_driver(self) -> ClientDriver:
        settings = replace(self._settings, token=self._token is not None)
        perform: dict[type, Callable[[Any], None]] = {
            Deliver: self._delivered,
            Welcomed: self._welcomed,
            Disconnected: self._disconnected,
            Ended: lambda effect: self._end(effect.error),
        }
        return ClientDriver(self._address, self._context, settings, self._token, self._gate, perform, self._around)

    # ── talking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def send_chat_message(
        self, content: str, *, stream: bool = False, metadata: Metadata | None = None, id: str | None = None
    ) -> str:
        """Send a message, now or once connected again, and return its id; `listen_for_responses` has its answer.

        Waits where 1,024 messages have no answer yet. Raises ValueError for what is no message, or an `id` in use.
        """
        message = self._message(content, stream, metadata, id)
        await self._send(message)
        assert message.id is not None
        return message.id

    async def listen_for_responses(self) -> AsyncGenerator[ServerEvents, None]:
        """Every event of the server, each once and in order, until the client is closed; one loop at a time.

        Raises the ClientError that ended the client, if one did.
        """
        if self._inbox.read:
            raise RuntimeError("somebody listens already, and each event is heard once")
        self._inbox.read = True
        try:
            while (event := await self._inbox.get()) is not None:
                yield event
        finally:
            self._inbox.read = False
        if self._fault is not None:
            raise self._error()

    async def chat(
        self, content: str, *, metadata: Metadata | None = None, id: str | None = None
    ) -> AsyncGenerator[str, None]:
        """Ask, and get the text of the answer as it comes, each character once.

        Whoever leaves the loop early cancels the run. Raises AnswerError where there is no whole answer, behind the
        pieces there are; ValueError for what is no message.
        """
        answer = await self._ask(self._message(content, True, metadata, id))
        try:
            while (piece := await self._in_time(answer, answer.piece())) is not None:
                yield piece
        finally:
            self._let_go(answer)

    async def ask(self, content: str, *, metadata: Metadata | None = None, id: str | None = None) -> AgentResponse:
        """Ask, and wait for the whole answer. Whoever is cancelled while it waits cancels the run.

        Raises AnswerError where there is none, ValueError for what is no message.
        """
        answer = await self._ask(self._message(content, False, metadata, id))
        try:
            return await self._in_time(answer, answer.response())
        finally:
            self._let_go(answer)

    async def cancel(self, message_id: str | None = None) -> None:
        """Stop the answer to a message, or to all that this client has sent; it ends with the text until then."""
        for pending in [message_id] if message_id is not None else list(self._pending):
            self._cancel(pending)
        await anyio.lowlevel.checkpoint()

    def _message(self, content: str, stream: bool, metadata: Metadata | None, id: str | None) -> ChatMessage:
        try:
            return ChatMessage(
                type="chat_message",
                content=content,
                id=secrets.token_hex(16) if id is None else id,
                session_id=self.session_id,
                user_id=self._named,
                stream=stream,
                metadata=None if metadata is None else dict(metadata),
            )
        except ValidationError as error:  # in many lines
            raise ValueError(_flaw(error)) from None

    async def _ask(self, message: ChatMessage) -> Answer:
        assert message.id is not None
        answer = Answer(message.id, self._gate)
        await self._send(message, answer)
        return answer

    async def _send(self, message: ChatMessage, answer: Answer | None = None) -> None:
        assert message.id is not None
        if not self._settled.is_set():
            raise ClosedError("the client is not connected: use `async with`, or connect")
        with anyio.move_on_after(self._timeout):
            while len(self._pending) >= self._settings.max_pending and not self._over.is_set():
                await self._room.wait()
        if self._over.is_set():
            raise self._error()
        if len(self._pending) >= self._settings.max_pending:
            assert self._timeout is not None
            raise AnswerTimeout(message.id, self._timeout)
        self._driver.feed(MessageRequested(message))
        self._pending.add(message.id)
        if answer is not None:
            self._answers[message.id] = answer

    async def _in_time(self, answer: Answer, waiting: Awaitable[Result]) -> Result:
        with anyio.move_on_after(self._timeout):
            return await waiting
        assert self._timeout is not None
        raise AnswerTimeout(answer.message_id, self._timeout)

    def _let_go(self, answer: Answer) -> None:
        """Nobody waits for this answer any more."""
        self._answers.pop(answer.message_id, None)
        answer.forget()
        if not answer.ended.is_set():
            self._cancel(answer.message_id)

    def _cancel(self, message_id: str) -> None:
        if not self._over.is_set():
            self._driver.feed(CancelRequested(message_id))

    # ── what the node says ───────────────────────────────────────────────────────────────────────────────────────────

    def _delivered(self, effect: Deliver) -> None:
        event = effect.event
        message_id = getattr(event, "correlation_id", None)
        answer = self._answers.get(message_id) if message_id is not None else None
        if answer is not None:
            answer.hear(event)
        if isinstance(event, AgentResponse | ErrorEvent):
            self._pending.discard(message_id or "")
            self._make_room()
        self._inbox.put(event, size_of(event))

    def _welcomed(self, effect: Welcomed) -> None:
        self.user_id, self.session_id = self._named or effect.user_id, effect.session_id
        self.connected = True
        self._settled.set()
        self._tell_state("connected", "")

    def _disconnected(self, effect: Disconnected) -> None:
        self.connected = False
        if effect.retry_in is not None and self._settled.is_set():
            self._tell_state("reconnecting", effect.reason)

    def _end(self, fault: ClientFault | None) -> None:
        """Nothing follows."""
        if self._over.is_set():
            return
        self._fault = fault
        self.connected = False
        self._driver.stop()
        self._over.set()
        self._settled.set()
        self._make_room()
        for answer in self._answers.values():
            answer.fail(self._error())
        self._inbox.end()
        self._tell_state("closed", "" if self._fault is None else self._fault.text)

    def _make_room(self) -> None:
        """Let those look again who wait for room."""
        self._room.set()
        self._room = anyio.Event()

    def _error(self) -> ClientError:
        """Why nothing more can be done with this client."""
        error = of_fault(self._fault, connected=self.user_id is not None)
        error.__cause__ = self._driver.token_error if error.code == "TOKEN_UNAVAILABLE" else None
        return error

    def _tell_state(self, state: State, reason: str) -> None:
        if self._on_state is not None:
            try:
                self._on_state(state, reason)
            except Exception as error:  # noqa: BLE001 - it is the caller's, and must not end the connection
                log_event(LOGGER, logging.ERROR, "on_state_failed", error, state=state)


def _flaw(error: ValidationError) -> str:
    """Why something is no message, in one line and without what it says."""
    place = error.errors(include_input=False, include_url=False)[0]
    if place["loc"][:1] == ("content",):
        return f"a message has 1 to {CONTENT_LENGTH} characters, all of them Unicode, none of them NUL"
    return f"this is no message: {'.'.join(map(str, place['loc']))}: {place['msg']}"
