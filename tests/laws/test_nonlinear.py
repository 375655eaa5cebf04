"""Laws of approximate filters."""

from __future__ import annotations

import math

import torch

import deepssm as ds
from deepssm.inference import Particle
from deepssm.models import NonlinearGaussian

from .comparing import close, indices
from .nonlinear_families import (
    EXTENDED,
    GAUSSIAN,
    ITERATED,
    PARTICLES,
    POINTS,
    POSTERIOR,
    UNSCENTED,
)
from .problems import Problem
from .running import law
from .test_linear import first


@law((*POINTS, *GAUSSIAN[-1:]))
def test_the_order_of_the_sensors(problem: Problem) -> None:
    """Sensors turned round say the same."""
    model = problem.model
    assert isinstance(model, NonlinearGaussian)
    flip = torch.arange(model.obs_dim).flip(0)
    turned = NonlinearGaussian(
        model.transition_function,
        lambda z, u: model.emission_function(z, u)[..., flip],
        Q=model.Q, R=model.R[flip][:, flip], m0=model.m0, P0=model.P0,
        input_dim=model.input_dim,
    )  # fmt: skip
    ours = problem.filter()
    theirs = problem._replace(model=turned, y=problem.y[..., flip]).filter()
    close(theirs.log_likelihood, ours.log_likelihood, 1e-8)
    close(theirs.mean, ours.mean, 1e-8)


@law((EXTENDED, ITERATED))
def test_the_order_of_the_states(problem: Problem) -> None:
    """States turned round are the same states (points lie on a factor, which knows an order)."""
    model = problem.model
    assert isinstance(model, NonlinearGaussian)
    flip = torch.arange(model.state_dim).flip(0)
    turned = NonlinearGaussian(
        lambda z, u, dt: model.transition_function(z[..., flip], u, dt)[..., flip],
        lambda z, u: model.emission_function(z[..., flip], u),
        Q=model.Q[flip][:, flip], R=model.R, m0=model.m0[flip], P0=model.P0[flip][:, flip],
        input_dim=model.input_dim,
    )  # fmt: skip
    ours, theirs = problem.filter(), problem._replace(model=turned).filter()
    close(theirs.log_likelihood, ours.log_likelihood, 1e-8)
    close(theirs.mean, ours.mean[..., flip], 1e-8)


@law((EXTENDED, UNSCENTED), few=2)
def test_units_of_the_data(problem: Problem) -> None:
    """`y -> s y` costs `log s` an observation."""
    model = problem.model
    assert isinstance(model, NonlinearGaussian)
    s = 100.0
    scaled = NonlinearGaussian(
        model.transition_function,
        lambda z, u: s * model.emission_function(z, u),
        Q=model.Q, R=s * s * model.R, m0=model.m0, P0=model.P0, input_dim=model.input_dim,
    )  # fmt: skip
    ours, theirs = problem.filter(), problem._replace(model=scaled, y=s * problem.y).filter()
    cost = math.log(s) * (~problem.y.isnan()).sum(-1).double()
    close(theirs.log_likelihood + cost, ours.log_likelihood, 1e-8)
    close(theirs.mean, ours.mean, 1e-8)


@law((UNSCENTED,), few=2)
def test_the_gradient_is_a_slope(problem: Problem) -> None:
    """By the data, along a random direction."""
    seen = ~problem.y.isnan()
    if not bool(seen.any()):
        return
    values = torch.where(seen, problem.y, 0.0).requires_grad_()
    direction = torch.randn(values.shape, generator=problem.generator).double() * seen

    def total(y: torch.Tensor) -> torch.Tensor:
        return problem._replace(y=torch.where(seen, y, torch.nan)).log_likelihood().sum()

    (gradient,) = torch.autograd.grad(total(values), values)
    h = 1e-5
    quotient = (total(values + h * direction) - total(values - h * direction)).detach() / (2 * h)
    close((gradient * direction).sum(), quotient, 1e-4)


@law((PARTICLES,), few=2)
def test_particles_find_the_first_step(problem: Problem) -> None:
    """The log-likelihood of a step is finite, and 0 where nothing was seen."""
    one = first(problem).steps(0, 1)
    scores = [
        ds.log_likelihood(
            one.model, one.y, one.u, method=Particle(2000),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (one.seed, one.seed + 1)
    ]  # fmt: skip
    assert bool(torch.stack(scores).isfinite().all())
    if not bool((~one.y.isnan()).any()):
        assert not bool(torch.stack(scores).any())


@law((POSTERIOR,), few=2)
def test_a_batch_stops_together(problem: Problem) -> None:
    """An iterated smoother goes on until the last series stays: equal to its tolerance."""
    together = problem.smooth()
    for index in indices(problem.y.shape[:-2]):
        alone = problem.series(index).smooth()
        close(together.mean[index], alone.mean, 1e-6)
        close(together.cov[index], alone.cov, 1e-6)
