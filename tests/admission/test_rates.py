"""The rates of users, addresses, the node and connections together, against a model that counts; and on trial."""

from __future__ import annotations

from collections import defaultdict
from math import ceil
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.addresses import parse_address
from qaws_proto.admission.gate import Applicant, Gate, Passage, Refusal
from qaws_proto.admission.tokens import ANONYMOUS
from qaws_proto.clock import Now
from qaws_proto.config import WebSocketConfig
from qaws_proto.effects import Note
from qaws_proto.events import ChatMessage, Ping
from qaws_proto.faults import Fault
from qaws_proto.live_settings import changed
from qaws_proto.outbox import Outbox
from qaws_proto.wire.http import Request

SECRET = "0123456789abcdef0123456789abcdef"
HELLO = ChatMessage(type="chat_message", content="hello")


class Node(NamedTuple):
    """A gate with what it notes."""

    gate: Gate
    outbox: Outbox

    def chat(self, user_id: str, address_key: str, mono: float) -> Refusal | None:
        principal = ANONYMOUS._replace(user_id=user_id)
        passage = Passage(HELLO, principal, address_key, Now(mono, 0.0))
        return self.gate.admit_event(passage, self.gate.account(principal, address_key))

    def connect(self, peer: str, mono: float, *headers: tuple[str, str]) -> Refusal | None:
        request = Request("GET", "/", (("host", "localhost"), *headers))
        return self.gate.admit_upgrade(Applicant(request, parse_address(peer), Now(mono, 0.0)))

    def notes(self) -> list[Note]:
        return [effect for effect in self.outbox.take() if isinstance(effect, Note)]


def _node(
    rates: dict[str, Any], *, limits: dict[str, Any] | None = None, authentication: bool = True, **server: Any
) -> Node:
    security = {"rate_limiting": rates, "authentication": {"enabled": authentication, "jwt_secret": SECRET}}
    sections = {"security": security, "limits": limits or {}, "server": server}
    outbox = Outbox()
    return Node(Gate(WebSocketConfig.model_validate(sections), outbox=outbox), outbox)


class Model:
    """Every message that was let in, for ever; each limit counts those of its key anew."""

    def __init__(self, rates: dict[str, int]) -> None:
        self.limits = [
            (kind, window, rates[name])
            for kind, window, name in (
                ("user", 60.0, "requests_per_minute"), ("user", 1.0, "burst_size"),
                ("address", 60.0, "address_requests_per_minute"), ("address", 1.0, "address_burst_size"),
                ("node", 60.0, "node_requests_per_minute"), ("node", 1.0, "node_burst_size"),
            )
            if name in rates
        ]  # fmt: skip
        self.let_in: list[tuple[float, str, str]] = []

    def opens(self, user: str, address: str, mono: float) -> dict[str, float]:
        """The kinds of limits that have no room, and when each of them has."""
        full: defaultdict[str, float] = defaultdict(float)
        for kind, window, limit in self.limits:
            same = [
                at
                for at, who, where in self.let_in
                if {"user": who == user, "address": where == address}.get(kind, True)
            ]
            within = [at for at in same if at + window > mono]
            if len(within) >= limit:
                full[kind] = max(full[kind], within[-limit] + window)
        return dict(full)


GAPS = st.sampled_from([0.0, 0.001, 0.25, 0.999, 1.0, 29.7, 59.0, 60.0]) | st.floats(0, 70, allow_subnormal=False)
LIMIT = st.integers(1, 5)
RATES = st.fixed_dictionaries(
    {"requests_per_minute": LIMIT, "burst_size": LIMIT},
    optional={
        "address_requests_per_minute": LIMIT, "address_burst_size": LIMIT,
        "node_requests_per_minute": LIMIT, "node_burst_size": LIMIT,
    },
)  # fmt: skip
CHATS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), GAPS), min_size=1, max_size=40)


