"""Torch's operations entry by entry, written into a program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .program import Atom, Atoms, Program

Handler: TypeAlias = Callable[..., Any]
"""Takes the program and the arguments of torch's operation, arrays of atoms for tensors."""

Scalar: TypeAlias = Callable[..., Atom]


def array(value: object) -> Atoms:
    """Return an array of atoms; a number becomes one without axes."""
    if isinstance(value, np.ndarray):
        return value if value.dtype == object else value.astype(np.float64).astype(object)
    out = np.empty((), dtype=object)
    out[()] = float(value)  # type: ignore[arg-type]
    return out


def mapped(function: Scalar, *arrays: object) -> Atoms:
    """Apply a function of atoms entry by entry, with broadcasting."""
    inputs = [array(a) for a in arrays]
    out = np.frompyfunc(function, len(inputs), 1)(*inputs)
    return out if isinstance(out, np.ndarray) else _boxed(out)


def _boxed(atom: Atom) -> Atoms:
    out = np.empty((), dtype=object)
    out[()] = atom
    return out


def plain(name: str) -> Handler:
    """Return the handler of an operation that a program knows by this name."""
    return lambda program, *args: mapped(lambda *x: program.emit(name, *x), *args)


def _composed(formula: Callable[..., Atom], count: int) -> Handler:
    def handler(program: Program, *args: object, **_: object) -> Atoms:
        return mapped(lambda *x: formula(program.emit, *x), *args[:count])

    return handler


Emit: TypeAlias = Callable[..., Atom]


def _add(emit: Emit, a: Atom, b: Atom, alpha: Atom) -> Atom:
    return emit("add", a, emit("mul", alpha, b))


def _sub(emit: Emit, a: Atom, b: Atom, alpha: Atom) -> Atom:
    return emit("sub", a, emit("mul", alpha, b))


def _scaled(formula: Scalar, swap: bool = False) -> Handler:
    def handler(program: Program, a: object, b: object, alpha: float = 1.0) -> Atoms:
        first, second = (b, a) if swap else (a, b)
        return mapped(lambda x, y: formula(program.emit, x, y, float(alpha)), first, second)

    return handler


def _div(program: Program, a: object, b: object, rounding_mode: str | None = None) -> Atoms:
    def one(x: Atom, y: Atom) -> Atom:
        value = program.emit("div", x, y)
        if rounding_mode is None:
            return value
        down = program.emit("floor", value)
        if rounding_mode == "floor":
            return down
        up = program.emit("neg", program.emit("floor", program.emit("neg", value)))
        return program.emit("select", program.emit("lt", value, 0.0), up, down)

    return mapped(one, a, b)


def power(emit: Emit, a: Atom, b: Atom) -> Atom:
    """Return `a^b`, by products where `b` is a small whole number."""
    if isinstance(b, float):
        if b == 0.5:
            return emit("sqrt", a)
        if b.is_integer() and 0 < abs(b) <= 8:
            value = a
            for _ in range(int(abs(b)) - 1):
                value = emit("mul", value, a)
            return value if b > 0 else emit("div", 1.0, value)
    return emit("pow", a, b)


def _sigmoid(emit: Emit, x: Atom) -> Atom:
    # By tanh, whose derivative has no overflow.
    return emit("mul", 0.5, emit("add", 1.0, emit("tanh", emit("mul", 0.5, x))))


def _softplus(program: Program, x: object, beta: float = 1.0, threshold: float = 20.0) -> Atoms:
    emit = program.emit

    def one(a: Atom) -> Atom:
        scaled = emit("mul", float(beta), a)
        large = emit("gt", scaled, float(threshold))
        # The small side never overflows, so that neither it nor its slope is infinite.
        safe = emit("select", large, 0.0, scaled)
        small = emit("div", emit("log1p", emit("exp", safe)), float(beta))
        return emit("select", large, a, small)

    return mapped(one, x)


def _remainder(emit: Emit, a: Atom, b: Atom) -> Atom:
    return emit("sub", a, emit("mul", b, emit("floor", emit("div", a, b))))


def _elu(program: Program, x: object, alpha: float = 1.0, scale: float = 1.0,
         input_scale: float = 1.0) -> Atoms:  # fmt: skip
    emit = program.emit

    def one(a: Atom) -> Atom:
        positive = emit("gt", a, 0.0)
        low = emit("select", positive, 0.0, emit("mul", float(input_scale), a))
        negative = emit("mul", float(alpha), emit("expm1", low))
        return emit("mul", float(scale), emit("select", positive, a, negative))

    return mapped(one, x)


def _leaky(program: Program, x: object, negative_slope: float = 0.01) -> Atoms:
    emit = program.emit
    return mapped(
        lambda a: emit(
            "select", emit("gt", a, 0.0), a, emit("mul", float(negative_slope), a)
        ), x,
    )  # fmt: skip


