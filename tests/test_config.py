"""qaws_proto.config: the bounds hold, for the defaults too, and nothing that is refused is quoted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from qaws_proto.config import Section, WebSocketConfig, host_and_port, networks

NO_ADDRESSES = (
    "", "127.0.0.1", "::1:80", "host:65536", "host:-1", "ws://host:80", "unix:", "unix:" + "x" * 108, "fd:", "fd:one",
    "systemd ", "host:80\n",
)  # fmt: skip
SECRET = "correct-horse-battery-staple-0123456789"
CANARY = "s3cret-canary"


def _sections(section: type[Section] = WebSocketConfig) -> Iterator[type[Section]]:
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _sections(field.annotation)


def _nested(key: str, value: object) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    assert isinstance(nested, dict)
    return nested


@pytest.mark.parametrize("section", list(_sections()), ids=lambda section: section.__name__)
def test_every_setting_is_described_and_its_default_is_within_bounds(section: type[Section]) -> None:
    defaults = section()
    assert section.model_validate({name: getattr(defaults, name) for name in section.model_fields}) == defaults
    for name, field in section.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert is_section or field.description, name


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("server.prot", 1, "extra_forbidden"),
        ("server.port", -1, "greater_than_equal"),
        ("server.port", 65_536, "less_than_equal"),
        ("server.port", True, "value_error"),
        ("server.timeout", False, "value_error"),
        ("server.timeout", 0, "greater_than"),
        ("server.timeout", float("nan"), "finite_number"),
        ("server.timeout", float("inf"), "finite_number"),
        ("server.host", "", "string_too_short"),
        ("server.path", "chat", "string_pattern_mismatch"),
        ("server.path", "/a b", "string_pattern_mismatch"),
        ("server", True, "value_error"),
        ("store", {"kind": "sqlite"}, "value_error"),
        ("security.authentication.jwks", "", "string_too_short"),
        ("security.authentication.jwks", "https://keys.example/#set", "value_error"),
        ("security.authentication.jwks", "https://user@keys.example/set", "value_error"),
        ("security.authentication.jwks", "ftp://keys.example/set", "value_error"),
        ("security.authentication.jwks", "http://keys.example/set", "value_error"),
        ("agent.roll_up", float("nan"), "less_than_equal"),
        ("agent.chunk_size", 0, "greater_than_equal"),
        ("agent.chunk_size", True, "value_error"),
        ("drain.reconnect_after", float("nan"), "less_than_equal"),
        ("security.authentication.leeway", float("nan"), "less_than_equal"),
        ("security.authentication.jwt_secret", SECRET[:31], "value_error"),
        ("security.authentication.jwt_secret", "\ud800" * 40, "value_error"),
        ("security.authentication.jwt_secret", "x" * 31, "value_error"),
        ("security.authentication.algorithm", "none", "literal_error"),
        ("security.cors.origins", ["http://localhost:3000/"], "value_error"),
        ("security.cors.origins", ["localhost"], "value_error"),
        ("security.cors.origins", ["http://a\n"], "value_error"),
        ("security.cors.methods", ["GET\r\nX: 1"], "string_pattern_mismatch"),
        ("security.cors.headers", ["Content-Type", "é"], "string_pattern_mismatch"),
        ("security.addresses.allow", ["10.0.0.0/33"], "value_error"),
        ("security.addresses.allow", ["unix"], "value_error"),
        ("server.trusted_proxies", ["linux"], "value_error"),
        *(("server.listen", [address], "value_error") for address in NO_ADDRESSES),
        ("server.unix_mode", "rw-rw----", "string_pattern_mismatch"),
        ("security.rate_limiting.requests_per_minute", 0, "greater_than_equal"),
        ("limits.max_message_size", 1024 * 1024 + 1, "less_than_equal"),
    ],
)
def test_what_is_out_of_bounds_is_refused(key: str, value: object, kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebSocketConfig.model_validate(_nested(key, value))
    (error,) = caught.value.errors()
    assert error["type"] == kind
    assert ".".join(str(part) for part in error["loc"] if isinstance(part, str)) == key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.port", 0),
        ("server.path", "/ws"),
        ("agent.chunk_size", 1),
        ("security.authentication.jwt_secret", SECRET[:32]),
        ("security.authentication.jwks", "https://keys.example/set"),
        ("security.authentication.jwks", "http://[::1]:8080/set"),
        ("security.authentication.jwks", "/etc/keys#1.json"),
        ("security.cors.origins", ["*", "http://localhost:*", "https://[::1]:8443"]),
        ("security.addresses.block", ["2001:db8::/32", "192.0.2.1/24"]),
        ("server.trusted_proxies", ["192.0.2.1", "unix"]),
        ("server.listen", ["localhost:0", "[::1]:65535", "unix:/run/a b.sock", "unix:9000", "fd:3", "systemd"]),
        ("server.unix_mode", "0660"),
        ("server.unix_mode", "600"),
    ],
)
def test_what_is_within_bounds_is_taken(key: str, value: object) -> None:
    WebSocketConfig.model_validate(_nested(key, value))


def test_a_weak_secret_needs_a_word_of_its_own() -> None:
    section = {"allow_weak_secret": True, "jwt_secret": "short"}
    WebSocketConfig.model_validate(_nested("security.authentication", section))


@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    "key",
    [
        "security.authentication.jwt_secret",
        "security.addresses.allow",
        "security.cors.origins",
        "server.port",
        "server.path",
        "logging.level",
    ],
)
def test_a_refused_value_is_not_quoted(key: str) -> None:
    for value in (CANARY, [CANARY]):
        with pytest.raises(ValidationError) as caught:
            WebSocketConfig.model_validate(_nested(key, value))
        assert CANARY not in str(caught.value) + repr(caught.value)


@pytest.mark.clause("C12")
def test_a_secret_is_not_printed() -> None:
    config = WebSocketConfig.model_validate(_nested("security.authentication.jwt_secret", SECRET))
    assert config.security.authentication.jwt_secret == SecretStr(SECRET)
    assert SECRET not in repr(config) + str(config) + config.model_dump_json()


def test_origins_are_compared_in_lower_case() -> None:
    config = WebSocketConfig.model_validate(_nested("security.cors.origins", ["HTTP://LocalHost:3000"]))
    assert config.security.cors.origins == ["http://localhost:3000"]


def test_host_bits_of_a_network_are_ignored() -> None:
    assert [str(network) for network in networks(["192.0.2.1/24", "::1"])] == ["192.0.2.0/24", "::1/128"]


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:443", ("::1", 443)),
        ("gateway.example:0", ("gateway.example", 0)),
        ("unix:80", None),
        ("fd:3", None),
        ("systemd", None),
    ],
)
def test_an_address_is_told_from_a_path_and_a_number(address: str, found: tuple[str, int] | None) -> None:
    assert host_and_port(address) == found


def test_a_level_may_be_written_small() -> None:
    assert WebSocketConfig.model_validate(_nested("logging.level", "debug")).logging.level == "DEBUG"
