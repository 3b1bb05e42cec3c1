"""Tokens that were verified, so that one that comes again is not verified again (A6)."""

from __future__ import annotations

from hashlib import sha256
from typing import Generic, NamedTuple, TypeVar

_Found = TypeVar("_Found")


class Span(NamedTuple):
    """When a verdict holds, in unix seconds: from, and until before. Both are the very numbers that were judged by."""

    since: float
    until: float
    key_until: float | None


class VerifiedTokens(Generic[_Found]):
    """What was found of the newest `size` tokens in use, by the SHA-256 of each: the tokens themselves are not held."""

    def __init__(self, size: int, leeway: float) -> None:
        """`leeway` is in seconds: what clocks may differ by, as where the tokens are judged."""
        self._size = size
        self._leeway = leeway
        self._held: dict[bytes, tuple[Span, _Found]] = {}  # the longest unused first

    def __len__(self) -> int:
        return len(self._held)

    def recall(self, token: str, unix: float) -> _Found | None:
        """What was found of a token, which is ASCII, where that holds now."""
        digest = sha256(token.encode("ascii")).digest()
        held = self._held.pop(digest, None)
        if held is None:
            return None
        span, found = held
        if unix >= span.until + self._leeway or (span.key_until is not None and unix >= span.key_until):
            return None  # for good, but for a clock that goes back: then it is verified again
        self._held[digest] = held
        return found if span.since <= unix + self._leeway else None

    def remember(self, token: str, span: Span, found: _Found) -> None:
        """Keep what was found; the token that has not come for the longest time makes room."""
        if len(self._held) >= self._size:
            del self._held[next(iter(self._held))]
        self._held[sha256(token.encode("ascii")).digest()] = (span, found)

    def clear(self) -> None:
        """Forget all: the keys are others now."""
        self._held.clear()
