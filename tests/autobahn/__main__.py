"""`python -m tests.autobahn`: the Autobahn|Testsuite against the echo node on every adapter, and against the client."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .verdicts import CLIENT, TARGETS, Run, Verdict, problems, read_verdicts, summary

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITE = ROOT / ".venv" / "autobahn" / "bin" / "wstest"
REPORTS = ROOT / "build" / "autobahn"

PLAIN = tuple(f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10))  # there is no section 8
COMPRESSED = ("12.*", "13.*")
#: Of sections 12 (data) and 13 (parameters of the offer): every kind of data and every offer; small and large messages,
#: in one frame and in fragments.
SAMPLE = (
    *(f"12.{data}.{size}" for data in range(1, 6) for size in (1, 4, 11)),
    *(f"13.{offer}.{size}" for offer in range(1, 8) for size in (2, 5)),
    "12.1.18", "13.7.18",
)  # fmt: skip

SUITE_PATIENCE = 7200  # seconds for all cases of one target
PATIENCE = 30  # seconds for a process to listen, or to end


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; what it ends with."""
    options = _options(arguments)
    if not options.suite.exists():
        print(f"{options.suite} is not there: `make autobahn` installs the suite", file=sys.stderr)
        return 2
    cases = options.cases or (*PLAIN, *(SAMPLE if options.share else COMPRESSED))
    runner = Runner(options.suite.absolute(), options.reports.absolute(), tuple(cases))
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(runner.run, options.targets or TARGETS))
    found = problems(runs, whole=not (options.cases or options.targets))
    page = summary(runs, found)
    (options.reports / "summary.md").write_text(page, "utf-8")
    print(page)
    return bool(found)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--share", action="store_true", help="sections 1 to 10, and a sample of 12 and 13")
    some.add_argument("--cases", nargs="+", metavar="CASE", help="these alone, such as 7.* 12.1.1")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="these alone")
    parser.add_argument("--jobs", type=int, default=len(TARGETS), help="targets at once; all of them: many cases wait")
    parser.add_argument("--suite", type=Path, default=SUITE, help="the command wstest")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="the folder for what came of it")
    return parser.parse_args(arguments)


class Runner:
    """Runs the suite against one target after the other, or several at once."""

    def __init__(self, suite: Path, reports: Path, cases: tuple[str, ...]) -> None:
        self._suite = suite
        self._reports = reports
        self._cases = cases

    def run(self, target: str) -> Run:
        """All cases against one target."""
        folder = self._reports / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"{target} …", flush=True)
        began = time.monotonic()
        trouble = self._run_client(folder) if target == CLIENT else self._run_server(target, folder)
        seconds = time.monotonic() - began
        print(f"{target}: {seconds:.0f} s", flush=True)
        log, index = folder / "suite.log", folder / "index.json"
        asked = announced(log.read_text("utf-8", "replace")) if log.exists() else ()
        verdicts: dict[str, Verdict] = {}
        if index.exists():
            verdicts = read_verdicts(json.loads(index.read_text("utf-8")).get(target, {}))
        return Run(target, asked, verdicts, seconds, tuple(trouble))

    def _run_server(self, target: str, folder: Path) -> list[str]:
        with _echo_server(target, folder) as (url, trouble):
            servers = [{"agent": target, "url": url}]
            with (folder / "suite.log").open("wb") as log:
                command = self._command("fuzzingclient", folder, servers=servers)
                ended = subprocess.run(command, stdout=log, stderr=log, timeout=SUITE_PATIENCE).returncode
        return [*trouble, *([f"the suite ended with {ended}"] if ended else [])]

    def _run_client(self, folder: Path) -> list[str]:
        port = _free_port()
        url = f"ws://127.0.0.1:{port}"
        with (folder / "suite.log").open("wb") as log:
            command = self._command("fuzzingserver", folder, url=url)
            suite = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            _wait_for(port, suite)
            client = [sys.executable, str(HERE / "echo_client.py"), "--url", url, "--agent", CLIENT]
            ended = subprocess.run(client, capture_output=True, text=True, timeout=SUITE_PATIENCE)
        finally:
            suite.terminate()
            suite.wait(PATIENCE)
        return [f"the client said: {ended.stderr}"] if ended.returncode or ended.stderr else []

    def _command(self, mode: str, folder: Path, **options: Any) -> list[str]:
        spec = folder / "spec.json"
        asked = {"cases": list(self._cases), "exclude-cases": [], "exclude-agent-cases": {}}
        spec.write_text(json.dumps({"outdir": str(folder), **options, **asked}), "utf-8")
        return [str(self._suite), "--mode", mode, "--spec", str(spec), "--webport", "0"]


def announced(log: str) -> tuple[str, ...]:
    """The cases that the suite said it would run."""
    line = re.search(r"^Cases = (\[.*\])$", log, re.MULTILINE)
    return tuple(ast.literal_eval(line[1])) if line else ()


@contextmanager
def _echo_server(adapter: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """An echo node: its address, and what there is to say of it once it has ended."""
    trouble: list[str] = []
    command = [sys.executable, str(HERE / "echo_server.py"), "--adapter", adapter, "--port", "0"]
    errors = folder / "server.log"
    with errors.open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        try:
            assert server.stdout is not None
            listens = server.stdout.readline().rpartition(" ")[2].strip()
            if not listens:
                raise RuntimeError(f"the echo node does not listen: {errors.read_text('utf-8')}")
            yield listens, trouble
            server.terminate()
            ended = server.wait(PATIENCE)
        finally:
            server.kill()
    if ended or errors.stat().st_size:
        trouble.append(f"the echo node ended with {ended}, and said: {errors.read_text('utf-8')}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens there."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the suite does not listen")


if __name__ == "__main__":
    sys.exit(main())
