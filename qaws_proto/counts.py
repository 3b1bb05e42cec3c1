"""What a node has done since it began, as plain numbers that only grow. Whoever shows metrics reads them."""

from __future__ import annotations

from collections.abc import Mapping

from .faults import Fault

OTHER = 0  # stands for every close code that is not in `CLOSE_CODES`: peers may send some thousands of them

#: Those of the node itself, and of peers the ones that RFC 6455 section 7.4.1 gives a meaning.
CLOSE_CODES = frozenset(
    {1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013}
    | {fault.value.close for fault in Fault if fault.value.close is not None}
)


class Counts:
    """Counters of a node. Every key is of a fixed set, so that no peer can make them many (C7)."""

    __slots__ = (
        "_received", "_types", "characters", "chunks", "closed", "crowded", "errors", "refused", "submitted",
        "upgraded", "withdrawn",
    )  # fmt: skip

    def __init__(self, types: Mapping[type, str]) -> None:
        """`types` are the classes of the events that clients may send, and what they are called."""
        self.upgraded = 0  # requests that became a WebSocket
        self.refused: dict[Fault, int] = {}  # requests that were turned away, by why
        self.crowded = 0  # sockets that were dropped without a word, since there were too many
        self.closed = dict.fromkeys([*sorted(CLOSE_CODES), OTHER], 0)  # WebSockets that ended, by close code
        self.errors: dict[Fault, int] = {}  # errors that events of clients were answered with
        self.submitted = 0  # runs that were taken on, those of the last process that run again among them
        self.withdrawn = 0  # of those the ones whose messages could not be kept
        self.chunks = 0  # pieces of text that agents yielded
        self.characters = 0  # of their answers
        self._types = types
        self._received = dict.fromkeys(types, 0)

    @property
    def messages(self) -> dict[str, int]:
        """Events of clients, by type, whatever became of them."""
        return {self._types[kind]: count for kind, count in self._received.items()}

    def receive(self, kind: type) -> None:
        """An event of this class has come. What a validator of a user makes of it may be of none that is known."""
        if kind in self._received:
            self._received[kind] += 1

    def refuse(self, fault: Fault) -> None:
        """A request is turned away."""
        self.refused[fault] = self.refused.get(fault, 0) + 1

    def error(self, fault: Fault) -> None:
        """An event is answered with an error."""
        self.errors[fault] = self.errors.get(fault, 0) + 1

    def close(self, code: int) -> None:
        """A WebSocket has ended."""
        self.closed[code if code in CLOSE_CODES else OTHER] += 1
