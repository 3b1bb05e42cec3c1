"""The settings that can be changed while the node runs, and how: a configuration is never altered but replaced.

A setting may stand in `CHANGEABLE` where every part of the node that goes by it reads it from the configuration in
force (`Node.config`, `Gate.config`), or learns of another one by its `configure`. tests/test_live_settings.py shows of
each that it takes effect at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from .config import Section, WebSocketConfig

CHANGEABLE = (
    "server.max_connections",
    "security.rate_limiting.enabled",
    "security.rate_limiting.requests_per_minute",
    "security.rate_limiting.burst_size",
    "security.rate_limiting.address_requests_per_minute",
    "security.rate_limiting.address_burst_size",
    "security.rate_limiting.node_requests_per_minute",
    "security.rate_limiting.node_burst_size",
    "security.rate_limiting.dry_run",
    "security.rate_limiting.strikes",
    "limits.connections_per_address",
    "limits.connections_per_minute",
    "limits.failed_tokens_per_minute",
    "limits.handshakes",
    "limits.frames_per_second",
    "limits.frame_burst",
    "limits.bad_messages_per_minute",
    "limits.retry_after",
    "agent.timeout",
    "agent.max_duration",
    "agent.max_runs",
    "agent.runs_per_user",
    "agent.budget.per_day",
    "agent.budget.reserve",
    "sessions.per_user",
    "sessions.max_sessions",
    "sessions.queue",
)

Setting = str | int | float | bool | None


def changeable(config: WebSocketConfig) -> dict[str, Setting]:
    """What the changeable settings are now, by their dotted names."""
    return {name: _value(config, name.split(".")) for name in CHANGEABLE}


def changed(config: WebSocketConfig, changes: Mapping[str, object]) -> WebSocketConfig:
    """The configuration with these settings, which keep the bounds of any configuration.

    Raises ValueError on a name that is not in `CHANGEABLE`, on a value out of bounds, and where nothing is named.
    """
    if not changes:
        raise ValueError(f"nothing is named that should change; these can: {', '.join(CHANGEABLE)}")
    values = _values(config)
    for name, value in changes.items():
        if name not in CHANGEABLE:
            raise ValueError(f"{name!r} cannot be changed while the node runs; these can: {', '.join(CHANGEABLE)}")
        *sections, last = name.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[last] = value
    try:
        return WebSocketConfig.model_validate(values)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
    setting = ".".join(part for part in wrong["loc"] if isinstance(part, str))
    raise ValueError(f"{setting}: {wrong['msg'].removeprefix('Value error, ')}")


def _value(section: Any, path: list[str]) -> Setting:
    for name in path:
        section = getattr(section, name)
    value: Setting = section
    return value


def _values(section: Section) -> dict[str, Any]:
    """A section as it can be validated anew."""
    return {name: _values(value) if isinstance(value, Section) else value for name, value in vars(section).items()}
