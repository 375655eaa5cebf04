"""Chains of discrete states against the sum over all their paths (`tests/all_paths.py`)."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import BaumWelch, ForwardBackward, Particle
from deepssm.inference.discrete.hidden_markov import forward_backward
from deepssm.models import (
    BernoulliStates,
    CategoricalStates,
    GaussianStates,
    HiddenMarkov,
    MixtureStates,
    PoissonStates,
    RegressionStates,
)
from deepssm.models.discrete.emissions import StateEmission
from tests.all_paths import AllPaths, all_paths, all_paths_of, shares
from tests.nonlinear_models import NAN, matrix

BACKENDS = [ForwardBackward(), ForwardBackward("scan"), ForwardBackward(checkpoints=True)]
LEFT_TO_RIGHT = matrix([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_chain(seed: int, time: int, n: int, zeros: float, spread: float) -> list[Tensor]:
    """Logarithms in generic position; a share of them forbidden, and log-likelihoods far apart."""
    g = generator(seed)

    def logs(*shape: int) -> Tensor:
        values = spread * torch.randn(*shape, generator=g, dtype=torch.float64)
        forbidden = torch.rand(shape, generator=g) < zeros
        return torch.where(forbidden, -torch.inf, values)

    A = logs(time, n, n)
    A[:, torch.arange(n), torch.arange(n)] = 0.0  # a row may not be impossible as a whole
    pi = logs(n)
    pi[0] = 0.0
    return [torch.log_softmax(pi, -1), torch.log_softmax(A, -1), 10 * logs(time, n)]


def check(chain: object, expected: AllPaths) -> None:
    predicted, filtered, smoothed, pairs, score = chain  # type: ignore[misc]
    close = torch.testing.assert_close
    close(score, expected.scores, rtol=1e-11, atol=1e-11)
    for got, want in (
        (predicted, expected.predicted),
        (filtered, expected.filtered),
        (smoothed, expected.smoothed),
        (pairs, expected.pairs),
    ):
        close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_random_chains_with_forbidden_moves_and_log_likelihoods_far_apart(seed: int) -> None:
    """Spreads up to thousands of nats: most filtered probabilities underflow, some moves are
    forbidden, some observations impossible."""
    n, time = 2 + seed % 3, 1 + seed % 6
    spread = (1.0, 30.0, 300.0)[seed % 3]
    pi, A, B = random_chain(seed, time, n, 0.3, spread)
    check(_constant(pi, A, B), all_paths(pi, A[-1:].expand_as(A), B))
    for method in BACKENDS[:1]:
        model = Given(pi, A, B)
        check(method.run(model, Series(B)), all_paths(pi, A, B))


def _constant(pi: Tensor, A: Tensor, B: Tensor) -> object:
    return forward_backward(pi, A[-1:], B)


class Given(ds.StateSpaceModel):
    """A chain by its logarithms; its observations are the log-likelihoods themselves."""

    def __init__(self, pi: Tensor, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.state_dim = self.obs_dim = pi.shape[-1]
        self.pi, self.A = torch.nn.Parameter(pi), torch.nn.Parameter(A)
        self.B = torch.nn.Parameter(B)

    def log_initial(self) -> Tensor:
        return self.pi

    def log_transition(self, u: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        return self.A

    def log_emission(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        return self.B


@pytest.mark.parametrize("method", BACKENDS, ids=str)
@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_smoothed_pairs_and_sums_of_them(
    method: ForwardBackward, varying: bool, batch: tuple[int, ...]
) -> None:
    """Also by checkpoints, which cut 6 steps after every second one."""
    pi, A, B = random_chain(5, 6, 3, 0.2, 40.0)
    B = torch.stack([B, B.flip(0)]) if batch else B
    A = A if varying else A[1]
    model = Given(pi, A, B)
    expected = [all_paths(pi, A.expand(6, 3, 3), b) for b in (B if batch else B[None])]
    smoothed = method.smooth(model, Series(B))
    flat = smoothed.mean.reshape(-1, 6, 3)
    cross = smoothed.cross_cov.reshape(-1, 6, 3, 3)
    found = method.expect(model, Series(B))
    for i, want in enumerate(expected):
        torch.testing.assert_close(flat[i], want.smoothed, rtol=1e-10, atol=1e-12)
        p = want.smoothed
        cov = want.pairs[1:].mT - p[1:, :, None] * p[:-1, None, :]
        torch.testing.assert_close(cross[i, 1:], cov, rtol=1e-9, atol=1e-11)
        assert bool((cross[i, 0] == 0).all())
    sums = sum(want.pairs.sum(0) for want in expected)
    got = found.pairs.reshape(-1, 3, 3).sum(0)
    torch.testing.assert_close(got, sums, rtol=1e-10, atol=1e-12)
    assert bool((found.pairs[..., 0, :, :] == 0).all())


@pytest.mark.parametrize("method", BACKENDS, ids=str)
@pytest.mark.parametrize("seed", [2, 4, 5])
def test_gradients_are_those_of_the_sum_over_all_paths(method: ForwardBackward, seed: int) -> None:
    """Autograd through the enumeration, in `pi`, `A` and `B`; forbidden moves have gradient 0."""
    pi, A, B = random_chain(seed, 5, 3, 0.25, 30.0)
    finite = [torch.isfinite(x) for x in (pi, A, B)]
    model = Given(pi, A, B)
    score = method.log_likelihood(model, Series(B))
    score.sum().backward()
    leaves = [x.clone().requires_grad_() for x in (pi, A, B)]
    paths = torch.tensor(list(itertools.product(range(3), repeat=5)))
    joint = leaves[0][paths[:, 0]] + leaves[2][0][paths[:, 0]]
    for t in range(1, 5):
        joint = joint + leaves[1][t][paths[:, t - 1], paths[:, t]] + leaves[2][t][paths[:, t]]
    torch.logsumexp(joint, 0).backward()
    for parameter, leaf, here in zip((model.pi, model.A, model.B), leaves, finite, strict=True):
        assert parameter.grad is not None and leaf.grad is not None
        torch.testing.assert_close(parameter.grad[here], leaf.grad[here], rtol=1e-9, atol=1e-11)
        assert bool((parameter.grad[~here] == 0).all())


FAMILIES: list[StateEmission] = [
    GaussianStates(3, 2),
    GaussianStates(3, 2, covariance="diagonal"),
    RegressionStates(3, 2, 1, lags=1, covariance="tied"),
    MixtureStates(3, 2, 2),
    PoissonStates(3, 2),
    BernoulliStates(3, 2),
    CategoricalStates(3, 4),
]


def family_series(family: StateEmission, time: int, *batch: int) -> Series:
    g = generator(7)
    y = 2 * torch.randn(*batch, time, family.obs_dim, generator=g, dtype=torch.float64)
    u = torch.randn(*batch, time, 1, generator=g, dtype=torch.float64)
    if isinstance(family, PoissonStates):
        y = y.abs().floor()
    elif isinstance(family, BernoulliStates):
        y = (y > 0).double()
    elif isinstance(family, CategoricalStates):
        y = y.abs().floor().clamp_max(3)
    return Series(y, u)


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_every_family_with_inputs_gaps_and_batches(family: StateEmission, driven: bool) -> None:
    model = HiddenMarkov(copy.deepcopy(family), input_dim=1, driven=driven)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator(1), dtype=parameter.dtype)
            parameter.add_(0.7 * noise)
    series = family_series(family, 5, 2)
    series.y[0, 1] = series.y[1, 3, 0] = NAN
    chain = ForwardBackward().run(model, series)
    paths, values = ForwardBackward().viterbi(model, series)
    for i in range(2):
        assert series.u is not None
        expected = all_paths_of(model, Series(series.y[i], series.u[i]))
        check([part[i] for part in chain], expected)
        assert torch.equal(paths[i], expected.best)
        torch.testing.assert_close(values[i], expected.best_value)


def test_drawn_paths_of_a_chain_whose_filter_underflows() -> None:
    """0, 10, 20 within .1: `0 1 1 1` beats `0 1 2 2` by 1e4 nats after 0, 10, 20, 0, and 0, 0, 21
    has to pass through the middle."""
    for data, path in (([0.0, 10, 20, 0], [0, 1, 1, 1]), ([0.0, 0, 21], [0, 1, 2])):
        model = left_to_right()
        y = torch.tensor(data, dtype=torch.float64)[:, None]
        assert all_paths_of(model, Series(y)).best.tolist() == path
        drawn = ds.sample_posterior(model, y, num_samples=200, generator=generator())
        assert bool((drawn.argmax(-1) == torch.tensor(path)).all())
        torch.testing.assert_close(ds.smooth(model, y).mean, drawn.mean(0), rtol=0, atol=1e-10)
        assert ForwardBackward().viterbi(model, Series(y))[0].tolist() == path


def left_to_right(sd: float = 0.1) -> HiddenMarkov:
    family = GaussianStates(3)
    with torch.no_grad():
        family.coefficients.copy_(matrix([[0.0], [10.0], [20.0]])[..., None])
        family.raw_scale.fill_(torch.tensor(sd).log())
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return HiddenMarkov(family, initial=start, transition=LEFT_TO_RIGHT)


@pytest.mark.parametrize("sd", [0.1, 3.0, 20.0])
def test_shares_of_drawn_paths(sd: float) -> None:
    """20 000 draws of each of 243 paths; a share is off by more than .018 once in 1e6 tests."""
    model = left_to_right(sd)
    y = torch.tensor([0.0, 4.0, NAN, 11.0, 9.0], dtype=torch.float64)[:, None]
    expected = all_paths_of(model, Series(y))
    drawn = ds.sample_posterior(model, y, num_samples=20_000, generator=generator())
    found = shares(expected.paths, drawn)
    assert float((found - expected.weight).abs().max()) < 0.018
    assert bool((found[expected.weight == 0] == 0).all())


def test_draws_of_random_chains_never_make_a_forbidden_move() -> None:
    """2 000 draws; a share is off by more than .06 once in 1e7 tests."""
    for seed in range(6):
        pi, A, B = random_chain(seed, 5, 3, 0.4, (1.0, 300.0)[seed % 2])
        expected = all_paths(pi, A, B)
        if not bool(torch.isfinite(expected.scores).all()):
            continue
        model = Given(pi, A, B)
        drawn = ForwardBackward().sample_posterior(model, Series(B), 2_000, generator())
        found = shares(expected.paths, drawn)
        assert float((found - expected.weight).abs().max()) < 0.06
        assert bool((found[expected.weight == 0] == 0).all())


RATES = matrix([[0.0], [3.0]])
COUNTS = torch.tensor([0.0, 0, 3, 5, 4, 0, 0, 0, 2, 0], dtype=torch.float64)


def silent(**options: object) -> HiddenMarkov:
    """A state that emits nothing, as issue trackers of other libraries have it."""
    start = torch.tensor([0.5, 0.5], dtype=torch.float64)
    moves = matrix([[0.8, 0.2], [0.3, 0.7]])
    return HiddenMarkov(PoissonStates(2, 1, RATES), initial=start, transition=moves)


def test_a_state_that_emits_nothing() -> None:
    """The sum over 1024 paths is -14.5015."""
    model, y = silent(), COUNTS[:, None]
    expected = all_paths_of(model, Series(y))
    assert float(expected.scores.sum()) == pytest.approx(-14.5015, abs=5e-5)
    for method in BACKENDS:
        total = ds.log_likelihood(model, y, method=method).sum()
        torch.testing.assert_close(total, expected.scores.sum())
    score = ds.log_likelihood(model, y).sum()
    score.backward()
    grad = model.family.log_rate.grad  # type: ignore[union-attr]
    # The derivative in the log-rate of 3 is the sum of what was seen less what was expected.
    p = expected.smoothed[:, 1]
    assert grad is not None and bool(torch.isfinite(grad).all())  # type: ignore[arg-type]
    torch.testing.assert_close(grad[1, 0], ((COUNTS - 3) * p).sum())  # type: ignore[index]
    drawn = ds.sample_posterior(model, y, num_samples=500, generator=generator())
    assert bool((drawn.argmax(-1)[:, COUNTS > 0] == 1).all())
    path = ForwardBackward().viterbi(model, Series(y))[0]
    assert torch.equal(path, expected.best)


def test_a_state_that_emits_nothing_is_simulated_forecast_run_online_and_learnt() -> None:
    model, y = silent(), COUNTS[:, None]
    z, seen = ds.simulate(model, 500, generator=generator())
    assert bool((seen[z[:, 0] == 1] == 0).all()) and float(seen.max()) > 0
    forecast = ds.forecast(model, y, 3, num_samples=4_000, generator=generator())
    p = ds.filter(model, y).mean[-1].detach()
    A = matrix([[0.8, 0.2], [0.3, 0.7]])
    for h in range(3):
        p = p @ A
        # Mean and variance of a mixture of 0 and Poisson(3).
        torch.testing.assert_close(forecast.mean[h, 0], 3 * p[1])
        torch.testing.assert_close(forecast.cov[h, 0, 0], 12 * p[1] - (3 * p[1]) ** 2)
    running = ds.online(model)
    for t, value in enumerate(y):
        if t:
            running.predict()
        running.update(value)
    assert running.log_likelihood == pytest.approx(-14.5015, abs=5e-5)
    before = ds.log_likelihood(model, y).sum().item()
    fit = ds.fit(model, y, method=BaumWelch(keep_start=True, max_iterations=50), progress=False)
    rates = model.family.log_rate.exp()  # type: ignore[operator]
    assert fit.learned.objective > before and float(rates[0].detach()) == 0.0
    trace = torch.tensor([row["objective"] for row in fit.learned.history])
    assert bool((trace.diff() > -1e-9).all())


def test_particles_take_rates_of_zero_too() -> None:
    """Oracle: the exact filter; 20 000 particles, 5 standard errors."""
    model, y = silent(), COUNTS[:, None]
    exact = ForwardBackward().filter(model, Series(y))
    found = Particle(20_000).filter(model, Series(y))
    torch.testing.assert_close(found.log_likelihood, exact.log_likelihood, rtol=0, atol=0.06)


@pytest.mark.parametrize(
    ("family", "data"),
    [
        (
            BernoulliStates(2, 2, matrix([[0.0, 0.5], [1.0, 0.3]])),
            [[0.0, 1], [1, 0], [1, 1], [NAN, 1], [0, 0]],
        ),
        (
            CategoricalStates(2, 3, matrix([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])),
            [[0.0], [1], [2], [NAN], [1]],
        ),
    ],
    ids=["binary", "symbols"],
)
def test_probabilities_of_0_and_1(family: StateEmission, data: list[list[float]]) -> None:
    """All paths, by torch's log of probabilities alone."""
    model = HiddenMarkov(family, transition=matrix([[0.7, 0.3], [0.4, 0.6]]))
    y = torch.tensor(data, dtype=torch.float64)
    probs = torch.sigmoid(family.logits) if len(y[0]) > 1 else torch.softmax(family.logits, -1)  # type: ignore[call-overload,arg-type]
    likelihood = torch.ones(len(y), 2, dtype=torch.float64)
    for t, k in itertools.product(range(len(y)), range(2)):
        for j, value in enumerate(y[t]):
            if not bool(value.isnan()):
                p = probs[k, j] if len(y[0]) > 1 else probs[k, int(value)]
                likelihood[t, k] *= (p if value == 1 else 1 - p) if len(y[0]) > 1 else p
    A = model.log_transition().expand(len(y), 2, 2)
    expected = all_paths(model.log_initial(), A, likelihood.detach().log())
    check(ForwardBackward().run(model, Series(y)), expected)
    score = ds.log_likelihood(model, y).sum()
    score.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    z, seen = ds.simulate(model, 200, generator=generator())
    for k in range(2):
        place = z.argmax(-1) == k
        drawn = model.emission(z[place]).log_prob(seen[place])
        assert bool(drawn.isfinite().all())
    ds.forecast(model, y, 2, generator=generator())
    method = BaumWelch(keep_start=True, max_iterations=5)
    fit = ds.fit(model, y, method=method, progress=False)
    assert fit.learned.objective >= float(expected.scores.sum()) - 1e-9


