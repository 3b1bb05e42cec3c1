"""The verdict on one request: it becomes a WebSocket, or gets one answer (PROTOCOL, "Before the upgrade")."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from .admission.addresses import Address
from .admission.gate import SUBPROTOCOL, Applicant, Gate, Refusal
from .admission.tokens import Principal
from .clock import Now
from .faults import Fault
from .wire.http import Request, Response, check_request, check_upgrade, refusal, response

ENDPOINTS = ("/healthz", "/readyz")
METHODS = ("GET", "HEAD", "OPTIONS")
VIOLATION = 1002  # the close code where the table of faults has none: it would happen again


class Answer(NamedTuple):
    """One HTTP answer, which ends the connection (H9), and the close code that says the same.

    `cause` is what a user's check raised, for the log alone.
    """

    response: Response
    word: str
    close: int = VIOLATION
    cause: BaseException | None = None


class Admitted(NamedTuple):
    """The request may become a WebSocket. `principal` is None where the token is still to come."""

    subprotocol: str | None
    address: Address | None
    principal: Principal | None


UpgradeRules = Callable[[Request], Fault | None]


def judge(
    request: Request, peer: Address | None, gate: Gate, now: Now, rules: UpgradeRules = check_upgrade
) -> Admitted | Answer | None:
    """What becomes of a request: first what any HTTP request must keep, then the path, then what an upgrade must.

    None: it has to be judged again, when the keys that its token may be of are here. `rules` are those of an upgrade; a
    host that does HTTP itself has seen to most of them.
    """
    fault = check_request(request)
    if fault is None and request.path != gate.config.server.path:
        return _endpoint(request, gate)
    fault = fault or rules(request)
    if fault is not None:
        return turned_away(Refusal(fault))
    applicant = Applicant(request, peer, now)
    refused = gate.admit_upgrade(applicant)
    if refused is not None:
        return None if applicant.waits else turned_away(refused)
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in request.items("sec-websocket-protocol") else None
    return Admitted(subprotocol, applicant.address, applicant.principal)


def turned_away(refused: Refusal, allow: str = "GET") -> Answer:
    """The answer of a refusal."""
    row = refused.fault.value
    assert row.status is not None, f"{refused.fault} has no HTTP status"
    retry_after = None if refused.retry_after is None else ceil(refused.retry_after)
    answer = refusal(refused.fault, retry_after, allow)
    return Answer(answer, row.word, row.close or VIOLATION, refused.cause)


def _endpoint(request: Request, gate: Gate) -> Answer:
    """HTTP beside the socket: health, readiness and their CORS preflight. (For HEAD the link cuts off the body.)"""
    if request.path not in ENDPOINTS:
        return turned_away(Refusal(Fault.NOT_FOUND))
    if request.method not in METHODS:
        return turned_away(Refusal(Fault.METHOD_REFUSED), allow=", ".join(METHODS))
    origin = request.value("origin")
    if request.method == "OPTIONS":
        return Answer(response(204, headers=gate.origins.preflight(origin)), "preflight")
    word = _unready(gate) if request.path == "/readyz" else None
    headers = [("Cache-Control", "no-store"), *gate.origins.headers(origin)]
    if word is not None:
        headers.append(("Retry-After", str(gate.retry_after)))
    status, word = (200, "ok") if word is None else (503, word)
    body = f'{{"status":"{word}"}}'
    return Answer(response(status, body, headers, media_type="application/json"), word)


def _unready(gate: Gate) -> str | None:
    """Why no client should be sent here; None where they are welcome."""
    if gate.census.draining:
        return "draining"
    return None if gate.keys is None or gate.keys.ready else Fault.KEYS_UNAVAILABLE.value.word
