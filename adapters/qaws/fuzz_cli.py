"""The command `qaws fuzz`: which engine, on what, and what it has to say at the end."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NoReturn

from cyclopts import Parameter
from cyclopts.validators import Number
from pydantic import ConfigDict, TypeAdapter

from .agents import find_agent
from .fuzzing import AgentTarget, Campaign, Hung, NodeTarget, Target, with_atheris, with_hypothesis
from .serving import UsageError
from .settings import load

Engine = Literal["atheris", "hypothesis"]
Flag = partial(Parameter, negative=())

FAILURE, INTERRUPTED = 1, 130
FOUND = 86  # what the process of atheris ends with then: 1 is that of an exception which got out of it
LAST = 20  # lines of what an engine said that ended by itself


class Options(NamedTuple):
    """What was asked for on the command line."""

    agent: str | None
    config: Path | None
    seconds: float
    corpus: Path
    seed: int
    executions: int | None
    allow_agent_errors: bool

    def target(self) -> Target:
        """What is fuzzed. Raises ConfigError and AgentError where it cannot be made."""
        config = None if self.config is None else load(self.config).config
        if self.agent is None:
            return NodeTarget(config)
        return AgentTarget(find_agent(self.agent), config, allow_errors=self.allow_agent_errors)

    @property
    def folder(self) -> Path:
        """Where programs are kept: those for agents are others than those for a node."""
        return self.corpus / ("node" if self.agent is None else "agent")

    @property
    def packages(self) -> list[str]:
        """What is looked into while it runs: the core, and the module of the agent."""
        kind, colon, name = (self.agent or "").removeprefix("agno:").partition(":")
        own = [kind.partition(".")[0]] if colon and name and kind != "openai" else []
        return ["qaws_proto", *own]

    def replay(self, file: Path) -> str:
        """The command that performs a program again."""
        words = ["qaws", "fuzz", "--replay", str(file)]
        words += ["--agent", self.agent] if self.agent is not None else []
        words += ["--config", str(self.config)] if self.config is not None else []
        words += ["--allow-agent-errors"] if self.allow_agent_errors else []
        return shlex.join(words)


def fuzz(
    *,
    agent: str | None = None,
    config: Path | None = None,
    seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 60,
    executions: Annotated[int | None, Parameter(validator=Number(gt=0))] = None,
    corpus: Path = Path(".qaws-fuzz"),
    seed: int | None = None,
    engine: Engine | None = None,
    replay: Path | None = None,
    allow_agent_errors: Annotated[bool, Flag()] = False,
) -> int:
    """Let a fuzzer make up what peers, agents and networks do, in this process, until something is wrong or time is up.

    Without --agent the node is fuzzed, its agent and store played by the fuzzer; with it your agent answers, in virtual
    time. The status is 0 where nothing was found, 1 where something was: it is made as short as can be, and kept.

    Parameters
    ----------
    agent
        `echo`, `module:attribute` or what else `qaws serve` takes. What it raises counts as found.
    config
        YAML file with a `websocket:` section (default: several settings, most of them with near bounds).
    seconds
        How long.
    executions
        How many programs at the most.
    corpus
        Folder of programs that are worth beginning with, and of those that found something.
    seed
        Number to begin with (default: another one each time).
    engine
        `atheris`, which sees what code is reached, or `hypothesis` (default: the first of them that is installed).
    replay
        File with a program: perform it once, and print what is done and what it finds.
    allow_agent_errors
        What the agent raises is no finding.
    """
    number = secrets.randbelow(2**31) if seed is None else seed
    options = Options(agent, config, seconds, corpus, number, executions, allow_agent_errors)
    _log_nothing()
    target = options.target()
    if replay is not None:
        return _leave(_replay(target, replay))
    chosen = _choose(engine)
    print(f"engine      {chosen} {version(chosen)}, seed {number}; Ctrl-C ends it", flush=True)
    if chosen == "atheris":
        return _in_a_process(options)
    with Campaign(target, options.folder, seconds=seconds, executions=executions) as campaign:
        with_hypothesis(campaign, number)
    return _leave(_report(campaign, options))


def _log_nothing() -> None:
    """What a node that is fuzzed would tell its operator is nobody's to read."""
    logger = logging.getLogger("qaws")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _choose(engine: Engine | None) -> Engine:
    names: tuple[Engine, ...] = ("atheris", "hypothesis") if engine is None else (engine,)
    for name in names:
        if find_spec(name) is not None:
            return name
    raise UsageError(f"qaws fuzz needs {' or '.join(names)}, which is not installed: pip install 'qaws-gateway[fuzz]'")


