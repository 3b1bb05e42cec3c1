"""The gate: what every upgrade and every event has to pass, as two ordered tables that users can add to.

A check looks at one applicant and gives None (pass) or a `Refusal`. It runs inside `step`: no I/O, no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple, TypeVar

from ..clock import Now
from ..config import WebSocketConfig
from ..events import ChatMessage, ClientEvent
from ..faults import Fault
from ..outbox import Outbox
from ..wire.http import Request
from .addresses import Address, Addresses, key_of
from .authorization import Authorization
from .blocks import Blocks, Revocations
from .dry_run import DryRun
from .keyloader import KeyLoader
from .origins import Origins
from .rates import NODE, Rates
from .tokens import ANONYMOUS, Principal, TokenVerifier

SUBPROTOCOL = "qaws.v1"
BEARER_SUBPROTOCOL = "qaws.bearer."


class Refusal(NamedTuple):
    """Why an applicant does not pass. `retry_after` is seconds; `text` replaces the table's where it helps more.

    `cause` is what a user's check raised; it is for the log alone (C12).
    """

    fault: Fault
    retry_after: int | float | None = None  # both: compiled, an int that is given for a float becomes one
    text: str | None = None
    cause: BaseException | None = None


@dataclass(slots=True)
class Applicant:
    """An upgrade at the gate. Checks may read everything; the check of the address sets `address`, and in `address_key`
    what it is counted under, that of the token sets `principal`."""

    request: Request = field(repr=False)  # it may hold a token (C12)
    peer: Address | None
    now: Now
    address: Address | None = None
    address_key: str = ""
    principal: Principal | None = None
    waits: bool = False  # it has to be judged again, when the keys of its token are here


class Passage(NamedTuple):
    """An event at the gate. `address_key` is what its address is counted under."""

    event: ClientEvent
    principal: Principal
    address_key: str
    now: Now


UpgradeCheck = Callable[["Gate", Applicant], Refusal | None]
EventCheck = Callable[["Gate", Passage], Refusal | None]
_Asked = TypeVar("_Asked")


class Tally:
    """How many there are, in all and by address."""

    __slots__ = ("_by_address", "total")

    def __init__(self) -> None:
        self.total = 0
        self._by_address: dict[str, int] = {}

    def of(self, address_key: str) -> int:
        """How many of this address."""
        return self._by_address.get(address_key, 0)

    def enter(self, address_key: str) -> None:
        """Count one more."""
        self.total += 1
        self._by_address[address_key] = self._by_address.get(address_key, 0) + 1

    def leave(self, address_key: str) -> None:
        """Count one less."""
        left = self._by_address.pop(address_key) - 1
        self.total -= 1
        if left:
            self._by_address[address_key] = left


@dataclass(slots=True)
class Census:
    """Who is there, kept by the gateway for the gate: upgraded connections by the client's address, and sockets that
    are not upgraded (yet) by the peer's."""

    draining: bool = False
    open: Tally = field(default_factory=Tally)
    knocking: Tally = field(default_factory=Tally)
    scraping: Tally = field(default_factory=Tally)  # at the address of `metrics.listen`: a flood elsewhere leaves it be


