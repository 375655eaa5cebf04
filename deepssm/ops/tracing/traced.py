"""A torch function, traced: its program, its machine code, and the parameters that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .derivatives import gradient, jacobian
from .machine_code import Code, code, text_of
from .program import Atom, Atoms, Program, Untraceable
from .recorder import Recorder

Function: TypeAlias = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, ...]]
"""`(z, u, dt)` to tensors, `z` being `(points, size)`, `u` `(points, input)`, `dt` `(points,)`."""


class Sizes(NamedTuple):
    """Numbers that a traced function takes.

    Attributes:
        state: Of `z`.
        inputs: Of `u`, 0 for none.
        timed: Whether `dt` is given.
    """

    state: int
    inputs: int
    timed: bool


@dataclass(eq=False)
class Traced:
    """What tracing found.

    Attributes:
        program: All operations; grows by those of derivatives that are asked for.
        outputs: One array for each tensor that the function returned, without axis of points.
        z: The atoms of the states.
        recorder: Knows how to compute the parameters again.
        sizes: What it takes.
    """

    program: Program
    outputs: list[Atoms]
    z: list[Atom]
    recorder: Recorder
    sizes: Sizes
    _codes: dict[tuple[str, int], Code] = field(default_factory=dict)

    @cached_property
    def flat(self) -> list[Atom]:
        """All outputs, one after the other."""
        return [self.program.number(a) for x in self.outputs for a in x.reshape(-1)]

    @cached_property
    def slopes(self) -> list[Atom]:
        """The Jacobian of the first output, row by row."""
        first = [self.program.number(a) for a in self.outputs[0].reshape(-1)]
        return list(jacobian(self.program, first, self.z).reshape(-1))

    @property
    def parameters(self) -> int:
        """How many numbers `p` holds."""
        return self.recorder.count

    def values(self, lanes: int = 1) -> Code:
        """Return code that writes all outputs."""
        return self._code("values", lanes, lambda: self.flat)

    def linearized(self, lanes: int = 1) -> Code:
        """Return code that writes all outputs, then the Jacobian of the first."""
        return self._code("linearized", lanes, lambda: self.flat + self.slopes)

    def adjoint(self) -> Code:
        """Return code that writes the gradients by `z` and `p` of weighted outputs and slopes.

        The weights `w` are in the order that `linearized` writes.
        """
        return self._code("adjoint", 1, self._adjoint)

    def adjoint_of_values(self) -> Code:
        """Return code that writes the gradients by `z` and `p` of the weighted outputs."""
        return self._code("adjoint_of_values", 1, lambda: self._weighted(self.flat))

    def tensors(self) -> list[Tensor]:
        """Return the parameters as they are now, differentiable by what they are made of."""
        known: dict[int, Tensor] = {}
        return [self.recorder.again(leaf, known) for leaf, _ in self.recorder.leaves]

    def parameter_values(self) -> np.ndarray:
        """Return `p`, the parameters as they are now."""
        with torch.no_grad():
            return packed(self.tensors())

    def _adjoint(self) -> list[Atom]:
        return self._weighted(self.flat + self.slopes)

    def _weighted(self, outputs: list[Atom]) -> list[Atom]:
        weights = [self.program.input("w", i) for i in range(len(outputs))]
        p = [self.program.input("p", i) for i in range(self.parameters)]
        return gradient(self.program, outputs, weights, self.z + p)

    def _code(self, name: str, lanes: int, outputs: Callable[[], list[Atom]]) -> Code:
        if (name, lanes) not in self._codes:
            self._codes[name, lanes] = code(text_of(self.program, outputs(), lanes=lanes))
        return self._codes[name, lanes]


def packed(tensors: list[Tensor]) -> np.ndarray:
    """Return the entries of all tensors one after the other, float64."""
    parts = [x.detach().double().reshape(-1).numpy() for x in tensors]
    return np.concatenate([np.zeros(0), *parts])


def trace(function: Function, z: Tensor, u: Tensor | None, dt: Tensor | None) -> Traced:
    """Run a function once and write down what it does.

    Args:
        function: Plain torch, a batch axis first.
        z: A point where it is defined, `(1, size)`.
        u: `(1, input)` or `None`.
        dt: `(1,)` or `None`.

    Raises:
        Untraceable: It branches on its inputs, uses an operation that is not known, or is too
            large.
    """
    program, recorder = Program(), None
    recorder = Recorder(program)
    sizes = Sizes(z.shape[-1], 0 if u is None else u.shape[-1], dt is not None)
    states = [program.input("z", i) for i in range(sizes.state)]
    z = z.detach().clone()
    u, dt = (None if x is None else x.detach().clone() for x in (u, dt))
    with torch.no_grad(), recorder:
        recorder.watch(z, _row(states))
        if u is not None:
            recorder.watch(u, _row([program.input("u", i) for i in range(sizes.inputs)]))
        if dt is not None:
            recorder.watch(dt, _row([program.input("u", sizes.inputs)])[0])
        results = function(z, u, dt)
    outputs = [recorder.shadow(x) for x in results]
    recorder.finish()
    if any(x.ndim == 0 or len(x) != 1 for x in outputs):
        raise Untraceable("it does not keep the axis of points")
    return Traced(program, [x[0] for x in outputs], states, recorder, sizes)


def _row(atoms: list[Atom]) -> Atoms:
    out = np.empty((1, len(atoms)), dtype=object)
    out[0] = atoms
    return out
