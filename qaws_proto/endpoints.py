"""HTTP beside the socket: `/healthz`, `/readyz` and their CORS preflight (PROTOCOL, "Before the upgrade")."""

from __future__ import annotations

from .admission.gate import Gate
from .faults import Fault
from .wire.http import Request, refusal, response

METHODS = ("GET", "HEAD", "OPTIONS")


def answer(request: Request, gate: Gate) -> tuple[int, bytes]:
    """The status and the whole answer to a request that is for no WebSocket. (For HEAD the link cuts off the body.)"""
    if request.path not in ("/healthz", "/readyz"):
        return _refused(Fault.NOT_FOUND)
    if request.method not in METHODS:
        return _refused(Fault.METHOD_REFUSED)
    origin, host = request.value("origin"), request.value("host") or ""
    if request.method == "OPTIONS":
        return 204, response(204, headers=gate.origins.preflight(origin, host))
    draining = request.path == "/readyz" and gate.census.draining
    headers = [("Cache-Control", "no-store"), *gate.origins.headers(origin, host)]
    if draining:
        headers.append(("Retry-After", str(gate.retry_after)))
    status, body = (503, '{"status":"draining"}') if draining else (200, '{"status":"ok"}')
    return status, response(status, body, headers, media_type="application/json")


def _refused(fault: Fault) -> tuple[int, bytes]:
    assert fault.value.status is not None
    return fault.value.status, refusal(fault, allow=", ".join(METHODS))
