"""What each user may have the agent do: how many messages at once (G7), and how much of a day's budget."""

from __future__ import annotations

from typing import NamedTuple

from ..admission.budget import Budget, Reservation
from ..admission.dry_run import DryRun
from ..admission.gate import Refusal, Tally
from ..clock import Now
from ..config import WebSocketConfig
from ..faults import Fault


class Place(NamedTuple):
    """What a run holds of its account until it is over."""

    account: str
    reservation: Reservation | None


class Accounts:
    """An account is a user, or without authentication an address; one and the same for all its connections (R4)."""

    def __init__(self, config: WebSocketConfig, dry_run: DryRun) -> None:
        self._config = config
        self._dry_run = dry_run
        self._runs = Tally()
        self._budget = Budget(config)

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these limits from now on."""
        self._config = config
        self._budget.configure(config)

    def enter(self, account: str, now: Now) -> Place | Refusal:
        """Take a place for a message, or say why there is none: then nothing is taken."""
        most = self._config.agent.runs_per_user
        if most is not None and self._runs.of(account) >= most:
            return Refusal(Fault.USER_BUSY)
        if self._config.agent.budget.per_day is not None and (wait := self._budget.wait(account, now)):
            if not self._dry_run.excuses("budget", account, wait, now.mono):
                return Refusal(Fault.BUDGET_SPENT, wait)
            self._runs.enter(account)
            return Place(account, None)
        return self.restore(account, now)

    def restore(self, account: str, now: Now) -> Place:
        """Take a place for a message that was accepted before; it is charged, and never refused."""
        self._runs.enter(account)
        return Place(account, self._budget.reserve(account, now))

    def leave(self, place: Place, characters: int, tokens: int | None) -> None:
        """A run is over, with so many characters of an answer; `tokens` is None where they are not known."""
        self._runs.leave(place.account)
        if place.reservation is not None:
            unit = self._config.agent.budget.unit
            self._budget.settle(place.reservation, characters if unit == "characters" else tokens)
