"""The keys of tokens: one from a setting or a PEM, or those of a JSON Web Key Set (RFC 7517); A1, A7.

PyJWT and cryptography do the mathematics. The algorithm belongs to the key, never to the token (RFC 8725 section 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import Algorithm

from ..config import AuthenticationConfig, ConfigError, LimitsConfig
from ..strength import HMAC_SECRET_BYTES

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")  # PROTOCOL, "Opening and authenticating"

_JWS = jwt.PyJWS()
# The algorithm of a key of a set by its type and curve, and the members that make its public half (RFC 7518, 8037).
_KINDS = {
    ("RSA", None): ("RS256", ("n", "e")),
    ("EC", "P-256"): ("ES256", ("x", "y")),
    ("OKP", "Ed25519"): ("EdDSA", ("x",)),
    ("oct", None): ("HS256", ("k",)),
}


class Signed(NamedTuple):
    """A token, taken apart (RFC 7515 section 7.1): `content` is what its `signature` is of, `payload` what it says."""

    header: Mapping[str, Any]
    payload: bytes
    content: bytes
    signature: bytes


class Key:
    """One key, with the one algorithm it is for, the `kid` that tokens name it by, and its end in unix seconds, if any.

    A shared secret for HS256; for the others a PEM, of which the public half is enough to verify.
    """

    __slots__ = ("_material", "_method", "algorithm", "kid", "until")

    def __init__(
        self,
        algorithm: str,
        material: str | bytes,
        kid: str | None = None,
        *,
        until: float | None = None,
        allow_weak: bool = False,
    ) -> None:
        """Raises ConfigError where the material is too weak for the algorithm, or is a key of another kind."""
        method = _method(algorithm)
        secret = material.encode() if isinstance(material, str) else material
        if algorithm == "HS256" and b"-----BEGIN " in secret:
            raise ConfigError("the HMAC secret is a PEM; a public key used as a secret is known to everybody")
        if allow_weak and algorithm == "HS256":
            secret = secret.ljust(HMAC_SECRET_BYTES, b"\0")  # HMAC does the same (RFC 2104 section 2); PyJWT warns
        try:
            prepared = method.prepare_key(secret)
        except Exception:  # noqa: BLE001 - cryptography raises many kinds, with the material in some of their texts
            raise ConfigError(f"the key for {algorithm} is not one, or one of another kind") from None
        self._take(method, algorithm, prepared, kid, until)

    @classmethod
    def of_jwk(cls, jwk: Mapping[str, Any]) -> Key | None:
        """A key of a set; None where it is for something else than tokens here, or is not whole.

        Only its public half is looked at. RFC 7517 section 5 has keys that are not understood ignored.
        """
        kid, use, operations = jwk.get("kid"), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
        until = jwk.get("exp")
        kind, curve = jwk.get("kty"), jwk.get("crv")
        if not (isinstance(kind, str) and isinstance(curve, str | None)):
            return None
        algorithm, members = _KINDS.get((kind, curve), ("", ()))
        wanted = jwk.get("alg", algorithm) == algorithm and use == "sig" and _lists(operations, "verify")
        dated = until is None or (isinstance(until, int | float) and not isinstance(until, bool) and until == until)
        if not (algorithm and wanted and dated and isinstance(kid, str | None)):
            return None
        public = {"kty": kind, "crv": curve, **{name: jwk.get(name) for name in members}}
        key = cls.__new__(cls)
        try:
            method = _method(algorithm)
            key._take(method, algorithm, method.prepare_key(method.from_jwk(public)), kid, until)
        except Exception:  # noqa: BLE001 - as above: what is no key raises many kinds
            return None
        return key

    def _take(self, method: Algorithm, algorithm: str, material: Any, kid: str | None, until: float | None) -> None:
        weakness = method.check_key_length(material)
        if weakness is not None:
            raise ConfigError(weakness)
        self._method = method
        self._material = material
        self.algorithm = algorithm
        self.kid = kid
        self.until = until

    def __repr__(self) -> str:
        return f"Key(algorithm={self.algorithm!r}, kid={self.kid!r})"

    def good(self, unix: float) -> bool:
        """Whether it has not come to its end."""
        return self.until is None or unix < self.until

    def fits(self, header: Mapping[str, Any]) -> bool:
        """Whether a token with this header may be of this key: only then is its signature looked at."""
        return header.get("alg") == self.algorithm and self.kid in (None, header.get("kid"))

    def signed(self, token: Signed) -> bool:
        """Whether it is this key that signed a token which it fits.

        Keys and addresses of keys in the header (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.
        """
        return self._method.verify(token.content, self._material, token.signature)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token with these claims. Raises ConfigError where this is a public key."""
        headers = {"kid": self.kid} if self.kid else None
        try:
            return jwt.encode(dict(claims), self._material, self.algorithm, headers=headers)
        except (AttributeError, TypeError, jwt.InvalidKeyError):
            raise ConfigError(f"the key for {self.algorithm} is a public one: it verifies, and signs nothing") from None


class KeyDocument(NamedTuple):
    """The keys of what a source gave, and how many of it were left out."""

    keys: tuple[Key, ...]
    ignored: int


def configured_keys(config: AuthenticationConfig) -> tuple[Key, ...]:
    """The secret of the settings, and the one before it."""
    if config.jwt_secret is None:
        return ()
    weak = config.allow_weak_secret
    keys = (Key(config.algorithm, config.jwt_secret.get_secret_value(), allow_weak=weak),)
    if config.previous_secret is None:
        return keys
    assert config.previous_secret_until is not None
    until = config.previous_secret_until.timestamp()
    return (*keys, Key(config.algorithm, config.previous_secret.get_secret_value(), until=until, allow_weak=weak))


def read_keys(document: bytes, config: AuthenticationConfig, limits: LimitsConfig) -> KeyDocument:
    """The keys in the document of `config.key_source`. Raises ConfigError where there is none that could be used."""
    if len(document) > limits.key_set_size:
        raise ConfigError(f"it has more than limits.key_set_size, which is {limits.key_set_size} bytes")
    if config.jwks is None:
        if b"PRIVATE KEY-----" in document:
            raise ConfigError("it is a private key; the public one is enough here, and safer")
        return KeyDocument((Key(config.algorithm, document),), 0)
    listed = _listed(document)
    # A secret that came over the network, maybe from where anybody gets it, is none.
    public = [jwk for jwk in listed if "://" not in config.jwks or jwk.get("kty") != "oct"]
    found = [key for jwk in public if (key := Key.of_jwk(jwk)) is not None]
    if not found:
        raise ConfigError("it is a key set without a key that tokens could be verified with")
    taken = tuple(found[: limits.keys])
    return KeyDocument(taken, len(listed) - len(taken))


def _method(algorithm: str) -> Algorithm:
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"{algorithm} is no algorithm of tokens here; there are {', '.join(ALGORITHMS)}")
    return _JWS.get_algorithm_by_name(algorithm)


def _listed(document: bytes) -> list[dict[str, Any]]:
    """The members of a key set."""
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        raise ConfigError("it is no JSON") from None
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list):
        raise ConfigError('it is no key set: a JSON object with a list of "keys"')
    return [key if isinstance(key, dict) else {} for key in keys]


def _lists(value: object, wanted: str) -> bool:
    return isinstance(value, list) and wanted in value
