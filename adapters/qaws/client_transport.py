"""One connection of a client: opened, read and written by tasks of a host, with TLS where its address asks for it."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.lowlevel

from qaws_proto.client.io import ClientInput, DataReceived, TransportFailed, TransportLost, TransportOpened

from .client_inbox import Gate
from .host import TaskHost

READ = 64 * 1024  # bytes
UNSENT = 64 * 1024  # bytes beyond which nothing more is read: a server that floods us with pings has to read as well
LINGER = 1.0  # seconds for the last bytes to go out

NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # as versions of OpenSSL call what is none
BROKEN = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.BusyResourceError, anyio.EndOfStream)


class Address(NamedTuple):
    """Where a server is."""

    secure: bool
    name: str
    port: int
    host: str  # as in the Host header
    target: str

    @property
    def origin(self) -> str:
        """The URL as far as its host and port."""
        return f"{'wss' if self.secure else 'ws'}://{self.host}"

    def __str__(self) -> str:
        """The URL without what may be secret in it: user, password and query."""
        return f"{self.origin}{self.target.partition('?')[0]}"


def parse_address(url: str) -> Address:
    """The address of a `ws://` or `wss://` URL. Raises ValueError where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"{_origin(url)!r} is no address: its host is none") from None
    try:
        port = parts.port
    except ValueError:  # which quotes what may be a password
        raise ValueError(f"{_origin(url)!r} is no address: its port is no number from 0 to 65535") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{_origin(url)!r} is no WebSocket address; one looks like ws://localhost:8765/")
    secure = parts.scheme == "wss"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    return Address(secure, parts.hostname, (443 if secure else 80) if port is None else port, host, target)


def _origin(url: str) -> str:
    """Scheme and name of what may be no URL: nothing that may be a user, a password or a query, and so no port."""
    scheme, _, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", "")
    netloc = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) or "@" in rest[len(netloc) :]:
        return "…"  # where the name is, is anybody's guess
    return f"{scheme}://{re.sub(r':[^:]*$', '', netloc.rpartition('@')[2])}"


class ClientTransport:
    """A connection. What happens to it is told to `tell`, until it is closed."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        gate: Gate,
        host: TaskHost,
        tell: Callable[[ClientTransport, ClientInput], None],
    ) -> None:
        """`context` is for TLS (None: without); while `gate` is shut nothing is read, and nothing is opened."""
        self._address = address
        self._context = context
        self._gate = gate
        self._host = host
        self._tell = tell
        self._stream: anyio.abc.ByteStream | None = None
        self._scope = anyio.CancelScope()
        self._unsent = bytearray()
        self._writing: anyio.Event | None = None  # set when what was written has gone out
        self._broken = False  # nothing can be written any more

    def open(self) -> None:
        """Open it, and read until its end."""
        self._host.spawn(self._run)

    def write(self, data: bytes) -> None:
        """Send this behind all the rest."""
        if self._broken:
            return
        self._unsent += data
        if self._writing is None:
            self._writing = anyio.Event()
            self._host.spawn(self._write, self._writing)

    def close(self) -> None:
        """Close it once what was written has gone out, or stop opening it."""
        if self._writing is None:
            self.abort()
        else:
            self._host.spawn(self._linger, self._writing)

    def abort(self) -> None:
        """Close it now."""
        self._scope.cancel()

    async def _run(self) -> None:
        with self._scope:
            await anyio.lowlevel.checkpoint()
            await self._gate.passed()
            try:
                self._stream = await self._connect()
            except (*BROKEN, ValueError) as error:  # a ValueError of a name that is none
                self._tell(self, TransportFailed(f"{self._address.name}:{self._address.port}: {_reason(error)}"))
                return
            try:
                self._tell(self, TransportOpened())
                await self._read(self._stream)
            finally:
                await anyio.aclose_forcefully(self._stream)

    async def _connect(self) -> anyio.abc.ByteStream:
        name, port, context = self._address.name, self._address.port, self._context
        if context is None:
            return await anyio.connect_tcp(name, port)
        # A stream that is cut off is told from one that ends by the Close of WebSocket, not by that of TLS.
        return await anyio.connect_tcp(
            name, port, ssl_context=context, tls_hostname=name, tls_standard_compatible=False
        )

    async def _read(self, stream: anyio.abc.ByteStream) -> None:
        with suppress(*BROKEN):
            while True:
                data = await stream.receive(READ)
                self._tell(self, DataReceived(data))
                await self._gate.passed()
                while self._writing is not None and len(self._unsent) > UNSENT:
                    await self._writing.wait()
        self._tell(self, TransportLost())

    async def _write(self, written: anyio.Event) -> None:
        try:
            while self._unsent:
                assert self._stream is not None
                data = bytes(self._unsent)
                self._unsent.clear()
                await self._stream.send(data)
        except BROKEN:  # the one who reads is told, or hears nothing any more
            self._broken = True
        finally:
            self._writing = None
            written.set()

    async def _linger(self, written: anyio.Event) -> None:
        with anyio.move_on_after(LINGER):
            await written.wait()
        self.abort()


def _reason(error: Exception) -> str:
    """Why a connection could not be opened, for people."""
    cause = error.__cause__
    if isinstance(cause, ExceptionGroup):  # of the several addresses of a name
        cause = cause.exceptions[0]
    first = cause if isinstance(cause, OSError) else error
    if isinstance(first, ssl.SSLCertVerificationError):
        return first.verify_message
    if isinstance(first, ssl.SSLError):  # its errno is none of the operating system
        return "no TLS is spoken there" if first.reason in NO_TLS else _words(first)
    if isinstance(first, OSError) and type(first) is not socket.gaierror and first.errno:
        return os.strerror(first.errno)  # what event loops make of it differs
    return getattr(first, "strerror", None) or str(first) or type(first).__name__


def _words(error: ssl.SSLError) -> str:
    """What OpenSSL says, as words."""
    return error.reason.lower().replace("_", " ") if error.reason else error.strerror or type(error).__name__
