"""Experiments on the keys of tokens: where they come from, how often they are read, and how many tokens may fail."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from qaws import ConfigError, WebSocketAuth, WebSocketConfig, WebSocketServer
from qaws_proto.admission.tokens import issue_token
from qaws_proto.config import AuthenticationConfig
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import SECRET, UNIX, token
from qaws_proto.testing.peer import request
from tests.helpers.key_server import key_server
from tests.helpers.keys import Pair, key_set, pair
from tests.helpers.node import NodeUnderTest

from .admission import status_with
from .experiment import AUTH, Experiment, count_until, seconds_until
from .machine import FREE_PORT, echo, elsewhere, observed
from .network import status_of

ONE, OTHER = pair("RS256", "one"), pair("RS256", "other", 1)
EARLIER = "the secret of yesterday, which is long enough"


def write_keys() -> None:
    """The files that the settings below name, into the working directory."""
    for name, key in (("one", ONE), ("other", OTHER)):
        Path(f"{name}.public.pem").write_bytes(key.public_pem)
        Path(f"{name}.private.pem").write_bytes(key.private_pem)
        Path(f"{name}.json").write_bytes(key_set(key.jwk()))


# ── where they come from ─────────────────────────────────────────────────────────────────────────────────────────────


def answer_to_the_first_key(config: WebSocketConfig) -> object:
    """The status of a server for a token of the first key; or why it does not start."""

    async def look() -> object:
        headers = {"Authorization": f"Bearer {ONE.token(unix=time.time())}"}
        try:
            async with WebSocketServer(echo, config) as server, connect(server.url, additional_headers=headers):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code
        except ConfigError as error:
            return str(error)

    with elsewhere():
        write_keys()
        return observed(look())


def own_token_is_good(config: WebSocketConfig) -> bool:
    """Whether a token made here is verified by the public key."""
    with elsewhere():
        write_keys()
        auth = WebSocketAuth(config)
        return auth.verify_token(auth.generate_token("ana")) is not None


def status_with_a_token_of_yesterday(config: WebSocketConfig) -> int:
    settings = AuthenticationConfig.model_validate({"jwt_secret": EARLIER})
    return status_with(config, issue_token(settings, "ana", unix=UNIX, token_id="t"))


# ── how they are read ────────────────────────────────────────────────────────────────────────────────────────────────


def reading(config: WebSocketConfig) -> NodeUnderTest:
    """A node that has begun to read its keys."""
    node = NodeUnderTest(config)
    node.settle()
    return node


def with_a_token_of(node: NodeUnderTest, key: Pair) -> Client:
    return node.upgrade(f"Authorization: Bearer {key.token(unix=node.now.unix)}")


def time_until_they_are_read_again(config: WebSocketConfig) -> float:
    node = reading(config)
    node.give_keys(key_set(ONE.jwk()))
    return seconds_until(node, lambda: node.loading)


def seconds_until_an_unknown_key_is_looked_for(config: WebSocketConfig) -> int:
    node = reading(config)
    node.give_keys(key_set(ONE.jwk()))

    def second() -> None:
        node.advance(1)
        with_a_token_of(node, OTHER)

    return count_until(second, lambda: node.loading)


class Said(logging.Handler):
    """Waits for the first line in the log about this event."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self._event = event
        self.line: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(f"{self._event} ") and not self.line.done():
            self.line.set_result(record.getMessage())


def what_is_said_of_keys_that_never_come(config: WebSocketConfig) -> str:
    async def look() -> str:
        logger, said = logging.getLogger("qaws"), Said("keys_failed")
        logger.addHandler(said)
        try:
            with key_server() as source:
                source.open.clear()
                async with WebSocketServer(echo, with_keys_at(config, source.url)):
                    return await said.line
        finally:
            logger.removeHandler(said)

    return str(observed(look()))


def with_keys_at(config: WebSocketConfig, url: str) -> WebSocketConfig:
    authentication = config.security.authentication.model_copy(update={"jwks": url})
    security = config.security.model_copy(update={"authentication": authentication})
    return config.model_copy(update={"security": security})


