from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from deepssm.core.model import Series
from deepssm.inference.discrete.switching import Switching
from deepssm.inference.particles.rao_blackwell import RaoBlackwellised
from tests.nonlinear_models import NAN, case_4
from tests.switching_models import data, drawn, exact, two_modes


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


@pytest.mark.parametrize(("seed", "smoother"), [(1, "ancestral"), (4, "backward")])
def test_many_particles_reach_all_histories(
    seed: int, smoother: Literal["backward", "ancestral"]
) -> None:
    """2 000 paths; 0.06 is over 5 standard errors, thrice that with 800 and fewer particles."""
    model = two_modes()
    y = drawn(model, 6, seed)
    y[3, 1] = NAN
    expected = exact(model, y)
    both = torch.cat((expected["modes"], expected["mean"]), -1)
    method = RaoBlackwellised(4_000, num_paths=2_000, smoother=smoother)
    fewer = replace(method, num_particles=300, num_paths=800)
    got = (method if smoother == "ancestral" else fewer).smooth(model, Series(y))
    atol = 0.06 if smoother == "ancestral" else 0.18
    torch.testing.assert_close(got.mean, both, rtol=0, atol=atol)
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


def test_backward_paths_do_not_share_their_beginning() -> None:
    """Ancestors of 20 particles soon are one; backward paths still differ at the first step.

    The oracle is an ancestral smoother with 4 000 particles; errors are those of 30 copies.
    """
    model, first = two_modes(), slice(0, 10)
    y = drawn(model, 40, 5)
    many = RaoBlackwellised(4_000, num_paths=2_000, smoother="ancestral", threshold=0.1)
    expected = many.smooth(model, Series(y)).mean[first, 0]
    copies, error = Series(y.expand(30, 40, 2)), {}
    for smoother in ("ancestral", "backward"):
        few = RaoBlackwellised(20, num_paths=50, smoother=smoother)
        got = few.smooth(model, copies).mean[:, first, 0]
        error[smoother] = float((got - expected).square().mean().sqrt())
    assert error["backward"] < 0.6 * error["ancestral"], error


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
