"""What was said, for models that remember nothing themselves."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple


class Exchange(NamedTuple):
    """A question and its whole answer."""

    question: str
    answer: str

    @property
    def characters(self) -> int:
        """How much it counts."""
        return len(self.question) + len(self.answer)


Key = tuple[str, str]  # user and session


class Histories:
    """The newest exchanges of each session, bounded in every direction; the session least used is forgotten first."""

    def __init__(self, *, messages: int, characters: int, sessions: int) -> None:
        """`messages` (two an exchange) and `characters` are those of one session. Where one is 0, nothing is kept."""
        self._exchanges = messages // 2
        self._characters = characters
        self._sessions = sessions
        self._held: OrderedDict[Key, deque[Exchange]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, key: Key) -> tuple[Exchange, ...]:
        """What was said there, the oldest first; later exchanges leave what was given alone."""
        held = self._held.get(key)
        if held is None:
            return ()
        self._held.move_to_end(key)
        return tuple(held)

    def add(self, key: Key, exchange: Exchange) -> None:
        """Remember one more. Old ones go whole, so that no answer stands without its question."""
        held = self._held.setdefault(key, deque())
        self._held.move_to_end(key)
        held.append(exchange)
        characters = sum(one.characters for one in held)
        while held and (len(held) > self._exchanges or characters > self._characters):
            characters -= held.popleft().characters
        if not held:
            del self._held[key]
        while len(self._held) > self._sessions:
            self._held.popitem(last=False)
