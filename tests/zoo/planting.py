"""Plant a fault in a copy of the core, and let the simulator look for it there.

    python -m tests.zoo.planting ["part of a name"]

prints for each fault the world that found it and what was said of it; what `seeds` of the table should be can be read
off it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.zoo.faults import FAULTS, Planted

ROOT = Path(__file__).parents[2]
HUNT = """
import sys
from pathlib import Path
import qaws_proto
from qaws.simulate_cli import first_seed
from qaws_proto.testing.simulation import simulate

copy, worlds = sys.argv[1:]
assert Path(qaws_proto.__file__).parent.samefile(copy), f"{qaws_proto.__file__} is not the copy"
for count in range(int(worlds)):
    failure = simulate(first_seed() + count)[1].failure
    if failure is not None:
        print(count + 1, failure)
        break
"""


class Hunt(NamedTuple):
    """How looking for a fault ended: in which world, counted from 1, or None; and what was said of it."""

    world: int | None
    failure: str


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
    """Let worlds happen upon a copy with the fault, those of `qaws simulate`, until one fails."""
    core = plant(fault, folder)
    paths = os.pathsep.join([str(folder), str(ROOT / "adapters")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", HUNT, str(core), str(fault.seeds)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    world, _, failure = done.stdout.partition(" ")
    return Hunt(int(world) if world else None, failure)


def main() -> int:
    """Hunt for all whose name has a part in it, and print what came of it."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for fault in FAULTS:
        if part in fault.name:
            with tempfile.TemporaryDirectory() as folder:
                found = hunt(fault, Path(folder))
            missed += found.world is None
            print(f"{found.world or '-':>5} of {fault.seeds}  {fault.name}", flush=True)
            print(f"{'':15}{found.failure.splitlines()[0] if found.world else 'not found'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
