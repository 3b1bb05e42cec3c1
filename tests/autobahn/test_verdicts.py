"""How the verdicts of the suite are judged, and that what is listed of them is shown in docs/conformance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import verdicts
from .echo_server import ADAPTERS
from .verdicts import (
    CLIENT,
    KNOWN,
    PROOFS,
    SERVERS,
    TARGETS,
    TOLERABLE,
    Known,
    Proof,
    Run,
    Verdict,
    known_table,
    matches,
    problems,
    proof_table,
    read_verdicts,
    summary,
)

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text("utf-8")
CLEAN = Verdict("OK", "OK", 1000)
NOTED = Verdict("INFORMATIONAL", "INFORMATIONAL", 1002)


@pytest.fixture
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case that is listed, and one row with its proof."""
    monkeypatch.setattr(verdicts, "KNOWN", (Known("7.*", SERVERS, NOTED, "why"),))
    monkeypatch.setattr(verdicts, "PROOFS", {"F1": Proof(1002, ("3.[12]",))})


def run(target: str = "asyncio", **judged: Verdict) -> Run:
    """A run in which these cases were judged; `_` stands for the dot in their names."""
    named = {case.strip("_").replace("_", "."): verdict for case, verdict in judged.items()}
    return Run(target, tuple(named), named, 1.0)


@pytest.mark.usefixtures("_listed")
@pytest.mark.parametrize(
    ("ran", "found"),
    [
        (run(_1_1=CLEAN, _7_1=NOTED), []),
        (run(_1_1=CLEAN._replace(behavior="FAILED")), ["asyncio: 1.1 is FAILED / OK, close 1000"]),
        (run(_1_1=CLEAN._replace(close="UNCLEAN")), ["asyncio: 1.1 is OK / UNCLEAN, close 1000"]),
        (run(_1_1=CLEAN._replace(close="WRONG CODE")), ["asyncio: 1.1 is OK / WRONG CODE, close 1000"]),
        (run(_1_1=CLEAN._replace(behavior="NON-STRICT")), ["asyncio: 1.1 is NON-STRICT / OK, close 1000"]),
        (run(_1_1=Verdict("FAILED", "FAILED", None)), ["asyncio: 1.1 is FAILED / FAILED, no close code"]),
        (
            run(_7_1=CLEAN),
            ["asyncio: 7.1 is OK / OK, close 1000, and listed as INFORMATIONAL / INFORMATIONAL, close 1002"],
        ),
        (
            run(_7_1=NOTED._replace(code=1000)),
            [
                "asyncio: 7.1 is INFORMATIONAL / INFORMATIONAL, close 1000, and listed as "
                "INFORMATIONAL / INFORMATIONAL, close 1002"
            ],
        ),
        (run(CLIENT, _7_1=NOTED), ["client: 7.1 is INFORMATIONAL / INFORMATIONAL, close 1002"]),
        (run(_3_1=CLEAN._replace(code=1002)), []),
        (run(_3_1=CLEAN), ["asyncio: 3.1 is OK / OK, close 1000: F1 asks for close 1002"]),
        (run(_3_3=CLEAN), []),
        (Run("asyncio", ("1.1", "1.2"), {"1.1": CLEAN}, 1.0), ["asyncio: 1.2 has no verdict"]),
        (Run("asyncio", (), {}, 1.0), ["asyncio: no case was run"]),
        (Run("asyncio", ("1.1",), {"1.1": CLEAN}, 1.0, ("it crashed",)), ["asyncio: it crashed"]),
    ],
)
def test_a_verdict_is_clean_or_as_it_is_listed(ran: Run, found: list[str]) -> None:
    assert problems([ran], whole=False) == found


@pytest.mark.usefixtures("_listed")
def test_what_is_listed_and_never_came_fails_a_whole_run() -> None:
    everything = [run(target, _3_1=CLEAN._replace(code=1002), _7_1=NOTED) for target in SERVERS]
    everything.append(run(CLIENT, _1_1=CLEAN))
    assert problems(everything, whole=True) == []
    first = SERVERS[0]
    assert problems(everything[1:], whole=True) == [f"{first} was not run", f"7.* at {first} is listed, and never came"]
    nothing = [run(target, _1_1=CLEAN) for target in TARGETS]
    assert problems(nothing, whole=True) == [
        *(f"7.* at {target} is listed, and never came" for target in SERVERS),
        "3.[12] is to keep F1, and never came",
    ]
    assert problems(nothing, whole=False) == []


@pytest.mark.parametrize(
    ("case", "patterns", "is_one"),
    [
        ("12.1.1", ("12.*",), True),
        ("12.1.1", ("1.*",), False),
        ("1.1.1", ("12.*", "1.*"), True),
        ("7.1.5", ("7.1.[2-5]",), True),
        ("7.1.6", ("7.1.[2-5]",), False),
        ("5.1", ("5.1",), True),
        ("5.10", ("5.1",), False),
    ],
)
def test_a_pattern_names_cases(case: str, patterns: tuple[str, ...], is_one: bool) -> None:
    assert matches(case, patterns) is is_one


def test_a_report_of_the_suite_is_read() -> None:
    told: dict[str, Any] = {"behavior": "OK", "behaviorClose": "UNCLEAN", "remoteCloseCode": None, "duration": 3}
    assert read_verdicts({"9.1.1": told}) == {"9.1.1": Verdict("OK", "UNCLEAN", None)}


@pytest.mark.usefixtures("_listed")
def test_the_summary_counts_and_names_failures() -> None:
    runs = [run(_1_1=CLEAN, _1_2=CLEAN, _7_1=NOTED), run(CLIENT, _1_1=CLEAN)]
    page = summary(runs, ["asyncio: 1.3 is bad"])
    assert "\n1 failure in 4 cases.\n" in page
    assert "| asyncio | 3 | 2 | 1 | 1 |\n| client | 1 | 1 | 0 | 1 |" in page
    assert "- asyncio: 1.3 is bad" in page
    clean = summary(runs, [])
    assert "\n0 failures in 4 cases.\n" in clean
    assert "## Failures" not in clean


def test_each_adapter_is_a_target() -> None:
    assert tuple(ADAPTERS) == SERVERS


# ── what is listed ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("one", KNOWN, ids=lambda one: one.cases)
def test_no_failure_is_listed_as_known(one: Known) -> None:
    assert {one.verdict.behavior, one.verdict.close} <= {"OK", *TOLERABLE}
    assert not one.verdict.clean
    assert one.targets
    assert set(one.targets) <= set(TARGETS)
    assert one.reason.endswith(".")


def test_the_page_shows_what_is_known_and_what_keeps_which_row() -> None:
    assert "\n".join(known_table()) in PAGE
    assert "\n".join(proof_table()) in PAGE


def test_a_row_is_kept_by_cases_that_are_ok() -> None:
    assert not [
        (row, pattern) for row, proof in PROOFS.items() for pattern in proof.cases for one in KNOWN
        if matches(pattern, (one.cases,)) or matches(one.cases, (pattern,))
    ]  # fmt: skip
