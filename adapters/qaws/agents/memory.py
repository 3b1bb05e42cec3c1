"""What was said in sessions, for models and frameworks that leave remembering to their caller."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar
from urllib.parse import quote

from .interface import RunContext

SESSIONS = 1000  # remembered; beyond it the one that was used least lately is forgotten
TURNS = 20  # of a session, the newest
CHARACTERS = 100_000  # of a session, as Python writes its messages down

Turn = TypeVar("Turn")
Key = tuple[str, str]  # user and session


def key_of(context: RunContext) -> Key:
    """Whose session it is: users may give their sessions the same name."""
    return context.user_id, context.session_id


def name_of(context: RunContext) -> str:
    """The same as one name, for frameworks that know a session by its name alone."""
    return f"{quote(context.user_id, safe='@')}/{context.session_id}"


class Memory(Generic[Turn]):
    """The newest turns of each session, bounded in every direction. They go whole: no answer without its question."""

    def __init__(
        self,
        *,
        turns: int = TURNS,
        characters: int = CHARACTERS,
        sessions: int = SESSIONS,
        size: Callable[[Turn], int] = lambda turn: len(repr(turn)),
    ) -> None:
        """`turns` and `characters` are those of one session, `size` counts a turn's. With 0 of one nothing is kept."""
        self._turns = turns
        self._characters = characters
        self._sessions = sessions
        self._size = size
        self._held: OrderedDict[Key, deque[tuple[Turn, int]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def recall(self, key: Key) -> list[Turn]:
        """What was said there, the oldest first."""
        held = self._held.get(key)
        if held is None:
            return []
        self._held.move_to_end(key)
        return [turn for turn, _ in held]

    def add(self, key: Key, turn: Turn) -> None:
        """Remember one more."""
        held = self._held.setdefault(key, deque())
        self._held.move_to_end(key)
        held.append((turn, self._size(turn)))
        characters = sum(size for _, size in held)
        while held and (len(held) > self._turns or characters > self._characters):
            characters -= held.popleft()[1]
        if not held:
            del self._held[key]
        while len(self._held) > self._sessions:
            self._held.popitem(last=False)
