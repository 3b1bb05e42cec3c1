"""The settings that can be changed while the node runs: each takes effect at once, within the usual bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qaws_proto import ConfigError, WebSocketConfig
from qaws_proto.inputs import LimitsChanged
from qaws_proto.live_settings import CHANGEABLE, changeable, changed
from qaws_proto.testing.node import SECRET, configure
from qaws_proto.testing.peer import PONG, frame
from tests import live_rates
from tests.helpers.node import NodeUnderTest
from tests.live_rates import change

LIMITED: dict[str, Any] = {"rate_limiting": {"requests_per_minute": 4, "burst_size": 4}}


# ── each of them ─────────────────────────────────────────────────────────────────────────────────────────────────────


def max_connections() -> None:
    node = NodeUnderTest()
    first, _ = node.connect(), node.connect()
    change(node, server__max_connections=2)
    assert node.upgrade().expect_http(503)
    first.expect_silence()
    change(node, server__max_connections=3)
    node.connect()


def connections_per_address() -> None:
    node = NodeUnderTest(configure(limits={"connections_per_address": 1}))
    node.connect()
    assert node.upgrade().expect_http(429)
    change(node, limits__connections_per_address=2)
    node.connect()


def handshakes() -> None:
    node = NodeUnderTest()
    node.open()
    change(node, limits__handshakes=1)
    assert node.open().expect_http(503)
    node.open().expect_dropped()


def retry_after() -> None:
    node = NodeUnderTest(configure(limits={"connections_per_address": 1}))
    node.connect()
    change(node, limits__retry_after=77)
    assert node.upgrade().expect_http(429).headers["retry-after"] == "77"


def limiting() -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect()
    change(node, security__rate_limiting__enabled=False)
    for _ in range(6):
        client.chat()
        node.finish(node.only_run, "x")
        client.expect_event("agent_response")
    change(node, security__rate_limiting__enabled=True)
    for _ in range(4):
        client.chat()
        node.finish(node.only_run, "x")
        client.expect_event("agent_response")
    client.chat()
    client.expect_error("RATE_LIMIT")


def per_minute() -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect()
    for _ in range(3):
        client.chat()
        node.finish(node.only_run, "x")
        node.advance(2)
    client.forget()
    change(node, security__rate_limiting__requests_per_minute=3)  # what is counted already counts
    client.chat()
    assert client.expect_error("RATE_LIMIT")["details"] == {"retry_after": 54.0}
    change(node, security__rate_limiting__requests_per_minute=5)
    client.chat()
    assert node.runs


def burst() -> None:
    node = NodeUnderTest(configure(security=LIMITED))
    client = node.connect()
    client.chat()
    change(node, security__rate_limiting__burst_size=1)
    client.chat()
    assert client.expect_error("RATE_LIMIT")["details"] == {"retry_after": 1.0}


def strikes() -> None:
    node = NodeUnderTest(configure(security={"rate_limiting": {"requests_per_minute": 1, "strikes": 5}}))
    client = node.connect()
    client.chat()
    client.chat()
    client.expect_error("RATE_LIMIT")
    change(node, security__rate_limiting__strikes=2)
    client.chat()
    client.expect_error("RATE_LIMIT")
    client.expect_close(4429)


def frames_per_second() -> None:
    node = NodeUnderTest(configure(limits={"frames_per_second": 1, "frame_burst": 10}))
    client = node.connect()
    client.send_bytes(frame(PONG) * 9)
    change(node, limits__frames_per_second=100)
    node.advance(0.1)
    client.send_bytes(frame(PONG) * 9)
    client.expect_silence()


def frame_burst() -> None:
    node = NodeUnderTest(configure(limits={"frame_burst": 10}))
    client = node.connect()
    change(node, limits__frame_burst=3)
    client.send_bytes(frame(PONG) * 4)
    client.expect_close(1008)


def bad_messages() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.send("no json")
    client.expect_error("INVALID_JSON")
    change(node, limits__bad_messages_per_minute=2)
    client.send("no json")
    client.expect_error("INVALID_JSON")
    client.expect_close(1008)


def agent_timeout() -> None:
    node = NodeUnderTest(configure(agent={"timeout": 60}))
    client = node.connect()
    client.chat()
    node.advance(10)
    change(node, agent__timeout=20)  # of a run that is under way
    node.advance(9)
    client.expect_silence()
    node.advance(1)
    client.expect_error("AGENT_TIMEOUT")
    node.fail(node.only_run)
    for _ in range(2):
        client.chat()
    change(node, agent__timeout=5)  # of one that waits behind another, too, from when it begins
    node.advance(5)
    client.expect_error("AGENT_TIMEOUT")
    node.fail(node.only_run)
    node.advance(4)
    client.expect_silence()
    node.advance(1)
    client.expect_error("AGENT_TIMEOUT")


def agent_duration() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    node.advance(20)
    change(node, agent__max_duration=10)  # it is over already
    node.settle()
    client.expect_error("AGENT_TIMEOUT")


def max_runs() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    change(node, agent__max_runs=1)
    client.chat(session_id="another")
    client.expect_error("OVERLOADED")
    change(node, agent__max_runs=2)
    client.chat(session_id="another")
    assert len(node.runs) == 2


def per_user() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.connect("ana")
    client.chat(session_id="s")
    change(node, sessions__per_user=1)
    client.chat(session_id="t")
    client.expect_error("BUSY")


def max_sessions() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat(session_id="s")
    change(node, sessions__max_sessions=1)
    client.chat(session_id="t")
    client.expect_error("OVERLOADED")


def queue() -> None:
    node = NodeUnderTest(configure(sessions={"queue": 1, "double_text": "concurrent"}))
    client = node.connect()
    for _ in range(2):
        client.chat()
    assert len(node.runs) == 2
    client.chat()
    client.expect_error("BUSY")
    change(node, sessions__queue=2)
    client.chat()
    assert len(node.runs) == 3


SHOWN: dict[str, Callable[[], None]] = {
    **live_rates.SHOWN,
    "server.max_connections": max_connections,
    "security.rate_limiting.enabled": limiting,
    "security.rate_limiting.requests_per_minute": per_minute,
    "security.rate_limiting.burst_size": burst,
    "security.rate_limiting.strikes": strikes,
    "limits.connections_per_address": connections_per_address,
    "limits.handshakes": handshakes,
    "limits.frames_per_second": frames_per_second,
    "limits.frame_burst": frame_burst,
    "limits.bad_messages_per_minute": bad_messages,
    "limits.retry_after": retry_after,
    "agent.timeout": agent_timeout,
    "agent.max_duration": agent_duration,
    "agent.max_runs": max_runs,
    "sessions.per_user": per_user,
    "sessions.max_sessions": max_sessions,
    "sessions.queue": queue,
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_a_changed_setting_takes_effect_at_once(show: Callable[[], None]) -> None:
    show()


def test_every_changeable_setting_is_shown_to_take_effect() -> None:
    assert set(SHOWN) == set(CHANGEABLE)


# ── the change itself ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_configuration_is_a_new_one_with_all_else_as_it_was() -> None:
    config = configure(authentication=True, server={"port": 9000})
    new = changed(config, {"server.max_connections": 8, "agent.timeout": 5})
    assert (new.server.max_connections, new.agent.timeout) == (8, 5.0)
    assert config.server.max_connections == 100
    assert new.security.authentication.jwt_secret == config.security.authentication.jwt_secret
    assert changed(new, {"server.max_connections": 100, "agent.timeout": 60}) == config


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "nothing is named"),
        ({"server.port": 1}, r"'server\.port' cannot be changed while the node runs; these can: server\.max_conn"),
        ({"max_connections": 1}, "cannot be changed"),
        ({7: 1}, "7 cannot be changed"),
        ({"server.max_connections": 0}, r"^server\.max_connections: Input should be greater than or equal to 1$"),
        ({"server.max_connections": "many"}, r"^server\.max_connections: Input should be a valid integer"),
        ({"server.max_connections": True}, r"^server\.max_connections: true and false have no meaning here$"),
        ({"agent.timeout": float("nan")}, r"^agent\.timeout: "),
        ({"agent.timeout": 0}, r"^agent\.timeout: Input should be greater than 0$"),
        ({"agent.timeout": None}, r"^agent\.timeout: Input should be a valid number$"),
        ({"agent.timeout": 5, "agent.max_runs": -1}, r"^agent\.max_runs: "),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(changes: dict[Any, object], problem: str) -> None:
    node = NodeUnderTest()
    before = node.gateway.control.limits(), node.gateway.wake_at
    with pytest.raises(ValueError, match=problem) as raised:
        node.gateway.step(LimitsChanged("ops", "", changes), node.now)
    assert not isinstance(raised.value, ConfigError)
    assert SECRET not in str(raised.value)
    assert (node.gateway.control.limits(), node.gateway.wake_at) == before


def test_the_settings_that_can_be_changed_are_settings() -> None:
    config = WebSocketConfig()
    assert changeable(config)["server.max_connections"] == 100
    assert changed(config, changeable(config)) == config
