"""The gate as a whole: what it asks, in which order, and what it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.addresses import parse_address
from qaws_proto.admission.gate import Applicant, Gate, Passage, Refusal, Tally, details_of, request_token
from qaws_proto.admission.tokens import ANONYMOUS, Principal, TokenVerifier, issue_token
from qaws_proto.clock import Now
from qaws_proto.config import ConfigError, WebSocketConfig
from qaws_proto.events import ChatMessage, Ping
from qaws_proto.faults import Fault
from qaws_proto.wire.http import Request

SECRET = "0123456789abcdef0123456789abcdef"
NOW = Now(mono=1000.0, unix=1_800_000_000.0)
SECURITY = {
    "authentication": {"jwt_secret": SECRET},
    "cors": {"origins": ["http://app.example"]},
    "addresses": {"block": ["198.51.100.0/24"]},
}
FIELDS = {
    "server": {"allowed_hosts": ["gateway.example", "[::1]"], "trusted_proxies": ["10.0.0.1"], "max_connections": 3},
    "security": SECURITY,
    "limits": {"connections_per_address": 2, "connections_per_minute": 3, "handshakes": 3, "retry_after": 7},
    "drain": {"reconnect_after": 1.5},
}


def _config(**sections: Any) -> WebSocketConfig:
    return WebSocketConfig.model_validate({**FIELDS, **sections})


def _config_with(**security: Any) -> WebSocketConfig:
    return _config(security={**SECURITY, **security})


CONFIG = _config()
TOKEN = issue_token(CONFIG.security.authentication, "user-1", unix=int(NOW.unix), token_id="t")


class Watched(TokenVerifier):
    """Counts how often a token is looked at."""

    looks = 0

    def verify(self, token: str, unix: float) -> Principal | None:
        self.looks += 1
        return super().verify(token, unix)


def _gate(config: WebSocketConfig = CONFIG) -> tuple[Gate, Watched]:
    verifier = Watched(CONFIG.security.authentication)
    return Gate(config, verifier=verifier), verifier


def _applicant(
    *headers: tuple[str, str], target: str = "/", peer: str = "192.0.2.1", host: str | None = None
) -> Applicant:
    request = Request("GET", target, (("host", host or "gateway.example:8765"), *headers))
    return Applicant(request, parse_address(peer), NOW)


BEARER = ("authorization", f"Bearer {TOKEN}")


# ── upgrades ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_right_upgrade_is_admitted_with_its_principal() -> None:
    gate, _ = _gate()
    applicant = _applicant(BEARER, ("origin", "http://app.example"))
    assert gate.admit_upgrade(applicant) is None
    assert applicant.principal is not None
    assert applicant.principal.user_id == "user-1"
    assert applicant.address == applicant.peer


def test_without_a_token_an_upgrade_is_admitted_as_nobody_yet() -> None:
    gate, verifier = _gate()
    applicant = _applicant()
    assert gate.admit_upgrade(applicant) is None
    assert applicant.principal is None
    assert verifier.looks == 0


def test_without_authentication_everybody_is_anonymous() -> None:
    gate, verifier = _gate(_config_with(authentication={"enabled": False}))
    applicant = _applicant(("authorization", "Bearer x"))
    assert gate.admit_upgrade(applicant) is None
    assert applicant.principal is ANONYMOUS
    assert gate.verify(TOKEN, NOW) is None
    assert verifier.looks == 0


def test_authentication_without_a_secret_refuses_to_start() -> None:
    with pytest.raises(ConfigError):
        Gate(_config_with(authentication={}))
    assert Gate(CONFIG).verify(TOKEN, NOW) is not None


# What is wrong with it, worst first: an applicant with several of them hears of the first in this order.
FLAWS: list[tuple[str, Fault]] = [
    ("host", Fault.WRONG_HOST),
    ("address", Fault.ADDRESS_REFUSED),
    ("origin", Fault.ORIGIN_REFUSED),
    ("node", Fault.AT_CAPACITY),
    ("crowd", Fault.ADDRESS_FULL),
    ("rate", Fault.CONNECTION_RATE),
    ("query", Fault.QUERY_TOKEN),
    ("token", Fault.BAD_TOKEN),
]


@pytest.mark.row("H10")
@pytest.mark.row("H14")
@given(st.sets(st.sampled_from([name for name, _ in FLAWS])))
def test_the_checks_are_asked_in_order_and_tokens_last(flaws: set[str]) -> None:
    gate, verifier = _gate()
    peer = "198.51.100.1" if "address" in flaws else "192.0.2.1"
    if "node" in flaws:
        for key in ("a", "b", "c"):
            gate.census.open.enter(key)
    if "crowd" in flaws:
        for _ in range(2):
            gate.census.open.enter(peer)
    if "rate" in flaws:
        for _ in range(3):
            gate.rates.count_connection(peer, NOW.mono)
    applicant = _applicant(
        ("authorization", "Bearer wrong" if "token" in flaws else f"Bearer {TOKEN}"),
        ("origin", "http://evil.example" if "origin" in flaws else "http://app.example"),
        target="/?token=x" if "query" in flaws else "/",
        peer=peer,
        host="evil.example" if "host" in flaws else None,
    )
    refused = gate.admit_upgrade(applicant)
    expected = next((fault for name, fault in FLAWS if name in flaws), None)
    assert (refused and refused.fault) is expected
    assert verifier.looks == (expected in (None, Fault.BAD_TOKEN))  # 403 comes before any token work
    assert (applicant.principal is not None) is (expected is None)


HOSTS = [
    ("gateway.example", True),
    ("gateway.example:8765", True),
    ("GATEWAY.example:1", True),
    ("[::1]", True),
    ("[::1]:8765", True),
    ("[::2]", False),
    ("[::2]:8765", False),
    ("evil.example", False),
    ("evil.example:8765", False),
    ("gateway.example.evil.example", False),
    ("127.0.0.1", False),
]


@pytest.mark.row("H11")
@pytest.mark.parametrize(("host", "served"), HOSTS)
def test_another_host_is_misdirected(host: str, served: bool) -> None:
    refused = _gate()[0].admit_upgrade(_applicant(host=host))
    assert refused == (None if served else Refusal(Fault.WRONG_HOST))


@pytest.mark.row("H11")
def test_any_host_is_served_where_none_is_listed() -> None:
    assert _gate(_config(server={}))[0].admit_upgrade(_applicant(host="whatever.example")) is None


@pytest.mark.row("H10")
def test_two_origins_are_none() -> None:
    applicant = _applicant(("origin", "http://app.example"), ("origin", "http://app.example"))
    assert _gate()[0].admit_upgrade(applicant) == Refusal(Fault.ORIGIN_REFUSED)


@pytest.mark.row("H10")
@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "gateway.example:8765"])
def test_an_origin_that_is_the_host_has_to_be_listed_too(host: str) -> None:
    server: dict[str, Any] = {"allowed_hosts": []}
    applicant = _applicant(("origin", f"http://{host}"), host=host)
    assert _gate(_config(server=server))[0].admit_upgrade(applicant) == Refusal(Fault.ORIGIN_REFUSED)
    listed = _config(server=server, security={**SECURITY, "cors": {"origins": [f"http://{host}"]}})
    assert _gate(listed)[0].admit_upgrade(applicant) is None


@pytest.mark.row("H10")
def test_without_cors_programs_connect_and_pages_do_not() -> None:
    gate, _ = _gate(_config_with(cors={"enabled": False, "origins": ["http://app.example", "*"]}))
    assert gate.admit_upgrade(_applicant(BEARER)) is None
    assert gate.admit_upgrade(_applicant(BEARER, ("origin", "http://app.example"))) == Refusal(Fault.ORIGIN_REFUSED)


QUERIES = [
    (f"/?token={TOKEN}", True),
    (f"/?a=b&access_token={TOKEN}", True),
    ("/?jwt=", True),
    ("/?token", True),
    ("/?tokens=1", False),
    ("/?a=token", False),
    ("/", False),
]


@pytest.mark.row("H12")
@pytest.mark.parametrize(("target", "refused"), QUERIES)
def test_a_token_in_the_query_is_refused(target: str, refused: bool) -> None:
    gate, verifier = _gate()
    assert gate.admit_upgrade(_applicant(target=target)) == (Refusal(Fault.QUERY_TOKEN) if refused else None)
    assert verifier.looks == 0


@pytest.mark.row("H12")
def test_a_token_in_the_query_is_taken_where_that_is_configured() -> None:
    gate, _ = _gate(_config_with(authentication={"jwt_secret": SECRET, "allow_query_token": True}))
    applicant = _applicant(target=f"/?token={TOKEN}")
    assert gate.admit_upgrade(applicant) is None
    assert applicant.principal is not None
    assert gate.admit_upgrade(_applicant(target="/?token=wrong")) == Refusal(Fault.BAD_TOKEN)


# the headers, the token that came with them
TOKENS: list[tuple[list[tuple[str, str]], str | None]] = [
    ([], None),
    ([("authorization", "Bearer abc")], "abc"),
    ([("authorization", "bearer  abc ")], "abc"),
    ([("authorization", "Basic abc")], None),
    ([("authorization", "Bearer")], ""),
    ([("authorization", "")], None),
    ([("sec-websocket-protocol", "qaws.v1, qaws.bearer.abc")], "abc"),
    ([("sec-websocket-protocol", "qaws.v1"), ("sec-websocket-protocol", "qaws.bearer.abc")], "abc"),
    ([("sec-websocket-protocol", "qaws.v1, qaws.bearer.")], ""),
    ([("sec-websocket-protocol", "qaws.v1")], None),
    # The same one twice is one; two different ones are none.
    ([("authorization", "Bearer abc"), ("sec-websocket-protocol", "qaws.bearer.abc")], "abc"),
    ([("authorization", "Bearer abc"), ("authorization", "bearer  abc")], "abc"),
    ([("authorization", "Basic abc"), ("authorization", "Bearer def")], "def"),
    ([("authorization", "Bearer abc"), ("sec-websocket-protocol", "qaws.bearer.def")], ""),
    ([("authorization", "Bearer abc"), ("authorization", "Bearer def")], ""),
    ([("authorization", "Bearer abc"), ("authorization", "Bearer")], ""),
    ([("sec-websocket-protocol", "qaws.bearer.abc, qaws.bearer.def")], ""),
]


@pytest.mark.parametrize(("headers", "token"), TOKENS)
def test_a_token_comes_as_a_header_or_as_a_subprotocol(headers: list[tuple[str, str]], token: str | None) -> None:
    assert request_token(_applicant(*headers).request) == token


@pytest.mark.row("A9")
@pytest.mark.parametrize(
    ("others", "target"),
    [
        ([("authorization", "Bearer abc")], "/"),
        ([("sec-websocket-protocol", "qaws.v1, qaws.bearer.abc")], "/"),
        ([], "/?token=abc"),
    ],
)
def test_a_right_token_beside_another_is_refused(others: list[tuple[str, str]], target: str) -> None:
    gate, _ = _gate(_config_with(authentication={"jwt_secret": SECRET, "allow_query_token": True}))
    for headers in ([BEARER, *others], [*others, BEARER]):
        applicant = _applicant(*headers, target=target)
        assert gate.admit_upgrade(applicant) == Refusal(Fault.BAD_TOKEN)
        assert applicant.principal is None
    same = _applicant(BEARER, ("sec-websocket-protocol", f"qaws.bearer.{TOKEN}"), target=f"/?token={TOKEN}")
    assert gate.admit_upgrade(same) is None
    assert same.principal is not None


@pytest.mark.row("A9")
@pytest.mark.parametrize("wrong", ["", "x", TOKEN + "x", "a.b.c", TOKEN[:-2]])
def test_a_wrong_token_is_refused_the_same_way_wherever_it_is(wrong: str) -> None:
    gate, _ = _gate()
    for header in (("authorization", f"Bearer {wrong}"), ("sec-websocket-protocol", f"qaws.v1, qaws.bearer.{wrong}")):
        assert gate.admit_upgrade(_applicant(header)) == Refusal(Fault.BAD_TOKEN)


@pytest.mark.row("H13")
@pytest.mark.row("H14")
def test_behind_a_proxy_the_client_is_judged_and_counted() -> None:
    gate, _ = _gate()
    forwarded = _applicant(("x-forwarded-for", "192.0.2.7"), peer="10.0.0.1")
    assert gate.admit_upgrade(forwarded) is None
    assert str(forwarded.address) == "192.0.2.7"
    blocked = _applicant(("x-forwarded-for", "198.51.100.7"), peer="10.0.0.1")
    assert gate.admit_upgrade(blocked) == Refusal(Fault.ADDRESS_REFUSED)
    forged = _applicant(("x-forwarded-for", "192.0.2.7"), peer="198.51.100.7")
    assert gate.admit_upgrade(forged) == Refusal(Fault.ADDRESS_REFUSED)
    gate.census.open.enter("192.0.2.7")
    gate.census.open.enter("192.0.2.7")
    assert gate.admit_upgrade(forwarded) == Refusal(Fault.ADDRESS_FULL, 7)


@pytest.mark.row("H14")
def test_a_full_node_and_a_full_address_say_when_to_come_back() -> None:
    gate, _ = _gate()
    gate.census.open.enter("2001:db8::/64")
    gate.census.open.enter("2001:db8::/64")
    assert gate.admit_upgrade(_applicant(peer="2001:db8::1")) == Refusal(Fault.ADDRESS_FULL, 7)
    assert gate.admit_upgrade(_applicant(peer="2001:db8:0:1::1")) is None
    gate.census.open.enter("192.0.2.9")
    assert gate.admit_upgrade(_applicant(peer="2001:db8:0:1::1")) == Refusal(Fault.AT_CAPACITY, 7)
    gate.census.draining = True
    assert gate.admit_upgrade(_applicant()) == Refusal(Fault.DRAINING, 2)
    gate.census.open.leave("192.0.2.9")
    gate.census.draining = False
    assert gate.admit_upgrade(_applicant()) is None


@pytest.mark.row("H14")
def test_sockets_that_knock_are_bounded_and_a_proxys_only_in_all() -> None:
    gate, _ = _gate()
    for _ in range(2):
        assert gate.admit_socket(parse_address("192.0.2.1")) is None
        gate.census.knocking.enter("192.0.2.1")
    assert gate.admit_socket(parse_address("192.0.2.1")) == Refusal(Fault.ADDRESS_FULL, 7)
    gate.census.knocking.leave("192.0.2.1")
    gate.census.knocking.leave("192.0.2.1")
    for _ in range(3):
        assert gate.admit_socket(parse_address("10.0.0.1")) is None
        gate.census.knocking.enter("10.0.0.1")
    assert gate.admit_socket(parse_address("10.0.0.1")) == Refusal(Fault.AT_CAPACITY, 7)
    assert gate.admit_socket(None) == Refusal(Fault.AT_CAPACITY, 7)


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

USER = Principal("user-1", "t", {}, NOW.unix + 60)


def _chat(**fields: Any) -> ChatMessage:
    return ChatMessage.model_validate({"type": "chat_message", "content": "hello", **fields})


def admit(gate: Gate, passage: Passage) -> Refusal | None:
    """Ask the gate as a connection does."""
    return gate.admit_event(passage, gate.account(passage.principal, passage.address_key))


def _passage(event: Any, *, principal: Principal = USER, address: str = "192.0.2.1", mono: float = 1000.0) -> Passage:
    return Passage(event, principal, address, Now(mono, NOW.unix))


@pytest.mark.row("R1")
@pytest.mark.row("R4")
def test_messages_are_counted_by_user_on_all_connections_together() -> None:
    gate, _ = _gate(_config_with(rate_limiting={"requests_per_minute": 2}))
    assert admit(gate, _passage(_chat())) is None
    assert admit(gate, _passage(_chat(), address="192.0.2.2", mono=1000.5)) is None
    assert admit(gate, _passage(_chat(), address="192.0.2.3", mono=1001)) == Refusal(Fault.RATE_LIMIT, 59.0)
    for _ in range(100):
        assert admit(gate, _passage(Ping(type="ping"), mono=1001)) is None
    other = USER._replace(user_id="user-2")
    assert admit(gate, _passage(_chat(), principal=other, mono=1001)) is None
    assert admit(gate, _passage(_chat(), mono=1060.0)) is None


@pytest.mark.row("R4")
def test_a_token_without_an_end_is_counted_by_its_user_too() -> None:
    gate, _ = _gate(_config_with(rate_limiting={"requests_per_minute": 1}))
    endless = USER._replace(expires_at=None)
    assert admit(gate, _passage(_chat(), principal=endless)) is None
    assert admit(gate, _passage(_chat(), principal=endless, address="192.0.2.2")) is not None


@pytest.mark.row("R4")
def test_without_authentication_messages_are_counted_by_address() -> None:
    open_to_all = {"authentication": {"enabled": False}, "rate_limiting": {"requests_per_minute": 1}}
    gate, _ = _gate(_config_with(**open_to_all))
    assert admit(gate, _passage(_chat(user_id="a"), principal=ANONYMOUS)) is None
    assert admit(gate, _passage(_chat(user_id="b"), principal=ANONYMOUS)) == Refusal(Fault.RATE_LIMIT, 60.0)
    assert admit(gate, _passage(_chat(user_id="b"), principal=ANONYMOUS, address="192.0.2.2")) is None


def test_without_a_limit_nothing_is_counted() -> None:
    gate, _ = _gate(_config_with(rate_limiting={"enabled": False}))
    assert all(admit(gate, _passage(_chat())) is None for _ in range(1000))


@pytest.mark.parametrize(("user_id", "passes"), [(None, True), ("user-1", True), ("user-2", False), ("User-1", False)])
def test_a_message_is_of_the_tokens_user(user_id: str | None, passes: bool) -> None:
    refused = admit(_gate()[0], _passage(_chat(user_id=user_id)))
    assert (refused and refused.fault) is (None if passes else Fault.FORBIDDEN)


@pytest.mark.row("R1")
def test_the_rate_is_asked_before_what_a_message_says_and_charged_behind_it() -> None:
    gate, _ = _gate(_config_with(rate_limiting={"requests_per_minute": 1}))
    forbidden = _chat(user_id="user-2")
    refusals = [admit(gate, _passage(event)) for event in (forbidden, forbidden, _chat(), forbidden, _chat())]
    assert [refused and refused.fault for refused in refusals] == [
        Fault.FORBIDDEN, Fault.FORBIDDEN, None, Fault.RATE_LIMIT, Fault.RATE_LIMIT,
    ]  # fmt: skip


# ── checks that users add ────────────────────────────────────────────────────────────────────────────────────────────


def test_own_checks_are_asked_after_the_built_in_ones() -> None:
    asked: list[object] = []

    def upgrade_check(gate: Gate, applicant: Applicant) -> Refusal | None:
        asked.append(applicant.principal)
        return Refusal(Fault.ADDRESS_REFUSED)

    def event_check(gate: Gate, passage: Passage) -> Refusal | None:
        asked.append(passage.event)
        return Refusal(Fault.BUSY, 1.5, "come back")

    gate = Gate(CONFIG, upgrade_checks=[upgrade_check], event_checks=[event_check])
    assert gate.admit_upgrade(_applicant(("authorization", "Bearer x"))) == Refusal(Fault.BAD_TOKEN)
    assert admit(gate, _passage(_chat(user_id="user-2"))) is not None
    assert asked == []
    assert gate.admit_upgrade(_applicant(BEARER)) == Refusal(Fault.ADDRESS_REFUSED)
    assert admit(gate, _passage(_chat())) == Refusal(Fault.BUSY, 1.5, "come back")
    assert asked == [gate.verify(TOKEN, NOW), _chat()]


@pytest.mark.clause("C1")
def test_an_own_check_that_raises_lets_nothing_pass() -> None:
    mistake = KeyError("role")

    def broken(gate: Gate, asked: object) -> Refusal | None:
        raise mistake

    gate = Gate(CONFIG, upgrade_checks=[broken], event_checks=[broken])
    refusal = Refusal(Fault.INTERNAL, cause=mistake)
    assert gate.admit_upgrade(_applicant()) == refusal
    assert admit(gate, _passage(_chat())) == refusal
    assert details_of(refusal) is None


@pytest.mark.clause("C1")
@pytest.mark.parametrize("text", [ValueError("no"), 5, b"no", "no \ud800"])
def test_an_own_check_whose_text_cannot_be_said_lets_nothing_pass(text: Any) -> None:
    def refuse(gate: Gate, asked: object) -> Refusal | None:
        return Refusal(Fault.INTERNAL, text=text)

    gate = Gate(CONFIG, upgrade_checks=[refuse], event_checks=[refuse])
    for refused in (gate.admit_upgrade(_applicant()), admit(gate, _passage(_chat()))):
        assert refused is not None
        assert (refused.fault, refused.text) == (Fault.INTERNAL, None)
        assert isinstance(refused.cause, AttributeError | UnicodeEncodeError | TypeError)  # TypeError: compiled


def test_own_checks_that_pass_let_pass() -> None:
    gate = Gate(CONFIG, upgrade_checks=[lambda gate, applicant: None], event_checks=[lambda gate, passage: None])
    assert gate.admit_upgrade(_applicant()) is None
    assert admit(gate, _passage(_chat())) is None


# ── what is said of a refusal ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("R1")
def test_details_hold_the_exact_wait_and_nothing_else() -> None:
    assert json.dumps(details_of(Refusal(Fault.RATE_LIMIT, 59.999))) == '{"retry_after": 59.999}'
    assert details_of(Refusal(Fault.FORBIDDEN, text="no")) is None


@pytest.mark.clause("C12")
def test_an_applicant_is_printed_without_its_token() -> None:
    applicant = _applicant(BEARER)
    _gate()[0].admit_upgrade(applicant)
    assert TOKEN not in repr(applicant)


@given(st.lists(st.sampled_from("abc")), st.randoms(use_true_random=False))
def test_a_tally_counts_who_is_there_and_forgets_who_left(comers: list[str], random: Any) -> None:
    tally = Tally()
    for number, comer in enumerate(comers):
        tally.enter(comer)
        assert (tally.total, tally.of(comer)) == (number + 1, comers[: number + 1].count(comer))
    leavers = list(comers)
    random.shuffle(leavers)
    while leavers:
        tally.leave(leavers.pop())
        assert tally.total == len(leavers)
        assert all(tally.of(key) == leavers.count(key) for key in "abc")
    assert tally._by_address == {}


def test_who_never_came_cannot_leave() -> None:
    tally = Tally()
    tally.enter("a")
    with pytest.raises(KeyError):
        tally.leave("b")
    assert tally.total == 1
