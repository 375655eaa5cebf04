"""The selective scan as compiled loops: one pass forwards, one back that computes states again.

Arrays are C-contiguous: `u`, `delta`, `y` `(batch, time, d)`, `A` `(n, d)`, `B`, `C`
`(batch, time, n)`, states `(batch, n, d)`. Work is cut in pieces of one series and `_CHANNELS`
channels, which share nothing that they write, so that threads can take some each. Inner loops run
over channels, in buffers that stay in the cache, for the compiler to vectorise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from ..ops.cache import cached
from ..ops.simd import Builder, Context, Intrinsic, Value, Values

# Not the whole of fastmath: `nnan` would let a broken model pass for a sound one.
_OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "error_model": "numpy",
    "boundscheck": False,
}
# Reduction to `|r| <= log(2) / 2` takes two subtractions, which must not be merged.
_EXACT: dict[str, Any] = {
    "forceinline": True,
    "fastmath": {"contract"},
    "error_model": "numpy",
}
_CHANNELS = 64
REPLAYED_STEPS = 32  # between states that are stored


def _exponent_bits(context: TypingContext, exponent: types.Type) -> Intrinsic:
    """Write the exponent bits of a floating-point number; `exponent` is a whole number."""
    wide = exponent == types.float64
    whole, shift, bias = (ir.IntType(64), 52, 1023) if wide else (ir.IntType(32), 23, 127)

    def code(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        bits = builder.add(builder.fptosi(args[0], whole), ir.Constant(whole, bias))
        number = ir.DoubleType() if wide else ir.FloatType()
        return builder.bitcast(builder.shl(bits, ir.Constant(whole, shift)), number)

    return exponent(exponent), code


_power_of_two: Any = intrinsic(_exponent_bits)


@njit(**_EXACT)
def _exp_single(x: np.float32) -> np.float32:
    """Cephes: half a unit in the last place more than the best; the ends saturate."""
    x = np.float32(-87.3) if x < np.float32(-87.3) else x
    x = np.float32(88.3) if x > np.float32(88.3) else x
    k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
    p = r * np.float32(1.9875691e-4) + np.float32(1.3981999e-3)
    p = p * r + np.float32(8.3334519e-3)
    p = p * r + np.float32(4.1665795e-2)
    p = p * r + np.float32(1.6666665e-1)
    p = p * r + np.float32(5.0000001e-1)
    return (p * r * r + r + np.float32(1.0)) * _power_of_two(k)


@njit(**_EXACT)
def _exp_double(x: float) -> float:
    """Taylor's series of degree 13 on `|r| <= log(2) / 2`."""
    x = -708.0 if x < -708.0 else x
    x = 709.0 if x > 709.0 else x
    k = np.floor(x * 1.4426950408889634 + 0.5)
    r = x - k * 6.93145751953125e-1 - k * 1.42860682030941723212e-6
    p = 1.0 + r / 13.0
    for i in range(12, 0, -1):
        p = 1.0 + p * r * (1.0 / i)
    return p * _power_of_two(k)


def _exp(x: float) -> float:
    raise NotImplementedError


@overload(_exp, inline="always", strict=False)
def _exp_by_type(x: types.Type) -> Callable[..., Any]:
    if x == types.float32:
        return lambda x: _exp_single(x)
    return lambda x: _exp_double(x)


