"""Dense joint-Gaussian answers for linear-Gaussian models: slow, short, and no filter inside.

Every state and observation of all times is stacked into one Gaussian vector and conditioned by one
`L D L'` factorization, in float64 or, with `digits=`, in mpmath arithmetic of that many digits.
A diffuse start is a flat prior on `delta`: its likelihood is the marginal one,

    -1/2 [N log 2 pi + log|S| + log|X' S^-1 X| + e' S^-1 e],

and its posterior generalised least squares (Durbin & Koopman 2012, section 5.7; de Jong 1991).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from torch import Tensor

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters

Array = np.ndarray[Any, Any]


class Joint(NamedTuple):
    """Moments of `(z_{1:T}, y_{1:T})`, stacked: `z = z_mean + z_diffuse delta + e`, `y` alike."""

    z_mean: Array  # (T n)
    z_cov: Array  # (T n, T n)
    z_diffuse: Array  # (T n, k)
    y_mean: Array  # (T p)
    y_cov: Array  # (T p, T p)
    y_diffuse: Array  # (T p, k)
    yz_cov: Array  # (T p, T n)


class Posterior(NamedTuple):
    """Moments of states given some observations; infinite or NaN where the data fix nothing."""

    mean: Tensor  # (*batch, T, n)
    cov: Tensor  # (*batch, T, n, n)
    cross_cov: Tensor  # (*batch, T, n, n), Cov(z_t, z_{t-1}), zero at t = 0


def log_likelihood(params: LinearParameters, y: Tensor, *, digits: int | None = None) -> Tensor:
    """Return `log p(y_t | y_{1:t-1})`, `(*batch, T)`, diffuse observations' `-1/2 log 2 pi` in."""
    with mpmath.workdps(digits or 15):
        return _over_series(lambda p, s: (_log_likelihood(p, s, digits),), params, y)[0]


def smooth(params: LinearParameters, y: Tensor, *, digits: int | None = None) -> Posterior:
    """Return `p(z_t | y_{1:T})` and the lag-one covariances."""
    with mpmath.workdps(digits or 15):
        return Posterior(*_over_series(lambda p, s: _smooth(p, s, digits), params, y))


def filtered(params: LinearParameters, y: Tensor, *, digits: int | None = None) -> Posterior:
    """Return `p(z_t | y_{1:t})`; `cross_cov` is zero."""
    return _known_until(params, y, 1, digits)


def predicted(params: LinearParameters, y: Tensor, *, digits: int | None = None) -> Posterior:
    """Return `p(z_t | y_{1:t-1})`; `cross_cov` is zero."""
    return _known_until(params, y, 0, digits)