class Gate:
    """Holds what the checks need, and asks them in order; the first refusal is the answer."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        verifier: TokenVerifier | None = None,
        upgrade_checks: Sequence[UpgradeCheck] = (),
        event_checks: Sequence[EventCheck] = (),
        outbox: Outbox | None = None,
    ) -> None:
        """`verifier` stands in for the configured secret; own checks run after the built-in ones.

        `outbox` takes the notes of limits on trial.

        An own check that raises refuses with INTERNAL: nothing passes that was not checked, and the node lives (C1).
        Raises ConfigError where authentication is on and nothing could verify a token.
        """
        authentication = config.security.authentication
        self.authorization = Authorization(config.security.authorization)
        if verifier is None and authentication.enabled:
            verifier = TokenVerifier(authentication, authorization=config.security.authorization, limits=config.limits)
        self.verifier = verifier if authentication.enabled else None
        self.keys: KeyLoader | None = None  # set where they are loaded
        self.origins = Origins(config.security.cors)
        self.addresses = Addresses(config.security.addresses, config.server)
        self.hosts = frozenset(host.lower() for host in config.server.allowed_hosts)
        self.rates = Rates(config)
        self.dry_run = DryRun(config, Outbox() if outbox is None else outbox)
        self.configure(config)
        self.census = Census()
        self.blocks = Blocks(config.limits)
        self.revocations = Revocations(config.limits, authentication)
        self._upgrade_checks = (*UPGRADE_CHECKS, *(_guarded(check, "status") for check in upgrade_checks))
        permitted = (event_is_permitted,) if self.authorization else ()
        self._event_checks = (*EVENT_CHECKS, *permitted, *(_guarded(check, "code") for check in event_checks))

    def configure(self, config: WebSocketConfig) -> None:
        """Go by these settings from now on; what was counted stays counted."""
        self.config = config
        self._limited = config.security.rate_limiting.enabled
        self.rates.configure(config)
        self.dry_run.configure(config)

    def admit_upgrade(self, applicant: Applicant) -> Refusal | None:
        """Ask every check of an upgrade, in order; one that passes them all is counted."""
        for check in self._upgrade_checks:
            refused = check(self, applicant)
            if refused is not None:
                return refused
        self.rates.count_connection(applicant.address_key, applicant.now.mono)
        return None

    def admit_event(self, passage: Passage, account: str) -> Refusal | None:
        """Ask the rates and every check of an event, in order; one that passes them all is counted (R1, R4)."""
        counted = self._limited and passage.event.counted
        if counted:
            mono = passage.now.mono
            over = self.rates.over(account, passage.address_key, mono)
            if over:
                if not all(self.dry_run.excuses(*limit, mono) for limit in over):
                    fault = Fault.NODE_RATE if all(limit.key == NODE for limit in over) else Fault.RATE_LIMIT
                    return Refusal(fault, max(limit.wait for limit in over))
                counted = False
        for check in self._event_checks:
            refused: Refusal | None = check(self, passage)
            if refused is not None:
                return refused
        if counted:
            self.rates.count(account, passage.address_key, mono)
        return None

    def account(self, principal: Principal, address_key: str) -> str:
        """What a client's limits are counted under: its user, or without authentication its address (R4)."""
        return address_key if self.verifier is None else user_account(principal.user_id)

    def verify(self, token: str, now: Now) -> Principal | None:
        """The principal of a token that is valid and not revoked, or None."""
        principal = None if self.verifier is None else self.verifier.verify(token, now.unix)
        return None if principal is None or self.revocations.covers(principal, now) else principal

    def authenticate(self, token: str, address_key: str, now: Now) -> Principal | Refusal | None:
        """Who a token is for, or why nobody; None where it has to wait for keys. Failures are charged to the address.

        One that was verified before, and is not revoked since, passes whatever the address has been charged (A8). The
        faults are those of an upgrade.
        """
        assert self.verifier is not None
        known = self.verifier.recall(token, now.unix)
        if known is None or self.revocations.covers(known, now):
            wait = self.rates.failed_tokens_wait(address_key, now.mono)
            if wait > 0:
                return Refusal(Fault.FAILED_TOKENS, wait)
        principal = self.verify(token, now)
        if principal is not None:
            return Refusal(Fault.USER_REFUSED) if self.blocks.user(principal.user_id, now) else principal
        keys = self.keys
        if keys is not None and keys.concerns(token, now):
            if keys.coming(now):
                return None
            if keys.missing(now):
                return Refusal(Fault.KEYS_UNAVAILABLE, keys.retry_after(now))
        self.rates.count_failed_token(address_key, now.mono)
        return Refusal(Fault.BAD_TOKEN)

    def admit_socket(self, peer: Address | None) -> Refusal | None:
        """Whether one more socket may knock: they are bounded in all, and for each address that is no proxy (H14)."""
        knocking, limits = self.census.knocking, self.config.limits
        if knocking.total >= limits.handshakes:
            return Refusal(Fault.AT_CAPACITY, self.retry_after)
        if knocking.of(key_of(peer)) >= limits.connections_per_address and not self.addresses.is_proxy(peer):
            return Refusal(Fault.ADDRESS_FULL, self.retry_after)
        return None

    @property
    def retry_after(self) -> int:
        """Whole seconds told to a client that met a full or draining server."""
        if self.census.draining:
            return max(1, ceil(self.config.drain.reconnect_after))
        return self.config.limits.retry_after


