"""Byte strings as programs: a list of instructions, a byte each with its arguments behind it.

Every byte string is a program, and so is one without some of its bytes: fuzzers can change, join and shorten them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

Choice = TypeVar("Choice")


class Program:
    """A byte string, read from its beginning; behind its end there are zeros without end."""

    def __init__(self, code: bytes) -> None:
        self._code = code
        self._at = 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to read."""
        return self._at >= len(self._code)

    def number(self, below: int = 256) -> int:
        """A number from 0 on."""
        return int.from_bytes(self.take(1)) % below

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of these."""
        return choices[self.number(len(choices))]

    def take(self, count: int) -> bytes:
        """So many bytes, fewer at the end."""
        data = self._code[self._at : self._at + count]
        self._at += count
        return data

    def data(self) -> bytes:
        """Up to 255 bytes, behind a byte that says how many."""
        return self.take(self.number())


class Instruction(NamedTuple):
    """An instruction by its name, and the bytes behind it."""

    name: str
    arguments: bytes = b""


def assemble(config: int, instructions: Iterable[Instruction], known: Iterable[str]) -> bytes:
    """The program with these instructions, of those that are `known`; what comes first picks the configuration."""
    numbers = {name: number for number, name in enumerate(known)}
    return bytes((config,)) + b"".join(bytes((numbers[one.name],)) + one.arguments for one in instructions)


def shortest(code: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """A program that fails, with as much taken away from this failing one as can be, and zeros for what can be."""
    size = len(code) // 2
    while size:
        at = 0
        while at < len(code):
            without = code[:at] + code[at + size :]
            if fails(without):
                code = without
            else:
                at += size
        size //= 2
    for at in range(len(code)):
        zeroed = code[:at] + b"\0" + code[at + 1 :]
        if code[at] and fails(zeroed):
            code = zeroed
    return code
