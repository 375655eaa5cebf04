"""Laws of every filter and smoother, exact or not."""

from __future__ import annotations

import copy
import pickle

import torch

import deepssm as ds
from deepssm.inference import Switching

from .comparing import close, close_where_known, indices
from .discrete_families import MARKOV, SWITCHING
from .linear_families import CONSTANT, FACTORS, KINEMATIC, LINEAR, PROPER, SINGULAR, STRUCTURAL
from .nonlinear_families import GAUSSIAN, PARTICLES
from .problems import Problem
from .running import law

FILTERS = (*LINEAR, *GAUSSIAN, *MARKOV, *SWITCHING)
SMOOTHERS = (*LINEAR, *GAUSSIAN, *MARKOV)  # `Switching` smooths by draws


@law(SMOOTHERS)
def test_a_batch_is_its_series(problem: Problem) -> None:
    """Neighbours in a batch change nothing."""
    together = problem.smooth()
    for index in indices(problem.y.shape[:-2]):
        alone = problem.series(index).smooth()
        close(together.log_likelihood[index], alone.log_likelihood)
        close(together.mean[index], alone.mean)
        close_where_known(together.cov[index], alone.cov)
        if bool(alone.cov.isfinite().all()):
            close(together.cross_cov[index], alone.cross_cov)


@law(FILTERS)
def test_the_order_of_the_series(problem: Problem) -> None:
    """A batch turned round has its answers turned round."""
    if problem.y.ndim < 3:
        return
    flip = torch.arange(problem.y.shape[0]).flip(0)
    turned = problem.series((flip,))  # type: ignore[arg-type]
    ours, theirs = problem.filter(), turned.filter()
    close(theirs.mean, ours.mean[flip])
    close(theirs.log_likelihood, ours.log_likelihood[flip])


@law(SMOOTHERS)
def test_padding(problem: Problem) -> None:
    """Steps beyond `lengths` are as if they were not there."""
    if not problem.y.shape[:-2] or problem.time < 2:
        return
    g = problem.generator
    lengths = torch.randint(1, problem.time + 1, problem.y.shape[:-2], generator=g)
    padded = ds.smooth(problem.model, problem.y, problem.u, lengths=lengths, **problem.options)
    for index in indices(problem.y.shape[:-2]):
        size = int(lengths[index])
        alone = problem.series(index).steps(0, size).smooth()
        close(padded.log_likelihood[index][:size], alone.log_likelihood)
        close(padded.mean[index][:size], alone.mean)
        close(padded.cov[index][:size], alone.cov)
        close(padded.log_likelihood[index][size:], torch.zeros(problem.time - size).double())


@law(FILTERS)
def test_the_future_changes_no_filter(problem: Problem) -> None:
    """What is known at a step depends on the steps up to it."""
    size = 1 + problem.seed % problem.time
    whole, part = problem.filter(), problem.steps(0, size).filter()
    close(part.mean, whole.mean[..., :size, :])
    close(part.cov, whole.cov[..., :size, :, :])
    close(part.log_likelihood, whole.log_likelihood[..., :size])


@law(SMOOTHERS)
def test_an_unobserved_step_at_the_end(problem: Problem) -> None:
    """It adds 0 to the log-likelihood and moves no state before it."""
    whole = problem.missing(problem.time - 1).smooth()
    assert not whole.log_likelihood[..., -1].any()
    if problem.time > 1:
        before = problem.steps(0, problem.time - 1).smooth()
        close(whole.log_likelihood[..., :-1], before.log_likelihood)
        close(whole.mean[..., :-1, :], before.mean)
        close(whole.cov[..., :-1, :, :], before.cov)


@law(SMOOTHERS)
def test_the_last_smoothed_state_is_the_filtered_one(problem: Problem) -> None:
    """`p(z_T | y_{1:T})` either way, and the same likelihood by three verbs."""
    filtered, smoothed = problem.filter(), problem.smooth()
    close(smoothed.mean[..., -1, :], filtered.mean[..., -1, :])
    close(smoothed.cov[..., -1, :, :], filtered.cov[..., -1, :, :])
    close(smoothed.log_likelihood, filtered.log_likelihood)
    close(problem.log_likelihood().detach(), filtered.log_likelihood)


@law((*PROPER, *GAUSSIAN, *MARKOV, *SWITCHING))
def test_nothing_observed_leaves_the_prior(problem: Problem) -> None:
    """Predicted, filtered and smoothed states agree, and nothing is said of the likelihood."""
    blind = problem.missing(*range(problem.time))
    filtered = blind.filter()
    close(filtered.mean, filtered.predicted_mean)
    close(filtered.cov, filtered.predicted_cov)
    if not isinstance(problem.method, Switching):
        smoothed = blind.smooth()
        close(smoothed.mean, filtered.mean)
        close(smoothed.cov, filtered.cov)
    assert not filtered.log_likelihood.any()


