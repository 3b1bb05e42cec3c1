"""A client and its connections: how it gets one, when it comes back, when it does not, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from qaws_proto.client import Client, ClientConfig
from qaws_proto.client.io import ClientInput as Input
from qaws_proto.client.io import (
    CloseTransport,
    ConnectRequested,
    DataReceived,
    Deliver,
    Disconnected,
    Ended,
    FetchToken,
    MessageRequested,
    OpenTransport,
    SendData,
    TimerFired,
    TokenFailed,
    TokenFetched,
    TransportFailed,
    TransportLost,
    TransportOpened,
    Welcomed,
)
from qaws_proto.client.node import RESUMES
from qaws_proto.events import ChatMessage
from qaws_proto.faults import Fault
from qaws_proto.wire.frames import Frames
from qaws_proto.wire.http import refusal
from tests.client.scripted import (
    SESSION,
    ClientUnderTest,
    Event,
    accepted,
    chunk,
    counter,
    error,
    established,
    gap,
    resumed,
    step,
    system,
)

AUTH_REQUIRED = system("auth_required", {"timeout": 10})
SECRET = "a-token-that-nobody-should-see"


def welcomed(**config: Any) -> ClientUnderTest:
    under = ClientUnderTest(**config)
    under.welcome()
    return under


def answered(status: Fault, retry_after: int | None = None, **config: Any) -> ClientUnderTest:
    """A client whose upgrade was refused."""
    under = ClientUnderTest(**config)
    under.connect()
    under.receive(refusal(status, retry_after, "GET").encode())
    return under


# ── the way in ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_way_in() -> None:
    under = ClientUnderTest(target="/chat", headers=(("X-Trace", "1"),))
    assert under.step(ConnectRequested()) == [OpenTransport()]
    request = under.open()
    assert (request.method, request.target) == ("GET", "/chat")
    headers = dict(request.headers)
    assert headers["host"] == "localhost"
    assert headers["x-trace"] == "1"
    assert headers["sec-websocket-protocol"] == "qaws.v1"
    under.receive(under.server.accept(request, "qaws.v1"))
    assert under.effects == []
    under.tell(established())
    assert under.effects == [Welcomed("u", SESSION, True)]
    assert under.take() == []


def test_every_connection_has_a_key_of_its_own() -> None:
    under = ClientUnderTest()
    first = dict(under.connect().headers)["sec-websocket-key"]
    under.lose()
    under.advance(1)
    assert dict(under.open().headers)["sec-websocket-key"] != first


def test_a_client_without_a_transport_waits_and_tries_again() -> None:
    under = ClientUnderTest()
    under.step(ConnectRequested())
    under.transport = None
    under.step(TransportFailed("no route"))
    assert under.effects == [Disconnected("the server cannot be reached: no route", 0.25)]
    under.advance(0.25)
    assert under.effects == [OpenTransport()]


@pytest.mark.parametrize("stage", ["transport", "upgrade", "login", "resume"])
def test_all_of_it_together_has_its_time(stage: str) -> None:
    under = ClientUnderTest(session_id=SESSION, token=True, connect_timeout=10)
    under.step(ConnectRequested())
    under.advance(4)
    if stage != "transport":
        request = under.open()
        under.advance(4)
        if stage != "upgrade":
            under.receive(under.server.accept(request, "qaws.v1"))
            under.advance(1.5)
            if stage != "login":
                under.tell(established(), step("r", 1))
    under.advance(10 - (under.now.mono - 1000) - 0.01)
    assert under.transport is not None
    under.advance(0.01)
    assert under.effects == [CloseTransport(), Disconnected("the server did not answer in time", 0.25)]


def test_a_long_replay_has_its_time_as_long_as_it_goes_on() -> None:
    under = ClientUnderTest(session_id=SESSION, connect_timeout=10)
    under.upgrade()
    under.tell(established(), gap(6, 5, reason="epoch"), resumed(6, 30))
    for seq in range(6, 12):
        under.advance(9)
        under.tell(step("r", seq))
    under.advance(9.9)
    assert under.transport == "open"
    under.advance(0.1)
    under.expect_wait(0.25)


def test_pings_are_answered() -> None:
    under = welcomed()
    under.receive(Frames(client=False, max_message=1, max_fragments=1).ping(b"abc"))
    under.expect_pong(b"abc")


def test_silence_is_broken_by_a_ping_and_ended_where_that_does_not_help() -> None:
    under = welcomed(heartbeat=30, heartbeat_timeout=20)
    under.advance(20)
    under.tell(step("r", 1))
    under.advance(29.5)
    under.expect_silence()
    under.advance(0.5)
    under.expect_ping()
    under.advance(10)
    under.receive(Frames(client=False, max_message=1, max_fragments=1).pong(b""))
    under.advance(30)
    under.expect_ping()
    under.advance(19)
    assert under.transport == "open"
    under.advance(1)
    assert under.effects == [CloseTransport(), Disconnected("the server has gone silent", 0.25)]


def test_what_was_heard_is_acknowledged_now_and_then() -> None:
    under = welcomed(ack_every=3)
    under.tell(step("r", 1), step("r", 2), step("r", 2))
    under.expect_silence()
    under.tell(chunk("r", 0, "ab", 5))
    assert under.expect("ack") == {"type": "ack", "session_id": SESSION, "seq": 5}
    under.tell(step("r", 6), step("r", 7))
    under.expect_silence()
    under.tell(step("r", 8))
    under.expect("ack", seq=8)


def test_nothing_is_acknowledged_that_was_told_of_another_log() -> None:
    under = welcomed(ack_every=3)
    under.tell(step("r", 1), step("r", 2))
    under.reconnect()
    under.tell(error("SESSION_NOT_FOUND"), step("r", 1))
    under.expect("resume", epoch="")
    under.tell(gap(1, 2, epoch="e2"))
    under.expect("resume", epoch="e2", seq=0)
    under.tell(resumed(1, 2), step("r", 1), step("r", 2))
    under.expect_silence()
    under.tell(step("r", 3))
    assert under.expect("ack") == {"type": "ack", "session_id": SESSION, "seq": 3}


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_fetched_where_the_server_asks_for_one() -> None:
    under = ClientUnderTest(token=True)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    assert under.effects == [FetchToken()]
    under.token(SECRET)
    assert under.expect("auth") == {"type": "auth", "token": SECRET}
    under.tell(established())
    assert under.effects == [Welcomed("u", SESSION, True)]


def test_a_server_that_asks_for_no_token_gets_none() -> None:
    assert not welcomed(token=True).fetching


def test_without_a_token_a_server_that_asks_for_one_ends_it() -> None:
    under = ClientUnderTest()
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.expect_close(1000)
    under.expect_end("AUTH_REQUIRED", text="the server asks for a token, and there is none")


def test_a_token_is_refreshed_on_the_open_connection() -> None:
    under = welcomed(token=True)
    under.tell(system("token_expiring", {"expires_in": 60}))
    assert under.effects == [FetchToken()]
    under.token("new")
    under.expect("auth", token="new")
    under.tell(system("token_refreshed", {"token_expires_in": 3600}))
    assert under.effects == []


def test_there_is_one_token_fetched_at_a_time() -> None:
    under = ClientUnderTest(token=True)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.lose()
    under.advance(1)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    assert under.effects == []
    under.token("the first")
    under.expect("auth", token="the first")


def test_a_token_that_comes_when_nobody_asks_any_more_is_not_kept() -> None:
    under = ClientUnderTest(token=True)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.lose()
    under.token("the first")
    assert under.effects == []
    under.advance(1)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    assert under.effects == [FetchToken()]


def test_where_no_token_can_be_had_it_is_tried_again_later() -> None:
    under = ClientUnderTest(token=True, max_attempts=2)
    for _ in range(2):
        under.upgrade()
        under.tell(AUTH_REQUIRED)
        under.fetching = False
        under.step(TokenFailed("the office is closed"))
        if under.ended is None:
            under.expect_wait(0.25)
            under.advance(0.25)
    under.expect_end("TOKEN_UNAVAILABLE", text="there is no token: the office is closed")


@pytest.mark.parametrize("token", ["nul\0", "\ud800"])
def test_what_is_no_token_is_not_sent(token: str) -> None:
    under = ClientUnderTest(token=True, reconnect=False)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.token(token)
    under.expect_close(1000)
    assert under.expect_end("TOKEN_UNAVAILABLE").text == "there is no token: what was fetched is no token"


def test_a_refresh_that_fails_does_not_end_the_connection() -> None:
    under = welcomed(token=True)
    under.tell(system("token_expiring", {"expires_in": 60}))
    under.fetching = False
    under.step(TokenFailed("no"))
    assert under.effects == []
    assert under.transport == "open"


def refused_token(under: ClientUnderTest) -> None:
    """The server refuses a token."""
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.token()
    under.tell(error("AUTH_FAILED"))
    under.close(4401)


def test_a_token_that_is_refused_is_replaced_once() -> None:
    under = ClientUnderTest(token=True)
    refused_token(under)
    under.expect_wait(0.25)
    under.advance(0.25)
    refused_token(under)
    under.expect_end("AUTH_FAILED", close_code=4401)
    assert under.take() == []


def test_a_token_that_was_good_may_be_replaced_again() -> None:
    under = ClientUnderTest(token=True)
    for _ in range(4):
        under.upgrade()
        under.tell(AUTH_REQUIRED)
        under.token()
        under.tell(established(), error("TOKEN_EXPIRED"))
        under.close(4401)
        assert under.ended is None
        under.advance(5)
    refused_token(under)
    assert under.ended is None


def test_refusals_are_counted_in_a_row() -> None:
    under = ClientUnderTest(token=True)
    refused_token(under)
    under.advance(1)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.token()
    under.tell(established())
    under.lose()
    under.advance(5)
    refused_token(under)
    assert under.ended is None


def test_an_expired_token_ends_a_client_that_has_no_other() -> None:
    under = welcomed(headers=(("Authorization", f"Bearer {SECRET}"),))
    under.tell(error("TOKEN_EXPIRED"))
    under.close(4401)
    under.expect_end("TOKEN_EXPIRED", text="about TOKEN_EXPIRED", close_code=4401)


@pytest.mark.parametrize(("token", "code"), [(True, "AUTH_FAILED"), (False, "AUTH_REQUIRED")])
def test_an_upgrade_may_be_unauthorized(token: bool, code: str) -> None:
    under = answered(Fault.BAD_TOKEN, token=token)
    if token:
        under.expect_wait(0.25)
        under.advance(0.25)
        under.connect()
        under.receive(refusal(Fault.BAD_TOKEN, None, "GET").encode())
    under.expect_end(code, status=401)


@pytest.mark.clause("C12")
def test_no_token_is_in_any_text() -> None:
    headers = (("Authorization", f"Bearer {SECRET}"),)
    config = ClientConfig("localhost", headers=headers, token=True)
    under = ClientUnderTest(headers=headers, token=True)
    under.upgrade()
    under.tell(AUTH_REQUIRED)
    under.token(SECRET)
    under.expect("auth")
    under.tell(error("AUTH_FAILED"))
    under.close(4401)
    texts = [repr(config), repr(under.client), repr(TokenFetched(SECRET)), *map(repr, under.log)]
    assert not [text for text in texts if SECRET in text]
    assert repr(SendData(b"abc")) == "SendData(3 bytes)"


# ── coming back ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1013, 3000, 4408, 4429, 4777])
def test_a_client_comes_back(code: int) -> None:
    under = welcomed()
    under.close(code)
    under.expect_close(code)
    under.expect_wait(0.25)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 1010, 4400, 4403, 4409])
def test_a_client_does_not_come_back_where_it_would_happen_again(code: int) -> None:
    under = welcomed()
    under.close(code)
    under.expect_end("CLOSED", close_code=code, text=f"the server closed the connection with {code}")


@pytest.mark.parametrize("fault", [Fault.HEAD_TIMEOUT, Fault.INTERNAL, Fault.AT_CAPACITY, Fault.ADDRESS_FULL])
def test_a_refusal_may_be_over_the_next_time(fault: Fault) -> None:
    answered(fault).expect_wait(0.25)
    answered(fault, retry_after=7).expect_wait(7.25)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.BAD_REQUEST, Fault.ORIGIN_REFUSED, Fault.NOT_FOUND, Fault.WRONG_HOST, Fault.NOT_WEBSOCKET,
        Fault.METHOD_REFUSED, Fault.BAD_VERSION,
    ],
)  # fmt: skip
def test_or_not(fault: Fault) -> None:
    end = answered(fault).expect_end("REJECTED", status=fault.value.status)
    assert str(fault.value.status) in end.text


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 301 Moved\r\n\r\n"])
def test_something_else_is_there(data: bytes) -> None:
    under = ClientUnderTest()
    under.connect()
    under.receive(data)
    under.expect_end("REJECTED")


def test_delays_double_up_to_a_cap() -> None:
    under = ClientUnderTest(backoff_base=1, backoff_cap=5)
    for delay in (0.5, 1.0, 2.0, 2.5, 2.5):
        under.connect()
        under.lose()
        under.expect_wait(delay)
        under.advance(delay)


def test_delays_begin_anew_only_after_messages_have_flowed_for_a_while() -> None:
    under = ClientUnderTest(backoff_base=1, backoff_cap=5)
    for lasted, delay in ((0.0, 0.5), (4.9, 1.0), (5.0, 0.5), (0.0, 1.0)):
        under.welcome()
        under.advance(lasted)
        under.lose()
        under.expect_wait(delay)
        under.advance(delay)


def test_attempts_may_be_limited_to_so_many_in_a_row() -> None:
    under = ClientUnderTest(max_attempts=2)
    for _ in range(2):
        under.connect()
        under.lose()
        under.advance(5)
        under.welcome()
        under.lose()
        assert under.ended is None, "it was connected in between"
        under.advance(5)
    under.open()
    under.lose()
    under.advance(5)
    under.open()
    under.lose()
    under.expect_end("CONNECT_FAILED", text="the connection was lost before it stood")


@pytest.mark.parametrize(("close", "code"), [(1012, "CLOSED"), (None, "LOST")])
def test_without_reconnecting_the_first_loss_is_the_end(close: int | None, code: str) -> None:
    under = welcomed(reconnect=False)
    under.tell(system("server_draining", {"deadline": 1, "reconnect_after": 2}))
    if close is None:
        under.lose()
    else:
        under.close(close)
    under.expect_end(code, close_code=close, retry_after=2.0)


def test_a_server_that_restarts_says_when_to_come_back() -> None:
    under = welcomed()
    notice = system("server_draining", {"deadline": 30, "reconnect_after": 3})
    under.tell(notice)
    assert under.take() == [notice]
    under.advance(20)
    under.close(1012)
    under.expect_wait(3.25)


def test_who_is_over_the_rate_comes_back_when_it_is_over() -> None:
    under = welcomed()
    under.ask("hi", "m1")
    under.tell(error("RATE_LIMIT", correlation_id="m1", details={"retry_after": 9}))
    under.advance(2)
    under.close(4429)
    under.expect_wait(7.25)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013])
def test_a_message_that_has_to_wait_for_long_holds_up_no_connection_that_is_lost(code: int) -> None:
    under = welcomed()
    under.ask("hi", "m1")
    under.tell(error("RATE_LIMIT", correlation_id="m1", details={"retry_after": 40_000}))
    under.close(code)
    under.expect_wait(0.25)


def test_of_messages_that_have_to_wait_the_newest_tells_how_long() -> None:
    under = welcomed()
    for number, wait in enumerate((40_000, 9)):
        under.ask("hi", f"m{number}")
        under.tell(error("RATE_LIMIT", correlation_id=f"m{number}", details={"retry_after": wait}))
    under.close(4429)
    under.expect_wait(9.25)


@pytest.mark.parametrize("wait", [-1, "soon", None, True, 1e999])
def test_a_wait_that_is_none_is_not_waited_for(wait: object) -> None:
    under = welcomed()
    under.tell(error("RATE_LIMIT", details={"retry_after": wait}))
    under.close(4429)
    under.expect_wait(0.25)


def test_a_wait_is_a_day_at_most() -> None:
    under = welcomed()
    under.tell(error("RATE_LIMIT", details={"retry_after": 10**400}))
    under.close(4429)
    under.expect_wait(86_400.25)


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (error("RATE_LIMIT", details={"retry_after": 60}), 60.25),
        (error("STORAGE_UNAVAILABLE"), 0.25),
        (error("BUSY"), 0.25),
        (error("OF_NEXT_YEAR"), 0.25),
    ],
)
def test_a_resume_that_cannot_be_answered_is_sent_again(answer: Event, wait: float) -> None:
    under = welcomed(heartbeat=1000)
    under.ask("hi", "m1")
    asked = under.reconnect()
    under.tell(answer)
    assert under.take() == []
    under.advance(wait - 0.1)
    under.expect_silence()
    assert under.transport == "open"
    under.advance(0.1)
    assert under.expect("resume") == asked
    under.advance(10)
    under.expect_wait(0.5)


@pytest.mark.parametrize("code", ["STORAGE_UNAVAILABLE", "RATE_LIMIT", "OF_NEXT_YEAR"])
def test_a_first_resume_that_cannot_be_answered_ends_a_client_that_does_not_insist(code: str) -> None:
    under = ClientUnderTest(session_id=SESSION, insist=False)
    under.upgrade()
    under.tell(established())
    under.expect("resume")
    under.tell(error(code, details={"retry_after": 60}))
    under.expect_close(1000)
    under.expect_end(code, text=f"about {code}", retry_after=60.0)


def test_before_the_first_welcome_asking_again_takes_no_more_time_than_there_is() -> None:
    under = ClientUnderTest(session_id=SESSION, connect_timeout=2.0, heartbeat=1000)
    under.upgrade()
    begun = under.now.mono
    under.tell(established(), error("STORAGE_UNAVAILABLE"))
    under.advance(1.5)
    under.tell(error("STORAGE_UNAVAILABLE"))
    under.advance(0.5)
    assert under.now.mono == begun + 2
    under.expect_wait(0.25)


def test_a_resume_that_is_never_answered_is_an_attempt_that_failed() -> None:
    under = welcomed(heartbeat=1000, max_attempts=2)
    under.ask("hi", "m1")
    for _ in range(2):
        asked = under.reconnect()
        for _ in range(RESUMES - 1):
            under.tell(error("STORAGE_UNAVAILABLE"))
            under.advance(9)  # it is asked again in time
            assert under.expect("resume") == asked
        under.tell(error("STORAGE_UNAVAILABLE", details={"retry_after": 7}))
        under.expect_close(1000)
        assert under.transport is None
    under.expect_end("STORAGE_UNAVAILABLE", retry_after=7.0)


def test_a_resume_that_is_answered_in_the_end_counts_anew() -> None:
    under = welcomed(heartbeat=1000)
    under.ask("hi", "m1")
    under.reconnect()
    for _ in range(3):
        for _ in range(RESUMES - 1):
            under.tell(error("STORAGE_UNAVAILABLE"))
            under.advance(9)
        under.tell(gap(1, 0), resumed(1, 0))
        assert len(under.welcomes) == 2
        under.tell(gap(1, 0))  # another snapshot, unasked
    assert under.transport == "open"


def test_an_answer_that_comes_unasked_is_as_good() -> None:
    under = welcomed(heartbeat=1000)
    under.ask("hi", "m1")
    under.reconnect()
    under.tell(error("RATE_LIMIT", details={"retry_after": 60}))
    under.tell(gap(1, 0), resumed(1, 0))
    assert len(under.welcomes) == 2
    under.advance(200)
    assert under.transport == "open"


def test_a_session_that_may_not_be_read_ends_it() -> None:
    under = ClientUnderTest(session_id=SESSION)
    under.upgrade()
    under.tell(established())
    under.expect("resume")
    under.tell(error("FORBIDDEN"))
    under.expect_close(1000)
    under.expect_end("FORBIDDEN", text="about FORBIDDEN")


def test_errors_of_nobody_are_told() -> None:
    under = welcomed()
    under.tell(error("INTERNAL"))
    assert under.take() == [error("INTERNAL")]


# ── no protocol ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01[", 1002),
        (b"\x81\x02[]", 1002),
        (b'\x81\x0f{"type":"error"', 1002),
        (b'\x81\x10{"type":"error"}', 1002),
        (b"\x82\x01x", 1003),
        (b"\x81\x01\xff", 1007),
        (b"\x81\x81abcd!", 1002),
        (b"\x81\x7f\x00\x00\x00\x00\xff\x00\x00\x00", 1009),
    ],
)
def test_what_is_no_protocol_ends_it(data: bytes, code: int) -> None:
    under = welcomed()
    under.receive(data)
    under.expect_close(code)
    under.expect_end("PROTOCOL", close_code=code)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "of_next_year", "anything": [1, {}]},
        system("of_next_year", {"nested": {}}),
        {"type": "agent_step", "kind": "of_next_year", "session_id": SESSION, "seq": 1},
        {"type": "pong", "id": "1"},
    ],
)
def test_what_a_newer_server_says_is_ignored(event: Event) -> None:
    under = welcomed()
    under.tell(event)
    assert under.effects == []


def test_fields_of_a_newer_server_are_ignored() -> None:
    under = welcomed()
    under.ask("hi", "m1")
    under.tell({**accepted("m1", "r1", 1), "mood": "good"}, {**chunk("r1", 0, "ab", 2), "mood": {"deep": [1]}})
    assert under.take() == [accepted("m1", "r1", 1), chunk("r1", 0, "ab", 2)]


def test_system_events_that_are_not_ours_are_told() -> None:
    under = welcomed()
    under.tell(system("news", {"a": 1}))
    assert under.take() == [system("news", {"a": 1})]


@pytest.mark.parametrize(
    "event",
    [
        chunk("r", -1, "a", 1),
        chunk("r", 0, "a", 2**53),
        chunk("r", 0, "a", -1),
        {**established(), "data": {"user_id": "u", "session_id": "", "epoch": "e"}},
        {**established(), "data": {"user_id": "u", "session_id": "s" * 1000, "epoch": "e"}},
        {**established(), "data": {"user_id": "u", "session_id": "s", "epoch": "nul\0"}},
    ],
)
def test_values_that_cannot_be(event: Event) -> None:
    under = welcomed()
    under.tell(event)
    under.expect_end("PROTOCOL", close_code=1002)


def test_more_text_than_is_held_ends_it() -> None:
    under = welcomed(max_message=1000)
    under.tell(chunk("r", 0, "a" * 500, 1), chunk("r", 500, "a" * 498, 2))
    assert under.ended is None
    under.tell(chunk("r", 998, "aa", 3))
    under.expect_close(1009)
    under.expect_end("PROTOCOL", close_code=1009)


def test_more_runs_than_are_held_end_it() -> None:
    under = welcomed(max_pending=2)
    under.tell(step("r1", 1), step("r2", 2), step("r3", 3))
    under.expect_end("PROTOCOL", close_code=1009)


def test_a_snapshot_without_end_ends_it() -> None:
    under = welcomed(max_pending=2)
    under.tell(gap(9, 9), chunk("r1", 0, "", 9), chunk("r2", 0, "", 9), chunk("r2", 0, "", 9))
    assert under.ended is None
    under.tell(chunk("r3", 0, "", 9))
    under.expect_end("PROTOCOL", close_code=1009)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_closes_and_waits_for_the_answer() -> None:
    under = welcomed()
    under.leave()
    under.expect_close(1000)
    under.tell(step("r", 1))
    under.leave()
    assert under.effects == []
    assert under.take() == []
    under.close(1000)
    assert under.effects == [CloseTransport(), Ended(None)]


@pytest.mark.parametrize("ending", ["time", "eof", "garbage"])
def test_it_does_not_wait_for_ever(ending: str) -> None:
    under = welcomed(close_timeout=5, heartbeat=1, heartbeat_timeout=1)
    under.leave()
    if ending == "eof":
        under.lose()
        assert under.effects == [Ended(None)]
        return
    if ending == "garbage":
        under.receive(b"\xff\xff")
    under.advance(4.9)
    assert under.transport == ("open" if ending == "time" else None)
    under.advance(0.1)
    assert under.ended == Ended(None)


def test_a_client_can_be_closed_at_any_time() -> None:
    for stage in range(5):
        under = ClientUnderTest(token=True)
        if stage > 0:
            under.step(ConnectRequested())
        if stage > 1:
            under.open()
        if stage == 3:
            under.lose()
        if stage == 4:
            under.receive(b"HTTP/1.1 10")
        under.leave()
        assert under.ended == Ended(None)
        assert under.client.wake_at is None
        assert under.transport is None


def test_what_is_live_is_no_part_of_a_snapshot() -> None:
    under = welcomed(max_pending=2)
    under.tell(gap(9, 9), chunk("r1", 0, "", 9), *(chunk(f"r{seq}", 0, "x", seq) for seq in range(10, 20)))
    assert under.ended is None


def test_nothing_comes_after_the_end() -> None:
    under = ClientUnderTest()
    under.leave()
    inputs: list[Input] = [
        TransportOpened(), TransportFailed("x"), TransportLost(), DataReceived(b"x"), TokenFetched("x"),
        TokenFailed("x"), TimerFired(),
    ]  # fmt: skip
    for event in inputs:
        assert under.step(event) == []
    under.cancel("m1")
    under.leave()
    assert under.effects == []
    for mistake in (ConnectRequested(), MessageRequested(ChatMessage(type="chat_message", content="x", id="m"))):
        with pytest.raises(ValueError):
            under.step(mistake)


def test_a_client_connects_once() -> None:
    under = welcomed()
    with pytest.raises(ValueError):
        under.step(ConnectRequested())


def test_a_message_comes_too_late_for_a_client_that_closes() -> None:
    under = welcomed()
    under.leave()
    with pytest.raises(ValueError):
        under.ask("hi", "m1")


@pytest.mark.parametrize(
    "config",
    [
        ClientConfig("local\r\nhost"),
        ClientConfig("localhost", session_id=""),
        ClientConfig("localhost", session_id="nul\0"),
        ClientConfig("localhost", session_id="\ud800"),
        ClientConfig("localhost", session_id="s" * 129),
    ],
)
def test_what_can_never_be_said_is_refused_at_once(config: ClientConfig) -> None:
    with pytest.raises(ValueError):
        Client(config, ids=counter(), jitter=lambda: 0.0)


def test_what_is_no_input_is_a_mistake() -> None:
    with pytest.raises(TypeError):
        ClientUnderTest().step("hello")  # type: ignore[arg-type]


def test_deliveries_come_before_the_welcome_that_says_they_are_all() -> None:
    under = welcomed()
    under.ask("hi", "m1")
    under.reconnect()
    under.receive(b"")
    under.tell(resumed(1, 1))
    under.tell(accepted("m1", "r1", 1))
    assert [type(effect) for effect in under.effects] == [Deliver, Welcomed]


def test_a_client_that_does_not_insist_comes_back_to_where_it_was_and_only_there() -> None:
    never = ClientUnderTest(insist=False)
    never.connect()
    never.lose()
    assert never.ended is not None
    been = ClientUnderTest(insist=False)
    been.welcome()
    for _ in range(3):
        been.lose()
        assert been.ended is None
        wake_at = been.client.wake_at
        assert wake_at is not None
        been.advance(wake_at - been.now.mono)
        been.open()
