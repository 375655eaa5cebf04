"""Pooled forecasts against the moments and the score of a mixture."""

from __future__ import annotations

import pytest
import torch

import deepssm as ds
from deepssm.evaluation import crps, pool


def _gaussian(mean: float, sd: float, count: int = 4000, seed: int = 0) -> ds.Forecast:
    noise = torch.randn(
        count, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    samples = mean + sd * noise
    return ds.Forecast(samples.mean(0), torch.eye(2).expand(3, 2, 2) * sd**2, samples)


def test_moments_are_those_of_the_mixture() -> None:
    """Mean of means; mean of variances plus variance of means, exactly, for equal weights."""
    parts = [_gaussian(0.0, 1.0, seed=1), _gaussian(3.0, 2.0, seed=2)]
    mixture = pool(parts)
    means = torch.stack([x.mean for x in parts])
    draws = [x.samples for x in parts if x.samples is not None]
    within = torch.stack([x.var(0, correction=0) for x in draws]).mean(0)
    expected = (within + means.var(0, correction=0)) * 8000 / 7999
    torch.testing.assert_close(mixture.mean, means.mean(0))
    torch.testing.assert_close(mixture.cov.diagonal(dim1=-2, dim2=-1), expected)


def test_counts_are_evened_and_labels_kept() -> None:
    """No model weighs more because it drew more."""
    first, second = _gaussian(0.0, 1.0, 50), _gaussian(1.0, 1.0, 80)
    mixture = pool([first.labelled(None, ("a", "b")), second])
    assert mixture.samples is not None and mixture.samples.shape == (100, 3, 2)
    assert mixture.names == ("a", "b") and mixture.state_mean is None


def test_crps_is_never_worse_than_the_average_of_its_parts() -> None:
    """The score is convex in the forecast, and these parts lie far apart."""
    spreads = ((-1.0, 0.3), (2.0, 0.5), (0.0, 2.0))
    parts = [_gaussian(*spread, 500, seed) for seed, spread in enumerate(spreads)]
    y = torch.tensor([[0.0, 1.0], [-2.0, 3.0], [0.5, 0.1]], dtype=torch.float64)
    average = torch.stack([crps(x, y) for x in parts]).mean(0)
    assert bool((crps(pool(parts), y) <= average + 1e-12).all())


@pytest.mark.parametrize(
    ("forecasts", "match"),
    [
        ([], "`forecasts` must hold at least one"),
        ([_gaussian(0.0, 1.0)._replace(samples=None)], "must carry draws"),
        ([_gaussian(0.0, 1.0), ds.Forecast(*[torch.ones(5, 2, 2)] * 3)], "same series and steps"),
    ],
)
def test_what_cannot_be_pooled_is_refused(forecasts: list[ds.Forecast], match: str) -> None:
    """Nothing is mixed silently that does not belong together."""
    with pytest.raises(ValueError, match=match):
        pool(forecasts)
