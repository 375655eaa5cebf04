"""Eight float64 numbers as one value of a compiled loop: the same entry of eight series.

Arrays of such values are float64 `(entries, 8)`, laid out by `lane_array`. What each function does
is what its name says of a single number; the compiler sees vectors and need not find them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from .memory import lines

WIDTH = 8
# As in `kalman_steps`: numbers may be regrouped, but NaN and infinity keep their meaning.
_FAST = ("contract", "reassoc", "nsz", "arcp")
_BYTES = 8 * WIDTH
_LONG = ir.IntType(64)
_INDEX = ir.VectorType(ir.IntType(32), WIDTH)
_VECTOR, _BITS = ir.VectorType(ir.DoubleType(), WIDTH), ir.VectorType(_LONG, WIDTH)


class Lanes(types.Type):
    """Numba's type of eight numbers."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """A vector register."""

    def __init__(self, dmm: Any, fe_type: types.Type) -> None:  # noqa: ANN401
        super().__init__(dmm, fe_type, _VECTOR)


lanes = Lanes()


def lane_array(entries: int) -> np.ndarray:
    """Return zeros, `(entries, 8)`, each entry on a cache line of its own.

    Args:
        entries: How many.
    """
    room = lines(entries, WIDTH)
    room[:] = 0.0
    return room


