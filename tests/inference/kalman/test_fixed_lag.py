"""Fixed-lag smoothing against the batch smoother of every prefix of the data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import LinearConditional, LinearParameters, Series
from deepssm.inference import Kalman
from deepssm.inference.kalman import fixed_lag as kalman_fixed_lag
from deepssm.inference.kalman.fixed_lag import Matrices, fixed_lag
from deepssm.models import ConstantVelocity, LocalLinearTrend
from tests import oracles

CASES: dict[str, dict[str, Any]] = {
    "constant": {},
    "time-varying": {"time_varying": True},
    "batch of parameters, inputs": {"batch": (2,), "inputs": True},
    "rank-1 Q, P0 = 0": {"process_rank": 1, "initial_rank": 0},
    "diffuse, varying": {"diffuse": 2, "time_varying": True},
}


def series(options: dict[str, Any], time: int) -> tuple[LinearParameters, Tensor]:
    parameters = oracles.random_linear_gaussian(3, 2, time, 5, **options)
    y = torch.randn(2, time, 2, dtype=torch.float64)
    y[0, 3, 0], y[:, 5] = math.nan, math.nan
    return parameters, y


def prefix(parameters: LinearParameters, time: int) -> LinearParameters:
    start, *parts = parameters
    cut = [
        LinearConditional(
            *(
                x if x.shape[-e] == 1 else x.narrow(-e, 0, time)
                for x, e in zip(part, (3, 2, 3), strict=True)
            )
        )
        for part in parts
    ]
    return LinearParameters(start, *cut)


@pytest.mark.parametrize("lag", [0, 1, 3, 20])
@pytest.mark.parametrize("name", CASES)
def test_each_state_is_that_of_the_smoother_of_its_prefix(name: str, lag: int) -> None:
    parameters, y = series(CASES[name], time := 9)
    result = fixed_lag(Kalman(), parameters, y, lag)
    for t in range(time):
        end = min(t + lag + 1, time)
        expected = Kalman().smooth(Matrices(prefix(parameters, end)), Series(y[:, :end]))
        close(result.mean[:, t], expected.mean[:, t])
        close(result.cov[:, t], expected.cov[:, t])
        if t + 1 < end:
            close(result.cross_cov[:, t + 1], expected.cross_cov[:, t + 1])
    assert not bool(result.cross_cov[:, 0].any())
    whole = Kalman().filter(Matrices(parameters), Series(y))
    assert torch.equal(result.log_likelihood, whole.log_likelihood)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_no_wait_is_the_filter_and_knows_the_pair_before_the_data() -> None:
    parameters, y = series({}, 6)
    result, filtered = (
        fixed_lag(Kalman(), parameters, y, 0),
        Kalman().filter(Matrices(parameters), Series(y)),
    )
    close(result.mean, filtered.mean)
    close(result.cross_cov[:, 1:], parameters.transition.matrix @ filtered.cov[:, :-1])


def test_windows_in_several_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, y = series({"time_varying": True}, 9)
    whole = fixed_lag(Kalman(), parameters, y, 2)
    monkeypatch.setattr(kalman_fixed_lag, "_AT_ONCE", 200)
    for x, expected in zip(fixed_lag(Kalman(), parameters, y, 2), whole, strict=True):
        assert torch.equal(x, expected)


def test_the_scan_smooths_windows_too() -> None:
    parameters, y = series({"time_varying": True}, 9)
    ours, theirs = (fixed_lag(Kalman(b), parameters, y, 2) for b in ("scan", "sequential"))
    close(ours.mean, theirs.mean)
    close(ours.cross_cov, theirs.cross_cov)


def test_the_verb_takes_a_lag() -> None:
    model = LocalLinearTrend(level_variance=0.1, slope_variance=0.01, noise_variance=1.0)
    y = torch.randn(30, 1, dtype=torch.float64)
    result = ds.smooth(model, y, lag=4)
    close(result.mean[10], ds.smooth(model, y[:15]).mean[10])
    moving, dt = ConstantVelocity(1, diffusion=1.0, noise_variance=1.0), torch.rand(30) + 0.1
    close(
        ds.smooth(moving, y, dt=dt, lag=3).mean[7], ds.smooth(moving, y[:11], dt=dt[:11]).mean[7]
    )


def test_a_lag_is_refused_where_it_means_nothing() -> None:
    model = LocalLinearTrend(level_variance=0.1, slope_variance=0.01, noise_variance=1.0)
    y = torch.randn(5, 1, dtype=torch.float64)
    for lag in (-1, 1.5, True):
        with pytest.raises(ValueError, match="`lag` must be a whole number of at least 0"):
            ds.smooth(model, y, lag=lag)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`lag` needs a method with `fixed_lag`"):
        ds.smooth(model, y, lag=1, method=ds.inference.Unscented())
