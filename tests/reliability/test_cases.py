"""27 stress cases, each wrong in silence in some trusted library, at stated tolerances.

float64: log-likelihood 1e-6 relative, means 1e-3 posterior deviations, covariances 1e-3.
float32 in and out, float64 inside: 1e-3, 3e-2, 3e-2.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import deepssm as ds
from deepssm.inference.kalman.cpu import individual as individual
from tests.given import Given

from .cases import CASES, LONG, Case, case, cast, linear, simulate
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


@pytest.mark.parametrize("name", SHORT)
def test_series_in_simd_vectors_are_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops for many long series with gaps, made to take these short ones as well."""
    monkeypatch.setattr(individual, "_STEPS_WORTH_SIMD", 0)
    monkeypatch.setattr(individual, "_gaps_are_frequent", lambda _: True)
    result = judge(case(name), torch.float64)
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


@pytest.mark.parametrize("g", [[0.1, 0.3, 0.7], [0.3, -1.1, 2.3]])
def test_a_singular_float32_covariance_is_not_refused(g: list[float]) -> None:
    """Rounded to float32, `g g'` has an eigenvalue of -1e-8: rounding, not a mistake."""
    params = linear(Q=np.outer(g, g))
    rounded = cast(Case(params, simulate(params, 30, 1)), torch.float32)
    exactly = Case(params, rounded.y.double())
    ours, theirs = (ds.log_likelihood(Given(x.params), x.y).double().sum()
                    for x in (rounded, exactly))  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
