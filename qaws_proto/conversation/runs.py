"""Runs: one call of the agent for one accepted message, from its place in the queue to its one terminal event (C8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..clock import Now, Reason, Timers
from ..config import WebSocketConfig
from ..effects import CancelRun, Note, Outbox, PauseRun, ResumeRun, Scalar, StartRun
from ..events import AgentChunk, AgentResponse, AgentStepEvent, ChatMessage, ErrorEvent, SystemEvent
from ..faults import Fault
from ..inputs import RunChunk, RunFailed, RunFinished, RunStarted, RunStep
from .run import Run, State, clean, fault_of, wait_of
from .session import Session

STEP_OVERHEAD = 64  # bytes that a step counts beside its text, so that empty ones are bounded too


class Runs:
    """Every run of the node: accepts messages, starts agents, turns what they yield into events, and ends them."""

    def __init__(self, config: WebSocketConfig, timers: Timers, outbox: Outbox, ids: Callable[[], str]) -> None:
        self._config = config.agent
        self._queue = config.sessions.queue
        self._metrics = config.logging.performance_metrics
        self._timers = timers
        self._outbox = outbox
        self._ids = ids
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

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

    def find_by_message(self, session: Session, message_id: str) -> Run | None:
        """The same, by the id of its message."""
        run_id = session.known.get(message_id)
        return None if run_id is None else self.find(run_id)

    # ── from acceptance to the start ─────────────────────────────────────────────────────────────────────────────────

    def submit(self, session: Session, user_id: str, message: ChatMessage, now: Now) -> Run | Fault:
        """Accept a message: start its run, or let it wait behind the session's others; or why not (G7)."""
        if len(self._runs) >= self._config.max_runs:
            return Fault.OVERLOADED
        free = not session.busy and not session.lagging
        if not free and len(session.waiting) >= self._queue:
            return Fault.BUSY
        run = Run(self._ids(), session, user_id, message, now)
        self._runs[run.id] = run
        position = 0 if free else len(session.waiting) + 1
        if message.id is not None:
            session.remember(message.id, run.id)
            data: dict[str, Scalar] = {
                "run_id": run.id,
                "position": position,
                "duplicate": False,
                "content": message.content,
            }
            session.say(self._system("message_accepted", run, data), now)
        if position == 0:
            self._start(run, now)
        else:
            session.waiting.append(run)
        return run

    def position(self, run_id: str) -> int:
        """How many runs of its session are before it; 0 for one that has begun or ended."""
        run = self._runs.get(run_id)
        return run.session.waiting.index(run) + 1 if run is not None and run.state is State.QUEUED else 0

    def _start(self, run: Run, now: Now) -> None:
        message = run.message
        run.session.current = run
        run.state = State.RUNNING
        run.started_at = run.moved_at = now.mono
        self._timers.set(Reason.RUN, run.id, self._deadline(run))
        metadata: Mapping[str, Any] = message.metadata or {}
        self._outbox.add(StartRun(run.id, run.session.id, run.user_id, message.content, message.stream, metadata))

    def _start_next(self, session: Session, now: Now) -> None:
        session.current = None
        if session.waiting and not session.lagging:
            run = session.waiting.popleft()
            if run.correlation_id is not None:  # it was told a position; now it has reached the front
                session.say(self._system("run_started", run, {"run_id": run.id}), now)
            self._start(run, now)

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
        if run.message.stream:
            run.pending.append(text)
            due = run.last_sent + self._config.roll_up
            if now.mono >= due or run.chars - run.sent >= self._config.chunk_size:
                self._flush(run, now)
                self._pull(run)
            elif len(run.pending) == 1:
                self._timers.set(Reason.ROLL_UP, run.id, due)

    def step(self, event: RunStep, now: Now) -> None:
        """The agent told what it does."""
        run = self._running(event.run_id)
        if run is None:
            return
        name, name_size = clean("" if event.name is None else event.name)
        content, content_size = clean("" if event.content is None else event.content)
        kind = _STEP_KINDS.get(event.kind) if type(event.kind) is str else None
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
        if run.message.stream:
            self._flush(run, now)
            session = run.session
            session.say(
                AgentStepEvent(
                    kind=kind, name=name or None, content=content or None,
                    session_id=session.id, seq=session.next_seq, run_id=run.id, correlation_id=run.correlation_id,
                ), now,
            )  # fmt: skip
            self._pull(run)

    def finished(self, event: RunFinished, now: Now) -> None:
        """The agent is done; the answer is what it returned, or else the pieces it yielded."""
        run = self._runs.get(event.run_id)
        if run is None:
            return
        if run.state is not State.RUNNING:
            self._retire(_begun(run), now)
            return
        answer = self._answer(run, event.content, now)
        if answer is None:
            return
        for texts, keep in ((event.reasoning_steps, run.reasoning.append), (event.tools_used, run.use)):
            for text, size in map(clean, texts if isinstance(texts, tuple | list) else (None,)):
                if text is None:
                    self._fail(run, Fault.AGENT_ERROR, now, TypeError("an agent's steps and tools are texts"))
                    return
                if not self._grow(run, STEP_OVERHEAD + size, now, stop=False):
                    return
                keep(text)
        self._respond(run, answer, "completed", now)
        self._note(run, "completed", now)
        self._retire(run, now)

    def _answer(self, run: Run, content: object, now: Now) -> str | None:
        """The whole answer: what the agent returned, or else the pieces it yielded; None where the run failed of it."""
        pieces = run.answer
        if content is None:
            return pieces
        answer, _ = clean(content)
        if answer is None:
            self._fail(run, Fault.AGENT_ERROR, now, TypeError("an agent answers with text"))
            return None
        rest = answer.removeprefix(pieces)
        if not self._grow(run, len(rest.encode()), now, stop=False):
            return None
        run.chars = len(answer)
        if run.message.stream and rest and answer.startswith(pieces):  # so that the chunks are the whole of it
            run.pending.append(rest)
        return answer

    def failed(self, event: RunFailed, now: Now) -> None:
        """The agent raised, or has stopped after a `CancelRun`."""
        run = self._runs.get(event.run_id)
        if run is None:
            return
        if run.state is State.RUNNING:
            self._fail(run, fault_of(event.reason), now, event.cause, retry_after=wait_of(event.retry_after))
        else:
            self._retire(_begun(run), now)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, run: Run, now: Now) -> None:
        """End a run that `find` gave, with the text it has; a waiting one is never started."""
        queued = run.state is State.QUEUED
        self._respond(run, run.answer, "cancelled", now)
        self._note(run, "cancelled", now)
        if queued:
            run.session.waiting.remove(run)
            del self._runs[run.id]
        else:
            self._stop(run, now)

    def cancel_all(self, session: Session, now: Now) -> None:
        """End every run of a session, the waiting ones first, and let go of one that is being stopped."""
        for run in list(reversed(session.waiting)):
            self.cancel(run, now)
        current = session.current
        if current is not None:
            if current.state is State.RUNNING:
                self.cancel(current, now)
            self._give_up(current)

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
        run = session.current
        if run is not None and run.paused and not session.lagging:
            run.paused = False
            run.moved_at = now.mono
            self._timers.set(Reason.RUN, run.id, self._deadline(run))
            self._outbox.add(ResumeRun(run.id))
        elif run is None:
            self._start_next(session, now)

    def _running(self, run_id: str) -> Run | None:
        """The run, where what its agent does still counts."""
        run = self._runs.get(run_id)
        return run if run is not None and run.state is State.RUNNING else None

    def _deadline(self, run: Run) -> float:
        """When the run has to have moved or ended (G1, G3). One that is held back cannot move."""
        end = run.started_at + self._config.max_duration
        return end if run.paused else min(run.moved_at + self._config.timeout, end)

    def _grow(self, run: Run, size: int, now: Now, *, stop: bool = True) -> bool:
        """Count bytes of the answer; False where the run failed of them (G3)."""
        run.size += size
        if run.size <= self._config.max_response_size:
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
        session = run.session
        session.say(
            AgentChunk(
                content=content, offset=run.sent,
                session_id=session.id, seq=session.next_seq, run_id=run.id, correlation_id=run.correlation_id,
            ), now,
        )  # fmt: skip
        run.sent += len(content)
        run.last_sent = now.mono

    def _pull(self, run: Run) -> None:
        """Hold the agent back where a reader is too far behind (C1)."""
        if not run.paused and run.session.lagging:
            run.paused = True
            self._outbox.add(PauseRun(run.id))

    def _respond(self, run: Run, content: str, status: Literal["completed", "cancelled"], now: Now) -> None:
        self._flush(run, now)
        session = run.session
        took = 0.0 if run.state is State.QUEUED else round(now.mono - run.started_at, 6)
        session.say(
            AgentResponse(
                content=content, status=status, user_id=run.user_id, processing_time=took,
                reasoning_steps=run.reasoning, tools_used=list(run.tools),
                session_id=session.id, seq=session.next_seq, run_id=run.id, correlation_id=run.correlation_id,
            ), now,
        )  # fmt: skip

    def _fail(
        self, run: Run, fault: Fault, now: Now, cause: BaseException | None = None,
        *, retry_after: float | None = None, stop: bool = False,
    ) -> None:  # fmt: skip
        """End a run with an error. `stop`: its agent goes on and has to be cancelled."""
        self._flush(run, now)
        details: dict[str, Scalar] = {"error_id": self._ids()}
        if retry_after is not None:
            details["retry_after"] = retry_after
        session, row = run.session, fault.value
        assert row.code is not None
        session.say(
            ErrorEvent(
                error_code=row.code, error_message=row.text, details=details,
                session_id=session.id, seq=session.next_seq, run_id=run.id, correlation_id=run.correlation_id,
            ), now,
        )  # fmt: skip
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

    def _retire(self, run: Run, now: Now) -> None:
        """The agent has ended: its place is free, and the session's next message begins."""
        del self._runs[run.id]
        self._timers.clear(Reason.RUN, run.id)
        self._timers.clear(Reason.GIVE_UP, run.id)
        if run.session.current is run:
            self._start_next(run.session, now)

    def _system(self, name: str, run: Run, data: dict[str, Scalar]) -> SystemEvent:
        session = run.session
        return SystemEvent(
            event_name=name, data=data,
            session_id=session.id, seq=session.next_seq, correlation_id=run.correlation_id,
        )  # fmt: skip

    def _note(
        self, run: Run, end: str, now: Now, failure: Mapping[str, Scalar] | None = None,
        cause: BaseException | None = None,
    ) -> None:  # fmt: skip
        fields: dict[str, Scalar] = {
            "run_id": run.id, "session_id": run.session.id, "user_id": run.user_id, "end": end, **(failure or {}),
        }  # fmt: skip
        if self._metrics:
            fields["seconds"] = round(now.mono - run.started_at, 6)
            fields["queued_seconds"] = round(run.started_at - run.submitted_at, 6)
            fields["characters"] = run.chars
            if run.first_chunk_at is not None:
                fields["first_chunk_seconds"] = round(run.first_chunk_at - run.started_at, 6)
        self._outbox.add(Note("run", "ERROR" if failure else "INFO", "run_ended", fields, cause))


_STEP_KINDS: Mapping[str, Literal["reasoning", "tool_started", "tool_finished"]] = {
    "reasoning": "reasoning", "tool_started": "tool_started", "tool_finished": "tool_finished",
}  # fmt: skip


def _begun(run: Run) -> Run:
    """The run, whose agent was called; of another nothing can be reported, and whoever does is mistaken (C1)."""
    if run.state is State.QUEUED:
        raise ValueError(f"run {run.id} has not been started: there was no StartRun for it")
    return run
