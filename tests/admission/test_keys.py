"""Keys: which members of a set are taken, which tokens each verifies, and until when."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qaws_proto.admission.keys import Key, read_keys
from qaws_proto.admission.tokens import TokenVerifier, issue_token
from qaws_proto.config import AuthenticationConfig, ConfigError, LimitsConfig
from tests.helpers.keys import PUBLIC_KEY_ALGORITHMS, Pair, key_set, pair

UNIX = 1_800_000_000.0
LIMITS = LimitsConfig()
BY_ADDRESS = AuthenticationConfig(jwks="https://keys.example/set")
FROM_FILE = AuthenticationConfig(jwks="keys.json")
ALGORITHMS = st.sampled_from(PUBLIC_KEY_ALGORITHMS)
SYMMETRIC = {"kty": "oct", "kid": "k1", "alg": "HS256", "k": base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("=")}


def verifier_of(*keys: dict[str, Any], config: AuthenticationConfig = BY_ADDRESS) -> TokenVerifier:
    """A verifier that has loaded a set."""
    verifier = TokenVerifier(config)
    verifier.load(read_keys(key_set(*keys), config, LIMITS).keys)
    return verifier


def hmac_token(secret: bytes, **header: Any) -> str:
    """A token with the right claims and an HMAC: what whoever knows the secret can make."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"sub": "eve", "iss": "qa-intelligence", "aud": "websocket-client", "iat": UNIX, "exp": UNIX + 60}
    signed = f"{encode(json.dumps({'alg': 'HS256', **header}).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{signed}.{encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


# ── the members of a set ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A7")
@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
@pytest.mark.parametrize(
    "members",
    [
        {},
        {"alg": None},  # which is that of its type and curve
        {"use": None},
        {"key_ops": ["verify"]},
        {"x5c": ["…"], "more": {"unknown": 1}},
        {"exp": UNIX + 1},
        {"kid": None},
    ],
)
def test_a_key_of_a_set_verifies_its_tokens(algorithm: str, members: dict[str, Any]) -> None:
    one = pair(algorithm)
    principal = verifier_of(one.jwk(**members)).verify(one.token(unix=UNIX), UNIX)
    assert principal is not None
    assert principal.user_id == "user-1"


UNUSABLE: dict[str, dict[str, Any]] = {
    "for encryption": pair("RS256").jwk(use="enc"),
    "for signing": pair("RS256").jwk(key_ops=["sign"]),
    "operations that are no list": pair("RS256").jwk(key_ops="verify"),
    "an algorithm that is not spoken": pair("RS256").jwk(alg="RS512"),
    "an algorithm of another kind of key": pair("RS256").jwk(alg="HS256"),
    "an algorithm that is none": pair("EdDSA").jwk(alg="none"),
    "a type that is not known": pair("RS256").jwk(kty="AKP"),
    "a type that is no text": pair("RS256").jwk(kty=["RSA"]),
    "no type": pair("RS256").jwk(kty=None),
    "a curve of another type": pair("EdDSA").jwk(crv="P-256"),
    "a curve that is not spoken": json.loads(json.dumps(Pair("EdDSA", "k", Ed448PrivateKey.generate()).jwk())),
    "a larger curve": Pair("ES256", "k", generate_ec_key(SECP384R1())).jwk(alg=None),
    "a short one": Pair("RS256", "k", generate_rsa_key(65537, 1024)).jwk(),
    "a half": pair("ES256").jwk(y=None),
    "numbers": pair("RS256").jwk(n=7),
    "a point that is on no curve": pair("ES256").jwk(x=pair("EdDSA").jwk()["x"]),
    "a name that is a number": pair("RS256").jwk(kid=1),
    "an end that is none": pair("RS256").jwk(exp="tomorrow"),
    "an end that is no number": pair("RS256").jwk(exp=float("nan")),
    "an end that is true": pair("RS256").jwk(exp=True),
    "a secret": SYMMETRIC,
    "an empty object": {},
}


@pytest.mark.row("A1")
@pytest.mark.row("A7")
@pytest.mark.parametrize("jwk", UNUSABLE.values(), ids=UNUSABLE)
def test_a_member_that_is_no_key_for_tokens_is_left_out(jwk: dict[str, Any]) -> None:
    good = pair("EdDSA", "good")
    read = read_keys(key_set(jwk, good.jwk()), BY_ADDRESS, LIMITS)
    assert [(key.kid, key.algorithm) for key in read.keys] == [("good", "EdDSA")]
    assert read.ignored == 1


