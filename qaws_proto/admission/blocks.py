"""Who is kept out while the node runs: blocked users and addresses, revoked tokens (A5).

Every table is bounded: what is over makes room, and where there is none a further restriction is refused to whoever
asks for it, never silently dropped. Nothing here is asked on the path of a message: connections are closed as soon as
somebody is restricted, and whoever comes is looked at when he says who he is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from typing import Generic, NamedTuple, TypeVar

from ..clock import Now
from ..config import AuthenticationConfig, LimitsConfig
from .addresses import Address
from .tokens import Principal

IPV6_HOST = 64  # bits of an IPv6 address that stand for one host, as everywhere here: it has all of the /64

Network = IPv4Network | IPv6Network
NetworkKey = tuple[int, int, int]  # version, length of the prefix, and its bits
Key = TypeVar("Key", str, NetworkKey)


class Restriction(NamedTuple):
    """Who imposed it and why, since when (unix seconds) and until when (monotonic seconds; None: for ever)."""

    by: str
    reason: str
    since: float
    until: float | None = None
    outlived: float = -inf  # unix seconds that must have come as well: a wall clock set back makes old tokens good

    def over(self, now: Now) -> bool:
        """Whether it is in force no more."""
        return self.until is not None and now.mono >= self.until and now.unix >= self.outlived

    def left(self, now: Now) -> float | None:
        """Seconds that it is still in force; None: for ever."""
        return None if self.until is None else max(self.until - now.mono, self.outlived - now.unix, 0.0)


class Restrictions(Generic[Key]):
    """Restrictions by name, at most `size` of them. Those that are over count as none, and make room when needed."""

    def __init__(self, size: int, setting: str) -> None:
        self._size = size
        self._setting = setting
        self._held: dict[Key, Restriction] = {}

    def __len__(self) -> int:
        return len(self._held)

    def find(self, key: Key, now: Now) -> Restriction | None:
        """The restriction in force."""
        found = self._held.get(key)
        return None if found is None or found.over(now) else found

    def impose(self, key: Key, restriction: Restriction, now: Now) -> None:
        """Restrict; the newest restriction of a name holds. Raises ValueError where there is no room for one more."""
        if key not in self._held and len(self._held) >= self._size:
            kept = {held: one for held, one in self._held.items() if not one.over(now)}
            if len(kept) >= self._size:
                raise ValueError(f"there are {self._size} already, as many as {self._setting} allows: lift one first")
            self._held = kept
        self._held[key] = restriction

    def lift(self, key: Key) -> None:
        """Restrict no more; nothing happens where there is no restriction."""
        self._held.pop(key, None)

    def restore(self, earlier: Mapping[Key, Restriction]) -> None:
        """Restrict as before a restart, also where there is room for fewer now: that lets nobody in. What has been
        imposed since holds."""
        self._held = {**earlier, **self._held}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._held)


class Blocks:
    """Users and addresses that may not connect."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.users: Restrictions[str] = Restrictions(limits.blocks, "limits.blocks")
        self.networks: Restrictions[NetworkKey] = Restrictions(limits.blocks, "limits.blocks")
        self._prefixes: list[tuple[int, int]] = []  # versions and prefix lengths that are looked up, at most 33 and 129

    def user(self, user_id: str, now: Now) -> bool:
        """Whether a user is blocked."""
        return self.users.find(user_id, now) is not None

    def address(self, address: Address | None, now: Now) -> bool:
        """Whether a client's address is blocked; a client without one (a pipe) cannot be."""
        if address is None or not self._prefixes:
            return False
        bits, size, version = int(address), address.max_prefixlen, address.version
        return any(
            self.networks.find((version, length, bits >> size - length), now) is not None
            for of, length in self._prefixes
            if of == version
        )

    def block_network(self, network: Network, restriction: Restriction, now: Now) -> None:
        """Block the addresses of a network. Raises ValueError where there is no room for one more."""
        self.networks.impose(key_of(network), restriction, now)
        self._look_up()

    def unblock_network(self, network: Network) -> None:
        """Lift the block of this very network."""
        self.networks.lift(key_of(network))

    def restore_networks(self, earlier: Mapping[NetworkKey, Restriction]) -> None:
        """Block these as before a restart."""
        self.networks.restore(earlier)
        self._look_up()

    def _look_up(self) -> None:
        self._prefixes = sorted({key[:2] for key in self.networks})


