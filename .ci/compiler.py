"""End with a line that says what this Python lacks to make extension modules; silently where it lacks nothing."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def missing() -> list[str]:
    """What is not here, in words."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    lacks = [] if shutil.which(compiler) else [f"a C compiler ({compiler})"]
    return lacks if headers.exists() else [*lacks, "the headers of Python (python3-dev)"]


if __name__ == "__main__" and (lacks := missing()):
    sys.exit(f"the core cannot be compiled without {' and '.join(lacks)}")
