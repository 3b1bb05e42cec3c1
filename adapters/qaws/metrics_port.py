"""The address of its own where metrics are read, whatever serves the clients."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from qaws_proto import ConfigError
from qaws_proto.handshake import METRICS

from .accepting import Acceptor
from .host import AnyioHost
from .listening import Listener, open_listeners
from .manager import WebSocketManager
from .socket_transport import serve_socket
from .tls import TlsSession


class MetricsPort:
    """Listens at `metrics.listen`, where that is set; else it does nothing."""

    def __init__(
        self, manager: WebSocketManager, host: AnyioHost, tls: Callable[[], ssl.SSLContext | None] = lambda: None
    ) -> None:
        """`tls` gives what its connections are encrypted with, None where they are not."""
        self._manager = manager
        self._host = host
        self._tls = tls
        self._listeners: list[Listener] = []
        self._acceptor: Acceptor | None = None

    @property
    def urls(self) -> list[str]:
        """Where metrics are read, once it is open."""
        path = self._manager.config.server.path
        places = (one.url.removeprefix("ws").removesuffix(path) for one in self._listeners)
        return list(dict.fromkeys(f"http{place}{METRICS}" for place in places))

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Listen while the rest of a server starts, and accept where that succeeds.

        Raises ConfigError where the address cannot be had.
        """
        config = self._manager.config
        if config.metrics.enabled and config.metrics.listen is not None:
            try:
                self._listeners = await open_listeners(config, None, [config.metrics.listen])
            except OSError as error:
                text = f"metrics.listen: cannot listen on {error.filename}: {error.strerror or error}"
                raise ConfigError(text) from None
        try:
            yield
        except BaseException:
            self.close()
            raise
        if self._listeners:
            self._acceptor = Acceptor(self._accepted, config.limits.refusal_interval)
            for listener in self._listeners:
                self._host.spawn(self._acceptor.accept, listener)

    def close(self) -> None:
        """Listen no more. Twice is once."""
        for listener in self._listeners:
            listener.close()
        if self._acceptor is not None:
            self._acceptor.close()

    def _accepted(self, accepted: socket.socket, peer: str | None, listener: Listener) -> None:
        context = None if listener.local else self._tls()
        tls = None if context is None else TlsSession(context)
        self._host.spawn(self._serve, accepted, peer, tls)

    async def _serve(self, accepted: socket.socket, peer: str | None, tls: TlsSession | None) -> None:
        await serve_socket(self._manager, self._host, accepted, peer, tls, internal=True)
