"""Stopping before the host does: for hosts of ASGI applications that would cut an answer on its way.

uvicorn answers SIGTERM by closing every WebSocket, and tells the application afterwards; a process that nobody taught
about SIGTERM (a worker of hypercorn) just ends. So the application hears the signal first, drains, and hands it on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import anyio

from .host import start_task

CLOSE_FIRST = ("uvicorn",)  # hosts that close before they tell, by their package

Handler = Callable[[int, Any], Any] | int
Drain = Callable[[], Awaitable[None]]


@contextmanager
def stopping_first(drain: Drain) -> Iterator[None]:
    """Within it, the first signal drains before the host hears of it; a second one goes to the host at once.

    Of several in one process all drain, together, before the host hears.
    """
    watch = _Watch.join()
    if watch is None:
        yield
        return
    watch.drains.append(drain)
    try:
        yield
    finally:
        watch.drains.remove(drain)
        if not watch.drains:
            watch.end()


class _Watch:
    """Hears the signals of this process first: one for all applications in it, as a signal has one handler."""

    current: ClassVar[_Watch | None] = None

    def __init__(self, handlers: dict[signal.Signals, Handler]) -> None:
        self.drains: list[Drain] = []
        self._handlers = handlers
        self._scope = anyio.CancelScope()

    @classmethod
    def join(cls) -> _Watch | None:
        """The one that is there, or a new one; None where the host does not cut, or no signal can be heard."""
        if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
            return None
        if cls.current is None and (handlers := _handlers()):
            cls.current = cls(handlers)
            start_task(cls.current._run)
        return cls.current

    def end(self) -> None:
        """Leave signals to the host."""
        self._scope.cancel()
        if _Watch.current is self:
            _Watch.current = None

    async def _run(self) -> None:
        with self._scope:
            try:
                with anyio.open_signal_receiver(*self._handlers) as signals:
                    number = await anext(signals)
                    await self._drain(signals)
            finally:
                for each, handler in self._handlers.items():  # the receiver has left the system's own
                    signal.signal(each, handler)
                self.end()
            signal.raise_signal(number)

    async def _drain(self, signals: Any) -> None:
        """Drain all, or until there is another signal."""

        async def impatient() -> None:
            await anext(signals)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(impatient)
            async with anyio.create_task_group() as drains:
                for drain in self.drains:
                    drains.start_soon(drain)
            tasks.cancel_scope.cancel()


def _handlers() -> dict[signal.Signals, Handler]:
    """What would cut answers, by the signal that does."""
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    return {number: handler for number, handler in found.items() if handler is not None and _cuts(number, handler)}


def _cuts(number: signal.Signals, handler: Handler) -> bool:
    if not callable(handler):
        return number is signal.SIGTERM and handler is signal.SIG_DFL
    owner = type(getattr(handler, "__self__", handler))
    return owner.__module__.partition(".")[0] in CLOSE_FIRST
