"""Watches a torch function run and writes what it does to its inputs into a program.

What does not depend on the inputs runs as torch and is remembered, so that its results, the
parameters of the program, can be computed again: by the same operations, and with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .arrays import ARRAYS
from .program import Atom, Atoms, Program, Untraceable

_SMALL = 65_536


class Made(NamedTuple):
    """How a tensor without the inputs came to be: entry `index` of what `function` returned."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int | None


class Recorder(TorchDispatchMode):
    """Traces whatever runs inside it.

    Attributes:
        program: What was written.
        leaves: Tensors whose entries are parameters, with the place of the first of them.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.leaves: list[tuple[Tensor, Atoms]] = []
        self.count = 0
        self._shadows: dict[int, Atoms] = {}
        self._alive: list[object] = []  # identities are those of tensors that live
        self._made: dict[int, Made] = {}
        self._learnable: set[int] = set()

    def watch(self, tensor: Tensor, shadow: Atoms) -> None:
        """Say which atoms a tensor holds."""
        if tuple(tensor.shape) != shadow.shape:
            raise Untraceable(f"shapes {tuple(tensor.shape)} and {shadow.shape} disagree")
        self._alive.append(tensor)
        self._shadows[id(tensor)] = shadow

    def shadow(self, tensor: Tensor) -> Atoms:
        """Return the atoms of a tensor; those of one without the inputs are parameters."""
        if id(tensor) not in self._shadows:
            self.watch(tensor, self._leaf(tensor))
        return self._shadows[id(tensor)]

    def again(self, tensor: Tensor, known: dict[int, Any]) -> Tensor:
        """Compute a leaf again from the tensors it was made of."""
        made = self._made.get(id(tensor))
        if made is None:
            return tensor
        if id(tensor) not in known:
            args, kwargs = pytree.tree_map_only(
                Tensor, lambda x: self.again(x, known), (made.args, made.kwargs)
            )
            out = made.function(*args, **kwargs)
            known[id(tensor)] = out if made.index is None else out[made.index]
        return known[id(tensor)]

    def finish(self) -> None:
        """Let go of what only tracing needed; leaves and what they were made of stay."""
        self._shadows.clear()
        self._alive.clear()

    def origins(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors that a leaf was made of, itself if of none."""
        made = self._made.get(id(tensor))
        if made is None:
            return [tensor]
        inputs = [x for x in pytree.tree_leaves((made.args, made.kwargs)) if torch.is_tensor(x)]
        return [origin for x in inputs for origin in self.origins(x)]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation and write it down."""
        kwargs = kwargs or {}
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self._alive.extend(inputs)
        name = func._schema.name.split("::")[1]
        traced = any(id(x) in self._shadows for x in inputs)
        depends = traced and any(self._depends(x) for x in inputs)
        if depends and name in ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero"):
            raise Untraceable("it branches on values that depend on the state, input or time step")
        if name == "copy_":
            return self._copy(func, args, kwargs)
        if func._schema.is_mutable:
            if depends and id(args[0]) not in self._shadows and id(args[0]) in self._made:
                self.shadow(args[0])  # as it is before the change
            out = func(*args, **kwargs)
            if traced:
                self._change(name, args, kwargs)
            return out
        out = func(*args, **kwargs)
        if depends or (traced and name in _VIEWS):
            self._write(name, args, kwargs, out)
        elif not inputs or traced:
            self._constant(name, out)
        else:
            self._remember(func, args, kwargs, out, inputs)
        return out

    def _depends(self, tensor: Tensor) -> bool:
        shadow = self._shadows.get(id(tensor))
        return shadow is not None and any(isinstance(a, int) for a in shadow.flat)

    def _write(self, name: str, args: Any, kwargs: Any, out: Any) -> None:  # noqa: ANN401
        if name not in ARRAYS:
            raise Untraceable(f"it uses the operation `{name}`")
        args, kwargs = pytree.tree_map_only(Tensor, self._read, (args, kwargs))
        kwargs = {k: v for k, v in kwargs.items() if k not in _FORM}
        try:
            result = ARRAYS[name](self.program, *args, **kwargs)
        except (TypeError, ValueError, IndexError) as error:
            raise Untraceable(f"it uses `{name}` in a way not known ({error})") from error
        outputs = out if isinstance(out, tuple | list) else [out]
        results = result if isinstance(result, list) else [result]
        if len(outputs) != len(results):
            raise Untraceable(f"it uses several results of `{name}`")
        for tensor, shadow in zip(outputs, results, strict=True):
            self.watch(tensor, shadow)

    def _change(self, name: str, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        if name[:-1] not in ARRAYS or id(args[0]) not in self._shadows:
            raise Untraceable(f"it changes a tensor in place (`{name}`)")
        place = self._shadows[id(args[0])]
        if not place.flags.writeable:
            raise Untraceable("it writes to an expanded tensor")
        args, kwargs = pytree.tree_map_only(Tensor, self._read, (args, kwargs))
        place[...] = ARRAYS[name[:-1]](self.program, *args, **kwargs)

    def _read(self, tensor: Tensor) -> Atoms:
        if id(tensor) in self._shadows or tensor.is_floating_point():
            return self.shadow(tensor)
        if tensor.dtype == torch.bool and tensor.ndim == 0:
            return self.shadow(tensor)
        return tensor.numpy()  # whole numbers and masks are indices

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        target, source = args[0], args[1]
        out = func(*args, **kwargs)
        if id(target) in self._shadows:
            place = self._shadows[id(target)]
            if not place.flags.writeable:
                raise Untraceable("it writes to an expanded tensor")
            place[...] = self.shadow(source)
        elif id(source) in self._shadows and self._depends(source):
            raise Untraceable("it writes to a tensor made elsewhere")
        return out

    def _constant(self, name: str, out: Any) -> None:  # noqa: ANN401
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                if "rand" in name or "normal" in name:
                    raise Untraceable("it draws random numbers")
                if tensor.numel() <= _SMALL:
                    self.watch(tensor, _floats(tensor))

    def _remember(
        self,
        func: Any,  # noqa: ANN401
        args: Any,  # noqa: ANN401
        kwargs: Any,  # noqa: ANN401
        out: Any,  # noqa: ANN401
        inputs: list[Tensor],
    ) -> None:
        several = isinstance(out, tuple | list)
        learnable = any(x.requires_grad or id(x) in self._learnable for x in inputs)
        for i, tensor in enumerate(out if several else [out]):
            if isinstance(tensor, Tensor) and not any(tensor is x for x in inputs):
                self._alive.append(tensor)
                self._made[id(tensor)] = Made(func, args, kwargs, i if several else None)
                if learnable:
                    self._learnable.add(id(tensor))

    def _leaf(self, tensor: Tensor) -> Atoms:
        """Take the entries as parameters; fixed zeros and ones are structure: constants."""
        if tensor.numel() > _SMALL:
            raise Untraceable(f"it reads a tensor of {tensor.numel()} numbers")
        learnable = tensor.requires_grad or id(tensor) in self._learnable
        values = _floats(tensor)
        atoms = np.empty(tensor.shape, dtype=object)
        for place, (index, value) in enumerate(np.ndenumerate(values)):
            fixed = not learnable and value in (0.0, 1.0, -1.0)
            atoms[index] = value if fixed else self.program.input("p", self.count + place)
        if any(isinstance(a, int) for a in atoms.flat):
            self.leaves.append((tensor, atoms))
            self.count += tensor.numel()
        return atoms


_VIEWS = {
    "slice", "select", "view", "_unsafe_view", "expand", "transpose", "permute", "unsqueeze",
    "squeeze", "alias", "detach", "t", "diagonal", "unbind",
}  # fmt: skip
"""Operations whose results are other views of the same numbers, constants too."""

_FORM = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "copy"}
"""Arguments that say how a tensor is stored."""


def _floats(tensor: Tensor) -> Atoms:
    out = np.empty(tuple(tensor.shape), dtype=object)
    values: list[Atom] = tensor.detach().double().reshape(-1).tolist()
    out.reshape(-1)[:] = values
    return out
