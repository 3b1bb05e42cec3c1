"""The contract of `Gateway.step`, C1 to C8, for histories that nobody would think of.

A history is a list of `Act`s: what peers, agents, clocks and operators do. `play` performs it on a `NodeUnderTest`,
which checks the clauses step by step; what can only be judged at the end is judged by `check_ends`. Some of the peers
stand behind a host that frames by itself, so that every property is one of both kinds of connections. A failing one
prints its history: paste it into a test that calls `play`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import chain, cycle
from math import floor
from typing import Any, NamedTuple

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
from qaws_proto.inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    DisconnectRequested,
    DrainRequested,
    LimitsChanged,
    RunStarted,
    StopRequested,
    TimerFired,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from qaws_proto.live_settings import CHANGEABLE
from qaws_proto.testing.client import Client
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
    request,
    text,
    upgrade,
)
from qaws_proto.testing.store import StoreModel
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
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
STORED: dict[str, WebSocketConfig] = {
    "kept": configure(**KEPT),
    "kept with tokens": configure(authentication=True, security=RATES, **KEPT),
}


class Act(NamedTuple):
    """One thing that is done; `who` picks among those there are, `what` depends on `do`."""

    do: str
    who: int = 0
    what: Any = None


Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    """One read."""
    yield data


def in_reads_of(sizes: Sequence[int]) -> Cut:
    """Reads of these sizes, over and over."""

    def cut(data: bytes) -> Iterator[bytes]:
        start = 0
        for size in cycle(sizes):
            if start >= len(data):
                return
            yield data[start : start + size]
            start += size

    return cut


def play(history: Sequence[Act], config: WebSocketConfig, cut: Cut = whole, *, paused: bool = True) -> NodeUnderTest:
    """Perform a history. `paused`: peers that the server does not read are not read."""
    node = NodeUnderTest(config, StoreModel() if config.store.kind == "sqlite" else None, prompt=False)
    node.advance(0.0001235)  # no round number: the smallest step of time should not change what is printed
    for act in history:
        perform(node, act, cut, paused=paused)
        node.settle()
        # The next one comes a microsecond later, however many steps this one took: what is due of both has one order.
        node.advance((floor(node.now.mono * 1e6) + 1.5) / 1e6 - node.now.mono)
        node.marks.append(len(node.history))
    return node


def perform(node: NodeUnderTest, act: Act, cut: Cut, *, paused: bool) -> None:
    """Perform one act; one that nobody is there for is none."""
    if act.do in AT_NODE:
        AT_NODE[act.do](node, act.what)
    elif act.do in AT_RUN:
        runs = list(node.started if act.do == "late" else node.runs)
        if runs:
            AT_RUN[act.do](node, runs[act.who % len(runs)], act.what)
    elif node.clients:
        client = node.clients[act.who % len(node.clients)]
        if act.do != "say":
            AT_CLIENT[act.do](client)
        elif not (paused and client.paused):
            for read in cut(act.what):
                client.send_bytes(read)
                node.settle()


def late(node: NodeUnderTest, run_id: str, what: object) -> None:
    """What comes for a run that may be over."""
    if run_id not in node.runs:
        assert node.chunk(run_id, what) == node.tell(run_id, "reasoning") == node.fail(run_id) == []


def stop(node: NodeUnderTest) -> None:
    """Stop now: no agent goes on."""
    node.step(StopRequested())
    assert node.runs.keys() <= node.cancelled


def command(node: NodeUnderTest, given: Command) -> None:
    """What an operator wants; where it cannot be done, nothing is. Whoever is kept out is not there any more (A5)."""
    before = node.gateway.wake_at
    try:
        node.step(given)
    except ValueError:
        assert node.gateway.wake_at == before
    control, now = node.gateway.control, node.now
    users = {block.name for block in control.blocks(now) if block.kind == "user"}
    networks = [ip_network(block.name) for block in control.blocks(now) if block.kind == "address"]
    for one in control.connections(now):
        if one.phase in ("authenticating", "open"):
            assert one.user_id not in users
            assert one.address is None or not any(ip_address(one.address) in network for network in networks)


def read_keys(node: NodeUnderTest, document: bytes | None) -> None:
    """What becomes of reading the keys, where that is under way: a document, or none."""
    if node.loading is None:
        return
    if document is None:
        node.fail_keys()
    else:
        node.give_keys(document)


AT_NODE: dict[str, Callable[[NodeUnderTest, Any], object]] = {
    "open": lambda node, peer: node.open(peer),
    "connect": lambda node, hello: node.open().send_bytes(hello),
    "request": lambda node, asked: node.request(asked[0], denial=asked[1]),
    "wait": lambda node, seconds: node.advance(seconds),
    "wake": lambda node, _: node.step(TimerFired()),
    "metrics": lambda node, body: node.scrapes and node.collected(body),
    "jump": lambda node, seconds: node.jump(seconds),
    "store": lambda node, fail: node.asked and node.answer(fail=fail),
    "keys": read_keys,
    "command": command,
    "drain": lambda node, _: node.step(DrainRequested()),
    "stop": lambda node, _: stop(node),
}
AT_RUN: dict[str, Callable[[NodeUnderTest, str, Any], object]] = {
    "yield": lambda node, run_id, piece: node.chunk(run_id, piece),
    "tell": lambda node, run_id, step: node.tell(run_id, *step),
    "finish": lambda node, run_id, end: node.finish(run_id, **end),
    "answer": lambda node, run_id, more: node.finish(run_id, node.said.get(run_id, "") + more),
    "fail": lambda node, run_id, cause: node.fail(run_id, cause),
    "began": lambda node, run_id, _: node.step(RunStarted(run_id)),
    "late": late,
}
AT_CLIENT: dict[str, Callable[[Client], object]] = {
    "eof": Client.eof,
    "lose": Client.lose,
    "block": Client.block,
    "unblock": Client.unblock,
}


# ── strategies ───────────────────────────────────────────────────────────────────────────────────────────────────────

KEY, OTHER = pair("ES256"), pair("EdDSA", "k2")
TOKENS = [token("ana"), token("eva"), token("ana", expires_in=70), "wrong"]
TOKENS += [KEY.token("ana", unix=UNIX), OTHER.token("eva", unix=UNIX)]
DOCUMENTS = [key_set(KEY.jwk()), key_set(KEY.jwk(exp=UNIX + 20), OTHER.jwk()), b"no keys", None]
contents = st.sampled_from(["hi", "¿qué tal?", "x" * 300, "\u2028", "hi" * 600])
names = st.sampled_from(["m1", "m2", "m3"])
chats = st.fixed_dictionaries(
    {"type": st.just("chat_message"), "content": contents},
    optional={
        "id": names,
        "stream": st.sampled_from([True, True, False]),
        "session_id": st.sampled_from(["s", "t", "u"]),
    },
)
events = st.one_of(
    st.builds(lambda name: {"type": "cancel", "correlation_id": name}, names),
    st.builds(lambda n: {"type": "cancel", "run_id": f"id-{n}"}, st.integers(1, 20)),
    st.just({"type": "ping", "id": "p"}),
    st.builds(
        lambda session, n, seq: {"type": "resume", "session_id": session, "epoch": f"id-{n}", "seq": seq},
        st.sampled_from(["s", "t", "u", "id-1"]),
        st.integers(1, 6),
        st.integers(0, 9),
    ),
    st.builds(
        lambda session, seq: {"type": "ack", "session_id": session, "seq": seq},
        st.sampled_from("st"),
        st.integers(0, 5),
    ),
    st.builds(lambda token: {"type": "auth", "token": token}, st.sampled_from(TOKENS)),
    st.sampled_from(["no json", {"type": "nonsense"}, {"type": "ping", "more": 1}]),
)
good_frames = st.one_of(
    st.builds(text, chats),
    st.builds(text, chats),
    st.builds(text, events),
    st.builds(text, events),
    st.builds(deflated, st.one_of(chats, events)),
    st.builds(
        lambda event, n: frame(TEXT, event[:n], fin=False, reserved=4) + frame(PING) + frame(0, event[n:]),
        st.builds(lambda event: compressed(json.dumps(event).encode()), st.one_of(chats, events)), st.integers(0, 20),
    ),
    st.builds(lambda opcode, n: frame(opcode, b"p" * n), st.sampled_from([PING, PONG]), st.integers(0, 3)),
    st.builds(lambda n: frame(PONG) * n, st.integers(1, 20)),
    st.builds(
        lambda a, b: frame(TEXT, b'{"type":', fin=False) + frame(PING) * a + frame(0, b"", fin=False) * b
        + frame(0, b'"ping"}'),
        st.integers(0, 2), st.integers(0, 2),
    ),
)  # fmt: skip
bad_frames = st.one_of(
    st.builds(lambda n: frame(PONG) * n, st.integers(35, 50)),
    st.builds(lambda n: frame(TEXT, b'"', fin=False) + frame(0, b"", fin=False) * n, st.integers(0, 4)),
    st.builds(lambda n: frame(TEXT, b'"' + b"x" * n), st.integers(1020, 1030)),
    st.builds(close_frame, st.sampled_from([1000, 1001, 3000, None, 1005])),
    st.builds(frame, st.sampled_from([TEXT, BINARY, 3, PING, 0]), st.binary(max_size=130), reserved=st.integers(0, 1)),
    st.builds(lambda data: frame(TEXT, data), st.sampled_from([b"\xff", b"\xe2\x82", b"\xc3\x28", b"\xed\xa0\x80"])),
    st.sampled_from([frame(PING, b"x", mask=False), frame(PING, b"", fin=False), frame(8, b"\x03")]),
    st.builds(lambda n: frame(TEXT, compressed(b" " * n), reserved=4), st.integers(1020, 1030)),
    st.builds(lambda data, fin: frame(TEXT, data, fin=fin, reserved=4), st.binary(max_size=20), st.booleans()),
    st.builds(lambda data: deflated("{}")[:-1] + data, st.binary(min_size=1, max_size=3)),
    st.binary(max_size=20),
)
hellos = st.sampled_from(
    [upgrade()] * 2
    + [upgrade("/", OFFER)] * 2
    + [upgrade("/", f"Authorization: Bearer {TOKENS[0]}"), upgrade("/", f"Authorization: Bearer {TOKENS[1]}")] * 2
    + [upgrade() + text({"type": "auth", "token": one}) for one in TOKENS[2:]]
    + [upgrade("/", f"Authorization: Bearer {one}") + text(chat()) for one in TOKENS[4:]]
)
asked = st.tuples(
    st.one_of(
        hellos,
        hellos,
        st.sampled_from([
            upgrade("/x"), upgrade("/?token=x"), upgrade("/", "Content-Length: 1"), request("/healthz"), request(),
            request("/metrics"), request("/readyz", method="HEAD"), request("/readyz", method="OPTIONS"),
            request("/", method="POST"),
            upgrade("/", "Origin: https://evil.example"), upgrade("/", "Sec-WebSocket-Protocol: a, qaws.v1"),
            upgrade() + text(chat()) + text({"type": "ping"}), upgrade("/", "Authorization: Bearer wrong"),
        ]),
    ),
    st.booleans(),
)  # fmt: skip
settings = st.one_of(
    st.tuples(st.sampled_from(sorted(set(CHANGEABLE) - {"security.rate_limiting.enabled"})), st.integers(1, 9)),
    st.tuples(st.sampled_from(["agent.budget.per_day", "limits.connections_per_minute"]), st.none()),
    st.tuples(st.sampled_from(["security.rate_limiting.enabled", "security.rate_limiting.dry_run"]), st.booleans()),
    st.tuples(st.sampled_from(["agent.budget.per_day", "agent.budget.reserve", "agent.timeout", "nothing"]),
              st.sampled_from([0, 1, 300, 0.5, "x"])),
)  # fmt: skip
users, peers = st.sampled_from(["ana", "eva"]), st.sampled_from(["192.0.2.1", "192.0.2.0/24", "2001:db8::/32"])
seconds = st.sampled_from([None, 2.0, 60])
commands = st.one_of(
    st.builds(lambda user, time: UserBlocked("ops", "", user, time), users, seconds),
    st.builds(lambda user: UserUnblocked("ops", "", user), users),
    st.builds(lambda peer, time: AddressBlocked("ops", "", peer, time), peers, seconds),
    st.builds(lambda peer: AddressUnblocked("ops", "", peer), peers),
    st.builds(lambda user: UserRevoked("ops", "", user), users),
    st.builds(lambda jti: TokenRevoked("ops", "", jti), st.sampled_from("tu")),
    st.builds(lambda number: DisconnectRequested("ops", "", number), st.integers(0, 6)),
    st.builds(lambda user, session: DisconnectRequested("ops", "", None, user, session),
              st.none() | users, st.none() | st.sampled_from("st")),
    st.builds(lambda changes: LimitsChanged("ops", "", dict(changes)), st.lists(settings, max_size=2)),
)  # fmt: skip
heads = st.one_of(
    hellos,
    st.sampled_from([
        upgrade("/x"), upgrade("/?token=x"), upgrade("/", "Content-Length: 1"), b"GET / HTTP/1.1\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", request("/metrics"), b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n",
        upgrade("/", "Origin: https://evil.example"), upgrade()[:-10],
    ]),
)  # fmt: skip
good = st.lists(good_frames, min_size=1, max_size=4).map(b"".join)
bad = st.builds(
    lambda before, wrong, after: before + wrong + after,
    st.one_of(st.just(b""), good),
    bad_frames,
    st.one_of(st.just(b""), good),
)
partial = st.builds(lambda data, n: data[: n % (len(data) + 1)] or data, good, st.integers(0, 400))
pieces = st.sampled_from(
    ["a", "bc", "ñ", "x" * 200, "x" * 1000, "", "a", "bc", "\ud800", "\ud83d\ude00", None, b"bytes"]
)
steps = st.tuples(
    st.sampled_from(["reasoning", "tool_started", "tool_finished"] * 3 + ["nonsense"]),
    st.sampled_from([None, "", "search", "\udfff"]),
    st.sampled_from([None, "x", "x" * 500]),
)
ends = st.fixed_dictionaries(
    {},
    optional={"content": pieces, "reasoning_steps": st.just(("think",)), "tools_used": st.sampled_from([(1,), ("t",)])},
)


def act(*do: str, who: int = 5, what: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Act]:
    """One of these, by or to the first few there are."""
    fields = st.sampled_from(do), st.integers(0, who), st.none() if what is None else what
    return st.tuples(*fields).map(Act._make)


agent_acts = st.one_of(
    act("yield", what=pieces),
    act("yield", what=pieces),
    act("tell", what=steps),
    act("finish", what=ends),
    act("answer", what=st.sampled_from(["", "more"])),
    act("fail", what=st.sampled_from([None, RuntimeError("x")])),
    act("began", "late", what=st.just("late")),
    act("wait", what=st.sampled_from([0.01, 0.04])),
    act("store", what=st.sampled_from([False] * 4 + [True])),
    act("store", what=st.just(False)),
)
peer_acts = st.one_of(
    act("connect", what=hellos),
    act("request", what=asked),
    act("say", what=good),
    act("say", what=partial),
    act("block", "block", "unblock"),
    act("eof", "lose"),
)
rare_acts = st.one_of(
    act("say", what=bad),
    act("say", what=st.one_of(heads, heads.map(lambda head: head + text(chat())))),
    act("open", what=st.sampled_from(["192.0.2.1", "2001:db8::1", None])),
    act("wait", what=st.sampled_from([0.5, 1.0, 3.0, 7.0, 30.0])),
    act("wake"),
    act("metrics", what=st.sampled_from([b"m 1\n", None])),
    act("keys", what=st.sampled_from(DOCUMENTS)),
    act("jump", what=st.sampled_from([-5000.0, -1.0, 60.0, 5000.0, 86_400.0])),
)
talk = st.tuples(act("say", what=st.builds(text, chats)), st.lists(agent_acts, max_size=6)).map(
    lambda parts: [parts[0], *parts[1]]
)
streamed = st.tuples(
    act("say", what=st.builds(lambda content: text(chat(content, stream=True)), contents)),
    act("yield", what=pieces),
    act("yield", what=pieces),
    act("answer", what=st.sampled_from(["", "more"])),
).map(list)
slow = st.tuples(act("block", who=1), talk, act("unblock", who=1), talk).map(
    lambda parts: [parts[0], *parts[1], parts[2], *parts[3]]
)
kept_out = st.tuples(
    act("connect", what=st.just(upgrade("/", f"Authorization: Bearer {TOKENS[0]}"))),
    talk,
    act("command", what=st.sampled_from([
        UserBlocked("ops", "", "ana"), UserBlocked("ops", "", "ana", 5.0), UserRevoked("ops", "", "ana"),
        TokenRevoked("ops", "", "t"), AddressBlocked("ops", "", "192.0.2.0/28", 1.0),
        DisconnectRequested("ops", "", session_id="s"),
    ])),
).map(lambda parts: [parts[0], *parts[1], parts[2]])  # fmt: skip
scenes = st.one_of(
    talk,
    talk,
    streamed,
    slow,
    st.lists(peer_acts, min_size=1, max_size=3),
    st.lists(rare_acts, min_size=1, max_size=2),
    st.lists(act("command", what=commands), min_size=1, max_size=2),
    kept_out,
)
connects = st.one_of(act("connect", who=0, what=hellos), act("request", who=0, what=st.tuples(hellos, st.booleans())))
stops = act("drain", "drain", "stop", who=0)
histories = st.tuples(
    st.lists(connects, min_size=1, max_size=3),
    st.lists(scenes, min_size=3, max_size=16),
    st.one_of(st.just([]), st.tuples(st.lists(stops, min_size=1, max_size=2), st.lists(peer_acts, max_size=4))),
).map(lambda parts: [*parts[0], *chain(*parts[1]), *chain(*parts[2])])
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