def test_members_that_are_no_objects_are_left_out() -> None:
    document = json.dumps({"keys": [1, None, [], "k", pair().jwk()]}).encode()
    assert read_keys(document, BY_ADDRESS, LIMITS).ignored == 4


@pytest.mark.row("A1")
def test_a_secret_counts_in_a_file_and_not_where_others_may_read_it() -> None:
    token = hmac_token(b"s" * 32, kid="k1")
    assert verifier_of(SYMMETRIC, config=FROM_FILE).verify(token, UNIX) is not None
    assert verifier_of(SYMMETRIC, pair("EdDSA", "k1").jwk()).verify(token, UNIX) is None
    short = {**SYMMETRIC, "k": "c2hvcnQ"}
    with pytest.raises(ConfigError, match="without a key"):
        read_keys(key_set(short), FROM_FILE, LIMITS)


MALFORMED = {
    "nothing": (b"", "no JSON"),
    "no JSON": (b"{", "no JSON"),
    "no UTF-8": (b"\xff\xfe", "no JSON"),
    "deep": (b"[" * 30_000, "no JSON"),
    "a list": (b"[]", "no key set"),
    "an object": (b"{}", "no key set"),
    "keys that are none": (b'{"keys":{}}', "no key set"),
    "no key": (b'{"keys":[]}', "without a key"),
    "no usable key": (key_set(SYMMETRIC), "without a key"),
    "too much": (b" " * (64 * 1024 + 1), "more than limits.key_set_size"),
}


@pytest.mark.row("A7")
@pytest.mark.parametrize(("document", "says"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_set_is_none(document: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_keys(document, BY_ADDRESS, LIMITS)


@pytest.mark.clause("C7")
def test_of_a_large_set_the_first_keys_are_taken() -> None:
    limits = LimitsConfig(keys=2)
    read = read_keys(key_set(*(pair("EdDSA", kid).jwk() for kid in "abc")), BY_ADDRESS, limits)
    assert ([key.kid for key in read.keys], read.ignored) == (["a", "b"], 1)


@pytest.mark.clause("C1")
@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["RSA", "EC", "P-256", "oct", "AQAB"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["keys", "kty", "crv", "n", "e", "x", "y", "k", "kid", "alg", "use", "key_ops", "exp"]), inner
    ),
    max_leaves=12,
).map(lambda value: json.dumps({"keys": [value]}).encode()))  # fmt: skip
def test_whatever_a_source_holds_is_keys_or_none(document: bytes) -> None:
    for config in (BY_ADDRESS, FROM_FILE):
        with suppress(ConfigError):
            assert all(isinstance(key, Key) for key in read_keys(document, config, LIMITS).keys)


# ── the one public key ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A1")
@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
def test_a_public_key_in_a_file_verifies_its_algorithm(algorithm: str) -> None:
    one = pair(algorithm, None)
    config = AuthenticationConfig.model_validate({"algorithm": algorithm, "public_key_file": "key.pem"})
    verifier = TokenVerifier(config)
    assert verifier.verify(one.token(unix=UNIX), UNIX) is None  # it has not been read yet
    verifier.load(read_keys(one.public_pem, config, LIMITS).keys)
    assert verifier.verify(one.token(unix=UNIX), UNIX) is not None
    assert verifier.verify(one.token(unix=UNIX, headers={"kid": "any"}), UNIX) is not None
    for wrong in (one.private_pem, b"", b"s" * 40, key_set(one.jwk())):
        with pytest.raises(ConfigError):
            read_keys(wrong, config, LIMITS)


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
def test_a_private_key_signs_and_a_public_one_does_not(algorithm: str) -> None:
    one = pair(algorithm, None)
    config = AuthenticationConfig.model_validate({"algorithm": algorithm, "public_key_file": "key.pem"})
    verifier = TokenVerifier(config)
    verifier.load((Key(algorithm, one.public_pem),))
    token = issue_token(config, "ana", unix=UNIX, token_id="t", key=Key(algorithm, one.private_pem))
    assert verifier.verify(token, UNIX) is not None
    with pytest.raises(ConfigError, match="signs nothing"):
        issue_token(config, "ana", unix=UNIX, token_id="t", key=Key(algorithm, one.public_pem))
    with pytest.raises(ConfigError, match="private_key_file"):
        issue_token(config, "ana", unix=UNIX, token_id="t")


