"""Autoregressive models, against one dense Gaussian over states and observations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent

import deepssm as ds
from deepssm.api.validation import as_series
from deepssm.core.methods import InferenceMethod
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from deepssm.inference import (
    SVI,
    Amortized,
    Extended,
    ImportanceWeighted,
    LinearizedGuide,
    Particle,
    SmoothingGuide,
    Unscented,
    forecast_score,
)
from deepssm.io import checkpoint
from deepssm.models import DeepMarkov, GaussianEmission, LinearTransition

from ... import oracles
from ...deep_models import linear_parameters, scramble

T, N, P = 7, 2, 2


def _model() -> DeepMarkov:
    model = DeepMarkov(
        P, N, input_dim=1, feedback="both",
        transition=LinearTransition(N, 1 + 2 * P),
        emission=GaussianEmission(N, P, 1 + 2 * P, hidden=0),
    ).double()  # fmt: skip
    scramble(model, 4)
    with torch.no_grad():
        model.transition_net.get_parameter("linear.weight").mul_(0.7)
        model.past_loc.copy_(torch.tensor([0.2, -0.3]))
        model.past_spread.copy_(torch.tensor([1.3, 0.8]))
        model.initialized.fill_(True)
    return model


def _inputs(time: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(time, 1, generator=generator, dtype=torch.float64)


def _observations(model: DeepMarkov, u: Tensor) -> Tensor:
    return ds.simulate(model, len(u), u=u, generator=torch.Generator().manual_seed(6)).y


def _joint_moments(model: DeepMarkov, u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all observations of complete data: the state is `(z_t, y_t)`."""
    zero, one = torch.zeros(P, dtype=torch.float64), torch.ones(P, dtype=torch.float64)

    def after(part: object, z: Tensor, y: Tensor, seen: Tensor, t: int) -> Tensor:
        return part(z, torch.cat([u[t], y, seen])).mean  # type: ignore[operator]

    def linear(part: object) -> tuple[Tensor, Tensor, Tensor]:
        origin = after(part, torch.zeros(N, dtype=torch.float64), zero, one, 0)
        by_z = [after(part, e, zero, one, 0) - origin for e in torch.eye(N, dtype=torch.float64)]
        at = torch.zeros(N, dtype=torch.float64)
        by_y = [after(part, at, e, one, 0) - origin for e in torch.eye(P, dtype=torch.float64)]
        offsets = torch.stack([after(part, at, zero, one, t) for t in range(len(u))])
        return torch.stack(by_z, -1), torch.stack(by_y, -1), offsets

    with torch.no_grad():
        A, E, b = linear(model.transition)
        C, G, d = linear(model.emission)
        start = model.initial()
        features = torch.cat([u[0], zero, zero])
        Q = torch.diag(model.transition(start.mean, features).variance)
        first = model.emission(start.mean, features)
        R, P0 = torch.diag(first.variance), torch.diag(start.variance)
        matrix = torch.cat([torch.cat([A, E], -1), torch.cat([C @ A, C @ E + G], -1)])
        offset = torch.cat([b, b @ C.mT + d], -1)

        def spread(cov: Tensor) -> Tensor:
            top, below = (
                torch.cat([cov, cov @ C.mT], -1),
                torch.cat([C @ cov, C @ cov @ C.mT + R], -1),
            )
            return torch.cat([top, below])

        size = N + P
        read = torch.cat([torch.zeros(P, N), torch.eye(P)], -1).double()
        joint = oracles.joint(
            LinearParameters(
                GaussianInitial(torch.cat([start.mean, first.mean]), spread(P0)),
                LinearConditional(
                    matrix.expand(len(u), size, size), offset, spread(Q).expand(len(u), size, size)
                ),
                LinearConditional(
                    read.expand(len(u), P, size),
                    torch.zeros(len(u), P, dtype=torch.float64),
                    torch.zeros(len(u), P, P, dtype=torch.float64),
                ),
            ),
            len(u),
        )
    return torch.as_tensor(joint.y_mean), torch.as_tensor(joint.y_cov)


