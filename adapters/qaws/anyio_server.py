"""The gateway on anyio: on asyncio, uvloop and trio alike. A task a connection, one task that keeps time."""

from __future__ import annotations

import socket

from .server import ByteServer
from .socket_transport import serve_socket
from .tls import TlsSession


class WebSocketServer(ByteServer):
    """A listening gateway. Use as `async with WebSocketServer(agent, config):`, or `start` and `stop`."""

    async def _serve(self, accepted: socket.socket, peer: str | None, tls: TlsSession | None) -> None:
        await serve_socket(self.manager, self._host, accepted, peer, tls)
