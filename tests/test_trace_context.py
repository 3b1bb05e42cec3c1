"""The trace that a client says it is in: read by its form, handed on to the run, and never a reason to fail."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws_proto.testing.node import configure
from qaws_proto.testing.store import StoreModel
from qaws_proto.trace_context import STATE_LENGTH, TraceContext, of_headers, of_metadata
from tests.helpers.node import NodeUnderTest

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"
VALID = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@pytest.mark.parametrize(
    ("parent", "read"),
    [
        (PARENT, PARENT),
        ("cc" + PARENT[2:], "cc" + PARENT[2:]),
        ("cc" + PARENT[2:] + "-what-the-future-brings", "cc" + PARENT[2:]),
        (PARENT + "-more", None),
        ("cc" + PARENT[2:] + ".more", None),
        ("ff" + PARENT[2:], None),
        (PARENT.upper(), None),
        (PARENT[:-1], None),
        (" " + PARENT, None),
        (PARENT + "\n", None),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        ("00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", None),
        ("", None),
        ("٠" + PARENT[1:], None),
    ],
)
def test_a_place_in_a_trace_is_read_by_its_form(parent: str, read: str | None) -> None:
    expected = None if read is None else TraceContext(read)
    assert of_headers([parent], []) == expected
    assert of_metadata({"traceparent": parent}) == expected


def test_a_place_is_named_once_and_its_state_may_be_cut_over_headers() -> None:
    assert of_headers([], ["a=1"]) is None
    assert of_headers([PARENT, PARENT], []) is None
    assert of_headers([PARENT], ["a=1", "b=2"]) == TraceContext(PARENT, "a=1,b=2")
    for state in ("", "x" * (STATE_LENGTH + 1), "ñ", "a=1\r\nb"):
        assert of_headers([PARENT], [state]) == TraceContext(PARENT)
    for nothing in (None, {}, {"tracestate": "a=1"}, {"traceparent": 1}, {"traceparent": True}):
        assert of_metadata(nothing) is None
    assert of_metadata({"traceparent": PARENT, "tracestate": 5}) == TraceContext(PARENT)


parents = st.text() | st.from_regex(VALID) | st.text("0123456789abcdef-", max_size=60)


@pytest.mark.clause("C1")
@pytest.mark.clause("C7")
@given(parents, st.text() | st.text("a=,", min_size=500, max_size=600))
@example("00-" + "0" * 32 + "-" + "1" * 16 + "-00", "")
def test_whatever_is_named_is_bounded_and_valid_or_nothing(parent: str, state: str) -> None:
    found = of_headers([parent], [state])
    assert found == of_metadata({"traceparent": parent, "tracestate": state})
    if found is None:
        match = VALID.fullmatch(parent)
        assert match is None or match[1] == "ff" or set(match[2]) == {"0"} or set(match[3]) == {"0"}
    else:
        assert len(found.traceparent) == 55
        assert VALID.fullmatch(found.traceparent)
        assert found.tracestate is None or (len(found.tracestate) <= STATE_LENGTH and found.tracestate.isprintable())


def asked(node: NodeUnderTest, *headers: str, hosted: bool = False, **fields: Any) -> TraceContext | None:
    """The trace that the run of a message begins with."""
    client = node.upgrade(*headers)
    client.chat(**fields)
    return node.started[node.only_run].trace


def test_a_run_is_in_the_trace_of_its_message_or_else_of_the_upgrade() -> None:
    header = f"traceparent: {PARENT}"
    assert asked(NodeUnderTest()) is None
    assert asked(NodeUnderTest(), header, "tracestate: a=1") == TraceContext(PARENT, "a=1")
    assert asked(NodeUnderTest(), header, metadata={"traceparent": OTHER}) == TraceContext(OTHER)
    assert asked(NodeUnderTest(), header, metadata={"traceparent": "nonsense"}) == TraceContext(PARENT)
    assert asked(NodeUnderTest(), "traceparent: nonsense") is None


def test_the_note_of_a_connection_names_its_trace() -> None:
    node = NodeUnderTest()
    node.upgrade(f"traceparent: {PARENT}", "tracestate: a=1")
    assert node.note("opened").fields["traceparent"] == PARENT


def test_a_run_that_begins_again_behind_a_restart_is_in_the_trace_of_its_message() -> None:
    store, config = StoreModel(), configure(store={"kind": "sqlite", "path": "x", "on_restart": "rerun"})
    before = NodeUnderTest(config, store)
    before.upgrade(f"traceparent: {PARENT}").chat("of the upgrade")
    before.upgrade(f"traceparent: {PARENT}").chat("of the message", metadata={"traceparent": OTHER})
    after = NodeUnderTest(config, store)
    runs = {run.content: run for run in after.started.values()}
    assert (runs["of the upgrade"].trace, runs["of the upgrade"].asker) == (None, None)
    assert runs["of the message"].trace == TraceContext(OTHER)
