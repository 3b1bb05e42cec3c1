"""The verdict on one request: it becomes a WebSocket, or gets one answer (PROTOCOL, "Before the upgrade")."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from math import ceil
from typing import NamedTuple

from .admission.addresses import Address
from .admission.gate import SUBPROTOCOL, Applicant, Gate, Refusal, bearer_tokens
from .admission.tokens import Principal
from .clock import Now
from .faults import Fault
from .wire.http import Header, Request, Response, check_request, check_upgrade, document, refusal, response

ENDPOINTS = ("/healthz", "/readyz")
METRICS = "/metrics"
OPENMETRICS = "application/openmetrics-text"
METHODS = ("GET", "HEAD", "OPTIONS")
VIOLATION = 1002  # the close code where the table of faults has none: it would happen again


class Answer(NamedTuple):
    """One HTTP answer, which ends the connection (H9), and the close code that says the same.

    `cause` is what a user's check raised, for the log alone; `fault` why it was turned away, where it was.
    """

    response: Response
    word: str
    close: int = VIOLATION
    cause: BaseException | None = None
    fault: Fault | None = None


class Admitted(NamedTuple):
    """The request may become a WebSocket. `principal` is None where the token is still to come."""

    subprotocol: str | None
    address: Address | None
    address_key: str
    principal: Principal | None


class Scrape(NamedTuple):
    """The request is for metrics, which have to be collected first."""

    openmetrics: bool
    headers: tuple[Header, ...]

    def answer(self, body: bytes, content_type: str) -> Answer:
        """They are here."""
        return Answer(document(body, content_type, self.headers), "ok")

    @property
    def late(self) -> Answer:
        """Nobody has collected them in time."""
        return Answer(response(503, "not collected\n", self.headers), "not collected")


UpgradeRules = Callable[[Request], Fault | None]


def judge(
    request: Request, peer: Address | None, gate: Gate, now: Now, rules: UpgradeRules = check_upgrade,
    *, internal: bool = False,
) -> Admitted | Answer | Scrape | None:  # fmt: skip
    """What becomes of a request: first what any HTTP request must keep, then the path, then what an upgrade must.

    None: it has to be judged again, when the keys that its token may be of are here. `rules` are those of an upgrade; a
    host that does HTTP itself has seen to most of them. `internal`: it came to the address of `metrics.listen`.
    """
    fault = check_request(request)
    if fault is None and (internal or request.path != gate.config.server.path):
        return _endpoint(request, gate, internal)
    fault = fault or rules(request)
    if fault is not None:
        return turned_away(Refusal(fault))
    applicant = Applicant(request, peer, now)
    refused = gate.admit_upgrade(applicant)
    if refused is not None:
        return None if applicant.waits else turned_away(refused)
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in request.items("sec-websocket-protocol") else None
    return Admitted(subprotocol, applicant.address, applicant.address_key, applicant.principal)


def turned_away(refused: Refusal, allow: str = "GET") -> Answer:
    """The answer of a refusal."""
    row = refused.fault.value
    assert row.status is not None, f"{refused.fault} has no HTTP status"
    retry_after = None if refused.retry_after is None else ceil(refused.retry_after)
    answer = refusal(refused.fault, retry_after, allow)
    return Answer(answer, row.word, row.close or VIOLATION, refused.cause, refused.fault)


def _endpoint(request: Request, gate: Gate, internal: bool) -> Answer | Scrape:
    """HTTP beside the socket: health, readiness, metrics and their CORS preflight. (For HEAD the link cuts off the
    body.)"""
    metrics = gate.config.metrics
    scrape = request.path == METRICS and metrics.enabled and internal is (metrics.listen is not None)
    if request.path not in ENDPOINTS and not scrape:
        return turned_away(Refusal(Fault.NOT_FOUND))
    if request.method not in METHODS:
        return turned_away(Refusal(Fault.METHOD_REFUSED), allow=", ".join(METHODS))
    origin = request.value("origin")
    if request.method == "OPTIONS":
        return Answer(response(204, headers=gate.origins.preflight(origin)), "preflight")
    headers = [("Cache-Control", "no-store"), *gate.origins.headers(origin)]
    if scrape:
        return _scrape(request, gate, headers)
    word = _unready(gate) if request.path == "/readyz" else None
    if word is not None:
        headers.append(("Retry-After", str(gate.retry_after)))
    status, word = (200, "ok") if word is None else (503, word)
    body = f'{{"status":"{word}"}}'
    return Answer(response(status, body, headers, media_type="application/json"), word)


def _scrape(request: Request, gate: Gate, headers: list[Header]) -> Answer | Scrape:
    """Metrics, for whoever has their token, where one is set. It is compared in a time that tells nothing of it."""
    token = gate.config.metrics.token
    if token is not None:
        wanted = token.get_secret_value().encode()
        given = bearer_tokens(request)
        if len(given) != 1 or not compare_digest(given[0].encode("utf-8", "surrogateescape"), wanted):
            return turned_away(Refusal(Fault.METRICS_TOKEN))
    accepted = (item.partition(";")[0].strip().lower() for item in request.items("accept"))
    return Scrape(OPENMETRICS in accepted, tuple(headers))


def _unready(gate: Gate) -> str | None:
    """Why no client should be sent here; None where they are welcome."""
    if gate.census.draining:
        return "draining"
    return None if gate.keys is None or gate.keys.ready else Fault.KEYS_UNAVAILABLE.value.word