def emitted(build: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function for compiled loops from its types and its instructions.

    Args:
        build: Takes the typing context and the types of the arguments; see `numba`'s `intrinsic`.
    """
    return intrinsic(build)


def _pointer(context, builder, signature, args):  # noqa: ANN001, ANN202
    array = context.make_array(signature.args[0])(context, builder, args[0])
    base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    place = builder.gep(base, [builder.mul(args[1], _LONG(_BYTES))])
    return builder.bitcast(place, _VECTOR.as_pointer())


@emitted
def get(typing_context, X, i):  # noqa: ANN001, ANN201, ARG001
    """`X[i]`."""

    def emit(context, builder, signature, args):  # noqa: ANN001, ANN202
        value = builder.load(_pointer(context, builder, signature, args))
        value.align = 8
        return value

    return lanes(X, types.intp), emit


@emitted
def put(typing_context, X, i, value):  # noqa: ANN001, ANN201, ARG001
    """`X[i] = value`."""

    def emit(context, builder, signature, args):  # noqa: ANN001, ANN202
        builder.store(args[2], _pointer(context, builder, signature, args)).align = 8
        return context.get_dummy_value()

    return types.void(X, types.intp, lanes), emit


@emitted
def put_at(typing_context, row, i, value):  # noqa: ANN001, ANN201, ARG001
    """`row[i:i+8] = value` in an array of plain numbers."""

    def emit(context, builder, signature, args):  # noqa: ANN001, ANN202
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.bitcast(builder.gep(array.data, [args[1]]), _VECTOR.as_pointer())
        builder.store(args[2], place).align = 8
        return context.get_dummy_value()

    return types.void(row, types.intp, lanes), emit


@emitted
def transpose(typing_context, X, first):  # noqa: ANN001, ANN201, ARG001
    """Transpose the eight entries from `first` on: entry `first + i` becomes those of lane `i`."""

    def emit(context, builder, signature, args):  # noqa: ANN001, ANN202
        def place(i):  # noqa: ANN001, ANN202
            at = builder.add(args[1], _LONG(i))
            return _pointer(context, builder, signature, (args[0], at))

        rows = [builder.load(place(i)) for i in range(WIDTH)]
        for row in rows:
            row.align = 8
        for i, row in enumerate(transposed(builder, rows)):
            builder.store(row, place(i)).align = 8
        return context.get_dummy_value()

    return types.void(X, types.intp), emit


def transposed(builder: Any, rows: list[Any]) -> list[Any]:  # noqa: ANN401
    """Return the columns of eight values.

    Args:
        builder: Of the function that is compiled.
        rows: The values.
    """
    for half in (1, 2, 4):
        rows = [_blend(builder, rows, i, half) for i in range(WIDTH)]
    return rows


def _blend(builder, rows, i, half):  # noqa: ANN001, ANN202
    """Row `i` after the blocks of size `half` off the diagonal have changed places."""
    low, high = rows[i & ~half], rows[i | half]
    picks = [(j & ~half) + (WIDTH if j & half else 0) for j in range(WIDTH)]
    if i & half:
        picks = [x + half for x in picks]
    return builder.shuffle_vector(low, high, ir.Constant(_INDEX, picks))


@emitted
def fill(typing_context, x):  # noqa: ANN001, ANN201, ARG001
    """Eight times the number `x`."""

    def emit(context, builder, signature, args):  # noqa: ANN001, ANN202, ARG001
        return repeated(builder, args[0])

    return lanes(types.float64), emit


def repeated(builder: Any, x: Any) -> Any:  # noqa: ANN401
    """Return a value of eight times the same number.

    Args:
        builder: Of the function that is compiled.
        x: The number.
    """
    none = ir.Constant(ir.VectorType(x.type, WIDTH), ir.Undefined)
    first = builder.insert_element(none, x, ir.IntType(32)(0))
    return builder.shuffle_vector(first, none, ir.Constant(_INDEX, None))


def _operation(count: int, compute: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of `count` values from its instructions."""
    if count == 1:

        @emitted
        def one(typing_context, a):  # noqa: ANN001, ANN202, ARG001
            return lanes(lanes), lambda _, builder, __, args: compute(builder, *args)

        return one
    if count == 2:

        @emitted
        def two(typing_context, a, b):  # noqa: ANN001, ANN202, ARG001
            return lanes(lanes, lanes), lambda _, builder, __, args: compute(builder, *args)

        return two

    if count == 3:

        @emitted
        def three(typing_context, a, b, c):  # noqa: ANN001, ANN202, ARG001
            return lanes(*[lanes] * 3), lambda _, builder, __, args: compute(builder, *args)

        return three

    @emitted
    def four(typing_context, a, b, c, d):  # noqa: ANN001, ANN202, ARG001
        return lanes(*[lanes] * 4), lambda _, builder, __, args: compute(builder, *args)

    return four


def _call(builder, name, *args):  # noqa: ANN001, ANN002, ANN202
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    full = f"{name}.v{WIDTH}f64"
    return builder.call(
        builder.module.globals.get(full) or ir.Function(builder.module, kind, full), args
    )


def _exponent(builder, x):  # noqa: ANN001, ANN202
    bits = builder.lshr(builder.bitcast(x, _BITS), _BITS([52] * WIDTH))
    return builder.sitofp(builder.sub(bits, _BITS([1023] * WIDTH)), _VECTOR)


def _mantissa(builder, x):  # noqa: ANN001, ANN202
    kept = builder.and_(builder.bitcast(x, _BITS), _BITS([(1 << 52) - 1] * WIDTH))
    return builder.bitcast(builder.or_(kept, _BITS([1023 << 52] * WIDTH)), _VECTOR)


add = _operation(2, lambda b, x, y: b.fadd(x, y, flags=_FAST))
sub = _operation(2, lambda b, x, y: b.fsub(x, y, flags=_FAST))
mul = _operation(2, lambda b, x, y: b.fmul(x, y, flags=_FAST))
div = _operation(2, lambda b, x, y: b.fdiv(x, y, flags=_FAST))
root = _operation(1, lambda b, x: _call(b, "llvm.sqrt", x))
size = _operation(1, lambda b, x: _call(b, "llvm.fabs", x))
# `x y + z` and `z - x y`.
add_product = _operation(3, lambda b, x, y, z: b.fadd(b.fmul(x, y, flags=_FAST), z, flags=_FAST))
sub_product = _operation(3, lambda b, x, y, z: b.fsub(z, b.fmul(x, y, flags=_FAST), flags=_FAST))
# The size of `x` with the sign of `y`.
with_sign = _operation(2, lambda b, x, y: _call(b, "llvm.copysign", x, y))
# `x` where `y` is a number, else `z`.
where_number = _operation(3, lambda b, y, x, z: b.select(b.fcmp_ordered("ord", y, y), x, z))
# `x` where `a < b`, else `y`.
where_less = _operation(4, lambda b, u, v, x, y: b.select(b.fcmp_ordered("<", u, v), x, y))
# `x = mantissa 2^exponent` with a mantissa of `[1, 2)`, for normal positive numbers.
exponent = _operation(1, _exponent)
mantissa = _operation(1, _mantissa)


@emitted
def any_less(typing_context, a, b):  # noqa: ANN001, ANN201, ARG001
    """True when `a < b` in some lane."""

    def emit(context, builder, signature, args):  # noqa: ANN001, ANN202, ARG001
        found = builder.bitcast(builder.fcmp_ordered("<", *args), ir.IntType(WIDTH))
        return builder.icmp_unsigned("!=", found, ir.IntType(WIDTH)(0))

    return types.boolean(lanes, lanes), emit
