"""The texts of the runs that have not ended, as far as a client has been told them: what of a chunk is new."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

_BLOCK = 4096  # characters: smaller pieces are joined, since a string of two characters takes fifty bytes


class TooMuch(Exception):
    """There are more runs, or more of their text, than a client holds."""


class Piece(NamedTuple):
    """What is to be told of a chunk: `content`, behind the first `offset` characters of the run's text.

    An offset within what was told before says that the text behind it is replaced.
    """

    offset: int
    content: str


class Hole(NamedTuple):
    """A chunk begins behind what is held: something between is missing."""


class _Text:
    """A growing text of which parts can be compared without making it whole."""

    __slots__ = ("_blocks", "_starts", "size")

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._starts: list[int] = []
        self.size = 0

    def append(self, content: str) -> None:
        if self._blocks and len(self._blocks[-1]) < _BLOCK:
            self._blocks[-1] += content
        else:
            self._starts.append(self.size)
            self._blocks.append(content)
        self.size += len(content)

    def begins_at(self, offset: int, content: str) -> bool:
        """Whether `content` stands at `offset`, as far as both reach."""
        at = bisect_right(self._starts, offset) - 1
        while offset < self.size and content:
            block = self._blocks[at][offset - self._starts[at] :]
            shared = min(len(block), len(content))
            if block[:shared] != content[:shared]:
                return False
            content = content[shared:]
            offset += shared
            at += 1
        return True

    def cut(self, size: int) -> None:
        """Forget all behind the first `size` characters."""
        while self._starts and self._starts[-1] >= size:
            self._starts.pop()
            self._blocks.pop()
        if self._blocks:
            self._blocks[-1] = self._blocks[-1][: size - self._starts[-1]]
        self.size = size


class Texts:
    """The runs of a session that have not ended as far as is known, each with what is held of its text."""

    __slots__ = ("_held", "_max_chars", "_max_runs", "_texts")

    def __init__(self, max_runs: int, max_chars: int) -> None:
        self._max_runs = max_runs
        self._max_chars = max_chars
        self._texts: dict[str, _Text] = {}
        self._held = 0

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._texts

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def held(self) -> int:
        """Characters held, of texts and of names."""
        return self._held

    def begin(self, run_id: str) -> None:
        """There is this run. Raises TooMuch."""
        if run_id not in self._texts:
            if len(self._texts) >= self._max_runs:
                raise TooMuch
            self._texts[run_id] = _Text()
            self._hold(len(run_id))

    def end(self, run_id: str) -> None:
        """The run has ended; nothing happens where it is not known."""
        text = self._texts.pop(run_id, None)
        if text is not None:
            self._held -= text.size + len(run_id)

    def keep(self, run_ids: Iterable[str]) -> None:
        """These runs are all there are."""
        for run_id in self._texts.keys() - set(run_ids):
            self.end(run_id)

    def place(self, run_id: str, offset: int, content: str) -> Piece | Hole | None:
        """What is new in this chunk, which is held from now on; None where nothing is. Raises TooMuch."""
        text = self._texts.get(run_id)
        if offset > (0 if text is None else text.size):
            return Hole()
        if text is None:
            self.begin(run_id)
            text = self._texts[run_id]
        if text.begins_at(offset, content):
            offset, content = text.size, content[text.size - offset :]
        else:
            self._held -= text.size - offset
            text.cut(offset)
        if not content:
            return None
        self._hold(len(content))
        text.append(content)
        return Piece(offset, content)

    def _hold(self, chars: int) -> None:
        self._held += chars
        if self._held > self._max_chars:
            raise TooMuch
