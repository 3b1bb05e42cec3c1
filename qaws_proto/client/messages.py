"""The messages of a client that have not ended: what of each is known to the server, and what is not."""

from __future__ import annotations

from collections.abc import Container, Iterator

from ..events import ChatMessage


class Message:
    """One message, from when it is asked for to its end."""

    __slots__ = ("accepted", "cancelled", "chat", "id", "refused", "repeated", "round", "run_id", "sends")

    def __init__(self, message_id: str, chat: ChatMessage) -> None:
        self.id = message_id
        self.chat = chat
        self.sends = 0
        self.refused = False  # it could not be taken just now, and is sent again in a while
        self.cancelled = False  # it should be
        self.accepted = False
        self.repeated = False  # the server had it before: what it led to may have been told long ago
        self.run_id: str | None = None
        self.round = 0  # of snapshots, when it was accepted


class Messages:
    """The table of them, in the order in which they were asked for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._messages: dict[str, Message] = {}
        self._round = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(list(self._messages.values()))

    def add(self, chat: ChatMessage) -> Message:
        """A new message. Raises ValueError where it has no id, or that of another, or where there are too many."""
        if chat.id is None:
            raise ValueError("a message needs an id: by it the server knows one that it has already")
        if chat.id in self._messages:
            raise ValueError(f"message {chat.id!r} is in progress already")
        if len(self._messages) >= self.limit:
            raise ValueError(f"{self.limit} messages are in progress already")
        message = self._messages[chat.id] = Message(chat.id, chat)
        return message

    def find(self, message_id: str | None) -> Message | None:
        """The message of this id; None where it has ended, or was never here."""
        return None if message_id is None else self._messages.get(message_id)

    def accept(self, message: Message, run_id: str | None) -> None:
        """The server has it, and this run is for it."""
        message.accepted, message.run_id, message.round = True, run_id, self._round

    def end(self, message_id: str | None) -> None:
        """It has ended; nothing happens where it is not one of ours."""
        if message_id is not None:
            self._messages.pop(message_id, None)

    def begin_snapshot(self) -> None:
        """A snapshot comes: it tells the truth of what was accepted before."""
        self._round += 1

    def missing(self, runs: Container[object]) -> tuple[list[Message], bool]:
        """Accepted messages whose runs are not among those in progress: the lost ones, and whether there may be more.

        One that was accepted since the last snapshot may have ended since, or before: the next will tell.
        """
        missing = [message for message in self if message.accepted and message.run_id not in runs]
        lost = [message for message in missing if message.round < self._round]
        return lost, len(lost) < len(missing)
