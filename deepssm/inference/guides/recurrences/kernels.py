"""Recurrent layers and the gated path for small networks, as compiled loops.

Below some thousand numbers a step, a loop over tensors spends its time on calls. Arrays have time
first; weights are stored so that inner loops run over neighbours in memory.
"""

from __future__ import annotations

import numpy as np

from ....ops.cache import cached


@cached(error_model="numpy")
def add_product(vector: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Add `vector @ matrix` to `out`."""
    for k in range(matrix.shape[0]):
        x = vector[k]
        for j in range(matrix.shape[1]):
            out[j] += x * matrix[k, j]


@cached(error_model="numpy")
def relu_forward(drive: np.ndarray, turned: np.ndarray, ended: np.ndarray, h: np.ndarray) -> None:
    """Fill `h[1:]` from `h[0]`; see `recurrences.relu_recurrence`.

    Args:
        drive: `(time, batch, hidden)`.
        turned: `W'`, `(hidden, hidden)`.
        ended: `(time, batch)`, bool.
        h: `(time + 1, batch, hidden)`, zero.
    """
    for t in range(drive.shape[0]):
        for b in range(drive.shape[1]):
            if ended[t, b]:
                continue
            row = h[t + 1, b]
            row[:] = drive[t, b]
            add_product(h[t, b], turned, row)
            for j in range(row.shape[0]):
                row[j] = max(row[j], 0.0)


@cached(error_model="numpy")
def relu_backward(grad: np.ndarray, weight: np.ndarray, h: np.ndarray, error: np.ndarray) -> None:
    """Turn `grad` into errors of the drive, last step first; `grad` is overwritten."""
    for t in range(grad.shape[0] - 1, -1, -1):
        for b in range(grad.shape[1]):
            for j in range(grad.shape[2]):
                error[t, b, j] = grad[t, b, j] if h[t + 1, b, j] > 0 else 0.0
            if t:
                add_product(error[t, b], weight, grad[t - 1, b])


@cached(error_model="numpy")
def gru_forward(
    drive: np.ndarray,
    turned: np.ndarray,
    bias: np.ndarray,
    ended: np.ndarray,
    h: np.ndarray,
    gates: np.ndarray,
    new: np.ndarray,
    recalled: np.ndarray,
) -> None:
    """Fill `h[1:]` and what the backward pass needs; see `recurrences.gru_recurrence`."""
    n = new.shape[2]
    pre = np.empty_like(bias)
    for t in range(drive.shape[0]):
        for b in range(drive.shape[1]):
            pre[:] = bias
            add_product(h[t, b], turned, pre)
            for j in range(2 * n):
                gates[t, b, j] = 1.0 / (1.0 + np.exp(-pre[j] - drive[t, b, j]))
            for j in range(n):
                recalled[t, b, j] = pre[2 * n + j]
                total = drive[t, b, 2 * n + j] + gates[t, b, j] * pre[2 * n + j]
                new[t, b, j] = np.tanh(total)
                if not ended[t, b]:
                    keep = gates[t, b, n + j]
                    h[t + 1, b, j] = (1 - keep) * new[t, b, j] + keep * h[t, b, j]


@cached(error_model="numpy")
def gru_backward(
    grad: np.ndarray,
    weight: np.ndarray,
    keep: np.ndarray,
    slopes: np.ndarray,
    ended: np.ndarray,
    error: np.ndarray,
) -> None:
    """Turn `grad` into errors of the states, in place, and of the recurrent products.

    Args:
        grad: `(time, batch, hidden)`.
        weight: `(3 hidden, hidden)`.
        keep: `(time, batch, hidden)`.
        slopes: What multiplies a state's error, `(time, batch, 3, hidden)`.
        ended: `(time, batch)`, bool.
        error: `(time, batch, 3 hidden)`, zero.
    """
    n = grad.shape[2]
    for t in range(grad.shape[0] - 1, -1, -1):
        for b in range(grad.shape[1]):
            if ended[t, b]:
                grad[t, b] = 0.0
                continue
            for k in range(3):
                for j in range(n):
                    error[t, b, k * n + j] = slopes[t, b, k, j] * grad[t, b, j]
            if t:
                add_product(error[t, b], weight, grad[t - 1, b])
                for j in range(n):
                    grad[t - 1, b, j] += keep[t, b, j] * grad[t, b, j]


@cached(error_model="numpy")
def gated_forward(
    turned: np.ndarray,
    bias: np.ndarray,
    outwards: np.ndarray,
    noise: np.ndarray,
    floor: float,
    z: np.ndarray,
    hidden: np.ndarray,
    pre: np.ndarray,
) -> None:
    """Fill a path from `z[0]`; see `gated_path.gated_path`.

    Args:
        turned: `W'`, `(state, hidden)`.
        bias: `(hidden,)`.
        outwards: `V'`, `(hidden, 2 state)`.
        noise: `(time, rows, state)`.
        floor: Of the standard deviations.
        z: `(time + 1, rows, state)`.
        hidden: `(time, rows, hidden)`.
        pre: Means and raw deviations, `(time, rows, 2 state)`; holds the drive.
    """
    n = noise.shape[2]
    for t in range(noise.shape[0]):
        for b in range(noise.shape[1]):
            row = hidden[t, b]
            row[:] = bias
            add_product(z[t, b], turned, row)
            for j in range(row.shape[0]):
                row[j] = np.tanh(row[j])
            add_product(row, outwards, pre[t, b])
            for i in range(n):
                raw = pre[t, b, n + i]
                scale = max(raw, 0.0) + np.log1p(np.exp(-abs(raw))) + floor
                z[t + 1, b, i] = pre[t, b, i] + scale * noise[t, b, i]


@cached(error_model="numpy")
def gated_backward(
    weight: np.ndarray,
    output: np.ndarray,
    pull: np.ndarray,
    error: np.ndarray,
    inner: np.ndarray,
    start: np.ndarray,
) -> None:
    """Complete the errors of a path, last step first.

    Args:
        weight: `W`, `(hidden, state)`.
        output: `V`, `(2 state, hidden)`.
        pull: `d z_t / d raw_t`, `(time, rows, state)`.
        error: `(time, rows, 2 state)`; holds what does not come through later steps.
        inner: `(time, rows, hidden)`; holds the slopes of the hidden layer.
        start: `(rows, state)`, zero; becomes the error of the state before the first.
    """
    n, total = pull.shape[2], np.empty(inner.shape[2], inner.dtype)
    carry = np.empty(n, inner.dtype)
    for b in range(pull.shape[1]):
        carry[:] = 0.0
        for t in range(pull.shape[0] - 1, -1, -1):
            for i in range(n):
                error[t, b, i] += carry[i]
                error[t, b, n + i] += carry[i] * pull[t, b, i]
            total[:] = 0.0
            add_product(error[t, b], output, total)
            for j in range(total.shape[0]):
                inner[t, b, j] *= total[j]
            carry[:] = 0.0
            add_product(inner[t, b], weight, carry)
        start[b] = carry


@cached(error_model="numpy")
def chain_forward(gates: np.ndarray, path: np.ndarray) -> None:
    """Add `A_t z_{t-1}` to each step of `path`, `(particles, batch, time, state)`, in turn.

    Args:
        gates: `(batch, time, state, state)`.
        path: Holds the drive.
    """
    n = path.shape[3]
    for p in range(path.shape[0]):
        for b in range(path.shape[1]):
            for t in range(1, path.shape[2]):
                for i in range(n):
                    total = path[p, b, t, i]
                    for j in range(n):
                        total += gates[b, t, i, j] * path[p, b, t - 1, j]
                    path[p, b, t, i] = total


@cached(error_model="numpy")
def chain_backward(gates: np.ndarray, error: np.ndarray) -> None:
    """Add `A_t' e_t` to each `error` before, last step first; arguments as in `chain_forward`."""
    for p in range(error.shape[0]):
        for b in range(error.shape[1]):
            for t in range(error.shape[2] - 1, 0, -1):
                add_product(error[p, b, t], gates[b, t], error[p, b, t - 1])
