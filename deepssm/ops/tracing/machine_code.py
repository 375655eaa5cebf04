"""Programs as machine code, by LLVM: for one series, and for eight side by side.

The text is LLVM's own language instead of Python for numba: the same compiler ends both, but
numba's way to it takes a second and more for what LLVM does in milliseconds.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from . import objects
from .program import COMPARISONS, INPUTS, LOGIC, Atom, Operation, Program, Untraceable

_FLAGS = "contract"
_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTRINSICS = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor"}
_LIBRARY = {
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "sinh": 1, "cosh": 1, "tanh": 1,
    "exp": 1, "log": 1, "log1p": 1, "expm1": 1, "erf": 1, "atan2": 2, "pow": 2,
}  # fmt: skip
"""Functions of the C library and how many arguments they take."""


class Code:
    """Machine code that stays loaded as long as this object.

    Attributes:
        address: Of `void(double* z, double* u, double* p, double* w, double* out)`.
    """

    def __init__(self, text: str) -> None:
        self._engine = objects.loaded(text)
        self.address: int = self._engine.get_function_address("step")


def text_of(program: Program, outputs: list[Atom], *, lanes: int) -> str:
    """Return LLVM's text of a function that writes the outputs.

    Args:
        program: What to compute; operations that no output needs are left out.
        outputs: In the order in which they are written.
        lanes: 1, or 8 series side by side, entries of `z`, `u`, `w` and `out` being vectors.
    """
    writer = _Writer(program, lanes)
    for place in _needed(program, outputs):
        writer.write(place, program.operations[place])
    stores = [line for i, x in enumerate(outputs) for line in writer.stored(i, writer.value(x))]
    return writer.module([*writer.lines, *stores])


def _needed(program: Program, outputs: list[Atom]) -> list[int]:
    seen: set[int] = set()
    waiting = [a for a in outputs if isinstance(a, int)]
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        name, args = program.operations[place]
        if name == "input":
            continue
        start = 5 if name == "product" else 0
        inner = args[:1] if name == "entry" else args[start:]
        waiting += [int(a) for a in inner if isinstance(a, int)]
    return sorted(seen)


class _Writer:
    """Writes operations as instructions on `double` or on vectors of eight."""

    def __init__(self, program: Program, lanes: int) -> None:
        self.program, self.lanes = program, lanes
        self.kind = "double" if lanes == 1 else f"<{lanes} x double>"
        self.truth = "i1" if lanes == 1 else f"<{lanes} x i1>"
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.used: set[str] = set()

    def value(self, atom: Atom) -> str:
        """Return an operand."""
        if isinstance(atom, int):
            return f"%v{atom}"
        bits = struct.unpack("<Q", struct.pack("<d", atom))[0]
        number = f"0x{bits:016X}"
        return number if self.lanes == 1 else f"splat (double {number})"

    def write(self, place: int, operation: Operation) -> None:
        """Append the instructions of one operation."""
        name, args = operation
        out, kind = f"%v{place}", self.kind
        if name == "input":
            self._load(out, INPUTS[int(args[0])], int(args[1]))
            return
        if name == "product":
            self._product(place, args)
            return
        if name == "entry":
            self._entry(out, int(args[0]), int(args[1]))
            return
        a = [self.value(x) for x in args]
        if name in _ARITHMETIC:
            line = f"{_ARITHMETIC[name]} {_FLAGS} {kind} {a[0]}, {a[1]}"
        elif name == "neg":
            line = f"fneg {kind} {a[0]}"
        elif name in COMPARISONS:
            line = f"fcmp {COMPARISONS[name]} {kind} {a[0]}, {a[1]}"
        elif name in LOGIC:
            line = f"{name} {self.truth} {a[0]}, {a[1]}"
        elif name == "not":
            ones = "true" if self.lanes == 1 else "splat (i1 true)"
            line = f"xor {self.truth} {a[0]}, {ones}"
        elif name == "select":
            line = f"select {self.truth} {a[0]}, {kind} {a[1]}, {kind} {a[2]}"
        else:
            given = ", ".join(f"{kind} {x}" for x in a)
            line = f"call {kind} @{self._function(name)}({given})"
        self.lines.append(f"  {out} = {line}")

    def stored(self, index: int, value: str) -> list[str]:
        """Return the instructions that write one output."""
        at = f"%o{index}"
        return [
            f"  {at} = getelementptr {self.kind}, ptr %out, i64 {index}",
            f"  store {self.kind} {value}, ptr {at}, align 8",
        ]

    def module(self, body: list[str]) -> str:
        """Return the whole text."""
        names = ", ".join(f"ptr noalias readonly %{x}" for x in INPUTS)
        head = f"define void @step({names}, ptr noalias %out) {{\nentry:\n"
        parts = [self._definition(name) for name in sorted(self.used)]
        return "\n".join([*parts, head + "\n".join([*self.entry, *body]), "  ret void\n}", ""])

    def _load(self, out: str, source: str, index: int) -> None:
        shared = source == "p" and self.lanes > 1
        kind = "double" if shared else self.kind
        at = f"{out}a"
        self.lines.append(f"  {at} = getelementptr {kind}, ptr %{source}, i64 {index}")
        if shared:
            self.lines += [f"  {out}s = load double, ptr {at}, align 8", *self._spread(out)]
        else:
            self.lines.append(f"  {out} = load {kind}, ptr {at}, align 8")

    def _spread(self, out: str) -> list[str]:
        kind, picks = self.kind, f"<{self.lanes} x i32> zeroinitializer"
        return [
            f"  {out}i = insertelement {kind} poison, double {out}s, i32 0",
            f"  {out} = shufflevector {kind} {out}i, {kind} poison, {picks}",
        ]

    def _function(self, name: str) -> str:
        self.used.add(name)
        if name in _INTRINSICS:
            end = "f64" if self.lanes == 1 else f"v{self.lanes}f64"
            return f"llvm.{_INTRINSICS[name]}.{end}"
        if name in _LIBRARY:
            return name if self.lanes == 1 else f"{name}_lanes"
        if name == "sign":
            return "sign_of"
        raise Untraceable(f"`{name}` has no machine code")

    def _definition(self, name: str) -> str:
        kind = self.kind
        if name in _INTRINSICS:
            return f"declare {kind} @{self._function(name)}({kind})"
        if name == "sign":
            return _SIGN.format(kind=kind, truth=self.truth, one=self.value(1.0),
                                zero=self.value(0.0), minus=self.value(-1.0))  # fmt: skip
        if name == "product":
            return _PRODUCT.format(kind=kind, lanes=self.lanes, spread=_SPREAD[self.lanes > 1])
        count = _LIBRARY[name]
        lines = [f"declare double @{name}({', '.join(['double'] * count)})"]
        if self.lanes > 1:
            letters = "xy"[:count]
            given = ", ".join(f"{kind} %{c}" for c in letters)
            lines.append(f"define internal {kind} @{name}_lanes({given}) {{")
            last = "poison"
            for i in range(self.lanes):
                for c in letters:
                    lines.append(f"  %{c}{i} = extractelement {kind} %{c}, i32 {i}")
                call = ", ".join(f"double %{c}{i}" for c in letters)
                lines.append(f"  %r{i} = call double @{name}({call})")
                lines.append(f"  %s{i} = insertelement {kind} {last}, double %r{i}, i32 {i}")
                last = f"%s{i}"
            lines += [f"  ret {kind} {last}", "}"]
        return "\n".join(lines)

    def _product(self, place: int, args: tuple[Atom, ...]) -> None:
        block, vector = self.program.blocks[place], args[5:]
        x, y, kind = f"%x{place}", f"%y{place}", self.kind
        self.entry += [
            f"  {x} = alloca {kind}, i64 {block.columns}",
            f"  {y} = alloca {kind}, i64 {block.rows}",
        ]
        for i, atom in enumerate(vector):
            at = f"{x}_{i}"
            self.lines.append(f"  {at} = getelementptr {kind}, ptr {x}, i64 {i}")
            self.lines.append(f"  store {kind} {self.value(atom)}, ptr {at}, align 8")
        self.lines.append(f"  call void @product_{self._loop()}(ptr %p, ptr {x}, ptr {y}, "
                          f"i64 {block.first}, i64 {block.rows}, i64 {block.columns}, "
                          f"i64 {block.rows_by}, i64 {block.columns_by})")  # fmt: skip

    def _loop(self) -> str:
        self.used.add("product")
        return str(self.lanes)

    def _entry(self, out: str, place: int, index: int) -> None:
        self.lines.append(f"  {out}a = getelementptr {self.kind}, ptr %y{place}, i64 {index}")
        self.lines.append(f"  {out} = load {self.kind}, ptr {out}a, align 8")


_SIGN = """define internal {kind} @sign_of({kind} %x) {{
  %above = fcmp ogt {kind} %x, {zero}
  %below = fcmp olt {kind} %x, {zero}
  %low = select {truth} %below, {kind} {minus}, {kind} {zero}
  %out = select {truth} %above, {kind} {one}, {kind} %low
  ret {kind} %out
}}"""


_SPREAD = (
    "  %ws = load double, ptr %at, align 8\n  %w = fadd double %ws, -0.0",
    "  %ws = load double, ptr %at, align 8\n"
    "  %wi = insertelement <8 x double> poison, double %ws, i32 0\n"
    "  %w = shufflevector <8 x double> %wi, <8 x double> poison, <8 x i32> zeroinitializer",
)

_PRODUCT = """define internal void @product_{lanes}(ptr noalias %p, ptr noalias %x, ptr noalias %y,
    i64 %first, i64 %rows, i64 %columns, i64 %down, i64 %right) {{
entry:
  br label %clear
clear:
  %k = phi i64 [0, %entry], [%k1, %clear]
  %yk = getelementptr {kind}, ptr %y, i64 %k
  store {kind} zeroinitializer, ptr %yk, align 8
  %k1 = add i64 %k, 1
  %ck = icmp slt i64 %k1, %rows
  br i1 %ck, label %clear, label %column
column:
  %j = phi i64 [0, %clear], [%j1, %next]
  %xj = getelementptr {kind}, ptr %x, i64 %j
  %b = load {kind}, ptr %xj, align 8
  %shift = mul i64 %j, %right
  %base = add i64 %first, %shift
  br label %row
row:
  %i = phi i64 [0, %column], [%i1, %row]
  %step = mul i64 %i, %down
  %place = add i64 %base, %step
  %at = getelementptr double, ptr %p, i64 %place
{spread}
  %yi = getelementptr {kind}, ptr %y, i64 %i
  %old = load {kind}, ptr %yi, align 8
  %part = fmul contract {kind} %w, %b
  %new = fadd contract {kind} %old, %part
  store {kind} %new, ptr %yi, align 8
  %i1 = add i64 %i, 1
  %ci = icmp slt i64 %i1, %rows
  br i1 %ci, label %row, label %next
next:
  %j1 = add i64 %j, 1
  %cj = icmp slt i64 %j1, %columns
  br i1 %cj, label %column, label %done
done:
  ret void
}}"""


@lru_cache(maxsize=256)
def code(text: str) -> Code:
    """Return the machine code of a text, compiled once in a process and once on a disk."""
    return Code(text)
