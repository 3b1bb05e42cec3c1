"""Request heads, the checks on them, and every answer that is no 101, parsed back by h11 as a client."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from itertools import product

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.clock import Now
from qaws_proto.config import LimitsConfig, WebSocketConfig
from qaws_proto.effects import CloseWrite, SendBytes
from qaws_proto.faults import Fault
from qaws_proto.gateway import Gateway
from qaws_proto.inputs import BytesReceived, ConnectionOpened
from qaws_proto.testing.frames import Cut, byte_by_byte
from qaws_proto.testing.strategies import cuts, splits
from qaws_proto.wire.http import (
    HeadReader,
    Request,
    accept_key,
    accept_response,
    check_request,
    check_upgrade,
    refusal,
    response,
)

LIMITS = LimitsConfig(request_line=256, head_size=1024, headers=6)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Host": "localhost:8765",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}

Lines = dict[str, str | list[str] | None]


def head(line: str = "GET / HTTP/1.1", headers: Lines | None = None) -> bytes:
    """An upgrade's head, with some headers replaced: by a value, by several, or by none."""
    wanted = {**UPGRADE, **(headers or {})}
    lines = [line]
    for name, value in wanted.items():
        lines += [f"{name}: {each}" for each in ([value] if isinstance(value, str) else value or [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


Verdict = tuple[int, Request | Fault]


def read_head(reads: list[bytes], limits: LimitsConfig = LIMITS) -> tuple[Verdict | None, HeadReader]:
    """The verdict, the bytes that had come until it was said, and the reader, which has been given every read."""
    reader, at, verdict = HeadReader(limits), 0, None
    for read in reads:
        at += len(read)
        said = reader.receive(read)
        if said is not None:
            assert verdict is None, "it says one verdict once"
            verdict = (at, said)
    return verdict, reader


def verdict_of(data: bytes, limits: LimitsConfig = LIMITS) -> Verdict | None:
    """The verdict, with the byte at which it is certain."""
    return read_head(byte_by_byte(data), limits)[0]


def judge(data: bytes) -> Request | Fault:
    """What becomes of a whole upgrade request: the request where it may pass, else its fault."""
    verdict = HeadReader(LimitsConfig()).receive(data)
    assert verdict is not None, "the head is whole"
    if isinstance(verdict, Fault):
        return verdict
    return check_request(verdict) or check_upgrade(verdict) or verdict


# ── any bytes, in any reads ──────────────────────────────────────────────────────────────────────────────────────────

_scraps = st.sampled_from(
    [b"GET / HTTP/1.1", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\xff", b":", b"Host: a",
     b"A: b", b"HTTP/1.0", b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", b"x" * 100, b"x" * 251, b"x" * 1000]
)  # fmt: skip
_heads = st.one_of(
    st.just(head()),
    st.builds(lambda at, scrap: head()[:at] + scrap + head()[at:], st.integers(0, len(head())), _scraps),
    st.lists(_scraps, max_size=12).map(b"".join),
    st.lists(_scraps, max_size=12).map(lambda scraps: b"GET / HTTP/1.1\r\n" + b"".join(scraps)),
    st.binary(max_size=64),
)


@pytest.mark.row("H1")
@pytest.mark.row("H3")
@pytest.mark.row("H4")
@pytest.mark.row("H7")
@pytest.mark.clause("C1")
@pytest.mark.clause("C3")
@given(cuts(st.builds(bytes.__add__, _heads, st.binary(max_size=16))))
def test_any_bytes_in_any_reads(stream: Cut) -> None:
    """The verdict is that of the bytes, it comes with the read that makes it certain, and it loses nothing."""
    whole, _ = read_head([stream.data])
    single = verdict_of(stream.data)
    verdict, reader = read_head(stream.reads)
    if single is None:
        assert verdict is whole is None
        return
    at, said = single
    assert whole is not None
    assert verdict is not None
    assert whole[1] == verdict[1] == said
    ends = [sum(map(len, stream.reads[: count + 1])) for count in range(len(stream.reads))]
    assert verdict[0] == min(end for end in ends if end >= at)
    if isinstance(said, Request):
        assert reader.rest == stream.data[at:]
    assert len(reader) == len(stream.data)
    assert at <= LIMITS.head_size + 1


NAMES = ["Host", "host", "Content-Length", "Transfer-Encoding", "A", "x-a", "!#$%&'*+.^_`|~", "", "A B"]
VALUES = ["", "a", "0", "1, 1", "chunked", " a", "a \t", "\ta\tb ", "\x80\xff", "a\x0b", "a\x85", "\xa0", ":", "a\r"]
FIELDS = ["".join(parts) for parts in product(NAMES, [":", ": ", ":\t", " :", ""], VALUES)]
METHODS = ["GET", "HEAD", "CONNECT", "get", "!", "", "G:"]
TARGETS = ["/", "/a?b=c", "/a?", "*", "a:1", "http://a/", "http://a", "/\x7f", "/é", ""]
LINES = [" ".join(parts) for parts in product(METHODS, TARGETS, ["HTTP/1.1", "HTTP/1.0", "HTTP/1.10", ""])]


@pytest.mark.row("H1")
@pytest.mark.row("H4")
@pytest.mark.clause("C3")
@pytest.mark.parametrize("host", [[], ["Host: a"]], ids=["without Host", "with Host"])
def test_a_head_in_one_read_is_what_it_is_in_many(host: list[str]) -> None:
    """A plain one in one read is neither looked at line by line nor by h11."""
    heads = [["GET / HTTP/1.1", *host, field] for field in FIELDS] + [[line, *host] for line in LINES]
    for lines, end in product(heads, ["\r\n", "\n"]):
        data = (end.join(lines) + end + end + "rest").encode("latin-1")
        single, (whole, reader) = verdict_of(data), read_head([data])
        assert single is not None
        assert whole is not None
        assert whole[1] == single[1], data
        if isinstance(single[1], Request):
            assert reader.rest == data[single[0] :]


# ── sizes (H1) ───────────────────────────────────────────────────────────────────────────────────────────────────────


def line_of(size: int) -> bytes:
    """A request line of so many bytes, its end among them."""
    return b"GET /" + b"a" * (size - 16) + b" HTTP/1.1\r\n"


def head_of(size: int, headers: int = 2) -> bytes:
    """A head of so many bytes, its request line and its end among them."""
    begin = b"GET / HTTP/1.1\r\n" + b"Host: a\r\n" + b"B: c\r\n" * (headers - 2)
    return begin + b"A: " + b"x" * (size - len(begin) - 7) + b"\r\n\r\n"


def edges(limits: LimitsConfig) -> list[tuple[bytes, int, Fault | None]]:
    """Heads at each limit and one byte or one header beyond, where the verdict is certain, and what it is."""
    end = b"Host: a\r\n\r\n"
    fits, too_long = line_of(limits.request_line) + end, line_of(limits.request_line + 1) + end
    whole, too_big = head_of(limits.head_size), head_of(limits.head_size + 1)
    full, too_many = head_of(900, limits.headers), head_of(900, limits.headers + 1)
    return [
        (fits, len(fits), None),
        (too_long, limits.request_line + 1, Fault.LINE_TOO_LONG),
        (b"a" * (limits.request_line + 9), limits.request_line + 1, Fault.LINE_TOO_LONG),
        (b"a" * limits.request_line + b"\xff", limits.request_line + 1, Fault.LINE_TOO_LONG),
        (b"a" * (limits.request_line - 1) + b"\xff", limits.request_line, Fault.BAD_REQUEST),
        (whole, len(whole), None),
        (too_big, limits.head_size + 1, Fault.HEAD_TOO_BIG),
        (whole[:-2] + b"y" * 400, limits.head_size + 1, Fault.HEAD_TOO_BIG),
        (full, len(full), None),
        (too_many, len(too_many) - 2, Fault.HEAD_TOO_BIG),
    ]


@pytest.mark.row("H1")
@pytest.mark.parametrize("limits", [LIMITS, LimitsConfig()], ids=["small", "default"])
def test_every_limit_holds_to_the_byte(limits: LimitsConfig) -> None:
    for stream, at, fault in edges(limits):
        verdict = verdict_of(stream, limits)
        assert verdict is not None
        assert verdict[0] == at
        assert (verdict[1] if isinstance(verdict[1], Fault) else None) is fault
        assert HeadReader(limits).receive(stream) == verdict[1]
        assert HeadReader(limits).receive(stream[: at - 1]) is None
        assert HeadReader(limits).receive(stream[:at]) == verdict[1]


@pytest.mark.row("H1")
@pytest.mark.clause("C3")
@given(st.sampled_from(edges(LIMITS)), st.data())
def test_every_limit_holds_in_any_reads(edge: tuple[bytes, int, Fault | None], data: st.DataObject) -> None:
    stream, at, fault = edge
    verdict, _ = read_head(data.draw(splits(stream)))
    assert verdict is not None
    assert verdict[0] >= at
    assert (verdict[1] if isinstance(verdict[1], Fault) else None) is fault


@pytest.mark.row("H1")
def test_a_line_that_no_head_could_hold_is_too_long() -> None:
    """Also where the configuration lets a line be longer than a head."""
    limits = LimitsConfig(request_line=1024, head_size=256)
    for stream in (line_of(300), line_of(300)[:-2] + b"\xff"):
        assert verdict_of(stream, limits) == (257, Fault.LINE_TOO_LONG)
        assert HeadReader(limits).receive(stream) is Fault.LINE_TOO_LONG


# ── what is not HTTP/1.1 (H3, H4, H5) ────────────────────────────────────────────────────────────────────────────────

TLS_HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(range(64))
STRANGE = {
    "TLS": (TLS_HELLO, 1, Fault.BAD_REQUEST),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16, Fault.BAD_VERSION),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 16, Fault.BAD_VERSION),
    "HTTP/0.9": (b"GET /\r\n", 7, Fault.BAD_REQUEST),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\n", 17, Fault.BAD_REQUEST),
    "small letters": (b"GET / http/1.1\r\n", 16, Fault.BAD_REQUEST),
    "two spaces": (b"GET  / HTTP/1.1\r\n", 17, Fault.BAD_REQUEST),
    "a space before the line": (b" GET / HTTP/1.1\r\n", 17, Fault.BAD_REQUEST),
    "a space after the line": (b"GET / HTTP/1.1 \r\n", 17, Fault.BAD_REQUEST),
    "a tab in the line": (b"GET\t/ HTTP/1.1\r\n", 4, Fault.BAD_REQUEST),
    "a return in the line": (b"GET /\r HTTP/1.1\r\n", 17, Fault.BAD_REQUEST),
    "no method": (b"/ HTTP/1.1\r\n", 12, Fault.BAD_REQUEST),
    "a method that is none": (b"G@T / HTTP/1.1\r\n", 16, Fault.BAD_REQUEST),
    "an empty line first": (b"\r\nGET / HTTP/1.1\r\n", 2, Fault.BAD_REQUEST),
    "no ASCII in the target": (b"GET /\xc3\xb1 HTTP/1.1\r\n", 6, Fault.BAD_REQUEST),
    "a lone LF after the line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 15, Fault.BAD_REQUEST),
    "a lone LF after a header": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 24, Fault.BAD_REQUEST),
    "a lone LF as the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 26, Fault.BAD_REQUEST),
    "a line folded with a space": (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 29, Fault.BAD_REQUEST),
    "a line folded with a tab": (b"GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", 29, Fault.BAD_REQUEST),
    "a first header that is folded": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 26, Fault.BAD_REQUEST),
    "a name with a space": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 28, Fault.BAD_REQUEST),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 24, Fault.BAD_REQUEST),
    "a header without a name": (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 32, Fault.BAD_REQUEST),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 18, Fault.BAD_REQUEST),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 36, Fault.BAD_REQUEST),
    "two lengths": (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n", 65, Fault.BAD_REQUEST,
    ),
}  # fmt: skip


