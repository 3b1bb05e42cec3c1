"""What each user may have the agent do: how many messages at once (G7), and how much of a day's budget."""

from __future__ import annotations

from ..admission.budget import Budget, Reservation
from ..admission.dry_run import DryRun
from ..admission.gate import Refusal, Tally
from ..clock import Now
from ..config import WebSocketConfig
from ..faults import Fault


class Accounts:
    """An account is a user, or without authentication an address; one and the same for all its connections (R4)."""

    def __init__(self, config: WebSocketConfig, dry_run: DryRun) -> None:
        self._dry_run = dry_run
        self._runs = Tally()
        self._budget = Budget(config)
        self.configure(config)

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these limits from now on."""
        self._most = config.agent.runs_per_user
        self._unit = config.agent.budget.unit
        self._charged = config.agent.budget.per_day is not None
        self._budget.configure(config)

    def enter(self, account: str, now: Now) -> Reservation | Refusal | None:
        """Take a place for a message, and what its answer is charged in advance; or say why there is none: then
        nothing is taken."""
        if self._most is not None and self._runs.of(account) >= self._most:
            return Refusal(Fault.USER_BUSY)
        if self._charged and (wait := self._budget.wait(account, now)):
            if not self._dry_run.excuses("budget", account, wait, now.mono):
                return Refusal(Fault.BUDGET_SPENT, wait)
            self._runs.enter(account)
            return None
        return self.restore(account, now)

    def restore(self, account: str, now: Now) -> Reservation | None:
        """Take a place for a message that was accepted before; it is charged, and never refused."""
        self._runs.enter(account)
        return self._budget.reserve(account, now) if self._charged else None

    def leave(self, account: str, reservation: Reservation | None, characters: int, tokens: int | None) -> None:
        """A run is over, with so many characters of an answer; `tokens` is None where they are not known."""
        self._runs.leave(account)
        if reservation is not None:
            self._budget.settle(reservation, characters if self._unit == "characters" else tokens)