def _guarded(check: Callable[[Gate, _Asked], Refusal | None], field: str) -> Callable[[Gate, _Asked], Refusal | None]:
    """A user's check, whose mistakes refuse: what it raises, and a fault without the `field` that answers here."""

    def ask(gate: Gate, asked: _Asked) -> Refusal | None:
        try:
            refused = check(gate, asked)
            if refused is not None:
                ceil(refused.retry_after or 0)
                (refused.text or "").encode()
                if getattr(refused.fault.value, field) is None:
                    raise ValueError(f"{refused.fault} has no {field}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends in a refusal that carries it
            return Refusal(Fault.INTERNAL, cause=error)
        return refused

    return ask


# ── upgrades, in order: the cheap and the hostile first, tokens last (H10) ───────────────────────────────────────────


def host_is_served(gate: Gate, applicant: Applicant) -> Refusal | None:
    """The Host is one of `allowed_hosts`, where those are set (H11)."""
    if not gate.hosts:
        return None
    host = (applicant.request.value("host") or "").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return None if host in gate.hosts or name in gate.hosts else Refusal(Fault.WRONG_HOST)


def address_is_allowed(gate: Gate, applicant: Applicant) -> Refusal | None:
    """The client's address is not blocked. Finds the address behind trusted proxies on the way (H13)."""
    applicant.address = gate.addresses.client(applicant.peer, applicant.request)
    applicant.address_key = key_of(applicant.address)
    if gate.addresses.allows(applicant.address) and not gate.blocks.address(applicant.address, applicant.now):
        return None
    return Refusal(Fault.ADDRESS_REFUSED)


def origin_is_allowed(gate: Gate, applicant: Applicant) -> Refusal | None:
    """A page's origin is allowed; no Origin header means that it is no page (H10)."""
    origins = applicant.request.values("origin")
    if not origins or (len(origins) == 1 and gate.origins.allows(origins[0])):
        return None
    return Refusal(Fault.ORIGIN_REFUSED)


def node_has_room(gate: Gate, applicant: Applicant) -> Refusal | None:
    """The node is not about to stop and not full (H14)."""
    if gate.census.draining:
        return Refusal(Fault.DRAINING, gate.retry_after)
    if gate.census.open.total >= gate.config.server.max_connections:
        return Refusal(Fault.AT_CAPACITY, gate.retry_after)
    return None


def address_has_room(gate: Gate, applicant: Applicant) -> Refusal | None:
    """The address has not too many connections already (H14)."""
    held = gate.census.open.of(applicant.address_key)
    if held >= gate.config.limits.connections_per_address:
        return Refusal(Fault.ADDRESS_FULL, gate.retry_after)
    return None


def address_comes_not_too_often(gate: Gate, applicant: Applicant) -> Refusal | None:
    """The address has not opened too many connections in the last minute, where that is limited (H14)."""
    key, mono = applicant.address_key, applicant.now.mono
    wait = gate.rates.connection_wait(key, mono)
    if not wait or gate.dry_run.excuses("connection_rate", key, wait, mono):
        return None
    return Refusal(Fault.CONNECTION_RATE, wait)


def query_holds_no_token(gate: Gate, applicant: Applicant) -> Refusal | None:
    """No token in the address, where it would end up in logs, unless the configuration takes that (H12)."""
    if _query_token(applicant.request) is None or gate.config.security.authentication.allow_query_token:
        return None
    return Refusal(Fault.QUERY_TOKEN)


def token_is_valid(gate: Gate, applicant: Applicant) -> Refusal | None:
    """A token that came with the request is valid. Without one the connection is asked for it after the upgrade."""
    if gate.verifier is None:
        applicant.principal = ANONYMOUS
        return None
    token = request_token(applicant.request)
    if token is None:
        return None
    verdict = gate.authenticate(token, applicant.address_key, applicant.now)
    if isinstance(verdict, Principal):
        applicant.principal = verdict
        return None
    applicant.waits = verdict is None
    return verdict or Refusal(Fault.KEYS_UNAVAILABLE, gate.retry_after)


UPGRADE_CHECKS: tuple[UpgradeCheck, ...] = (
    host_is_served,
    address_is_allowed,
    origin_is_allowed,
    node_has_room,
    address_has_room,
    address_comes_not_too_often,
    query_holds_no_token,
    token_is_valid,
)


def request_token(request: Request) -> str | None:
    """The token an upgrade came with: as a header, as a subprotocol, or in the query; None where there is none.

    Two different ones are none that could be valid: a proxy in front may have looked at the other.
    """
    tokens = bearer_tokens(request)
    tokens += [
        subprotocol.removeprefix(BEARER_SUBPROTOCOL)
        for subprotocol in request.items("sec-websocket-protocol")
        if subprotocol.startswith(BEARER_SUBPROTOCOL)
    ]
    query = _query_token(request)
    if query is not None:
        tokens.append(query)
    if not tokens:
        return None
    return tokens[0] if len(set(tokens)) == 1 else ""


def bearer_tokens(request: Request) -> list[str]:
    """The tokens in `Authorization` headers."""
    return [
        token.strip()
        for scheme, _, token in (value.partition(" ") for value in request.values("authorization"))
        if scheme.lower() == "bearer"  # another scheme is for a proxy in front, not for us
    ]


def _query_token(request: Request) -> str | None:
    for pair in request.query.split("&"):
        name, _, value = pair.partition("=")
        if name in ("token", "access_token", "jwt"):
            return value
    return None


# ── events, in order ─────────────────────────────────────────────────────────────────────────────────────────────────


def user_is_the_tokens(gate: Gate, passage: Passage) -> Refusal | None:
    """A message names no other user than the token does (PROTOCOL, "Client → server")."""
    event = passage.event
    if gate.verifier is None or not isinstance(event, ChatMessage):
        return None
    if event.user_id is None or event.user_id == passage.principal.user_id:
        return None
    return Refusal(Fault.FORBIDDEN, text="user_id is not the user of the token")


def event_is_permitted(gate: Gate, passage: Passage) -> Refusal | None:
    """The token's roles or permissions allow an event of this type."""
    principal = passage.principal
    if gate.authorization.allows(passage.event.type, principal.roles, principal.permissions):
        return None
    return Refusal(Fault.FORBIDDEN)


EVENT_CHECKS: tuple[EventCheck, ...] = (user_is_the_tokens,)


def user_account(user_id: str) -> str:
    """What a user's limits are counted under; no address has such a name."""
    return f"user {user_id}"


def details_of(refusal: Refusal) -> dict[str, Any] | None:
    """The `details` of the error event of a refusal."""
    return None if refusal.retry_after is None else {"retry_after": refusal.retry_after}
