"""What operators have changed of who is kept out, until a store has it: of each user, network and token the newest.

What a command does holds at once, whatever the store says; here is only what a restart would forget (A5, D4).
"""

from __future__ import annotations

from collections.abc import Collection

from ..clock import Now
from ..config import LimitsConfig
from ..effects import Note
from ..outbox import Outbox
from ..records import RestrictionRecord

Name = tuple[str, str]


class Changes:
    """The changes that wait to be saved, and those that are being saved."""

    def __init__(self, limits: LimitsConfig, outbox: Outbox) -> None:
        # As many as can be in force at once: none of those is ever given up.
        self._size = 2 * (limits.blocks + limits.revocations)
        self._outbox = outbox
        self._waiting: dict[Name, RestrictionRecord] = {}
        self._saving: dict[Name, RestrictionRecord] = {}
        self._keeps: bool | None = None  # whether the store keeps them; None: it is not open

    @property
    def due(self) -> bool:
        """Whether some can be saved."""
        return bool(self._keeps and self._waiting)

    @property
    def names(self) -> Collection[Name]:
        """The kinds and names of those that wait."""
        return self._waiting.keys()

    def opened(self, *, keeps: bool) -> None:
        """The store is open, and `keeps` them or does not."""
        self._keeps = keeps

    def add(self, record: RestrictionRecord, now: Now) -> None:
        """Have this kept, instead of what waits of the same name."""
        if self._keeps is False:
            return
        name = record.kind, record.name
        self._waiting.pop(name, None)
        self._waiting[name] = record
        if len(self._waiting) > self._size:
            self._give_up_one(now)

    def take(self) -> tuple[RestrictionRecord, ...]:
        """Those that are saved from now on."""
        if not self.due:
            return ()
        self._saving, self._waiting = self._waiting, {}
        return tuple(self._saving.values())

    def saved(self) -> None:
        """Those that were being saved are kept."""
        self._saving = {}

    def failed(self) -> None:
        """Those that were being saved are not kept: they wait again, but for whom there is something newer."""
        self._waiting = {**self._saving, **self._waiting}
        self._saving = {}

    def _give_up_one(self, now: Now) -> None:
        """Make room: with what is over, and else with one that lets somebody in, who is kept out by a restart then."""
        over = (name for name, one in self._waiting.items() if one.until is not None and one.until <= now.unix)
        lifted = (name for name, one in self._waiting.items() if one.lifted)
        name = next(over, None) or next(lifted, None)
        if name is None:  # each is in force, and their tables are bounded
            return
        record = self._waiting.pop(name)
        if record.lifted:
            fields = {"what": record.name, "by": record.by, "reason": record.reason}
            self._outbox.add(Note("control", "WARNING", "lifting_not_kept", fields))
