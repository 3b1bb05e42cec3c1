"""Stopping before the host does: for hosts of ASGI applications that would cut an answer on its way.

uvicorn answers SIGTERM by closing every WebSocket, and tells the application afterwards; a process that nobody taught
about SIGTERM (a worker of hypercorn) just ends. So the application hears the signal first, drains, and hands it on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from .host import start_task

CLOSE_FIRST = ("uvicorn",)  # hosts that close before they tell, by their package

Handler = Callable[[int, Any], Any] | int


@contextmanager
def stopping_first(drain: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Within it, the first signal drains before the host hears of it; a second one goes to the host at once."""
    handlers = _handlers()
    if not handlers:
        yield
        return
    watch = anyio.CancelScope()
    start_task(_watch, watch, handlers, drain)
    try:
        yield
    finally:
        watch.cancel()


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


async def _watch(
    watch: anyio.CancelScope, handlers: dict[signal.Signals, Handler], drain: Callable[[], Awaitable[None]]
) -> None:
    with watch:
        try:
            with anyio.open_signal_receiver(*handlers) as signals:
                number = await anext(signals)
                await _drain(signals, drain)
        finally:
            for each, handler in handlers.items():  # the receiver has left the system's own
                signal.signal(each, handler)
        signal.raise_signal(number)


async def _drain(signals: Any, drain: Callable[[], Awaitable[None]]) -> None:
    """Drain, or until there is another signal."""

    async def impatient() -> None:
        await anext(signals)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(impatient)
        await drain()
        tasks.cancel_scope.cancel()
