"""A principal for as long as its token is good (A4). The wall clock decides; the timers only say when to ask it."""

from __future__ import annotations

from ..clock import Now
from .tokens import Principal

WARNING = 60.0  # seconds before its end that a token is said to expire
TICK = 0.001  # seconds that the next look lies ahead at least, whatever the clocks say (C5)


class Credential:
    """What a connection speaks with: who it is, and until when."""

    __slots__ = ("_until", "_warned", "principal")

    def __init__(self, principal: Principal, leeway: float, now: Now) -> None:
        """It ends at `exp`, or `leeway` seconds behind it where only the leeway let it in."""
        self.principal = principal
        end = principal.expires_at
        self._until = end if end is None or end > now.unix else end + leeway
        # Whoever logs in this late is told the time that is left in the same breath: no need to warn again.
        self._warned = self._until is not None and self._until - now.unix <= WARNING

    def expires_in(self, now: Now) -> int | None:
        """Seconds left, rounded to whole ones; None where it never ends."""
        return None if self._until is None else max(0, round(self._until - now.unix))

    def expired(self, now: Now) -> bool:
        """Whether it is over."""
        return self._until is not None and now.unix >= self._until

    def warn(self, now: Now) -> bool:
        """Whether it is time to say that it ends; says so once."""
        if self._warned or self._until is None or self._until - now.unix > WARNING:
            return False
        self._warned = True
        return True

    def next_look(self, now: Now) -> float | None:
        """When to ask again, in seconds of the monotonic clock; None where it never ends."""
        if self._until is None:
            return None
        left = self._until - now.unix
        return now.mono + max(left - WARNING if left > WARNING else left, TICK)
