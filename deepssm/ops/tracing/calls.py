"""Calls of machine code by its address from compiled loops."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature

from ..simd import Builder, Context, Intrinsic, Value, Values, emitted


@emitted
def call_step(
    typing_context: TypingContext,
    address: types.Type,
    z: types.Type,
    u: types.Type,
    p: types.Type,
    w: types.Type,
    out: types.Type,
) -> Intrinsic:
    """Run `step(z, u, p, w, out)` of `machine_code`, whose address is a whole number."""

    def emit(context: Context, builder: Builder, signature: Signature, args: Values) -> Value:
        pointer = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer] * 5)
        function = builder.inttoptr(args[0], kind.as_pointer())
        data = []
        for given, array in zip(signature.args[1:], args[1:], strict=True):
            whole = context.make_array(given)(context, builder, array)
            data.append(builder.bitcast(whole.data, pointer))
        builder.call(function, data)
        return context.get_dummy_value()

    return types.void(types.intp, z, u, p, w, out), emit
