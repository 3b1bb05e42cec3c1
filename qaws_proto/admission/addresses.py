"""Whose address a connection has, behind proxies too, and which addresses may connect (H13, H14)."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..config import UNIX, AddressesConfig, ServerConfig, networks
from ..wire.http import Request

Address = IPv4Address | IPv6Address

KNOWN = 1024  # addresses that are not parsed again: who comes back, and above all the proxy that all come from

# One parameter of an element (RFC 7239 section 4).
_PARAMETER = re.compile(r'[ \t]*([a-z]+)=("[^"]*"|[^;"]*)(?:;|\Z)', re.IGNORECASE)


@lru_cache(maxsize=KNOWN)
def parse_address(text: str | None) -> Address | None:
    """An address as a transport or a proxy writes it, with or without a port; None where it is none."""
    if text is None:
        return None
    text = text.strip(' \t"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def key_of(address: Address | None) -> str:
    """What an address is counted under: itself, for IPv6 its /64, since a host has all of one."""
    if address is None:
        return "-"
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


class Addresses:
    """The allow and block lists, and the proxies that are believed."""

    def __init__(self, lists: AddressesConfig, server: ServerConfig) -> None:
        self._allow = networks(lists.allow)
        self._block = networks(lists.block)
        self._proxies = networks(server.trusted_proxies)
        self._pipes = UNIX in server.trusted_proxies
        self._header = server.forwarded_header

    def is_proxy(self, address: Address | None) -> bool:
        """Whether what this address says about its clients is believed; None is that of a pipe, a Unix socket say."""
        if address is None:
            return self._pipes
        return any(address in network for network in self._proxies)

    def client(self, peer: Address | None, request: Request) -> Address | None:
        """The client's address: the peer, or behind trusted proxies the last hop that is not one of them (H13).

        The hops are walked right to left; the first that no trusted proxy vouches for, or that is no address, ends it.
        """
        client = peer
        if not self.is_proxy(peer):
            return client
        for hop in reversed(self._hops(request)):
            address = parse_address(hop)
            if address is None:
                break
            client = address
            if not self.is_proxy(client):
                break
        return client

    def _hops(self, request: Request) -> list[str]:
        """What each hop wrote. Cut at every comma, quoted or not: a client's open quote hides no proxy's element."""
        elements = request.items(self._header)
        return elements if self._header == "x-forwarded-for" else [_forwarded_for(element) for element in elements]

    def allows(self, address: Address | None) -> bool:
        """Whether a client of this address may connect. A pipe (no address) may, unless only some are allowed."""
        if address is None:
            return not self._allow
        if any(address in network for network in self._block):
            return False
        return not self._allow or any(address in network for network in self._allow)


def _forwarded_for(element: str) -> str:
    parameters = _PARAMETER.findall(element)
    return next((value for name, value in parameters if name.lower() == "for"), "")
