"""One peer of a `NodeUnderTest`: what it sends, and what it has heard, each event held to the contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..effects import Effect
from ..inputs import (
    BytesReceived,
    CloseReceived,
    ConnectionLost,
    EofReceived,
    MessageReceived,
    WriteBlocked,
    WriteDrained,
    WriteProgressed,
)
from .host import Host
from .peer import CLOSE, PING, TEXT, chat, text
from .server_stream import Head, ServerStream

if TYPE_CHECKING:
    from .node import NodeUnderTest


class Client:
    """One peer of a node: what it sends, and what it has heard. Behind a `host` the node is told of messages."""

    def __init__(self, node: NodeUnderTest, number: int, host: Host | None = None) -> None:
        self.node = node
        self.number = number
        self.host = host
        self.stream = ServerStream(b"" if host is None else host.head, own_events=node.own_events)
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
        if self.stream.head is None:
            self.stream.request += data
        return self.node.step(BytesReceived(self.number, data))

    def _send_by_host(self, host: Host, data: bytes) -> list[Effect]:
        effects: list[Effect] = []
        for event in host.read(self.number, data):
            effects += self.node.step(event)
            self.answered(host.answer())
        self.answered(host.answer())
        return effects

    def answered(self, data: bytes) -> None:
        """Its host has said this by itself."""
        if data:
            self.stream.receive(data)

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

    def progress(self) -> list[Effect]:
        """Read some of what the server's transport holds, and not enough of it."""
        return self.node.step(WriteProgressed(self.number))

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
        if event.get("event_name") == "run_started" and event["data"].get("rerun"):
            self._offsets.pop(event["data"]["run_id"], None)  # it begins anew
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
