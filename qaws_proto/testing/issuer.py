"""Who issues the tokens of a simulated world, and publishes their keys: a secret, or a key set that rotates."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from ..admission.keys import Key
from ..admission.tokens import issue_token
from ..config import WebSocketConfig
from .streams import Streams

WRONG = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.AAAA"  # looks like a token, and is none


class Issuer:
    """Issues tokens that the node has to take. All that it has issued is remembered: nobody may ever see one (C12)."""

    def __init__(self, config: WebSocketConfig, streams: Streams) -> None:
        self._config = config.security.authentication
        self._streams = streams
        self._keys = 1
        self._count = 0
        self.issued: list[str] = []
        self.ids: list[str] = []  # of the tokens

    @property
    def needed(self) -> bool:
        """Whether the node wants tokens."""
        return self._config.enabled

    def rotate(self) -> None:
        """Sign with a new key from now on; the set has it beside the last one."""
        self._keys += 1

    def document(self) -> bytes:
        """The key set as it is published: the newest two keys."""
        newest = range(max(1, self._keys - 1), self._keys + 1)
        keys = [{"kty": "oct", "kid": f"k{number}", "k": _base64(self._secret(number))} for number in newest]
        return json.dumps({"keys": keys}).encode()

    def token(self, user_id: str, *, unix: float, life: int) -> str:
        """A token of a user, good for so many seconds."""
        self._count += 1
        token_id = f"t{self._count}"
        key = None
        if self._config.jwt_secret is None:
            key = Key("HS256", self._secret(self._keys), f"k{self._keys}")
        token = issue_token(self._config, user_id, unix=unix, token_id=token_id, expires_in=life, key=key)
        self.issued.append(token)
        self.ids.append(token_id)
        return token

    def _secret(self, number: int) -> str:
        return self._streams.text(f"key {number}") * 2


def _base64(secret: str) -> str:
    return urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
