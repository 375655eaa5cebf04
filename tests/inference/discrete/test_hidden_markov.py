from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, infer_discrete
from scipy.optimize import minimize
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.discrete.hidden_markov import ForwardBackward
from deepssm.inference.discrete.hidden_markov_pyro import enumerated
from deepssm.inference.estimation.baum_welch import BaumWelch
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.estimation.observation_distribution import ObservationDistribution
from deepssm.inference.particles.filter import Particle
from deepssm.models.discrete.emissions import (
    BernoulliStates,
    CategoricalStates,
    PoissonStates,
    StateEmission,
)
from deepssm.models.discrete.emissions_gaussian import (
    GaussianStates,
    MixtureStates,
    RegressionStates,
)
from deepssm.models.discrete.hidden_markov import HiddenMarkov
from tests.nonlinear_models import NAN, case_4

BACKENDS = [ForwardBackward(), ForwardBackward("scan")]


def scatter(module: torch.nn.Module, seed: int = 0, scale: float = 0.5) -> None:
    """Put every parameter in generic position."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
            parameter.add_(scale * noise)


def gaussian_model(seed: int = 0, driven: bool = False) -> HiddenMarkov:
    model = HiddenMarkov(GaussianStates(3, 2), input_dim=1 if driven else 0, driven=driven)
    scatter(model, seed)
    return model


def data(time: int, obs: int = 2, *batch: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, time, obs, generator=g, dtype=torch.float64)


def brute_force(model: HiddenMarkov, series: Series) -> dict[str, Tensor]:
    """Every path with its joint probability: no recursion at all."""
    n, time = model.state_dim, series.time
    pi, A = model.log_initial(), model.log_transition(series.u, series.dt).expand(time, n, n)
    B = model.log_emission(series.y, series.u)
    paths = torch.tensor(list(itertools.product(range(n), repeat=time)))
    joint = pi[paths[:, 0]] + B[0][paths[:, 0]]
    for t in range(1, time):
        joint = joint + A[t][paths[:, t - 1], paths[:, t]] + B[t][paths[:, t]]
    weight = torch.softmax(joint, 0)
    hot = torch.nn.functional.one_hot(paths, n).double()
    return {
        "total": torch.logsumexp(joint, 0),
        "smoothed": torch.einsum("s,stk->tk", weight, hot),
        "pairs": torch.einsum("s,sti,stj->tij", weight, hot[:, :-1], hot[:, 1:]),
        "best": paths[joint.argmax()],
        "best_value": joint.max(),
    }


@pytest.mark.parametrize("method", BACKENDS)
@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("time", [1, 2, 6])
def test_everything_agrees_with_all_paths(
    method: ForwardBackward, driven: bool, time: int
) -> None:
    model = gaussian_model(driven=driven)
    y = data(time)
    y[0, 1] = NAN
    if time > 3:
        y[3] = NAN
    series = Series(y, data(time, 1, seed=1) if driven else None)
    expected = brute_force(model, series)
    chain, smoothed = method.run(model, series), method.smooth(model, series)
    torch.testing.assert_close(chain.log_likelihood.sum(), expected["total"].detach())
    torch.testing.assert_close(chain.smoothed, expected["smoothed"].detach())
    torch.testing.assert_close(chain.pairs[1:], expected["pairs"].detach())
    cov = expected["pairs"].detach().mT
    p = expected["smoothed"].detach()
    cov = cov - p[1:, :, None] * p[:-1, None, :]
    torch.testing.assert_close(smoothed.cross_cov[1:], cov)
    path, value = method.viterbi(model, series)
    assert torch.equal(path, expected["best"])
    torch.testing.assert_close(value, expected["best_value"].detach())
    if time > 3:
        assert abs(chain.log_likelihood[3]) < 1e-12
    if time > 1:
        step = method.filter(model, Series(y[:-1], None if series.u is None else series.u[:-1]))
        torch.testing.assert_close(chain.filtered[:-1], step.mean)


@pytest.mark.parametrize("method", BACKENDS)
def test_gradients_of_every_step(method: ForwardBackward) -> None:
    """Finite differences of unevenly weighted steps in all parameters."""
    model = gaussian_model(driven=True)
    y, u, weight = data(5), data(5, 1, seed=1), data(5, 1, seed=2)[:, 0]
    y[2] = NAN
    names = [name for name, _ in model.named_parameters()]

    def total(*values: Tensor) -> Tensor:
        arguments = dict(zip(names, values, strict=True))
        return torch.func.functional_call(
            _Wrapped(model, method),
            {f"model.{name}": value for name, value in arguments.items()},
            (Series(y, u), weight),
        )

    parameters = tuple(p.detach().clone().requires_grad_() for p in model.parameters())
    assert torch.autograd.gradcheck(total, parameters)


class _Wrapped(torch.nn.Module):
    def __init__(self, model: HiddenMarkov, method: ForwardBackward) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, series: Series, weight: Tensor) -> Tensor:
        return (weight * self.method.log_likelihood(self.model, series)).sum()


@pytest.mark.parametrize("method", BACKENDS)
def test_impossible_transitions_stay_out_of_values_and_gradients(method: ForwardBackward) -> None:
    A = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    model = HiddenMarkov(GaussianStates(3, 2), initial=start, transition=A)
    scatter(model)
    series = Series(data(6))
    expected = brute_force(model, series)
    chain = method.run(model, series)
    torch.testing.assert_close(chain.smoothed, expected["smoothed"].detach())
    total = method.log_likelihood(model, series).sum()
    torch.testing.assert_close(total, expected["total"])
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_scan_is_sequential_for_long_series_without_underflow() -> None:
    """100 000 steps with log-likelihoods near -1e8: probabilities would be zero long before."""
    model = gaussian_model()
    y = 30 * data(100_000)
    one, two = (method.run(model, Series(y)) for method in BACKENDS)
    assert torch.isfinite(one.log_likelihood).all()
    assert one.log_likelihood.sum() < -1e7
    for got, expected in zip(two, one, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_a_state_that_is_certain_has_no_variance_below_zero() -> None:
    """`p - p^2` rounds to below zero where `p` is one and an ulp; what is left is `p (1 - p)`."""
    model = HiddenMarkov(PoissonStates(2, rates=torch.tensor([[2.0], [9.0]]).double()))
    y = torch.tensor([0.0, 30.0] * 40, dtype=torch.float64)
    found = ds.smooth(model, y)
    variance = found.cov.diagonal(dim1=-2, dim2=-1)
    assert bool((variance >= 0).all()) and bool((found.mean <= 1).all())
    torch.testing.assert_close(variance[:, 0], found.mean.prod(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", BACKENDS)
def test_batches_and_ragged_ends(method: ForwardBackward) -> None:
    model = gaussian_model(driven=True)
    y, u = data(8, 2, 3), data(8, 1, 3, seed=1)
    y[1, 5:] = NAN
    together = method.run(model, Series(y, u))
    for i, length in enumerate((8, 5, 8)):
        alone = method.run(model, Series(y[i, :length], u[i, :length]))
        torch.testing.assert_close(together.smoothed[i, :length], alone.smoothed)
        torch.testing.assert_close(together.log_likelihood[i, :length], alone.log_likelihood)
    assert together.log_likelihood[1, 5:].abs().max() < 1e-12


def test_posterior_paths_have_the_right_pairs() -> None:
    """20 000 paths; 5 standard errors are below 0.018."""
    model, series = gaussian_model(), Series(data(6, 2, 2))
    chain = ForwardBackward().run(model, series)
    g = torch.Generator().manual_seed(0)
    paths = ForwardBackward().sample_posterior(model, series, 20_000, g)
    assert paths.shape == (20_000, 2, 6, 3)
    torch.testing.assert_close(paths.mean(0), chain.smoothed, rtol=0, atol=0.018)
    pairs = torch.einsum("sbti,sbtj->btij", paths[:, :, :-1], paths[:, :, 1:]) / 20_000
    torch.testing.assert_close(pairs, chain.pairs[:, 1:], rtol=0, atol=0.018)


FAMILIES = [
    GaussianStates(2, 2),
    GaussianStates(2, 2, covariance="diagonal"),
    GaussianStates(2, 2, covariance="tied"),
    RegressionStates(2, 2, 1),
    RegressionStates(2, 2, lags=2),
    MixtureStates(2, 2, 2),
    PoissonStates(2, 2),
    BernoulliStates(2, 2),
    CategoricalStates(2, 4),
]


def family_data(family: StateEmission, time: int, seed: int = 0) -> Series:
    g = torch.Generator().manual_seed(seed)
    y, u = data(time, family.obs_dim, seed=seed), data(time, 1, seed=seed + 1)
    y[time // 2 :] += 2.0
    if isinstance(family, PoissonStates):
        y = torch.poisson((0.5 * y + 0.5).exp(), generator=g)
    elif isinstance(family, BernoulliStates):
        y = (y > 0).double()
    elif isinstance(family, CategoricalStates):
        y = (y + 1).clamp(0, 3).floor()
    return Series(y, u if family.input_dim else None)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_families_score_what_their_laws_say(family: StateEmission) -> None:
    scatter(family)
    series = family_data(family, 6)
    scores = family.log_prob(series.y, series.u)
    for k in range(2):
        z = torch.eye(2, dtype=torch.float64)[k].expand(6, 2)
        past = torch.stack([series.y.roll(2, 0), series.y.roll(1, 0)], -2)
        emission = family.distribution_after(z, past[:, 2 - family.lags :], series.u)
        expected = emission.log_prob(series.y)
        torch.testing.assert_close(scores[family.lags :, k], expected[family.lags :])
        assert emission.sample().shape == series.y.shape
    assert (scores[: family.lags] == 0).all()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_a_missing_component_is_marginalised(family: StateEmission) -> None:
    """Oracle: the sum or integral over the missing number, on a grid."""
    if family.obs_dim == 1 or family.lags:
        pytest.skip("one component, or observations that feed later ones")
    series = family_data(family, 3)
    gap = series.y.clone()
    gap[1, 0] = NAN
    if isinstance(family, (PoissonStates, BernoulliStates)):
        grid, width = torch.arange(0, 60 if isinstance(family, PoissonStates) else 2), 1.0
    else:
        grid, width = torch.linspace(-40, 40, 80_001), 1e-3
    many = series.y[1].expand(len(grid), -1).clone()
    many[:, 0] = grid.double()
    u = None if series.u is None else series.u[1].expand(len(grid), 1)
    total = torch.logsumexp(family.log_prob(many, u), 0) + math.log(width)
    torch.testing.assert_close(family.log_prob(gap, series.u)[1], total, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_expectation_maximisation_climbs_to_a_stationary_point(family: StateEmission) -> None:
    """No step goes down, and autograd sees no slope at the end; gaps included."""
    model = HiddenMarkov(family)
    series = family_data(family, 60)
    series.y[5, 0] = series.y[20:23] = NAN
    fit = BaumWelch(max_iterations=3_000, tolerance=1e-14)
    learned = fit.fit(model, series, generator=torch.Generator().manual_seed(1))
    trace = torch.tensor([record["objective"] for record in learned.history])
    assert (trace.diff() > -1e-7).all()
    assert trace[-1] > trace[0] + 1
    slopes = torch.autograd.grad(
        ForwardBackward().log_likelihood(model, series).sum(), list(model.parameters())
    )
    assert max(slope.abs().max() for slope in slopes) < 0.05


def _poisson_oracle(y: np.ndarray, starts: int) -> float:
    """Maximise a plain forward recursion over probabilities, by quasi-Newton from many starts."""

    def negative(theta: np.ndarray) -> float:
        rates = np.exp(theta[:2])
        stay = 1 / (1 + np.exp(-theta[2:4]))
        A = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
        p, total = np.array([1 / (1 + np.exp(-theta[4])), 1 / (1 + np.exp(theta[4]))]), 0.0
        for t, count in enumerate(y):
            mass = np.exp(count * np.log(rates) - rates - math.lgamma(count + 1))
            p = (p @ A if t else p) * mass
            total += np.log(p.sum())
            p = p / p.sum()
        return -total

    rng = np.random.default_rng(0)
    bounds = [(-5, 5)] * 2 + [(-12, 12)] * 3
    best = [minimize(negative, rng.normal(1, 1, 5), bounds=bounds) for _ in range(starts)]
    return -min(result.fun for result in best)


def test_poisson_starts_reach_the_optimum_of_a_brute_force_oracle() -> None:
    rng = np.random.default_rng(1)
    state, counts = 0, []
    for _ in range(80):
        state = state if rng.random() < 0.9 else 1 - state
        counts.append(rng.poisson([1.0, 6.0][state]))
    y = np.array(counts, dtype=float)
    model = HiddenMarkov(PoissonStates(2))
    fit = BaumWelch(max_iterations=2_000, tolerance=1e-13, starts=5)
    learned = fit.fit(model, Series(torch.from_numpy(y)[:, None]))
    oracle = _poisson_oracle(y, 4)
    assert abs(learned.objective - oracle) < 1e-4
    assert learned.diagnostics["starts_at_best"] >= 2
    total = ForwardBackward().log_likelihood(model, Series(torch.from_numpy(y)[:, None])).sum()
    assert abs(total.item() - learned.objective) < 1e-9


def test_gradients_find_the_optimum_of_expectation_maximisation() -> None:
    """Quasi-Newton with the exact gradient, from another start; errors of rates come with it."""
    series = family_data(PoissonStates(2, 1), 80)
    model, other = HiddenMarkov(PoissonStates(2)), HiddenMarkov(PoissonStates(2))
    best = BaumWelch(max_iterations=3_000, tolerance=1e-14, starts=3).fit(model, series)
    learned = MaximumLikelihood(ForwardBackward()).fit(other, series, progress=False)
    assert isinstance(learned.method, ForwardBackward)
    assert abs(learned.objective - best.objective) < 1e-6


def test_driven_transitions_climb_to_the_same_optimum() -> None:
    """EM never falls and ends where the gradient vanishes, as quasi-Newton does."""
    truth = HiddenMarkov(GaussianStates(2, 1), input_dim=1, driven=True)
    scatter(truth, scale=1.5)
    u = data(2, 100, 1, seed=3).reshape(2, 100, 1)
    z, y = ds.simulate(truth, 100, u=u, generator=torch.Generator().manual_seed(0))
    y[1, 90:] = y[0, 3] = NAN
    model = HiddenMarkov(GaussianStates(2, 1), input_dim=1, driven=True)
    learned = BaumWelch(max_iterations=400, tolerance=1e-12, starts=2).fit(model, Series(y, u))
    trace = torch.tensor([record["objective"] for record in learned.history])
    assert (trace.diff() > -1e-7).all()
    slopes = torch.autograd.grad(
        ForwardBackward().log_likelihood(model, Series(y, u)).sum(), list(model.parameters())
    )
    assert max(slope.abs().max() for slope in slopes) < 0.02
    assert model.transition_weight is not None
    assert model.transition_weight.abs().max() > 0.1


def test_a_module_that_drives_transitions_is_learnt() -> None:
    """One stay probability behind a function: the closed form of its expected counts."""

    class Stay(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, u: Tensor | None, dt: Tensor | None) -> Tensor:
            p = torch.sigmoid(self.logit)
            eye = torch.eye(2, dtype=p.dtype)
            return p * eye + (1 - p) * (1 - eye)

    stay = Stay()
    series, model = (
        Series(data(30).abs().round()),
        HiddenMarkov(PoissonStates(2, 2), transition=stay),
    )
    scatter(model.family)
    chain = ForwardBackward().run(model, series)
    model.maximize(series, chain.smoothed[0], chain.pairs, chain.smoothed)
    expected = chain.pairs.diagonal(dim1=-2, dim2=-1).sum() / chain.pairs.sum()
    torch.testing.assert_close(torch.sigmoid(stay.logit), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_frozen_parameters_stay_where_they_are(family: StateEmission) -> None:
    model = HiddenMarkov(copy.deepcopy(family).requires_grad_(False))
    scatter(model)
    model.transition_logits.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    BaumWelch(max_iterations=3, starts=2).fit(model, family_data(family, 40))
    after = model.state_dict()
    assert not torch.equal(after.pop("initial_logits"), before.pop("initial_logits"))
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("driven", [False, True])
def test_pyro_enumerates_the_same_likelihood(batch: tuple[int, ...], driven: bool) -> None:
    """Variable elimination by Pyro: value, gradient, and the most probable path."""
    model = gaussian_model(driven=driven)
    y, u = data(6, 2, *batch), data(6, 1, *batch, seed=1) if driven else None
    y[..., 4:, :] = y[..., 1, 0] = NAN
    nesting = len(batch)

    def program() -> Tensor:
        return enumerated(model, y, u)

    others = set(pyro.get_param_store().keys())
    loss = TraceEnum_ELBO(max_plate_nesting=nesting).differentiable_loss(program, lambda: None)
    total = ForwardBackward().log_likelihood(model, Series(y, u)).sum()
    torch.testing.assert_close(-loss, total, rtol=1e-10, atol=1e-10)
    places = list(model.parameters())
    for got, expected in zip(
        torch.autograd.grad(-loss, places), torch.autograd.grad(total, places), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
    best = infer_discrete(program, first_available_dim=-1 - nesting, temperature=0)()
    path, _ = ForwardBackward().viterbi(model, Series(y, u))
    assert torch.equal(best, path)
    assert set(pyro.get_param_store().keys()) == others


def test_pyro_draws_the_same_posterior() -> None:
    """4 000 draws by Pyro's elimination; 5 standard errors are below 0.04."""
    model, y = gaussian_model(), data(4)
    many = y.expand(4_000, 4, 2)
    drawn = infer_discrete(lambda: enumerated(model, many), first_available_dim=-2)()
    share = torch.nn.functional.one_hot(drawn, 3).double().mean(0)
    chain = ForwardBackward().run(model, Series(y))
    torch.testing.assert_close(share, chain.smoothed, rtol=0, atol=0.04)


