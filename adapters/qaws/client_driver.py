"""The drive loop of a client: tasks, the one timer and a transport around the node `qaws_proto.client.Client`."""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from qaws_proto import Now
from qaws_proto.client import Client, ClientConfig
from qaws_proto.client.io import (
    ClientInput,
    CloseTransport,
    FetchToken,
    OpenTransport,
    SendData,
    TimerFired,
    TokenFailed,
    TokenFetched,
    TransportFailed,
    TransportLost,
)

from .client_inbox import Gate
from .client_transport import LINGER, Address, ClientTransport
from .host import AnyioHost, TaskHost

Token = str | Callable[[], str | Awaitable[str]]


def _both_clocks() -> Now:
    return Now(time.monotonic(), time.time())


class Surroundings(NamedTuple):
    """What a client stands on: this machine, unless a test says otherwise."""

    clock: Callable[[], Now] = _both_clocks
    host: Callable[[Callable[[], None]], TaskHost] = AnyioHost
    transport: Callable[..., ClientTransport] = ClientTransport
    jitter: Callable[[], float] = random.random  # 0 up to 1


class ClientDriver:
    """A node with its transport, its timer and its tasks, on the event loop in which it is first fed."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        settings: ClientConfig,
        token: Token | None,
        gate: Gate,
        perform: Mapping[type, Callable[[Any], None]],
        around: Surroundings,
    ) -> None:
        """`perform` is what the caller does with the effects that are for it: Deliver, Welcomed, Disconnected, Ended.

        Raises ValueError where the settings cannot stand in an HTTP request.
        """
        self.token_error: BaseException | None = None  # what the last token could not be got for
        self._node = Client(settings, ids=lambda: secrets.token_hex(16), jitter=around.jitter)
        self._clock = around.clock
        self._connection = around.transport
        self._address = address
        self._context = context
        self._gate = gate
        self._token = token
        self._patience = settings.connect_timeout
        self._inputs: deque[ClientInput] = deque()
        self._performing = False
        self._transport: ClientTransport | None = None
        self._fetching: anyio.CancelScope | None = None
        self._host = around.host(lambda: self.feed(TimerFired()))
        self._perform: dict[type, Callable[[Any], None]] = {
            OpenTransport: self._open_transport,
            SendData: self._send_data,
            CloseTransport: self._close_transport,
            FetchToken: lambda effect: self._host.spawn(self._fetch_token),
            **perform,
        }

    def feed(self, event: ClientInput) -> None:
        """Steps 2 to 5 of the drive loop for one input. Inputs that come while effects are performed wait for them.

        Raises ValueError for a mistake of the caller.
        """
        self._inputs.append(event)
        if self._performing:
            return
        self._performing = True
        try:
            while self._inputs:
                now = self._clock()  # 2. read both clocks once
                for effect in self._node.step(self._inputs.popleft(), now):  # 3. step
                    self._perform[type(effect)](effect)  # 4. perform the effects in order
        finally:
            self._performing = False
        self._host.wake_at(self._node.wake_at)  # 5. re-arm the one timer

    def stop(self) -> None:
        """Drop the transport, and fetch no token any more."""
        if self._fetching is not None:
            self._fetching.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def finish(self) -> None:
        """Wait for the tasks: a transport that was closed has a moment for its last bytes."""
        await self._host.finish(2 * LINGER)

    # ── the transport ────────────────────────────────────────────────────────────────────────────────────────────────

    def _told(self, transport: ClientTransport, event: ClientInput) -> None:
        """What a transport tells; one that was closed has nothing to say any more."""
        if transport is self._transport:
            if isinstance(event, TransportFailed | TransportLost):
                self._transport = None
            self.feed(event)

    def _open_transport(self, effect: OpenTransport) -> None:
        self._transport = self._connection(self._address, self._context, self._gate, self._host, self._told)
        self._transport.open()

    def _send_data(self, effect: SendData) -> None:
        if self._transport is not None:  # it may have broken a moment ago
            self._transport.write(effect.data)

    def _close_transport(self, effect: CloseTransport) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # ── the token ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _fetch_token(self) -> None:
        await anyio.lowlevel.checkpoint()  # the caller's code does not run while effects are performed
        with anyio.CancelScope() as self._fetching:  # there is never more than one
            self.feed(await self._token_or_failure())

    async def _token_or_failure(self) -> ClientInput:
        """A token, or why there is none: without the text of an error, which may hold a secret (C12)."""
        try:
            with anyio.fail_after(self._patience):
                token = self._token() if callable(self._token) else self._token
                token = await token if inspect.isawaitable(token) else token
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # the caller's own function may raise anything, a cancellation of others too
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled():
                raise
            self.token_error = error
            return TokenFailed(f"no token could be got: {type(error).__name__}")
        if not isinstance(token, str):
            return TokenFailed(f"no token could be got: {type(token).__name__} is none")
        return TokenFetched(token)


def _cancelled() -> bool:
    """Whether this task has been told to stop, and not something that it waited for."""
    if anyio.current_effective_deadline() == float("-inf"):
        return True
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
