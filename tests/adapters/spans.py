"""A provider of OpenTelemetry for the process of the tests, and the spans that ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON


class Spans(SpanProcessor):
    """What was exported since it was last asked to forget; `mood` is raised where a span begins or ends."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._processor = SimpleSpanProcessor(self._exporter)
        self.started = 0
        self.mood: Exception | None = None

    def on_start(self, span: Span, parent_context: object = None) -> None:
        self.started += 1
        if self.mood is not None:
            raise self.mood

    def on_end(self, span: ReadableSpan) -> None:
        self._processor.on_end(span)
        if self.mood is not None:
            raise self.mood

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of this name that ended, in that order."""
        return [span for span in self.ended if span.name == name]

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        """All that ended, in that order."""
        return self._exporter.get_finished_spans()

    def forget(self) -> None:
        """Begin anew."""
        self._exporter.clear()
        self.started, self.mood = 0, None


_SPANS = Spans()  # the process has one provider, once and for all


@contextmanager
def recorded() -> Iterator[Spans]:
    """The spans that end from now on."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(_SPANS)
        trace.set_tracer_provider(provider)
    _SPANS.forget()
    yield _SPANS
    _SPANS.forget()
