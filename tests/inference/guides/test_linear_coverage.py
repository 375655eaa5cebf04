"""Forecast intervals of a trained deep model on linear-Gaussian data cover as they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "linear_coverage.py"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_model_covers_like_the_exact_one(seed: int) -> None:
    """1000 series, two sensors: the standard error of a coverage is 0.007."""
    found = runpy.run_path(str(SCRIPT))["main"](seed)
    for h in (1, 5, 25):
        assert 0.87 < found[f"coverage h={h}"] < 0.93
        assert found[f"width h={h}"] == pytest.approx(found[f"exact width h={h}"], rel=0.1)
