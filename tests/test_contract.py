"""The contract of `Gateway.step`, C1 to C8, for histories that nobody would think of.

A history is a list of `Act`s: what peers, agents, clocks and operators do. `play` performs it on a `NodeUnderTest`,
which checks the clauses step by step; what can only be judged at the end is judged by `check_ends`. Some of the peers
stand behind a host that frames by itself, so that every property is one of both kinds of connections. A failing one
prints its history: paste it into a test that calls `play`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws_proto import Gateway, WebSocketConfig
from qaws_proto.effects import (
    CloseWrite,
    CollectMetrics,
    DropConnection,
    Effect,
    MessageEffect,
    PauseReading,
    ResumeReading,
    SendBytes,
)
from qaws_proto.testing import strategies
from qaws_proto.testing.client import Client
from qaws_proto.testing.histories import Act, Cut, in_reads_of, whole
from qaws_proto.testing.histories import play as play_on
from qaws_proto.testing.node import SECRET, UNIX, configure, counter, token
from qaws_proto.testing.peer import (
    BINARY,
    PING,
    PONG,
    TEXT,
    chat,
    close_frame,
    compressed,
    deflated,
    frame,
    text,
    upgrade,
)
from qaws_proto.testing.store import StoreModel
from qaws_proto.testing.strategies import OFFER
from tests.helpers.keys import key_set, pair
from tests.helpers.node import NodeUnderTest

# ── nodes whose limits are near ──────────────────────────────────────────────────────────────────────────────────────

NEAR: dict[str, Any] = {
    "server": {"max_connections": 5, "heartbeat_interval": 8, "timeout": 4},
    "limits": {
        "max_message_size": 1024, "max_fragments": 4, "frames_per_second": 20, "frame_burst": 40, "frames_per_turn": 4,
        "inbox": 256, "out_high": 256, "out_top": 1024, "write_timeout": 6, "message_timeout": 5,
        "connections_per_address": 3, "handshakes": 6, "bad_messages_per_minute": 3,
    },
    "agent": {"timeout": 5, "max_duration": 12, "max_response_size": 1024, "cancel_grace": 2, "max_runs": 4},
    "sessions": {"ttl": 20, "per_user": 2, "max_sessions": 4, "queue": 2, "max_events": 6, "max_bytes": 2048,
                 "known_ids": 2},
    "drain": {"timeout": 10, "closes": 2},
    "logging": {"log_messages": True},
}  # fmt: skip
RATES = {"rate_limiting": {"requests_per_minute": 12, "burst_size": 3, "strikes": 2}}
BESIDE = NEAR | {"sessions": {**NEAR["sessions"], "double_text": "concurrent", "node_bytes": 4096}}
KEPT = NEAR | {
    "sessions": {**NEAR["sessions"], "double_text": "interrupt", "user_bytes": 3000},
    "store": {"kind": "sqlite", "path": "a model of it", "max_unsaved": 2048, "retry": 2},
}
SMALL = NEAR | {"server": {**NEAR["server"], "compression": {"enabled": True, "min_size": 0}}}
KEYS_AT = {"jwks": "https://keys.example/set", "timeout": 4, "jwks_refresh": 25, "jwks_interval": 9}
SOURCE = {"jwt_secret": SECRET, **KEYS_AT}
LOADED = NEAR | {"limits": {**NEAR["limits"], "failed_tokens_per_minute": 3}}
SCARCE = NEAR | {
    "limits": {**NEAR["limits"], "connections_per_minute": 6, "blocks": 2, "revocations": 2},
    "agent": {**NEAR["agent"], "runs_per_user": 2, "budget": {"per_day": 400, "reserve": 100}},
}
EACH = RATES["rate_limiting"] | {"address_burst_size": 4, "node_requests_per_minute": 20, "max_keys": 3}
CONFIGS: dict[str, WebSocketConfig] = {
    "open": configure(**NEAR),
    "tokens": configure(authentication=True, security=RATES, **NEAR),
    "usual": configure(),
    "beside": configure(**BESIDE),
    "compressed": configure(**SMALL),
    "keys": configure(security={**RATES, "authentication": SOURCE}, **LOADED),
    "scarce": configure(authentication=True, security={"rate_limiting": EACH}, **SCARCE),
}
STORED: dict[str, WebSocketConfig] = {
    "kept": configure(**KEPT),
    "kept with tokens": configure(authentication=True, security=RATES, **KEPT),
}


def play(history: Sequence[Act], config: WebSocketConfig, cut: Cut = whole, *, paused: bool = True) -> NodeUnderTest:
    """Perform a history on a node of this configuration, with a store where that has one."""
    node = NodeUnderTest(config, StoreModel() if config.store.kind == "sqlite" else None, prompt=False)
    return play_on(history, node, cut, paused=paused)


# ── strategies ───────────────────────────────────────────────────────────────────────────────────────────────────────

KEY, OTHER = pair("ES256"), pair("EdDSA", "k2")
TOKENS = [token("ana"), token("eva"), token("ana", expires_in=70), "wrong"]
TOKENS += [KEY.token("ana", unix=UNIX), OTHER.token("eva", unix=UNIX)]
DOCUMENTS = [key_set(KEY.jwk()), key_set(KEY.jwk(exp=UNIX + 20), OTHER.jwk()), b"no keys", None]
histories = strategies.histories(tokens=TOKENS, keys=DOCUMENTS)
configs = st.sampled_from(sorted(CONFIGS))
all_configs = st.sampled_from(sorted(CONFIGS | STORED))


# ── any history ──────────────────────────────────────────────────────────────────────────────────────────────────────

HELLO = Act("connect", what=upgrade())
HOSTED = Act("request", what=(upgrade(), True))
ASK = Act("say", 0, text(chat(id="m1", stream=True)))
CANCEL = text({"type": "cancel", "correlation_id": "m1"})


@pytest.mark.clause("C1")
@pytest.mark.clause("C2")
@pytest.mark.clause("C4")
@pytest.mark.clause("C5")
@pytest.mark.clause("C6")
@pytest.mark.clause("C7")
@pytest.mark.clause("C8")
@example([HELLO, ASK, Act("yield", 0, "a"), Act("block"), Act("yield", 0, "x" * 1000), Act("lose")], "open")
@example([HELLO, ASK, Act("yield", 0, "a"), Act("yield", 0, "b"), Act("stop"), Act("late")], "open")
@example([HELLO, Act("block"), Act("say", 0, text(chat(a=1, b=1, c=1, d=1, e=1)) * 39)], "open")
@example(
    [
        HELLO,
        ASK,
        Act("block"),
        Act("yield", 0, "x" * 300),
        Act("say", 0, CANCEL),
        Act("unblock"),
        Act("wait", what=6.0),
    ],
    "open",
)
@example([HOSTED, ASK, Act("yield", 0, "a"), Act("block"), Act("yield", 0, "x" * 1000), Act("lose")], "open")
@example([HOSTED, Act("block"), Act("say", 0, text(chat(a=1, b=1, c=1, d=1, e=1)) * 39)], "open")
@example([HOSTED, ASK, Act("block"), Act("say", 0, text(chat(a=1)) + close_frame()), Act("yield", 0, "a")], "open")
@given(histories, all_configs)
def test_a_node_keeps_its_contract_whatever_happens(history: list[Act], config: str) -> None:
    node = play(history, (CONFIGS | STORED)[config])
    check_ends(node)
    check_replay(node)


def check_replay(node: NodeUnderTest) -> None:
    """C2: the same inputs at the same times give the same effects."""
    again = Gateway(node.config, ids=counter(), durable=node.store is not None)
    for event, now, effects in node.history:
        assert repr(again.step(event, now)) == repr(effects)  # exceptions in notes are equal by what they print


def check_ends(node: NodeUnderTest) -> None:
    """C8, and that nothing is left: agents fall silent, peers leave, time passes."""
    for client in node.clients.values():
        if not client.dropped:
            client.unblock()
    node.prompt = True
    node.answer_all()
    node.advance(node.config.store.retry)
    check_answers(node)
    running = set(node.runs)
    longest = node.gateway.config.agent.max_duration
    node.advance(longest)
    assert running <= node.cancelled, "C8: a run that nobody ended"
    node.advance(10 * longest)
    for client in node.clients.values():
        check_heard(node, client)
        if not client.dropped:
            client.lose()
    node.advance(node.config.sessions.ttl + node.config.store.retry)
    for run_id in list(node.runs):
        assert node.fail(run_id) == []
    gateway = node.gateway
    assert (gateway.connections, gateway.sessions, gateway.runs) == (0, 0, 0)
    census = gateway._node.gate.census
    assert (census.open.total, census.knocking.total, census.scraping.total) == (0, 0, 0), "counted, and not there"
    assert gateway._runs._accounts._runs.total == 0, "a place of a user was not given back"
    reads_keys = node.config.security.authentication.key_source is not None and not node.drained
    assert gateway.wake_at is None or reads_keys
    assert node.started.keys() <= node.ended, "C8: a run without an end"


def check_answers(node: NodeUnderTest) -> None:
    """Everybody who still reads has heard the end of each run that has ended."""
    for client in node.clients.values():
        if client.stream.closed is None and not client.dropped and not was_told_of_a_gap(client):
            told = {
                event["run_id"] for event in client.heard if event["type"].startswith("agent") and "run_id" in event
            }
            assert told & node.ended <= ends_heard(client).keys()


def was_told_of_a_gap(client: Client) -> bool:
    """Whether it knows that there are things it has not heard."""
    return any(event["data"].get("recovered") is False for event in client.heard if event["type"] == "system_event")


def ends_heard(client: Client) -> dict[str, dict[str, Any]]:
    """The terminal event of each run that ended for a client; the harness has seen that there is one at most."""
    ends = [event for event in client.heard if event["type"] in ("agent_response", "error") and "run_id" in event]
    return {event["run_id"]: event for event in ends}


def check_heard(node: NodeUnderTest, client: Client) -> None:
    """What one client was told of each run is of a piece."""
    ends = ends_heard(client)
    assert ends.keys() <= node.ended
    accepted = [event for event in client.heard if event.get("event_name") == "message_accepted"]
    for event in accepted:
        open_ended = client.stream.closed is None and not client.dropped and not was_told_of_a_gap(client)
        if open_ended and not event["data"]["duplicate"]:
            assert event["data"]["run_id"] in ends, "C8: accepted and not answered"
    for run_id in {event["run_id"] for event in client.heard if "run_id" in event}:
        chunks = [event for event in client.heard if event["type"] == "agent_chunk" and event["run_id"] == run_id]
        if not chunks:
            continue
        assert all(chunk["content"] == "" for chunk in chunks) or node.started[run_id].stream
        end = ends.get(run_id)
        if end is not None and end["type"] == "agent_response" and chunks[0]["offset"] == 0:
            joined = ""
            for chunk in chunks:  # some may have come twice, where the client came back
                assert chunk["offset"] <= len(joined), "a hole"
                joined = joined[: chunk["offset"]] + chunk["content"]
            whole = joined == end["content"] or was_told_of_a_gap(client)
            assert whole or not node.started[run_id].stream or not end["content"].startswith(joined)


# ── any reads ────────────────────────────────────────────────────────────────────────────────────────────────────────


def told(node: NodeUnderTest) -> list[dict[object, list[object]]]:
    """What each act led to: for each connection what it is told, bytes joined, and everything else in order.

    What pauses and resumes reads is left out: that is about the reads themselves.
    """
    start, acts = 0, []
    for mark in node.marks:
        effects = [effect for _, _, effects in node.history[start:mark] for effect in effects]
        acts.append(lanes(effects))
        start = mark
    return acts


def lanes(effects: Iterable[Effect]) -> dict[object, list[object]]:
    """Effects by whom they are for."""
    by: dict[object, list[object]] = {}
    for effect in effects:
        if isinstance(effect, PauseReading | ResumeReading):
            continue
        lane = by.setdefault(getattr(effect, "connection", None), [])
        if isinstance(effect, SendBytes) and lane and isinstance(lane[-1], bytes):
            lane[-1] += effect.data
        elif isinstance(effect, SendBytes):
            lane.append(effect.data)
        else:
            known = isinstance(effect, MessageEffect | CollectMetrics | CloseWrite | DropConnection)
            assert known or not hasattr(effect, "connection")
            lane.append(repr(effect))
    return by


@pytest.mark.clause("C3")
@given(histories, configs, st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_any_reads_of_the_same_bytes_give_the_same_effects(history: list[Act], config: str, sizes: list[int]) -> None:
    at_once = play(history, CONFIGS[config], paused=False)
    cut = play(history, CONFIGS[config], in_reads_of(sizes), paused=False)
    assert told(cut) == told(at_once)


STREAMS: dict[str, bytes] = {
    "a compressed conversation": upgrade("/", OFFER) + deflated(chat(id="m1")) + frame(PING, b"x")
    + text(chat("x" * 200)) + frame(TEXT, compressed(b'{"type":"ping"}')[:9], fin=False, reserved=4) + frame(PING)
    + frame(0, compressed(b'{"type":"ping"}')[9:]) + close_frame(),
    "a bomb": upgrade("/", OFFER) + deflated("{}") + frame(TEXT, compressed(b" " * 1025), fin=False, reserved=4)
    + frame(PING),
    "a bad stream": upgrade("/", OFFER) + deflated(chat()) + frame(TEXT, b"\x07\x07", reserved=4) + frame(PING),
    "a conversation": upgrade() + text(chat(id="m1")) + frame(PING, b"x") + text(chat(id="m2")) + close_frame(),
    "a token": upgrade() + text({"type": "auth", "token": TOKENS[0]}) + text(chat()) + frame(BINARY) + text(chat()),
    "too early": upgrade() + text(chat(id="m1")) + text(chat()) + frame(PING) + close_frame(4401) + b"more",
    "fragments": upgrade() + frame(TEXT, b'{"type"', fin=False) + frame(PING) + frame(0, b':"ping"}') + frame(3),
    "bad text": upgrade() + frame(TEXT, b'{"type":"\xe2\x82', fin=False) + frame(0, b"\x28") + text(chat()),
    "flood": upgrade() + frame(PONG) * 39 + text({"type": "ping"}) + frame(TEXT, b"", reserved=4),
    "a flood of fragments": upgrade() + frame(PONG) * 38 + frame(TEXT, b'{"type":', fin=False)
    + frame(0, b"", fin=False) + frame(0, b'"ping"}'),
    "too big": upgrade() + frame(TEXT, b"x" * 100, fin=False) + frame(0, b"x" * 925)[:20],
    "too many": upgrade() + frame(TEXT, b"{", fin=False) + frame(0, b"", fin=False) * 4,
    "refused": upgrade("/", "Origin: https://evil.example") + frame(PING),
    "not found": upgrade("/x") + upgrade(),
    "line feed": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
}  # fmt: skip


@pytest.mark.clause("C3")
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_stream_may_be_cut_at_every_byte(stream: bytes, config: str) -> None:
    history = [Act("open"), Act("say", 0, stream), Act("wait", what=1.0)]
    expected = told(play(history, CONFIGS[config]))
    assert told(play(history, CONFIGS[config], in_reads_of([1]))) == expected
    for cut in range(1, len(stream)):
        assert told(play(history, CONFIGS[config], in_reads_of([cut, len(stream)]))) == expected, f"cut at {cut}"


@pytest.mark.clause("C3")
@pytest.mark.row("F8")
@pytest.mark.parametrize("count", [64, 65, 128, 129, 399, 400, 401])
def test_more_frames_than_a_turn_handles_are_handled_as_if_they_came_one_by_one(count: int) -> None:
    stream = upgrade() + text({"type": "ping", "id": "x"}) * (count - 1) + text(chat(id="m1"))
    history = [Act("open"), Act("say", 0, stream), Act("finish", 0, {"content": "x"})]
    expected = told(play(history, CONFIGS["usual"], paused=False))
    for sizes in ([1], [7], [1000], [len(stream) - 1, 1]):
        assert told(play(history, CONFIGS["usual"], in_reads_of(sizes), paused=False)) == expected
