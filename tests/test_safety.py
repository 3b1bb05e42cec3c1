"""qaws_proto.safety and qaws_proto.strength: what is refused, what is warned of, and what a word lets stand (D6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qaws_proto.config import ConfigError, WebSocketConfig
from qaws_proto.safety import (
    FORGOTTEN,
    READ_WHERE,
    Finding,
    ReadWhere,
    findings,
    is_set,
    require_safe,
    unread,
)
from qaws_proto.strength import weakness
from tests.options.experiment import config_of

SECRET = "correct-horse-battery-staple-0123456789"
JWT_SECRET = "security.authentication.jwt_secret"
ENABLED = "security.authentication.enabled"
ALLOW_PUBLIC: dict[str, object] = {"security.authentication.allow_public": True}
OPEN: dict[str, object] = {ENABLED: False}
CLOSED: dict[str, object] = {JWT_SECRET: SECRET}
TLS: dict[str, object] = {"security.ssl.enabled": True}
UNMEASURED: dict[str, object] = {"metrics.enabled": False}


def found(settings: dict[str, object], **how: Any) -> list[tuple[str, bool]]:
    """The settings that should not stay as they are, and whether nothing is served."""
    return [(one.setting, one.refuses) for one in findings(config_of(settings), **how)]


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

EXAMPLES = (
    "changeme-changeme-changeme-changeme",
    "CHANGE_ME please, CHANGE_ME please, CHANGE_ME",
    "your-super-secret-jwt-key-change-in-production",
    "my super secret password 1234, my password",
    "secret-key-secret-key-secret-key-1234567",
)


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "shorter than 32 bytes"),
        ("secret", "shorter than 32 bytes"),
        (SECRET[:31], "shorter than 32 bytes"),
        ("s" * 48, "fewer than 8 different characters"),
        ("test" * 12, "fewer than 8 different characters"),
        ("password" * 4, "fewer than 8 different characters"),
        *((example, "the words of examples") for example in EXAMPLES),
    ],
)
def test_a_secret_that_can_be_guessed_is_weak(secret: str, why: str) -> None:
    weak = weakness(secret)
    assert weak is not None
    assert why in weak
    assert "openssl rand -base64 48" in weak
    if len(secret) < 32:
        with pytest.raises(ValidationError) as caught:
            config_of({JWT_SECRET: secret})
        assert why in str(caught.value)
    else:  # whoever made it may know better
        (one,) = findings(config_of({JWT_SECRET: secret}))
        assert (one.setting, one.refuses, why in one.wrong) == (JWT_SECRET, False, True)


@pytest.mark.parametrize(
    "secret",
    [SECRET, "0123456789abcdef" * 2, "3141592653589793238462643383279502884197", "ñ" * 9 + "andúes de la pampa"],
)
def test_a_secret_that_nothing_speaks_against_is_taken(secret: str) -> None:
    assert weakness(secret) is None


@given(st.binary(min_size=32, max_size=48))
def test_no_hexadecimal_digits_are_taken_for_words(secret: bytes) -> None:
    weak = weakness(secret.hex())
    assert weak is None or "different characters" in weak  # of which Hypothesis makes few


def test_a_weak_secret_that_is_meant_is_warned_of() -> None:
    meant = {JWT_SECRET: "weak", "security.authentication.allow_weak_secret": True}
    (one,) = findings(config_of(meant))
    assert (one.setting, one.refuses) == (JWT_SECRET, False)
    assert one.allowed_by == "security.authentication.allow_weak_secret"
    assert "security.authentication.allow_weak_secret lets it stand" in str(one)
    assert found({**meant, JWT_SECRET: SECRET}) == []


def test_a_weak_secret_of_before_is_no_better() -> None:
    before: dict[str, object] = {
        "security.authentication.previous_secret": "weak", "security.authentication.previous_secret_until": 1,
    }  # fmt: skip
    with pytest.raises(ValidationError, match="previous_secret"):
        config_of({**CLOSED, **before})
    meant = {**CLOSED, **before, "security.authentication.allow_weak_secret": True}
    assert found(meant) == [("security.authentication.previous_secret", False)]
    assert found({**meant, "security.authentication.previous_secret": f"another {SECRET}"}) == []


# ── who is let in ────────────────────────────────────────────────────────────────────────────────────────────────────

CASES: list[tuple[dict[str, object], list[tuple[str, bool]]]] = [
    ({}, [(JWT_SECRET, True)]),
    (CLOSED, []),
    (OPEN, []),
    ({**CLOSED, **UNMEASURED, "server.host": "0.0.0.0"}, [("security.ssl.enabled", False)]),
    ({**CLOSED, **UNMEASURED, **TLS, "server.host": "0.0.0.0"}, []),
    ({**CLOSED, **UNMEASURED, "server.host": "0.0.0.0", "server.trusted_proxies": ["10.0.0.0/8"]}, []),
    ({**OPEN, **UNMEASURED, **TLS, "server.host": "gateway.example"}, [(ENABLED, True)]),
    ({**OPEN, **UNMEASURED, **TLS, "server.host": "::"}, [(ENABLED, True)]),
    ({**OPEN, **UNMEASURED, **TLS, "server.host": "0.0.0.0", **ALLOW_PUBLIC}, [(ENABLED, False)]),
    *(({**OPEN, "server.host": host}, []) for host in ("LocalHost", "127.0.0.1", "127.9.9.9", "::1")),
    # keys that come from elsewhere
    ({"security.authentication.jwks": "https://keys.example/set"}, []),
    ({"security.authentication.algorithm": "EdDSA", "security.authentication.public_key_file": "key.pem"}, []),
    ({"security.authentication.algorithm": "EdDSA"}, [(JWT_SECRET, True)]),
    # metrics
    *(
        ({**CLOSED, **TLS, "server.host": "0.0.0.0", **metrics}, expected)
        for metrics, expected in (
            ({}, [("metrics.token", False)]),
            ({"metrics.token": "uQ3-vR8_kT5.zW1~nB6+xH4/eJ9yL2pD"}, []),
            ({"metrics.listen": "127.0.0.1:9100"}, []),
            ({"metrics.listen": "unix:/run/metrics"}, []),
            ({"metrics.listen": "192.0.2.1:9100"}, [("metrics.token", False)]),
            ({"metrics.listen": "192.0.2.1:9100", "metrics.token": "uQ3-vR8_kT5.zW1~nB6+xH4/eJ9yL2pD"}, []),
            ({"metrics.listen": "192.0.2.1:9100", "metrics.enabled": False}, []),
        )
    ),
    ({**CLOSED, "metrics.listen": "[::]:9100"}, [("metrics.token", False)]),
    ({**CLOSED, "server.listen": ["127.0.0.1:0", "192.0.2.1:0"], **TLS}, [("metrics.token", False)]),
    # pages
    ({**CLOSED, "security.cors.origins": ["*"]}, []),
    ({**CLOSED, "security.cors.credentials": True}, []),
    ({**CLOSED, "security.cors.origins": ["*"], "security.cors.credentials": True}, [("security.cors.origins", True)]),
    ({**CLOSED, "security.cors.origins": ["*"], "security.cors.credentials": True, "security.cors.enabled": False}, []),
    ({**OPEN, "security.cors.origins": ["http://app.example", "*"]}, [("security.cors.origins", False)]),
    ({**OPEN, "security.cors.origins": ["*"], **ALLOW_PUBLIC}, [("security.cors.origins", False)]),
    (
        {**OPEN, "security.cors.origins": ["*"], "security.cors.credentials": True, **ALLOW_PUBLIC},
        [("security.cors.origins", True), ("security.cors.origins", False)],
    ),
    # proxies
    *(
        ({**CLOSED, "server.trusted_proxies": proxies}, [("server.trusted_proxies", True)])
        for proxies in (["0.0.0.0/0"], ["::/0"], ["10.0.0.0/8", "0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/1"])
    ),
    ({**CLOSED, "server.trusted_proxies": ["::/0", "0.0.0.0/0"]}, [("server.trusted_proxies", True)] * 2),
    ({**CLOSED, "server.trusted_proxies": ["0.0.0.0/1", "10.0.0.0/8", "fd00::/8", "unix"]}, []),
    # what is in the log, and in addresses
    ({**CLOSED, "logging.log_messages": True}, [("logging.log_messages", False)]),
    ({**CLOSED, "logging.log_agent_errors": True}, [("logging.log_agent_errors", False)]),
    (
        {**CLOSED, "security.authentication.allow_query_token": True},
        [("security.authentication.allow_query_token", False)],
    ),
    ({**OPEN, "security.authentication.allow_query_token": True}, []),
]


@pytest.mark.row("D6")
@pytest.mark.parametrize(("settings", "expected"), CASES, ids=lambda case: str(case) if isinstance(case, dict) else "")
def test_what_is_unsafe_is_found(settings: dict[str, object], expected: list[tuple[str, bool]]) -> None:
    assert found(settings) == expected
    refused = [one for one in findings(config_of(settings)) if one.refuses]
    if not refused:
        require_safe(config_of(settings))
        return
    with pytest.raises(ConfigError) as caught:
        require_safe(config_of(settings))
    lines = str(caught.value).splitlines()
    assert len(lines) == len(refused)
    for line, one in zip(lines, refused, strict=True):
        assert line.startswith(f"{one.setting}: ")
        assert "; " in line
        assert SECRET not in line


@pytest.mark.row("D6")
def test_every_address_that_is_listened_on_counts() -> None:
    def config(*listen: str) -> WebSocketConfig:
        return config_of({**OPEN, "server.listen": [*listen]})

    local = config("127.0.0.1:0", "unix:/run/qaws.sock", "fd:3", "systemd")
    require_safe(local)  # those behind the last two are looked at when they are there
    with pytest.raises(ConfigError, match="'::' can be reached"):
        require_safe(config("127.0.0.1:0", "[::]:0"))
    with pytest.raises(ConfigError, match=r"'192\.0\.2\.1' can be reached"):
        require_safe(local, ["127.0.0.1", "192.0.2.1"])
    require_safe(config("0.0.0.0:0"), [])


@pytest.mark.row("D6")
def test_a_refusal_names_the_flag_that_lets_it_stand() -> None:
    (one,) = findings(config_of({**OPEN, **UNMEASURED, **TLS, "server.host": "0.0.0.0"}))
    assert one.allowed_by == "security.authentication.allow_public"
    assert str(one).endswith("or set security.authentication.allow_public (--allow-public)")


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"server.host": "0.0.0.0"}, [("metrics.token", False)]),
        ({"server.host": "0.0.0.0", "metrics.listen": "127.0.0.1:0"}, []),
        ({"metrics.listen": "0.0.0.0:0"}, [("metrics.token", False)]),
        ({"server.host": "0.0.0.0", "metrics.token": "uQ3-vR8_kT5.zW1~nB6+xH4/eJ9yL2pD"}, []),
        ({"server.host": "0.0.0.0", "metrics.enabled": False}, []),
        ({"metrics.token": "short"}, [("metrics.token", False)]),
        ({"metrics.token": "short", "metrics.enabled": False}, []),
    ],
    ids=str,
)
def test_metrics_that_others_read_are_found(settings: dict[str, object], expected: list[tuple[str, bool]]) -> None:
    secret = {"security.authentication.jwt_secret": "correct-horse-battery-staple-0123456789"}
    assert found({**secret, **TLS, **settings}) == expected


# ── what nothing reads ───────────────────────────────────────────────────────────────────────────────────────────────

TIMES_OF_KEYS: dict[str, object] = {
    f"security.authentication.{name}": 7 for name in ("jwks_refresh", "jwks_timeout", "jwks_interval")
}
REST_OF_A_BUDGET: dict[str, object] = {
    "agent.budget.unit": "tokens", "agent.budget.reserve": 1, "agent.budget.max_users": 9,
}  # fmt: skip

UNREAD: list[tuple[dict[str, object], list[str]]] = [
    ({"server.host": "127.0.0.1", "server.port": 9000}, []),
    ({"server.listen": ["127.0.0.1:0"]}, []),
    ({"server.listen": ["127.0.0.1:0"], "server.port": 8765}, ["server.port"]),
    ({"server.listen": ["127.0.0.1:0"], "server.host": "::1", "server.port": 1}, ["server.host", "server.port"]),
    ({"server.unix_mode": "660"}, ["server.unix_mode"]),
    ({"server.unix_mode": "660", "server.listen": ["127.0.0.1:0", "unix:/run/a"]}, []),
    ({"server.unix_mode": "660", "server.listen": ["127.0.0.1:0", "fd:3"]}, ["server.unix_mode"]),
    ({"server.unix_mode": None}, []),
    ({"server.forwarded_header": "forwarded"}, ["server.forwarded_header"]),
    ({"server.forwarded_header": "forwarded", "server.trusted_proxies": ["unix"]}, []),
    ({**TLS, "server.listen": ["unix:/run/a"]}, ["security.ssl.enabled"]),
    ({**TLS, "server.listen": ["unix:/run/a", "127.0.0.1:0"]}, []),
    ({"security.ssl.enabled": False, "server.listen": ["unix:/run/a"]}, []),
    ({"security.ssl.cert_file": "cert.pem"}, []),
    (TIMES_OF_KEYS, [*TIMES_OF_KEYS]),
    ({**TIMES_OF_KEYS, "security.authentication.jwks": "https://keys.example/set"}, []),
    ({**TIMES_OF_KEYS, **OPEN}, []),
    (REST_OF_A_BUDGET, [*REST_OF_A_BUDGET]),
    ({**REST_OF_A_BUDGET, "agent.budget.per_day": 1000}, []),
    ({"metrics.scrapers": 1}, ["metrics.scrapers"]),
    ({"metrics.scrapers": 1, "metrics.listen": "127.0.0.1:0"}, []),
    ({"metrics.scrapers": 1, **UNMEASURED}, []),
    ({"metrics.listen": "127.0.0.1:0", "metrics.token": "unused", **UNMEASURED}, []),
    ({"store.path": "a.db"}, ["store.path"]),
    ({"store.path": None, "store.kind": "memory"}, []),
    ({"store.synchronous": "full", "store.retention_days": 1}, ["store.synchronous", "store.retention_days"]),
    ({"store.kind": "sqlite", "store.path": "a.db", "store.synchronous": "normal", "store.retry": 2}, []),
    ({"store.on_restart": "rerun", "store.retry": 2, "store.max_unsaved": 1000}, []),
]


@pytest.mark.row("D6")
@pytest.mark.parametrize(("settings", "expected"), UNREAD, ids=lambda case: str(case) if isinstance(case, dict) else "")
def test_what_nothing_reads_is_refused(settings: dict[str, object], expected: list[str]) -> None:
    config = config_of({**CLOSED, **settings})
    assert [one.setting for one in unread(config)] == expected
    assert [one.setting for one in findings(config) if one.refuses] == expected
    assert all("nothing reads it" in str(one) for one in unread(config))


@pytest.mark.row("D6")
@pytest.mark.parametrize("row", [*READ_WHERE, *FORGOTTEN], ids=lambda row: row.setting)
def test_each_row_is_about_settings_that_there_are(row: ReadWhere) -> None:
    for setting in (row.setting, row.because):
        assert not is_set(WebSocketConfig(), setting)


def test_a_store_of_a_program_reads_what_it_will() -> None:
    settings: dict[str, object] = {**CLOSED, "store.path": "a.db", "store.retry": 2}
    assert found(settings) == [("store.path", True), ("store.retry", False)]
    assert found(settings, stored=True) == []


def test_a_finding_is_one_line_that_begins_with_its_setting() -> None:
    assert str(Finding("a.b", "it is wrong", "mend it", refuses=True)) == "a.b: it is wrong; mend it"
