"""How many messages and connections are let in over time: which limits there are, and what each is counted under."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..config import WebSocketConfig
from .ratelimit import SlidingWindows

NODE = "node"  # what everything is counted under, for the limit of the node


class Over(NamedTuple):
    """A limit that has no room for one more, and the seconds after which it has."""

    limit: str
    key: str
    wait: float


class _Limit(NamedTuple):
    name: str
    windows: SlidingWindows
    key: str
    per_minute: int | None
    per_second: int | None


class Rates:
    """Looks first and counts at the end: what one limit refuses is charged to none."""

    def __init__(self, config: WebSocketConfig) -> None:
        self._config = config
        self._users = SlidingWindows(config)
        self._addresses = SlidingWindows(config)
        self._node = SlidingWindows(config)
        self._connections = SlidingWindows(config)

    def over(self, account: str, address_key: str, mono: float) -> list[Over]:
        """The limits that have no room for a message now; none of them is charged."""
        return [
            Over(name, key, wait)
            for name, windows, key, per_minute, per_second in self._limits(account, address_key)
            if (wait := windows.wait(key, mono, per_minute, per_second)) > 0
        ]

    def count(self, account: str, address_key: str, mono: float) -> None:
        """A message is let in."""
        for limit in self._limits(account, address_key):
            limit.windows.count(limit.key, mono)

    def connection_wait(self, address_key: str, mono: float) -> float:
        """Seconds until one more connection of the address is let in; 0.0 where it is now."""
        per_minute = self._config.limits.connections_per_minute
        return 0.0 if per_minute is None else self._connections.wait(address_key, mono, per_minute, None)

    def count_connection(self, address_key: str, mono: float) -> None:
        """A connection is let in. One over the limit, on trial, counts as little as if it had been refused."""
        if self._config.limits.connections_per_minute is not None and not self.connection_wait(address_key, mono):
            self._connections.count(address_key, mono)

    def _limits(self, account: str, address_key: str) -> Iterator[_Limit]:
        """Those of messages that are set."""
        rates = self._config.security.rate_limiting
        yield _Limit("user_rate", self._users, account, rates.requests_per_minute, rates.burst_size)
        a_minute, a_second = rates.address_requests_per_minute, rates.address_burst_size
        if a_minute is not None or a_second is not None:
            yield _Limit("address_rate", self._addresses, address_key, a_minute, a_second)
        a_minute, a_second = rates.node_requests_per_minute, rates.node_burst_size
        if a_minute is not None or a_second is not None:
            yield _Limit("node_rate", self._node, NODE, a_minute, a_second)
