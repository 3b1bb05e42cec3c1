"""What keeping costs: replies of the same server with each store, one client alone and many together."""

from __future__ import annotations

import sys
from dataclasses import replace

from .chat import once
from .load import Result
from .options import Options
from .peers import QAWS, Peer
from .report import Spread, table

STORES = (
    replace(QAWS, name="memory"),
    replace(QAWS, name="sqlite, synchronous: normal", module="gateway_stored", variant="normal"),
    replace(QAWS, name="sqlite, synchronous: full", module="gateway_stored", variant="full"),
)
EVENTS = 2  # that are kept of a message without an id: that it was accepted, and the answer
HEADERS = ("store", "clients", "replies/s", "kept a second", "ms a reply")


def run(options: Options) -> None:
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
