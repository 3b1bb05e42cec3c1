"""What can happen to a client, and what must be done for it: the values that `Client.step` takes and returns."""

from __future__ import annotations

from typing import NamedTuple

from ..events import ChatMessage, ServerEvents


class ConnectRequested(NamedTuple):
    """The client should connect, and stay connected. The first input, once."""


class TransportOpened(NamedTuple):
    """The transport of the last `OpenTransport` is there: TCP, and TLS where the address asks for it."""


class TransportFailed(NamedTuple):
    """The transport of the last `OpenTransport` could not be opened; `reason` is for people."""

    reason: str


class DataReceived(NamedTuple):
    """Bytes came from the server."""

    data: bytes


class TransportLost(NamedTuple):
    """The transport is gone: the server sends no more, or it broke."""


class TokenFetched(NamedTuple):
    """The answer to `FetchToken`."""

    token: str

    def __repr__(self) -> str:  # C12
        return "TokenFetched()"


class TokenFailed(NamedTuple):
    """The other answer to `FetchToken`; `reason` is for people."""

    reason: str


class MessageRequested(NamedTuple):
    """A message should be sent, now or once messages flow. It has an `id` that no message in progress has."""

    message: ChatMessage


class CancelRequested(NamedTuple):
    """The run of a message should end. Nothing happens where it has ended."""

    message_id: str


class TimerFired(NamedTuple):
    """The time `Client.wake_at` has come. Early ones are harmless."""


class CloseRequested(NamedTuple):
    """The client should come to its end."""


ClientInput = (
    ConnectRequested | TransportOpened | TransportFailed | DataReceived | TransportLost | TokenFetched | TokenFailed
    | MessageRequested | CancelRequested | TimerFired | CloseRequested
)  # fmt: skip


class ClientFault(NamedTuple):
    """Why a client came to its end.

    `code` is an error code of the protocol, or one of `CONNECT_FAILED` (no transport), `REJECTED` (the upgrade, with
    its HTTP `status`), `CLOSED` (by the server, with its `close_code`), `TIMEOUT`, `PROTOCOL` (what the server said is
    no protocol), `TOKEN_UNAVAILABLE`, `LOST` (the transport broke). `retry_after` is seconds.
    """

    code: str
    text: str
    close_code: int | None = None
    status: int | None = None
    retry_after: float | None = None


class OpenTransport(NamedTuple):
    """Open a transport; answer with `TransportOpened` or `TransportFailed`."""


class SendData(NamedTuple):
    """Write these bytes."""

    data: bytes

    def __repr__(self) -> str:  # the headers of an upgrade may hold a token (C12)
        return f"SendData({len(self.data)} bytes)"


class CloseTransport(NamedTuple):
    """Drop the transport now, or stop opening it. It is not to be heard of again."""


class FetchToken(NamedTuple):
    """Get a token; answer with `TokenFetched` or `TokenFailed`, even where the transport is gone by then.

    There is never more than one that is not answered.
    """


class Deliver(NamedTuple):
    """An event for the caller."""

    event: ServerEvents


class Welcomed(NamedTuple):
    """Messages flow: the server knows the user, and what was missed of the session has been delivered."""

    user_id: str
    session_id: str
    first: bool


class Disconnected(NamedTuple):
    """The connection, or the attempt to get one, ended. The next is in `retry_in` seconds; None: there is none."""

    reason: str
    retry_in: float | None


class Ended(NamedTuple):
    """The last effect ever. `error` is None where the client was asked to close."""

    error: ClientFault | None


ClientEffect = (
    OpenTransport | SendData | CloseTransport | FetchToken | Deliver | Welcomed | Disconnected | Ended
)  # fmt: skip
