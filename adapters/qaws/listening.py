"""Where a server listens, on any event loop: its sockets, and the TLS that they speak."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import anyio

from qaws_proto import ConfigError
from qaws_proto.config import SslConfig

BACKLOG = 1024  # connections that the kernel keeps until they are accepted
FREE_PORT_TRIES = 8


async def listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of `host`, all on one port. Raises OSError where none can be had."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = [(family, address) for family, _, _, _, address in dict.fromkeys(found)]
    for _ in range(FREE_PORT_TRIES if port == 0 else 0):
        try:
            return _bind_all(host, port, addresses)
        except OSError as error:  # the port that is free in one family need not be free in the other
            if error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(host, port, addresses)


def _bind_all(host: str, port: int, addresses: Sequence[tuple[int, tuple[Any, ...]]]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for family, address in addresses:
            if listeners and port == 0:
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            listener = _bind(family, address)
            if listener is not None:
                listeners.append(listener)
        if not listeners:
            raise OSError(errno.EADDRNOTAVAIL, f"no address of {host} can be listened on")
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket | None:
    """One listening socket; None where this machine has no such address family or address."""
    try:
        # Named as TCP, or asyncio would leave Nagle's algorithm on in every connection accepted from it.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited, for loops that do not set it
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return listener


def tls_context(config: SslConfig) -> ssl.SSLContext | None:
    """The TLS context of a configuration. Raises ConfigError where the files cannot be used."""
    if not config.enabled:
        return None
    if config.cert_file is None or config.key_file is None:
        raise ConfigError("security.ssl: cert_file and key_file are both needed where ssl is enabled")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for file in (config.cert_file, config.key_file):  # load_cert_chain does not say which one it cannot read
            open(file, "rb").close()
        context.load_cert_chain(config.cert_file, config.key_file, password=_no_passphrase)
    except ssl.SSLError as error:
        raise ConfigError(
            f"security.ssl: certificate and key do not fit, or are no PEM files ({error.reason})"
        ) from None
    except OSError as error:
        raise ConfigError(f"security.ssl: {error.strerror}: {error.filename}") from None
    return context


def _no_passphrase() -> str:
    """Instead of OpenSSL's prompt, at which a server would wait for ever."""
    raise ConfigError("security.ssl: the private key is encrypted; give one without a passphrase")
