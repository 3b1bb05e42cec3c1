"""Whatever a server sends, and however it is cut into reads: a client does not raise, and says the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.client.io import (
    CancelRequested,
    ClientEffect,
    ClientInput,
    CloseRequested,
    CloseTransport,
    ConnectRequested,
    DataReceived,
    MessageRequested,
    SendData,
    TimerFired,
    TokenFailed,
    TokenFetched,
    TransportFailed,
    TransportLost,
    TransportOpened,
)
from qaws_proto.events import ChatMessage
from qaws_proto.testing.strategies import frame_streams
from qaws_proto.wire.frames import Frames, text_frame
from tests.client.scripted import EPOCH, SESSION, ClientUnderTest

_few = st.integers(0, 6)
_numbers = st.one_of(_few, _few, _few, st.sampled_from([-1, 2**53 - 1, 2**53, 10**30]))
_odd = st.one_of(st.none(), st.booleans(), st.floats(), _few, st.sampled_from(["", "x", [], {}]))
_runs, _ids = st.sampled_from(["r1", "r2", "r3"]), st.sampled_from(["m1", "m2", "m3"])
_texts = st.sampled_from(["", "a", "ab", "ba", "aba", "ñ\U0001f600"])
_names = st.sampled_from([SESSION, SESSION, SESSION, "another", ""])
_epochs = st.sampled_from([EPOCH, "e2", "", "nul\0"])


def _event(type: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An event as it should be, or nearly."""
    whole = st.fixed_dictionaries({"type": st.just(type), **fields})
    odd = st.tuples(whole, st.sampled_from(sorted(fields)), _odd).map(lambda each: {**each[0], each[1]: each[2]})
    missing = st.tuples(whole, st.sampled_from(sorted(fields))).map(
        lambda each: {name: value for name, value in each[0].items() if name != each[1]}
    )
    return st.one_of(whole, whole, whole, whole, whole, odd, missing)


def _system(name: str, **data: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {"session_id": _names, "correlation_id": _ids} if name in ("session_resumed", "message_accepted") else {}
    return _event("system_event", event_name=st.just(name), data=st.fixed_dictionaries(data), **fields)


_place = {"session_id": _names, "seq": _numbers, "run_id": _runs, "correlation_id": _ids}
_codes = st.sampled_from(
    ["SESSION_NOT_FOUND", "RATE_LIMIT", "STORAGE_UNAVAILABLE", "RUN_NOT_FOUND", "TOKEN_EXPIRED", "FORBIDDEN", "NEW"]
)
_accepted = _system("message_accepted", run_id=_runs, duplicate=st.booleans())
EVENTS = st.one_of(
    _system("auth_required", timeout=_few),
    _system("connection_established", user_id=st.just("u"), session_id=_names, epoch=_epochs),
    _system("token_expiring", expires_in=_few),
    _system("server_draining", reconnect_after=_odd),
    _system("session_resumed", recovered=st.just(True), **{"from": _numbers, "to": _numbers}),
    _system("session_resumed", recovered=st.just(False), epoch=_epochs, **{"from": _numbers, "to": _numbers}),
    _accepted,
    st.tuples(_accepted, _numbers).map(lambda each: {**each[0], "seq": each[1]}),
    _event("agent_chunk", content=_texts, offset=_numbers, **_place),
    _event("agent_chunk", content=_texts, offset=_few, **_place),
    _event("agent_step", kind=st.just("reasoning"), **_place),
    _event(
        "agent_response", content=_texts, user_id=st.just("u"), processing_time=st.floats(allow_nan=False),
        status=st.just("completed"), **_place,
    ),
    _event("error", error_code=_codes, error_message=_texts, **_place),
    _event("error", error_code=_codes, error_message=_texts, correlation_id=_ids),
    _event("error", error_code=_codes, error_message=_texts, details=st.fixed_dictionaries({"retry_after": _odd})),
    _event("pong", id=_ids),
)  # fmt: skip
_good = EVENTS.map(lambda event: text_frame(json.dumps(event).encode()))
_close = st.sampled_from([1000, 1002, 1012, 4401, 4429]).map(
    lambda code: Frames(client=False, max_message=1, max_fragments=1).close(code)
)
_data = st.one_of(_good, _good, _good, _good, frame_streams(client=True), st.binary(max_size=40), _close)
_chats = _ids.map(lambda message_id: ChatMessage(type="chat_message", content="hi", id=message_id))
_INPUTS: list[st.SearchStrategy[ClientInput]] = [
    st.just(ConnectRequested()), st.just(TransportOpened()), st.just(TransportFailed("x")), st.just(TransportLost()),
    st.just(TokenFetched("t")), st.just(TokenFailed("x")), st.just(TimerFired()), st.just(CloseRequested()),
    st.builds(MessageRequested, _chats), st.builds(CancelRequested, _ids), st.builds(DataReceived, _data),
]  # fmt: skip


@pytest.mark.clause("C1")
@given(st.lists(st.one_of(_INPUTS), max_size=30), st.booleans())
def test_any_inputs_in_any_order(inputs: list[ClientInput], token: bool) -> None:
    under = ClientUnderTest(token=token)
    for event in inputs:
        try:
            under.client.step(event, under.now)
        except ValueError:
            assert isinstance(event, ConnectRequested | MessageRequested)


@pytest.mark.clause("C1")
@given(st.binary(max_size=300))
def test_any_answer_to_the_upgrade(data: bytes) -> None:
    under = ClientUnderTest()
    under.connect()
    under.receive(data)


@pytest.mark.clause("C1")
@given(
    st.lists(st.tuples(_data, st.sampled_from([0.0, 0.0, 0.0, 1.0, 40.0])), max_size=40),
    st.sampled_from([None, None, SESSION]),
    st.booleans(),
)
def test_any_server(said: list[tuple[bytes, float]], session_id: str | None, token: bool) -> None:
    under = ClientUnderTest(token=token, session_id=session_id, max_message=500, max_pending=3, ack_every=2)
    for message_id in ("m1", "m2"):
        under.ask("hi", message_id)
    for data, wait in said:
        while under.transport != "open" and under.ended is None:
            if under.fetching:
                under.token()
            if under.transport is None and under.log:
                under.advance(under.client.wake_at - under.now.mono if under.client.wake_at else 0.0)
            if under.ended is None and under.transport != "open":
                under.welcome()
        if under.ended is None:
            under.receive(data)
            under.cancel("m1")
            under.advance(wait)


def _said(effects: list[ClientEffect]) -> list[object]:
    """What effects say, with bytes joined and unmasked, however many writes they were."""
    server = Frames(client=False, max_message=1 << 20, max_fragments=10)
    rest: list[object] = []
    for effect in effects:
        if isinstance(effect, SendData):
            server.receive(effect.data)
        elif not isinstance(effect, CloseTransport):
            rest.append(effect)
    while (event := server.next_event()) is not None:
        rest.append(event)
    return rest


@pytest.mark.clause("C3")
@given(st.lists(_data, max_size=12).map(b"".join), st.lists(st.integers(0, 2000), max_size=12))
def test_reads_do_not_matter(data: bytes, cuts: list[int]) -> None:
    outcomes = []
    marks = sorted({min(cut, len(data)) for cut in cuts})
    for reads in ([data], [data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True)]):
        under = ClientUnderTest(token=True)
        under.welcome()
        under.ask("hi", "m1")
        begun = len(under.log)
        for read in reads:
            if under.transport == "open":
                under.receive(read)
        outcomes.append((_said(under.log[begun:]), under.client.wake_at, under.ended))
    assert outcomes[0] == outcomes[1]
