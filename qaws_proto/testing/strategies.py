"""Hypothesis strategies for all that a gateway is told: cuts into reads, frames, events, byte streams, histories.

    @given(strategies.histories())
    def test_my_settings(history: list[Act]) -> None:
        play(history, NodeUnderTest(configure(limits={"inbox": 4096}), prompt=False))

Each is a function that makes a strategy. Needs Hypothesis, the extra `testing`; nothing else of `qaws_proto.testing`
does. The file is long since it is one vocabulary: from bits of frames to histories, each made of the one before.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ..inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    DisconnectRequested,
    LimitsChanged,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from ..live_settings import CHANGEABLE
from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Cut,
    Frame,
    byte_by_byte,
    close_payload,
    cut,
    dump,
    fragmented,
)
from .histories import Act
from .peer import REMOVED, chat, close_frame, compressed, deflated, finished, frame, request, text, upgrade

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "qaws_proto.testing.strategies needs Hypothesis: install qaws-gateway with the extra testing"
    ) from error

Strategy = st.SearchStrategy
Event = dict[str, Any]

# ── reads ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def splits(data: bytes) -> Strategy[list[bytes]]:
    """Every way to cut the bytes into reads: whole, byte by byte, and all between; some reads are empty."""
    places = st.lists(st.integers(0, len(data)), max_size=8)
    return st.one_of(st.just([data]), st.just(byte_by_byte(data)), places.map(lambda at: cut(data, at)))


def cuts(source: Strategy[bytes]) -> Strategy[Cut]:
    """Bytes of the source, cut into reads in every way."""
    return source.flatmap(lambda data: splits(data).map(lambda reads: Cut(data, reads)))


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_SCRAPS = st.sampled_from(
    [b"a", b"{}", "ñ".encode(), "€".encode(), "😀".encode(), b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90", b"\xff",
     b"\xe2\x82", b"\xf0\x9f", b"\x80"]
)  # fmt: skip
_nearly_utf8 = st.lists(_SCRAPS, max_size=5).map(b"".join)
_utf8 = st.text(max_size=40).map(str.encode)
_small = st.binary(max_size=20)


def control_frames() -> Strategy[Frame]:
    """Pings and pongs, some of the largest size."""
    payloads = st.one_of(_small, st.binary(min_size=124, max_size=125))
    return st.builds(Frame, st.sampled_from((PING, PONG)), payloads)


_between = st.lists(control_frames(), max_size=1)


@st.composite
def fragmented_messages(draw: st.DrawFn, texts: Strategy[bytes] = _utf8) -> list[Frame]:
    """A message of text or of bytes in fragments, some of them empty, with control frames between them."""
    opcode, source = draw(st.sampled_from([(TEXT, texts), (BINARY, _small)]))
    payload = draw(source)
    pieces = cut(payload, draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    frames: list[Frame] = []
    for each in fragmented(opcode, pieces):
        frames += [*draw(_between), each]
    return frames


@st.composite
def good_frames(draw: st.DrawFn) -> list[Frame]:
    """Messages and control frames with nothing wrong in them, as a client sends them."""
    parts = draw(st.lists(st.one_of(fragmented_messages(), control_frames().map(lambda each: [each])), max_size=5))
    return [replace(each, mask=draw(st.binary(min_size=4, max_size=4))) for part in parts for each in part]


def bad_frames() -> Strategy[Frame]:
    """Frames that most likely break a rule: of length, mask, reserved bits, opcodes, control frames, close codes."""
    codes = st.one_of(st.integers(0, 5100), st.sampled_from((1000, 1001, 1005, 1006, 1014, 1015, 3000, 4999)))
    closes = st.one_of(st.binary(max_size=3), st.builds(close_payload, codes, st.one_of(_nearly_utf8, _utf8)))
    return st.one_of(
        st.builds(Frame, st.just(CLOSE), closes.filter(lambda payload: len(payload) < 126)),
        st.builds(
            Frame,
            opcode=st.integers(0, 15),
            payload=st.one_of(_small, st.binary(min_size=124, max_size=128)),
            fin=st.booleans(),
            rsv=st.sampled_from((0, 0, 0, 1, 2, 4, 7)),
            mask=st.sampled_from((MASK, MASK, MASK, None)),
            width=st.sampled_from((None, None, None, 0, 2, 8)),
            length=st.one_of(st.none(), st.none(), st.integers(0, 300), st.integers(0, (1 << 64) - 1)),
        ),
    )


@st.composite
def frame_streams(draw: st.DrawFn, *, client: bool = False) -> bytes:
    """What may come behind the upgrade to a server (or to a client): good, broken, cut off, or not frames at all."""
    single = bad_frames().map(lambda each: [each])
    parts = draw(st.lists(st.one_of(fragmented_messages(_nearly_utf8), fragmented_messages(), single), max_size=6))
    frames = [each for part in parts for each in part]
    if client:
        frames = [replace(each, mask=MASK if each.mask is None else None) for each in frames]
    data = dump(frames) + draw(st.one_of(st.just(b""), _small))
    return data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]


# ── compression ──────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def compressed_messages(draw: st.DrawFn, payloads: Strategy[bytes]) -> tuple[bytes, bytes]:
    """A payload, and what a client may make of it (RFC 7692 section 7.2.1): of every level and window, in one block or
    many, with a last one."""
    payload = draw(payloads)
    level, window = draw(st.integers(0, 9)), draw(st.integers(9, 15))
    if draw(st.booleans()):
        ending = draw(st.sampled_from([b"", b"\x00"]))  # some leave out the header that has to follow a final block
        return payload, finished(payload, level=level, window=window)[:-1] + ending
    strategy = draw(st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]))
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window, draw(st.integers(1, 9)), strategy)
    place = draw(st.integers(0, len(payload)))
    flush = draw(st.sampled_from([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH]))
    stream = compressor.compress(payload[:place])
    stream += compressor.flush(flush) if flush != zlib.Z_NO_FLUSH else b""
    stream += compressor.compress(payload[place:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return payload, stream[: -len(REMOVED)]


@st.composite
def badly_compressed(draw: st.DrawFn, payloads: Strategy[bytes]) -> bytes:
    """What somebody may send instead: broken off, changed, continued, or no stream at all."""
    _, message = draw(compressed_messages(payloads))
    kind = draw(st.sampled_from(["broken off", "changed", "continued", "doubled", "random"]))
    if kind == "broken off":
        return message[: draw(st.integers(0, len(message)))]
    if kind == "changed":
        at, byte = draw(st.integers(0, len(message))), draw(st.binary(min_size=1, max_size=2))
        return message[:at] + byte + message[at + 1 :]
    if kind == "continued":
        return message + draw(st.binary(max_size=30))
    if kind == "doubled":
        return message + REMOVED[: draw(st.integers(0, 4))] + message
    return draw(st.binary(max_size=200))


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_names = st.sampled_from(["m1", "m2", "m3"])
_sessions = st.sampled_from(["s", "t", "u"])


def contents() -> Strategy[str]:
    """Texts for an agent: short, long, of any language, with what other texts stumble over."""
    return st.sampled_from(["hi", "¿qué tal?", "x" * 300, "\u2028", "hi" * 600])


def chats(texts: Strategy[str] | None = None) -> Strategy[Event]:
    """Chat messages; few ids and sessions, so that they meet again."""
    return st.fixed_dictionaries(
        {"type": st.just("chat_message"), "content": contents() if texts is None else texts},
        optional={"id": _names, "stream": st.sampled_from([True, True, False]), "session_id": _sessions},
    )


def other_events(tokens: Sequence[str] = ()) -> Strategy[Event]:
    """Every event of a client but chat messages: cancel, ping, resume, ack, and auth with one of the tokens."""
    made = [
        st.builds(lambda name: {"type": "cancel", "correlation_id": name}, _names),
        st.builds(lambda n: {"type": "cancel", "run_id": f"id-{n}"}, st.integers(1, 20)),
        st.just({"type": "ping", "id": "p"}),
        st.builds(
            lambda session, n, seq: {"type": "resume", "session_id": session, "epoch": f"id-{n}", "seq": seq},
            st.sampled_from(["s", "t", "u", "id-1"]), st.integers(1, 6), st.integers(0, 9),
        ),
        st.builds(
            lambda session, seq: {"type": "ack", "session_id": session, "seq": seq}, _sessions, st.integers(0, 5)
        ),
    ]  # fmt: skip
    if tokens:
        made.append(st.builds(lambda token: {"type": "auth", "token": token}, st.sampled_from(tokens)))
    return st.one_of(made)


def events(tokens: Sequence[str] = (), texts: Strategy[str] | None = None) -> Strategy[Event]:
    """Events of a client, with nothing wrong in them."""
    return st.one_of(chats(texts), other_events(tokens))


_REQUIRED = {
    "chat_message": ["content"], "auth": ["token"], "resume": ["session_id", "epoch", "seq"],
    "ack": ["session_id", "seq"], "ping": [], "cancel": [],
}  # fmt: skip
_BAD = [
    "", "no json", "null", "[]", '"ping"', "{}", '{"type":"nonsense"}', '{"type":null}', '\ufeff{"type":"ping"}',
    '{"type":"ping","type":"ping"}', '{"type":"ping","id":"\\u0000"}', '{"type":"ping","id":"' + "x" * 65 + '"}',
    '{"type":"ping","id":1e999}', '{"type":"ack","session_id":"s","seq":' + "9" * 400 + "}",
    '{"type":"cancel"}', '{"type":"cancel","run_id":"r","correlation_id":"m1"}',
    '{"type":"chat_message","content":""}', '{"type":"chat_message","content":"a","metadata":{"a":NaN}}',
    '{"type":"chat_message","content":"a","metadata":{"a":' + "[" * 99 + "]" * 99 + "}}", "[" * 3000,
]  # fmt: skip


_GOOD = events(["token"])


@st.composite
def bad_events(draw: st.DrawFn) -> str:
    """Texts that are no event: no JSON, of unknown type, or with a field missing, unknown or of a wrong type."""
    if draw(st.booleans()):
        return draw(st.sampled_from(_BAD))
    event = dict(draw(_GOOD))
    required = _REQUIRED[event["type"]]
    kind = draw(st.sampled_from(["unknown", "wrong", "missing"] if required else ["unknown"]))
    if kind == "missing":
        del event[draw(st.sampled_from(required))]
    elif kind == "wrong":
        event[draw(st.sampled_from(required))] = draw(st.sampled_from([None, True, -1, 1.5, [], {}, "\0"]))
    else:
        event[draw(st.sampled_from(["more", "Type", "user", ""]))] = draw(st.sampled_from([None, 1, "x", {}]))
    return json.dumps(event)


# ── bytes of a conversation ──────────────────────────────────────────────────────────────────────────────────────────

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def event_frames(tokens: Sequence[str] = (), texts: Strategy[str] | None = None) -> Strategy[bytes]:
    """Bytes of frames that break no rule: events, plain, compressed, in fragments, some bad; pings and pongs."""
    chatting, others = chats(texts), other_events(tokens)
    either = st.one_of(chatting, others)
    return st.one_of(
        st.builds(text, chatting),
        st.builds(text, chatting),
        st.builds(text, others),
        st.builds(text, st.one_of(others, others, others, bad_events())),
        st.builds(deflated, either),
        st.builds(
            lambda data, n: frame(TEXT, data[:n], fin=False, reserved=4) + frame(PING) + frame(CONTINUATION, data[n:]),
            either.map(lambda event: compressed(json.dumps(event).encode())), st.integers(0, 20),
        ),
        st.builds(lambda opcode, n: frame(opcode, b"p" * n), st.sampled_from([PING, PONG]), st.integers(0, 3)),
        st.builds(lambda n: frame(PONG) * n, st.integers(1, 20)),
        st.builds(
            lambda a, b: frame(TEXT, b'{"type":', fin=False) + frame(PING) * a
            + frame(CONTINUATION, b"", fin=False) * b + frame(CONTINUATION, b'"ping"}'),
            st.integers(0, 2), st.integers(0, 2),
        ),
    )  # fmt: skip


def broken_frames(max_message: int = 1024) -> Strategy[bytes]:
    """Bytes that a node refuses, or may: floods, violations, messages of about `max_message` bytes, closes."""
    sizes = st.integers(max_message - 4, max_message + 6)
    no_text = st.sampled_from([b"\xff", b"\xe2\x82", b"\xc3\x28", b"\xed\xa0\x80"])
    return st.one_of(
        st.builds(lambda n: frame(PONG) * n, st.integers(35, 50)),
        st.builds(lambda n: frame(TEXT, b'"', fin=False) + frame(CONTINUATION, b"", fin=False) * n, st.integers(0, 4)),
        st.builds(lambda n: frame(TEXT, b'"' + b"x" * n), sizes),
        st.builds(lambda n: frame(TEXT, compressed(b" " * n), reserved=4), sizes),
        st.builds(close_frame, st.sampled_from([1000, 1001, 3000, None, 1005])),
        st.builds(
            frame, st.sampled_from([TEXT, BINARY, 3, PING, 0]), st.binary(max_size=130), reserved=st.integers(0, 1)
        ),
        st.builds(lambda data: frame(TEXT, data), no_text),
        st.sampled_from([frame(PING, b"x", mask=False), frame(PING, b"", fin=False), frame(CLOSE, b"\x03")]),
        st.builds(lambda data, fin: frame(TEXT, data, fin=fin, reserved=4), st.binary(max_size=20), st.booleans()),
        st.builds(lambda data: deflated("{}")[:-1] + data, st.binary(min_size=1, max_size=3)),
        st.builds(Frame.dump, bad_frames()),
        st.binary(max_size=20),
    )


def upgrades(tokens: Sequence[str] = (), path: str = "/") -> Strategy[bytes]:
    """WebSocket upgrades with nothing wrong in them but perhaps the token, which may come as the first event too."""
    heads = [upgrade(path), upgrade(path, OFFER), upgrade(path, "Sec-WebSocket-Protocol: a, qaws.v1")]
    for token in tokens:
        bearer = upgrade(path, f"Authorization: Bearer {token}")
        heads += [bearer, bearer + text(chat()), upgrade(path) + text({"type": "auth", "token": token})]
    return st.sampled_from(heads)


def requests(tokens: Sequence[str] = (), path: str = "/") -> Strategy[bytes]:
    """Whole requests that are good HTTP: upgrades, refused ones, and such for pages beside the socket."""
    others = [
        upgrade("/x"), upgrade(f"{path}?token=x"), upgrade(path, "Content-Length: 1"), request(path),
        upgrade(path, "Origin: https://evil.example"), upgrade(path, "Authorization: Bearer wrong"),
        upgrade(path) + text(chat()) + text({"type": "ping"}), request(path, method="POST"), request("/metrics"),
        request("/healthz"), request("/readyz", method="HEAD"), request("/readyz", method="OPTIONS"),
    ]  # fmt: skip
    return st.one_of(upgrades(tokens, path), upgrades(tokens, path), st.sampled_from(others))


def heads(tokens: Sequence[str] = (), path: str = "/") -> Strategy[bytes]:
    """What a connection may begin with: requests, and what is none, or is not finished."""
    broken = [
        b"GET / HTTP/1.1\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n", upgrade(path)[:-10], b"GET / HTTP/1.0\r\n\r\n",
        upgrade(path).replace(b"13", b"8"), upgrade(path, "Host: b"), upgrade(path, "A" * 5000 + ": b"),
    ]  # fmt: skip
    return st.one_of(requests(tokens, path), requests(tokens, path), st.sampled_from(broken))


def conversations(tokens: Sequence[str] = (), texts: Strategy[str] | None = None) -> Strategy[bytes]:
    """Some frames in a row that break no rule."""
    return st.lists(event_frames(tokens, texts), min_size=1, max_size=4).map(b"".join)


def lapses(tokens: Sequence[str] = (), max_message: int = 1024) -> Strategy[bytes]:
    """Frames in a row, of which some are refused."""
    around = st.one_of(st.just(b""), conversations(tokens))
    return st.tuples(around, broken_frames(max_message), around).map(b"".join)


def byte_streams(
    tokens: Sequence[str] = (), path: str = "/", max_message: int = 1024, texts: Strategy[str] | None = None
) -> Strategy[bytes]:
    """All that one peer sends from connecting on: a request, mostly a good upgrade, and what comes behind it."""
    good = upgrades(tokens, path)
    said = st.one_of(conversations(tokens, texts), conversations(tokens, texts), lapses(tokens, max_message))
    return st.builds(
        lambda head, behind, last: head + b"".join(behind) + last,
        st.one_of(good, good, good, heads(tokens, path)),
        st.lists(said, max_size=4),
        st.one_of(st.just(b""), st.builds(close_frame), frame_streams()),
    )


# ── acts and histories ───────────────────────────────────────────────────────────────────────────────────────────────


def act(*do: str, who: int = 5, what: Strategy[Any] | None = None) -> Strategy[Act]:
    """One of these, by or to the first few there are."""
    fields = st.sampled_from(do), st.integers(0, who), st.none() if what is None else what
    return st.tuples(*fields).map(Act._make)


def pieces() -> Strategy[Any]:
    """What an agent yields: text, also such as UTF-8 cannot carry, and what is no text."""
    return st.sampled_from(
        ["a", "bc", "ñ", "x" * 200, "x" * 1000, "", "a", "bc", "\ud800", "\ud83d\ude00", None, b"bytes"]
    )


def agent_acts() -> Strategy[Act]:
    """What an agent or a store does, right or wrong, and waits shorter than any limit."""
    steps = st.tuples(
        st.sampled_from(["reasoning", "tool_started", "tool_finished"] * 3 + ["nonsense"]),
        st.sampled_from([None, "", "search", "\udfff"]),
        st.sampled_from([None, "x", "x" * 500]),
    )
    tools = st.sampled_from([(1,), ("t",)])
    ends = st.fixed_dictionaries(
        {}, optional={"content": pieces(), "reasoning_steps": st.just(("think",)), "tools_used": tools}
    )
    return st.one_of(
        act("yield", what=pieces()),
        act("yield", what=pieces()),
        act("tell", what=steps),
        act("finish", what=ends),
        act("answer", what=st.sampled_from(["", "more"])),
        act("fail", what=st.sampled_from([None, RuntimeError("x")])),
        act("began", "late", what=st.just("late")),
        act("wait", what=st.sampled_from([0.01, 0.04])),
        act("store", what=st.sampled_from([False] * 4 + [True])),
        act("store", what=st.just(False)),
    )


def peer_acts(tokens: Sequence[str] = (), path: str = "/") -> Strategy[Act]:
    """What honest peers do, and hosts for them; they may stop to read, or go away at any byte."""
    said = conversations(tokens)
    broken_off = st.builds(lambda data, n: data[: n % (len(data) + 1)] or data, said, st.integers(0, 400))
    return st.one_of(
        act("connect", what=upgrades(tokens, path)),
        act("request", what=st.tuples(requests(tokens, path), st.booleans())),
        act("say", what=said),
        act("say", what=broken_off),
        act("block", "block", "unblock"),
        act("eof", "lose"),
    )


def rare_acts(
    tokens: Sequence[str] = (), keys: Sequence[bytes | None] = (), path: str = "/", max_message: int = 1024
) -> Strategy[Act]:
    """What happens seldom: peers that break rules, long waits, jumps of the wall clock; `keys`: of tokens, or none."""
    first = heads(tokens, path)
    return st.one_of(
        act("say", what=lapses(tokens, max_message)),
        act("say", what=st.one_of(first, first.map(lambda head: head + text(chat())))),
        act("open", what=st.sampled_from(["192.0.2.1", "2001:db8::1", None])),
        act("wait", what=st.sampled_from([0.5, 1.0, 3.0, 7.0, 30.0])),
        act("wake"),
        act("metrics", what=st.sampled_from([b"m 1\n", None])),
        act("keys", what=st.sampled_from([*keys, None])),
        act("jump", what=st.sampled_from([-5000.0, -1.0, 60.0, 5000.0, 86_400.0])),
    )


def commands(users: Sequence[str] = ("ana", "eva")) -> Strategy[Command]:
    """What operators want of a node: to keep out, let in, disconnect, and other limits, some of which it refuses."""
    user, address = st.sampled_from(users), st.sampled_from(["192.0.2.1", "192.0.2.0/24", "2001:db8::/32"])
    seconds = st.sampled_from([None, 2.0, 60])
    session = st.none() | _sessions
    switches = ["security.rate_limiting.enabled", "security.rate_limiting.dry_run"]
    several = [*switches, "agent.budget.per_day", "agent.budget.reserve", "agent.timeout", "nothing"]
    settings = st.one_of(
        st.tuples(st.sampled_from(sorted(set(CHANGEABLE) - {switches[0]})), st.integers(1, 9)),
        st.tuples(st.sampled_from(["agent.budget.per_day", "limits.connections_per_minute"]), st.none()),
        st.tuples(st.sampled_from(switches), st.booleans()),
        st.tuples(st.sampled_from(several), st.sampled_from([0, 1, 300, 0.5, "x"])),
    )
    return st.one_of(
        st.builds(lambda user, time: UserBlocked("ops", "", user, time), user, seconds),
        st.builds(lambda user: UserUnblocked("ops", "", user), user),
        st.builds(lambda address, time: AddressBlocked("ops", "", address, time), address, seconds),
        st.builds(lambda address: AddressUnblocked("ops", "", address), address),
        st.builds(lambda user: UserRevoked("ops", "", user), user),
        st.builds(lambda jti: TokenRevoked("ops", "", jti), st.sampled_from("tu")),
        st.builds(lambda number: DisconnectRequested("ops", "", number), st.integers(0, 6)),
        st.builds(lambda user, name: DisconnectRequested("ops", "", None, user, name), st.none() | user, session),
        st.builds(lambda changes: LimitsChanged("ops", "", dict(changes)), st.lists(settings, max_size=2)),
    )


def stops() -> Strategy[Act]:
    """The node is to end: soon, or now."""
    return act("drain", "drain", "stop", who=0)


def _talks(texts: Strategy[str] | None) -> list[Strategy[list[Act]]]:
    """Messages to the agent and what becomes of them: of any kind twice, in pieces, and to a peer that reads slowly."""
    once = st.tuples(act("say", what=st.builds(text, chats(texts))), st.lists(agent_acts(), max_size=6))
    talk = once.map(lambda parts: [parts[0], *parts[1]])
    asked = st.builds(lambda content: text(chat(content, stream=True)), contents() if texts is None else texts)
    streamed = st.tuples(
        act("say", what=asked), act("yield", what=pieces()), act("yield", what=pieces()),
        act("answer", what=st.sampled_from(["", "more"])),
    ).map(list)  # fmt: skip
    slow = st.tuples(act("block", who=1), talk, act("unblock", who=1), talk)
    return [talk, talk, streamed, slow.map(lambda parts: [parts[0], *parts[1], parts[2], *parts[3]])]


def histories(
    *,
    tokens: Sequence[str] = (),
    keys: Sequence[bytes | None] = (),
    users: Sequence[str] = ("ana", "eva"),
    path: str = "/",
    max_message: int = 1024,
    texts: Strategy[str] | None = None,
) -> Strategy[list[Act]]:
    """Some peers connect, much happens, and sometimes the node ends: for `qaws_proto.testing.histories.play`.

    `tokens` of those `users`, good or wrong; `keys`: documents that the source of keys may hold; `path` and
    `max_message` (bytes) of the configuration; `texts` that are said to the agent, where they matter to it.
    """
    peers, rare = peer_acts(tokens, path), rare_acts(tokens, keys, path, max_message)
    scenes = [
        *_talks(texts),
        st.lists(peers, min_size=1, max_size=3),
        st.lists(rare, min_size=1, max_size=2),
        st.lists(act("command", what=commands(users)), min_size=1, max_size=2),
    ]
    if tokens:
        kept_out = st.sampled_from([
            UserBlocked("ops", "", users[0]), UserBlocked("ops", "", users[0], 5.0), UserRevoked("ops", "", users[0]),
            TokenRevoked("ops", "", "t"), AddressBlocked("ops", "", "192.0.2.0/28", 1.0),
            DisconnectRequested("ops", "", session_id="s"),
        ])  # fmt: skip
        hello = act("connect", what=st.just(upgrade(path, f"Authorization: Bearer {tokens[0]}")))
        seen_out = st.tuples(hello, _talks(texts)[0], act("command", what=kept_out))
        scenes.append(seen_out.map(lambda parts: [parts[0], *parts[1], parts[2]]))
    hellos = upgrades(tokens, path)
    connects = st.one_of(
        act("connect", who=0, what=hellos), act("request", who=0, what=st.tuples(hellos, st.booleans()))
    )
    ending = st.tuples(st.lists(stops(), min_size=1, max_size=2), st.lists(peers, max_size=4))
    return st.tuples(
        st.lists(connects, min_size=1, max_size=3),
        st.lists(st.one_of(scenes), min_size=3, max_size=16),
        st.one_of(st.just([]), ending),
    ).map(lambda parts: [*parts[0], *chain(*parts[1]), *chain(*parts[2])])
