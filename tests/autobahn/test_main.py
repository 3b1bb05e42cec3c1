"""`python -m tests.autobahn` with a stand-in for the suite: what is run, what is read of it, what the status is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .__main__ import COMPRESSED, PLAIN, SAMPLE, announced, main
from .verdicts import matches

#: Takes the arguments of `wstest`, and says of each case what `verdicts.json` beside it says.
SUITE = """#!{python}
import json, pathlib, sys, urllib.request
spec = json.loads(pathlib.Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
[server] = spec["servers"]
assert urllib.request.urlopen(server["url"].replace("ws:", "http:") + "healthz").status == 200
verdicts = json.loads(pathlib.Path(__file__).with_name("verdicts.json").read_text())
print("Ok, will run")
print("Cases =", list(spec["cases"]))
index = {{server["agent"]: verdicts}}
(pathlib.Path(spec["outdir"]) / "index.json").write_text(json.dumps(index))
"""
OK = {"behavior": "OK", "behaviorClose": "OK", "remoteCloseCode": 1000}


def run(folder: Path, *arguments: str, **verdicts: object) -> int:
    """The status of a run of the first cases, with these verdicts."""
    suite = folder / "wstest"
    suite.write_text(SUITE.format(python=sys.executable), "utf-8")
    suite.chmod(0o755)
    told = {case.strip("_").replace("_", "."): verdict for case, verdict in verdicts.items()}
    (folder / "verdicts.json").write_text(json.dumps(told), "utf-8")
    return main([*arguments, "--cases", "1.1.1", "1.1.2", "--suite", str(suite), "--reports", str(folder / "reports")])


def test_a_run_without_failures_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--targets", "asyncio", "anyio-trio", _1_1_1=OK, _1_1_2=OK) == 0
    said = capsys.readouterr().out
    assert "\n0 failures in 4 cases.\n" in said
    page = (tmp_path / "reports" / "summary.md").read_text("utf-8")
    assert said[said.index("# Autobahn|Testsuite\n") :] == f"{page}\n"


def test_a_verdict_that_is_not_ok_and_one_that_is_missing_fail_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--targets", "asyncio", _1_1_1={**OK, "behaviorClose": "UNCLEAN"}) == 1
    said = capsys.readouterr().out
    assert "- asyncio: 1.1.1 is OK / UNCLEAN, close 1000\n- asyncio: 1.1.2 has no verdict\n" in said


def test_a_suite_that_breaks_down_fails_it_whatever_was_found_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--targets", "asyncio", _1_1_1=OK, _1_1_2=OK) == 0
    breaks_down = f"#!{sys.executable}\nprint(\"Cases = ['1.1.1']\")\nraise SystemExit(3)\n"
    (tmp_path / "wstest").write_text(breaks_down, "utf-8")
    suite, reports = str(tmp_path / "wstest"), str(tmp_path / "reports")
    capsys.readouterr()
    assert main(["--targets", "asyncio", "--cases", "1.1.1", "--suite", suite, "--reports", reports]) == 1
    assert "- asyncio: the suite ended with 3\n- asyncio: 1.1.1 has no verdict\n" in capsys.readouterr().out


def test_without_the_suite_it_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", str(tmp_path / "wstest")]) == 2
    assert "`make autobahn` installs the suite" in capsys.readouterr().err


def test_the_cases_that_the_suite_announces_are_read() -> None:
    assert announced("Ok\nCases = [u'1.1.1', u'12.3.4']\nServers = ['x']\n") == ("1.1.1", "12.3.4")
    assert announced("nothing") == ()


def test_the_sample_is_of_the_compressed_sections() -> None:
    assert len(set(SAMPLE)) == len(SAMPLE)
    assert all(matches(case, COMPRESSED) and not matches(case, PLAIN) for case in SAMPLE)
    assert {case.rpartition(".")[0] for case in SAMPLE} == {
        *(f"12.{data}" for data in range(1, 6)), *(f"13.{offer}" for offer in range(1, 8)),
    }  # fmt: skip
