"""The table of faults agrees with PROTOCOL, with HTTP and with itself."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from qaws_proto.faults import Blame, Fault, Retry
from qaws_proto.wire.http import refusal

# PROTOCOL, "Close codes": the code, and whether to come back.
CLOSE_CODES = {
    1001: {Retry.LATER},
    1002: {Retry.NO},
    1003: {Retry.NO},
    1007: {Retry.NO},
    1008: {Retry.YES},
    1009: {Retry.NO},
    1011: {Retry.BACK_OFF},
    1012: {Retry.LATER},
    1013: {Retry.BACK_OFF, Retry.LATER},  # LATER where it is told as 503 with Retry-After
    4400: {Retry.NO},
    4401: {Retry.NEW_TOKEN},
    4403: {Retry.NO},
    4408: {Retry.YES},
    4409: {Retry.NO},
    4429: {Retry.LATER},
}

# What each fault closes with (GUARANTEES, row by row).
CLOSES = {
    "AT_CAPACITY": 1013, "DRAINING": 1012, "PROTOCOL_VIOLATION": 1002, "BINARY_REFUSED": 1003, "INVALID_UTF8": 1007,
    "BAD_COMPRESSION": 1007,
    "MESSAGE_TOO_BIG": 1009, "TOO_MANY_FRAGMENTS": 1009, "MESSAGE_TIMEOUT": 1008, "FRAME_FLOOD": 1008,
    "BAD_MESSAGE_FLOOD": 1008, "SLOW_CONSUMER": 1008, "AUTH_REQUIRED": 4401, "AUTH_FAILED": 4401,
    "AUTH_TIMEOUT": 4408, "TOKEN_EXPIRED": 4401, "RATE_LIMIT_IGNORED": 4429, "INTERNAL": 1011, "GOING_AWAY": 1001,
    "RESTARTING": 1012, "ACK_AHEAD": 4400, "TAKEN_OVER": 4409, "BLOCKED": 4403, "DISCONNECTED": 1008,
    "TOKEN_FLOOD": 4429, "NO_KEYS": 1013,
    # what a host that cannot answer an upgrade with a status is told instead
    "BAD_REQUEST": 1002, "BAD_UPGRADE": 1002, "BODY_REFUSED": 1002, "QUERY_TOKEN": 1002, "NOT_FOUND": 1002,
    "WRONG_HOST": 1002, "BAD_TOKEN": 4401, "ORIGIN_REFUSED": 4403, "ADDRESS_REFUSED": 4403, "ADDRESS_FULL": 1013,
    "USER_REFUSED": 4403, "CONNECTION_RATE": 1013,
    "FAILED_TOKENS": 4429, "KEYS_UNAVAILABLE": 1013,
}  # fmt: skip

# PROTOCOL, "Before the upgrade", and 500 for what is our own mistake.
STATUSES = {400, 401, 403, 404, 405, 408, 413, 414, 421, 426, 429, 431, 500, 503, 505}

# PROTOCOL, "Error codes".
CODES = {
    "AUTH_REQUIRED", "AUTH_FAILED", "TOKEN_EXPIRED", "FORBIDDEN", "RATE_LIMIT", "INVALID_JSON", "INVALID_EVENT",
    "UNKNOWN_EVENT", "BUSY", "OVERLOADED", "SESSION_NOT_FOUND", "RUN_NOT_FOUND", "AGENT_ERROR", "AGENT_TIMEOUT",
    "RESPONSE_TOO_LARGE", "STORAGE_UNAVAILABLE", "INTERNAL",
}  # fmt: skip


def test_each_fault_closes_as_promised() -> None:
    assert {fault.name: fault.value.close for fault in Fault if fault.value.close} == CLOSES


def test_no_row_is_there_twice() -> None:
    # Two equal rows would be one member of the enumeration under two names.
    assert [fault.name for fault in Fault] == list(Fault.__members__)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_words_and_texts_are_short_and_plain(fault: Fault) -> None:
    row = fault.value
    for text, longest in ((row.word, 123), (row.text, 123)):  # 123: RFC 6455 section 5.5, the reason of a Close
        assert 0 < len(text) <= longest
        assert text.isascii()
        assert text.isprintable()


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.value.close], ids=lambda fault: fault.name)
def test_a_close_code_is_one_of_the_protocols_and_says_whether_to_come_back(fault: Fault) -> None:
    assert fault.value.close in CLOSE_CODES
    assert fault.value.retry in CLOSE_CODES[fault.value.close]


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.value.status], ids=lambda fault: fault.name)
def test_a_status_is_one_of_the_protocols_and_can_be_answered(fault: Fault) -> None:
    status = fault.value.status
    assert status in STATUSES
    answer = refusal(fault).encode()
    line = answer.partition(b"\r\n")[0].decode()
    assert line.startswith(f"HTTP/1.1 {status} ")
    phrase = HTTPStatus(status).phrase if status != 413 else "Content Too Large"
    assert line.endswith({"Request-URI Too Long": "URI Too Long"}.get(phrase, phrase))
    assert answer.endswith(fault.value.word.encode() + b"\n")


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.value.code], ids=lambda fault: fault.name)
def test_an_error_code_is_one_of_the_protocols(fault: Fault) -> None:
    assert fault.value.code in CODES


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_every_fault_reaches_the_peer_or_is_its_silence(fault: Fault) -> None:
    row = fault.value
    told = (row.status, row.close, row.code) != (None, None, None)
    assert told is (fault is not Fault.HEARTBEAT_LOST)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_blame_and_retry_agree(fault: Fault) -> None:
    row = fault.value
    if row.retry is Retry.NEW_TOKEN:
        assert row.blame is Blame.PEER
    if row.retry is Retry.NO:
        # What would happen again is the doing of the peer, or of the agent it asks.
        assert row.blame in (Blame.PEER, Blame.AGENT)
    if row.status in (429, 503):
        assert row.retry is Retry.LATER  # both come with Retry-After (PROTOCOL)


@pytest.mark.row("A9")
def test_one_text_for_every_failed_authentication() -> None:
    assert Fault.AUTH_FAILED.value.text == Fault.BAD_TOKEN.value.text
