"""One connection of a client: the upgrade, frames to events and back, and whether the server is still there."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256

from ..admission.gate import SUBPROTOCOL
from ..clock import Now, Reason, Timers
from ..events import ClientEvent, ServerEvents, dump
from ..faults import Fault
from ..wire.client import Accepted, ClientLink, Rejected
from ..wire.frames import CloseReceived, PingReceived, PongReceived, TextReceived, Violated
from ..wire.http import Header
from .events import read_event

Said = Accepted | Rejected | ServerEvents | CloseReceived | Fault


def open_link(host: str, target: str, headers: tuple[Header, ...], word: str, max_message: int) -> ClientLink:
    """The wire of a new connection; `word` is a new unguessable text. Raises ValueError where it makes no request."""
    key = b64encode(sha256(word.encode()).digest()[:16]).decode("ascii")
    return ClientLink(host, target, key, subprotocols=(SUBPROTOCOL,), headers=headers, max_message=max_message)


class ClientConnection:
    """A transport that is open, from the request for an upgrade to its end."""

    __slots__ = ("_heard_at", "_link", "_patience", "_pinged_at", "_silence", "_timers", "_write")

    def __init__(
        self,
        link: ClientLink,
        write: Callable[[bytes], None],
        timers: Timers,
        *,
        silence: float,
        patience: float,
        now: Now,
    ) -> None:
        """After `silence` seconds a ping; after `patience` more the transport is as good as gone."""
        self._link = link
        self._write = write
        self._timers = timers
        self._silence = silence
        self._patience = patience
        self._heard_at = now.mono
        self._pinged_at: float | None = None
        write(link.request)

    def receive(self, data: bytes, now: Now) -> Iterator[Said]:
        """Bytes came. Yields what they say, each before anything behind it is looked at."""
        self._heard_at = now.mono
        self._link.receive(data)
        while (event := self._link.next_event()) is not None:
            if isinstance(event, Accepted):
                self._timers.set(Reason.HEARTBEAT, 0, now.mono + self._silence)
                yield event
            elif isinstance(event, Rejected | CloseReceived):
                yield event
            elif isinstance(event, PingReceived):
                self._write(self._link.pong(event.payload))
            elif isinstance(event, Violated):
                yield event.fault
            elif not isinstance(event, PongReceived):
                said = read_event(event.text) if isinstance(event, TextReceived) else Fault.BINARY_REFUSED
                if said is not None:
                    yield said

    def say(self, event: ClientEvent) -> None:
        """Send an event."""
        self._write(self._link.text(dump(event)))

    def close(self, code: int) -> None:
        """Send a Close, or the answer to the server's."""
        self._write(self._link.close(code))

    def alive(self, now: Now) -> bool:
        """Ping after silence; False where even that gave no sign of life. Re-arms its timer: traffic does not."""
        silent_at = self._heard_at + self._silence
        if self._pinged_at is not None and self._heard_at < self._pinged_at:
            return False  # the timer was set for the end of patience
        if now.mono >= silent_at:
            self._pinged_at = now.mono
            self._write(self._link.ping())
            self._timers.set(Reason.HEARTBEAT, 0, now.mono + self._patience)
        else:
            self._timers.set(Reason.HEARTBEAT, 0, silent_at)
        return True
