"""What is unsafe in a configuration as a whole, and what nothing reads: one list for `qaws check` and for servers (D6).

A single value out of bounds is refused where it is read; here stands what only shows where settings come together.
Nothing quotes a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from ipaddress import collapse_addresses
from typing import NamedTuple

from pydantic import SecretStr

from .config import (
    NO_SECRET,
    AuthenticationConfig,
    ConfigError,
    MetricsConfig,
    WebSocketConfig,
    host_and_port,
    is_loopback,
    networks,
)
from .strength import MAKE_ONE, too_short, weakness

ALLOW_PUBLIC = "security.authentication.allow_public"
ALLOW_WEAK_SECRET = "security.authentication.allow_weak_secret"


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting that should not stay as it is. `refuses`: nothing is served while it does."""

    setting: str
    wrong: str
    remedy: str
    refuses: bool
    allowed_by: str | None = None  # the setting that lets it stand, where there is one

    def __str__(self) -> str:
        return f"{self.setting}: {self.wrong}; {self.remedy}"


def findings(config: WebSocketConfig, hosts: Sequence[str] | None = None, *, stored: bool = False) -> list[Finding]:
    """All that should not stay as it is: first what is refused, then what is warned of.

    `hosts` are those that are really listened on; without them those that the settings name count. `stored`: a program
    gives a store of its own, which may read what `store` says.
    """
    public = next((host for host in (config.server.hosts if hosts is None else hosts) if not is_loopback(host)), None)
    found = [*_authentication(config, public), *_pages(config), *_proxies(config), *_exposed(config, public)]
    found += _metrics(config, public)
    found += [] if stored else unread(config)
    found += [*_revealing(config), *(() if stored else _forgotten(config))]
    return sorted(found, key=lambda one: not one.refuses)


def require_safe(config: WebSocketConfig, hosts: Sequence[str] | None = None, *, stored: bool = False) -> None:
    """Raise ConfigError, a line for each reason, where nothing should be served as it is (D6); see `findings`."""
    refused = [str(one) for one in findings(config, hosts, stored=stored) if one.refuses]
    if refused:
        raise ConfigError("\n".join(refused))


def _unless(allowed: bool, by: str, setting: str, wrong: str, remedy: str) -> Finding:
    """What is refused, or where the setting `by` lets it stand, warned of."""
    if allowed:
        return Finding(setting, wrong, f"{by} lets it stand", refuses=False, allowed_by=by)
    return Finding(setting, wrong, f"{remedy}, or set {by} (--{by.rpartition('.')[2].replace('_', '-')})", True, by)


# ── who is let in ────────────────────────────────────────────────────────────────────────────────────────────────────


def _authentication(config: WebSocketConfig, public: str | None) -> Iterator[Finding]:
    authentication = config.security.authentication
    if not authentication.enabled:
        if public is not None:
            wrong = f"authentication is off and {public!r} can be reached by others"
            remedy, key = "turn it on, listen on localhost", "security.authentication.enabled"
            yield _unless(authentication.allow_public, ALLOW_PUBLIC, key, wrong, remedy)
        return
    if authentication.jwt_secret is None:
        if authentication.key_source is not None:
            return
        setting, _, text = NO_SECRET.partition(": ")
        wrong, _, remedy = text.partition("; ")
        yield Finding(setting, wrong, remedy, refuses=True)
        return
    for name, secret in (
        ("jwt_secret", authentication.jwt_secret),
        ("previous_secret", authentication.previous_secret),
    ):
        if secret is None:
            continue
        for one in _guessed(f"security.authentication.{name}", secret):
            short = too_short(secret.get_secret_value())
            allowed = authentication.allow_weak_secret
            yield _unless(allowed, ALLOW_WEAK_SECRET, one.setting, one.wrong, one.remedy) if short else one


def _guessed(setting: str, secret: SecretStr) -> Iterator[Finding]:
    """A secret that looks as if it could be guessed: a word of warning, since whoever made it may know better."""
    weak = weakness(secret.get_secret_value())
    if weak is not None:
        yield Finding(setting, weak.removesuffix(f"; {MAKE_ONE}"), MAKE_ONE, refuses=False)


def _pages(config: WebSocketConfig) -> Iterator[Finding]:
    """`*` among the origins, where a page needs nothing that it cannot have (H10)."""
    cors, authentication = config.security.cors, config.security.authentication
    if not cors.enabled or "*" not in cors.origins:
        return
    if cors.credentials:
        wrong = "any page that a user visits may connect with that user's cookies (`*` with security.cors.credentials)"
        yield Finding("security.cors.origins", wrong, "name the origins of your pages", refuses=True)
    if not authentication.enabled:
        wrong = "any page that a user visits may talk to the agent (`*` with authentication off)"
        remedy = "name the origins of your pages, or turn authentication on"
        yield Finding("security.cors.origins", wrong, remedy, refuses=False)


def _proxies(config: WebSocketConfig) -> Iterator[Finding]:
    """Every address a trusted proxy: then every client writes its own address (H13)."""
    listed = networks(config.server.trusted_proxies)
    for version in (4, 6):
        own = [network for network in listed if network.version == version]
        if any(network.prefixlen == 0 for network in collapse_addresses(own)):  # type: ignore[type-var]
            wrong = f"every IPv{version} address is trusted as a proxy, so clients choose the address they are known by"
            yield Finding("server.trusted_proxies", wrong, "list the addresses of your proxies", refuses=True)


