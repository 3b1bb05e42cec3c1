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


class ConversationError(Exception):
    """The conversation cannot go on; the text says why, for people."""


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
        self._port = port or (443 if self._secure else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._token = token
        self.url = url
        self.session_id = session_id
        self.user_id = ""
        self._sent = 0

    async def __aenter__(self) -> Conversation:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        try:
            self._link = ClientLink(self._netloc, self._target, key, subprotocols=["qaws.v1"])
        except ValueError as error:
            raise ConversationError(str(error)) from None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                context = ssl.create_default_context() if self._secure else None
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=context)
                self._writer.write(self._link.request)
                await self._log_in()
        except TimeoutError:
            raise ConversationError(
                f"{self._host}:{self._port} did not answer in {CONNECT_TIMEOUT:g} seconds"
            ) from None
        except OSError as error:
            raise ConversationError(f"no connection to {self._host}:{self._port}: {error.strerror or error}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._writer.write(self._link.close())
            await self._writer.drain()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, content: str, *, stream: bool = True) -> AsyncIterator[ServerEvents]:
        """Send a message; every event that answers it, the last of which is an agent_response or an error."""
        self._sent += 1
        message_id = f"{self._sent}"
        self._send(
            ChatMessage(type="chat_message", content=content, id=message_id, session_id=self.session_id, stream=stream)
        )
        while True:
            event = await self._next()
            if getattr(event, "correlation_id", None) == message_id:
                yield event
                if isinstance(event, AgentResponse | ErrorEvent):
                    return
            elif isinstance(event, ErrorEvent) and event.error_code in ("INVALID_EVENT", "INVALID_JSON"):
                raise ConversationError(event.error_message)

    def cancel(self) -> None:
        """Stop the answer to the last message; its end is still heard."""
        self._send(Cancel(type="cancel", correlation_id=f"{self._sent}"))

    async def _log_in(self) -> None:
        """Wait for the upgrade and answer the question for a token."""
        while True:
            event = await self._next()
            if isinstance(event, ErrorEvent):
                raise ConversationError(f"{event.error_message} ({event.error_code})")
            if not isinstance(event, SystemEvent):
                continue
            if event.event_name == "auth_required":
                if self._token is None:
                    raise ConversationError("the server asks for a token: give one (`qaws token USER` makes it)")
                self._send(Auth(type="auth", token=self._token))
            elif event.event_name == "connection_established":
                self.user_id = str(event.data["user_id"])
                if self.session_id is None:
                    self.session_id = str(event.data["session_id"])
                return

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
                raise ConversationError(f"the server closed the connection (code {said.code})")
            elif isinstance(said, Violated):
                raise ConversationError(f"the server broke the protocol: {said.fault.value.text}")
            else:
                assert isinstance(said, Accepted | PongReceived | BinaryReceived)  # nothing to answer


def _rejection(answer: Rejected) -> str:
    again = f"; try again in {answer.retry_after} seconds" if answer.retry_after is not None else ""
    return f"the server refused the connection: {answer.status} {answer.reason}{again}"
