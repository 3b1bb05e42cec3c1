"""`python -m benchmarks core|chat|stores|all|soak`: Markdown on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from . import chat, core, soak, stores
from .options import Options, OptionsError, parse
from .processes import ChildError
from .report import machine

BENCHMARKS: dict[str, Callable[[Options], None]] = {"core": core.run, "chat": chat.run, "stores": stores.run}
SOAK = "soak"  # is no part of `all`: it takes long, and judges
FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the arguments name. The status is 2 where they name none, 1 where a server failed."""
    try:
        name, options = parse(arguments, (*BENCHMARKS, "all", SOAK))
    except OptionsError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(machine(), end="\n\n", flush=True)
    try:
        for run in BENCHMARKS.values() if name == "all" else ((BENCHMARKS | {SOAK: soak.run})[name],):
            run(options)
    except (ChildError, soak.GrowthError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
