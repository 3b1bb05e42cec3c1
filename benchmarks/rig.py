"""A node alone, with clients in memory: no socket, no task, no agent, and a time that we make ourselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

from qaws_proto import Gateway, Now
from qaws_proto.admission.tokens import issue_token
from qaws_proto.effects import Effect, SendBytes, StartRun
from qaws_proto.inputs import BytesReceived, ConnectionOpened, Input, TimerFired
from qaws_proto.testing.peer import upgrade

from .peers.gateway import configuration
from .peers.work import Terms

UNIX = 1_750_000_000.0
TICK = 0.8e-3  # seconds between two steps: each of 64 clients speaks ten times a second
A_DAY = 86_400  # seconds: the longest life of a token, so that no measurement is longer
TERMS = Terms(secret="of no use but here, and long enough for HS256")


class Own(NamedTuple):
    """The session that a client was given when it logged in."""

    session_id: str
    epoch: str


class VirtualNode:
    """A node of the configuration that is measured over sockets, but for `settings`; the same in every run."""

    def __init__(self, settings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        plain = configuration(TERMS)
        sections = plain.model_dump(exclude_unset=True)
        for name, values in (settings or {}).items():
            sections[name] = {**sections.get(name, {}), **values}
        ids = count(1)
        self.gateway = Gateway(plain.model_validate(sections), ids=lambda: f"{next(ids):032x}")
        self.mono = 0.0
        self.own: dict[int, Own] = {}  # by connection
        self._opened = count(1)
        self._tokens = count(1)

    def now(self) -> Now:
        """The next moment."""
        self.mono += TICK
        return Now(self.mono, UNIX + self.mono)

    def step(self, event: Input) -> list[Effect]:
        """What comes of this at the next moment."""
        return self.gateway.step(event, self.now())

    def wake(self) -> None:
        """Let the timers fire that are due, as an adapter does behind each step."""
        wake_at = self.gateway.wake_at
        if wake_at is not None and wake_at <= self.mono:
            self.step(TimerFired())

    def request(self, user: str) -> bytes:
        """The first bytes of a client that brings a new token along."""
        token = issue_token(
            self.gateway.config.security.authentication,
            user, unix=UNIX + self.mono, token_id=f"{next(self._tokens):032x}", expires_in=A_DAY,
        )  # fmt: skip
        return upgrade("/", f"Authorization: Bearer {token}")

    def connect(self, user: str) -> int:
        """The number of a new connection that is logged in."""
        number = next(self._opened)
        self.step(ConnectionOpened(number, "127.0.0.1"))
        told = sent(self.step(BytesReceived(number, self.request(user))))
        greeting = json.loads(told[told.index(b'{"') :])
        assert greeting["event_name"] == "connection_established", told
        self.own[number] = Own(greeting["data"]["session_id"], greeting["data"]["epoch"])
        return number

    def ask(self, number: int, frame: bytes) -> StartRun:
        """The run of a message."""
        runs = [effect for effect in self.step(BytesReceived(number, frame)) if type(effect) is StartRun]
        assert len(runs) == 1, runs
        return runs[0]


def sent(effects: list[Effect]) -> bytes:
    """The bytes that go to peers."""
    return b"".join(effect.data for effect in effects if type(effect) is SendBytes)
