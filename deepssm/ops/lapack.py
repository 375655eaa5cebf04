"""BLAS and LAPACK in compiled loops, on matrices that are stored row by row.

They are SciPy's own, found by address. LAPACK reads column by column: it sees the transpose of
each matrix, so that its upper factor `U' U` is the lower factor `L L'` here, and a row of a factor
is what it calls a column. Sizes are arguments, and the second axis of an array is its leading
dimension, so that one array can hold matrices of any smaller size. Nothing is allocated.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from .small_matrices import INLINE

BLOCK = 8
"""Columns that `stack_lower` reflects at once."""

_INT, _REAL, _CHAR = types.int32, types.float64, types.uint8
_NO, _YES, _LEFT, _RIGHT, _UPPER = 78, 84, 76, 82, 85  # letters N T L R U
_ANY = types.voidptr


def _routine(module: str, name: str, count: int) -> Any:  # noqa: ANN401
    """A routine of SciPy under a name that cached machine code finds again in a new process."""
    symbol = f"deepssm_{name}"
    address = get_cython_function_address(f"scipy.linalg.{module}", name)
    llvmlite.binding.add_symbol(symbol, address)
    return types.ExternalFunction(symbol, types.void(*[_ANY] * count))


_dgemm = _routine("cython_blas", "dgemm", 13)
_dsyrk = _routine("cython_blas", "dsyrk", 10)
_dtrsm = _routine("cython_blas", "dtrsm", 11)
_dtrmm = _routine("cython_blas", "dtrmm", 11)
_dgemv = _routine("cython_blas", "dgemv", 11)
_dpotrf = _routine("cython_lapack", "dpotrf", 5)
_dgeqrf = _routine("cython_lapack", "dgeqrf", 8)
_dtpqrt = _routine("cython_lapack", "dtpqrt", 12)
_dtpmqrt = _routine("cython_lapack", "dtpmqrt", 17)


def _typed(generator: Any) -> Any:  # noqa: ANN401
    """An intrinsic function, called without the typing context that its generator takes."""
    return intrinsic(generator)


def _slot(kind: types.Type) -> Any:  # noqa: ANN401
    """Make a function that puts a number on the stack and returns where it lies."""

    @_typed
    def reference(typing: Any, value: Any) -> Any:  # noqa: ANN401
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
            number = context.cast(builder, arguments[0], signature.args[0], kind)
            place = cgutils.alloca_once_value(builder, number)
            return builder.bitcast(place, ir.IntType(8).as_pointer())

        return _ANY(value), generate

    return reference


_int, _real, _char = _slot(_INT), _slot(_REAL), _slot(_CHAR)


@_typed
def _read(typing: Any, place: Any) -> Any:  # noqa: ANN401
    """The whole number that lies at a place on the stack."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.load(builder.bitcast(arguments[0], ir.IntType(32).as_pointer()))

    return _INT(_ANY), generate


