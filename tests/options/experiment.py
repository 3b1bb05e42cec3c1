"""What an experiment is: a setting at two values, and what can be seen of it from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from qaws_proto import WebSocketConfig
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import SECRET
from tests.helpers.node import NodeUnderTest

REFUSED = "refused"
NOTHING: Mapping[str, object] = MappingProxyType({})
BASE = {"security.authentication.enabled": False, "security.rate_limiting.enabled": False}
AUTH = {"security.authentication.enabled": True, "security.authentication.jwt_secret": SECRET}


class Experiment(NamedTuple):
    """`observe` sees a configuration from outside; with `one` and `other` as the value it sees something else.

    `given` are the other settings that it needs, by their dotted names. Where one of the values may be refused as such,
    `refusable` says so; anywhere else that would be a mistake of the experiment.
    """

    one: object
    other: object
    observe: Callable[[WebSocketConfig], object]
    given: Mapping[str, object] = NOTHING
    refusable: bool = False

    def run(self, setting: str, value: object) -> object:
        """What is seen with this value."""
        try:
            config = config_of({**BASE, **self.given, setting: value})
        except ValidationError:
            if not self.refusable:
                raise
            return REFUSED
        return self.observe(config)


def config_of(settings: Mapping[str, object]) -> WebSocketConfig:
    """The configuration of dotted settings."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return WebSocketConfig.model_validate(nested)


def seconds_until(node: NodeUnderTest, done: Callable[[], object]) -> float:
    """Virtual time until that is so, by nothing but the node's own timers."""
    began = node.now.mono
    while not done():
        wake_at = node.gateway.wake_at
        assert wake_at is not None, "no timer is left that could bring it about"
        node.advance(max(0.0, wake_at - node.now.mono))
    return round(node.now.mono - began, 6)


def largest(fits: Callable[[int], bool], top: int = 100_000) -> int:
    """The largest number that fits, of those up to `top`, which must not."""
    assert fits(0), "nothing fits"
    assert not fits(top), "there is no limit"
    low = 0
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (middle, top) if fits(middle) else (low, middle)
    return low


def count_until(act: Callable[[], object], done: Callable[[], object], top: int = 1000) -> int:
    """How often it takes until that is so."""
    for number in range(1, top + 1):
        act()
        if done():
            return number
    raise AssertionError(f"not in {top} times")


def codes(client: Client) -> list[str]:
    """The errors that a client heard."""
    return [str(event["error_code"]) for event in client.heard if event["type"] == "error"]
