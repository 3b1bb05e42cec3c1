"""Who a connection speaks for: verification of JSON Web Tokens (RFC 7519), and making them (A1 to A3, A9).

Keys verify signatures. The claims are judged here, by the clock that comes in with `now`, since PyJWT reads its own.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

from ..config import NO_SECRET, AuthenticationConfig, AuthorizationConfig, ConfigError, LimitsConfig
from ..events import NAME_LENGTH
from .authorization import names_in
from .keys import ALGORITHMS, Key, Signed, configured_keys
from .verified import Span, VerifiedTokens

TOKEN_LENGTH = 8 * 1024  # bytes of a token (A8)
LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z: a date beyond is not one


class Principal(NamedTuple):
    """Who a connection speaks for. `expires_at` is unix seconds; None where there is no token.

    `roles` and `permissions` are what `security.authorization` finds in the claims.
    """

    user_id: str
    token_id: str | None
    claims: Mapping[str, Any]
    expires_at: float | None
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()

    def __repr__(self) -> str:  # claims may hold secrets (C12)
        return f"Principal(user_id={self.user_id!r}, expires_at={self.expires_at!r})"


ANONYMOUS = Principal("anonymous", None, {}, None)

_REGISTERED = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti")  # names of claims (RFC 7519 section 4.1)
_AUTHORIZATION, _LIMITS = AuthorizationConfig(), LimitsConfig()


class TokenVerifier:
    """Turns tokens into principals. Every refusal is the same None: which part was wrong is nobody's business (A9).

    Some of its keys are its own, others are loaded while the node runs (`load`). A verified token that comes again is
    looked up, for as long as it would be verified again (A6).
    """

    def __init__(
        self,
        config: AuthenticationConfig,
        keys: tuple[Key, ...] | None = None,
        *,
        authorization: AuthorizationConfig = _AUTHORIZATION,
        limits: LimitsConfig = _LIMITS,
    ) -> None:
        """`keys` stand in for the configured secret. Raises ConfigError where there are none, nor a source of keys.

        `authorization` says which claims hold the roles and permissions of a principal.
        """
        own = configured_keys(config) if keys is None else keys
        if not own and config.key_source is None:
            raise ConfigError(NO_SECRET)
        self._config = config
        self._authorization = authorization
        self._own = own
        self._keys = own
        self._common = {text: text for text in (*_REGISTERED, config.issuer, config.audience)}
        self._verified: VerifiedTokens[Principal] = VerifiedTokens(limits.verified_tokens, config.leeway)

    def load(self, keys: tuple[Key, ...]) -> None:
        """Use these beside its own, instead of those loaded before."""
        self._keys = (*self._own, *keys)
        self._verified.clear()

    def verify(self, token: str, unix: float) -> Principal | None:
        """The principal of a valid token at `unix` seconds, or None."""
        if not _is_token(token):
            return None
        principal = self._verified.recall(token, unix)
        if principal is not None:
            return principal
        signed = _take_apart(token)
        if signed is None:
            return None
        for key in self._keys:
            if key.fits(signed.header) and key.good(unix) and key.signed(signed):
                return self._judge(token, signed.payload, key, unix)
        return None

    def recall(self, token: str, unix: float) -> Principal | None:
        """The principal of a token that was verified before, and is valid at `unix` seconds."""
        return self._verified.recall(token, unix) if _is_token(token) else None

    def lacks_key(self, token: str, unix: float, *, any_key: bool = False) -> bool:
        """Whether a token names a key that is not here; with `any_key`, or might be of one that is not.

        What is no token that could ever be verified lacks nothing.
        """
        signed = _take_apart(token) if _is_token(token) else None
        if signed is None or signed.header.get("alg") not in ALGORITHMS:
            return False
        kid = signed.header.get("kid")
        return any_key or (isinstance(kid, str) and all(key.kid != kid for key in self._keys if key.good(unix)))

    def has_keys(self, unix: float) -> bool:
        """Whether there is any key that has not come to its end."""
        return any(key.good(unix) for key in self._keys)

    def _judge(self, token: str, payload: bytes, key: Key, unix: float) -> Principal | None:
        """The claims, by the clock given (A2, A3)."""
        claims = _object(payload)
        if claims is None:
            return None
        config = self._config
        issued, expires, not_before = _date(claims.get("iat")), _date(claims.get("exp")), _date(claims.get("nbf"))
        if issued is None or expires is None or (not_before is None and "nbf" in claims):
            return None
        since = max(issued, not_before or 0)
        if unix >= expires + config.leeway or since > unix + config.leeway:
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
        roles, permissions = (
            names_in(claims, path) for path in (self._authorization.roles_claim, self._authorization.permissions_claim)
        )
        principal = Principal(user_id, token_id, self._slim(claims), expires, roles, permissions)
        self._verified.remember(token, Span(since, expires, key.until), principal)
        return principal

    def _slim(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        """The same claims, which each connection holds; what stands in every token is held once for all."""
        common = self._common
        return {
            common.get(name, name): common.get(value, value) if isinstance(value, str) else value
            for name, value in claims.items()
        }


def issue_token(
    config: AuthenticationConfig,
    user_id: str,
    *,
    unix: float,
    token_id: str,
    expires_in: int | None = None,
    claims: Mapping[str, Any] | None = None,
    key: Key | None = None,
) -> str:
    """A token for a user, valid for `expires_in` seconds (default `token_expiry`), signed with the secret or `key`.

    Raises ConfigError where there is neither, ValueError on what no gateway would accept (an id, a lifetime, a token
    that grew too long), and on own claims that stand for something already.
    """
    if key is None:
        if config.jwt_secret is None:
            raise ConfigError(_NOTHING_TO_SIGN_WITH)
        key = configured_keys(config)[0]
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
    token = key.sign({**body, **(claims or {})})
    if len(token) > TOKEN_LENGTH:
        raise ValueError(f"a token has at most {TOKEN_LENGTH} bytes; with these claims it has {len(token)}")
    return token


def _is_token(text: str) -> bool:
    """Whether a text may be a token at all."""
    return len(text) <= TOKEN_LENGTH and text.isascii()


def _take_apart(token: str) -> Signed | None:
    """The parts of a token; None where it is none.

    Must be what PyJWT makes of it, which takes ten times as long: tests/admission/test_tokens.py compares them.
    """
    content, _, last = token.encode("ascii").rpartition(b".")
    try:
        first, middle = content.split(b".")
        header, payload, signature = _header(first), _decoded(middle), _decoded(last)
    except ValueError:  # not three of them, or not all are base64
        return None
    return None if header is None else Signed(header, payload, content, signature)


@lru_cache(maxsize=16)  # an issuer begins all its tokens with the same one
def _header(segment: bytes) -> Mapping[str, Any] | None:
    """What a token says of its key; None where it asks for what is not done here (`crit`, `b64`; A1).

    Raises ValueError where it is not base64.
    """
    header = _object(_decoded(segment))
    if header is None or "crit" in header or "b64" in header or not isinstance(header.get("kid", ""), str):
        return None
    return header


def _decoded(segment: bytes) -> bytes:
    """Base64 as in RFC 7515 section 2: no padding, and one text alone for the same bytes. Raises ValueError."""
    standard = segment.translate(_STANDARD)
    data = a2b_base64(standard + b"==")
    if b2a_base64(data, newline=False).rstrip(b"=") != standard:
        raise ValueError("other characters, padding, or bits that say nothing")
    return data


_STANDARD = bytes.maketrans(b"-_+/", b"+/-_")  # to the alphabet of RFC 4648 section 4, and what is of that one to none


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


_NOTHING_TO_SIGN_WITH = (
    "security.authentication.jwt_secret is not set: there is nothing to sign a token with. With another algorithm than "
    "HS256 tokens come from whoever has the private key; for tests set security.authentication.private_key_file"
)

# A lone surrogate, which JSON can hold and UTF-8 cannot, would break whatever says the name.
_NAME = re.compile(rf"[^\0\ud800-\udfff]{{1,{NAME_LENGTH}}}")


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