@pytest.mark.row("H3")
@pytest.mark.row("H4")
@pytest.mark.row("H5")
@pytest.mark.parametrize(("data", "at", "fault"), STRANGE.values(), ids=STRANGE.keys())
def test_what_is_no_request_is_refused_at_once(data: bytes, at: int, fault: Fault) -> None:
    assert verdict_of(data) == (at, fault)
    assert HeadReader(LIMITS).receive(data) is fault


@pytest.mark.row("H3")
@given(st.binary(min_size=LIMITS.request_line + 1, max_size=LIMITS.request_line + 64))
def test_noise_is_refused_within_a_line(noise: bytes) -> None:
    verdict = HeadReader(LIMITS).receive(noise)
    assert verdict in (Fault.BAD_REQUEST, Fault.BAD_VERSION, Fault.LINE_TOO_LONG)


@pytest.mark.row("H4")
@pytest.mark.clause("C3")
@given(st.sampled_from([*range(9), *range(11, 32), 127]), st.data())
def test_a_control_character_in_a_value_is_refused(control: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(UPGRADE)))
    value = UPGRADE[name]
    at = data.draw(st.integers(0, len(value)))
    stream = head(headers={name: value[:at] + chr(control) + value[at:]})
    reads = data.draw(splits(stream))
    verdict, _ = read_head(reads)
    assert verdict is not None
    assert verdict[1] is Fault.BAD_REQUEST