class Revocations:
    """Tokens that are good no more before their time: by their `jti`, or all that a user was issued until a moment.

    A revocation is forgotten when no token of then could still be good: after `max_lifetime`, and the leeway that is
    given to the clock that issued it and to the one that ends it.
    """

    def __init__(self, limits: LimitsConfig, authentication: AuthenticationConfig) -> None:
        self.tokens: Restrictions[str] = Restrictions(limits.revocations, "limits.revocations")
        self.users: Restrictions[str] = Restrictions(limits.revocations, "limits.revocations")
        self._leeway = authentication.leeway
        self._lifetime = authentication.max_lifetime + 2 * authentication.leeway  # seconds

    def covers(self, principal: Principal, now: Now) -> bool:
        """Whether the token of a principal is revoked."""
        if principal.token_id is not None and self.tokens.find(principal.token_id, now) is not None:
            return True
        user = self.users.find(principal.user_id, now)
        return user is not None and issued_at(principal) <= user.since

    def revoke_token(self, token_id: str, by: str, reason: str, now: Now) -> None:
        """Revoke the token of this `jti`. Raises ValueError where there is no room for one more."""
        self.tokens.impose(token_id, self._lasting(by, reason, now.unix, now), now)

    def revoke_user(self, user_id: str, by: str, reason: str, now: Now, newest: float = -inf) -> None:
        """Revoke every token of a user with an `iat` until now. Raises ValueError where there is no room for one more.

        `newest` is the `iat` of the newest one in use, which is ahead where the clock of its issuer is. A wall clock
        that was set back a little makes no token good that was revoked a moment ago.
        """
        earlier = self.users.find(user_id, now)
        since = max(newest, now.unix if earlier is None else earlier.since)
        since = max(now.unix, min(since, now.unix + self._leeway))
        self.users.impose(user_id, self._lasting(by, reason, since, now), now)

    def _lasting(self, by: str, reason: str, since: float, now: Now) -> Restriction:
        return Restriction(by, reason, since, now.mono + self._lifetime, since + self._lifetime)


def parse_network(text: object) -> Network:
    """An address or a CIDR. An IPv6 address without a prefix stands for its /64. Raises ValueError."""
    try:
        network = ip_network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        network = None
    if network is None:
        raise ValueError(
            "an address to block is an address or a CIDR, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        )
    if not isinstance(network, IPv6Network):
        return network
    mapped = network.network_address.ipv4_mapped
    if mapped is not None and network.prefixlen >= 96:  # RFC 4291 section 2.5.5.2: clients are known by the IPv4 one
        return IPv4Network((int(mapped), network.prefixlen - 96))
    if "/" not in str(text):
        return network.supernet(new_prefix=IPV6_HOST)
    return network


def key_of(network: Network) -> NetworkKey:
    """What a network is looked up by."""
    length = network.prefixlen
    return network.version, length, int(network.network_address) >> network.max_prefixlen - length


def network_of(key: NetworkKey) -> str:
    """The network of a key, as text."""
    version, length, bits = key
    if version == 4:
        return str(IPv4Network((bits << 32 - length, length)))
    return str(IPv6Network((bits << 128 - length, length)))


def issued_at(principal: Principal) -> float:
    """The `iat` of a token; where a verifier of one's own left none, it was issued before everything."""
    issued = principal.claims.get("iat")
    return issued if isinstance(issued, int | float) else -inf
