"""Key pairs of every algorithm, as JSON Web Keys and as PEM, and tokens that they sign."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")
_GENERATE: dict[str, Any] = {
    "RS256": lambda: generate_rsa_key(65537, 2048),
    "ES256": lambda: generate_ec_key(SECP256R1()),
    "EdDSA": Ed25519PrivateKey.generate,
}


class Pair(NamedTuple):
    """A private key with its public half, for one algorithm, and the name that tokens have for it."""

    algorithm: str
    kid: str | None
    private: Any

    @property
    def public_pem(self) -> bytes:
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    @property
    def private_pem(self) -> bytes:
        pem: bytes = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public half as a member of a set; a member that is None is left out."""
        key: dict[str, Any] = json.loads(_implementation(self.algorithm).to_jwk(self.private.public_key()))
        key.pop("key_ops", None)
        whole = {**key, "kid": self.kid, "use": "sig", "alg": self.algorithm, **members}
        return {name: value for name, value in whole.items() if value is not None}

    def token(self, user_id: str = "user-1", *, unix: float, headers: dict[str, Any] | None = None, **more: Any) -> str:
        """A token of this key, of now and for an hour."""
        claims = {
            "sub": user_id, "iss": "qa-intelligence", "aud": "websocket-client", "jti": "t",
            "iat": int(unix), "exp": int(unix) + 3600, **more,
        }  # fmt: skip
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.private, self.algorithm, headers={**named, **(headers or {})})


@cache
def pair(algorithm: str = "EdDSA", kid: str | None = "k1", number: int = 0) -> Pair:
    """The same key pair every time within a run of the tests; another one for another number."""
    return Pair(algorithm, kid, _GENERATE[algorithm]())


def key_set(*keys: dict[str, Any]) -> bytes:
    """A JSON Web Key Set (RFC 7517 section 5)."""
    return json.dumps({"keys": list(keys)}).encode()


def _implementation(algorithm: str) -> Any:
    return jwt.PyJWS().get_algorithm_by_name(algorithm)
