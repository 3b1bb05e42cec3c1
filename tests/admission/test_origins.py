"""Which pages may connect, and what their preflight is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.origins import Origins
from qaws_proto.config import CorsConfig

# the configured origins, the Origin header, whether it is allowed
TABLE = [
    (["http://app.example"], "http://app.example", True),
    (["http://app.example"], "http://app.example:80", True),
    (["http://app.example:80"], "http://app.example", True),
    (["https://app.example"], "https://app.example:443", True),
    (["http://App.Example"], "http://app.example", True),
    (["http://app.example"], "HTTP://APP.EXAMPLE", True),
    (["http://app.example"], "https://app.example", False),
    (["http://app.example"], "http://app.example:443", False),
    (["http://app.example"], "http://app.example:8080", False),
    (["http://app.example"], "http://app.example.evil.example", False),
    (["http://app.example"], "http://evilapp.example", False),
    (["http://app.example"], "http://sub.app.example", False),
    (["http://app.example"], "http://app.example@evil.example", False),
    (["http://app.example"], "http://app.example/", False),
    (["http://app.example"], "http://app.example\n", False),
    (["http://app.example"], " http://app.example", False),
    (["http://app.example"], "http://app.example http://app.example", False),
    (["http://app.example"], "null", False),
    (["http://app.example"], "", False),
    (["http://app.example"], "file://", False),
    (["http://app.example"], "ws://app.example", False),
    ([], "http://app.example", False),
    (["http://[::1]:3000"], "http://[::1]:3000", True),
    (["http://[::1]:3000"], "http://[::2]:3000", False),
    (["http://localhost:*"], "http://localhost:1", True),
    (["http://localhost:*"], "http://localhost", True),
    (["http://localhost:*"], "https://localhost:1", False),
    (["http://localhost:*"], "http://localhost:1.evil.example", False),
    (["http://localhost:*"], "http://localhost.evil.example:1", False),
    (["http://localhost:*"], "http://localhost:\uff11", False),
    (["*"], "http://anything.example", True),
    (["*"], "null", True),
    # Nor is a page let in for being of this very server: it is listed, or it is not.
    ([], "http://127.0.0.1:8765", False),
    ([], "http://localhost:8765", False),
    ([], "http://[::1]:8765", False),
    ([], "http://gateway.example:8765", False),
    (["http://app.example"], "http://127.0.0.1:8765", False),
    (["http://127.0.0.1:8765"], "http://127.0.0.1:8765", True),
]


@pytest.mark.row("H10")
@pytest.mark.parametrize(("listed", "origin", "allowed"), TABLE)
def test_an_origin_matches_exactly(listed: list[str], origin: str, allowed: bool) -> None:
    assert Origins(CorsConfig(origins=listed)).allows(origin) is allowed


@pytest.mark.row("H10")
@pytest.mark.parametrize("origin", ["http://app.example", "http://127.0.0.1:8765", "http://localhost:8765", "null"])
def test_without_cors_no_page_may_connect(origin: str) -> None:
    origins = Origins(CorsConfig(enabled=False, origins=["http://app.example", "http://localhost:*", "*"]))
    assert not origins.allows(origin)
    assert origins.headers(origin) == origins.preflight(origin) == [("Vary", "Origin")]


SCHEMES = st.sampled_from(["http", "https"])
HOSTS = st.sampled_from(["app.example", "sub.app.example", "app.example.evil", "localhost", "[::1]", "10.0.0.1"])
PORTS = st.sampled_from([None, "80", "443", "8080", "1"])
DEFAULT_PORTS = {"http": "80", "https": "443"}


def _written(origin: tuple[str, str, str | None]) -> str:
    scheme, host, port = origin
    return f"{scheme}://{host}" + ("" if port is None else f":{port}")


@pytest.mark.row("H10")
@given(st.lists(st.tuples(SCHEMES, HOSTS, PORTS)), st.tuples(SCHEMES, HOSTS, PORTS))
def test_an_origin_is_allowed_if_and_only_if_its_three_parts_are_listed(
    listed: list[tuple[str, str, str | None]], origin: tuple[str, str, str | None]
) -> None:
    def parts(one: tuple[str, str, str | None]) -> tuple[str, str, str]:
        return one[0], one[1], one[2] or DEFAULT_PORTS[one[0]]

    origins = Origins(CorsConfig(origins=[_written(one) for one in listed]))
    assert origins.allows(_written(origin)) is (parts(origin) in map(parts, listed))


@pytest.mark.row("H10")
@pytest.mark.clause("C1")
@given(st.text())
def test_no_text_raises_and_none_is_allowed_by_chance(origin: str) -> None:
    assert not Origins(CorsConfig(origins=["http://app.example"])).allows(origin)


CORS = CorsConfig(origins=["http://app.example"], methods=["GET", "POST"], headers=["Content-Type", "Authorization"])
GRANT = ("Access-Control-Allow-Origin", "http://app.example")
VARY = ("Vary", "Origin")
METHODS = ("Access-Control-Allow-Methods", "GET, POST")
HEADERS = ("Access-Control-Allow-Headers", "Content-Type, Authorization")


@pytest.mark.parametrize(
    ("origin", "headers", "preflight"),
    [
        ("http://app.example", [GRANT, VARY], [GRANT, VARY, METHODS, HEADERS]),
        ("http://evil.example", [VARY], [VARY]),
        ("null", [VARY], [VARY]),
        (None, [VARY], [VARY]),
    ],
)
def test_cors_headers_are_for_allowed_pages_only(
    origin: str | None, headers: list[tuple[str, str]], preflight: list[tuple[str, str]]
) -> None:
    origins = Origins(CORS)
    assert origins.headers(origin) == headers
    assert origins.preflight(origin) == preflight


def test_cookies_are_allowed_to_pages_that_are_named_and_never_to_all() -> None:
    allowed = ("Access-Control-Allow-Credentials", "true")
    named = Origins(CorsConfig(origins=["http://app.example"], credentials=True))
    assert named.headers("http://app.example") == [GRANT, VARY, allowed]
    assert allowed in named.preflight("http://app.example")
    assert named.headers("http://evil.example") == named.preflight("http://evil.example") == [VARY]
    assert allowed not in Origins(CorsConfig(origins=["*"], credentials=True)).preflight("http://app.example")


def test_a_star_is_answered_with_a_star_and_repeats_nothing() -> None:
    headers = Origins(CorsConfig(origins=["*"])).headers("http://whatever\r\nX: y")
    assert headers == [("Access-Control-Allow-Origin", "*"), VARY]