# ── confusions ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A1")
@given(ALGORITHMS, ALGORITHMS, st.sampled_from(["k1", "k2", None]), st.booleans())
def test_a_token_is_of_the_key_that_it_names_and_of_no_other(
    signed_by: str, named: str, kid: str | None, in_order: bool
) -> None:
    """Two keys in the set; the token is signed by one of any algorithm and names either, or none."""
    first, second = pair(signed_by, "k1"), pair(named, "k2", 1)
    keys = [first.jwk(), second.jwk()]
    verifier = verifier_of(*(keys if in_order else reversed(keys)))
    token = first._replace(kid=kid).token(unix=UNIX)
    assert (verifier.verify(token, UNIX) is not None) is (kid == "k1")


@pytest.mark.row("A1")
@pytest.mark.parametrize(
    ("header", "fits"),
    [
        ({"alg": "ES256", "kid": "k1"}, True),
        ({"alg": "RS256", "kid": "k1"}, False),
        ({"alg": "ES256", "kid": "k2"}, False),
        ({"alg": "ES256"}, False),
        ({"kid": "k1"}, False),
        ({}, False),
    ],
)
def test_a_key_is_asked_for_tokens_of_its_algorithm_and_name_alone(header: dict[str, str], fits: bool) -> None:
    """So that a token costs no more signatures than there are keys that could have made it."""
    assert Key("ES256", pair("ES256").public_pem, "k1").fits(header) is fits


@pytest.mark.row("A1")
@given(ALGORITHMS, st.sampled_from(["HS256", "none", "RS256", "ES256", "EdDSA", "HS512", ""]), st.booleans())
def test_what_everybody_knows_of_a_key_is_no_secret(algorithm: str, said: str, as_pem: bool) -> None:
    """The confusion of RFC 8725 section 2.1: a public key as the secret of an HMAC, under any name."""
    one = pair(algorithm)
    known = one.public_pem if as_pem else json.dumps(one.jwk()).encode()
    for secret in (known, known.strip(), b""):
        assert verifier_of(one.jwk()).verify(hmac_token(secret, alg=said, kid="k1"), UNIX) is None


@pytest.mark.row("A1")
@given(ALGORITHMS, st.sampled_from(["jwk", "jku", "x5u", "x5c", "x5t"]))
def test_a_token_brings_no_key_along(algorithm: str, header: str) -> None:
    """Keys, and addresses of keys, in a header do nothing: neither do they let in, nor keep out."""
    ours, theirs = pair(algorithm), pair(algorithm, "k1", 1)
    brought: object = {
        "jwk": theirs.jwk(), "jku": "https://evil.example/keys", "x5u": "https://evil.example/pem",
        "x5c": ["MIIB"], "x5t": "abc",
    }[header]  # fmt: skip
    verifier = verifier_of(ours.jwk())
    assert verifier.verify(theirs.token(unix=UNIX, headers={header: brought}), UNIX) is None
    assert verifier.verify(ours.token(unix=UNIX, headers={header: brought}), UNIX) is not None


# ── rotation ─────────────────────────────────────────────────────────────────────────────────────────────────────────

OLD, NEW = "the secret before, which is long enough", "the secret of now, which is long enough"


def secret(config: dict[str, Any]) -> AuthenticationConfig:
    return AuthenticationConfig.model_validate(config)


@pytest.mark.row("A7")
@pytest.mark.parametrize("until", [UNIX + 100, datetime.fromtimestamp(UNIX + 100, UTC).isoformat(), str(UNIX + 100)])
def test_the_secret_before_is_good_until_its_date(until: object) -> None:
    before, after = secret({"jwt_secret": OLD}), secret({"jwt_secret": NEW})
    both = TokenVerifier(secret({"jwt_secret": NEW, "previous_secret": OLD, "previous_secret_until": until}))
    old, new = (issue_token(config, "ana", unix=UNIX, token_id="t") for config in (before, after))
    for at in (UNIX, UNIX + 99.9):
        assert both.verify(old, at) is not None
        assert both.verify(new, at) is not None
    assert both.verify(old, UNIX + 100) is None
    assert both.verify(new, UNIX + 100) is not None
    assert both.verify(old, UNIX) is not None  # whose clock goes back hears what the clock says


