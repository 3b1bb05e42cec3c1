"""Fuzzing: programs that an engine makes up are performed on a node, or on one's own agent, until something is found.

An engine is atheris, which sees what code a program reaches, or Hypothesis. Both feed one `Campaign`, which counts,
keeps the programs in which something new was seen, and ends by itself: `Over` goes through every engine.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, NoReturn, Protocol

from pydantic import SecretStr

from qaws_proto import WebSocketConfig
from qaws_proto.config import StoreConfig
from qaws_proto.effects import Effect
from qaws_proto.inputs import Input
from qaws_proto.testing import Client
from qaws_proto.testing.fuzz import SEEDS, NodeExecution, execute
from qaws_proto.testing.fuzz_peers import Execution, seen
from qaws_proto.testing.node import SECRET, configure
from qaws_proto.testing.programs import Instruction, Program, assemble, shortest

from .testing import Play, play

LONGEST = 400  # bytes of a program that is made up
HUNG = 20.0  # seconds after which an execution counts as hung
SHORTENING = 20.0  # seconds for making a program that finds something shorter

Log = Callable[[str], None]


class Target(Protocol):
    """What programs are performed on."""

    seeds: tuple[bytes, ...]
    instructions: tuple[str, ...]
    begins_with: int  # bytes before the first instruction

    def execute(self, code: bytes, log: Log) -> frozenset[str]:
        """Perform a program; which kinds of things were seen. Raises what it finds."""


class Hung(BaseException):
    """An execution does not come to its end. No Exception, so that nothing on the way takes it for its own."""


class AgentRaised(AssertionError):
    """An agent raised something: its client was told AGENT_ERROR."""


# ── targets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class NodeTarget:
    """A node, whose agent and store the program plays; on the settings given, or on some that have near bounds."""

    instructions = tuple(NodeExecution.instructions)

    def __init__(self, config: WebSocketConfig | None) -> None:
        self._config = None if config is None else _signable(config)
        self.begins_with = 1 if config is None else 0
        self.seeds = SEEDS if config is None else tuple(dict.fromkeys(seed[1:] for seed in SEEDS))

    def execute(self, code: bytes, log: Log) -> frozenset[str]:
        """Perform a program."""
        return execute(code, self._config, log=log)


class AgentTarget:
    """An agent behind the real manager, in memory and virtual time."""

    instructions = tuple(Execution.instructions)
    begins_with = 0
    seeds = tuple(
        assemble(0, scene, Execution.instructions)[1:]
        for scene in (
            (Instruction("connect", b"\2\1\0"), Instruction("chat", b"\3\0\0\0"), Instruction("wait", b"\5")),
            (Instruction("connect", b"\2\1\0"), Instruction("chat", b"\3\1\0\0"), Instruction("event", b"\0\0\0\0\0")),
            (Instruction("connect", b"\2\1\0"), Instruction("chat", b"\0\4\0"), Instruction("end", b"\0\1")),
            (Instruction("connect", b"\2\1\0"), Instruction("stall", b"\0\1"), Instruction("chat", b"\3\2\0\0")),
        )
    )

    def __init__(self, agent: object, config: WebSocketConfig | None, *, allow_errors: bool) -> None:
        """Sessions are kept in memory, whatever the settings say: a store of theirs is left alone."""
        self._agent = agent
        self._config = _signable(configure() if config is None else config).model_copy(update={"store": StoreConfig()})
        self._allow_errors = allow_errors
        play(agent, self._config)  # raises what is wrong with either

    def execute(self, code: bytes, log: Log) -> frozenset[str]:
        """Perform a program."""
        with play(self._agent, self._config) as node:
            execution = Execution(Program(code), _Stage(node), self._config, log)
            execution.run()
            log("everybody leaves")
            for client in execution.clients:
                client.lose()
            node.advance(self._config.agent.max_duration + self._config.agent.cancel_grace)
            for hung in (error for error in node.raised if isinstance(error, Hung)):
                raise hung  # the agent hangs, whatever it is allowed to raise
            left = node.manager.gateway.connections
            assert left == 0, f"{left} connections are left"
            if node.raised and not self._allow_errors:
                raise AgentRaised(f"the agent raised {type(node.raised[0]).__name__}") from node.raised[0]
            return seen(execution.clients) | {f"note {note.name}" for note in node.notes}


class _Stage:
    """A `Play` as what a program is performed on."""

    def __init__(self, node: Play) -> None:
        self._node = node
        self.advance, self.jump, self.settle = node.advance, node.jump, node.settle

    def open(self, peer: str | None) -> Client:
        """A peer connects."""
        return self._node.peer(address=peer)

    def step(self, event: Input) -> list[Effect]:
        """An operator does something."""
        self._node.call(self._node.manager.feed, event)
        return []


def _signable(config: WebSocketConfig) -> WebSocketConfig:
    """The same settings, with a secret by which programs have good tokens, where keys come from elsewhere."""
    authentication = config.security.authentication
    if not authentication.enabled or (authentication.jwt_secret is not None and authentication.key_source is None):
        return config
    own = {
        "algorithm": "HS256", "jwt_secret": SecretStr(SECRET), "public_key_file": None, "private_key_file": None,
        "jwks": None,
    }  # fmt: skip
    security = config.security.model_copy(update={"authentication": authentication.model_copy(update=own)})
    return config.model_copy(update={"security": security})


# ── a campaign ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Over(BaseException):
    """A campaign has come to its end. No Exception, so that engines let it through."""


class Finding(NamedTuple):
    """A program that finds something, as short as could be made in the time."""

    code: bytes
    file: Path
    length: int  # bytes of the program before
    error: BaseException


class Campaign:
    """What is executed and kept. Use with `with`: Ctrl-C ends it behind the present execution."""

    def __init__(self, target: Target, folder: Path, *, seconds: float, executions: int | None = None) -> None:
        """`folder` has the programs of earlier campaigns, and gets those that are worth keeping."""
        self.target = target
        self.corpus, self.findings = folder / "corpus", folder / "findings"
        self.executions = 0
        self.finding: Finding | None = None
        self.interrupted = False
        self._seconds, self._most = seconds, executions
        self._seen: set[str] = set()
        self._began = self._ended = time.monotonic()

    def __enter__(self) -> Campaign:
        for folder in (self.corpus, self.findings):
            folder.mkdir(parents=True, exist_ok=True)
        self._before = [(number, signal.signal(number, act)) for number, act in self._handlers()]
        self._began = self._ended = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _handlers(self) -> Iterable[tuple[signal.Signals, Callable[[int, FrameType | None], None]]]:
        yield signal.SIGINT, self._interrupt
        if hasattr(signal, "SIGALRM"):  # not on Windows
            yield signal.SIGALRM, _hung

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:  # for the second time
            raise KeyboardInterrupt
        self.interrupted = True

    @property
    def seconds(self) -> float:
        """How long the executions took, without what came behind a finding."""
        return self._ended - self._began

    @property
    def kept(self) -> int:
        """Programs in the corpus."""
        return sum(1 for _ in self.corpus.iterdir())

    def old(self) -> list[bytes]:
        """The programs to begin with: those of earlier campaigns, or those of the target."""
        return [file.read_bytes() for file in sorted(self.corpus.iterdir())] or list(self.target.seeds)

    def attempt(self, code: bytes) -> None:
        """Execute a program. Raises Over where that was the last one."""
        try:
            found = _in_time(lambda: self.target.execute(code, _silent))
        except (Exception, Hung) as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            self._count()
            self.finding = self._look_at(code, error)
            raise Over from None
        self._count()
        if not found <= self._seen:
            self._seen |= found
            self.keep(code)
        done = self.executions >= self._most if self._most is not None else False
        if done or self.interrupted or self.seconds >= self._seconds:
            raise Over

    def _count(self) -> None:
        self.executions += 1
        self._ended = time.monotonic()

    def keep(self, code: bytes) -> None:
        """Add a program to the corpus."""
        self._keep(self.corpus, code)

    def _look_at(self, code: bytes, error: BaseException) -> Finding:
        """Make a program that finds something shorter, as long as it finds the same."""
        until, what = time.monotonic() + SHORTENING, _place(error)

        def fails(shorter: bytes) -> bool:
            if time.monotonic() >= until or isinstance(error, Hung):
                return False
            try:
                _in_time(lambda: self.target.execute(shorter, _silent))
            except (Exception, Hung) as other:  # noqa: BLE001 - maybe it is the same
                return _place(other) == what
            return False

        short = shortest(code, fails)
        return Finding(short, self._keep(self.findings, short), len(code), error)

    def _keep(self, folder: Path, code: bytes) -> Path:
        file = folder / hashlib.sha1(code, usedforsecurity=False).hexdigest()  # as libFuzzer names them
        file.write_bytes(code)
        return file


def _in_time(work: Callable[[], frozenset[str]]) -> frozenset[str]:
    """Do this; raises Hung where it takes too long."""
    if not hasattr(signal, "setitimer"):  # Windows
        return work()
    signal.setitimer(signal.ITIMER_REAL, HUNG)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hung(f"an execution took more than {HUNG:g} seconds")


def _place(error: BaseException) -> tuple[type[BaseException], str, int | None]:
    """What a finding is known by: what was raised, and where."""
    first = error.__cause__ or error  # what an agent raised
    last = traceback.extract_tb(first.__traceback__)[-1]
    return type(first), last.filename, last.lineno


def _silent(_: str) -> None:
    """What is done is of interest only where it is replayed."""


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_hypothesis(campaign: Campaign, seed: int) -> None:
    """Have Hypothesis make programs up until it is over: of any bytes, of instructions, and of those there are."""
    import hypothesis
    from hypothesis import strategies as st

    numbers = st.integers(0, len(campaign.target.instructions) - 1)
    instruction = st.tuples(numbers, st.binary(max_size=6)).map(lambda parts: bytes((parts[0],)) + parts[1])
    begin = st.binary(min_size=campaign.target.begins_with, max_size=campaign.target.begins_with)
    made = st.tuples(begin, st.lists(instruction, max_size=60).map(b"".join)).map(b"".join)
    old = campaign.old()
    changed = st.builds(_changed, st.sampled_from(old), st.integers(0, LONGEST), st.integers(0, 8), made)
    programs = st.one_of(made, changed, st.binary(max_size=LONGEST))
    try:
        for code in old:
            campaign.attempt(code)
        while True:
            seed += 1

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=1000, deadline=None, database=None, phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet,
            )  # fmt: skip
            @hypothesis.given(programs)
            def some(code: bytes) -> None:
                campaign.attempt(code)

            some()
    except Over:
        return


def with_atheris(campaign: Campaign, seed: int, end: Callable[[], NoReturn]) -> NoReturn:
    """Have atheris make programs up, by what code they reach, until it is over; then `end` ends the process.

    What is to be seen by it has to be imported under `atheris.instrument_imports`.
    """
    atheris: Any = importlib.import_module("atheris")

    def one(code: bytes) -> None:
        try:
            campaign.attempt(code)
        except Over:
            end()

    for code in campaign.old():
        campaign.keep(code)
    flags = (
        f"-seed={seed % 2**32 or 1}", f"-max_len={LONGEST}", "-timeout=0", "-rss_limit_mb=0", "-handle_int=0",
        f"-artifact_prefix={campaign.findings}{os.sep}",
    )  # fmt: skip
    atheris.Setup(["qaws", str(campaign.corpus), *flags], one)
    atheris.Fuzz()
    end()


def _changed(code: bytes, at: int, gone: int, more: bytes) -> bytes:
    """A program, and at one place of it something else."""
    at %= len(code) + 1
    return (code[:at] + more + code[at + gone :])[:LONGEST]
