"""A stranger's own filter on a grid: `filter` and `sample_posterior`, all the rest for free."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Series
from deepssm.core.results import Filtered
from deepssm.inference import DrawnForecasts, Kalman


@dataclass(frozen=True)
class Grid(DrawnForecasts):
    """A filter of one scalar state on a fixed grid; paths are drawn backwards."""

    points: Tensor

    def _log_weights(self, model: ds.StateSpaceModel, series: Series) -> tuple[Tensor, Tensor]:
        x = self.points[:, None]
        log_A = model.transition(x[:, None]).log_prob(x[None])
        predicted, filtered = [], []
        prior = model.initial().log_prob(x)
        for y in series.y:
            predicted.append(torch.log_softmax(prior, 0))
            seen = 0.0 if bool(y.isnan()) else model.emission(x).log_prob(y)
            filtered.append(predicted[-1] + seen)
            prior = torch.logsumexp(filtered[-1][:, None] + log_A, 0)
        return torch.stack(predicted), torch.stack(filtered)

    def filter(self, model: ds.StateSpaceModel, series: Series) -> Filtered:
        predicted, filtered = self._log_weights(model, series)
        score = torch.logsumexp(filtered, -1) - torch.logsumexp(predicted, -1)
        moments = [self._moments(torch.softmax(w, -1)) for w in (filtered, predicted)]
        return Filtered(*moments[0], *moments[1], score, torch.tensor(False))

    def _moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        mean = p @ self.points
        return mean[:, None], (p @ self.points**2 - mean**2)[:, None, None]

    def sample_posterior(
        self,
        model: ds.StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        filtered, path = self._log_weights(model, series)[1], []
        weight = filtered[-1].expand(num_samples, -1)
        for t in range(series.time - 1, -1, -1):
            index = torch.multinomial(torch.softmax(weight, -1), 1, generator=generator)
            path.append(self.points[index])
            back = model.transition(self.points[:, None]).log_prob(path[-1][:, None])
            weight = filtered[t - 1] + back
        return torch.stack(path[::-1], -2)


GRID = Grid(torch.linspace(-8, 8, 401, dtype=torch.float64))


def model() -> ds.models.LinearGaussian:
    return ds.models.LinearGaussian([[0.8]], [[0.5]], [[1.0]], [[0.3]], m0=[0.2], P0=[[1.0]])


def data() -> Tensor:
    y = ds.simulate(model(), 30, generator=torch.Generator().manual_seed(2)).y
    y[4:6] = torch.nan
    return y


def test_it_filters_and_scores_as_the_exact_method() -> None:
    y = data()
    exact, own = ds.filter(model(), y), ds.filter(model(), y, method=GRID)
    torch.testing.assert_close(own.mean, exact.mean, rtol=0, atol=1e-6)
    got = ds.log_likelihood(model(), y, method=GRID)
    torch.testing.assert_close(got, exact.log_likelihood, rtol=0, atol=1e-6)


def test_it_forecasts_by_running_on_from_the_last_observation() -> None:
    """1000 draws by default, 4000 here; 5 standard errors."""
    y = torch.cat((data(), torch.full((3, 1), torch.nan, dtype=torch.float64)))
    exact = ds.forecast(model(), y, 4, method=Kalman())
    own = ds.forecast(model(), y, 4, method=GRID, num_samples=4_000)
    assert own.samples is not None and own.samples.shape == (4_000, 4, 1)
    sd = exact.cov[..., 0].sqrt()
    assert bool(((own.mean - exact.mean).abs() < 5 * sd / 4_000**0.5).all())
    torch.testing.assert_close(own.cov, exact.cov, rtol=0.12, atol=0)
    again = ds.forecast(model(), y, 4, method=GRID, num_samples=4_000)
    assert torch.equal(own.mean, again.mean)


def test_it_smooths_and_is_backtested() -> None:
    y = data()
    exact, own = ds.smooth(model(), y), ds.smooth(model(), y, method=GRID)
    torch.testing.assert_close(own.mean, exact.mean, rtol=0, atol=0.1)
    torch.testing.assert_close(own.cov, exact.cov, rtol=0.25, atol=0)
    torch.testing.assert_close(own.cross_cov, exact.cross_cov, rtol=0, atol=0.04)
    got = ds.backtest(model(), y, start=24, horizon=2, method=GRID)
    near = ds.backtest(model(), y, start=24, horizon=2, method=Kalman())
    torch.testing.assert_close(got.forecast.mean, near.forecast.mean, rtol=0, atol=0.2)


def test_what_it_must_define_is_asked_for() -> None:
    with pytest.raises(TypeError, match="abstract method"):
        DrawnForecasts()  # type: ignore[abstract]
