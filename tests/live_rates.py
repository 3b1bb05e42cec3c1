"""Rates and budgets that are changed while a node runs: what tests/test_live_settings.py shows of each of them."""

from __future__ import annotations

from collections.abc import Callable

from qaws_proto.inputs import LimitsChanged
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure
from tests.helpers.node import NodeUnderTest


def change(node: NodeUnderTest, **changes: object) -> None:
    """Change settings, whose dots are written as two underscores."""
    node.step(LimitsChanged("ops", "a test", {name.replace("__", "."): value for name, value in changes.items()}))


def asked(node: NodeUnderTest, client: Client, answer: str = "x") -> None:
    """A question is asked and answered."""
    client.chat()
    node.finish(node.only_run, answer)
    client.expect_event("agent_response")


def limited(setting: str, retry_after: float) -> Callable[[], None]:
    """A limit of messages that was not there: it takes effect at once, and so does its end."""

    def show() -> None:
        node = NodeUnderTest(configure(security={"rate_limiting": {"requests_per_minute": 100, "burst_size": 100}}))
        client = node.connect()
        # What nothing limits is not counted: one is asked as the limit is set, and the next is one too many.
        change(node, **{f"security__rate_limiting__{setting}": 1})
        asked(node, client)
        client.chat()
        assert client.expect_error("RATE_LIMIT")["details"] == {"retry_after": retry_after}
        change(node, **{f"security__rate_limiting__{setting}": None})
        asked(node, client)

    return show


def dry_run() -> None:
    node = NodeUnderTest(configure(security={"rate_limiting": {"requests_per_minute": 1}}))
    client = node.connect()
    asked(node, client)
    client.chat()
    client.expect_error("RATE_LIMIT")
    change(node, security__rate_limiting__dry_run=True)
    asked(node, client)
    assert node.note("limit_dry_run").fields["limit"] == "user_rate"


def connections_per_minute() -> None:
    node = NodeUnderTest()
    change(node, limits__connections_per_minute=1)
    node.connect()
    assert node.upgrade().expect_http(429).headers["retry-after"] == "60"
    change(node, limits__connections_per_minute=2)
    node.connect()


def failed_tokens_per_minute() -> None:
    node = NodeUnderTest(configure(authentication=True))
    node.upgrade("Authorization: Bearer wrong").expect_http(401)
    change(node, limits__failed_tokens_per_minute=1)
    node.upgrade("Authorization: Bearer wrong").expect_http(429)
    change(node, limits__failed_tokens_per_minute=2)
    node.upgrade("Authorization: Bearer wrong").expect_http(401)


def runs_per_user() -> None:
    node = NodeUnderTest()
    client = node.connect()
    client.chat()
    change(node, agent__runs_per_user=1)
    client.chat(session_id="another")
    client.expect_error("BUSY")
    change(node, agent__runs_per_user=2)
    client.chat(session_id="another")
    assert len(node.runs) == 2


def budget_per_day() -> None:
    node = NodeUnderTest(configure(agent={"budget": {"per_day": 100, "reserve": 10}}))
    client = node.connect()
    asked(node, client, "x" * 40)
    change(node, agent__budget__per_day=45)  # what is used already counts
    client.chat()
    client.expect_error("RATE_LIMIT")
    change(node, agent__budget__per_day=50)
    asked(node, client)


def budget_reserve() -> None:
    node = NodeUnderTest(configure(agent={"budget": {"per_day": 100, "reserve": 10}}))
    client = node.connect()
    asked(node, client, "x" * 40)
    change(node, agent__budget__reserve=61)
    client.chat()
    client.expect_error("RATE_LIMIT")
    change(node, agent__budget__reserve=60)
    asked(node, client)


SHOWN: dict[str, Callable[[], None]] = {
    "security.rate_limiting.address_requests_per_minute": limited("address_requests_per_minute", 60.0),
    "security.rate_limiting.address_burst_size": limited("address_burst_size", 1.0),
    "security.rate_limiting.node_requests_per_minute": limited("node_requests_per_minute", 60.0),
    "security.rate_limiting.node_burst_size": limited("node_burst_size", 1.0),
    "security.rate_limiting.dry_run": dry_run,
    "limits.connections_per_minute": connections_per_minute,
    "limits.failed_tokens_per_minute": failed_tokens_per_minute,
    "agent.runs_per_user": runs_per_user,
    "agent.budget.per_day": budget_per_day,
    "agent.budget.reserve": budget_reserve,
}
