from __future__ import annotations

from typing import Any, Literal, cast

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from deepssm.core.model import Series, StateSpaceModel
from deepssm.core.pyro_sites import MarkovSequence, keep, observed_steps
from deepssm.inference.guides.chain_guide import ChainGuide
from deepssm.inference.guides.combiners import GateCombiner, IndependentCombiner, ProductCombiner
from deepssm.inference.guides.encoders.attention import AttentionEncoder
from deepssm.inference.guides.encoders.diagonal import DiagonalEncoder
from deepssm.inference.guides.encoders.features import Reader
from deepssm.inference.guides.encoders.recurrent import RecurrentEncoder, reversal
from deepssm.inference.guides.linearized_guide import LinearizedGuide
from deepssm.inference.guides.particle_filter import guided_filter
from deepssm.inference.guides.smoothing_guide import SmoothingGuide, default_guide
from deepssm.inference.variational.elbo import bound, importance_log_likelihood, negative_elbo
from deepssm.inference.variational.svi import SVI
from deepssm.models.deep.deep_markov import DeepMarkov
from deepssm.models.deep.emissions import BernoulliEmission

from ... import oracles
from ...deep_models import (
    gappy_series,
    linear_deep,
    linear_parameters,
    neural_deep,
    scramble,
    scrambled_guide,
)


def _guides() -> dict[str, torch.nn.Module]:
    """One of every family, moved off its start."""
    guides: dict[str, torch.nn.Module] = {}
    for reads in ("past", "future", "both"):
        encoder = RecurrentEncoder(7, 8, reads=reads)  # type: ignore[arg-type]
        guides[f"product-{reads}"] = SmoothingGuide(2, 2, 1, encoder=encoder, hidden=8)
        diagonal = DiagonalEncoder(7, 8, reads=reads)  # type: ignore[arg-type]
        guides[f"chain-{reads}"] = ChainGuide(2, 2, 1, encoder=diagonal)
    guides["gate"] = SmoothingGuide(2, 2, 1, hidden=8, combiner=GateCombiner(2, 2, 8))
    alone = IndependentCombiner(2, 2, 8)
    guides["mean-field"] = SmoothingGuide(2, 2, 1, hidden=8, combiner=alone)
    lstm = RecurrentEncoder(7, 8, cell="lstm")
    guides["lstm"] = SmoothingGuide(2, 2, 1, hidden=8, encoder=lstm)
    attention = AttentionEncoder(7, 8, layers=2)
    guides["attention"] = SmoothingGuide(2, 2, 1, hidden=8, encoder=attention)
    guides["blind"] = SmoothingGuide(2, 2, 1, combiner=ProductCombiner(2, 2, 8, innovation=False))
    for guide in guides.values():
        scramble(guide.double(), 3)
    return guides | {"linearised": LinearizedGuide()}


with torch.random.fork_rng():
    torch.manual_seed(1)  # collected at import, when the random state is whatever ran before
    GUIDES = _guides()
each_guide = pytest.mark.parametrize("name", GUIDES)


@each_guide
def test_density_of_a_draw_is_that_of_its_steps(name: str) -> None:
    """What is cached of a draw equals the pass that scores any path."""
    model = neural_deep()
    series = gappy_series(model)
    posterior = GUIDES[name](model, series).expand(torch.Size((4, 3)))
    z = posterior.rsample()
    cached = posterior.step_log_prob(z)
    torch.testing.assert_close(cached, posterior.step_log_prob(z.clone()))
    assert cached.shape == (4, 3, 12)
    assert torch.equal(cached[:, 1, 8:], torch.zeros(4, 4, dtype=torch.float64))


@each_guide
def test_draws_have_the_distribution_they_claim(name: str) -> None:
    """E[exp(log r - log q)] = 1 for a narrower r: 4000 paths, 5 standard errors."""
    model = neural_deep()
    series = gappy_series(model, time=6, batch=1)
    posterior = GUIDES[name](model, series).expand(torch.Size((4000, 1)))
    with torch.no_grad():
        path = posterior.along(posterior.rsample())
        narrow = Independent(Normal(path.mean, 0.8 * path.scale), 1).log_prob(path.z)
        ratio = (keep(posterior.steps, narrow).sum(-1) - posterior.log_prob(path.z)).exp()[:, 0]
    diagonal = path.chol is None or bool(path.chol.tril(-1).abs().max() < 1e-9)
    if diagonal:
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / 4000**0.5
    white = (path.z - path.mean) / path.scale
    if path.chol is not None:
        offset = (path.z - path.mean)[..., None]
        white = torch.linalg.solve_triangular(path.chol, offset, upper=False)[..., 0]
    assert white.mean((0, 1)).abs().max() < 5 / 4000**0.5
    assert (white.var((0, 1)) - 1).abs().max() < 5 * (2 / 4000) ** 0.5


