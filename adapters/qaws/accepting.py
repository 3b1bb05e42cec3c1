"""The one accept loop of all byte servers. It lives through everything that `accept` can meet (C2)."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable

import anyio

from qaws_proto.admission.ratelimit import Seldom

from .listening import Listener
from .telemetry import log_event

BATCH = 64  # connections accepted before others get their turn
PAUSE = 0.1  # seconds before the next try, where not even refusing is possible

# Nothing is left of what a connection needs: of descriptors, in this process or on this machine, or of memory.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# The trouble of one connection that was gone before it was accepted; on Linux of its network too (accept(2)).
PASSING = frozenset(
    {
        errno.ECONNABORTED, errno.ECONNRESET, errno.EINTR, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT,
        errno.EOPNOTSUPP, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        *([errno.ENONET] if hasattr(errno, "ENONET") else []),
    }
)  # fmt: skip

LOGGER = logging.getLogger("qaws.listener")


class Acceptor:
    """Accepts for all listeners of a server, with one descriptor in reserve.

    Where no descriptor is left the reserve is given up to accept a client and close it at once: it is refused instead
    of left to wait, and the listener is not readable for ever. Then the reserve is taken again.
    """

    def __init__(self, serve: Callable[[socket.socket, str | None, Listener], None], log_interval: float) -> None:
        """`serve` takes what was accepted, and the IP address of its peer; one line is logged in `log_interval` s."""
        self._serve = serve
        self._seldom = Seldom(log_interval, max_keys=1)
        self._reserve: int | None = None
        self._take_reserve()

    def close(self) -> None:
        """Give the reserve back."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    async def accept(self, listener: Listener) -> None:
        """Accept until the listener is closed."""
        source = listener.socket
        while source.fileno() != -1:
            try:
                await anyio.wait_readable(source)
            except anyio.ClosedResourceError:
                return
            if not self._accept_batch(listener):
                await anyio.sleep(PAUSE)

    def _accept_batch(self, listener: Listener) -> bool:
        """Accept what is there, up to `BATCH`. False where it makes no sense to try again at once."""
        for _ in range(BATCH):
            try:
                accepted, address = listener.socket.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in PASSING:
                    continue
                if self._seldom.admit("", time.monotonic()):
                    code = errno.errorcode.get(error.errno or 0, error.errno)
                    log_event(LOGGER, logging.WARNING, "accept_failed", error=code, text=error.strerror)
                return error.errno in EXHAUSTED and self._refuse_one(listener.socket)
            if self._reserve is None:  # it was lost to somebody else in a moment of need
                self._take_reserve()
            accepted.setblocking(False)
            self._serve(accepted, None if listener.local else address[0], listener)
        return True

    def _refuse_one(self, source: socket.socket) -> bool:
        """Accept a client with the reserve, and close. False where even that is not possible."""
        had_one = self._reserve is not None
        self.close()
        try:
            source.accept()[0].close()
        except BlockingIOError:  # it has gone by itself
            pass
        except OSError:  # somebody else was faster, or it was no want of descriptors: why is in the log already
            had_one = False
        self._take_reserve()
        return had_one

    def _take_reserve(self) -> None:
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        except OSError:  # there is none now; it is tried again with the next connection
            self._reserve = None
