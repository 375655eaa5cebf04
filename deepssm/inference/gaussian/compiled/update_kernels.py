"""Conditions on observations of one step, and doubts outliers."""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Spaces, Vector, Whole
from ....ops.lanes import load, number, root, size_of, some_less, store, where_less
from .condition_kernels import absorb, whiten
from .step_kernels import DIAGONAL, INLINE, OUT, lower

NO_DOUBT, GATE, GATE_EACH, STUDENT, HUBER = range(5)
"""What is made of outliers; see `robust.py`."""
DOUBT, ROUNDS, ITERATIONS, JOINT, MOVES = range(5)
"""Whole numbers of a pass: kind of doubt and its iterations; linearisations of an emission;
whether a smoother follows; whether the first step moves too."""
EXACT = 1e-13
"""Share of a row's size below which its noise counts as none; the array form takes such rows."""


@njit(**INLINE)
def marginal_noise(
    side: Spaces, n: int, W: Vector, width: int, seen: Vector, missing: bool, M: Vector, R: Vector
) -> bool:
    """Factor what is not the state's, `R`, of the seen components; return whether some is none.

    What is missing gets noise of its own, so that nothing is learnt from it.
    """
    whole = side[0]
    p, cols = whole[OUT], width - n
    if whole[DIAGONAL] > 0:
        for i in range(p):
            for j in range(p):
                store(R, i * p + j, load(W, i * width + n + j))
            there = load(seen, i)
            store(R, i * p + i, where_less(there, 0.5, 1.0, load(R, i * p + i)))
    else:
        wide = cols
        if missing:
            wide = cols + p
        for i in range(p):
            there = load(seen, i)
            for j in range(wide):
                value = number(R, 0.0)
                if j < cols:
                    value = load(W, i * width + n + j) * there
                elif j == cols + i:
                    value = number(R, 1.0) - there
                store(M, i * wide + j, value)
        lower(p, M, wide, 0, wide, p, R)
    exact = False
    for i in range(p):
        square = number(R, 0.0)
        for j in range(width):
            square += load(W, i * width + j) * load(W, i * width + j)
        exact = exact or not_above(load(R, i * p + i), root(square) * load(seen, i) * EXACT)
    return exact


@njit(**INLINE)
def not_above(a: Vector, b: Vector) -> bool:
    """True when `a > b` fails for some series, because of NaN too."""
    return some_less(where_less(b, a, 1.0, 0.0), 0.5)


@njit(**INLINE)
def gate(p: int, numbers: Vector, seen: Vector, distance: Vector) -> bool:
    """Reject a step whose squared distance is beyond the limit for its number of components."""
    square, count, changed = load(distance, 0), load(distance, 1), False
    limit = number(seen, 0.0)
    for c in range(p + 1):
        limit = where_less(size_of(count - 1.0 * c), 0.5, number(seen, numbers[c]), limit)
    for i in range(p):
        there = load(seen, i)
        kept = where_less(limit, square, 0.0, there)
        changed = changed or some_less(kept, there)
        store(seen, i, kept)
    return changed


@njit(**INLINE)
def gate_each(p: int, W: Vector, width: int, v: Vector, numbers: Vector, seen: Vector) -> bool:
    """Reject components whose own squared distance is beyond the limit for one."""
    changed = False
    for i in range(p):
        square, there = number(v, 0.0), load(seen, i)
        for j in range(width):
            square += load(W, i * width + j) * load(W, i * width + j)
        square = load(v, i) * load(v, i) / square
        kept = where_less(number(v, numbers[1]), square, 0.0, there)
        changed = changed or some_less(kept, there)
        store(seen, i, kept)
    return changed


@njit(**INLINE)
def weigh_student(
    n: int, p: int, white: Vector, T: Vector, shift: Vector, dof: float, seen: Vector, row: Vector,
    scale: Vector,
) -> None:  # fmt: skip
    """Inflate a step's noise as what is left of its whitened residuals demands."""
    total, count = number(seen, 0.0), number(seen, 0.0)
    for i in range(p):
        count += load(seen, i)
        left = load(white, n * p + i)
        for b in range(n):
            left -= load(white, b * p + i) * load(shift, b)
        total += left * left
        # The row of the posterior's factor is `T^-1` times that of the slope.
        for b in range(n - 1, -1, -1):
            value = load(white, b * p + i)
            for c in range(b + 1, n):
                value -= load(T, b * n + c) * load(row, c)
            value = value / load(T, b * n + b)
            store(row, b, value)
            total += value * value
    weight = (count + dof) / (total + dof)
    for i in range(p):
        store(scale, i, root(weight))


@njit(**INLINE)
def weigh_huber(
    n: int, p: int, W: Vector, width: int, v: Vector, shift: Vector, threshold: float,
    scale: Vector,
) -> None:  # fmt: skip
    """Inflate the noise of components that lie more than `threshold` deviations off."""
    for i in range(p):
        left, square = load(v, i), number(v, 0.0)
        for b in range(n):
            left -= load(W, i * width + b) * load(shift, b)
        for j in range(n, width):
            square += load(W, i * width + j) * load(W, i * width + j)
        far = size_of(left) / root(square)
        limit = number(v, threshold)
        store(scale, i, root(where_less(limit, far, limit / far, 1.0)))


@njit(**INLINE)
def update(
    side: Spaces, rules: Whole, numbers: Vector, n: int, width: int, missing: bool, space: Spaces
) -> tuple[Vector, bool]:
    """Condition `e` on the seen components of `v = slope e + spread n`, doubting as asked.

    Return the log-density and whether some component had no noise of its own.
    """
    W, M, R, A, white, _, v, seen, scale, distance, T, shift, row = space
    p, kind, diagonal = side[0][OUT], rules[DOUBT], side[0][DIAGONAL] > 0
    for i in range(p):
        store(scale, i, 1.0)
    exact = marginal_noise(side, n, W, width, seen, missing, M, R)
    whiten(n, p, W, width, R, diagonal, v, scale, seen, A)
    if kind == STUDENT:
        for i in range((n + 1) * p):
            store(white, i, load(A, i))
    score = absorb(n, p, A, R, scale, seen, T, shift, distance)
    for _ in range(rules[ROUNDS]):
        if kind == STUDENT:
            weigh_student(n, p, white, T, shift, numbers[0], seen, row, scale)
        elif kind == HUBER:
            weigh_huber(n, p, W, width, v, shift, numbers[0], scale)
        else:
            if kind == GATE:
                changed = gate(p, numbers, seen, distance)
            else:
                changed = gate_each(p, W, width, v, numbers, seen)
            if not changed:
                break
            exact = marginal_noise(side, n, W, width, seen, True, M, R) or exact
        whiten(n, p, W, width, R, diagonal, v, scale, seen, A)
        score = absorb(n, p, A, R, scale, seen, T, shift, distance)
    return score, exact


@njit(**INLINE)
def again_about(
    n: int, p: int, W: Vector, width: int, T: Vector, shift: Vector, taylor: bool, row: Vector,
    mean: Vector,
) -> None:  # fmt: skip
    """Turn a step about the posterior into one in the coordinates of the prior."""
    for o in range(p):
        at = o * width
        if not taylor:
            for b in range(n):
                value = number(W, 0.0)
                for i in range(b, n):
                    value += load(W, at + i) * load(T, b * n + i)
                store(row, b, value)
            for b in range(n):
                store(W, at + b, load(row, b))
        back = load(mean, o)
        for b in range(n):
            back -= load(W, at + b) * load(shift, b)
        store(mean, o, back)
