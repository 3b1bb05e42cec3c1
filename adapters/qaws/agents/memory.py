"""What was said in conversations, for agent frameworks that leave remembering to their caller."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar
from urllib.parse import quote

from .interface import RunContext

CONVERSATIONS = 1000  # remembered; beyond it the one that has rested longest is forgotten
TURNS = 20  # of a conversation, the newest

Message = TypeVar("Message")


def conversation_of(context: RunContext) -> str:
    """A name for the session that no other user's has: users may give their sessions the same name."""
    return f"{quote(context.user_id, safe='@')}/{context.session_id}"


class Memory(Generic[Message]):
    """The messages of the newest turns, whole turns, for that is how model providers want them."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, deque[list[Message]]] = OrderedDict()

    def recall(self, context: RunContext) -> list[Message]:
        """The messages of the run's conversation so far."""
        return [message for turn in self._turns.get(conversation_of(context), ()) for message in turn]

    def add(self, context: RunContext, turn: list[Message]) -> None:
        """Remember what the run added."""
        name = conversation_of(context)
        self._turns.setdefault(name, deque(maxlen=TURNS)).append(turn)
        self._turns.move_to_end(name)
        if len(self._turns) > CONVERSATIONS:
            self._turns.popitem(last=False)
