"""What the byte servers share: starting, listening, TLS and its reload, draining and stopping, on any event loop."""

from __future__ import annotations

import logging
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

import anyio

from qaws_proto import ConfigError, WebSocketConfig

from .accepting import Acceptor
from .host import AnyioHost
from .listening import Listener, open_listeners, url_of
from .manager import WebSocketManager
from .metrics_port import MetricsPort
from .telemetry import log_event
from .tls import TlsSession, tls_context

MOMENT = 0.1  # seconds for tasks that were told to end now
STORE_MOMENT = 1.0  # seconds for a store whose server stops now: for each save, and to close
LOGGER = logging.getLogger("qaws.listener")

Server = TypeVar("Server", bound="ByteServer")


class ByteServer(ABC):
    """A listening gateway. Use as `async with WebSocketServer(agent, config):`, or `start` and `stop`."""

    host: type[AnyioHost] = AnyioHost  # what runs its tasks and its timer

    def __init__(
        self, agent: object, config: WebSocketConfig | None = None, *, sockets: Sequence[socket.socket] | None = None
    ) -> None:
        """`agent` is an agent (docs/agents.md), or a WebSocketManager that has one.

        `sockets` listen already, and stand in for the addresses of the configuration; the server closes them.
        Raises ConfigError where the configuration cannot be used, AgentError where the agent cannot be called.
        """
        self.manager = WebSocketManager.of(agent, config)
        self.config = self.manager.config
        self.port = self.config.server.port  # once started, that of the first TCP socket
        self._given = sockets
        self._listeners: list[Listener] = []
        self._acceptor: Acceptor | None = None  # while this server is started
        self._tls: ssl.SSLContext | None = None
        self._drained = anyio.Event()
        self._host = self.host(self.manager.wake)
        self._metrics_port = MetricsPort(self.manager, self._host, lambda: self._tls)

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets, once started."""
        return [listener.socket for listener in self._listeners]

    @property
    def urls(self) -> list[str]:
        """Where clients connect, once started: by each address that is listened on."""
        return list(dict.fromkeys(listener.url for listener in self._listeners))  # localhost may be two sockets

    @property
    def url(self) -> str:
        """Where clients connect: by the first address."""
        return self.urls[0] if self._listeners else url_of(self.config, self.config.server.host, self.port)

    @property
    def metrics_urls(self) -> list[str]:
        """Where `/metrics` has an address of its own (`metrics.listen`), once started."""
        return self._metrics_port.urls

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Open the store, and listen. Raises ConfigError where no agent is set, the certificate or `metrics.listen`
        cannot be used or it would be unsafe to serve, StoreError where the store cannot be opened, and OSError for an
        address."""
        self._tls = tls_context(self.config.security.ssl)
        await self.manager.open_store()  # before anybody can connect
        try:
            await self._listen()
        except BaseException:
            await self.manager.close_store()
            raise

    async def _listen(self) -> None:
        listeners = await open_listeners(self.config, self._given)
        try:
            hosts = [listener.host for listener in listeners if listener.host is not None]
            async with self._metrics_port.opening():
                self.manager.require_safe(hosts)
                self.manager.attach(self._host)
                self.manager.log_warnings(hosts)
            self.manager.drained = self._drained.set
            self._listeners = listeners
            self.port = next((one.socket.getsockname()[1] for one in listeners if not one.local), self.port)
            self._acceptor = Acceptor(self._accepted, self.config.limits.refusal_interval)
            for listener in listeners:
                self._host.spawn(self._acceptor.accept, listener)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise

    async def stop(self) -> None:
        """Drain: runs may finish, clients are told when to come back, and every connection is closed.

        Until that is done `/readyz` and new clients are still answered, with 503.
        """
        if self._acceptor is None:
            return
        self.manager.drain()
        try:
            await self._drained.wait()
        except BaseException:  # it is cancelled: whoever waits has lost patience
            self._close()
            await self.manager.close_store()
            raise
        self._close()
        await self._finish(self.config.agent.cancel_grace)

    async def stop_now(self) -> None:
        """Cancel every run and close every connection; a `stop` that waits ends too."""
        if self._acceptor is None:
            return
        self._close()
        while not self._drained.is_set():
            with anyio.move_on_after(MOMENT):
                await self._drained.wait()
            if self.manager.store_port is not None:
                self.manager.store_port.give_up(STORE_MOMENT)
        await self._finish(MOMENT, STORE_MOMENT)

    async def _finish(self, patience: float, store_patience: float | None = None) -> None:
        try:
            await self._host.finish(patience)
            await self.manager.close_agent(patience)
        finally:
            await self.manager.close_store(store_patience)

    def _close(self) -> None:
        """Listen no more, and send away whoever is still there."""
        for listener in self._listeners:
            listener.close()
        if self._acceptor is not None:
            self._acceptor.close()
        self._metrics_port.close()
        self.manager.stop()

    async def serve_forever(self) -> None:
        """Start, unless started, and serve until cancelled; then drain."""
        if self._acceptor is None:
            await self.start()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.stop()

    async def __aenter__(self: Server) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def reload(self) -> None:
        """Read what stands in files, or at an address, again: certificates of TLS, keys of tokens.

        Raises ConfigError as `reload_tls` does; the keys are read all the same, and the log tells of them.
        """
        self.manager.reload_keys()
        if self.config.security.ssl.enabled:
            self.reload_tls()

    def reload_tls(self) -> None:
        """Read certificate, key and authorities again, for the connections from now on; open ones go on as they are.

        Raises ConfigError where TLS is off or the files cannot be used; then those from before stay in use.
        """
        try:
            context = tls_context(self.config.security.ssl)
            if context is None:
                raise ConfigError("security.ssl.enabled: TLS is off, there is no certificate to read again")
        except ConfigError as error:
            log_event(LOGGER, logging.ERROR, "tls_not_reloaded", reason=str(error))
            raise
        self._tls = context
        log_event(LOGGER, logging.INFO, "tls_reloaded", cert_file=self.config.security.ssl.cert_file)

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _accepted(self, accepted: socket.socket, peer: str | None, listener: Listener) -> None:
        tls = None if self._tls is None or listener.local else TlsSession(self._tls)
        self._host.spawn(self._serve, accepted, peer, tls)

    @abstractmethod
    async def _serve(self, accepted: socket.socket, peer: str | None, tls: TlsSession | None) -> None:
        """Serve one connection, from its first byte to its last."""
