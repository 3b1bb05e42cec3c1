"""The echo client, against a stand-in for the suite: a server of others that asks what `wstest` asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import Queue
from socket import SHUT_RDWR
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from .echo_client import run_cases

PATIENCE = 30  # seconds
Case = Callable[[ServerConnection], object]


def echoes(socket: ServerConnection) -> object:
    """Text, binary and a ping, and what comes back."""
    for message in ("", "¿Cómo estás?", b"\x00\xff", "x" * 70_000):
        socket.send(message)
        assert socket.recv(timeout=PATIENCE) == message
    return socket.ping("are you there?").wait(PATIENCE)


def closes(socket: ServerConnection) -> object:
    """A Close, and the code in the answer to it."""
    socket.close(4001)
    assert socket.protocol.close_rcvd is not None
    return socket.protocol.close_rcvd.code


def breaks(socket: ServerConnection) -> object:
    """A reserved opcode, and the code in the Close that follows."""
    socket.socket.sendall(b"\x83\x00")
    with pytest.raises(ConnectionClosed):
        socket.recv(timeout=PATIENCE)
    assert socket.protocol.close_rcvd is not None
    return socket.protocol.close_rcvd.code


def hangs_up(socket: ServerConnection) -> object:
    """The end of TCP in the middle of nothing."""
    socket.socket.shutdown(SHUT_RDWR)
    return "gone"


@contextmanager
def listening(server: Server) -> Iterator[str]:
    """A server in a thread: its address."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(PATIENCE)


class StandIn:
    """Answers as `wstest -m fuzzingserver` does. Each visit ends in a thread of its own, and is told in `visits`."""

    def __init__(self, *cases: Case) -> None:
        self.cases = cases
        self.visits: Queue[tuple[str, object]] = Queue()  # the target of each, and what came of it

    def converse(self, client: ServerConnection) -> None:
        assert client.request is not None
        came: object = None
        try:
            came = self.answer(client, client.request.path)
        except BaseException as error:
            came = error
        finally:
            self.visits.put((client.request.path, came))

    def answer(self, client: ServerConnection, path: str) -> object:
        target = urlsplit(path)
        if target.path == "/runCase":
            return self.cases[int(parse_qs(target.query)["case"][0]) - 1](client)
        if target.path == "/getCaseCount":
            client.send(str(len(self.cases)))
        return None

    def told(self) -> dict[str, object]:
        """What came of all visits: one for each case, one before and one behind them."""
        return dict(self.visits.get(timeout=PATIENCE) for _ in range(len(self.cases) + 2))

    def serving(self) -> AbstractContextManager[str]:
        return listening(serve(self.converse, "127.0.0.1", 0))


def test_it_goes_through_every_case_and_asks_for_the_report() -> None:
    suite = StandIn(echoes, closes, breaks, hangs_up, echoes)
    with suite.serving() as url:
        anyio.run(run_cases, url, "qaws client")
    assert suite.told() == {
        "/getCaseCount": None,
        "/runCase?case=1&agent=qaws+client": True,
        "/runCase?case=2&agent=qaws+client": 4001,
        "/runCase?case=3&agent=qaws+client": 1002,
        "/runCase?case=4&agent=qaws+client": "gone",
        "/runCase?case=5&agent=qaws+client": True,
        "/updateReports?agent=qaws+client": None,
    }
    assert suite.visits.empty()


def test_it_says_where_there_is_no_suite() -> None:
    with StandIn().serving() as url:
        pass
    with pytest.raises(ConnectionError, match="Connection refused"):
        anyio.run(run_cases, url, "qaws client")


def test_it_says_where_it_is_not_let_in() -> None:
    def refuse(client: ServerConnection, request: Request) -> Response:
        return client.respond(403, "no\n")

    suite = StandIn()
    server = serve(suite.converse, "127.0.0.1", 0, process_request=refuse)
    with listening(server) as url, pytest.raises(ConnectionError, match="Forbidden"):
        anyio.run(run_cases, url, "qaws client")
    assert suite.visits.empty()
