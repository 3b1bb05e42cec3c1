"""Values as they may stand in a log: bounded, and nothing in them that ends a line or moves a terminal (M7)."""

from __future__ import annotations

import re

from pydantic_core import to_json

from qaws_proto.effects import Scalar

VALUE_LENGTH = 512  # bytes of one value in a log line (M7)
INTEGER_BITS = 1024  # of a number that is written in digits

PLAIN_LENGTH = VALUE_LENGTH - 2  # of a text that is its own JSON, between quotes

_PLAIN = re.compile(r"[ !#-\[\]-~]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: object) -> str:
    """What a value says of itself; also one of a class that raises instead."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - an agent's own class may raise anything here
        return f"({type(error).__qualname__} instead of a text)"


def bounded(value: object) -> Scalar:
    """A value as others may use it: a text is at most VALUE_LENGTH bytes of UTF-8, without surrogates."""
    if value is None or type(value) in (bool, float) or (type(value) is int and value.bit_length() <= INTEGER_BITS):
        return value  # type: ignore[return-value]
    text = value if type(value) is str else text_of(value)
    if len(text) <= VALUE_LENGTH and text.isascii():
        return text
    whole = _SURROGATE.sub("\ufffd", text[: VALUE_LENGTH + 1]).encode()
    return whole.decode() if len(whole) <= VALUE_LENGTH else _cut(whole, VALUE_LENGTH)


def printable(value: object) -> str:
    """A value as it may stand in a line of text.

    Texts that could be taken for more than one value are quoted, with backslashes before quotes and backslashes.
    """
    whole = value if type(value) is str else text_of(value)
    text = whole[:VALUE_LENGTH]  # no more can be shown of it
    if not text.isprintable():  # control characters, and U+2028 and its like
        text = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    elif '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    room = VALUE_LENGTH - 2  # for the quotes
    if len(text.encode()) > room or len(whole) > VALUE_LENGTH:
        text = text.encode()[: room - 3].decode("utf-8", "ignore").rstrip("\\") + "…"
    return f'"{text}"' if not text or any(mark in text for mark in ' "=\\') else text


def json_of(value: object) -> str:
    """A value in JSON (RFC 8259), at most VALUE_LENGTH bytes of it: a longer text is cut, and ends with `…`.

    Not only control characters are escaped, but all that is not printable. A number that JSON has not is a text.
    """
    if type(value) is str and len(value) < PLAIN_LENGTH and _PLAIN.fullmatch(value):
        return f'"{value}"'
    if type(value) is int and value.bit_length() <= INTEGER_BITS:
        return str(value)
    if value is None or type(value) in (bool, float):
        return to_json(value, inf_nan_mode="strings").decode()
    text = _SURROGATE.sub("\ufffd", text_of(value)[: VALUE_LENGTH + 1])
    whole = _escaped(text)
    if len(whole) <= VALUE_LENGTH and len(whole.encode()) <= VALUE_LENGTH:
        return whole
    low, high = 0, VALUE_LENGTH  # characters that do, and one more than may do
    while high - low > 1:
        middle = (low + high) // 2
        fits = len(_escaped(text[:middle] + "…").encode()) <= VALUE_LENGTH
        low, high = (middle, high) if fits else (low, middle)
    return _escaped(text[:low] + "…")


def _escaped(text: str) -> str:
    line = to_json(text).decode()
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else _escape(char) for char in line)


def _escape(char: str) -> str:
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _cut(data: bytes, room: int) -> str:
    return data[: room - len("…".encode())].decode("utf-8", "ignore") + "…"
