"""What keeping costs: acknowledgements and replies of the same server with each store."""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import replace
from secrets import token_hex

from .chat import once
from .load import CONTENT, PATIENCE, Result, masked_frame, upgrade_request
from .options import Options
from .peers import QAWS, Peer
from .peers.work import Terms
from .processes import ChildError
from .report import Goal, Spread, table

STORES = (
    replace(QAWS, name="memory"),
    replace(QAWS, name="sqlite, synchronous: normal", module="gateway_stored", variant="normal"),
    replace(QAWS, name="sqlite, synchronous: full", module="gateway_stored", variant="full"),
)
ASKED = 200  # messages of a client that waits for each acknowledgement
EVENTS = 2  # that are kept of a message without an id: that it was accepted, and the answer
HEADERS = ("store", "clients", "replies/s", "kept a second", "ms a reply")


def run(options: Options) -> list[Goal]:
    """Measure, and print one table. A reply waits for two commits: of its message, and of the answer."""
    sizes = dict.fromkeys((1, options.connections))
    results: dict[tuple[Peer, int], list[Result]] = {(store, size): [] for size in sizes for store in STORES}
    for number in range(1, options.rounds + 1):
        for (store, size), found in results.items():
            found.append(once(store, size, 1, options.seconds))
            print(f"round {number}/{options.rounds}, {size} clients, {store.name}: {found[-1].rate:,.0f} replies/s",
                  file=sys.stderr, flush=True)  # fmt: skip
    print("### stores: one message in flight a client\n")
    print(f"{options.rounds} interleaved rounds of {options.seconds:g} s; median (lowest to highest).\n")
    print(table(HEADERS, [row(store, size, found) for (store, size), found in results.items()]), end="\n\n", flush=True)
    print(f"Milliseconds from a message of one client to its `message_accepted`, {ASKED} messages, median and 99 %:\n")
    print(table(("store", "median", "99 %"), [latency(store) for store in STORES]), end="\n\n", flush=True)
    return []


def row(store: Peer, size: int, results: list[Result]) -> list[str]:
    """The figures of one store with so many clients."""
    rates = Spread.of(result.rate for result in results)
    return [
        store.name,
        str(size),
        rates.text(),
        f"{EVENTS * rates.median:,.0f}",
        Spread.of(1000 * size / result.rate for result in results).text(2),
    ]


def latency(store: Peer) -> list[str]:
    """How long one client waits for the acknowledgement of a message."""
    waits = sorted(acknowledgements(store))
    return [store.name, *(f"{1000 * waits[int(part * len(waits))]:.2f}" for part in (0.5, 0.99))]


def acknowledgements(store: Peer) -> list[float]:
    """Seconds of each wait. Raises ChildError where the server says nothing."""
    terms = Terms(secret=token_hex(32))
    with store.start(terms) as server:
        port = server.hear()["port"]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.settimeout(PATIENCE)
            client.sendall(upgrade_request(port, terms.token("user-1")))
            hear(client, b"connection_established")
            return [ask(client, number) for number in range(ASKED)]


def ask(client: socket.socket, number: int) -> float:
    """Seconds until a message is acknowledged; its answer is heard as well."""
    message = {"type": "chat_message", "content": CONTENT, "id": f"m{number}"}
    frame = masked_frame(json.dumps(message, ensure_ascii=False).encode())
    began = time.perf_counter()
    client.sendall(frame)
    heard = hear(client, b'"message_accepted"')
    waited = time.perf_counter() - began
    if b'"agent_response"' not in heard:
        hear(client, b'"agent_response"')
    return waited


def hear(client: socket.socket, mark: bytes) -> bytes:
    """What comes until this has come. Raises ChildError where it does not."""
    heard = b""
    while mark not in heard:
        data = client.recv(65_536)
        if not data:
            raise ChildError(f"the server closed before it said {mark!r}")
        heard += data
    return heard
