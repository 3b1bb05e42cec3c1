"""How late the event loop is: a task that sleeps, and looks how much longer that took than it should have."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import anyio


class LoopLag:
    """Measures in a task, until it is told to stop."""

    def __init__(self, interval: float, late: Callable[[float], None]) -> None:
        """`late` is told after every `interval` by how many seconds the loop was late."""
        self._interval = interval
        self._late = late
        self._stopped = anyio.Event()

    async def run(self) -> None:
        """Measure."""
        while not self._stopped.is_set():
            due = monotonic() + self._interval
            with anyio.move_on_after(self._interval):
                await self._stopped.wait()
                return
            self._late(max(0.0, monotonic() - due))

    def stop(self) -> None:
        """Let the task end."""
        self._stopped.set()
