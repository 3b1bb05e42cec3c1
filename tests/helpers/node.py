"""The one harness: a node under test in virtual time, with clients that speak the protocol strictly.

    node = NodeUnderTest()
    client = node.connect()
    client.chat("hi", id="m1")
    client.expect_event("system_event", event_name="message_accepted")
    node.finish(node.only_run, "hello")
    client.expect_event("agent_response", content="hello")

`node.request()` and `node.connect(hosted=True)` give clients behind a host that does HTTP and frames by itself: the
node hears of them at message level, and everything else about them is the same.

Whatever the test does, every step is checked: C4 (order on the wire and of a session's events), C5 (`wake_at`), C6
(nothing after the end), C7 (`buffered_bytes`), C8 (one end for each run, nothing after it).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qaws_proto import Gateway, Now, WebSocketConfig
from qaws_proto.admission.tokens import issue_token
from qaws_proto.config import DEFLATE_SLICE, AuthenticationConfig
from qaws_proto.effects import (
    CancelRun,
    CloseWrite,
    CollectMetrics,
    ConnectionEffect,
    Drained,
    DropConnection,
    Effect,
    LoadKeys,
    LoadSession,
    MessageEffect,
    Note,
    PauseReading,
    PauseRun,
    ResumeRun,
    SaveRecords,
    SendBytes,
    StartRun,
)
from qaws_proto.inputs import (
    BytesReceived,
    CloseReceived,
    ConnectionLost,
    ConnectionOpened,
    EofReceived,
    Input,
    KeysFailed,
    KeysLoaded,
    LoadFailed,
    MessageReceived,
    MetricsCollected,
    RecordsSaved,
    RunChunk,
    RunFailed,
    RunFinished,
    RunStep,
    SaveFailed,
    SessionLoaded,
    StoreOpened,
    TimerFired,
    WriteBlocked,
    WriteDrained,
)
from tests.helpers.deflate import compressed, inflated
from tests.helpers.host import Host
from tests.helpers.notes import check
from tests.helpers.store import StoreModel

MONO = 1000.0
UNIX = 1_750_000_000.0
START = Now(MONO, UNIX)
SECRET = "a secret of this test, which is long enough"
AT_ONCE = 1e-9  # seconds
ADDRESS = "192.0.2.1"
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 section 5.7
ONE_EVENT = 4096  # more than any event that one connection alone is told, and a pong

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def configure(*, authentication: bool = False, **sections: dict[str, Any]) -> WebSocketConfig:
    """A configuration from sections such as `limits={...}`; without authentication or rate limit unless asked."""
    security = {"rate_limiting": {"enabled": False}, **sections.pop("security", {})}
    security.setdefault(
        "authentication", {"enabled": True, "jwt_secret": SECRET} if authentication else {"enabled": False}
    )
    return WebSocketConfig.model_validate({"security": security, **sections})


def token(
    user_id: str = "user-1", *, unix: float = UNIX, expires_in: int = 3600, token_id: str = "t", **claims: Any
) -> str:
    """A valid token for the configuration that `configure(authentication=True)` makes."""
    settings = AuthenticationConfig.model_validate({"jwt_secret": SECRET})
    return issue_token(settings, user_id, unix=unix, token_id=token_id, expires_in=expires_in, claims=claims or None)


def counter() -> Callable[[], str]:
    """Ids that are the same in every run of a test."""
    ids = (f"id-{number}" for number in range(1, 1_000_000))
    return lambda: next(ids)


def request(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    """A request that asks for no WebSocket."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def upgrade(path: str = "/", *headers: str) -> bytes:
    """A WebSocket upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers,
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    """A frame as a client sends it (RFC 6455 section 5.2), or a wrong one."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    flag, length = 0x80 if mask else 0, len(payload)
    if length < 126:
        head = bytes((first, flag | length))
    elif length < 65536:
        head = bytes((first, flag | 126)) + length.to_bytes(2)
    else:
        head = bytes((first, flag | 127)) + length.to_bytes(8)
    if not mask:
        return head + payload
    key = (MASK * (length // 4 + 1))[:length]
    return head + MASK + (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(length)


def text(event: object) -> bytes:
    """A text frame with an event as JSON, or with a text as it is."""
    return frame(TEXT, (event if isinstance(event, str) else json.dumps(event)).encode())


def deflated(event: object) -> bytes:
    """A text frame with an event as JSON, or with a text as it is, compressed (RFC 7692 section 7.2.1)."""
    return frame(TEXT, compressed((event if isinstance(event, str) else json.dumps(event)).encode()), reserved=4)


def chat(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """A chat message."""
    return {"type": "chat_message", "content": content, **fields}


def close_frame(code: int | None = 1000) -> bytes:
    """A client's Close."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2))


class Head(NamedTuple):
    """The head of the server's one HTTP answer, and its body where that is no 101."""

    status: int
    headers: dict[str, str]
    body: bytes


class ServerStream:
    """Decodes what a server writes, and refuses all that RFC 6455 does: one head, minimal unmasked whole frames, at
    most one Close, nothing after it. Frames that are compressed are counted, and allowed where that was agreed."""

    def __init__(self, *, bodyless: bool = False) -> None:
        self.bodyless = bodyless  # what is answered is a HEAD
        self.head: Head | None = None
        self.frames: deque[tuple[int, bytes]] = deque()  # opcode and payload, not yet looked at
        self.closed: tuple[int, str] | None = None
        self.compressed = 0
        self._buffer = b""

    def receive(self, data: bytes) -> None:
        assert data, "an empty write"
        assert self.closed is None, f"{data!r} after Close"
        self._buffer += data
        if self.head is None:
            self._read_head()
        if self.head is not None and self.head.status == 101:
            while self._buffer:
                self._read_frame()

    def _read_head(self) -> None:
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        assert end, "a server writes its head at once"
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            name = name.lower()
            assert name == "connection" or name not in headers, "a doubled header"
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if status == "101":
            self._buffer = body
            self.head = Head(101, headers, b"")
            return
        assert "close" in headers["connection"].split(", ")
        length = 0 if self.bodyless else int(headers.get("content-length", 0))
        assert len(body) == length, "one whole answer"
        self._buffer = b""
        self.head = Head(int(status), headers, body)
        self.closed = (int(status), "http")

    def _read_frame(self) -> None:
        first, second = self._buffer[0], self._buffer[1]
        opcode, length, size = first & 0x0F, second & 0x7F, 2
        assert first & 0xF0 == 0x80 or first == 0xC0 | TEXT, "a whole frame without reserved bits"
        assert not second & 0x80, "a server does not mask"
        if length == 126:
            length, size = int.from_bytes(self._buffer[2:4]), 4
            assert length > 125, "the shortest length"
        elif length == 127:
            length, size = int.from_bytes(self._buffer[2:10]), 10
            assert length > 65535, "the shortest length"
        assert len(self._buffer) >= size + length, "frames are written whole"
        payload, self._buffer = self._buffer[size : size + length], self._buffer[size + length :]
        assert opcode in (TEXT, CLOSE, PING, PONG)
        assert opcode == TEXT or length <= 125
        if first & 0x40:
            assert self.head is not None
            assert "permessage-deflate" in self.head.headers["sec-websocket-extensions"]
            payload = inflated(payload)
            assert length < len(payload), "compressed, and no smaller"
            self.compressed += 1
        if opcode == CLOSE:
            assert not self._buffer, "nothing comes after Close"
            self.closed = (int.from_bytes(payload[:2]) if payload else 1005, payload[2:].decode())
        self.frames.append((opcode, payload))


class Client:
    """One peer of a node: what it sends, and what it has heard. Behind a `host` the node is told of messages."""

    def __init__(self, node: NodeUnderTest, number: int, host: Host | None = None) -> None:
        self.node = node
        self.number = number
        self.host = host
        self.stream = ServerStream(bodyless=host is not None and host.request.method == "HEAD")
        self.write_closed = False  # the server has half-closed
        self.dropped = False
        self.paused = False  # the server does not read
        self.blocked = False  # it does not read, and the server knows
        self.pressed: list[bytes] = []  # what it was sent all the same: allowed with a Close in the same step
        self.read = 0  # the largest read of the server
        self.heard: list[dict[str, Any]] = []  # every event so far
        self._seqs: dict[str, int] = {}
        self._ended: set[str] = set()  # runs whose end was heard
        self._offsets: dict[str, int] = {}
        self._snapshot: dict[str, int] = {}  # by session: the seq of the snapshot that is being told

    # ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────────

    def send_bytes(self, data: bytes) -> list[Effect]:
        """Send bytes, in one read."""
        if self.host is not None:
            return self._send_by_host(self.host, data)
        self.read = max(self.read, len(data))
        return self.node.step(BytesReceived(self.number, data))

    def _send_by_host(self, host: Host, data: bytes) -> list[Effect]:
        effects: list[Effect] = []
        for event in host.read(self.number, data):
            effects += self.node.step(event)
            if answer := host.answer_close():
                self.stream.receive(answer)
        return effects

    def say(self, message: str | bytes) -> list[Effect]:
        """Send a message to a node at message level, as it is."""
        return self.node.step(MessageReceived(self.number, message))

    def leave(self, code: int = 1000) -> list[Effect]:
        """Let the host of a node at message level say that the peer has closed."""
        assert self.host is not None
        self.host.closed = code
        return self.node.step(CloseReceived(self.number, code))

    def send(self, event: object) -> list[Effect]:
        """Send an event, or a text as it is."""
        return self.send_bytes(text(event))

    def chat(self, content: str = "hi", **fields: Any) -> list[Effect]:
        """Send a chat message."""
        return self.send(chat(content, **fields))

    def eof(self) -> list[Effect]:
        """Send no more."""
        return self.node.step(EofReceived(self.number))

    def lose(self) -> list[Effect]:
        """Break the connection."""
        return self.node.step(ConnectionLost(self.number))

    def block(self) -> list[Effect]:
        """Do not read, so that the server's transport is full."""
        self.blocked = self.stream.head is not None and self.stream.closed is None
        return self.node.step(WriteBlocked(self.number))

    def unblock(self) -> list[Effect]:
        """Read again."""
        self.blocked = False
        return self.node.step(WriteDrained(self.number))

    @property
    def refused(self) -> tuple[int, str] | None:
        """The close code and the word that its host was told instead of an answer."""
        assert self.host is not None
        return self.host.refused

    def resume(self, session_id: str, seq: int = 0, epoch: str = "") -> list[Effect]:
        """Ask for what was said in a session behind an event."""
        return self.send({"type": "resume", "session_id": session_id, "epoch": epoch, "seq": seq})

    def ack(self, session_id: str, seq: int) -> list[Effect]:
        """Say that all up to an event has been seen."""
        return self.send({"type": "ack", "session_id": session_id, "seq": seq})

    # ── what it expects ──────────────────────────────────────────────────────────────────────────────────────────────

    def next_frame(self) -> tuple[int, bytes]:
        """The next frame of the server."""
        assert self.stream.frames, "the server has said nothing more"
        return self.stream.frames.popleft()

    def expect_event(self, type: str, **fields: Any) -> dict[str, Any]:
        """The next frame is this event; `fields` are a part of it."""
        opcode, payload = self.next_frame()
        assert opcode == TEXT, f"no event but opcode {opcode}: {payload!r}"
        event: dict[str, Any] = json.loads(payload)
        assert {"type": type, **fields}.items() <= event.items(), event
        return event

    def expect_error(self, code: str, **fields: Any) -> dict[str, Any]:
        """The next frame is an error event."""
        return self.expect_event("error", error_code=code, **fields)

    def expect_system(self, name: str, **fields: Any) -> dict[str, Any]:
        """The next frame is this system event; its data."""
        data = self.expect_event("system_event", event_name=name, **fields)["data"]
        assert isinstance(data, dict)
        return data

    def expect_silence(self) -> None:
        """The server has said nothing more, and not ended."""
        assert not self.stream.frames, self.stream.frames
        assert not self.write_closed
        assert not self.dropped

    def expect_close(self, code: int, reason: str | None = None) -> None:
        """The next frame is the last: Close with this code."""
        opcode, payload = self.next_frame()
        assert opcode == CLOSE, payload
        assert self.stream.closed is not None
        assert self.stream.closed[0] == code, self.stream.closed
        assert reason is None or self.stream.closed[1] == reason, self.stream.closed

    def expect_http(self, status: int) -> Head:
        """The answer was this status, and then the server half-closed."""
        assert self.stream.head is not None, "no answer"
        assert self.stream.head.status == status, self.stream.head
        assert self.write_closed or status == 101
        return self.stream.head

    def expect_dropped(self) -> None:
        """The connection is gone."""
        assert self.dropped

    def forget(self) -> None:
        """Look at nothing of what was said so far."""
        self.stream.frames.clear()

    # ── what it is told ──────────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, data: bytes) -> None:
        """Bytes of the server."""
        assert not self.write_closed, "bytes after CloseWrite"
        known = len(self.stream.frames)
        self.stream.receive(data)
        for opcode, payload in list(self.stream.frames)[known:]:
            if self.blocked and opcode != PING and not self.stream.closed:
                self.pressed.append(payload)
            if opcode == TEXT:
                self._check(json.loads(payload))

    def _check(self, event: dict[str, Any]) -> None:
        self.heard.append(event)
        run_id, seq = event.get("run_id"), event.get("seq")
        session_id = event.get("session_id", "")
        if event.get("event_name") == "session_resumed":  # what is heard from here on begins elsewhere
            data = event["data"]
            self._seqs[session_id] = data["from"] - 1 if data["recovered"] else data["to"]
            self._snapshot = {} if data["recovered"] else {session_id: data["to"]}
            self._offsets.clear()
            if data["recovered"]:  # ends may be heard again; but no snapshot shows what has ended
                self._ended.clear()
        elif seq is not None and not self._is_snapshot(event, seq):  # C4
            last = self._seqs.get(session_id, seq - 1)
            joined = event["type"] == "agent_chunk" and seq > last  # of several chunks the last one's, in a replay
            assert joined or seq == last + 1, f"a gap: {event}"
            self._seqs[session_id] = seq
            self._snapshot.pop(session_id, None)
        if run_id is None:
            return
        assert run_id not in self._ended, f"after its end: {event}"  # C8
        if event["type"] in ("agent_response", "error"):
            self._ended.add(run_id)
        elif event["type"] == "agent_chunk":
            assert event["content"] or self._is_snapshot(event, seq), "an empty chunk"
            assert event["offset"] == self._offsets.get(run_id, event["offset"]), f"a wrong offset: {event}"
            self._offsets[run_id] = event["offset"] + len(event["content"])

    def _is_snapshot(self, event: dict[str, Any], seq: int | None) -> bool:
        """Whether it is all that a run has said so far, told to a reader who cannot be told how it came to that."""
        return (
            event["type"] == "agent_chunk" and event["offset"] == 0 and self._snapshot.get(event["session_id"]) == seq
        )


class NodeUnderTest:
    """A gateway, its clock, its clients, and the agent runs it has started. The test plays the agent."""

    def __init__(
        self, config: WebSocketConfig | None = None, store: StoreModel | None = None, *, prompt: bool = True,
        opened: bool = True, now: Now = START, **gateway: Any,
    ) -> None:  # fmt: skip
        """With a `store` the node is durable; where it is not `prompt`, it answers when the test says so (`answer`);
        where it is not `opened`, the test says so too."""
        self.config = config or configure()
        self.gateway = Gateway(self.config, ids=gateway.pop("ids", counter()), durable=store is not None, **gateway)
        self.store = store
        self.prompt = prompt
        self.asked: list[SaveRecords | LoadSession] = []  # of the store, and not answered
        self.now = now
        self.loading: LoadKeys | None = None  # keys that the test has to answer for
        self.clients: dict[int, Client] = {}
        self.runs: dict[str, StartRun] = {}  # started and not reported as ended
        self.started: dict[str, StartRun] = {}
        self.cancelled: set[str] = set()
        self.paused: set[str] = set()
        self.said: dict[str, str] = {}  # what the agent has yielded
        self.scrapes: list[CollectMetrics] = []  # asked for and not answered
        self.notes: list[Note] = []
        self.drained = False
        self.history: list[tuple[Input, Now, list[Effect]]] = []
        self.marks: list[int] = []  # lengths of `history` that a test wants to remember
        self._ended_notes: set[str] = set()
        if store is not None and opened:
            self.step(StoreOpened(store.unfinished(), store.restrictions()))

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, *, fail: bool = False) -> list[Effect]:
        """Let the store answer what it was asked first; or fail at it."""
        assert self.store is not None
        effect = self.asked.pop(0)
        if isinstance(effect, SaveRecords):
            if fail:
                return self.step(SaveFailed(effect.batch, OSError("the disk is full")))
            self.store.save(effect.records)
            return self.step(RecordsSaved(effect.batch))
        if fail:
            return self.step(LoadFailed(effect.owner, effect.session_id, OSError("the disk is gone")))
        newest = self.config.sessions.max_events
        stored = self.store.load(effect.owner, effect.session_id, newest)
        return self.step(SessionLoaded(effect.owner, effect.session_id, stored))

    def answer_all(self) -> None:
        """Let the store answer until it is asked nothing more."""
        while self.asked:
            self.answer()

    # ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def collected(self, body: bytes | None, *content_type: str) -> list[Effect]:
        """Answer whoever asked for metrics first."""
        return self.step(MetricsCollected(self.scrapes.pop(0).connection, body, *content_type))

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def give_keys(self, document: bytes) -> list[Effect]:
        """The source of the keys holds this."""
        assert self.loading is not None, "the node has not asked"
        return self.step(KeysLoaded(document))

    def fail_keys(self, reason: str = "status 500") -> list[Effect]:
        """The source of the keys cannot be read."""
        assert self.loading is not None, "the node has not asked"
        return self.step(KeysFailed(reason))

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire every timer on the way when it is due."""
        end = Now(self.now.mono + seconds, self.now.unix + seconds)
        while (wake_at := self.gateway.wake_at) is not None and wake_at <= end.mono:
            self._move_to(max(wake_at, self.now.mono))
            self.step(TimerFired())
        self.now = end

    def settle(self) -> None:
        """Fire the timers that are due at once: all that was received is handled. No time passes."""
        while (wake_at := self.gateway.wake_at) is not None and wake_at - self.now.mono < AT_ONCE:
            self._move_to(max(wake_at, self.now.mono))
            self.step(TimerFired())

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.now = Now(self.now.mono, self.now.unix + seconds)

    def _move_to(self, mono: float) -> None:
        self.now = Now(mono, self.now.unix + mono - self.now.mono)

    # ── peers ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, peer: str | None = ADDRESS, *, internal: bool = False) -> Client:
        """A peer connects, and says nothing yet; `internal`: at the address of `metrics.listen`."""
        number = len(self.clients)
        client = self.clients[number] = Client(self, number)
        self.step(ConnectionOpened(number, peer, internal))
        return client

    def upgrade(self, *headers: str, path: str = "/", peer: str | None = ADDRESS) -> Client:
        """A peer connects and upgrades."""
        client = self.open(peer)
        client.send_bytes(upgrade(path, *headers))
        return client

    def request(self, data: bytes | None = None, *, denial: bool = True, peer: str | None = ADDRESS) -> Client:
        """A peer connects to a host, with this request (an upgrade); the node is told of it at message level."""
        number, host = len(self.clients), Host(upgrade() if data is None else data, denial=denial)
        client = self.clients[number] = Client(self, number, host)
        self.step(host.open(number, peer))
        client.send_bytes(b"")  # what came behind the head
        return client

    def connect(self, user_id: str | None = None, *, peer: str | None = ADDRESS, hosted: bool = False) -> Client:
        """A peer connects, and has been welcomed; with a token of `user_id`, where one is given."""
        headers = () if user_id is None else (f"Authorization: Bearer {token(user_id, unix=self.now.unix)}",)
        client = self.request(upgrade("/", *headers), peer=peer) if hosted else self.upgrade(*headers, peer=peer)
        client.expect_http(101)
        client.expect_system("connection_established")
        return client

    # ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def only_run(self) -> str:
        """The id of the one run that the agent works on."""
        (run_id,) = self.runs
        return run_id

    def chunk(self, run_id: str, content: object) -> list[Effect]:
        """The agent yields."""
        if type(content) is str:
            self.said[run_id] = self.said.get(run_id, "") + content
        return self.step(RunChunk(run_id, content))

    def tell(self, run_id: str, kind: str, name: str | None = None, content: str | None = None) -> list[Effect]:
        """The agent tells what it does."""
        return self.step(RunStep(run_id, kind, name, content))

    def finish(self, run_id: str, content: object = None, **fields: Any) -> list[Effect]:
        """The agent is done."""
        return self.step(RunFinished(run_id, content, **fields))

    def fail(self, run_id: str, cause: BaseException | None = None, **advice: Any) -> list[Effect]:
        """The agent raises, or stops after it was cancelled."""
        return self.step(RunFailed(run_id, cause, **advice))

    # ── the node ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, event: Input) -> list[Effect]:
        """One step at the present time, its effects performed and checked."""
        gateway, now = self.gateway, self.now
        before = gateway.wake_at
        closed = isinstance(number := getattr(event, "connection", None), int) and self.clients[number].dropped
        if isinstance(event, RunFinished | RunFailed):
            self.runs.pop(event.run_id, None)
            self.paused.discard(event.run_id)
        if isinstance(event, KeysLoaded | KeysFailed):
            self.loading = None
        effects = gateway.step(event, now)
        self.history.append((event, now, effects))
        for effect in effects:
            self._perform(effect)
        if closed:
            assert effects == [], f"C6: {event} on a closed connection"
        if isinstance(event, TimerFired):
            self._check_timer(before, effects)
        self._check_turn(effects)
        for client in self.clients.values():
            held = gateway.buffered_bytes(client.number)
            assert not client.pressed or client.stream.closed, f"C7: {client.pressed} for a blocked peer"
            assert held <= (0 if client.dropped else client.read + self._bound), f"C7: {held} bytes held"
        assert gateway.connections == sum(not client.dropped for client in self.clients.values())
        assert sum(isinstance(effect, SaveRecords) for effect in self.asked) <= 1, "two saves at once"
        if self.prompt and self.asked:
            return effects + self.answer()
        return effects

    @property
    def _bound(self) -> int:
        limits = self.config.limits
        deflate = DEFLATE_SLICE if self.config.server.compression.enabled else 0
        return limits.inbox + limits.max_message_size + limits.out_top + ONE_EVENT + deflate

    def _check_timer(self, before: float | None, effects: list[Effect]) -> None:
        after = self.gateway.wake_at
        assert after == self.gateway.wake_at, "C5: reading wake_at changes nothing"
        if before is None or self.now.mono < before:
            assert (after, effects) == (before, []), "C5: an early timer is harmless"
        else:
            assert after is None or after > self.now.mono, "C5: a due timer moves wake_at on"

    def _check_turn(self, effects: Sequence[Effect]) -> None:
        """One write a turn for each connection, unless something had to come behind the first."""
        last: dict[int, type[Effect]] = {}
        for effect in effects:
            if isinstance(effect, SendBytes | CloseWrite | DropConnection):
                assert not (isinstance(effect, SendBytes) and last.get(effect.connection) is SendBytes), "two writes"
                last[effect.connection] = type(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, ConnectionEffect):
            client = self.clients[effect.connection]
            assert not client.dropped, f"C6: {effect} after the end"
            self._tell(client, effect)
        elif isinstance(effect, StartRun):
            assert effect.run_id not in self.started
            self.runs[effect.run_id] = self.started[effect.run_id] = effect
        elif isinstance(effect, CancelRun):
            assert effect.run_id in self.runs, "cancelled, but not running"
            assert effect.run_id not in self.cancelled, "cancelled twice"
            self.cancelled.add(effect.run_id)
        elif isinstance(effect, PauseRun):
            assert effect.run_id in self.runs.keys() - self.cancelled - self.paused
            self.paused.add(effect.run_id)
        elif isinstance(effect, ResumeRun):
            assert effect.run_id not in self.cancelled
            self.paused.remove(effect.run_id)
        elif isinstance(effect, Note):
            check(effect)
            self.notes.append(effect)
            if effect.name == "run_ended":
                run_id = str(effect.fields["run_id"])
                assert run_id not in self._ended_notes, "C8: a run ends once"
                self._ended_notes.add(run_id)
        elif isinstance(effect, CollectMetrics):
            self.scrapes.append(effect)
        elif isinstance(effect, SaveRecords | LoadSession):
            self.asked.append(effect)
        elif isinstance(effect, LoadKeys):
            assert self.loading is None, "read twice at once"
            self.loading = effect
        else:
            assert isinstance(effect, Drained)
            assert not self.drained, "drained twice"
            assert all(client.dropped for client in self.clients.values())
            self.drained = True

    def _tell(self, client: Client, effect: Effect) -> None:
        if isinstance(effect, SendBytes):
            assert client.host is None, "bytes for a host"
            client.hear(effect.data)
        elif isinstance(effect, MessageEffect):
            assert client.host is not None, "a message, and no host"
            client.hear(client.host.write(effect))
        elif isinstance(effect, CloseWrite):
            assert not client.write_closed, "half-closed twice"
            client.write_closed = True
        elif isinstance(effect, DropConnection):
            client.dropped = True
        else:
            paused = isinstance(effect, PauseReading)
            assert client.paused is not paused, "paused or resumed twice"
            client.paused = paused

    def note(self, name: str) -> Note:
        """The one note of this name."""
        (found,) = [note for note in self.notes if note.name == name]
        return found

    @property
    def ended(self) -> set[str]:
        """Runs that have ended for their clients."""
        return self._ended_notes
