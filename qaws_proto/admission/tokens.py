"""Who a connection speaks for: verification of JSON Web Tokens (RFC 7519), and making them (A1 to A3, A9).

PyJWT verifies signatures. The claims are judged here, by the clock that comes in with `now`, since PyJWT reads its own.
The algorithm belongs to the key, never to the token (RFC 8725 section 3.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import jwt

from ..config import NO_SECRET, AuthenticationConfig, ConfigError
from ..events import NAME_LENGTH
from ..strength import HMAC_SECRET_BYTES

TOKEN_LENGTH = 8 * 1024  # bytes of a token (A8)
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")  # PROTOCOL, "Opening and authenticating"
LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z: a date beyond is not one


class Principal(NamedTuple):
    """Who a connection speaks for. `expires_at` is unix seconds; None where there is no token."""

    user_id: str
    token_id: str | None
    claims: Mapping[str, Any]
    expires_at: float | None

    def __repr__(self) -> str:  # claims may hold secrets (C12)
        return f"Principal(user_id={self.user_id!r}, expires_at={self.expires_at!r})"


ANONYMOUS = Principal("anonymous", None, {}, None)


_JWS = jwt.PyJWS()


class Key:
    """One key, with the one algorithm it is for and the `kid` that tokens name it by, if any.

    A shared secret for HS256; for the others a PEM, of which the public half is enough to verify.
    """

    __slots__ = ("_material", "algorithm", "kid")

    def __init__(
        self, algorithm: str, material: str | bytes, kid: str | None = None, *, allow_weak: bool = False
    ) -> None:
        """Raises ConfigError where the material is too weak for the algorithm, or is a key of another kind."""
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"{algorithm} is no algorithm of tokens here; there are {', '.join(ALGORITHMS)}")
        secret = material.encode() if isinstance(material, str) else material
        if algorithm == "HS256" and b"-----BEGIN " in secret:
            raise ConfigError("the HMAC secret is a PEM; a public key used as a secret is known to everybody")
        if allow_weak and algorithm == "HS256":
            secret = secret.ljust(HMAC_SECRET_BYTES, b"\0")  # HMAC does the same (RFC 2104 section 2); PyJWT warns
        method = _JWS.get_algorithm_by_name(algorithm)
        try:
            self._material = method.prepare_key(secret)
        except Exception:  # noqa: BLE001 - cryptography raises many kinds, with the material in some of their texts
            raise ConfigError(f"the key for {algorithm} is not one, or one of another kind") from None
        weakness = method.check_key_length(self._material)
        if weakness is not None:
            raise ConfigError(weakness)
        self.algorithm = algorithm
        self.kid = kid

    def __repr__(self) -> str:
        return f"Key(algorithm={self.algorithm!r}, kid={self.kid!r})"

    def payload(self, token: str) -> bytes | None:
        """What the token says, or None where this key did not sign it.

        None as well where its header asks for what is not done here (`crit`, `b64`; A1).
        """
        try:
            token_parts = _JWS.decode_complete(token, self._material, algorithms=[self.algorithm])
        except jwt.PyJWTError:
            return None
        header = token_parts["header"]
        if "crit" in header or "b64" in header or self.kid not in (None, header.get("kid")):
            return None
        payload: bytes = token_parts["payload"]
        return payload

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token with these claims."""
        return jwt.encode(dict(claims), self._material, self.algorithm, headers={"kid": self.kid} if self.kid else None)


class TokenVerifier:
    """Turns tokens into principals. Every refusal is the same None: which part was wrong is nobody's business (A9)."""

    def __init__(self, config: AuthenticationConfig, keys: tuple[Key, ...] | None = None) -> None:
        """`keys` stand in for the configured secret. Raises ConfigError where neither is there."""
        if keys is None:
            if config.jwt_secret is None:
                raise ConfigError(NO_SECRET)
            keys = (_configured_key(config),)
        self._config = config
        self._keys = keys

    def verify(self, token: str, unix: float) -> Principal | None:
        """The principal of a valid token at `unix` seconds, or None."""
        if len(token) > TOKEN_LENGTH or not token.isascii() or "=" in token:
            return None  # PyJWT takes padding, which RFC 7515 section 2 has none of: one token would have two texts
        for key in self._keys:
            payload = key.payload(token)
            if payload is not None:
                return self._judge(payload, unix)
        return None

    def _judge(self, payload: bytes, unix: float) -> Principal | None:
        """The claims, by the clock given (A2, A3)."""
        claims = _object(payload)
        if claims is None:
            return None
        config = self._config
        issued, expires, not_before = (_date(claims.get(name)) for name in ("iat", "exp", "nbf"))
        if issued is None or expires is None or (not_before is None and "nbf" in claims):
            return None
        if unix >= expires + config.leeway or max(issued, not_before or 0) > unix + config.leeway:
            return None
        if not 0 < expires - issued <= config.max_lifetime:
            return None
        audience = claims.get("aud")
        if claims.get("iss") != config.issuer or config.audience not in (
            audience if isinstance(audience, list) else [audience]
        ):
            return None
        user_id = claims.get("sub", claims.get("user_id"))
        token_id = claims.get("jti")
        if not _is_name(user_id) or not (token_id is None or _is_name(token_id)):
            return None
        return Principal(user_id, token_id, claims, expires)


def issue_token(
    config: AuthenticationConfig,
    user_id: str,
    *,
    unix: float,
    token_id: str,
    expires_in: int | None = None,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """A token for a user, valid for `expires_in` seconds (default `token_expiry`).

    Raises ConfigError without a secret, ValueError on what no gateway would accept (an id, a lifetime, a token that
    grew too long), and on own claims that stand for something already.
    """
    if config.jwt_secret is None:
        raise ConfigError("security.authentication.jwt_secret is not set: there is nothing to sign a token with")
    lifetime = config.token_expiry if expires_in is None else expires_in
    if not 0 < lifetime <= config.max_lifetime:
        raise ValueError(f"a token lives 1 to {config.max_lifetime} seconds, not {lifetime}")
    if not (_is_name(user_id) and _is_name(token_id)):
        raise ValueError(f"a user or token id has 1 to {NAME_LENGTH} characters, none of them NUL")
    issued = int(unix)
    body = {
        "sub": user_id, "iss": config.issuer, "aud": config.audience,
        "iat": issued, "exp": issued + lifetime, "jti": token_id,
    }  # fmt: skip
    doubled = sorted(set(body) & set(claims or {}))
    if doubled:
        raise ValueError(f"these claims are set by the gateway: {', '.join(doubled)}")
    token = _configured_key(config).sign({**body, **(claims or {})})
    if len(token) > TOKEN_LENGTH:
        raise ValueError(f"a token has at most {TOKEN_LENGTH} bytes; with these claims it has {len(token)}")
    return token


def _configured_key(config: AuthenticationConfig) -> Key:
    assert config.jwt_secret is not None
    return Key(config.algorithm, config.jwt_secret.get_secret_value(), allow_weak=config.allow_weak_secret)


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, a number of too many digits
        return None
    return value if isinstance(value, dict) else None


def _date(value: object) -> float | None:
    """A NumericDate (RFC 7519 section 2) between 1970 and 9999; texts, booleans and infinities are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_SECOND:
        return None
    return float(value)


# A lone surrogate, which JSON can hold and UTF-8 cannot, would break whatever says the name.
_NAME = re.compile(rf"[^\0\ud800-\udfff]{{1,{NAME_LENGTH}}}")


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
