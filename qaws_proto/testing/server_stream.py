"""What a node writes to one peer, read more strictly than any client does: HTTP, frames, codes, events."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections import deque
from hashlib import sha1
from typing import Any, NamedTuple, get_args

from ..events import ServerEvents, parse_server_event
from .frames import CLOSE, PING, PONG, TEXT
from .peer import REMOVED

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # RFC 9112 section 4
# RFC 9112 section 5, as everybody writes it: one space in front, no white space behind, never empty.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_LENGTH = re.compile(r"0|[1-9][0-9]*")
#: What an answer of this status has to say (RFC 9110 sections 15.5.2, 15.5.6 and 15.5.22; RFC 6455 section 4.4).
_NEEDED = {
    "401": {"www-authenticate"}, "405": {"allow"}, "426": {"upgrade", "sec-websocket-version"}
}  # fmt: skip
#: Close codes that may be sent (RFC 6455 section 7.4; 1012 to 1014 are registered at IANA).
_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
_TYPES = {str(get_args(model.model_fields["type"].annotation)[0]) for model in get_args(ServerEvents)}
_DEFLATE = {
    "server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"
}  # fmt: skip


class Head(NamedTuple):
    """The head of the server's one HTTP answer, and its body where that is no 101."""

    status: int
    headers: dict[str, str]
    body: bytes