@pytest.mark.row("R1")
@pytest.mark.row("R3")
@given(RATES, CHATS)
def test_every_limit_is_kept_to_the_message_and_charged_only_with_what_is_let_in(
    rates: dict[str, int], chats: list[tuple[str, str, float]]
) -> None:
    node, model, mono = _node(rates), Model(rates), 1000.0
    for user, address, gap in chats:
        mono += gap
        full = model.opens(user, address, mono)
        refused = node.chat(user, address, mono)
        if not full:
            assert refused is None
            model.let_in.append((mono, user, address))
            continue
        assert refused is not None
        assert refused.fault is (Fault.NODE_RATE if full.keys() == {"node"} else Fault.RATE_LIMIT)
        wait = refused.retry_after
        assert wait is not None
        milliseconds = round(wait * 1000)
        assert mono + wait >= max(full.values()) > mono + (milliseconds - 1) / 1000, "the longest of them, exactly"


@pytest.mark.row("R1")
@given(RATES, CHATS)
def test_on_trial_the_same_messages_are_noted_that_would_be_refused(
    rates: dict[str, int], chats: list[tuple[str, str, float]]
) -> None:
    strict, trial, mono = _node(rates), _node({**rates, "dry_run": True}), 1000.0
    for user, address, gap in chats:
        mono += gap
        refused = strict.chat(user, address, mono)
        assert trial.chat(user, address, mono) is None
        notes = trial.notes()
        assert {note.name for note in notes} == (set() if refused is None else {"limit_dry_run"})
        waits = [wait for note in notes if isinstance(wait := note.fields["retry_after"], float)]
        assert len(waits) == len(notes)
        assert max(waits, default=None) == (refused and refused.retry_after)
    assert strict.notes() == []


def test_on_trial_one_note_of_a_key_in_an_interval_is_a_warning() -> None:
    node = _node({"requests_per_minute": 1, "address_burst_size": 1, "dry_run": True}, limits={"refusal_interval": 10})
    for mono in (0.0, 0.5, 9.0, 10.5):
        assert node.chat("ana", "192.0.2.1", mono) is None
    user = {"limit": "user_rate", "key": "user ana"}
    address = {"limit": "address_rate", "key": "192.0.2.1"}
    assert node.notes() == [
        Note("security", "WARNING", "limit_dry_run", {**user, "retry_after": 59.5}),
        Note("security", "WARNING", "limit_dry_run", {**address, "retry_after": 0.5}),
        Note("security", "DEBUG", "limit_dry_run", {**user, "retry_after": 51.0}),
        Note("security", "WARNING", "limit_dry_run", {**user, "retry_after": 49.5}),
    ]


@pytest.mark.row("R4")
def test_users_of_one_address_share_its_limit_and_a_user_has_one_everywhere() -> None:
    node = _node({"requests_per_minute": 2, "address_requests_per_minute": 3})
    assert [node.chat(user, "192.0.2.1", 0.0) for user in "aab"] == [None] * 3
    assert node.chat("b", "192.0.2.1", 1.0) == Refusal(Fault.RATE_LIMIT, 59.0)
    assert node.chat("a", "192.0.2.2", 2.0) == Refusal(Fault.RATE_LIMIT, 58.0)
    assert node.chat("b", "192.0.2.2", 3.0) is None, "what the address refused was not charged to the user"


@pytest.mark.row("R4")
def test_without_authentication_both_limits_are_the_addresss() -> None:
    node = _node({"requests_per_minute": 5, "address_requests_per_minute": 2}, authentication=False)
    assert [node.chat(user, "192.0.2.1", 0.0) for user in "ab"] == [None] * 2
    assert node.chat("c", "192.0.2.1", 0.0) == Refusal(Fault.RATE_LIMIT, 60.0)
    assert node.chat("c", "192.0.2.2", 0.0) is None


