"""One Gaussian of a switching filter, compiled: mixed, moved, scored, conditioned, merged."""

from __future__ import annotations

import math

from ...ops.arrays import Marks, Matrices, Matrix, Space, Vector
from ...ops.cache import cached
from ...ops.small_matrices import DRIVER
from ..gaussian.kernels import absorb_rows, lay_identity, triangle

_INF = math.inf


@cached(**DRIVER)
def log_sum(x: Vector) -> float:
    """Return `log sum exp`; of nothing it is `-inf`."""
    top, total = -_INF, 0.0
    for value in x:
        top = max(top, value)
    if top == -_INF:
        return -_INF
    for value in x:
        total += math.exp(value - top)
    return top + math.log(total)


@cached(**DRIVER)
def lay_mixture(
    log_weight: Vector, mean: Matrix, factor: Matrices, W: Matrix, centre: Vector
) -> int:
    """Lay a factor of a mixture's covariance into `W`; write its mean. Returns columns."""
    parts, n = mean.shape
    total = log_sum(log_weight)
    centre[:] = 0.0
    for i in range(parts):
        share = math.exp(log_weight[i] - total) if total > -_INF else 1.0 / parts
        for a in range(n):
            centre[a] += share * mean[i, a]
    for i in range(parts):
        share = math.exp(log_weight[i] - total) if total > -_INF else 1.0 / parts
        root = math.sqrt(share)
        for a in range(n):
            for k in range(n):
                W[a, i * n + k] = root * factor[i, a, k]
            W[a, parts * n + i] = root * (mean[i, a] - centre[a])
    return parts * (n + 1)


@cached(**DRIVER)
def predict(
    A: Matrix, b: Vector, LQ: Matrix, cols: int, W: Matrix, V: Matrix, mean: Vector, out: Matrix
) -> None:
    """Move the Gaussian of mean `mean` and factor `W[:, :cols]`; write what comes of it."""
    n = len(b)
    for a in range(n):
        for k in range(cols):
            total = 0.0
            for c in range(n):
                total += A[a, c] * W[c, k]
            V[a, k] = total
        for k in range(n):
            V[a, cols + k] = LQ[a, k]
        total = b[a]
        for c in range(n):
            total += A[a, c] * mean[c]
        out[a, 0] = total
    for a in range(n):
        mean[a] = out[a, 0]
    triangle(0, 0, n, cols + n, V, out)


@cached(**DRIVER)
def merge(
    pasts: int, j: int, found: Space, joint: Space, W: Matrix, centre: Vector, out: Matrix
) -> float:
    """Write mean and factor of the mixture over pasts of a mode; return its log-weight."""
    n = len(centre)
    weight, mean, L = joint
    for i in range(pasts):
        weight[i] = found[0][i, j]
        for a in range(n):
            mean[i, a] = found[1][i, j, a]
            for k in range(n):
                L[i, a, k] = found[2][i, j, a, k]
    if pasts == 1:
        for a in range(n):
            centre[a] = mean[0, a]
            for k in range(n):
                out[a, k] = L[0, a, k]
        return weight[0]
    cols = lay_mixture(weight, mean, L, W, centre)
    triangle(0, 0, n, cols, W, out)
    return log_sum(weight)


@cached(**DRIVER)
def score(
    C: Matrix,
    d: Vector,
    LR: Matrix,
    mean: Vector,
    L: Matrix,
    y: Vector,
    seen: Marks,
    eps: float,
    W: Matrix,
    work: Matrix,
) -> tuple[int, int, float, float]:
    """Lay and absorb the rows of an observation.

    Returns rows, columns used, log-density and squared distance; `work[2]` holds what is white.
    """
    p, n = C.shape
    target, size, white = work[0], work[1], work[2]
    o = 0
    for i in range(p):
        if not seen[i]:
            continue
        expected = d[i]
        for a in range(n):
            expected += C[i, a] * mean[a]
        for k in range(n):
            total = 0.0
            for a in range(n):
                total += C[i, a] * L[a, k]
            W[o, k] = total
        for k in range(p):
            W[o, n + k] = LR[i, k]
        target[o] = y[i] - expected
        size[o] = 1.0 + abs(target[o]) + abs(expected)
        o += 1
    lay_identity(o, n, n + p, W)
    c, found, _, wrong = absorb_rows(o, n, n + p, 10.0 * (p + n) * eps, W, target, size, white)
    square = 0.0
    for j in range(c):
        square += white[j] * white[j]
    return o, c, -_INF if wrong else found, square


@cached(**DRIVER)
def condition(
    o: int,
    c: int,
    cols: int,
    W: Matrix,
    white: Vector,
    gain: Matrix,
    mean: Vector,
    L: Matrix,
    out: Matrix,
) -> None:
    """Write the posterior of what `score` absorbed: `mean` is moved, its factor goes to `out`."""
    n = len(mean)
    for i in range(n):
        moved = 0.0
        for j in range(c):
            moved += W[o + i, j] * white[j]
        for a in range(n):
            mean[a] += L[a, i] * moved
    triangle(o, c, n, cols, W, gain)
    for a in range(n):
        for k in range(n):
            total = 0.0
            for i in range(n):
                total += L[a, i] * gain[i, k]
            out[a, k] = total
