"""Sessions: a log, the connections that read it, the messages that wait for the agent; and the table of them all."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..clock import Now, Reason, Timers
from ..config import LimitsConfig, SessionsConfig
from ..events import ErrorEvent, SessionEvent, SystemEvent, dump
from ..faults import Fault
from ..wire.frames import Encoded
from .log import Log

if TYPE_CHECKING:
    from .run import Run


class Reader(Protocol):
    """A connection as a session sees it."""

    number: int

    @property
    def ready(self) -> bool:
        """Whether it takes messages now: open, and not blocked."""

    def say(self, message: Encoded) -> None:
        """Send a message; only while `ready`."""

    def fall_behind(self, now: Now) -> None:
        """It reads too slowly for what is held for it, and has to come back later."""


class Cursor:
    """Where a reader is in the log: the last event it was sent, and the bytes up to there."""

    __slots__ = ("reader", "seq", "total")

    def __init__(self, reader: Reader, seq: int, total: int) -> None:
        self.reader = reader
        self.seq = seq
        self.total = total


class Session:
    """One conversation. It outlives its sockets; what is said in it is heard by every attached connection, in order."""

    __slots__ = (
        "_high",
        "_known_ids",
        "_top",
        "current",
        "cursors",
        "id",
        "known",
        "log",
        "number",
        "owner",
        "waiting",
    )

    def __init__(
        self, owner: str, session_id: str, epoch: str, number: int, sessions: SessionsConfig, limits: LimitsConfig
    ) -> None:
        self.owner = owner
        self.id = session_id
        self.number = number
        self.log = Log(epoch, sessions.max_events, sessions.max_bytes)
        self.cursors: dict[int, Cursor] = {}
        self.current: Run | None = None  # the run that has the agent
        self.waiting: deque[Run] = deque()
        self.known: dict[str, str] = {}  # message id → run id, the newest `known_ids` (M5)
        self._known_ids = sessions.known_ids
        self._high = limits.out_high
        self._top = limits.out_top

    @property
    def next_seq(self) -> int:
        """The number of the event that is said next."""
        return self.log.head + 1

    @property
    def busy(self) -> bool:
        """Whether an agent works for it, or a message waits."""
        return self.current is not None or bool(self.waiting)

    def heard(self, number: int) -> bool:
        """Whether a reader was sent all that was said."""
        return self.cursors[number].seq == self.log.head

    @property
    def lagging(self) -> bool:
        """Whether a reader is so far behind that the agent should not be pulled (C1)."""
        return any(self.log.total - cursor.total > self._high for cursor in self.cursors.values())

    def attach(self, reader: Reader) -> None:
        """Let a connection hear what is said from now on; nothing happens where it does already."""
        if reader.number not in self.cursors:
            self.cursors[reader.number] = Cursor(reader, self.log.head, self.log.total)

    def say(self, event: SessionEvent | SystemEvent | ErrorEvent, now: Now) -> None:
        """Append an event, whose `seq` is `next_seq`, and send it to every reader that is up to date and ready."""
        payload = dump(event)
        log = self.log
        log.append(payload)
        message = Encoded(payload)
        late: list[Reader] = []
        for cursor in self.cursors.values():
            if cursor.seq == log.head - 1 and cursor.reader.ready:
                cursor.reader.say(message)
                cursor.seq, cursor.total = log.head, log.total
            elif not log.holds_after(cursor.seq) or log.total - len(payload) - cursor.total > self._top:
                late.append(cursor.reader)
        for reader in late:
            reader.fall_behind(now)

    def catch_up(self, number: int) -> None:
        """Send a reader that was blocked what it has missed."""
        cursor = self.cursors[number]
        for payload in self.log.after(cursor.seq):
            cursor.reader.say(Encoded(payload))
        cursor.seq, cursor.total = self.log.head, self.log.total

    def remember(self, message_id: str, run_id: str) -> None:
        """Keep which run a message id got."""
        self.known[message_id] = run_id
        if len(self.known) > self._known_ids:
            del self.known[next(iter(self.known))]


class Sessions:
    """Every session of the node, by owner and id; bounded per owner and in all (S4)."""

    def __init__(self, sessions: SessionsConfig, limits: LimitsConfig, timers: Timers) -> None:
        self._sessions = sessions
        self._limits = limits
        self._timers = timers
        self._by_owner: dict[str, dict[str, Session]] = {}
        self._by_number: dict[int, Session] = {}
        self._detached: dict[int, Session] = {}  # those that nobody reads, the longest unread first
        self._opened = 0

    def __len__(self) -> int:
        return len(self._by_number)

    def find(self, owner: str, session_id: str) -> Session | None:
        """The session of this owner and id."""
        return self._by_owner.get(owner, {}).get(session_id)

    def by_number(self, number: int) -> Session:
        """The session of a timer."""
        return self._by_number[number]

    def open(self, owner: str, session_id: str, epoch: str, *, bounded: bool) -> Session | Fault:
        """The session of this owner and id, made where there is none; or why there can be none.

        An idle session that nobody reads makes room, the longest unread first. `bounded` owners have at most
        `per_user` sessions.
        """
        session = self.find(owner, session_id)
        if session is not None:
            return session
        own = self._by_owner.get(owner, {})
        if bounded and len(own) >= self._sessions.per_user and not self._make_room(own):
            return Fault.TOO_MANY_SESSIONS
        if len(self) >= self._sessions.max_sessions and not self._make_room(None):
            return Fault.OVERLOADED
        self._opened += 1
        session = Session(owner, session_id, epoch, self._opened, self._sessions, self._limits)
        self._by_owner.setdefault(owner, {})[session_id] = session
        self._by_number[session.number] = session
        return session

    def attach(self, session: Session, reader: Reader) -> None:
        """Let a connection read a session."""
        session.attach(reader)
        if self._detached.pop(session.number, None) is not None:
            self._timers.clear(Reason.SESSION, session.number)

    def detach(self, session: Session, number: int, now: Now) -> None:
        """A connection reads a session no more. Runs go on; after `ttl` without a reader the session ends."""
        del session.cursors[number]
        if not session.cursors:
            self._detached[session.number] = session
            self._timers.set(Reason.SESSION, session.number, now.mono + self._sessions.ttl)

    def forget(self, session: Session) -> None:
        """The session is over. Its runs must be over before."""
        self._timers.clear(Reason.SESSION, session.number)
        self._detached.pop(session.number, None)
        del self._by_number[session.number]
        own = self._by_owner[session.owner]
        del own[session.id]
        if not own:
            del self._by_owner[session.owner]

    def _make_room(self, own: dict[str, Session] | None) -> bool:
        """Forget the longest unread idle session, of one owner or of all."""
        for session in self._detached.values():
            if not session.busy and (own is None or own.get(session.id) is session):
                self.forget(session)
                return True
        return False