@pytest.mark.row("H4")
def test_tabs_and_other_alphabets_are_let_into_a_value() -> None:
    request = judge(head(headers={"X-Name": "\ta\tb ñ\xff \t"}))
    assert isinstance(request, Request)
    assert request.value("x-name") == "a\tb ñ\xff"


def test_a_request_reads_as_it_came() -> None:
    request = judge(head("GET /a?b=c?d HTTP/1.1", {"X-List": ["a, b", ",", "c"]}))
    assert isinstance(request, Request)
    assert (request.method, request.target, request.path, request.query) == ("GET", "/a?b=c?d", "/a", "b=c?d")
    assert request.values("x-list") == ["a, b", ",", "c"]
    assert request.items("x-list") == ["a", "b", "c"]
    assert request.value("x-list") == "a, b"
    assert (request.value("x-none"), request.values("x-none"), request.items("x-none")) == (None, [], [])
    assert Request("GET", "/a", ()).query == ""


# ── the checks on an upgrade (H5, H6, H8) ────────────────────────────────────────────────────────────────────────────

BAD, UPGRADE_BAD, BODY = Fault.BAD_REQUEST, Fault.BAD_UPGRADE, Fault.BODY_REFUSED
UPGRADES: dict[str, tuple[bytes, Fault | None]] = {
    "as it should be": (head(), None),
    "any letter case": (head(headers={"Upgrade": "WebSocket", "Connection": "UPGRADE"}), None),
    "one protocol of several": (head(headers={"Upgrade": "h2c, websocket"}), None),
    "Connection in two lines": (head(headers={"Connection": ["keep-alive", "upgrade"]}), None),
    "an extension": (head(headers={"Sec-WebSocket-Extensions": "permessage-deflate"}), None),
    "an IPv6 host": (head(headers={"Host": "[::1]:8765"}), None),
    "no body at all": (head(headers={"Content-Length": "0"}), None),
    "the absolute form": (head("GET http://localhost:8765/a?b HTTP/1.1"), None),
    "another method": (head("POST / HTTP/1.1"), Fault.METHOD_REFUSED),
    "HEAD": (head("HEAD / HTTP/1.1"), Fault.METHOD_REFUSED),
    "a method in small letters": (head("get / HTTP/1.1"), Fault.METHOD_REFUSED),
    "HTTP/1.0": (head("GET / HTTP/1.0"), Fault.BAD_VERSION),
    "a target that is no path": (head("GET a HTTP/1.1"), BAD),
    "the asterisk form": (head("OPTIONS * HTTP/1.1"), BAD),
    "the authority form": (head("CONNECT localhost:8765 HTTP/1.1"), BAD),
    "another server's absolute form": (head("GET http://evil/ HTTP/1.1"), BAD),
    "an absolute form with a user": (head("GET http://me@localhost:8765/ HTTP/1.1"), BAD),
    "an absolute form of another scheme": (head("GET ftp://localhost:8765/ HTTP/1.1"), BAD),
    "no Host": (head(headers={"Host": None}), BAD),
    "an empty Host": (head(headers={"Host": ""}), BAD),
    "two Hosts": (head(headers={"Host": ["a", "b"]}), BAD),
    "a Host with a user": (head(headers={"Host": "a@b"}), BAD),
    "a Host with a path": (head(headers={"Host": "a/b"}), BAD),
    "a Host with no number as port": (head(headers={"Host": "a:b"}), BAD),
    "a Host with a long port": (head(headers={"Host": "a:123456"}), BAD),
    "a Host with raised digits": (head(headers={"Host": "a:\xb2"}), BAD),
    "a Host that is not ASCII": (head(headers={"Host": "\xf1"}), BAD),
    "a Host with an open bracket": (head(headers={"Host": "[::1"}), BAD),
    "no Upgrade": (head(headers={"Upgrade": None}), Fault.NO_UPGRADE),
    "an empty Upgrade": (head(headers={"Upgrade": ""}), UPGRADE_BAD),
    "another Upgrade": (head(headers={"Upgrade": "h2c"}), UPGRADE_BAD),
    "two Upgrades": (head(headers={"Upgrade": ["websocket", "websocket"]}), UPGRADE_BAD),
    "no Connection": (head(headers={"Connection": None}), UPGRADE_BAD),
    "another Connection": (head(headers={"Connection": "keep-alive"}), UPGRADE_BAD),
    "no version": (head(headers={"Sec-WebSocket-Version": None}), UPGRADE_BAD),
    "an empty version": (head(headers={"Sec-WebSocket-Version": ""}), UPGRADE_BAD),
    "two versions": (head(headers={"Sec-WebSocket-Version": ["13", "13"]}), UPGRADE_BAD),
    "an old version": (head(headers={"Sec-WebSocket-Version": "8"}), Fault.NOT_WEBSOCKET),
    "a version too many": (head(headers={"Sec-WebSocket-Version": "13, 8"}), Fault.NOT_WEBSOCKET),
    "no key": (head(headers={"Sec-WebSocket-Key": None}), UPGRADE_BAD),
    "an empty key": (head(headers={"Sec-WebSocket-Key": ""}), UPGRADE_BAD),
    "two keys": (head(headers={"Sec-WebSocket-Key": [KEY, KEY]}), UPGRADE_BAD),
    "a key of 15 bytes": (head(headers={"Sec-WebSocket-Key": b64encode(bytes(15)).decode()}), UPGRADE_BAD),
    "a key of 17 bytes": (head(headers={"Sec-WebSocket-Key": b64encode(bytes(17)).decode()}), UPGRADE_BAD),
    "a key of 18 bytes": (head(headers={"Sec-WebSocket-Key": b64encode(bytes(18)).decode()}), UPGRADE_BAD),
    "a key that is no base64": (head(headers={"Sec-WebSocket-Key": "!" * 22 + "=="}), UPGRADE_BAD),
    "a key with a space in it": (head(headers={"Sec-WebSocket-Key": KEY[:8] + " " + KEY[9:]}), UPGRADE_BAD),
    "a key that is not ASCII": (head(headers={"Sec-WebSocket-Key": "\xf1" * 24}), UPGRADE_BAD),
    "a subprotocol": (head(headers={"Sec-WebSocket-Protocol": "qaws.v1, a"}), None),
    "a subprotocol twice": (head(headers={"Sec-WebSocket-Protocol": "a, a"}), UPGRADE_BAD),
    "a subprotocol twice in two lines": (head(headers={"Sec-WebSocket-Protocol": ["a", "a"]}), UPGRADE_BAD),
    "a subprotocol that is no token": (head(headers={"Sec-WebSocket-Protocol": "a=b"}), UPGRADE_BAD),
    "a subprotocol that is not ASCII": (head(headers={"Sec-WebSocket-Protocol": "a, \xf1"}), UPGRADE_BAD),
    "a body": (head(headers={"Content-Length": "1"}), BODY),
    "a body of 00": (head(headers={"Content-Length": "00"}), BODY),
    "a body of -1": (head(headers={"Content-Length": "-1"}), BAD),
    "a body of 5,000 digits": (head(headers={"Content-Length": "9" * 5000}), BAD),
    "a chunked body": (head(headers={"Transfer-Encoding": "chunked"}), BODY),
    "a coded body": (head(headers={"Transfer-Encoding": "gzip"}), BAD),
    "a doubly coded body": (head(headers={"Transfer-Encoding": ["chunked", "chunked"]}), BAD),
}


