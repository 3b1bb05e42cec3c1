"""One server connection: its phases, its deadlines, and the joins wire → events → gate.

Every transition of a phase is in `TRANSITIONS`, and made by `_enter`. The connection does not know what a chat is: it
hands on the events that pass the gate, and says what it is told to say. One class in one long file, since its phases
share its state; what can be decided without it stands elsewhere (handshake, credential, outflow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import inf, nextafter

from .admission.addresses import Address, key_of
from .admission.credential import Credential
from .admission.gate import SUBPROTOCOL, Gate, Passage, Refusal, details_of
from .admission.ratelimit import FrameBudget, Seldom
from .admission.tokens import ANONYMOUS, Principal
from .clock import Now, Reason, Timers
from .config import WebSocketConfig
from .conversation.session import Session, Sessions
from .counts import Counts
from .effects import CloseWrite, CollectMetrics, DropConnection, Note, PauseReading, ResumeReading, Scalar
from .events import (
    Auth,
    ClientEvent,
    ClientEvents,
    Ping,
    Pong,
    Refused,
    ServerEvent,
    SystemEvent,
    correlation_of,
    dump,
    error_event,
    system_event,
)
from .faults import Fault
from .handshake import Answer, Scrape, judge, turned_away
from .outbox import Outbox
from .trace_context import TraceContext, of_headers
from .traffic import Traffic
from .wire.frames import BinaryReceived, CloseReceived, Encoded, PingReceived, PongReceived, TextReceived, Violated
from .wire.http import Request
from .wire.link import ByteLink, MessageLink
from .wire.outflow import Outflow

PROTOCOL_NAME = SUBPROTOCOL
BAD_MESSAGE_WINDOW = 60.0  # seconds (M1)
_NO_SESSIONS: frozenset[tuple[str, str]] = frozenset()  # one for all: most connections never await any


class Phase(Enum):
    """Where a connection is in its life."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call on every look-up

    HANDSHAKING = "handshaking"
    AUTHENTICATING = "authenticating"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.HANDSHAKING: frozenset({Phase.AUTHENTICATING, Phase.CLOSING, Phase.CLOSED}),
    Phase.AUTHENTICATING: frozenset({Phase.OPEN, Phase.CLOSING, Phase.CLOSED}),
    Phase.OPEN: frozenset({Phase.CLOSING, Phase.CLOSED}),
    Phase.CLOSING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}

_CONVERSING = (Reason.AUTH, Reason.HEARTBEAT, Reason.MESSAGE, Reason.SLOW, Reason.TOKEN)
# Those that end with their phase, where a connection comes to its end in it. BACKLOG lasts until it is closed: what is
# unread may hold the peer's Close.
_TIMERS: dict[Phase, tuple[Reason, ...]] = {
    Phase.HANDSHAKING: (Reason.HEAD, Reason.AUTH, Reason.SCRAPE),
    Phase.AUTHENTICATING: _CONVERSING,
    Phase.OPEN: _CONVERSING,
    Phase.CLOSING: (Reason.CLOSE, Reason.LINGER),
}


