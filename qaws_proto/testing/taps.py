"""The node's end of the connections of a simulated world, with an eye for rare states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..effects import Effect
from .client import Client
from .host import Host
from .node import NodeUnderTest
from .peer import PONG

if TYPE_CHECKING:
    from .counters import Counters
    from .pipe import Pipe

MOMENT = 0.001  # seconds
INTERRUPTED = "The answer was interrupted by a restart"


class Watched(Client):
    """A peer whose rare states are counted."""

    def __init__(self, node: NodeUnderTest, number: int, host: Host | None = None) -> None:
        super().__init__(node, number, host)
        self.counters: Counters = node.counters  # type: ignore[attr-defined]  # of a world's node
        if host is not None:
            self.counters.count("message-level peer")

    def send_bytes(self, data: bytes) -> list[Effect]:
        early = self.stream.head is None
        effects = super().send_bytes(data)
        if len(data) == 1:
            self.counters.count("single bytes")
        if early and self.stream.head is None and self.host is None and not self.dropped:
            self.counters.count("split inside the head")
        return effects

    def block(self) -> list[Effect]:
        self.counters.count("transport blocked")
        return super().block()

    def progress(self) -> list[Effect]:
        self.counters.count("blocked and progressed")
        return super().progress()

    def hear(self, data: bytes) -> None:
        compressed = self.stream.compressed
        super().hear(data)
        if self.stream.compressed > compressed:
            self.counters.count("compressed answer")
        if data[0] & 0x0F == PONG:
            self.counters.count("ping answered")

    def _check(self, event: dict[str, Any]) -> None:
        super()._check(event)
        name, data = event.get("event_name"), event.get("data", {})
        if name == "message_accepted":
            store = self.node.store
            assert store is None or data["run_id"] in store.runs, f"C11: {event} before it is kept"
            if data["duplicate"]:
                self.counters.count("duplicate pointed to")
            if data["position"]:
                self.counters.count("run queued")
        elif name == "run_started" and data.get("rerun"):
            self.counters.count("run run again")
        elif name in ("token_refreshed", "token_expiring"):
            self.counters.count(name.replace("_", " "))
        elif event["type"] == "error" and "run_id" not in event:
            self.counters.error(event["error_code"])
        elif event.get("error_message") == INTERRUPTED:
            self.counters.count("run interrupted by a restart")
        elif event["type"] == "agent_response":
            agent, seconds = self.node.config.agent, event["processing_time"]
            assert len(event["content"].encode()) <= agent.max_response_size, "C7: an answer that is too large"
            assert 0 <= seconds <= agent.max_duration + MOMENT, f"C5: an agent took {seconds} s"


class Tap(Watched):
    """The node's end of a pipe."""

    def __init__(self, node: NodeUnderTest, number: int, pipe: Pipe, host: Host | None = None) -> None:
        super().__init__(node, number, host)
        self.pipe = pipe

    def hear(self, data: bytes) -> None:
        super().hear(data)
        self.pipe.written(data)

    def answered(self, data: bytes) -> None:
        super().answered(data)
        if data:
            self.pipe.written(data)
        if self.host is not None and self.host.closed is not None:
            self.pipe.write_closed()
