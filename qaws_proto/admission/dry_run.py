"""Limits on trial: what they would refuse passes, and is noted (`security.rate_limiting.dry_run`)."""

from __future__ import annotations

from ..config import WebSocketConfig
from ..effects import Note, Scalar
from ..outbox import Outbox
from .ratelimit import Seldom


class DryRun:
    """Says what limits would have refused. What they would have refused counts nowhere, as if they had."""

    def __init__(self, config: WebSocketConfig, outbox: Outbox) -> None:
        self._config = config
        self._outbox = outbox
        self._noted = Seldom(config.limits.refusal_interval, config.limits.refusal_addresses)

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these settings from now on."""
        self._config = config

    def excuses(self, limit: str, key: str, wait: float, mono: float) -> bool:
        """Whether a limit is on trial; then what it would refuse is noted: at WARNING once a key and interval."""
        if not self._config.security.rate_limiting.dry_run:
            return False
        loud = self._noted.admit(f"{limit} {key}", mono)
        fields: dict[str, Scalar] = {"limit": limit, "key": key, "retry_after": wait}
        self._outbox.add(Note("security", "WARNING" if loud else "DEBUG", "limit_dry_run", fields))
        return True