def _exposed(config: WebSocketConfig, public: str | None) -> Iterator[Finding]:
    if public is not None and not config.security.ssl.enabled and not config.server.trusted_proxies:
        wrong = f"{public!r} can be reached by others and speaks no TLS: tokens and messages can be read on their way"
        remedy = "turn TLS on, or name the proxy that speaks it in server.trusted_proxies"
        yield Finding("security.ssl.enabled", wrong, remedy, refuses=False)


def _metrics(config: WebSocketConfig, public: str | None) -> Iterator[Finding]:
    """Metrics that anybody reads, where clients connect or at an address of their own, and a token that is guessed."""
    metrics = config.metrics
    if not metrics.enabled:
        return
    if metrics.token is not None:
        yield from _guessed("metrics.token", metrics.token)
        return
    if metrics.listen is not None:
        address = host_and_port(metrics.listen)
        public = None if address is None or is_loopback(address[0]) else address[0]
    if public is not None:
        wrong = f"{public!r} can be reached by others, and whoever reaches it reads the metrics"
        remedy = "set a token, or give them an address of their own in metrics.listen"
        yield Finding("metrics.token", wrong, remedy, refuses=False)


def _revealing(config: WebSocketConfig) -> Iterator[Finding]:
    logging, authentication = config.logging, config.security.authentication
    if authentication.enabled and authentication.allow_query_token:
        wrong = "tokens may stand in addresses, which proxies and browsers write down"
        remedy = "send them in a header, as a subprotocol or in an auth event"
        yield Finding("security.authentication.allow_query_token", wrong, remedy, refuses=False)
    if logging.log_messages:
        wrong = "what people write is in the log"
        yield Finding("logging.log_messages", wrong, "turn it off where nobody is looking for a mistake", refuses=False)
    if logging.log_agent_errors:
        wrong = "the texts of agents' exceptions are in the log, and may hold secrets"
        yield Finding("logging.log_agent_errors", wrong, "turn it off where nobody is looking for a mistake", False)


# ── what nothing reads ───────────────────────────────────────────────────────────────────────────────────────────────


class ReadWhere(NamedTuple):
    """A setting that is read only where another one (`because`) is such that `read` says so.

    What stands in a section that is off counts as read: off is off, and the rest waits for it.
    """

    setting: str
    because: str
    read: Callable[[WebSocketConfig], bool]
    why: str


def _is_unix(address: str) -> bool:
    return address.startswith("unix:")


def _off(section: AuthenticationConfig | MetricsConfig) -> bool:
    return not section.enabled


def _on_file(setting: str) -> ReadWhere:
    return ReadWhere(setting, "store.kind", lambda config: config.store.kind != "memory", "store.kind is memory")


READ_WHERE = (
    *(
        ReadWhere(f"server.{name}", "server.listen", lambda config: not config.server.listen, "server.listen is set")
        for name in ("host", "port")
    ),
    ReadWhere(
        "server.unix_mode",
        "server.listen",
        lambda config: any(map(_is_unix, [*config.server.listen, config.metrics.listen or ""])),
        "neither server.listen nor metrics.listen has a `unix:` address",
    ),
    ReadWhere(
        "server.forwarded_header",
        "server.trusted_proxies",
        lambda config: bool(config.server.trusted_proxies),
        "server.trusted_proxies is empty",
    ),
    ReadWhere(
        "security.ssl.enabled",
        "server.listen",
        lambda config: (
            not (config.security.ssl.enabled and config.server.listen) or not all(map(_is_unix, config.server.listen))
        ),
        "server.listen has `unix:` addresses alone, where TLS is never spoken",
    ),
    *(
        ReadWhere(
            f"security.authentication.{name}",
            "security.authentication.jwks",
            lambda config: (
                _off(config.security.authentication) or config.security.authentication.key_source is not None
            ),
            "there is neither security.authentication.jwks nor a public_key_file",
        )
        for name in ("jwks_refresh", "jwks_timeout", "jwks_interval")
    ),
    *(
        ReadWhere(
            f"agent.budget.{name}",
            "agent.budget.per_day",
            lambda config: config.agent.budget.per_day is not None,
            "agent.budget.per_day is not set",
        )
        for name in ("unit", "reserve", "max_users")
    ),
    ReadWhere(
        "metrics.scrapers",
        "metrics.listen",
        lambda config: _off(config.metrics) or config.metrics.listen is not None,
        "metrics.listen is not set",
    ),
    *(_on_file(f"store.{name}") for name in ("path", "synchronous", "retention_days")),
)
# Read by the core too, where a program gives a store of its own: so a word is enough.
FORGOTTEN = tuple(_on_file(f"store.{name}") for name in ("on_restart", "retry", "max_unsaved"))


def is_set(config: WebSocketConfig, setting: str) -> bool:
    """Whether somebody said what a setting is, and not just that it is nothing."""
    *path, name = setting.split(".")
    section = reduce(getattr, path, config)
    return name in section.model_fields_set and getattr(section, name) is not None


def unread_rows(config: WebSocketConfig) -> list[ReadWhere]:
    """The rows of what is set, and read by nothing."""
    return [row for row in READ_WHERE if is_set(config, row.setting) and not row.read(config)]


def unread(config: WebSocketConfig) -> list[Finding]:
    """What is set, and read by nothing."""
    return [Finding(*_words(row), refuses=True) for row in unread_rows(config)]


def _forgotten(config: WebSocketConfig) -> Iterator[Finding]:
    for row in FORGOTTEN:
        if is_set(config, row.setting) and not row.read(config):
            yield Finding(*_words(row), refuses=False)


def _words(row: ReadWhere) -> tuple[str, str, str]:
    return row.setting, f"nothing reads it, since {row.why}", f"take it out, or change {row.because}"