def test_a_series_is_one_site_of_any_program() -> None:
    """`ObservationDistribution` sums the states out by itself."""
    model, y = gaussian_model(driven=True), data(7, 2, 3)
    u = data(7, 1, 3, seed=1)
    site = ObservationDistribution(model, 7, u, inference=ForwardBackward())
    total = ForwardBackward().log_likelihood(model, Series(y, u)).sum(-1)
    torch.testing.assert_close(site.log_prob(y), total)
    assert site.sample(torch.Size([5])).shape == (5, 3, 7, 2)


def test_forecasts_mix_the_states() -> None:
    """Moments against 40 000 draws; 5 standard errors are below 0.06."""
    model = gaussian_model()
    y = torch.cat((data(10), torch.full((3, 2), NAN, dtype=torch.float64)))
    g = torch.Generator().manual_seed(0)
    forecast = ForwardBackward().forecast(model, Series(y), 3, 40_000, g)
    assert forecast.samples is not None
    torch.testing.assert_close(forecast.samples.mean(0), forecast.mean, rtol=0, atol=0.06)
    left = forecast.samples - forecast.mean
    cov = torch.einsum("sti,stj->tij", left, left) / 40_000
    torch.testing.assert_close(cov, forecast.cov, rtol=0.06, atol=0.1)


