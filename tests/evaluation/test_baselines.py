from __future__ import annotations

import math

import pytest
import torch

from deepssm import evaluation as ev

NAN = float("nan")


def test_seasonal_naive_by_hand() -> None:
    y = torch.tensor([1.0, 10.0, 3.0, 14.0, 4.0, 19.0], dtype=torch.float64)[:, None]
    mean, cov, *_ = ev.seasonal_naive(y, 5, 2)
    assert mean[:, 0].tolist() == [4.0, 19.0, 4.0, 19.0, 4.0]
    variance = (4 + 16 + 1 + 25) / 4
    assert cov[:, 0, 0].tolist() == [variance * k for k in (1, 1, 2, 2, 3)]


def test_a_gap_is_bridged_by_an_older_season_at_the_price_of_variance() -> None:
    y = torch.tensor([5.0, 1.0, 10.0, 3.0, NAN, 4.0, NAN], dtype=torch.float64)[:, None]
    mean, cov, *_ = ev.seasonal_naive(y, 3, 2)
    assert mean[:, 0].tolist() == [4.0, 10.0, 4.0]
    variance = (25 + 4 + 1) / 3
    assert cov[:, 0, 0].tolist() == [variance, 3 * variance, 2 * variance]


def test_batch_axes_and_components_do_not_mix() -> None:
    y = torch.randn(2, 3, 20, 2, generator=torch.Generator().manual_seed(0))
    y[0, 1, 17, 1] = y[1, 2, 19, 0] = NAN
    mean, cov, *_ = ev.seasonal_naive(y, 9, 4)
    assert mean.shape == (2, 3, 9, 2) and cov.shape == (2, 3, 9, 2, 2)
    assert not cov[..., 0, 1].any()
    for i, j, k in [(0, 1, 1), (1, 2, 0), (0, 0, 0)]:
        alone = ev.seasonal_naive(y[i, j, :, k : k + 1], 9, 4)
        torch.testing.assert_close(mean[i, j, :, k], alone.mean[:, 0])
        torch.testing.assert_close(cov[i, j, :, k, k], alone.cov[:, 0, 0])


def test_persistence_of_a_random_walk_covers_as_stated() -> None:
    """2000 walks, so a random seed fails once in 1e4 at each of two horizons."""
    steps = torch.randn(2000, 130, 1, generator=torch.Generator().manual_seed(1))
    walk = steps.cumsum(-2)
    forecast = ev.persistence(walk[:, :120], 10)
    inside = ev.covered(walk[:, 120:], *forecast.interval(0.9)).mean((0, 2))
    # The variance is estimated from 119 steps, so the exact coverage is that of Student's t.
    for h in (0, 9):
        assert abs(inside[h].item() - 0.8975) < 3.9 * math.sqrt(0.09 / 2000)


def test_a_forecaster_is_a_value() -> None:
    y = torch.arange(12.0)[:, None]
    torch.testing.assert_close(ev.SeasonalNaive(3)(y, 4), ev.seasonal_naive(y, 4, 3))
    torch.testing.assert_close(ev.SeasonalNaive()(y, 4), ev.persistence(y, 4))


def test_a_season_never_seen_is_an_error() -> None:
    with pytest.raises(ValueError, match="`period` must be at least 1 and less than the 3 steps"):
        ev.seasonal_naive(torch.zeros(3, 1), 2, 3)
    y = torch.tensor([[1.0], [NAN], [2.0], [NAN]])
    with pytest.raises(ValueError, match="`y` must show each step of the season of 2"):
        ev.seasonal_naive(y, 2, 2)
