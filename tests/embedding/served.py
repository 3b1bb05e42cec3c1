"""The programs of docs/embedding.md, each in a thread beside the test, and clients that we did not write.

The node is one that keeps a record, so that a test waits for what it is about instead of for a time.
"""

from __future__ import annotations

import json
import runpy
import secrets
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.uri import parse_uri

from qaws_proto import Gateway, Now
from qaws_proto.effects import Effect
from qaws_proto.inputs import BytesReceived, Input
from tests.adapters.peers import open_config
from tests.test_docs import PATIENCE, ROOT, blocks

README, PAGE = ROOT / "README.md", ROOT / "docs" / "embedding.md"
SOCKETS, THREADS = (block for block in blocks(PAGE) if block.info == "python serve")
PIPES = next(block for block in blocks(PAGE) if "os.pipe()" in block.text)
LONG = "x" * 9_000  # characters, nearly the longest message
QUESTION = {"type": "chat_message", "content": LONG}
SMALL = 32 * 1024  # bytes of a socket's buffer
CRAMPED = {"read": 1024, "inbox": 256, "frames_per_turn": 1}  # limits of a node that pauses a peer soon


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Recorded(Gateway):
    """A node that keeps what it was told and what it said, and lets another thread wait for it."""

    def __init__(self, **sections: Any) -> None:
        super().__init__(open_config(**sections), ids=lambda: secrets.token_hex(16))
        self.trace: list[Input | Effect] = []
        self._changed = Condition()

    def step(self, event: Input, now: Now) -> list[Effect]:
        if isinstance(event, BytesReceived):
            assert 0 < len(event.data) <= self.read_size(event.connection)
        effects = super().step(event, now)
        with self._changed:
            self.trace += [event, *effects]
            self._changed.notify_all()
        return effects

    def wait_for(self, *kinds: type, times: int = 1) -> None:
        """Until so many of these happened."""

        def there() -> bool:
            return len(self.of(*kinds)) >= times

        with self._changed:
            assert self._changed.wait_for(there, PATIENCE), [type(one).__name__ for one in self.trace[-20:]]

    def of(self, *kinds: type) -> list[Any]:
        return [one for one in self.trace if isinstance(one, kinds)]


class Served:
    """A server of the page, in a thread."""

    def __init__(self, gateway: Recorded, listener: socket.socket, waker: socket.socket, thread: Thread) -> None:
        self.gateway = gateway
        self.port: int = listener.getsockname()[1]
        self.cancelled: dict[str, Event] = {}  # for each run that has a thread
        self._waker = waker
        self._thread = thread

    def terminate(self) -> None:
        """What SIGTERM does in the program."""
        self.wake(bytes([signal.SIGTERM]))

    def wake(self, numbers: bytes) -> None:
        """What signals of these numbers do."""
        self._waker.send(numbers)

    def join(self) -> None:
        """Until it has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it has not drained"
        assert self.gateway.connections == 0

    def connect(self, **options: Any) -> Connection:
        """A client, to which `connection_established` has been said."""
        client = connect(f"ws://127.0.0.1:{self.port}/", **options)
        assert json.loads(client.recv(PATIENCE))["event_name"] == "connection_established"
        return client

    def dial(self, receive_buffer: int | None = None) -> socket.socket:
        """A socket."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock


@contextmanager
def served(folder: Path, text: str = SOCKETS.text, **sections: Any) -> Iterator[Served]:
    """The server on plain sockets, until it has drained; nothing is left of it."""
    serve = program(folder, "sockets.py", text)["serve"]
    with serving(serve, Recorded(**sections), *socket.socketpair(), deque()) as server:
        yield server


@contextmanager
def threaded(folder: Path, text: str = THREADS.text, **sections: Any) -> Iterator[Served]:
    """The same, whose agent has threads."""
    example = load_threads(folder, text)
    recorded: type[Recorded] = type("RecordedThreads", (example["ThreadedGateway"], Recorded), {})
    pipe = example["waker"], example["woken"]
    with serving(example["serve"], recorded(**sections), *pipe, example["inbox"]) as server:
        server.cancelled = example["cancelled"]
        yield server


def load_threads(folder: Path, text: str = THREADS.text) -> dict[str, Any]:
    """What the program with threads defines, beside the one that it imports."""
    (folder / "sockets.py").write_text(SOCKETS.text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            return program(folder, "threads.py", text)
        finally:
            sys.modules.pop("sockets", None)  # the next test has its own


def program(folder: Path, name: str, text: str) -> dict[str, Any]:
    """What a program of the page defines."""
    (folder / name).write_text(text, "utf-8")
    return runpy.run_path(str(folder / name))


@contextmanager
def serving(
    serve: Callable[..., None], gateway: Recorded, waker: socket.socket, woken: socket.socket, inbox: deque[Input]
) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener, waker, woken:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        thread = Thread(target=serve, args=(gateway, listener, woken, inbox), daemon=True)
        thread.start()
        server = Served(gateway, listener, waker, thread)
        try:
            yield server
        finally:
            server.terminate()
            thread.join(PATIENCE)
        server.join()


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(client: Connection, content: str, **fields: Any) -> None:
    client.send(json.dumps({"type": "chat_message", "content": content, **fields}))


def hear(client: Connection, type: str) -> Any:
    """The next event of that type; the ones before it are passed over."""
    while True:
        event = json.loads(client.recv(PATIENCE))
        assert event["type"] != "error", event
        if event["type"] == type:
            return event


def close_code(client: Connection) -> int | None:
    """The code the server closed with, whatever it says before."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(PATIENCE)
    return client.close_code


class Wire:
    """The sans-IO client of `websockets` on a socket that is read only when the test says so."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._protocol = ClientProtocol(parse_uri("ws://localhost/"), max_size=None)
        self._protocol.send_request(self._protocol.connect())
        self.flush()
        while not isinstance(next(iter(self._protocol.events_received()), None), Response):
            self._protocol.receive_data(sock.recv(1))
        assert self._protocol.handshake_exc is None

    def flush(self) -> None:
        self.socket.sendall(b"".join(self._protocol.data_to_send()))

    def say(self, event: dict[str, str], flood: int = 0) -> None:
        """Send an event, and a flood behind it."""
        self._protocol.send_text(json.dumps(event).encode())
        self.flood(flood)

    def flood(self, frames: int) -> None:
        """Send frames that are not answered, with what is before them in one write."""
        for _ in range(frames):
            self._protocol.send_pong(b"")
        self.flush()

    def close(self) -> None:
        self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        self.flush()

    def read(self) -> bool:
        """Take what has come; False at the end."""
        data = self.socket.recv(4096)
        self._protocol.receive_data(data)
        return bool(data)

    def events(self) -> Iterator[Any]:
        """What the server says, until it closes."""
        while self.read():
            for frame in self._protocol.events_received():
                if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                    yield json.loads(bytes(frame.data))

    @property
    def close_code(self) -> int | None:
        return self._protocol.close_rcvd.code if self._protocol.close_rcvd else None

    def reset(self) -> None:
        """Break the connection as a crashed host does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
