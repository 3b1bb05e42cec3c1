"""The wire of a client: the upgrade request and its answer (RFC 6455 section 4.1), then masked frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import h11

from .frames import FrameEvent, Frames
from .http import Header, accept_key

MAX_ANSWER = 64 * 1024  # bytes of the head of a server's answer to the upgrade
MAX_HINTS = 8  # informational answers before it (RFC 9110 section 15.2)

_END = re.compile(rb"\r?\n\r?\n")  # as h11 finds the end of a head


class Accepted(NamedTuple):
    """The server switched to WebSocket, with this subprotocol."""

    subprotocol: str | None


class Rejected(NamedTuple):
    """The server did not: its status, `retry_after` in seconds if it said one, and why in words."""

    status: int
    retry_after: int | None
    reason: str


class ClientLink:
    """Bytes to messages and messages to bytes, on the client's side. One connection, one object."""

    __slots__ = (
        "_closed",
        "_frames",
        "_head",
        "_hints",
        "_http",
        "_key",
        "_searched",
        "_subprotocols",
        "_verdict",
        "request",
    )

    def __init__(
        self,
        host: str,
        target: str,
        key: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: Sequence[Header] = (),
        max_message: int = 16 * 1024 * 1024,
    ) -> None:
        """`host` with its port as in the URL, `key` 16 random bytes in base64. `request` are the first bytes to send.

        Raises ValueError where one of them cannot stand in an HTTP request.
        """
        self._key = key
        self._subprotocols = tuple(subprotocols)
        self._http = h11.Connection(h11.CLIENT)
        self._head = bytearray()  # what has come of the answer to the upgrade
        self._searched = 0  # so many bytes of it have no end of a head
        self._hints = 0
        self._frames = Frames(client=True, max_message=max_message, max_fragments=1 << 20)
        self._verdict: Accepted | Rejected | None = None
        self._closed = False  # our Close is out
        fields = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Version", "13"),
            *headers,
        ]
        if subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        try:
            request = self._http.send(h11.Request(method="GET", target=target, headers=fields))
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise ValueError(f"this makes no HTTP request: {error}") from None
        assert request is not None
        self.request: bytes = request

    def receive(self, data: bytes) -> None:
        """Take bytes of the server."""
        if isinstance(self._verdict, Accepted):
            self._frames.receive(data)
        elif self._verdict is None:
            self._head += data

    def next_event(self) -> Accepted | Rejected | FrameEvent | None:
        """The next thing that the bytes say; the first is Accepted or Rejected, and nothing follows a Rejected."""
        if isinstance(self._verdict, Accepted):
            return self._frames.next_event()
        if self._verdict is None:
            self._verdict = self._judge()
            return self._verdict
        return None

    def text(self, payload: bytes) -> bytes:
        """A frame with one text message, in UTF-8; nothing once a Close went either way."""
        return b"" if self._closed or not self._frames.readable else self._frames.text(payload)

    def ping(self) -> bytes:
        """A ping; nothing once a Close went either way, or before the upgrade."""
        there = isinstance(self._verdict, Accepted) and not self._closed and self._frames.readable
        return self._frames.ping(b"") if there else b""

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping; nothing once a Close went either way."""
        return self._frames.pong(payload)

    def close(self, code: int = 1000) -> bytes:
        """A Close, or the answer to the server's; nothing where ours is out already, or before the upgrade."""
        if not isinstance(self._verdict, Accepted):
            return b""
        self._closed = True
        return self._frames.close(code)

    def _judge(self) -> Accepted | Rejected | None:
        """The answer to the upgrade, once its head is here. Judged as a whole, so that reads do not matter (C3)."""
        while self._hints <= MAX_HINTS:
            if not self._head.startswith(b"HTTP/1."[: len(self._head)]):
                return Rejected(0, None, "no HTTP answer")
            end = _END.search(self._head, self._searched, MAX_ANSWER)
            if end is None:
                self._searched = max(0, len(self._head) - 3)  # one that is begun
                return None if len(self._head) < MAX_ANSWER else Rejected(0, None, "the answer's head is too long")
            self._http.receive_data(bytes(self._head[: end.end()]))
            del self._head[: end.end()]
            self._searched = 0
            try:
                answer = self._http.next_event()
            except h11.RemoteProtocolError as error:
                return Rejected(0, None, f"no HTTP answer: {error}")
            if isinstance(answer, h11.Response):
                return _rejection(answer)
            assert isinstance(answer, h11.InformationalResponse), "a whole head is an answer"
            if answer.status_code == 101:
                return self._accept(answer)
            self._hints += 1
        return Rejected(0, None, "no HTTP answer behind many hints")

    def _accept(self, answer: h11.InformationalResponse) -> Accepted | Rejected:
        """What the answer must say (RFC 6455 section 4.1, the list behind "the client MUST validate")."""
        headers = _headers(answer)
        if headers.get("upgrade", "").lower() != "websocket":
            return Rejected(101, None, "the server switched to something else")
        if "upgrade" not in (option.strip().lower() for option in headers.get("connection", "").split(",")):
            return Rejected(101, None, "the server did not say Connection: Upgrade")
        if headers.get("sec-websocket-accept") != accept_key(self._key):
            return Rejected(101, None, "Sec-WebSocket-Accept does not answer the key")
        if "sec-websocket-extensions" in headers:
            return Rejected(101, None, "the server selected an extension that was not offered")
        subprotocol = headers.get("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in self._subprotocols:
            return Rejected(101, None, "the server selected a subprotocol that was not offered")
        self._frames.receive(bytes(self._head))
        self._head.clear()
        return Accepted(subprotocol)


def _rejection(answer: h11.Response) -> Rejected:
    wait = _headers(answer).get("retry-after", "")
    reason = bytes(answer.reason).decode("latin-1")
    return Rejected(answer.status_code, int(wait) if wait.isdecimal() and len(wait) < 10 else None, reason)


def _headers(answer: h11.Response | h11.InformationalResponse) -> dict[str, str]:
    """Its headers by their lower-case names; one that stands twice is joined, and so is not what was asked for."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in answer.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
