"""A function of numbers as a list of scalar operations, simplified while it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Atom: TypeAlias = int | float
"""A number of a program: a variable (`int`, a place of an operation) or a constant (`float`)."""

Atoms: TypeAlias = NDArray[np.object_]
"""An array of atoms: what a tensor is while its function is traced."""

INPUTS = ("z", "u", "p", "w")
"""States, inputs with the time step last, parameters, and weights of outputs in reverse mode."""

COMPARISONS = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
LOGIC = ("and", "or", "xor")
LARGEST = 25_000
"""Operations beyond which straight-line code is slow to compile and leaves the caches."""


class Untraceable(Exception):
    """A function cannot be written out; the message says why, in a clause."""


class Operation(NamedTuple):
    """One operation: its name and its arguments, atoms all but for `input` and `product`."""

    name: str
    args: tuple[Atom, ...]


class Block(NamedTuple):
    """A matrix among the parameters: entry `(i, j)` is `p[first + i rows_by + j columns_by]`."""

    first: int
    rows: int
    columns: int
    rows_by: int
    columns_by: int

    @property
    def transposed(self) -> Block:
        """The same numbers, rows for columns."""
        return Block(self.first, self.columns, self.rows, self.columns_by, self.rows_by)


class Program:
    """Writes operations, each only once; constants are folded and zeros and ones dropped.

    Attributes:
        operations: What to compute, in order; an `int` atom is a place in it.
        blocks: Parameter matrices of the operations `product`, by their place.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.blocks: dict[int, Block] = {}
        self._known: dict[tuple[object, ...], Atom] = {}

    def input(self, kind: str, index: int) -> Atom:
        """Return entry `index` of an input, one of `INPUTS`."""
        return self._write("input", (INPUTS.index(kind), index))

    def is_condition(self, atom: Atom) -> bool:
        """Tell whether an atom is true or false instead of a number."""
        if isinstance(atom, float):
            return False
        name = self.operations[atom].name
        return name in COMPARISONS or name in LOGIC or name == "not"

    def number(self, atom: Atom) -> Atom:
        """Return 1 for true and 0 for false, a number as it is."""
        return self._write("select", (atom, 1.0, 0.0)) if self.is_condition(atom) else atom

    def condition(self, atom: Atom) -> Atom:
        """Return whether a number is not zero; constants stay 1 or 0."""
        if isinstance(atom, float):
            return 1.0 if atom != 0 else 0.0
        return atom if self.is_condition(atom) else self._write("ne", (atom, 0.0))

    def emit(self, name: str, *args: Atom) -> Atom:
        """Write one operation and return its result.

        Args:
            name: A key of `FUNCTIONS`, of `COMPARISONS`, or one of `LOGIC`, `not` and `select`.
            *args: Its arguments.
        """
        if name == "select":
            return self._select(*args)
        if name == "not" or name in LOGIC:
            return self._logic(name, *(self.condition(a) for a in args))
        numbers = tuple(self.number(a) for a in args)
        if all(isinstance(a, float) for a in numbers):
            return _folded(name, numbers)
        simple = _SIMPLER[name](*numbers) if name in _SIMPLER else None
        return self._write(name, numbers) if simple is None else simple

    def product(self, block: Block, vector: list[Atom]) -> list[Atom]:
        """Return a parameter matrix times a vector, computed by a loop."""
        place = self._write("product", (*block, *(self.number(a) for a in vector)))
        assert isinstance(place, int)
        self.blocks[place] = block
        return [self._write("entry", (place, i)) for i in range(block.rows)]

    def _select(self, chosen: Atom, yes: Atom, no: Atom) -> Atom:
        chosen = self.condition(chosen)
        if isinstance(chosen, float):
            return yes if chosen else no
        if self.is_condition(yes) != self.is_condition(no):
            yes, no = self.number(yes), self.number(no)
        elif self.is_condition(yes):
            return self.emit("or", self.emit("and", chosen, yes),
                             self.emit("and", self.emit("not", chosen), no))  # fmt: skip
        return yes if _same(yes, no) else self._write("select", (chosen, yes, no))

    def _logic(self, name: str, *args: Atom) -> Atom:
        if name == "not":
            known = isinstance(args[0], float)
            return 1.0 - args[0] if known else self._write(name, args)
        a, b = (args[1], args[0]) if isinstance(args[0], float) else args
        if isinstance(b, int):
            return self._write(name, (a, b))
        if name == "and":
            return a if b else 0.0
        if name == "or":
            return 1.0 if b else a
        return self._logic("not", a) if b else a

    def _write(self, name: str, args: tuple[Atom, ...]) -> Atom:
        # 1 and 1.0, 0.0 and -0.0 are equal keys, but variables and constants are not the same.
        key = (name, *((type(a), repr(a)) for a in args))
        if key not in self._known:
            if len(self.operations) >= LARGEST:
                raise Untraceable(f"it takes more than {LARGEST} operations a step")
            self.operations.append(Operation(name, args))
            self._known[key] = len(self.operations) - 1
        return self._known[key]


def _same(a: Atom, b: Atom) -> bool:
    return type(a) is type(b) and a == b


def _add(a: Atom, b: Atom) -> Atom | None:
    return b if _is(a, 0.0) else a if _is(b, 0.0) else None


def _sub(a: Atom, b: Atom) -> Atom | None:
    return a if _is(b, 0.0) else None


def _mul(a: Atom, b: Atom) -> Atom | None:
    # A structural zero stays zero whatever it multiplies, as in a sparse matrix.
    if _is(a, 0.0) or _is(b, 0.0):
        return 0.0
    return b if _is(a, 1.0) else a if _is(b, 1.0) else None


def _div(a: Atom, b: Atom) -> Atom | None:
    return 0.0 if _is(a, 0.0) else a if _is(b, 1.0) else None


def _is(atom: Atom, value: float) -> bool:
    return isinstance(atom, float) and atom == value


_SIMPLER: dict[str, Callable[[Atom, Atom], Atom | None]] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div,
}  # fmt: skip


def _sign(x: float) -> float:
    return float(np.sign(x))


FUNCTIONS: dict[str, Callable[..., float]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "exp": np.exp,
    "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "sqrt": np.sqrt, "abs": np.abs,
    "floor": np.floor, "erf": np.vectorize(math.erf), "atan2": np.arctan2, "pow": np.power,
    "sign": np.sign,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def _folded(name: str, numbers: tuple[Atom, ...]) -> float:
    with np.errstate(all="ignore"):
        return float(FUNCTIONS[name](*(np.float64(x) for x in numbers)))
