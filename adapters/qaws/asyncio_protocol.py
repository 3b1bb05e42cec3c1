"""The gateway on asyncio's transports and protocols: no task and no buffer for a connection, one timer for all."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

import anyio

from qaws_proto.inputs import BytesReceived, ConnectionLost, EofReceived, WriteBlocked, WriteDrained, WriteProgressed

from .asyncio_server import PROGRESS, AsyncioHost
from .byte_transport import ByteTransport
from .outgoing import WRITE_HIGH
from .server import ByteServer
from .tls import TlsSession


class WebSocketServer(ByteServer):
    """A listening gateway. Use as `async with WebSocketServer(agent, config):`, or `start` and `stop`."""

    host = AsyncioHost
    connections = 0  # that asyncio has not given back
    given_back: anyio.Event | None = None  # set with the last of them, where that is waited for
    _buffer = memoryview(b"")

    async def _serve(self, accepted: socket.socket, peer: str | None, tls: TlsSession | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: ProtocolTransport(self, tls, peer), accepted)
        except OSError:  # it was reset before it could be looked at
            accepted.close()

    def buffer(self, size: int) -> memoryview:
        """Where the next bytes of a connection are put, which are taken from there before those of another one come."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        return self._buffer[:size]

    async def _finish(self, patience: float, store_patience: float | None = None) -> None:
        if self.connections:
            self.given_back = anyio.Event()
            with anyio.move_on_after(patience):
                await self.given_back.wait()
        await super()._finish(patience, store_patience)


class ProtocolTransport(ByteTransport, asyncio.BufferedProtocol):
    """A protocol of asyncio, and its transport, as a connection's transport."""

    __slots__ = ("_buffer", "_dropped", "_looking", "_paused", "_peer", "_server", "_stream")

    def __init__(self, server: WebSocketServer, tls: TlsSession | None, peer: str | None) -> None:
        super().__init__(server.manager, tls)
        self._server = server
        self._peer = peer
        self._buffer = server.buffer(0)
        self._paused = False
        self._dropped = False  # the node knows of its end
        self._looking: asyncio.TimerHandle | None = None  # whether the peer reads, while too much is unsent
        self._stream: asyncio.Transport

    # ── what asyncio calls: it waits for bytes, for room and for the end (1), and the manager does the rest (2 to 5) ─

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is asyncio's from now on."""
        self._server.connections += 1
        self._stream = cast(asyncio.Transport, transport)  # uvloop's own is no subclass
        self._stream.set_write_buffer_limits(high=WRITE_HIGH)
        self.manager.connect(self, self._peer)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where bytes are put."""
        self._buffer = self._server.buffer(self.manager.gateway.read_size(self.number))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        data = bytes(self._buffer[:nbytes])
        if self._tls is None or self._tls.closed:  # behind our last word within TLS they are only counted
            self.manager.feed(BytesReceived(self.number, data))
        else:
            self._read_tls(data)

    def eof_received(self) -> None:
        """The peer sends no more."""
        self.manager.feed(EofReceived(self.number))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._look_no_more()
        if not self._dropped:
            self.manager.feed(ConnectionLost(self.number))  # which drops the transport
        self._server.connections -= 1
        if self._server.connections == 0 and self._server.given_back is not None:
            self._server.given_back.set()

    def pause_writing(self) -> None:
        """More is unsent than is good."""
        self.manager.feed(WriteBlocked(self.number))
        self._look(self._stream.get_write_buffer_size())

    def resume_writing(self) -> None:
        """There is room again."""
        self._look_no_more()
        self.manager.feed(WriteDrained(self.number))

    def _look(self, unsent: int) -> None:
        left = self._stream.get_write_buffer_size()
        if left < unsent:
            self.manager.feed(WriteProgressed(self.number))
        self._looking = asyncio.get_running_loop().call_later(PROGRESS, self._look, left)

    def _look_no_more(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _read_tls(self, data: bytes = b"") -> None:
        """What the peer says within TLS, as long as the node wants to hear it."""
        tls, manager = self._tls, self.manager
        assert tls is not None
        try:
            if data:
                self._say(tls.receive(data))
            while not self._paused and not tls.closed:
                plain = tls.read(manager.gateway.read_size(self.number))
                if plain is None:
                    return
                manager.feed(BytesReceived(self.number, plain) if plain else EofReceived(self.number))
                if not plain:
                    return
        except ssl.SSLError as error:
            self._tls_failed(error)
            manager.feed(ConnectionLost(self.number))

    # ── what the manager calls ───────────────────────────────────────────────────────────────────────────────────────

    def send(self, data: bytes) -> None:
        """Write; without TLS straight to asyncio's transport."""
        if self._tls is not None:
            super().send(data)
        elif not self._stream.is_closing():
            self._stream.write(data)

    def write(self, data: bytes) -> None:
        """Write; asyncio tells when the peer does not keep up."""
        if not self._stream.is_closing():  # it broke a moment ago, and the end has yet to be told
            self._stream.write(data)

    def write_eof(self) -> None:
        """Half-close, behind what was written."""
        if not self._stream.is_closing():
            self._stream.write_eof()

    def abort(self) -> None:
        """Close, what is unsent with it."""
        self._dropped = True
        self._stream.abort()

    def pause_reading(self) -> None:
        """Leave bytes in the kernel, and those of TLS that came already within TLS."""
        self._paused = True
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._stream.resume_reading()
            if self._tls is not None:
                asyncio.get_running_loop().call_soon(self._read_tls)