def _gelu(program: Program, x: object, approximate: str = "none") -> Atoms:
    emit = program.emit

    def one(a: Atom) -> Atom:
        if approximate == "none":
            inner = emit("erf", emit("mul", a, math.sqrt(0.5)))
        else:
            cube = emit("mul", 0.044715, emit("mul", a, emit("mul", a, a)))
            inner = emit("tanh", emit("mul", math.sqrt(2 / math.pi), emit("add", a, cube)))
        return emit("mul", emit("mul", 0.5, a), emit("add", 1.0, inner))

    return mapped(one, x)


def larger(emit: Emit, a: Atom, b: Atom) -> Atom:
    """Return the larger of two."""
    return emit("select", emit("gt", a, b), a, b)


def smaller(emit: Emit, a: Atom, b: Atom) -> Atom:
    """Return the smaller of two."""
    return emit("select", emit("lt", a, b), a, b)


def _clamp(program: Program, x: object, low: object = None, high: object = None, *,
           min: object = None, max: object = None) -> Atoms:  # noqa: A002  # fmt: skip
    low, high = min if low is None else low, max if high is None else high
    out = array(x)
    if low is not None:
        out = mapped(lambda a, b: larger(program.emit, a, b), out, low)
    if high is not None:
        out = mapped(lambda a, b: smaller(program.emit, a, b), out, high)
    return out


def _rounded(emit: Emit, x: Atom) -> Atom:
    return emit("neg", emit("floor", emit("neg", x)))


def _copied(program: Program, x: Atoms, **_: object) -> Atoms:
    return x.copy()


def to_float(program: Program, x: Atoms, *_: object, **__: object) -> Atoms:
    """Return numbers where there were conditions."""
    return mapped(program.number, x)


ELEMENTWISE: dict[str, Handler] = {
    **{name: plain(name) for name in (
        "neg", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log",
        "log1p", "expm1", "sqrt", "abs", "floor", "erf", "atan2", "sign",
        "lt", "le", "gt", "ge", "eq", "ne",
    )},
    "add": _scaled(_add), "sub": _scaled(_sub), "rsub": _scaled(_sub, swap=True),
    "mul": plain("mul"), "div": _div, "true_divide": _div,
    "floor_divide": lambda program, a, b: _div(program, a, b, "floor"),
    "logical_not": plain("not"), "bitwise_not": plain("not"),
    "logical_and": plain("and"), "bitwise_and": plain("and"), "__and__": plain("and"),
    "logical_or": plain("or"), "bitwise_or": plain("or"), "__or__": plain("or"),
    "logical_xor": plain("xor"), "bitwise_xor": plain("xor"),
    "where": plain("select"),
    "pow": _composed(power, 2), "square": _composed(lambda e, x: e("mul", x, x), 1),
    "reciprocal": _composed(lambda e, x: e("div", 1.0, x), 1),
    "rsqrt": _composed(lambda e, x: e("div", 1.0, e("sqrt", x)), 1),
    "log2": _composed(lambda e, x: e("div", e("log", x), math.log(2.0)), 1),
    "log10": _composed(lambda e, x: e("div", e("log", x), math.log(10.0)), 1),
    "exp2": _composed(lambda e, x: e("exp", e("mul", math.log(2.0), x)), 1),
    "sigmoid": _composed(_sigmoid, 1),
    "silu": _composed(lambda e, x: e("mul", x, _sigmoid(e, x)), 1),
    "relu": _composed(lambda e, x: e("select", e("gt", x, 0.0), x, 0.0), 1),
    "hypot": _composed(
        lambda e, a, b: e("sqrt", e("add", e("mul", a, a), e("mul", b, b))), 2
    ),
    "ceil": _composed(_rounded, 1),
    "remainder": _composed(_remainder, 2),
    "maximum": _composed(larger, 2), "minimum": _composed(smaller, 2),
    "fmax": _composed(larger, 2), "fmin": _composed(smaller, 2),
    "softplus": _softplus, "elu": _elu, "leaky_relu": _leaky, "gelu": _gelu,
    "hardtanh": lambda program, x, low=-1.0, high=1.0: _clamp(program, x, low, high),
    "clamp": _clamp, "clip": _clamp,
    "clamp_min": lambda program, x, low: _clamp(program, x, low),
    "clamp_max": lambda program, x, high: _clamp(program, x, None, high),
    "addcmul": lambda program, x, a, b, value=1.0: mapped(
        lambda x, a, b: program.emit(
            "add", x, program.emit("mul", float(value), program.emit("mul", a, b))
        ), x, a, b,
    ),
    "deg2rad": _composed(lambda e, x: e("mul", math.pi / 180, x), 1),
    "rad2deg": _composed(lambda e, x: e("mul", 180 / math.pi, x), 1),
    "clone": _copied, "contiguous": _copied, "lift_fresh_copy": _copied,
    "_to_copy": to_float,
}  # fmt: skip
