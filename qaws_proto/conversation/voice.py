"""What is said of runs in their sessions, as events; with a store each is heard once it is kept (C11, D2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic_core import to_json

from ..clock import Now, rounded
from ..effects import Scalar
from ..events import ErrorEvent, dump
from ..faults import Fault
from .journal import Entry, Journal
from .run import Run
from .session import CutRun, Session

StepKind = Literal["reasoning", "tool_started", "tool_finished"]


class Voice:
    """Says each thing in the session it belongs to, under the next `seq`."""

    def __init__(self, journal: Journal | None) -> None:
        """Without a `journal` what is said is heard at once."""
        self._journal = journal

    @property
    def closed(self) -> bool:
        """Whether messages should be refused: the store cannot keep them at the moment."""
        return self._journal is not None and self._journal.closed

    def accept(self, run: Run, now: Now) -> bool:
        """Its message is taken: who gave it an id is told. Whether it may begin now, or has to be kept first."""
        payload, message = None, run.message
        if message.id is not None:
            data: dict[str, Scalar] = {
                "run_id": run.id, "position": run.position, "duplicate": False, "content": message.content,
            }  # fmt: skip
            payload = _system("message_accepted", run, data)
        if self._journal is not None:
            run.session.accepting[run.id] = run
            self._journal.add(Entry(run.session, run, payload, accepts=True))
            return False
        run.session.open[run.id] = run
        if payload is not None:
            run.session.hear(payload, now)
        return True

    def restore(self, run: Run) -> None:
        """It was accepted before a restart, and has no end."""
        run.session.open[run.id] = run

    def start(self, run: Run, now: Now) -> None:
        """A run that was cut begins again; or one that was told its position is at the front."""
        if run.rerun:
            self._say(_system("run_started", run, {"run_id": run.id, "rerun": True}), run.session, now)
        elif run.position and run.correlation_id is not None:
            self._say(_system("run_started", run, {"run_id": run.id}), run.session, now, run)

    def chunk(self, run: Run, content: str, now: Now) -> None:
        """More of its answer."""
        event = _said("agent_chunk", run)
        event["content"] = content
        event["offset"] = run.sent
        run.sent += len(content)
        self._say(to_json(event), run.session, now, run)

    def step(self, run: Run, kind: StepKind, name: str | None, content: str | None, now: Now) -> None:
        """What its agent does."""
        event = _said("agent_step", run)
        event["kind"] = kind
        if name is not None:
            event["name"] = name
        if content is not None:
            event["content"] = content
        self._say(to_json(event), run.session, now, run)

    def respond(
        self, run: Run, content: str, status: Literal["completed", "cancelled"], seconds: float, now: Now
    ) -> None:
        """The end of a run that was answered or cancelled."""
        event = _said("agent_response", run)
        event["content"] = content
        event["user_id"] = run.user_id
        event["processing_time"] = rounded(seconds)
        event["reasoning_steps"] = run.reasoning
        event["tools_used"] = list(run.tools)
        event["status"] = status
        self._say(to_json(event), run.session, now, run, ends=run.id)

    def fail(self, run: Run, fault: Fault, details: dict[str, Scalar], now: Now) -> None:
        """The end of a run that failed."""
        payload = _error(run.session, run.id, run.correlation_id, fault, details)
        self._say(payload, run.session, now, run, ends=run.id)

    def interrupt(self, session: Session, run_id: str, correlation_id: str | None, now: Now) -> None:
        """The end of a run that a restart has cut."""
        session.open[run_id] = CutRun(run_id, correlation_id)
        self._say(_error(session, run_id, correlation_id, Fault.INTERRUPTED, None), session, now, ends=run_id)

    def _say(
        self, payload: bytes, session: Session, now: Now, run: Run | None = None, *, ends: str | None = None
    ) -> None:
        shown = 0 if run is None else run.sent
        if ends is not None:
            session.ended_run(ends)
        if self._journal is not None:
            self._journal.add(Entry(session, run, payload, shown, ends=ends))
            return
        assert run is not None, "only a store knows of runs that a restart has cut"
        if ends is not None:
            session.open.pop(ends, None)
        session.hear(payload, now)
        run.shown = shown

    def heard(self, entry: Entry, now: Now) -> None:
        """An event of the journal is kept: the readers of its session hear it."""
        session, run = entry.session, entry.run
        if entry.accepts:
            assert run is not None
            del session.accepting[run.id]
            session.open[run.id] = run
        if entry.ends is not None:
            session.open.pop(entry.ends, None)
        if run is not None:
            run.shown = max(run.shown, entry.shown)
        if entry.payload is not None:
            session.hear(entry.payload, now)


# What every message takes is made of its fields: validating our own words as a Pydantic model takes two microseconds
# more. tests/conversation/test_voice.py holds it against the models of `events`.


def _said(kind: str, run: Run) -> dict[str, object]:
    """An event of the session's log that belongs to a run, without what it says."""
    session = run.session
    event: dict[str, object] = {
        "type": kind, "session_id": session.id, "seq": session.next_seq, "run_id": run.id
    }  # fmt: skip
    if run.correlation_id is not None:
        event["correlation_id"] = run.correlation_id
    return event


def _system(name: str, run: Run, data: Mapping[str, Scalar]) -> bytes:
    session = run.session
    event: dict[str, object] = {
        "type": "system_event", "event_name": name, "data": data, "session_id": session.id, "seq": session.next_seq
    }  # fmt: skip
    if run.correlation_id is not None:
        event["correlation_id"] = run.correlation_id
    return to_json(event)


def _error(
    session: Session, run_id: str, correlation_id: str | None, fault: Fault, details: dict[str, Scalar] | None
) -> bytes:
    row = fault.value
    assert row.code is not None
    return dump(
        ErrorEvent(
            error_code=row.code, error_message=row.text, details=details,
            session_id=session.id, seq=session.next_seq, run_id=run_id, correlation_id=correlation_id,
        )
    )  # fmt: skip
