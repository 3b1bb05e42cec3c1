"""`python -m benchmarks core|chat|stores|all|soak|…`: Markdown on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from . import chat, core, growth, idle, instructions, soak, stores
from .options import Options, OptionsError, parse
from .processes import ChildError
from .report import GOAL_HEADERS, Goal, machine, table

Benchmark = Callable[[Options], list[Goal] | None]

BENCHMARKS: dict[str, Benchmark] = {"core": core.run, "chat": chat.run, "stores": stores.run}
APART: dict[str, Benchmark] = {  # that are no part of `all`: they take long, or judge
    "soak": soak.run, "growth": growth.run, "idle": idle.run, "instructions": instructions.run,
}  # fmt: skip
FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the arguments name. The status is 2 where they name none, 1 where one failed."""
    try:
        name, options = parse(arguments, (*BENCHMARKS, "all", *APART))
    except OptionsError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(machine(), end="\n\n", flush=True)
    try:
        runs = BENCHMARKS.values() if name == "all" else ((BENCHMARKS | APART)[name],)
        goals = [goal for run in runs for goal in run(options) or ()]
    except (ChildError, soak.GrowthError, instructions.CountError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    if goals:
        print(table(GOAL_HEADERS, [goal.row() for goal in goals]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
