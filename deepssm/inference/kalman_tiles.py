"""Products of eight columns by eight rows, kept in registers: the arithmetic of settled steps.

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
from numba.extending import intrinsic

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

    def splat(self, x: Any) -> Any:  # noqa: ANN401
        """Return eight times the same number."""
        none = ir.Constant(_VECTOR, ir.Undefined)
        one = self.builder.insert_element(none, x, _INT(0))
        first = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, none, first)

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


def _emitted(function: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Make a function that numba writes out where it is called."""
    return intrinsic(function)


_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)


@_emitted
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
                    write.add_to(total, x, write.splat(builder.load(builder.gep(source, [j]))))
        targets = write.lanes(write.data(signature.args[3], out, o), by, lanes)
        for total, target in zip(sums, targets, strict=True):
            write.store(builder.load(total), target)
        return context.get_dummy_value()

    return kinds, emit


@_emitted
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
            y = builder.fmul(write.load(b), write.splat(weight), flags=_FAST)
            for i, total in enumerate(sums):
                x = builder.load(builder.gep(a, [_INDEX(i)]))
                write.add_to(total, y, write.splat(x))
        for total, target in zip(sums, targets, strict=True):
            write.store(builder.load(total), target)
        return context.get_dummy_value()

    return kinds, emit


@_emitted
def add_squares(typing, x, i, rows, start, out, o):  # noqa: ANN001, ANN201, ARG001
    """`out[o : o+8] = start - sum_r x[i + 8 r : +8]^2 / 2` over `rows` rows."""
    kinds = types.void(x, types.intp, types.intp, types.float64, out, types.intp)

    def emit(context, builder, signature, values):  # noqa: ANN001, ANN202
        write = Emitter(context, builder)
        x, i, rows, start, out, o = values
        source = write.data(signature.args[0], x, i)
        (total,) = write.sums([write.splat(start)])
        half = ir.Constant(_VECTOR, [-0.5] * LANES)
        with cgutils.for_range(builder, rows) as loop:
            e = write.load(builder.gep(source, [builder.mul(loop.index, _INDEX(LANES))]))
            write.add_to(total, builder.fmul(half, e, flags=_FAST), e)
        write.store(builder.load(total), write.data(signature.args[4], out, o))
        return context.get_dummy_value()

    return kinds, emit
