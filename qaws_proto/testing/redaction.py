"""Steps of a trace without their secrets: what a node was told, each input as long as it was.

A token may lie in several reads, behind a mask, in fragments, compressed. So what comes on a connection is read along
here, and a step waits until it is known what its bytes are part of: a request head, or a message. It holds no more of
a connection than the node itself would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from ..config import DEFLATE_OVERHEAD, WebSocketConfig
from ..effects import DropConnection, Effect
from ..inputs import (
    BytesReceived,
    ConnectionLost,
    ConnectionOpened,
    Input,
    KeysLoaded,
    MessageReceived,
    RequestReceived,
)
from ..wire.frames import COMPRESSED, header_size, payload_length
from . import covering
from .frames import masked
from .trace import Head, Step, Verdict

TEXT, BINARY, CLOSE = 1, 2, 8
OPCODES = (0, TEXT, BINARY, CLOSE, 9, 10)
CONTROL_SIZE = 2 + 4 + 125  # bytes of a control frame at most


class Redactor:
    """Takes steps as they come, and gives them on without secrets: some of them later than those behind them."""

    def __init__(self, head: Head, write: Callable[[Step], None]) -> None:
        self._config = head.config
        self._claims = bool(head.events)  # which a user's handlers may read; the node reads one alone
        self._write = write
        self._streams: dict[int, _Stream] = {}
        token = head.config.metrics.token
        self._known = () if token is None else (token.get_secret_value(),)
        self._document = b""  # the hash of the last document of keys
        self._letters = deque(covering.LETTERS[:2])

    def take(self, step: Step, effects: Iterable[Effect]) -> None:
        """A step, and what came of it."""
        event = step.input
        step = step._replace(verdicts=tuple(map(self._verdict, step.verdicts)))
        if isinstance(event, ConnectionOpened):
            self._streams[event.connection] = _Stream(self._config, self._known)
        if not isinstance(event, BytesReceived):
            self._write(step._replace(input=self._covered(event)))
        elif event.connection in self._streams:
            for ready in self._streams[event.connection].take(step, event):
                self._write(ready)
        else:  # behind the end, where nobody looks at it
            self._write(step._replace(input=event._replace(data=bytes(len(event.data)))))
        for effect in effects:
            if isinstance(effect, DropConnection):
                self._end(effect.connection)
        if isinstance(event, ConnectionLost):
            self._end(event.connection)

    def finish(self) -> None:
        """There will be no more: give on what waits."""
        for number in list(self._streams):
            self._end(number)

    def _end(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        for step in () if stream is None else stream.finish():
            self._write(step)

    def _verdict(self, verdict: Verdict) -> Verdict:
        """Claims may hold secrets: the one that a node reads is kept."""
        name, answer = verdict
        claims = getattr(answer, "claims", None)
        if claims is None or self._claims:
            return verdict
        return name, answer._replace(claims={"iat": claims["iat"]} if "iat" in claims else {})

    def _covered(self, event: Input) -> Input:
        if isinstance(event, RequestReceived):
            covers = covering.Covers(self._known)
            headers = tuple((name, covers.header(name, value)) for name, value in event.headers)
            return event._replace(target=covers.target(event.target), headers=headers)
        if isinstance(event, MessageReceived):
            data = event.data
            return event._replace(data=_text(data) if isinstance(data, str) else covering.binary(data))
        if isinstance(event, KeysLoaded):
            digest = sha256(event.document).digest()
            if digest != self._document:  # what differs in its secrets alone is another one all the same
                self._document = digest
                self._letters.rotate()
            return event._replace(document=covering.keys(event.document, self._letters[0]))
        return event


def _text(message: str) -> str:
    """A message of a host, which may let surrogates pass."""
    return covering.text(message.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


class _Frame(NamedTuple):
    """Where a frame is among the bytes that are looked at."""

    first: int  # its first byte
    mask: bytes
    start: int  # of its payload
    end: int


class _Stream:
    """What one peer says: its steps, until their bytes are covered."""

    def __init__(self, config: WebSocketConfig, known: Iterable[str]) -> None:
        limits = config.limits
        self._limits = limits
        self._compression = config.server.compression.enabled
        # Pings may come within a message, as many as a connection may send while the message may take.
        pings = limits.frame_burst + limits.frames_per_second * limits.message_timeout
        self._most = limits.max_message_size + DEFLATE_OVERHEAD + int(CONTROL_SIZE * pings)
        self._known = known
        self._steps: deque[tuple[Step, BytesReceived]] = deque()  # that wait
        self._bytes = bytearray()  # that are not looked at to their end
        self._covered = bytearray()  # of the steps that wait
        self._read = self._read_head
        self._frames: list[_Frame] = []  # whole ones of a message that is not
        self._at = 0  # where they end

    def take(self, step: Step, event: BytesReceived) -> Iterator[Step]:
        """A step that brought bytes; those whose bytes are covered by now."""
        self._steps.append((step, event))
        self._bytes += event.data
        self._read(over=False)
        return self._ready()

    def finish(self) -> Iterator[Step]:
        """No more bytes will come: all that wait."""
        self._read(over=True)
        return self._ready()

    def _ready(self) -> Iterator[Step]:
        while self._steps and len(self._covered) >= len(self._steps[0][1].data):
            step, event = self._steps.popleft()
            size = len(event.data)
            yield step._replace(input=event._replace(data=bytes(self._covered[:size])))
            del self._covered[:size]

    # ── how the bytes are read ───────────────────────────────────────────────────────────────────────────────────────

    def _read_head(self, *, over: bool) -> None:
        end = self._bytes.find(b"\r\n\r\n") + 4
        whole = end > 3
        if whole or over or len(self._bytes) > self._limits.head_size:
            size = end if whole else len(self._bytes)
            self._covered += covering.Covers(self._known).head(bytes(self._bytes[:size]))
            del self._bytes[:size]
            self._read = self._read_frames if whole else self._read_nothing
            self._read(over=over)

    def _read_nothing(self, *, over: bool) -> None:
        """What comes behind the end is counted, and not looked at."""
        self._covered += bytes(len(self._bytes))
        self._bytes.clear()

    def _read_frames(self, *, over: bool) -> None:
        while len(head := bytes(self._bytes[self._at : self._at + 14])) >= (size := header_size(head)):
            if self._refused(head):
                self._break_off(kept=size)
                return
            start, end = self._at + size, self._at + size + payload_length(head)
            if end > len(self._bytes):
                break
            self._frames.append(_Frame(head[0], head[size - 4 : size], start, end))
            self._at = end
            opcode = head[0] & 0x0F
            if opcode == CLOSE:
                self._break_off()
                return
            if (head[0] & 0x80 and opcode < CLOSE) or not any(one.first & 0x0F < CLOSE for one in self._frames):
                self._cover(whole=True)
        if over or len(self._bytes) > self._most:
            self._break_off(kept=self._take_unfinished())

    def _refused(self, head: bytes) -> bool:
        """Whether the node breaks off at this header."""
        first, second = head[0], head[1]
        opcode, length = first & 0x0F, payload_length(head)
        data = [one for one in self._frames if one.first & 0x0F < CLOSE]
        reserved = first & 0x70
        compressed = reserved == COMPRESSED and self._compression and opcode in (TEXT, BINARY)
        if (reserved and not compressed) or opcode not in OPCODES or not second & 0x80:
            return True
        if opcode >= CLOSE:
            return length > 125 or not first & 0x80
        top = self._limits.max_message_size
        if (data[0].first if data else first) & COMPRESSED:
            top += DEFLATE_OVERHEAD
        size = length + sum(one.end - one.start for one in data)
        return (opcode != 0) is bool(data) or size > top or len(data) == self._limits.max_fragments

    def _take_unfinished(self) -> int:
        """Take in what has come of the last frame; of its header, where that is all, the number of bytes."""
        head = bytes(self._bytes[self._at : self._at + 14])
        size = header_size(head)
        if len(head) < size:
            return len(head)
        start = self._at + size
        self._at = min(start + payload_length(head), len(self._bytes))
        self._frames.append(_Frame(head[0], head[size - 4 : size], start, self._at))
        return 0

    def _break_off(self, kept: int = 0) -> None:
        """Nothing is read any more, but for so many bytes of a header: cover what has come of a message."""
        self._cover(whole=False)
        self._covered += self._bytes[:kept]
        del self._bytes[:kept]
        self._read = self._read_nothing
        self._read(over=True)

    def _cover(self, *, whole: bool) -> None:
        """Cover the message in the frames that have come."""
        frames = [frame for frame in self._frames if frame.first & 0x0F < CLOSE]
        said = b"".join(masked(bytes(self._bytes[one.start : one.end]), one.mask) for one in frames)
        covered = self._message(frames[0].first, said, whole=whole) if frames else b""
        at = 0
        for one in frames:
            size = one.end - one.start
            self._bytes[one.start : one.end] = masked(covered[at : at + size], one.mask)
            at += size
        self._covered += self._bytes[: self._at]
        del self._bytes[: self._at]
        self._frames, self._at = [], 0

    def _message(self, first: int, said: bytes, *, whole: bool) -> bytes:
        binary = first & 0x0F == BINARY
        cover = covering.binary if binary else partial(covering.text, whole=whole)
        if not first & COMPRESSED:
            return cover(said)
        return covering.compressed(said, cover, self._limits.max_message_size, whole=whole)
