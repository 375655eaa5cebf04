"""The conjugate guide and guides bent by flows: what every guide obeys, and exactness."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from deepssm.api.verbs import simulate
from deepssm.core.model import Series
from deepssm.core.pyro_sites import MarkovSequence, observed_steps
from deepssm.inference.guides.chain_guide import ChainGuide
from deepssm.inference.guides.conjugate_guide import ConjugateGuide, linear_dynamics
from deepssm.inference.guides.flow_guide import AutoregressiveFlow, FlowGuide
from deepssm.inference.guides.particle_filter import guided_filter
from deepssm.inference.guides.smoothing_guide import SmoothingGuide
from deepssm.inference.variational.elbo import negative_elbo
from deepssm.inference.variational.svi import SVI
from deepssm.models.deep.deep_markov import DeepMarkov

from ... import oracles
from ...deep_models import gappy_series, linear_deep, linear_parameters, neural_deep, scramble


def _guides() -> dict[str, nn.Module]:
    guides: dict[str, nn.Module] = {
        "conjugate": ConjugateGuide(2, 2, 1, hidden=8),
        "conjugate-own": ConjugateGuide(2, 2, 1, hidden=8, own_dynamics=True, pseudo=3),
        "flow": FlowGuide(SmoothingGuide(2, 2, 1, hidden=8), 2, hidden=8, depth=2),
        "flow-chain": FlowGuide(ChainGuide(2, 2, 1, hidden=8), 2, hidden=8),
    }
    for guide in guides.values():
        scramble(guide.double(), 3, 0.15)
    return guides


with torch.random.fork_rng():
    torch.manual_seed(1)  # collected at import, when the random state is whatever ran before
    GUIDES = _guides()
each_guide = pytest.mark.parametrize("name", GUIDES)


@each_guide
def test_density_of_a_draw_is_that_of_its_steps(name: str) -> None:
    model = linear_deep()
    posterior = GUIDES[name](model, gappy_series(model)).expand(torch.Size((4, 3)))
    z = posterior.rsample()
    cached = posterior.step_log_prob(z)
    torch.testing.assert_close(cached, posterior.step_log_prob(z.clone()))
    assert torch.equal(cached[:, 1, 8:], torch.zeros(4, 4, dtype=torch.float64))


@each_guide
def test_divergence_from_itself_is_zero_and_from_the_prior_the_mean_log_ratio(name: str) -> None:
    """Monte Carlo over 4000 paths: 5 standard errors, once in 10^6."""
    model = linear_deep()
    series = gappy_series(model)
    left, right = GUIDES[name](model, series), GUIDES[name](model, series)
    left.rsample()
    assert kl_divergence(left, right).abs().max() < 1e-9
    posterior = left.expand(torch.Size((4000, 3)))
    z = posterior.rsample()
    prior = MarkovSequence(
        model, 12, series.u, None, observed_steps(series.y), posterior.batch_shape
    )
    analytic = posterior.divergence(prior).sum(-1)
    difference = posterior.log_prob(z) - prior.log_prob(z) - analytic
    assert (difference.mean(0).abs() <= 5 * difference.std(0) / 4000**0.5 + 1e-9).all()
    assert (analytic.mean(0) > 0).all()


@each_guide
def test_after_the_end_the_guide_is_the_model(name: str) -> None:
    """20 000 draws of the step after the last observation: whitened by the model, 5 errors."""
    model = linear_deep()
    series = gappy_series(model, time=8)
    z = GUIDES[name](model, series).expand(torch.Size((20_000, 3))).sample()[:, 1]
    assert series.u is not None
    for t in range(4, 8):
        prior = model.transition(z[:, t - 1], series.u[1, t])
        white = ((z[:, t] - prior.mean) / prior.variance.sqrt()).detach()
        assert white.mean(0).abs().max() < 5 / 20_000**0.5
        assert (white.var(0) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5


@each_guide
def test_steps_are_proposals_of_an_exact_particle_filter(name: str) -> None:
    """20 000 particles under a scrambled guide; the tolerance is some 5 standard errors."""
    model = linear_deep()
    series = gappy_series(model, time=6, batch=1)
    with torch.no_grad():
        got = guided_filter(model, GUIDES[name], series, 20_000).log_likelihood[0]
    assert series.u is not None
    exact = oracles.log_likelihood(linear_parameters(model, series.u[0]), series.y[0])
    torch.testing.assert_close(got, exact, rtol=0, atol=0.1)


def test_a_flow_has_the_volume_of_its_jacobian_and_an_inverse() -> None:
    flow = AutoregressiveFlow(3, 8, depth=3).double()
    scramble(flow, 1)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, log_det = flow(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: flow(row)[0]))(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1])
    torch.testing.assert_close(flow.inverse(z), x)
    with pytest.raises(ValueError, match="`state_dim` must be at least 2 for a flow"):
        AutoregressiveFlow(1)


def test_linear_dynamics_are_the_matrices_of_the_model() -> None:
    model = linear_deep()
    series = gappy_series(model)
    F, f, Q = linear_dynamics(model, series)
    assert series.u is not None
    exact = linear_parameters(model, series.u[1])
    torch.testing.assert_close(F[1, 1:], exact.transition.matrix[1:])
    torch.testing.assert_close(f[1, 1:], exact.transition.offset[1:])
    torch.testing.assert_close(Q[1, 5], exact.transition.cov[5].diagonal())
    torch.testing.assert_close(f[1, 0], exact.initial.mean)


def test_with_the_right_potentials_every_path_weighs_the_likelihood() -> None:
    """`p(y, z) / q(z)` of the exact posterior is `p(y)` whatever the path."""
    model = linear_deep()
    guide = ConjugateGuide(2, 2, 1, hidden=4).double()
    series = gappy_series(model)
    y = series.y.clone()
    y[0, 3], y[2] = torch.nan, y[2].nan_to_num(0.3)
    y = torch.where(torch.isnan(y).any(-1, keepdim=True), torch.nan, y)  # whole steps or none
    series = Series(y, series.u)
    assert series.u is not None
    exact = [linear_parameters(model, u) for u in series.u]
    emission = exact[0].emission
    offsets = torch.stack([p.emission.offset for p in exact])
    with torch.no_grad():
        guide.read.copy_(emission.matrix[0])

    def potentials(data: Series, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = (~torch.isnan(data.y)).all(-1, keepdim=True)
        precision = seen / emission.cov[0].diagonal()
        weighted = guide.read.mT * precision[..., None, :]
        residual = data.y.nan_to_num(0.0) - offsets
        return weighted @ guide.read, (weighted @ residual[..., None])[..., 0]

    guide.potentials = potentials  # type: ignore[method-assign]
    levels = [oracles.log_likelihood(p, row).sum() for p, row in zip(exact, y, strict=True)]
    spread = guide(model, series)
    z = spread.expand(torch.Size((3, 3))).rsample()
    steps = observed_steps(series.y)
    prior = MarkovSequence(model, 12, series.u, None, steps, torch.Size((3, 3)))
    emitted = model.emission(z, series.u)
    likelihood = torch.where(
        torch.isnan(y).any(-1), torch.zeros(()).double(), emitted.log_prob(y.nan_to_num(0.0))
    ).sum(-1)
    posterior = spread.expand(torch.Size((3, 3)))
    torch.testing.assert_close(
        likelihood + prior.log_prob(z) - posterior.log_prob(z), torch.stack(levels).expand(3, 3)
    )


def test_nonlinear_models_need_dynamics_of_the_guide() -> None:
    model = neural_deep()
    series = gappy_series(model)
    with pytest.raises(ValueError, match="`model` has a transition that is not linear"):
        ConjugateGuide(2, 2, 1).double().initialize_from(model, series)
    ConjugateGuide(2, 2, 1, own_dynamics=True).double().initialize_from(model, series)
    ConjugateGuide(2, 2, 1).double().initialize_from(linear_deep(), series)


@each_guide
def test_every_weight_learns(name: str) -> None:
    model = linear_deep()
    series = gappy_series(model)
    guide = GUIDES[name]
    loss = negative_elbo(model, guide)(*series)
    gradients = torch.autograd.grad(loss, [*guide.parameters()], allow_unused=True)
    still = [n for (n, _), g in zip(guide.named_parameters(), gradients, strict=True) if g is None]
    assert not still


@pytest.mark.slow
def test_a_trained_conjugate_guide_is_exact_on_the_linear_example() -> None:
    """Krishnan's linear example: within 0.002 nats a step of the Kalman likelihood."""
    from benchmarks.guides import bound_and_state, linear_example

    torch.manual_seed(0)
    model = linear_example()
    y = simulate(model, 25, num_samples=4000).y
    guide = ConjugateGuide(1, 1, hidden=16).double()
    SVI(guide, steps=600, batch_size=100, report_every=100).fit(
        model, Series(y[:2000]), progress=False
    )
    from deepssm.inference import LinearizedGuide, importance_log_likelihood

    test = Series(y[2000:])
    with torch.no_grad():
        exact = -importance_log_likelihood(model, LinearizedGuide(), test, 1).mean() / 25
    assert abs(bound_and_state(model, guide, test)[0] - float(exact)) < 0.002


def test_bent_guides_train() -> None:
    model = neural_deep()
    assert isinstance(model, DeepMarkov)
    series = gappy_series(model)
    guide = FlowGuide(SmoothingGuide(2, 2, 1, hidden=8), 2, hidden=8).double()
    learned = SVI(guide, steps=30, report_every=10).fit(model, series, progress=False)
    assert learned.history[-1]["elbo"] > learned.history[0]["elbo"]
