"""How many messages and connections are let in over time: which limits there are, and what each is counted under."""

from __future__ import annotations

from typing import NamedTuple

from ..config import WebSocketConfig
from .ratelimit import SlidingWindows

NODE = "node"  # what everything is counted under, for the limit of the node


class Over(NamedTuple):
    """A limit that has no room for one more, and the seconds after which it has."""

    limit: str
    key: str
    wait: float


class Rates:
    """Looks first and counts at the end: what one limit refuses is charged to none."""

    def __init__(self, config: WebSocketConfig) -> None:
        self._config = config
        self._users = SlidingWindows(config)
        self._addresses = SlidingWindows(config)
        self._node = SlidingWindows(config)
        self._connections = SlidingWindows(config)
        self._failed_tokens = SlidingWindows(config)

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these limits from now on; what was counted stays counted."""
        self._config = config

    def over(self, account: str, address_key: str, mono: float) -> list[Over]:
        """The limits that have no room for a message now; none of them is charged."""
        rates, full = self._config.security.rate_limiting, []
        wait = self._users.wait(account, mono, rates.requests_per_minute, rates.burst_size)
        if wait:
            full.append(Over("user_rate", account, wait))
        a_minute, a_second = rates.address_requests_per_minute, rates.address_burst_size
        if (a_minute or a_second) and (wait := self._addresses.wait(address_key, mono, a_minute, a_second)):
            full.append(Over("address_rate", address_key, wait))
        a_minute, a_second = rates.node_requests_per_minute, rates.node_burst_size
        if (a_minute or a_second) and (wait := self._node.wait(NODE, mono, a_minute, a_second)):
            full.append(Over("node_rate", NODE, wait))
        return full

    def count(self, account: str, address_key: str, mono: float) -> None:
        """A message is let in."""
        rates = self._config.security.rate_limiting
        self._users.count(account, mono)
        if rates.address_requests_per_minute or rates.address_burst_size:
            self._addresses.count(address_key, mono)
        if rates.node_requests_per_minute or rates.node_burst_size:
            self._node.count(NODE, mono)

    def connection_wait(self, address_key: str, mono: float) -> float:
        """Seconds until one more connection of the address is let in; 0.0 where it is now."""
        per_minute = self._config.limits.connections_per_minute
        return 0.0 if per_minute is None else self._connections.wait(address_key, mono, per_minute, None)

    def count_connection(self, address_key: str, mono: float) -> None:
        """A connection is let in. One over the limit, on trial, counts as little as if it had been refused."""
        if self._config.limits.connections_per_minute is not None and not self.connection_wait(address_key, mono):
            self._connections.count(address_key, mono)

    def failed_tokens_wait(self, address_key: str, mono: float) -> float:
        """Seconds until a token of the address is verified again, since too many of its have failed; 0.0: now (A8)."""
        return self._failed_tokens.wait(address_key, mono, self._config.limits.failed_tokens_per_minute, None)

    def count_failed_token(self, address_key: str, mono: float) -> None:
        """A token of the address has failed."""
        self._failed_tokens.count(address_key, mono)
