"""Our handshake beside that of the package `websockets`: what is accepted, and with what answer.

As in tests/wire/test_differential.py: `DIFFERENCES` is all that may differ, shown in docs/differences.md, and each row
is met by its example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request as ForeignRequest
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from qaws_proto.config import CompressionConfig, LimitsConfig
from qaws_proto.testing.server_stream import ServerStream
from qaws_proto.testing.strategies import splits
from qaws_proto.wire.deflate import Deflate
from qaws_proto.wire.frames import Violated
from qaws_proto.wire.http import Request, check_request, check_upgrade
from qaws_proto.wire.link import ByteLink

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOL = "qaws.v1"
Lines = dict[str, tuple[str, ...]]
GOOD: Lines = {
    "Host": ("localhost",), "Upgrade": ("websocket",), "Connection": ("Upgrade",), "Sec-WebSocket-Key": (KEY,),
    "Sec-WebSocket-Version": ("13",),
}  # fmt: skip


class Verdict(NamedTuple):
    """What became of a request: why it was refused, or what the 101 says (the extension without order)."""

    refused: str | None
    accept: str | None = None
    subprotocol: str | None = None
    extension: frozenset[str] = frozenset()


def head(lines: Lines, first: str = "GET / HTTP/1.1") -> bytes:
    """A request with some headers of a good one replaced."""
    fields = [f"{name}: {value}" for name, values in (GOOD | lines).items() for value in values]
    return ("\r\n".join([first, *fields]) + "\r\n\r\n").encode("latin-1")


def answered(request: bytes, answer: bytes) -> Verdict:
    """What a 101 says; ours is read as strictly as theirs."""
    stream = ServerStream(request)
    stream.receive(answer)
    assert stream.head is not None
    assert stream.head.status == 101
    headers = stream.head.headers
    extension = headers.get("sec-websocket-extensions")
    return Verdict(
        None, headers["sec-websocket-accept"], headers.get("sec-websocket-protocol"),
        frozenset(extension.split("; ") if extension else ()),
    )  # fmt: skip


def ours(request: bytes, reads: Sequence[bytes]) -> Verdict:
    link = ByteLink(LimitsConfig(), Deflate(CompressionConfig(enabled=True)))
    verdict = None
    for read in reads:
        link.receive(read)
        verdict = link.next_event() or verdict
    if isinstance(verdict, Violated):
        return Verdict(verdict.fault.name)
    assert isinstance(verdict, Request), "the head is whole"
    fault = check_request(verdict) or check_upgrade(verdict)
    if fault is not None:
        return Verdict(fault.name)
    offered = verdict.items("sec-websocket-protocol")
    return answered(request, link.accept(verdict, SUBPROTOCOL if SUBPROTOCOL in offered else None))


def select(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """As we do it: with ours where it is offered, else without any."""
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def theirs(request: bytes, reads: Sequence[bytes]) -> Verdict:
    factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    protocol = ServerProtocol(extensions=[factory], select_subprotocol=select)
    for read in reads:
        protocol.receive_data(read)
        for event in protocol.events_received():
            assert isinstance(event, ForeignRequest)
            try:
                protocol.send_response(protocol.accept(event))
            except UnicodeEncodeError:  # their answer repeats the header, which is no ASCII
                assert protocol.handshake_exc is not None
                return Verdict(str(protocol.handshake_exc))
    if protocol.state is not State.OPEN:
        assert protocol.handshake_exc is not None
        chain = protocol.handshake_exc, protocol.handshake_exc.__cause__
        return Verdict("; ".join(str(one) for one in chain if one is not None))
    answer = b"".join(protocol.data_to_send())
    return answered(request, answer)


# ── what differs ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Difference(NamedTuple):
    """One way in which both may differ: when it applies, and a request that shows it."""

    what: str
    rfc: str
    reason: str
    applies: Callable[[Verdict, Verdict, bytes], bool]
    example: bytes


def only_we(*faults: str) -> Callable[[Verdict, Verdict, bytes], bool]:
    """We refuse with one of these, they accept."""
    return lambda mine, other, request: mine.refused in faults and other.refused is None


def only_they(*texts: str) -> Callable[[Verdict, Verdict, bytes], bool]:
    """They refuse with one of these texts, we accept."""
    return lambda mine, other, request: (
        mine.refused is None and other.refused is not None and any(text in other.refused for text in texts)
    )


def alike_but_extension(mine: Verdict, other: Verdict) -> bool:
    return mine.refused is other.refused is None and mine[1:3] == other[1:3]


def is_bad_host(mine: Verdict, other: Verdict, request: bytes) -> bool:
    return only_we("BAD_REQUEST")(mine, other, request) and request.count(b"\r\nHost: localhost\r\n") != 1


def is_bad_target(mine: Verdict, other: Verdict, request: bytes) -> bool:
    return only_we("BAD_REQUEST")(mine, other, request) and not request.startswith(b"GET / HTTP/1.1\r\n")


def is_doubled_subprotocol(mine: Verdict, other: Verdict, request: bytes) -> bool:
    return only_we("BAD_UPGRADE")(mine, other, request) and request.count(SUBPROTOCOL.encode()) > 1


def is_declined(mine: Verdict, other: Verdict, request: bytes) -> bool:
    """We agree on nothing where they do."""
    window = any(part in request for part in (b"=8", b'"8"'))
    return alike_but_extension(mine, other) and not mine.extension and bool(other.extension) and window


def is_client_window(mine: Verdict, other: Verdict, request: bytes) -> bool:
    more = {part.partition("=")[0] for part in other.extension ^ mine.extension}
    return alike_but_extension(mine, other) and bool(mine.extension) and more == {"client_max_window_bits"}


DIFFERENCES = [
    Difference(
        "Exactly one valid Host is needed; theirs leaves it to its caller.",
        "RFC 9112 section 3.2", "a request without one, or with two, is answered with 400",
        is_bad_host, head({"Host": ()}),
    ),
    Difference(
        "The target is a path, or an address that agrees with Host; theirs takes any.",
        "RFC 9112 section 3.2", "the section lists the forms there are", is_bad_target,
        head({}, "GET nothing HTTP/1.1"),
    ),
    Difference(
        "Each subprotocol is offered once; theirs takes doubles.",
        "RFC 6455 section 4.1", "the offered ones “MUST all be unique strings”", is_doubled_subprotocol,
        head({"Sec-WebSocket-Protocol": (f"{SUBPROTOCOL}, {SUBPROTOCOL}",)}),
    ),
    Difference(
        "Upgrade may name other protocols beside websocket; theirs wants it alone.",
        "RFC 6455 section 4.2.1", "the header has to contain “websocket”", only_they("invalid Upgrade header"),
        head({"Upgrade": ("h2c, websocket",)}),
    ),
    Difference(
        "A malformed offer of extensions is declined; theirs refuses the upgrade.",
        "RFC 6455 section 9.1", "the section asks for the latter; whoever errs in what is optional can still talk",
        only_they("invalid Sec-WebSocket-Extensions header"), head({"Sec-WebSocket-Extensions": ("a b",)}),
    ),
    Difference(
        "An empty list of subprotocols or extensions offers nothing; theirs refuses the upgrade.",
        "RFC 9110 section 5.6.1", "a recipient has to take empty elements",
        only_they("header: empty", "expected token"),
        head({"Sec-WebSocket-Protocol": (",",)}),
    ),
    Difference(
        "Several Content-Length headers of 0 are one; theirs refuses them.",
        "RFC 9112 section 6.3", "a list of the same value may be taken as that value, and there is no body",
        only_they("'Content-Length'"), head({"Content-Length": ("0", "0")}),
    ),
    Difference(
        "Several Origin headers are judged where origins are, which also refuses them; theirs refuses here.",
        "RFC 6454 section 7.3", "the wire does not know origins", only_they("invalid Origin header"),
        head({"Origin": ("http://a", "http://b")}),
    ),
    Difference(
        "A window of 8 bits is declined, and so is the offer; theirs agrees to it.",
        "RFC 7692 section 7.1.2.1", "zlib has no such window", is_declined,
        head({"Sec-WebSocket-Extensions": ("permessage-deflate; server_max_window_bits=8",)}),
    ),
    Difference(
        "The window of the client is not answered: any is read; theirs answers it.",
        "RFC 7692 section 7.1.2.2", "the answer would only limit the client", is_client_window,
        head({"Sec-WebSocket-Extensions": ("permessage-deflate; client_max_window_bits=10",)}),
    ),
]  # fmt: skip


def check(request: bytes, reads: Sequence[bytes]) -> list[Difference]:
    """Both judge a request alike, or differ as agreed; the rows that say so."""
    mine, other = ours(request, reads), theirs(request, reads)
    if mine == other or (mine.refused is not None and other.refused is not None):
        return []
    rows = [row for row in DIFFERENCES if row.applies(mine, other, request)]
    assert rows, f"not on the list:\n  ours   {mine}\n  theirs {other}"
    return rows


def test_the_page_shows_each_difference() -> None:
    shown = (Path(__file__).parents[2] / "docs" / "differences.md").read_text("utf-8")
    assert [row for row in DIFFERENCES if f"| {row.what} | {row.reason} | {row.rfc} |" not in shown] == []


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.what[:50])
def test_each_difference_is_met_by_its_example(row: Difference) -> None:
    assert row in check(row.example, [row.example])


# ── any request ──────────────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE: dict[str, list[tuple[str, ...]]] = {
    "Host": [(), ("a", "b"), ("a b",), ("localhost:8765",), ("[::1]",), ("ñ",), ("a/b",)],
    "Upgrade": [(), ("WebSocket",), ("h2c",), ("h2c, websocket",), ("websocket", "websocket"), ("web socket",)],
    "Connection": [
        (), ("close",), ("keep-alive, Upgrade",), ("keep-alive", "upgrade"), ("upgrade;x",), (",,Upgrade,",),
    ],
    "Sec-WebSocket-Key": [
        (), ("",), (KEY, KEY), ("AAAA",), (KEY[:-1],), (KEY + "=",), (KEY + "\t",), ("ñ" * 24,), ("A" * 5000,),
        ("AAAAAAAAAAAAAAAAAAAAAA==",), ("=" * 24,), (KEY[:12] + "_" + KEY[13:],), (KEY[:12] + " " + KEY[12:],),
    ],
    "Sec-WebSocket-Version": [(), ("8",), ("13", "13"), ("13, 8",), ("013",), ("",), (" 13 ",)],
    "Sec-WebSocket-Protocol": [
        (SUBPROTOCOL,), ("other",), (f"other, {SUBPROTOCOL}",), ("other", SUBPROTOCOL),
        (f"{SUBPROTOCOL}, {SUBPROTOCOL}",),
        (",",), ("a b",), ("ñ",), ("a/b",), (f"{SUBPROTOCOL},",), (SUBPROTOCOL.upper(),),
    ],
    "Sec-WebSocket-Extensions": [
        ("permessage-deflate",), ("permessage-deflate; client_max_window_bits",), ("x-other",), ("a b",), ("=abc",),
        ("permessage-deflate; server_max_window_bits=10",), ("permessage-deflate; server_max_window_bits=8",),
        ("permessage-deflate; server_max_window_bits=16",), ("permessage-deflate; server_max_window_bits=010",),
        ("permessage-deflate; server_max_window_bits",), ("permessage-deflate; client_max_window_bits=10",),
        ("permessage-deflate; unknown",), ("permessage-deflate; server_no_context_takeover=1",),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover",), (",",),
        ('permessage-deflate; server_max_window_bits="10"',), ("x-other, permessage-deflate",),
        ("x-other", "permessage-deflate"),
        ("permessage-deflate; unknown, permessage-deflate",),
        ("permessage-deflate; server_max_window_bits=" + "1" * 5000,),
        ("ñ",), ("permessage-deflate;",), ("PERMESSAGE-DEFLATE",), ("permessage-deflate, permessage-deflate",),
    ],
    "Origin": [("https://a.example",), ("null",), ("http://a", "http://b")],
    "Content-Length": [("0",), ("1",), ("x",), ("0", "0")],
    "Transfer-Encoding": [("chunked",), ("identity",)],
    "X": [("\x00",), ("\x7f",), ("a\r\n b",), ("ñ",), ("\t",)],
}  # fmt: skip
FIRST = [
    "POST / HTTP/1.1", "GET / HTTP/1.0", "GET / HTTP/2.0", "GET  / HTTP/1.1", "GET / http/1.1", "GET nothing HTTP/1.1",
    "GET http://localhost/x HTTP/1.1", "GET http://other/x HTTP/1.1", "GET * HTTP/1.1", "GET /ñ HTTP/1.1", "GET /",
    "GET / x HTTP/1.1", "get / HTTP/1.1", "GET /?a=b HTTP/1.1",
]  # fmt: skip
changes = st.lists(st.sampled_from(sorted(HOSTILE)), max_size=2, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(HOSTILE[name]) for name in names})
)
requests = st.builds(head, changes, st.one_of(*[st.just("GET / HTTP/1.1")] * 3, st.sampled_from(FIRST)))


@pytest.mark.row("H5")
@pytest.mark.row("H6")
@pytest.mark.row("H8")
@given(requests, st.data())
def test_requests_are_judged_alike(request: bytes, data: st.DataObject) -> None:
    check(request, data.draw(splits(request)))


def every_request() -> list[bytes]:
    return [
        *(head({name: values}) for name, all_values in HOSTILE.items() for values in all_values),
        *(head({}, first) for first in FIRST),
    ]


@pytest.mark.row("H5")
@pytest.mark.row("H8")
@pytest.mark.parametrize("request_", every_request(), ids=range(len(every_request())))
def test_each_single_change_is_judged_alike(request_: bytes) -> None:
    check(request_, [request_])
