"""Laws of exact inference in linear-Gaussian models."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters
from deepssm.inference import Cubature, Extended, GaussHermite, Kalman, Simplex, Unscented
from tests import oracles
from tests.given import Given

from .comparing import close, close_where_known, indices
from .linear_families import CONSTANT, FACTORS, KINEMATIC, PROPER, SINGULAR, STRUCTURAL, VARYING
from .parameters import determined, first, parameters_of
from .problems import Problem
from .running import law

SOLID = (CONSTANT, VARYING, KINEMATIC, FACTORS)


@law((*SOLID, STRUCTURAL))
def test_the_likelihood_is_a_dense_gaussian(problem: Problem) -> None:
    """`log p(y)` is the density of one Gaussian over all observations."""
    one = first(problem)
    if not determined(one):
        return
    dense = oracles.log_likelihood(parameters_of(one), one.y).sum()
    close(one.log_likelihood().detach().sum(), dense, 1e-8)


@law(SOLID)
def test_the_smoother_is_a_dense_gaussian(problem: Problem) -> None:
    """So are smoothed moments, and those of neighbouring steps."""
    one = first(problem)
    dense, ours = oracles.smooth(parameters_of(one), one.y), one.smooth()
    close(ours.mean, dense.mean, 1e-8)
    close(ours.cov, dense.cov, 1e-8)
    close(ours.cross_cov, dense.cross_cov, 1e-8)


@law(SOLID)
def test_coordinates_of_the_state(problem: Problem) -> None:
    """Other coordinates: same likelihood, moments transformed."""
    one = first(problem)
    start, (A, b, Q), (C, d, R) = parameters_of(one)
    n = A.shape[-1]
    M = torch.eye(n).double() + 0.3 * torch.randn(n, n, generator=one.generator).double()
    back = torch.linalg.inv(M)
    turned = LinearParameters(
        GaussianInitial(start.mean @ M.mT, M @ start.cov @ M.mT),
        LinearConditional(M @ A @ back, b @ M.mT, M @ Q @ M.mT),
        LinearConditional(C @ back, d, R),
    )
    theirs = ds.smooth(Given(turned), one.y)
    ours = one.smooth()
    close(theirs.log_likelihood, ours.log_likelihood, 1e-7)
    close(theirs.mean, ours.mean @ M.mT, 1e-7)
    close(theirs.cov, M @ ours.cov @ M.mT, 1e-7)


@law((*PROPER, STRUCTURAL))
def test_units_of_the_data(problem: Problem) -> None:
    """`y -> s y` costs `log s` an observation that is not spent on a diffuse start."""
    one = first(problem)
    start, (A, b, Q), (C, d, R) = parameters_of(one)
    s = 10.0 ** float(torch.randint(-4, 5, (), generator=one.generator))
    scaled = LinearParameters(
        GaussianInitial(start.mean, start.cov, start.diffuse),
        LinearConditional(A, b, Q),
        LinearConditional(s * C, s * d, s * s * R),
    )
    ours = one.filter()
    if not determined(one):
        return
    theirs = ds.filter(Given(scaled), s * one.y)
    cost = math.log(s) * (~one.y.isnan()).sum().double()
    close(theirs.log_likelihood.sum() + cost, ours.log_likelihood.sum(), 1e-8)
    close(theirs.mean, ours.mean, 1e-7)
    close(theirs.cov, ours.cov, 1e-7)


@law(PROPER)
def test_means_are_affine_in_the_data(problem: Problem) -> None:
    """Mixing two data sets mixes the answers; covariances do not look at values."""
    g = problem.generator
    other = torch.where(problem.y.isnan(), torch.nan, torch.randn(problem.y.shape, generator=g))
    share = 2.5
    mixed = problem._replace(y=share * problem.y + (1 - share) * other).smooth()
    ours, theirs = problem.smooth(), problem._replace(y=other.double()).smooth()
    close(mixed.mean, share * ours.mean + (1 - share) * theirs.mean, 1e-7)
    close(mixed.cov, ours.cov)


@law(PROPER)
def test_knowledge_never_shrinks(problem: Problem) -> None:
    """Predicted variances are the largest, smoothed ones the least."""
    filtered, smoothed = problem.filter(), problem.smooth()
    for more, less in (
        (filtered.predicted_cov, filtered.cov),
        (filtered.cov, smoothed.cov),
    ):
        least = torch.linalg.eigvalsh(more - less).min()
        assert float(least) > -1e-9 * max(1.0, float(more.abs().max()))


@law(SOLID)
def test_two_sensors_are_one_with_half_the_noise(problem: Problem) -> None:
    """Reading twice with twice the noise says what one reading of their mean says."""
    one = first(problem)
    start, transition, (C, d, R) = parameters_of(one)
    doubled = LinearParameters(
        start,
        transition,
        LinearConditional(torch.cat((C, C), -2), torch.cat((d, d), -1), _blocks(2 * R, 2 * R)),
    )
    whole = torch.where(one.y.isnan().any(-1, keepdim=True), torch.nan, one.y)
    shift = torch.randn(whole.shape, generator=one.generator).double()
    ours = ds.smooth(Given(LinearParameters(start, transition, LinearConditional(C, d, R))), whole)
    theirs = ds.smooth(Given(doubled), torch.cat((whole + shift, whole - shift), -1))
    close(theirs.mean, ours.mean, 1e-7)
    close(theirs.cov, ours.cov, 1e-7)


@law(SOLID)
def test_an_unobserved_companion(problem: Problem) -> None:
    """A state on its own that nobody reads changes nothing."""
    one = first(problem)
    start, (A, b, Q), (C, d, R) = parameters_of(one)
    lone = torch.ones(1, 1, dtype=torch.float64)
    wider = LinearParameters(
        GaussianInitial(torch.cat((start.mean, lone[0])), _blocks(start.cov, lone)),
        LinearConditional(
            _blocks(A, 0.9 * lone.expand(*A.shape[:-2], 1, 1)),
            torch.cat((b, torch.ones_like(b[..., :1])), -1),
            _blocks(Q, lone.expand(*Q.shape[:-2], 1, 1)),
        ),
        LinearConditional(torch.cat((C, torch.zeros_like(C[..., :1])), -1), d, R),
    )
    ours, theirs, n = one.smooth(), ds.smooth(Given(wider), one.y), A.shape[-1]
    close(theirs.log_likelihood, ours.log_likelihood, 1e-8)
    close(theirs.mean[..., :n], ours.mean, 1e-8)
    close(theirs.cov[..., :n, :n], ours.cov, 1e-8)


@law((CONSTANT, SINGULAR, VARYING, FACTORS))
def test_the_order_of_the_sensors(problem: Problem) -> None:
    """Sensors turned round say the same."""
    one = first(problem)
    start, transition, (C, d, R) = parameters_of(one)
    flip = torch.arange(C.shape[-2]).flip(0)
    turned = LinearConditional(C[..., flip, :], d[..., flip], R[..., flip, :][..., flip])
    theirs = ds.smooth(Given(LinearParameters(start, transition, turned)), one.y[..., flip])
    ours = one.smooth()
    close(theirs.log_likelihood, ours.log_likelihood, 1e-8)
    close(theirs.mean, ours.mean, 1e-7)
    close(theirs.cov, ours.cov, 1e-7)


@law((CONSTANT, VARYING, SINGULAR))
def test_a_known_shift_is_subtracted(problem: Problem) -> None:
    """What is added to every observation may be an offset."""
    one = first(problem)
    start, transition, (C, d, R) = parameters_of(one)
    shift = 10 * torch.randn(d.shape[-1], generator=one.generator).double()
    moved = LinearParameters(start, transition, LinearConditional(C, d + shift, R))
    theirs, ours = ds.filter(Given(moved), one.y + shift), one.filter()
    close(theirs.log_likelihood, ours.log_likelihood, 1e-8)
    close(theirs.mean, ours.mean, 1e-8)


@law((CONSTANT, SINGULAR, KINEMATIC, FACTORS, STRUCTURAL), few=2)
def test_every_backend_agrees(problem: Problem) -> None:
    """A loop, a scan, and steady gains are one filter."""
    ours = problem.smooth()
    for backend in ("scan", "autograd"):
        theirs = problem._replace(method=Kalman(backend=backend)).smooth()
        close(theirs.log_likelihood, ours.log_likelihood, 1e-7)
        close(theirs.mean, ours.mean, 1e-7)
        close_where_known(theirs.cov, ours.cov, 1e-7)


@law((CONSTANT, KINEMATIC, FACTORS), few=2)
def test_every_gaussian_filter_is_exact_here(problem: Problem) -> None:
    """Linear models leave nothing to approximate."""
    ours = problem.smooth()
    for method in (
        Extended(),
        Extended(iterations=3),
        Unscented(),
        Simplex(),
        Cubature(),
        GaussHermite(3),
    ):
        theirs = problem._replace(method=method).smooth()
        close(theirs.log_likelihood, ours.log_likelihood, 1e-7)
        close(theirs.mean, ours.mean, 1e-7)
        close(theirs.cov, ours.cov, 1e-7)


@law((CONSTANT, SINGULAR, VARYING))
def test_splitting_in_time(problem: Problem) -> None:
    """The second half, started where the first one ended, has the rest of the likelihood."""
    one = first(problem)
    if one.time < 2:
        return
    cut = 1 + one.seed % (one.time - 1)
    whole, later = one.filter(), one.steps(cut)
    start = GaussianInitial(whole.predicted_mean[cut], whole.predicted_cov[cut])
    _, transition, emission = parameters_of(later)
    rest = ds.filter(Given(LinearParameters(start, transition, emission)), later.y)
    close(rest.log_likelihood, whole.log_likelihood[cut:], 1e-8)
    close(rest.mean, whole.mean[cut:], 1e-8)


@law((KINEMATIC,))
def test_a_step_in_two(problem: Problem) -> None:
    """Continuous time: going half-way twice, without a look in between, is going once."""
    one = first(problem)
    assert one.dt is not None
    half = torch.stack((one.dt / 2, one.dt / 2), -1).reshape(-1)
    y = torch.stack((torch.full_like(one.y, torch.nan), one.y), -2).reshape(-1, one.y.shape[-1])
    ours, theirs = one.smooth(), one._replace(y=y[1:], dt=half[1:]).smooth()
    close(theirs.log_likelihood[::2], ours.log_likelihood, 1e-8)
    close(theirs.mean[::2], ours.mean, 1e-8)
    close(theirs.cov[::2], ours.cov, 1e-8)


@law((CONSTANT, KINEMATIC, FACTORS, STRUCTURAL), few=2)
def test_the_gradient_is_a_slope(problem: Problem) -> None:
    """Along a random direction of the data it is the difference quotient."""
    seen = ~problem.y.isnan()
    values = torch.where(seen, problem.y, 0.0).requires_grad_()
    direction = torch.randn(values.shape, generator=problem.generator).double() * seen

    def total(y: Tensor) -> Tensor:
        data = torch.where(seen, y, torch.nan)
        return problem._replace(y=data).log_likelihood().sum()

    (gradient,) = torch.autograd.grad(total(values), values)
    h = 1e-4
    quotient = (total(values + h * direction) - total(values - h * direction)).detach() / (2 * h)
    close((gradient * direction).sum(), quotient, 1e-5)


@law((CONSTANT, SINGULAR, FACTORS))
def test_noises_lead_from_state_to_state(problem: Problem) -> None:
    """Smoothed noises are what smoothed states and observations leave over."""
    one = first(problem)
    _, (A, b, _), (C, d, _) = parameters_of(one)
    states = one.smooth().mean
    found = ds.disturbances(one.model, one.y, one.u)
    if one.time > 1:
        A, b = (x[1:] if x.shape[0] > 1 else x for x in (A, b))
        moved = (A @ states[:-1, :, None])[..., 0] + b
        close(found.state[1:], states[1:] - moved, 1e-7)
    seen = ~one.y.isnan()
    left = one.y - (C @ states[..., None])[..., 0] - d
    close(found.observation[seen], left[seen], 1e-7)


@law((CONSTANT, SINGULAR, VARYING, KINEMATIC), few=2)
def test_draws_have_the_smoothed_moments(problem: Problem) -> None:
    """Five deviations of the mean of 400 paths: one case in 10^6 fails by chance."""
    smoothed = problem.smooth()
    draws = problem.sample_posterior(400)
    variance = smoothed.cov.diagonal(dim1=-2, dim2=-1).clamp_min(0)
    error = (draws.mean(0) - smoothed.mean).abs()
    assert bool((error <= 5.5 * (variance / 400).sqrt() + 1e-6).all())
    spread = (draws - smoothed.mean).square().mean(0)
    assert bool((spread <= variance * (1 + 7 * (2 / 400) ** 0.5) + 1e-6).all())
    assert bool((spread >= variance * (1 - 5.5 * (2 / 400) ** 0.5) - 1e-6).all())


@law((CONSTANT, SINGULAR, KINEMATIC, FACTORS), few=2)
def test_drawn_forecasts_have_the_exact_moments(problem: Problem) -> None:
    """Five and a half deviations of the mean of 400 futures."""
    if problem.time < 2:
        return
    ahead = problem.forecast(1, num_samples=400)
    assert ahead.samples is not None
    variance = ahead.cov.diagonal(dim1=-2, dim2=-1)
    error = (ahead.samples.mean(0) - ahead.mean).abs()
    assert bool((error <= 5.5 * (variance / 400).sqrt()).all())


@law((CONSTANT, SINGULAR, FACTORS))
def test_a_batch_of_one_is_no_batch(problem: Problem) -> None:
    """An axis of length one is only an axis."""
    for index in indices(problem.y.shape[:-2])[:1]:
        alone = problem.series(index)
        lifted = alone._replace(y=alone.y[None], u=None if alone.u is None else alone.u[None])
        close(lifted.filter().mean[0], alone.filter().mean, 1e-12)


def _blocks(a: Tensor, b: Tensor) -> Tensor:
    """Two matrices on a diagonal."""
    upper = torch.cat((a, a.new_zeros(*a.shape[:-1], b.shape[-1])), -1)
    lower = torch.cat((b.new_zeros(*b.shape[:-1], a.shape[-1]), b), -1)
    return torch.cat((upper, lower), -2)
