"""Products and transposes of eight by eight numbers in registers: the arithmetic of settled steps.

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

from .simd import emitted, repeated, transposed

LANES = 8
_FAST = ("contract", "reassoc", "nsz")
_INT, _INDEX = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class Emitter:
    """Writes loads, stores and sums of vectors.

    Attributes:
        builder: Of the function that is compiled.
    """

    def __init__(self, context: Any, builder: Any) -> None:  # noqa: ANN401
        self._context, self.builder = context, builder

    def data(self, kind: Any, array: Any, offset: Any) -> Any:  # noqa: ANN401
        """Return the address of entry `offset` of an array, whatever its axes."""
        whole = self._context.make_array(kind)(self._context, self.builder, array).data
        return self.builder.gep(whole, [offset])

    def lanes(self, address: Any, stride: Any, count: Any) -> list[Any]:  # noqa: ANN401
        """Return the addresses of eight lanes; those past `count` are the last one again."""
        last, out = self.builder.sub(count, _INDEX(1)), []
        for g in range(LANES):
            beyond = self.builder.icmp_signed(">", _INDEX(g), last)
            lane = self.builder.select(beyond, last, _INDEX(g))
            out.append(self.builder.gep(address, [self.builder.mul(stride, lane)]))
        return out

    def load(self, address: Any) -> Any:  # noqa: ANN401
        """Return eight numbers."""
        return self.builder.load(self.builder.bitcast(address, _VECTOR.as_pointer()), align=8)

    def store(self, value: Any, address: Any) -> None:  # noqa: ANN401
        """Write eight numbers."""
        target = self.builder.bitcast(address, _VECTOR.as_pointer())
        self.builder.store(value, target, align=8)

    def stream(self, value: Any, address: Any) -> None:  # noqa: ANN401
        """Write a whole cache line past the caches: nobody reads it soon."""
        target = self.builder.bitcast(address, _VECTOR.as_pointer())
        line = self.builder.store(value, target, align=8 * LANES)
        line.set_metadata("nontemporal", self.builder.module.add_metadata([_INT(1)]))

    def add_to(self, total: Any, x: Any, y: Any) -> None:  # noqa: ANN401
        """`total += x y`."""
        product = self.builder.fmul(x, y, flags=_FAST)
        grown = self.builder.fadd(self.builder.load(total), product, flags=_FAST)
        self.builder.store(grown, total)

    def sums(self, values: list[Any]) -> list[Any]:
        """Return partial sums that begin with `values`; LLVM keeps them in registers."""
        out = [cgutils.alloca_once(self.builder, _VECTOR) for _ in values]
        for total, value in zip(out, values, strict=True):
            self.builder.store(value, total)
        return out


_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)


@emitted
def product(typing, W, w, parts, out, o, by, lanes):  # noqa: ANN001, ANN201, ARG001
    """`out[o + by g : +8] = sum_j W[w + 8 j : +8] s_g[j]` for the first `lanes` of eight `g`.

    `parts` are stretches of `s`, each with a column to begin at:
    `(array, offset, stride from g to g + 1, length, first j)`.
    """
    kinds = types.void(W, types.intp, parts, out, types.intp, types.intp, types.intp)

    def emit(context, builder, signature, values):  # noqa: ANN001, ANN202
        write = Emitter(context, builder)
        W, w, parts, out, o, by, lanes = values
        matrix = write.data(signature.args[0], W, w)
        sums = write.sums([_ZERO] * LANES)
        for i, kind in enumerate(signature.args[2].types):
            part = builder.extract_value(parts, i)
            array, offset, stride, length, column = (
                builder.extract_value(part, j) for j in range(5)
            )
            sources = write.lanes(write.data(kind.types[0], array, offset), stride, lanes)
            columns = builder.gep(matrix, [builder.mul(column, _INDEX(LANES))])
            with cgutils.for_range(builder, length) as loop:
                j = loop.index
                x = write.load(builder.gep(columns, [builder.mul(j, _INDEX(LANES))]))
                for total, source in zip(sums, sources, strict=True):
                    write.add_to(
                        total, x, repeated(builder, builder.load(builder.gep(source, [j])))
                    )
        targets = write.lanes(write.data(signature.args[3], out, o), by, lanes)
        for total, target in zip(sums, targets, strict=True):
            write.store(builder.load(total), target)
        return context.get_dummy_value()

    return kinds, emit


@emitted
def add_outer(typing, x, y, weights, out, o, by):  # noqa: ANN001, ANN201, ARG001
    """`out[o + by i : +8] += sum_g weights[g] x_g[i] y_g[:8]` for eight `i`, over eight `g`.

    `x` and `y` are `(array, offset, stride from g to g + 1, lanes)`.
    """
    kinds = types.void(x, y, weights, out, types.intp, types.intp)

    def emit(context, builder, signature, values):  # noqa: ANN001, ANN202
        write = Emitter(context, builder)
        left, right, weights, out, o, by = values

        def lanes(i, part):  # noqa: ANN001, ANN202
            array, offset, stride, count = (builder.extract_value(part, j) for j in range(4))
            address = write.data(signature.args[i].types[0], array, offset)
            return write.lanes(address, stride, count)

        targets = write.lanes(write.data(signature.args[3], out, o), by, _INDEX(LANES))
        sums = write.sums([write.load(target) for target in targets])
        scale = write.data(signature.args[2], weights, _INDEX(0))
        for g, (a, b) in enumerate(zip(lanes(0, left), lanes(1, right), strict=True)):
            weight = builder.load(builder.gep(scale, [_INDEX(g)]))
            y = builder.fmul(write.load(b), repeated(builder, weight), flags=_FAST)
            for i, total in enumerate(sums):
                x = builder.load(builder.gep(a, [_INDEX(i)]))
                write.add_to(total, y, repeated(builder, x))
        for total, target in zip(sums, targets, strict=True):
            write.store(builder.load(total), target)
        return context.get_dummy_value()

    return kinds, emit


@emitted
def read_tile(typing, source, o, by, lanes, X, i):  # noqa: ANN001, ANN201, ARG001
    """`X[i + 8 j + g] = source[o + by g + j]` for eight `j` and `g`; lanes past `lanes` repeat."""
    kinds = types.void(source, types.intp, types.intp, types.intp, X, types.intp)

    def emit(context, builder, signature, values):  # noqa: ANN001, ANN202
        write = Emitter(context, builder)
        source, o, by, lanes, X, i = values
        sources = write.lanes(write.data(signature.args[0], source, o), by, lanes)
        target = write.data(signature.args[4], X, i)
        for j, row in enumerate(transposed(builder, [write.load(x) for x in sources])):
            write.store(row, builder.gep(target, [_INDEX(LANES * j)]))
        return context.get_dummy_value()

    return kinds, emit


def _write_tile(store: Callable[[Emitter, Any, Any], None]) -> Any:  # noqa: ANN401
    @emitted
    def write_tile(typing, X, i, out, o, by, lanes):  # noqa: ANN001, ANN202, ARG001
        kinds = types.void(X, types.intp, out, types.intp, types.intp, types.intp)

        def emit(context, builder, signature, values):  # noqa: ANN001, ANN202
            write = Emitter(context, builder)
            X, i, out, o, by, lanes = values
            source = write.data(signature.args[0], X, i)
            rows = [write.load(builder.gep(source, [_INDEX(LANES * j)])) for j in range(LANES)]
            targets = write.lanes(write.data(signature.args[2], out, o), by, lanes)
            for row, target in zip(transposed(builder, rows), targets, strict=True):
                store(write, row, target)
            return context.get_dummy_value()

        return kinds, emit

    return write_tile


# `out[o + by g + j] = X[i + 8 j + g]` for eight `j` and the first `lanes` of eight `g`; the second
# past the caches, into whole cache lines. After it comes a `fence`.
write_tile, stream_tile = _write_tile(Emitter.store), _write_tile(Emitter.stream)


@emitted
def fence(typing):  # noqa: ANN001, ANN201, ARG001
    """Let other threads see what was written past the caches."""

    def emit(context, builder, signature, values):  # noqa: ANN001, ANN202, ARG001
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


def _rows(count: int) -> Any:  # noqa: ANN401
    @emitted
    def rows(typing, W, w, start, s, parts, out, o):  # noqa: ANN001, ANN202, ARG001
        kinds = types.void(W, types.intp, start, types.intp, parts, out, types.intp)

        def emit(context, builder, signature, values):  # noqa: ANN001, ANN202
            write = Emitter(context, builder)
            *_, parts, out, o = values
            matrix, before = (
                write.data(signature.args[i], values[i], values[i + 1]) for i in (0, 2)
            )
            target = write.data(signature.args[5], out, o)
            places = [_INDEX(LANES * r) for r in range(count)]
            sums = write.sums([write.load(builder.gep(before, [r])) for r in places])
            for i, kind in enumerate(signature.args[4].types):
                part = builder.extract_value(parts, i)
                array, offset, length, column = (builder.extract_value(part, j) for j in range(4))
                source = write.data(kind.types[0], array, offset)
                columns = builder.gep(matrix, [builder.mul(column, _INDEX(count))])
                with cgutils.for_range(builder, length) as loop:
                    j = loop.index
                    x = write.load(builder.gep(source, [builder.mul(j, _INDEX(LANES))]))
                    for r, total in enumerate(sums):
                        at = builder.add(builder.mul(j, _INDEX(count)), _INDEX(r))
                        weight = builder.load(builder.gep(columns, [at]))
                        write.add_to(total, x, repeated(builder, weight))
            for total, r in zip(sums, places, strict=True):
                write.store(builder.load(total), builder.gep(target, [r]))
            return context.get_dummy_value()

        return kinds, emit

    return rows


# `out[o + 8 r + g] = start[s + 8 r + g] + sum_j W[w + 4 j + r] x[8 j + g]` for four rows `r`, two
# or one, and eight `g`. `parts` are stretches of `x`: `(array, offset, length, first j)`.
four_rows, two_rows, one_row = (_rows(count) for count in (4, 2, 1))
