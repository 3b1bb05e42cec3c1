"""Agents of a simulated world: one call each, of every kind that people write, and some that nobody should.

A kind is a script: it yields the seconds until it goes on. What it says is noted in the `Truth`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..effects import StartRun
from ..inputs import RunStarted
from .history import Truth
from .streams import Random

if TYPE_CHECKING:
    from .node import NodeUnderTest
    from .schedule import Schedule

CANARY = "canary of an agent"  # in the text of every exception: nobody but the log may see it (C12)


class Aborted(BaseException):
    """What no `except Exception` stops, as an agent may raise it."""


class Call:
    """One call of the agent: what it does, and whether it has been told to stop."""

    def __init__(
        self, node: NodeUnderTest, run: StartRun, kind: str, truth: Truth, random: Random, timeout: float
    ) -> None:
        self.node = node
        self.kind = kind
        self.run = run
        self.random = random
        self.timeout = timeout  # seconds that it may be silent
        self.paused = False
        self.over = False
        self.moved_at = node.now.mono  # when it was last heard of, or pulled again
        self._truth = truth

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self.run.run_id in self.node.cancelled

    def say(self, piece: object) -> None:
        """Yield a piece of the answer; nobody may hear it, once it was told to stop."""
        if not self.over:
            if isinstance(piece, str) and not self.cancelled:
                self._truth.life(self.run.run_id).pieces.append(seen(piece))
            self.moved_at = self.node.now.mono
            self.node.chunk(self.run.run_id, piece)

    def tell(self, kind: str, name: str | None, content: str | None) -> None:
        """Tell what it does."""
        if not self.cancelled and not self.over:
            self._truth.life(self.run.run_id).steps.append(content or name or "")
            self.moved_at = self.node.now.mono
            self.node.tell(self.run.run_id, kind, name, content)

    def finish(self, content: object = None) -> None:
        """Return."""
        if not self.over:
            self.over = True
            life = self._truth.life(self.run.run_id)
            if content is None or isinstance(content, str):
                life.answers.append(life.text if content is None else seen(str(content)))
            self.node.finish(self.run.run_id, content)

    def fail(self, cause: BaseException | None = None) -> None:
        """Raise; or stop, where it was told to."""
        if not self.over:
            self.over = True
            self.node.fail(self.run.run_id, cause)


def seen(text: str) -> str:
    """A text as clients see it: halves of characters are replaced (G4)."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Script = Callable[[Call], Iterator[float]]


def _echo(call: Call) -> Iterator[float]:
    yield 0.0
    call.finish(f"You said: {call.run.content}")


def _slow(call: Call) -> Iterator[float]:
    for number in range(call.random.randint(2, 12)):
        yield call.random.uniform(0.001, 0.6)
        call.say(f"piece {number}, ")
    call.finish()


def _bursty(call: Call) -> Iterator[float]:
    for _ in range(call.random.randint(1, 3)):
        yield call.random.uniform(0.0, 1.0)
        for number in range(call.random.randint(1, 20)):
            call.say(f"«{number}»" * call.random.choice((1, 1, 9)))
    call.finish()


def _steps(call: Call) -> Iterator[float]:
    call.node.step(RunStarted(call.run.run_id))
    for number in range(call.random.randint(1, 3)):
        yield call.random.uniform(0.0, 0.3)
        call.tell("reasoning", None, f"thought {number}")
        call.tell("tool_started", "search", f"query {number}")
        call.say(f"found {number}. ")
        call.tell("tool_finished", "search", None)
    call.finish()


def _hanging(call: Call) -> Iterator[float]:
    call.say("one moment")
    yield 1e6


def _raising(call: Call) -> Iterator[float]:
    if call.random.random() < 0.5:
        call.say("so far so good, ")
    yield call.random.uniform(0.0, 0.5)
    kinds = (ValueError, RecursionError, Aborted, MemoryError, SystemExit, KeyboardInterrupt)
    cause: BaseException = call.random.choice(kinds)(CANARY)
    if call.random.random() < 0.2:
        cause = BaseExceptionGroup(CANARY, [cause])
    call.fail(cause)


def _huge(call: Call) -> Iterator[float]:
    yield 0.01
    for _ in range(40):
        call.say("huge " * 60)
        yield 0.001
    call.finish()


