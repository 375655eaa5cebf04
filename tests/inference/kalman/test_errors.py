"""What the exact filter's doors refuse, and what they let through."""

from __future__ import annotations

import pytest
import torch

import deepssm as ds
from deepssm.core.model import Series
from deepssm.evaluation import leave_one_out, log_score
from deepssm.inference import Kalman
from deepssm.models import LinearGaussian
from tests import oracles

F64 = torch.float64
EYE = torch.eye(2, dtype=F64)


def varying(time: int) -> LinearGaussian:
    return LinearGaussian(0.5 * EYE.expand(time, 2, 2), EYE, EYE, EYE, P0=EYE)


@pytest.mark.parametrize("backend", ["sequential", "scan"])
def test_parameters_of_other_steps_than_the_data_are_refused(backend: str) -> None:
    """The compiled loop would read what lies behind the array."""
    y, method = torch.zeros(8, 2, dtype=F64), Kalman(backend)  # type: ignore[arg-type]
    for verb in (ds.filter, ds.smooth, ds.log_likelihood, ds.sample_posterior):
        with pytest.raises(ValueError, match="`A` varies over 5 steps, but there are 8"):
            verb(varying(5), y, method=method)
    with pytest.raises(ValueError, match="`A` varies over 8 steps, but there are 10"):
        ds.forecast(varying(8), y, 2, method=method)
    offsets = LinearGaussian(EYE, EYE, EYE, EYE, d=torch.zeros(3, 2), P0=EYE)
    with pytest.raises(ValueError, match="`d` varies over 3 steps, but there are 8"):
        ds.filter(offsets, y, method=method)


@pytest.mark.parametrize("shape", [(0, 2), (3, 0, 2), (0, 5, 2)])
def test_nothing_gives_empty_results_and_likelihood_zero(shape: tuple[int, ...]) -> None:
    model = LinearGaussian(EYE, EYE, EYE, EYE, initial=["diffuse", "known"], P0=EYE)
    y = torch.zeros(shape)
    assert ds.filter(model, y).mean.shape == shape
    assert ds.smooth(model, y).cross_cov.shape == (*shape, 2)
    assert ds.log_likelihood(model, y).sum() == 0.0


def test_a_running_filter_refuses_matrices_that_vary() -> None:
    with pytest.raises(ValueError, match="does not know which step it is at"):
        ds.online(varying(5))


def test_densities_are_as_exact_as_their_dtype() -> None:
    """A count of seen entries times `log 2 pi` is float32 unless somebody takes care."""
    given = oracles.random_linear_gaussian(2, 2, 1, 3)
    model = LinearGaussian(
        given.transition.matrix[0], given.transition.cov[0], given.emission.matrix[0],
        given.emission.cov[0], m0=given.initial.mean, P0=given.initial.cov,
    )  # fmt: skip
    y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    known = y.clone()
    known[3] = torch.nan
    smoothed = oracles.smooth(model.linear_parameters(None, None), known)
    C = model.C
    density = torch.distributions.MultivariateNormal(
        C @ smoothed.mean[3], C @ smoothed.cov[3] @ C.mT + model.R
    )
    found = leave_one_out(model, Series(y)).log_density[3]
    torch.testing.assert_close(found, density.log_prob(y[3]), rtol=1e-13, atol=1e-13)
    score = log_score(y[3], density.mean, density.covariance_matrix)
    torch.testing.assert_close(score, -density.log_prob(y[3]), rtol=1e-13, atol=1e-13)
