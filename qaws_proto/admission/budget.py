"""The budget of agents' answers: so many characters or tokens for a user and day of UTC."""

from __future__ import annotations

from typing import NamedTuple

from ..clock import Now
from ..config import WebSocketConfig
from .ratelimit import OVERFLOW, seconds_until

DAY = 86_400  # seconds; Unix time has no leap seconds


class Reservation(NamedTuple):
    """What was taken for a message whose answer is still to come."""

    key: str
    day: int
    units: int


class Budget:
    """What each account has used today, together with what is reserved for answers to come.

    The one limit that goes by the wall clock. Its day only grows: a clock that is put back gives no budget twice. At
    most `max_users` accounts are remembered, each until the end of the day or until nothing of it is left; where there
    is no room, every further one shares one budget (R2). What is used lives as long as the process.
    """

    def __init__(self, config: WebSocketConfig) -> None:
        self._config = config
        self._day = -1
        self._used: dict[str, int] = {}

    def configure(self, config: WebSocketConfig) -> None:
        """Go by this budget from now on; what was used stays used."""
        self._config = config

    def __len__(self) -> int:
        return len(self._used)

    def wait(self, account: str, now: Now) -> float:
        """0.0 where there is enough left for one more answer, or the seconds until the next day. Takes nothing."""
        budget = self._config.agent.budget
        if budget.per_day is None:
            return 0.0
        self._turn(now)
        if self._used.get(self._key(account), 0) + budget.reserve <= budget.per_day:
            return 0.0
        return seconds_until((self._day + 1) * DAY, now.unix)

    def reserve(self, account: str, now: Now) -> Reservation | None:
        """Take what an answer is expected to use, whether that is left or not; None where there is no budget."""
        budget = self._config.agent.budget
        if budget.per_day is None:
            return None
        self._turn(now)
        key = self._key(account)
        self._used[key] = self._used.get(key, 0) + budget.reserve
        return Reservation(key, self._day, budget.reserve)

    def settle(self, reservation: Reservation, used: int | None) -> None:
        """The answer is over, and has used so much; None: nobody knows, and what was reserved stays taken."""
        if used is None or reservation.day != self._day:
            return
        left = self._used[reservation.key] - reservation.units + used
        if left:
            self._used[reservation.key] = left
        else:
            del self._used[reservation.key]

    def _turn(self, now: Now) -> None:
        """Begin a new day, where there is one."""
        day = int(now.unix // DAY)
        if day > self._day:
            self._day = day
            self._used.clear()

    def _key(self, account: str) -> str:
        room = account in self._used or len(self._used) < self._config.agent.budget.max_users
        return account if room else OVERFLOW
