"""An echo client for test suites of others: goes through every case of `wstest -m fuzzingserver`.

Its wire and its transport are those of `QAWebSocketClient`, and so is what it does with a Close, a ping or a violation.
"""

from __future__ import annotations

import argparse
import json
import secrets
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import urlencode

import anyio

from qaws.client_inbox import Gate
from qaws.client_transport import LINGER, ClientTransport, parse_address
from qaws.host import AnyioHost
from qaws_proto.client.io import ClientInput, DataReceived, TransportFailed, TransportOpened
from qaws_proto.wire.client import Accepted, ClientLink, Rejected
from qaws_proto.wire.frames import BinaryReceived, CloseReceived, FrameEvent, PingReceived, TextReceived, Violated

PATIENCE = 120.0  # seconds for one case; the suite itself gives up on each before that


class EchoLink(ClientLink):
    """The wire of a client that sends binary messages, too."""

    __slots__ = ()

    def binary(self, payload: bytes) -> bytes:
        """A frame with one binary message; nothing once a Close went either way."""
        return b"" if self._closed or not self._frames.readable else self._frames.binary(payload)


class Visit:
    """One connection to the suite: what it says is sent back, or told to `hear` instead."""

    def __init__(self, url: str, hear: Callable[[str], None] | None = None) -> None:
        address = parse_address(url)
        self._link = EchoLink(address.host, address.target, b64encode(secrets.token_bytes(16)).decode())
        self._hear = hear
        self._host = AnyioHost(_no_timer)
        self._ended = anyio.Event()
        self._failed: str | None = None  # why there was no conversation
        self._transport = ClientTransport(address, None, Gate(), self._host, self._told)

    async def run(self) -> None:
        """From the first byte to the last. Raises TimeoutError where that takes too long, ConnectionError where nobody
        accepts it."""
        self._transport.open()
        with anyio.fail_after(PATIENCE):
            await self._ended.wait()
        self._transport.close()
        await self._host.finish(2 * LINGER)
        if self._failed is not None:
            raise ConnectionError(self._failed)

    def _told(self, transport: ClientTransport, event: ClientInput) -> None:
        if isinstance(event, TransportOpened):
            transport.write(self._link.request)
        elif isinstance(event, DataReceived):
            self._link.receive(event.data)
            while not self._ended.is_set() and (said := self._link.next_event()) is not None:
                self._answer(said)
        else:
            self._end(event.reason if isinstance(event, TransportFailed) else None)

    def _end(self, failed: str | None = None) -> None:
        if not self._ended.is_set():  # what happens behind the end is nothing new
            self._failed = failed
            self._ended.set()

    def _answer(self, said: Accepted | Rejected | FrameEvent) -> None:
        link, write = self._link, self._transport.write
        if isinstance(said, TextReceived) and self._hear is not None:
            self._hear(said.text)
        elif isinstance(said, TextReceived):
            write(link.text(said.text.encode()))
        elif isinstance(said, BinaryReceived):
            write(link.binary(said.data))
        elif isinstance(said, PingReceived):
            write(link.pong(said.payload))
        elif isinstance(said, CloseReceived):
            write(link.close(said.code))
            self._end()
        elif isinstance(said, Rejected):
            self._end(said.reason)
        elif isinstance(said, Violated):
            code = said.fault.value.close
            assert code is not None, "every fault of a frame has a close code"
            write(link.close(code))
            self._end()


def _no_timer() -> None:
    """The time that the host keeps is asked for by nobody."""


async def run_cases(url: str, agent: str) -> None:
    """Go through every case of the suite at `url`, as `agent`, and have the report written."""
    said: list[str] = []
    await Visit(f"{url}/getCaseCount", said.append).run()
    for case in range(1, json.loads("".join(said)) + 1):
        await Visit(f"{url}/runCase?{urlencode({'case': case, 'agent': agent})}").run()
    await Visit(f"{url}/updateReports?{urlencode({'agent': agent})}").run()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A WebSocket client that goes through the cases of wstest.")
    parser.add_argument("--url", required=True, help="of `wstest -m fuzzingserver`, such as ws://127.0.0.1:9001")
    parser.add_argument("--agent", required=True, help="what it is called in the report")
    arguments = parser.parse_args()
    anyio.run(run_cases, arguments.url, arguments.agent)


if __name__ == "__main__":
    main()
