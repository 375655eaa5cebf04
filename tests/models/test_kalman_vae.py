"""The Kalman variational autoencoder against dense Gaussians, `Kalman()` and its own pieces."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import Collapsed, CollapsedSVI, FrameEncoder, bound_terms
from deepssm.models import GaussianEmission, KalmanVAE

LATENT, LINEAR, OBS, TIME = 2, 4, 3, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _generic(modes: int = 1, input_dim: int = 0) -> KalmanVAE:
    """Return a float64 model with a linear decoder, in generic position."""
    emission = GaussianEmission(LATENT, OBS, hidden=0)
    model = KalmanVAE(OBS, LATENT, LINEAR, modes, input_dim=input_dim, emission=emission).double()
    with torch.no_grad():
        model.A.mul_(0.8).add_(0.1 * torch.randn_like(model.A))
        model.B.add_(torch.randn_like(model.B))
        model.C.add_(0.3 * torch.randn_like(model.C))
        model.initial_mean.normal_()
        for noise in (model.log_q, model.log_r, model.log_p0):
            noise.add_(0.2 * torch.randn_like(noise))
    return model


def _linear(model: KalmanVAE, *, observed: bool) -> ds.models.LinearGaussian:
    """Return the plain linear model of `a`, or of `y` through the linear decoder."""
    Q, R, P0 = ((2 * x).exp() + 1e-6 for x in (model.log_q, model.log_r, model.log_p0))
    C, d, noise = model.C.detach(), torch.zeros(LATENT).double(), torch.diag(R.detach())
    if observed:
        net = model.emission_net
        assert isinstance(net, GaussianEmission)
        W, d = net.linear.weight.detach(), net.linear.bias.detach()
        scale = nn.functional.softplus(net.raw_scale.detach()) + net.min_scale
        C, noise = W @ C, W @ noise @ W.mT + torch.diag(scale.square())
    parts = model.A[0].detach(), torch.diag(Q.detach()), C, noise
    B = model.B[0].detach() if model.input_dim else None
    return ds.models.LinearGaussian(
        *parts, B=B, d=d, m0=model.initial_mean.detach(), P0=torch.diag(P0.detach())
    )


class _Joint:
    """A joint Gaussian over a whole path of `a`, its density spread evenly over the entries."""

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        self.law = MultivariateNormal(mean, cov)

    def rsample(self, shape: torch.Size) -> Tensor:
        return self.law.rsample(shape).reshape(*shape, TIME, LATENT)

    def log_prob(self, a: Tensor) -> Tensor:
        total = self.law.log_prob(a.reshape(len(a), -1))
        return (total / (TIME * LATENT))[:, None, None].expand_as(a)


class _ExactEncoder(nn.Module):
    """`p(a_{1:T} | y_{1:T})` by conditioning a dense joint Gaussian of `(a, y)`."""

    def __init__(self, model: KalmanVAE) -> None:
        super().__init__()
        self.model = model

    def reads(self, y: Tensor) -> Tensor:
        return torch.ones(y.shape[:-1], dtype=torch.bool)

    def forward(self, y: Tensor) -> _Joint:
        plain, seen = _linear(self.model, observed=False), _linear(self.model, observed=True)
        mean, cov = _dense(plain)
        net = self.model.emission_net
        assert isinstance(net, GaussianEmission)
        W = torch.block_diag(*[net.linear.weight.detach()] * TIME)
        mean_y, cov_y = _dense(seen)
        gain = torch.linalg.solve(cov_y, W @ cov).mT
        found = cov - gain @ W @ cov
        return _Joint(mean + gain @ (y.reshape(-1) - mean_y), (found + found.mT) / 2)


def _dense(model: ds.models.LinearGaussian) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of all observations of a linear model, by recursion."""
    start, (A, b, Q), (C, d, R) = model.linear_parameters(None, None)
    A, b, Q, C, d, R = (x[0] for x in (A, b, Q, C, d, R))
    means, P = [start.mean], [start.cov]
    for _ in range(TIME - 1):
        means.append(A @ means[-1] + b)
        P.append(A @ P[-1] @ A.mT + Q)
    p = C.shape[0]
    cov = torch.zeros(TIME * p, TIME * p, dtype=torch.float64)
    for s in range(TIME):
        cross = P[s]
        for t in range(s, TIME):
            block = C @ cross @ C.mT + (R if s == t else 0)
            cov[t * p : t * p + p, s * p : s * p + p] = block
            cov[s * p : s * p + p, t * p : t * p + p] = block.mT
            cross = A @ cross
    return torch.cat([C @ m + d for m in means]), cov


