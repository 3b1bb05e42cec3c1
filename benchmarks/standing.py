"""Clients that log in and then say nothing but pongs, in a process of their own."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from typing import Any

from .load import CLOSE, PATIENCE, PING, PONG, Greeting, LoadError, masked_frame, upgrade_request
from .processes import Child, run_fast, tell_parent

AT_ONCE = 32  # handshakes that are under way: a server bounds how many sockets may knock
SPARE = 200  # descriptors that a server needs beside its connections


class Standing:
    """The clients of one server; they leave when this is left."""

    def __init__(self, port: int) -> None:
        self._child = Child("idle clients", "benchmarks.standing", {"port": port})

    def more(self, tokens: Sequence[str]) -> None:
        """Let one more client in for each token. Raises ChildError where one is not let in, or another was lost."""
        self._child.tell(tokens)
        self._child.hear()

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *about: Any) -> None:
        self._child.__exit__(*about)


def most_connections() -> int:
    """How many a server may have, where it may open as many descriptors as this system allows. Allows them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - SPARE


# ── in the clients' process ──────────────────────────────────────────────────────────────────────────────────────────


class Silent(asyncio.Protocol):
    """A client that answers pings; servers send nothing else unasked."""

    def __init__(self, transport: asyncio.Transport, lost: list[str]) -> None:
        self._transport = transport
        self._lost = lost
        transport.set_protocol(self)
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if data[0] != PING or len(data) != 2 + data[1]:
            self._lost.append(f"instead of a ping came {data[:200]!r}")
        else:
            self._transport.write(masked_frame(data[2:], PONG))

    def leave(self) -> None:
        """Say goodbye."""
        self._transport.write(masked_frame((1000).to_bytes(2), CLOSE))
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.append(f"the server let go of a client: {error}")


async def stand(port: int) -> None:
    """Let clients in for each line of tokens, until there are no more lines. Raises LoadError."""
    lost: list[str] = []
    clients: list[Silent] = []
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tokens: list[str] = json.loads(line)
        for at in range(0, len(tokens), AT_ONCE):
            async with asyncio.timeout(PATIENCE):
                transports = await asyncio.gather(*(_log_in(port, token) for token in tokens[at : at + AT_ONCE]))
            clients += [Silent(transport, lost) for transport in transports]
        if lost:
            raise LoadError(f"{len(lost)} of {len(clients)} idle clients: {lost[0]}")
        tell_parent({"open": len(clients)})
    for client in clients:
        client.leave()
    async with asyncio.timeout(PATIENCE):
        while len(lost) < len(clients):
            await asyncio.sleep(0.01)


async def _log_in(port: int, token: str) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    _, greeting = await loop.create_connection(lambda: Greeting(upgrade_request(port, token)), "127.0.0.1", port)
    return await greeting.greeted


def main() -> None:
    """Do what the parent says, until it lets go of this."""
    told = json.loads(sys.stdin.readline())
    try:
        run_fast(stand(told["port"]))
    except (LoadError, OSError, TimeoutError) as error:
        tell_parent({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
