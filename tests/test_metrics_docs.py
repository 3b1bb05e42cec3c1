"""docs/metrics.md, the dashboard and the alerts are compared with what a node really exposes, and tried with promtool.

The dashboard's queries are evaluated by Prometheus' own engine over the series of a node to which something of each
kind has happened: each of them has to find something.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from tests.helpers.scrape import needs_promtool, promtool
from tests.helpers.scripted_metrics import eventful

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "metrics.md").read_text("utf-8")
ALERTS = ROOT / "docs" / "prometheus-alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text("utf-8"))

FAMILIES: dict[str, Metric] = {family.name: family for family in eventful().registry.collect()}
FOUND = [sample for family in FAMILIES.values() for sample in family.samples]
NAMES = {sample.name for sample in FOUND}

OF_TARGETS = {"job", "instance"}  # what Prometheus adds to every series
NAME = re.compile(r"\b(?:qaws|process|python)_[a-z_]+\b(?!\s*=)")
SELECTOR = re.compile(r"\b((?:qaws|process|python)_[a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on) ?\(([^)]*)\)")


def labels_of(name: str) -> set[str]:
    """The labels of the series of a name."""
    return {label for sample in FOUND if sample.name == name for label in sample.labels}


def values_of(name: str, label: str) -> set[str]:
    """The values that a label of a name has."""
    return {sample.labels[label] for sample in FOUND if sample.name == name}


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_names_every_metric_with_its_kind_and_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(qaws_\w+)` \| (\w+) \| (?:`(\w+)`)? ?\| \S", PAGE, re.MULTILINE)
    shown = {(name, kind, labels) for name, kind, labels in rows}
    there = set()
    for family in FAMILIES.values():
        if family.name.startswith("qaws_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            there.add((name, family.type, "".join(labels)))
    assert shown == there
    assert len(rows) == len(shown) > 25


def test_values_that_the_page_names_are_those_that_there_are() -> None:
    rows = re.findall(r"^\| `(qaws_\w+)` \| \w+ \| `(?:end|state|result|at)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 4
    for name, text in rows:
        name = f"{name}_count" if name.endswith("_seconds") else name
        (label,) = labels_of(name)
        named = set(re.findall(r"`(\w+)`", text))
        assert named, name
        assert named <= values_of(name, label), name


# ── the dashboard ────────────────────────────────────────────────────────────────────────────────────────────────────


def panels() -> Iterator[dict[str, Any]]:
    """The panels that ask something."""
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def targets() -> list[Any]:
    """Every query of the dashboard, and how it is shown."""
    return [
        pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']}-{target['refId']}")
        for panel in panels()
        for target in panel["targets"]
    ]


def evaluable(query: str) -> str:
    """A query as Grafana sends it."""
    sent = query.replace("$__rate_interval", "5m").replace("$job", "qaws").replace("$instance", ".*")
    assert "$" not in sent
    return sent


@pytest.mark.parametrize(("query", "legend"), targets())
def test_a_query_asks_for_what_there_is(query: str, legend: str) -> None:
    names = set(NAME.findall(query))
    assert names
    assert names <= NAMES
    assert {name for name, _ in SELECTOR.findall(query)} == names, "every name has a selector"
    labels = set.union(*map(labels_of, names)) | OF_TARGETS
    for name, matchers in SELECTOR.findall(query):
        for label, sign, value in MATCHER.findall(matchers):
            assert label in labels_of(name) | OF_TARGETS, f"{name} has no {label}"
            assert OF_TARGETS & {label} or matches(sign, value, values_of(name, label)), f"{name} has no {value}"
        assert {'job="$job"', 'instance=~"$instance"'} <= set(matchers.split(","))
    for group in GROUPING.findall(query):
        assert set(re.split(r",\s*", group)) <= labels, group
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels


def matches(sign: str, value: str, there: set[str]) -> bool:
    """Whether everything that a matcher names exists."""
    return set(value.split("|")) <= there if sign in ("=~", "!~") else value in there


def test_every_metric_is_on_the_dashboard() -> None:
    asked = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in NAME.findall(asked)}
    ours = {name if family.type != "counter" else f"{name}_total" for name, family in FAMILIES.items()}
    assert {name for name in ours if name.startswith("qaws_")} <= names


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


@needs_promtool
def test_every_query_finds_something_where_something_of_each_kind_has_happened(tmp_path: Path) -> None:
    series = [
        {"series": named(sample.name, sample.labels), "values": grows(sample.name, sample.value)} for sample in FOUND
    ]
    queries = sorted({evaluable(param.values[0]) for param in targets()})
    tests = [
        {"expr": f"count({query}) > bool 0", "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for query in queries
    ]
    file = tmp_path / "test.yml"
    text = {"evaluation_interval": "1m", "tests": [
        {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    ]}  # fmt: skip
    file.write_text(yaml.safe_dump(text))
    assert "SUCCESS" in promtool("test", "rules", str(file))
    assert len(queries) >= 50


def named(name: str, labels: dict[str, str]) -> str:
    """A series of a node as Prometheus keeps it."""
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in {**labels, "job": "qaws", "instance": "a"}.items()) + "}"


def grows(name: str, value: float) -> str:
    """Its values minute by minute: what is counted grows so much each, the rest stays."""
    counter = name.endswith(("_total", "_bucket", "_sum", "_count"))
    return f"0+{value}x20" if counter else f"{value}x20"


@needs_promtool
def test_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query{n}", "expr": evaluable(param.values[0])} for n, param in enumerate(targets())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


# ── the alerts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_promtool
def test_alerts_go_off_where_they_should_and_nowhere_else(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(ROOT / "tests" / "fixtures" / "prometheus-alerts-test.yml", tmp_path)
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / ALERTS.name))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "prometheus-alerts-test.yml"))


def test_alerts_ask_for_what_there_is_and_each_is_tried() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    for rule in group["rules"]:
        for name in NAME.findall(rule["expr"]):
            assert name in NAMES, rule["alert"]
        for name, matchers in SELECTOR.findall(rule["expr"]):
            for label, sign, value in MATCHER.findall(matchers):
                assert OF_TARGETS & {label} or matches(sign, value, values_of(name, label)), rule["alert"]
    tried = (ROOT / "tests" / "fixtures" / "prometheus-alerts-test.yml").read_text("utf-8")
    for rule in group["rules"]:
        assert re.search(rf"alertname: {rule['alert']}\n        exp_alerts:", tried), rule["alert"]


@needs_promtool
def test_the_configuration_of_prometheus_that_is_shown_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    (shown,) = re.findall(r"^```yml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "token").touch()
    shutil.copy(ALERTS, tmp_path)
    text = shown.replace("/etc/prometheus/qaws-token", str(tmp_path / "token"))
    assert text != shown
    (tmp_path / "prometheus.yml").write_text(text)
    said = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert re.search(r"SUCCESS: \d+ rules found", said)