class ServerStream:
    """Decodes what a server writes, and refuses all that the RFCs do: one head, which answers the request; minimal
    unmasked whole frames, with nothing but events of the protocol in them; at most one Close, nothing after it.

    Frames that are compressed are counted, and allowed where that was agreed.
    """

    def __init__(self, request: bytes = b"", *, own_events: bool = False) -> None:
        """`own_events`: users have added theirs, so there may be events of types that the protocol does not know."""
        self.request = request  # all that the peer had sent before it was answered
        self.own_events = own_events
        self.head: Head | None = None
        self.frames: deque[tuple[int, bytes]] = deque()  # opcode and payload, not yet looked at
        self.closed: tuple[int, str] | None = None
        self.compressed = 0
        self._window = 0  # bits of the window that may be used for them; 0: nothing was agreed
        self._buffer = b""

    def receive(self, data: bytes) -> None:
        """One write of the server."""
        assert data, "an empty write"
        assert self.closed is None, f"{data!r} after Close"
        self._buffer += data
        if self.head is None:
            self._read_head()
        if self.head is not None and self.head.status == 101:
            while self._buffer:
                try:
                    self._read_frame()
                except (ValueError, zlib.error) as error:  # of UTF-8, JSON, Pydantic and zlib
                    raise AssertionError(f"what cannot be read: {error}") from error

    # ── the head ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_head(self) -> None:
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        assert end, "a server writes its head at once"
        first, *lines = head.split(b"\r\n")
        status_line = _STATUS_LINE.fullmatch(first)
        assert status_line, f"no status line: {first!r}"
        headers: dict[str, str] = {}
        for line in lines:
            field = _FIELD.fullmatch(line)
            assert field, f"no header: {line!r}"
            name, value = field[1].decode().lower(), field[2].decode()
            assert name == "connection" or name not in headers, "a doubled header"
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        status = status_line[1].decode()
        assert "transfer-encoding" not in headers, "a body of unknown length"
        if status == "101":
            self._check_upgrade(headers)
            self._buffer = body
            self.head = Head(101, headers, b"")
            return
        assert status[0] != "1", "an answer that is none yet"
        assert "close" in _options(headers.get("connection", "")), "the connection ends with the answer"
        assert headers.keys() >= _NEEDED.get(status, set()), f"{status} without {_NEEDED[status]}"
        self._check_length(status, headers.get("content-length"), body)
        self._buffer = b""
        self.head = Head(int(status), headers, body)
        self.closed = (int(status), "http")

    def _check_length(self, status: str, length: str | None, body: bytes) -> None:
        if status == "204":  # RFC 9110 section 8.6
            assert length is None, "the length of no content"
            assert body == b"", "content behind 204"
            return
        assert length is not None, "an answer without a length"
        assert _LENGTH.fullmatch(length), f"no length: {length}"
        bodyless = self.request.startswith(b"HEAD ")  # RFC 9110 section 9.3.2
        assert len(body) == (0 if bodyless else int(length)), "one whole answer"

    def _check_upgrade(self, headers: dict[str, str]) -> None:
        """RFC 6455 section 4.2.2: what a 101 has to say, and may say, to this request."""
        asked = _asked(self.request)
        assert self.request.startswith(b"GET "), "a 101 to what is no GET"
        assert "websocket" in _options(asked.get("upgrade", "")), "a 101 that nobody asked for"
        assert headers.get("upgrade", "").lower() == "websocket", "an upgrade to something else"
        assert "upgrade" in _options(headers.get("connection", "")), "RFC 9110 section 7.8: Upgrade is named"
        assert "content-length" not in headers, "RFC 9110 section 8.6: no length in a 101"
        key = asked.get("sec-websocket-key", "").encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        assert headers.get("sec-websocket-accept") == b64encode(sha1(key).digest()).decode(), "not for this key"
        chosen = headers.get("sec-websocket-protocol")
        offered = [item.strip() for item in asked.get("sec-websocket-protocol", "").split(",")]
        assert chosen is None or chosen in offered, f"a subprotocol that was not offered: {chosen}"
        if "sec-websocket-extensions" in headers:
            self._check_extension(headers["sec-websocket-extensions"], asked.get("sec-websocket-extensions", ""))

    def _check_extension(self, agreed: str, offer: str) -> None:
        """RFC 7692 section 7.1: one extension that was offered, each parameter once."""
        name, *parts = agreed.split("; ")
        assert name == "permessage-deflate", f"an extension that was not offered: {name}"
        parameters = dict(part.partition("=")[::2] for part in parts)
        assert len(parameters) == len(parts), "a doubled parameter"
        assert parameters.keys() <= _DEFLATE, f"an unknown parameter in {agreed}"
        # Each message is read by itself here, so a context that is taken over could not be.
        assert "server_no_context_takeover" in parameters, "messages that depend on each other"
        bits = parameters.pop("server_max_window_bits", "15")
        for window in (bits, parameters.pop("client_max_window_bits", "15")):
            assert re.fullmatch("8|9|1[0-5]", window), f"no window: {window}"
        assert "client_max_window_bits" not in agreed or "client_max_window_bits" in offer, "a limit nobody offered"
        assert not any(parameters.values()), "a value where there is none"
        self._window = int(bits)
        assert any(_fits(item, self._window) for item in offer.split(",")), f"{agreed} is not what was offered: {offer}"

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_frame(self) -> None:
        assert len(self._buffer) > 1, "frames are written whole"
        first, second = self._buffer[0], self._buffer[1]
        opcode, length, size = first & 0x0F, second & 0x7F, 2
        assert opcode in (TEXT, CLOSE, PING, PONG), f"opcode {opcode}"
        assert first & 0xF0 == 0x80 or first == 0xC0 | TEXT, "a whole frame without reserved bits"
        assert not second & 0x80, "a server does not mask"
        if length > 125:
            least, size = (126, 4) if length == 126 else (65536, 10)
            assert len(self._buffer) >= size, "frames are written whole"
            length = int.from_bytes(self._buffer[2:size])
            assert least <= length < 1 << 63, "the shortest length"
        assert opcode == TEXT or length <= 125, "a control frame is short"
        assert len(self._buffer) >= size + length, "frames are written whole"
        payload, self._buffer = self._buffer[size : size + length], self._buffer[size + length :]
        if first & 0x40:
            assert self._window, "compressed, and nothing was agreed"
            payload = inflated(payload, window=self._window)
            assert length < len(payload), "compressed, and no smaller"
            self.compressed += 1
        if opcode == TEXT:
            self._check_event(payload)
        elif opcode == CLOSE:
            assert not self._buffer, "nothing comes after Close"
            self.closed = _close(payload)
        self.frames.append((opcode, payload))

    def _check_event(self, payload: bytes) -> None:
        """An event: JSON that two parsers read alike, and where its type is one of the protocol's, as that has it."""
        event = json.loads(payload.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        assert isinstance(event, dict), "no JSON object"
        assert None not in event.values(), f"a field that is null: {event}"
        if event.get("type") in _TYPES:
            parse_server_event(payload)
        else:
            assert isinstance(event.get("type"), str), f"no type: {event}"
            assert self.own_events, f"an unknown event: {event}"


def _options(value: str) -> list[str]:
    """The items of a list in a header, in lower case."""
    return [item.strip().lower() for item in value.split(",")]


def _asked(request: bytes) -> dict[str, str]:
    """The headers of a request that was taken; those that stand there several times are joined."""
    headers: dict[str, str] = {}
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _fits(offer: str, window: int) -> bool:
    """Whether an offered extension is permessage-deflate with at least such a window for the server."""
    name, *parts = (part.strip(" \t") for part in offer.split(";"))
    asked = dict(part.partition("=")[::2] for part in parts).get("server_max_window_bits", "15").strip('"')
    return name == "permessage-deflate" and _LENGTH.fullmatch(asked) is not None and window <= int(asked)


def _close(payload: bytes) -> tuple[int, str]:
    """The code and the reason of a Close (RFC 6455 section 5.5.1)."""
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2])
    assert len(payload) > 1, "half a close code"
    assert code in _CODES, f"{code} is not sent"
    return code, payload[2:].decode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a doubled key"
    return dict(pairs)


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def inflated(message: bytes, *, window: int = 15) -> bytes:
    """What a whole message says that a server compressed; what is no stream, or needs a larger window, raises.

    Read byte by byte: what one call gives out, zlib can refer to beyond any window.
    """
    stream = zlib.decompressobj(-window)
    data = message + REMOVED
    payload = b"".join(stream.decompress(data[at : at + 1]) for at in range(len(data)))
    assert not stream.unused_data, "more than a stream"
    assert not stream.eof, "a stream with an end"
    return payload
