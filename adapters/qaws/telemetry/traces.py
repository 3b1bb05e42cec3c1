"""Connections and runs as spans of OpenTelemetry, for whatever provider the program has set (docs/tracing.md).

Imported only where `tracing.enabled` says so. There are spans for connections and runs, never for messages or pieces,
and neither content nor tokens in them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import time_ns
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qaws_proto.effects import Note, Scalar, StartRun

from ..agents.interface import carried
from .log import log_event

LOGGER = logging.getLogger("qaws.node")

#: What happens on a connection between its beginning and its end, with what of it is told.
EVENTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("connection", "authenticated"): ("user_id",),
    ("security", "auth_failed"): (),
    ("message", "event_refused"): ("error_code",),
    ("message", "resumed"): ("result",),
}
_NAMES: Mapping[str, str] = {  # of attributes, for fields of notes; where OpenTelemetry has one, that
    "connection": "qaws.connection",
    "address": "client.address",
    "path": "url.path",
    "user_id": "user.id",
    "code": "qaws.close.code",
    "reason": "qaws.close.reason",
    "messages_received": "qaws.messages.received",
    "messages_sent": "qaws.messages.sent",
    "sessions": "qaws.sessions",
    "resumes": "qaws.resumes",
    "result": "qaws.result",
    "error_code": "error.type",
    "message_id": "qaws.message.id",
    "end": "qaws.run.end",
    "error_id": "qaws.error.id",
    "queued_seconds": "qaws.run.queued_seconds",
    "first_chunk_seconds": "gen_ai.response.time_to_first_chunk",
    "characters": "qaws.run.characters",
    "chunks": "qaws.run.chunks",
    "reasoning_steps": "qaws.run.reasoning_steps",
    "tools_used": "qaws.run.tools_used",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}
_OPENED = ("connection", "address", "path", "user_id")
_CLOSED = ("user_id", "code", "reason", "messages_received", "messages_sent", "sessions", "resumes")
_ENDED = (
    "message_id", "end", "error_id", "queued_seconds", "first_chunk_seconds", "characters", "chunks",
    "reasoning_steps", "tools_used", "input_tokens", "output_tokens",
)  # fmt: skip


class _RunSpan(NamedTuple):
    span: Span
    began: int  # nanoseconds of the wall clock

    def after(self, seconds: Scalar) -> int:
        """The time so many seconds after it began."""
        return self.began + round(float(seconds or 0) * 1e9)


class Traces:
    """The spans of one node. A provider that raises is complained of in the log, and changes nothing else."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("qaws")
        self._propagator = TraceContextTextMapPropagator()
        self._connections: dict[int, Span] = {}
        self._runs: dict[str, _RunSpan] = {}
        self._heard = {
            ("connection", "opened"): self._opened,
            ("connection", "closed"): self._closed,
            ("run", "run_ended"): self._run_ended,
            **dict.fromkeys(EVENTS, self._happened),
        }

    def hear(self, note: Note) -> None:
        """Make what a note says part of a span, where it belongs to one."""
        tell = self._heard.get((note.topic, note.name))
        if tell is not None:
            try:
                tell(note)
            except Exception as error:  # noqa: BLE001 - processors and exporters are the program's
                log_event(LOGGER, logging.WARNING, "trace_failed", error)

    def start(self, run: StartRun, agent: str) -> AbstractContextManager[None]:
        """A span for a run that starts now, until its `run_ended`; current within what is given back."""
        try:
            return self._start(run, agent)
        except Exception as error:  # noqa: BLE001 - as above
            log_event(LOGGER, logging.WARNING, "trace_failed", error)
            return nullcontext()

    def _start(self, run: StartRun, agent: str) -> AbstractContextManager[None]:
        # An empty context where no trace is named: what is current here may be the span of the run before it.
        context = self._context({} if run.trace is None else run.trace._asdict())
        connection = None if run.asker is None else self._connections.get(run.asker)
        began = time_ns()
        span = self._tracer.start_span(
            f"invoke_agent {agent}",
            context,
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": agent,
                "gen_ai.conversation.id": run.session_id,
                "gen_ai.request.stream": run.stream,
                "qaws.run.id": run.run_id,
                "user.id": run.user_id,
            },
            [] if connection is None else [Link(connection.get_span_context())],
            began,
        )
        self._runs[run.run_id] = _RunSpan(span, began)
        return _current(trace.set_span_in_context(span, context))

    def _context(self, carrier: Mapping[str, str | None]) -> Context:
        return self._propagator.extract({key: value for key, value in carrier.items() if value}, Context())

    def _opened(self, note: Note) -> None:
        context = self._context({"traceparent": str(note.fields["traceparent"] or "")})
        attributes = {"network.protocol.name": "websocket", **_attributes(note, _OPENED)}
        span = self._tracer.start_span("connect", context, SpanKind.SERVER, attributes)
        self._connections[_number(note)] = span

    def _happened(self, note: Note) -> None:
        span = self._connections.get(_number(note))
        if span is not None:
            span.add_event(note.name, _attributes(note, EVENTS[note.topic, note.name]))

    def _closed(self, note: Note) -> None:
        span = self._connections.pop(_number(note), None)
        if span is not None:
            span.set_attributes(_attributes(note, _CLOSED))
            span.end()

    def _run_ended(self, note: Note) -> None:
        run = self._runs.pop(str(note.fields["run_id"]), None)
        if run is None:  # it was cancelled before it began
            return
        span, first = run.span, note.fields.get("first_chunk_seconds")
        if first is not None:
            span.add_event("first_chunk", timestamp=run.after(first))
        span.set_attributes(_attributes(note, _ENDED))
        if note.level == "ERROR":
            span.set_attribute("error.type", str(note.fields["end"]))
            span.set_status(StatusCode.ERROR)
        span.end(run.after(note.fields["seconds"]))  # by the clock that does not jump


def _number(note: Note) -> int:
    number = note.fields.get("connection")
    return number if isinstance(number, int) else -1


def _attributes(note: Note, names: tuple[str, ...]) -> dict[str, str | int | float | bool]:
    """Those fields of a note that have a value, under the names of attributes."""
    found: dict[str, Scalar] = {_NAMES[name]: note.fields.get(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _current(context: Context) -> Iterator[None]:
    """Let this be the current context, here and in the threads that frameworks have."""
    enter = carried.set(partial(attach, context))
    token = attach(context)
    try:
        yield
    finally:
        detach(token)
        carried.reset(enter)
