"""What waits to be written to one peer, where writing has to be waited for. Shared by adapters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from qaws_proto.inputs import WriteBlocked, WriteDrained, WriteProgressed

from .manager import AnyTransport, WebSocketManager

WRITE_HIGH = 64 * 1024  # unsent bytes beyond which the node is told to hold back
PIECE = 64 * 1024  # bytes written at once, behind which the node is told that the peer reads

Item = TypeVar("Item")


class Outgoing(Generic[Item]):
    """A queue of items with a size, written in order by a task that is there only while something waits (C1).

    The node is told when more waits than is good, as that becomes less, and when all has gone.
    """

    __slots__ = ("_blocked", "_manager", "_owner", "_size", "_start", "_waiting", "_write", "unsent", "writing")

    def __init__(
        self,
        manager: WebSocketManager,
        owner: AnyTransport,
        *,
        write: Callable[[list[Item]], Awaitable[None]],
        size: Callable[[Item], int],
        start: Callable[[], None],
    ) -> None:
        """`write` writes some items, `PIECE` bytes together where they are small; `start` calls `flush` in a task."""
        self._manager = manager
        self._owner = owner
        self._write = write
        self._size = size
        self._start = start
        self._waiting: list[Item] = []
        self.writing = False  # a task writes, or is about to
        self._blocked = False
        self.unsent = 0  # bytes

    def put(self, item: Item) -> None:
        """Write this behind all the others."""
        self._waiting.append(item)
        self.unsent += self._size(item)
        if not self.writing:
            self.writing = True
            self._start()
        if not self._blocked and self.unsent > WRITE_HIGH:
            self._blocked = True
            self._manager.feed(WriteBlocked(self._owner.number))

    async def flush(self) -> None:
        """Write until nothing waits. Raises what `write` raises; what is unsent then is forgotten."""
        try:
            while self._waiting:
                items, size = self._take()
                await self._write(items)
                self.unsent -= size
                if self._blocked and self.unsent:
                    self._manager.feed(WriteProgressed(self._owner.number))
                elif self._blocked:
                    self._blocked = False
                    self._manager.feed(WriteDrained(self._owner.number))
        finally:
            self.writing = False
            self.clear()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self.unsent = 0

    def _take(self) -> tuple[list[Item], int]:
        """The next items and their size: one, and more while they are small."""
        if self.unsent <= PIECE:
            items, self._waiting = self._waiting, []
            return items, self.unsent
        count = size = 0
        for item in self._waiting:
            more = self._size(item)
            if count and size + more > PIECE:
                break
            count, size = count + 1, size + more
        items, self._waiting = self._waiting[:count], self._waiting[count:]
        return items, size
