"""The wire of a client: the upgrade request and its answer (RFC 6455 section 4.1), then masked frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import h11

from .frames import FrameEvent, Frames
from .http import Header, accept_key

MAX_ANSWER = 64 * 1024  # bytes of a server's answer to the upgrade


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

    __slots__ = ("_frames", "_http", "_key", "_subprotocols", "_verdict", "request")

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
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER)
        self._frames = Frames(client=True, max_message=max_message, max_fragments=1 << 20)
        self._verdict: Accepted | Rejected | None = None
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
        except h11.LocalProtocolError as error:
            raise ValueError(f"this makes no HTTP request: {error}") from None
        assert request is not None
        self.request: bytes = request

    def receive(self, data: bytes) -> None:
        """Take bytes of the server."""
        if isinstance(self._verdict, Accepted):
            self._frames.receive(data)
        elif self._verdict is None:
            self._http.receive_data(data)

    def next_event(self) -> Accepted | Rejected | FrameEvent | None:
        """The next thing that the bytes say; the first is Accepted or Rejected."""
        if self._verdict is None:
            self._verdict = self._judge()
            return self._verdict
        return self._frames.next_event()

    def text(self, payload: bytes) -> bytes:
        """A frame with one text message."""
        return self._frames.text(payload)

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping."""
        return self._frames.pong(payload)

    def close(self, code: int = 1000) -> bytes:
        """A Close, or the answer to the server's; nothing where ours is out already."""
        return self._frames.close(code)

    def _judge(self) -> Accepted | Rejected | None:
        """The answer to the upgrade, once its head is here."""
        try:
            answer = self._http.next_event()
        except h11.RemoteProtocolError as error:
            return Rejected(0, None, f"no HTTP answer: {error}")
        if answer is h11.NEED_DATA:
            return None
        if not isinstance(answer, h11.InformationalResponse | h11.Response):
            return Rejected(0, None, "the server closed the connection instead of an answer")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in answer.headers}
        if answer.status_code != 101:
            retry_after = headers.get("retry-after", "")
            reason = bytes(answer.reason).decode("latin-1")
            return Rejected(answer.status_code, int(retry_after) if retry_after.isdecimal() else None, reason)
        subprotocol = headers.get("sec-websocket-protocol")
        if headers.get("sec-websocket-accept") != accept_key(self._key):
            return Rejected(101, None, "Sec-WebSocket-Accept does not answer the key")
        if subprotocol is not None and subprotocol not in self._subprotocols:
            return Rejected(101, None, "the server selected a subprotocol that was not offered")
        self._frames.receive(self._http.trailing_data[0])
        return Accepted(subprotocol)
