"""What exceptions say in a log: types and places in the code. Their texts may hold secrets (C12, G2)."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ..stores import StoreError
from .values import bounded, printable, text_of

PLACES = 20  # innermost places of a traceback that are logged
CAUSES = 8  # exceptions of a group, and of what they came from, that are logged


class Raised(NamedTuple):
    """One exception. `text` is None where it may hold secrets; `at` are places, the innermost last."""

    type: str
    text: str | None
    at: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """It as lines of text."""
        text = "" if self.text is None else f" text={printable(self.text)}"
        yield f"  raised={printable(self.type)}{text}"
        yield from (f"    {place}" for place in self.at)


def raised(error: BaseException, *, texts: bool = False) -> tuple[Raised, ...]:
    """An exception, what is in it if it is a group, and what each came from; their texts only where `texts` says so.

    The text of a StoreError is for the operator, and says all that there is to say.
    """
    return tuple(_told(one, texts) for one in islice(_errors(error), CAUSES))


def _told(error: BaseException, texts: bool) -> Raised:
    stored = isinstance(error, StoreError)
    text = bounded(text_of(error)) if texts or stored else None
    return Raised(type(error).__qualname__, None if text is None else str(text), () if stored else _places(error))


def _errors(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what is in it if it is a group, and what each came from."""
    seen: set[int] = set()
    left = [error]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        if isinstance(error, StoreError):
            continue
        left += [error.__cause__ or (None if error.__suppress_context__ else error.__context__)]
        left += reversed(error.exceptions) if isinstance(error, BaseExceptionGroup) else ()


def _places(error: BaseException) -> tuple[str, ...]:
    """Where it was raised, without its text and without lines of source, which may hold secrets as well."""
    walk = traceback.walk_tb(error.__traceback__)
    frames = traceback.StackSummary.extract(walk, limit=-PLACES, lookup_lines=False)
    return tuple(f"{printable(frame.filename)}:{frame.lineno} in {printable(frame.name)}" for frame in frames)
