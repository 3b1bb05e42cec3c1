"""What goes out of one connection: to the transport at once, or into a queue while the peer does not read (C1)."""

from __future__ import annotations

from ..effects import MessageEffect
from ..outbox import Outbox

Sendable = bytes | MessageEffect  # bytes of a frame, or a message for a host that frames by itself


class Outflow:
    """The frames of one connection on their way out. Who fills the queue looks at `queued` and sets the bounds."""

    __slots__ = ("_number", "_outbox", "_pong", "_queue", "blocked", "queued")

    def __init__(self, number: int, outbox: Outbox) -> None:
        self._number = number
        self._outbox = outbox
        self._queue: list[Sendable] | None = None  # none while nothing waits: most connections are never blocked
        self._pong = b""  # the one pong that waits (F7)
        self.blocked = False
        self.queued = 0  # bytes that wait, without the pong

    @property
    def held(self) -> int:
        """Bytes that wait, of all kinds."""
        return self.queued + len(self._pong)

    def send(self, message: Sendable, size: int) -> None:
        """Send a message of so many bytes, or queue it while blocked."""
        if self.blocked:
            if self._queue is None:
                self._queue = []
            self._queue.append(message)
            self.queued += size
        else:
            self._outbox.send(self._number, message)

    def pong(self, frame: bytes) -> None:
        """Send a pong; while blocked only the newest waits."""
        if self.blocked:
            self._pong = frame
        else:
            self._outbox.send(self._number, frame)

    def release(self) -> None:
        """The way is free, or has to be: hand to the transport what waits."""
        for message in self._queue or ():
            self._outbox.send(self._number, message)
        if self._pong:
            self._outbox.send(self._number, self._pong)
        self.clear()
        self.blocked = False

    def clear(self) -> None:
        """Forget what waits."""
        self._queue = None
        self._pong = b""
        self.queued = 0