def test_new_tokens_are_signed_with_the_secret_of_now() -> None:
    both = secret({"jwt_secret": NEW, "previous_secret": OLD, "previous_secret_until": UNIX})
    token = issue_token(both, "ana", unix=UNIX, token_id="t")
    assert TokenVerifier(secret({"jwt_secret": NEW})).verify(token, UNIX) is not None


@pytest.mark.row("A7")
@given(st.floats(-100, 100), st.floats(-100, 100))
def test_a_key_of_a_set_is_good_until_its_end(end: float, later: float) -> None:
    one = pair("ES256")
    verifier = verifier_of(one.jwk(exp=UNIX + end))
    token = one.token(unix=UNIX - 200)
    assert (verifier.verify(token, UNIX + later) is not None) is (UNIX + later < UNIX + end)
    assert (verifier.verify(token, UNIX + later) is not None) is (UNIX + later < UNIX + end)  # remembered or not
    assert verifier.lacks_key(token, UNIX + later) is (UNIX + later >= UNIX + end)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

APART: list[tuple[dict[str, Any], str]] = [
    ({"algorithm": "RS256", "jwt_secret": NEW}, "a secret is for HS256 alone"),
    ({"public_key_file": "key.pem"}, "HS256 has no key file"),
    ({"private_key_file": "key.pem"}, "HS256 has no key file"),
    ({"algorithm": "RS256", "public_key_file": "key.pem", "jwks": "keys.json"}, "stands beside jwks"),
    ({"previous_secret": OLD, "previous_secret_until": 1}, "no jwt_secret that came after it"),
    ({"jwt_secret": NEW, "previous_secret": OLD}, "the one needs the other"),
    ({"jwt_secret": NEW, "previous_secret_until": 1}, "the one needs the other"),
    ({"jwt_secret": NEW, "previous_secret": "short", "previous_secret_until": 1}, "shorter than 32 bytes"),
    ({"jwt_secret": NEW, "previous_secret": OLD, "previous_secret_until": "2026-01-01T00:00:00"}, "timezone"),
    ({"jwt_secret": NEW, "previous_secret": OLD, "previous_secret_until": "soon"}, "datetime"),
    ({"jwks": "http://keys.example/set"}, "comes by https"),
    ({"jwks": "http://192.0.2.1/set"}, "comes by https"),
    ({"jwks": "ftp://keys.example/set"}, "a key set is a file, or"),
    ({"jwks": "https://user:hunter2@keys.example/set"}, "a key set is a file, or"),
    ({"jwks": "https://keys.example/set#one"}, "a key set is a file, or"),
    ({"jwks": "https://keys.example/a b"}, "a key set is a file, or"),
    ({"jwks": "file:///etc/keys"}, "a key set is a file, or"),
    ({"jwks": ""}, "at least 1 character"),
]


@pytest.mark.parametrize(("settings", "says"), APART)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as refused:
        AuthenticationConfig.model_validate(settings)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "source",
    ["https://keys.example/set?v=1", "https://[2001:db8::1]:8443", "http://localhost:8080/k", "http://127.0.0.1/k",
     "http://[::1]:80/", "keys.json", "/etc/qaws/keys.json"],
)  # fmt: skip
def test_addresses_and_files_of_key_sets(source: str) -> None:
    assert AuthenticationConfig(jwks=source).key_source == source


@pytest.mark.clause("C12")
def test_no_key_is_in_what_is_printed() -> None:
    one = pair("RS256")
    read = read_keys(key_set(one.jwk(), SYMMETRIC), FROM_FILE, LIMITS)
    config = secret({"jwt_secret": NEW, "previous_secret": OLD, "previous_secret_until": UNIX})
    printed = f"{read!r} {config!r} {TokenVerifier(config)!r}"
    assert "Key(algorithm='RS256', kid='k1')" in printed
    for hidden in (SYMMETRIC["k"], "s" * 32, one.jwk()["n"], OLD, NEW):
        assert hidden not in printed
