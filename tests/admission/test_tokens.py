"""Which tokens are believed, and that nothing tells why one is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.keys import Key
from qaws_proto.admission.tokens import ANONYMOUS, TOKEN_LENGTH, Principal, TokenVerifier, issue_token
from qaws_proto.config import AuthenticationConfig, ConfigError

SECRET = "0123456789abcdef0123456789abcdef"
UNIX = 1_800_000_000.0
CONFIG = AuthenticationConfig.model_validate({"jwt_secret": SECRET})
VERIFIER = TokenVerifier(CONFIG)
CLAIMS = {
    "sub": "user-1", "iss": "qa-intelligence", "aud": "websocket-client",
    "iat": int(UNIX), "exp": int(UNIX) + 3600, "jti": "token-1",
}  # fmt: skip


def _private(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _public(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


RSA = generate_rsa_key(65537, 2048)
EC = generate_private_key(SECP256R1())
ED = Ed25519PrivateKey.generate()
PAIRS = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(header: object, payload: bytes, secret: bytes = SECRET.encode()) -> str:
    """A token with any header and payload, with a right HMAC: what an attacker who knows the secret could make."""
    signed = f"{_base64(json.dumps(header).encode())}.{_base64(payload)}"
    return f"{signed}.{_base64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def _with(**claims: object) -> str:
    return _token({"alg": "HS256", "typ": "JWT"}, json.dumps({**CLAIMS, **claims}).encode())


def _without(name: str) -> str:
    claims = {key: value for key, value in CLAIMS.items() if key != name}
    return _token({"alg": "HS256"}, json.dumps(claims).encode())


def test_a_right_token_gives_its_principal() -> None:
    assert VERIFIER.verify(_with(role="admin"), UNIX) == Principal(
        "user-1", "token-1", {**CLAIMS, "role": "admin"}, UNIX + 3600
    )


RIGHT = {
    "user_id stands in for sub": _token(
        {"alg": "HS256"}, json.dumps({**{k: v for k, v in CLAIMS.items() if k != "sub"}, "user_id": "user-1"}).encode()
    ),
    "no jti": _without("jti"),
    "several audiences": _with(aud=["other", "websocket-client"]),
    "fractions of seconds": _with(iat=UNIX + 0.5, exp=UNIX + 100.5),
    "nbf now": _with(nbf=int(UNIX)),
    "no typ": _token({"alg": "HS256"}, json.dumps(CLAIMS).encode()),
    "a kid that nobody asks for": _token({"alg": "HS256", "kid": "k"}, json.dumps(CLAIMS).encode()),
    "a day long": _with(exp=int(UNIX) + 86_400),
}


@pytest.mark.parametrize("token", RIGHT.values(), ids=RIGHT.keys())
def test_other_right_tokens_are_believed(token: str) -> None:
    principal = VERIFIER.verify(token, UNIX)
    assert principal is not None
    assert principal.user_id == "user-1"


_SIGNED = json.dumps(CLAIMS).encode()
WRONG_HEADERS = {
    "none": _token({"alg": "none"}, _SIGNED),
    "none without a signature": _token({"alg": "none"}, _SIGNED).rpartition(".")[0] + ".",
    "None": _token({"alg": "None"}, _SIGNED),
    "no alg": _token({}, _SIGNED),
    "alg null": _token({"alg": None}, _SIGNED),
    "alg a number": _token({"alg": 256}, _SIGNED),
    "alg a list": _token({"alg": ["HS256"]}, _SIGNED),
    "alg an object": _token({"alg": {"HS256": 1}}, _SIGNED),
    "alg in lower case": _token({"alg": "hs256"}, _SIGNED),
    "unlisted HS512": jwt.encode(dict(CLAIMS), SECRET * 2, "HS512"),
    "RS256 over an HMAC": _token({"alg": "RS256"}, _SIGNED),
    "RS256": jwt.encode(dict(CLAIMS), _private(RSA), "RS256"),
    "crit": _token({"alg": "HS256", "crit": ["exp"], "exp": 1}, _SIGNED),
    "crit of b64": _token({"alg": "HS256", "crit": ["b64"], "b64": True}, _SIGNED),
    "crit empty": _token({"alg": "HS256", "crit": []}, _SIGNED),
    "crit no list": _token({"alg": "HS256", "crit": "b64"}, _SIGNED),
    "b64 true": _token({"alg": "HS256", "b64": True}, _SIGNED),
    "b64 false": _token({"alg": "HS256", "b64": False}, b""),
    "b64 false and crit": _token({"alg": "HS256", "b64": False, "crit": ["b64"]}, b""),
    "kid a number": _token({"alg": "HS256", "kid": 1}, _SIGNED),
    "header a list": _token(["HS256"], _SIGNED),
    "header deep": f"{_base64(b'[' * 2500 + b']' * 2500)}.e30.AA",
    "another secret": _token({"alg": "HS256"}, _SIGNED, b"f" * 32),
    "empty secret": _token({"alg": "HS256"}, _SIGNED, b""),
}
WRONG_PAYLOADS = {
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe\xfd",
    "empty": b"",
    "a list": b"[]",
    "a text": b'"sub"',
    "deep": b"[" * 2500 + b"]" * 2500,
    "a number of 5000 digits": b'{"exp":' + b"1" * 5000 + b"}",
    "NaN": b'{"exp":NaN}',
}
ODD_DATES: list[object] = [
    None, "", "1800003600", [], {}, True, False, -1, -0.5, 1e308, 10**400, 2**63, 253_402_300_800,
    float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
ODD_NAMES: list[object] = ["", 1, True, [], {}, "x" * 129, "a\0b", "\ud800"]
WRONG_CLAIMS: dict[str, str] = {
    **{f"no {name}": _without(name) for name in ("sub", "exp", "iat", "iss", "aud")},
    **{
        f"{name} is {str(value)[:12]!r} ({type(value).__name__})": _with(**{name: value})
        for name in ("exp", "iat", "nbf")
        for value in ODD_DATES
    },
    **{f"sub is {value!r:.20}": _with(sub=value) for value in [*ODD_NAMES, None]},
    **{f"jti is {value!r:.20}": _with(jti=value) for value in ODD_NAMES},
    **{f"iss is {value!r}": _with(iss=value) for value in (None, "", "other", "QA-Intelligence", ["qa-intelligence"])},
    **{
        f"aud is {value!r}": _with(aud=value)
        for value in (None, "", "other", [], ["other"], [["websocket-client"]], {"websocket-client": 1}, True)
    },
    "exp before iat": _with(iat=int(UNIX) + 20, exp=int(UNIX) + 10),
    "exp is iat": _with(exp=int(UNIX)),
    "longer than a day": _with(exp=int(UNIX) + 86_401),
    "longer than a day by a past iat": _with(iat=int(UNIX) - 86_400, exp=int(UNIX) + 1),
}
WRONG_TEXTS = [
    "", ".", "..", "...", "a.b.c", "e30.e30.e30", "é", "\ud800", "Bearer x", "x" * TOKEN_LENGTH, "." * TOKEN_LENGTH,
    _with() + "=", _with() + ".", _with() + "\n", " " + _with(), _with().upper(), "\0",
]  # fmt: skip


@pytest.mark.row("A1")
@pytest.mark.row("A9")
@pytest.mark.parametrize("token", WRONG_HEADERS.values(), ids=WRONG_HEADERS.keys())
def test_the_algorithm_belongs_to_the_key(token: str) -> None:
    assert VERIFIER.verify(token, UNIX) is None


def _believed_by_pyjwt(token: str) -> bool:
    """Whether PyJWT finds that our key has signed these claims.

    It takes padding, which RFC 7515 section 2 has none of, and some of what headers have `crit` for: we do not.
    """
    try:
        parts = jwt.PyJWS().decode_complete(token, SECRET, algorithms=["HS256"])
        return (
            json.loads(parts["payload"]) == CLAIMS and not {"crit", "b64"} & set(parts["header"]) and "=" not in token
        )
    except (jwt.PyJWTError, ValueError):
        return False


def _signed(*segments: str) -> str:
    content = ".".join(segments)
    return f"{content}.{_base64(hmac.new(SECRET.encode(), content.encode(), hashlib.sha256).digest())}"


_HEADERS = [
    b'{"alg":"HS256"}', b' {"alg" : "HS256"}\n', b'{"alg":"none","alg":"HS256"}', b'{"alg":"HS256","alg":"none"}',
    b'{"alg":"HS256","typ":NaN}', b'{"alg":"\\u0048S256"}', b'{"alg":"HS256","x":"\xff"}',
    b'{"alg":"HS256",}', b"", b"[]",
    *(b'{"alg":"HS256","kid":%b}' % kid for kid in (b'""', b'"k"', b"1", b"null", b"[]", b'"\\ud800"')),
    *('{"alg":"HS256"}'.encode(coding) for coding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32")),
    *(b'{"alg":"HS256","b64":%b}' % b64 for b64 in (b"true", b"false", b"null", b"1")),
    *(b'{"alg":"HS256","crit":%b}' % crit for crit in (b'["b64"]', b"[]", b"null")),
]  # fmt: skip
_SEGMENT_CHANGES: list[Callable[[str], str]] = [
    lambda text: text, lambda text: text[:-1], lambda text: text[1:], lambda text: "", lambda text: text + "A",
    lambda text: text + "AA", lambda text: text + "AAA", lambda text: text + ".", lambda text: "." + text,
    lambda text: text + "\n", lambda text: " " + text, lambda text: text + "+", lambda text: text + "\0",
    lambda text: text + "=" * (-len(text) % 4), lambda text: text + "=", lambda text: text[:-2] + "==",
    lambda text: text.replace("_", "/").replace("-", "+"), lambda text: text[:4] + "\n" + text[4:],
    *(lambda text, last=last: text[:-1] + last for last in "ABQgwxyz0189-_"),  # bits that say nothing
]  # fmt: skip


@pytest.mark.row("A1")
@pytest.mark.parametrize("header", _HEADERS)
def test_a_header_says_to_us_what_it_says_to_pyjwt(header: bytes) -> None:
    token = _signed(_base64(header), _base64(_SIGNED))
    assert (VERIFIER.verify(token, UNIX) is not None) is _believed_by_pyjwt(token)


@pytest.mark.row("A1")
@pytest.mark.parametrize("change", _SEGMENT_CHANGES)
@pytest.mark.parametrize("payload", [_base64(_SIGNED + b" " * more) for more in range(3)])
@pytest.mark.parametrize("header", [_base64(b'{"alg":"HS256"}' + b" " * more) for more in range(3)])
def test_a_token_is_taken_apart_as_pyjwt_does_it(header: str, payload: str, change: Callable[[str], str]) -> None:
    """Each part by turns is written in another way, and what is signed is what is written."""
    content, _, signature = _signed(header, payload).rpartition(".")
    for token in (
        _signed(change(header), payload), _signed(header, change(payload)), f"{content}.{change(signature)}",
    ):  # fmt: skip
        assert (VERIFIER.verify(token, UNIX) is not None) is _believed_by_pyjwt(token), token


@pytest.mark.row("A2")
@pytest.mark.row("A9")
@pytest.mark.parametrize("payload", WRONG_PAYLOADS.values(), ids=WRONG_PAYLOADS.keys())
def test_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    assert VERIFIER.verify(_token({"alg": "HS256"}, payload), UNIX) is None


@pytest.mark.row("A2")
@pytest.mark.row("A9")
@pytest.mark.parametrize("token", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS.keys())
def test_missing_and_odd_claims_are_refused(token: str) -> None:
    assert VERIFIER.verify(token, UNIX) is None


@pytest.mark.clause("C1")
@pytest.mark.parametrize("text", WRONG_TEXTS)
def test_what_is_no_token_is_refused(text: str) -> None:
    assert VERIFIER.verify(text, UNIX) is None


@pytest.mark.row("A1")
@pytest.mark.parametrize("algorithm", PAIRS)
def test_a_public_key_verifies_its_own_algorithm_only(algorithm: str) -> None:
    private, public = _private(PAIRS[algorithm]), _public(PAIRS[algorithm])
    verifier = TokenVerifier(CONFIG, (Key(algorithm, public),))
    token = Key(algorithm, private).sign(CLAIMS)
    principal = verifier.verify(token, UNIX)
    assert principal is not None
    assert principal.user_id == "user-1"
    # The confusion: the public key, which everybody has, as the secret of an HMAC.
    assert verifier.verify(_token({"alg": "HS256"}, _SIGNED, public), UNIX) is None
    assert verifier.verify(_token({"alg": algorithm}, _SIGNED, public), UNIX) is None
    assert verifier.verify(_with(), UNIX) is None
    for other in set(PAIRS) - {algorithm}:
        assert verifier.verify(Key(other, _private(PAIRS[other])).sign(CLAIMS), UNIX) is None


WEAK_KEYS: list[tuple[str, str | bytes]] = [
    ("HS256", ""),
    ("HS256", "x" * 31),
    ("HS256", _public(RSA)),
    ("HS256", _private(EC)),
    ("HS256", _public(RSA).decode().replace("\n", "\\n")),
    ("HS256", _public(RSA)[:60]),  # cut off, as by an environment that takes one line
    ("HS256", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 somebody@somewhere"),
    ("HS256", RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    ("RS256", SECRET),
    ("RS256", _public(EC)),
    ("RS256", _private(generate_rsa_key(65537, 1024))),
    ("ES256", _public(RSA)),
    ("ES256", _public(generate_private_key(SECP384R1()))),
    ("ES256", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
    ("EdDSA", SECRET),
    ("EdDSA", _public(RSA)),
    ("none", ""),
    ("HS512", "x" * 64),
    ("", SECRET),
]


@pytest.mark.row("A1")
@pytest.mark.parametrize(("algorithm", "material"), WEAK_KEYS)
def test_a_weak_or_strange_key_refuses_to_start(algorithm: str, material: str | bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        Key(algorithm, material)
    secret = material.decode(errors="replace") if isinstance(material, bytes) else material
    assert not secret or secret not in str(refused.value)


@pytest.mark.row("A1")
def test_a_missing_secret_refuses_to_start() -> None:
    with pytest.raises(ConfigError):
        TokenVerifier(AuthenticationConfig())
    with pytest.raises(ConfigError):
        issue_token(AuthenticationConfig(), "user-1", unix=UNIX, token_id="t")


@pytest.mark.row("A1")
def test_a_weak_secret_works_where_it_is_asked_for() -> None:
    config = AuthenticationConfig.model_validate({"allow_weak_secret": True, "jwt_secret": "secret"})
    token = issue_token(config, "user-1", unix=UNIX, token_id="t")
    assert TokenVerifier(config).verify(token, UNIX) is not None
    payload = json.dumps(CLAIMS).encode()
    assert TokenVerifier(config).verify(_token({"alg": "HS256"}, payload, b"secret"), UNIX) is not None
    assert TokenVerifier(config).verify(_token({"alg": "HS256"}, payload, b"secrets"), UNIX) is None


def test_keys_are_told_apart_by_kid() -> None:
    old, new = Key("HS256", "o" * 32, "old"), Key("HS256", "n" * 32, "new")
    verifier = TokenVerifier(CONFIG, (old, new))
    assert verifier.verify(old.sign(CLAIMS), UNIX) is not None
    assert verifier.verify(new.sign(CLAIMS), UNIX) is not None
    assert verifier.verify(Key("HS256", "n" * 32, "old").sign(CLAIMS), UNIX) is None
    assert verifier.verify(Key("HS256", "n" * 32).sign(CLAIMS), UNIX) is None


# what to add to now (the token is of now and lives an hour), whether it is believed then
CLOCK = [
    (0.0, True),
    (3600.0, True),
    (3600.0 + 29.999, True),
    (3600.0 + 30.0, False),
    (86_400.0, False),
    (-30.0, True),
    (-30.001, False),
    (-UNIX, False),
    (1e12, False),
]


@pytest.mark.row("A3")
@pytest.mark.parametrize(("later", "believed"), CLOCK)
def test_a_token_is_judged_by_the_clock_given(later: float, believed: bool) -> None:
    assert (VERIFIER.verify(_with(), UNIX + later) is not None) is believed


@pytest.mark.row("A3")
@pytest.mark.parametrize(("later", "believed"), [(29.999, False), (30.0, True)])
def test_a_token_is_not_valid_yet(later: float, believed: bool) -> None:
    token = _with(nbf=int(UNIX) + 60)
    assert (VERIFIER.verify(token, UNIX + later) is not None) is believed


@pytest.mark.row("A3")
@given(
    issued=st.integers(0, 10_000),
    lifetime=st.integers(-10, 4_000),
    not_before=st.none() | st.integers(0, 10_000),
    now=st.integers(0, 20_000),
    leeway=st.integers(0, 300),
    max_lifetime=st.integers(1, 3_000),
)
def test_dates_are_judged_as_written_down(
    issued: int, lifetime: int, not_before: int | None, now: int, leeway: int, max_lifetime: int
) -> None:
    config = AuthenticationConfig.model_validate({"jwt_secret": SECRET, "leeway": leeway, "max_lifetime": max_lifetime})
    claims = {"iat": issued, "exp": issued + lifetime} | ({} if not_before is None else {"nbf": not_before})
    believed = (
        0 < lifetime <= max_lifetime
        and issued + lifetime >= 0
        and now < issued + lifetime + leeway
        and issued <= now + leeway
        and (not_before is None or not_before <= now + leeway)
    )
    assert (TokenVerifier(config).verify(_with(**claims), now) is not None) is believed


@pytest.mark.row("A8")
def test_a_giant_token_is_refused_undecoded() -> None:
    fits = _with(filler="x" * 5000)
    assert VERIFIER.verify(fits, UNIX) is not None
    giant = _with(filler="x" * 6200)
    assert len(giant) > TOKEN_LENGTH
    assert VERIFIER.verify(giant, UNIX) is None


SEGMENTS = st.binary(max_size=40).map(_base64) | st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*CLAIMS, "nbf", "user_id", "alg", "crit", "b64", "kid", "typ"])


@pytest.mark.clause("C1")
@pytest.mark.row("A9")
@given(st.text() | st.lists(SEGMENTS, min_size=3, max_size=5).map(".".join))
def test_arbitrary_text_is_nobody(text: str) -> None:
    assert VERIFIER.verify(text, UNIX) is None


@pytest.mark.clause("C1")
@pytest.mark.row("A1")
@pytest.mark.row("A2")
@given(st.dictionaries(NAMES, JSON), st.dictionaries(NAMES, JSON))
def test_whatever_is_rightly_signed_gives_a_name_or_nobody(header: dict[str, Any], claims: dict[str, Any]) -> None:
    principal = VERIFIER.verify(_token({"alg": "HS256", **header}, json.dumps({**CLAIMS, **claims}).encode()), UNIX)
    if principal is not None:
        assert header.get("alg", "HS256") == "HS256"
        assert not {"crit", "b64"} & set(header)
        assert 1 <= len(principal.user_id.encode()) <= 4 * 128
        assert principal.expires_at is not None
        assert UNIX - 30 < principal.expires_at <= UNIX + 86_400 + 30


@pytest.mark.row("A9")
@given(st.data())
def test_a_token_with_one_character_changed_is_nobodys(data: st.DataObject) -> None:
    token = _with()
    place = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda one: one != token[place]))
    assert VERIFIER.verify(token[:place] + character + token[place + 1 :], UNIX) is None


@given(st.text(min_size=1, max_size=128), st.integers(1, 86_400), st.integers(0, 4_000_000_000))
def test_an_issued_token_is_believed(user_id: str, lifetime: int, unix: int) -> None:
    if "\0" in user_id:
        with pytest.raises(ValueError, match="a user or token id"):
            issue_token(CONFIG, user_id, unix=unix, token_id="t")
        return
    token = issue_token(CONFIG, user_id, unix=unix, token_id="t", expires_in=lifetime, claims={"role": "r"})
    principal = VERIFIER.verify(token, unix)
    assert principal is not None
    assert principal[:2] == (user_id, "t")
    assert principal.claims["role"] == "r"
    assert principal.expires_at == unix + lifetime


def test_an_issued_token_lives_as_long_as_configured() -> None:
    config = AuthenticationConfig.model_validate({"jwt_secret": SECRET, "token_expiry": 7})
    principal = VERIFIER.verify(issue_token(config, "u", unix=UNIX + 0.9, token_id="t"), UNIX)
    assert principal is not None
    assert principal.expires_at == UNIX + 7


REFUSED_TO_ISSUE: list[tuple[Mapping[str, Any], str]] = [
    ({"user_id": ""}, "a user or token id"),
    ({"user_id": "x" * 129}, "a user or token id"),
    ({"user_id": "a\0b"}, "a user or token id"),
    ({"user_id": "\ud800"}, "a user or token id"),
    ({"token_id": ""}, "a user or token id"),
    ({"expires_in": 0}, "a token lives 1 to 86400 seconds"),
    ({"expires_in": -1}, "a token lives 1 to 86400 seconds"),
    ({"expires_in": 86_401}, "a token lives 1 to 86400 seconds"),
    ({"claims": {"sub": "admin", "exp": 1}}, "set by the gateway: exp, sub"),
    ({"claims": {"filler": "x" * 9000}}, "a token has at most 8192 bytes"),
]


@pytest.mark.parametrize(("wrong", "says"), REFUSED_TO_ISSUE)
def test_what_no_gateway_would_accept_is_not_issued(wrong: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        issue_token(CONFIG, **{"user_id": "u", "unix": UNIX, "token_id": "t", **wrong})


@pytest.mark.clause("C12")
def test_nothing_secret_is_in_what_is_printed() -> None:
    token = _with(password="hunter2")
    principal = VERIFIER.verify(token, UNIX)
    key = Key("HS256", SECRET, "kid-1")
    for thing in (principal, key, VERIFIER, CONFIG, ANONYMOUS):
        assert "hunter2" not in repr(thing) + str(thing)
        assert SECRET not in repr(thing) + str(thing)
    assert repr(key) == "Key(algorithm='HS256', kid='kid-1')"
    assert "user-1" in repr(principal)
