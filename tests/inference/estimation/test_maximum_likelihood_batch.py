"""Series with parameters of their own, learnt in one batch, against each learnt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.estimation.objective import Objective
from deepssm.inference.estimation.objective_batch import separable
from deepssm.inference.kalman.method import Kalman
from deepssm.models import Autoregressive, LocalLevel


def walks(count: int, time: int = 60) -> Tensor:
    """Noisy walks in units a thousandfold apart, a tenth of the observations missing."""
    g = torch.Generator().manual_seed(2)
    steps = torch.randn(count, time, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(count, time, 1, generator=g, dtype=torch.float64)
    units = torch.logspace(-1.5, 1.5, count, dtype=torch.float64)[:, None, None]
    y = units * (0.7 * steps.cumsum(-2) + noise)
    return torch.where(torch.rand(y.shape, generator=g) < 0.1, torch.nan, y)


def learn(model: ds.StateSpaceModel, y: Tensor, **options: Any) -> Any:  # noqa: ANN401
    return MaximumLikelihood(Kalman(), **options).fit(model, Series(y), progress=False)


@pytest.mark.parametrize("errors", ["hessian", "opg", "robust"])
def test_each_series_is_learnt_as_if_alone(errors: str) -> None:
    y = walks(4)
    many = LocalLevel(series_shape=(4,))
    together = learn(many, y, errors=errors)
    total = 0.0
    for i in range(4):
        one = LocalLevel()
        alone = learn(one, y[i], errors=errors)
        total += alone.objective
        for name in ("noise_variance", "level_variance"):
            found, expected = getattr(many, name)[i], getattr(one, name)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
            error = together.standard_errors[name][i]
            torch.testing.assert_close(error, alone.standard_errors[name], rtol=1e-4, atol=0)
    assert together.objective == pytest.approx(total, rel=1e-10)
    assert together.diagnostics["gradient_norm"] < 1e-6
    assert together.diagnostics["num_parameters"] == 8 and not together.warnings
    assert together.diagnostics["aic"] == pytest.approx(16 + 8 - 2 * total)


def test_coefficients_in_an_interval_too() -> None:
    y = walks(3).diff(dim=-2)
    many = Autoregressive(1, noise_variance=0.0, series_shape=(3,))
    together = learn(many, y)
    alone = Autoregressive(1, noise_variance=0.0)
    single = learn(alone, y[1])
    learnt = {"partial_autocorrelations", "variance"}  # `coefficients` follow from them
    assert learnt <= single.standard_errors.keys()
    for name in learnt:
        error = single.standard_errors[name]
        torch.testing.assert_close(getattr(many, name)[1], getattr(alone, name), rtol=1e-5, atol=0)
        torch.testing.assert_close(together.standard_errors[name][1], error, rtol=1e-4, atol=0)


def test_series_without_a_walk_sit_at_the_bound_and_the_others_keep_their_errors() -> None:
    y = walks(4)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 1, generator=g, dtype=torch.float64)
    y[1] = torch.cat([noise[::2], -noise[::2]], 1).reshape(60, 1)
    model = LocalLevel(series_shape=(4,))
    learned = learn(model, y)
    assert any("`level_variance` sits at a bound in 1 of 4 series" in w for w in learned.warnings)
    errors = learned.standard_errors
    assert errors["level_variance"].isnan().tolist() == [False, True, False, False]
    assert not errors["noise_variance"].isnan().any()


def test_a_series_without_data_does_not_spoil_the_others() -> None:
    y = walks(3)
    y[2] = torch.nan
    learned = learn(LocalLevel(series_shape=(3,)), y)
    assert learned.standard_errors["noise_variance"].isnan().tolist() == [False, False, True]
    assert any("No standard errors in 1 of 3 series" in text for text in learned.warnings)


def test_too_few_evaluations_are_said() -> None:
    learned = learn(LocalLevel(series_shape=(4,)), walks(4), max_iterations=1)
    assert any("Not converged in" in text for text in learned.warnings)


def test_shared_parameters_and_look_alikes_are_climbed_together() -> None:
    """A vector of as many entries as there are series need not be one entry a series."""
    y = Series(walks(2))
    assert separable(Objective(LocalLevel(series_shape=(2,)), y, Kalman()))
    assert not separable(Objective(LocalLevel(), y, Kalman()))
    shared = ds.models.LinearGaussian(
        torch.eye(2), torch.eye(2), [[1.0, 1.0]], [[1.0]], P0=torch.eye(2),
        b=torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)),
    )  # fmt: skip
    assert not separable(Objective(shared, y, Kalman()))
