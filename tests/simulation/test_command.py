"""The command `qaws simulate`: many worlds, one of them again, and what is printed of a failure."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qaws import simulate_cli
from qaws.cli import main
from qaws_proto.testing.replay import Replay
from qaws_proto.testing.trace import Trace
from qaws_proto.testing.world import World

WORLDS = 160  # that reach every state


def simulate(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    """What the command prints, on both streams."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *arguments])
    printed = capsys.readouterr()
    assert ended.value.code == status, printed
    return printed.out, printed.err


@pytest.mark.timeout(600)  # two thousand steps of a node each tenth of a second, where nobody else computes
def test_many_worlds_reach_every_state_and_fail_in_none() -> None:
    command = [sys.executable, "-m", "qaws", "simulate", "--seeds", str(WORLDS), "--seed", "0", "--require-all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.search(rf"^{WORLDS} worlds, \d+ steps, [\d.]+ worlds/s, 0 failed$", done.stdout, re.MULTILINE)


def test_what_was_not_reached_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulate(capsys, "--seeds", "2", "--seed", "5", "--jobs", "1")
    assert "states were not reached: " in out
    simulate(capsys, "--seeds", "2", "--seed", "5", "--jobs", "1", "--require-all", status=1)


def test_the_seeds_of_a_version_are_fixed(capsys: pytest.CaptureFixture[str]) -> None:
    chosen, _ = simulate(capsys, "--seeds", "2", "--jobs", "1")
    named, _ = simulate(capsys, "--seeds", "2", "--jobs", "2", "--seed", str(simulate_cli.first_seed()))
    assert chosen.splitlines()[-1] == named.splitlines()[-1]
    assert chosen.splitlines()[-1].startswith("trace ")


def test_one_world_is_shown_up_to_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulate(capsys, "--seeds", "1", "--seed", "7", "--until", "30")
    assert re.search(r"^ +30 +[\d.]+ ", out, re.MULTILINE)
    assert not re.search(r"^ +31 ", out, re.MULTILINE)
    assert "node: Gauges(" in out
    assert out.splitlines()[-1].startswith("seed 7: 30 steps, trace ")
    _, err = simulate(capsys, "--seeds", "2", "--until", "30", status=2)
    assert "--until" in err


def test_a_configuration_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "qaws.yaml"
    keys = "authentication: {jwks: 'https://keys.example/set'}"
    file.write_text(f"websocket: {{security: {{{keys}}}, sessions: {{max_events: 3}}, server: {{path: /ws}}}}\n")
    out, _ = simulate(capsys, "--seeds", "8", "--seed", "1", "--jobs", "1", "--config", str(file), "--verbose")
    assert re.search(r"^8 worlds, .* 0 failed$", out, re.MULTILINE)
    assert re.search(r"^ +[1-9]\d*  resume over a gap$", out, re.MULTILINE)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A gateway that breaks within its 50th step, in a folder of its own."""
    step = World.after_step

    def breaks(world: World, *arguments: object) -> None:
        step(world, *arguments)  # type: ignore[arg-type]
        if world.steps == 50:
            raise AssertionError("it broke")

    monkeypatch.setattr(World, "after_step", breaks)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_failure_says_how_it_is_found_again_and_leaves_its_trace(
    capsys: pytest.CaptureFixture[str], broken: Path
) -> None:
    out, err = simulate(capsys, "--seeds", "2", "--seed", "7", "--jobs", "1", status=1)
    assert "2 failed" in out
    assert "seed 7, step 50: it broke\n  at " in err
    assert "    qaws simulate --seeds 1 --seed 7\n" in err
    _, err = simulate(capsys, "--seeds", "1", "--seed", "7", status=1)
    assert "step 50: it broke" in err
    trace = Trace.read((broken / "simulation-7.jsonl").read_text("utf-8").splitlines(keepends=True))
    assert trace.head.kind == "simulation"
    replayed = list(Replay(trace).steps())
    assert [step.difference for step in replayed if step.difference] == []
    assert len(replayed) > 10


def test_a_world_that_is_stuck_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(world: World) -> None:
        while True:
            pass

    monkeypatch.setattr(World, "run", stuck)
    monkeypatch.setattr(simulate_cli, "LONGEST", 0.05)
    _, outcome = simulate_cli.happen(1)
    assert outcome.failure is not None
    assert outcome.failure.startswith("Endless: not over within 0.05 s of processor time")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups here")
def test_ctrl_c_ends_all_processes() -> None:
    command = [sys.executable, "-u", "-m", "qaws", "simulate", "--seeds", "100000", "--jobs", "2", "--verbose"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("seed ")  # both are at it
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
