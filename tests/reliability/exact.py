"""A Kalman filter and an inverse-free smoother in decimal arithmetic of any precision.

Rows of an observation are decorrelated by the `L D L'` of `R` and absorbed one at a time, so that
nothing is inverted; the smoother is the disturbance form `a + P r`, `P - P N P`, whose subtraction
costs digits that are there to be lost. It shares no formula with the square-root filter it judges.

Source: Durbin & Koopman (2012), sections 4.4 and 6.4.
"""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepssm.base import LinearParameters

Array = np.ndarray[Any, Any]
DIGITS = 120


class Moments(NamedTuple):
    mean: Tensor  # (T, n)
    cov: Tensor  # (T, n, n)


class Exact(NamedTuple):
    """The exact answer, rounded once to float64."""

    log_likelihood: Decimal  # of the whole series
    filtered: Moments
    predicted: Moments
    smoothed: Moments
    cross_cov: Tensor  # (T, n, n), Cov(z_t, z_{t-1} | y), zero at t = 0


class Model(NamedTuple):
    """One unbatched model in decimals; a time axis of size 1 means constant."""

    m0: Array
    P0: Array
    A: Array
    b: Array
    Q: Array
    C: Array
    d: Array
    R: Array

    @property
    def constant(self) -> bool:
        return all(x.shape[0] == 1 for x in (self.A, self.Q, self.C, self.R))


class _Row(NamedTuple):
    """One decorrelated scalar observation: its emission row, gain and variance."""

    c: Array
    K: Array
    s: Decimal


class _Step(NamedTuple):
    """Covariance side of one time step; shared by all later steps once it repeats itself."""

    P: Array
    rows: list[_Row]
    unit: Array
    seen: Array
    F: Array


def decimals(params: LinearParameters) -> Model:
    """Read every float of an unbatched proper model exactly."""
    start, transition, emission = params
    assert start.diffuse is None, "the decimal filter needs a proper start"
    parts = (start.mean, start.cov, *transition, *emission)
    return Model(*(_decimal(x.detach().double().numpy()) for x in parts))


def exact(params: LinearParameters | Model, y: Tensor, digits: int = DIGITS) -> Exact:
    """Filter and smooth one series `y`, `(T, p)`, to `digits` digits; more where they run out."""
    model = params if isinstance(params, Model) else decimals(params)
    truth = _exact(model, y, digits)
    variances = truth.smoothed.cov.diagonal(dim1=-2, dim2=-1)
    lost = variances < -(10.0 ** (-digits / 3)) * truth.predicted.cov.diagonal(dim1=-2, dim2=-1)
    return exact(model, y, 2 * digits) if bool(lost.any()) and digits < 900 else truth


def _exact(model: Model, y: Tensor, digits: int) -> Exact:
    with decimal.localcontext(_context(digits)):
        steps, a, m, white, ll = _filter(model, y, digits)
        mean, cov, cross = _smooth(model, steps, a, white, digits)
        F, P = [step.F for step in steps], [step.P for step in steps]
        return Exact(
            ll,
            Moments(_floats(m), _floats(F)),
            Moments(_floats(a), _floats(P)),
            Moments(_floats(mean), _floats(cov)),
            _floats(cross),
        )


def log_likelihood(model: Model, y: Tensor, digits: int = DIGITS) -> Decimal:
    """Return `log p(y)` alone."""
    with decimal.localcontext(_context(digits)):
        return _filter(model, y, digits)[4]


