"""Traces of nodes that went wrong once, and of real conversations: taken again, each step held to the contract.

Each file of tests/regressions is a trace (`qaws_proto.testing.trace`). The simulator writes one where it fails, and
`qaws serve --record` writes one of a server. What a recorded one did is compared as well; where that is to change,
`python -m tests.test_regressions` writes down what it does now.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from qaws_proto.effects import LoadSession, SaveRecords
from qaws_proto.inputs import (
    BytesReceived,
    CloseReceived,
    ConnectionOpened,
    Input,
    LoadFailed,
    MetricsCollected,
    RecordsSaved,
    RequestReceived,
    SaveFailed,
    SessionLoaded,
    WriteBlocked,
    WriteDrained,
)
from qaws_proto.testing import Client, StoreModel
from qaws_proto.testing.host import Host
from qaws_proto.testing.peer import upgrade
from qaws_proto.testing.replay import Outside, Replay, compare
from qaws_proto.testing.trace import Step, Trace, digest, failure
from qaws_proto.wire.http import Request
from tests.helpers.node import NodeUnderTest

FOLDER = Path(__file__).parent / "regressions"
TRACES = sorted(FOLDER.glob("*.jsonl"))


Asked = TypeVar("Asked", SaveRecords, LoadSession)


class ReplayedNode(NodeUnderTest):
    """A node that a trace happens to, every step of it checked."""

    def __init__(self, trace: Trace) -> None:
        self.outside = Outside()
        ports = self.outside.ports(trace.head)
        store = StoreModel() if ports.pop("durable") else None
        super().__init__(trace.head.config, store, prompt=False, opened=False, **ports)

    def take(self, step: Step) -> str:
        """Take a step; the digest of what came of it."""
        self.outside.begin(step)
        self.now = step.now
        self._prepare(step.input)
        try:
            return digest(self.step(step.input))
        except (TypeError, ValueError) as error:  # what a caller may not do, and did
            if step.effects != failure(error):
                raise
            return step.effects

    def _prepare(self, event: Input) -> None:
        """What the harness has to know of an input that it has not made itself."""
        if isinstance(event, ConnectionOpened):
            self.clients[event.connection] = Client(self, event.connection)
        elif isinstance(event, RequestReceived):
            self.clients[event.connection] = Client(self, event.connection, _host(event))
        elif isinstance(event, RecordsSaved | SaveFailed):
            asked = self._answered(SaveRecords)
            if self.store is not None and isinstance(event, RecordsSaved):
                self.store.save(asked.records)
        elif isinstance(event, SessionLoaded | LoadFailed):
            self._answered(LoadSession)
        elif isinstance(event, MetricsCollected):
            self.scrapes.pop(0)
        elif isinstance(event, BytesReceived | CloseReceived | WriteBlocked | WriteDrained):
            _tell(self.clients[event.connection], event)

    def _answered(self, kind: type[Asked]) -> Asked:
        asked = next(one for one in self.asked if isinstance(one, kind))
        self.asked.remove(asked)
        return asked


def _host(event: RequestReceived) -> Host:
    """What stands for the host of this request, which said what it is."""
    host = Host(upgrade(), denial=event.denial)
    host.upgrade = event.upgrade
    host.request = Request(event.method, event.target, host.request.headers)
    return host


def _tell(client: Client, event: BytesReceived | CloseReceived | WriteBlocked | WriteDrained) -> None:
    if isinstance(event, BytesReceived):
        client.read = max(client.read, len(event.data))
        if client.stream.head is None:
            client.stream.request += event.data
    elif isinstance(event, CloseReceived):
        assert client.host is not None
        client.host.closed = event.code
    else:
        blocked = isinstance(event, WriteBlocked)
        client.blocked = blocked and client.stream.head is not None and client.stream.closed is None


def read(path: Path) -> Trace:
    """A whole trace."""
    with path.open(encoding="ascii") as lines:
        return Trace.read(lines)


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_what_happened_once_keeps_the_contract(path: Path) -> None:
    trace = read(path)
    node = ReplayedNode(trace)
    for step in trace.steps:
        came = node.take(step)
        if trace.head.kind == "recording":
            assert compare(step.effects, came) is None, f"step {step.seq}"


def test_there_is_a_recorded_conversation() -> None:
    assert [path for path in TRACES if read(path).head.kind == "recording"]


def rewrite(path: Path) -> None:
    """Write down what a trace does now."""
    trace = read(path)
    lines = [trace.head.line()]
    for step, effects, _ in map(Replay(trace).take, trace.steps):
        lines.append(step._replace(effects=digest(effects)).line())
    path.write_text("\n".join(lines) + "\n", "ascii")


if __name__ == "__main__":
    for one in TRACES:
        if read(one).head.kind == "recording":
            rewrite(one)
