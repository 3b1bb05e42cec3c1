"""Metrics of one node in the formats of Prometheus and OpenMetrics.

Three sources: the counters that the core keeps, its state at the moment of a scrape, and notes of what is rare. No
label holds what a client chose: each value is of a fixed set (C12).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from qaws_proto import Gateway
from qaws_proto.config import MetricsConfig
from qaws_proto.effects import CollectMetrics, Note, Scalar
from qaws_proto.faults import Fault
from qaws_proto.inputs import MetricsCollected

from .families import ENDS, KEPT, Series
from .lag import LoopLag
from .log import log_event

LOGGER = logging.getLogger("qaws.node")
OPENMETRICS = "application/openmetrics-text"


class Metrics:
    """What is measured of a node. `registry` takes further collectors, whose metrics are served with these."""

    def __init__(self, gateway: Gateway, config: MetricsConfig) -> None:
        self.registry = CollectorRegistry(auto_describe=True)  # a name that is taken is refused
        self._gateway = gateway
        self._series = {name: Series(family) for name, family in KEPT.items()}
        self._handlers: dict[tuple[str, str], Callable[[Note], None]] = {  # by topic and name
            ("run", "run_ended"): self._run_ended,
            ("message", "resumed"): self._counted("qaws_resumes_total", "result"),
            ("security", "limit_dry_run"): self._counted("qaws_limit_dry_run_hits_total", "limit"),
            ("security", "keys_loaded"): lambda note: self._series["qaws_key_loads_total"].count("loaded"),
            ("security", "keys_failed"): lambda note: self._series["qaws_key_loads_total"].count("failed"),
        }
        self.lag = LoopLag(config.lag_interval, self._series["qaws_event_loop_lag_seconds"].observe)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    # ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, note: Note) -> None:
        """Count what a note tells, whatever its level."""
        handler = self._handlers.get((note.topic, note.name))
        if handler is not None:
            handler(note)
        elif note.topic == "control":
            self._series["qaws_control_actions_total"].count(note.name)
        if note.level == "ERROR" and note.topic != "run":  # failed runs have their own
            self._series["qaws_errors_total"].count(note.name)

    def store_answered(self, operation: str, seconds: float, failed: bool) -> None:
        """The store has done what it was asked, or has failed at it."""
        self._series["qaws_store_operation_seconds"].observe(seconds, operation)
        if failed:
            self._series["qaws_store_failures_total"].count(operation)

    def _counted(self, name: str, field: str) -> Callable[[Note], None]:
        return lambda note: self._series[name].count(note.fields.get(field))

    def _run_ended(self, note: Note) -> None:
        fields = note.fields
        worked, waited = _seconds(fields.get("seconds")), _seconds(fields.get("queued_seconds"))
        self._series["qaws_run_duration_seconds"].observe(worked, fields.get("end"))
        self._series["qaws_message_processing_seconds"].observe(worked + waited)
        if fields.get("first_chunk_seconds") is not None:
            self._series["qaws_first_chunk_seconds"].observe(_seconds(fields["first_chunk_seconds"]))

    # ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, asked: CollectMetrics) -> MetricsCollected:
        """All of it, as text. Where a collector that was added fails, nothing is told, and the log says why."""
        # Of what the client accepts only that is taken: the rest of its header must not come back in ours (H9).
        encode, content_type = choose_encoder(OPENMETRICS if asked.openmetrics else "")
        try:
            return MetricsCollected(asked.connection, encode(self.registry), content_type)
        except Exception as error:  # noqa: BLE001 - a collector that was added may raise anything
            log_event(LOGGER, logging.ERROR, "metrics_failed", error)
            return MetricsCollected(asked.connection, None)

    def collect(self) -> Iterator[Metric]:
        """The families, for the registry."""
        info = GaugeMetricFamily("qaws_build_info", "The program that runs", labels=["version"])
        info.add_metric([version("qaws-gateway")], 1)
        yield info
        yield from self._states()
        yield from self._counters()
        for name, family in KEPT.items():
            series = self._series[name]
            labels = {value: [value] if family.labels else [] for value in series.counts}
            if family.kind == "counter":
                yield _counter(name, family.text, family.labels, {one: series.counts[one][0] for one in series.counts})
            else:
                histogram = HistogramMetricFamily(name, family.text, labels=family.labels)
                for value in series.counts:
                    histogram.add_metric(labels[value], series.buckets(value), series.sums[value])
                yield histogram

    def _states(self) -> Iterator[Metric]:
        """How the node stands now."""
        now = self._gateway.gauges
        yield _gauge("qaws_connections_active", "WebSockets that are open", now.connections)
        yield _gauge("qaws_connections_blocked", "Connections whose peers read too slowly at the moment", now.blocked)
        yield _gauge("qaws_handshakes_in_progress", "Sockets that are no WebSockets (yet)", now.handshakes)
        yield _gauge("qaws_out_buffer_bytes", "Bytes that wait in the node for slow peers", now.out_bytes)
        yield _gauge("qaws_sessions", "Sessions in memory", now.sessions)
        yield _gauge("qaws_session_bytes", "Bytes of events that sessions hold", now.session_bytes)
        runs = GaugeMetricFamily("qaws_runs", "Messages that were accepted and are not done with", labels=["state"])
        for state, count in now.runs.items():
            runs.add_metric([state.replace(" ", "_")], count)
        yield runs
        yield _gauge("qaws_longest_queue", "Messages that wait in the session with the most of them", now.longest_queue)
        yield _gauge("qaws_store_unsaved_bytes", "Bytes that wait for the store to keep them", now.unsaved_bytes)
        yield _gauge("qaws_draining", "1 while the node drains, else 0", now.draining)

    def _counters(self) -> Iterator[Metric]:
        """What the node has done since it began."""
        counts = self._gateway.counts
        yield _counter("qaws_connections_opened_total", "Requests that became a WebSocket", (), {"": counts.upgraded})
        yield _counter(
            "qaws_connections_closed_total", "WebSockets that ended, by close code", ("code",),
            {str(code or "other"): count for code, count in counts.closed.items()},
        )  # fmt: skip
        yield _counter(
            "qaws_handshakes_total", "Requests, by the status of their answer; `dropped`: they got none", ("status",),
            self._handshakes(),
        )  # fmt: skip
        yield _counter("qaws_messages_total", "Events of clients, by their type", ("type",), counts.messages)
        yield _counter(
            "qaws_event_errors_total", "Errors that events of clients were answered with", ("code",), self._errors()
        )
        yield _counter(
            "qaws_authentication_failures_total", "Wrong tokens, by where they came in", ("at",),
            {
                "upgrade": counts.refused.get(Fault.BAD_TOKEN, 0),
                "message": counts.errors.get(Fault.AUTH_FAILED, 0),
                "metrics": counts.refused.get(Fault.METRICS_TOKEN, 0),
            },
        )  # fmt: skip
        limited = counts.errors.get(Fault.RATE_LIMIT, 0)
        yield _counter("qaws_rate_limit_hits_total", "Messages refused for their rate", (), {"": limited})
        yield _counter("qaws_runs_submitted_total", "Messages taken on for the agent", (), {"": counts.submitted})
        yield _counter("qaws_runs_withdrawn_total", "Of those, what could not be kept", (), {"": counts.withdrawn})
        yield _counter("qaws_agent_chunks_total", "Pieces of text that agents yielded", (), {"": counts.chunks})
        yield _counter("qaws_agent_characters_total", "Characters of agents' answers", (), {"": counts.characters})

    def _handshakes(self) -> dict[str, int]:
        counts = self._gateway.counts
        found = {"101": counts.upgraded, "dropped": counts.crowded}
        for fault in Fault:
            if fault.value.status is not None and fault is not Fault.METRICS_TOKEN:
                status = str(fault.value.status)
                found[status] = found.get(status, 0) + counts.refused.get(fault, 0)
        return found

    def _errors(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for fault in Fault:
            if fault.value.code is not None and fault.value.code not in ENDS:  # those are of runs
                found[fault.value.code] = found.get(fault.value.code, 0) + self._gateway.counts.errors.get(fault, 0)
        return found


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, labels: tuple[str, ...], values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for value, count in values.items():
        family.add_metric([value] if labels else [], count)
    return family


def _seconds(value: Scalar) -> float:
    return max(0.0, float(value)) if isinstance(value, int | float) else 0.0
