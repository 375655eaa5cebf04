"""Eight float64 numbers as one value of a compiled loop: the same entry of eight series.

Arrays of such values are float64 `(entries, 8)`, laid out by `simd_array`. What each function does
is what its name says of a single number; the compiler sees vectors and need not find them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.base import BaseContext
from numba.core.datamodel import models
from numba.core.datamodel.manager import DataModelManager
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, register_model

from .arrays import SIMD_WIDTH
from .memory import lines

Context: TypeAlias = BaseContext
Builder: TypeAlias = Any  # an `ir.IRBuilder`, whose methods carry no types
Value: TypeAlias = Any
Values: TypeAlias = Sequence[Any]
Emit: TypeAlias = Callable[[Context, Builder, Signature, Values], Value]
Intrinsic: TypeAlias = tuple[Signature, Emit]
"""What `emitted` takes: the types of arguments and result, and a writer of the instructions."""

# As in `small_matrices`: numbers may be regrouped, but NaN and infinity keep their meaning.
_FLAGS = ("contract", "reassoc", "nsz", "arcp")
_BYTES = 8 * SIMD_WIDTH
_INT64 = ir.IntType(64)
_PICKS = ir.VectorType(ir.IntType(32), SIMD_WIDTH)
_VECTOR, _BITS = ir.VectorType(ir.DoubleType(), SIMD_WIDTH), ir.VectorType(_INT64, SIMD_WIDTH)


class SimdType(types.Type):
    """Numba's type of eight numbers."""

    def __init__(self) -> None:
        super().__init__(name="simd")


@register_model(SimdType)
class SimdModel(models.PrimitiveModel):
    """A vector register."""

    def __init__(self, dmm: DataModelManager, fe_type: types.Type) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


simd = SimdType()


def simd_array(entries: int) -> np.ndarray:
    """Return zeros, `(entries, 8)`, each entry on a cache line of its own.

    Args:
        entries: How many.
    """
    room = lines(entries, SIMD_WIDTH)
    room[:] = 0.0
    return room


def emitted(build: Callable[..., Intrinsic]) -> Callable[..., Any]:
    """Make a function for compiled loops from its types and its instructions.

    Args:
        build: Takes the typing context and the types of the arguments; see `numba`'s `intrinsic`.
    """
    return intrinsic(build)


