"""WebSocketAuth: tokens of this machine's clock, for the gateway of the same configuration."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from qaws import ConfigError, WebSocketAuth, WebSocketConfig

SECRET = "a secret of more than thirty-two bytes"


def auth(**settings: Any) -> WebSocketAuth:
    settings = {"jwt_secret": SECRET, **settings}
    return WebSocketAuth(WebSocketConfig.model_validate({"security": {"authentication": settings}}))


def decoded(token: str) -> dict[str, Any]:
    return jwt.decode(token, SECRET, algorithms=["HS256"], audience="websocket-client", issuer="qa-intelligence")


def test_a_token_has_the_claims_of_the_protocol_and_is_verified() -> None:
    before = int(time.time())
    token = auth(token_expiry=90).generate_token("user-456", role="tester")
    claims = decoded(token)
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == claims["iat"] + 90
    assert (claims["sub"], claims["role"], len(claims["jti"])) == ("user-456", "tester", 32)
    principal = auth().verify_token(token)
    assert principal is not None
    assert (principal.user_id, principal.claims["role"]) == ("user-456", "tester")


def test_no_two_tokens_are_the_same() -> None:
    assert len({auth().generate_token("ana") for _ in range(10)}) == 10


def test_expires_in_is_the_lifetime() -> None:
    claims = decoded(auth().generate_token("ana", expires_in=5))
    assert claims["exp"] - claims["iat"] == 5


def test_a_section_alone_is_enough() -> None:
    config = WebSocketConfig.model_validate({"security": {"authentication": {"jwt_secret": SECRET}}})
    token = WebSocketAuth(config.security.authentication).generate_token("ana")
    assert auth().verify_token(token) is not None


@pytest.mark.row("A9")
def test_what_is_wrong_with_a_token_is_not_told() -> None:
    good = auth().generate_token("ana")
    others = auth(jwt_secret="another " + SECRET).generate_token("ana"), auth(issuer="else").generate_token("ana")
    for bad in (*others, auth(audience="else").generate_token("ana"), good[:-3], "", "a.b.c", "ñ", good + "\0"):
        assert auth().verify_token(bad) is None


@pytest.mark.row("A3")
def test_a_token_is_judged_by_the_clock_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    token = auth(leeway=0).generate_token("ana", expires_in=60)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert auth(leeway=0).verify_token(token) is None


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("", {}),
        ("x" * 129, {}),
        ("a\0b", {}),
        ("ana", {"expires_in": 0}),
        ("ana", {"expires_in": -1}),
        ("ana", {"expires_in": 86_401}),
        ("ana", {"sub": "eve"}),
        ("ana", {"exp": 10**12}),
    ],
)
def test_a_token_that_no_gateway_would_take_is_not_made(user: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        auth().generate_token(user, **options)


@pytest.mark.row("D6")
@pytest.mark.row("A1")
def test_no_secret_or_a_weak_one_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="jwt_secret"):
        WebSocketAuth(WebSocketConfig())
    with pytest.raises(ValueError, match="shorter than 32 bytes"):
        auth(jwt_secret="weak")
    assert auth(jwt_secret="weak", allow_weak_secret=True).generate_token("ana")


@pytest.mark.clause("C12")
def test_the_secret_is_in_no_repr() -> None:
    made = auth()
    assert SECRET not in f"{made!r} {made._config!r} {made._verifier!r}"
