"""`/metrics` as the core answers it, on either kind of connection; and what the core counts."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given

from qaws_proto import EventType, WebSocketConfig
from qaws_proto.counts import CLOSE_CODES, OTHER, Counts
from qaws_proto.effects import CollectMetrics
from qaws_proto.events import ClientEvent
from qaws_proto.faults import Fault
from qaws_proto.inputs import DrainRequested, MetricsCollected
from qaws_proto.testing.client import Client
from qaws_proto.testing.histories import Act
from qaws_proto.testing.node import configure, token
from qaws_proto.testing.peer import close_frame, request, upgrade
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest
from tests.test_contract import CONFIGS, STORED, all_configs, histories, play

TOKEN = "letters-of-Prometheus_0123456789"
PAGE = "http://localhost:3000"
hosted = pytest.mark.parametrize("hosted", [False, True], ids=["bytes", "hosted"])


def ask(
    node: NodeUnderTest, *headers: str, hosted: bool = False, path: str = "/metrics", method: str = "GET"
) -> Client:
    """A client that has asked for metrics."""
    data = request(path, *headers, method=method)
    if hosted:
        return node.request(data)
    client = node.open()
    client.send_bytes(data)
    return client


def ask_inside(node: NodeUnderTest, data: bytes) -> Client:
    """A client that has asked at the address of `metrics.listen`."""
    client = node.open(internal=True)
    client.send_bytes(data)
    return client


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


@hosted
def test_what_the_adapter_collects_is_the_one_answer(hosted: bool) -> None:
    node = NodeUnderTest()
    client = ask(node, hosted=hosted)
    assert node.scrapes == [CollectMetrics(client.number, openmetrics=False)]
    client.expect_silence()
    node.collected(b"qaws_up 1\n")
    head = client.expect_http(200)
    assert head.body == b"qaws_up 1\n"
    assert head.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert head.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in head.headers


@hosted
def test_head_is_told_the_length_and_no_more(hosted: bool) -> None:
    node = NodeUnderTest()
    client = ask(node, hosted=hosted, method="HEAD")
    node.collected(b"qaws_up 1\n")
    head = client.expect_http(200)
    assert (head.headers["content-length"], head.body) == ("10", b"")


@hosted
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_another_method_is_not_allowed(hosted: bool, method: str) -> None:
    node = NodeUnderTest()
    head = ask(node, hosted=hosted, method=method).expect_http(405)
    assert head.headers["allow"] == "GET, HEAD, OPTIONS"
    assert node.scrapes == []


def test_pages_of_a_listed_origin_may_read_it() -> None:
    node = NodeUnderTest()
    client = ask(node, f"Origin: {PAGE}")
    node.collected(b"")
    assert client.expect_http(200).headers["access-control-allow-origin"] == PAGE
    preflight = ask(node, f"Origin: {PAGE}", "Access-Control-Request-Method: GET", method="OPTIONS")
    assert preflight.expect_http(204).headers["access-control-allow-origin"] == PAGE
    client = ask(node, "Origin: https://evil.example")
    node.collected(b"")
    assert "access-control-allow-origin" not in client.expect_http(200).headers


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("application/openmetrics-text", True),
        ("text/plain;q=0.5, Application/OpenMetrics-Text;version=1.0.0;q=0.9", True),
        ("application/openmetrics-text; version=9é; escaping=x", True),
        ("application/openmetrics-texts", False),
        ("text/plain;version=0.0.4", False),
        ("*/*", False),
        ("", False),
    ],
)
@pytest.mark.row("H9")
def test_openmetrics_for_who_accepts_it_and_nothing_of_what_it_accepts_comes_back(
    accept: str, openmetrics: bool
) -> None:
    node = NodeUnderTest()
    client = node.open()
    client.send_bytes(request("/metrics", f"Accept: {accept}").decode().encode("latin-1"))
    assert node.scrapes == [CollectMetrics(client.number, openmetrics)]
    node.collected(b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8")
    head = client.expect_http(200)
    assert head.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"


@hosted
def test_an_adapter_that_does_not_answer_is_not_waited_for(hosted: bool) -> None:
    node = NodeUnderTest(configure(metrics={"timeout": 3}))
    client = ask(node, hosted=hosted)
    node.advance(2.9)
    client.expect_silence()
    node.advance(0.2)
    assert client.expect_http(503).body == b"not collected\n"
    assert node.collected(b"late") == []


@hosted
def test_an_adapter_that_cannot_collect_them_says_so(hosted: bool) -> None:
    node = NodeUnderTest()
    client = ask(node, hosted=hosted)
    node.collected(None)
    client.expect_http(500)


@hosted
@pytest.mark.clause("C6")
def test_who_has_gone_is_told_nothing(hosted: bool) -> None:
    node = NodeUnderTest()
    client = ask(node, hosted=hosted)
    client.lose()
    client.expect_dropped()
    assert node.collected(b"") == []
    node.advance(10)
    assert node.gateway.wake_at is None


@pytest.mark.clause("C6")
def test_a_host_whose_peer_closes_meanwhile_is_told_nothing() -> None:
    node = NodeUnderTest()
    client = node.request(upgrade("/metrics"))
    assert [effect.connection for effect in node.scrapes] == [client.number]
    client.leave(1001)
    client.expect_dropped()
    assert node.collected(b"") == []


@pytest.mark.clause("C7")
def test_nothing_that_comes_behind_the_request_is_kept() -> None:
    node = NodeUnderTest()
    client = ask(node)
    held = node.gateway.buffered_bytes(client.number)
    for _ in range(50):
        client.send_bytes(b"GET / HTTP/1.1\r\n\r\n" * 1000)
    assert node.gateway.buffered_bytes(client.number) == held
    node.collected(b"ok")
    client.expect_http(200)


@pytest.mark.clause("C1")
def test_an_answer_that_nobody_asked_for_changes_nothing() -> None:
    node = NodeUnderTest()
    client = node.connect()
    assert node.step(MetricsCollected(client.number, b"")) == []
    client.chat(id="m1")
    client.expect_system("message_accepted")
    with pytest.raises(ValueError, match="never opened"):
        node.gateway.step(MetricsCollected(99, b""), node.now)


# ── who may read them, and where ─────────────────────────────────────────────────────────────────────────────────────


def test_where_metrics_are_off_there_is_nothing_at_their_place() -> None:
    node = NodeUnderTest(configure(metrics={"enabled": False}))
    ask(node).expect_http(404)
    ask_inside(node, request("/metrics")).expect_http(404)


@hosted
@pytest.mark.parametrize(
    "headers",
    [
        (), ("Authorization: Bearer wrong",), (f"Authorization: Bearer {TOKEN}x",), (f"Authorization: Basic {TOKEN}",),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong"), ("Authorization: Bearer",),
        ("Authorization: Bearer ñ\udcff",),
    ],
)  # fmt: skip
@pytest.mark.row("A9")
def test_without_their_token_all_that_is_told_is_that_one_is_needed(hosted: bool, headers: tuple[str, ...]) -> None:
    node = NodeUnderTest(configure(metrics={"token": TOKEN}))
    data = request("/metrics").replace(
        b"\r\n\r\n", "".join(f"\r\n{header}" for header in headers).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
    )
    client = node.request(data) if hosted else node.open()
    if not hosted:
        client.send_bytes(data)
    head = client.expect_http(401)
    assert head.headers["www-authenticate"] == "Bearer"
    assert head.body == b"unauthorized\n"
    assert node.scrapes == []
    assert node.gateway.counts.refused == {Fault.METRICS_TOKEN: 1}


@hosted
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_their_token_opens_them_and_nothing_else(hosted: bool, scheme: str) -> None:
    node = NodeUnderTest(configure(authentication=True, metrics={"token": TOKEN}))
    client = ask(node, f"Authorization: {scheme} {TOKEN}", hosted=hosted)
    node.collected(b"ok")
    client.expect_http(200)
    ask(node, f"Authorization: Bearer {token('ana')}", hosted=hosted).expect_http(401)
    node.upgrade(f"Authorization: Bearer {TOKEN}").expect_http(401)


@pytest.mark.clause("C12")
def test_their_token_is_in_nothing_that_the_node_says() -> None:
    node = NodeUnderTest(configure(metrics={"token": TOKEN}))
    client = ask(node, f"Authorization: Bearer {TOKEN}")
    ask(node, f"Authorization: Bearer {TOKEN}x")
    node.collected(b"ok")
    client.eof()
    said = [repr(effects) for _, _, effects in node.history]
    assert len(node.notes) == 1  # the refusal
    assert not [one for one in [*said, repr(node.config), str(node.config)] if TOKEN in one]


@pytest.mark.parametrize("wrong", ["", "two words", "ñandú", "line\nbreak"])
def test_a_token_that_no_header_can_hold_is_a_mistake(wrong: str) -> None:
    with pytest.raises(ValueError, match="openssl rand") as raised:
        WebSocketConfig.model_validate({"metrics": {"token": wrong}})
    assert not wrong or wrong not in str(raised.value)


def test_an_address_of_systemd_is_no_address_for_metrics() -> None:
    with pytest.raises(ValueError, match="name another address"):
        WebSocketConfig.model_validate({"metrics": {"listen": "systemd"}})


def own_address(**metrics: Any) -> NodeUnderTest:
    """A node whose metrics have an address of their own."""
    return NodeUnderTest(configure(limits={"handshakes": 2}, metrics={"listen": "127.0.0.1:9090", **metrics}))


def test_an_address_of_its_own_serves_metrics_and_health_and_nothing_else() -> None:
    node = own_address()
    ask(node).expect_http(404)
    client = ask_inside(node, request("/metrics"))
    node.collected(b"ok")
    assert client.expect_http(200).body == b"ok"
    assert ask_inside(node, request("/healthz")).expect_http(200).body == b'{"status":"ok"}'
    ask_inside(node, request("/readyz")).expect_http(200)
    ask_inside(node, upgrade("/")).expect_http(404)
    ask_inside(node, request("/")).expect_http(404)
    node.connect()


@pytest.mark.row("H14")
def test_a_flood_of_clients_leaves_the_address_of_metrics_alone_which_has_bounds_of_its_own() -> None:
    node = own_address(scrapers=3)
    for number in range(6):
        node.open(f"192.0.2.{number}")
    assert node.gateway.counts.crowded == 2
    waiting = [node.open(internal=True) for _ in range(2)]
    scraper = ask_inside(node, request("/metrics"))
    node.collected(b"ok")
    scraper.expect_http(200)
    node.open(internal=True).expect_dropped()
    waiting[0].eof()
    ask_inside(node, request("/healthz")).expect_http(200)
    assert node.gateway.gauges.handshakes == 4


@pytest.mark.row("D1")
def test_metrics_can_be_read_until_the_node_has_drained() -> None:
    node = own_address()
    talker = node.connect()
    talker.chat(id="m1")
    node.step(DrainRequested())
    scraper = ask_inside(node, request("/metrics"))
    node.collected(b"ok")
    scraper.expect_http(200)
    assert node.gateway.gauges.draining
    node.finish(node.only_run, "x")
    node.advance(1)
    talker.send_bytes(close_frame(1012))
    talker.eof()
    assert node.drained
    node.open(internal=True).expect_dropped()


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def counted(counts: dict[Any, int]) -> dict[Any, int]:
    """Without those that are zero."""
    return {key: count for key, count in counts.items() if count}


def test_counts_after_a_history_are_exact() -> None:
    rate = {"enabled": True, "requests_per_minute": 5, "burst_size": 5, "strikes": 2}
    node = NodeUnderTest(configure(authentication=True, security={"rate_limiting": rate}), StoreModel())
    counts = node.gateway.counts
    ana, eva = node.connect("ana"), node.connect("eva")
    node.upgrade("Authorization: Bearer wrong")
    node.upgrade(path="/elsewhere")
    ask(node, path="/healthz", method="POST")
    mute = node.upgrade()
    mute.send({"type": "auth", "token": "wrong"})
    ana.chat(id="m1", stream=True)
    node.chunk(node.only_run, "¿qué")
    node.chunk(node.only_run, "")
    node.chunk(node.only_run, " tal?")
    node.finish(node.only_run, "¿qué tal? bien")
    eva.chat(id="m2")
    eva.chat(id="m3")
    node.finish(node.only_run, "hola")
    eva.send({"type": "cancel", "correlation_id": "m3"})
    eva.send({"type": "ping"})
    eva.send("no json")
    for number in range(5):
        eva.chat(id=f"m{number + 4}")
    ana.send_bytes(close_frame(3123))
    ana.eof()
    for client in (eva, mute):
        client.lose()
    assert (counts.upgraded, counts.crowded) == (3, 0)
    assert counted(counts.refused) == {Fault.BAD_TOKEN: 1, Fault.NOT_FOUND: 1, Fault.METHOD_REFUSED: 1}
    assert counted(counts.closed) == {OTHER: 1, 4401: 1, 4429: 1}
    assert counted(counts.messages) == {"auth": 1, "chat_message": 8, "cancel": 1, "ping": 1}
    assert counted(counts.errors) == {Fault.AUTH_FAILED: 1, Fault.INVALID_JSON: 1, Fault.RATE_LIMIT: 2}
    assert (counts.submitted, counts.withdrawn) == (6, 0)
    assert (counts.chunks, counts.characters) == (2, len("¿qué tal? bien" + "hola"))


def test_a_message_that_could_not_be_kept_is_withdrawn() -> None:
    node = NodeUnderTest(configure(), StoreModel(), prompt=False)
    client = node.connect()
    client.chat(id="m1")
    node.answer(fail=True)
    assert (node.gateway.counts.submitted, node.gateway.counts.withdrawn) == (1, 1)


def test_gauges_show_what_there_is_now() -> None:
    node = NodeUnderTest(configure(agent={"roll_up": 0}), StoreModel(), prompt=False)
    reader, other = node.connect(), node.connect()
    node.open()
    reader.chat(id="m1", stream=True)
    reader.chat(id="m2")
    reader.chat(id="m3")
    gauges = node.gateway.gauges
    assert gauges.unsaved_bytes > 0
    assert gauges.runs == {"queued": 3, "running": 0, "stopping": 0, "given up": 0}
    node.answer_all()
    other.block()
    other.send({"type": "ping"})
    gauges = node.gateway.gauges
    assert (gauges.connections, gauges.handshakes, gauges.sessions) == (2, 1, 1)
    assert (gauges.blocked, gauges.out_bytes > 0) == (1, True)
    assert gauges.runs == {"queued": 2, "running": 1, "stopping": 0, "given up": 0}
    assert (gauges.longest_queue, gauges.unsaved_bytes, gauges.draining) == (2, 0, False)
    assert gauges.session_bytes == node.gateway._sessions.held > 0
    reader.send({"type": "cancel", "correlation_id": "m1"})
    assert node.gateway.gauges.runs["stopping"] == 1
    node.advance(node.config.agent.cancel_grace)
    assert node.gateway.gauges.runs["given up"] == 1


@pytest.mark.parametrize(
    ("epoch", "seq", "wait", "result"),
    [(None, 0, 0, "recovered"), ("other", 0, 0, "epoch"), (None, 99, 0, "gap"), (None, 0, 100, "expired")],
)
def test_a_client_that_comes_back_is_noted_with_what_became_of_that(
    epoch: str | None, seq: int, wait: float, result: str
) -> None:
    node = NodeUnderTest(configure(authentication=True, sessions={"ttl": 50}))
    ana = node.connect("ana")
    session_id, own = ana.heard[-1]["data"]["session_id"], ana.heard[-1]["data"]["epoch"]
    ana.chat(id="m1")
    node.finish(node.only_run, "x")
    ana.lose()
    node.advance(wait)
    back = node.connect("ana")
    back.resume(session_id, seq, own if epoch is None else epoch)
    note = node.note("resumed")
    assert (note.topic, note.level) == ("message", "DEBUG")
    assert note.fields == {"connection": back.number, "session_id": session_id, "result": result}


@pytest.mark.row("S3")
def test_a_session_that_is_not_there_is_noted_as_one_of_another_user_is() -> None:
    node = NodeUnderTest(configure(authentication=True))
    ana = node.connect("ana")
    session_id = ana.heard[-1]["data"]["session_id"]
    ana.chat(id="m1")
    eva = node.connect("eva")
    for name in (session_id, "guessed"):
        eva.resume(name)
    assert [note.fields["result"] for note in node.notes if note.name == "resumed"] == ["not_found"] * 2


@given(histories, all_configs)
def test_what_is_counted_adds_up_whatever_happens(history: list[Act], config: str) -> None:
    node = play(history, (CONFIGS | STORED)[config])
    counts, gauges = node.gateway.counts, node.gateway.gauges
    upgraded = [client for client in node.clients.values() if client.stream.head and client.stream.head.status == 101]
    assert counts.upgraded == len(upgraded)
    assert counts.upgraded - sum(counts.closed.values()) == gauges.connections
    assert gauges.connections == sum(not client.dropped for client in upgraded)
    in_flight = gauges.runs["queued"] + gauges.runs["running"]
    assert counts.submitted == len(node.ended) + counts.withdrawn + in_flight
    assert sum(gauges.runs.values()) == node.gateway.runs
    assert counts.characters >= counts.chunks  # none of them is empty


@pytest.mark.clause("C7")
def test_no_peer_can_make_the_tables_of_counts_grow() -> None:
    counts = Counts({str: "a"})
    for code in range(1000, 5000):
        counts.close(code)
    for kind in (str, int, bytes):
        counts.receive(kind)
    assert counts.closed.keys() == CLOSE_CODES | {OTHER}
    assert counts.closed[OTHER] == 4000 - len(CLOSE_CODES)
    assert counts.messages == {"a": 1}


def test_a_custom_event_is_counted_by_its_own_type() -> None:
    class Rating(ClientEvent):
        type: Literal["rating"]
        stars: int

    node = NodeUnderTest(events=[EventType(Rating, lambda context, event: None)])
    client = node.connect()
    for _ in range(2):
        client.send({"type": "rating", "stars": 5})
    client.send({"type": "rating"})
    assert counted(node.gateway.counts.messages) == {"rating": 2}
    assert counted(node.gateway.counts.errors) == {Fault.INVALID_EVENT: 1}
