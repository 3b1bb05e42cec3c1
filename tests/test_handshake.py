"""The verdict on a request, and what is answered beside the socket: health, readiness, the preflight of web pages."""

from __future__ import annotations

import json

import pytest

from qaws_proto.admission.gate import Gate
from qaws_proto.clock import Now
from qaws_proto.config import WebSocketConfig
from qaws_proto.handshake import Answer, judge
from qaws_proto.wire.http import Request
from tests.wire.test_http import assert_one_answer

PAGE, STRANGER = "http://localhost:3000", "http://evil.example"


def ask(
    method: str,
    target: str,
    origin: str | None = None,
    *,
    host: str = "qa.example",
    draining: bool = False,
    origins: tuple[str, ...] = (PAGE,),
) -> tuple[int, dict[str, str], bytes]:
    """The one answer of a node to a request."""
    gate = Gate(
        WebSocketConfig.model_validate(
            {"security": {"authentication": {"enabled": False}, "cors": {"origins": list(origins)}}}
        )
    )
    gate.census.draining = draining
    headers = [("host", host), *([] if origin is None else [("origin", origin)])]
    answer = judge(Request(method, target, tuple(headers)), None, gate, Now(0.0, 0.0))
    assert isinstance(answer, Answer)
    said = assert_one_answer(answer.response.encode())
    assert said[0] == answer.response.status
    return said


@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/healthz?verbose", "/readyz?a=b"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_node_that_lives_says_so(method: str, target: str) -> None:
    status, headers, body = ask(method, target)
    assert status == 200
    assert json.loads(body) == {"status": "ok"}
    assert headers["content-type"].startswith("application/json")
    assert headers["cache-control"] == "no-store"
    assert "retry-after" not in headers


@pytest.mark.row("D1")
def test_a_node_that_drains_lives_and_is_not_ready() -> None:
    assert ask("GET", "/healthz", draining=True)[0] == 200
    status, headers, body = ask("GET", "/readyz", draining=True)
    assert status == 503
    assert json.loads(body) == {"status": "draining"}
    assert headers["retry-after"] == "1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "get"])
@pytest.mark.parametrize("target", ["/healthz", "/readyz"])
def test_other_methods_are_refused(method: str, target: str) -> None:
    status, headers, _ = ask(method, target)
    assert status == 405
    assert headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("target", ["/nothing", "/healthz/", "//healthz", "/HEALTHZ", "/x?/healthz"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_nothing_else_is_served(method: str, target: str) -> None:
    assert ask(method, target)[0] == 404


@pytest.mark.row("H10")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        (PAGE, (PAGE,), PAGE),
        (PAGE, ("*",), "*"),
        (STRANGER, ("*",), "*"),
        (STRANGER, (PAGE,), None),
        ("null", (PAGE,), None),
        (None, (PAGE,), None),
    ],
)
def test_only_listed_pages_may_read(
    method: str, origin: str | None, origins: tuple[str, ...], allowed: str | None
) -> None:
    _, headers, body = ask(method, "/healthz", origin, origins=origins)
    assert headers.get("access-control-allow-origin") == allowed
    assert headers["vary"] == "Origin"
    if method != "OPTIONS":
        assert "access-control-allow-methods" not in headers
        return
    assert body == b""
    may = None if allowed is None else "GET, POST"
    assert headers.get("access-control-allow-methods") == may
    assert headers.get("access-control-allow-headers") == (may and "Content-Type, Authorization")


@pytest.mark.parametrize("target", ["/healthz", "/readyz"])
def test_a_preflight_has_no_content(target: str) -> None:
    assert ask("OPTIONS", target, PAGE)[0] == 204


@pytest.mark.row("H10")
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_page_of_this_very_server_has_to_be_listed_too(method: str) -> None:
    host = "127.0.0.1:8765"
    page = f"http://{host}"
    cases: list[tuple[tuple[str, ...], str | None]] = [((PAGE,), None), ((), None), ((page,), page)]
    for origins, allowed in cases:
        _, headers, _ = ask(method, "/healthz", page, host=host, origins=origins)
        assert headers.get("access-control-allow-origin") == allowed
