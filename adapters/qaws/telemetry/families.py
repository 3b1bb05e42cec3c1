"""The metrics of a node as a table: every family with its kind, its labels and what it says.

Names follow the conventions of Prometheus: base units, `_total` for what only grows. docs/metrics.md lists the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]

#: Seconds: an answer of an agent takes tenths of seconds to minutes.
RUN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: Seconds: what should take no time, and what it takes where something is wrong.
SHORT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

OTHER = "other"  # the label value for whatever is in no fixed set


class Family(NamedTuple):
    """What all series of one name share. A label that has a set of values takes `other` for every other value."""

    kind: Kind
    text: str
    labels: Labels = ()
    values: frozenset[str] = frozenset()
    buckets: tuple[float, ...] = ()


ENDS = ("completed", "cancelled", "AGENT_ERROR", "AGENT_TIMEOUT", "RESPONSE_TOO_LARGE")
ACTIONS = (
    "connection_disconnected", "user_blocked", "user_unblocked", "address_blocked", "address_unblocked",
    "token_revoked", "user_revoked", "limits_changed",
)  # fmt: skip
LIMITS = ("user_rate", "address_rate", "node_rate", "connection_rate", "budget")
ERRORS = (
    "agent_not_closed", "check_failed", "handler_failed", "keys_failed", "load_failed", "run_not_restored",
    "save_failed", "store_not_closed",
)  # fmt: skip
OPERATIONS = ("save", "load")
RESUMES = ("recovered", "gap", "epoch", "expired", "not_found")

#: Counted as they happen, from notes and from the store. The rest is read from the node when somebody asks.
KEPT: dict[str, Family] = {
    "qaws_message_processing_seconds": Family(
        "histogram", "Seconds from a message to the end of its answer, its wait included", buckets=RUN_BUCKETS
    ),
    "qaws_run_duration_seconds": Family(
        "histogram", "Seconds an agent worked on an answer, by how that ended", ("end",), frozenset(ENDS), RUN_BUCKETS
    ),
    "qaws_first_chunk_seconds": Family(
        "histogram", "Seconds until an agent yielded the first piece of its answer", buckets=RUN_BUCKETS
    ),
    "qaws_resumes_total": Family(
        "counter", "Sessions that clients came back to, by what became of that", ("result",), frozenset(RESUMES)
    ),
    "qaws_store_operation_seconds": Family(
        "histogram", "Seconds the store took", ("operation",), frozenset(OPERATIONS), SHORT_BUCKETS
    ),
    "qaws_store_failures_total": Family(
        "counter", "Operations of the store that failed", ("operation",), frozenset(OPERATIONS)
    ),
    "qaws_event_loop_lag_seconds": Family(
        "histogram", "Seconds by which the event loop was late", buckets=SHORT_BUCKETS
    ),
    "qaws_control_actions_total": Family(
        "counter", "What operators did to connections, users, addresses and limits", ("action",), frozenset(ACTIONS)
    ),
    "qaws_limit_dry_run_hits_total": Family(
        "counter", "What would have been refused, were a limit in force", ("limit",), frozenset(LIMITS)
    ),
    "qaws_key_loads_total": Family(
        "counter", "Sets of keys that were read from an address", ("result",), frozenset(("loaded", "failed"))
    ),
    "qaws_errors_total": Family(
        "counter", "Lines of the log that someone should look at", ("error",), frozenset(ERRORS)
    ),
}


class Series:
    """The series of one family: a number each, or a histogram. Those of a fixed set of values are there from the start.

    Made for one thread, so it needs no lock; and it has no times of creation, which double the series of a scrape.
    """

    __slots__ = ("_bounds", "counts", "sums")

    def __init__(self, family: Family) -> None:
        self._bounds = family.buckets
        first = family.values if family.labels else ("",)
        size = len(family.buckets) + 1 if family.kind == "histogram" else 1
        self.counts: dict[str, list[int]] = {value: [0] * size for value in sorted(first)}
        self.sums = dict.fromkeys(self.counts, 0.0)

    def _of(self, label: str) -> str:
        if label in self.counts:
            return label
        if OTHER not in self.counts:
            self.counts[OTHER], self.sums[OTHER] = [0] * (len(self._bounds) + 1), 0.0
        return OTHER

    def count(self, label: object = "") -> None:
        """One more."""
        self.counts[self._of(str(label))][0] += 1

    def observe(self, value: float, label: object = "") -> None:
        """It took so long."""
        name = self._of(str(label))
        self.counts[name][bisect_left(self._bounds, value)] += 1
        self.sums[name] += value

    def buckets(self, label: str) -> Sequence[tuple[str, float]]:
        """How many took no longer than each bound."""
        total, found = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self.counts[label], strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return found
