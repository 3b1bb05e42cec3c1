"""Runs: one call of the agent for one accepted message, from its place in the queue to its one terminal event (C8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any, Literal

from pydantic import ValidationError

from ..admission.gate import Refusal, user_account
from ..clock import Now, Reason, Timers
from ..config import WebSocketConfig
from ..counts import Counts
from ..effects import CancelRun, Note, PauseRun, ResumeRun, Scalar, StartRun
from ..events import ChatMessage
from ..faults import Fault
from ..inputs import RunChunk, RunFailed, RunFinished, RunStarted, RunStep
from ..outbox import Outbox
from ..records import RunRecord
from .accounts import Accounts
from .run import Asker, Run, State, begun, clean, fault_of, tokens_of, wait_of
from .session import Session
from .voice import StepKind, Voice

NOTHING: tuple[str, ...] = ()  # what most agents give as their steps

STEP_OVERHEAD = 64  # bytes that a step counts beside its text, so that empty ones are bounded too


class Runs:
    """Every run of the node: accepts messages, starts agents, turns what they yield into events, and ends them."""

    def __init__(
        self, config: WebSocketConfig, timers: Timers, outbox: Outbox, ids: Callable[[], str], voice: Voice,
        accounts: Accounts, counts: Counts,
    ) -> None:  # fmt: skip
        self._double_text = config.sessions.double_text
        self._voice = voice
        self._counts = counts
        self._timers = timers
        self._outbox = outbox
        self._ids = ids
        self._accounts = accounts
        self._runs: dict[str, Run] = {}
        self._go_by(config)

    def _go_by(self, config: WebSocketConfig) -> None:
        self._config = agent = config.agent
        self._max_runs, self._max_response_size = agent.max_runs, agent.max_response_size
        self._timeout, self._max_duration = agent.timeout, agent.max_duration
        self._roll_up, self._chunk_size = agent.roll_up, agent.chunk_size
        self._queue = config.sessions.queue
        self._width = self._queue + 1 if self._double_text == "concurrent" else 1  # runs of a session at once
        self._most = self._queue + 1 if self._double_text == "enqueue" else self._width  # with those that wait

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these settings from now on, with the runs that are under way as well."""
        self._go_by(config)
        self._accounts.configure(config)
        for run in self._runs.values():
            if run.state is State.RUNNING:
                self._timers.set(Reason.RUN, run.id, self._deadline(run))

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    @property
    def live(self) -> list[Run]:
        """Those that have not ended for their clients, in the order in which they were accepted."""
        return [run for run in self._runs.values() if run.state in (State.QUEUED, State.RUNNING)]

    @property
    def given_up(self) -> int:
        """Runs whose agents do not stop; they keep their place (G5)."""
        return sum(run.state is State.GIVEN_UP for run in self._runs.values())

    def find(self, run_id: str) -> Run | None:
        """A run that has not ended for its client."""
        run = self._runs.get(run_id)
        return run if run is not None and run.state in (State.QUEUED, State.RUNNING) else None

    # ── from acceptance to the start ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, session: Session, message: ChatMessage, user_id: str, asker: Asker, now: Now) -> Run | Refusal:
        """Take a message of a connection: accept it once it is kept, and run it in its turn; or why not (C11, G7)."""
        if len(self._runs) >= self._max_runs:
            return Refusal(Fault.OVERLOADED)
        if self._voice.closed:
            return Refusal(Fault.STORAGE_UNAVAILABLE)
        ahead = len(session.running) + len(session.waiting)
        queued = ahead >= self._width or session.lagging
        if self._double_text == "interrupt":
            ahead = 0
            if len(session.waiting) > self._queue:
                return Refusal(Fault.BUSY)
        elif queued and ahead >= self._most:
            return Refusal(Fault.BUSY)
        reservation = self._accounts.enter(asker.account, now)
        if isinstance(reservation, Refusal):
            return reservation
        run = Run(self._ids(), session, user_id, message, asker.account, now)
        if reservation is not None:
            run.reservation = reservation
        if queued:
            run.position = ahead
        run.connection, run.trace = asker.number, run.trace or asker.trace
        run.askers.append(asker.number)
        self._take(run)
        session.waiting.append(run)
        if message.id is not None:
            session.remember(message.id, run.id)
        if self._voice.accept(run, now):
            self.accept(run, now)
        return run

    def accept(self, run: Run, now: Now) -> None:
        """The message is kept: its run may begin."""
        run.accepted = True
        session = run.session
        if self._double_text == "interrupt" and run in session.waiting:
            earlier = list(takewhile(lambda other: other is not run, session.waiting))
            for other in [*reversed(earlier), *session.running.values()]:
                if other.state in (State.QUEUED, State.RUNNING):
                    self.cancel(other, now)
        self._start_next(session, now)

    def refuse(self, run: Run) -> None:
        """The message could not be kept: it was never here."""
        del run.session.accepting[run.id]
        if run.id in self._runs:
            self._counts.withdrawn += 1
            self._forget(run)
            run.session.waiting.remove(run)
        if run.correlation_id is not None and run.session.known.get(run.correlation_id) == run.id:
            del run.session.known[run.correlation_id]

    def restore(self, session: Session, record: RunRecord, now: Now, *, again: bool) -> None:
        """A run that a restart has cut: run it `again`, behind the others of its session, or end it (D2)."""
        message = None
        if again:
            try:
                message = ChatMessage.model_validate_json(record.message)
            except ValidationError as error:  # of another version
                self._outbox.add(Note("run", "ERROR", "run_not_restored", {"run_id": record.run_id}, error))
        if message is None:
            self._voice.interrupt(session, record.run_id, record.message_id, now)
            return
        account = user_account(session.owner)
        run = Run(record.run_id, session, record.user_id, message, account, now)
        run.reservation = self._accounts.restore(account, now)
        run.accepted = run.rerun = True
        self._take(run)
        self._voice.restore(run)
        session.waiting.append(run)
        self._start_next(session, now)

    def _take(self, run: Run) -> None:
        self._counts.submitted += 1
        self._runs[run.id] = run

    def position(self, run_id: str) -> int:
        """How many runs of its session are before it; 0 for one that has begun or ended."""
        run = self._runs.get(run_id)
        if run is None or run.state is not State.QUEUED:
            return 0
        return max(0, run.session.waiting.index(run) + len(run.session.running) + 1 - self._width)

    def _start_next(self, session: Session, now: Now) -> None:
        """Let the agent have the messages whose turn it is."""
        waiting = session.waiting
        while waiting and waiting[0].accepted and len(session.running) < self._width and not session.lagging:
            run = waiting.pop(0)
            self._voice.start(run, now)
            self._start(run, now)

    def _start(self, run: Run, now: Now) -> None:
        message = run.message
        run.session.running[run.id] = run
        run.state = State.RUNNING
        run.started_at = run.moved_at = now.mono
        self._timers.set(Reason.RUN, run.id, self._deadline(run))
        self._outbox.add(
            StartRun(
                run.id, run.session.id, run.user_id, message.content, run.stream, message.metadata or {},
                run.connection, run.trace,
            )
        )  # fmt: skip

    # ── what the agent does ──────────────────────────────────────────────────────────────────────────────────────────

    def started(self, event: RunStarted, now: Now) -> None:
        """An agent that waited for a thread begins."""
        run = self._running(event.run_id)
        if run is not None:
            run.moved_at = now.mono

    def chunk(self, event: RunChunk, now: Now) -> None:
        """The agent yielded a piece of text."""
        run = self._running(event.run_id)
        if run is None:
            return
        text, size = clean(event.content)
        if text is None:
            self._fail(run, Fault.AGENT_ERROR, now, TypeError("an agent yields text"), stop=True)
            return
        run.moved_at = now.mono
        if not self._grow(run, size, now) or not text:
            return
        if run.first_chunk_at is None:
            run.first_chunk_at = now.mono
        run.add(text)
        self._counts.chunks += 1
        self._counts.characters += len(text)
        if run.stream:
            due = run.last_sent + self._roll_up
            if now.mono >= due or run.chars - run.sent >= self._chunk_size:
                if run.pending:
                    run.pending.append(text)
                    self._flush(run, now)
                else:
                    self._say(run, text, now)
                self._pull(run)
            else:
                if not run.pending:
                    self._timers.set(Reason.ROLL_UP, run.id, due)
                run.pending.append(text)

    def step(self, event: RunStep, now: Now) -> None:
        """The agent told what it does."""
        run = self._running(event.run_id)
        if run is None:
            return
        given: Any = event  # an agent's, of any type (C1): compiled, a field raises that is not of the declared one
        name, name_size = clean("" if given.name is None else given.name)
        content, content_size = clean("" if given.content is None else given.content)
        kind = _STEP_KINDS.get(given.kind) if type(given.kind) is str else None
        if kind is None or name is None or content is None:
            self._fail(run, Fault.AGENT_ERROR, now, TypeError("an agent's step has a known kind and text"), stop=True)
            return
        run.moved_at = now.mono
        if not self._grow(run, STEP_OVERHEAD + name_size + content_size, now):
            return
        if kind == "reasoning":
            run.reasoning.append(content)
        else:
            run.use(name)
        if run.stream:
            self._flush(run, now)
            self._voice.step(run, kind, name or None, content or None, now)
            self._pull(run)

    def finished(self, event: RunFinished, now: Now) -> None:
        """The agent is done; the answer is what it returned, or else the pieces it yielded."""
        run = self._runs.get(event.run_id)
        if run is None:
            return
        if run.state is not State.RUNNING:
            begun(run)
        given: Any = event  # as above
        if given.input_tokens is not None or given.output_tokens is not None:
            run.input_tokens, run.output_tokens = tokens_of(given.input_tokens), tokens_of(given.output_tokens)
        if run.state is not State.RUNNING:
            self._retire(run, now)
            return
        answer = self._answer(run, event.content, now)
        if answer is None:
            return
        if given.reasoning_steps is not NOTHING and not self._keep(
            run, given.reasoning_steps, run.reasoning.append, now
        ):
            return
        if given.tools_used is not NOTHING and not self._keep(run, given.tools_used, run.use, now):
            return
        self._respond(run, answer, "completed", now)
        self._note(run, "completed", now)
        self._retire(run, now)

    def _keep(self, run: Run, texts: object, keep: Callable[[str], None], now: Now) -> bool:
        """Take the steps or the tools that the agent returned; False where the run failed of them."""
        for text, size in map(clean, texts if isinstance(texts, tuple | list) else (None,)):
            if text is None:
                self._fail(run, Fault.AGENT_ERROR, now, TypeError("an agent's steps and tools are texts"))
                return False
            if not self._grow(run, STEP_OVERHEAD + size, now, stop=False):
                return False
            keep(text)
        return True

    def _answer(self, run: Run, content: object, now: Now) -> str | None:
        """The whole answer: what the agent returned, or else the pieces it yielded; None where the run failed of it."""
        pieces = run.answer
        if content is None:
            return pieces
        answer, size = clean(content)
        if answer is None:
            self._fail(run, Fault.AGENT_ERROR, now, TypeError("an agent answers with text"))
            return None
        run.chars = len(answer)
        rest = answer
        if pieces:
            rest = answer.removeprefix(pieces)
            size = len(rest.encode())
        if not self._grow(run, size, now, stop=False):
            return None
        self._counts.characters += len(rest)
        if run.stream and rest and answer.startswith(pieces):  # so that the chunks are the whole of it
            run.pending.append(rest)
        return answer

    def failed(self, event: RunFailed, now: Now) -> None:
        """The agent raised, or has stopped after a `CancelRun`."""
        run = self._runs.get(event.run_id)
        if run is None:
            return
        given: Any = event  # as above
        if run.state is State.RUNNING:
            self._fail(run, fault_of(given.reason), now, event.cause, retry_after=wait_of(given.retry_after))
        else:
            self._retire(begun(run), now)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, run: Run, now: Now) -> None:
        """End a run that `find` gave, with the text it has; a waiting one is never started."""
        queued = run.state is State.QUEUED
        self._respond(run, run.answer, "cancelled", now)
        self._note(run, "cancelled", now)
        if queued:
            run.session.waiting.remove(run)
            self._forget(run)
        else:
            self._stop(run, now)

    def cancel_all(self, session: Session, now: Now) -> None:
        """End every run of a session, the waiting ones first, and let go of one that is being stopped."""
        for run in list(reversed(session.waiting)):
            self.cancel(run, now)
        for run in list(session.running.values()):
            if run.state is State.RUNNING:
                self.cancel(run, now)
            self._give_up(run)

    def due(self, reason: Reason, run_id: str, now: Now) -> None:
        """A timer of a run fired."""
        run = self._runs[run_id]
        if reason is Reason.ROLL_UP:
            self._flush(run, now)
            self._pull(run)
        elif reason is Reason.GIVE_UP:
            self._give_up(run)
            self._outbox.add(Note("run", "WARNING", "run_given_up", {"run_id": run.id, "given_up": self.given_up}))
            self._start_next(run.session, now)
        elif now.mono >= (deadline := self._deadline(run)):
            self._fail(run, Fault.AGENT_TIMEOUT, now, stop=True)
        else:  # it has moved since the timer was set
            self._timers.set(Reason.RUN, run.id, deadline)

    def caught_up(self, session: Session, now: Now) -> None:
        """A reader of the session is up to date again, or gone: pull the agent where it was held back (C1).

        The agent of a message that waited for that begins.
        """
        if session.lagging:
            return
        for run in session.running.values():
            if run.paused:
                run.paused = False
                run.moved_at = now.mono
                self._timers.set(Reason.RUN, run.id, self._deadline(run))
                self._outbox.add(ResumeRun(run.id))
        self._start_next(session, now)

    def _running(self, run_id: str) -> Run | None:
        """The run, where what its agent does still counts."""
        run = self._runs.get(run_id)
        return run if run is not None and run.state is State.RUNNING else None

    def _deadline(self, run: Run) -> float:
        """When the run has to have moved or ended (G1, G3). One that is held back cannot move."""
        end = run.started_at + self._max_duration
        return end if run.paused else min(run.moved_at + self._timeout, end)

    def _grow(self, run: Run, size: int, now: Now, *, stop: bool = True) -> bool:
        """Count bytes of the answer; False where the run failed of them (G3)."""
        run.size += size
        if run.size <= self._max_response_size:
            return True
        self._fail(run, Fault.RESPONSE_TOO_LARGE, now, stop=stop)
        return False

    def _flush(self, run: Run, now: Now) -> None:
        """Send the pieces that wait, joined."""
        if not run.pending:
            return
        self._timers.clear(Reason.ROLL_UP, run.id)
        content = run.pending[0] if len(run.pending) == 1 else "".join(run.pending)
        run.pending.clear()
        self._say(run, content, now)

    def _say(self, run: Run, content: str, now: Now) -> None:
        self._voice.chunk(run, content, now)
        run.chunks += 1
        run.last_sent = now.mono

    def _pull(self, run: Run) -> None:
        """Hold the agent back where a reader is too far behind (C1)."""
        if not run.paused and run.session.lagging:
            run.paused = True
            self._outbox.add(PauseRun(run.id))

    def _respond(self, run: Run, content: str, status: Literal["completed", "cancelled"], now: Now) -> None:
        if run.pending:
            self._flush(run, now)
        seconds = 0.0 if run.state is State.QUEUED else now.mono - run.started_at
        self._voice.respond(run, content, status, seconds, now)

    def _fail(
        self, run: Run, fault: Fault, now: Now, cause: BaseException | None = None,
        *, retry_after: float | None = None, stop: bool = False,
    ) -> None:  # fmt: skip
        """End a run with an error. `stop`: its agent goes on and has to be cancelled."""
        self._flush(run, now)
        details: dict[str, Scalar] = {"error_id": self._ids()}
        if retry_after is not None:
            details["retry_after"] = retry_after
        self._voice.fail(run, fault, details, now)
        row = fault.value
        assert row.code is not None
        self._note(run, row.code, now, {"reason": row.word, **details}, cause)
        if stop:
            self._stop(run, now)
        else:
            self._retire(run, now)

    def _stop(self, run: Run, now: Now) -> None:
        """Tell the agent to stop. The session's next message waits for its end, but not for ever (G5)."""
        run.state = State.STOPPING
        run.paused = False
        self._timers.clear(Reason.RUN, run.id)
        self._timers.set(Reason.GIVE_UP, run.id, now.mono + self._config.cancel_grace)
        self._outbox.add(CancelRun(run.id))

    def _give_up(self, run: Run) -> None:
        """Wait no longer for an agent that was told to stop. It keeps its place on the node until it ends."""
        self._timers.clear(Reason.GIVE_UP, run.id)
        run.state = State.GIVEN_UP
        run.session.running.pop(run.id, None)

    def _retire(self, run: Run, now: Now) -> None:
        """The agent has ended: its place is free, and the session's next message begins."""
        self._forget(run)
        self._timers.clear(Reason.RUN if run.state is State.RUNNING else Reason.GIVE_UP, run.id)
        session = run.session
        if session.running.pop(run.id, None) is not None and session.waiting:
            self._start_next(session, now)

    def _forget(self, run: Run) -> None:
        del self._runs[run.id]
        self._accounts.leave(run.account, run.reservation, run.chars, run.tokens)

    def _note(
        self, run: Run, end: str, now: Now, failure: Mapping[str, Scalar] | None = None,
        cause: BaseException | None = None,
    ) -> None:  # fmt: skip
        fields: dict[str, Scalar] = {
            "run_id": run.id, "session_id": run.session.id, "user_id": run.user_id, "connection": run.connection,
            "message_id": run.correlation_id, "end": end,
        }  # fmt: skip
        if failure is not None:
            fields.update(failure)
        run.measure(fields, now)
        self._outbox.add(Note("run", "ERROR" if failure else "INFO", "run_ended", fields, cause))


_STEP_KINDS: Mapping[str, StepKind] = {
    "reasoning": "reasoning", "tool_started": "tool_started", "tool_finished": "tool_finished",
}  # fmt: skip
