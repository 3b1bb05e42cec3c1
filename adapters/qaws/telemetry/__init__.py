"""What an operator sees: notes of the core as log records, spans and metrics, and how those are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaws_proto import Gateway
from qaws_proto.config import ConfigError, MetricsConfig, TracingConfig

from .formats import JsonFormatter, TextFormatter
from .log import NoteLogger, configure_logging, log_event

if TYPE_CHECKING:
    from .metrics import Metrics
    from .traces import Traces

__all__ = ["JsonFormatter", "NoteLogger", "TextFormatter", "configure_logging", "log_event", "metrics_of", "traces_of"]


def traces_of(config: TracingConfig) -> Traces | None:
    """The spans of a node; None where there are to be none. Raises ConfigError where OpenTelemetry is not installed."""
    if not config.enabled:
        return None
    try:
        from .traces import Traces
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ConfigError(
            "tracing.enabled: OpenTelemetry is not installed (pip install 'qaws-gateway[otel]')"
        ) from None
    return Traces()


def metrics_of(gateway: Gateway, config: MetricsConfig) -> Metrics | None:
    """What measures a node, where that is wanted: its import takes a twentieth of a second."""
    if not config.enabled:
        return None
    from .metrics import Metrics

    return Metrics(gateway, config)
