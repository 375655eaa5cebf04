"""The exact filter with doubts: which observations to trust, decided one step at a time.

What a step trusts depends on the state before it, hence on what earlier steps trusted. So one pass
decides the weights of all observations, and then the plain filter and smoother run on the same
data with those that were rejected missing and the noise of the others divided by their weights.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ...core.gaussian import psd_factor
from ...core.model import LinearParameters
from .cpu.problem import Pass, allocate, prepare
from .diffuse import posterior_mix, proper_and_diffuse


class WeighsObservations(Protocol):
    """Says how far to trust the components of an observation, as `Gate()` does."""

    def weigh(
        self, slope: Tensor, spread: Tensor, residual: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the factor on the precision of each component's noise, `(obs,)`; 0 rejects it.

        The second value is what is to be added to the log-density of the observation as weighted.

        Args:
            slope: Of the observation in whitened coordinates of the state, `(obs, k)`.
            spread: Factor of the noise, `(obs, obs)`.
            residual: Observed minus predicted, `(obs,)`, anything finite where missing.
            observed: What to judge, `(obs,)`.
        """
        ...


class Doubted(NamedTuple):
    """What a robust filter makes of a model and data.

    Attributes:
        parameters: The model with the noise of each step divided by its weights.
        y: The data without what was rejected.
        trust: The weights, at most 1, `(*batch, time, obs)`, NaN where nothing was observed;
            `None` if nothing is doubted.
        extra: What is to be added to the log-likelihood of each step, `(*batch, time)` or `()`.
    """

    parameters: LinearParameters
    y: Tensor
    trust: Tensor | None
    extra: Tensor


def doubted(parameters: LinearParameters, y: Tensor, robust: WeighsObservations) -> Doubted:
    """Return the model and data that a robust filter makes of a model and data.

    Args:
        parameters: The model.
        y: `(*batch, time, obs)`, NaN where missing.
        robust: What to trust.

    Returns:
        What to filter, how far it is trusted, and what its scores lack.
    """
    weight, extra = (x.to(y) for x in _weights(parameters, y, robust))
    seen = ~torch.isnan(y)
    kept = seen & (weight > 0)
    root = torch.where(kept, weight, 1.0).rsqrt()
    C, d, R = parameters.emission
    emission = parameters.emission
    if bool((root != 1).any()):
        emission = emission._replace(cov=root[..., :, None] * R * root[..., None, :])
    trust = torch.where(seen, weight.clamp_max(1.0), torch.nan)
    given = parameters._replace(emission=emission), torch.where(kept, y, torch.nan)
    return Doubted(*given, trust, extra)


def judged(
    out: Pass, emission: tuple[np.ndarray, ...], y: np.ndarray, robust: WeighsObservations
) -> tuple[np.ndarray, float]:
    """Return the weights of one observation and what its score lacks, given slot 0 of `out`.

    A component that reaches into a direction which a diffuse start still leaves open is trusted:
    there is nothing to compare it with.

    Args:
        out: Means and slopes, factor and diffuse equations of the predicted state.
        emission: `C`, `d` and the covariance `R` of the step.
        y: `(obs,)`, NaN where missing.
        robust: What to trust.
    """
    C, d, R = (torch.from_numpy(np.ascontiguousarray(x)) for x in emission)
    columns, factor = torch.from_numpy(out.a[0, 0]), torch.from_numpy(out.L[0, 0])
    mean, values = columns[:, 0], torch.from_numpy(y)
    open_ = torch.zeros(len(y), dtype=torch.bool)
    if columns.shape[1] > 1:
        mix, undetermined = posterior_mix(torch.from_numpy(out.info[0, 0]))
        given = columns[:, 1:], torch.zeros_like(factor), mix[1:, 1:], undetermined
        directions = proper_and_diffuse(*given).factor
        open_ = ((C @ directions).abs() > 1e-10 * (C.abs() @ directions.abs())).any(-1)
        known = torch.where(undetermined, 0.0, columns[:, 1:] @ mix[1:, 1:])
        mean, factor = (columns @ mix[:, :1])[:, 0], torch.cat([factor, known], -1)
    observed = ~torch.isnan(values) & ~open_
    if not bool(observed.any()):
        return np.ones(len(y)), 0.0
    residual = torch.where(observed, values - C @ mean - d, 0.0)
    weight, extra = robust.weigh(C @ factor, psd_factor(R, "R"), residual, observed)
    return torch.where(observed, weight, 1.0).numpy(), float(extra)


def _weights(
    parameters: LinearParameters, y: Tensor, robust: WeighsObservations
) -> tuple[Tensor, Tensor]:
    from .cpu.scalar.filter import forward_space, predict_once, update_once

    problem = prepare(parameters, y)
    series, time, n, p, k, q = problem.sizes
    weights, extra = np.ones((series, time, p)), np.zeros((series, time))
    space = forward_space(n, p, k, q)
    for s in range(series):
        out = allocate(problem.sizes._replace(series=1, time=1), 1)
        mean, factor = (x[min(s, len(x) - 1)] for x in problem.start)
        out.info[:] = 0.0
        out.a[0, 0], out.L[0, 0] = mean, factor
        for t in range(time):
            step = tuple(_at(x, s, t) for x in problem.params)
            if t:
                predict_once(step, tuple(out), space)
            emission = tuple(x[0, 0] for x in step[3:])
            weights[s, t], extra[s, t] = judged(out, emission, problem.y[s, t], robust)
            data, R = weighted(problem.y[s, t], step[5], weights[s, t])
            update_once((*step[:5], R), data, tuple(out), space)
    found = torch.from_numpy(weights).reshape(*problem.batch, time, p)
    return found, torch.from_numpy(extra).reshape(*problem.batch, time)


def weighted(y: np.ndarray, R: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one observation and the covariance of its noise, `(1, 1, obs, obs)`, as trusted."""
    root = 1 / np.sqrt(np.where(weight > 0, weight, 1.0))
    return np.where(weight > 0, y, np.nan), np.ascontiguousarray(root[:, None] * R * root)


def _at(x: np.ndarray, s: int, t: int) -> np.ndarray:
    """Return the entry of one step of one series, axes kept."""
    i, j = min(s, x.shape[0] - 1), min(t, x.shape[1] - 1)
    return np.ascontiguousarray(x[i : i + 1, j : j + 1])
