"""Whose address a connection has, whatever the headers claim."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.addresses import Address, Addresses, key_of, parse_address
from qaws_proto.config import AddressesConfig, ServerConfig
from qaws_proto.wire.http import Request

PROXIES = ["10.0.0.0/8", "fd00::/8"]
PROXY = "10.0.0.1"


def _request(*headers: tuple[str, str]) -> Request:
    return Request("GET", "/", headers)


def _addresses(header: str = "x-forwarded-for", proxies: list[str] = PROXIES) -> Addresses:
    server = ServerConfig.model_validate({"trusted_proxies": proxies, "forwarded_header": header})
    return Addresses(AddressesConfig(), server)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        (' "192.0.2.1:4711"\t', "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ('"[2001:db8::1]:4711"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        (None, None),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2.256", None),
        ("192.0.2.01", None),
        ("\uff11.2.3.4", None),
        ("1", None),
        ("[", None),
        ("1:2:3", None),
    ],
)
def test_an_address_is_read_as_transports_and_proxies_write_it(text: str | None, address: str | None) -> None:
    assert parse_address(text) == (None if address is None else ip_address(address))


@pytest.mark.clause("C1")
@given(st.text())
def test_no_text_raises(text: str) -> None:
    address = parse_address(text)
    assert address is None or isinstance(key_of(address), str)


@pytest.mark.row("H14")
@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        (None, "-"),
    ],
)
def test_an_address_is_counted_by_itself_and_ipv6_by_its_64(address: str | None, key: str) -> None:
    assert key_of(parse_address(address)) == key


@pytest.mark.row("H14")
@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1))
def test_all_hosts_of_a_64_are_one(network: int, host: int) -> None:
    other = network >> 64 << 64 | host
    assert key_of(IPv6Address(network)) == key_of(IPv6Address(other))
    assert key_of(IPv6Address(network)) != key_of(IPv6Address(network ^ 1 << 64))


_PROXY_NETWORK = ip_network("10.0.0.0/8")
IPV4 = st.integers(0, 2**32 - 1).map(IPv4Address)
STRANGERS = IPV4.filter(lambda address: address not in _PROXY_NETWORK)

HEADER_TEXT = st.text(st.characters(codec="latin-1"))
FORGED = st.lists(
    st.tuples(
        st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"]),
        HEADER_TEXT | IPV4.map(str) | IPV4.map(lambda address: f"for={address}"),
    )
)


@pytest.mark.row("H13")
@given(STRANGERS, FORGED, st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_a_stranger_is_who_the_transport_says(peer: Address, forged: list[tuple[str, str]], header: str) -> None:
    assert _addresses(header).client(peer, _request(*forged)) == peer
    assert _addresses(header).client(None, _request(*forged)) is None


@pytest.mark.row("H13")
@given(STRANGERS, FORGED)
def test_a_proxys_word_stands_whatever_the_client_wrote_before_it(
    client: Address, forged: list[tuple[str, str]]
) -> None:
    peer = parse_address(PROXY)
    for header, says in (("x-forwarded-for", str(client)), ("forwarded", f"for={client};proto=https")):
        # The proxy adds a line of its own, or adds to the last line of that name.
        assert _addresses(header).client(peer, _request(*forged, (header, says))) == client
        joined = ",".join([*(value for name, value in forged if name == header), says])
        assert _addresses(header).client(peer, _request((header, joined))) == client


# the peer, the lines of X-Forwarded-For, the client
WALKS = [
    (PROXY, [], PROXY),
    (PROXY, ["198.51.100.7"], "198.51.100.7"),
    (PROXY, ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
    (PROXY, ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
    (PROXY, ["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
    (PROXY, ["203.0.113.9,198.51.100.7,10.0.0.2,fd00::1"], "198.51.100.7"),
    (PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    (PROXY, ["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
    (PROXY, ["203.0.113.9, unknown"], PROXY),
    (PROXY, ["2001:db8::7"], "2001:db8::7"),
    (PROXY, ["::ffff:198.51.100.7"], "198.51.100.7"),
    (PROXY, ["::ffff:10.0.0.2"], "10.0.0.2"),
    ("fd00::1", ["198.51.100.7"], "198.51.100.7"),
    ("203.0.113.1", ["198.51.100.7"], "203.0.113.1"),
]


@pytest.mark.row("H13")
@pytest.mark.parametrize(("peer", "lines", "client"), WALKS)
def test_hops_are_walked_from_the_right_past_trusted_ones(peer: str, lines: list[str], client: str) -> None:
    request = _request(*(("x-forwarded-for", line) for line in lines), ("forwarded", "for=192.0.2.66"))
    assert _addresses().client(parse_address(peer), request) == ip_address(client)


# the lines of Forwarded, the client
FORWARDED = [
    (["for=198.51.100.7"], "198.51.100.7"),
    (["For=198.51.100.7;proto=https;by=10.0.0.1"], "198.51.100.7"),
    (["proto=https; for=198.51.100.7"], "198.51.100.7"),
    (['for="198.51.100.7:4711"'], "198.51.100.7"),
    (['for="[2001:db8::7]:4711"'], "2001:db8::7"),
    (["for=203.0.113.9, for=198.51.100.7"], "198.51.100.7"),
    (["for=203.0.113.9, for=198.51.100.7, for=10.0.0.2"], "198.51.100.7"),
    (["for=203.0.113.9", "for=198.51.100.7"], "198.51.100.7"),
    (["for=203.0.113.9, for=unknown"], PROXY),
    (["for=203.0.113.9, proto=https"], PROXY),
    # Quotes that a client leaves open swallow nothing of what the proxy writes behind them:
    (['for=", for="[2001:db8::7]"'], "2001:db8::7"),
    (['for="203.0.113.9, for=198.51.100.7'], "198.51.100.7"),
    (['x=";for=203.0.113.9, for="198.51.100.7:1"'], "198.51.100.7"),
    # What a proxy quotes of the client is no parameter:
    (['host=";for=203.0.113.9;";for=198.51.100.7'], "198.51.100.7"),
    (['for=198.51.100.7;host="a, for=203.0.113.9"'], PROXY),
]


@pytest.mark.row("H13")
@pytest.mark.parametrize(("lines", "client"), FORWARDED)
def test_the_forwarded_header_is_read_where_it_is_configured(lines: list[str], client: str) -> None:
    request = _request(*(("forwarded", line) for line in lines), ("x-forwarded-for", "192.0.2.66"))
    assert _addresses("forwarded").client(parse_address(PROXY), request) == ip_address(client)


# allowed networks, blocked networks, the address, whether it may connect
LISTS = [
    ([], [], "192.0.2.1", True),
    ([], ["192.0.2.0/24"], "192.0.2.1", False),
    ([], ["192.0.2.0/24"], "::ffff:192.0.2.1", False),
    ([], ["192.0.2.0/24"], "198.51.100.1", True),
    ([], ["192.0.2.0/24"], "2001:db8::1", True),
    (["192.0.2.0/24"], [], "192.0.2.1", True),
    (["192.0.2.0/24"], [], "198.51.100.1", False),
    (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.1", False),
    (["2001:db8::/32"], [], "2001:db8:1::1", True),
    ([], ["0.0.0.0/0", "::/0"], None, True),
    (["192.0.2.0/24"], [], None, False),
]


@pytest.mark.parametrize(("allow", "block", "address", "allowed"), LISTS)
def test_lists_decide_and_a_block_wins(allow: list[str], block: list[str], address: str | None, allowed: bool) -> None:
    addresses = Addresses(AddressesConfig(allow=allow, block=block), ServerConfig())
    assert addresses.allows(parse_address(address)) is allowed