def _replay(target: Target, file: Path) -> int:
    code = file.read_bytes()
    try:
        target.execute(code, print)
    except (Exception, Hung):  # noqa: BLE001 - it is printed
        sys.stdout.flush()
        traceback.print_exc()
        return FAILURE
    print("nothing is wrong with that")
    return 0


def _report(campaign: Campaign, options: Options) -> int:
    """Say what came of it; the status of the command."""
    rate = campaign.executions / max(campaign.seconds, 1e-9)
    print(f"executions  {campaign.executions:,} in {campaign.seconds:.1f} s, {rate:,.0f}/s")
    print(f"corpus      {campaign.kept} programs in {campaign.corpus}")
    finding = campaign.finding
    if finding is None:
        print("findings    none")
        return INTERRUPTED if campaign.interrupted else 0
    lines = traceback.format_exception_only(finding.error)
    print(f"findings    {lines[-1].strip() or type(finding.error).__name__}")
    print(f"program     {len(finding.code)} bytes in {finding.file} (as it was found: {finding.length} bytes)")
    print(f"replay      {options.replay(finding.file)}")
    return FAILURE


def _leave(status: int) -> int:
    """The status, or the end of the process with it: Python would wait for a thread in which an agent is stuck."""
    if any(not (one.daemon or one is threading.main_thread()) for one in threading.enumerate()):
        _exit(status)
    return status


def _exit(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# ── atheris ──────────────────────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = TypeAdapter(Options, config=ConfigDict(ser_json_inf_nan="constants"))  # there may be any number of seconds

# libFuzzer ends its process, and what it is to see has to be imported under its eyes: so it has one of its own.
CHILD = """
import sys
import atheris
with atheris.instrument_imports(include=sys.argv[2:]):
    import qaws.fuzz_cli
    run = qaws.fuzz_cli.prepare(sys.argv[1])
run()
"""


def _in_a_process(options: Options) -> int:
    options.folder.mkdir(parents=True, exist_ok=True)
    log = options.folder / "atheris.log"
    command = [sys.executable, "-c", CHILD, OPTIONS.dump_json(options).decode(), *options.packages]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one is told as well, and ends in order
    try:
        with log.open("wb") as said:
            status = subprocess.run(command, stderr=said, check=False, preexec_fn=_hear_interrupts).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    if status == FOUND:
        return FAILURE
    if status not in (0, INTERRUPTED):
        last = log.read_text("utf-8", "replace").splitlines()[-LAST:]
        print(*last, f"qaws: atheris has ended by itself, with status {status}; see {log}", sep="\n", file=sys.stderr)
        return FAILURE
    return status


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def prepare(text: str) -> Callable[[], NoReturn]:
    """In the process of atheris: import all that is to be seen. What is returned runs to the end of the process."""
    options = OPTIONS.validate_json(text)
    _log_nothing()
    target = options.target()

    def run() -> NoReturn:
        with Campaign(target, options.folder, seconds=options.seconds, executions=options.executions) as campaign:
            with_atheris(campaign, options.seed, partial(_end, campaign, options))

    return run


def _end(campaign: Campaign, options: Options) -> NoReturn:
    status = _report(campaign, options)
    _exit(FOUND if status == FAILURE else status)  # as libFuzzer would, which takes every other end for a crash
