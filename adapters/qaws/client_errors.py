"""What `QAWebSocketClient` raises: errors with a `code`, and `retry_after` where it is known when to come again."""

from __future__ import annotations

from typing import Any

from qaws_proto.client.io import ClientFault
from qaws_proto.events import AgentResponse, ErrorEvent

LOST = "LOST"  # what was accepted, and is neither worked on nor held any more
ANSWERED = "ANSWERED"  # under an id that was used before, and its answer is not held any more
AUTHENTICATION = frozenset({"AUTH_REQUIRED", "AUTH_FAILED", "TOKEN_EXPIRED", "FORBIDDEN", "TOKEN_UNAVAILABLE"})


class ClientError(Exception):
    """Base of the errors of a client.

    `code` is an error code of the protocol (docs/protocol.md) or one of the client's own (docs/client.md).
    `retry_after` is seconds, None where nobody knows.
    """

    def __init__(self, text: str, *, code: str, retry_after: float | None = None) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.retry_after = retry_after


class ConnectError(ClientError):
    """There is no connection, and there was none before. `status` is that of HTTP, where the server gave one."""

    def __init__(self, text: str, *, code: str, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(text, code=code, retry_after=retry_after)
        self.status = status


class AuthenticationError(ClientError):
    """There is no token, none could be got, or the server does not take it."""


class ClosedError(ClientError):
    """The client has come to its end. `close_code` is the server's, where it gave one."""

    def __init__(
        self, text: str, *, code: str = "CLOSED", retry_after: float | None = None, close_code: int | None = None
    ) -> None:
        super().__init__(text, code=code, retry_after=retry_after)
        self.close_code = close_code


class AnswerError(ClientError):
    """A message has no answer. The client can be used as before.

    `message_id` is that of the message, `error_id` what the operator finds in the log of the server.
    """

    def __init__(
        self,
        text: str,
        *,
        code: str,
        message_id: str,
        retry_after: float | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(text, code=code, retry_after=retry_after)
        self.message_id = message_id
        self.error_id = error_id


class AnswerCancelled(AnswerError):
    """The answer was cancelled; `response` has the text until then."""

    def __init__(self, response: AgentResponse, message_id: str) -> None:
        super().__init__("the answer was cancelled", code="CANCELLED", message_id=message_id)
        self.response = response


class AnswerLost(AnswerError):
    """The answer cannot be told whole any more: the server has lost it, or begun another one behind a restart."""

    def __init__(self, text: str, *, message_id: str, code: str = LOST, **known: Any) -> None:
        super().__init__(text, code=code, message_id=message_id, **known)


class AnswerTimeout(AnswerError, TimeoutError):
    """Nothing was heard for as long as the caller was ready to wait."""

    def __init__(self, message_id: str, seconds: float) -> None:
        super().__init__(f"nothing was heard in {seconds:g} seconds", code="TIMEOUT", message_id=message_id)


def of_fault(fault: ClientFault | None, *, connected: bool) -> ClientError:
    """The error of a client that came to its end; `connected`: it was, before."""
    if fault is None:
        return ClosedError("the client is closed")
    if fault.code in AUTHENTICATION:
        return AuthenticationError(fault.text, code=fault.code, retry_after=fault.retry_after)
    if connected:
        return ClosedError(fault.text, code=fault.code, retry_after=fault.retry_after, close_code=fault.close_code)
    return ConnectError(fault.text, code=fault.code, retry_after=fault.retry_after, status=fault.status)


def of_event(event: ErrorEvent, message_id: str) -> AnswerError:
    """The error of a message that was answered by one."""
    details = event.details or {}
    wait, error_id = details.get("retry_after"), details.get("error_id")
    kind = AnswerLost if event.error_code in (LOST, ANSWERED) else AnswerError
    return kind(
        event.error_message,
        code=event.error_code,
        message_id=message_id,
        retry_after=wait if isinstance(wait, int | float) else None,
        error_id=error_id if isinstance(error_id, str) else None,
    )
