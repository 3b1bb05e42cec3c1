"""The rare states that a simulation has to reach, each with how it is recognised, and how often it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..effects import Note

#: By the reason of a connection's end, of a refused request, the end of a run, the result of a resume, a note.
CLOSED = {
    "slow_consumer": "slow consumer closed", "rate limit": "rate limit ignored", "taken over": "take-over",
    "heartbeat": "half-open detected", "auth timeout": "never authenticated", "token expired": "token expired",
    "forbidden": "revoked or blocked live", "ack ahead": "ack ahead", "message timeout": "message never finished",
    "frame flood": "frame flood", "bad messages": "bad messages", "too fragmented": "too many fragments",
    "message too big": "message too big", "bad compression": "bad compression", "invalid utf-8": "invalid utf-8",
    "protocol error": "protocol violation", "binary refused": "binary message", "restarting": "closed by a drain",
    "closed by operator": "closed by the operator", "going away": "closed by a stop", "auth failed": "wrong token",
    "auth required": "message before the token", "no keys": "no keys in time", "failed tokens": "token flood",
}  # fmt: skip
REFUSED = {
    "at capacity": "node full", "too many connections": "address full", "request timeout": "slow head",
    "bad request": "no HTTP", "draining": "refused while draining", "no keys": "no keys for an upgrade",
    "forbidden": "blocked user refused", "address refused": "blocked address refused", "unauthorized": "401",
    "head too large": "head too large", "uri too long": "line too long", "failed tokens": "token flood at upgrades",
    "connection rate": "connections too fast", "not found": "unknown path",
}  # fmt: skip
RUNS = {
    "completed": "run completed", "cancelled": "run cancelled", "AGENT_ERROR": "agent failed",
    "AGENT_TIMEOUT": "agent timed out", "RESPONSE_TOO_LARGE": "response too large",
}  # fmt: skip
RESUMED = {
    "recovered": "resume recovered", "gap": "resume over a gap", "epoch": "resume of another epoch",
    "expired": "resume of an expired session", "not_found": "resume of an unknown session",
}  # fmt: skip
NOTES = {
    "save_failed": "save failed", "load_failed": "load failed", "run_given_up": "deaf agent given up",
    "keys_loaded": "keys loaded", "keys_failed": "keys failed", "limits_changed": "limits changed",
    "user_revoked": "user revoked", "user_blocked": "user blocked", "address_blocked": "address blocked",
    "token_revoked": "token revoked", "runs_cut_by_restart": "runs cut by a restart", "drained": "drained",
    "limit_dry_run": "limit tried dry",
}  # fmt: skip
ERRORS = {
    "RATE_LIMIT": "rate limited", "BUSY": "queue full", "OVERLOADED": "overloaded", "FORBIDDEN": "forbidden",
    "STORAGE_UNAVAILABLE": "not accepted for the store", "RUN_NOT_FOUND": "run not found",
    "SESSION_NOT_FOUND": "session not found", "INVALID_JSON": "no JSON", "INVALID_EVENT": "no event",
    "UNKNOWN_EVENT": "unknown event",
}  # fmt: skip
#: What the world itself sees happen.
SEEN = (
    "crash", "crash with a run in flight", "crash between write and sync", "crash between sync and answer",
    "drain with a run in flight", "stop", "duplicate pointed to", "token refreshed", "token expiring",
    "fragmented message", "compressed message", "compressed answer", "backlog of frames", "split inside the head",
    "single bytes", "transport blocked", "blocked and progressed", "reading paused", "agent held back", "run queued",
    "run run again", "wall clock jumped", "early timer", "cut", "half-open", "stalled", "client gave up for good",
    "gap told", "message-level peer", "answer lost", "ping answered", "metrics asked for", "interrupted by a message",
)  # fmt: skip
NAMES = (
    *CLOSED.values(), *(f"{name} (http)" for name in REFUSED.values()), *RUNS.values(), *RESUMED.values(),
    *NOTES.values(), *ERRORS.values(), *SEEN,
)  # fmt: skip


class Counters:
    """How often each rare state was reached."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
        self.counts.update(counts or {})

    def count(self, name: str) -> None:
        """It was reached once more. Raises KeyError for what is not in the list."""
        if name not in self.counts:
            raise KeyError(name)
        self.counts[name] += 1

    @property
    def missing(self) -> list[str]:
        """What was never reached."""
        return [name for name in NAMES if not self.counts[name]]

    def note(self, note: Note) -> None:
        """Look at what the node tells its operator."""
        fields = note.fields
        if note.name == "closed":
            self._look(CLOSED, fields.get("reason"))
        elif note.name == "refused":
            name = REFUSED.get(str(fields.get("reason")))
            if name is not None:
                self.counts[f"{name} (http)"] += 1
        elif note.name == "run_ended":
            self._look(RUNS, fields.get("end"))
        elif note.name == "resumed":
            self._look(RESUMED, fields.get("result"))
        elif note.name == "event_refused":
            self._look(ERRORS, fields.get("error_code"))
        else:
            self._look(NOTES, note.name)

    def _look(self, table: Mapping[str, str], key: object) -> None:
        name = table.get(str(key))
        if name is not None:
            self.counts[name] += 1
