"""What a client has heard and its caller has not read yet: bounded, and what holds the socket back at the bound."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import anyio

from qaws_proto.events import AgentChunk, AgentResponse, ErrorEvent, ServerEvents, SystemEvent

from .client_errors import AnswerCancelled, AnswerLost, ClientError, of_event

UNREAD = 4 * 1024 * 1024  # about as many bytes may wait for one reader: a character counts one, and besides
EVENT = 1500  # an event, whatever is in it
PIECE = 256  # and a piece of text

Item = TypeVar("Item")


class Gate:
    """Whether the socket may be read: not while somebody has more unread than is good."""

    def __init__(self) -> None:
        self._full: set[int] = set()
        self._opened = anyio.Event()

    @property
    def open(self) -> bool:
        """Whether it may be read now."""
        return not self._full

    async def passed(self) -> None:
        """Wait until it may be read."""
        while self._full:
            await self._opened.wait()

    def hold(self, who: object) -> None:
        """Somebody has too much unread."""
        if not self._full:
            self._opened = anyio.Event()
        self._full.add(id(who))

    def release(self, who: object) -> None:
        """Somebody has not, or not any more."""
        self._full.discard(id(who))
        if not self._full:
            self._opened.set()


class Inbox(Generic[Item]):
    """Items in order, for one reader. While nobody reads, the newest are kept, as many as there is room for."""

    def __init__(self, gate: Gate, *, read: bool) -> None:
        self._gate = gate
        self._items: deque[tuple[Item, int]] = deque()
        self._size = 0
        self._read = read
        self._changed = anyio.Event()
        self._ended = False

    @property
    def read(self) -> bool:
        """Whether somebody reads: then nothing is forgotten, and too much unread holds the socket back."""
        return self._read

    @read.setter
    def read(self, read: bool) -> None:
        self._read = read
        self._bound()

    def put(self, item: Item, size: int) -> None:
        """One more, of so many bytes."""
        self._items.append((item, size))
        self._size += size
        self._bound()
        self._changed.set()

    def end(self) -> None:
        """There will be no more; what is unread can still be read."""
        self._ended = True
        self._changed.set()

    async def get(self) -> Item | None:
        """The next; None behind the last."""
        while not self._items:
            if self._ended:
                return None
            self._changed = anyio.Event()
            await self._changed.wait()
        item = self._take()
        self._bound()
        return item

    def forget(self) -> None:
        """Nobody will read it."""
        self._items.clear()
        self._size = 0
        self._bound()

    def _take(self) -> Item:
        item, size = self._items.popleft()
        self._size -= size
        return item

    def _bound(self) -> None:
        while not self._read and self._size > UNREAD:
            self._take()
        if self._size > UNREAD:
            self._gate.hold(self)
        else:
            self._gate.release(self)


def size_of(event: ServerEvents) -> int:
    """About how many bytes an event takes."""
    content = event.data.get("content") if isinstance(event, SystemEvent) else getattr(event, "content", None)
    return EVENT + (len(content) if isinstance(content, str) else 0)


class Answer:
    """The answer to one message, for who asked: its pieces, each character once, and its end."""

    def __init__(self, message_id: str, gate: Gate) -> None:
        self.message_id = message_id
        self.ended = anyio.Event()
        self._unread: Inbox[str] = Inbox(gate, read=True)
        self._told: list[str] = []  # all the text so far
        self._length = 0  # its characters
        self._again = False  # the agent was started again, behind a restart of the server
        self._response: AgentResponse | None = None
        self._error: ClientError | None = None

    def hear(self, event: ServerEvents) -> None:
        """An event with the id of the message."""
        if isinstance(event, AgentChunk):
            self._tell(event.content, event.offset)
        elif isinstance(event, AgentResponse):
            self._respond(event)
        elif isinstance(event, ErrorEvent):
            self.fail(of_event(event, self.message_id))
        elif isinstance(event, SystemEvent) and event.event_name == "run_started":
            self._again = True

    def fail(self, error: ClientError) -> None:
        """It ends with an error, unless it has ended."""
        if not self.ended.is_set():
            self._error = error
            self._unread.end()
            self.ended.set()

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self._unread.forget()

    async def piece(self) -> str | None:
        """The next piece, never empty; None behind the last. Raises a ClientError where there is no whole answer."""
        piece = await self._unread.get()
        if piece is None and self._error is not None:
            raise self._error
        return piece

    async def response(self) -> AgentResponse:
        """The whole answer. Raises a ClientError where there is none."""
        await self.ended.wait()
        if self._error is not None:
            raise self._error
        assert self._response is not None
        return self._response

    def _tell(self, text: str, offset: int) -> None:
        """Text that follows so many characters of the answer; the node has taken away what was told before."""
        if offset != self._length:
            self.fail(AnswerLost("the agent was started again, and answers differently", message_id=self.message_id))
        elif text:
            self._told.append(text)
            self._length += len(text)
            self._unread.put(text, PIECE + len(text))

    def _respond(self, response: AgentResponse) -> None:
        if response.content.startswith("".join(self._told)):
            self._tell(response.content[self._length :], self._length)
        elif self._again:
            self._tell("", -1)
        # Else it is the agent's own will: what it answers in the end is something else than the pieces it gave.
        if response.status == "cancelled":
            self.fail(AnswerCancelled(response, self.message_id))
        self._response = response
        self._unread.end()
        self.ended.set()
