"""The backward information pass of a linearised guide as one compiled loop."""

from __future__ import annotations

import numpy as np

from ....ops.cache import cached


@cached(error_model="numpy")
def inverse(matrix: np.ndarray, out: np.ndarray) -> None:
    """Invert a symmetric positive definite matrix through its Cholesky factor.

    Args:
        matrix: `(n, n)`; its lower half is overwritten by the factor's inverse.
        out: `(n, n)`.
    """
    n = matrix.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = np.sqrt(total) if i == j else total / matrix[j, j]
    for j in range(n):
        matrix[j, j] = 1.0 / matrix[j, j]
        for i in range(j + 1, n):
            total = 0.0
            for k in range(j, i):
                total -= matrix[i, k] * matrix[k, j]
            matrix[i, j] = total / matrix[i, i]
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(i, n):
                total += matrix[k, i] * matrix[k, j]
            out[i, j] = out[j, i] = total


@cached(error_model="numpy")
def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Store `a @ b` in `out`."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = 0.0
            for k in range(b.shape[0]):
                total += a[i, k] * b[k, j]
            out[i, j] = total


@cached(error_model="numpy")
def condition(Q: np.ndarray, L: np.ndarray, cov: np.ndarray, scratch: np.ndarray) -> None:
    """Store `S = s B^-1 s` in `cov` and `W = s B^-1 / s` in `scratch[0]`.

    With `s = sqrt(Q)` and `B = I + s L s`, which is never smaller than the identity.
    """
    W, B, inv = scratch[0], scratch[1], scratch[2]
    n = Q.shape[0]
    for a in range(n):
        for b in range(n):
            B[a, b] = np.sqrt(Q[a] * Q[b]) * L[a, b] + (1.0 if a == b else 0.0)
    inverse(B, inv)
    for a in range(n):
        for b in range(n):
            cov[a, b] = np.sqrt(Q[a] * Q[b]) * inv[a, b]
            W[a, b] = np.sqrt(Q[a] / Q[b]) * inv[a, b]


@cached(error_model="numpy")
def propagate(F: np.ndarray, M: np.ndarray, L: np.ndarray, work: np.ndarray) -> None:
    """Store `F' M F`, made symmetric, in `L`."""
    product(M, F, work)
    product(F.T, work, L)
    for a in range(L.shape[0]):
        for b in range(a):
            L[a, b] = L[b, a] = 0.5 * (L[a, b] + L[b, a])


@cached(error_model="numpy")
def backward_pass(
    F: np.ndarray,
    f: np.ndarray,
    Q: np.ndarray,
    J: np.ndarray,
    j: np.ndarray,
    gates: np.ndarray,
    drive: np.ndarray,
    cov: np.ndarray,
) -> None:
    """Fill `gates`, `drive` and `cov`; see `linearized_guide.backward_information`.

    Args:
        F: `(series, time, n, n)`.
        f: `(series, time, n)`.
        Q: Variances, `(series, time, n)`.
        J: Information of each step's observation, `(series, time, n, n)`.
        j: Its vector, `(series, time, n)`.
        gates: Output `A`, `(series, time, n, n)`.
        drive: Output `b`, `(series, time, n)`.
        cov: Output `S`, `(series, time, n, n)`.
    """
    n = F.shape[2]
    scratch, L, vector, step = np.zeros((5, n, n)), np.zeros((n, n)), np.zeros(n), np.zeros(n)
    W, M = scratch[0], scratch[3]
    for i in range(F.shape[0]):
        L[:] = 0.0
        vector[:] = 0.0
        for t in range(F.shape[1] - 1, -1, -1):
            L += J[i, t]
            vector += j[i, t]
            condition(Q[i, t], L, cov[i, t], scratch)
            product(W, F[i, t], gates[i, t])
            product(L, W, M)
            for a in range(n):
                drive[i, t, a] = step[a] = 0.0
                for b in range(n):
                    drive[i, t, a] += W[a, b] * f[i, t, b] + cov[i, t, a, b] * vector[b]
                    step[a] += W[b, a] * vector[b] - M[a, b] * f[i, t, b]
            for a in range(n):
                vector[a] = 0.0
                for b in range(n):
                    vector[a] += F[i, t, b, a] * step[b]
            propagate(F[i, t], M, L, scratch[4])
