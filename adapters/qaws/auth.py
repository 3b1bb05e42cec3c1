"""Making and checking tokens, with the clock and the randomness of this machine."""

from __future__ import annotations

import secrets
import time
from typing import Any

from qaws_proto.admission.tokens import Principal, TokenVerifier, issue_token
from qaws_proto.config import AuthenticationConfig, WebSocketConfig


class WebSocketAuth:
    """Tokens of one configuration."""

    def __init__(self, config: WebSocketConfig | AuthenticationConfig) -> None:
        """Raises ConfigError where no secret is set, or a weak one."""
        self._config = config.security.authentication if isinstance(config, WebSocketConfig) else config
        self._verifier = TokenVerifier(self._config)

    def generate_token(self, user_id: str, *, expires_in: int | None = None, **claims: Any) -> str:
        """A token for a user, valid for `expires_in` seconds (default `token_expiry`), with further claims if given.

        Raises ValueError on a user id or lifetime that no gateway would accept.
        """
        return issue_token(
            self._config,
            user_id,
            unix=time.time(),
            token_id=secrets.token_hex(16),
            expires_in=expires_in,
            claims=claims,
        )

    def verify_token(self, token: str) -> Principal | None:
        """Who a token is for, or None where it is not valid now. Which part is wrong is not told (A9)."""
        return self._verifier.verify(token, time.time())
