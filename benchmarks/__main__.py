"""`python -m benchmarks chat|handshake|…|all|soak`: Markdown on standard output, progress on standard error."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import TextIO

from . import chat, core, fanout, growth, handshake, idle, instructions, page, soak, stores, stream
from .options import Options, OptionsError, parse
from .peers import PEERS
from .processes import ChildError
from .report import GOAL_HEADERS, Goal, machine, table

Benchmark = Callable[[Options], list[Goal] | None]

BENCHMARKS: dict[str, Benchmark] = {
    "core": core.run,
    "chat": chat.run,
    "handshake": handshake.run,
    "stream": stream.run,
    "fanout": fanout.run,
    "idle": idle.run,
    "growth": growth.run,
    "stores": stores.run,
}
APART: dict[str, Benchmark] = {  # no part of `all`: they judge
    "instructions": instructions.run,
    "soak": soak.run,
}
FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the arguments name. The status is 2 where they name none, 1 where a server failed."""
    try:
        name, options = parse(arguments, (*BENCHMARKS, "all", *APART), [peer.name for peer in PEERS])
        place = None if options.page is None else page.Place(options.page)
    except (OptionsError, page.PageError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return USAGE_ERROR
    heard = _Heard(sys.stdout)
    try:
        with redirect_stdout(heard):
            run(name, options)
    except (ChildError, soak.GrowthError, instructions.CountError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    if place is not None:
        place.fill(heard.getvalue())
    return 0


def run(name: str, options: Options) -> None:
    """Measure, and print what comes of it; the targets at the end. Raises ChildError, GrowthError, CountError."""
    print(machine(), end="\n\n", flush=True)
    benchmarks = BENCHMARKS.values() if name == "all" else ((BENCHMARKS | APART)[name],)
    goals = [goal for benchmark in benchmarks for goal in benchmark(options) or ()]
    if goals:
        print("### targets\n")
        print(table(GOAL_HEADERS, [goal.row() for goal in goals]), flush=True)


class _Heard(io.StringIO):
    """What is printed, on its way to where it goes."""

    def __init__(self, onward: TextIO) -> None:
        super().__init__()
        self._onward = onward

    def write(self, text: str) -> int:
        self._onward.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._onward.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
