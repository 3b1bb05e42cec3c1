"""The evidence that the simulator works: it finds each fault that is planted in the core."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.faults import FAULTS, Planted
from tests.zoo.planting import hunt


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_simulator_finds(fault: Planted, tmp_path: Path) -> None:
    found = hunt(fault, tmp_path)
    assert found.world is not None, f"not within {fault.seeds} worlds"


def test_no_fault_stands_twice() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
    assert len({(fault.file, fault.right, fault.wrong) for fault in FAULTS}) == len(FAULTS)