def test_bound_with_the_exact_encoder_is_the_log_likelihood() -> None:
    """Every draw gives `log p(y)`, of the linear model of `y` by `Kalman()`."""
    model = _generic()
    y = torch.randn(TIME, OBS).double()
    terms = bound_terms(model, _ExactEncoder(model), Series(y), 5)
    right = ds.log_likelihood(_linear(model, observed=True), y).sum()
    assert torch.allclose(terms.weighted().sum(-1), right, atol=1e-8, rtol=0)


@pytest.mark.parametrize("input_dim", [0, 2])
def test_one_mode_is_a_plain_linear_model(input_dim: int) -> None:
    """Likelihood, gradient in `a` and predictions in gaps are those of `Kalman()`."""
    model = _generic(input_dim=input_dim)
    a = torch.randn(3, TIME, LATENT).double()
    u = torch.randn(3, TIME, input_dim).double() if input_dim else None
    plain = _linear(model, observed=False)
    terms = bound_terms(model, _Known(a), Series(torch.zeros(3, TIME, OBS).double(), u))
    assert torch.allclose(terms.log_p, ds.log_likelihood(plain, a, u), atol=1e-8, rtol=0)


def test_bound_is_not_that_of_smoothed_marginals() -> None:
    """Drawing `z` from the product of smoothed marginals loses 7.4009 nats (dense Gaussians)."""
    model = KalmanVAE(OBS, LATENT, LINEAR, 1).double()
    with torch.no_grad():
        model.log_q.fill_(0.5 * math.log(0.08 - 1e-6))
        model.log_r.fill_(0.5 * math.log(0.03 - 1e-6))
        model.log_p0.fill_(0.5 * math.log(20.0 - 1e-6))
    a = torch.randn(20, LATENT).double()
    plain = _linear(model, observed=False)
    exact = ds.log_likelihood(plain, a).sum()
    smoothed = ds.smooth(plain, a)
    n = LINEAR
    step = torch.eye(20 * n).double()
    for t in range(1, 20):
        step[t * n : t * n + n, t * n - n : t * n] = -model.A[0].detach()
    Q = torch.block_diag(torch.eye(n) / 20.0, torch.eye(19 * n) / 0.08).double()
    C = model.C.detach()
    precision = step.mT @ Q @ step + torch.block_diag(*[C.mT @ C / 0.03] * 20)
    marginals = torch.block_diag(*smoothed.cov)
    loss = 0.5 * (
        (precision @ marginals).trace() - 20 * n - precision.logdet() - marginals.logdet()
    )
    assert math.isclose(float(loss), 7.4009, abs_tol=5e-5)
    encoder = _Known(a)
    ours = bound_terms(model, encoder, Series(torch.zeros(20, OBS).double())).log_p.sum()
    assert torch.allclose(ours, exact, atol=1e-8, rtol=0)