def _endless(call: Call) -> Iterator[float]:
    while True:
        yield call.timeout / 3
        call.say("and on ")


def _deaf(call: Call) -> Iterator[float]:
    call.say("I hear nothing")
    yield call.timeout * 8  # it goes on whatever it is told
    call.finish()


def _late(call: Call) -> Iterator[float]:
    while not call.cancelled:
        yield 0.3
        call.say("still here ")
        if call.random.random() < 0.1:
            break
    call.finish("too late" if call.cancelled else None)


def _on_the_dot(call: Call) -> Iterator[float]:
    call.say("tick")
    yield call.timeout
    call.finish()


def _strange(call: Call) -> Iterator[float]:
    yield 0.0
    for piece in ("half \ud83d", "", "¿ñ\U0001f600?", "\ude00 half", "\u2028"):
        call.say(piece)
        yield 0.02
    if call.random.random() < 0.5:
        call.say(call.random.choice((None, b"bytes", 7, 1.5)))
        yield 0.1
    call.finish()


def _wrong(call: Call) -> Iterator[float]:
    yield 0.1
    call.finish(call.random.choice((b"bytes", 7, ("a", "tuple"))))


KINDS: dict[str, Script] = {
    "echo": _echo, "slow": _slow, "bursty": _bursty, "steps": _steps, "hanging": _hanging, "raising": _raising,
    "huge": _huge, "endless": _endless, "deaf": _deaf, "late": _late, "on the dot": _on_the_dot, "strange": _strange,
    "wrong": _wrong,
}  # fmt: skip
KEEPS_ON = ("deaf", "late")  # kinds that go on when they are told to stop


class Agents:
    """The agent of a world: chooses a kind for each call, holds it back and stops it as it is told."""

    def __init__(
        self, schedule: Schedule, random: Random, truth: Truth, timeout: float, kinds: tuple[str, ...]
    ) -> None:
        self.kinds = kinds
        self.calls: dict[str, Call] = {}
        self._held: dict[str, Iterator[float]] = {}  # scripts that wait until they are pulled again
        self._schedule = schedule
        self._random = random
        self._truth = truth
        self._timeout = timeout

    def start(self, node: NodeUnderTest, run: StartRun) -> None:
        """Call the agent."""
        self._truth.begin(run.run_id, run.content)
        kind = self._random.choice(self.kinds)
        call = self.calls[run.run_id] = Call(node, run, kind, self._truth, self._random, self._timeout)
        self._schedule.plan(0.0, f"agent, {kind}", lambda: self._play(call, KINDS[kind](call)))

    def _play(self, call: Call, script: Iterator[float]) -> None:
        """Let a call go on, until it is over; one that is stopped says so in a while."""
        if call.over:
            return
        if call.paused:
            self._held[call.run.run_id] = script
            return
        if call.cancelled and call.kind not in KEEPS_ON:
            call.fail()
            return
        delay = next(script, None)
        if delay is not None:
            self._schedule.plan(delay, f"agent, {call.kind}", lambda: self._play(call, script))

    def pause(self, run_id: str) -> None:
        """Pull it no more."""
        self.calls[run_id].paused = True

    def resume(self, run_id: str) -> None:
        """Pull it again."""
        call = self.calls[run_id]
        call.paused = False
        call.moved_at = self._schedule.mono
        script = self._held.pop(run_id, None)
        if script is not None:
            self._schedule.plan(0.0, "agent, pulled", lambda: self._play(call, script))

    def cancel(self, run_id: str) -> None:
        """Tell it to stop; most do."""
        call = self.calls[run_id]
        call.paused = False
        self._held.pop(run_id, None)
        self._schedule.plan(self._random.uniform(0.0, 0.2), "agent, told to stop", lambda: self._stopped(call))

    def _stopped(self, call: Call) -> None:
        if not call.over and call.kind not in KEEPS_ON:
            call.fail()

    def forget(self) -> None:
        """The node is gone, and with it all calls."""
        for call in self.calls.values():
            call.over = True
        self.calls.clear()
        self._held.clear()

    def end_all(self) -> None:
        """Let every call come to its end: from now on all are of the best kind."""
        self.kinds = ("echo",)
        for call in list(self.calls.values()):
            self._schedule.plan(0.0, "agent, at its end", call.finish)
