"""Plant a fault in a copy of the core, and let the simulator look for it there.

    python -m tests.zoo.planting ["part of a name"]

prints for each fault the seed that found it and what it said; what `seeds` of the table should be can be read off it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.zoo.faults import FAULTS, Planted

ROOT = Path(__file__).parents[2]
FOUND = re.compile(r"--seeds 1 --seed (\d+)")  # the command that replays a failure


class Hunt(NamedTuple):
    """How looking for a fault ended: at which world, counted from 1, or None; and what was printed."""

    worlds: int | None
    output: str


def plant(fault: Planted, folder: Path) -> Path:
    """A copy of the core in `folder`, with the fault in it. Raises ValueError where its line is not there once."""
    core = folder / "qaws_proto"
    shutil.copytree(ROOT / "qaws_proto", core, ignore=shutil.ignore_patterns("__pycache__"))
    path = core / fault.file
    source = path.read_text("utf-8")
    if source.count(fault.right) != 1:
        raise ValueError(f"{fault.name}: {fault.right!r} is {source.count(fault.right)} times in {fault.file}")
    path.write_text(source.replace(fault.right, fault.wrong), "utf-8")
    return core


def hunt(fault: Planted, folder: Path) -> Hunt:
    """Simulate worlds upon a copy with the fault, one after the other, until one fails."""
    core = plant(fault, folder)
    paths = os.pathsep.join([str(folder), str(ROOT / "adapters")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    where = [sys.executable, "-c", "import qaws_proto; print(qaws_proto.__file__)"]
    imported = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(imported.strip()).parent.samefile(core), f"{imported.strip()} is not the copy"
    command = [sys.executable, "-m", "qaws", "simulate", "--seeds", str(fault.seeds), "--jobs", "1"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return Hunt(None, output)
    found = FOUND.search(output)
    assert done.returncode == 1, output
    assert found is not None, output
    return Hunt(int(found[1]) - first_seed(output) + 1, output)


def first_seed(output: str) -> int:
    """The seed of the first world, as the command says it."""
    said = re.search(r"from seed (\d+)", output)
    assert said is not None, output
    return int(said[1])


def main() -> int:
    """Hunt for all whose name has a part in it, and print what came of it."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for fault in FAULTS:
        if part in fault.name:
            with tempfile.TemporaryDirectory() as folder:
                found = hunt(fault, Path(folder))
            missed += found.worlds is None
            print(f"{found.worlds or '-':>5} of {fault.seeds}  {fault.name}", flush=True)
            if part:
                print(found.output)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
