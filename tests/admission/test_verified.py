"""Tokens that were verified are looked up: never where they would not be verified again (A6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.admission.keys import Key, Signed
from qaws_proto.admission.tokens import TokenVerifier, issue_token
from qaws_proto.admission.verified import Span, VerifiedTokens
from qaws_proto.config import AuthenticationConfig, LimitsConfig
from qaws_proto.testing.node import SECRET

SECRETS = [f"{SECRET}: {letter}" for letter in "abc"]
UNIX = 1_800_000_000.0
LEEWAY = 5
CONFIG = AuthenticationConfig.model_validate({"jwt_secret": SECRET, "leeway": LEEWAY})


def issued(secret: str, issued: int, lifetime: int, not_before: int) -> str:
    config = AuthenticationConfig.model_validate({"jwt_secret": secret})
    claims = {"nbf": int(UNIX) + not_before}
    return issue_token(config, "u", unix=UNIX + issued, token_id="t", expires_in=lifetime, claims=claims)


TOKENS = [
    issued(secret, start, lifetime, not_before)
    for secret in SECRETS
    for start, lifetime, not_before in [(0, 20, 0), (-10, 15, -20), (5, 30, 12)]
] + ["a.b.c", ""]

key_sets = st.lists(st.tuples(st.sampled_from(SECRETS), st.none() | st.integers(-10, 40)), max_size=3)
histories = st.lists(
    st.one_of(
        st.tuples(st.just("verify"), st.sampled_from(TOKENS)),
        st.tuples(st.just("verify"), st.sampled_from(TOKENS[:3])),
        st.tuples(st.just("at"), st.floats(-30, 60) | st.integers(-30, 60)),
        st.tuples(st.just("load"), key_sets),
    ),
    max_size=40,
)


@pytest.mark.row("A6")
@given(histories, st.integers(1, 4))
def test_what_is_remembered_is_what_would_be_verified(history: list[tuple[str, Any]], size: int) -> None:
    """Beside a verifier that remembers nothing: one made anew for each look."""
    verifier = TokenVerifier(CONFIG, limits=LimitsConfig(verified_tokens=size))
    keys: tuple[Key, ...] = ()
    unix = UNIX
    for act, what in history:
        if act == "at":
            unix = UNIX + what
        elif act == "load":
            keys = tuple(Key("HS256", one, until=None if end is None else UNIX + end) for one, end in what)
            verifier.load(keys)
        else:
            anew = TokenVerifier(CONFIG)
            anew.load(keys)
            expected = anew.verify(what, unix)
            if expected is None:
                assert verifier.recall(what, unix) is None
            assert verifier.verify(what, unix) == expected
            assert verifier.recall(what, unix) == expected
            assert len(verifier._verified) <= size


@pytest.mark.row("A6")
def test_a_token_that_comes_again_costs_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Signed] = []
    signed = Key.signed

    def counted(key: Key, token: Signed) -> bool:
        looks.append(token)
        return signed(key, token)

    monkeypatch.setattr(Key, "signed", counted)
    verifier = TokenVerifier(CONFIG)
    verifier.load((Key("HS256", SECRETS[0]),))
    first = verifier.verify(TOKENS[0], UNIX)
    assert first is not None
    cost = len(looks)
    assert cost > 0
    assert verifier.verify(TOKENS[0], UNIX) is first
    assert len(looks) == cost
    verifier.load((Key("HS256", SECRETS[0]),))  # other keys, even where they are the same ones
    assert verifier.verify(TOKENS[0], UNIX) == first
    assert len(looks) == 2 * cost


@pytest.mark.row("A6")
@pytest.mark.clause("C7")
def test_the_one_unused_for_longest_makes_room() -> None:
    held = VerifiedTokens[str](2, 0.0)
    span = Span(0.0, 100.0, None)
    held.remember("a", span, "A")
    held.remember("b", span, "B")
    assert held.recall("a", 1.0) == "A"
    held.remember("c", span, "C")
    assert [held.recall(token, 1.0) for token in "abc"] == ["A", None, "C"]
    assert len(held) == 2
