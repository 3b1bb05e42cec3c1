"""What the transports of byte servers share: how a connection is written, read and ended, TLS included."""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from contextlib import suppress

import anyio

from qaws_proto.inputs import BytesReceived, ConnectionLost, EofReceived

from .manager import WebSocketManager
from .telemetry import log_event
from .tls import TlsSession

LOGGER = logging.getLogger("qaws.connection")


class ByteTransport(ABC):
    """A socket as a connection's transport. Adapters say how bytes come and go."""

    __slots__ = ("_tls", "manager", "number")

    def __init__(self, manager: WebSocketManager, tls: TlsSession | None) -> None:
        self.manager = manager
        self.number = 0
        self._tls = tls

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes through the socket, behind those before. Waits for nothing, raises nothing."""

    @abstractmethod
    def write_eof(self) -> None:
        """Half-close the socket, behind what was written. Doing it twice is doing it once."""

    @abstractmethod
    def abort(self) -> None:
        """Close the socket, what is unsent with it."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read again."""

    def _say(self, data: bytes) -> None:
        if data:
            self.write(data)
        if self._tls is not None and self._tls.closed:
            self.write_eof()

    def _tls_failed(self, error: ssl.SSLError) -> None:
        assert self._tls is not None
        self.write(self._tls.unsent())
        log_event(LOGGER, logging.DEBUG, "tls_failed", connection=self.number, reason=error.reason)

    # ── what the manager calls ───────────────────────────────────────────────────────────────────────────────────────

    def send(self, data: bytes) -> None:
        """Write; within a TLS handshake it is held until that is over."""
        if self._tls is None:
            self.write(data)
        else:
            self._say(self._tls.write(data))

    def close_write(self) -> None:
        """Half-close, with the last word of TLS before it."""
        if self._tls is None:
            self.write_eof()
        else:
            self._say(self._tls.close())

    def drop(self) -> None:
        """Close, what is unsent with it."""
        self.resume_reading()
        self.abort()


class ReadTransport(ByteTransport):
    """A socket that a task reads."""

    __slots__ = ("paused",)

    def __init__(self, manager: WebSocketManager, tls: TlsSession | None) -> None:
        super().__init__(manager, tls)
        self.paused: anyio.Event | None = None

    @abstractmethod
    async def receive(self, size: int) -> bytes:
        """At most `size` bytes from the socket, `b""` at its end. Raises OSError where it broke."""

    async def converse(self, peer: str | None, *, internal: bool = False) -> None:
        """The drive loop of one connection, from its first byte to its last."""
        manager = self.manager
        # TLS comes behind it: its handshake is counted and timed as well
        number = manager.connect(self, peer, internal=internal)
        read_size, receive = manager.gateway.read_size, self.receive if self._tls is None else self._receive_tls
        try:
            with suppress(OSError, anyio.ClosedResourceError):  # reset, or broken in any other way: it is lost
                while data := await receive(read_size(number)):  # 1. wait
                    manager.feed(BytesReceived(number, data))  # 2 to 5
                    if self.paused is not None:
                        await self.paused.wait()
                manager.feed(EofReceived(number))
        finally:
            manager.feed(ConnectionLost(number))  # which drops the transport, unless that is done

    async def _receive_tls(self, size: int) -> bytes:
        """What the peer says within TLS, and what comes behind our last word as it is: it is only counted."""
        assert self._tls is not None
        while not self._tls.closed:
            try:
                plain = self._tls.read(size)
                if plain is not None:
                    return plain
                data = await self.receive(size)
                if not data:
                    return data
                self._say(self._tls.receive(data))
            except ssl.SSLError as error:
                self._tls_failed(error)
                raise
        return await self.receive(size)

    def pause_reading(self) -> None:
        """Leave bytes where they are: in the reader, and soon in the kernel."""
        self.paused = anyio.Event()

    def resume_reading(self) -> None:
        """Read on."""
        if self.paused is not None:
            self.paused.set()
            self.paused = None
