"""Switching models in generic position, and the sum over every path of their modes."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from deepssm.core.model import LinearConditional, LinearParameters
from deepssm.models.discrete.switching import SwitchingLinearGaussian
from deepssm.models.gaussian.linear_gaussian import LinearGaussian
from tests import oracles
from tests.nonlinear_models import matrix


def random_mode(seed: int, state: int = 2, obs: int = 2) -> LinearGaussian:
    p = oracles.random_linear_gaussian(state, obs, 1, seed)
    (m0, P0, _), (A, b, Q), (C, d, R) = p
    return LinearGaussian(
        A[0], Q[0], C[0], R[0] + 0.1 * torch.eye(obs), b=b[0], d=d[0], m0=m0, P0=P0
    )


def two_modes(stay: float = 0.9) -> SwitchingLinearGaussian:
    return SwitchingLinearGaussian(
        [random_mode(1), random_mode(2)],
        transition=matrix([[stay, 1 - stay], [0.2, 0.8]]),
        initial=torch.tensor([0.7, 0.3], dtype=torch.float64),
    )


def data(time: int, *batch: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, time, 2, generator=g, dtype=torch.float64)


def drawn(model: SwitchingLinearGaussian, time: int, seed: int) -> Tensor:
    """Observations of the model itself."""
    torch.manual_seed(seed)
    z, observations = model.initial().sample(), []
    for t in range(time):
        z = model.transition(z).sample() if t else z
        observations.append(model.emission(z).sample())
    return torch.stack(observations)


def path_parameters(model: SwitchingLinearGaussian, path: tuple[int, ...]) -> LinearParameters:
    return path_parameters_of(model.mode_parameters(None, None), path)


def path_parameters_of(parameters: LinearParameters, path: tuple[int, ...]) -> LinearParameters:
    """The matrices of the modes of one path, from those of all modes."""
    initial, transition, emission = parameters
    conditionals = []
    for conditional in (transition, emission):
        fields = [
            torch.stack([x[min(t, len(x) - 1), k] for t, k in enumerate(path)])
            for x in conditional
        ]
        conditionals.append(LinearConditional(*fields))
    start = initial._replace(mean=initial.mean[path[0]], cov=initial.cov[path[0]])
    return LinearParameters(start, *conditionals)


def exact(model: SwitchingLinearGaussian, y: Tensor) -> dict[str, Tensor]:
    """Every path of modes, each solved as one dense Gaussian."""
    pi, A = model.log_initial(), model.log_transition()
    logs, probs, means = [], [], []
    for path in itertools.product(range(2), repeat=len(y)):
        steps = zip(path, path[1:], strict=False)
        prior = pi[path[0]] + sum((A[i, j] for i, j in steps), torch.zeros(()).double())
        parameters = path_parameters(model, path)
        logs.append(prior + oracles.log_likelihood(parameters, y).sum())
        probs.append(torch.nn.functional.one_hot(torch.tensor(path), 2).double())
        means.append(oracles.smooth(parameters, y).mean)
    joint = torch.stack(logs)
    weight = torch.softmax(joint, 0)
    return {
        "total": torch.logsumexp(joint, 0),
        "modes": torch.einsum("s,stk->tk", weight, torch.stack(probs)),
        "mean": torch.einsum("s,stn->tn", weight, torch.stack(means)),
    }
