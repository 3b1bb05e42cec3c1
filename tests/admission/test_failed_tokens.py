"""Failed tokens are charged to their address; beyond its budget none is looked at any more (A8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.gate import Gate, Refusal
from qaws_proto.admission.tokens import TOKEN_LENGTH, Principal, TokenVerifier
from qaws_proto.clock import Now
from qaws_proto.faults import Fault
from qaws_proto.testing.node import SECRET, configure, token
from qaws_proto.testing.peer import upgrade
from tests.helpers.node import NodeUnderTest

LIMIT = 3
ADDRESSES = ["192.0.2.1", "2001:db8::/64"]
CONFIG = configure(authentication=True, limits={"failed_tokens_per_minute": LIMIT})
GOOD = [token("ana"), token("eva")]
UNIX = 1_750_000_000.0


class Watched(TokenVerifier):
    """Counts how often a token is looked at that was not verified before."""

    looks = 0

    def verify(self, token: str, unix: float) -> Principal | None:
        self.looks += self.recall(token, unix) is None
        return super().verify(token, unix)


tries = st.lists(
    st.tuples(
        st.sampled_from(ADDRESSES), st.sampled_from([*GOOD, "wrong", "x.y.z"]), st.sampled_from([0.0, 0.5, 19.9, 60.0])
    ),
    max_size=40,
)


@pytest.mark.row("A8")
@given(tries)
def test_the_budget_is_a_sliding_minute_of_failures(tries: list[tuple[str, str, float]]) -> None:
    """Beside a model: when the failures of each address were, and which tokens have been verified."""
    verifier = Watched(CONFIG.security.authentication)
    gate = Gate(CONFIG, verifier=verifier)
    failed: dict[str, list[float]] = {address: [] for address in ADDRESSES}
    verified: set[str] = set()
    mono = 1000.0
    for address, presented, later in tries:
        mono += later
        recent = [at for at in failed[address] if at > mono - 60]
        looks = verifier.looks
        verdict = gate.authenticate(presented, address, Now(mono, UNIX))
        if presented in verified:
            assert isinstance(verdict, Principal)
        elif len(recent) >= LIMIT:
            assert isinstance(verdict, Refusal)
            assert verdict.fault is Fault.FAILED_TOKENS
            assert verdict.retry_after == pytest.approx(recent[-LIMIT] + 60 - mono, abs=0.0011)
            assert verifier.looks == looks
        elif presented in GOOD:
            assert isinstance(verdict, Principal)
            verified.add(presented)
        else:
            assert verdict == Refusal(Fault.BAD_TOKEN)
            failed[address] = [*recent, mono]


@pytest.mark.row("A8")
def test_over_the_budget_an_upgrade_is_429_and_an_auth_event_4429() -> None:
    node = NodeUnderTest(CONFIG)
    asked = node.upgrade()
    node.connect("ana")
    for number in range(LIMIT):
        node.upgrade("Authorization: Bearer wrong").expect_http(401)
        node.advance(0.25 * number)
    refused = node.upgrade("Authorization: Bearer wrong").expect_http(429)
    assert refused.headers["retry-after"] == "60"  # of 59.25 seconds
    fresh = node.upgrade(f"Authorization: Bearer {token('eva')}")
    fresh.expect_http(429)
    asked.expect_system("auth_required")
    asked.send({"type": "auth", "token": token("eva")})
    assert asked.expect_error("RATE_LIMIT")["details"] == {"retry_after": 59.25}
    asked.expect_close(4429, "failed tokens")
    node.connect("ana")  # whose token has been verified
    node.upgrade(f"Authorization: Bearer {token('eva')}", peer="192.0.2.2").expect_http(101)
    node.advance(59.25)
    node.connect("eva")
    assert node.request(peer="192.0.2.1", denial=False).stream.head is not None


@pytest.mark.row("A8")
def test_an_ipv6_client_is_charged_with_its_network() -> None:
    node = NodeUnderTest(CONFIG)
    for host in range(LIMIT):
        node.upgrade("Authorization: Bearer wrong", peer=f"2001:db8::{host}").expect_http(401)
    node.upgrade("Authorization: Bearer wrong", peer="2001:db8::ffff").expect_http(429)
    node.upgrade("Authorization: Bearer wrong", peer="2001:db8:0:1::1").expect_http(401)


@pytest.mark.row("A8")
def test_a_host_that_cannot_answer_is_told_to_close_with_4429() -> None:
    node = NodeUnderTest(CONFIG)
    for _ in range(LIMIT):
        node.upgrade("Authorization: Bearer wrong").expect_http(401)
    client = node.request(upgrade("/", "Authorization: Bearer wrong"), denial=False)
    assert client.refused == (4429, "failed tokens")


@pytest.mark.row("A8")
@given(st.integers(TOKEN_LENGTH + 1, 12_000), st.sampled_from(["x", "a.b.", "é"]))
def test_a_giant_token_is_a_failure_that_costs_nothing(size: int, filler: str) -> None:
    gate = Gate(CONFIG)
    assert gate.authenticate((filler * size)[:size], "a", Now(0.0, UNIX)) == Refusal(Fault.BAD_TOKEN)
    assert gate.rates.failed_tokens_wait("a", 0.0) == 0.0


@pytest.mark.clause("C7")
def test_the_addresses_that_are_charged_are_bounded() -> None:
    """Beyond `max_keys` addresses all further ones are charged together."""
    security = {**CONFIG.model_dump()["security"], "rate_limiting": {"max_keys": 5}}
    limits = {"failed_tokens_per_minute": LIMIT}
    config = CONFIG.model_validate(
        {"security": {**security, "authentication": {"jwt_secret": SECRET}}, "limits": limits}
    )
    gate = Gate(config)
    verdicts = [gate.authenticate("wrong", f"address {number}", Now(0.0, UNIX)) for number in range(5 + LIMIT + 1)]
    assert [isinstance(one, Refusal) and one.fault for one in verdicts] == [
        *[Fault.BAD_TOKEN] * (5 + LIMIT), Fault.FAILED_TOKENS,
    ]  # fmt: skip


def test_asking_whether_there_is_room_counts_nothing() -> None:
    rates = Gate(CONFIG).rates
    for _ in range(10):
        assert rates.failed_tokens_wait("a", 0.0) == 0.0
    for mono in (0.0, 1.0, 2.0)[:LIMIT]:
        assert rates.failed_tokens_wait("a", mono) == 0.0
        rates.count_failed_token("a", mono)
    assert rates.failed_tokens_wait("a", 5.0) == 55.0
