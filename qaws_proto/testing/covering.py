"""What a trace may show: every secret covered by letters, and every text as long as it was.

Whatever is covered means to a node what it meant before, so that a replay takes the same steps: of a request only the
headers that a node reads keep their values, of an event the `token` is covered, of a key set the private halves. The
marks between the letters of a token stay, so that it is seen where one was.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import product

from ..admission.gate import BEARER_SUBPROTOCOL, SUBPROTOCOL

TOKENS = frozenset({"token", "access_token", "jwt"})  # members of an event, and of a query
PRIVATE = frozenset({"k", "d", "p", "q", "dp", "dq", "qi", "r", "t"})  # members of a JSON Web Key (RFC 7518 section 6)
TOLD = frozenset({  # headers whose values a node reads, or that tell what the client is
    "host", "upgrade", "connection", "origin", "accept", "user-agent", "content-length", "transfer-encoding",
    "sec-websocket-version", "sec-websocket-key", "sec-websocket-extensions", "x-forwarded-for", "forwarded",
    "traceparent", "tracestate", "access-control-request-method", "access-control-request-headers",
})  # fmt: skip
LETTERS = "xyzabcdefghijklmnopqruvw"  # for what differs; `s` stands for what the configuration holds (`trace.cover`)
FEW = 8  # letters, which could be compressed with what is around them
MOST_LETTERS = 64  # that are tried, for a message to have its length
CUTS = 16  # places in it that empty blocks are tried at
WAYS = (  # of compressing it, the smallest first
    *((level, zlib.Z_DEFAULT_STRATEGY) for level in (9, 6, 3, 1)), (9, zlib.Z_FIXED), (9, zlib.Z_HUFFMAN_ONLY),
)  # fmt: skip

_MARKS = re.compile(r"[^\0-\x20\x7f]")  # of a header; what no value may hold stays
_SECRET = re.compile(rb"[A-Za-z0-9_+/~-]")
_STRING_SECRET = re.compile(rb"\\u[0-9A-Fa-f]{4}|\\.|[A-Za-z0-9_+/~-]", re.DOTALL)
_LEXEME = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}\[\]:,]', re.DOTALL)
_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+){0,2}")  # the header of one begins with {"
_WHOLE_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
_SUSPICIOUS = re.compile(rb"token|jwt|eyJ|\\u", re.IGNORECASE)
_PEM_LINE = re.compile(rb"^(?!-----).*$", re.MULTILINE)
_NO_BLOCK = b"\x07"  # a block of a type that there is none of (RFC 1951 section 3.2.3)
_REMOVED = b"\x00\x00\xff\xff"  # from the end of each compressed message (RFC 7692 section 7.2.1)


def letters(data: bytes, letter: str = LETTERS[0]) -> bytes:
    """Letters for all that a token could be made of."""
    return _SECRET.sub(letter.encode(), data)


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Covers:
    """Covers the secrets of one request: equal ones by equal letters, different ones by different ones."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """`known` are secrets of the configuration."""
        self._known = frozenset(known)
        self._seen: dict[str, str] = {}

    def cover(self, secret: str) -> str:
        """A secret, or more of what is around it."""
        if not secret:
            return secret
        if secret in self._known:
            return "s" * len(secret.encode())
        letter = self._letter(secret)
        return _MARKS.sub(letter, secret)

    def header(self, name: str, value: str) -> str:
        """The value of a header, with the white space around it; `name` in lower case."""
        plain = value.strip()
        if name in TOLD or not plain:
            return value
        before, after = value[: value.index(plain)], value[value.index(plain) + len(plain) :]
        if name == "sec-websocket-protocol":
            plain = ",".join(map(self._subprotocol, plain.split(",")))
        else:
            scheme, space, rest = plain.partition(" ") if name == "authorization" else ("", "", plain)
            secret = rest.lstrip()
            plain = scheme + space + " " * (len(rest) - len(secret)) + self.cover(secret)
            if name == "authorization" and not space and scheme.lower() != "bearer":  # which is a token that is empty
                plain = self.cover(scheme)
        return before + plain + after

    def _subprotocol(self, item: str) -> str:
        """One that is offered: what is in the name of one, as the characters of a name."""
        name = item.strip(" \t")
        if name in ("", SUBPROTOCOL):
            return item
        kept = BEARER_SUBPROTOCOL if name.startswith(BEARER_SUBPROTOCOL) else ""
        start = item.index(name) + len(kept)
        covered = letters(item[start:].encode("latin-1"), self._letter(name[len(kept) :]))
        return item[:start] + covered.decode("latin-1")

    def _letter(self, secret: str) -> str:
        return self._seen.setdefault(secret, LETTERS[len(self._seen) % len(LETTERS)])

    def target(self, target: str) -> str:
        """A path and a query, whose values are covered."""
        path, mark, query = target.partition("?")
        return self._without_tokens(path) + mark + "&".join(map(self._pair, query.split("&")))

    def _without_tokens(self, words: str) -> str:
        """What is to be read, but for tokens, which do not belong there."""
        return _WHOLE_TOKEN.sub(lambda found: self.cover(found[0]), words)

    def _pair(self, pair: str) -> str:
        name, equals, value = pair.partition("=")
        name = name if name in TOKENS else self._queried(name)
        return name + equals + self._queried(value)

    def _queried(self, said: str) -> str:
        """What is no ASCII stays none: a node takes none of it in a target."""
        return "".join("\xff" if was > "\x7f" else shown for was, shown in zip(said, self.cover(said), strict=False))

    def head(self, head: bytes) -> bytes:
        """A request head, or as much of it as has come. Bytes are Latin-1."""
        first, *lines = head.decode("latin-1").split("\n")
        method, space, rest = first.partition(" ")
        target, gap, version = rest.partition(" ")
        if method.endswith(":"):  # a header, where a request line belongs
            target = self.cover(target)
        if not version.startswith("HTTP/"):
            version = self.cover(version)
        method = self._without_tokens(method)
        covered = [method + space + self.target(target) + gap + version]
        covered += map(self._line, lines)
        return "\n".join(covered).encode("latin-1")

    def _line(self, line: str) -> str:
        name, colon, value = line.partition(":")
        return name + colon + self.header(name.strip().lower(), value) if colon else self.cover(line)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(message: bytes, *, whole: bool = True) -> bytes:
    """A text message, its token covered; of one that is no JSON object whatever could be one."""
    if _SUSPICIOUS.search(message) is None:
        return message
    if whole and _is_object(message):
        return _members(message, TOKENS, depth=1)
    return _TOKEN.sub(lambda found: letters(found[0]), _members(message, TOKENS))


def binary(message: bytes) -> bytes:
    """A binary message, which no node looks at."""
    return letters(message)


def keys(document: bytes, letter: str) -> bytes:
    """A document of keys, the private halves and symmetric keys covered."""
    if b"PRIVATE KEY" in document:
        return _PEM_LINE.sub(lambda line: letters(line[0], letter), document)
    return _members(document, PRIVATE, letter=letter)


def _is_object(message: bytes) -> bool:
    try:
        return isinstance(json.loads(message), dict)
    except (ValueError, RecursionError):
        return False


def _members(data: bytes, names: frozenset[str], *, depth: int | None = None, letter: str = LETTERS[0]) -> bytes:
    """JSON, or what looks like it, all texts covered in the members of these names; at this depth alone, if given."""
    covered = bytearray(data)
    level = 0
    within: int | None = None  # the level of the member that is covered
    last = b""
    for found in _LEXEME.finditer(data):
        lexeme = found[0]
        if lexeme in b"{[":
            level += 1
        elif lexeme in b"}]":
            level -= 1
            within = None if within is not None and level < within else within
        elif lexeme == b",":
            within = None if within is not None and level <= within else within
        elif lexeme == b":":
            if within is None and depth in (None, level) and _name(last) in names:
                within = level
        elif within is None:
            last = lexeme
        else:
            covered[found.start() : found.end()] = _STRING_SECRET.sub(_covering(letter), lexeme)
    return bytes(covered)


def _name(lexeme: bytes) -> str | None:
    """What a string of JSON says."""
    try:
        name = json.loads(lexeme)
    except ValueError:
        return None
    return name if isinstance(name, str) else None


def _covering(letter: str) -> Callable[[re.Match[bytes]], bytes]:
    """What stands for a character of a string, be it escaped."""

    def cover(found: re.Match[bytes]) -> bytes:
        one = found[0]
        if len(one) == 6:
            return b"\\u%04x" % ord(letter) if _SECRET.match(chr(int(one[2:], 16)).encode("utf-8", "replace")) else one
        return one if one.startswith(b"\\") else letter.encode()

    return cover


# ── compressed messages ──────────────────────────────────────────────────────────────────────────────────────────────


def compressed(payload: bytes, cover: Callable[[bytes], bytes], max_message: int, *, whole: bool = True) -> bytes:
    """A compressed message as long as it was, with what it says covered; as it is where there is nothing to cover.

    Where it could not be read, it cannot be from the same byte on.
    """
    said, broken_at = _inflated(payload, max_message, whole)
    covered = cover(said)
    if covered == said:
        return payload
    places = [place for place, (old, new) in enumerate(zip(said, covered, strict=True)) if old != new]
    length = len(payload) if broken_at is None else broken_at - len(_REMOVED)
    again = next(filter(None, (deflated(one, length, places[-1] + 1) for one in _varied(covered, places))), None)
    if again is None:  # too short for what it says, in any way of zlib's
        return _NO_BLOCK * len(payload)
    return again if broken_at is None else again + _REMOVED + _NO_BLOCK * (len(payload) - broken_at)


def _varied(covered: bytes, places: Sequence[int]) -> Iterator[bytes]:
    """What is covered by one letter, by any other one, and by more and more of them: each is compressed differently."""
    letter = ord(LETTERS[0])
    places = [place for place in places if covered[place] == letter]  # no digit of an escaped one
    varied = bytearray(covered)
    for other in LETTERS if len(places) < FEW else LETTERS[0]:
        for place in places:
            varied[place] = ord(other)
        yield bytes(varied)
    for number, place in enumerate(places[:MOST_LETTERS]):
        varied[place] = ord(LETTERS[sha256(b"%d" % number).digest()[0] % len(LETTERS)])
        yield bytes(varied)


def _inflated(payload: bytes, max_message: int, whole: bool) -> tuple[bytes, int | None]:
    """What a message says, one byte beyond the most that is read, and the byte at which it cannot be read, if any."""
    inflate = zlib.decompressobj(-15)
    said = bytearray()
    for at in range(len(payload)):
        try:
            said += inflate.decompress(payload[at : at + 1], max_message + 1)
        except zlib.error:
            return bytes(said), at
        if len(said) > max_message:
            return bytes(said[: max_message + 1]), None
    if whole and not _ends(inflate):
        return bytes(said), len(payload) - 1
    return bytes(said), None


def _ends(inflate: zlib._Decompress) -> bool:
    """Whether a message may end where this has come to: behind a block (RFC 7692 section 7.2.2)."""
    try:
        inflate.decompress(_REMOVED)
        inflate.decompress(b"\x03\x00")
    except zlib.error:
        return False
    return inflate.eof


def deflated(said: bytes, length: int, at: int = 0) -> bytes | None:
    """A message compressed to exactly this length; None where that cannot be.

    What is missing is made up of empty blocks: behind `at` bytes of what it says, or near its beginning where none fit.
    """
    for (level, strategy), cut in product(WAYS, (at, *range(min(len(said), CUTS)))):
        compressor = zlib.compressobj(level, zlib.DEFLATED, -15, zlib.DEF_MEM_LEVEL, strategy)
        before = compressor.compress(said[:cut]) + (compressor.flush(zlib.Z_SYNC_FLUSH) if cut else b"")
        after = compressor.compress(said[cut:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
        empty = _empty_blocks(length + len(_REMOVED) - len(before) - len(after))
        if empty is not None:
            return (before + empty + after)[: -len(_REMOVED)]
    return None


def _group(count: int) -> bytes:
    """So many blocks that only end, and a stored one that ends on a byte boundary (RFC 1951 section 3.2)."""
    fixed = sum(0b10 << 10 * at for at in range(count))  # each BFINAL 0, BTYPE 01, and the seven zeros of the end
    return fixed.to_bytes((10 * count + 3 + 7) // 8, "little") + _REMOVED


_FIVE = _group(0)
_REST = (b"", _group(1), _group(2), _group(1) + _group(2), _group(3))  # by what is left over of fives


def _empty_blocks(size: int) -> bytes | None:
    """Blocks that say nothing, from one byte boundary to another; None where there are none of this size."""
    rest = _REST[size % 5]
    return rest + _FIVE * ((size - len(rest)) // 5) if size >= len(rest) else None
