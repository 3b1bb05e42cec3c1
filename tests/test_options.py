"""Each setting changes behaviour: none is there that nothing reads.

For a new setting add an experiment to the table of its part in `tests/options/`: two values, and a function that says
what can be seen from outside of a configuration that has one of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qaws.settings_layers import known
from qaws_proto import WebSocketConfig
from tests.options import admission, conversation, keys, machine, network, telemetry
from tests.options.experiment import REFUSED, Experiment

PARTS = (network, admission, keys, conversation, machine, telemetry)
EXPERIMENTS = {setting: experiment for part in PARTS for setting, experiment in part.EXPERIMENTS.items()}


def test_there_is_one_experiment_for_each_setting() -> None:
    assert sum(len(part.EXPERIMENTS) for part in PARTS) == len(EXPERIMENTS), "a setting stands in two parts"
    assert sorted(EXPERIMENTS) == sorted(known().settings)


@pytest.mark.parametrize(("setting", "experiment"), EXPERIMENTS.items(), ids=EXPERIMENTS)
def test_a_setting_changes_behaviour(
    setting: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = experiment.run(setting, experiment.one)
    assert experiment.run(setting, experiment.other) != seen, f"{setting} changes nothing: {seen!r}"
    assert experiment.run(setting, experiment.one) == seen, "it is not the setting that makes the difference"


def test_an_experiment_on_a_setting_that_nothing_reads_fails() -> None:
    """Which is what the test above stands on."""

    def seen(config: WebSocketConfig) -> int:
        return config.limits.headers

    assert Experiment(1, 2, seen).run("limits.headers", 1) != Experiment(1, 2, seen).run("limits.headers", 2)
    assert Experiment(1, 2, seen).run("limits.retry_after", 1) == Experiment(1, 2, seen).run("limits.retry_after", 2)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Experiment(1, 0, seen).run("limits.headers", 0)
    assert Experiment(1, 0, seen, refusable=True).run("limits.headers", 0) == REFUSED
