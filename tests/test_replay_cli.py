"""`qaws replay`: what it prints, and what it ends with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qaws.cli import main
from qaws_proto import Now
from qaws_proto.inputs import BytesReceived, ConnectionLost, ConnectionOpened, Input
from qaws_proto.testing import configure, token
from qaws_proto.testing.node import UNIX
from qaws_proto.testing.peer import BINARY, PING, chat, close_frame, deflated, frame, request, text, upgrade
from qaws_proto.testing.replay import Replay
from qaws_proto.testing.story import Story
from qaws_proto.testing.trace import Trace
from tests.helpers.node import NodeUnderTest
from tests.test_replay import VOTES, recorded

AUTH = upgrade("/", f"Authorization: Bearer {token('ana')}")
HISTORY: list[Input] = [
    ConnectionOpened(1, "192.0.2.1"), BytesReceived(1, AUTH[:50]), BytesReceived(1, AUTH[50:]),
    ConnectionOpened(2, "192.0.2.2"), BytesReceived(2, upgrade("/", "Authorization: Bearer wrong")),
    BytesReceived(1, text(chat("hi\x1b[2Jthere", id="m1"))), BytesReceived(1, frame(PING, b"hello")),
    BytesReceived(1, frame(BINARY, b"x")), ConnectionLost(1),
]  # fmt: skip
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Writes a file of these lines and runs the command on it: its status, and what it prints."""

    def run(lines: Sequence[str], *arguments: str) -> tuple[int, str, str]:
        file = tmp_path / "trace.jsonl"
        file.write_text("\n".join(lines) + "\n", "utf-8")
        with pytest.raises(SystemExit) as ended:
            main(["replay", str(file), *arguments])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


def history() -> list[str]:
    happened = [(event, Now(float(at), UNIX + at)) for at, event in enumerate(HISTORY)]
    return recorded(happened, configure(authentication=True), redacted=True)


def test_it_shows_each_step_and_why_connections_ended(command: Command) -> None:
    status, out, err = command(history())
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "     1     0.000000  < [1] ConnectionOpened peer=192.0.2.1 internal=false"
    assert lines[1].endswith("< [1] BytesReceived of 50: nothing whole")
    assert lines[2].endswith(": GET /")
    assert any("> [1] 101 Switching Protocols" in line for line in lines)
    assert any("> [1] StartRun id-" in line and "of ana: hi" in line for line in lines)
    assert any("[2] ends with 401 unauthorized (BAD_TOKEN, fault of peer); because of" in line for line in lines)
    assert any(line.endswith("pong of 5 bytes") for line in lines)
    because = "because of BytesReceived of 7: binary of 1 bytes"
    assert any(
        f"[1] ends with 1003 binary refused (BINARY_REFUSED, fault of peer); {because}" in line for line in lines
    )
    assert lines[-1] == "9 inputs, 9 equal"
    assert "\x1b" not in out


def test_it_ends_where_it_is_told_to(command: Command) -> None:
    status, out, _ = command(history(), "--until", "3")
    assert status == 0
    assert out.endswith("3 inputs, 3 equal\n")


def test_it_shows_one_connection_alone(command: Command) -> None:
    status, out, _ = command(history(), "--connection", "2")
    numbers = [line.split()[0] for line in out.splitlines() if line[:6].strip()]
    assert (status, numbers) == (0, ["4", "5", "9"])
    assert "[1]" not in out
    assert out.endswith("9 inputs, 9 equal\n")


def test_a_connection_that_is_not_there_is_told(command: Command) -> None:
    status, out, _ = command(history(), "--connection", "77")
    assert (status, out) == (0, "none of these steps concerns connection 77\n9 inputs, 9 equal\n")


def test_a_record_without_steps_has_nothing_to_show(command: Command) -> None:
    assert command(history()[:1]) == (0, "nothing to show\n0 inputs, 0 equal\n", "")


def test_there_is_no_step_before_the_first(command: Command) -> None:
    status, out, err = command(history(), "--until", "0")
    assert (status, out) == (2, "")
    assert "--until" in err


def test_it_names_the_first_difference(command: Command) -> None:
    lines = history()
    changed = json.loads(lines[3])
    lines[3] = json.dumps({**changed, "ids": ["other", *changed["ids"][1:]]})
    status, out, err = command(lines)
    assert (status, err) == (1, "")
    assert out.splitlines()[-2:] == [
        "step 3 is not as it was: effect 2 was SendBytes and is another",
        "3 inputs, 2 equal",
    ]