def _given(mean: Tensor, cov: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the missing entries given the others."""
    flat = y.flatten()
    seen = ~torch.isnan(flat)
    gain = cov[~seen][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
    centre = mean[~seen] + gain @ (flat[seen] - mean[seen])
    return centre, (cov[~seen][:, ~seen] - gain @ cov[seen][:, ~seen]).diagonal().sqrt()


@pytest.mark.parametrize("method", [Extended(), Unscented()])
def test_filters_are_exact_on_complete_data(method: InferenceMethod) -> None:
    model, u = _model(), _inputs()
    y = _observations(model, u)
    mean, cov = _joint_moments(model, u)
    exact = torch.distributions.MultivariateNormal(mean, cov).log_prob(y.flatten())
    torch.testing.assert_close(ds.log_likelihood(model, y, u, method=method).sum(), exact)


def test_gaps_enter_as_nothing_seen() -> None:
    """The input written down step by step; every weight of the exact guide is `p(y)`."""
    model, u = _model(), _inputs()
    y = _observations(model, u)
    y[2, 0], y[4] = torch.nan, torch.nan
    rows = [[*u[0], 0.0, 0.0, 0.0, 0.0]]
    for t in range(1, T):
        seen = [0.0 if v != v else 1.0 for v in y[t - 1].tolist()]
        rows.append([*u[t], *(0.0 if v != v else v for v in y[t - 1].tolist()), *seen])
    told = torch.tensor(rows, dtype=torch.float64)
    exact = oracles.log_likelihood(linear_parameters(model, told), y)
    got = ds.log_likelihood(model, y, u, method=Unscented())
    torch.testing.assert_close(got, torch.as_tensor(exact))
    series = as_series(model, y[None], u)
    with torch.no_grad():
        weights = ImportanceWeighted(5)(model, LinearizedGuide()).log_weights(series)
    torch.testing.assert_close(weights, got.sum().expand(5, 1))


@pytest.mark.parametrize(
    "method",
    [Amortized(LinearizedGuide()), Unscented(), Particle(4000)],
    ids=["guide", "unscented", "particles"],
)
def test_forecasts_feed_their_draws_back(method: InferenceMethod) -> None:
    """4000 draws, 5 standard errors; particles are 4000 of one filter, so 8."""
    model, u = _model(), _inputs()
    y, ahead = _observations(model, u), 4
    before = y[: T - ahead]
    found = ds.forecast(
        model, before, ahead, u=u[: T - ahead], u_future=u[T - ahead :], num_samples=4000,
        method=method, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    y[T - ahead :] = torch.nan
    centre, sd = _given(*_joint_moments(model, u), y)
    errors = 8 if isinstance(method, Particle) else 5
    assert ((found.mean.flatten() - centre).abs() < errors * sd / 4000**0.5).all()
    ratio = found.cov.diagonal(dim1=-2, dim2=-1).sqrt().flatten() / sd
    assert ((ratio - 1).abs() < errors / 8000**0.5).all()


@pytest.mark.parametrize(
    "method", [Amortized(LinearizedGuide()), Unscented()], ids=["guide", "unscented"]
)
def test_gaps_are_filled_from_both_sides(method: InferenceMethod) -> None:
    """1000 draws from 1000 particles: 6 standard errors of 500."""
    model, u = _model(), _inputs()
    y = _observations(model, u)
    y[2, 0], y[3:5], y[6, 1] = torch.nan, torch.nan, torch.nan
    centre, sd = _given(*_joint_moments(model, u), y)
    found = ds.impute(
        model, y, u, num_samples=1000, method=method, generator=torch.Generator().manual_seed(1)
    )
    missing = torch.isnan(y)
    assert ((found.mean[missing] - centre).abs() < 6 * sd / 500**0.5).all()
    assert ((found.sd[missing] / sd - 1).abs() < 6 / 1000**0.5).all()
    assert torch.equal(found.mean[~missing], y[~missing])


class _Chain(nn.Module):
    """Bits that only ask for the bit before them: a Markov chain."""

    def forward(self, z: Tensor, u: Tensor) -> Independent:
        base = Bernoulli(logits=3.0 * u[..., :1] - 1.0 + 0.0 * z[..., :1])
        return Independent(base, 1)


def test_missing_bits_of_a_chain_have_the_odds_of_bayes() -> None:
    """1000 draws from 1000 particles, 5 standard errors of 500; a parameterless emission."""
    model = DeepMarkov(1, 2, emission=_Chain(), feedback="emission").double()
    model.past_loc[:], model.past_spread[:] = 0.4, 0.5
    nan = float("nan")
    y = torch.tensor([1.0, nan, nan, 0.0, 1.0], dtype=torch.float64)[:, None]

    def chance(bit: float, before: float) -> float:
        one = 1 / (1 + math.exp(1.0 - 3.0 * (before - 0.4) / 0.5))
        return one if bit else 1 - one

    weights = {
        (a, b): chance(a, 1.0) * chance(b, a) * chance(0.0, b)
        for a in (0.0, 1.0)
        for b in (0.0, 1.0)
    }
    found = ds.impute(
        model,
        y,
        num_samples=1000,
        method=Particle(1000),
        generator=torch.Generator().manual_seed(0),
    )
    drawn = found.samples[:, 1:3, 0]
    for bits, weight in weights.items():
        share = weight / sum(weights.values())
        got = float((drawn == torch.tensor(bits, dtype=torch.float64)).all(-1).double().mean())
        assert abs(got - share) < 5 * (share * (1 - share) / 500) ** 0.5


def test_simulations_have_the_moments_of_the_joint_moments() -> None:
    """20000 draws, 5 standard errors."""
    model, u = _model(), _inputs(4)
    mean, cov = _joint_moments(model, u)
    drawn = ds.simulate(
        model, 4, u=u, num_samples=20000, generator=torch.Generator().manual_seed(2)
    )
    flat, sd = drawn.y.flatten(1), cov.diagonal().sqrt()
    assert ((flat.mean(0) - mean).abs() < 5 * sd / 20000**0.5).all()
    assert ((flat.std(0) / sd - 1).abs() < 5 / 40000**0.5).all()
    correlation = torch.corrcoef(flat.T) - cov / sd[:, None] / sd
    assert (correlation.abs() < 5 / 20000**0.5).all()


def test_counterfactual_observations_reach_the_next_step() -> None:
    """The difference of two worlds obeys the linear recursion of `(z, y)` without any noise."""
    model, u = _model(), _inputs()
    y = _observations(model, u)
    y[3, 0] = torch.nan
    method, g = Amortized(LinearizedGuide()), torch.Generator
    same = ds.counterfactual(model, y, u, u, method=method, num_samples=3, generator=g())
    seen = ~torch.isnan(y)
    torch.testing.assert_close(same.y[:, seen], y[seen].expand(3, -1))
    instead = u.clone()
    instead[2:] += 1.0
    was, now = (
        ds.counterfactual(model, y, u, v, method=method, num_samples=3, generator=g())
        for v in (u, instead)
    )
    mean, other = (_joint_moments(model, v)[0].reshape(T, P) for v in (u, instead))
    torch.testing.assert_close(now.y - was.y, (other - mean).expand(3, T, P))


def test_one_observation_at_a_time_equals_the_batch() -> None:
    model, u = _model(), _inputs()
    y = _observations(model, u)
    y[2, 0], y[4] = torch.nan, torch.nan
    running, half = ds.online(model, method=Unscented()), ds.online(model, method=Unscented())
    for t in range(T):
        if t:
            running.predict(u=u[t])
        running.update(y[t], u=None if t else u[t])  # by default the input of `predict`
        if t == 3:
            half.load_state_dict(running.state_dict())
    batch = ds.filter(model, y, u, method=Unscented())
    torch.testing.assert_close(running.mean, batch.mean[-1])
    torch.testing.assert_close(running.cov, batch.cov[-1])
    assert running.log_likelihood == pytest.approx(float(batch.log_likelihood.detach().sum()))
    for t in range(4, T):
        half.predict(u=u[t])
        half.update(y[t], u=u[t])
    torch.testing.assert_close(half.mean, running.mean)


def test_a_neural_model_trains_and_is_saved(tmp_path: Path) -> None:
    """Ragged series with gaps, windows that are cut, forecasts scored in training."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 30, 2, generator=generator).cumsum(1)
    y[torch.rand(y.shape, generator=generator) < 0.2] = torch.nan
    model = DeepMarkov(2, 3, feedback="both", hidden=4)
    guide = SmoothingGuide(2, 3, hidden=4)
    method = SVI(guide, steps=3, window=10, overshoot=3, batch_size=2)
    fit = ds.fit(
        model, y, lengths=[30, 12, 20], method=method, progress=False, generator=generator
    )
    checkpoint.save(tmp_path / "model.safetensors", {}, model=model, guide=guide)
    again, reader = DeepMarkov(2, 3, feedback="both", hidden=4), SmoothingGuide(2, 3, hidden=4)
    checkpoint.load(tmp_path / "model.safetensors").restore(model=again, guide=reader)
    method = Amortized(reader)
    there = ds.forecast(again, fit.series.y, 4, lengths=[30, 12, 20], method=method)
    forecasts = (fit.forecast(4), there)
    torch.testing.assert_close(forecasts[0].samples, forecasts[1].samples)
    assert bool(forecasts[0].mean.isfinite().all())


def test_scores_of_free_runs_never_read_what_they_forecast() -> None:
    """The draws of step two depend on step one through its draw alone, not through the data."""
    model, u = _model(), _inputs()
    y = _observations(model, u)
    scores = []
    for first in (0.0, 100.0):
        changed = y.clone()
        changed[-2], changed[-1] = first, y[-1]
        series = as_series(model, changed[None], u)
        series.y[:, -2] = torch.nan  # Not scored: only what leads on could tell.
        with torch.no_grad():
            torch.manual_seed(0)
            scores.append(forecast_score(model, LinearizedGuide(), series, 2))
    assert scores[0] == scores[1]


def test_what_cannot_be_done_is_refused() -> None:
    model, u = _model(), _inputs()
    y = _observations(model, u)
    with pytest.raises(
        ValueError, match=r"`transition` was made for `input_dim` 1, but .* needs 5"
    ):
        DeepMarkov(P, N, input_dim=1, feedback="transition", transition=LinearTransition(N, 1))
    with pytest.raises(ValueError, match="`emission` was made for `obs_dim` 3"):
        DeepMarkov(P, N, emission=GaussianEmission(N, 3))
    with pytest.raises(ValueError, match="`u` must hold 1 input"):
        LinearizedGuide()(model, Series(y, u))
    with pytest.raises(ValueError, match="`y` is needed by an autoregressive model"):
        model(u=u)
