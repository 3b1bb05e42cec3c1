"""Sessions: a log, the connections that read it, the messages that wait for the agent; and the table of them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..clock import Now, Reason, Timers
from ..config import LimitsConfig, SessionsConfig
from ..events import AgentChunk, ClientEvent, SystemEvent, dump
from ..faults import Fault
from ..records import StoredSession
from ..wire.frames import Encoded
from .log import Log, joined

if TYPE_CHECKING:
    from .run import Run


class Reader(Protocol):
    """A connection as a session sees it."""

    number: int

    @property
    def ready(self) -> bool:
        """Whether it takes messages now: open, and not blocked."""

    def say(self, message: Encoded) -> None:
        """Send a message of the log; only while `ready`."""

    def tell(self, message: Encoded, now: Now) -> None:
        """Send a message that is in no log; while the reader is blocked it waits, within bounds."""

    def fall_behind(self, now: Now) -> None:
        """It reads too slowly for what is held for it, and has to come back later."""


class Cursor:
    """Where a reader is in the log: the last event it was sent, the bytes up to there, the last one it has acked."""

    __slots__ = ("acked", "reader", "seq", "total")

    def __init__(self, reader: Reader, seq: int, total: int) -> None:
        self.reader = reader
        self.seq = seq
        self.total = total
        self.acked = 0


class CutRun(NamedTuple):
    """A run that a restart has cut, until its end is heard. What it had said counts for nothing any more."""

    id: str
    correlation_id: str | None
    heard: str = ""


class Session:
    """One conversation. It outlives its sockets; what is said in it is heard by every attached connection, in order."""

    __slots__ = (
        "_high", "_known_ids", "_table", "_top", "accepting", "arrivals", "cursors", "ended", "id", "known", "log",
        "number", "open", "owner", "running", "unsaved", "unsaved_bytes", "waiting",
    )  # fmt: skip

    def __init__(self, owner: str, session_id: str, epoch: str, number: int, table: Sessions) -> None:
        self.owner = owner
        self.id = session_id
        self.number = number
        self.log = Log(epoch, table.config.max_events, table.config.max_bytes)
        self.cursors: dict[int, Cursor] = {}
        self.running: dict[str, Run] = {}  # the runs that have the agent
        self.waiting: list[Run] = []  # a few at most: an empty deque takes twelve times as much
        self.accepting: dict[str, Run] = {}  # those whose messages are not kept yet, and may never be (C11)
        self.open: dict[str, Run | CutRun] = {}  # those that were accepted in the log, and have no end in it
        self.known: dict[str, str] = {}  # message id → run id, the newest `known_ids` (M5)
        self.ended: dict[str, None] = {}  # the newest `known_ids` runs that have ended: to cancel them is no mistake
        self.arrivals: list[tuple[int, ClientEvent]] | None = None  # while it is loaded: who said what meanwhile
        self.unsaved = 0  # events that were said and are not in the log yet: they have to be kept first (C11)
        self.unsaved_bytes = 0
        self._table = table
        self._known_ids = table.config.known_ids
        self._high = table.limits.out_high
        self._top = table.limits.out_top

    @property
    def next_seq(self) -> int:
        """The number of the event that is said next."""
        return self.log.head + self.unsaved + 1

    @property
    def busy(self) -> bool:
        """Whether an agent works for it, or a message waits."""
        return bool(self.running or self.waiting)

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way: no run, nothing to be saved, nothing to be loaded."""
        return not self.busy and not self.unsaved and self.arrivals is None

    @property
    def lagging(self) -> bool:
        """Whether the agent should not be pulled: every reader is far behind, or the store is (C1)."""
        if self.unsaved_bytes > self._high:
            return True
        near = self.log.total - self._high
        for cursor in self.cursors.values():
            if cursor.total >= near:
                return False
        return bool(self.cursors)

    def heard(self, number: int) -> bool:
        """Whether a reader was sent all that was said."""
        return self.cursors[number].seq == self.log.head and not self.unsaved

    # ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, reader: Reader) -> None:
        """Let a connection hear what is said from now on; nothing happens where it does already."""
        if reader.number not in self.cursors:
            self.cursors[reader.number] = Cursor(reader, self.log.head, self.log.total)

    def resume(self, reader: Reader, epoch: str, seq: int, now: Now) -> str:
        """Let a connection hear everything behind `seq`, and what is said from now on (S1); or say why not (S2).

        Gives `recovered`, or why not.
        """
        log = self.log
        if epoch != log.epoch or not log.holds_after(seq):
            return self.tell_gap(reader, "epoch" if epoch != log.epoch else "gap", now)
        behind = list(log.after(seq))
        self.cursors[reader.number] = Cursor(reader, seq, log.total - sum(map(len, behind)))
        data: dict[str, str | int | float | bool | None] = {"recovered": True, "from": seq + 1, "to": log.head}
        reader.tell(self._resumed(data), now)
        if reader.ready:
            self.catch_up(reader.number, now)
        return "recovered"

    def tell_gap(self, reader: Reader, reason: str, now: Now) -> str:
        """Let a connection hear what is said from now on, and tell it what it is not going to hear, and a snapshot.

        The snapshot is all that each run that has not ended has said so far (S2). Gives the reason back.
        """
        log = self.log
        self.cursors[reader.number] = Cursor(reader, log.head, log.total)
        reader.tell(
            self._resumed(
                {"recovered": False, "reason": reason, "epoch": log.epoch, "from": log.floor + 1, "to": log.head}
            ), now,
        )  # fmt: skip
        for run in self.open.values():
            chunk = AgentChunk(
                content=run.heard, offset=0,
                session_id=self.id, seq=log.head, run_id=run.id, correlation_id=run.correlation_id,
            )  # fmt: skip
            reader.tell(Encoded(dump(chunk)), now)
        return reason

    def _resumed(self, data: dict[str, str | int | float | bool | None]) -> Encoded:
        return Encoded(dump(SystemEvent(event_name="session_resumed", data=data, session_id=self.id)))

    def hear(self, payload: bytes, now: Now) -> None:
        """Append an event, whose `seq` is the log's next, and send it to every reader that is up to date and ready."""
        log = self.log
        grown = log.append(payload)
        message = Encoded(payload)
        head, total = log.head, log.total
        latest, farthest = head - 1, total - len(payload) - self._top
        late: list[Reader] = []
        for cursor in self.cursors.values():
            reader = cursor.reader
            if cursor.seq == latest and reader.ready:
                reader.say(message)
                cursor.seq, cursor.total = head, total
            elif cursor.total < farthest:
                late.append(reader)
        self._table.grown(self, grown)
        for reader in late:
            reader.fall_behind(now)

    def catch_up(self, number: int, now: Now) -> None:
        """Send a reader what it has missed, chunks joined; or tell it of the gap, where that is held no more (C1)."""
        cursor = self.cursors[number]
        if not self.log.holds_after(cursor.seq):
            self.tell_gap(cursor.reader, "gap", now)
            return
        for payload in joined(self.log.after(cursor.seq)):
            cursor.reader.say(Encoded(payload))
        cursor.seq, cursor.total = self.log.head, self.log.total

    def ack(self, number: int, seq: int) -> bool:
        """A reader needs nothing up to `seq` any more; what none of them needs is let go. False: it was never sent."""
        cursor = self.cursors[number]
        if seq > cursor.seq:
            return False
        cursor.acked = max(cursor.acked, seq)
        held = self.log.held
        self.log.trim(min(cursor.acked for cursor in self.cursors.values()))
        self._table.grown(self, self.log.held - held)
        return True

    # ── messages and runs ────────────────────────────────────────────────────────────────────────────────────────────

    def remember(self, message_id: str, run_id: str) -> None:
        """Keep which run a message id got."""
        self.known[message_id] = run_id
        _bound(self.known, self._known_ids)

    def ended_run(self, run_id: str) -> None:
        """A run has ended for its clients."""
        self.ended[run_id] = None
        _bound(self.ended, self._known_ids)

    def restore(self, stored: StoredSession) -> None:
        """Take over what a store has of it."""
        held = self.log.held
        self.log.restore(stored.epoch, stored.head, stored.payloads)
        for message_id, run_id in stored.known:
            self.remember(message_id, run_id)
            self.ended_run(run_id)
        self._table.grown(self, self.log.held - held)


