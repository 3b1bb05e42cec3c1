"""Print the versions of CPython from 3.11 on that this machine has, oldest first; given one of them, where it is.

2.7 is found as well where it is asked for: the Autobahn|Testsuite needs it.

They are looked for on PATH and where pyenv and uv keep theirs: on PATH pyenv shows only those that were chosen.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
PYTHON2 = (2, 7)
KEPT = (
    (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")), "versions/*/bin"),
    (Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python")), "*/bin"),
)
TELL = """
import platform, sys, sysconfig
assert platform.python_implementation() == "CPython" and sys.version_info[3] == "final"
assert not sysconfig.get_config_var("Py_GIL_DISABLED")
print("%d %d" % sys.version_info[:2])
"""


def interpreters() -> dict[tuple[int, ...], Path]:
    """Each version with the first interpreter that is found to be of it and to run."""
    found: dict[tuple[int, ...], Path] = {}
    kept = [folder for root, pattern in KEPT for folder in sorted(root.glob(pattern), reverse=True)]
    for folder in [*map(Path, os.environ["PATH"].split(os.pathsep)), *kept]:
        for file in folder.glob("python*.*"):
            if re.fullmatch(r"python(3\.\d+|2\.7)", file.name):
                told = subprocess.run([file, "-c", TELL], capture_output=True, text=True)
                if told.returncode == 0:
                    found.setdefault(tuple(map(int, told.stdout.split())), file)
    return {version: found[version] for version in sorted(found) if version >= OLDEST or version == PYTHON2}


def main(wanted: str | None = None) -> None:
    named = {".".join(map(str, version)): file for version, file in interpreters().items()}
    if wanted is None:
        print(*(name for name in named if not name.startswith("2.")))
    elif wanted in named:
        print(named[wanted])
    else:
        sys.exit(f"no CPython {wanted} was found, only {', '.join(named)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
