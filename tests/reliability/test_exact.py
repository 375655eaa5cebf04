"""The decimal filter against one dense Gaussian in mpmath: two oracles without a common line."""

from __future__ import annotations

import pytest
import torch

from tests import oracles

from .cases import A3, linear, simulate
from .exact import exact

MODELS = {
    "generic": oracles.random_linear_gaussian(3, 2, 5, 1, inputs=True),
    "time-varying": oracles.random_linear_gaussian(2, 3, 5, 2, time_varying=True),
    "singular Q": oracles.random_linear_gaussian(3, 2, 5, 3, process_rank=1),
    "duplicated exact sensor": linear(
        C=[[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]], R=torch.zeros(2, 2, dtype=torch.float64)
    ),
    "vague start": linear(A3, P0=1e14 * torch.eye(3, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_decimal_filter_is_the_dense_gaussian(name: str) -> None:
    params = MODELS[name]
    y = simulate(params, 5, 1, torch.eye(params.initial.mean.shape[0]))
    y[1, 0], y[3] = torch.nan, torch.nan
    ours = exact(params, y)
    total = oracles.log_likelihood(params, y, digits=60).sum()
    torch.testing.assert_close(float(ours.log_likelihood), float(total), rtol=1e-13, atol=0)
    pairs = [
        (ours.smoothed, oracles.smooth(params, y, digits=60)),
        (ours.filtered, oracles.filtered(params, y, digits=60)),
        (ours.predicted, oracles.predicted(params, y, digits=60)),
    ]
    for moments, dense in pairs:
        torch.testing.assert_close(moments.mean, dense.mean, rtol=1e-13, atol=1e-25)
        torch.testing.assert_close(moments.cov, dense.cov, rtol=1e-13, atol=1e-25)
    torch.testing.assert_close(ours.cross_cov, pairs[0][1].cross_cov, rtol=1e-13, atol=1e-25)  # type: ignore[union-attr]


def test_more_digits_where_the_subtraction_needs_them() -> None:
    """A state that grows tenfold a step leaves nothing of 60 digits, and is seen to."""
    params = linear([[10.0]], [[1.0]], [[1.0]], [[1.0]], [0.0], [[1.0]])
    y = simulate(params, 80, 2)
    few, many = exact(params, y, 60), exact(params, y, 400)
    torch.testing.assert_close(few.smoothed.cov, many.smoothed.cov, rtol=1e-13, atol=0)