class Sessions:
    """Every session of the node, by owner and id; bounded per owner and in all, in number and bytes (S4)."""

    def __init__(
        self,
        config: SessionsConfig,
        limits: LimitsConfig,
        timers: Timers,
        *,
        bounded: bool,
        durable: bool,
    ) -> None:
        """`bounded`: owners are users, who have at most `per_user` sessions and `user_bytes` each.

        `durable`: a session that is let go can be loaded again.
        """
        self.limits = limits
        self._timers = timers
        self._bounded = bounded
        self._durable = durable
        self._by_owner: dict[str, dict[str, Session]] = {}
        self._by_number: dict[int, Session] = {}
        self._detached: dict[int, Session] = {}  # those that nobody reads, the longest unread first
        self._promised: dict[tuple[str, str], str] = {}  # the epochs of those that connections were told of
        self._past: dict[tuple[str, str], str | None] = {}
        self._owned: dict[str, int] = {}  # bytes held, by owner
        self._opened = 0
        self.held = 0  # bytes
        self.configure(config)

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_number.values())

    def configure(self, config: SessionsConfig) -> None:
        """Go by these settings from now on. What a session or its log has copied stays with it."""
        self.config = config
        self._user_bytes, self._node_bytes = config.user_bytes, config.node_bytes

    def find(self, owner: str, session_id: str) -> Session | None:
        """The session of this owner and id."""
        own = self._by_owner.get(owner)
        return None if own is None else own.get(session_id)

    def by_number(self, number: int) -> Session:
        """The session of a timer."""
        return self._by_number[number]

    # ── names that are known, of sessions that are not here ──────────────────────────────────────────────────────────

    def promise(self, owner: str, session_id: str, epoch: str) -> None:
        """A connection was told of this session of its own, in which nothing has been said, and may speak in it."""
        self._promised[owner, session_id] = epoch

    def withdraw(self, owner: str, session_id: str) -> None:
        """That connection is gone, and its client may come back to it all the same; those of too many are forgotten."""
        epoch = self._promised.pop((owner, session_id), None)
        if epoch is not None:
            self._note_past(owner, session_id, epoch)

    def promised(self, owner: str, session_id: str) -> str | None:
        """The epoch of a session that is only promised."""
        name = (owner, session_id)
        return self._promised.get(name) or self._past.get(name)

    def expired(self, owner: str, session_id: str) -> bool:
        """Whether there was such a session, until its time was over or others needed its place."""
        return (owner, session_id) in self._past and self._past[owner, session_id] is None

    def _note_past(self, owner: str, session_id: str, epoch: str | None) -> None:
        self._past.pop((owner, session_id), None)
        self._past[owner, session_id] = epoch
        _bound(self._past, self.config.max_sessions)

    # ── coming and going ─────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, owner: str, session_id: str, ids: Callable[[], str]) -> Session | Fault:
        """The session of this owner and id, made where there is none; or why there can be none.

        An idle session that nobody reads makes room, the longest unread first.
        """
        session = self.find(owner, session_id)
        if session is not None:
            return session
        own = self._by_owner.get(owner, {})
        if self._bounded and len(own) >= self.config.per_user and not self._make_room(own):
            return Fault.TOO_MANY_SESSIONS
        if len(self) >= self.config.max_sessions and not self._make_room(None):
            return Fault.OVERLOADED
        name = (owner, session_id)
        epoch = self._promised.pop(name, None) or self._past.pop(name, None) or ids()
        return self.make(owner, session_id, epoch)

    def make(self, owner: str, session_id: str, epoch: str) -> Session:
        """A new session, that nobody reads yet; whether there is room has been looked at."""
        self._opened += 1
        session = Session(owner, session_id, epoch, self._opened, self)
        self._by_owner.setdefault(owner, {})[session_id] = session
        self._by_number[session.number] = session
        return session

    def attached(self, session: Session) -> None:
        """A connection reads a session."""
        if self._detached.pop(session.number, None) is not None:
            self._timers.clear(Reason.SESSION, session.number)

    def detach(self, session: Session, number: int, now: Now) -> None:
        """A connection reads a session no more."""
        del session.cursors[number]
        self.left(session, now)

    def left(self, session: Session, now: Now) -> None:
        """Where nobody reads a session, its runs go on; after `ttl` without a reader it ends."""
        if not session.cursors:
            own = self._by_owner[session.owner]
            own[session.id] = own.pop(session.id)  # in the order of leaving, as in `_detached`
            self._detached[session.number] = session
            self._timers.set(Reason.SESSION, session.number, now.mono + self.config.ttl)

    def forget(self, session: Session) -> None:
        """The session is over, or can be loaded again. It must be settled."""
        self._timers.clear(Reason.SESSION, session.number)
        self._detached.pop(session.number, None)
        del self._by_number[session.number]
        own = self._by_owner[session.owner]
        del own[session.id]
        if not own:
            del self._by_owner[session.owner]
        self.grown(session, -session.log.held)
        if not self._durable:
            self._note_past(session.owner, session.id, None)

    def grown(self, session: Session, size: int) -> None:
        """A session holds so many bytes more. Where that is too much, others make room, or its oldest events go."""
        owner = session.owner
        self.held += size
        owned = self._owned[owner] = self._owned.get(owner, 0) + size
        if owned == 0:
            del self._owned[owner]
        if size > 0 and (self.held > self._node_bytes or (self._bounded and owned > self._user_bytes)):
            self._relieve(session)

    def _relieve(self, session: Session) -> None:
        """A session has grown beyond what is held for its owner, or by the node."""
        owner = session.owner
        while self._bounded and self._owned[owner] > self._user_bytes:
            if not self._make_room(self._by_owner[owner], spared=session):
                self._shrink(session, self._owned[owner] - self._user_bytes)
                break
        while self.held > self._node_bytes:
            if not self._make_room(None, spared=session):
                self._shrink(session, self.held - self._node_bytes)
                break

    def _shrink(self, session: Session, size: int) -> None:
        held = session.log.held
        session.log.shrink(size)
        self.grown(session, session.log.held - held)

    def _make_room(self, own: dict[str, Session] | None, spared: Session | None = None) -> bool:
        """Forget the longest unread settled session, of one owner or of all."""
        among: Iterable[Session] = self._detached.values() if own is None else own.values()
        for session in among:
            if session.number in self._detached and session.settled and session is not spared:
                self.forget(session)
                return True
        return False


def _bound(table: dict[str, str] | dict[str, None] | dict[tuple[str, str], str | None], size: int) -> None:
    """Forget the oldest entries beyond `size`."""
    while len(table) > size:
        del table[next(iter(table))]  # type: ignore[arg-type]
