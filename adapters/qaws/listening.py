"""Where a server listens, on any event loop: TCP, Unix sockets, and sockets that were opened by somebody else."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio

from qaws_proto import ConfigError, WebSocketConfig
from qaws_proto.config import host_and_port

BACKLOG = 1024  # connections that the kernel keeps until they are accepted
FREE_PORT_TRIES = 8
UNIX = getattr(socket, "AF_UNIX", None)
FAMILIES = (socket.AF_INET, socket.AF_INET6, UNIX)
SYSTEMD_FIRST = 3  # descriptor of the first socket that systemd passes (sd_listen_fds(3))


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket, and where clients reach it."""

    socket: socket.socket
    url: str
    file: tuple[str, int, int] | None = None  # of a Unix socket made here: path, device, inode

    @property
    def local(self) -> bool:
        """Whether it is a Unix socket: its clients have no address, and speak without TLS."""
        return _is_unix(self.socket)

    @property
    def host(self) -> str | None:
        """The address that it is bound to."""
        return None if self.local else self.socket.getsockname()[0]

    def close(self) -> None:
        """Listen no more; who waits for connections is told. Must be called on the event loop."""
        if self.socket.fileno() == -1:
            return
        anyio.notify_closing(self.socket)
        self.socket.close()
        if self.file is not None:
            path, *mine = self.file
            with suppress(OSError):  # removed, or out of reach by now
                found = os.stat(path)
                if [found.st_dev, found.st_ino] == mine:  # and not that of a server which came after us
                    os.unlink(path)


async def open_listeners(
    config: WebSocketConfig, given: Sequence[socket.socket] | None, addresses: Sequence[str] = ()
) -> list[Listener]:
    """The listeners of a configuration, or of sockets that are `given`; they belong to the server from now on.

    `addresses` stand in for those that the configuration names for clients.

    Raises OSError with the address as its `filename` where one cannot be had, ConfigError for what does not listen;
    none is open then.
    """
    opened: list[Listener] = []
    try:
        if given is not None:
            opened += [Listener(one, "") for one in given]
            for listener in opened:
                _require_listening(listener.socket)
            opened = [Listener(one, _url(config, one)) for one in given]
        elif addresses or config.server.listen:
            for address in addresses or config.server.listen:
                opened += await _open(config, address)
        else:
            opened += await _open_tcp(config, config.server.host, config.server.port)
        if not opened:
            raise ConfigError("a server needs at least one socket to listen on")
        for listener in opened:
            _prepare(listener.socket)
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return opened


async def _open(config: WebSocketConfig, address: str) -> list[Listener]:
    """What an entry of `server.listen` stands for."""
    tcp = host_and_port(address)
    if tcp is not None:
        return await _open_tcp(config, *tcp)
    try:
        if address.startswith("unix:"):
            return [_open_unix(config, address.removeprefix("unix:"))]
        found = _passed_by_systemd() if address == "systemd" else [_inherited(int(address.removeprefix("fd:")))]
    except OSError as error:
        error.filename = address
        raise
    return [Listener(one, _url(config, one)) for one in found]


async def _open_tcp(config: WebSocketConfig, host: str, port: int) -> list[Listener]:
    try:
        return [Listener(one, _url(config, one, host)) for one in await listen(host, port)]
    except OSError as error:
        error.filename = f"{host}:{port}"
        raise


def url_of(config: WebSocketConfig, host: str, port: int) -> str:
    """Where clients connect to a TCP socket."""
    scheme = "wss" if config.security.ssl.enabled else "ws"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{config.server.path}"


def _url(config: WebSocketConfig, listener: socket.socket, host: str | None = None) -> str:
    """Where clients connect: by the name of the host where one was given, else by the address."""
    if _is_unix(listener):
        name = os.fsdecode(listener.getsockname()).replace("\0", "@")  # an abstract one, as tools write it
        return f"ws+unix:{name}:{config.server.path}"
    address, port = listener.getsockname()[:2]
    return url_of(config, host or address, port)


def _prepare(listener: socket.socket) -> None:
    listener.setblocking(False)
    if not _is_unix(listener):  # inherited by what is accepted
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _require_listening(given: socket.socket) -> None:
    known = given.type == socket.SOCK_STREAM and given.family in FAMILIES
    if not known or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"{given!r} does not listen: give a TCP or Unix socket behind bind() and listen()")


def _is_unix(listener: socket.socket) -> bool:
    return listener.family == UNIX


# ── sockets of others ────────────────────────────────────────────────────────────────────────────────────────────────


def _inherited(descriptor: int) -> socket.socket:
    inherited = socket.socket(fileno=descriptor)
    inherited.set_inheritable(False)
    try:
        _require_listening(inherited)
    except BaseException:
        inherited.close()
        raise
    return inherited


def _passed_by_systemd() -> list[socket.socket]:
    """All sockets that systemd, or a program that does as it does, passed to this very process (sd_listen_fds(3))."""
    ours = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)  # programs that an agent starts must not take them for theirs
    if not (ours and count.isdecimal() and int(count) > 0):
        raise ConfigError(
            "server.listen: no sockets were passed to this process (LISTEN_FDS); is it started by systemd?"
        )
    inherited: list[socket.socket] = []
    try:
        for descriptor in range(SYSTEMD_FIRST, SYSTEMD_FIRST + int(count)):
            inherited.append(_inherited(descriptor))
    except BaseException:
        for one in inherited:
            one.close()
        raise
    return inherited


# ── Unix sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_unix(config: WebSocketConfig, path: str) -> Listener:
    """A Unix socket. One that a dead server left is replaced; one that is alive, or no socket at all, is in use."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
    except BaseException:
        listener.close()
        raise
    made = os.stat(path)
    opened = Listener(listener, _url(config, listener), (os.path.abspath(path), made.st_dev, made.st_ino))
    try:
        if config.server.unix_mode is not None:
            os.chmod(path, int(config.server.unix_mode, 8))  # before anybody can connect
        listener.listen(BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind will say that it is in use
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with suppress(BlockingIOError):  # somebody is there, and busy
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)


# ── TCP ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
