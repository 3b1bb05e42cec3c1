"""Who a connection speaks for: verification of JSON Web Tokens (RFC 7519), and making them (A1 to A3, A9).

PyJWT verifies signatures. The claims are judged here, by the clock that comes in with `now`, since PyJWT reads its own.
The algorithm belongs to the key, never to the token (RFC 8725 section 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import jwt

from ..config import HMAC_SECRET_BYTES, NO_SECRET, AuthenticationConfig, ConfigError
from ..events import NAME_LENGTH, TOKEN_LENGTH

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


class Key:
    """One verification key, with the one algorithm it is for and the `kid` that tokens name it by, if any."""

    __slots__ = ("_material", "algorithm", "kid")

    def __init__(
        self, algorithm: str, material: str | bytes, kid: str | None = None, *, allow_weak: bool = False
    ) -> None:
        """Raises ConfigError where the material is too weak for the algorithm, or is a key of another kind."""
        secret = material.encode() if isinstance(material, str) else material
        if algorithm.startswith("HS"):
            if len(secret) < HMAC_SECRET_BYTES and not allow_weak:
                raise ConfigError(f"an HMAC secret has at least {HMAC_SECRET_BYTES} bytes (RFC 7518 section 3.2)")
            if b"-----BEGIN " in secret or secret.startswith(b"ssh-"):
                raise ConfigError(
                    "the HMAC secret is a PEM or SSH key; a public key used as a secret is known to everybody"
                )
        self.algorithm = algorithm
        self.kid = kid
        self._material = secret

    def __repr__(self) -> str:
        return f"Key(algorithm={self.algorithm!r}, kid={self.kid!r})"

    def payload(self, token: str) -> bytes | None:
        """What the token says, or None where this key did not sign it."""
        try:
            decoded = _JWS.decode_complete(token, self._material, algorithms=[self.algorithm])
        except jwt.PyJWTError:
            return None
        payload: bytes = decoded["payload"]
        return payload

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token with these claims."""
        return jwt.encode(dict(claims), self._material, self.algorithm, headers={"kid": self.kid} if self.kid else None)


_JWS = jwt.PyJWS()


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
        if len(token) > TOKEN_LENGTH or not token.isascii():
            return None
        header = _header(token)
        if header is None:
            return None
        for key in self._keys:
            if key.algorithm == header.get("alg") and key.kid in (None, header.get("kid")):
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

    Raises ConfigError without a secret, ValueError on a user id or lifetime that no gateway would accept, and on own
    claims that stand for something already.
    """
    if config.jwt_secret is None:
        raise ConfigError("security.authentication.jwt_secret is not set: there is nothing to sign a token with")
    lifetime = config.token_expiry if expires_in is None else expires_in
    if not 0 < lifetime <= config.max_lifetime:
        raise ValueError(f"a token lives 1 to {config.max_lifetime} seconds, not {lifetime}")
    if not _is_name(user_id):
        raise ValueError(f"a user id has 1 to {NAME_LENGTH} characters, none of them NUL")
    issued = int(unix)
    body = {
        "sub": user_id, "iss": config.issuer, "aud": config.audience,
        "iat": issued, "exp": issued + lifetime, "jti": token_id,
    }  # fmt: skip
    doubled = sorted(set(body) & set(claims or {}))
    if doubled:
        raise ValueError(f"these claims are set by the gateway: {', '.join(doubled)}")
    return _configured_key(config).sign({**body, **(claims or {})})


def _configured_key(config: AuthenticationConfig) -> Key:
    assert config.jwt_secret is not None
    return Key(config.algorithm, config.jwt_secret.get_secret_value(), allow_weak=config.allow_weak_secret)


def _header(token: str) -> Mapping[str, Any] | None:
    """The protected header, or None where it is unreadable or asks for what is not done here (`crit`, `b64`; A1)."""
    try:
        header: Mapping[str, Any] = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return None
    return None if "crit" in header or "b64" in header else header


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


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and "\0" not in value
