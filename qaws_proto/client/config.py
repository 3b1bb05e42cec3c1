"""The settings of a client."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Where a client connects, and how. Times are seconds."""

    host: str  # with its port, as in the Host header
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # may hold a token (C12)
    token: bool = False  # whether one can be fetched
    session_id: str | None = None  # the session to read and speak in; None: one of its own
    history: bool = False  # hear a named session from the oldest event held, and not only from now on
    reconnect: bool = True
    insist: bool = True  # try again too where there was no connection before; a token that is refused always is, once
    max_attempts: int | None = None  # to connect that fail in a row
    backoff_base: float = 0.5
    backoff_cap: float = 30.0
    connect_timeout: float = 10.0  # for transport, upgrade, login and resume together
    heartbeat: float = 30.0  # silence before a ping
    heartbeat_timeout: float = 30.0  # silence after it before the transport is given up
    close_timeout: float = 5.0  # for the server to answer our Close
    ack_every: int = 256  # events
    max_message: int = 16 * 1024 * 1024  # bytes of one message of the server, and characters held of unfinished answers
    max_pending: int = 1024  # messages that have not ended
