"""The client: one pure function from what happened to what must be done, like the node it speaks to.

    effects = client.step(input, now)   # perform them in order
    client.wake_at                      # when to call with TimerFired, in seconds of the monotonic clock, or None

Its phases are here, and what an input or an event means in each; one class in one long file, since they share its
state. What a connection says on the wire is in `connection`, what the client knows of its session in
`session`, and whether it comes back in `retry`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from ..clock import Now, Reason, Timers
from ..events import Ack, Auth, ClientEvent, ErrorEvent, Pong, ServerEvents, SystemEvent, dump
from ..faults import Fault, Retry
from ..wire.client import Accepted, ClientLink, Rejected
from ..wire.frames import CloseReceived
from .config import ClientConfig
from .connection import ClientConnection, Said, open_link
from .events import NotRecovered, Recovered, read_established, read_resumed
from .io import (
    CancelRequested,
    ClientEffect,
    ClientFault,
    ClientInput,
    CloseRequested,
    CloseTransport,
    ConnectRequested,
    DataReceived,
    Deliver,
    Disconnected,
    Ended,
    FetchToken,
    MessageRequested,
    OpenTransport,
    SendData,
    TimerFired,
    TokenFailed,
    TokenFetched,
    TransportFailed,
    TransportLost,
    TransportOpened,
    Welcomed,
)
from .messages import Messages
from .retry import Backoff, Comeback, retry_of_close, retry_of_error, retry_of_status, seconds
from .session import ACCEPTED, Broken, ClientSession, Stage
from .texts import TooMuch

NORMAL = 1000  # the close code of who is done (RFC 6455 section 7.4.1)
RESUMES = 5  # in a row that a connection may leave unanswered
REASON_LENGTH = 80  # characters of a server's reason phrase that people are shown
_AUTH_CODES = {fault.value.code for fault in (Fault.AUTH_REQUIRED, Fault.AUTH_FAILED, Fault.TOKEN_EXPIRED)}


class Phase(Enum):
    """Where a client is in its life."""

    NEW = "not asked to connect"
    OPENING = "the transport is being opened"
    UPGRADING = "the upgrade is not answered"
    AUTHENTICATING = "the server does not say yet that it knows the user"
    OPEN = "the server listens"
    WAITING = "the next attempt is due"
    CLOSING = "our Close is out"
    ENDED = "over"


_CONNECTED = (Phase.UPGRADING, Phase.AUTHENTICATING, Phase.OPEN)
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.OPENING, Phase.ENDED}),
    Phase.OPENING: frozenset({Phase.UPGRADING, Phase.WAITING, Phase.ENDED}),
    Phase.UPGRADING: frozenset({Phase.AUTHENTICATING, Phase.WAITING, Phase.ENDED}),
    Phase.AUTHENTICATING: frozenset({Phase.OPEN, Phase.WAITING, Phase.CLOSING, Phase.ENDED}),
    Phase.OPEN: frozenset({Phase.WAITING, Phase.CLOSING, Phase.ENDED}),
    Phase.WAITING: frozenset({Phase.OPENING, Phase.ENDED}),
    Phase.CLOSING: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}
_TIMERS = (
    Reason.CONNECT, Reason.RECONNECT, Reason.RESUME, Reason.RESEND, Reason.HEARTBEAT, Reason.CLOSE,
)  # fmt: skip


class Client:
    """A client of one session. `step` is the only way to change it; nothing that a server does makes it raise.

    A token is fetched for each connection that asks for one, and for none else.
    """

    def __init__(self, config: ClientConfig, *, ids: Callable[[], str], jitter: Callable[[], float]) -> None:
        """`ids` gives a new unguessable text a call, `jitter` a number 0 ≤ x < 1: its only sources of randomness.

        Raises ValueError where host, target or headers cannot stand in an HTTP request, or `session_id` is no name.
        """
        self._config = config
        self._ids = ids
        self._phase = Phase.NEW
        self._timers = Timers()
        self._effects: list[ClientEffect] = []
        self._bytes = bytearray()  # to be written, behind what is in the effects
        self._connection: ClientConnection | None = None
        self._messages = Messages(config.max_pending)
        self._session = ClientSession(
            config.session_id, history=config.history, messages=self._messages, max_chars=config.max_message,
            deliver=self._deliver, send=self._say,
        )  # fmt: skip
        self._comeback = Comeback(config, jitter)
        self._patience = Backoff(config.backoff_base, config.backoff_cap, jitter)  # on one connection
        self._user_id = ""
        self._resumes = 0  # in a row that this connection could not answer
        self._welcomed = False  # on this connection
        self._known = False  # from an earlier one
        self._fetching = False  # a token
        self._wants_token = False
        self._routes: dict[type, Callable[[Any, Now], None]] = {
            ConnectRequested: self._connect_requested,
            TransportOpened: self._transport_opened,
            TransportFailed: self._transport_failed,
            TransportLost: self._transport_lost,
            DataReceived: self._data_received,
            TokenFetched: self._token_fetched,
            TokenFailed: self._token_failed,
            MessageRequested: self._message_requested,
            CancelRequested: self._cancel_requested,
            TimerFired: self._timer_fired,
            CloseRequested: self._close_requested,
        }
        self._open_link()  # raises now what it would raise later

    def step(self, event: ClientInput, now: Now) -> list[ClientEffect]:
        """Take one input; return what must be done, in order.

        Raises ValueError for mistakes of the caller, which leave the client as it was: a message without an id, with
        that of one in progress, for another session, one too many, or after the end; a second `ConnectRequested`.
        """
        route = self._routes.get(type(event))
        if route is None:
            raise TypeError(f"{type(event).__name__} is no input of a client")
        route(event, now)
        self._flush()
        effects, self._effects = self._effects, []
        return effects

    @property
    def wake_at(self) -> float | None:
        """When the next timer is due, in seconds of the monotonic clock; None where none is set. Changes nothing."""
        return self._timers.soonest

    # ── the caller ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _connect_requested(self, event: ConnectRequested, now: Now) -> None:
        if self._phase is not Phase.NEW:
            raise ValueError("a client connects once, and stays connected by itself")
        self._open(now)

    def _message_requested(self, event: MessageRequested, now: Now) -> None:
        if self._phase in (Phase.CLOSING, Phase.ENDED):
            raise ValueError("the client has come to its end")
        named = event.message.session_id
        if named is not None and named != self._session.id:
            raise ValueError(f"this client speaks in session {self._session.id!r} alone")
        self._session.post(self._messages.add(event.message))

    def _cancel_requested(self, event: CancelRequested, now: Now) -> None:
        message = self._messages.find(event.message_id)
        if message is not None and not message.cancelled:
            self._session.cancel(message)

    def _close_requested(self, event: CloseRequested, now: Now) -> None:
        if self._phase in (Phase.CLOSING, Phase.ENDED):
            return
        if self._phase not in (Phase.AUTHENTICATING, Phase.OPEN):
            self._end(None)
            return
        assert self._connection is not None
        self._connection.close(NORMAL)
        self._enter(Phase.CLOSING)
        self._clear_timers()
        self._wants_token = False
        self._session.disconnected()
        self._timers.set(Reason.CLOSE, 0, now.mono + self._config.close_timeout)

    # ── transport ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, now: Now) -> None:
        self._enter(Phase.OPENING)
        self._comeback.begin()
        self._patience.reset()
        self._resumes = 0
        self._welcomed = False
        self._effects.append(OpenTransport())
        self._timers.set(Reason.CONNECT, 0, now.mono + self._config.connect_timeout)

    def _open_link(self) -> ClientLink:
        config = self._config
        return open_link(config.host, config.target, config.headers, self._ids(), config.max_message)

    def _transport_opened(self, event: TransportOpened, now: Now) -> None:
        if self._phase is Phase.OPENING:
            config = self._config
            self._enter(Phase.UPGRADING)
            self._connection = ClientConnection(
                self._open_link(), self._write, self._timers,
                silence=config.heartbeat, patience=config.heartbeat_timeout, now=now,
            )  # fmt: skip

    def _transport_failed(self, event: TransportFailed, now: Now) -> None:
        if self._phase is Phase.OPENING:
            fault = ClientFault("CONNECT_FAILED", f"the server cannot be reached: {event.reason}")
            self._lose(fault, Retry.BACK_OFF, now, gone=True)

    def _transport_lost(self, event: TransportLost, now: Now) -> None:
        if self._phase is Phase.CLOSING:
            self._end(None, gone=True)
        elif self._phase in (Phase.OPENING, *_CONNECTED):
            early = self._phase is not Phase.OPEN
            text = "the connection was lost"
            fault = ClientFault("CONNECT_FAILED", f"{text} before it stood") if early else ClientFault("LOST", text)
            self._lose(fault, Retry.BACK_OFF, now, gone=True)

    def _data_received(self, event: DataReceived, now: Now) -> None:
        connection = self._connection
        if connection is None:
            return
        for said in connection.receive(event.data, now):
            self._hear(connection, said, now)
            if self._connection is not connection:
                return

    def _hear(self, connection: ClientConnection, said: Said, now: Now) -> None:
        if self._phase is Phase.CLOSING:
            if isinstance(said, CloseReceived | Fault):
                self._end(None)
        elif isinstance(said, Accepted):
            self._enter(Phase.AUTHENTICATING)
        elif isinstance(said, Rejected):
            self._rejected(said, now)
        elif isinstance(said, CloseReceived):
            connection.close(said.code)
            fault = ClientFault("CLOSED", f"the server closed the connection with {said.code}", said.code)
            self._lose(fault, retry_of_close(said.code), now)
        elif isinstance(said, Fault):
            self._violated(said, now)
        else:
            try:
                self._heard(said, now)
            except Broken:
                self._violated(Fault.PROTOCOL_VIOLATION, now)
            except TooMuch:
                self._violated(Fault.MESSAGE_TOO_BIG, now)

    def _rejected(self, said: Rejected, now: Now) -> None:
        reason = said.reason[:REASON_LENGTH]
        told = f"{said.status} {reason}" if said.status else reason
        wait = None if said.retry_after is None else seconds(said.retry_after)
        fault = ClientFault("REJECTED", f"the server did not accept the connection: {told}", None, said.status, wait)
        self._comeback.wait(wait or 0.0, now)
        self._lose(fault, retry_of_status(said.status), now)

    def _violated(self, fault: Fault, now: Now) -> None:
        """What the server says is no protocol, and would not be one the next time."""
        code = fault.value.close
        assert self._connection is not None
        assert code is not None
        self._connection.close(code)
        text = f"the server does not keep to the protocol: {fault.value.text}"
        self._lose(ClientFault("PROTOCOL", text, code), Retry.NO, now)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, event: ServerEvents, now: Now) -> None:
        """An event of the server."""
        if isinstance(event, Pong):
            return
        if event.seq is not None:
            if self._phase is Phase.OPEN and event.session_id == self._session.id:
                self._session.take(event, event.seq)
        elif isinstance(event, SystemEvent):
            self._system(event, now)
        else:
            assert isinstance(event, ErrorEvent), "everything else is of a session, and numbered"
            self._error(event, now)
        if self._phase is Phase.OPEN:
            self._check_flow(now)

    def _system(self, event: SystemEvent, now: Now) -> None:
        name, session = event.event_name, self._session
        if name == "connection_established":
            self._established(event)
        elif name == "auth_required" and self._phase is Phase.AUTHENTICATING and not self._config.token:
            self._leave(ClientFault("AUTH_REQUIRED", "the server asks for a token, and there is none"))
        elif name in ("auth_required", "token_expiring"):
            self._want_token()
        elif name == "session_resumed" and event.session_id == session.id and self._phase is Phase.OPEN:
            answer = read_resumed(event)
            if isinstance(answer, Recovered):
                session.recovered(answer)
            elif isinstance(answer, NotRecovered):
                session.not_recovered(answer, event)
            else:
                raise Broken
        elif name == ACCEPTED and event.session_id == session.id:
            session.acknowledged(event)
        elif name == "server_draining":
            self._comeback.reconnect_after = seconds(event.data.get("reconnect_after"))
            session.draining = True
            self._deliver(event)
        elif name not in ("token_refreshed", "session_resumed", ACCEPTED):
            self._deliver(event)

    def _established(self, event: SystemEvent) -> None:
        """The server knows the user: now for the session."""
        data = read_established(event)
        if data is None:
            raise Broken
        if self._phase is Phase.AUTHENTICATING:
            self._enter(Phase.OPEN)
            self._comeback.known()
            self._wants_token = False
            self._user_id = data.user_id
            self._session.connected(data.session_id, data.epoch)

    def _error(self, event: ErrorEvent, now: Now) -> None:
        """An error that is not of the session's log."""
        wait = seconds((event.details or {}).get("retry_after"))
        self._comeback.wait(wait, now, of_message=event.correlation_id is not None)
        if event.error_code in _AUTH_CODES:
            self._comeback.said = event
        elif event.correlation_id is not None:
            if self._session.refused(event):
                self._timers.set(Reason.RESEND, 0, now.mono + self._patience.next(wait))
        elif self._phase is not Phase.OPEN or self._session.stage is not Stage.ASKED:
            self._deliver(event)
        elif event.error_code == Fault.SESSION_NOT_FOUND.value.code:
            self._session.not_found(event)
        elif retry_of_error(event.error_code) is Retry.NO:
            self._leave(ClientFault(event.error_code, event.error_message))
        else:
            self._unanswered(ClientFault(event.error_code, event.error_message, retry_after=wait or None), now)

    def _unanswered(self, fault: ClientFault, now: Now) -> None:
        """The server cannot say now what became of the session: ask again in a while, and not without end.

        On the way to the first welcome the time for all of it together goes on.
        """
        self._resumes += 1
        if not (self._known or self._config.insist):
            self._leave(fault)
        elif self._resumes == RESUMES:
            assert self._connection is not None
            self._connection.close(NORMAL)
            self._lose(fault, Retry.BACK_OFF, now)
        else:
            if self._known:
                self._timers.clear(Reason.CONNECT, 0)
            self._timers.set(Reason.RESUME, 0, now.mono + self._patience.next(fault.retry_after or 0.0))

    def _check_flow(self, now: Now) -> None:
        """Until everything that was missed is here there is a time limit; then messages flow, and we acknowledge."""
        session, timers = self._session, self._timers
        if session.stage is not Stage.FLOWING:
            waits = timers.at(Reason.RESUME, 0) is not None
            if session.stage is Stage.REPLAYING or (not waits and timers.at(Reason.CONNECT, 0) is None):
                timers.set(Reason.CONNECT, 0, now.mono + self._config.connect_timeout)
            return
        timers.clear(Reason.CONNECT, 0)
        timers.clear(Reason.RESUME, 0)
        self._resumes = 0
        if not self._welcomed:
            self._comeback.flows(now)
            assert session.id is not None
            self._effects.append(Welcomed(self._user_id, session.id, not self._known))
            self._welcomed = self._known = True
        if session.unacknowledged >= self._config.ack_every:
            assert session.id is not None
            session.unacknowledged = 0
            self._say(Ack(type="ack", session_id=session.id, seq=session.seq))

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _want_token(self) -> None:
        if self._config.token:
            self._wants_token = True
            if not self._fetching:
                self._fetching = True
                self._effects.append(FetchToken())

    def _token_fetched(self, event: TokenFetched, now: Now) -> None:
        self._fetching = False
        if not self._wants_token:
            return  # the connection that asked is gone; the next one gets a fresh one
        self._wants_token = False
        try:
            auth = Auth(type="auth", token=event.token)
            dump(auth)
        except ValueError:  # of Pydantic: NUL, or half a character
            self._no_token("what was fetched is no token", now)
        else:
            self._say(auth)

    def _token_failed(self, event: TokenFailed, now: Now) -> None:
        self._fetching = False
        if self._wants_token:
            self._wants_token = False
            self._no_token(event.reason, now)

    def _no_token(self, reason: str, now: Now) -> None:
        """The connection cannot be had without one; one that is open lasts as long as its token."""
        if self._phase is Phase.AUTHENTICATING:
            assert self._connection is not None
            self._connection.close(NORMAL)
            fault = ClientFault("TOKEN_UNAVAILABLE", f"there is no token: {reason}")
            self._lose(fault, Retry.BACK_OFF, now)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _timer_fired(self, event: TimerFired, now: Now) -> None:
        while (due := self._timers.pop_due(now.mono)) is not None:
            reason = due[0]
            if reason is Reason.CONNECT:
                fault = ClientFault("TIMEOUT", "the server did not answer in time")
                self._lose(fault, Retry.BACK_OFF, now)
            elif reason is Reason.RECONNECT:
                self._open(now)
            elif reason is Reason.HEARTBEAT:
                assert self._connection is not None
                if not self._connection.alive(now):
                    self._lose(ClientFault("LOST", "the server has gone silent"), Retry.BACK_OFF, now)
            elif reason is Reason.RESUME:
                if self._known:
                    self._timers.set(Reason.CONNECT, 0, now.mono + self._config.connect_timeout)
                self._session.ask_again()
            elif reason is Reason.RESEND:
                self._session.post_refused()
            else:
                assert reason is Reason.CLOSE
                self._end(None)

    # ── the end of a connection, and of the client ───────────────────────────────────────────────────────────────────

    def _lose(self, fault: ClientFault, retry: Retry, now: Now, *, gone: bool = False) -> None:
        """A connection has ended, or the attempt to get one: come back, or not. `gone`: the transport is, too."""
        established = self._phase is Phase.OPEN
        self._close_transport(gone)
        verdict = self._comeback.decide(fault, retry, established, now)
        if isinstance(verdict, ClientFault):
            self._effects.append(Disconnected(fault.text, None))
            self._end(verdict, gone=True)
        else:
            self._enter(Phase.WAITING)
            self._timers.set(Reason.RECONNECT, 0, now.mono + verdict)
            self._effects.append(Disconnected(fault.text, verdict))

    def _leave(self, fault: ClientFault) -> None:
        """Close the connection from our side, for good."""
        assert self._connection is not None
        self._connection.close(NORMAL)
        self._close_transport(gone=False)
        self._effects.append(Disconnected(fault.text, None))
        self._end(fault, gone=True)

    def _end(self, fault: ClientFault | None, *, gone: bool = False) -> None:
        """Nothing will ever be heard of this client again."""
        if self._phase in (Phase.OPENING, Phase.CLOSING, *_CONNECTED):
            self._close_transport(gone)
        self._enter(Phase.ENDED)
        self._clear_timers()
        self._effects.append(Ended(fault))

    def _close_transport(self, gone: bool) -> None:
        self._clear_timers()
        self._connection = None
        self._session.disconnected()
        self._wants_token = False
        if not gone:
            self._flush()
            self._effects.append(CloseTransport())

    def _clear_timers(self) -> None:
        for reason in _TIMERS:
            self._timers.clear(reason, 0)

    # ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _deliver(self, event: ServerEvents) -> None:
        self._effects.append(Deliver(event))

    def _say(self, event: ClientEvent) -> None:
        assert self._connection is not None
        self._connection.say(event)

    def _write(self, data: bytes) -> None:
        self._bytes += data

    def _flush(self) -> None:
        """What is written in a step goes out at once."""
        if self._bytes:
            self._effects.append(SendData(bytes(self._bytes)))
            self._bytes.clear()

    def _enter(self, phase: Phase) -> None:
        """The one place where the phase changes."""
        assert phase in TRANSITIONS[self._phase], f"{self._phase} does not become {phase}"
        self._phase = phase
