"""Clients that log in and then say nothing but pongs, in a process of their own."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from typing import Any

from .load import PATIENCE, Client, LoadError, connect, sleep
from .processes import Child, raise_limits, run_fast, take_cores, tell_parent

BATCH = 500  # clients that have `PATIENCE` to get in
SPARE = 200  # descriptors that a server needs beside its connections


class Standing:
    """The clients of one server; they leave when this is left."""

    def __init__(self, port: int, dialect: str) -> None:
        self._child = Child("idle clients", "benchmarks.standing", {"port": port, "dialect": dialect})

    def more(self, tokens: Sequence[str]) -> None:
        """Let one more client in for each token. Raises ChildError where one is not let in, or another was lost."""
        self._child.tell(tokens)
        self._child.hear()

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *about: Any) -> None:
        self._child.__exit__(*about)


def most_connections() -> int:
    """How many a server may have, by the descriptors that a process may open here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else most - SPARE


# ── in the clients' process ──────────────────────────────────────────────────────────────────────────────────────────


async def stand(port: int, dialect: str) -> None:
    """Let clients in for each line of tokens, until there are no more lines. Raises LoadError."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    clients: list[Client] = []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tokens: list[str] = json.loads(line)
        for at in range(0, len(tokens), BATCH):
            clients += [Client(one, failed) for one in await connect(port, tokens[at : at + BATCH], dialect)]
        await sleep(0, failed)
        if lost := sum(client.lost.is_set() for client in clients):
            raise LoadError(f"the server let go of {lost} clients of {len(clients)}")
        tell_parent({"open": len(clients)})
    for client in clients:
        client.close()
    async with asyncio.timeout(PATIENCE):
        for client in clients:
            await client.lost.wait()


def main() -> None:
    """Do what the parent says, until it lets go of this."""
    told = json.loads(sys.stdin.readline())
    take_cores(server=False)
    raise_limits()
    try:
        run_fast(stand(told["port"], told["dialect"]))
    except TimeoutError:
        tell_parent({"failed": f"the server was silent for {PATIENCE:.0f} s"})
    except (LoadError, OSError) as error:
        tell_parent({"failed": str(error)})


if __name__ == "__main__":
    main()
