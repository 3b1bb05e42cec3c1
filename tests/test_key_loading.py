"""Keys that are loaded while the node runs, in virtual time: when they are read, and who waits for them (A7)."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto import Gateway
from qaws_proto.inputs import DrainRequested, KeysFailed, KeysLoaded, KeysRequested, TimerFired
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import SECRET, START, configure, counter, token
from qaws_proto.testing.peer import chat, request, text, upgrade
from tests.helpers.keys import Pair, key_set, pair
from tests.helpers.node import NodeUnderTest

ADDRESS = "https://keys.example/set"
ONE, TWO = pair("RS256", "one"), pair("EdDSA", "two")
UNSIGNED = "eyJhbGciOiJub25lIiwia2lkIjoidHdvIn0.e30."  # {"alg":"none","kid":"two"}


def started(*keys: Pair, **settings: Any) -> NodeUnderTest:
    """A node that has read these keys; that has begun to read, where there are none."""
    authentication = {"enabled": True, "jwks": ADDRESS, **settings.pop("authentication", {})}
    settings["server"] = {"heartbeat_interval": 80_000, **settings.get("server", {})}
    node = NodeUnderTest(configure(security={"authentication": authentication}, **settings))
    node.settle()
    assert node.loading is not None
    if keys:
        node.give_keys(key_set(*(key.jwk() for key in keys)))
    return node


def bearer(node: NodeUnderTest, key: Pair, user_id: str = "ana", *, hosted: bool = False) -> Client:
    """A client with a token of a key in its request."""
    headers = (f"Authorization: Bearer {key.token(user_id, unix=node.now.unix)}",)
    return node.request(upgrade("/", *headers)) if hosted else node.upgrade(*headers)


def asked(node: NodeUnderTest) -> Client:
    """A client that is asked for its token."""
    client = node.upgrade()
    client.expect_system("auth_required")
    return client


def welcomed(client: Client) -> None:
    client.expect_http(101)
    client.expect_system("connection_established")


def readiness(node: NodeUnderTest) -> int:
    client = node.open()
    client.send_bytes(request("/readyz"))
    assert client.stream.head is not None
    return client.stream.head.status


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A7")
def test_keys_are_read_at_the_start_and_the_node_is_ready_when_they_are_here() -> None:
    node = NodeUnderTest(configure(security={"authentication": {"enabled": True, "jwks": ADDRESS, "jwks_timeout": 3}}))
    assert node.gateway.wake_at is not None
    assert readiness(node) == 503
    node.settle()
    assert node.loading == (ADDRESS, 3, 64 * 1024)
    assert readiness(node) == 503
    node.give_keys(key_set(ONE.jwk(), {"kty": "?"}))
    assert node.note("keys_loaded").fields == {"keys": 1, "ignored": 1}
    assert readiness(node) == 200
    welcomed(bearer(node, ONE))


@pytest.mark.row("A7")
def test_keys_are_read_again_at_intervals_and_replace_those_before() -> None:
    node = started(ONE, authentication={"jwks_refresh": 300})
    node.advance(299.9)
    assert node.loading is None
    node.advance(0.1)
    node.give_keys(key_set(TWO.jwk()))
    welcomed(bearer(node, TWO))
    bearer(node, ONE).expect_http(401)


@pytest.mark.row("A7")
def test_keys_that_have_not_changed_are_no_news() -> None:
    node = started(ONE)
    node.advance(300)
    node.give_keys(key_set(ONE.jwk()))
    assert [note.name for note in node.notes if note.topic == "security"] == ["keys_loaded"]
    node.advance(300)
    assert node.loading is not None


@pytest.mark.row("A7")
@pytest.mark.parametrize("document", [b"", b"[]", b'{"keys":[]}', None])
def test_the_last_good_keys_stay_and_a_minute_later_it_is_tried_again(document: bytes | None) -> None:
    node = started(ONE)
    node.advance(300)
    if document is None:
        node.fail_keys("status 500")
    else:
        node.give_keys(document)
    fields = node.note("keys_failed").fields
    assert fields["kept"] == 1
    assert fields["reason"]
    assert readiness(node) == 200
    welcomed(bearer(node, ONE))
    node.advance(59.9)
    assert node.loading is None
    node.advance(0.1)
    node.give_keys(key_set(TWO.jwk()))
    welcomed(bearer(node, TWO))


@pytest.mark.row("A7")
def test_an_unknown_key_has_them_read_once_a_minute_however_many_name_one() -> None:
    node = started(ONE)
    node.advance(60)
    waiting = [bearer(node, pair("EdDSA", f"unknown {number}")) for number in range(5)]
    assert node.loading is not None  # the harness sees that it is the only one
    for client in waiting:
        client.expect_silence()
    node.give_keys(key_set(ONE.jwk()))
    for client in waiting:
        client.expect_http(401)
    for _ in range(100):
        node.advance(0.5)
        bearer(node, pair("EdDSA", "unknown")).expect_http(401)
        assert node.loading is None
    node.advance(10)
    bearer(node, pair("EdDSA", "unknown")).expect_silence()
    assert node.loading is not None


@pytest.mark.row("A7")
@pytest.mark.parametrize(
    "token",
    ["x", "a.b.c", token("ana"), UNSIGNED,
     ONE._replace(kid=None).token(unix=START.unix), pair("RS256", "one", 1).token(unix=START.unix)],
)  # fmt: skip
def test_what_names_no_unknown_key_has_nothing_read(token: str) -> None:
    node = started(ONE)
    node.advance(200)
    node.upgrade(f"Authorization: Bearer {token}").expect_http(401)
    assert node.loading is None


@pytest.mark.row("A7")
def test_the_operator_may_have_them_read_at_any_time() -> None:
    node = started(ONE)
    node.step(KeysRequested())
    assert node.loading is not None
    node.step(KeysRequested())  # which is under way
    node.give_keys(key_set(TWO.jwk()))
    welcomed(bearer(node, TWO))


@pytest.mark.row("A7")
def test_a_key_that_has_ended_is_as_good_as_none() -> None:
    node = started(authentication={"jwks_refresh": 3600})
    node.give_keys(key_set(ONE.jwk(exp=START.unix + 100), TWO.jwk()))
    welcomed(bearer(node, ONE))
    node.advance(100)
    client = bearer(node, ONE)
    client.expect_silence()  # there may be a new one of that name
    node.give_keys(key_set(ONE.jwk(), TWO.jwk()))
    welcomed(client)


@pytest.mark.row("A7")
@pytest.mark.row("A3")
def test_the_secret_before_ends_at_its_date_on_the_wall_clock() -> None:
    now = {"jwt_secret": f"newer: {SECRET}", "previous_secret": SECRET, "previous_secret_until": START.unix + 1000}
    node = NodeUnderTest(configure(security={"authentication": {"enabled": True, **now}}))
    node.connect("ana")  # with a token of the secret before
    node.advance(999)
    node.connect("ana")
    node.jump(1)
    node.upgrade(f"Authorization: Bearer {token(unix=node.now.unix)}").expect_http(401)
    node.jump(-1)
    node.connect("ana")


@pytest.mark.row("A3")
def test_a_token_is_judged_by_the_wall_clock_of_each_moment() -> None:
    node = started(ONE)
    early = ONE.token("ana", unix=START.unix + 100)
    for later, status in ((0, 401), (69, 401), (2, 101), (3658, 101), (2, 401), (-3600, 101), (-200, 401)):
        node.jump(later)
        node.upgrade(f"Authorization: Bearer {early}").expect_http(status)


# ── who waits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A7")
@pytest.mark.parametrize("hosted", [False, True])
def test_an_upgrade_waits_for_the_keys_that_are_read(hosted: bool) -> None:
    node = started()
    client = bearer(node, ONE, hosted=hosted)
    node.advance(6)  # beyond the time for a request head, which is here
    client.expect_silence()
    node.give_keys(key_set(ONE.jwk()))
    welcomed(client)
    client.chat(id="m1")
    client.expect_system("message_accepted")


@pytest.mark.row("A7")
def test_what_comes_behind_a_token_that_waits_is_kept_and_in_order() -> None:
    node = started()
    client = asked(node)
    client.send({"type": "auth", "token": ONE.token("ana", unix=node.now.unix)})
    client.chat("first", id="m1")
    client.chat("second", id="m2")
    client.expect_silence()
    node.give_keys(key_set(ONE.jwk()))
    node.settle()
    client.expect_system("connection_established")
    client.expect_system("message_accepted", correlation_id="m1")
    client.expect_system("message_accepted", correlation_id="m2")


@pytest.mark.row("A7")
@pytest.mark.row("H7")
@pytest.mark.clause("C7")
def test_a_peer_that_sends_on_while_its_request_waits_is_not_read_on() -> None:
    node = started()
    client = bearer(node, ONE)
    sent = 0
    while not client.paused:
        client.send_bytes(text({"type": "ping", "id": f"p{sent}"}) * 100)
        sent += 100
    limits = node.config.limits
    assert limits.inbox < node.gateway.buffered_bytes(client.number) <= limits.inbox + limits.read
    node.give_keys(key_set(ONE.jwk()))
    node.settle()
    assert not client.paused
    welcomed(client)
    client.expect_event("pong", id="p0")


@pytest.mark.row("A7")
@pytest.mark.clause("C7")
def test_a_peer_that_was_not_read_on_is_read_to_the_end_where_its_token_fails() -> None:
    node = started()
    client = bearer(node, TWO)
    while not client.paused:
        client.send_bytes(b"x" * 4096)
    node.give_keys(key_set(ONE.jwk()))
    client.expect_http(401)
    assert not client.paused
    assert node.gateway.buffered_bytes(client.number) == 0


@pytest.mark.row("A7")
def test_a_refresh_waits_for_a_new_key_and_the_connection_stays() -> None:
    node = started(ONE)
    client = bearer(node, ONE)
    welcomed(client)
    node.advance(100)
    client.send({"type": "auth", "token": TWO.token("ana", unix=node.now.unix)})
    client.send({"type": "ping", "id": "p"})
    client.expect_silence()
    node.give_keys(key_set(TWO.jwk()))
    node.settle()
    client.expect_system("token_refreshed")
    client.expect_event("pong", id="p")


@pytest.mark.row("A7")
@pytest.mark.row("A9")
def test_a_key_that_does_not_come_is_a_failed_token() -> None:
    node = started(ONE)
    node.advance(100)
    by_header, by_event = bearer(node, TWO), asked(node)
    by_event.send({"type": "auth", "token": TWO.token(unix=node.now.unix)})
    node.fail_keys()
    by_header.expect_http(401)
    by_event.expect_error("AUTH_FAILED")
    by_event.expect_close(4401)


@pytest.mark.row("A7")
def test_without_any_keys_it_is_the_servers_fault() -> None:
    node = started()
    by_header, by_event, by_host = bearer(node, ONE), asked(node), bearer(node, ONE, hosted=True)
    by_event.send({"type": "auth", "token": ONE.token(unix=node.now.unix)})
    node.fail_keys("status 500")
    assert by_header.expect_http(503).headers["retry-after"] == "60"
    assert by_host.expect_http(503).headers["retry-after"] == "60"
    by_event.expect_close(1013, "no keys")
    node.advance(20.5)  # nothing is under way, so that nobody waits
    assert bearer(node, ONE).expect_http(503).headers["retry-after"] == "40"
    late = asked(node)
    late.send({"type": "auth", "token": ONE.token(unix=node.now.unix)})
    late.expect_close(1013)
    node.upgrade("Authorization: Bearer x").expect_http(401)  # which no key would verify
    node.advance(39.5)
    client = bearer(node, ONE)
    client.expect_silence()
    node.give_keys(key_set(ONE.jwk()))
    welcomed(client)
    assert not [note for note in node.notes if note.name == "auth_failed"]


@pytest.mark.row("A7")
def test_keys_that_have_all_ended_are_none() -> None:
    node = started()
    node.give_keys(key_set(ONE.jwk(exp=START.unix + 10)))
    node.advance(30)
    bearer(node, ONE).expect_http(503)
    assert readiness(node) == 200  # they were read: others may do without


@pytest.mark.row("A7")
def test_a_secret_serves_its_tokens_while_keys_are_missing() -> None:
    node = started(authentication={"jwt_secret": SECRET})
    node.fail_keys()
    node.connect("ana")
    bearer(node, ONE).expect_http(503)


@pytest.mark.row("A10")
@pytest.mark.row("A7")
def test_nobody_waits_longer_than_for_a_token() -> None:
    node = started(authentication={"timeout": 10})
    by_header, by_event, by_host = bearer(node, ONE), asked(node), bearer(node, ONE, hosted=True)
    node.advance(9)
    by_event.send({"type": "auth", "token": ONE.token(unix=node.now.unix)})
    node.advance(0.9)
    by_header.expect_silence()
    node.advance(0.1)
    by_header.expect_http(503)
    by_host.expect_http(503)
    node.advance(8.9)
    by_event.expect_silence()  # it sent its token in time
    node.advance(0.1)
    by_event.expect_close(1013)
    node.give_keys(key_set(ONE.jwk()))
    welcomed(bearer(node, ONE))


@pytest.mark.clause("C6")
@pytest.mark.parametrize("end", ["lose", "eof"])
def test_who_has_gone_meanwhile_is_not_judged(end: str) -> None:
    node = started()
    by_header, by_event = bearer(node, ONE), asked(node)
    by_event.send({"type": "auth", "token": ONE.token(unix=node.now.unix)})
    for client in (by_header, by_event):
        getattr(client, end)()
        client.expect_dropped()
    node.give_keys(key_set(ONE.jwk()))
    assert node.gateway.connections == 0
    assert not node.gateway._node.gate.census.knocking.total


@pytest.mark.row("C3")
@pytest.mark.clause("C6")
def test_a_host_whose_peer_has_closed_meanwhile_is_let_go_at_once() -> None:
    node = started(ONE)
    known = bearer(node, ONE, hosted=True)
    welcomed(known)
    node.advance(100)
    new = node.request()
    for client in (known, new):
        client.send({"type": "auth", "token": TWO.token("ana", unix=node.now.unix)})
        client.chat("nobody hears the answer")
        client.leave(1001)
        client.expect_dropped()
    assert [note.fields["code"] for note in node.notes if note.name == "closed"][-2:] == [1001, 1001]
    assert node.gateway.connections == 0
    node.give_keys(key_set(TWO.jwk()))
    assert not node.started


@pytest.mark.row("D1")
def test_who_waits_while_the_node_stops_is_let_go() -> None:
    node = started(ONE)
    client = bearer(node, ONE)
    welcomed(client)
    node.advance(100)
    client.send({"type": "auth", "token": TWO.token("ana", unix=node.now.unix)})
    by_header, by_event = bearer(node, TWO), asked(node)
    by_event.send({"type": "auth", "token": TWO.token(unix=node.now.unix)})
    node.step(DrainRequested())
    node.advance(40)
    assert node.drained
    for one in (client, by_header, by_event):
        one.expect_dropped()
    assert node.give_keys(key_set(TWO.jwk()))[-1:]  # a note, and nothing else is moved by it
    assert node.gateway.wake_at is None


@pytest.mark.row("D1")
@pytest.mark.clause("C6")
def test_a_closing_connection_is_not_judged_any_more() -> None:
    node = started(ONE, drain={"timeout": 5})
    node.advance(100)
    client = asked(node)
    client.send({"type": "auth", "token": TWO.token("ana", unix=node.now.unix)})
    node.step(DrainRequested())
    node.advance(6)
    client.expect_system("server_draining")
    client.expect_close(1012)
    assert not client.dropped  # it has not answered our Close yet
    node.give_keys(key_set(TWO.jwk()))
    node.settle()
    assert not client.stream.frames
    assert not [note for note in node.notes if note.name == "authenticated"]


@pytest.mark.row("H14")
def test_who_waited_finds_the_node_as_full_as_it_is_now() -> None:
    node = started(server={"max_connections": 2}, limits={"connections_per_address": 5})
    waiting = [bearer(node, ONE) for _ in range(3)]
    node.give_keys(key_set(ONE.jwk()))
    assert [client.stream.head.status for client in waiting if client.stream.head] == [101, 101, 503]


@pytest.mark.clause("C5")
def test_an_early_timer_reads_nothing() -> None:
    node = started(ONE)
    node.advance(10)
    assert node.step(TimerFired()) == []
    assert node.loading is None


def test_a_node_without_such_a_source_knows_nothing_of_keys() -> None:
    gateway = Gateway(configure(), ids=counter())
    for event in (KeysLoaded(b""), KeysFailed("x"), KeysRequested()):
        with pytest.raises(TypeError):
            gateway.step(event, START)


def test_a_public_key_file_is_a_source_like_another() -> None:
    plain = ONE._replace(kid=None)
    settings = {"enabled": True, "algorithm": "RS256", "public_key_file": "key.pem"}
    node = NodeUnderTest(configure(security={"authentication": settings}))
    node.settle()
    assert node.loading is not None
    assert node.loading.source == "key.pem"
    node.give_keys(b"no PEM")
    assert "RS256" in str(node.note("keys_failed").fields["reason"])
    node.advance(60)
    node.give_keys(plain.public_pem)
    welcomed(bearer(node, plain))
    node.advance(300)
    node.give_keys(pair("RS256", None, 1).public_pem)  # another file has taken its place
    bearer(node, plain).expect_http(401)
    welcomed(bearer(node, pair("RS256", None, 1)))


@pytest.mark.clause("C1")
@pytest.mark.row("A7")
def test_who_is_taken_over_while_its_token_waits_for_keys_is_judged_no_more() -> None:
    node = started(ONE, sessions={"exclusive": True})
    node.advance(100)
    authorization = f"Authorization: Bearer {TWO.token('ana', unix=node.now.unix)}"
    first = node.open()
    first.send_bytes(upgrade("/", authorization) + text(chat("mine", session_id="s")))
    other = bearer(node, ONE)
    welcomed(other)
    other.chat("no, mine", session_id="s")
    other.send({"type": "auth", "token": TWO.token("ana", unix=node.now.unix)})
    node.give_keys(key_set(ONE.jwk(), TWO.jwk()))
    welcomed(first)
    other.expect_close(4409)
