"""How many messages and connections are let in over time: which limits there are, and what each is counted under."""

from __future__ import annotations

from typing import NamedTuple

from ..config import WebSocketConfig
from .ratelimit import SlidingWindows

NODE = "node"  # what everything is counted under, for the limit of the node

_Limit = tuple[int | None, int | None]  # a minute, and a second
_NO_LIMIT: _Limit = (None, None)


class Over(NamedTuple):
    """A limit that has no room for one more, and the seconds after which it has."""

    limit: str
    key: str
    wait: float


class Rates:
    """Looks first and counts at the end: what one limit refuses is charged to none."""

    def __init__(self, config: WebSocketConfig) -> None:
        self._users = SlidingWindows(config)
        self._addresses = SlidingWindows(config)
        self._node = SlidingWindows(config)
        self._connections = SlidingWindows(config)
        self._failed_tokens = SlidingWindows(config)
        self.configure(config)

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these limits from now on; what was counted stays counted."""
        self._config = config
        rates = config.security.rate_limiting
        self._a_user: _Limit = rates.requests_per_minute, rates.burst_size
        self._an_address: _Limit = rates.address_requests_per_minute, rates.address_burst_size
        self._of_node: _Limit = rates.node_requests_per_minute, rates.node_burst_size
        self._by_address, self._by_node = self._an_address != _NO_LIMIT, self._of_node != _NO_LIMIT

    def over(self, account: str, address_key: str, mono: float) -> list[Over]:
        """The limits that have no room for a message now; none of them is charged."""
        full = []
        if wait := self._users.wait(account, mono, *self._a_user):
            full.append(Over("user_rate", account, wait))
        if self._by_address and (wait := self._addresses.wait(address_key, mono, *self._an_address)):
            full.append(Over("address_rate", address_key, wait))
        if self._by_node and (wait := self._node.wait(NODE, mono, *self._of_node)):
            full.append(Over("node_rate", NODE, wait))
        return full

    def count(self, account: str, address_key: str, mono: float) -> None:
        """A message is let in."""
        self._users.count(account, mono)
        if self._by_address:
            self._addresses.count(address_key, mono)
        if self._by_node:
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
