"""Torch's operations that move, join, add up and multiply arrays, written into a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .elementwise import ELEMENTWISE, Handler, array, larger, mapped, smaller
from .program import Atom, Atoms, Block, Program, Untraceable

FULL = 1 << 60
LOOPED = 64
"""Entries from which the product of a parameter matrix and a vector is a loop."""


def _slice(program: Program, x: Atoms, dim: int = 0, start: int | None = None,
           end: int | None = None, step: int = 1) -> Atoms:  # fmt: skip
    index: list[slice] = [slice(None)] * x.ndim
    stop = None if end is None or end > FULL else end
    index[dim] = slice(start, stop, step)
    return x[tuple(index)]


def _select(program: Program, x: Atoms, dim: int, index: int) -> Atoms:
    place: list[object] = [slice(None)] * x.ndim
    place[dim] = index
    # Through a slice, so that the entry stays a view of `x`, which may be written to.
    place[dim] = slice(index, index + 1 if index != -1 else None)
    return np.squeeze(x[tuple(place)], dim)  # type: ignore[index]


def _squeeze(program: Program, x: Atoms, dim: int | Sequence[int] | None = None) -> Atoms:
    if dim is None:
        return np.squeeze(x)
    dims = [dim] if isinstance(dim, int) else list(dim)
    return np.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


def _view(program: Program, x: Atoms, size: Sequence[int]) -> Atoms:
    return x.reshape(tuple(size))


def _expand(program: Program, x: Atoms, size: Sequence[int], **_: object) -> Atoms:
    lead = len(size) - x.ndim
    shape = tuple(n if n != -1 else x.shape[i - lead] for i, n in enumerate(size))
    return np.broadcast_to(x, shape)


def _transpose(program: Program, x: Atoms, first: int = 0, second: int = 1) -> Atoms:
    return np.swapaxes(x, first, second) if x.ndim > 1 else x


def _index(program: Program, x: Atoms, indices: Sequence[object]) -> Atoms:
    if any(i is not None and not isinstance(i, np.ndarray) for i in indices):
        raise Untraceable("it indexes by what depends on the state")
    place: Any = tuple(slice(None) if i is None else i for i in indices)
    out = x[place]
    return out if isinstance(out, np.ndarray) else array_of(out)


def array_of(atom: Atom) -> Atoms:
    """Return an array without axes that holds one atom."""
    out = np.empty((), dtype=object)
    out[()] = atom
    return out


def _pad(program: Program, x: Atoms, pad: Sequence[int], value: float = 0.0) -> Atoms:
    widths = [(0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        widths[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    return np.pad(x, widths, constant_values=float(value))


def _split(program: Program, x: Atoms, size: int | Sequence[int], dim: int = 0) -> list[Atoms]:
    sizes = [size] * -(-x.shape[dim] // size) if isinstance(size, int) else list(size)
    cuts = np.cumsum(sizes)[:-1]
    return list(np.split(x, cuts, axis=dim))


def _unbind(program: Program, x: Atoms, dim: int = 0) -> list[Atoms]:
    return [_select(program, x, dim, i) for i in range(x.shape[dim])]


def _reduced(
    program: Program, x: Atoms, dim: Sequence[int] | int | None, keep: bool,
    join: Callable[[Atom, Atom], Atom],
) -> Atoms:  # fmt: skip
    dims = range(x.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    axes = sorted({d % max(x.ndim, 1) for d in dims}) if x.ndim else []
    moved = np.moveaxis(x, axes, range(len(axes))).reshape(-1, *_rest(x.shape, axes))
    if not len(moved):
        raise Untraceable("it reduces an axis without entries")
    out = array(moved[0]) if isinstance(moved[0], np.ndarray) else array_of(moved[0])
    for part in moved[1:]:
        out = mapped(join, out, part if isinstance(part, np.ndarray) else array_of(part))
    return np.expand_dims(out, tuple(axes)) if keep else out


def _rest(shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    return [n for i, n in enumerate(shape) if i not in axes]


def _sum(program: Program, x: Atoms, dim: Sequence[int] | None = None, keepdim: bool = False,
         **_: object) -> Atoms:  # fmt: skip
    return _reduced(program, x, dim, keepdim, lambda a, b: program.emit("add", a, b))


def _mean(program: Program, x: Atoms, dim: Sequence[int] | None = None, keepdim: bool = False,
          **_: object) -> Atoms:  # fmt: skip
    total = _sum(program, x, dim, keepdim)
    count = float(x.size // max(total.size, 1))
    return mapped(lambda a: program.emit("div", a, count), total)


def _prod(program: Program, x: Atoms, dim: int | None = None, keepdim: bool = False,
          **_: object) -> Atoms:  # fmt: skip
    return _reduced(program, x, dim, keepdim, lambda a, b: program.emit("mul", a, b))


def _extreme(pick: Callable[..., Atom]) -> Handler:
    def handler(program: Program, x: Atoms, dim: Sequence[int] | int | None = None,
                keepdim: bool = False) -> Atoms:  # fmt: skip
        return _reduced(program, x, dim, keepdim, lambda a, b: pick(program.emit, a, b))

    return handler


def _logical(name: str) -> Handler:
    def handler(program: Program, x: Atoms, dim: Sequence[int] | int | None = None,
                keepdim: bool = False) -> Atoms:  # fmt: skip
        return _reduced(program, x, dim, keepdim, lambda a, b: program.emit(name, a, b))

    return handler


def _index_put(program: Program, x: Atoms, indices: Sequence[object], values: object,
               accumulate: bool = False) -> Atoms:  # fmt: skip
    if accumulate or any(isinstance(i, np.ndarray) and i.dtype == object for i in indices):
        raise Untraceable("it indexes by what depends on the state")
    out = x.copy()
    place: Any = tuple(slice(None) if i is None else i for i in indices)
    out[place] = array(values)
    return out


def _softmax(program: Program, x: Atoms, dim: int, half_to_float: bool = False) -> Atoms:
    top = _extreme(larger)(program, x, dim, True)
    powers = mapped(lambda a, b: program.emit("exp", program.emit("sub", a, b)), x, top)
    total = _sum(program, powers, [dim], True)
    return mapped(lambda a, b: program.emit("div", a, b), powers, total)


def _logsumexp(program: Program, x: Atoms, dim: Sequence[int], keepdim: bool = False) -> Atoms:
    top = _extreme(larger)(program, x, dim, True)
    powers = mapped(lambda a, b: program.emit("exp", program.emit("sub", a, b)), x, top)
    total = _sum(program, powers, dim, True)
    out = mapped(lambda a, b: program.emit("add", program.emit("log", a), b), total, top)
    return out if keepdim else np.squeeze(out, tuple(dim))


def _log_softmax(program: Program, x: Atoms, dim: int, half_to_float: bool = False) -> Atoms:
    total = _logsumexp(program, x, [dim], True)
    return mapped(lambda a, b: program.emit("sub", a, b), x, total)


def _norm(program: Program, x: Atoms, ord: float = 2, dim: Sequence[int] | None = None,  # noqa: A002
          keepdim: bool = False, **_: object) -> Atoms:  # fmt: skip
    emit = program.emit
    if ord == 2:
        squares = mapped(lambda a: emit("mul", a, a), x)
        return mapped(lambda a: emit("sqrt", a), _sum(program, squares, dim, keepdim))
    sizes = mapped(lambda a: emit("abs", a), x)
    if ord == 1:
        return _sum(program, sizes, dim, keepdim)
    if math.isinf(ord) and ord > 0:
        return _extreme(larger)(program, sizes, dim, keepdim)
    raise Untraceable(f"it takes a norm of order {ord}")


def _cumsum(program: Program, x: Atoms, dim: int, **_: object) -> Atoms:
    out = x.copy()
    moved = np.moveaxis(out, dim, 0)
    for i in range(1, len(moved)):
        moved[i] = mapped(lambda a, b: program.emit("add", a, b), moved[i - 1], moved[i])
    return out


def _cross(program: Program, a: Atoms, b: Atoms, dim: int = -1) -> Atoms:
    emit, (a, b) = program.emit, np.broadcast_arrays(a, b)
    x, y = np.moveaxis(a, dim, 0), np.moveaxis(b, dim, 0)

    def entry(i: int, j: int) -> Atoms:
        return mapped(lambda p, q, r, s: emit("sub", emit("mul", p, q), emit("mul", r, s)),
                      x[i], y[j], x[j], y[i])  # fmt: skip

    return np.stack([entry(1, 2), entry(2, 0), entry(0, 1)], axis=dim)


def matrix_product(program: Program, a: Atoms, b: Atoms) -> Atoms:
    """Return `a b` of two matrices or stacks of them."""
    if a.ndim == 3:
        return np.stack([matrix_product(program, x, y) for x, y in zip(a, b, strict=True)])
    out = np.empty((a.shape[0], b.shape[1]), dtype=object)
    for i in range(a.shape[0]):
        out[i] = _times(program, b.T, list(a[i]))
    return out


def _times(program: Program, matrix: Atoms, vector: list[Atom]) -> list[Atom]:
    """Return a matrix times a vector: by a loop if it is large and lies in the parameters."""
    if matrix.size >= LOOPED and (block := _block(program, matrix)) is not None:
        return program.product(block, vector)
    total: list[Atom] = []
    for row in matrix:
        value: Atom = 0.0
        for entry, x in zip(row, vector, strict=True):
            value = program.emit("add", value, program.emit("mul", entry, x))
        total.append(value)
    return total


def _block(program: Program, matrix: Atoms) -> Block | None:
    """Find a matrix among the parameters; `None` if some entry is not where it should be."""
    places: Any = np.empty(matrix.shape, dtype=np.int64)
    for index, atom in np.ndenumerate(matrix):
        operation = program.operations[atom] if isinstance(atom, int) else None
        if operation is None or operation.name != "input" or operation.args[0] != 2:
            return None
        places[index] = operation.args[1]
    first = int(places[0, 0])
    down = int(places[1, 0]) - first if len(places) > 1 else 0
    right = int(places[0, 1]) - first if places.shape[1] > 1 else 0
    rows, columns = np.indices(matrix.shape)
    if not bool((places == first + down * rows + right * columns).all()):
        return None
    return Block(first, *matrix.shape, down, right)  # type: ignore[arg-type]


def _addmm(program: Program, x: Atoms, a: Atoms, b: Atoms, *, beta: float = 1.0,
           alpha: float = 1.0) -> Atoms:  # fmt: skip
    product = mapped(lambda y: program.emit("mul", float(alpha), y), matrix_product(program, a, b))
    return ELEMENTWISE["add"](program, product, x, float(beta))


def _mv(program: Program, a: Atoms, x: Atoms) -> Atoms:
    out = np.empty(len(a), dtype=object)
    out[:] = _times(program, a, list(x))
    return out


def _dot(program: Program, a: Atoms, b: Atoms) -> Atoms:
    return _sum(program, mapped(lambda x, y: program.emit("mul", x, y), a, b))


def _diag_embed(program: Program, x: Atoms, offset: int = 0, dim1: int = -2,
                dim2: int = -1) -> Atoms:  # fmt: skip
    if (offset, dim1, dim2) != (0, -2, -1):
        raise Untraceable("it embeds a diagonal beside the main one")
    out = np.full((*x.shape, x.shape[-1]), 0.0, dtype=object)
    for i in range(x.shape[-1]):
        out[..., i, i] = x[..., i]
    return out


def _triangle(keep: Callable[..., np.ndarray]) -> Handler:
    return lambda program, x, diagonal=0: np.where(
        keep(np.ones(x.shape[-2:], bool), diagonal), x, array_of(0.0)
    )


def _gather(program: Program, x: Atoms, dim: int, index: object, **_: object) -> Atoms:
    if not isinstance(index, np.ndarray) or index.dtype == object:
        raise Untraceable("it indexes by what depends on the state")
    return np.take_along_axis(x, index, dim)


def _filled(value: float | None) -> Handler:
    def handler(program: Program, x: Atoms, *args: object, **_: object) -> Atoms:
        number = value if value is not None else float(args[0])  # type: ignore[arg-type]
        return np.full(x.shape, number, dtype=object)

    return handler


def _new(value: float | None) -> Handler:
    def handler(program: Program, x: Atoms, size: Sequence[int], fill: float = 0.0,
                **_: object) -> Atoms:  # fmt: skip
        return np.full(tuple(size), float(fill) if value is None else value, dtype=object)

    return handler


def _roll(program: Program, x: Atoms, shifts: Sequence[int], dims: Sequence[int] = ()) -> Atoms:
    if not dims:
        return np.roll(x.reshape(-1), shifts[0]).reshape(x.shape)
    return np.roll(x, tuple(shifts), tuple(dims))


ARRAYS: dict[str, Handler] = {
    **ELEMENTWISE,
    "slice": _slice, "select": _select, "squeeze": _squeeze, "view": _view, "reshape": _view,
    "_unsafe_view": _view, "expand": _expand, "transpose": _transpose,
    "t": lambda program, x: x.T, "permute": lambda program, x, dims: x.transpose(dims),
    "unsqueeze": lambda program, x, dim: np.expand_dims(x, dim),
    "alias": lambda program, x: x[...], "detach": lambda program, x: x[...],
    "lift_fresh": lambda program, x: x[...],
    "index": _index, "index_select": lambda program, x, dim, index: np.take(x, index, dim),
    "gather": _gather, "constant_pad_nd": _pad, "split": _split, "split_with_sizes": _split,
    "unbind": _unbind, "flip": lambda program, x, dims: np.flip(x, tuple(dims)),
    "roll": _roll, "repeat": lambda program, x, repeats: np.tile(x, tuple(repeats)),
    "stack": lambda program, xs, dim=0: np.stack(xs, dim),
    "cat": lambda program, xs, dim=0: np.concatenate([x for x in xs if x.shape != (0,)], dim),
    "sum": _sum, "mean": _mean, "prod": _prod, "cumsum": _cumsum,
    "all": _logical("and"), "any": _logical("or"), "index_put": _index_put,
    "amax": _extreme(larger), "amin": _extreme(smaller),
    "_softmax": _softmax, "_log_softmax": _log_softmax, "logsumexp": _logsumexp,
    "linalg_vector_norm": _norm, "linalg_cross": _cross,
    "mm": matrix_product, "bmm": matrix_product, "addmm": _addmm, "mv": _mv, "dot": _dot,
    "diag_embed": _diag_embed, "tril": _triangle(np.tril), "triu": _triangle(np.triu),
    "diagonal": lambda program, x, offset=0, dim1=0, dim2=1: x.diagonal(offset, dim1, dim2),
    "zeros_like": _filled(0.0), "ones_like": _filled(1.0), "full_like": _filled(None),
    "empty_like": _filled(0.0), "new_zeros": _new(0.0), "new_ones": _new(1.0),
    "new_empty": _new(0.0), "new_full": _new(None),
}  # fmt: skip