def test_gradients_of_underflowing_rates_are_numbers() -> None:
    """A neural rate of exp(-200) is 0 in float32; its score of a zero has the slope -rate = 0."""
    emission = ds.models.PoissonEmission(1, 1, hidden=0)
    with torch.no_grad():
        emission.score.linear.bias.fill_(-200.0)
    score = emission(torch.zeros(1)).log_prob(torch.zeros(1))
    score.backward()
    assert float(score.detach()) == 0.0
    assert all(bool(p.grad.isfinite().all()) for p in emission.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: PoissonStates(2, 1, matrix([[-1.0], [2.0]])), "`rates` must be numbers of at"),
        (lambda: BernoulliStates(2, 1, matrix([[1.5], [0.2]])), "`probs` must be .* at most 1"),
        (lambda: CategoricalStates(2, 2, matrix([[0.5, 0.1], [0.5, 0.5]])), "sum to one"),
    ],
)
def test_starting_values_are_checked(build: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("time", [1, 12])
@pytest.mark.parametrize("learner", ["default", "gradient"])
def test_constant_data_are_fitted_or_refused(
    family: StateEmission, time: int, learner: str
) -> None:
    """Gaussian likelihoods have no maximum then; shares and rates have: p(y) = 1, or Poisson's."""
    model = HiddenMarkov(copy.deepcopy(family), input_dim=1)
    y = torch.ones(time, family.obs_dim, dtype=torch.float64)
    u = torch.randn(time, 1, generator=generator(), dtype=torch.float64)
    method = {} if learner == "default" else {"method": ds.inference.MaximumLikelihood()}
    if isinstance(family, RegressionStates | MixtureStates):
        with pytest.raises(ValueError, match="`y` does not vary in component 0"):
            ds.fit(model, y, u, progress=False, **method)  # type: ignore[arg-type]
        frozen = {"raw_scale", "log_sd"} & {name for name, _ in model.family.named_parameters()}
        getattr(model.family, frozen.pop()).requires_grad_(False)
    fit = ds.fit(model, y, u, progress=False, **method)  # type: ignore[arg-type]
    assert torch.isfinite(torch.tensor(fit.learned.objective))
    assert isinstance(fit.summary(), str)
    if isinstance(family, PoissonStates):
        assert fit.learned.objective == pytest.approx(-2.0 * time, abs=1e-3)
    if isinstance(family, BernoulliStates | CategoricalStates):
        assert fit.learned.objective == pytest.approx(0.0, abs=0.05)


def test_results_are_tuples_whose_covariances_are_made_when_read() -> None:
    model, y = left_to_right(3.0), torch.tensor([[0.0], [4.0], [11.0]], dtype=torch.float64)
    smoothed = ds.smooth(model, y)
    mean, cov, cross, score, flag = smoothed
    torch.testing.assert_close(cov, torch.diag_embed(mean) - mean[..., None] * mean[..., None, :])
    assert cross is smoothed.cross_cov and cross is smoothed[2] and smoothed[1:3][0] is cov
    assert score.shape == (3,) and not bool(flag)
    again = copy.deepcopy(ds.smooth(model, y))
    assert torch.equal(again.cross_cov, cross) and again.names == smoothed.names
    assert "made when read" in repr(ds.filter(model, y))
    assert ds.filter(model, y).to_frame().shape == (3, 6)
