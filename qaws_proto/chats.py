"""What the events of clients do to sessions and runs: chat, cancel, resume, ack; and what a store has to do with it.

A session that is not here is loaded, where there is a store: the connection that named it is held until then, so that
what it says next stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .admission import restarts
from .admission.gate import Refusal
from .admission.tokens import Principal
from .clock import Now
from .connection import Connection, Node, Phase
from .conversation.journal import Journal
from .conversation.run import Run
from .conversation.runs import Runs
from .conversation.session import Session, Sessions
from .conversation.voice import Voice
from .effects import LoadSession, Note, Scalar
from .events import Ack, Cancel, ChatMessage, ClientEvent, Resume, SystemEvent
from .faults import Fault
from .inputs import LoadFailed, RecordsSaved, SaveFailed, SessionLoaded, StoreOpened


class Chats:
    """The sessions of a node as its clients use them. `journal` is None where nothing outlives the process."""

    def __init__(
        self, node: Node, connections: Mapping[int, Connection], sessions: Sessions, runs: Runs, voice: Voice,
        journal: Journal | None,
    ) -> None:  # fmt: skip
        self._node = node
        self._connections = connections
        self._sessions = sessions
        self._runs = runs
        self._journal = journal
        self._voice = voice
        self._awaited: dict[tuple[str, str], set[int]] = {}  # sessions that are not, and the connections to hear them
        self.draining = False
        self.handlers: dict[type[ClientEvent], Callable[[Connection, Any, Now], None]] = {
            ChatMessage: self._in_session, Resume: self._in_session, Cancel: self._cancel, Ack: self._ack,
        }  # fmt: skip

    # ── the session of an event ──────────────────────────────────────────────────────────────────────────────────────

    def _in_session(self, connection: Connection, event: ChatMessage | Resume, now: Now) -> None:
        """Find the session that an event names, load it, or open it; then handle the event in it."""
        principal = connection.principal
        assert principal is not None
        if self.draining and type(event) is ChatMessage:
            self._refuse(connection, Fault.STOPPING, event, now)
            return
        owner, session_id = principal.user_id, event.session_id or connection.session_id
        session, expired = self._sessions.find(owner, session_id), False
        if session is None:
            promised, expired = self._sessions.promised(owner, session_id), self._sessions.expired(owner, session_id)
            load = self._journal is not None and promised is None
            if not load and type(event) is Resume and promised is None and not expired:
                self._not_found(connection, owner, event, now)
                return
            opened = self._open(connection, owner, session_id)
            if isinstance(opened, Fault):
                self._refuse(connection, opened, event, now)
                return
            session = opened
            if load:
                session.arrivals = []
                self._node.outbox.add(LoadSession(owner, session_id))
        elif session.number not in connection.sessions and self._attends_enough(connection):
            self._refuse(connection, Fault.TOO_MANY_SESSIONS, event, now)
            return
        if session.arrivals is not None:
            session.arrivals.append((connection.number, event))
            connection.hold()
        else:
            self._handle(connection, principal, session, event, now, expired=expired)

    def _not_found(self, connection: Connection, owner: str, event: Resume, now: Now) -> None:
        """There is no such session of this user. Should there be one later, who asked for it hears it: tabs that name a
        session and are there before anything is said in it."""
        if len(connection.awaits) < self._node.config.sessions.per_user:
            self._awaited.setdefault((owner, event.session_id), set()).add(connection.number)
            connection.awaits |= {(owner, event.session_id)}
        self._note_resume(connection, event.session_id, "not_found")
        self._refuse(connection, Fault.SESSION_NOT_FOUND, event, now)

    def _note_resume(self, connection: Connection, session_id: str, result: str) -> None:
        fields: dict[str, Scalar] = {"connection": connection.number, "session_id": session_id, "result": result}
        self._node.outbox.add(Note("message", "DEBUG", "resumed", fields))

    def let_go(self, connection: Connection) -> None:
        """A connection waits for no session any more."""
        for name in connection.awaits:
            waiting = self._awaited[name]
            waiting.discard(connection.number)
            if not waiting:
                del self._awaited[name]
        connection.awaits = frozenset()

    def _open(self, connection: Connection, owner: str, session_id: str) -> Session | Fault:
        if self._attends_enough(connection):
            return Fault.TOO_MANY_SESSIONS
        return self._sessions.open(owner, session_id, self._node.ids)

    def _attends_enough(self, connection: Connection) -> bool:
        """Whether a connection reads as many sessions as one may, where there are no users to count them by."""
        return len(connection.sessions) >= self._node.config.sessions.per_user

    def _handle(
        self, connection: Connection, principal: Principal, session: Session, event: ClientEvent, now: Now,
        *, expired: bool = False,
    ) -> None:  # fmt: skip
        if session.number not in connection.sessions or type(event) is not ChatMessage:
            self._attend(connection, session, now)
        if type(event) is ChatMessage:
            self._chat(connection, principal, session, event, now)
            return
        assert type(event) is Resume
        connection.traffic.resumes += 1
        if expired:
            result = session.tell_gap(connection, "expired", now)
        else:
            result = session.resume(connection, event.epoch, event.seq, now)
        self._note_resume(connection, session.id, result)
        self._runs.caught_up(session, now)

    def _attend(self, connection: Connection, session: Session, now: Now) -> None:
        """Let a connection read a session, and who has waited for it; where it is for one alone, the others go."""
        name = (session.owner, session.id)
        for number in sorted(self._awaited.pop(name, ())):
            waiting = self._connections[number]
            waiting.awaits -= {name}
            if not self._attends_enough(waiting):
                self._read(waiting, session, now)
        self._read(connection, session, now)
        if self._node.config.sessions.exclusive:
            for number in sorted(session.cursors.keys() - {connection.number}):  # in one order (C2)
                self._connections[number].close(Fault.TAKEN_OVER, now)

    def _read(self, connection: Connection, session: Session, now: Now) -> None:
        if session.number not in connection.sessions:
            session.attach(connection)
            self._sessions.attached(session)
            connection.sessions[session.number] = session
            connection.traffic.sessions += 1
            self._runs.caught_up(session, now)  # one that keeps up, where the others do not

    def _refuse(
        self,
        connection: Connection,
        fault: Fault,
        event: ClientEvent | None,
        now: Now,
        wait: int | float | None = None,
    ) -> None:
        if fault in (Fault.OVERLOADED, Fault.STOPPING):
            wait = self._node.gate.retry_after
        connection.refuse(Refusal(fault, wait), now, event)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _chat(
        self, connection: Connection, principal: Principal, session: Session, message: ChatMessage, now: Now
    ) -> None:
        if message.id is not None and message.id in session.known:
            self._repeat(connection, session, message.id, now)
            return
        user_id = principal.user_id if self._node.gate.verifier else message.user_id or principal.user_id
        run = self._runs.submit(session, message, user_id, connection, now)
        if isinstance(run, Refusal):
            self._refuse(connection, run.fault, message, now, run.retry_after)
        elif self._node.config.logging.log_messages:
            fields: dict[str, Scalar] = {"connection": connection.number, "session_id": session.id, "run_id": run.id}
            self._node.outbox.add(Note("message", "INFO", "accepted", {**fields, "content": message.content}))

    def _repeat(self, connection: Connection, session: Session, message_id: str, now: Now) -> None:
        """A message id that was here before runs nothing: its run is pointed to, as soon as that is kept (M5, C11)."""
        run_id = session.known[message_id]
        run = session.accepting.get(run_id)
        if run is not None:
            if connection.number not in run.askers[1:]:  # who brought it is told as well, once more
                run.askers.append(connection.number)
        else:
            self._point_to(connection, session, run_id, message_id, now)

    def _point_to(self, connection: Connection, session: Session, run_id: str, message_id: str, now: Now) -> None:
        data: dict[str, Scalar] = {"run_id": run_id, "position": self._runs.position(run_id), "duplicate": True}
        connection.reply(
            SystemEvent(event_name="message_accepted", data=data, session_id=session.id, correlation_id=message_id), now
        )

    def _cancel(self, connection: Connection, event: Cancel, now: Now) -> None:
        """End a run with what it has; nothing happens where it has ended, which may have been a moment ago."""
        sessions = connection.sessions.values()
        if event.run_id is not None:
            run, named = self._runs.find(event.run_id), event.run_id
            if run is not None and not self._may_cancel(connection, run):
                run = None
        else:
            assert event.correlation_id is not None
            known = [run_id for one in sessions if (run_id := one.known.get(event.correlation_id)) is not None]
            run = next((run for run_id in known if (run := self._runs.find(run_id)) is not None), None)
            named = known[0] if known else ""
        if run is not None:
            self._runs.cancel(run, now)
        elif not any(named in session.ended for session in sessions):
            self._refuse(connection, Fault.RUN_NOT_FOUND, event, now)

    def _may_cancel(self, connection: Connection, run: Run) -> bool:
        """Only the owner of a run's session, or who reads it, may name the run."""
        assert connection.principal is not None
        own = self._node.gate.verifier is not None and run.session.owner == connection.principal.user_id
        return own or run.session.number in connection.sessions

    def _ack(self, connection: Connection, event: Ack, now: Now) -> None:
        """Let go of what has been seen; what was never sent cannot have been (S5)."""
        for session in connection.sessions.values():
            if session.id == event.session_id and not session.ack(connection.number, event.seq):
                connection.close(Fault.ACK_AHEAD, now)
                return

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

    def store_opened(self, event: StoreOpened, now: Now) -> None:
        """The runs that the last node left unfinished end, or begin again, as configured (D2); those of users who are
        kept out end.

        Raises ValueError where `restrictions` are none that a node has given.
        """
        gate = self._node.gate
        assert self._journal is not None
        restarts.restore(event.restrictions or (), gate.blocks, gate.revocations, self._journal.changes.names, now)
        self._journal.changes.opened(keeps=event.restrictions is not None)
        again = self._node.config.store.on_restart == "rerun"
        count = sum(len(stored.unfinished) for stored in event.unfinished)
        if count:
            self._node.outbox.add(Note("node", "WARNING", "runs_cut_by_restart", {"runs": count, "rerun": again}))
        for stored in event.unfinished:
            session = self._sessions.make(stored.owner, stored.session_id, stored.epoch)
            session.restore(stored)
            for record in stored.unfinished:
                self._runs.restore(session, record, now, again=again and not gate.blocks.user(stored.owner, now))
            self._sessions.left(session, now)

    def session_loaded(self, event: SessionLoaded, now: Now) -> None:
        """A session is here, or is known not to exist: who waited for it goes on."""
        session = self._loading(event.owner, event.session_id)
        if session is None:
            return
        if event.stored is not None:
            session.restore(event.stored)
        self._arrive(session, None, event.stored is not None, now)

    def load_failed(self, event: LoadFailed, now: Now) -> None:
        """A session could not be read: whoever named it is told so, and goes on."""
        session = self._loading(event.owner, event.session_id)
        if session is None:
            return
        self._node.outbox.add(Note("node", "ERROR", "load_failed", {"session_id": event.session_id}, event.cause))
        self._arrive(session, Fault.STORAGE_UNAVAILABLE, False, now)

    def _loading(self, owner: str, session_id: str) -> Session | None:
        session = self._sessions.find(owner, session_id)
        return session if session is not None and session.arrivals is not None else None

    def _arrive(self, session: Session, fault: Fault | None, exists: bool, now: Now) -> None:
        """Handle what was said meanwhile to a session that was loaded; forget it where nothing comes of it."""
        arrivals, session.arrivals = session.arrivals, None
        released = []
        for number, event in arrivals or ():
            connection = self._connections.get(number)
            if connection is None or connection.principal is None or connection.phase is not Phase.OPEN:
                continue
            connection.release()
            released.append(connection)
            if fault is not None:
                self._refuse(connection, fault, event, now)
            elif self.draining and type(event) is ChatMessage:
                self._refuse(connection, Fault.STOPPING, event, now)
            elif type(event) is Resume and not exists:
                self._not_found(connection, session.owner, event, now)
            else:
                exists = True
                self._handle(connection, connection.principal, session, event, now)
        if not session.cursors:  # so nothing was said in it
            self._sessions.forget(session)
        for connection in released:  # what they have sent since
            connection.turn(now)

    def records_saved(self, event: RecordsSaved, now: Now) -> None:
        """What was said is kept, and is heard; messages are accepted."""
        assert self._journal is not None
        touched: dict[int, Session] = {}
        for entry in self._journal.saved(event.batch):
            session = entry.session
            touched[session.number] = session
            self._voice.heard(entry, now)
            if entry.accepts:
                assert entry.run is not None
                self._accepted(entry.run, now)
        for session in touched.values():
            self._runs.caught_up(session, now)

    def _accepted(self, run: Run, now: Now) -> None:
        self._runs.accept(run, now)
        askers, run.askers = run.askers, []
        for number in askers[1:]:
            connection = self._connections.get(number)
            if connection is not None:
                assert run.correlation_id is not None
                self._point_to(connection, run.session, run.id, run.correlation_id, now)

    def save_failed(self, event: SaveFailed, now: Now) -> None:
        """Nothing could be kept: messages are not accepted (D4)."""
        assert self._journal is not None
        refused = self._journal.failed(event.batch, event.cause, now)
        for run in refused:
            self._runs.refuse(run)
            for number in run.askers:
                connection = self._connections.get(number)
                if connection is not None:
                    self._refuse(connection, Fault.STORAGE_UNAVAILABLE, run.message, now)
        for session in {run.session.number: run.session for run in refused}.values():
            self._runs.caught_up(session, now)  # what waited to be saved held it up