@law((*PROPER, *GAUSSIAN, *MARKOV, *SWITCHING))
def test_a_forecast_is_a_filter_without_data(problem: Problem) -> None:
    """States ahead are the predicted ones of a series that ends in a gap."""
    if problem.time < 2:
        return
    horizon = 1 + problem.seed % (problem.time - 1)
    ahead = problem.forecast(horizon).state
    gap = problem.missing(*range(problem.time - horizon, problem.time)).filter()
    if ahead.samples is None:
        close(ahead.mean, gap.mean[..., -horizon:, :])
        close(ahead.cov, gap.cov[..., -horizon:, :, :])


@law((CONSTANT, SINGULAR, KINEMATIC, FACTORS, STRUCTURAL, *GAUSSIAN, *MARKOV, *SWITCHING))
def test_online_is_batch(problem: Problem) -> None:
    """One observation at a time gives the same states."""
    while problem.y.ndim > 2:
        problem = problem.series((0,))
    whole = problem.filter()
    running = ds.online(problem.model, problem.method)
    for t in range(problem.time):
        u = None if problem.u is None else problem.u[t]
        if t:
            step = None if problem.dt is None else float(problem.dt[t])
            running.predict(dt=step, u=u)
        score = running.update(problem.y[t]) if u is None else running.update(problem.y[t], u=u)
        close(torch.tensor(float(score), dtype=torch.float64), whole.log_likelihood[t].double())
        close(running.mean, whole.mean[t])
        close_where_known(running.cov, whole.cov[t])


@law((*LINEAR, *GAUSSIAN, *MARKOV, *SWITCHING, PARTICLES))
def test_a_copy_answers_alike(problem: Problem) -> None:
    """A model asked twice, copied, or pickled gives the same bits."""
    first = problem.filter()
    models = [problem.model, copy.deepcopy(problem.model)]
    models.append(pickle.loads(pickle.dumps(problem.model)))
    for model in models:
        again = problem._replace(model=model).filter()
        assert torch.equal(again.mean, first.mean)
        assert torch.equal(again.log_likelihood, first.log_likelihood)


@law((*PROPER, *GAUSSIAN, *MARKOV, *SWITCHING))
def test_covariances_are_covariances(problem: Problem) -> None:
    """Symmetric, without a negative direction, finite."""
    filtered, smoothed = problem.filter(), problem.smooth()
    for cov in (filtered.predicted_cov, filtered.cov, smoothed.cov):
        assert bool(cov.isfinite().all())
        close(cov, cov.mT, 1e-12)
        least = torch.linalg.eigvalsh(cov).min()
        assert float(least) > -1e-10 * max(1.0, float(cov.abs().max()))


@law((*LINEAR, *GAUSSIAN, *MARKOV, *SWITCHING))
def test_imputation_keeps_what_was_seen(problem: Problem) -> None:
    """Observations stay as they are, gaps get numbers with a spread."""
    filled = problem.impute()
    seen = ~problem.y.isnan()
    assert torch.equal(filled.mean[seen], problem.y[seen])
    assert not filled.sd[seen].any()
    assert bool((filled.samples[:, seen] == problem.y[seen]).all())


@law((*PROPER, *GAUSSIAN[:1], *MARKOV, *SWITCHING))
def test_what_a_model_makes_up_is_possible(problem: Problem) -> None:
    """Simulated data have a finite log-likelihood, and a seed gives them again."""
    u = problem.u
    draws = [
        ds.simulate(problem.model, problem.time, u, dt=problem.dt, generator=problem.generator)
        for _ in range(2)
    ]
    assert torch.equal(draws[0].y, draws[1].y)
    made = problem._replace(y=draws[0].y.detach())
    assert bool(made.log_likelihood().isfinite().all())


@law((*LINEAR, *MARKOV))
def test_single_precision(problem: Problem) -> None:
    """In float32 the answers are those of float64 to its precision."""
    whole = problem.filter()
    if bool(torch.as_tensor(whole.ill_conditioned).any()):
        return
    y, u, dt = (None if x is None else x.float() for x in (problem.y, problem.u, problem.dt))
    model = copy.deepcopy(problem.model).float()
    single = problem._replace(model=model, y=y, u=u, dt=dt).filter()  # type: ignore[arg-type]
    assert single.mean.dtype == torch.float32
    close(single.log_likelihood.double(), whole.log_likelihood, 2e-3)
