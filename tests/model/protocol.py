"""The protocol as a model in dicts and lists: what each client has to be told, to the word, for whatever happens.

Written from docs/protocol.md, not from the gateway. It knows no bytes, no buffers and no tables of timers; what the
gateway chooses (ids) it learns when it is told, and holds the gateway to it from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

Event = dict[str, Any]

GRACE, TIMEOUT, LONGEST, TTL, LOG_IN, LEEWAY, NOTICE = 5.0, 30.0, 100.0, 60.0, 10.0, 30.0, 60.0  # seconds
RETRY, DRAIN, ROUND = 1.0, 30.0, 0.1  # seconds


@dataclass(eq=False)
class Id:
    """An id that the gateway chooses; None until it was told."""

    value: str | None = None


@dataclass(frozen=True)
class Rules:
    """The settings that a model goes by."""

    authentication: bool = True
    double_text: str = "enqueue"
    exclusive: bool = False
    durable: bool = False
    queue: int = 1
    per_user: int = 2
    max_events: int = 5
    known_ids: int = 2
    max_runs: int = 4
    runs_per_user: int = 3
    max_connections: int = 4


@dataclass
class Token:
    """A token as it was made. `good` is false where its signature or its claims are wrong."""

    user: str
    token_id: str
    issued: float  # unix seconds
    expires: float
    good: bool = True


@dataclass(eq=False)
class Run:
    """A message that was accepted, and what became of it."""

    id: Id
    session: Session
    user: str
    account: str
    message: Event
    position: int = 0
    state: str = "waiting"  # running, stopping, given up
    pieces: str = ""
    told: int = 0  # characters that were chunks
    reasoning: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    since: float = 0.0
    moved: float = 0.0
    give_up_at: float = inf

    @property
    def due(self) -> float:
        """When its time is over."""
        if self.state == "stopping":
            return self.give_up_at
        return min(self.moved + TIMEOUT, self.since + LONGEST) if self.state == "running" else inf


@dataclass(eq=False)
class Session:
    """A conversation: its log from `floor` on, its readers with what they have acknowledged, its runs."""

    owner: str
    name: str
    epoch: Id
    log: list[Event] = field(default_factory=list)
    head: int = 0
    readers: dict[int, int] = field(default_factory=dict)
    running: list[Run] = field(default_factory=list)
    waiting: list[Run] = field(default_factory=list)
    open: list[Run] = field(default_factory=list)  # accepted, and without an end
    known: dict[str, Run] = field(default_factory=dict)
    ended: list[Run] = field(default_factory=list)
    due: float = inf  # when it is over, where nobody reads it
    unread: int = 0  # the number of the leave since which nobody reads it

    @property
    def floor(self) -> int:
        """The seq behind which all is held."""
        return self.head - len(self.log)


@dataclass(eq=False)
class Connection:
    """A client that is connected."""

    number: int
    address: str
    user: str | None = None  # None until it has said who it is
    token: Token | None = None
    until: float = inf  # unix seconds
    warned: bool = False
    look_at: float = inf
    log_in_by: float = inf
    own: Id = field(default_factory=Id)
    epoch: Id = field(default_factory=Id)
    reads: list[Session] = field(default_factory=list)
    awaits: set[tuple[str, str]] = field(default_factory=set)


class Model:
    """What a node should do. Every method is something that happens; `told` is what each client has to hear of it."""

    def __init__(self, rules: Rules, mono: float, unix: float) -> None:
        self.rules = rules
        self.mono, self.unix = mono, unix
        self.connections: dict[int, Connection] = {}
        self.sessions: dict[tuple[str, str], Session] = {}
        self.promised: dict[tuple[str, Id | str], Id] = {}
        self.over: set[tuple[str, str]] = set()
        self.stored: dict[tuple[str, str], Session] = {}
        self.runs: list[Run] = []
        self.blocked: set[str] = set()
        self.revoked: set[str] = set()
        self.draining_until: float | None = None
        self.drained = False  # the end is over, as it has said
        self.round_at = inf
        self.told: dict[int, list[Event | int]] = {}  # events, and the code of a Close
        self._leaves = 0

    # ── saying ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, connection: Connection, event: Event) -> None:
        if connection.number in self.connections:
            self.told[connection.number].append(event)

    def _close(self, connection: Connection, code: int) -> None:
        if connection.number in self.connections:
            self.told[connection.number].append(code)
            self._gone(connection)

    def _gone(self, connection: Connection) -> None:
        """It reads nothing any more; whom it leaves alone has its time from now on."""
        del self.connections[connection.number]
        for session in connection.reads:
            del session.readers[connection.number]
            self._left(session)

    def _left(self, session: Session) -> None:
        if not session.readers:
            self._leaves += 1
            session.due, session.unread = self.mono + TTL, self._leaves

    def _error(self, connection: Connection, code: str, of: Event, **details: Any) -> None:
        event: Event = {"type": "error", "error_code": code}
        correlation = of.get("id") if of["type"] == "chat_message" else of.get("correlation_id")
        if correlation is not None:
            event["correlation_id"] = correlation
        self._tell(connection, event | ({"details": details} if details else {}))

    def _say(self, session: Session, event: Event) -> None:
        """Say something in a session: it gets the next number, and every reader hears it."""
        session.head += 1
        event = {**event, "session_id": session.name, "seq": session.head}
        session.log.append(event)
        del session.log[: -self.rules.max_events]
        for number in list(session.readers):
            self._tell(self.connections[number], event)

    # ── coming and going ─────────────────────────────────────────────────────────────────────────────────────────────

    def status(self, token: Token | None) -> int:
        """What an upgrade is answered with."""
        if self.draining_until is not None or len(self.connections) >= self.rules.max_connections:
            return 503
        if not self.rules.authentication or token is None:
            return 101
        if not self._is_valid(token):
            return 401
        return 403 if token.user in self.blocked else 101

    def _is_valid(self, token: Token) -> bool:
        in_time = token.issued - LEEWAY <= self.unix < token.expires + LEEWAY
        return token.good and in_time and token.token_id not in self.revoked

    def connect(self, number: int, address: str, token: Token | None) -> None:
        """A client was let in to the WebSocket."""
        connection = self.connections[number] = Connection(number, address)
        self.told[number] = []
        if not self.rules.authentication:
            self._establish(connection, "anonymous", None)
        elif token is not None:
            self._establish(connection, token.user, token)
        else:
            connection.log_in_by = self.mono + LOG_IN
            self._tell(connection, _system("auth_required", {"timeout": int(LOG_IN)}))

    def _establish(self, connection: Connection, user: str, token: Token | None) -> None:
        connection.user, connection.log_in_by = user, inf
        left = self._trust(connection, token)
        self.promised[user, connection.own] = connection.epoch
        data = {
            "user_id": user, "session_id": connection.own, "epoch": connection.epoch, "seq": 0, "protocol": "qaws.v1",
            "heartbeat_interval": 86_400, "max_message_size": 262_144, "token_expires_in": left,
        }  # fmt: skip
        self._tell(connection, _system("connection_established", data))

    def _trust(self, connection: Connection, token: Token | None) -> int | None:
        """A token is good until its end, or for the leeway behind it where it came only then."""
        if token is None:
            return None
        connection.token = token
        connection.until = token.expires + (LEEWAY if token.expires <= self.unix else 0.0)
        connection.warned = connection.until - self.unix <= NOTICE
        self._look_later(connection)
        return self._left_of(connection)

    def _left_of(self, connection: Connection) -> int:
        return max(0, round(connection.until - self.unix))

    def _look_later(self, connection: Connection) -> None:
        left = connection.until - self.unix
        connection.look_at = self.mono + max(left - NOTICE if left > NOTICE else left, 0.001)

    def lose(self, number: int) -> None:
        """A client is gone."""
        self._gone(self.connections[number])

    # ── what clients say ─────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, number: int, event: Event, token: Token | None = None) -> None:
        """A client says something; `token` is what it says with `auth`."""
        connection = self.connections[number]
        if event["type"] == "auth":
            assert token is not None
            self._auth(connection, event, token)
        elif connection.user is None:
            self._error(connection, "AUTH_REQUIRED", event)
            self._close(connection, 4401)
        elif self.unix >= connection.until:
            self._error(connection, "TOKEN_EXPIRED", event)
            self._close(connection, 4401)
        elif event["type"] == "ping":
            self._tell(connection, {**event, "type": "pong"})
        else:
            {"chat_message": self._chat, "resume": self._resume, "cancel": self._cancel, "ack": self._ack}[
                event["type"]
            ](connection, event)

    def _auth(self, connection: Connection, event: Event, token: Token) -> None:
        if not self.rules.authentication:
            self._error(connection, "INVALID_EVENT", event)
        elif not self._is_valid(token):
            self._error(connection, "AUTH_FAILED", event)
            self._close(connection, 4401)
        elif token.user in self.blocked:
            self._error(connection, "FORBIDDEN", event)
            self._close(connection, 4403)
        elif connection.user is None:
            self._establish(connection, token.user, token)
        elif connection.user != token.user:
            self._error(connection, "AUTH_FAILED", event)
            self._close(connection, 4401)
        else:
            left = self._trust(connection, token)
            self._tell(connection, _system("token_refreshed", {"token_expires_in": left}))

    def _chat(self, connection: Connection, message: Event) -> None:
        assert connection.user is not None
        if self.rules.authentication and message.get("user_id", connection.user) != connection.user:
            self._error(connection, "FORBIDDEN", message)
            return
        if self.draining_until is not None:
            self._error(connection, "OVERLOADED", message, retry_after=1)
            return
        name = message.get("session_id") or _known(connection.own)
        session = self._enter(connection, name, message)
        if session is None:
            return
        self._attend(connection, session)
        earlier = session.known.get(message.get("id", ""))
        if earlier is not None:
            self._point_to(connection, earlier)
            return
        self._submit(connection, session, message)

    def _enter(self, connection: Connection, name: str, event: Event) -> Session | None:
        """The session that a client names, opened where there is none; None where it was refused."""
        assert connection.user is not None
        key = (connection.user, name)
        session = self.sessions.get(key)
        if session is not None and session in connection.reads:
            return session
        crowded = len(connection.reads) >= self.rules.per_user
        if session is None and not crowded and self.rules.authentication:
            crowded = not self._make_room(connection.user)
        if crowded:
            self._error(connection, "BUSY", event)
            return None
        if session is None:
            epoch = next((epoch for name, epoch in self.promised.items() if _same(name, key)), None)
            self.promised = {name: epoch for name, epoch in self.promised.items() if not _same(name, key)}
            self.over.discard(key)
            session = self.stored.pop(key, None) or Session(*key, epoch or Id())
            self.sessions[key] = session
        return session

    def _make_room(self, user: str) -> bool:
        """Whether a user may have one session more; one that nobody reads and nothing works for gives way."""
        own = [session for session in self.sessions.values() if session.owner == user]
        if len(own) < self.rules.per_user:
            return True
        idle = [one for one in own if not one.readers and not one.running and not one.waiting]
        if idle:
            self._forget(min(idle, key=lambda one: one.unread))
        return bool(idle)

    def _forget(self, session: Session) -> None:
        key = (session.owner, session.name)
        del self.sessions[key]
        if not self.rules.durable:
            self.over.add(key)
        elif session.known or session.head or session.ended:
            session.due = inf
            self.stored[key] = session

    def _attend(self, connection: Connection, session: Session) -> None:
        """A client reads a session from here on, and so does who has asked for it before it was there."""
        key = (session.owner, session.name)
        for other in list(self.connections.values()):
            if key in other.awaits:
                other.awaits.discard(key)
                if len(other.reads) < self.rules.per_user:
                    self._read(other, session)
        self._read(connection, session)
        if self.rules.exclusive:
            for number in sorted(session.readers.keys() - {connection.number}):
                self._close(self.connections[number], 4409)

    def _read(self, connection: Connection, session: Session) -> None:
        session.due = inf
        if session not in connection.reads:
            connection.reads.append(session)
            session.readers[connection.number] = 0

    def _point_to(self, connection: Connection, run: Run) -> None:
        session = run.session
        position = 0
        if run.state == "waiting" and run in session.waiting:
            position = session.waiting.index(run) + len(session.running) + 1 - self._width
        data = {"run_id": run.id, "position": max(0, position), "duplicate": True}
        event = _system("message_accepted", data)
        self._tell(connection, {**event, "session_id": session.name, "correlation_id": run.message["id"]})

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _width(self) -> int:
        return self.rules.queue + 1 if self.rules.double_text == "concurrent" else 1

    def _submit(self, connection: Connection, session: Session, message: Event) -> None:
        assert connection.user is not None
        rules = self.rules
        account = connection.user if rules.authentication else connection.address
        before = len(session.running) + len(session.waiting)
        room = {"enqueue": rules.queue + 1, "reject": 1, "concurrent": rules.queue + 1, "interrupt": inf}
        interrupts = rules.double_text == "interrupt"
        if len(self.runs) >= rules.max_runs:
            self._error(connection, "OVERLOADED", message, retry_after=5)
            return
        if before >= room[rules.double_text] or (interrupts and len(session.waiting) > rules.queue):
            self._error(connection, "BUSY", message)
            return
        if sum(run.account == account for run in self.runs) >= rules.runs_per_user:
            self._error(connection, "BUSY", message)
            return
        user = connection.user if rules.authentication else message.get("user_id", connection.user)
        run = Run(Id(), session, user, account, message)
        run.position = 0 if interrupts or before < self._width else before
        self.runs.append(run)
        session.waiting.append(run)
        session.open.append(run)
        if "id" in message:
            session.known[message["id"]] = run
            if len(session.known) > rules.known_ids:
                del session.known[next(iter(session.known))]
            data = {"run_id": run.id, "position": run.position, "duplicate": False, "content": message["content"]}
            self._say(session, {**_system("message_accepted", data), "correlation_id": message["id"]})
        if interrupts:
            others = [*reversed(session.waiting[:-1]), *session.running]
            for other in [one for one in others if one.state in ("waiting", "running")]:
                self._end(other)
        self._start_next(session)

    def _start_next(self, session: Session) -> None:
        while session.waiting and len(session.running) < self._width:
            run = session.waiting.pop(0)
            if run.position and "id" in run.message:
                self._say(session, {**_system("run_started", {"run_id": run.id}), "correlation_id": run.message["id"]})
            session.running.append(run)
            run.state, run.since, run.moved = "running", self.mono, self.mono

    def _of_run(self, run: Run, event: Event) -> None:
        correlation = {"correlation_id": run.message["id"]} if "id" in run.message else {}
        self._say(run.session, {**event, "run_id": run.id, **correlation})

    def _respond(self, run: Run, content: str, status: str) -> None:
        self._ended(run)
        event = {"type": "agent_response", "content": content, "status": status, "user_id": run.user}
        self._of_run(run, {**event, "reasoning_steps": run.reasoning, "tools_used": run.tools})

    def _fail(self, run: Run, code: str, **details: Any) -> None:
        self._ended(run)
        self._of_run(run, {"type": "error", "error_code": code, "details": {"error_id": Id(), **details}})

    def _ended(self, run: Run) -> None:
        session = run.session
        session.open.remove(run)
        session.ended.append(run)
        del session.ended[: -self.rules.known_ids]

    def _end(self, run: Run) -> None:
        """Cancel a run: it ends with what it has said; its agent, where it has one, is told to stop."""
        self._respond(run, run.pieces, "cancelled")
        if run.state == "waiting":
            run.session.waiting.remove(run)
            self.runs.remove(run)
            run.state = "over"
        else:
            self._stop(run)

    def _stop(self, run: Run) -> None:
        run.state, run.give_up_at = "stopping", self.mono + GRACE

    def _retire(self, run: Run) -> None:
        self.runs.remove(run)
        run.state = "over"
        if run in run.session.running:
            run.session.running.remove(run)
            self._start_next(run.session)

    def _cancel(self, connection: Connection, event: Event) -> None:
        live = [run for run in self.runs if run.state in ("waiting", "running")]
        if "run_id" in event:
            named = [run for run in live if run.id.value == event["run_id"]]
            own = [
                run for run in named
                if run.session in connection.reads
                or (self.rules.authentication and run.session.owner == connection.user)
            ]  # fmt: skip
            over = [run for one in connection.reads for run in one.ended if run.id.value == event["run_id"]]
        else:
            known = [one.known.get(event["correlation_id"]) for one in connection.reads]
            found = [run for run in known if run is not None]
            own = [run for run in found if run in live]
            over = [run for one in connection.reads for run in one.ended if found[:1] == [run]]
        if own:
            self._end(own[0])
        elif not over:
            self._error(connection, "RUN_NOT_FOUND", event)

    # ── coming back ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _resume(self, connection: Connection, event: Event) -> None:
        assert connection.user is not None
        key = (connection.user, event["session_id"])
        expired = key in self.over
        there = key in self.sessions or key in self.stored or expired or any(_same(one, key) for one in self.promised)
        if not there and not self.rules.durable:
            self._not_found(connection, key, event)
            return
        session = self._enter(connection, key[1], event)
        if session is None:
            return
        if not there:
            del self.sessions[key]
            self._not_found(connection, key, event)
            return
        self._attend(connection, session)
        session.readers[connection.number] = 0
        known = event["epoch"] == session.epoch.value if session.epoch.value is not None else False
        if not expired and known and session.floor <= event["seq"] <= session.head:
            data: Event = {"recovered": True, "from": event["seq"] + 1, "to": session.head}
            self._tell(connection, {**_system("session_resumed", data), "session_id": session.name})
            for replayed in _joined(session.log[len(session.log) - (session.head - event["seq"]) :]):
                self._tell(connection, replayed)
            return
        reason = "expired" if expired else "gap" if known else "epoch"
        data = {
            "recovered": False, "reason": reason, "epoch": session.epoch,
            "from": session.floor + 1, "to": session.head,
        }  # fmt: skip
        self._tell(connection, {**_system("session_resumed", data), "session_id": session.name})
        for run in session.open:
            chunk = {"type": "agent_chunk", "content": run.pieces[: run.told], "offset": 0, "run_id": run.id}
            correlation = {"correlation_id": run.message["id"]} if "id" in run.message else {}
            self._tell(connection, {**chunk, **correlation, "session_id": session.name, "seq": session.head})

    def _not_found(self, connection: Connection, key: tuple[str, str], event: Event) -> None:
        if len(connection.awaits) < self.rules.per_user:
            connection.awaits.add(key)
        self._error(connection, "SESSION_NOT_FOUND", event)

    def _ack(self, connection: Connection, event: Event) -> None:
        for session in connection.reads:
            if session.name != event["session_id"]:
                continue
            if event["seq"] > session.head:
                self._close(connection, 4400)
                return
            session.readers[connection.number] = max(session.readers[connection.number], event["seq"])
            gone = min(session.readers.values()) - session.floor
            del session.log[: max(0, gone)]

    # ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def chunk(self, run: Run, text: str) -> None:
        """The agent yields."""
        if run.state == "running":
            run.moved = self.mono
            run.pieces += text
            if run.message.get("stream"):
                self._piece(run, text)

    def _piece(self, run: Run, text: str) -> None:
        offset, run.told = run.told, run.told + len(text)
        self._of_run(run, {"type": "agent_chunk", "content": text, "offset": offset})

    def step(self, run: Run, kind: str, text: str) -> None:
        """The agent reasons, or takes a tool."""
        if run.state != "running":
            return
        run.moved = self.mono
        if kind == "reasoning":
            run.reasoning.append(text)
        elif text not in run.tools:
            run.tools.append(text)
        if run.message.get("stream"):
            self._of_run(run, {"type": "agent_step", "kind": kind, "content" if kind == "reasoning" else "name": text})

    def finish(self, run: Run, answer: str | None) -> None:
        """The agent is done."""
        if run.state == "running":
            whole = run.pieces if answer is None else answer
            rest = whole.removeprefix(run.pieces) if whole.startswith(run.pieces) else ""
            if run.message.get("stream") and rest:
                self._piece(run, rest)
            self._respond(run, whole, "completed")
        self._retire(run)

    def fail(self, run: Run) -> None:
        """The agent raises."""
        if run.state == "running":
            self._fail(run, "AGENT_ERROR")
        self._retire(run)

    # ── operators ────────────────────────────────────────────────────────────────────────────────────────────────────

    def block(self, user: str) -> None:
        """A user is kept out."""
        self.blocked.add(user)
        self._close_all([one for one in self.connections.values() if one.user == user], 4403)
        for run in [run for run in self.runs if run.session.owner == user and run.state in ("waiting", "running")]:
            self._end(run)

    def revoke(self, token_id: str) -> None:
        """A token is good no more."""
        self.revoked.add(token_id)
        tokens = [(one, one.token) for one in self.connections.values()]
        self._close_all([one for one, token in tokens if token is not None and token.token_id == token_id], 4403)

    def disconnect(self, user: str) -> None:
        """The connections of a user are closed; they may come back."""
        self._close_all([one for one in self.connections.values() if one.user == user], 1008)

    def _close_all(self, connections: Iterable[Connection], code: int) -> None:
        for connection in connections:
            self._close(connection, code)

    def drain(self) -> None:
        """The node is about to stop."""
        if self.draining_until is not None:
            return
        self.draining_until = self.mono + DRAIN
        for connection in list(self.connections.values()):
            self._tell(connection, _system("server_draining", {"deadline": int(DRAIN), "reconnect_after": 1}))
        self._drain_round()

    def _drain_round(self) -> None:
        """Who waits for no answer is closed; when the time is over, everybody."""
        assert self.draining_until is not None
        over = self.mono >= self.draining_until
        if over and self.rules.durable:  # what is said now is heard once it is kept: by who comes back
            self._close_all(list(self.connections.values()), 1012)
        if over:
            for run in [run for run in reversed(self.runs) if run.state in ("waiting", "running")]:
                self._end(run)
        idle = [
            one for one in self.connections.values()
            if over or not any(session.running or session.waiting for session in one.reads)
        ]  # fmt: skip
        self._close_all(idle, 1012)
        self.round_at = self.mono + ROUND if self.connections or not over else inf

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, seconds: float) -> None:
        """Let time pass, and do what is due in it, in order."""
        end_mono, end_unix = self.mono + seconds, self.unix + seconds
        while (due := min(self._deadlines(), default=inf)) <= end_mono:
            self.unix += max(0.0, due - self.mono)
            self.mono = max(due, self.mono)
            self._do_due()
        self.mono, self.unix = end_mono, end_unix

    def _deadlines(self) -> Iterable[float]:
        yield from (min(one.look_at, one.log_in_by) for one in self.connections.values())
        yield from (run.due for run in self.runs)
        yield from (session.due for session in self.sessions.values())
        yield self.round_at

    def _do_due(self) -> None:
        for connection in list(self.connections.values()):
            if connection.log_in_by <= self.mono:
                self._close(connection, 4408)
            elif connection.look_at <= self.mono:
                self._look_at_token(connection)
        for run in list(self.runs):
            if run.due <= self.mono and run.state == "running":
                self._fail(run, "AGENT_TIMEOUT")
                self._stop(run)
            elif run.due <= self.mono:
                run.state = "given up"
                run.session.running.remove(run)
                self._start_next(run.session)
        for session in list(self.sessions.values()):
            if session.due <= self.mono:
                self._expire(session)
        if self.round_at <= self.mono:
            self._drain_round()

    def _look_at_token(self, connection: Connection) -> None:
        if self.unix >= connection.until:
            self._error(connection, "TOKEN_EXPIRED", {"type": ""})
            self._close(connection, 4401)
            return
        if not connection.warned and connection.until - self.unix <= NOTICE:
            connection.warned = True
            self._tell(connection, _system("token_expiring", {"token_expires_in": self._left_of(connection)}))
        self._look_later(connection)

    def _expire(self, session: Session) -> None:
        """Nobody came back to it: its runs end, and once that is kept so does it."""
        kept = not [run for run in (*session.waiting, *session.running) if run.state in ("waiting", "running")]
        for run in [*reversed(session.waiting), *[run for run in session.running if run.state == "running"]]:
            self._end(run)
        for run in session.running:
            run.state = "given up"
        session.running = []
        if kept or not self.rules.durable or self.drained:
            self._forget(session)
        else:
            session.due = self.mono + RETRY


def _known(id: Id) -> str:
    assert id.value is not None
    return id.value


def _same(name: tuple[str, Id | str], key: tuple[str, str]) -> bool:
    """Whether this is the name of a session."""
    return name[0] == key[0] and (name[1].value if isinstance(name[1], Id) else name[1]) == key[1]


def _system(name: str, data: Event) -> Event:
    return {"type": "system_event", "event_name": name, "data": data}


def _joined(log: list[Event]) -> list[Event]:
    """The same with neighbouring chunks of one run as one, which has the seq of the last."""
    out: list[Event] = []
    for event in log:
        if out and event["type"] == out[-1]["type"] == "agent_chunk" and event["run_id"] is out[-1]["run_id"]:
            out[-1] = {**out[-1], "content": out[-1]["content"] + event["content"], "seq": event["seq"]}
        else:
            out.append(event)
    return out
