"""The session as a client sees it: what of the server's events is new, what has to be asked for, what was lost.

A client reads the log of one session. It knows the log's `epoch` and the `seq` of the last event it has told; both go
into a `resume`, whose answer is everything behind. Where that is not held any longer (`recovered: false`) the way back
has two steps: the answer brings a snapshot of the runs in progress, and a second `resume` everything that is still
held, so that a gap is as small as it can be, the snapshot is known to be whole, and what is neither in progress nor
ended by then is known to be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ..events import (
    AgentChunk,
    AgentResponse,
    AgentStepEvent,
    Cancel,
    ClientEvent,
    ErrorEvent,
    Resume,
    ServerEvents,
    SystemEvent,
)
from ..faults import Fault, Retry
from .events import NotRecovered, Recovered
from .messages import Message, Messages
from .retry import retry_of_error
from .texts import Hole, Texts, TooMuch

MISSES = 3  # in a row: then asking again does not help
ACCEPTED = "message_accepted"
LOST = "LOST"  # an error code that a client makes, and no server
LOST_TEXT = "The server has lost this message or its answer; send it again under another id"
ANSWERED = "ANSWERED"  # another one
ANSWERED_TEXT = "This id was answered before, and the server does not hold that answer any more"


class Stage(Enum):
    """How far a connection is with the session."""

    AWAY = "there is no connection"
    ASKED = "a resume is not answered: what comes of the session will come again"
    REPLAYING = "what was missed comes"
    FLOWING = "everything was heard, messages go out"


class Broken(Exception):
    """What the server says of the session cannot be."""


SessionEvents = AgentResponse | AgentChunk | AgentStepEvent | SystemEvent | ErrorEvent


class ClientSession:
    """One session, over many connections. Says what is to be delivered, and what is to be sent, once and in order."""

    def __init__(
        self,
        session_id: str | None,
        *,
        history: bool,
        messages: Messages,
        max_chars: int,
        deliver: Callable[[ServerEvents], None],
        send: Callable[[ClientEvent], None],
    ) -> None:
        """`session_id` names one to read, with what it holds where `history` is true; None: one of its own.

        `max_chars` bounds what is held of unfinished answers. Raises ValueError where `session_id` is no name.
        """
        if session_id is not None:
            Resume(type="resume", session_id=session_id, epoch="", seq=0)
        self.id = session_id
        self.stage = Stage.AWAY
        self.draining = False  # the server takes no messages any more
        self.seq = 0  # of the last event told
        self.unacknowledged = 0  # events told since the last `ack`
        self._epoch = ""  # not known
        self._used = session_id is not None  # something is or may be in it
        self._skip = session_id is not None and not history  # what was said before is not asked for
        self._messages = messages
        self._max_chars = max_chars
        self._deliver = deliver
        self._send = send
        self._texts = Texts(messages.limit, max_chars)
        self._asked: Resume | None = None
        self._at = 0  # where the replay is
        self._to = 0  # where it ends
        self._snapshot: dict[str, AgentChunk] | None = None  # the runs in progress, where the log had a gap
        self._snapshot_at = 0
        self._snapshot_chars = 0
        self._seen: set[str] = set()  # runs that were in progress behind it
        self._owed = False  # a snapshot was to come, and the connection was gone before it was all there
        self._misses = 0

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def connected(self, session_id: str, epoch: str) -> None:
        """A connection stands, with a fresh session of its own: take that where there is none to go on with."""
        if not self._used:
            self.id, self._epoch = session_id, epoch
            self._flow()
        elif self._owed:
            self._probe()
        else:
            self._ask(self._epoch, self.seq)

    def disconnected(self) -> None:
        """The connection is gone."""
        if self.stage is not Stage.FLOWING:
            probing = self.stage is Stage.ASKED and self._asked is not None and not self._asked.epoch
            self._owed = self._owed or probing or self._snapshot is not None
        self.stage = Stage.AWAY
        self.draining = False
        self._snapshot = None
        self._seen.clear()

    def ask_again(self) -> None:
        """Send the last `resume` again: the server could not answer it."""
        if self.stage is Stage.ASKED and self._asked is not None:
            self._send(self._asked)

    def _ask(self, epoch: str, seq: int) -> None:
        assert self.id is not None
        self.stage = Stage.ASKED
        self._asked = Resume(type="resume", session_id=self.id, epoch=epoch, seq=seq)
        self._send(self._asked)

    def _probe(self) -> None:
        """Ask what is in progress: an epoch that there cannot be is answered with a snapshot."""
        self._ask("", 0)

    # ── answers to a resume ──────────────────────────────────────────────────────────────────────────────────────────

    def recovered(self, answer: Recovered) -> None:
        """Everything behind the last event told is coming. Raises Broken."""
        if self.stage not in (Stage.ASKED, Stage.REPLAYING):
            return  # of a resume that an unasked gap has overtaken: what it brings is known
        if not self._epoch:
            raise Broken
        if answer.start > self.seq + 1:
            self._miss()
            return
        self.stage = Stage.REPLAYING
        self._at, self._to = answer.start - 1, answer.to
        self._check_replayed()

    def not_recovered(self, answer: NotRecovered, event: SystemEvent) -> None:
        """There is a gap, or we did not know where we are; it also comes unasked, where we read too slowly."""
        gone = answer.start - 1  # the last event that is not held
        if answer.epoch == self._epoch:
            missed = not gone <= self.seq <= answer.to
            self.seq = min(max(gone, self.seq), answer.to)
        elif self._skip:
            missed = answer.to > 0
            self.seq = answer.to
        else:
            missed = bool(self._epoch) or gone > 0
            self.seq = min(gone, answer.to)
        self._skip, self._epoch = False, answer.epoch
        if missed:
            self._deliver(event)
        self._snapshot, self._snapshot_at, self._snapshot_chars = {}, answer.to, 0
        self._seen.clear()
        self._messages.begin_snapshot()
        search = any(message.repeated for message in self._messages)  # for an answer that is told already
        self._ask(answer.epoch, min(gone, self.seq) if search else self.seq)

    def not_found(self, event: ErrorEvent) -> None:
        """The server knows nothing of the session: it starts anew, under the same name."""
        if self.seq:
            self._deliver(event)
        for message in self._messages:
            if message.accepted:
                self._lose(message)
        self._texts.keep(())
        self._epoch, self.seq, self.unacknowledged = "", 0, 0
        self._skip = False
        self._snapshot, self._snapshot_at = None, 0
        self._owed = False
        self._flow()

    # ── events of the session ────────────────────────────────────────────────────────────────────────────────────────

    def take(self, event: SessionEvents, seq: int) -> None:
        """An event with its place in the log. Raises TooMuch and Broken."""
        if self.stage is Stage.ASKED:
            if self._snapshot is not None and isinstance(event, AgentChunk):
                self._picture(self._snapshot, event)
        elif not self._epoch:  # opened under its name, by us or others: nothing is told that could not be resumed
            self._probe()
        elif seq <= self.seq:
            self._find(event)
            self._replayed(seq)
        elif self._tell(event, seq):
            self._used = True
            self.seq = seq
            self.unacknowledged += 1
            if self.stage is Stage.FLOWING:
                self._misses = 0
            self._replayed(seq)

    def _find(self, event: SessionEvents) -> None:
        """What was told before is not told again, but for the answer to a message that was sent again since."""
        if isinstance(event, AgentResponse | ErrorEvent) and event.run_id is not None:
            message = self._messages.find(event.correlation_id)
            if message is not None and message.repeated and message.run_id == event.run_id:
                self._messages.end(message.id)
                self._deliver(event)

    def _picture(self, snapshot: dict[str, AgentChunk], chunk: AgentChunk) -> None:
        """Keep a part of the snapshot until the replay is over, or has a hole."""
        if chunk.seq != self._snapshot_at or chunk.offset or chunk.run_id is None or chunk.run_id in snapshot:
            return
        snapshot[chunk.run_id] = chunk
        self._snapshot_chars += len(chunk.run_id) + len(chunk.content)
        if len(snapshot) > self._messages.limit or self._snapshot_chars > self._max_chars:
            raise TooMuch

    def _tell(self, event: SessionEvents, seq: int) -> bool:
        """Deliver what of an event is new; False where something before it is missing."""
        run_id = _run_of(event)
        if isinstance(event, AgentResponse | ErrorEvent):
            self._end(run_id)
            self._messages.end(event.correlation_id)
            self._deliver(event)
            return True
        if run_id is not None and self._snapshot is not None and seq > self._snapshot_at:
            self._seen.add(run_id)
        if run_id is not None:
            if isinstance(event, AgentChunk):
                return self._tell_chunk(event, run_id, seq)
            self._texts.begin(run_id)
        if not (isinstance(event, SystemEvent) and event.event_name == ACCEPTED and self._accept(event, run_id)):
            self._deliver(event)
        return True

    def _end(self, run_id: str | None) -> None:
        if run_id is not None:
            self._texts.end(run_id)
            self._seen.discard(run_id)
            if self._snapshot is not None:
                self._snapshot.pop(run_id, None)

    def _accept(self, event: SystemEvent, run_id: str | None) -> bool:
        """Take in that a message was accepted; True where it is one of ours, and was told before."""
        message = self._messages.find(event.correlation_id)
        if message is None:
            return False
        told = message.accepted
        self._messages.accept(message, run_id)
        return told

    def _tell_chunk(self, chunk: AgentChunk, run_id: str, seq: int) -> bool:
        placed = self._texts.place(run_id, chunk.offset, chunk.content)
        if isinstance(placed, Hole) and self._snapshot is not None:
            pictured = "" if run_id not in self._snapshot else self._snapshot[run_id].content
            if len(pictured) >= chunk.offset:
                placed = self._texts.place(run_id, 0, pictured[: chunk.offset] + chunk.content)
        if isinstance(placed, Hole):
            if seq <= self._snapshot_at:  # it began in the gap, and has ended: else it would be in the snapshot
                return True
            self._miss()
            return False
        if placed is not None:
            self._deliver(chunk.model_copy(update={"offset": placed.offset, "content": placed.content}))
        return True

    def _miss(self) -> None:
        """Something is missing, and the server has not said so: ask for a snapshot, rather than tell a hole."""
        self._misses += 1
        if self._misses > MISSES:
            raise Broken
        self._probe()

    def _replayed(self, seq: int) -> None:
        self._at = max(self._at, seq)
        self._check_replayed()

    def _check_replayed(self) -> None:
        """Where everything that was missed has come, go on with the messages."""
        if self.stage is not Stage.REPLAYING or self._at < self._to:
            return
        if self._snapshot is not None:
            snapshot, self._snapshot = self._snapshot, None
            for run_id, chunk in snapshot.items():
                self._tell_chunk(chunk.model_copy(update={"seq": self.seq}), run_id, self.seq)
            self._texts.keep(self._seen.union(snapshot))
            self._seen.clear()
            self._owed = False
        lost, doubtful = self._messages.missing(self._texts)
        for message in lost:
            self._lose(message)
        if doubtful:
            self._probe()
        else:
            self._flow()

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def post(self, message: Message) -> None:
        """Send a message, now or once messages flow."""
        if self.stage is not Stage.FLOWING or self.draining:
            return
        self._used = True
        message.refused = False
        message.sends += 1
        self._send(message.chat.model_copy(update={"session_id": self.id}))
        if message.cancelled:
            self.cancel(message)

    def cancel(self, message: Message) -> None:
        """Let the run of a message end, now or once messages flow."""
        message.cancelled = True
        if self.stage is Stage.FLOWING and message.sends:
            self._send(Cancel(type="cancel", correlation_id=message.id))

    def post_refused(self) -> None:
        """Send those again that the server could not take."""
        for message in self._messages:
            if message.refused:
                self.post(message)

    def acknowledged(self, event: SystemEvent) -> None:
        """A message was sent again, and the server had it: told where nothing else tells that it was accepted."""
        message = self._messages.find(event.correlation_id)
        if message is None or message.accepted:
            return
        run_id = _run_of(event)
        message.repeated = True
        self._messages.accept(message, run_id)
        self._deliver(event)
        if self.stage is Stage.FLOWING and run_id not in self._texts:  # nobody can say yet whether its end will come
            self._probe()

    def refused(self, event: ErrorEvent) -> bool:
        """A message or its cancel was not taken. True where it is to be sent again in a while."""
        message = self._messages.find(event.correlation_id)
        if message is None:
            return False
        if event.error_code == Fault.RUN_NOT_FOUND.value.code:
            if message.accepted:
                message.cancelled = False
            if message.accepted and self.stage is Stage.FLOWING:
                self._probe()
            return False
        retry = retry_of_error(event.error_code)
        if message.accepted or retry is Retry.NEW_TOKEN or (self.draining and retry is Retry.LATER):
            return False  # the next connection sends it, where need be
        if message.sends > 1 and retry is not Retry.NO:  # it may have been accepted the first time
            message.refused = True
            return True
        self._messages.end(message.id)
        self._deliver(event)
        return False

    def _flow(self) -> None:
        """Everything was heard: send what the server is not known to have, and cancel what is to be cancelled."""
        self.stage = Stage.FLOWING
        for message in self._messages:
            if not message.accepted:
                self.post(message)
            elif message.cancelled:
                self.cancel(message)

    def _lose(self, message: Message) -> None:
        """The server had a message, and neither works on it nor holds its answer: say so, that nobody waits.

        One that it knew already when it came again was answered: to send it under another id would run it twice.
        """
        self._messages.end(message.id)
        code, text = (ANSWERED, ANSWERED_TEXT) if message.repeated else (LOST, LOST_TEXT)
        self._deliver(
            ErrorEvent(
                error_code=code, error_message=text, session_id=self.id, run_id=message.run_id,
                correlation_id=message.id,
            )
        )  # fmt: skip


def _run_of(event: SessionEvents) -> str | None:
    """The run that an event is about."""
    if not isinstance(event, SystemEvent):
        return event.run_id
    run_id = event.data.get("run_id")
    return run_id if isinstance(run_id, str) else None