def observations(
    params: LinearParameters, y: Tensor, *, digits: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of a fresh `y_t` given all of `y`: forecasts where `y` is NaN."""
    state = smooth(params, y, digits=digits)
    C, offset, R = params.emission
    return (C @ state.mean[..., None])[..., 0] + offset, C @ state.cov @ C.mT + R


def joint(params: LinearParameters, time: int, digits: int | None = None) -> Joint:
    """Return the moments of one unbatched model over `time` steps."""
    (m0, P0, diffuse), (A, b, Q), (C, d, R) = _arrays(params, digits)
    n, p, k = m0.shape[-1], d.shape[-1], diffuse.shape[-1]
    z_mean, z_diffuse = np.empty((time, n), P0.dtype), np.empty((time, n, k), P0.dtype)
    z_cov = np.empty((time, n, time, n), P0.dtype)
    for t in range(time):
        if t == 0:
            z_mean[0], z_diffuse[0], z_cov[0, :, 0] = m0, diffuse, P0
            continue
        At = _at(A, t)
        z_mean[t], z_diffuse[t] = At @ z_mean[t - 1] + _at(b, t), At @ z_diffuse[t - 1]
        for s in range(t):
            z_cov[t, :, s] = At @ z_cov[t - 1, :, s]
            z_cov[s, :, t] = z_cov[t, :, s].T
        z_cov[t, :, t] = At @ z_cov[t - 1, :, t] + _at(Q, t)
    emit = np.zeros((time, p, time, n), P0.dtype)
    noise, offset = np.zeros((time, p, time, p), P0.dtype), np.empty((time, p), P0.dtype)
    for t in range(time):
        emit[t, :, t], noise[t, :, t], offset[t] = _at(C, t), _at(R, t), _at(d, t)
    H, P = emit.reshape(time * p, time * n), z_cov.reshape(time * n, time * n)
    mean, X = z_mean.reshape(-1), z_diffuse.reshape(time * n, k)
    y_cov = H @ P @ H.T + noise.reshape(time * p, time * p)
    return Joint(mean, P, X, H @ mean + offset.reshape(-1), y_cov, H @ X, H @ P)


def random_linear_gaussian(
    state: int,
    obs: int,
    time: int,
    seed: int,
    *,
    batch: tuple[int, ...] = (),
    time_varying: bool = False,
    inputs: bool = False,
    process_rank: int | None = None,
    initial_rank: int | None = None,
    noise_rank: int | None = None,
    diffuse: int = 0,
) -> LinearParameters:
    """Return a model in generic position: full matrices, no symmetry, `C m0 != 0`, `P0 != I`.

    `inputs` makes the offsets vary in time (what `B u` and `D u` do), `time_varying` all matrices.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def covariance(size: int, rank: int | None, *axes: int) -> Tensor:
        factor = normal(*axes, size, size + 1 if rank is None else rank)
        return factor @ factor.mT / size

    axes = (*batch, time if time_varying else 1)
    offset_axes = (*batch, time if time_varying or inputs else 1)
    A = normal(*axes, state, state)
    A = 0.9 * A / torch.linalg.matrix_norm(A, 2)[..., None, None] + 0.1 * normal(state, state)
    return LinearParameters(
        GaussianInitial(
            normal(*batch, state),
            covariance(state, initial_rank, *batch),
            normal(state, diffuse) if diffuse else None,
        ),
        LinearConditional(A, normal(*offset_axes, state), covariance(state, process_rank, *axes)),
        LinearConditional(
            normal(*axes, obs, state),
            normal(*offset_axes, obs),
            covariance(obs, noise_rank, *axes),
        ),
    )


def sample(params: LinearParameters, time: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `z`, `y` of an unbatched proper model from the stacked Gaussian."""
    j = joint(params, time)
    n, p = params.initial.mean.shape[-1], params.emission.offset.shape[-1]
    cov = np.block([[j.z_cov, j.yz_cov.T], [j.yz_cov, j.y_cov]])
    values, vectors = np.linalg.eigh(cov)
    noise = np.random.default_rng(seed).normal(size=len(cov)) * np.sqrt(values.clip(0))
    draw = torch.as_tensor(np.concatenate([j.z_mean, j.y_mean]) + vectors @ noise)
    return draw[: time * n].reshape(time, n), draw[time * n :].reshape(time, p)


def punch_holes(y: Tensor, rate: float, seed: int) -> Tensor:
    """Return `y` with components set to NaN at random."""
    holes = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    return torch.where(holes < rate, torch.nan, y)


def _at(x: Array, t: int) -> Array:
    return x[t if x.shape[0] > 1 else 0]


def _arrays(params: LinearParameters, digits: int | None) -> tuple[tuple[Array, ...], ...]:
    def convert(x: Tensor) -> Array:
        values = x.detach().cpu().double().numpy()
        if digits is None:
            return values
        return np.vectorize(mpmath.mpf, otypes=[object])(values) if values.size else values

    mean, cov, diffuse = params.initial
    if diffuse is None:
        diffuse = mean.new_zeros(mean.shape[-1], 0)
    return tuple(
        tuple(convert(x) for x in part)
        for part in ((mean, cov, diffuse), params.transition, params.emission)
    )


class _Whitened(NamedTuple):
    """Observed rows after `L^{-1}`: residual, diffuse design, covariance with the states."""

    times: Array
    weights: Array  # 1/d_i, 0 for a pivot that is zero: a redundant noiseless row
    pivots: Array
    e: Array
    X: Array
    Cz: Array


def _whiten(j: Joint, y: Tensor, digits: int | None) -> _Whitened:
    values = y.detach().cpu().double().numpy()
    seen = ~np.isnan(values.reshape(-1))
    e = np.where(seen, values.reshape(-1), 0.0) - j.y_mean
    rows = np.concatenate([e[:, None], j.y_diffuse, j.yz_cov], axis=1)[seen]
    S = j.y_cov[np.ix_(seen, seen)].copy()
    scale = S.diagonal().copy()
    tolerance = 1e-13 if digits is None else mpmath.mpf(10) ** (-digits // 2)
    pivots, weights = np.zeros(len(S), S.dtype), np.zeros(len(S), S.dtype)
    for i in range(len(S)):
        if S[i, i] <= tolerance * scale[i]:
            continue
        pivots[i], weights[i] = S[i, i], 1 / S[i, i]
        column = S[i + 1 :, i] / S[i, i]
        rows[i + 1 :] -= np.outer(column, rows[i])
        S[i + 1 :, i + 1 :] -= np.outer(column, S[i, i + 1 :])
    k = j.y_diffuse.shape[1]
    times = np.repeat(np.arange(y.shape[0]), y.shape[1])[seen]
    return _Whitened(times, weights, pivots, rows[:, 0], rows[:, 1 : 1 + k], rows[:, 1 + k :])


def _log_likelihood(params: LinearParameters, y: Tensor, digits: int | None) -> Tensor:
    w = _whiten(joint(params, y.shape[0], digits), y, digits)
    log = np.log if digits is None else np.vectorize(mpmath.log, otypes=[object])
    totals: list[Any] = [0.0]
    for t in range(y.shape[0]):
        known = (w.times <= t) & (w.weights != 0)
        X, e, weights = w.X[known], w.e[known], w.weights[known]
        total = -0.5 * (
            (log(2 * np.pi * w.pivots[known]) + e * e * weights).sum() if len(e) else 0
        )
        totals.append(total + _diffuse_terms(X.T @ (weights[:, None] * X), X.T @ (weights * e)))
    steps = [float(after - before) for before, after in itertools.pairwise(totals)]
    return torch.tensor(steps, dtype=torch.float64)


def _diffuse_terms(information: Array, vector: Array) -> Any:  # noqa: ANN401
    """Return `-1/2 log pdet(M) + 1/2 b' M^+ b`."""
    if not vector.size:
        return 0.0
    if information.dtype == object:
        values, vectors = mpmath.mp.eigsy(mpmath.matrix(information.tolist()))
        E, V = np.array(list(values)), np.array(vectors.tolist()).reshape(information.shape)
    else:
        E, V = np.linalg.eigh(information)
    total, largest = 0.0, max(abs(value) for value in E)
    for value, direction in zip(E, V.T, strict=True):
        if value > 1e-12 * largest:
            total += -0.5 * mpmath.log(value) + 0.5 * (direction @ vector) ** 2 / value
    return total


def _smooth(params: LinearParameters, y: Tensor, digits: int | None) -> tuple[Tensor, ...]:
    j = joint(params, y.shape[0], digits)
    w = _whiten(j, y, digits)
    weighted = w.weights[:, None] * w.Cz
    mean, cov = j.z_mean + weighted.T @ w.e, j.z_cov - weighted.T @ w.Cz
    if w.X.shape[1]:
        information = w.X.T @ (w.weights[:, None] * w.X)
        unexplained = j.z_diffuse - weighted.T @ w.X
        gain = unexplained @ _inverse(information)
        mean = mean + gain @ (w.X.T @ (w.weights * w.e))
        cov = cov + gain @ unexplained.T
    n = params.initial.mean.shape[-1]
    blocks = torch.as_tensor(cov.astype(float)).reshape(y.shape[0], n, y.shape[0], n)
    now = torch.arange(y.shape[0])
    cross = blocks[now, :, now - 1].clone()
    cross[0] = 0
    return torch.as_tensor(mean.astype(float)).reshape(-1, n), blocks[now, :, now], cross


def _inverse(information: Array) -> Array:
    """Invert, or return NaN where the data do not fix every diffuse direction."""
    if information.dtype == object:
        try:
            inverse = mpmath.matrix(information.tolist()) ** -1
        except ZeroDivisionError:
            return np.full(information.shape, mpmath.nan)
        return np.array(inverse.tolist()).reshape(information.shape)
    if np.linalg.matrix_rank(information, hermitian=True) < len(information):
        return np.full(information.shape, np.nan)
    return np.linalg.inv(information)


def _known_until(params: LinearParameters, y: Tensor, lead: int, digits: int | None) -> Posterior:
    steps = []
    for t in range(y.shape[-2]):
        known = y.clone()
        known[..., t + lead :, :] = torch.nan
        mean, cov, _ = smooth(params, known, digits=digits)
        steps.append((mean[..., t, :], cov[..., t, :, :]))
    mean = torch.stack([step[0] for step in steps], -2)
    cov = torch.stack([step[1] for step in steps], -3)
    return Posterior(mean, cov, torch.zeros_like(cov))


def _over_series(
    one: Callable[[LinearParameters, Tensor], tuple[Tensor, ...]],
    params: LinearParameters,
    y: Tensor,
) -> tuple[Tensor, ...]:
    """Apply `one` to every series of a batch, with that series' parameters."""
    batch = torch.broadcast_shapes(y.shape[:-2], *(s for s in _batch_shapes(params)))
    y = y.expand(*batch, *y.shape[-2:])
    results = [
        one(_series_parameters(params, batch, i), y[i])
        for i in itertools.product(*(range(size) for size in batch))
    ]
    return tuple(
        torch.stack(parts).reshape(*batch, *parts[0].shape) for parts in zip(*results, strict=True)
    )


def _tensors(params: LinearParameters) -> list[tuple[Tensor, int]]:
    """Return the batched tensors with the number of their non-batch axes."""
    tensors = (*params.initial[:2], *params.transition, *params.emission)
    return list(zip(tensors, (1, 2, 3, 2, 3, 3, 2, 3), strict=True))


def _batch_shapes(params: LinearParameters) -> list[torch.Size]:
    return [x.shape[: x.ndim - rank] for x, rank in _tensors(params)]


def _series_parameters(
    params: LinearParameters, batch: torch.Size, index: tuple[int, ...]
) -> LinearParameters:
    mean, cov, *rest = (
        x.expand(*batch, *x.shape[x.ndim - rank :])[index] for x, rank in _tensors(params)
    )
    return LinearParameters(
        GaussianInitial(mean, cov, params.initial.diffuse),
        LinearConditional(*rest[:3]),
        LinearConditional(*rest[3:]),
    )
