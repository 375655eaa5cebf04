"""A Kalman filter and an inverse-free smoother in decimal arithmetic of any precision.

The textbook's covariance form, `S` by `L D L'` with zero pivots for redundant rows; the smoother
is the disturbance form `a + P r`, `P - P N P`, which inverts no covariance of states and whose
subtractions cost digits that are there to be lost. It shares no formula with the square-root
filter it judges.

Source: Durbin & Koopman (2012), section 4.4.
"""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepssm.core.model import LinearParameters

Array = np.ndarray[Any, Any]
DIGITS = 100


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


class _Step(NamedTuple):
    """Covariance side of one time step; shared by all later steps once it repeats itself."""

    P: Array
    C: Array
    unit: Array  # M^-1 of S = M D M'
    pivots: Array  # D, zero where a row is redundant
    precision: Array  # S^-1, or that of the rows that are not redundant
    K: Array
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
) -> tuple[list[_Step], list[Array], list[Array], list[Array], Decimal]:
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
        a.append(mean)
        v = _decimal(values[t][seen[t]]) - _at(model.d, t)[seen[t]] - step.C @ mean
        white.append(v)
        for e, pivot in zip(step.unit @ v, step.pivots, strict=True):
            if pivot:
                volume, square, count = volume * pivot, square + e * e / pivot, count + 1
            elif abs(e) > Decimal(10) ** (-digits // 2) * max(abs(v) + abs(step.C @ mean)):
                square = Decimal("Infinity")
        m.append(mean + step.K @ v if len(v) else mean)
        steps.append(step)
    if count == 0:
        return steps, a, m, white, Decimal(0)
    total = -(volume.ln() + square + count * (2 * _pi(digits)).ln()) / 2
    return steps, a, m, white, total


def _update_cov(P: Array, C: Array, R: Array, seen: Array, digits: int) -> _Step:
    C, R = C[seen], R[np.ix_(seen, seen)]
    if not seen.any():
        empty = C @ P
        return _Step(P, C, R, R.diagonal(), R, empty.T, seen, P)
    unit, pivots = _unit_factor_inverse(_symmetric(C @ P @ C.T + R), digits)
    weights = np.array([1 / pivot if pivot else Decimal(0) for pivot in pivots])
    precision = unit.T @ (weights[:, None] * unit)
    K = P @ C.T @ precision
    return _Step(P, C, unit, pivots, precision, K, seen, _symmetric(P - K @ C @ P))


def _smooth(
    model: Model, steps: list[_Step], a: list[Array], white: list[Array], digits: int
) -> tuple[list[Array], list[Array], list[Array]]:
    n = len(model.m0)
    r, N = _decimal(np.zeros(n)), _decimal(np.zeros((n, n)))
    mean, cov, cross = [], [], []
    eye = _decimal(np.eye(n))
    old: tuple[_Step, Array, Array, Array] | None = None
    for t in range(len(white) - 1, -1, -1):
        step = steps[t]
        if step.seen.any():
            r = r + step.C.T @ (step.precision @ white[t] - step.K.T @ r)
        if old and model.constant and step is old[0] and _same(N, old[1], digits):
            N, V = old[2], old[3]
        else:
            before = N
            if step.seen.any():
                left = eye - step.K @ step.C
                N = _symmetric(step.C.T @ step.precision @ step.C + left.T @ N @ left)
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


def _unit_factor_inverse(cov: Array, digits: int) -> tuple[Array, Array]:
    """Return `M^-1` and `D` of `S = M D M'`; a pivot lost to the digits is zero."""
    S, inverse = cov.copy(), _decimal(np.eye(len(cov)))
    pivots = np.empty(len(cov), object)
    for i in range(len(cov)):
        lost = S[i, i] <= Decimal(10) ** (-digits // 2) * cov[i, i]
        pivots[i] = Decimal(0) if lost else S[i, i]
        for j in range(i + 1, len(cov)):
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
