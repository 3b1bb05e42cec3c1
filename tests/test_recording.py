"""What a server records while strangers talk to it, and that it replays: the very bytes that they were sent."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.sync.client import connect
from websockets.uri import parse_uri

from qaws import WebSocketAuth, WebSocketConfig
from qaws_proto.effects import SendBytes, SendMessage
from qaws_proto.inputs import BytesReceived
from qaws_proto.testing.replay import Replay
from qaws_proto.testing.trace import Trace
from tests.adapters.certificates import Authority
from tests.helpers.asgi_process import HOSTS, hosted
from tests.helpers.process import PATIENCE, qaws, serving

SECRET = "a secret of this test, which is long enough"
COOKIE, FAILURE = "cookie-of-somebody", "what the agent would not tell"
AGENT = f'''
import anyio

async def agent(message):
    if message == "fail":
        raise RuntimeError("{FAILURE}")
    while True:
        for word in ("some ", "words ", "of ", "an answer ") * 40:
            yield word
        if message != "for ever":
            return
        await anyio.sleep(0)
'''


class Peer:
    """A client of the websockets library on a socket of our own, that keeps every byte it is sent."""

    def __init__(self, url: str, context: ssl.SSLContext, *headers: tuple[str, str]) -> None:
        address = parse_uri(url)
        self._protocol = ClientProtocol(address, extensions=[ClientPerMessageDeflateFactory()])
        self._socket = context.wrap_socket(
            socket.create_connection((address.host, address.port), PATIENCE), server_hostname="localhost"
        )
        self.heard = b""
        self._events: list[Any] = []
        request = self._protocol.connect()
        for header in headers:
            request.headers[header[0]] = header[1]
        self._protocol.send_request(request)
        self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._socket.sendall(data)

    def read(self) -> bool:
        """Read what is there; False at the end."""
        data = self._socket.recv(65536)
        self.heard += data
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._flush()
        self._events += self._protocol.events_received()
        return bool(data)

    def hear(self, **wanted: Any) -> dict[str, Any]:
        """The next event that has these fields."""
        while True:
            while self._events:
                frame = self._events.pop(0)
                if getattr(frame, "opcode", None) is Opcode.TEXT:
                    event: dict[str, Any] = json.loads(frame.data)
                    if wanted.items() <= event.items():
                        return event
            assert self.read(), f"the end came before {wanted}"

    def say(self, event: dict[str, Any], *, pieces: int = 1) -> None:
        """Send an event in so many fragments, compressed."""
        data = json.dumps(event).encode()
        size = -(-len(data) // pieces)
        for at in range(0, len(data), size):
            send = self._protocol.send_continuation if at else self._protocol.send_text
            send(data[at : at + size], fin=at + size >= len(data))
            self._flush()

    def chat(self, content: str, **fields: Any) -> None:
        self.say({"type": "chat_message", "content": content, "stream": True, **fields})

    def close(self) -> None:
        """Be gone, without a word."""
        self._socket.close()

    def leave(self) -> None:
        """Close as one should."""
        self._protocol.send_close(1000)
        self._flush()
        self.read_all()

    def read_all(self) -> None:
        """Read to the end."""
        while self.read():
            pass


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("of recordings")


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Path:
    """A folder with an agent and a configuration for `qaws serve`."""
    (tmp_path / "mine.py").write_text(AGENT, "utf-8")
    issued = authority.issue(tmp_path)
    config = {
        "server": {"compression": {"enabled": True, "min_size": 0}},
        "store": {"kind": "sqlite", "path": str(tmp_path / "qaws.db")},
        "security": {
            "authentication": {"jwt_secret": SECRET}, "ssl": issued.section(),
            "rate_limiting": {"requests_per_minute": 5, "strikes": 9},
        },
        "metrics": {"token": "token-of-metrics-which-nobody-knows"},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(json.dumps({"websocket": config}), "utf-8")
    return tmp_path


def token(user_id: str) -> str:
    config = WebSocketConfig.model_validate({"security": {"authentication": {"jwt_secret": SECRET}}})
    return WebSocketAuth(config).generate_token(user_id)


def only_trace(folder: Path) -> tuple[Path, Trace]:
    """The one trace in a folder, which is for this user alone."""
    assert folder.stat().st_mode & 0o777 == 0o700
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(encoding="ascii") as lines:
        return path, Trace.read(lines)


def replayed(trace: Trace) -> dict[int, bytes]:
    """What each connection is sent where the trace is replayed, in all."""
    sent: defaultdict[int, bytes] = defaultdict(bytes)
    for step in Replay(trace).steps():
        assert step.difference is None, step
        for effect in step.effects:
            if isinstance(effect, SendBytes):
                sent[effect.connection] += effect.data
            elif isinstance(effect, SendMessage):
                sent[effect.connection] += effect.text.encode() + b"\n"
    return sent


def shown(trace: Trace) -> Iterator[bytes]:
    """All that peers have said, as it is in the trace and behind masks and compression."""
    for step in trace.steps:
        if isinstance(step.input, BytesReceived):
            data = step.input.data
            yield data
            for start in range(len(data) - 6):  # of every frame there may be, its payload
                size = data[start + 1] & 0x7F
                head = start + (2 if size < 126 else 4)
                mask, payload = data[head : head + 4], data[head + 4 :]
                plain = bytes(one ^ mask[at % 4] for at, one in enumerate(payload))
                yield plain
                try:
                    yield zlib.decompressobj(-15).decompress(plain)
                except zlib.error:
                    continue
        else:
            yield repr(tuple(step.input)).encode()


def check_secrets(path: Path, trace: Trace, *secrets: str) -> None:
    """None of them is in the file, nor in what stands in it."""
    text = path.read_bytes()
    for secret in (SECRET, COOKIE, FAILURE, "token-of-metrics", *secrets):
        assert secret.encode()[:16] not in text
        assert not any(secret.encode()[:16] in data for data in shown(trace)), secret


RUNNERS = [("asyncio", "uvloop"), ("asyncio", "asyncio"), ("anyio", "uvloop"), ("anyio", "trio")]


@pytest.mark.clause("C2")
@pytest.mark.clause("C12")
@pytest.mark.parametrize(("adapter", "backend"), RUNNERS)
def test_a_conversation_over_tls_replays_to_the_same_bytes(
    adapter: str, backend: str, folder: Path, authority: Authority
) -> None:
    first, second = token("ana"), token("ana")
    arguments = ("--config", "config.yaml", "--agent", "mine:agent", "--adapter", adapter, "--backend", backend)
    with serving(*arguments, "--record", str(folder / "traces"), cwd=str(folder)) as server:
        context = authority.trusting()
        headers = [("Authorization", f"Bearer {first}"), ("Cookie", f"a={COOKIE}")]
        with closing(Peer(server.url, context, *headers)) as ana:
            session = ana.hear(event_name="connection_established")["data"]
            ana.chat("some", id="m1")
            answer = ana.hear(type="agent_response")
            ana.chat("fail", id="m2")
            ana.hear(type="error", error_code="AGENT_ERROR")
            ana.chat("for ever", id="m3")
            ana.hear(type="agent_chunk")
            ana.say({"type": "cancel", "correlation_id": "m3"})
            ana.hear(type="agent_response", status="cancelled")
            ana.chat("some", id="m4")
            ana.hear(type="agent_response")
        with closing(Peer(server.url, context)) as again:
            again.hear(event_name="auth_required")
            again.say({"type": "auth", "token": second}, pieces=3)
            again.hear(event_name="connection_established")
            again.say({"type": "resume", "session_id": session["session_id"], "epoch": session["epoch"], "seq": 1})
            again.hear(event_name="session_resumed")
            assert again.hear(type="agent_response")["content"] == answer["content"]
            again.hear(type="agent_response", correlation_id="m4")
            again.chat("too much", id="m5")
            again.hear(type="error", error_code="RATE_LIMIT")
            again.leave()
        with closing(Peer(server.url, context)) as stranger:
            stranger.hear(event_name="auth_required")
            stranger.say({"type": "auth", "token": second + "x"})
            stranger.read_all()
    path, trace = only_trace(folder / "traces")
    sent = replayed(trace)
    assert sent[1].startswith(ana.heard)
    assert [sent[2], sent[3]] == [again.heard, stranger.heard]
    check_secrets(path, trace, first, second)
    check_command(path, len(trace.steps))


def check_command(path: Path, steps: int) -> None:
    """`qaws replay` says that all is as it was, and why connections ended."""
    done = subprocess.run(qaws("replay", str(path)), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == f"{steps} inputs, {steps} equal"
    ends = [line for line in lines if "ends with" in line]
    assert any("4401 auth failed (AUTH_FAILED, fault of peer); because of BytesReceived" in line for line in ends)
    assert any("[2] ends with 1000 (no fault); because of BytesReceived of 8: close 1000" in line for line in ends)


@pytest.mark.clause("C9")
@pytest.mark.parametrize("host", ["uvicorn-websockets-sansio", "hypercorn-trio-alone"])
def test_a_conversation_under_an_asgi_host_replays_to_the_same_messages(host: str, folder: Path) -> None:
    config = json.loads((folder / "config.yaml").read_text("utf-8"))
    del config["websocket"]["security"]["ssl"]
    (folder / "config.yaml").write_text(json.dumps(config), "utf-8")
    first, second = token("ana"), token("eva")
    env = {"QAWS_CONFIG": "config.yaml", "QAWS_AGENT": "mine:agent", "QAWS_RECORD": "traces"}
    heard: list[list[str]] = []
    with hosted(HOSTS[host], cwd=folder, env=env) as server:
        for given, headers in ((first, {"Authorization": f"Bearer {first}", "Cookie": COOKIE}), (second, {})):
            heard.append([])
            with connect(server.url, additional_headers=headers) as client:
                if not headers:
                    heard[-1].append(str(client.recv(PATIENCE)))
                    client.send(json.dumps({"type": "auth", "token": given}))
                client.send(json.dumps({"type": "chat_message", "content": "some", "stream": True}))
                while not heard[-1] or '"agent_response"' not in heard[-1][-1]:
                    heard[-1].append(str(client.recv(PATIENCE)))
    path, trace = only_trace(folder / "traces")
    sent = replayed(trace)
    told = sorted(number for number in sent if b"agent_response" in sent[number])
    assert [sent[number].decode().splitlines() for number in told] == heard
    check_secrets(path, trace, first, second)


async def talk_with_aiohttp(url: str, given: str, *, in_header: bool) -> None:
    """Log in, ask, and leave."""
    headers = {"Authorization": f"Bearer {given}"} if in_header else {}
    async with (
        aiohttp.ClientSession(cookies={"a": COOKIE}) as session,
        session.ws_connect(url, headers=headers, compress=15) as socket,
    ):
        if not in_header:
            await socket.send_json({"type": "auth", "token": given})
        await socket.send_json({"type": "chat_message", "content": "some", "stream": True})
        while (await socket.receive_json(timeout=PATIENCE))["type"] != "agent_response":
            pass


def test_a_conversation_with_aiohttp_is_recorded_without_secrets_and_replays(folder: Path) -> None:
    config = json.loads((folder / "config.yaml").read_text("utf-8"))
    del config["websocket"]["security"]["ssl"]
    (folder / "config.yaml").write_text(json.dumps(config), "utf-8")
    tokens = token("ana"), token("eva")
    arguments = ("--config", "config.yaml", "--agent", "mine:agent", "--record", "traces")
    with serving(*arguments, cwd=str(folder)) as server:
        for given, in_header in zip(tokens, (True, False), strict=True):
            asyncio.run(talk_with_aiohttp(server.url, given, in_header=in_header))
    path, trace = only_trace(folder / "traces")
    sent = replayed(trace)
    assert b"permessage-deflate" in sent[1]
    assert sorted(sent) == [1, 2]
    check_secrets(path, trace, *tokens)


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_nothing_can_be_written_any_more_it_goes_on_serving(tmp_path: Path) -> None:
    full = ("sh", "-c", 'ulimit -f 12; exec "$@"', "sh")  # blocks of 512 bytes, of any file that it writes
    with serving("--no-auth", "--record", "traces", cwd=str(tmp_path), before=full) as server:
        with connect(server.url) as client:
            for number in range(10):
                client.send(json.dumps({"type": "chat_message", "content": f"{number} " + "x" * 1000}))
                while '"agent_response"' not in client.recv(PATIENCE):
                    pass
        line = server.logged("recording_failed")
        assert " ERROR " in line
        assert 'reason="File too large"' in line
        assert sum("recording_failed" in line for line in server.log) == 1
    (path,) = (tmp_path / "traces").iterdir()
    with path.open(encoding="ascii") as lines:
        trace = Trace.read_beginning(lines)
    assert trace.broken is not None
    assert len(trace.steps) > 2
    replayed(trace)
    done = subprocess.run(qaws("replay", str(path)), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "the record breaks off" in done.stderr
    assert done.stdout.endswith(f"{len(trace.steps)} inputs, {len(trace.steps)} equal\n")


def test_where_nothing_can_be_recorded_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "traces").touch()
    command = qaws("serve", "--no-auth", "--port", "0", "--record", "traces")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "qaws: nothing can be recorded in traces: File exists" in done.stderr
