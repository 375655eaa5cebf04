from __future__ import annotations

import pytest
import torch

from deepssm.base import Series
from deepssm.inference.rao_blackwell import RaoBlackwellised
from deepssm.inference.switching import Switching
from tests.inference.nonlinear_models import NAN, case_4
from tests.inference.test_switching import data, drawn, exact, two_modes


def test_the_likelihood_is_unbiased() -> None:
    """1 000 copies, 10 particles each, against all 64 histories; 4.5 se, failure below 1e-5."""
    model = two_modes()
    y = drawn(model, 6, 3)
    y[2, 0] = y[4] = NAN
    total = exact(model, y)["total"]
    method = RaoBlackwellised(10)
    runs = method.log_likelihood(model, Series(y.expand(1_000, 6, 2))).sum(-1)
    ratio = (runs - total).exp()
    se = ratio.std() / 1_000**0.5
    assert (ratio.mean() - 1).abs() < 4.5 * se
    assert se < 0.02


@pytest.mark.parametrize("seed", [1, 4])
def test_many_particles_reach_all_histories(seed: int) -> None:
    """4 000 particles and 2 000 paths; 0.06 is over 5 standard errors."""
    model = two_modes()
    y = drawn(model, 6, seed)
    y[3, 1] = NAN
    expected = exact(model, y)
    both = torch.cat((expected["modes"], expected["mean"]), -1)
    method = RaoBlackwellised(4_000, num_paths=2_000)
    got = method.smooth(model, Series(y))
    torch.testing.assert_close(got.mean, both, rtol=0, atol=0.06)
    filtered = method.filter(model, Series(y))
    torch.testing.assert_close(filtered.mean[-1], both[-1], rtol=0, atol=0.03)
    near = Switching(2).filter(model, Series(y))
    torch.testing.assert_close(
        filtered.predicted_mean[1], near.predicted_mean[1], rtol=0, atol=0.05
    )
    torch.testing.assert_close(
        filtered.predicted_cov[1], near.predicted_cov[1], rtol=0.1, atol=0.05
    )
    torch.testing.assert_close(filtered.cov[1], near.cov[1], rtol=0.1, atol=0.05)


def test_forecasts_draws_and_batches() -> None:
    model = two_modes()
    y = torch.cat((data(6, 3), torch.full((3, 2, 2), NAN, dtype=torch.float64)), -2)
    method = RaoBlackwellised(500)
    g = torch.Generator().manual_seed(0)
    forecast = method.forecast(model, Series(y), 2, 5_000, g)
    expected = Switching(2).forecast(model, Series(y), 2, 10, g)
    torch.testing.assert_close(forecast.mean, expected.mean, rtol=0, atol=0.2)
    torch.testing.assert_close(forecast.cov, expected.cov, rtol=0.2, atol=0.25)
    paths = method.sample_posterior(model, Series(y), 7, g)
    assert paths.shape == (7, 3, 8, 4)
    assert torch.equal(method.filter(model, Series(y)).mean, method.filter(model, Series(y)).mean)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a `SwitchingLinearGaussian`"):
        RaoBlackwellised().filter(case_4(), Series(data(3)))