def test_autoregressive_forecasts_feed_on_themselves() -> None:
    """One state is an AR(1): the closed form after three steps, 20 000 draws, 5 se."""
    family = RegressionStates(1, 1, lags=1)
    with torch.no_grad():
        family.coefficients.copy_(torch.tensor([[[0.2, 0.7]]]))
    y = torch.tensor([[1.0], [2.0], [NAN], [NAN], [NAN]], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    forecast = ForwardBackward().forecast(HiddenMarkov(family), Series(y), 3, 20_000, g)
    mean = torch.tensor([1.6, 1.32, 1.124], dtype=torch.float64)
    torch.testing.assert_close(forecast.mean[:, 0], mean, rtol=0, atol=0.05)
    variance = torch.tensor([1.0, 1.49, 1.7301], dtype=torch.float64)
    torch.testing.assert_close(forecast.cov[:, 0, 0], variance, rtol=0.05, atol=0)
    with pytest.raises(ValueError, match="reads earlier observations"):
        HiddenMarkov(family).emission(torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "family", [RegressionStates(2, 2, 1, lags=2), PoissonStates(2, 2)], ids=["lags", "counts"]
)
def test_one_observation_at_a_time_equals_the_batch(family: StateEmission) -> None:
    """Driven transitions, gaps, observations that look back; saved at every step."""
    model = HiddenMarkov(copy.deepcopy(family), input_dim=1, driven=True)
    scatter(model)
    y, u = family_data(family, 9).y, data(9, 1, seed=4)
    y[2] = y[5, 1] = NAN
    batch = ForwardBackward().filter(model, Series(y, u))
    running = ds.online(model)
    for t in range(9):
        if t:
            running.predict(u=u[t])
        gained = running.update(y[t], u[t])
        torch.testing.assert_close(gained, batch.log_likelihood[t].item())
        torch.testing.assert_close(running.mean, batch.mean[t])
        torch.testing.assert_close(running.cov, batch.cov[t])
        again = ds.online(model)
        again.load_state_dict(running.state_dict())
        running = again
    torch.testing.assert_close(running.log_likelihood, batch.log_likelihood.sum().item())


def test_autoregressive_observations_are_drawn_in_turn() -> None:
    """One state is an AR(1) from zero: 20 000 draws of its closed form, 5 standard errors."""
    family = RegressionStates(1, 1, lags=1)
    with torch.no_grad():
        family.coefficients.copy_(torch.tensor([[[0.2, 0.7]]]))
    g = torch.Generator().manual_seed(0)
    drawn = ds.simulate(HiddenMarkov(family), 3, num_samples=20_000, generator=g)
    mean = torch.tensor([0.2, 0.34, 0.438], dtype=torch.float64)
    torch.testing.assert_close(drawn.y[..., 0].mean(0), mean, rtol=0, atol=0.05)
    variance = torch.tensor([1.0, 1.49, 1.7301], dtype=torch.float64)
    torch.testing.assert_close(drawn.y[..., 0].var(0), variance, rtol=0.05, atol=0)


def test_particles_run_on_discrete_states_too() -> None:
    """The same model by another method; 5 standard errors of 20 000 particles."""
    model, series = gaussian_model(), Series(data(8))
    exact = ForwardBackward().filter(model, series)
    got = Particle(20_000).filter(model, series)
    torch.testing.assert_close(got.mean, exact.mean.detach(), rtol=0, atol=0.03)
    torch.testing.assert_close(got.log_likelihood, exact.log_likelihood, rtol=0, atol=0.06)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HiddenMarkov(PoissonStates(2), initial=torch.ones(2)), "`initial` must hold"),
        (
            lambda: HiddenMarkov(PoissonStates(2), transition=torch.eye(3)),
            "`transition` must hold",
        ),
        (lambda: ForwardBackward().filter(case_4(), Series(data(3))), "finitely many states"),
        (lambda: BaumWelch().fit(case_4(), Series(data(3))), "needs a `HiddenMarkov` model"),
        (lambda: ds.online(gaussian_model()).update(data(1, 1)[0]), "`y` must hold 2 finite"),
        (
            lambda: ds.online(gaussian_model()).load_state_dict(
                ds.online(HiddenMarkov(PoissonStates(2))).state_dict()
            ),
            "its `log_probability` has shape \\(2,\\), expected \\(3,\\)",
        ),
        (lambda: ForwardBackward().online(case_4()), "finitely many states"),
        (lambda: enumerated(case_4(), data(3)), "`model` must have finitely many states"),
        (lambda: RegressionStates(2, 1, 1).log_prob(data(3, 1)), "`u` is needed"),
    ],
)
def test_errors_say_what_to_do(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