def _pointer(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    place = builder.gep(base, [builder.mul(args[1], _INT64(_BYTES))])
    return builder.bitcast(place, _VECTOR.as_pointer())


@emitted
def get(typing_context: TypingContext, X: types.Type, i: types.Type) -> Intrinsic:
    """`X[i]`."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        value = builder.load(_pointer(context, builder, signature, args))
        value.align = 8
        return value

    return simd(X, types.intp), emit


@emitted
def put(
    typing_context: TypingContext, X: types.Type, i: types.Type, value: types.Type
) -> Intrinsic:
    """`X[i] = value`."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        builder.store(args[2], _pointer(context, builder, signature, args)).align = 8
        return context.get_dummy_value()

    return types.void(X, types.intp, simd), emit


@emitted
def put_at(
    typing_context: TypingContext, row: types.Type, i: types.Type, value: types.Type
) -> Intrinsic:
    """`row[i:i+8] = value` in an array of plain numbers."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.bitcast(builder.gep(array.data, [args[1]]), _VECTOR.as_pointer())
        builder.store(args[2], place).align = 8
        return context.get_dummy_value()

    return types.void(row, types.intp, simd), emit


@emitted
def transpose(typing_context: TypingContext, X: types.Type, first: types.Type) -> Intrinsic:
    """Transpose the eight entries from `first` on: entry `first + i` becomes entry `i` of each."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        def place(i: int) -> Value:
            at = builder.add(args[1], _INT64(i))
            return _pointer(context, builder, signature, (args[0], at))

        rows = [builder.load(place(i)) for i in range(SIMD_WIDTH)]
        for row in rows:
            row.align = 8
        for i, row in enumerate(transposed(builder, rows)):
            builder.store(row, place(i)).align = 8
        return context.get_dummy_value()

    return types.void(X, types.intp), emit


def transposed(builder: Builder, rows: list[Value]) -> list[Value]:
    """Return the columns of eight values.

    Args:
        builder: Of the function that is compiled.
        rows: The values.
    """
    for half in (1, 2, 4):
        rows = [_blend(builder, rows, i, half) for i in range(SIMD_WIDTH)]
    return rows


def _blend(builder: Builder, rows: list[Value], i: int, half: int) -> Value:
    """Row `i` after the blocks of size `half` off the diagonal have changed places."""
    low, high = rows[i & ~half], rows[i | half]
    picks = [(j & ~half) + (SIMD_WIDTH if j & half else 0) for j in range(SIMD_WIDTH)]
    if i & half:
        picks = [x + half for x in picks]
    return builder.shuffle_vector(low, high, ir.Constant(_PICKS, picks))


@emitted
def fill(typing_context: TypingContext, x: types.Type) -> Intrinsic:
    """Eight times the number `x`."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        return broadcast(builder, args[0])

    return simd(types.float64), emit


def broadcast(builder: Builder, x: Value) -> Value:
    """Return a value of eight times the same number.

    Args:
        builder: Of the function that is compiled.
        x: The number.
    """
    none = ir.Constant(ir.VectorType(x.type, SIMD_WIDTH), ir.Undefined)
    first = builder.insert_element(none, x, ir.IntType(32)(0))
    return builder.shuffle_vector(first, none, ir.Constant(_PICKS, None))


def _operation(count: int, compute: Callable[..., Value]) -> Callable[..., Any]:
    """Make a function of `count` values from its instructions."""
    if count == 1:

        @emitted
        def one(typing_context: TypingContext, a: types.Type) -> Intrinsic:
            return simd(simd), lambda _, builder, __, args: compute(builder, *args)

        return one
    if count == 2:

        @emitted
        def two(typing_context: TypingContext, a: types.Type, b: types.Type) -> Intrinsic:
            return simd(simd, simd), lambda _, builder, __, args: compute(builder, *args)

        return two

    if count == 3:

        @emitted
        def three(
            typing_context: TypingContext, a: types.Type, b: types.Type, c: types.Type
        ) -> Intrinsic:
            return simd(*[simd] * 3), lambda _, builder, __, args: compute(builder, *args)

        return three

    @emitted
    def four(
        typing_context: TypingContext, a: types.Type, b: types.Type, c: types.Type, d: types.Type
    ) -> Intrinsic:
        return simd(*[simd] * 4), lambda _, builder, __, args: compute(builder, *args)

    return four


def _call(builder: Builder, name: str, *args: Value) -> Value:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    full = f"{name}.v{SIMD_WIDTH}f64"
    return builder.call(
        builder.module.globals.get(full) or ir.Function(builder.module, kind, full), args
    )


def _exponent(builder: Builder, x: Value) -> Value:
    bits = builder.lshr(builder.bitcast(x, _BITS), _BITS([52] * SIMD_WIDTH))
    return builder.sitofp(builder.sub(bits, _BITS([1023] * SIMD_WIDTH)), _VECTOR)


def _mantissa(builder: Builder, x: Value) -> Value:
    digits = builder.and_(builder.bitcast(x, _BITS), _BITS([(1 << 52) - 1] * SIMD_WIDTH))
    return builder.bitcast(builder.or_(digits, _BITS([1023 << 52] * SIMD_WIDTH)), _VECTOR)


add = _operation(2, lambda b, x, y: b.fadd(x, y, flags=_FLAGS))
sub = _operation(2, lambda b, x, y: b.fsub(x, y, flags=_FLAGS))
mul = _operation(2, lambda b, x, y: b.fmul(x, y, flags=_FLAGS))
div = _operation(2, lambda b, x, y: b.fdiv(x, y, flags=_FLAGS))
root = _operation(1, lambda b, x: _call(b, "llvm.sqrt", x))
# `x y + z` and `z - x y`.
add_product = _operation(3, lambda b, x, y, z: b.fadd(b.fmul(x, y, flags=_FLAGS), z, flags=_FLAGS))
sub_product = _operation(3, lambda b, x, y, z: b.fsub(z, b.fmul(x, y, flags=_FLAGS), flags=_FLAGS))
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
def any_less(typing_context: TypingContext, a: types.Type, b: types.Type) -> Intrinsic:
    """True when `a < b` in some entry."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        found = builder.bitcast(builder.fcmp_ordered("<", *args), ir.IntType(SIMD_WIDTH))
        return builder.icmp_unsigned("!=", found, ir.IntType(SIMD_WIDTH)(0))

    return types.boolean(simd, simd), emit
