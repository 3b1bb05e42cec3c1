"""What the suite says of each case, judged: all of it is OK, or listed here with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

SERVERS = ("protocol", "asyncio", "anyio-asyncio", "anyio-uvloop", "anyio-trio")
CLIENT = "client"
TARGETS = (*SERVERS, CLIENT)

TOLERABLE = ("NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED")  # what a verdict may be where it is listed


class Verdict(NamedTuple):
    """Of one case: what was answered, how the connection was closed, and the code in the Close that the suite got."""

    behavior: str
    close: str
    code: int | None

    @property
    def clean(self) -> bool:
        """Whether there is nothing to explain."""
        return self.behavior == self.close == "OK"

    def __str__(self) -> str:
        return f"{self.behavior} / {self.close}, {'no close code' if self.code is None else f'close {self.code}'}"


class Known(NamedTuple):
    """Cases, by a pattern, that are not OK at some targets, and why that is no mistake."""

    cases: str
    targets: tuple[str, ...]
    verdict: Verdict
    reason: str


class Proof(NamedTuple):
    """Cases that keep a row of docs/guarantees.md: each is OK, and ends in this close code."""

    code: int
    cases: tuple[str, ...]


class Run(NamedTuple):
    """What came of one target: the cases it was asked for, the suite's verdicts, and what went wrong besides."""

    target: str
    asked: tuple[str, ...]
    verdicts: Mapping[str, Verdict]
    seconds: float
    trouble: tuple[str, ...] = ()


KNOWN = (
    Known(
        "7.1.6", TARGETS, Verdict("INFORMATIONAL", "INFORMATIONAL", 1000),
        "The suite judges nothing here: a message of 256 KiB, another, a Close and a ping come at once. Both "
        "messages are echoed, the Close is answered, the ping is ignored.",
    ),
    Known(
        "7.13.1", TARGETS, Verdict("INFORMATIONAL", "INFORMATIONAL", 1002),
        "RFC 6455 does not say what the close code 5000 leads to: it ends in 1002, as every code that may not be sent.",
    ),
    Known("7.13.2", TARGETS, Verdict("INFORMATIONAL", "INFORMATIONAL", 1002), "The same of the close code 65535."),
    Known(
        "12.*", (CLIENT,), Verdict("UNIMPLEMENTED", "OK", 1000),
        "The client offers no compression: what it says is short, and what it hears is not worth a window.",
    ),
    Known("13.*", (CLIENT,), Verdict("UNIMPLEMENTED", "OK", 1000), "The client offers no compression."),
)  # fmt: skip

PROOFS = {
    "F1": Proof(1002, ("2.5", "3.*", "4.*", "5.1", "5.2", "5.9", "5.1[0-8]", "7.3.2", "7.3.6", "7.9.*")),
    "F2": Proof(1007, ("6.3.*", "6.4.*", "6.8.*", "6.10.*", "6.1[2-9].*", "6.2[01].*")),
    "F9": Proof(1000, ("7.1.[2-5]",)),
}


def matches(case: str, patterns: Sequence[str]) -> bool:
    """Whether a case is one of these, as in `12.*`."""
    return any(fnmatchcase(case, pattern) for pattern in patterns)


def read_verdicts(report: Mapping[str, Any]) -> dict[str, Verdict]:
    """The verdicts in the part of the suite's `index.json` that is about one target, by their cases."""
    return {
        case: Verdict(told["behavior"], told["behaviorClose"], told["remoteCloseCode"]) for case, told in report.items()
    }


def known(target: str, case: str) -> Known | None:
    """What is known of a case; None where it has to be OK."""
    return next((one for one in KNOWN if target in one.targets and matches(case, (one.cases,))), None)


def problems(runs: Sequence[Run], *, whole: bool) -> list[str]:
    """Why this run fails, a line each. `whole`: all targets were to go through what is listed here."""
    found = [f"{run.target}: {problem}" for run in runs for problem in _of_run(run)]
    if whole:
        found += _never_met(runs)
    return found


def _of_run(run: Run) -> Iterator[str]:
    yield from run.trouble
    if not run.asked:
        yield "no case was run"
    for case in run.asked:
        verdict, expected = run.verdicts.get(case), known(run.target, case)
        if verdict is None:
            yield f"{case} has no verdict"
        elif expected is None and not verdict.clean:
            yield f"{case} is {verdict}"
        elif expected is not None and verdict != expected.verdict:
            yield f"{case} is {verdict}, and listed as {expected.verdict}"
        for row, proof in PROOFS.items():
            if verdict is not None and matches(case, proof.cases) and verdict.code != proof.code:
                yield f"{case} is {verdict}: {row} asks for close {proof.code}"


def _never_met(runs: Sequence[Run]) -> Iterator[str]:
    """What is listed of cases that never came."""
    ran = {(run.target, case) for run in runs for case in run.asked}
    for target in TARGETS:
        if target not in {run.target for run in runs}:
            yield f"{target} was not run"
    for one in KNOWN:
        for target in one.targets:
            if not any(at == target and matches(case, (one.cases,)) for at, case in ran):
                yield f"{one.cases} at {target} is listed, and never came"
    for row, proof in PROOFS.items():
        for pattern in proof.cases:
            if not any(matches(case, (pattern,)) for _, case in ran):
                yield f"{pattern} is to keep {row}, and never came"


def summary(runs: Sequence[Run], found: Sequence[str]) -> str:
    """All of it as a page of Markdown."""
    asked = sum(len(run.asked) for run in runs)
    lines = [
        "# Autobahn|Testsuite",
        "",
        f"{len(found)} {'failure' if len(found) == 1 else 'failures'} in {asked} cases.",
        "",
        "| target | cases | OK | listed | seconds |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        clean = sum(verdict.clean for verdict in run.verdicts.values())
        listed = sum(known(run.target, case) is not None for case in run.verdicts)
        lines.append(f"| {run.target} | {len(run.asked)} | {clean} | {listed} | {run.seconds:.0f} |")
    if found:
        lines += ["", "## Failures", "", *(f"- {problem}" for problem in found)]
    lines += ["", "## Not OK, and why", "", *known_table()]
    lines += ["", "## Rows of the guarantees", "", *proof_table()]
    return "\n".join(lines) + "\n"


def known_table() -> list[str]:
    """`KNOWN` as lines of Markdown."""
    lines = ["| cases | at | verdict | why |", "|---|---|---|---|"]
    for one in KNOWN:
        where = "everywhere" if one.targets == TARGETS else ", ".join(one.targets)
        lines.append(f"| {one.cases} | {where} | {one.verdict} | {one.reason} |")
    return lines


def proof_table() -> list[str]:
    """`PROOFS` as lines of Markdown."""
    lines = ["| row | cases | each ends in |", "|---|---|---|"]
    for row, proof in PROOFS.items():
        lines.append(f"| {row} | {', '.join(proof.cases)} | close {proof.code} |")
    return lines
