"""What the layers learn in minutes; thresholds are what recorded runs reached, with a margin."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_sequential_and_permuted_digits() -> None:
    """Recorded: 0.989, 0.989, 0.994; permuted 0.961, 0.958, 0.967, of 360 digits."""
    pytest.importorskip("sklearn")
    main = runpy.run_path(str(SCRIPTS / "learn_digits.py"))["main"]
    runs = [main(30, seed) for seed in range(3)]
    assert sum(run["sequential"] for run in runs) / 3 >= 0.985
    assert sum(run["permuted"] for run in runs) / 3 >= 0.95


@pytest.mark.slow
def test_half_rate_needs_only_to_be_told() -> None:
    """Recorded: 1.000 at full rate, 1.000 at half rate when told, 0.107 when not."""
    results = runpy.run_path(str(SCRIPTS / "learn_half_rate.py"))["main"]()
    assert abs(results["half rate, told"] - results["full rate"]) <= 0.03
    assert results["half rate, not told"] <= 0.30 and results["full rate"] >= 0.9


@pytest.mark.slow
def test_time_steps_help_on_the_irregular_pendulum() -> None:
    """Recorded for three seeds: 23, 25, 31e-3 with time steps, 60, 69, 64e-3 without."""
    results = runpy.run_path(str(SCRIPTS / "learn_pendulum.py"))["main"]()
    assert results["with dt"] <= 0.7 * results["without dt"]