@pytest.mark.row("H5")
@pytest.mark.row("H6")
@pytest.mark.row("H8")
@pytest.mark.parametrize(("data", "fault"), UPGRADES.values(), ids=UPGRADES.keys())
def test_an_upgrade_is_what_the_rfc_says(data: bytes, fault: Fault | None) -> None:
    verdict = judge(data)
    assert (verdict if isinstance(verdict, Fault) else None) is fault


@pytest.mark.row("H5")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": None}, 400),
        ({"Upgrade": None, "Connection": None}, 400),
        ({"Upgrade": None, "Sec-WebSocket-Version": "8"}, 400),
        ({"Upgrade": "h2c"}, 400),
        ({"Sec-WebSocket-Version": None}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
    ],
)
def test_only_a_wrong_version_has_to_be_upgraded(headers: Lines, status: int) -> None:
    verdict = judge(head(headers=headers))
    assert isinstance(verdict, Fault)
    assert verdict.value.status == status


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [("http://localhost:8765", "/", ""), ("HTTPS://localhost:8765/a", "/a", ""), ("http://localhost:8765?b", "/", "b")],
)
def test_an_absolute_target_is_read_as_its_path(target: str, path: str, query: str) -> None:
    request = judge(head(f"GET {target} HTTP/1.1"))
    assert isinstance(request, Request)
    assert (request.path, request.query) == (path, query)


