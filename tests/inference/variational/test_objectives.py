"""Bounds other than the evidence lower bound, each against the exact answer of a linear model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deepssm.core.model import Series
from deepssm.core.pyro_sites import MarkovSequence, observed_steps
from deepssm.inference.guides.chain_guide import ChainGuide
from deepssm.inference.guides.combiners import IndependentCombiner
from deepssm.inference.guides.linearized_guide import LinearizedGuide
from deepssm.inference.guides.particle_filter import Particles, promise
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.inference.variational.elbo import bound, negative_elbo
from deepssm.inference.variational.objectives import (
    FreeBits,
    ImportanceWeighted,
    ParticleBound,
    component_divergence,
)
from deepssm.inference.variational.objectives_constrained import Constrained, MaskedSuffix
from deepssm.inference.variational.svi import SVI, Objective
from deepssm.inference.variational.weight_prior import WeightAverage, WeightPrior, replaced
from deepssm.models import DeepMarkov, GaussianEmission, LinearTransition

from ... import oracles
from ...deep_models import gappy_series, linear_deep, linear_parameters, scramble, scrambled_guide


def _case(time: int = 6) -> tuple[DeepMarkov, Series, Tensor]:
    model = linear_deep()
    series = gappy_series(model, time=time, batch=1)
    assert series.u is not None
    exact = oracles.log_likelihood(linear_parameters(model, series.u[0]), series.y[0]).sum()
    return model, series, exact


def _gradients(loss: Callable[[], Tensor], over: list[nn.Parameter], repeats: int) -> Tensor:
    rows = []
    for _ in range(repeats):
        found = torch.autograd.grad(loss(), over, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in found if g is not None]))
    return torch.stack(rows)


def test_importance_weighting_rises_with_samples_and_stays_below() -> None:
    """One set of weights: means over disjoint groups rise with the group, by Jensen, exactly."""
    model, series, exact = _case()
    guide = SmoothingGuide(2, 2, 1, hidden=8, combiner=IndependentCombiner(2, 2, 8)).double()
    scramble(guide, 1, 0.1)
    loss = ImportanceWeighted(2048)(model, guide)
    with torch.no_grad():
        weights = loss.log_weights(series)[:, 0]
    levels = []
    for count in (1, 2, 8, 64, 512):
        groups = weights.reshape(-1, count)
        levels.append(float((groups.logsumexp(-1) - math.log(count)).mean()))
    assert levels == sorted(levels) and len(set(levels)) == 5
    groups = weights.reshape(-1, 512).logsumexp(-1) - math.log(512)
    assert levels[-1] < exact + 4 * groups.std() / 2


def test_one_importance_sample_is_the_evidence_lower_bound() -> None:
    """Means over 2000 copies of a series: 5 standard errors."""
    model, series, _ = _case()
    guide = scrambled_guide(model)
    many = Series(series.y.expand(2000, -1, -1), series.u.expand(2000, -1, -1))  # type: ignore[union-attr]
    with torch.no_grad():
        one = ImportanceWeighted(1)(model, guide).bound(many)
        parts = bound(model, guide, many)
    elbo = (parts.reconstruction - parts.divergence).sum(-1)[0]
    error = ((one.var() + elbo.var()) / 2000).sqrt()
    assert abs(one.mean() - elbo.mean()) < 5 * error


def test_doubly_reparameterized_gradients_have_the_same_mean_and_less_noise() -> None:
    """250 repeats, 5 standard errors by entry; some 200 entries, a false alarm in 10^4."""
    model, series, _ = _case(4)
    guide = ChainGuide(2, 2, 1, hidden=4).double()
    scramble(guide, 2, 0.1)
    over = [*guide.parameters(), *model.parameters()]
    stats = {}
    for double in (False, True):
        loss = ImportanceWeighted(8, doubly_reparameterized=double)(model, guide)
        torch.manual_seed(3)
        found = _gradients(lambda loss=loss: loss(*series), over, 250)
        stats[double] = found.mean(0), found.var(0) / len(found)
    error = (stats[False][1] + stats[True][1]).sqrt()
    assert ((stats[True][0] - stats[False][0]).abs() < 5 * error + 1e-9).all()
    noise = {double: float(variance.sum()) for double, (_, variance) in stats.items()}
    assert noise[True] < noise[False]


def test_doubly_reparameterized_gradients_vanish_at_the_exact_posterior() -> None:
    """All weights are equal there, whatever the draw, so the guide's gradient has no noise."""
    model = DeepMarkov(
        1, 1, transition=LinearTransition(1), emission=GaussianEmission(1, 1, hidden=0)
    ).double()
    exact = LinearizedGuide()

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(5, 1, dtype=torch.float64))

        def forward(self, model: DeepMarkov, series: Series) -> object:
            posterior = exact(model, series)
            posterior.drive = posterior.drive + self.shift
            return posterior

    guide = Shifted()
    y = torch.randn(3, 5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for double in (True, False):
        loss = ImportanceWeighted(4, doubly_reparameterized=double)(model, guide)
        gradient = torch.autograd.grad(loss(y), guide.shift)[0].abs().max()
        assert (gradient < 1e-9) == double


def test_the_particle_bound_is_exact_under_the_optimal_proposal() -> None:
    """States without memory: `p(y_t | z_{t-1})` does not depend on `z_{t-1}`, any number does."""
    model, series, _ = _case(8)
    assert isinstance(model.transition_net, LinearTransition) and series.u is not None
    with torch.no_grad():
        model.transition_net.linear.weight[:, :2] = 0.0
    exact = oracles.log_likelihood(linear_parameters(model, series.u[0]), series.y[0]).sum()
    for count in (1, 2, 5):
        with torch.no_grad():
            level = ParticleBound(count)(model, LinearizedGuide()).bound(series)[0]
        torch.testing.assert_close(level, exact)


def test_the_particle_bound_is_unbiased_and_tightens() -> None:
    """The mean of 2000 likelihoods under a scrambled guide, 5 standard errors."""
    model, series, exact = _case(5)
    guide = scrambled_guide(model)
    many = Series(series.y.expand(2000, -1, -1), series.u.expand(2000, -1, -1))  # type: ignore[union-attr]
    means = []
    for count in (4, 32):
        with torch.no_grad():
            level = ParticleBound(count)(model, guide).bound(many)
        ratio = (level - exact).exp()
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / 2000**0.5
        means.append(float(level.mean()))
    assert means[0] < means[1] < exact


def test_a_look_ahead_by_the_exact_guide_leaves_no_variance() -> None:
    """States with memory and gaps: every estimate is the evidence, for any number of particles."""
    model, series, exact = _case(8)
    with torch.no_grad():
        for count in (1, 2, 7):
            many = Series(series.y.expand(20, -1, -1), series.u.expand(20, -1, -1))  # type: ignore[union-attr]
            levels = ParticleBound(count, lookahead=True)(model, LinearizedGuide()).bound(many)
            torch.testing.assert_close(levels, exact.expand(20))
        blind = ParticleBound(7)(model, LinearizedGuide()).bound(many)
    assert float(blind.std()) > 1e-2


def test_a_look_ahead_is_unbiased_whatever_the_guide() -> None:
    """3000 likelihoods of 6 particles under a scrambled guide, resampled, 5 standard errors."""
    model, series, exact = _case(6)
    guide = ChainGuide(2, 2, 1, hidden=4).double()
    scramble(guide, 2, 0.1)
    many = Series(series.y.expand(3000, -1, -1), series.u.expand(3000, -1, -1))  # type: ignore[union-attr]
    with torch.no_grad():
        level = ParticleBound(6, lookahead=True)(model, guide).bound(many)
        posterior, cloud = (
            guide(model, many),
            Particles(torch.randn(6, 3000, 2).double(), torch.zeros(6)),
        )
        ahead = promise(posterior, model, cloud, 3)
    ratio = (level - exact).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 3000**0.5
    assert float(ahead.std(0).min()) > 0.1
    loss = ParticleBound(6, lookahead=True)(model, guide)
    gradients = torch.autograd.grad(
        loss(*series), [p for p in guide.parameters()], allow_unused=True
    )
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


def test_component_divergences_add_up() -> None:
    model, series, _ = _case()
    for guide in (scrambled_guide(model), ChainGuide(2, 2, 1, hidden=4).double()):
        posterior = guide(model, series).expand(torch.Size((3, 1)))
        z = posterior.rsample()
        steps = observed_steps(series.y)
        prior = MarkovSequence(model, 6, series.u, None, steps, posterior.batch_shape)
        parts = component_divergence(posterior, prior)
        assert parts.shape == z.shape and bool((parts >= -1e-12).all())
        assert bool(((parts - parts.mean(-1, keepdim=True)).abs() > 1e-3).any()), "not shared out"
        torch.testing.assert_close(parts.sum(-1), posterior.divergence(prior))


def test_free_bits_are_free_and_the_rest_is_paid() -> None:
    model, series, _ = _case()
    guide = scrambled_guide(model)
    losses = {}
    for bits in (0.0, 1e6):
        torch.manual_seed(0)
        losses[bits] = FreeBits(bits)(model, guide)(*series)
    torch.manual_seed(0)
    torch.testing.assert_close(losses[0.0], negative_elbo(model, guide)(*series))
    torch.manual_seed(0)
    loss = FreeBits()(model, guide)
    posterior, z, prior = loss.draw(series)
    steps = float(observed_steps(series.y).sum())
    expected = 2e6 * steps - loss.likelihood(z, series).sum()
    torch.testing.assert_close(losses[1e6], expected)
    gradient = torch.autograd.grad(losses[1e6], model.initial_mean, allow_unused=True)[0]
    clean = torch.autograd.grad(-loss.likelihood(z, series).sum(), model.initial_mean)[0]
    assert gradient is not None
    torch.testing.assert_close(gradient, clean)


def test_a_reconstruction_target_is_met_and_not_exceeded() -> None:
    """Two targets, one loose and one tight: both are held within 0.15 nats a step."""
    torch.manual_seed(5)
    model = linear_deep(seed=1)
    with torch.no_grad():
        y = model(u=torch.zeros(30, 10, 1, dtype=torch.float64))[1]
    model.requires_grad_(False)
    series = Series(y, torch.zeros(30, 10, 1, dtype=torch.float64))
    found = []
    for target in (-3.2, -2.2):
        torch.manual_seed(0)
        guide = SmoothingGuide(2, 2, 1, hidden=8).double()
        method = SVI(
            guide, steps=200, batch_size=30, report_every=50, objective=Constrained(target)
        )
        history = method.fit(model, series, progress=False).history
        found.append(history[-1]["reconstruction"])
        assert abs(found[-1] - target) < 0.15
    assert found[1] > found[0] + 0.7


def test_hidden_steps_are_forecast_and_scored() -> None:
    """With the exact guide of earlier steps the mean weight over paths is the likelihood."""
    model, series, exact = _case(5)
    wide = Series(series.y.expand(4000, -1, -1), series.u.expand(4000, -1, -1))  # type: ignore[union-attr]
    loss = MaskedSuffix(3)(model, LinearizedGuide())
    levels = []
    with torch.no_grad():
        for hidden in (0, 3):
            levels.append(-float(loss.hiding(wide, hidden)) / 4000)
    assert levels[1] < levels[0] - 0.1
    assert levels[0] == pytest.approx(float(exact), abs=0.05)
    shown = series._replace(y=series.y.clone())
    shown.y[:, 2:] = torch.nan
    posterior = LinearizedGuide()(model, shown).expand(torch.Size((20_000, 1)))
    z = posterior.sample()
    prior = MarkovSequence(
        model, 5, series.u, None, observed_steps(shown.y), posterior.batch_shape
    )
    with torch.no_grad():
        log_weights = (
            loss.likelihood(z, series).sum(-1) + prior.log_prob(z) - posterior.log_prob(z)
        )[:, 0]
    ratio = (log_weights - exact).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 20_000**0.5
    with pytest.raises(ValueError, match="`longest` must be at least 1"):
        MaskedSuffix(0)(model, LinearizedGuide())


OBJECTIVES: dict[str, Objective] = {
    "iwae": ImportanceWeighted(4),
    "fivo": ParticleBound(4),
    "free bits": FreeBits(0.1),
    "constrained": Constrained(-3.0),
    "masked": MaskedSuffix(4),
    "weights": WeightPrior(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_with_gaps_and_inputs(name: str) -> None:
    model = linear_deep(seed=2)
    series = gappy_series(model, time=14, batch=6)
    scramble(model, 5, 0.3)
    guide = scrambled_guide(model)
    method = SVI(guide, steps=40, report_every=5, objective=OBJECTIVES[name], num_particles=2)
    learned = method.fit(model, series, progress=False)
    first, last = learned.history[0], learned.history[-1]
    assert not learned.warnings
    assert last["objective"] > first["objective"] or name == "constrained"
    assert learned.method.smooth(model, series).mean.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("payload", [math.nan, 1e30])
def test_what_lies_after_the_end_changes_nothing(name: str, payload: float) -> None:
    """Inputs after the last observation, bit for bit."""
    from deepssm.inference.variational.minibatches import flatten

    model = linear_deep()
    series = gappy_series(model)
    guide, results = scrambled_guide(model), []
    assert series.u is not None
    for value in (0.0, payload):
        u = series.u.clone()
        u[1, 8:] = value
        loss = OBJECTIVES[name](model, guide)
        torch.manual_seed(0)
        total = loss(*flatten(Series(series.y, u)))
        gradients = torch.autograd.grad(total, [*guide.parameters()], allow_unused=True)
        results.append([total, *(g for g in gradients if g is not None)])
    for left, right in zip(*results, strict=True):
        assert torch.isfinite(left).all()
        assert torch.equal(left, right)


def _regression() -> tuple[DeepMarkov, Series]:
    """`y_t = d u_t + v_t` with a state that does nothing: the posterior of `d` is known."""
    model = DeepMarkov(
        1,
        1,
        input_dim=1,
        transition=LinearTransition(1, 1, min_scale=0.0),
        emission=GaussianEmission(1, 1, 1, hidden=0, min_scale=0.0),
    ).double()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        model.emission_net.get_parameter("linear.weight").zero_()
        model.emission_net.get_parameter("linear.bias").zero_()
        model.emission_net.get_parameter("raw_scale").fill_(math.log(math.expm1(1.0)))
        model.initialized.fill_(True)
    model.emission_net.get_parameter("linear.weight").requires_grad_(True)
    g = torch.Generator().manual_seed(0)
    u = torch.randn(20, 5, 1, generator=g, dtype=torch.float64)
    y = 0.7 * u + torch.randn(20, 5, 1, generator=g, dtype=torch.float64)
    return model, Series(y, u)


def test_the_posterior_of_a_weight_is_that_of_a_regression() -> None:
    """Batches of a fifth of the data: without N / B scaling its spread would be wrong."""
    model, series = _regression()
    prior = WeightPrior(scale=0.5)
    method = SVI(
        steps=300, batch_size=4, learning_rate=5e-2, kl_start=1.0, objective=prior, report_every=50
    )
    learned = method.fit(model, series, progress=False, generator=torch.Generator().manual_seed(1))
    assert series.u is not None
    precision = 1 / 0.25 + float(series.u.square().sum())
    mean = float((series.u * series.y).sum()) / precision
    assert isinstance(learned.method, WeightAverage)
    draws = learned.method.draws["emission_net.linear.weight"][0, :, 0, 1]
    weight = model.emission_net.get_parameter("linear.weight").detach()
    assert float(weight[0, 1]) == pytest.approx(mean, abs=0.05)
    assert float(draws.std()) == pytest.approx(precision**-0.5, rel=0.5)
    future = Series(
        torch.cat([series.y, torch.full((20, 2, 1), math.nan).double()], 1),
        torch.cat([series.u, torch.full((20, 2, 1), 5.0).double()], 1),
    )
    ahead = learned.method.forecast(model, future, 2, 100, torch.Generator().manual_seed(0))
    assert ahead.cov.mean() > 1.05  # weight uncertainty times u^2 beside the unit noise
    assert isinstance(model.emission_net.get_parameter("linear.weight"), nn.Parameter)


def test_the_divergence_of_weights_is_the_textbook_one() -> None:
    model, series = _regression()
    loss = WeightPrior(scale=0.5, start=0.1)(model, LinearizedGuide())
    posterior = torch.distributions.Normal(
        model.emission_net.get_parameter("linear.weight"), torch.tensor(0.1).double()
    )
    prior = torch.distributions.Normal(0.0, 0.5)
    expected = torch.distributions.kl_divergence(posterior, prior).sum()
    torch.testing.assert_close(loss.divergence(), expected, rtol=1e-6, atol=0)
    kept = model.emission_net.get_parameter("linear.weight")
    with replaced(model, {"emission_net.linear.weight": torch.full((1, 2), 3.0).double()}):
        z = torch.ones(1, 1, dtype=torch.float64)
        assert float(model.emission(z, z).mean) == 6.0
    assert model.emission_net.get_parameter("linear.weight") is kept
    with pytest.raises(ValueError, match="`names` chooses none"):
        WeightPrior(names=lambda name: False)(model, LinearizedGuide())
