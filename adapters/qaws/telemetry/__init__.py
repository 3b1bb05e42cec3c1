"""What an operator sees: notes of the core as log records, and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaws_proto import Gateway
from qaws_proto.config import MetricsConfig

from .log import NoteLogger, configure_logging

if TYPE_CHECKING:
    from .metrics import Metrics

__all__ = ["NoteLogger", "configure_logging", "metrics_of"]


def metrics_of(gateway: Gateway, config: MetricsConfig) -> Metrics | None:
    """What measures a node, where that is wanted: its import takes a twentieth of a second."""
    if not config.enabled:
        return None
    from .metrics import Metrics

    return Metrics(gateway, config)
