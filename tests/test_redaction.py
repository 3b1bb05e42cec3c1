"""What is recorded of a node holds no secret of its peers, wherever it stood, and replays as if none were missing."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws_proto import Now, WebSocketConfig
from qaws_proto.inputs import (
    BytesReceived,
    ConnectionLost,
    ConnectionOpened,
    Input,
    KeysLoaded,
    MessageReceived,
    RequestReceived,
    TimerFired,
)
from qaws_proto.testing import configure, covering, token
from qaws_proto.testing.histories import Act
from qaws_proto.testing.node import UNIX, counter
from qaws_proto.testing.peer import BINARY, CLOSE, PING, TEXT, compressed, frame, request, upgrade
from qaws_proto.testing.recording import RecordedGateway
from qaws_proto.testing.redaction import Redactor
from qaws_proto.testing.replay import Replay
from qaws_proto.testing.trace import Head, Step, Trace
from tests.test_contract import CONFIGS, KEY, STORED, TOKENS, all_configs, histories, play

NOW = Now(5.0, UNIX)
CANARY = token("canary", claim="x" * 40)
AUTH = {"type": "auth", "token": CANARY}
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
CONFIG = configure(
    authentication=True, server={"compression": {"enabled": True}}, metrics={"token": "right-" + CANARY},
    limits={"max_message_size": 4096, "frame_burst": 10_000, "frames_per_second": 10_000},
)  # fmt: skip


def recorded(happened: Sequence[tuple[Input, Now]], config: WebSocketConfig = CONFIG, **ports: Any) -> Trace:
    """The redacted trace of a node that all this has happened to, as it is read from its lines."""
    lines: list[str] = []
    node = RecordedGateway(
        config, ids=counter(), write=lambda step: lines.append(step.line()), redacted=True, **ports
    )  # fmt: skip
    for event, now in happened:
        node.step(event, now)
    node.finish()
    return Trace.read([node.head.line(), *lines])


def check_replay(trace: Trace) -> None:
    """It replays without a difference."""
    assert [step.difference for step in Replay(trace).steps() if step.difference] == []


def spoken(trace: Trace) -> bytes:
    """What the peer of the one connection has said."""
    return b"".join(step.input.data for step in trace.steps if isinstance(step.input, BytesReceived))


def said(*reads: bytes, config: WebSocketConfig = CONFIG) -> bytes:
    """What is recorded of a peer that says this, read by read; the sizes of the reads stay, and so do the effects."""
    happened: list[Input] = [ConnectionOpened(1), *(BytesReceived(1, read) for read in reads)]
    trace = recorded([(event, NOW) for event in happened], config)
    check_replay(trace)
    sizes = [len(step.input.data) for step in trace.steps if isinstance(step.input, BytesReceived)]
    assert sizes == list(map(len, reads))
    return spoken(trace)


def messages(stream: bytes) -> list[tuple[int, bytes]]:
    """The frames behind a head: opcode and what they say, unmasked and whole; compressed ones inflated."""
    rest = stream.partition(b"\r\n\r\n")[2]
    found = []
    while rest:
        size, start = rest[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(rest[2:4]), 4
        mask, payload = rest[start : start + 4], rest[start + 4 : start + 4 + size]
        plain = bytes(one ^ mask[at % 4] for at, one in enumerate(payload))
        found.append((rest[0], plain))
        rest = rest[start + 4 + size :]
    return found


def cut(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """A stream in reads of these sizes, and the rest."""
    ends = [0, *accumulate(sizes), len(stream)]
    return [stream[start:end] for start, end in pairwise(ends) if start < end]


def covered(text: str) -> str:
    return covering.letters(text.encode()).decode()


# ── any history ──────────────────────────────────────────────────────────────────────────────────────────────────────


def strings(value: Any) -> list[bytes]:
    """Every text in a value, and in what the frames in it say."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, str):
        return [value.encode("utf-8", "replace")]
    if isinstance(value, dict):
        return strings((*value, *value.values()))
    return [text for one in value for text in strings(one)] if isinstance(value, tuple | list | frozenset) else []


