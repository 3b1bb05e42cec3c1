"""Experiments on who is let in, and how often somebody may speak."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from qaws_proto import WebSocketConfig
from qaws_proto.admission.tokens import TokenVerifier, issue_token
from qaws_proto.inputs import Command, TokenRevoked, UserBlocked
from qaws_proto.safety import findings
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import SECRET, UNIX, token
from qaws_proto.testing.peer import request
from tests.helpers.node import NodeUnderTest

from .experiment import AUTH, Experiment, codes, count_until, seconds_until
from .network import status, statuses_of_three_upgrades

PAGE = "http://app.example"
MANY = 10  # messages


def status_with(config: WebSocketConfig, bearer: str) -> int:
    return status(config, f"Authorization: Bearer {bearer}")


def status_with_a_token(config: WebSocketConfig) -> int:
    return status_with(config, token())


def status_with_a_token_that_has_just_run_out(config: WebSocketConfig) -> int:
    return status_with(config, token(unix=UNIX - 620, expires_in=600))


def status_with_a_token_of_two_hours(config: WebSocketConfig) -> int:
    return status_with(config, token(expires_in=7200))


def status_with_a_token_in_the_address(config: WebSocketConfig) -> int:
    return status(config, path=f"/?token={token()}")


def life_of_a_token(config: WebSocketConfig) -> float:
    authentication = config.security.authentication
    made = issue_token(authentication, "ana", unix=UNIX, token_id="t")
    principal = TokenVerifier(authentication).verify(made, UNIX)
    assert principal is not None
    assert principal.expires_at is not None
    return principal.expires_at - UNIX


def first_word(config: WebSocketConfig) -> str:
    event = NodeUnderTest(config).upgrade().heard[0]
    return str(event["event_name"])


def time_for_a_token(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.upgrade()
    return seconds_until(node, lambda: client.stream.closed)


def refusals(config: WebSocketConfig) -> list[str]:
    return [one.setting for one in findings(config) if one.refuses]


# ── what a token allows ──────────────────────────────────────────────────────────────────────────────────────────────


def errors_of_a_message(config: WebSocketConfig, **claims: Any) -> list[str]:
    client = NodeUnderTest(config).upgrade(f"Authorization: Bearer {token(**claims)}")
    client.chat()
    return codes(client)


def errors_of_an_admin(config: WebSocketConfig) -> list[str]:
    return errors_of_a_message(config, roles=["admin"])


def errors_of_whom_it_is_permitted(config: WebSocketConfig) -> list[str]:
    return errors_of_a_message(config, permissions=["chat_message"])


def is_full(node: NodeUnderTest, command: Command) -> bool:
    """Whether the command is refused since there is no room for it."""
    try:
        node.step(command)
    except ValueError as error:
        return "already, as many as" in str(error)
    return False


def restrictions_until_full(config: WebSocketConfig, restrict: Callable[[str], Command]) -> int:
    node = NodeUnderTest(config)
    return next(number for number in range(100) if is_full(node, restrict(f"name {number}")))


def blocks_until_full(config: WebSocketConfig) -> int:
    return restrictions_until_full(config, partial(UserBlocked, "ops", "spam"))


def revocations_until_full(config: WebSocketConfig) -> int:
    return restrictions_until_full(config, partial(TokenRevoked, "ops", "lost"))


# ── pages and addresses ──────────────────────────────────────────────────────────────────────────────────────────────


def status_for_a_page(config: WebSocketConfig) -> int:
    return status(config, f"Origin: {PAGE}")


def preflight(config: WebSocketConfig) -> dict[str, str]:
    client = NodeUnderTest(config).open()
    client.send_bytes(request("/healthz", f"Origin: {PAGE}", method="OPTIONS"))
    headers = client.expect_http(204).headers
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def limited(client: Client) -> int:
    """How many of its messages were over the rate."""
    return codes(client).count("RATE_LIMIT")


def over_the_rate(config: WebSocketConfig, pause: float = 0) -> int:
    node = NodeUnderTest(config)
    client = node.connect()
    for _ in range(MANY):
        client.chat()
        node.advance(pause)
    return limited(client)


def over_the_rate_in_twenty_seconds(config: WebSocketConfig) -> int:
    return over_the_rate(config, pause=2)


def messages_until_the_end(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    return count_until(client.chat, lambda: client.stream.closed)


def users_over_the_rate(config: WebSocketConfig) -> list[int]:
    node = NodeUnderTest(config)
    clients = [node.connect(user_id) for user_id in ("ana", "eva", "leo")]
    for client in clients:
        client.chat()
    return [limited(client) for client in clients]


NAMED = {"security.cors.origins": [PAGE]}
RATES = "security.rate_limiting"
LIMITED = {f"{RATES}.enabled": True, f"{RATES}.strikes": 100}
ONE_A_MINUTE = {**LIMITED, f"{RATES}.requests_per_minute": 1}
ADMINS = {**AUTH, "security.authorization.events": {"chat_message": ["admin"]}}

EXPERIMENTS = {
    "security.authentication.enabled": Experiment(True, False, first_word, AUTH),
    "security.authentication.allow_public": Experiment(False, True, refusals, {"server.host": "0.0.0.0"}),
    "security.authentication.allow_weak_secret": Experiment(
        False, True, lambda config: "taken", {"security.authentication.jwt_secret": "weak"}, refusable=True
    ),
    "security.authentication.jwt_secret": Experiment(SECRET, f"another, not {SECRET}", status_with_a_token, AUTH),
    "security.authentication.token_expiry": Experiment(60, 600, life_of_a_token, AUTH),
    "security.authentication.issuer": Experiment("qa-intelligence", "another", status_with_a_token, AUTH),
    "security.authentication.audience": Experiment("websocket-client", "another", status_with_a_token, AUTH),
    "security.authentication.timeout": Experiment(4, 9, time_for_a_token, AUTH),
    "security.authentication.leeway": Experiment(10, 30, status_with_a_token_that_has_just_run_out, AUTH),
    "security.authentication.max_lifetime": Experiment(3600, 86_400, status_with_a_token_of_two_hours, AUTH),
    "security.authentication.allow_query_token": Experiment(False, True, status_with_a_token_in_the_address, AUTH),
    "security.authorization.roles_claim": Experiment("roles", "groups", errors_of_an_admin, ADMINS),
    "security.authorization.permissions_claim": Experiment(
        "permissions", "scope", errors_of_whom_it_is_permitted, ADMINS
    ),
    "security.authorization.events": Experiment({}, {"chat_message": ["admin"]}, errors_of_a_message, AUTH),
    "limits.blocks": Experiment(1, 3, blocks_until_full, AUTH),
    "limits.revocations": Experiment(1, 3, revocations_until_full, AUTH),
    "limits.connections_per_minute": Experiment(1, 2, statuses_of_three_upgrades),
    "security.cors.enabled": Experiment(True, False, status_for_a_page, NAMED),
    "security.cors.origins": Experiment([PAGE], ["http://localhost:*"], status_for_a_page),
    "security.cors.credentials": Experiment(False, True, preflight, NAMED),
    "security.cors.methods": Experiment(["GET"], ["GET", "POST"], preflight, NAMED),
    "security.cors.headers": Experiment(["Content-Type"], [], preflight, NAMED),
    "security.addresses.allow": Experiment([], ["203.0.113.0/24"], status),
    "security.addresses.block": Experiment([], ["192.0.2.0/24"], status),
    f"{RATES}.enabled": Experiment(True, False, over_the_rate, {**LIMITED, f"{RATES}.burst_size": 1}),
    f"{RATES}.requests_per_minute": Experiment(2, 4, over_the_rate_in_twenty_seconds, LIMITED),
    f"{RATES}.burst_size": Experiment(2, 4, over_the_rate, LIMITED),
    f"{RATES}.dry_run": Experiment(False, True, over_the_rate, ONE_A_MINUTE),
    f"{RATES}.address_requests_per_minute": Experiment(2, 4, over_the_rate_in_twenty_seconds, LIMITED),
    f"{RATES}.address_burst_size": Experiment(2, 4, over_the_rate, LIMITED),
    f"{RATES}.node_requests_per_minute": Experiment(2, 4, over_the_rate_in_twenty_seconds, LIMITED),
    f"{RATES}.node_burst_size": Experiment(2, 4, over_the_rate, LIMITED),
    f"{RATES}.max_keys": Experiment(1, 3, users_over_the_rate, {**AUTH, **ONE_A_MINUTE}),
    f"{RATES}.strikes": Experiment(2, 4, messages_until_the_end, ONE_A_MINUTE),
}