@dataclass(slots=True)
class Node:
    """What the connections of a node share."""

    config: WebSocketConfig
    gate: Gate
    events: ClientEvents
    timers: Timers
    outbox: Outbox
    ids: Callable[[], str]
    sessions: Sessions
    counts: Counts
    ending: list[Connection] = field(default_factory=list)  # those that began to close, or closed, in this turn
    handle: Callable[[Connection, ClientEvent, Now], None] = field(init=False)  # takes each event that passes the gate
    noted: Seldom = field(init=False)  # the addresses whose refusals are in the log (H3)
    frames_per_turn: int = field(init=False)  # these are looked at with every frame, and a model's fields are slow
    frames_per_second: int = field(init=False)
    frame_burst: int = field(init=False)

    def __post_init__(self) -> None:
        limits = self.config.limits
        self.noted = Seldom(limits.refusal_interval, limits.refusal_addresses)
        self.configure(self.config)

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these settings from now on."""
        self.config, limits = config, config.limits
        self.frames_per_turn, self.frames_per_second = limits.frames_per_turn, limits.frames_per_second
        self.frame_burst = limits.frame_burst


class Connection:
    """One socket, from its first byte to its last. Makes effects through the node's outbox."""

    __slots__ = (
        "_asked", "_assembling", "_bad", "_budget", "_charged", "_credential", "_discarded", "_end", "_heard_at",
        "_held", "_link", "_node", "_out", "_paused", "_pinged_at", "_scrape", "_strikes", "_tally", "account",
        "address", "address_key", "awaits", "epoch", "number", "phase", "session_id", "sessions", "trace", "traffic",
    )  # fmt: skip

    def __init__(
        self, number: int, peer: Address | None, link: ByteLink | MessageLink, node: Node, now: Now,
        *, internal: bool = False,
    ) -> None:  # fmt: skip
        self.number = number
        self.phase = Phase.HANDSHAKING
        self.address = peer  # the client's own, behind proxies too, as soon as it is known
        self.address_key = key_of(peer)  # what it is counted under
        self.account = ""  # what its messages are counted under, as soon as it may send some
        self.session_id = ""  # the connection's own session, opened with its first message
        self.epoch = ""
        self.sessions: dict[int, Session] = {}  # the sessions it reads, kept by the gateway
        self.awaits = _NO_SESSIONS  # those it would read, were they there
        self._node = node
        self._link = link
        self._out = Outflow(number, node.outbox)
        self._credential: Credential | None = None
        self._heard_at = now.mono
        self.traffic = Traffic(now)
        self.trace: TraceContext | None = None  # that its upgrade named
        self._pinged_at: float | None = None
        self._budget = FrameBudget()
        self._charged = 0  # frames that the budget was charged with
        self._held = False  # an event of it waits for the store: the next ones stay unread
        self._asked: Request | Auth | None = None  # what waits for the keys of its token
        self._assembling = False  # a message has begun and its deadline is set
        self._paused = False  # its reading, since too much waits on one side or the other
        self._strikes = 0  # refusals for the rate, in a row
        self._bad: tuple[float, ...] = ()  # when it sent what is no JSON
        self._discarded = 0  # bytes that came behind what ended it
        self._end: tuple[int, str] | None = None  # the close code, or HTTP status, and its word
        node.timers.set(Reason.HEAD, number, now.mono + node.config.limits.head_timeout)
        self._scrape: Scrape | None = None  # it asked for metrics
        census = node.gate.census
        self._tally = census.scraping if internal else census.knocking  # where it is counted now
        self._tally.enter(self.address_key)

    # ── what the transport says ──────────────────────────────────────────────────────────────────────────────────────

    def receive(self, data: bytes | str, now: Now) -> None:
        """Bytes came, or a message. Each event that passes is handled before what is behind it is looked at."""
        self._heard_at = now.mono
        if self.phase is Phase.CLOSING:
            self._discarded += len(data)
            if self._discarded > self._node.config.limits.discard:
                self.drop(now)
                return
        self._link.receive(data)  # type: ignore[arg-type]  # the gateway has seen that it is what this link takes
        self.turn(now)

    def turn(self, now: Now) -> None:
        """Handle what has been received, up to `frames_per_turn`; the rest waits for a timer (F8)."""
        link, node = self._link, self._node
        until = link.frames + node.frames_per_turn
        while self.phase is not Phase.CLOSED and not self._held:
            event = link.next_event(until)
            frames = link.frames - self._charged
            if frames:
                self._charged += frames
                if not self._budget.charge(frames, now.mono, node.frames_per_second, node.frame_burst):
                    self._flooded(now)
                    return
            if event is None:
                break
            if self._assembling and not link.unfinished:  # what follows has a deadline of its own
                self._assembling = False
                self._node.timers.clear(Reason.MESSAGE, self.number)
            if type(event) is TextReceived:
                admitted = self._text(event.text, now)
                if admitted is not None:
                    node.handle(self, admitted, now)
            else:
                self._control(event, now)
        self._after_turn(now)

    def hold(self) -> None:
        """Look at nothing more that it sends, until `release`."""
        self._held = True

    def release(self) -> None:
        """Let it go on; call `turn` for what has come meanwhile."""
        self._held = False

    @property
    def awaits_keys(self) -> bool:
        """Whether a token of it could not be judged yet."""
        return self._asked is not None

    def keys_came(self, now: Now) -> None:
        """The keys that it waits for are here, or will not be: judge its token, and go on."""
        asked = self._stop_waiting()
        if isinstance(asked, Request):
            self._handshake(asked, now)
        else:
            assert asked is not None, "it waits"
            self._authenticate(asked, now)
        self.turn(now)

    def _await_keys(self, asked: Request | Auth, now: Now) -> None:
        self._asked = asked
        self.hold()
        timeout = self._node.config.security.authentication.timeout
        self._node.timers.set(Reason.AUTH, self.number, now.mono + timeout)

    def _stop_waiting(self) -> Request | Auth | None:
        asked, self._asked = self._asked, None
        if asked is not None:
            self.release()
            self._node.timers.clear(Reason.AUTH, self.number)
        return asked

    def disconnect(self, code: int, now: Now) -> None:
        """The peer of a host that frames by itself has closed."""
        assert isinstance(self._link, MessageLink)
        if self.phase is Phase.HANDSHAKING:  # it waited for metrics or keys, and wants no answer any more
            self.drop(now)
            return
        if self.awaits_keys:  # there is nobody left whose token could be judged
            self._end = (code, "peer")
            self.drop(now)
            return
        self._link.disconnect(code)
        self._out.clear()
        self.turn(now)

    def gone(self, now: Now) -> None:
        """The transport broke, or the peer sends no more: a socket without a reader of Close frames is of no use."""
        self.drop(now)

    def blocked(self, now: Now) -> None:
        """The transport is full: what is not urgent waits here, and sessions wait in their logs (C1)."""
        if not self._out.blocked and self.phase in (Phase.AUTHENTICATING, Phase.OPEN):
            self._out.blocked = True
            self.progressed(now)

    def progressed(self, now: Now) -> None:
        """The transport is full, and something went out: its time to move counts from here (C1)."""
        if self._out.blocked:
            self._node.timers.set(Reason.SLOW, self.number, now.mono + self._node.config.limits.write_timeout)

    def drained(self, now: Now) -> None:
        """The transport has room again."""
        if self._out.blocked:
            self._unblock()
            self._regulate()

    # ── what others say ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def outflow(self) -> Outflow:
        """What waits to go out, for gauges."""
        return self._out

    @property
    def framed(self) -> bool:
        """Whether it takes messages of a host that frames by itself, and not bytes."""
        return self._link.framed

    @property
    def principal(self) -> Principal | None:
        """Who it speaks for; None until that is known."""
        return None if self._credential is None else self._credential.principal

    @property
    def opened_at(self) -> float:
        """When its socket opened, in seconds of the monotonic clock."""
        return self.traffic.opened_at

    @property
    def ready(self) -> bool:
        """Whether it takes messages of sessions now."""
        return self.phase is Phase.OPEN and not self._out.blocked and not self._link.over

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to it: no answer is worked on, and all that was said has gone out."""
        behind = any(session.busy or not session.heard(self.number) for session in self.sessions.values())
        return not behind and not self._out.blocked and not self._held

    @property
    def buffered(self) -> int:
        """Bytes held for this connection: unread, unfinished and unsent (C7)."""
        return self._link.held + self._out.held

    @property
    def read_size(self) -> int:
        """How many bytes to read at once (H7)."""
        limits = self._node.config.limits
        return limits.read if self._link.upgraded else limits.handshake_read

    def say(self, message: Encoded) -> None:
        """Send a session's message; only while `ready`."""
        self.traffic.sent += 1
        self._node.outbox.send(self.number, self._link.text(message))

    def reply(self, event: ServerEvent, now: Now) -> None:
        """Send an event of the connection itself."""
        self.tell(Encoded(dump(event)), now)

    def tell(self, message: Encoded, now: Now) -> None:
        """Send a message that is in no session's log; while the peer is blocked it waits, within bounds (C1)."""
        if self.phase not in (Phase.AUTHENTICATING, Phase.OPEN) or self._link.over:
            return
        self.traffic.sent += 1
        self._out.send(self._link.text(message), message.size)
        if self._out.queued > self._node.config.limits.out_top:
            self.fall_behind(now)
        elif self._out.blocked:
            self._regulate()

    def refuse(self, refusal: Refusal, now: Now, event: ClientEvent | None = None) -> None:
        """Answer an event with an error; close where the fault closes, or where limits are ignored (R1)."""
        fault = refusal.fault
        correlation_id = None if event is None else correlation_of(event)
        details = details_of(refusal)
        self._node.counts.error(fault)
        self._note("DEBUG", "event_refused", topic="message", error_code=fault.value.code)
        self._note_cause(refusal.cause)
        self.reply(error_event(fault, text=refusal.text, correlation_id=correlation_id, details=details), now)
        if fault is Fault.RATE_LIMIT:
            self._strikes += 1
            if self._strikes >= self._node.config.security.rate_limiting.strikes:
                self.close(Fault.RATE_LIMIT_IGNORED, now)
        elif fault.value.close is not None and fault is not Fault.INTERNAL:
            self.close(fault, now)

    def fall_behind(self, now: Now) -> None:
        """It reads too slowly for what is held for it: it may come back and resume (C1)."""
        self.close(Fault.SLOW_CONSUMER, now)

    def close(self, fault: Fault, now: Now) -> None:
        """Send our Close with the fault's code, and wait for the peer's as long as it could be read (F10, F13)."""
        if self.phase in (Phase.CLOSING, Phase.CLOSED):
            return
        row = fault.value
        if not self._link.upgraded or row.close is None:
            self.drop(now, row.word)
            return
        self._held = False  # the peer's answer is looked at
        if fault in (Fault.SLOW_CONSUMER, Fault.BLOCKED):
            self._out.clear()
        self._unblock()
        node = self._node
        self._send_close(row.close, row.word)
        self._end = (row.close, row.word)
        self._enter(Phase.CLOSING)
        if self._link.readable:
            node.timers.set(Reason.CLOSE, self.number, now.mono + node.config.limits.close_timeout)
        else:
            self._half_close(now)

    def drop(self, now: Now, word: str = "disconnected") -> None:
        """Let the transport go, at once and for good."""
        if self.phase is Phase.CLOSED:
            return
        node, upgraded, began = self._node, self._link.upgraded, self._link.began
        node.outbox.add_behind_bytes(self.number, DropConnection(self.number))
        self._tally.leave(self.address_key)
        code, word = self._end or (1006, word)
        self._enter(Phase.CLOSED)
        self._out.clear()
        self._link.stop()
        if upgraded:
            node.counts.close(code)
            fields = {"session_id": self.session_id or None, "code": code, "reason": word, **self.traffic.fields(now)}
            node.outbox.add(Note("connection", "INFO", "closed", self._facts() | fields))
        elif self._end is None and began:
            self._note("DEBUG", "closed", code=code, reason=word)

    # ── deadlines ────────────────────────────────────────────────────────────────────────────────────────────────────

    def due(self, reason: Reason, now: Now) -> None:
        """A timer of this connection fired; BACKLOG is the gateway's to route to `turn`."""
        if reason is Reason.HEAD:
            self._answer(turned_away(Refusal(Fault.HEAD_TIMEOUT)), now) if self._link.began else self.drop(now)
        elif reason is Reason.SCRAPE:
            assert self._scrape is not None, "the timer is set where metrics were asked for"
            self._answer(self._scrape.late, now)
        elif reason is Reason.AUTH:
            self._auth_due(now)
        elif reason is Reason.HEARTBEAT:
            self._heartbeat(now)
        elif reason is Reason.MESSAGE:
            self.close(Fault.MESSAGE_TIMEOUT, now)
        elif reason is Reason.SLOW:
            self.fall_behind(now)
        elif reason is Reason.TOKEN:
            self._token_due(now)
        else:
            assert reason in (Reason.CLOSE, Reason.LINGER)
            self.drop(now)

    def _auth_due(self, now: Now) -> None:
        """No token came in time, or nothing to judge it by."""
        asked = self._stop_waiting()
        if isinstance(asked, Request):
            self._answer(turned_away(Refusal(Fault.KEYS_UNAVAILABLE, self._node.gate.retry_after)), now)
        else:
            self.close(Fault.AUTH_TIMEOUT if asked is None else Fault.NO_KEYS, now)

    def _heartbeat(self, now: Now) -> None:
        """Ping after silence; give up where even that gives no sign of life (F11). Re-armed, never moved by traffic."""
        server, timers = self._node.config.server, self._node.timers
        silent_at = self._heard_at + server.heartbeat_interval
        if self._pinged_at is not None and self._heard_at < self._pinged_at:
            if now.mono >= self._pinged_at + server.timeout:
                self.drop(now, Fault.HEARTBEAT_LOST.value.word)
            else:
                timers.set(Reason.HEARTBEAT, self.number, self._pinged_at + server.timeout)
        elif now.mono >= silent_at:  # the very sum the timer is set to: a difference could round to just before it
            self._pinged_at = now.mono
            assert isinstance(self._link, ByteLink), "a host that frames by itself pings by itself"
            self._node.outbox.send(self.number, self._link.ping())
            timers.set(Reason.HEARTBEAT, self.number, now.mono + min(server.timeout, server.heartbeat_interval))
        else:
            self._pinged_at = None
            timers.set(Reason.HEARTBEAT, self.number, silent_at)

    def _token_due(self, now: Now) -> None:
        """The token is about to end, or has ended; the wall clock is asked again, it may have been put right (A4)."""
        credential = self._credential
        assert credential is not None, "the timer is set where there is a token"
        if credential.expired(now):
            self.refuse(Refusal(Fault.TOKEN_EXPIRED), now)
            return
        if credential.warn(now):
            data = {"token_expires_in": credential.expires_in(now)}
            self.reply(SystemEvent(event_name="token_expiring", data={**data}), now)
        self._arm_token(credential, now)

    def _arm_token(self, credential: Credential, now: Now) -> None:
        look_at = credential.next_look(now)
        if look_at is not None:
            self._node.timers.set(Reason.TOKEN, self.number, look_at)

    # ── the handshake ────────────────────────────────────────────────────────────────────────────────────────────────

    def knock(self, refused: Refusal | None, now: Now) -> None:
        """The socket is new: turn it away before it says a word, where there are too many."""
        if refused is not None:
            self._answer(turned_away(refused), now)

    def _handshake(self, request: Request, now: Now) -> None:
        node = self._node
        node.timers.clear(Reason.HEAD, self.number)
        census = node.gate.census
        internal = self._tally is census.scraping
        verdict = judge(request, self.address, node.gate, now, self._link.check_upgrade, internal=internal)
        if verdict is None:
            self._await_keys(request, now)
            return
        if isinstance(verdict, Answer):
            self._answer(verdict, now)
            return
        if isinstance(verdict, Scrape):
            self._collect(verdict, now)
            return
        node.counts.upgraded += 1
        node.outbox.send(self.number, self._link.accept(request, verdict.subprotocol))
        self._tally.leave(self.address_key)
        self.address = verdict.address
        self._tally, self.address_key = census.open, verdict.address_key
        self._tally.enter(self.address_key)
        self.trace = of_headers(request.values("traceparent"), request.values("tracestate"))
        self._enter(Phase.AUTHENTICATING)
        if not self._link.framed:
            node.timers.set(Reason.HEARTBEAT, self.number, now.mono + node.config.server.heartbeat_interval)
        if verdict.principal is not None:
            self._establish(verdict.principal, now)
        traceparent = None if self.trace is None else self.trace.traceparent
        self._note("INFO", "opened", path=request.path, traceparent=traceparent)
        if verdict.principal is not None:
            return
        timeout = node.config.security.authentication.timeout
        node.timers.set(Reason.AUTH, self.number, now.mono + timeout)
        self.reply(SystemEvent(event_name="auth_required", data={"timeout": whole(timeout)}), now)

    def _collect(self, scrape: Scrape, now: Now) -> None:
        """Have metrics collected; what the peer sends meanwhile is ignored."""
        node = self._node
        self._scrape = scrape
        self._link.stop()
        node.timers.set(Reason.SCRAPE, self.number, now.mono + node.config.metrics.timeout)
        node.outbox.add(CollectMetrics(self.number, scrape.openmetrics))

    def collected(self, body: bytes | None, content_type: str, now: Now) -> None:
        """The metrics that were asked for; nothing happens where they come too late."""
        if self._scrape is not None and self.phase is Phase.HANDSHAKING:
            failed = turned_away(Refusal(Fault.INTERNAL))._replace(fault=None)
            self._answer(failed if body is None else self._scrape.answer(body, content_type), now)

    def _answer(self, answer: Answer, now: Now) -> None:
        """One HTTP answer, and the end of the connection (H9)."""
        self._node.outbox.send(self.number, self._link.refuse(answer.response, answer.close, answer.word))
        if answer.fault is not None:
            self._node.counts.refuse(answer.fault)
        status = answer.response.status
        self._end = (status, answer.word)
        self._enter(Phase.CLOSING)
        self._half_close(now)
        self._note_cause(answer.cause)
        if status >= 400:
            loud = self._node.noted.admit(self.address_key, now.mono)
            self._note("WARNING" if loud else "DEBUG", "refused", status=status, reason=answer.word)

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _control(self, event: object, now: Now) -> None:
        """Everything that is no text message."""
        if isinstance(event, Request):
            self._handshake(event, now)
        elif isinstance(event, PingReceived):
            self._pong_to(event.payload)
        elif isinstance(event, CloseReceived):
            self._peer_closed(event.code, now)
        elif isinstance(event, Violated):
            self._violated(event.fault, now)
        elif isinstance(event, BinaryReceived) and self.phase is not Phase.CLOSING:
            self._link.stop()
            self.close(Fault.BINARY_REFUSED, now)
        else:
            assert isinstance(event, PongReceived | BinaryReceived)  # a pong is a sign of life, and that is all

    def _pong_to(self, payload: bytes) -> None:
        """Answer a ping at once; while the peer does not read, only the newest (F7)."""
        assert isinstance(self._link, ByteLink)
        pong = self._link.pong(payload)
        if pong:
            self._out.pong(pong)

    def _peer_closed(self, code: int, now: Now) -> None:
        """Answer the peer's Close with its own code, or take it for the answer to ours."""
        if self.phase is not Phase.CLOSING:
            self._unblock()
            self._send_close(code)
            self._end = (code, "peer")
            self._enter(Phase.CLOSING)
        self._half_close(now)

    def _violated(self, fault: Fault, now: Now) -> None:
        if self.phase is Phase.CLOSING:
            self._half_close(now)  # no answer to our Close will come
        elif self.phase is Phase.HANDSHAKING:
            self._node.timers.clear(Reason.HEAD, self.number)
            self._answer(turned_away(Refusal(fault)), now)
        else:
            self.close(fault, now)

    def _flooded(self, now: Now) -> None:
        """Over the frame budget: nothing more is read, whatever the phase (F7, F8)."""
        self._link.stop()
        if self.phase is Phase.CLOSING:
            self._half_close(now)
        else:
            self.close(Fault.FRAME_FLOOD, now)

    def _after_turn(self, now: Now) -> None:
        """Set the deadlines that depend on what is left unread or unfinished."""
        link, timers, waiting = self._link, self._node.timers, self._link.waiting
        # Just behind now: others get their turn first (F8), and `wake_at` moves on (C5).
        if waiting and not self._held:
            timers.set(Reason.BACKLOG, self.number, nextafter(now.mono, inf))
        if self.phase in (Phase.CLOSING, Phase.CLOSED):
            return
        if link.unfinished and not self._assembling:
            self._assembling = True
            timers.set(Reason.MESSAGE, self.number, now.mono + self._node.config.limits.message_timeout)
        if waiting or self._paused or self._out.queued:
            self._regulate()

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _text(self, text: str, now: Now) -> ClientEvent | None:
        """A text message came: the event in it, where it passes the gate and is not for the connection itself."""
        if self.phase not in (Phase.AUTHENTICATING, Phase.OPEN):
            return None
        node = self._node
        self.traffic.received += 1
        event = node.events.parse(text)
        if isinstance(event, Refused):
            self._bad_event(event, now)
            return None
        node.counts.receive(type(event))
        if type(event) is Auth:  # `isinstance` takes a microsecond for a Pydantic model that it is not
            self._authenticate(event, now)
            return None
        credential = self._credential
        if credential is None:
            self.refuse(Refusal(Fault.AUTH_REQUIRED), now, event)
            return None
        if credential.expired(now):
            self.refuse(Refusal(Fault.TOKEN_EXPIRED), now, event)
            return None
        refused = node.gate.admit_event(Passage(event, credential.principal, self.address_key, now), self.account)
        if refused is not None:
            self.refuse(refused, now, event)
            return None
        if self._strikes and event.counted:
            self._strikes = 0
        if type(event) is Ping:
            self.reply(Pong(id=event.id), now)
            return None
        return event

    def _bad_event(self, refused: Refused, now: Now) -> None:
        """Say what is wrong with a message that is no event; too many that are not even JSON end it (M1)."""
        details = {"errors": list(refused.errors)} if refused.errors else None
        self._node.counts.error(refused.fault)
        self._note_cause(refused.cause)
        self.reply(error_event(refused.fault, details=details, correlation_id=refused.correlation), now)
        if refused.fault is Fault.INVALID_JSON:
            self._bad = (*(at for at in self._bad if at > now.mono - BAD_MESSAGE_WINDOW), now.mono)
            if len(self._bad) >= self._node.config.limits.bad_messages_per_minute:
                self.close(Fault.BAD_MESSAGE_FLOOD, now)

    def _authenticate(self, event: Auth, now: Now) -> None:
        """A token: the first one, or one that refreshes it, for the same user only."""
        if self._node.gate.verifier is None:
            text = "authentication is off here: no token is needed"
            self.refuse(Refusal(Fault.INVALID_EVENT, text=text), now)
            return
        principal = self._node.gate.authenticate(event.token, self.address_key, now)
        if principal is None:
            self._await_keys(event, now)
        elif isinstance(principal, Refusal):
            self._refuse_token(principal, now)
        elif self.principal is not None and principal.user_id != self.principal.user_id:
            self._refuse_token(Refusal(Fault.BAD_TOKEN), now)
        elif self.principal is None:
            self._node.timers.clear(Reason.AUTH, self.number)
            self._establish(principal, now)
            self._note("INFO", "authenticated")
        else:
            left = self._trust(principal, now).expires_in(now)
            self.reply(SystemEvent(event_name="token_refreshed", data={"token_expires_in": left}), now)

    def _refuse_token(self, refused: Refusal, now: Now) -> None:
        """Say why a token is not taken, and close."""
        if refused.fault is Fault.KEYS_UNAVAILABLE:
            self.close(Fault.NO_KEYS, now)
            return
        if refused.fault is Fault.USER_REFUSED:
            self.refuse(Refusal(Fault.BLOCKED), now)
            return
        self._note("WARNING", "auth_failed", topic="security")
        flood = refused.fault is Fault.FAILED_TOKENS
        self.refuse(refused._replace(fault=Fault.TOKEN_FLOOD if flood else Fault.AUTH_FAILED), now)

    def _establish(self, principal: Principal, now: Now) -> None:
        """The client is who it says: it is given a session of its own, and may speak."""
        node = self._node
        credential = self._trust(principal, now)
        self._enter(Phase.OPEN)
        self.session_id, self.epoch = node.ids(), node.ids()
        node.sessions.promise(principal.user_id, self.session_id, self.epoch)
        data: dict[str, Scalar] = {
            "user_id": principal.user_id,
            "session_id": self.session_id,
            "epoch": self.epoch,
            "seq": 0,
            "protocol": PROTOCOL_NAME,
            "heartbeat_interval": whole(node.config.server.heartbeat_interval),
            "max_message_size": node.config.limits.max_message_size,
            "token_expires_in": credential.expires_in(now),
        }
        self.tell(Encoded(system_event("connection_established", data)), now)

    def _trust(self, principal: Principal, now: Now) -> Credential:
        """Speak for a principal, until its token ends."""
        leeway = self._node.config.security.authentication.leeway
        self._credential = credential = Credential(principal, leeway, now)
        self.account = self._node.gate.account(principal, self.address_key)
        self._arm_token(credential, now)
        return credential

    # ── writing and ending ───────────────────────────────────────────────────────────────────────────────────────────

    def _send_close(self, code: int, reason: str = "") -> None:
        """A Close, unless one has been heard and answered."""
        close = self._link.close(code, reason)
        if close:
            self._node.outbox.send(self.number, close)

    def _unblock(self) -> None:
        """Hand what waits to the transport."""
        self._node.timers.clear(Reason.SLOW, self.number)
        self._out.release()

    def _regulate(self) -> None:
        """Stop reading while too much waits, unread or unsent; read on when it is less (C1, C7)."""
        limits = self._node.config.limits
        full = self.phase is not Phase.CLOSING and (
            self._out.queued > limits.out_high or self._link.waiting > limits.inbox
        )
        if full is not self._paused:
            self._paused = full
            self._node.outbox.add(PauseReading(self.number) if full else ResumeReading(self.number))

    def _half_close(self, now: Now) -> None:
        """All is said: flush, half-close, and read and discard a little, so that the peer sees what we said (F13)."""
        node = self._node
        node.outbox.add_behind_bytes(self.number, CloseWrite(self.number))
        node.timers.clear(Reason.CLOSE, self.number)
        node.timers.set(Reason.LINGER, self.number, now.mono + node.config.limits.linger)
        self._link.stop()

    def _enter(self, phase: Phase) -> None:
        """The one place where the phase changes."""
        assert phase in TRANSITIONS[self.phase], f"{self.phase} does not become {phase}"
        left, self.phase = self.phase, phase
        if phase not in (Phase.CLOSING, Phase.CLOSED):
            return
        self._asked = None
        self._node.timers.clear_all(_TIMERS[left], self.number)
        if phase is Phase.CLOSING:
            self._discarded = self._link.waiting
            self._regulate()
        else:
            self._node.timers.clear(Reason.BACKLOG, self.number)
        self._node.ending.append(self)

    def _note(self, level: str, name: str, *, topic: str = "connection", **fields: Scalar) -> None:
        self._node.outbox.add(Note(topic, level, name, {**self._facts(), **fields}))

    def _note_cause(self, cause: BaseException | None) -> None:
        """What a user's check or model raised."""
        if cause is not None:
            self._node.outbox.add(Note("security", "ERROR", "check_failed", self._facts(), cause))

    def _facts(self) -> dict[str, Scalar]:
        user_id = None if self.principal is None or self.principal is ANONYMOUS else self.principal.user_id
        return {"connection": self.number, "address": self.address_key, "user_id": user_id}


def whole(seconds: float) -> int | float:
    """30, not 30.0."""
    return int(seconds) if seconds == int(seconds) else seconds
