"""One source for one series and for eight: numbers that are a float64 or a SIMD vector by type.

An array of numbers is float64 `(entries,)` for one series and `(entries, 8)` for eight side by
side. Loops read and write entries by `load` and `store`, combine them by `+ - * /` and by the
functions here, and are compiled once for each kind of array.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import ConcreteTemplate, Signature, infer_global, signature
from numba.extending import lower_builtin

from .arrays import SIMD_WIDTH
from .memory import lines
from .simd import Builder, Context, Intrinsic, SimdType, Value, Values, broadcast, emitted, simd

_FLAGS = ("contract", "reassoc", "nsz", "arcp")
_DOUBLE, _INT64 = ir.DoubleType(), ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, SIMD_WIDTH)


def numbers(entries: int, lanes: int) -> np.ndarray:
    """Return zeros for loops over numbers, `(entries,)` or `(entries, 8)`.

    Args:
        entries: How many.
        lanes: 1 or 8.
    """
    if lanes == 1:
        return np.zeros(entries)
    room = lines(max(entries, 1), SIMD_WIDTH)
    room[:] = 0.0
    return room


def _wide(kind: types.Type) -> bool:
    return isinstance(kind, types.Array) and kind.ndim > 1


def _place(context: Context, builder: Builder, kind: types.Type, array: Value, i: Value) -> Value:
    data = context.make_array(kind)(context, builder, array).data
    if not _wide(kind):
        return builder.gep(data, [i])
    first = builder.gep(data, [builder.mul(i, _INT64(SIMD_WIDTH))])
    return builder.bitcast(first, _VECTOR.as_pointer())


@emitted
def load(typing_context: TypingContext, X: types.Type, i: types.Type) -> Intrinsic:
    """Entry `i` of an array of numbers."""

    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        value = builder.load(_place(context, builder, sig.args[0], *args))
        value.align = 8
        return value

    return (simd if _wide(X) else types.float64)(X, types.intp), emit


@emitted
def store(typing_context: TypingContext, X: types.Type, i: types.Type, x: types.Type) -> Intrinsic:
    """`X[i] = x`; a plain number goes to every series."""

    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        value = args[2]
        if _wide(sig.args[0]) and not isinstance(sig.args[2], SimdType):
            value = broadcast(builder, value)
        place = _place(context, builder, sig.args[0], args[0], args[1])
        builder.store(value, place).align = 8
        return context.get_dummy_value()

    return types.void(X, types.intp, x if x == simd else types.float64), emit


@emitted
def number(typing_context: TypingContext, X: types.Type, x: types.Type) -> Intrinsic:
    """The plain number `x` as an entry of `X`."""

    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        return broadcast(builder, args[1]) if _wide(sig.args[0]) else args[1]

    return (simd if _wide(X) else types.float64)(X, types.float64), emit


@emitted
def lanes_of(typing_context: TypingContext, X: types.Type) -> Intrinsic:
    """How many series an array of numbers holds side by side."""
    count = SIMD_WIDTH if _wide(X) else 1
    return types.intp(X), lambda context, builder, sig, args: _INT64(count)


@emitted
def get_lane(
    typing_context: TypingContext, X: types.Type, i: types.Type, s: types.Type
) -> Intrinsic:
    """Entry `i` of series `s`."""

    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        return builder.load(_lane(context, builder, sig.args[0], *args[:3]))

    return types.float64(X, types.intp, types.intp), emit


@emitted
def put_lane(
    typing_context: TypingContext, X: types.Type, i: types.Type, s: types.Type, x: types.Type
) -> Intrinsic:
    """Write entry `i` of series `s`."""

    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        builder.store(args[3], _lane(context, builder, sig.args[0], *args[:3]))
        return context.get_dummy_value()

    return types.void(X, types.intp, types.intp, types.float64), emit


def _lane(
    context: Context, builder: Builder, kind: types.Type, array: Value, i: Value, s: Value
) -> Value:
    data = context.make_array(kind)(context, builder, array).data
    if not _wide(kind):
        return builder.gep(data, [i])
    return builder.gep(data, [builder.add(builder.mul(i, _INT64(SIMD_WIDTH)), s)])


def _common(*kinds: types.Type) -> types.Type:
    return simd if any(k == simd for k in kinds) else types.float64


def _function(count: int, compute: Callable[..., Value]) -> Callable[..., Any]:
    """Make a function of `count` numbers; where one is a vector, plain ones are repeated."""

    def build(*kinds: types.Type) -> Intrinsic:
        out = _common(*kinds)

        def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
            return compute(builder, *_alike(builder, sig.args, args))

        return out(*(k if k == simd else types.float64 for k in kinds)), emit

    if count == 1:
        return emitted(lambda typing_context, a: build(a))
    if count == 2:
        return emitted(lambda typing_context, a, b: build(a, b))
    return emitted(lambda typing_context, a, b, c, d: build(a, b, c, d))


def _alike(builder: Builder, kinds: Values, args: Values) -> list[Value]:
    if not any(k == simd for k in kinds):
        return list(args)
    return [x if k == simd else broadcast(builder, x) for k, x in zip(kinds, args, strict=True)]


def _call(builder: Builder, name: str, *args: Value) -> Value:
    kind = args[0].type
    end = f"v{SIMD_WIDTH}f64" if isinstance(kind, ir.VectorType) else "f64"
    full, shape = f"{name}.{end}", ir.FunctionType(kind, [kind] * len(args))
    known = builder.module.globals.get(full)
    return builder.call(known or ir.Function(builder.module, shape, full), args)


root = _function(1, lambda b, x: _call(b, "llvm.sqrt", x))
log = _function(1, lambda b, x: _call(b, "llvm.log", x))
floor = _function(1, lambda b, x: _call(b, "llvm.floor", x))
size_of = _function(1, lambda b, x: _call(b, "llvm.fabs", x))
# The size of `x` with the sign of `y`.
with_sign = _function(2, lambda b, x, y: _call(b, "llvm.copysign", x, y))
# `x` where `a < b`, else `y`; also where `a` or `b` is NaN.
where_less = _function(4, lambda b, u, v, x, y: b.select(b.fcmp_ordered("<", u, v), x, y))
# `x` where `a` is a number, else `y`; the second argument is not used.
where_number = _function(4, lambda b, a, _, x, y: b.select(b.fcmp_ordered("ord", a, a), x, y))


@emitted
def some_less(typing_context: TypingContext, a: types.Type, b: types.Type) -> Intrinsic:
    """True when `a < b` for some series."""
    given = tuple(k if k == simd else types.float64 for k in (a, b))

    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        found = builder.fcmp_ordered("<", *_alike(builder, sig.args, args))
        if not isinstance(found.type, ir.VectorType):
            return found
        bits = builder.bitcast(found, ir.IntType(SIMD_WIDTH))
        return builder.icmp_unsigned("!=", bits, ir.IntType(SIMD_WIDTH)(0))

    return types.boolean(*given), emit


_CASES = [signature(simd, simd, simd), signature(simd, simd, types.float64),
          signature(simd, types.float64, simd)]  # fmt: skip


class _Arithmetic(ConcreteTemplate):
    cases = _CASES


def _lower(symbol: Callable[..., Any], name: str) -> None:
    def emit(context: Context, builder: Builder, sig: Signature, args: Values) -> Value:
        return getattr(builder, name)(*_alike(builder, sig.args, args), flags=_FLAGS)

    for kinds in ((SimdType, SimdType), (SimdType, types.Float), (types.Float, SimdType)):
        lower_builtin(symbol, *kinds)(emit)


for _symbols, _name in (
    ((operator.add, operator.iadd), "fadd"),
    ((operator.sub, operator.isub), "fsub"),
    ((operator.mul, operator.imul), "fmul"),
    ((operator.truediv, operator.itruediv), "fdiv"),
):
    for _symbol in _symbols:
        infer_global(_symbol)(_Arithmetic)  # pyright: ignore[reportOptionalCall]
        _lower(_symbol, _name)
