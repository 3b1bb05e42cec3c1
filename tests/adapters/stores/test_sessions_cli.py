"""`qaws sessions …`, `qaws check` and `qaws serve` with a store, as the commands that users type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from qaws.cli import main
from qaws.stores.database import Database
from qaws.stores.sqlite import DAY
from qaws_proto.records import EventRecord, Record, RunEnded, RunRecord
from tests.helpers.process import PATIENCE, serving

from .files import opened


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and nothing of this machine's settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("WEBSOCKET_", "QAWS_")):
            monkeypatch.delenv(name)


def qaws(*arguments: str, status: int = 0) -> tuple[str, str]:
    """What a command prints, on standard output and on standard error, where it ends with this status."""
    printed, complaints = TextIOWrapper(BytesIO(), "utf-8"), StringIO()
    with redirect_stdout(printed), redirect_stderr(complaints), pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == status, complaints.getvalue()
    printed.seek(0)
    return printed.read(), complaints.getvalue()


def refused(*arguments: str) -> str:
    """The complaint of a command that fails, as a process of its own."""
    done = subprocess.run([sys.executable, "-m", "qaws", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stdout
    return done.stderr


def said(seq: int, run_id: str, **fields: Any) -> EventRecord:
    event = {"session_id": "s", "seq": seq, "run_id": run_id, "correlation_id": "m1", **fields}
    return EventRecord("ada", "s", "epoch-of-s", seq, json.dumps(event).encode())


def answer(seq: int, run_id: str, content: str, status: str = "completed") -> EventRecord:
    return said(seq, run_id, type="agent_response", content=content, user_id="ada", processing_time=1.0, status=status)


def asked(run_id: str, content: str) -> RunRecord:
    message = json.dumps({"type": "chat_message", "content": content}).encode()
    return RunRecord("ada", "s", "epoch-of-s", run_id, "ada", None, message)


CONVERSATION: tuple[Record, ...] = (
    asked("r1", "¿Cómo\n estás?"),
    said(1, "r1", type="agent_chunk", content="I am ", offset=0),
    said(2, "r1", type="agent_step", kind="tool_started", name="mirror", content="look"),
    answer(3, "r1", "I am \x1b[31mfine"),
    RunEnded("r1"),
    asked("r2", "and now?"),
    said(4, "r2", type="agent_chunk", content="half of ", offset=0),
    said(5, "r2", type="error", error_code="AGENT_ERROR", error_message="The agent failed"),
    RunEnded("r2"),
    asked("r3", "stop"),
    answer(6, "r3", "I was", "cancelled"),
    RunEnded("r3"),
    asked("r4", "still there?"),
    said(7, "r4", type="agent_chunk", content="ye", offset=0),
    asked("r5", "nothing yet"),
)

SHOWN = """\
ada: ¿Cómo
 estás?