@_typed
def _data(typing: Any, array: Any) -> Any:  # noqa: ANN401
    """Where the first number of an array lies."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        own = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(own.data, ir.IntType(8).as_pointer())

    return _ANY(array), generate


@njit(**INLINE)
def multiply(
    ta: bool, tb: bool, m: int, n: int, k: int, alpha: float, A: np.ndarray, B: np.ndarray,
    beta: float, C: np.ndarray,
) -> None:  # fmt: skip
    """`C = alpha op(A) op(B) + beta C`, `C` of size `m x n`, inner size `k`."""
    if m > 0 and n > 0:
        _dgemm(
            _char(_YES if tb else _NO), _char(_YES if ta else _NO), _int(n), _int(m), _int(k),
            _real(alpha), _data(B), _int(B.shape[1]), _data(A), _int(A.shape[1]), _real(beta),
            _data(C), _int(C.shape[1]),
        )  # fmt: skip


@njit(**INLINE)
def multiply_vector(
    ta: bool,
    m: int,
    n: int,
    alpha: float,
    A: np.ndarray,
    x: np.ndarray,
    beta: float,
    y: np.ndarray,
) -> None:
    """`y = alpha op(A) x + beta y`, `A` of size `m x n`."""
    if m > 0 and n > 0:
        _dgemv(
            _char(_NO if ta else _YES), _int(n), _int(m), _real(alpha), _data(A),
            _int(A.shape[1]), _data(x), _int(1), _real(beta), _data(y), _int(1),
        )  # fmt: skip


@njit(**INLINE)
def add_gram(
    ta: bool, n: int, k: int, alpha: float, A: np.ndarray, beta: float, C: np.ndarray
) -> None:
    """Lower half of `C = alpha A A' + beta C`, or of `A' A` where `ta`; `C` of size `n x n`."""
    if n > 0:
        _dsyrk(
            _char(_UPPER), _char(_NO if ta else _YES), _int(n), _int(k), _real(alpha), _data(A),
            _int(A.shape[1]), _real(beta), _data(C), _int(C.shape[1]),
        )  # fmt: skip


@njit(**INLINE)
def solve_lower(trans: bool, n: int, cols: int, M: np.ndarray, X: np.ndarray) -> None:
    """`X = M^-1 X`, or `M^-T X`; `M` lower triangular `n x n`, `X` of size `n x cols`."""
    if n > 0 and cols > 0:
        _dtrsm(
            _char(_RIGHT), _char(_UPPER), _char(_YES if trans else _NO), _char(_NO), _int(cols),
            _int(n), _real(1.0), _data(M), _int(M.shape[1]), _data(X), _int(X.shape[1]),
        )  # fmt: skip


@njit(**INLINE)
def solve_lower_right(trans: bool, rows: int, n: int, M: np.ndarray, X: np.ndarray) -> None:
    """`X = X M^-1`, or `X M^-T`; `M` lower triangular `n x n`, `X` of size `rows x n`."""
    if n > 0 and rows > 0:
        _dtrsm(
            _char(_LEFT), _char(_UPPER), _char(_YES if trans else _NO), _char(_NO), _int(n),
            _int(rows), _real(1.0), _data(M), _int(M.shape[1]), _data(X), _int(X.shape[1]),
        )  # fmt: skip


@njit(**INLINE)
def multiply_lower_right(trans: bool, rows: int, n: int, M: np.ndarray, X: np.ndarray) -> None:
    """`X = X M`, or `X M'`; `M` lower triangular `n x n`, `X` of size `rows x n`."""
    if n > 0 and rows > 0:
        _dtrmm(
            _char(_LEFT), _char(_UPPER), _char(_YES if trans else _NO), _char(_NO), _int(n),
            _int(rows), _real(1.0), _data(M), _int(M.shape[1]), _data(X), _int(X.shape[1]),
        )  # fmt: skip


@njit(**INLINE)
def cholesky(n: int, M: np.ndarray) -> bool:
    """Overwrite the lower half of `M` by its factor; false where `M` is not positive definite."""
    if n == 0:
        return True
    info = _int(0)
    _dpotrf(_char(_UPPER), _int(n), _data(M), _int(M.shape[1]), info)
    return _read(info) == 0


@njit(**INLINE)
def lower_factor(rows: int, cols: int, W: np.ndarray, tau: np.ndarray, work: np.ndarray) -> None:
    """Overwrite the lower half of `W`, `rows x cols`, by `L` with `L L' = W W'`, signs as come."""
    if rows > 0 and cols > 0:
        _dgeqrf(
            _int(cols), _int(rows), _data(W), _int(W.shape[1]), _data(tau), _data(work),
            _int(work.size), _int(0),
        )  # fmt: skip


@njit(**INLINE)
def stack_lower(
    n: int, m: int, L: np.ndarray, B: np.ndarray, T: np.ndarray, work: np.ndarray
) -> None:
    """Overwrite `L`, lower triangular, by the lower factor of `L L' + B B'`, `B` of size `n x m`.

    Args:
        n: Rows.
        m: Columns of `B`.
        L: `(n, n)`.
        B: `(n, m)`, overwritten by the reflections.
        T: `(n, BLOCK)` at least.
        work: `n * BLOCK` numbers at least.
    """
    if n > 0:
        block = min(BLOCK, n)
        _dtpqrt(
            _int(m), _int(n), _int(0), _int(block), _data(L), _int(L.shape[1]), _data(B),
            _int(B.shape[1]), _data(T), _int(T.shape[1]), _data(work), _int(0),
        )  # fmt: skip


@njit(**INLINE)
def apply_stack(
    k: int, m: int, rows: int, V: np.ndarray, T: np.ndarray, A: np.ndarray, B: np.ndarray,
    work: np.ndarray,
) -> None:  # fmt: skip
    """Apply the reflections that `stack_lower` left in `V`, `k x m`, to rows `[A | B]`.

    Args:
        k: Rows of the factor.
        m: Columns of `V`.
        rows: Of `A` and `B`.
        V: `(k, m)`.
        T: As `stack_lower` left it.
        A: `(rows, k)`.
        B: `(rows, m)`.
        work: `rows * BLOCK` numbers at least.
    """
    if k > 0 and rows > 0:
        _dtpmqrt(
            _char(_LEFT), _char(_YES), _int(m), _int(rows), _int(k), _int(0), _int(min(BLOCK, k)),
            _data(V), _int(V.shape[1]), _data(T), _int(T.shape[1]), _data(A), _int(A.shape[1]),
            _data(B), _int(B.shape[1]), _data(work), _int(0),
        )  # fmt: skip