def test_what_is_not_counted_is_not_limited_either() -> None:
    node = _node({"node_requests_per_minute": 1})
    ping = Passage(Ping(type="ping"), ANONYMOUS, "192.0.2.1", Now(0.0, 0.0))
    assert [node.gate.admit_event(ping, "192.0.2.1") for _ in range(10)] == [None] * 10
    assert node.chat("a", "192.0.2.1", 0.0) is None
    assert node.chat("b", "192.0.2.2", 0.0) == Refusal(Fault.NODE_RATE, 60.0)
    assert node.gate.admit_event(ping, "192.0.2.1") is None


def test_limits_are_read_anew_for_every_message() -> None:
    node = _node({"requests_per_minute": 1})
    assert node.chat("a", "192.0.2.1", 0.0) is None
    assert node.chat("a", "192.0.2.1", 1.0) == Refusal(Fault.RATE_LIMIT, 59.0)
    node.gate.configure(changed(node.gate.config, {"security.rate_limiting.requests_per_minute": 2}))
    assert node.chat("a", "192.0.2.1", 1.0) is None
    node.gate.configure(changed(node.gate.config, {"security.rate_limiting.requests_per_minute": 1}))
    assert node.chat("a", "192.0.2.1", 2.0) == Refusal(Fault.RATE_LIMIT, 59.0)


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("H14")
@pytest.mark.row("R3")
@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["192.0.2.1", "2001:db8::1", "2001:db8::2"]), GAPS)))
def test_the_connections_of_an_address_are_counted_to_the_connection(
    per_minute: int, upgrades: list[tuple[str, float]]
) -> None:
    node = _node({}, limits={"connections_per_minute": per_minute}, max_connections=1000)
    let_in: defaultdict[bool, list[float]] = defaultdict(list)
    mono = 1000.0
    for peer, gap in upgrades:
        mono += gap
        same = let_in[":" in peer]  # the two of IPv6 are in one /64
        refused = node.connect(peer, mono)
        if sum(at + 60 > mono for at in same) < per_minute:
            assert refused is None
            same.append(mono)
        else:
            assert refused is not None
            assert refused.fault is Fault.CONNECTION_RATE
            opens, seconds = same[-per_minute] + 60, ceil(refused.retry_after or 0)
            assert mono + seconds >= opens >= mono + seconds - 1.001, "told in whole seconds"


@pytest.mark.row("H14")
@pytest.mark.row("H13")
def test_clients_behind_a_proxy_are_counted_by_their_own_addresses() -> None:
    node = _node({}, limits={"connections_per_minute": 1}, trusted_proxies=["10.0.0.1"])
    assert node.connect("10.0.0.1", 0.0, ("x-forwarded-for", "192.0.2.1")) is None
    assert node.connect("10.0.0.1", 1.0, ("x-forwarded-for", "192.0.2.2")) is None
    assert node.connect("192.0.2.2", 2.0, ("x-forwarded-for", "192.0.2.3")) == Refusal(Fault.CONNECTION_RATE, 59.0)


@pytest.mark.row("H14")
def test_an_upgrade_that_is_refused_for_something_else_is_not_counted() -> None:
    node = _node({}, limits={"connections_per_minute": 1})
    for _ in range(3):
        refused = node.connect("192.0.2.1", 0.0, ("authorization", "Bearer wrong"))
        assert refused is not None
        assert refused.fault is Fault.BAD_TOKEN
    assert node.connect("192.0.2.1", 0.0) is None


def test_on_trial_the_same_connections_are_noted_that_would_be_refused() -> None:
    node = _node({"dry_run": True}, limits={"connections_per_minute": 1})
    assert [node.connect("192.0.2.1", mono) for mono in (0.0, 1.0, 59.0, 60.0)] == [None] * 4
    assert [(note.fields["key"], note.fields["limit"], note.fields["retry_after"]) for note in node.notes()] == [
        ("192.0.2.1", "connection_rate", 59.0), ("192.0.2.1", "connection_rate", 1.0),
    ]  # fmt: skip