@pytest.mark.clause("C12")
@given(histories, all_configs)
def test_any_history_is_recorded_without_its_tokens_and_replays(history: list[Act], config: str) -> None:
    node = play(history, (CONFIGS | STORED)[config])
    trace = recorded([step[:2] for step in node.history], node.config, durable=node.store is not None)
    check_replay(trace)
    assert len(trace.steps) == len(node.history)
    shown = b" ".join(text for step in trace.steps for text in strings(tuple(step.input)))
    for secret in (*TOKENS[:3], KEY.token("ana", unix=UNIX)):
        assert secret.encode() not in shown


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("header", [
    f"Authorization: Bearer {CANARY}", f"authorization:Bearer   {CANARY} ", f"Authorization: Basic {CANARY}",
    f"Authorization: {CANARY}", f"Authorization: Bearer\t{CANARY}", f"Cookie: a={CANARY}; b={CANARY}",
    f"X-Api-Key: {CANARY}", f"Proxy-Authorization: Basic {CANARY}", f"Sec-WebSocket-Protocol: qaws.bearer.{CANARY}",
    f"Sec-WebSocket-Protocol: qaws.v1, qaws.bearer.{CANARY}", f"Sec-WebSocket-Protocol: access_token, {CANARY}",
    f"{CANARY}", f"Authorization : Bearer {CANARY}", f" {CANARY}", f"Authorization: Bearer {CANARY}\x01",
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_a_request_keeps_no_secret_in_its_headers(header: str, size: int) -> None:
    head = upgrade("/", "Origin: http://localhost:1", header)
    shown = said(*cut(head, [size] * (len(head) // size)))
    assert CANARY[:20].encode() not in shown
    assert shown.startswith(head[:150])
    assert len(shown) == len(head)


@pytest.mark.parametrize("name", ["token", "access_token", "jwt", "session"])
def test_a_request_keeps_no_secret_in_its_query(name: str) -> None:
    shown = said(upgrade(f"/?a=b&{name}={CANARY}&{CANARY}"))
    assert CANARY[:20].encode() not in shown
    assert (f"{name}=".encode() in shown) is (name != "session")


@pytest.mark.parametrize(
    "line", [b"Authorization: Bearer", b"Authorization: bearer ", b"Authorization: Bearer \xa0", b"Authorization: x"]
)
def test_a_scheme_without_a_token_is_refused_as_it_was(line: bytes) -> None:
    said(upgrade().removesuffix(b"\r\n") + line + b"\r\n\r\n")


@pytest.mark.parametrize("query", [b"a=\xff\xfe", b"\xe9=a", b"token=" + CANARY.encode() + b"\xff"])
def test_a_query_that_is_no_ascii_is_refused_as_it_was(query: bytes) -> None:
    assert CANARY.encode() not in said(upgrade().replace(b"GET /", b"GET /?" + query))


@pytest.mark.parametrize("line", [
    f"GET /chat/{CANARY} HTTP/1.1", f"Authorization: Bearer {CANARY}", f"Cookie: {CANARY}",
    f"Cookie: session={CANARY[10:]}", f"{CANARY}", f"GET {CANARY}",
])  # fmt: skip
def test_a_request_keeps_no_secret_where_none_belongs(line: str) -> None:
    head = f"{line}\r\nHost: localhost\r\n\r\n".encode()
    shown = said(head)
    assert CANARY[-20:].encode() not in shown
    assert CANARY[10:30].encode() not in shown
    assert len(shown) == len(head)


def test_a_request_that_never_ends_keeps_none_either() -> None:
    head = upgrade("/", f"Authorization: Bearer {CANARY}")[:-10]
    assert CANARY[:20].encode() not in said(head[:30], head[30:])


def test_two_tokens_are_as_different_as_they_were() -> None:
    other = token("canary", claim="y" * 40)
    headers = [f"Authorization: Bearer {one}" for one in (CANARY, other)]
    for two in (headers, [headers[0]] * 2, [headers[0], f"Sec-WebSocket-Protocol: qaws.bearer.{other}"]):
        said(upgrade("/", *two))
    said(upgrade("/", f"Sec-WebSocket-Protocol: qaws.bearer.{CANARY}, qaws.bearer.{other}"))


@pytest.mark.parametrize("given", ["right-" + CANARY, "wrong-" + CANARY, "right-" + CANARY + "x"])
def test_the_token_of_metrics_is_right_or_wrong_as_it_was(given: str) -> None:
    assert CANARY[:20].encode() not in said(request("/metrics", f"Authorization: Bearer {given}"))


def test_what_follows_an_answered_request_is_not_kept() -> None:
    shown = said(request("/healthz") + request("/", f"Authorization: Bearer {CANARY}"), b"POST " + CANARY.encode())
    assert CANARY[:20].encode() not in shown


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ESCAPED = "".join(f"\\u{ord(one):04x}" for one in CANARY)
EVENTS: dict[str, str] = {
    "as it should be": json.dumps(AUTH),
    "spaced": json.dumps(AUTH, indent=4),
    "escaped": f'{{"type":"auth","token":"{ESCAPED}"}}',
    "escaped name": f'{{"type":"auth","\\u0074oken":"{CANARY}"}}',
    "of another type": json.dumps({"type": "ping", "token": CANARY}),
    "of no type": json.dumps({"access_token": CANARY}),
    "twice": f'{{"type":"auth","token":"{CANARY}","token":"{CANARY}"}}',
    "too deep": json.dumps({"type": "auth", "token": {"a": [CANARY, {CANARY: CANARY}]}}),
    "a list": json.dumps([AUTH]),
    "cut": json.dumps(AUTH)[:-3],
    "bare": CANARY,
    "quoted": json.dumps(CANARY),
    "no utf-8": json.dumps(AUTH) + "\udcff",
    "with more": json.dumps({**AUTH, "token": CANARY + '\\"\n\0é', "id": "token"}),
}


def raw(event: str) -> bytes:
    return event.encode("utf-8", "surrogateescape")


@pytest.mark.clause("C12")
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("shrunk", [False, True], ids=["plain", "compressed"])
def test_a_message_keeps_no_token(event: str, shrunk: bool) -> None:
    payload, reserved = (compressed(raw(event)), 4) if shrunk else (raw(event), 0)
    half = len(payload) // 2
    pieces = (
        frame(TEXT, payload[:half], fin=False, reserved=reserved) + frame(PING, b"x") + frame(0, payload[half:])
        + frame(TEXT, payload, reserved=reserved)
    )  # fmt: skip
    stream = upgrade("/", OFFER) + pieces
    for sizes in ([], [1] * len(stream), [len(stream) - 20], [200, 7, 50]):
        shown = messages(said(*cut(stream, sizes)))
        assert [first for first, _ in shown] == [first for first, _ in messages(stream)]
        for whole in (shown[0][1] + shown[2][1], shown[3][1]):
            plain = zlib.decompressobj(-15).decompress(whole) if shrunk else whole
            assert CANARY[:20].encode() not in plain
            assert ESCAPED[:60].encode() not in plain
            assert len(plain) == len(raw(event))


def test_what_is_said_beside_tokens_is_kept() -> None:
    stream = upgrade("/", f"Authorization: Bearer {CANARY}", "User-Agent: me")
    chat = json.dumps({"type": "chat_message", "content": "my token, and eyJhbGciOi", "metadata": {"token": "kept"}})
    stream += frame(TEXT, chat.encode()) + frame(PING, b"hello") + frame(CLOSE, b"\x03\xe8bye")
    shown = said(stream)
    assert [payload for _, payload in messages(shown)] == [chat.encode(), b"hello", b"\x03\xe8bye"]
    assert b"User-Agent: me\r\n" in shown


@pytest.mark.parametrize("stream", [
    frame(BINARY, json.dumps(AUTH).encode()),
    frame(TEXT, json.dumps(AUTH).encode(), fin=False) + frame(PING, b"x"),
    frame(TEXT, json.dumps(AUTH).encode(), fin=False) + frame(CLOSE),
    frame(TEXT, json.dumps(AUTH).encode(), fin=False) + frame(TEXT, json.dumps(AUTH).encode()),
    frame(TEXT, json.dumps(AUTH).encode())[:-9],
    frame(TEXT, compressed(json.dumps(AUTH).encode())[:-9], fin=False, reserved=4),
    frame(TEXT, compressed(json.dumps(AUTH).encode())[:-9] + b"\x07\x07", reserved=4),
    frame(TEXT, compressed(json.dumps({**AUTH, "more": " " * 5000}).encode()), reserved=4),
    frame(TEXT, json.dumps(AUTH).encode(), mask=False),
    frame(TEXT, json.dumps({**AUTH, "more": " " * 5000}).encode()),
    frame(TEXT, json.dumps(AUTH).encode(), reserved=2),
    frame(3, json.dumps(AUTH).encode()),
    frame(CLOSE) + frame(TEXT, json.dumps(AUTH).encode()),
    frame(PING, b"x" * 126) + frame(TEXT, json.dumps(AUTH).encode()),
    json.dumps(AUTH).encode(),
])  # fmt: skip
@pytest.mark.parametrize("size", [7, 100_000])
def test_what_breaks_the_protocol_keeps_no_token(stream: bytes, size: int) -> None:
    stream = upgrade("/", OFFER) + stream
    happened: list[Input] = [ConnectionOpened(1)]
    happened += [BytesReceived(1, read) for read in cut(stream, [size] * (len(stream) // size))]
    happened += [TimerFired(), ConnectionLost(1), BytesReceived(1, CANARY.encode())]
    trace = recorded([(event, NOW) for event in happened])
    check_replay(trace)
    shown = spoken(trace)
    assert len(shown) == len(stream) + len(CANARY)
    assert CANARY[:20].encode() not in shown
    for _, payload in messages(shown[: len(stream)]):
        inflate = zlib.decompressobj(-15)
        try:
            plain = payload + inflate.decompress(payload)
        except zlib.error:
            plain = payload
        assert CANARY[:20].encode() not in plain


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.integers(0, 400))
@example(b"", 5)
@example(b"x" * 300, 13)
def test_a_message_is_compressed_to_any_length_that_is_long_enough(plain: bytes, more: int) -> None:
    length = len(compressed(plain, level=9)) + more
    stream = covering.deflated(plain, length)
    if stream is None:
        assert more in (1, 2, 3, 4, 8)
        return
    assert len(stream) == length
    inflate = zlib.decompressobj(-15)
    assert inflate.decompress(stream + b"\x00\x00\xff\xff") == plain
    assert inflate.unused_data == b""


PLAIN = json.dumps(AUTH).encode()
CONVERSATION = (
    upgrade("/", OFFER, f"Cookie: {CANARY}") + frame(TEXT, compressed(PLAIN), reserved=4)
    + frame(TEXT, PLAIN[:40], fin=False) + frame(PING, b"x") + frame(0, PLAIN[40:])
    + frame(BINARY, CANARY.encode()) + frame(CLOSE) + CANARY.encode()
)  # fmt: skip


@pytest.mark.clause("C3")
@given(st.lists(st.integers(1, 300), max_size=12))
def test_what_is_covered_does_not_depend_on_the_reads(sizes: list[int]) -> None:
    assert said(*cut(CONVERSATION, sizes)) == said(CONVERSATION)


@pytest.mark.clause("C7")
def test_no_more_waits_than_a_connection_may_send_within_a_message() -> None:
    limits = {"max_message_size": 1024, "frame_burst": 50, "frames_per_second": 10, "message_timeout": 5}
    written: list[Step] = []
    redactor = Redactor(Head(configure(limits=limits), False), written.append)
    redactor.take(taken(ConnectionOpened(1)), ())
    redactor.take(taken(BytesReceived(1, upgrade() + frame(TEXT, CANARY.encode(), fin=False))), ())
    room = 1024 + 64 * 1024 + (50 + 10 * 5) * 131
    pings = [taken(BytesReceived(1, frame(PING, bytes(125)))) for _ in range(room // 131 + 1)]
    for ping in pings[:-5]:
        redactor.take(ping, ())
    assert len(written) == 1, "all of them wait for the rest of the message"
    for ping in pings[-5:]:
        redactor.take(ping, ())
    assert len(written) == 2 + len(pings)
    assert not any(CANARY[:20].encode() in text for step in written for text in strings(tuple(step.input)))


def taken(event: Input) -> Step:
    """A step of which nothing came."""
    return Step(1, NOW, event, (), (), "")


REPETITIVE = 13  # different characters at least, of which a short text cannot be compressed better than what covers it


@given(
    st.text("abcXYZ0189-_.", max_size=80), st.integers(1, 9), st.booleans(),
    st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY]),
)  # fmt: skip
@example("wrong", 6, False, zlib.Z_DEFAULT_STRATEGY)
@example("binary", 6, True, zlib.Z_DEFAULT_STRATEGY)
@example("0000001.", 1, False, zlib.Z_DEFAULT_STRATEGY)
def test_any_token_is_covered_in_a_compressed_message(given: str, level: int, binary: bool, strategy: int) -> None:
    event = given.encode() if binary else json.dumps({"type": "auth", "token": given}).encode()
    cover = covering.binary if binary else covering.text
    payload = compressed(event, level=level, strategy=strategy)
    again = covering.compressed(payload, cover, 4096)
    assert len(again) == len(payload)
    if again == b"\x07" * len(payload):  # compressed with what is around it, or with itself
        assert len(set(given)) < REPETITIVE
        return
    plain = zlib.decompressobj(-15).decompress(again + b"\x00\x00\xff\xff")
    assert cover(plain) == cover(event)
    assert not binary or not given or set(plain.decode()) <= {*covering.LETTERS, "."}


# ── what hosts and sources say ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.clause("C12")
def test_at_message_level_no_token_is_kept() -> None:
    headers = (("host", "localhost"), ("authorization", f"Bearer {CANARY}"), ("cookie", CANARY))
    happened: list[Input] = [
        RequestReceived(1, None, "GET", f"/?token={CANARY}", headers, True),
        RequestReceived(2, None, "GET", "/", headers[:1], True),
        MessageReceived(2, json.dumps(AUTH)), MessageReceived(2, json.dumps(AUTH) + "\ud800"),
        MessageReceived(2, json.dumps(AUTH).encode()),
    ]  # fmt: skip
    trace = recorded([(event, NOW) for event in happened])
    check_replay(trace)
    assert not any(CANARY[:20].encode() in text for step in trace.steps for text in strings(tuple(step.input)))
    assert trace.steps[2].input == MessageReceived(2, json.dumps({**AUTH, "token": covered(CANARY)}))


def key_document(secret: str) -> bytes:
    return json.dumps({"keys": [{"kty": "oct", "k": secret * 6, "kid": "a"}, {**KEY.jwk(), "d": secret}]}).encode()


def test_of_keys_the_public_half_is_kept_and_changes_are_seen() -> None:
    config = configure(security={"authentication": {"enabled": True, "jwks": "keys.json", "jwks_interval": 1}})
    documents = [key_document(one) for one in ("canary-1", "canary-1", "canary-2")]
    documents.append(b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n")
    happened: list[tuple[Input, Now]] = []
    for at, document in enumerate(documents):
        now = Now(5.0 + 1000 * at, UNIX)
        happened += [(TimerFired(), now), (KeysLoaded(document), now)]
    trace = recorded(happened, config)
    check_replay(trace)
    shown = [step.input.document for step in trace.steps if isinstance(step.input, KeysLoaded)]
    assert not any(b"canary" in document for document in shown)
    assert shown[0] == shown[1] != shown[2]
    assert KEY.jwk()["x"].encode() in shown[0]


def test_of_claims_the_one_that_a_node_reads_is_kept() -> None:
    trace = recorded(
        [(ConnectionOpened(1), NOW), (BytesReceived(1, upgrade("/", f"Authorization: Bearer {CANARY}")), NOW)]
    )
    (_, verify) = trace.steps[1].verdicts
    assert verify[1].claims == {"iat": int(UNIX)}
