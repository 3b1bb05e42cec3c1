"""How clients misbehave: each way is done over and over, and says how the server ended it.

How it should end is beside each of them; a server that holds too many connections of an address may refuse any (429).
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from .load import PING, TEXT, masked_frame, upgrade_request
from .peer import Peer, connected
from .talker import ENDLESS

DRIP = 0.5  # seconds between two bytes of a head that is never finished
FLOOD, POUR = 100, 0.05  # frames at once, and seconds until as many follow
DECLARED = 1 << 30  # bytes of a message that is announced
SMALL = 4096  # bytes that the kernel keeps for who does not read
QUESTIONS = 5  # of one who does not read: as many as a session takes
PULSE = 0.5  # seconds between two looks of one who does not read at whether the server is still there


class Attack(NamedTuple):
    """One connection that is going to be abused."""

    port: int
    address: str
    token: str
    number: int  # of this connection, among all of its client


async def slow_head(attack: Attack) -> str:
    """A request head, byte by byte (slowloris)."""
    async with connected(attack.port, attack.address) as peer:
        dripping = asyncio.create_task(_drip(peer, upgrade_request(attack.port, attack.token)))
        try:
            return await peer.end()
        finally:
            dripping.cancel()


async def _drip(peer: Peer, head: bytes) -> None:
    for byte in head:
        peer.say(bytes((byte,)))
        await asyncio.sleep(DRIP)


async def silent(attack: Attack) -> str:
    """A connection, and nothing said."""
    async with connected(attack.port, attack.address) as peer:
        return await peer.end()


async def garbage(attack: Attack) -> str:
    """Bytes that are no HTTP."""
    async with connected(attack.port, attack.address) as peer:
        peer.say(random.Random(f"{attack.address} {attack.number}").randbytes(600))
        return await peer.end()


async def wrong_token(attack: Attack) -> str:
    """A token that was signed by nobody."""
    async with connected(attack.port, attack.address) as peer:
        peer.say(upgrade_request(attack.port, f"{attack.token[:-8]}{'A' * 8}"))
        return await peer.end()


async def flood(attack: Attack) -> str:
    """More frames than anybody may send."""
    async with connected(attack.port, attack.address) as peer:
        await peer.upgrade(attack.token)
        pouring = asyncio.create_task(_pour(peer, masked_frame(b"flood", PING) * FLOOD))
        try:
            return await peer.end()
        finally:
            pouring.cancel()


async def _pour(peer: Peer, frames: bytes) -> None:
    while True:
        peer.say(frames)
        await asyncio.sleep(POUR)


async def huge_message(attack: Attack) -> str:
    """A message that is announced as a gigabyte, or has no end in small fragments."""
    async with connected(attack.port, attack.address) as peer:
        await peer.upgrade(attack.token)
        if attack.number % 2:
            peer.say(bytes((TEXT, 0xFF)) + DECLARED.to_bytes(8) + bytes(4) + b"x" * 2000)
        else:
            peer.say(masked_frame(b"{", TEXT & 0x7F) + masked_frame(b" " * 64, 0) * 200)
        return await peer.end()


async def half_open(attack: Attack) -> str:
    """A client that is let in, and whose network then lets nothing through any more."""
    async with connected(attack.port, attack.address) as peer:
        await peer.upgrade(attack.token)
        return await peer.end()


async def churn(attack: Attack) -> str:
    """Let in, asking something, and gone: every other time by a reset."""
    async with connected(attack.port, attack.address) as peer:
        await peer.upgrade(attack.token)
        if attack.number % 4 == 0:
            peer.say(masked_frame(b'{"type":"chat_message","content":"and gone"}'))
        await peer.event()
        if attack.number % 2:
            peer.reset()
    return "left"


async def never_reading(attack: Attack) -> str:
    """Somebody who asks for answers without end and reads nothing of them."""
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setblocking(False)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        deaf.bind((attack.address, 0))
        await loop.sock_connect(deaf, ("127.0.0.1", attack.port))
        ask = masked_frame(f'{{"type":"chat_message","content":"{ENDLESS}","stream":true}}'.encode())
        await loop.sock_sendall(deaf, upgrade_request(attack.port, attack.token) + ask * QUESTIONS)
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(PULSE)
                await loop.sock_sendall(deaf, masked_frame(b"", PING))
    return "dropped"


class Abuse(NamedTuple):
    """A way to misbehave, how the server ends it, and the row of the guarantees that says so."""

    how: Callable[[Attack], Awaitable[str]]
    ends: frozenset[str]
    row: str


ABUSES = {
    "slow heads": Abuse(slow_head, frozenset({"408"}), "H2"),
    "silent": Abuse(silent, frozenset({"dropped"}), "H2"),
    "garbage": Abuse(garbage, frozenset({"400", "414", "505"}), "H3"),
    "wrong tokens": Abuse(wrong_token, frozenset({"401"}), "A9"),
    "floods": Abuse(flood, frozenset({"1008"}), "F8"),
    "huge messages": Abuse(huge_message, frozenset({"1009"}), "F3"),
    "half-open": Abuse(half_open, frozenset({"dropped"}), "F11"),
    "never reading": Abuse(never_reading, frozenset({"dropped"}), "C1"),
    "churn": Abuse(churn, frozenset({"left"}), "C3"),
}
