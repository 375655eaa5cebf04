"""Gaps of linear models: moments without draws, against a dense Gaussian."""

from __future__ import annotations

import math

import torch

import deepssm as ds
from tests import oracles
from tests.given import Given


def test_moments_are_those_of_the_dense_gaussian() -> None:
    """Correlated noise: what was seen of a step tells about the rest of it beyond the state."""
    parameters = oracles.random_linear_gaussian(3, 3, 8, 4, time_varying=True)
    y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y[2, 1], y[4], y[6, :2] = math.nan, math.nan, math.nan
    found = ds.impute(Given(parameters), y, num_samples=2)
    joint = oracles.joint(parameters, 8)
    seen = ~y.isnan().flatten().numpy()
    S, error = joint.y_cov, (y.flatten().numpy() - joint.y_mean)[seen]
    within, across = S[seen][:, seen], S[~seen][:, seen]
    gain = torch.from_numpy(across) @ torch.linalg.inv(torch.from_numpy(within))
    mean = torch.from_numpy(joint.y_mean[~seen]) + gain @ torch.from_numpy(error)
    cov = torch.from_numpy(S[~seen][:, ~seen]) - gain @ torch.from_numpy(across).mT
    missing = y.isnan()
    torch.testing.assert_close(found.mean[missing], mean)
    torch.testing.assert_close(found.sd[missing], cov.diagonal().sqrt())
    torch.testing.assert_close(found.mean[~missing], y[~missing])
    assert bool((found.sd[~missing] == 0).all()) and found.gaussian
    lower, upper = found.interval(0.9)
    torch.testing.assert_close(
        (upper - lower)[missing], 2 * 1.6448536269514722 * found.sd[missing]
    )
    other = ds.impute(Given(parameters), y, num_samples=2, method=ds.inference.Unscented())
    torch.testing.assert_close(other.sd, found.sd)
