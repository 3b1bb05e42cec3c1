"""`kill -9` at any moment: every message that was accepted and every event that was heard is there afterwards (D2).

200 rounds, half of them for each way to go on; fewer where HYPOTHESIS_PROFILE says that it has to be quick.
QAWS_KILL_ROUNDS is the number for each way, QAWS_KILL_SEED another seed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

QUICK = {"dev": 20, "short": 10}
ROUNDS = int(os.environ.get("QAWS_KILL_ROUNDS") or QUICK.get(os.environ.get("HYPOTHESIS_PROFILE", "dev"), 100))
SEED = os.environ.get("QAWS_KILL_SEED") or "20261"
PATIENCE = 60 + 2 * ROUNDS  # seconds for all rounds of a way


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name: there is a Unix socket in it."""
    path = Path(tempfile.mkdtemp(prefix="qaws"))
    yield path
    shutil.rmtree(path)


@pytest.mark.row("D2")
@pytest.mark.clause("C10")
@pytest.mark.clause("C11")
@pytest.mark.timeout(PATIENCE + 30)
@pytest.mark.parametrize("on_restart", ["fail", "rerun"])
def test_nothing_is_lost_and_nothing_is_there_twice(on_restart: str, folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WEBSOCKET_", "QAWS_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.durability.rounds", folder, on_restart, str(ROUNDS), SEED],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, complaints = process.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):  # its servers with it
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"seed {SEED}\n{complaints}"
    print(said)
    counts = json.loads(said)
    assert (counts.pop("lost"), counts.pop("duplicated")) == ([], []), f"seed {SEED}: {counts}"
    assert counts["rounds"] == ROUNDS
    assert counts["accepted"] == counts["attempted"] > ROUNDS
    assert counts["stored"] >= counts["received"] > 5 * ROUNDS
    assert counts["cut"] > ROUNDS / 4  # or the kills came when nothing was going on
