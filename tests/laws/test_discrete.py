"""Laws of hidden Markov and switching models."""

from __future__ import annotations

import copy
import itertools
import warnings

import torch
from torch import Tensor

import deepssm as ds
from deepssm.api.validation import as_series
from deepssm.inference import BaumWelch, ForwardBackward, Kalman, Switching
from deepssm.models import BernoulliStates, HiddenMarkov, SwitchingLinearGaussian
from tests import oracles, switching_models

from .comparing import close
from .discrete_families import (
    BITS,
    DIAGONAL,
    FULL,
    GPB2,
    MARKOV,
    MIXTURE,
    ONE_MODE,
    RATES,
    SWITCHING,
    SYMBOLS,
    TIED,
    chain,
    start,
)
from .linear_families import CONSTANT, Draw
from .parameters import first
from .problems import Problem
from .running import law

PLAIN = (FULL, DIAGONAL, TIED, MIXTURE, RATES, BITS, SYMBOLS)


def paths(problem: Problem) -> tuple[Tensor, Tensor]:
    """Every path of states, `(paths, time)`, and its joint log-density with the data."""
    model = problem.model
    assert isinstance(model, HiddenMarkov)
    with torch.no_grad():
        initial = model.log_initial()
        moves = model.log_transition(problem.u, problem.dt)
        emits = model.log_emission(problem.y, problem.u)
    moves = moves.expand(problem.time, *moves.shape[-2:])
    every = torch.tensor(list(itertools.product(range(model.state_dim), repeat=problem.time)))
    total = initial[every[:, 0]] + emits[0, every[:, 0]]
    for t in range(1, problem.time):
        total = total + moves[t, every[:, t - 1], every[:, t]] + emits[t, every[:, t]]
    return every, total


@law(MARKOV)
def test_the_sum_over_paths(problem: Problem) -> None:
    """Likelihood, states and pairs of states by enumeration."""
    one = first(problem)
    every, joint = paths(one)
    ours, filtered = one.smooth(), one.filter()
    close(filtered.log_likelihood.sum(), torch.logsumexp(joint, 0))
    if not bool(torch.logsumexp(joint, 0).isfinite()):
        return
    weight = torch.softmax(joint, 0)
    states = torch.nn.functional.one_hot(every, one.model.state_dim).double()
    close(ours.mean, torch.einsum("s,stk->tk", weight, states))
    for t in range(1, one.time):
        pair = torch.einsum("s,sj,sk->jk", weight, states[:, t], states[:, t - 1])
        outer = ours.mean[t][:, None] * ours.mean[t - 1]
        close(ours.cross_cov[t], pair - outer)


@law(MARKOV)
def test_the_likeliest_path(problem: Problem) -> None:
    """Viterbi's is the best of all paths."""
    one = first(problem)
    every, joint = paths(one)
    if not bool(torch.logsumexp(joint, 0).isfinite()):
        return
    method = ForwardBackward()
    states, score = method.viterbi(one.model, as_series(one.model, one.y, one.u))
    close(score.detach().double(), joint.max())
    index = (every == states).all(-1)
    close(joint[index][0], joint.max())


@law(MARKOV)
def test_no_forbidden_path_is_drawn(problem: Problem) -> None:
    """Every drawn path has a density, and the shares are the smoother's."""
    one = first(problem)
    every, joint = paths(one)
    if not bool(torch.logsumexp(joint, 0).isfinite()):
        return
    draws = one.sample_posterior(300).argmax(-1)
    radix = one.model.state_dim ** torch.arange(one.time - 1, -1, -1)
    assert bool(joint[(draws * radix).sum(-1)].isfinite().all())
    share = torch.nn.functional.one_hot(draws, one.model.state_dim).double().mean(0)
    expected = one.smooth().mean
    limit = 5.5 * (expected * (1 - expected) / 300).clamp_min(0).sqrt() + 0.02
    assert bool(((share - expected).abs() <= limit).all())


@law(MARKOV)
def test_the_scan_is_the_loop(problem: Problem) -> None:
    """Parallel in time or not."""
    ours = problem.smooth()
    theirs = problem._replace(method=ForwardBackward(backend="scan")).smooth()
    close(theirs.log_likelihood.sum(-1), ours.log_likelihood.sum(-1))
    if bool(ours.log_likelihood.isfinite().all()):
        close(theirs.mean, ours.mean)


@law(PLAIN)
def test_probabilities_are_probabilities(problem: Problem) -> None:
    """Between 0 and 1, with sum 1, before and after each observation."""
    filtered, smoothed = problem.filter(), problem.smooth()
    if not bool(filtered.log_likelihood.isfinite().all()):
        return
    for p in (filtered.predicted_mean, filtered.mean, smoothed.mean):
        close(p.sum(-1), torch.ones(p.shape[:-1]).double(), 1e-12)
        assert bool((p >= 0).all()) and bool((p <= 1 + 1e-12).all())


