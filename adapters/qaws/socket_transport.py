"""A connection on any event loop: a socket that is waited for by anyio."""

from __future__ import annotations

import socket
from contextlib import suppress

import anyio

from .byte_transport import ReadTransport
from .host import AnyioHost
from .manager import WebSocketManager
from .outgoing import PIECE, Outgoing
from .tls import TlsSession


class SocketTransport(ReadTransport):
    """A socket as a connection's transport: written to at once, and by a task where the peer does not keep up."""

    __slots__ = ("_aborted", "_ending", "_outgoing", "_socket")

    def __init__(
        self, manager: WebSocketManager, tls: TlsSession | None, accepted: socket.socket, host: AnyioHost
    ) -> None:
        super().__init__(manager, tls)
        self._socket = accepted
        self._aborted = self._ending = False
        self._outgoing: Outgoing[memoryview] = Outgoing(
            manager, self, write=self._write_all, size=len, start=lambda: host.spawn(self._flush)
        )

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes from the socket."""
        while True:
            await anyio.wait_readable(self._socket)
            if self._aborted:  # there may be more to read, without end
                return b""
            with suppress(BlockingIOError):
                return self._socket.recv(size)

    def write(self, data: bytes) -> None:
        """Write what the kernel takes, and queue the rest."""
        sent = 0
        if not self._outgoing.unsent:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                pass
            except OSError:  # it broke, and the reading side will say so
                return
        for start in range(sent, len(data), PIECE):
            self._outgoing.put(memoryview(data)[start : start + PIECE])

    async def _write_all(self, pieces: list[memoryview]) -> None:
        unsent = memoryview(b"".join(pieces))
        while unsent:
            await anyio.wait_writable(self._socket)
            with suppress(BlockingIOError):
                unsent = unsent[self._socket.send(unsent) :]

    async def _flush(self) -> None:
        with suppress(OSError, anyio.ClosedResourceError):  # the reading side tells the node
            await self._outgoing.flush()
            if self._ending:
                self._socket.shutdown(socket.SHUT_WR)

    def write_eof(self) -> None:
        """Half-close, behind what was written."""
        self._ending = True
        if not self._outgoing.unsent:
            with suppress(OSError):  # the peer was faster
                self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End it for both sides, which wakes who reads and who writes; the reader closes the socket."""
        self._aborted = True
        with suppress(OSError):  # the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)


async def serve_socket(
    manager: WebSocketManager, host: AnyioHost, accepted: socket.socket, peer: str | None, tls: TlsSession | None,
    *, internal: bool = False,
) -> None:  # fmt: skip
    """Serve one connection, from its first byte to its last."""
    with accepted:
        try:
            await SocketTransport(manager, tls, accepted, host).converse(peer, internal=internal)
        finally:
            anyio.notify_closing(accepted)  # who still writes is told
