"""What a token allows beside talking: roles and permissions out of its claims, and the table of who may send what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..config import AuthorizationConfig, ConfigError

EVERYBODY = "*"
NO_NAMES: frozenset[str] = frozenset()  # one for all who have none: an empty set of its own takes 216 bytes


def names_in(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """The names that a claim lists: in a list, or in a text between spaces (RFC 8693 section 4.2).

    A path `a.b` is the claim of that very name, or `b` within the object `a`. Whatever else stands there is no name.
    """
    value: object = claims.get(path)
    if value is None and "." in path:
        value = claims
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return frozenset(value.split())
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else NO_NAMES


class Authorization:
    """The table of `security.authorization`: which roles may send an event of which type."""

    def __init__(self, config: AuthorizationConfig) -> None:
        self._roles = {
            event: frozenset(roles) for event, roles in config.events.items() if EVERYBODY not in roles
        }  # by type; what is not in here is for everybody

    def __bool__(self) -> bool:
        return bool(self._roles)

    def allows(self, event: str, roles: frozenset[str], permissions: frozenset[str]) -> bool:
        """Whether who has these roles and permissions may send an event of this type."""
        wanted = self._roles.get(event)
        return wanted is None or not wanted.isdisjoint(roles) or event in permissions


def check_events(config: AuthorizationConfig, types: Iterable[str]) -> None:
    """Raise ConfigError where the table names a type of event that this node does not know."""
    known = set(types)
    for event in config.events:
        if event not in known:
            raise ConfigError(
                f"security.authorization.events: there is no event {event!r}; there are "
                f"{', '.join(sorted(known - {'auth', 'ping'}))}"
            )
