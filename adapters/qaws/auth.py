"""Making and checking tokens, with the clock and the randomness of this machine."""

from __future__ import annotations

import secrets
import time
from typing import Any

from qaws_proto.admission.tokens import Principal, TokenVerifier, issue_token
from qaws_proto.config import AuthenticationConfig, ConfigError, LimitsConfig, SecurityConfig, WebSocketConfig

from .keys import keys_in_file, signing_key


class WebSocketAuth:
    """Tokens of one configuration."""

    def __init__(self, config: WebSocketConfig | AuthenticationConfig) -> None:
        """Raises ConfigError where there are no keys, or weak ones."""
        if isinstance(config, AuthenticationConfig):
            security, self._limits = SecurityConfig(authentication=config), LimitsConfig()
        else:
            security, self._limits = config.security, config.limits
        self._config = security.authentication
        self._verifier = TokenVerifier(self._config, authorization=security.authorization, limits=self._limits)
        self._fetched = "://" in (self._config.key_source or "")
        if self._config.key_source is not None and not self._fetched:
            self._verifier.load(keys_in_file(self._config, self._limits))

    def generate_token(self, user_id: str, *, expires_in: int | None = None, **claims: Any) -> str:
        """A token for a user, valid for `expires_in` seconds (default `token_expiry`), with further claims if given.

        It is signed with the secret, or with what is in `private_key_file`. Raises ConfigError where there is neither,
        ValueError on a user id or lifetime that no gateway would accept.
        """
        return issue_token(
            self._config,
            user_id,
            unix=time.time(),
            token_id=secrets.token_hex(16),
            expires_in=expires_in,
            claims=claims,
            key=signing_key(self._config, self._limits),
        )

    def verify_token(self, token: str) -> Principal | None:
        """Who a token is for, or None where it is not valid now. Which part is wrong is not told (A9).

        Raises ConfigError where the keys are behind an address, which servers alone fetch.
        """
        if self._fetched:
            raise ConfigError("security.authentication.jwks: keys behind an address are fetched by a server alone")
        return self._verifier.verify(token, time.time())
