"""Server-sent events out of bytes, however these are cut (WHATWG HTML, section 9.2.6); no I/O of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event, or a line that has not ended, grew beyond the limit."""


class EventReader:
    """Gives the data of each event, as the bytes of its UTF-8; names, ids and comments are passed over."""

    def __init__(self, limit: int) -> None:
        """`limit` is bytes: of the data of one event and the line that is being read, together."""
        self._limit = limit
        self._line = bytearray()  # the one that has begun
        self._data: list[bytes] = []  # the lines of the event that has begun
        self._size = 0  # bytes of them
        self._after_cr = False
        self._first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more of the stream; each event that ends in it. Raises EventTooLong, and is of no use after that."""
        if not data:
            return
        if self._after_cr and data.startswith(b"\n"):  # the other half of a line end
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        *ended, begun = _LINE_END.split(data)
        for rest in ended:
            self._extend(rest)
            line = bytes(self._line)
            self._line.clear()
            yield from self._take(line)
        self._extend(begun)

    def _extend(self, data: bytes) -> None:
        self._line += data
        if self._size + len(self._line) > self._limit:
            raise EventTooLong(f"an event of more than {self._limit} bytes")

    def _take(self, line: bytes) -> Iterator[bytes]:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                data, self._data, self._size = b"\n".join(self._data), [], 0
                yield data
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
