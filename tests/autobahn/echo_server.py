#!/usr/bin/env python3
"""An echo node for test suites of others: `echo_server.py --adapter NAME --port P` listens until SIGTERM or Ctrl-C.

All of it is the product but the application. Connections, their wire, handshake, closing and limits, and the servers
with their transports are those of `qaws serve`; instead of JSON events there are messages that go back as they came.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import signal
import sys

import anyio
from pydantic import Field

from qaws import WebSocketConfig, WebSocketManager
from qaws.anyio_server import WebSocketServer as AnyioServer
from qaws.asyncio_server import WebSocketServer as AsyncioServer
from qaws.server import ByteServer
from qaws.serving import Choice
from qaws_proto import Gateway, Now
from qaws_proto.admission.addresses import parse_address
from qaws_proto.admission.tokens import Principal
from qaws_proto.config import AuthenticationConfig, CompressionConfig, LimitsConfig, SecurityConfig, ServerConfig
from qaws_proto.connection import Connection, Phase
from qaws_proto.inputs import ConnectionOpened
from qaws_proto.wire.deflate import Agreement
from qaws_proto.wire.frames import BinaryReceived, Encoded
from qaws_proto.wire.link import ByteLink

ADAPTERS = {
    "protocol": Choice("protocol", "uvloop"),
    "asyncio": Choice("asyncio", "asyncio"),
    "anyio-asyncio": Choice("anyio", "asyncio"),
    "anyio-uvloop": Choice("anyio", "uvloop"),
    "anyio-trio": Choice("anyio", "trio"),
}
MESSAGE_SIZE = 16 * 1024 * 1024  # bytes of the largest messages of the suite, in cases 9.1.6 and 9.2.6
TEXT_OR_BINARY, BINARY = 0x03, 0x02  # the bits of an opcode in which the two differ, and those of a binary message


class EchoLimits(LimitsConfig):
    """Limits within which all of the suite passes. Messages may be larger: what is no JSON is not validated."""

    max_message_size: int = Field(default=MESSAGE_SIZE, ge=1024, le=MESSAGE_SIZE)
    max_fragments: int = 100_000  # cases 9.3.1 and 9.4.1: 4 MiB in frames of 64 bytes
    message_timeout: float = 300
    frames_per_second: int = 1_000_000
    frame_burst: int = 1_000_000
    out_top: int = 4 * MESSAGE_SIZE


class EchoConfig(WebSocketConfig):
    """The settings of an echo node."""

    limits: EchoLimits = EchoLimits()


def configuration(port: int) -> EchoConfig:
    """The settings of a node on this port; 0 takes a free one."""
    return EchoConfig(
        server=ServerConfig(port=port, compression=CompressionConfig(enabled=True, min_size=0)),
        security=SecurityConfig(authentication=AuthenticationConfig(enabled=False)),
    )


class BinaryEncoded(Encoded):
    """A binary message as it goes out."""

    __slots__ = ()

    @property
    def frame(self) -> bytes:
        """The payload in one binary frame."""
        return _binary(super().frame)

    def compressed(self, agreement: Agreement) -> bytes:
        """Its frame for a connection that agreed on compression."""
        return _binary(super().compressed(agreement))


def _binary(frame: bytes) -> bytes:
    return bytes((frame[0] & ~TEXT_OR_BINARY | BINARY,)) + frame[1:]


class EchoConnection(Connection):
    """A connection that sends back each message, and says nothing of its own."""

    __slots__ = ()

    def _establish(self, principal: Principal, now: Now) -> None:
        self._enter(Phase.OPEN)

    def _text(self, text: str, now: Now) -> None:
        self.tell(Encoded(text.encode()), now)

    def _control(self, event: object, now: Now) -> None:
        if isinstance(event, BinaryReceived):
            self.tell(BinaryEncoded(event.data), now)
        else:
            super()._control(event, now)


class EchoGateway(Gateway):
    """A node of such connections."""

    def _connection_opened(self, event: ConnectionOpened, now: Now) -> None:
        link = ByteLink(self.config.limits, self._deflate)
        connection = EchoConnection(event.connection, parse_address(event.peer), link, self._node, now)
        self._connections[event.connection] = connection
        self._newest = event.connection


class EchoManager(WebSocketManager):
    """A manager of such a node, which any server can drive."""

    def __init__(self, config: EchoConfig) -> None:
        super().__init__(config, agent=_nobody)
        self.gateway = EchoGateway(config, ids=lambda: secrets.token_hex(16))


async def _nobody(message: str) -> str:
    raise AssertionError("no run is ever started")


async def serve(server: ByteServer) -> None:
    """Serve until a signal."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        await server.start()
        print(f"listening on {server.url}", flush=True)
        await anext(received)
        await server.stop_now()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A WebSocket server that echoes text and binary messages.")
    parser.add_argument("--adapter", choices=ADAPTERS, required=True)
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    choice = ADAPTERS[arguments.adapter]
    server_class = AsyncioServer if choice.adapter == "asyncio" else AnyioServer
    try:
        choice.run(serve, server_class(EchoManager(configuration(arguments.port))))
    except OSError as error:
        sys.exit(f"cannot listen on port {arguments.port}: {error.strerror}")


if __name__ == "__main__":
    main()
