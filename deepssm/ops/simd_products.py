"""Products and transposes of eight by eight numbers in registers: the arithmetic of steady steps.

Numba leaves it to LLVM to find vectors in loops, and LLVM finds none here: the sizes of a model
are not known, and eight partial sums must stay in registers over a whole loop. So these few
functions are written in LLVM's own vectors of eight numbers, which fit any processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature

from .arrays import SIMD_WIDTH
from .simd import Builder, Context, Intrinsic, Value, Values, broadcast, emitted, transposed

_FLAGS = ("contract", "reassoc", "nsz")
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(ir.DoubleType(), SIMD_WIDTH)


class Emitter:
    """Writes loads, stores and sums of vectors.

    Attributes:
        builder: Of the function that is compiled.
    """

    def __init__(self, context: Context, builder: Builder) -> None:
        self._context, self.builder = context, builder

    def data(self, kind: types.Type, array: Value, offset: Value) -> Value:
        """Return the address of entry `offset` of an array, whatever its axes."""
        whole = self._context.make_array(kind)(self._context, self.builder, array).data
        return self.builder.gep(whole, [offset])

    def addresses(self, address: Value, stride: Value, count: Value) -> list[Value]:
        """Return the addresses of eight series; those past `count` are the last one again."""
        last, out = self.builder.sub(count, _INT64(1)), []
        for g in range(SIMD_WIDTH):
            beyond = self.builder.icmp_signed(">", _INT64(g), last)
            series = self.builder.select(beyond, last, _INT64(g))
            out.append(self.builder.gep(address, [self.builder.mul(stride, series)]))
        return out

    def load(self, address: Value) -> Value:
        """Return eight numbers."""
        return self.builder.load(self.builder.bitcast(address, _VECTOR.as_pointer()), align=8)

    def store(self, value: Value, address: Value) -> None:
        """Write eight numbers."""
        target = self.builder.bitcast(address, _VECTOR.as_pointer())
        self.builder.store(value, target, align=8)

    def stream(self, value: Value, address: Value) -> None:
        """Write a whole cache line past the caches: nobody reads it soon."""
        target = self.builder.bitcast(address, _VECTOR.as_pointer())
        line = self.builder.store(value, target, align=8 * SIMD_WIDTH)
        line.set_metadata("nontemporal", self.builder.module.add_metadata([_INT32(1)]))

    def add_to(self, total: Value, x: Value, y: Value) -> None:
        """`total += x y`."""
        product = self.builder.fmul(x, y, flags=_FLAGS)
        grown = self.builder.fadd(self.builder.load(total), product, flags=_FLAGS)
        self.builder.store(grown, total)

    def sums(self, values: list[Value]) -> list[Value]:
        """Return partial sums that begin with `values`; LLVM keeps them in registers."""
        out = [cgutils.alloca_once(self.builder, _VECTOR) for _ in values]
        for total, value in zip(out, values, strict=True):
            self.builder.store(value, total)
        return out


_ZERO = ir.Constant(_VECTOR, [0.0] * SIMD_WIDTH)


@emitted
def product(
    typing: TypingContext,
    W: types.Type,
    w: types.Type,
    parts: types.Type,
    out: types.Type,
    o: types.Type,
    by: types.Type,
    used: types.Type,
) -> Intrinsic:
    """`out[o + by g : +8] = sum_j W[w + 8 j : +8] s_g[j]` for the first `used` of eight `g`.

    `parts` are stretches of `s`, each with a column to begin at:
    `(array, offset, stride from g to g + 1, length, first j)`.
    """
    kinds = types.void(W, types.intp, parts, out, types.intp, types.intp, types.intp)

    def emit(context: Context, builder: Builder, signature: Signature, values: Values) -> Value:
        write = Emitter(context, builder)
        W, w, parts, out, o, by, used = values
        matrix = write.data(signature.args[0], W, w)
        sums = write.sums([_ZERO] * SIMD_WIDTH)
        for i, kind in enumerate(signature.args[2].types):
            part = builder.extract_value(parts, i)
            array, offset, stride, length, column = (
                builder.extract_value(part, j) for j in range(5)
            )
            sources = write.addresses(write.data(kind.types[0], array, offset), stride, used)
            columns = builder.gep(matrix, [builder.mul(column, _INT64(SIMD_WIDTH))])
            with cgutils.for_range(builder, length) as loop:
                j = loop.index
                x = write.load(builder.gep(columns, [builder.mul(j, _INT64(SIMD_WIDTH))]))
                for total, source in zip(sums, sources, strict=True):
                    write.add_to(
                        total, x, broadcast(builder, builder.load(builder.gep(source, [j])))
                    )
        targets = write.addresses(write.data(signature.args[3], out, o), by, used)
        for total, target in zip(sums, targets, strict=True):
            write.store(builder.load(total), target)
        return context.get_dummy_value()

    return kinds, emit


@emitted
def add_outer(
    typing: TypingContext,
    x: types.Type,
    y: types.Type,
    weights: types.Type,
    out: types.Type,
    o: types.Type,
    by: types.Type,
) -> Intrinsic:
    """`out[o + by i : +8] += sum_g weights[g] x_g[i] y_g[:8]` for eight `i`, over eight `g`.

    `x` and `y` are `(array, offset, stride from g to g + 1, used)`.
    """
    kinds = types.void(x, y, weights, out, types.intp, types.intp)

    def emit(context: Context, builder: Builder, signature: Signature, values: Values) -> Value:
        write = Emitter(context, builder)
        left, right, weights, out, o, by = values

        def addresses(i: int, part: Value) -> list[Value]:
            array, offset, stride, count = (builder.extract_value(part, j) for j in range(4))
            address = write.data(signature.args[i].types[0], array, offset)
            return write.addresses(address, stride, count)

        targets = write.addresses(write.data(signature.args[3], out, o), by, _INT64(SIMD_WIDTH))
        sums = write.sums([write.load(target) for target in targets])
        scale = write.data(signature.args[2], weights, _INT64(0))
        for g, (a, b) in enumerate(zip(addresses(0, left), addresses(1, right), strict=True)):
            weight = builder.load(builder.gep(scale, [_INT64(g)]))
            y = builder.fmul(write.load(b), broadcast(builder, weight), flags=_FLAGS)
            for i, total in enumerate(sums):
                x = builder.load(builder.gep(a, [_INT64(i)]))
                write.add_to(total, y, broadcast(builder, x))
        for total, target in zip(sums, targets, strict=True):
            write.store(builder.load(total), target)
        return context.get_dummy_value()

    return kinds, emit


@emitted
def read_register_block(
    typing: TypingContext,
    source: types.Type,
    o: types.Type,
    by: types.Type,
    used: types.Type,
    X: types.Type,
    i: types.Type,
) -> Intrinsic:
    """`X[i + 8 j + g] = source[o + by g + j]` for eight `j` and `g`; those past `used` repeat."""
    kinds = types.void(source, types.intp, types.intp, types.intp, X, types.intp)

    def emit(context: Context, builder: Builder, signature: Signature, values: Values) -> Value:
        write = Emitter(context, builder)
        source, o, by, used, X, i = values
        sources = write.addresses(write.data(signature.args[0], source, o), by, used)
        target = write.data(signature.args[4], X, i)
        for j, row in enumerate(transposed(builder, [write.load(x) for x in sources])):
            write.store(row, builder.gep(target, [_INT64(SIMD_WIDTH * j)]))
        return context.get_dummy_value()

    return kinds, emit


def _write_register_block(store: Callable[[Emitter, Value, Value], None]) -> Callable[..., Any]:
    @emitted
    def write_register_block(
        typing: TypingContext,
        X: types.Type,
        i: types.Type,
        out: types.Type,
        o: types.Type,
        by: types.Type,
        used: types.Type,
    ) -> Intrinsic:
        kinds = types.void(X, types.intp, out, types.intp, types.intp, types.intp)

        def emit(
            context: Context, builder: Builder, signature: Signature, values: Values
        ) -> Value:
            write = Emitter(context, builder)
            X, i, out, o, by, used = values
            source = write.data(signature.args[0], X, i)
            rows = [
                write.load(builder.gep(source, [_INT64(SIMD_WIDTH * j)]))
                for j in range(SIMD_WIDTH)
            ]
            targets = write.addresses(write.data(signature.args[2], out, o), by, used)
            for row, target in zip(transposed(builder, rows), targets, strict=True):
                store(write, row, target)
            return context.get_dummy_value()

        return kinds, emit

    return write_register_block


# `out[o + by g + j] = X[i + 8 j + g]` for eight `j` and the first `used` of eight `g`; the second
# past the caches, into whole cache lines. After it comes a `fence`.
write_register_block, stream_register_block = (
    _write_register_block(Emitter.store),
    _write_register_block(Emitter.stream),
)


@emitted
def fence(typing: TypingContext) -> Intrinsic:
    """Let other threads see what was written past the caches."""

    def emit(context: Context, builder: Builder, signature: Signature, values: Values) -> Value:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


def _rows(count: int) -> Callable[..., Any]:
    @emitted
    def rows(
        typing: TypingContext,
        W: types.Type,
        w: types.Type,
        start: types.Type,
        s: types.Type,
        parts: types.Type,
        out: types.Type,
        o: types.Type,
    ) -> Intrinsic:
        kinds = types.void(W, types.intp, start, types.intp, parts, out, types.intp)

        def emit(
            context: Context, builder: Builder, signature: Signature, values: Values
        ) -> Value:
            write = Emitter(context, builder)
            *_, parts, out, o = values
            matrix, before = (
                write.data(signature.args[i], values[i], values[i + 1]) for i in (0, 2)
            )
            target = write.data(signature.args[5], out, o)
            places = [_INT64(SIMD_WIDTH * r) for r in range(count)]
            sums = write.sums([write.load(builder.gep(before, [r])) for r in places])
            for i, kind in enumerate(signature.args[4].types):
                part = builder.extract_value(parts, i)
                array, offset, length, column = (builder.extract_value(part, j) for j in range(4))
                source = write.data(kind.types[0], array, offset)
                columns = builder.gep(matrix, [builder.mul(column, _INT64(count))])
                with cgutils.for_range(builder, length) as loop:
                    j = loop.index
                    x = write.load(builder.gep(source, [builder.mul(j, _INT64(SIMD_WIDTH))]))
                    for r, total in enumerate(sums):
                        at = builder.add(builder.mul(j, _INT64(count)), _INT64(r))
                        weight = builder.load(builder.gep(columns, [at]))
                        write.add_to(total, x, broadcast(builder, weight))
            for total, r in zip(sums, places, strict=True):
                write.store(builder.load(total), builder.gep(target, [r]))
            return context.get_dummy_value()

        return kinds, emit

    return rows


# `out[o + 8 r + g] = start[s + 8 r + g] + sum_j W[w + 4 j + r] x[8 j + g]` for four rows `r`, two
# or one, and eight `g`. `parts` are stretches of `x`: `(array, offset, length, first j)`.
four_rows, two_rows, one_row = (_rows(count) for count in (4, 2, 1))
