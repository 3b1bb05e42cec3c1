"""The node: one pure function from what happened to what must be done.

    effects = gateway.step(input, now)   # perform them in order
    gateway.wake_at                      # when to call with TimerFired, in seconds of the monotonic clock, or None

Owns no socket, clock, task, thread, logger or random source; docs/embedding.md shows how to drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .admission.addresses import parse_address
from .admission.authorization import check_events
from .admission.gate import EventCheck, Gate, Refusal, UpgradeCheck
from .admission.keyloader import KeyLoader
from .admission.tokens import TokenVerifier
from .chats import Chats
from .clock import Now, Reason, Timers
from .config import WebSocketConfig
from .connection import Connection, Node, Phase, whole
from .control import Control
from .conversation.accounts import Accounts
from .conversation.changes import Changes
from .conversation.journal import Journal
from .conversation.runs import Runs
from .conversation.session import Session, Sessions
from .conversation.voice import Voice
from .counts import Counts
from .effects import Drained, DropConnection, Effect, Note, Scalar
from .events import Ack, Auth, Cancel, ChatMessage, ClientEvent, ClientEvents, Ping, Resume, SystemEvent, dump
from .extension import EventContext, EventType
from .faults import Fault
from .gauges import Gauges, measure
from .inputs import (
    BytesReceived,
    CloseReceived,
    ConnectionInput,
    ConnectionLost,
    ConnectionOpened,
    DrainRequested,
    EofReceived,
    Input,
    KeysFailed,
    KeysLoaded,
    KeysRequested,
    LoadFailed,
    MessageReceived,
    MetricsCollected,
    RecordsSaved,
    RequestReceived,
    RunChunk,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStep,
    SaveFailed,
    SessionLoaded,
    StopRequested,
    StoreOpened,
    TimerFired,
    WriteBlocked,
    WriteDrained,
    WriteProgressed,
)
from .outbox import Outbox
from .wire.deflate import Deflate
from .wire.frames import Encoded
from .wire.http import Request
from .wire.link import ByteLink, MessageLink


class Gateway:
    """A whole node. `step` is the only way to change it; nothing that a peer or an agent does makes it raise (C1)."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        ids: Callable[[], str],
        verifier: TokenVerifier | None = None,
        events: Sequence[EventType] = (),
        upgrade_checks: Sequence[UpgradeCheck] = (),
        event_checks: Sequence[EventCheck] = (),
        durable: bool | None = None,
    ) -> None:
        """`ids` gives a new unguessable text a call (128 random bits); it is the node's only source of randomness.

        `durable`: whether there is a store that performs `SaveRecords` and `LoadSession`, and says `StoreOpened` first;
        by default where the configuration names one.

        Raises ConfigError where the configuration cannot be used.
        """
        self._outbox = Outbox()
        gate = Gate(
            config,
            verifier=verifier,
            upgrade_checks=upgrade_checks,
            event_checks=event_checks,
            outbox=self._outbox,
        )
        models: list[type[ClientEvent]] = [Auth, ChatMessage, Cancel, Resume, Ack, Ping]
        models += [event.model for event in events]
        durable = config.store.kind != "memory" if durable is None else durable
        self._timers = Timers()
        self._sessions = Sessions(
            config.sessions, config.limits, self._timers, bounded=gate.verifier is not None, durable=durable
        )
        client_events = ClientEvents(models, config.limits.json_depth)
        check_events(config.security.authorization, client_events.types.values())
        self.counts = Counts(client_events.types)
        self._node = Node(config, gate, client_events, self._timers, self._outbox, ids, self._sessions, self.counts)
        self._node.handle = self._handle
        self._deflate = Deflate(config.server.compression) if config.server.compression.enabled else None
        self._handlers: dict[type[ClientEvent], Callable[[EventContext, Any], None]] = {
            event.model: event.handler for event in events
        }
        self._connections: dict[int, Connection] = {}
        self._newest = -1
        changes = Changes(config.limits, self._outbox)
        self._journal = Journal(config.store, self._timers, self._outbox, changes) if durable else None
        voice = Voice(self._journal)
        self._runs = Runs(config, self._timers, self._outbox, ids, voice, Accounts(config, gate.dry_run), self.counts)
        self._chats = Chats(self._node, self._connections, self._sessions, self._runs, voice, self._journal)
        self.control = Control(self._node, self._connections, self._runs, changes if durable else None)
        self._drain_until: float | None = None
        self._drained = False
        self._routes: dict[type, Callable[[Any, Now], None]] = {
            BytesReceived: self._bytes_received,
            MessageReceived: self._message_received,
            ConnectionOpened: self._connection_opened,
            RequestReceived: self._request_received,
            CloseReceived: self._close_received,
            ConnectionLost: self._told(Connection.gone),
            EofReceived: self._told(Connection.gone),
            WriteBlocked: self._told(Connection.blocked),
            WriteProgressed: self._told(Connection.progressed),
            WriteDrained: self._write_drained,
            TimerFired: self._timer_fired,
            RunStarted: self._runs.started,
            RunChunk: self._runs.chunk,
            RunStep: self._runs.step,
            RunFinished: self._runs.finished,
            RunFailed: self._runs.failed,
            MetricsCollected: self._metrics_collected,
            DrainRequested: self._drain_requested,
            StopRequested: self._stop_requested,
            **self.control.routes,
        }
        if durable:
            self._routes |= {
                StoreOpened: self._chats.store_opened,
                RecordsSaved: self._records_saved,
                SaveFailed: self._chats.save_failed,
                SessionLoaded: self._chats.session_loaded,
                LoadFailed: self._chats.load_failed,
            }
        authentication = config.security.authentication
        if gate.verifier is not None and authentication.key_source is not None:
            gate.keys = KeyLoader(authentication, config.limits, gate.verifier, self._timers, self._outbox)
            self._routes |= {
                KeysLoaded: self._keys_settled(gate.keys.loaded),
                KeysFailed: self._keys_settled(gate.keys.failed),
                KeysRequested: gate.keys.requested,
            }

    def step(self, event: Input, now: Now) -> list[Effect]:
        """Take one thing that happened at `now`; the things that must be done, in order.

        Raises TypeError for what is no input and ValueError for a connection number that was never opened or opened
        twice, for bytes where messages are due and the reverse, and for a command of an operator that cannot be done:
        mistakes of the caller, which leave the node as it was.
        """
        route = self._routes.get(type(event))
        if route is None:
            raise TypeError(f"{type(event).__name__} is no input of this gateway")
        route(event, now)
        if self._node.ending:
            self._settle(now)
        if self._journal is not None and not self._drained:
            self._journal.flush(now)
        return self._outbox.take()

    @property
    def wake_at(self) -> float | None:
        """When the next timer is due, in seconds of the monotonic clock; None where none is set. Changes nothing."""
        return self._timers.soonest

    @property
    def config(self) -> WebSocketConfig:
        """The settings in force: those it was given, with what `LimitsChanged` has put in their place."""
        return self._node.config

    @property
    def connections(self) -> int:
        """Sockets that are not closed."""
        return len(self._connections)

    @property
    def sessions(self) -> int:
        """Sessions held."""
        return len(self._sessions)

    @property
    def runs(self) -> int:
        """Messages accepted whose agents have not ended."""
        return len(self._runs)

    @property
    def gauges(self) -> Gauges:
        """How the node stands now, for metrics. Looks at every connection and run."""
        return measure(self._connections.values(), self._node.gate.census, self._sessions, self._runs, self._journal)

    def buffered_bytes(self, connection: int) -> int:
        """Bytes held for a connection, of what it sent and of what waits for it; 0 where it is closed.

        Never above `limits.inbox + limits.read + limits.discard + limits.max_message_size + limits.out_top`, one
        message and one pong more, and 4 KiB where messages may be compressed; before the answer to its request it may
        be `limits.head_size` and a read, where that is more (C7).
        """
        held = self._connections.get(connection)
        return 0 if held is None else held.buffered

    def read_size(self, connection: int) -> int:
        """How many bytes to read from a connection at once."""
        held = self._connections.get(connection)
        return self.config.limits.read if held is None else held.read_size

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _connection_opened(self, event: ConnectionOpened, now: Now) -> None:
        link = ByteLink(self.config.limits, self._deflate)
        self._open(event.connection, event.peer, link, now, internal=event.internal)

    def _request_received(self, event: RequestReceived, now: Now) -> None:
        request = Request(event.method, event.target, event.headers)
        link = MessageLink(event.connection, request, self.config.limits, upgrade=event.upgrade, denial=event.denial)
        connection = self._open(event.connection, event.peer, link, now)
        if connection is not None:
            connection.turn(now)

    def _open(
        self, number: int, address: str | None, link: ByteLink | MessageLink, now: Now, *, internal: bool = False
    ) -> Connection | None:
        """A new connection; None where there are too many even to be told so, or the node has come to its end."""
        if number <= self._newest:
            raise ValueError(f"connection {number} is not greater than {self._newest}, the newest so far")
        peer = parse_address(address)
        self._newest = number
        census = self._node.gate.census
        refused = None if internal else self._node.gate.admit_socket(peer)
        crowded = refused is not None and census.knocking.total >= 2 * self.config.limits.handshakes
        if internal:
            crowded = census.scraping.total >= self.config.metrics.scrapers
        self._node.counts.crowded += crowded
        if crowded or (self._drained and not link.framed):  # a host that goes on without this node is told so
            self._outbox.add(DropConnection(number))
            return None
        connection = Connection(number, peer, link, self._node, now, internal=internal)
        self._connections[number] = connection
        connection.knock(refused, now)
        return connection

    def _find(self, number: int) -> Connection | None:
        """The connection; None where it is closed."""
        connection = self._connections.get(number)
        if connection is None and number > self._newest:
            raise ValueError(f"connection {number} was never opened")
        return connection

    def _bytes_received(self, event: BytesReceived, now: Now) -> None:
        connection = self._find(event.connection)
        if connection is None:
            return
        if connection.framed:
            raise ValueError(f"connection {event.connection} takes messages, not bytes")
        connection.receive(event.data, now)

    def _message_received(self, event: MessageReceived, now: Now) -> None:
        connection = self._find_framed(event.connection)
        if connection is not None:
            connection.receive(event.data, now)

    def _close_received(self, event: CloseReceived, now: Now) -> None:
        connection = self._find_framed(event.connection)
        if connection is not None:
            connection.disconnect(event.code, now)

    def _find_framed(self, number: int) -> Connection | None:
        connection = self._find(number)
        if connection is not None and not connection.framed:
            raise ValueError(f"connection {number} takes bytes, not messages")
        return connection

    def _told(self, tell: Callable[[Connection, Now], None]) -> Callable[[ConnectionInput, Now], None]:
        """The route of an input that a connection is told, and that is all."""

        def route(event: ConnectionInput, now: Now) -> None:
            connection = self._find(event.connection)
            if connection is not None:
                tell(connection, now)

        return route

    def _metrics_collected(self, event: MetricsCollected, now: Now) -> None:
        connection = self._find(event.connection)
        if connection is not None:
            connection.collected(event.body, event.content_type, now)

    def _write_drained(self, event: WriteDrained, now: Now) -> None:
        connection = self._find(event.connection)
        if connection is None:
            return
        connection.drained(now)
        for session in connection.sessions.values():
            if connection.ready:
                session.catch_up(connection.number, now)
            self._runs.caught_up(session, now)

    def _settle(self, now: Now) -> None:
        """Take the connections that end out of the tables."""
        ending = self._node.ending
        while ending:
            connection = ending.pop()
            for session in connection.sessions.values():
                self._sessions.detach(session, connection.number, now)
                self._runs.caught_up(session, now)
            connection.sessions.clear()
            if connection.principal is not None:
                self._sessions.withdraw(connection.principal.user_id, connection.session_id)
            self._chats.let_go(connection)
            if connection.phase is Phase.CLOSED:
                self._connections.pop(connection.number, None)
        self._check_drained(now)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, connection: Connection, event: ClientEvent, now: Now) -> None:
        handle = self._chats.handlers.get(type(event))
        if handle is not None:
            handle(connection, event, now)
        else:
            self._custom(connection, event, now)

    def _custom(self, connection: Connection, event: ClientEvent, now: Now) -> None:
        """An event that a user added. What its handler raises is the user's mistake, and stays on this server (C1)."""
        try:
            self._handlers[type(event)](EventContext(connection, self._outbox, event, now), event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends in the note and in one error event
            fields: dict[str, Scalar] = {"connection": connection.number, "event": event.type}
            self._outbox.add(Note("message", "ERROR", "handler_failed", fields, error))
            connection.refuse(Refusal(Fault.INTERNAL), now, event)

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _records_saved(self, event: RecordsSaved, now: Now) -> None:
        self._chats.records_saved(event, now)
        self._check_drained(now)

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _keys_settled(self, tell: Callable[[Any, Now], None]) -> Callable[[Any, Now], None]:
        """The route of what became of reading the keys: then whoever waits for them is judged."""

        def route(event: KeysLoaded | KeysFailed, now: Now) -> None:
            tell(event, now)
            for connection in list(self._connections.values()):
                if connection.awaits_keys:  # still: what one of them says may have ended another
                    connection.keys_came(now)

        return route

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _timer_fired(self, event: TimerFired, now: Now) -> None:
        while (due := self._timers.pop_due(now.mono)) is not None:
            reason, owner = due
            if reason is Reason.DRAIN:
                self._drain(now)
            elif reason is Reason.KEYS:
                assert self._node.gate.keys is not None
                self._node.gate.keys.due()
            elif reason is Reason.SESSION:
                assert isinstance(owner, int)
                self._session_over(self._sessions.by_number(owner), now)
            elif reason is Reason.STORE:
                assert self._journal is not None
                self._journal.due()
            elif isinstance(owner, str):
                self._runs.due(reason, owner, now)
            elif reason is Reason.BACKLOG:
                self._connections[owner].turn(now)
            else:
                self._connections[owner].due(reason, now)

    def _session_over(self, session: Session, now: Now) -> None:
        """Nobody has read it for its time: its runs end, and as soon as that is kept it is forgotten."""
        self._runs.cancel_all(session, now)
        if session.settled or self._drained:  # behind the end nothing is kept any more
            self._sessions.forget(session)
        else:
            self._timers.set(Reason.SESSION, session.number, now.mono + self.config.store.retry)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _drain_requested(self, event: DrainRequested, now: Now) -> None:
        """No new clients; what runs may finish; then every connection is closed, a few at a time (D1)."""
        if self._drain_until is not None:
            return
        drain = self.config.drain
        self._drain_until = now.mono + drain.timeout
        self._chats.draining = True
        self._node.gate.census.draining = True
        fields: dict[str, Scalar] = {"connections": len(self._connections), "runs": self.runs}
        self._outbox.add(Note("node", "INFO", "draining", {**fields, "by": event.by, "reason": event.reason}))
        data = {"deadline": whole(drain.timeout), "reconnect_after": whole(drain.reconnect_after)}
        notice = SystemEvent(event_name="server_draining", data={**data})
        message = Encoded(dump(notice))  # encoded once for all
        for connection in list(self._connections.values()):
            connection.tell(message, now)
        self._drain(now)

    def _drain(self, now: Now) -> None:
        """Close some of the connections that no run is for; of all, and without their runs, where the time is over."""
        assert self._drain_until is not None
        over = now.mono >= self._drain_until
        if over:
            self._cancel_runs(now)
        left = self.config.drain.closes
        for connection in list(self._connections.values()):
            if left == 0:
                break
            if (over or connection.idle) and connection.phase in (Phase.AUTHENTICATING, Phase.OPEN):
                connection.close(Fault.RESTARTING, now)
                left -= 1
        self._timers.set(Reason.DRAIN, 0, now.mono + self.config.drain.interval)
        self._check_drained(now)

    def _stop_requested(self, event: StopRequested, now: Now) -> None:
        """Everything ends now."""
        self._drain_until = now.mono
        self._chats.draining = True
        self._node.gate.census.draining = True
        self._cancel_runs(now)
        for connection in list(self._connections.values()):
            connection.close(Fault.GOING_AWAY, now)
        self._check_drained(now)

    def _cancel_runs(self, now: Now) -> None:
        for run in reversed(self._runs.live):  # the waiting ones first, so that none of them starts
            self._runs.cancel(run, now)

    def _check_drained(self, now: Now) -> None:
        """Say when a drain is over. Sockets that are not upgraded (probes, refused clients) do not hold it up."""
        if self._drain_until is None or self._drained:
            return
        patient = now.mono < self._drain_until + self.config.limits.close_timeout
        unsaved = self._journal is not None and self._journal.pending and patient
        if self._node.gate.census.open.total or self._runs.live or unsaved:
            if self._timers.at(Reason.DRAIN, 0) is None:
                self._timers.set(Reason.DRAIN, 0, now.mono + self.config.drain.interval)
            return
        self._drained = True
        self._timers.clear(Reason.DRAIN, 0)
        if self._node.gate.keys is not None:
            self._node.gate.keys.stop()
        for connection in list(self._connections.values()):
            connection.drop(now)
        self._settle(now)
        self._outbox.add(Note("node", "INFO", "drained", {"runs": self.runs}))
        self._outbox.add(Drained())