def readiness_with_a_key(config: WebSocketConfig) -> int:
    node = reading(config)
    node.give_keys(key_set(ONE.jwk()))
    client = node.open()
    client.send_bytes(request("/readyz"))
    return status_of(client)


def status_with_the_second_key(config: WebSocketConfig) -> int:
    node = reading(config)
    node.give_keys(key_set(ONE.jwk(), OTHER.jwk()))
    return status_of(with_a_token_of(node, OTHER))


# ── tokens that fail, and those that do not ──────────────────────────────────────────────────────────────────────────


def wrong_tokens_until_none_is_looked_at(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    clients: list[Client] = []
    return count_until(
        lambda: clients.append(node.upgrade("Authorization: Bearer wrong")), lambda: status_of(clients[-1]) != 401
    )


def status_with_a_token_that_was_good_before(config: WebSocketConfig) -> int:
    """What it is answered when the address has sent a wrong one since: what was verified is let in (A8)."""
    node = NodeUnderTest(config)
    bearers = [f"Authorization: Bearer {token(user)}" for user in ("ana", "eva")]
    for bearer in (*bearers, "Authorization: Bearer wrong"):
        node.upgrade(bearer)
    return status_of(node.upgrade(bearers[0]))


AUTHENTICATION = "security.authentication"
NO_SECRET = {f"{AUTHENTICATION}.enabled": True}
RSA = {**NO_SECRET, **FREE_PORT, f"{AUTHENTICATION}.algorithm": "RS256"}
RSA_IN_A_FILE = {**RSA, f"{AUTHENTICATION}.public_key_file": "one.public.pem"}
FETCHED = {**NO_SECRET, f"{AUTHENTICATION}.jwks": "https://keys.example/set", "server.heartbeat_interval": 80_000}
TODAY = {**AUTH, f"{AUTHENTICATION}.previous_secret_until": UNIX + 60}

EXPERIMENTS = {
    f"{AUTHENTICATION}.algorithm": Experiment("RS256", "ES256", answer_to_the_first_key, RSA_IN_A_FILE),
    f"{AUTHENTICATION}.public_key_file": Experiment("one.public.pem", "other.public.pem", answer_to_the_first_key, RSA),
    f"{AUTHENTICATION}.private_key_file": Experiment(
        "one.private.pem", "other.private.pem", own_token_is_good, RSA_IN_A_FILE
    ),
    f"{AUTHENTICATION}.previous_secret": Experiment(
        EARLIER, f"another, not {SECRET}", status_with_a_token_of_yesterday, TODAY
    ),
    f"{AUTHENTICATION}.previous_secret_until": Experiment(
        UNIX + 60,
        UNIX - 60,
        status_with_a_token_of_yesterday,
        {**AUTH, f"{AUTHENTICATION}.previous_secret": EARLIER},
    ),
    f"{AUTHENTICATION}.jwks": Experiment("one.json", "other.json", answer_to_the_first_key, {**NO_SECRET, **FREE_PORT}),
    f"{AUTHENTICATION}.jwks_refresh": Experiment(100, 300, time_until_they_are_read_again, FETCHED),
    f"{AUTHENTICATION}.jwks_timeout": Experiment(
        0.05, 0.1, what_is_said_of_keys_that_never_come, {**FETCHED, **FREE_PORT}
    ),
    f"{AUTHENTICATION}.jwks_interval": Experiment(5, 20, seconds_until_an_unknown_key_is_looked_for, FETCHED),
    "limits.key_set_size": Experiment(256, 1024, readiness_with_a_key, FETCHED),
    "limits.keys": Experiment(1, 2, status_with_the_second_key, FETCHED),
    "limits.failed_tokens_per_minute": Experiment(2, 4, wrong_tokens_until_none_is_looked_at, AUTH),
    "limits.verified_tokens": Experiment(
        1, 2, status_with_a_token_that_was_good_before, {**AUTH, "limits.failed_tokens_per_minute": 1}
    ),
}
