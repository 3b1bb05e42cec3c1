"""Bytes to one HTTP request, and answers to it: the first part of a connection's life (RFC 9112, RFC 6455 section 4).

A plain head that comes in one read is read right here, which takes a tenth of the time. h11 parses all others; what it
lets pass or judges by how the bytes were cut into reads (bare LF, obs-fold, control characters, sizes) is checked here
first, line by line, so that the verdict never depends on the reads (contract C3).
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import NamedTuple

import h11

from ..config import LimitsConfig
from ..faults import Fault

Header = tuple[str, str]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_LINE_BYTE = re.compile(rb"[^\x20-\x7e\r\n]")  # what no request line holds: a TLS hello, random bytes (H3)
_VALUE_BYTE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # control characters a field value must not hold (H4)
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/(\d)\.(\d)\Z")
# A head of which only the sizes are left to judge, and what fields say of Host and of a body.
_PLAIN = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[!-~]*) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*+)\r\n"
)
_FIELD = re.compile(r"([^:]+):([^\r]*)\r\n")  # within such a head
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?\Z")
_ABSOLUTE = re.compile(r"https?://([^/?]*)", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One request head. The target is a path and a query; header names are lower-case, values Latin-1 as they came."""

    method: str
    target: str
    headers: tuple[Header, ...]
    _values: dict[str, list[str]] = field(init=False, compare=False, default_factory=dict)  # by name

    def __post_init__(self) -> None:
        for name, value in self.headers:
            self._values.setdefault(name, []).append(value)

    def __repr__(self) -> str:  # the query and the headers may hold a token (C12)
        return f"Request(method={self.method!r}, path={self.path!r})"

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first `?`, or nothing."""
        return self.target.partition("?")[2]

    def values(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return self._values.get(name, [])

    def value(self, name: str) -> str | None:
        """The value of a header that may stand once; None where there is none."""
        values = self._values.get(name)
        return None if values is None else values[0]

    def items(self, name: str) -> list[str]:
        """The members of a comma-separated list header, over all its lines."""
        members = [member.strip(" \t") for value in self.values(name) for member in value.split(",")]
        return [member for member in members if member]


class HeadReader:
    """Collects the head of one request; what follows it is left in `rest`.

    Judges each line as it completes, in the order of the bytes, so that any cut of the bytes gives the same verdict.
    """

    __slots__ = ("_buffer", "_count", "_done", "_limits", "_line", "_seen")

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._line = 0  # where the line that is not complete begins
        self._seen = 0  # how far it was looked at, so that tiny reads cost no more than large ones
        self._count = 0  # complete lines
        self._done = False  # the verdict is out

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def bodyless(self) -> bool:
        """Whether an answer has no body: that to HEAD (RFC 9110 section 9.3.2), be the rest of the head what it may."""
        return self._buffer.startswith(b"HEAD ")

    @property
    def rest(self) -> bytes:
        """What came behind the head (H7)."""
        return bytes(self._buffer[self._line :])

    @property
    def behind(self) -> int:
        """Bytes that came behind the head."""
        return len(self._buffer) - self._line if self._done else 0

    def receive(self, data: bytes) -> Request | Fault | None:
        """The request once its head is complete, a fault as soon as there is one, else None (more bytes are needed).

        Says one of them once; what comes later is kept in `rest`.
        """
        first = not self._buffer
        self._buffer += data
        if self._done:
            return None
        verdict = (self._read_plain(data) if first else None) or self._read_lines()
        self._done = verdict is not None
        return verdict

    def _read_plain(self, data: bytes) -> Request | None:
        """Read a head that is plain and here whole; None where it has to be looked at line by line.

        Must say exactly what `_read_lines` and h11 would: tests/wire/test_http.py compares them.
        """
        limits = self._limits
        match = _PLAIN.match(data, 0, limits.head_size)
        if match is None or match.start(3) > limits.request_line:
            return None
        fields = _FIELD.findall(match[3].decode("latin-1"))
        if len(fields) > limits.headers:
            return None
        headers = tuple([(name.lower(), value.strip(" \t")) for name, value in fields])
        request = Request(match[1].decode("ascii"), match[2].decode("ascii"), headers)
        if len(request.values("host")) != 1 or request.values("content-length") or request.values("transfer-encoding"):
            return None  # h11 has something to say about them
        self._line = match.end()
        return request

    def _read_lines(self) -> Request | Fault | None:
        while True:
            end = self._buffer.find(b"\n", self._seen) + 1
            fault = self._check(end or len(self._buffer), complete=end > 0)
            if fault is not None or not end:
                self._seen = len(self._buffer)
                return fault
            blank = end - self._line == 2
            self._line = self._seen = end
            self._count += 1
            if blank:
                return _parse(bytes(self._buffer[:end]))

    def _check(self, end: int, complete: bool) -> Fault | None:
        """The line from `_line` to `end`, judged in the order of its bytes."""
        limits, start = self._limits, self._line
        if self._count == 0:
            room = min(limits.request_line, limits.head_size)
            if _LINE_BYTE.search(self._buffer, self._seen, min(end, room)):
                return Fault.BAD_REQUEST
            if end > room:
                return Fault.LINE_TOO_LONG
        if end > limits.head_size:
            return Fault.HEAD_TOO_BIG
        if not complete:
            return None
        line = self._buffer[start:end]
        if not line.endswith(b"\r\n"):
            return Fault.BAD_REQUEST  # a bare LF (RFC 9112 section 2.2 allows it; proxies disagree on it)
        if self._count == 0:
            return _request_line(bytes(line[:-2]))
        if self._count > limits.headers and len(line) > 2:
            return Fault.HEAD_TOO_BIG
        if line[:1] in b" \t" or _VALUE_BYTE.search(line, 0, len(line) - 2):
            return Fault.BAD_REQUEST  # obs-fold (RFC 9112 section 5.2), control characters (RFC 9110 section 5.5)
        return None


def _request_line(line: bytes) -> Fault | None:
    match = _REQUEST_LINE.match(line)
    if match is None:
        return Fault.BAD_REQUEST
    return None if match.groups() == (b"1", b"1") else Fault.BAD_VERSION


def _parse(head: bytes) -> Request | Fault:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return Fault.BAD_REQUEST
    assert isinstance(event, h11.Request), "the head is complete"
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    request = Request(event.method.decode("ascii"), event.target.decode("ascii"), headers)
    absolute = _ABSOLUTE.match(request.target)
    if absolute is None:
        return request
    # RFC 9112 section 3.2.2: an absolute target is accepted. It names the server again, and has to agree with Host.
    if absolute[1] != request.value("host"):
        return Fault.BAD_REQUEST
    target = request.target[absolute.end() :]
    return Request(request.method, target if target.startswith("/") else "/" + target, headers)


def check_request(request: Request) -> Fault | None:
    """What every request must keep: one valid Host, no body (H5, H6, H8)."""
    hosts = request.values("host")
    if len(hosts) != 1 or not _HOST.match(hosts[0]) or not request.target.startswith("/"):
        return Fault.BAD_REQUEST
    lengths = request.values("content-length")
    if request.values("transfer-encoding") or any(length != "0" for length in lengths):
        return Fault.BODY_REFUSED
    return None


def check_upgrade(request: Request) -> Fault | None:
    """What a WebSocket upgrade must keep (RFC 6455 section 4.2.1; H5, H8)."""
    if request.method != "GET":
        return Fault.METHOD_REFUSED
    upgrades = request.values("upgrade")
    if not upgrades:
        return Fault.NO_UPGRADE
    if len(upgrades) != 1 or "websocket" not in (item.lower() for item in request.items("upgrade")):
        return Fault.BAD_UPGRADE
    if "upgrade" not in (item.lower() for item in request.items("connection")):
        return Fault.BAD_UPGRADE
    versions = request.values("sec-websocket-version")
    if len(versions) != 1 or not versions[0]:
        return Fault.BAD_UPGRADE
    if versions[0] != "13":
        return Fault.NOT_WEBSOCKET
    keys = request.values("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Fault.BAD_UPGRADE
    return check_subprotocols(request)


def check_subprotocols(request: Request) -> Fault | None:
    """Each subprotocol is a token and offered once (RFC 6455 section 4.1)."""
    subprotocols = request.items("sec-websocket-protocol")
    if len(set(subprotocols)) != len(subprotocols) or not all(map(_TOKEN.match, subprotocols)):
        return Fault.BAD_UPGRADE
    return None


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(a2b_base64(key, strict_mode=True)) == 16
    except ValueError:
        return False


def accept_key(key: str) -> str:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    return b2a_base64(sha1(key.encode() + _GUID).digest(), newline=False).decode()


def accept_response(request: Request, subprotocol: str | None, extension: str | None = None) -> bytes:
    """The 101 that ends the handshake, with what was selected of subprotocols and extensions."""
    key = request.value("sec-websocket-key") or ""
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Accept: {accept_key(key)}")
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extension is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extension}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


_PHRASES = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 414: "URI Too Long",
    421: "Misdirected Request", 426: "Upgrade Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}  # fmt: skip


class Response(NamedTuple):
    """One answer to a request, instead of a WebSocket. Nothing of the request is repeated in it (H9)."""

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""

    def encode(self, *, bodyless: bool = False) -> bytes:
        """The whole answer as bytes; it ends the connection."""
        lines = [f"HTTP/1.1 {self.status} {_PHRASES[self.status]}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + (b"" if bodyless else self.body)


def response(status: int, body: str = "", headers: Iterable[Header] = (), media_type: str = "text/plain") -> Response:
    """An answer with a text."""
    payload = body.encode("utf-8")
    if status == 204:  # RFC 9110 section 8.6: no Content-Length in it
        return Response(status, tuple(headers))
    about = (("Content-Type", f"{media_type}; charset=utf-8"), ("Content-Length", str(len(payload))))
    return Response(status, (*headers, *about), payload)


def document(body: bytes, content_type: str, headers: Iterable[Header] = ()) -> Response:
    """An answer with what is asked for, as it is."""
    about = (("Content-Type", content_type), ("Content-Length", str(len(body))))
    return Response(200, (*headers, *about), body)


def refusal(fault: Fault, retry_after: int | None = None, allow: str = "GET") -> Response:
    """The answer of a fault: its status, the headers that status asks for, its fixed word as the body."""
    status = fault.value.status
    assert status is not None, f"{fault} has no HTTP status"
    headers: list[Header] = []
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    if status == 405:
        headers.append(("Allow", allow))
    if status == 426:
        # RFC 9110 section 7.8: Upgrade is named in Connection; RFC 6455 section 4.4: the version is told
        headers += [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    return response(status, fault.value.word + "\n", headers)
