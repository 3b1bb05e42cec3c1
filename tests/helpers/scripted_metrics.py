"""A node in virtual time with its metrics, after a history in which each of them moved."""

from __future__ import annotations

from qaws.telemetry.metrics import Metrics
from qaws_proto.config import MetricsConfig
from qaws_proto.effects import Note
from qaws_proto.testing.node import configure
from qaws_proto.testing.peer import close_frame
from tests.helpers.node import NodeUnderTest


def measured(node: NodeUnderTest) -> Metrics:
    """The metrics of a node, told of all its notes so far."""
    metrics = Metrics(node.gateway, MetricsConfig())
    for note in node.notes:
        metrics.note(note)
    return metrics


def scripted() -> tuple[NodeUnderTest, Metrics]:
    """A short history, of which every number is known."""
    rate = {"enabled": True, "requests_per_minute": 7, "burst_size": 5}
    node = NodeUnderTest(configure(authentication=True, security={"rate_limiting": rate}, agent={"timeout": 5}))
    ana, eva = node.connect("ana"), node.connect("ana")
    node.upgrade("Authorization: Bearer wrong")
    node.upgrade(path="/elsewhere")
    mute = node.upgrade()
    mute.send({"type": "auth", "token": "wrong"})  # closed with 4401
    mute.lose()
    ana.chat(id="m1", stream=True, session_id="s")
    ana.chat(id="m2", session_id="s")
    ana.chat(id="m3", session_id="s")
    node.advance(1)
    node.chunk(node.only_run, "1234")
    node.advance(2)
    node.chunk(node.only_run, "56")
    node.finish(node.only_run, "1234567890")
    node.advance(0.2)
    ana.send({"type": "cancel", "correlation_id": "m3"})
    node.fail(node.only_run, RuntimeError("x"))
    ana.chat(id="m4", session_id="s")
    node.advance(5)  # it is silent too long
    node.fail(node.only_run)
    ana.chat(id="m5", session_id="s")
    session = node.gateway._sessions.find("ana", "s")
    assert session is not None
    eva.resume("s", 0, session.log.epoch)
    eva.resume("guessed")
    ana.chat(id="m6", session_id="s")  # over the rate
    eva.send("no json")
    eva.send_bytes(close_frame(3333))
    eva.lose()
    return node, measured(node)


def eventful() -> Metrics:
    """A history in which something of each kind was noted, the rare kinds too."""
    _, metrics = scripted()
    metrics.note(Note("control", "WARNING", "user_blocked", {}))
    metrics.note(Note("security", "INFO", "limit_dry_run", {"limit": "user"}))
    metrics.note(Note("security", "INFO", "keys_loaded", {}))
    metrics.note(Note("security", "ERROR", "keys_failed", {}))
    metrics.note(Note("node", "ERROR", "save_failed", {}))
    metrics.store_answered("save", 0.01, failed=True)
    return metrics