@law(PLAIN)
def test_states_by_other_names(problem: Problem) -> None:
    """Turn the states round: same likelihood, probabilities turned round."""
    model = problem.model
    assert isinstance(model, HiddenMarkov)
    if model.transition_weight is not None or model.state_dim < 2:
        return
    flip = torch.arange(model.state_dim).flip(0)
    family = copy.deepcopy(model.family)
    with torch.no_grad():
        for parameter in family.parameters():
            if parameter.shape[0] == model.state_dim:
                parameter.copy_(parameter[flip].clone())
        turned = HiddenMarkov(
            family,
            initial=model.log_initial().exp()[flip],
            transition=model.log_transition()[0].exp()[flip][:, flip],
            input_dim=model.input_dim,
        )
    ours, theirs = problem.smooth(), problem._replace(model=turned).smooth()
    close(theirs.log_likelihood, ours.log_likelihood)
    close(theirs.mean, ours.mean[..., flip])


@law((BITS,))
def test_a_sure_event_costs_nothing(problem: Problem) -> None:
    """If every state must say 1, then hearing 1 has log-likelihood 0."""
    draw, count = Draw(problem.seed), problem.model.state_dim
    family = BernoulliStates(count, 1)
    with torch.no_grad():
        family.logits.fill_(torch.inf)
    model = HiddenMarkov(family, initial=start(draw, count), transition=chain(draw, count))
    y = torch.where(problem.y.isnan(), torch.nan, 1.0)[..., :1].double()
    scores = ds.log_likelihood(model, y).detach()
    assert bool((scores.abs() < 1e-14).all())


@law((FULL, RATES, BITS, SYMBOLS, DIAGONAL), few=2)
def test_learning_never_loses(problem: Problem) -> None:
    """More steps of EM from the same start never have a lower likelihood."""
    if not bool(problem.log_likelihood().isfinite().all()) or bool(problem.y.isnan().all()):
        return
    scores = []
    for iterations in (1, 2, 5):
        learner = BaumWelch(max_iterations=iterations)
        model = copy.deepcopy(problem.model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # So few steps do not converge, which is said.
                fit = ds.fit(model, problem.y, problem.u, method=learner, progress=False)
        except ValueError as error:
            # One or equal observations: their densities have no maximum, which is said.
            assert "without bound" in str(error)
            return
        scores.append(float(problem._replace(model=fit.model).log_likelihood().detach().sum()))
    for before, after in itertools.pairwise(scores):
        assert after >= before - 1e-8 * (1 + abs(before))


@law((ONE_MODE,))
def test_one_mode_is_no_switching(problem: Problem) -> None:
    """With one mode the exact filter remains."""
    model = problem.model
    assert isinstance(model, SwitchingLinearGaussian)
    ours = problem.filter()
    theirs = ds.filter(model.modes[0], problem.y, problem.u, method=Kalman())  # type: ignore[arg-type]
    close(ours.log_likelihood, theirs.log_likelihood)
    close(ours.mean[..., 1:], theirs.mean)
    close(ours.cov[..., 1:, 1:], theirs.cov)


@law((CONSTANT,))
def test_equal_modes_are_no_switching(problem: Problem) -> None:
    """Modes that do the same leave the exact filter."""
    draw = Draw(problem.seed + 1)
    model = SwitchingLinearGaussian(
        [problem.model, problem.model], transition=chain(draw, 2), initial=start(draw, 2)
    )
    ours = problem.filter()
    for order in (1, 2):
        theirs = problem._replace(model=model, method=Switching(order=order)).filter()
        close(theirs.log_likelihood, ours.log_likelihood)
        close(theirs.mean[..., 2:], ours.mean)
        close(theirs.cov[..., 2:, 2:], ours.cov)


@law((GPB2,))
def test_two_steps_by_enumeration(problem: Problem) -> None:
    """Histories of two modes are all there are after two steps: one dense Gaussian each."""
    one = first(problem).steps(0, 2)
    model = one.model
    assert isinstance(model, SwitchingLinearGaussian)
    parameters = model.mode_parameters(one.u, None)
    logs = []
    with torch.no_grad():
        pi, moves = model.log_initial(), model.log_transition()
        for path in itertools.product(range(model.num_modes), repeat=one.time):
            prior = pi[path[0]] + sum(
                (moves[i, j] for i, j in itertools.pairwise(path)), pi.new_zeros(())
            )
            given = switching_models.path_parameters_of(parameters, path)
            logs.append(prior + oracles.log_likelihood(given, one.y).sum())
        close(one.log_likelihood().sum(), torch.logsumexp(torch.stack(logs), 0))


@law(SWITCHING)
def test_probabilities_of_modes(problem: Problem) -> None:
    """Between 0 and 1, with sum 1."""
    model = problem.model
    assert isinstance(model, SwitchingLinearGaussian)
    p = problem.filter().mean[..., : model.num_modes]
    close(p.sum(-1), torch.ones(p.shape[:-1]).double(), 1e-12)
    assert bool((p >= -1e-15).all())