@pytest.mark.parametrize(("change", "said"), [
    (lambda lines: ["nothing"], "this is no trace of qaws"),
    (lambda lines: ["\udcff".encode("utf-8", "surrogateescape").decode("latin-1")], "this is no trace of qaws"),
    (lambda lines: [], "this is no trace of qaws"),
    (lambda lines: [*lines[:-1], lines[-1][:-30]], "the record breaks off: line 10 is no JSON"),
    (lambda lines: [*lines[:3], *lines[4:]], "the record breaks off: step 3 is missing"),
])  # fmt: skip
def test_what_is_no_whole_record_is_said(command: Command, change: Callable[[list[str]], list[str]], said: str) -> None:
    status, _, err = command(change(history()))
    assert status == 2
    assert said in err
    assert err.startswith("qaws: ")


def test_what_breaks_off_behind_the_last_step_that_is_wanted_does_not_matter(command: Command) -> None:
    assert command([*history(), "{"], "--until", "4")[0] == 0
    assert command([*history(), "{"], "--until", "50")[0] == 2


def test_events_of_a_user_need_a_program(command: Command) -> None:
    status, out, err = command(recorded([], events=VOTES))
    assert (status, out) == (2, "")
    assert "the node had events of its user: vote" in err


# ── what it reads along ──────────────────────────────────────────────────────────────────────────────────────────────


def told(node: NodeUnderTest) -> list[str]:
    """What is told of all that has happened to a node, in lines."""
    lines = recorded([step[:2] for step in node.history], node.config)
    story = Story()
    return [
        f"{line.mark} {line.connection} {line.text}"
        for replayed in Replay(Trace.read(lines)).steps()
        for line in story.tell(replayed)
    ]


def test_messages_of_a_host_are_told() -> None:
    node = NodeUnderTest(configure(authentication=True))
    client = node.request()
    client.say('{"type":"auth","token":"wrong"}')
    node.request(upgrade("/", "Authorization: Bearer wrong"))
    node.request(upgrade("/", "Authorization: Bearer wrong"), denial=False)
    node.request(request("/healthz"))
    lines = told(node)
    assert lines[0] == "< 0 RequestReceived: GET /"
    assert "> 0 101 Switching Protocols" in lines
    assert '< 0 MessageReceived: {"type":"auth","token":"wrong"}' in lines
    assert "> 0 close 4401 auth failed" in lines
    cause = 'MessageReceived: {"type":"auth","token":"wrong"}'
    assert f"! 0 ends with 4401 auth failed (AUTH_FAILED, fault of peer); because of {cause}" in lines
    assert "! 1 ends with 401 unauthorized (BAD_TOKEN, fault of peer); because of RequestReceived: GET /" in lines
    assert "! 2 ends with 4401 unauthorized (BAD_TOKEN, fault of peer); because of RequestReceived: GET /" in lines
    assert "> 3 HTTP 200" in lines
    assert not [line for line in lines if line.startswith("! 3")]


def test_frames_of_every_kind_are_told() -> None:
    node = NodeUnderTest(configure(server={"compression": {"enabled": True, "min_size": 0}}))
    client = node.upgrade("Sec-WebSocket-Extensions: permessage-deflate")
    client.send_bytes(deflated(chat("x" * 300)))
    node.finish(node.only_run, "y" * 70_000)
    client.send_bytes(frame(2, b"", mask=False))
    node.advance(30)
    silent = node.connect()
    node.advance(100)
    silent.expect_dropped()
    closing = node.connect()
    closing.send_bytes(close_frame(1001))
    lines = told(node)
    long = [line for line in lines if line.endswith("…")]
    assert [line[:20] for line in long if "chat_message" in line] == ["< 0 BytesReceived of"]
    assert any('> 0 {"type":"agent_response"' in line for line in long)
    assert any("no frame of the protocol (protocol error)" in line for line in lines)
    assert any("! 0 ends with 1002 protocol error (PROTOCOL_VIOLATION, fault of peer)" in line for line in lines)
    assert "> 1 ping of 0 bytes" in lines
    assert "! 1 ends with 1006 heartbeat (HEARTBEAT_LOST, fault of peer); because of TimerFired" in lines
    assert "! 2 ends with 1001 (no fault); because of BytesReceived of 8: close 1001" in lines