@pytest.mark.row("H5")
@given(st.binary(max_size=20))
def test_a_key_is_sixteen_bytes(key: bytes) -> None:
    verdict = judge(head(headers={"Sec-WebSocket-Key": b64encode(key).decode()}))
    assert isinstance(verdict, Request) is (len(key) == 16)


_value = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)


@pytest.mark.row("H5")
@given(_value)
def test_whatever_is_taken_for_a_key_is_one(key: str) -> None:
    verdict = judge(head(headers={"Sec-WebSocket-Key": key}))
    assert isinstance(verdict, Request) is (re.fullmatch(r"[A-Za-z0-9+/]{22}==", key.strip(" \t")) is not None)


@pytest.mark.row("H6")
@given(st.text("0123456789", min_size=1, max_size=30))
def test_no_upgrade_has_a_body(length: str) -> None:
    verdict = judge(head(headers={"Content-Length": length}))
    assert isinstance(verdict, Request) is (length == "0")


_HOSTILE = ["", "=abc", "a=", ";", ",", '"', "a;b=" + "9" * 5000, "\xff\xfe", "(comment)", "permessage-deflate; " * 9]
_NAMES = [
    "Host", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "Upgrade", "Connection",
    "Origin", "Content-Length", "Transfer-Encoding", "Expect", "Authorization", "Cookie",
]  # fmt: skip