tool_started: mirror look
agent: I am �[31mfine
ada: and now?
agent: half of \n\
error: The agent failed (AGENT_ERROR)
ada: stop
agent: I was [cancelled]
ada: still there?
ada: nothing yet
agent: ye [unfinished]
agent:  [unfinished]
"""


def store(*batches: tuple[Sequence[Record], float], name: str = "q.db") -> str:
    """A file with these batches, which are so many days old."""
    database = Database(name)
    for records, days in batches:
        database.save(records, time.time() - days * DAY)
    database.close()
    return name


def ended(session: str, owner: str = "bob") -> tuple[Record, ...]:
    payload = b'{"type":"agent_response","session_id":"t","seq":1,"run_id":"r"}'
    return (EventRecord(owner, session, "e", 1, payload),)


# ── list ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sessions_are_listed_the_one_that_spoke_last_first() -> None:
    path = store((CONVERSATION, 0.5), (ended("t"), 3), (ended("\x1b[2J" + "long" * 20, "new\nline"), 1))
    lines = qaws("sessions", "list", "--path", path)[0].splitlines()
    assert lines[0].split() == ["owner", "session", "epoch", "events", "last", "activity", "unfinished"]
    assert [line.split()[0] for line in lines[1:]] == ["ada", "new", "bob"]
    assert lines[1].split()[1:4] == ["s", "epoch-of", "7"]
    assert lines[1].endswith("Z  2")
    assert "new line" in lines[2]
    assert "�[2Jlonglong" in lines[2]
    assert "…" in lines[2]
    assert "long" * 20 not in lines[2]
    assert len({line.index("Z  ") for line in lines[1:]}) == 1  # the columns are one below the other


def test_sessions_are_listed_as_json() -> None:
    path = store((CONVERSATION, 0), (ended("t"), 3))
    first, second = map(json.loads, qaws("sessions", "list", "--path", path, "--json")[0].splitlines())
    assert first.pop("touched").startswith("20")
    assert first == {"owner": "ada", "session_id": "s", "epoch": "epoch-of-s", "events": 7, "unfinished": 2}
    assert (second["owner"], second["unfinished"]) == ("bob", 0)


# ── show ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_is_shown() -> None:
    assert qaws("sessions", "show", "ada", "s", "--path", store((CONVERSATION, 0)))[0] == SHOWN


def test_events_of_a_users_own_are_shown_as_they_are() -> None:
    payload = '{"type":"thanks","to":"ñ","data":[]}'.encode()
    path = store(([EventRecord("ada", "s", "e", 1, payload)], 0))
    assert qaws("sessions", "show", "ada", "s", "--path", path)[0] == 'event: {"type":"thanks","to":"ñ","data":[]}\n'


def test_a_session_that_is_not_there_is_an_error() -> None:
    path = store((CONVERSATION, 0))
    for owner, session in (("ada", "t"), ("bob", "s")):
        said_so = qaws("sessions", "show", owner, session, "--path", path, status=1)[1]
        assert said_so == f"qaws: there is no session {session} of {owner}\n"


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def exported(*arguments: str, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in qaws("sessions", "export", *arguments, status=status)[0].splitlines()]


def test_sessions_are_exported_as_json_lines() -> None:
    path = store((CONVERSATION, 0), (ended("t"), 1), (ended("s"), 2))
    lines = exported("--path", path)
    of_ada = [line for line in lines if line["owner"] == "ada"]
    events = [record for record in CONVERSATION if isinstance(record, EventRecord)]
    assert [line["event"] for line in of_ada if "event" in line] == [json.loads(one.payload) for one in events]
    assert [line["seq"] for line in of_ada if "event" in line] == list(range(1, 8))
    assert [line["message"]["content"] for line in of_ada if "message" in line] == [
        "¿Cómo\n estás?", "and now?", "stop", "still there?", "nothing yet",
    ]  # fmt: skip
    assert [line.get("run_id") for line in of_ada[:2]] == ["r1", None]  # the message, and then its first event
    assert {line["epoch"] for line in of_ada} == {"epoch-of-s"}
    assert [line["session_id"] for line in exported("--path", path, "--owner", "bob")] == ["t", "s"]
    assert {line["owner"] for line in exported("--path", path, "--session", "s")} == {"ada", "bob"}
    assert exported("--path", path, "--owner", "ada", "--session", "t") == []


@pytest.mark.row("D5")
@pytest.mark.parametrize(
    ("damage", "complaint", "left"),
    [
        ("UPDATE events SET checksum = 0 WHERE seq = 3", "event 3 is missing or damaged", [1, 2, 4, 5, 6, 7]),
        ("DELETE FROM events WHERE seq IN (3, 4)", "events 3 to 4 are missing or damaged", [1, 2, 5, 6, 7]),
        ("UPDATE runs SET message = 'x' WHERE run_id = 'r2'", "the message of run r2 is damaged", list(range(1, 8))),
        ("UPDATE runs SET message = 'x' WHERE run_id = 'r5'", "the message of run r5 is damaged", list(range(1, 8))),
        ("DELETE FROM events WHERE seq = 7", "event 7 is missing or damaged", list(range(1, 7))),
        ("DELETE FROM events WHERE seq = 1 AND session = 1", "event 1 is missing or damaged", list(range(2, 8))),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_exported(damage: str, complaint: str, left: list[int]) -> None:
    path = store((CONVERSATION, 0), (ended("t"), 1))
    with opened(path) as other:
        other.execute(damage)
    printed, complaints = qaws("sessions", "export", "--path", path, status=1)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert complaints == f"qaws: session s of ada: {complaint}\n"
    assert [line["seq"] for line in lines if "event" in line and line["owner"] == "ada"] == left
    assert lines[-1]["owner"] == "bob"
    assert complaint in qaws("sessions", "show", "ada", "s", "--path", path, status=1)[1]


@pytest.mark.row("D5")
def test_what_a_damaged_page_leaves_is_exported() -> None:
    path = Path(store(([EventRecord("ada", "s", "e", seq, b'{"n":"%1000d"}' % seq) for seq in range(1, 501)], 0)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    assert "is damaged" in qaws("serve", "--no-auth", "--config", config_for(path), status=1)[1]
    printed, complaints = qaws("sessions", "export", "--path", str(path), status=1)
    seqs = [json.loads(line)["seq"] for line in printed.splitlines()]
    assert 480 < len(seqs) < 500  # a page has four of them, and may be one of the index
    missing = sorted({*range(1, 501)} - {*seqs})
    assert f"events {missing[0]} to {missing[-1]} are missing or damaged" in complaints


def overwrite(path: str, name: str) -> None:
    """Damage the first page of a table or index."""
    with opened(path) as other:
        (page,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        (size,) = other.execute("PRAGMA page_size").fetchone()
    data = bytearray(Path(path).read_bytes())
    data[(page - 1) * size : page * size] = b"\xa5" * size
    Path(path).write_bytes(data)


@pytest.mark.row("D5")
@pytest.mark.parametrize(
    "index",
    [
        "sqlite_autoindex_sessions_1",
        "sessions_by_time",
        "sqlite_autoindex_events_1",
        "sqlite_autoindex_runs_1",
        "runs_by_session",
        "runs_unfinished",
    ],
)
def test_a_damaged_index_costs_nothing_that_was_said(index: str) -> None:
    path = store((CONVERSATION, 0), (ended("t"), 3))
    commands = [["sessions", "list"], ["sessions", "export"], ["sessions", "export", "--owner", "ada"]]
    whole = [qaws(*command, "--path", path) for command in commands]
    overwrite(path, index)
    assert [qaws(*command, "--path", path) for command in commands] == whole
    assert qaws("sessions", "show", "ada", "s", "--path", path)[0] == SHOWN


@pytest.mark.row("D5")
def test_sessions_are_listed_where_their_runs_cannot_be_read() -> None:
    path = store((CONVERSATION, 0), (ended("t"), 3))
    for name in ("runs", "runs_unfinished"):
        overwrite(path, name)
    lines = qaws("sessions", "list", "--path", path)[0].splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["?", "?"]
    assert qaws("sessions", "prune", "--older-than", "1", "--dry-run", "--path", path)[0][0] == "0"
    printed, complaints = qaws("sessions", "export", "--path", path, status=1)
    assert [line["seq"] for line in map(json.loads, printed.splitlines())] == [*range(1, 8), 1]
    assert "messages cannot be read" in complaints


@pytest.mark.row("D5")
def test_an_export_that_is_not_possible_does_not_advise_an_export() -> None:
    path = store((CONVERSATION, 0))
    overwrite(path, "sessions")
    complaint = qaws("sessions", "export", "--path", path, status=1)[1]
    assert "is damaged" in complaint
    assert "qaws sessions export" not in complaint


def test_a_reader_that_goes_away_ends_the_export_without_a_word() -> None:
    records = [EventRecord("ada", "s", "e", seq, b'{"n":"%1000d"}' % seq) for seq in range(1, 1001)]
    command = [sys.executable, "-m", "qaws", "sessions", "export", "--path", store((records, 0))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0


# ── prune ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_old_sessions_are_pruned_and_the_file_shrinks() -> None:
    old = [EventRecord("bob", "old", "e", seq, b"%1000d" % seq) for seq in range(1, 1001)]
    path = store((old, 5), (ended("young"), 1), (CONVERSATION, 9))
    size = Path(path).stat().st_size
    dry = qaws("sessions", "prune", "--older-than", "3", "--dry-run", "--path", path)[0]
    assert dry.splitlines()[0].startswith("bob  old  1000 events, last 20")
    assert dry.splitlines()[1:] == ["1 sessions would be deleted"]
    assert Path(path).stat().st_size == size
    assert qaws("sessions", "prune", "--older-than", "3", "--path", path)[0] == "1 sessions deleted\n"
    assert Path(path).stat().st_size < size / 10
    left = {line["session_id"] for line in exported("--path", path)}
    assert left == {"young", "s"}  # it is old and unfinished
    assert qaws("sessions", "prune", "--older-than", "0.5", "--path", path)[0] == "1 sessions deleted\n"
    assert qaws("sessions", "prune", "--older-than", "0.5", "--path", path)[0] == "0 sessions deleted\n"


# ── beside a server ──────────────────────────────────────────────────────────────────────────────────────────────────


def config_for(path: Path | str) -> str:
    lines = "websocket:", "  security: {authentication: {enabled: false}}", f"  store: {{kind: sqlite, path: {path}}}"
    Path("qaws.yaml").write_text("\n".join(lines))
    return "qaws.yaml"


def test_a_server_is_read_beside_and_not_pruned() -> None:
    config = config_for("q.db")
    with serving("--no-auth", "--host", "127.0.0.1", "--config", config) as server, connect(server.url) as client:
        client.send(json.dumps({"type": "chat_message", "content": "hola", "id": "m1", "session_id": "s"}))
        while json.loads(client.recv())["type"] != "agent_response":
            pass
        assert " s " in qaws("sessions", "list", "--config", config)[0]
        assert qaws("sessions", "show", "anonymous", "s", "--config", config)[0] == "anonymous: hola\nagent: hola\n"
        assert len(exported("--config", config)) == 3
        pid = server.process.pid
        for command in (["sessions", "prune", "--older-than", "1"], ["serve", "--no-auth", "--port", "0"]):
            complaint = refused(*command, "--config", config)
            assert f"in use by process {pid}" in complaint
            assert len(complaint.splitlines()) == 1
        assert qaws("sessions", "prune", "--older-than", "1", "--dry-run", "--config", config)[0][0] == "0"
        client.send(json.dumps({"type": "chat_message", "content": "again", "session_id": "s"}))
        while json.loads(client.recv())["type"] != "agent_response":
            pass
    assert not Path("q.db-wal").exists()  # it was moved into the file at the end
    assert len(exported("--path", "q.db")) == 5


@pytest.mark.row("D2")
def test_a_killed_server_leaves_what_can_be_read_and_served() -> None:
    config = config_for("q.db")
    arguments = ("--no-auth", "--host", "127.0.0.1", "--config", config)
    with serving(*arguments, ends_with=-signal.SIGKILL) as server, connect(server.url) as client:
        client.send(json.dumps({"type": "chat_message", "content": "hola", "id": "m1", "session_id": "s"}))
        while json.loads(client.recv())["type"] != "agent_response":
            pass
        server.process.kill()
        server.process.wait()
    assert len(exported("--config", config)) == 3
    with serving(*arguments) as server, connect(server.url) as client:
        client.recv()  # connection_established
        client.send(json.dumps({"type": "chat_message", "content": "hola", "id": "m1", "session_id": "s"}))
        assert json.loads(client.recv())["data"]["duplicate"] is True


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("D5")
def test_stores_that_cannot_be_opened_are_one_line() -> None:
    Path("notes.txt").write_text("my notes\n" * 1000)
    with opened("songs.db") as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    for path, text in (
        ("notes.txt", "no SQLite database"),
        ("songs.db", "another program's"),
        ("nowhere/q.db", "there is no directory"),
    ):
        config = config_for(path)
        commands = [["check", config], ["serve", "--no-auth", "--port", "0", "--config", config]]
        if path != "nowhere/q.db":
            commands += [["sessions", "list", "--config", config], ["sessions", "export", "--path", path]]
            commands += [["sessions", "prune", "--older-than", "1", "--path", path]]
        for command in commands:
            complaint = refused(*command)
            assert text in complaint
            assert len(complaint.splitlines()) == 1
            assert complaint.startswith("qaws: ")


def test_a_file_that_is_not_there_is_not_made() -> None:
    for command in (["list"], ["show", "ada", "s"], ["export"], ["prune", "--older-than", "1"]):
        assert "there is no such file" in qaws("sessions", *command, "--path", "q.db", status=1)[1]
    assert not list(Path().iterdir())


def test_usage_is_checked() -> None:
    config = config_for("q.db")
    assert "one or the other" in qaws("sessions", "list", "--path", "q.db", "--config", config, status=2)[1]
    assert "store.kind: sqlite" in qaws("sessions", "list", status=2)[1]
    assert "0" in qaws("sessions", "prune", "--older-than", "0", "--path", "q.db", status=2)[1]
    assert "older" in qaws("sessions", "prune", "--path", "q.db", status=2)[1]


def test_check_says_yes_to_a_store_and_makes_none() -> None:
    assert "store.path" in qaws("check", config_for("q.db"))[0]
    assert not Path("q.db").exists()
    store((CONVERSATION, 0))
    qaws("check", "qaws.yaml")
