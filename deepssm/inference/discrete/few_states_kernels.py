"""The scaled recursions of chains with four states at most, whose numbers stay in registers.

Transitions are constant. A step that wants logarithms is left to `hidden_markov_kernels`.
"""

from __future__ import annotations

from ...ops.arrays import Matrices, Matrix, Vector
from ...ops.cache import cached

MOST_FEW = 4
# What is rounded to zero is below 1e-308: see `hidden_markov_kernels`.
TINY = 1e-292
# Evidence below this is summed in logarithms.
LEAST = 1e-100
_SUMS = {"contract", "reassoc", "nsz"}


@cached(error_model="numpy", fastmath=_SUMS)
def few_forward(
    t: int,
    P: Matrices,
    E: Matrix,
    predicted: Matrix,
    filtered: Matrix,
    total: Vector,
    keep: bool,
) -> int:
    """Filter from step `t` on; return the first step that wants logarithms, or the number of all.

    Arguments are those of `hidden_markov_kernels.forward`, for one series.
    """
    steps, K = E.shape
    i, j, k = min(1, K - 1), min(2, K - 1), min(3, K - 1)
    # Of states that there are not, predictions are 0 and copies of the last state's are written
    # before its own.
    two, three, four = min(K - 1, 1) * 1.0, min(K // 3, 1) * 1.0, min(K // 4, 1) * 1.0
    a0, a1, a2, a3 = P[0, 0, 0], P[0, 0, i] * two, P[0, 0, j] * three, P[0, 0, k] * four
    b0, b1, b2, b3 = P[0, i, 0], P[0, i, i] * two, P[0, i, j] * three, P[0, i, k] * four
    c0, c1, c2, c3 = P[0, j, 0], P[0, j, i] * two, P[0, j, j] * three, P[0, j, k] * four
    d0, d1, d2, d3 = P[0, k, 0], P[0, k, i] * two, P[0, k, j] * three, P[0, k, k] * four
    now = t if keep else t % 2
    w, x = predicted[now, 0], predicted[now, i] * two
    y, z = predicted[now, j] * three, predicted[now, k] * four
    while t < steps:
        w, x, y, z = w * E[t, 0], x * E[t, i], y * E[t, j], z * E[t, k]
        evidence = (w + x) + (y + z)
        if not evidence > LEAST:
            return t
        scale = 1.0 / evidence
        w, x, y, z = w * scale, x * scale, y * scale, z * scale
        now, after = (t, t + 1) if keep else (t % 2, 1 - t % 2)
        filtered[now, k], filtered[now, j], filtered[now, i], filtered[now, 0] = z, y, x, w
        w, x, y, z = (
            (w * a0 + x * b0) + (y * c0 + z * d0),
            (w * a1 + x * b1) + (y * c1 + z * d1),
            (w * a2 + x * b2) + (y * c2 + z * d2),
            (w * a3 + x * b3) + (y * c3 + z * d3),
        )
        low = min(w, x if K > 1 else w, y if K > 2 else w, z if K > 3 else w)
        if not low * min(evidence, 1.0) >= TINY:
            return t
        predicted[after, 0] = w
        if K > 1:
            predicted[after, 1] = x
        if K > 2:
            predicted[after, 2] = y
        if K > 3:
            predicted[after, 3] = z
        total[t] = evidence
        t += 1
    return steps


@cached(error_model="numpy", fastmath=_SUMS)
def few_backward(
    t: int,
    gradient: bool,
    P: Matrices,
    predicted: Matrix,
    filtered: Matrix,
    total: Vector,
    weight: Vector,
    carry: Vector,
    v: Matrix,
    ratio: Matrix,
) -> int:
    """Go back from before step `t`; return the step before which logarithms are wanted, or 0.

    Arguments are those of `hidden_markov_kernels.backward`, for one series.
    """
    K = v.shape[1]
    while t > 0:
        u = t - 1
        if gradient and total[u] == 0.0:
            return t
        for j in range(K):
            p = predicted[t, j]
            if p < 0.0:
                return t
            ratio[u, j] = carry[j] / p if p > 0.0 else 0.0
        whole = 0.0
        for i in range(K):
            back = 0.0
            for j in range(K):
                back += P[0, i, j] * ratio[u, j]
            v[u, i] = back * filtered[u, i]
            whole += v[u, i]
        rest = weight[u] - whole
        for i in range(K):
            carry[i] = v[u, i] + rest * filtered[u, i]
            v[u, i] = carry[i]
        t = u
    return 0
