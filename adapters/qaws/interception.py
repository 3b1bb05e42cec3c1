"""Stopping before the host does: for hosts of ASGI applications that would cut an answer on its way.

uvicorn answers SIGTERM by closing every WebSocket, and tells the application afterwards; a process that nobody taught
about SIGTERM (a worker of hypercorn) just ends. So the application hears the signal first, drains, and hands it on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from anyio.lowlevel import RunVar

from .host import start_task

CLOSE_FIRST = ("uvicorn",)  # hosts that close before they tell, by their package

Handler = Callable[[int, Any], Any] | int
Drain = Callable[[], Coroutine[Any, Any, None]]


class _Watch:
    """What waits for a signal in an event loop, for all the applications in it that want to drain first."""

    def __init__(self, handlers: dict[signal.Signals, Handler]) -> None:
        self.drains: list[Drain] = []
        self.scope = anyio.CancelScope()
        self._handlers = handlers

    async def wait(self) -> None:
        """Drain them all at the first signal, then hand it to the host."""
        with self.scope:
            try:
                with anyio.open_signal_receiver(*self._handlers) as signals:
                    number = await anext(signals)
                    await self._drain(signals)
            finally:
                for each, handler in self._handlers.items():  # the receiver has left the system's own
                    signal.signal(each, handler)
            signal.raise_signal(number)

    async def _drain(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Drain, or until there is another signal."""

        async def impatient() -> None:
            await anext(signals)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(impatient)
            async with anyio.create_task_group() as draining:
                for drain in self.drains:
                    draining.start_soon(drain)
            tasks.cancel_scope.cancel()


_watch: RunVar[_Watch | None] = RunVar("qaws-watch", default=None)  # that of the event loop


@contextmanager
def stopping_first(drain: Drain) -> Iterator[None]:
    """Within it, the first signal drains before the host hears of it; a second one goes to the host at once."""
    watch = _watch.get()
    if watch is None:
        handlers = _handlers()
        if not handlers:
            yield
            return
        watch = _Watch(handlers)
        _watch.set(watch)
        start_task(watch.wait)
    watch.drains.append(drain)
    try:
        yield
    finally:
        watch.drains.remove(drain)
        if not watch.drains:
            _watch.set(None)
            watch.scope.cancel()


def _handlers() -> dict[signal.Signals, Handler]:
    """What would cut answers, by the signal that does."""
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        return {}
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    return {number: handler for number, handler in found.items() if handler is not None and _cuts(number, handler)}


def _cuts(number: signal.Signals, handler: Handler) -> bool:
    if not callable(handler):
        return number is signal.SIGTERM and handler is signal.SIG_DFL
    owner = type(getattr(handler, "__self__", handler))
    return owner.__module__.partition(".")[0] in CLOSE_FIRST
