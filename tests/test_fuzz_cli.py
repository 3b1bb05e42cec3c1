"""`qaws fuzz`, through real processes: it finds what is wrong with a node or an agent, and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from qaws.fuzzing import AgentTarget, Campaign, Hung, NodeTarget, Over
from qaws_proto.testing import configure

ROOT = Path(__file__).parent.parent
PATIENCE = 100  # seconds after which a process counts as hung
EXECUTIONS = 2000  # enough for the faults below, whatever the engine makes up
ENGINES = [
    pytest.param("hypothesis"),
    pytest.param(
        "atheris", marks=pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed here")
    ),
]

AGENTS = """
import threading

def fragile(message):
    return message.encode("ascii").decode()

async def polite(message):
    yield message

def stuck(message):
    threading.Thread(target=threading.Event().wait).start()
    raise ValueError(message)
"""

CONFIG = """
websocket:
  server: {path: /ws}
  security:
    authentication: {jwt_secret: "${SECRET_OF_THE_TEST}"}
    rate_limiting: {requests_per_minute: 30}
  store: {kind: sqlite, path: must-not-be-made.db}
"""


class Fault(NamedTuple):
    """A line of the core, what a careless change makes of it, and what says so."""

    file: str
    line: str
    instead: str
    finding: str


FAULTS = {
    "a timer outlives its run": Fault(
        "conversation/runs.py",
        "        self._timers.clear(Reason.RUN if run.state is State.RUNNING else Reason.GIVE_UP, run.id)\n", "",
        "KeyError",
    ),
    "a session stays that nobody reads": Fault(
        "gateway.py", "            self._sessions.forget(session)\n", "            pass\n",
        "AssertionError: connections, sessions",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with agents and settings in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "adapters")]))
    monkeypatch.setenv("SECRET_OF_THE_TEST", "nothing that anybody could guess easily")
    (tmp_path / "my_agents.py").write_text(AGENTS)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qaws", "fuzz", "--seed", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def again(printed: str) -> Sequence[str]:
    """The arguments of the command that replays a finding."""
    line = re.search(r"^replay +qaws fuzz (.*)$", printed, re.MULTILINE)
    assert line, printed
    return shlex.split(line[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_found_in_the_node_as_it_is(engine: str, folder: Path) -> None:
    done = fuzz("--seconds", "5", "--engine", engine)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^engine +{engine} [\d.]+, seed 1", done.stdout)
    assert re.search(r"^executions +[\d,]+ in [\d.]+ s, [\d,]+/s$", done.stdout, re.MULTILINE)
    assert re.search(r"^corpus +\d+ programs in \.qaws-fuzz/node/corpus$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("findings    none\n")
    assert len(list((folder / ".qaws-fuzz/node/corpus").iterdir())) > 10


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_the_core_is_found_and_can_be_replayed(
    fault: Fault, engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "qaws_proto", folder / "spoilt" / "qaws_proto")
    file = folder / "spoilt" / "qaws_proto" / fault.file
    source = file.read_text("utf-8")
    assert source.count(fault.line) == 1, "the line is there, and can be spoilt"
    file.write_text(source.replace(fault.line, fault.instead), "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "spoilt"), str(ROOT / "adapters")]))
    done = fuzz("--executions", str(EXECUTIONS), "--seconds", "80", "--engine", engine)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"findings    {fault.finding}" in done.stdout
    spoilt = fuzz(*again(done.stdout))
    assert spoilt.returncode == 1
    assert "connect from" in spoilt.stdout
    assert fault.finding in spoilt.stderr
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "adapters")]))
    sound = fuzz(*again(done.stdout))
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "nothing is wrong with that")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_agent_raises_is_found_with_the_shortest_conversation(engine: str, folder: Path) -> None:
    arguments = ("--agent", "my_agents:fragile", "--engine", engine)
    done = fuzz("--executions", str(EXECUTIONS), "--seconds", "80", *arguments)
    assert (done.returncode, done.stderr) == (1, "")
    assert "findings    qaws.fuzzing.AgentRaised: the agent raised UnicodeEncodeError" in done.stdout
    replayed = fuzz(*again(done.stdout))
    assert replayed.returncode == 1
    connected, said, left = replayed.stdout.splitlines()
    assert "connect from" in connected
    assert re.search(r"chat_message|text", said)
    assert left == "everybody leaves"
    assert "UnicodeEncodeError: 'ascii' codec" in replayed.stderr
    assert fuzz(*again(done.stdout), "--allow-agent-errors").returncode == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_an_agent_that_can_take_it_is_left_in_peace(engine: str, folder: Path) -> None:
    done = fuzz("--seconds", "4", "--agent", "my_agents:polite", "--config", "config.yaml", "--engine", engine)
    assert (done.returncode, done.stderr) == (0, "")
    assert "programs in .qaws-fuzz/agent/corpus" in done.stdout
    assert not (folder / "must-not-be-made.db").exists()


def test_the_settings_of_a_file_are_those_of_the_node(folder: Path) -> None:
    done = fuzz("--executions", "30", "--config", "config.yaml", "--engine", "hypothesis")
    assert (done.returncode, done.stderr) == (0, "")
    assert "executions  30 in" in done.stdout
    assert not (folder / "must-not-be-made.db").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_thread_that_never_ends_holds_nobody_up(engine: str, folder: Path) -> None:
    done = fuzz("--agent", "my_agents:stuck", "--engine", engine)
    assert (done.returncode, done.stderr) == (1, "")
    replayed = fuzz(*again(done.stdout))
    assert (replayed.returncode, "ValueError" in replayed.stderr) == (1, True)


@pytest.mark.parametrize("engine", ENGINES)
def test_it_may_go_on_for_ever(engine: str, folder: Path) -> None:
    done = fuzz("--seconds", "inf", "--executions", "5", "--engine", engine)
    assert (done.returncode, done.stderr) == (0, "")
    assert "executions  5 in" in done.stdout


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed here")
def test_what_ends_the_process_of_atheris_is_told(folder: Path) -> None:
    (folder / ".qaws-fuzz/node").mkdir(parents=True)
    (folder / ".qaws-fuzz/node/corpus").write_text("no folder")
    done = fuzz("--engine", "atheris")
    assert done.returncode == 1
    assert "FileExistsError" in done.stderr
    assert "atheris has ended by itself, with status 1; see .qaws-fuzz/node/atheris.log" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_ends_it_in_order(engine: str, folder: Path) -> None:
    command = [sys.executable, "-m", "qaws", "fuzz", "--seconds", "3600", "--engine", engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert "Ctrl-C" in process.stdout.readline()
            while not list(folder.glob(".qaws-fuzz/node/corpus/*")):  # it has begun
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            rest, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "findings    none" in rest


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("--agent", "my_agents:nobody"), 1, "has no 'nobody'"),
        (("--agent", "nonsense"), 1, "names no agent"),
        (("--config", "missing.yaml"), 1, "missing.yaml"),
        (("--replay", "missing"), 1, "missing"),
        (("--seconds", "0"), 2, "--seconds"),
        (("--engine", "guessing"), 2, "--engine"),
    ],
)
def test_what_cannot_be_fuzzed_is_told(arguments: tuple[str, ...], status: int, complaint: str, folder: Path) -> None:
    done = fuzz(*arguments)
    assert done.returncode == status
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


# ── what engines feed ────────────────────────────────────────────────────────────────────────────────────────────────


class Slow:
    """A target that does not come to an end."""

    seeds: tuple[bytes, ...] = (b"seed",)
    instructions: tuple[str, ...] = ("wait",)
    begins_with = 0

    def execute(self, code: bytes, log: object) -> frozenset[str]:
        try:
            while True:
                pass
        except Exception:
            return frozenset()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers here")
def test_an_execution_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qaws.fuzzing.HUNG", 0.05)
    with Campaign(Slow(), tmp_path, seconds=60) as campaign, pytest.raises(Over):
        campaign.attempt(b"\0\1")
    assert campaign.finding is not None
    assert isinstance(campaign.finding.error, Hung)
    assert campaign.finding.code == campaign.finding.file.read_bytes() == b"\0\1"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such timers here")
def test_an_agent_that_hangs_is_found_whatever_it_may_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def agent(message: str) -> str:
        while True:
            pass

    monkeypatch.setattr("qaws.fuzzing.HUNG", 2.0)
    target = AgentTarget(agent, None, allow_errors=True)
    with Campaign(target, tmp_path, seconds=60) as campaign, pytest.raises(Over):
        campaign.attempt(target.seeds[0])
    assert campaign.finding is not None
    assert isinstance(campaign.finding.error, Hung)


def test_a_campaign_ends_behind_its_last_execution(tmp_path: Path) -> None:
    target = NodeTarget(None)
    with Campaign(target, tmp_path, seconds=60, executions=2) as campaign:
        campaign.attempt(target.seeds[0])
        with pytest.raises(Over):
            campaign.attempt(target.seeds[0])
    assert (campaign.executions, campaign.kept, campaign.finding) == (2, 1, None)
    assert campaign.old() == [target.seeds[0]]


def test_settings_whose_keys_come_from_elsewhere_get_a_secret() -> None:
    keys = {"authentication": {"jwks": "https://keys.example/set", "algorithm": "ES256"}}
    target = NodeTarget(configure(security=keys))
    seen = set().union(*(target.execute(seed, lambda _: None) for seed in target.seeds))
    assert "agent_response" in seen
    assert "AUTH_FAILED" not in seen


def test_an_agent_is_fuzzed_as_it_would_be_served() -> None:
    log: list[str] = []

    async def agent(message: str) -> str:
        return message

    target = AgentTarget(agent, None, allow_errors=False)
    seen = set().union(*(target.execute(seed, log.append) for seed in target.seeds))
    assert {"agent_response", "message_accepted", "note run_ended"} <= seen
    with pytest.raises(TypeError, match="no agent"):
        AgentTarget(42, None, allow_errors=False)