def pieces(batch: int, d: int) -> int:
    """Return the number of pieces of work."""
    return batch * -(-d // _CHANNELS)


@cached(nogil=True, **_OPTIONS)
def forward(
    u: np.ndarray, delta: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray,
    z: np.ndarray, y: np.ndarray, stored: np.ndarray, first: int, last: int,
) -> None:  # fmt: skip
    """Fill `y`, `stored` `(blocks or 0, batch, n, d)`, and `z` (the start) with the end."""
    time, d = u.shape[1:]
    n, parts = A.shape[0], -(-d // _CHANNELS)
    a, state = np.zeros((n, _CHANNELS), A.dtype), np.zeros((n, _CHANNELS), A.dtype)
    step, drive, out = (
        np.zeros(_CHANNELS, A.dtype),
        np.zeros(_CHANNELS, A.dtype),
        np.zeros(_CHANNELS, A.dtype),
    )
    for piece in range(first, last):
        b, start = piece // parts, piece % parts * _CHANNELS
        width = min(_CHANNELS, d - start)
        a[:] = 0.0
        state[:] = 0.0
        for j in range(n):
            for i in range(width):
                a[j, i], state[j, i] = A[j, start + i], z[b, j, start + i]
        for t in range(time):
            if t % REPLAYED_STEPS == 0 and stored.shape[0]:
                for j in range(n):
                    for i in range(width):
                        stored[t // REPLAYED_STEPS, b, j, start + i] = state[j, i]
            for i in range(width):
                step[i] = delta[b, t, start + i]
                drive[i] = step[i] * u[b, t, start + i]
                out[i] = 0.0
            for j in range(n):
                enter, leave = B[b, t, j], C[b, t, j]
                for i in range(_CHANNELS):
                    value = _exp(step[i] * a[j, i]) * state[j, i] + drive[i] * enter
                    state[j, i] = value
                    out[i] += leave * value
            for i in range(width):
                y[b, t, start + i] = out[i]
        for j in range(n):
            for i in range(width):
                z[b, j, start + i] = state[j, i]


@njit(nogil=True, **_OPTIONS)
def _replay(
    u: np.ndarray, delta: np.ndarray, B: np.ndarray, dy: np.ndarray, a: np.ndarray,
    state: np.ndarray, gates: np.ndarray, before: np.ndarray, dC: np.ndarray, start: int,
) -> None:  # fmt: skip
    """Compute the states of a block again, keep them with the gates, and fill `dC`."""
    n, width = a.shape[0], min(_CHANNELS, u.shape[1] - start)
    step, drive, weight = (
        np.zeros(_CHANNELS, a.dtype),
        np.zeros(_CHANNELS, a.dtype),
        np.zeros(_CHANNELS, a.dtype),
    )
    for t in range(u.shape[0]):
        for i in range(width):
            step[i] = delta[t, start + i]
            drive[i] = step[i] * u[t, start + i]
            weight[i] = dy[t, start + i]
        for j in range(n):
            enter, total = B[t, j], a.dtype.type(0.0)
            for i in range(_CHANNELS):
                gate, old = _exp(step[i] * a[j, i]), state[j, i]
                value = gate * old + drive[i] * enter
                gates[t, j, i], before[t, j, i], state[j, i] = gate, old, value
                total += weight[i] * value
            dC[t, j] = total


@njit(nogil=True, **_OPTIONS)
def _retrace(
    u: np.ndarray, delta: np.ndarray, B: np.ndarray, C: np.ndarray, dy: np.ndarray,
    a: np.ndarray, gates: np.ndarray, before: np.ndarray, adjoint: np.ndarray, da: np.ndarray,
    du: np.ndarray, d_delta: np.ndarray, dB: np.ndarray, start: int,
) -> None:  # fmt: skip
    """Run the adjoint state through a block, backwards."""
    n, width = a.shape[0], min(_CHANNELS, u.shape[1] - start)
    step, drive, weight = (
        np.zeros(_CHANNELS, a.dtype),
        np.zeros(_CHANNELS, a.dtype),
        np.zeros(_CHANNELS, a.dtype),
    )
    entered, held = np.zeros((2, _CHANNELS), a.dtype)
    for t in range(u.shape[0] - 1, -1, -1):
        for i in range(width):
            step[i] = delta[t, start + i]
            drive[i] = step[i] * u[t, start + i]
            weight[i] = dy[t, start + i]
            entered[i] = held[i] = 0.0
        for j in range(n):
            enter, leave, total = B[t, j], C[t, j], a.dtype.type(0.0)
            for i in range(_CHANNELS):
                slope = adjoint[j, i] + leave * weight[i]
                total += slope * drive[i]
                entered[i] += slope * enter
                slope *= gates[t, j, i]
                adjoint[j, i] = slope
                slope *= before[t, j, i]
                held[i] += slope * a[j, i]
                da[j, i] += slope * step[i]
            dB[t, j] = total
        for i in range(width):
            du[t, start + i] = step[i] * entered[i]
            d_delta[t, start + i] = u[t, start + i] * entered[i] + held[i]


@cached(nogil=True, **_OPTIONS)
def backward(
    u: np.ndarray, delta: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray,
    stored: np.ndarray, dy: np.ndarray, dz: np.ndarray, du: np.ndarray, d_delta: np.ndarray,
    dA: np.ndarray, dB: np.ndarray, dC: np.ndarray, first: int, last: int,
) -> None:  # fmt: skip
    """Fill gradients: `dz` (of the end) with that of the start, the others as their arguments.

    `dA` is `(batch, n, d)`; `dB` and `dC` have one more axis in front, the parts of channels.
    """
    time, d = u.shape[1:]
    n, parts, kind = A.shape[0], -(-d // _CHANNELS), A.dtype
    gates, before = (
        np.zeros((REPLAYED_STEPS, n, _CHANNELS), kind),
        np.zeros((REPLAYED_STEPS, n, _CHANNELS), kind),
    )
    a, da = np.zeros((n, _CHANNELS), kind), np.zeros((n, _CHANNELS), kind)
    state, adjoint = np.zeros((n, _CHANNELS), kind), np.zeros((n, _CHANNELS), kind)
    for piece in range(first, last):
        b, part = piece // parts, piece % parts
        start = part * _CHANNELS
        width = min(_CHANNELS, d - start)
        for buffer in (a, state, adjoint, da):
            buffer[:] = 0.0
        for j in range(n):
            for i in range(width):
                a[j, i], adjoint[j, i] = A[j, start + i], dz[b, j, start + i]
        for block in range(stored.shape[0] - 1, -1, -1):
            for j in range(n):
                for i in range(width):
                    state[j, i] = stored[block, b, j, start + i]
            x = block * REPLAYED_STEPS
            y = min(x + REPLAYED_STEPS, time)
            _replay(
                u[b, x:y], delta[b, x:y], B[b, x:y], dy[b, x:y],
                a, state, gates, before, dC[part, b, x:y], start,
            )  # fmt: skip
            _retrace(
                u[b, x:y], delta[b, x:y], B[b, x:y], C[b, x:y], dy[b, x:y], a, gates, before,
                adjoint, da, du[b, x:y], d_delta[b, x:y], dB[part, b, x:y], start,
            )  # fmt: skip
        for j in range(n):
            for i in range(width):
                dz[b, j, start + i], dA[b, j, start + i] = adjoint[j, i], da[j, i]
