"""Every path of a short chain of discrete states with its joint probability: no recursion at all.

An observation that no path so far can explain counts as missing, as the library says.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.models.discrete.hidden_markov import HiddenMarkov


class AllPaths(NamedTuple):
    """What the sum over all paths says.

    Attributes:
        scores: `log p(y_t | y_{1:t-1})`, `(time,)`.
        predicted: `p(z_t | y_{1:t-1})`, `(time, states)`; so `filtered` and `smoothed`.
        filtered: Given `y_{1:t}`.
        smoothed: Given all.
        pairs: `p(z_{t-1}, z_t | y)`, `(time, states, states)`; entry 0 is zero.
        paths: All of them, `(paths, time)`.
        weight: Their probabilities given `y`, `(paths,)`.
        best: The most probable path, `(time,)`.
        best_value: Its log joint density with `y`.
    """

    scores: Tensor
    predicted: Tensor
    filtered: Tensor
    smoothed: Tensor
    pairs: Tensor
    paths: Tensor
    weight: Tensor
    best: Tensor
    best_value: Tensor


def all_paths(pi: Tensor, A: Tensor, B: Tensor) -> AllPaths:
    """Enumerate.

    Args:
        pi: Log-probabilities of the first state, `(states,)`.
        A: Log transition matrices, `(time, states, states)`; entry 0 is unused.
        B: Log-likelihoods of the states, `(time, states)`.
    """
    pi, A, B = (x.detach().double() for x in (pi, A, B))
    time, n = B.shape
    paths = torch.tensor(list(itertools.product(range(n), repeat=time)))
    hot = torch.nn.functional.one_hot(paths, n).double()
    joint, scores, predicted, filtered = pi[paths[:, 0]], [], [], []
    exact = joint.clone()
    for t in range(time):
        if t:
            move = A[t][paths[:, t - 1], paths[:, t]]
            joint, exact = joint + move, exact + move
        # The states after `t` are not summed yet: every prefix is there equally often.
        predicted.append(torch.softmax(joint, 0) @ hot[:, t])
        seen = joint + B[t][paths[:, t]]
        gained = torch.logsumexp(seen, 0) - torch.logsumexp(joint, 0)
        possible = bool(torch.isfinite(gained))
        scores.append(gained if possible else torch.tensor(-torch.inf).double())
        joint, exact = seen if possible else joint, exact + B[t][paths[:, t]]
        filtered.append(torch.softmax(joint, 0) @ hot[:, t])
    weight = torch.softmax(joint, 0)
    pairs = torch.einsum("s,sti,stj->tij", weight, hot[:, :-1], hot[:, 1:])
    return AllPaths(
        torch.stack(scores),
        torch.stack(predicted),
        torch.stack(filtered),
        torch.einsum("s,stk->tk", weight, hot),
        torch.cat((torch.zeros(1, n, n).double(), pairs)),
        paths,
        weight,
        paths[joint.argmax()],
        exact.max(),
    )


def all_paths_of(model: HiddenMarkov, series: Series) -> AllPaths:
    """Enumerate the paths of a model and one series."""
    n, time = model.state_dim, series.time
    A = model.log_transition(series.u, series.dt).expand(time, n, n)
    return all_paths(model.log_initial(), A, model.log_emission(series.y, series.u))


def shares(paths: Tensor, drawn: Tensor) -> Tensor:
    """Return how often each path of `AllPaths.paths` was drawn, `(paths,)`.

    Args:
        paths: `(paths, time)`.
        drawn: One-hot, `(samples, time, states)`.
    """
    n = drawn.shape[-1]
    place = n ** torch.arange(paths.shape[1] - 1, -1, -1)
    index = (drawn.argmax(-1) * place).sum(-1)
    return torch.bincount(index, minlength=len(paths)).double() / len(drawn)
