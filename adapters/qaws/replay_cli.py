"""The command `qaws replay`: what was recorded, through the core again, step by step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.text import Text

from qaws_proto.testing.replay import Replay, Replayed
from qaws_proto.testing.story import Line, Story
from qaws_proto.testing.trace import Trace, TraceError

from .terminal import plain

DIFFERENT, NO_TRACE = 1, 2
STYLES = {"<": "bold", ">": "", "-": "dim", "!": "yellow"}


def replay(
    file: Path,
    /,
    *,
    until: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    connection: int | None = None,
) -> int:
    """Run what was recorded through the core, and print what came, what was done, and why each connection ended.

    Ends with 0 where everything is as it was, with 1 at the first difference, with 2 where the file is no whole record.

    Parameters
    ----------
    file
        A file that `qaws serve --record` has written.
    until
        End with the step of this number.
    connection
        Print what concerns the connection of this number alone.
    """
    with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        try:
            trace = Trace.read_beginning(lines)
            again = Replay(trace)
        except TraceError as error:
            return _refuse(f"{file}: {error}")
    printer, count = _Printer(connection), 0
    for replayed in again.steps():
        if until is not None and replayed.step.seq > until:
            break
        count += 1
        printer.print(replayed)
        if replayed.difference is not None:
            printer.say(f"step {replayed.step.seq} is not as it was: {replayed.difference}", "bold red")
            printer.say(f"{count} inputs, {count - 1} equal")
            return DIFFERENT
    if not printer.shown:
        printer.say(
            "nothing to show" if connection is None else f"none of these steps concerns connection {connection}"
        )
    printer.say(f"{count} inputs, {count} equal")
    if trace.broken is not None and (until is None or until > count):
        return _refuse(f"{file}: the record breaks off: {trace.broken}")
    return 0


def _refuse(text: str) -> int:
    print(plain(f"qaws: {text}"), file=sys.stderr)
    return NO_TRACE


class _Printer:
    """Prints the steps that concern one connection, or all."""

    def __init__(self, connection: int | None) -> None:
        self.shown = 0  # steps
        self._connection = connection
        self._story = Story()
        self._console = Console(highlight=False, soft_wrap=True)
        self._began: float | None = None

    def print(self, replayed: Replayed) -> None:
        """A step, where there is anything in it for whoever reads."""
        step = replayed.step
        self._began = step.now.mono if self._began is None else self._began
        happened, *done = self._story.tell(replayed)
        shown = [line for line in done if self._concerns(line)]
        if not (shown or self._concerns(happened) or replayed.difference):
            return
        self.shown += 1
        self.say(f"{step.seq:>6} {step.now.mono - self._began:>12.6f}  {_text(happened)}", STYLES["<"])
        for line in shown:
            self.say(f"{'':>19}    {_text(line)}", STYLES[line.mark])

    def _concerns(self, line: Line) -> bool:
        return self._connection in (None, line.connection)

    def say(self, text: str, style: str = "") -> None:
        """A line; in colours on a terminal."""
        self._console.print(Text(plain(text), style))


def _text(line: Line) -> str:
    of = "" if line.connection is None else f" [{line.connection}]"
    return f"{line.mark}{of} {line.text}"
