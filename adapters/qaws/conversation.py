"""A conversation with a gateway over a real socket, for the command line: connect, log in, ask, hear."""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

from qaws_proto.events import (
    CONTENT_LENGTH,
    AgentResponse,
    Auth,
    Cancel,
    ChatMessage,
    ErrorEvent,
    ServerEvents,
    SystemEvent,
    dump,
    parse_server_event,
)
from qaws_proto.wire.client import Accepted, ClientLink, Rejected
from qaws_proto.wire.frames import (
    BinaryReceived,
    CloseReceived,
    PingReceived,
    PongReceived,
    TextReceived,
    Violated,
)

CONNECT_TIMEOUT = 10.0  # seconds for the connection, the upgrade and the login
READ = 64 * 1024
HEARD = 1024  # events that wait to be shown; then the socket waits


class ConversationError(Exception):
    """The conversation cannot go on; the text says why, for people."""


class MessageError(ConversationError):
    """This message cannot be sent; others can."""


class Conversation:
    """One connection to a gateway. Use with `async with`; it is logged in when that returns."""

    def __init__(self, url: str, *, token: str | None = None, session_id: str | None = None) -> None:
        """`url` is ws:// or wss://. Raises ConversationError where it is no such URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConversationError(f"{url!r} is no address: {error}") from None
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ConversationError(f"{url!r} is no WebSocket address; one looks like ws://localhost:8765/")
        self._secure = parts.scheme == "wss"
        self._host = parts.hostname
        self._port = (443 if self._secure else 80) if port is None else port
        self._netloc = parts.netloc.rpartition("@")[2]
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._token = token
        self.url = url
        self.session_id = session_id
        self.user_id = ""
        self._asked: str | None = None  # the id of the message that is being answered
        self._heard: asyncio.Queue[ServerEvents | ConversationError] = asyncio.Queue(HEARD)
        self._over: ConversationError | None = None  # why nothing more will be heard

    async def __aenter__(self) -> Conversation:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        try:
            self._link = ClientLink(self._netloc, self._target, key, subprotocols=["qaws.v1"])
        except ValueError as error:
            raise ConversationError(f"{self.url!r} is no usable address: {error}") from None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                context = ssl.create_default_context() if self._secure else None
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=context)
                try:
                    self._writer.write(self._link.request)
                    await self._log_in()
                except BaseException:
                    self._writer.transport.abort()
                    raise
        except TimeoutError:
            raise ConversationError(
                f"{self._host}:{self._port} did not answer in {CONNECT_TIMEOUT:g} seconds"
            ) from None
        except OSError as error:
            raise ConversationError(f"no connection to {self._host}:{self._port}: {error.strerror or error}") from None
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.cancel()
        await asyncio.wait([self._listener])
        with suppress(OSError):
            self._writer.write(self._link.close())
            await self._writer.drain()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, content: str, *, stream: bool = True) -> AsyncIterator[ServerEvents]:
        """Send a message; every event that answers it, the last of which is an agent_response or an error.

        Raises MessageError where it cannot be sent, ConversationError where the connection ends before the answer.
        """
        # Random, because others may talk in the same session, and an id that was there before runs nothing (M5).
        self._asked = secrets.token_hex(8)
        heard = self._heard = asyncio.Queue(HEARD)
        if self._over is not None:
            raise self._over
        try:
            self._send(
                ChatMessage(
                    type="chat_message", content=content, id=self._asked, session_id=self.session_id, stream=stream
                )
            )
        except ValueError:  # of Pydantic, in many lines
            raise MessageError(
                f"a message has 1 to {CONTENT_LENGTH} characters, all of them Unicode, none of them NUL"
            ) from None
        try:
            while True:
                event = await heard.get()
                if isinstance(event, ConversationError):
                    raise event
                if isinstance(event, AgentResponse | ErrorEvent):
                    self._asked = None
                    yield event
                    return
                yield event
        finally:
            self._asked = None
            while not heard.empty():  # so that nothing waits to put more
                heard.get_nowait()

    def cancel(self) -> bool:
        """Stop the answer that is being heard; its end is still heard. Whether there is one."""
        if self._asked is None:
            return False
        self._send(Cancel(type="cancel", correlation_id=self._asked))
        return True

    async def _listen(self) -> None:
        """Hear the server as long as the conversation lasts: pings are answered while nobody asks, too."""
        try:
            while True:
                event = await self._next()
                if self._asked is not None and _answers(event, self._asked):
                    await self._heard.put(event)
        except (ConversationError, OSError) as error:
            over = error if isinstance(error, ConversationError) else ConversationError(f"{error.strerror or error}")
            self._over = over
            if self._asked is not None:
                await self._heard.put(over)

    async def _log_in(self) -> None:
        """Wait for the upgrade and answer the question for a token."""
        while True:
            event = await self._next()
            if isinstance(event, ErrorEvent):
                raise ConversationError(f"{event.error_message} ({event.error_code})")
            if not isinstance(event, SystemEvent):
                continue
            if event.event_name == "auth_required":
                self._send(self._login())
            elif event.event_name == "connection_established":
                self.user_id = str(event.data.get("user_id"))
                if self.session_id is None:
                    self.session_id = str(event.data.get("session_id"))
                return

    def _login(self) -> Auth:
        if self._token is None:
            raise ConversationError("the server asks for a token: give one (`qaws token USER` makes it)")
        try:
            return Auth(type="auth", token=self._token)
        except ValueError:
            raise ConversationError("the token given is none: it is empty, too long, or no text") from None

    def _send(self, event: Auth | ChatMessage | Cancel) -> None:
        self._writer.write(self._link.text(dump(event)))

    async def _next(self) -> ServerEvents:
        """The next event of the server."""
        while True:
            said = self._link.next_event()
            if said is None:
                data = await self._reader.read(READ)
                if not data:
                    raise ConversationError("the server closed the connection without a word")
                self._link.receive(data)
            elif isinstance(said, TextReceived):
                try:
                    return parse_server_event(said.text)
                except ValueError:
                    raise ConversationError("this server does not speak qaws.v1") from None
            elif isinstance(said, PingReceived):
                self._writer.write(self._link.pong(said.payload))
            elif isinstance(said, Rejected):
                raise ConversationError(_rejection(said))
            elif isinstance(said, CloseReceived):
                self._writer.write(self._link.close(said.code))
                raise ConversationError(f"the server closed the connection (code {said.code})")
            elif isinstance(said, Violated):
                raise ConversationError(f"the server broke the protocol: {said.fault.value.text}")
            else:
                assert isinstance(said, Accepted | PongReceived | BinaryReceived)  # nothing to answer


def _answers(event: ServerEvents, message_id: str) -> bool:
    """Whether an event answers the message: it names it, or says that it could not even be read."""
    if getattr(event, "correlation_id", None) == message_id:
        return True
    return isinstance(event, ErrorEvent) and event.error_code in ("INVALID_EVENT", "INVALID_JSON")


def _rejection(answer: Rejected) -> str:
    again = f"; try again in {answer.retry_after} seconds" if answer.retry_after is not None else ""
    return f"the server refused the connection: {answer.status} {answer.reason}{again}"