@each_guide
def test_future_never_reaches_the_past(name: str) -> None:
    """Appending NaN steps leaves the guide's posterior of earlier steps as it is."""
    model = neural_deep()
    series = gappy_series(model)
    guide = GUIDES[name]
    pad = torch.full((3, 5, 2), torch.nan, dtype=torch.float64)
    u = torch.cat([series.u, torch.randn(3, 5, 1, dtype=torch.float64)], dim=1)  # type: ignore[list-item]
    longer = Series(torch.cat([series.y, pad], dim=1), u)
    z = guide(model, longer).sample()
    short = guide(model, series).step_log_prob(z[:, :12])
    torch.testing.assert_close(guide(model, longer).step_log_prob(z)[:, :12], short)


@each_guide
def test_a_series_needs_no_batch_axis(name: str) -> None:
    """Its draw under the same noise is that of a batch of one."""
    model, paths = neural_deep(), []
    series = gappy_series(model, batch=1)
    assert series.u is not None
    for given in (series, Series(series.y[0], series.u[0])):
        torch.manual_seed(0)
        paths.append(GUIDES[name](model, given).rsample())
    assert paths[1].shape == (12, 2)
    torch.testing.assert_close(paths[0][0], paths[1])


@each_guide
def test_after_the_end_the_guide_is_the_model(name: str) -> None:
    """20 000 draws of the step after the last observation: whitened by the model, 5 errors."""
    model = neural_deep()
    series = gappy_series(model, time=8)
    posterior = GUIDES[name](model, series).expand(torch.Size((20_000, 3)))
    z = posterior.sample()[:, 1]
    for t in range(4, 8):
        prior = model.transition(z[:, t - 1], series.u[1, t])  # type: ignore[index]
        white = ((z[:, t] - prior.mean) / prior.variance.sqrt()).detach()
        assert white.mean(0).abs().max() < 5 / 20_000**0.5
        assert (white.var(0) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5


@each_guide
def test_divergence_of_a_guide_from_itself_is_zero(name: str) -> None:
    model = neural_deep()
    series = gappy_series(model)
    left, right = GUIDES[name](model, series), GUIDES[name](model, series)
    left.rsample()
    assert kl_divergence(left, right).abs().max() < 1e-9


@each_guide
def test_divergence_is_the_mean_log_ratio(name: str) -> None:
    """Monte Carlo over 4000 paths: 5 standard errors, once in 10^6."""
    model = neural_deep()
    series = gappy_series(model)
    posterior = GUIDES[name](model, series).expand(torch.Size((4000, 3)))
    z = posterior.rsample()
    steps = observed_steps(series.y)
    prior = MarkovSequence(model, 12, series.u, None, steps, posterior.batch_shape)
    analytic = posterior.divergence(prior).sum(-1)
    ratio = posterior.log_prob(z) - prior.log_prob(z)
    difference = ratio - analytic
    assert (difference.mean(0).abs() < 5 * difference.std(0) / 4000**0.5).all()
    assert (analytic > 0).all()


class _FullNoise(StateSpaceModel):
    """A transition with a full covariance, to reach the other closed form."""

    state_dim, obs_dim = 2, 2

    def __init__(self) -> None:
        super().__init__()
        self.chol = torch.tensor([[0.8, 0.0], [0.5, 0.4]], dtype=torch.float64)

    def initial(self) -> MultivariateNormal:
        return MultivariateNormal(torch.zeros(2, dtype=torch.float64), scale_tril=self.chol)

    def transition(self, z, u=None, dt=None) -> MultivariateNormal:  # noqa: ANN001
        return MultivariateNormal(0.9 * z, scale_tril=self.chol)

    def emission(self, z, u=None) -> Independent:  # noqa: ANN001
        return Independent(Normal(z, 1.0), 1)


def test_divergence_from_a_full_normal_is_exact() -> None:
    model = _FullNoise()
    series = Series(torch.randn(3, 5, 2, dtype=torch.float64))
    guide = SmoothingGuide(2, 2, hidden=8).double()
    posterior = guide(model, series)
    z = posterior.rsample()
    path = posterior.path
    assert path is not None
    got = posterior.divergence(MarkovSequence(model, 5, batch_shape=torch.Size((3,))))
    previous = torch.cat([torch.zeros(3, 1, 2, dtype=torch.float64), 0.9 * z[:, :-1]], dim=1)
    q = MultivariateNormal(path.mean, torch.diag_embed(path.scale.square()))
    expected = kl_divergence(q, MultivariateNormal(previous, scale_tril=model.chol))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("particles", [1, 3])
def test_pyro_and_plain_bounds_agree(particles: int) -> None:
    model = neural_deep()
    series = gappy_series(model)
    guide = scrambled_guide(model)
    losses, plain = [], []
    for seed in range(2):
        torch.manual_seed(seed)
        losses.append(negative_elbo(model, guide, num_particles=particles)(*series, 0.3, 0.1))
        torch.manual_seed(seed)
        parts = bound(model, guide, series, particles)
        total = parts.reconstruction.sum((-2, -1)) - 0.3 * parts.divergence.sum((-2, -1))
        plain.append(-0.1 * total.mean())
    torch.testing.assert_close(torch.stack(losses), torch.stack(plain))


@pytest.mark.parametrize("payload", [torch.nan, 1e30])
def test_what_lies_after_the_end_changes_nothing(payload: float) -> None:
    """Bit for bit: inputs after the last observation, in the loss and in every gradient."""
    from deepssm.inference.variational.minibatches import flatten

    model, results = neural_deep(), []
    series = gappy_series(model)
    guide = scrambled_guide(model)
    assert series.u is not None
    for value in (0.0, payload):
        u = series.u.clone()
        u[1, 8:] = value
        torch.manual_seed(0)
        loss = negative_elbo(model, guide)(*flatten(Series(series.y, u)))
        parameters = [*model.parameters(), *guide.parameters()]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        results.append([loss, *(g for g in gradients if g is not None)])
    for left, right in zip(*results, strict=True):
        assert torch.isfinite(left).all()
        assert torch.equal(left, right)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    """A series alone equals the same series padded to the length of its batch mate."""
    model = neural_deep()
    series = gappy_series(model)
    guide = scrambled_guide(model)
    short = Series(series.y[1:2, :8], series.u[1:2, :8])  # type: ignore[index]
    padded = Series(series.y[1:2], series.u[1:2])  # type: ignore[index]
    values = []
    for data in (short, padded):
        noise = torch.zeros(data.time, 1, 2, dtype=torch.float64)
        with torch.random.fork_rng():
            original = torch.randn
            torch.randn = lambda *a, _n=noise, **k: _n  # type: ignore[assignment]
            try:
                parts = bound(model, guide, data)
            finally:
                torch.randn = original
        total = parts.reconstruction.sum() - parts.divergence.sum()
        gradients = torch.autograd.grad(total, [*guide.parameters()], allow_unused=True)
        values.append([total, *(g for g in gradients if g is not None)])
    for left, right in zip(*values, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_bounds_stay_below_the_exact_likelihood_and_importance_reaches_it() -> None:
    """IWAE rises with K (means of 64 repeats, 4 standard errors) up to the dense answer."""
    model = linear_deep()
    series = gappy_series(model, time=4, batch=1)
    assert series.u is not None
    exact = oracles.log_likelihood(linear_parameters(model, series.u[0]), series.y[0]).sum()
    guide = ChainGuide(2, 2, 1, hidden=8).double()
    SVI(guide, steps=300, report_every=100).fit(
        model.requires_grad_(False), series, progress=False
    )
    with torch.no_grad():
        levels = []
        for count in (1, 8, 64):
            draws = torch.stack(
                [importance_log_likelihood(model, guide, series, count)[0] for _ in range(64)]
            )
            levels.append((draws.mean(), draws.std() / 8))
        for (low, low_se), (high, high_se) in zip(levels, levels[1:], strict=False):
            assert low < high + 4 * (low_se + high_se)
        assert all(level < exact + 4 * se for level, se in levels)
        many = importance_log_likelihood(model, guide, series, 20_000, chunk=10_000)[0]
    torch.testing.assert_close(many, exact, rtol=0, atol=0.05)


def test_guided_filter_is_the_exact_filter() -> None:
    """50 000 particles, an untrained guide; tolerances are about 5 standard errors."""
    model = linear_deep()
    series = gappy_series(model, time=8, batch=2)
    guide = SmoothingGuide(2, 2, 1, hidden=8).double()
    with torch.no_grad():
        got = guided_filter(model, guide, series, 50_000)
    assert series.u is not None
    for i in range(2):
        params, y = linear_parameters(model, series.u[i]), series.y[i]
        exact = oracles.filtered(params, y)
        ahead = oracles.predicted(params, y)
        sd = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        assert ((got.mean[i] - exact.mean).abs() / sd).max() < 0.06
        torch.testing.assert_close(got.cov[i], exact.cov, rtol=0.1, atol=0.03)
        torch.testing.assert_close(got.predicted_mean[i], ahead.mean, rtol=0.05, atol=0.05)
        torch.testing.assert_close(got.predicted_cov[i], ahead.cov, rtol=0.1, atol=0.03)
        log_likelihood = oracles.log_likelihood(params, y)
        torch.testing.assert_close(got.log_likelihood[i], log_likelihood, rtol=0, atol=0.05)


def test_reversal_is_its_own_inverse() -> None:
    order = reversal(torch.tensor([4, 1, -1]), 5)
    assert order.tolist() == [[4, 3, 2, 1, 0], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("reads", ["past", "future", "both"])
def test_every_encoder_filters_as_a_series_that_ends_there(reads: Literal["past"]) -> None:
    """Contexts of series cut after each step, one by one; padding never reaches a context."""
    torch.manual_seed(0)
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    last = torch.tensor([8, 5, 2])
    other = torch.where((torch.arange(9) <= last[:, None])[..., None], x, 1e3)
    kinds = RecurrentEncoder, DiagonalEncoder, AttentionEncoder
    for encoder in (kind(5, 4, reads=reads).double() for kind in kinds):
        scramble(encoder, 1, 0.1)
        found = encoder.filtering(x)
        for t in range(9):
            alone = encoder(x[:, : t + 1], torch.full((3,), t))[:, t]
            torch.testing.assert_close(found[:, t], alone)
        full, padded = encoder(x, last), encoder(other, last)
        kept = torch.arange(9) <= last[:, None]
        torch.testing.assert_close(full[kept], padded[kept])


@torch.no_grad()
def test_attention_is_a_weighted_mean_over_steps() -> None:
    """One head, one layer, written as loops over steps."""
    encoder = AttentionEncoder(3, 4, reads="past", heads=1).double()
    scramble(encoder, 2, 0.3)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    side = cast(Any, encoder.sides[0])
    block, h = side.blocks[0], side.inward(x)
    query, key, value = block.asked(block.before(h)).chunk(3, -1)
    slope = float(block.log_slope.exp())
    for t in range(6):
        scores = [float(query[t] @ key[s]) / 2 - slope * (t - s) for s in range(t + 1)]
        weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0)
        row = h[t] + block.joined(sum(w * value[s] for s, w in enumerate(weights)))
        row = row + block.network(block.between(row))
        torch.testing.assert_close(encoder(x, torch.tensor(5))[t], side.norm(row))
    with pytest.raises(ValueError, match="`hidden` must be a multiple of `heads`"):
        AttentionEncoder(3, 5)
    for guide in (SmoothingGuide, ChainGuide):
        with pytest.raises(ValueError, match=r"gives 7 .*`AttentionEncoder.7, ....`"):
            guide(2, 2, 1, encoder=AttentionEncoder(3, 4))


def test_default_guide_follows_the_kind_of_data() -> None:
    series = Series(torch.tensor([[0.0, 1.0, 0.0]] * 4))
    assert isinstance(default_guide(DeepMarkov(3, 2), series), LinearizedGuide)
    notes = DeepMarkov(3, 2, emission=BernoulliEmission(2, 3))
    guide = default_guide(notes, series)
    assert isinstance(guide, SmoothingGuide)
    assert not guide.combiner.uses_innovation
    guide.initialize_from(notes, series)
    assert isinstance(guide.reader, Reader)
    assert torch.equal(guide.reader.y_spread, torch.ones(3))