def _context(digits: int) -> decimal.Context:
    return decimal.Context(prec=digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


def _filter(
    model: Model, y: Tensor, digits: int
) -> tuple[list[_Step], list[Array], list[Array], list[list[Decimal]], Decimal]:
    values, seen = y.detach().double().numpy(), ~y.isnan().numpy()
    steps, a, m, white = [], [], [], []
    volume, square, count = Decimal(1), Decimal(0), 0
    for t in range(len(values)):
        if t == 0:
            mean, P = model.m0, model.P0
        else:
            A = _at(model.A, t)
            mean = A @ m[-1] + _at(model.b, t)
            P = _symmetric(A @ steps[-1].F @ A.T + _at(model.Q, t))
        if t > 1 and model.constant and _repeats(steps[-1], P, seen[t], digits):
            step = steps[-1]
        else:
            step = _update_cov(P, _at(model.C, t), _at(model.R, t), seen[t], digits)
        offset = _at(model.d, t)[seen[t]]
        e = step.unit @ (_decimal(values[t][seen[t]]) - offset) if seen[t].any() else []
        a.append(mean)
        innovations = []
        for row, value in zip(step.rows, e, strict=True):
            v = value - row.c @ mean
            innovations.append(v)
            if row.s:
                mean = mean + row.K * v
                volume, square, count = volume * row.s, square + v * v / row.s, count + 1
            elif abs(v) > Decimal(10) ** (-digits // 2) * (abs(value) + abs(row.c @ mean)):
                square = Decimal("Infinity")
        m.append(mean)
        steps.append(step)
        white.append(innovations)
    if count == 0:
        return steps, a, m, white, Decimal(0)
    total = -(volume.ln() + square + count * (2 * _pi(digits)).ln()) / 2
    return steps, a, m, white, total


def _update_cov(P: Array, C: Array, R: Array, seen: Array, digits: int) -> _Step:
    """Absorb the observed rows; a row without variance of its own gets `s = 0` and no gain."""
    unit, variances = _unit_factor_inverse(R[np.ix_(seen, seen)], digits)
    F, rows = P, []
    emission = unit @ C[seen] if seen.any() else C[seen]
    for c, r in zip(emission, variances, strict=True):
        before = sum(c * c * P.diagonal()) + r
        Fc = F @ c
        s = c @ Fc + r
        if s <= Decimal(10) ** (-digits // 2) * before:
            s, K = Decimal(0), Fc * 0
        else:
            K = Fc / s
            F = _symmetric(F - np.multiply.outer(K, Fc))
        rows.append(_Row(c, K, s))
    return _Step(P, rows, unit, seen, F)


def _smooth(
    model: Model, steps: list[_Step], a: list[Array], white: list[list[Decimal]], digits: int
) -> tuple[list[Array], list[Array], list[Array]]:
    n = len(model.m0)
    r, N = _decimal(np.zeros(n)), _decimal(np.zeros((n, n)))
    mean, cov, cross = [], [], []
    eye = _decimal(np.eye(n))
    old: tuple[_Step, Array, Array, Array] | None = None
    for t in range(len(white) - 1, -1, -1):
        step = steps[t]
        for row, v in zip(step.rows[::-1], white[t][::-1], strict=True):
            if row.s:
                r = r + row.c * (v / row.s - row.K @ r)
        if old and model.constant and step is old[0] and _same(N, old[1], digits):
            N, V = old[2], old[3]
        else:
            before = N
            for row in step.rows[::-1]:
                if row.s:
                    NK = N @ row.K
                    cross_term = np.multiply.outer(row.c, NK)
                    scale = 1 / row.s + row.K @ NK
                    N = N - cross_term - cross_term.T + np.multiply.outer(row.c, row.c) * scale
            V = _symmetric(step.P - step.P @ N @ step.P)
            old = (step, before, N, V)
        mean.append(a[t] + step.P @ r)
        cov.append(V)
        if t > 0:
            A = _at(model.A, t)
            cross.append((eye - step.P @ N) @ A @ steps[t - 1].F)
            r, N = A.T @ r, A.T @ N @ A
        else:
            cross.append(_decimal(np.zeros((n, n))))
    return mean[::-1], cov[::-1], cross[::-1]


def _unit_factor_inverse(R: Array, digits: int) -> tuple[Array, Array]:
    """Return `L^-1` and `D` of `R = L D L'`; a zero pivot of a semi-definite `R` ends a column."""
    S, inverse = R.copy(), _decimal(np.eye(len(R)))
    pivots = np.empty(len(R), object)
    for i in range(len(R)):
        pivots[i] = S[i, i] if S[i, i] > Decimal(10) ** (-digits // 2) * R[i, i] else Decimal(0)
        for j in range(i + 1, len(R)):
            if pivots[i]:
                factor = S[j, i] / pivots[i]
                S[j, i:] = S[j, i:] - factor * S[i, i:]
                inverse[j] = inverse[j] - factor * inverse[i]
    return inverse, pivots


def _repeats(step: _Step, P: Array, seen: Array, digits: int) -> bool:
    return bool((step.seen == seen).all()) and _same(P, step.P, digits)


def _same(x: Array, y: Array, digits: int) -> bool:
    """True when further steps would change nothing that float64 could show."""
    scale = [abs(value) for value in y.diagonal()]
    limit = Decimal(10) ** (-(2 * digits) // 3)
    return all(
        (x[i, j] - y[i, j]) ** 2 <= limit * scale[i] * scale[j]
        for i in range(len(y))
        for j in range(i + 1)
    )


def _at(x: Array, t: int) -> Array:
    return x[t if x.shape[0] > 1 else 0]


def _symmetric(x: Array) -> Array:
    return (x + x.T) / 2


def _decimal(x: Array) -> Array:
    out = np.empty(x.size, object)
    out[:] = [Decimal(float(value)) for value in x.flat]
    return out.reshape(x.shape)


def _floats(steps: list[Array]) -> Tensor:
    return torch.from_numpy(np.array([step.astype(float) for step in steps]))


def _pi(digits: int) -> Decimal:
    """Machin's formula."""

    def arctan_inverse(x: int) -> Decimal:
        power = total = Decimal(1) / x
        k = 1
        while abs(power) > Decimal(10) ** (-digits - 5):
            power /= -x * x
            k += 2
            total += power / k
        return total

    return 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