class _Known(nn.Module):
    """An encoder that knows `a`."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = a

    def reads(self, y: Tensor) -> Tensor:
        return torch.ones(y.shape[:-1], dtype=torch.bool)

    def forward(self, y: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(self.a, torch.full_like(self.a, 1e-12))


def _untrained() -> tuple[KalmanVAE, FrameEncoder, Collapsed]:
    model = KalmanVAE(6, 2, 4, 3, likelihood="bernoulli", hidden=16, memory=5)
    encoder = FrameEncoder(6, 2, 16)
    return model, encoder, Collapsed(encoder, num_samples=8)


def _bits(*shape: int) -> Tensor:
    return torch.randint(2, (*shape, 6)).float()


def test_what_lies_under_a_mask_changes_nothing() -> None:
    """Padding that `lengths` hides may hold NaN or 1e30: results and gradients are equal."""
    model, _, method = _untrained()
    y, found = _bits(2, 9), []
    for payload in (math.nan, 1e30):
        padded = y.clone()
        padded[1, 5:] = payload
        model.zero_grad()
        ll = ds.log_likelihood(model, padded, lengths=torch.tensor([9, 5]), method=method)
        ll.sum().backward()
        assert torch.equal(ll[1, 5:], torch.zeros(4))
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        smooth = ds.smooth(model, padded, lengths=torch.tensor([9, 5]), method=method)
        found.append((ll.detach(), smooth.mean, smooth.cov, *gradients))
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))
    assert all(torch.isfinite(x).all() for x in found[0])


def test_a_batch_is_its_series() -> None:
    """With an encoder that has no noise draws do not matter, and series do not see each other."""
    model = _generic(modes=3)
    a, y = torch.randn(3, TIME, LATENT).double(), torch.randn(3, TIME, OBS).double()
    y[0, 2:5] = math.nan
    whole = ds.smooth(model, y, method=Collapsed(_Gappy(a), 4))
    for i in range(3):
        alone = ds.smooth(model, y[i], method=Collapsed(_Gappy(a[i]), 4))
        for both, one in zip(whole[:3], alone[:3], strict=True):
            assert torch.allclose(both[i], one, atol=1e-8)


def test_every_verb_answers() -> None:
    """Shapes of all answers, finite, with a gap of whole frames and of some pixels."""
    model = KalmanVAE(6, 2, 4, 2, likelihood="bernoulli", hidden=8, memory=3, input_dim=1)
    y, u = _bits(4, 9), torch.randn(4, 9, 1)
    y[0, 3:6], y[1, 4, :2], y[2, 5, :5], y[3, 7:] = (math.nan,) * 4
    fit = ds.fit(
        model, y, u, method=CollapsedSVI(steps=4, starts=2, start_steps=2), progress=False
    )
    n = model.state_dim
    assert n == 4 + 2 + 3 and len(model.state_names) == n
    filtered, smoothed = fit.filter(), fit.smooth()
    assert filtered.mean.shape == smoothed.mean.shape == (4, 9, n)
    assert filtered.predicted_cov.shape == smoothed.cross_cov.shape == (4, 9, n, n)
    assert torch.linalg.eigvalsh(smoothed.cov.double()).min() > -1e-6
    ahead = fit.forecast(5, u_future=torch.randn(4, 5, 1))
    assert ahead.mean.shape == (4, 5, 6) and ((ahead.mean >= 0) & (ahead.mean <= 1)).all()
    imputed = fit.impute(16)
    seen = ~torch.isnan(y)
    assert torch.equal(imputed.mean[seen], y[seen]) and torch.isfinite(imputed.samples).all()
    assert fit.log_likelihood().shape == (4, 9)
    assert ds.simulate(model, 5, torch.randn(5, 1), num_samples=3).y.shape == (3, 5, 6)
    assert ds.filter(model, y, u).mean.shape == (4, 9, n)  # the trained encoder is remembered
    everything = (*filtered[:5], *smoothed[:4], ahead.mean, fit.log_likelihood())
    assert all(torch.isfinite(x).all() for x in everything)


def test_gaps_are_filled_by_the_smoother_given_the_rest() -> None:
    """One mode and known `a`: moments in a gap are those of `Kalman()` of the plain model."""
    model = _generic()
    a = torch.randn(TIME, LATENT).double()
    hidden = a.clone()
    hidden[2:5] = math.nan
    encoder = _Gappy(a)
    y = torch.randn(TIME, OBS).double()
    y[2:5] = math.nan
    for verb in (ds.smooth, ds.filter):
        mine = verb(model, y, method=Collapsed(encoder, 4))
        right = verb(_linear(model, observed=False), hidden)
        assert torch.allclose(mine.mean[..., :LINEAR], right.mean, atol=1e-8)
        assert torch.allclose(mine.cov[..., :LINEAR, :LINEAR], right.cov, atol=1e-8)
        a_gap = right.mean[2:5] @ model.C.detach().mT
        assert torch.allclose(mine.mean[2:5, LINEAR:], a_gap, atol=1e-8)


class _Gappy(_Known):
    def reads(self, y: Tensor) -> Tensor:
        return ~torch.isnan(y).any(-1)


def test_weights_in_a_gap_are_fed_by_predictions() -> None:
    """The filled path equals a loop over steps that predicts each unknown `a` in turn."""
    from deepssm.inference.variational.collapsed_terms import predicted_path

    model = _generic(modes=3)
    a = torch.randn(TIME, LATENT).double()
    a[2:5] = math.nan
    path = torch.zeros(TIME, LATENT).double()
    with torch.no_grad():
        m, P = model.initial_mean, torch.diag((2 * model.log_p0).exp() + 1e-6)
        Q, R = (torch.diag((2 * x).exp() + 1e-6) for x in (model.log_q, model.log_r))
        h = torch.zeros(model.memory_dim).double()
        for t in range(TIME):
            if t:
                A = torch.einsum("k,kij->ij", model.weights(h), model.A)
                m, P = A @ m, A @ P @ A.mT + Q
            C = model.C
            path[t] = C @ m
            if not a[t].isnan().any():
                path[t] = a[t]
                K = torch.linalg.solve(C @ P @ C.mT + R, C @ P).mT
                m, P = m + K @ (a[t] - C @ m), P - K @ C @ P
            h = model.memories(path[t][None], h)[0]
        found = predicted_path(model, a, Series(torch.zeros(TIME, OBS).double()))
    assert torch.allclose(found, path, atol=1e-8)


def test_gradients_are_finite_and_reach_every_parameter() -> None:
    """With frames missing, in part and in full."""
    model, encoder, _ = _untrained()
    y = _bits(3, 8)
    y[0, 2:4], y[1, 3, :5], y[2, 6:] = (math.nan,) * 3
    terms = bound_terms(model, encoder, Series(y), 2)
    terms.weighted().sum().backward()
    for name, parameter in [*model.named_parameters(), *encoder.named_parameters()]:
        if parameter.numel():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_wrong_arguments_are_refused() -> None:
    """By name, with what to do instead."""
    with pytest.raises(ValueError, match="`modes` must be at least 1"):
        KalmanVAE(3, 2, 4, 0)
    with pytest.raises(ValueError, match="`likelihood` is 'gaussian'"):
        KalmanVAE(3, 2, 4, likelihood="normal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`guide` must read frames"):
        Collapsed(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="use `SVI\\(\\)`"):
        ds.fit(ds.models.DeepMarkov(2, 2), torch.randn(5, 2), method=CollapsedSVI())
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        CollapsedSVI(steps=0)
    with pytest.raises(ValueError, match="linear given a path"):
        ds.filter(ds.models.LocalLevel(), torch.randn(5, 1), method=_untrained()[2])


def test_slow_features_find_where_a_ball_is() -> None:
    """Before training the position is linear in the encoder's mean (R2 above .9, seeded)."""
    film = ds.data.bouncing_ball_images(100, seed=0)
    encoder = FrameEncoder(256, 2)
    encoder.initialize_from(Series(film.y))
    a = encoder(film.y).mean.detach().reshape(-1, 2)
    rows, right = torch.cat((a, torch.ones(len(a), 1)), 1), film.position.reshape(-1, 2)
    missed = right - rows @ torch.linalg.lstsq(rows, right).solution
    share = missed.square().sum(0) / (right - right.mean(0)).square().sum(0)
    assert share.max() < 0.1
    assert 0 < film.position.min() and film.position.max() < 16
    assert set(film.y.unique().tolist()) == {0.0, 1.0}


def test_as_a_plain_state_space_model_it_is_the_same() -> None:
    """One mode: sigma points on `(z, a)` and the linear decoder give `Kalman()` of `y`."""
    model = _generic()
    y = torch.randn(TIME, OBS).double()
    right = ds.log_likelihood(_linear(model, observed=True), y)
    mine = ds.log_likelihood(model, y, method=ds.inference.Unscented())
    assert torch.allclose(mine, right, atol=1e-8)
    drawn = ds.simulate(
        model, TIME, num_samples=20_000, generator=torch.Generator().manual_seed(0)
    )
    flat = drawn.y.flatten(-2)
    cov = _dense(_linear(model, observed=True))[1]
    error = (torch.cov(flat.mT) - cov).abs() / cov.diagonal().outer(cov.diagonal()).sqrt()
    assert error.max() < 5 * 1.5 / math.sqrt(20_000)  # 5 standard errors: fails 1 in 1e4 seeds
