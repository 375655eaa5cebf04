"""Exact derivatives of a program, written into the program itself: forward and reverse mode."""

from __future__ import annotations

import math

import numpy as np

from .program import COMPARISONS, LOGIC, Atom, Atoms, Operation, Program, Untraceable

_FLAT = {"floor", "sign", "input", "not", *COMPARISONS, *LOGIC}


def jacobian(program: Program, outputs: list[Atom], inputs: list[Atom]) -> Atoms:
    """Return `d output_i / d input_j` by forward mode; zeros that follow from structure are 0.0.

    Args:
        program: Grows by what the derivatives need.
        outputs: Atoms.
        inputs: Atoms of `Program.input`.
    """
    count = len(program.operations)
    rows = np.empty((len(outputs), len(inputs)), dtype=object)
    for j, variable in enumerate(inputs):
        tangents = _tangents(program, count, variable)
        for i, output in enumerate(outputs):
            rows[i, j] = 0.0 if isinstance(output, float) else tangents.get(output, 0.0)
    return rows


def _tangents(program: Program, count: int, variable: Atom) -> dict[int, Atom]:
    """Return the tangents that are not zero, of the first `count` operations."""
    found: dict[int, Atom] = {}
    if isinstance(variable, int):
        found[variable] = 1.0

    def of(atom: Atom) -> Atom:
        return found.get(atom, 0.0) if isinstance(atom, int) else 0.0

    products: dict[int, list[Atom]] = {}
    for place in range(count):
        name, args = operation = program.operations[place]
        if name in _FLAT:
            continue
        if name == "product":
            vector = [of(a) for a in args[5:]]
            if any(not _zero(a) for a in vector):
                products[place] = program.product(program.blocks[place], vector)
            continue
        if name == "entry":
            value = products[int(args[0])][int(args[1])] if args[0] in products else 0.0
        elif all(_zero(of(a)) for a in args):
            continue
        elif name == "select":
            value = program.emit("select", args[0], of(args[1]), of(args[2]))
        else:
            value = 0.0
            for a, slope in zip(args, partials(program, place, operation), strict=True):
                value = program.emit("add", value, program.emit("mul", slope, of(a)))
        if not _zero(value):
            found[place] = value
    return found


def gradient(
    program: Program, outputs: list[Atom], weights: list[Atom], inputs: list[Atom]
) -> list[Atom]:
    """Return `sum_i weight_i d output_i / d input_j` by reverse mode.

    Args:
        program: Grows by what the derivatives need.
        outputs: Atoms.
        weights: One for each output.
        inputs: Atoms of `Program.input`.
    """
    total: dict[int, Atom] = {}

    def add(atom: Atom, value: Atom) -> None:
        if isinstance(atom, int) and not _zero(value):
            total[atom] = program.emit("add", total.get(atom, 0.0), value)

    for output, weight in zip(outputs, weights, strict=True):
        add(output, weight)
    entries: dict[int, dict[int, Atom]] = {}
    for place in range(max(total, default=-1), -1, -1):
        operation = program.operations[place]
        if operation.name == "product":
            _product_gradient(program, place, entries.pop(place, {}), add)
            continue
        if place not in total or operation.name in _FLAT:
            continue
        bar = total[place]
        if operation.name == "entry":
            entries.setdefault(int(operation.args[0]), {})[int(operation.args[1])] = bar
        elif operation.name == "select":
            chosen, yes, no = operation.args
            add(yes, program.emit("select", chosen, bar, 0.0))
            add(no, program.emit("select", chosen, 0.0, bar))
        else:
            slopes = partials(program, place, operation)
            for a, slope in zip(operation.args, slopes, strict=True):
                add(a, program.emit("mul", slope, bar))
    return [total.get(x, 0.0) if isinstance(x, int) else 0.0 for x in inputs]


def _product_gradient(program: Program, place: int, bars: dict[int, Atom], add: object) -> None:
    """Pass the weights of a product's entries on to its vector and to its matrix."""
    if not bars:
        return
    block, vector = program.blocks[place], program.operations[place].args[5:]
    column = [bars.get(i, 0.0) for i in range(block.rows)]
    for a, value in zip(vector, program.product(block.transposed, column), strict=True):
        add(a, value)  # type: ignore[operator]
    for i, bar in enumerate(column):
        for j, a in enumerate(vector):
            p = program.input("p", block.first + i * block.rows_by + j * block.columns_by)
            add(p, program.emit("mul", bar, a))  # type: ignore[operator]


def partials(program: Program, place: int, operation: Operation) -> tuple[Atom, ...]:
    """Return the derivative of an operation by each of its arguments."""
    name, args = operation
    emit, x = program.emit, args[0]
    if name in ("add", "sub", "neg", "mul", "div", "pow", "atan2"):
        return _of_arithmetic(program, place, operation)
    if name == "sin":
        return (emit("cos", x),)
    if name == "cos":
        return (emit("neg", emit("sin", x)),)
    if name in ("sinh", "cosh"):
        return (emit("cosh" if name == "sinh" else "sinh", x),)
    if name == "tan":
        return (emit("add", 1.0, emit("mul", place, place)),)
    if name == "tanh":
        return (emit("sub", 1.0, emit("mul", place, place)),)
    if name in ("asin", "acos"):
        slope = emit("div", 1.0, emit("sqrt", emit("sub", 1.0, emit("mul", x, x))))
        return (slope if name == "asin" else emit("neg", slope),)
    if name == "atan":
        return (emit("div", 1.0, emit("add", 1.0, emit("mul", x, x))),)
    if name == "exp":
        return (place,)
    if name == "expm1":
        return (emit("add", place, 1.0),)
    if name == "log":
        return (emit("div", 1.0, x),)
    if name == "log1p":
        return (emit("div", 1.0, emit("add", 1.0, x)),)
    if name == "sqrt":
        return (emit("div", 0.5, place),)
    if name == "abs":
        return (emit("sign", x),)
    if name == "erf":
        power = emit("exp", emit("neg", emit("mul", x, x)))
        return (emit("mul", 2.0 / math.sqrt(math.pi), power),)
    raise Untraceable(f"the derivative of `{name}` is not known")


def _of_arithmetic(program: Program, place: int, operation: Operation) -> tuple[Atom, ...]:
    emit, name = program.emit, operation.name
    if name == "neg":
        return (-1.0,)
    a, b = operation.args
    if name == "add":
        return 1.0, 1.0
    if name == "sub":
        return 1.0, -1.0
    if name == "mul":
        return b, a
    if name == "div":
        return emit("div", 1.0, b), emit("neg", emit("div", place, b))
    if name == "pow":
        left = emit("mul", b, emit("pow", a, emit("sub", b, 1.0)))
        return left, 0.0 if isinstance(b, float) else emit("mul", place, emit("log", a))
    square = emit("add", emit("mul", a, a), emit("mul", b, b))
    return emit("div", b, square), emit("neg", emit("div", a, square))


def _zero(atom: Atom) -> bool:
    return isinstance(atom, float) and atom == 0.0