@pytest.mark.row("H8")
@pytest.mark.clause("C1")
@given(
    st.dictionaries(
        st.sampled_from(_NAMES), st.lists(st.one_of(st.sampled_from(_HOSTILE), _value), max_size=3), max_size=4
    )
)
def test_hostile_values_are_declined_or_refused(headers: dict[str, list[str]]) -> None:
    """Whatever they are: no exception, one Host of the plain kind where they pass, and no extension is taken."""
    verdict = judge(head(headers=dict(headers)))
    if isinstance(verdict, Fault):
        assert verdict.value.status in (400, 426, 431)
        return
    (host,) = verdict.values("host")
    assert host.isascii()
    answer = h11_response(accept_response(verdict, None), method=b"GET", upgrade=True)[0]
    assert {name for name, _ in answer.headers} == {b"upgrade", b"connection", b"sec-websocket-accept"}


# ── answers (H9) ─────────────────────────────────────────────────────────────────────────────────────────────────────


def h11_response(
    data: bytes, method: bytes = b"GET", *, upgrade: bool = False
) -> tuple[h11.Response | h11.InformationalResponse, bytes]:
    """The one answer in the bytes and its body, as h11 reads them as a client; there is nothing behind it."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "a"), *([("Connection", "Upgrade"), ("Upgrade", "websocket")] if upgrade else [])]
    connection.send(h11.Request(method=method, target="/", headers=headers))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    answer = connection.next_event()
    assert isinstance(answer, h11.Response | h11.InformationalResponse)
    if answer.status_code == 101:
        assert connection.trailing_data == (b"", False)
        return answer, b""
    connection.receive_data(b"")
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert isinstance(connection.next_event(), h11.ConnectionClosed)
    assert connection.trailing_data == (b"", True)
    return answer, body


def assert_one_answer(data: bytes, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
    """Exactly one answer of at most 1 KiB that ends the connection: its status, headers and body."""
    answer, body = h11_response(data, method)
    assert len(data) <= 1024
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        known = headers.get(name.decode())
        headers[name.decode()] = value.decode() if known is None else f"{known}, {value.decode()}"
    assert headers["connection"].startswith("close")
    if answer.status_code == 204:
        assert "content-length" not in headers, "RFC 9110 section 8.6"
    else:
        assert method == b"HEAD" or headers["content-length"] == str(len(body))
    return answer.status_code, headers, body


REFUSALS = [fault for fault in Fault if fault.value.status is not None]


@pytest.mark.row("H9")
@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("retry_after", [None, 5])
def test_every_refusal_is_one_small_answer(fault: Fault, retry_after: int | None) -> None:
    status, headers, body = assert_one_answer(refusal(fault, retry_after).encode())
    assert status == fault.value.status
    assert body.decode() == fault.value.word + "\n"
    assert headers.get("retry-after") == (None if retry_after is None else "5")
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert headers.get("allow") == ("GET" if status == 405 else None)
    assert headers.get("sec-websocket-version") == ("13" if status == 426 else None)
    assert headers.get("upgrade") == ("websocket" if status == 426 else None)
    assert headers["connection"] == ("close, Upgrade" if status == 426 else "close"), "RFC 9110 section 7.8"
    assert assert_one_answer(refusal(fault).encode(bodyless=True), b"HEAD")[2] == b""


def test_a_fault_without_a_status_has_no_answer() -> None:
    with pytest.raises(AssertionError, match="no HTTP status"):
        refusal(Fault.INVALID_UTF8)


def test_an_answer_reads_as_it_was_written() -> None:
    status, headers, body = assert_one_answer(
        response(200, '"ñ"', [("Vary", "Origin")], media_type="application/json").encode()
    )
    assert (status, body.decode()) == (200, '"ñ"')
    assert headers == {
        "connection": "close",
        "vary": "Origin",
        "content-type": "application/json; charset=utf-8",
        "content-length": "4",
    }
    assert assert_one_answer(response(204).encode())[1] == {"connection": "close"}


CANARY = "x-canary-7d1f"
NOW = Now(mono=1000.0, unix=1_700_000_000.0)


def answer_of(reads: list[bytes]) -> tuple[bytes, bool]:
    """All that a node sends to a peer that sends these reads, and whether it half-closes behind it."""
    config = WebSocketConfig.model_validate({"security": {"authentication": {"enabled": False}}})
    gateway = Gateway(config, ids=lambda: "id")
    effects = gateway.step(ConnectionOpened(connection=0, peer="203.0.113.7"), NOW)
    for read in reads:
        effects += gateway.step(BytesReceived(connection=0, data=read), NOW)
    sent = b"".join(effect.data for effect in effects if isinstance(effect, SendBytes))
    return sent, any(isinstance(effect, CloseWrite) for effect in effects)


_canary = st.sampled_from([CANARY, f'"{CANARY}"', f"http://{CANARY}", f"{CANARY}, {CANARY}", f"13{CANARY}", ""])


@pytest.mark.row("H9")
@pytest.mark.clause("C3")
@given(
    st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", CANARY]),
    st.sampled_from(["/", "/healthz", "/readyz", f"/{CANARY}", f"/?token={CANARY}", f"http://{CANARY}/", "*"]),
    st.dictionaries(st.sampled_from([*_NAMES, "Sec-WebSocket-Key", "X-Forwarded-For", CANARY]), _canary, min_size=1),
    st.sampled_from([b"", CANARY.encode(), head()]),
    st.data(),
)
def test_no_answer_repeats_the_request(
    method: str, target: str, headers: dict[str, str], behind: bytes, data: st.DataObject
) -> None:
    """One answer, whatever the request and the reads, and nothing of the request in it."""
    stream = head(f"{method} {target} HTTP/1.1", dict(headers)) + behind
    whole, ended = answer_of([stream])
    if whole.startswith(b"HTTP/1.1 101 "):
        return
    assert ended
    assert_one_answer(whole, b"HEAD" if method == "HEAD" else b"GET")
    assert CANARY.encode() not in whole.lower()
    assert answer_of(data.draw(splits(stream))) == (whole, ended)


# ── the 101 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_accept_key_is_the_one_of_the_rfc() -> None:
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455 section 1.3"


@given(st.binary(min_size=16, max_size=16))
def test_every_key_is_accepted_with_its_digest(key: bytes) -> None:
    text = b64encode(key)
    digest = b64encode(sha1(text + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    assert accept_key(text.decode()) == digest


@pytest.mark.parametrize("subprotocol", [None, "qaws.v1"])
def test_the_101_is_what_a_client_expects(subprotocol: str | None) -> None:
    request = judge(head())
    assert isinstance(request, Request)
    answer, _ = h11_response(accept_response(request, subprotocol), upgrade=True)
    assert answer.status_code == 101
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    assert headers.pop("sec-websocket-protocol", None) == subprotocol
    assert headers == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    }


@pytest.mark.clause("C12")
def test_a_request_shows_no_token() -> None:
    request = Request("GET", "/chat?token=canary", (("authorization", "Bearer canary"),))
    assert repr(request) == "Request(method='GET', path='/chat')"
