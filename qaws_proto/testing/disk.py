"""What a store of a simulated world does with what it is asked: in its own time, in parts, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..effects import LoadSession, SaveRecords
from .counters import Counters
from .streams import Random

if TYPE_CHECKING:
    from .node import NodeUnderTest
    from .schedule import Schedule


class DiskFaults(NamedTuple):
    """How bad a disk is. Times are seconds; those that end in `_p` are probabilities."""

    slow: float = 0.002  # the longest for each step of a save: written, synced, answered
    stall_p: float = 0.0  # that one of them takes a thousand times that
    save_p: float = 0.0  # that a save fails: the disk is full, busy or broken
    load_p: float = 0.0  # that a load fails


class Disk:
    """Answers for the store of a node: writes, syncs, and says so, each in a turn of its own.

    Whatever is not synced when the node crashes is lost; what is synced is there, though the node was not told.
    """

    def __init__(self, schedule: Schedule, random: Random, faults: DiskFaults, counters: Counters) -> None:
        self.faults = faults
        self._schedule = schedule
        self._random = random
        self._counters = counters
        self._state = ""  # of the save that is under way

    def ask(self, node: NodeUnderTest, effect: SaveRecords | LoadSession) -> None:
        """Do what the node asks for."""
        if isinstance(effect, LoadSession):
            self._schedule.plan(self._time(), "store, read", lambda: self._loaded(node, effect))
        elif self._random.random() < self.faults.save_p:
            self._schedule.plan(self._time(), "store, full", lambda: self._answer(node, effect, fail=True))
        else:
            self._schedule.plan(self._time(), "store, written", lambda: self._written(node, effect))

    def crash(self, node: NodeUnderTest) -> None:
        """The process that has it open dies."""
        assert node.store is not None
        if node.store.crash():
            self._counters.count("crash between write and sync")
        elif self._state == "synced":
            self._counters.count("crash between sync and answer")
        self._state = ""

    def _time(self) -> float:
        stalls = self._random.random() < self.faults.stall_p
        return self._random.random() * self.faults.slow * (1000 if stalls else 1)

    def _written(self, node: NodeUnderTest, effect: SaveRecords) -> None:
        if effect in node.asked:
            assert node.store is not None
            node.store.write(effect.records)
            self._state = "written"
            self._schedule.plan(self._time(), "store, synced", lambda: self._synced(node, effect))

    def _synced(self, node: NodeUnderTest, effect: SaveRecords) -> None:
        if effect in node.asked:
            assert node.store is not None
            node.store.sync()
            self._state = "synced"
            self._schedule.plan(self._time(), "store, saved", lambda: self._answer(node, effect, fail=False))

    def _answer(self, node: NodeUnderTest, effect: SaveRecords, *, fail: bool) -> None:
        if effect in node.asked:
            self._state = ""
            node.answer(node.asked.index(effect), fail=fail, kept=not fail)

    def _loaded(self, node: NodeUnderTest, effect: LoadSession) -> None:
        if effect in node.asked:
            fail = self._random.random() < self.faults.load_p
            node.answer(node.asked.index(effect), fail=fail)
