"""27 stress cases, each wrong in silence in some trusted library, at stated tolerances.

float64: log-likelihood 1e-6 relative, means 1e-3 posterior deviations, covariances 1e-3.
float32 in and out, float64 inside: 1e-3, 3e-2, 3e-2.
"""

from __future__ import annotations

import pytest
import torch

from .cases import CASES, LONG, Case, case, cast
from .exact import exact
from .scoring import Score, score

SHORT = [name for name in CASES if name not in LONG]
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])


def judge(given: Case, dtype: torch.dtype) -> Score:
    rounded = cast(given, dtype)
    digits = 60 if len(given.y) > 1000 else 100
    return score(rounded, exact(rounded.params, rounded.y, digits))


@BOTH
@pytest.mark.parametrize("name", SHORT)
def test_likelihood_filter_and_smoother_are_right(name: str, dtype: torch.dtype) -> None:
    result = judge(case(name), dtype)
    assert result.right, result
    assert result.flagged == (name == "duplicated sensor, R = 0"), result


@BOTH
@pytest.mark.parametrize("name", LONG)
def test_a_long_series_shortened(name: str, dtype: torch.dtype) -> None:
    result = judge(LONG[name](1500), dtype)
    assert result.right and not result.flagged, result


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", LONG)
def test_a_hundred_thousand_steps(name: str, dtype: torch.dtype) -> None:
    result = judge(case(name), dtype)
    assert result.right and not result.flagged, result
