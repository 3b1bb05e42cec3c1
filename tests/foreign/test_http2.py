"""A WebSocket over HTTP/2 (RFC 8441), which hypercorn offers: by a client made of h2 and wsproto."""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import wsproto
import wsproto.events
from wsproto.connection import Connection, ConnectionType

from tests.helpers.asgi_process import HOSTS, hosted
from tests.helpers.process import PATIENCE, Served

from .test_foreign_clients import SAMPLE, SECRET, Event, answer_to, assert_conversation, token

Headers = list[tuple[str, str]]


class Http2Client:
    """One connection with prior knowledge (RFC 9113 section 3.3), and one WebSocket on it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._frames = Connection(ConnectionType.CLIENT)
        self._events: deque[h2.events.Event] = deque()
        self._stream = 1
        self._http.initiate_connection()
        self._flush()

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def upgrade(self, headers: Headers, path: str = "/") -> dict[str, str]:
        """Ask for a WebSocket, as soon as the server says that it offers it; the answer."""
        settings = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        while self._http.remote_settings.get(settings) != 1:
            self._events.append(self._next())
        self._stream = self._http.get_next_available_stream_id()
        self._http.send_headers(
            self._stream,
            [
                (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path),
                (":authority", "localhost"), ("sec-websocket-version", "13"), *headers,
            ],
        )  # fmt: skip
        self._flush()
        while not isinstance(event := self._next(), h2.events.ResponseReceived):
            pass
        return {str(name): str(value) for name, value in event.headers or []}

    def body(self) -> bytes:
        """What is sent until the stream ends."""
        data = b""
        while not isinstance(event := self._next(), h2.events.StreamEnded):
            data += event.data or b"" if isinstance(event, h2.events.DataReceived) else b""
        return data

    def send(self, event: wsproto.events.Event) -> None:
        """Send a frame."""
        self._http.send_data(self._stream, self._frames.send(event))
        self._flush()

    def events(self) -> Iterator[wsproto.events.Event]:
        """The frames of the server, up to the end of the stream."""
        while True:
            yield from self._frames.events()
            event = self._next()
            if isinstance(event, h2.events.StreamEnded):
                return
            if isinstance(event, h2.events.DataReceived):
                self._frames.receive_data(event.data)

    def _next(self) -> h2.events.Event:
        while not self._events:
            data = self._socket.recv(65536)
            assert data, "the server has hung up"
            for event in self._http.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self._http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                self._events.append(event)
            self._flush()
        return self._events.popleft()

    def _flush(self) -> None:
        self._socket.sendall(self._http.data_to_send())


@pytest.fixture(scope="module", params=["hypercorn-asyncio", "hypercorn-trio"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    env = {"WEBSOCKET_JWT_SECRET": SECRET}
    folder = tmp_path_factory.mktemp("host")
    with hosted(HOSTS[request.param], env=env, cwd=folder, config=SAMPLE.read_text("utf-8")) as served:
        yield served
    assert "Traceback" not in "\n".join(served.log), "\n".join(served.log)


def client_of(served: Served) -> Http2Client:
    return Http2Client(int(served.url.rstrip("/").rpartition(":")[2]))


@pytest.mark.parametrize("way", ["message", "header", "subprotocol"])
def test_a_conversation_over_http2(sample: Served, way: str) -> None:
    bearer, events = token(), list[Event]()
    headers: dict[str, Headers] = {
        "message": [("sec-websocket-protocol", "qaws.v1")],
        "header": [("sec-websocket-protocol", "qaws.v1"), ("authorization", f"Bearer {bearer}")],
        "subprotocol": [("sec-websocket-protocol", f"qaws.v1, qaws.bearer.{bearer}")],
    }
    with client_of(sample) as client:
        answer = client.upgrade(headers[way])
        assert answer[":status"] == "200"
        text = ""
        for event in client.events():
            if isinstance(event, wsproto.events.TextMessage):
                text += event.data
                if event.message_finished:
                    events.append(json.loads(text))
                    text = ""
                    if said := answer_to(events[-1], bearer):
                        client.send(wsproto.events.TextMessage(json.dumps(said)))
                    if events[-1]["type"] == "agent_response":
                        client.send(wsproto.events.CloseConnection(1000))
            elif isinstance(event, wsproto.events.CloseConnection):
                events.append({"closed": event.code, "protocol": answer["sec-websocket-protocol"]})
                break
    assert_conversation(events, way)


def test_a_denial_over_http2(sample: Served) -> None:
    with client_of(sample) as client:
        assert client.upgrade([("authorization", "Bearer nonsense")])[":status"] == "401"
        assert client.body() == b"unauthorized\n"
    with client_of(sample) as client:
        assert client.upgrade([], "/nowhere")[":status"] == "404"
