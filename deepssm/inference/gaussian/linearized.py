"""A Gaussian pushed through a conditional distribution: the contract of every rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from torch import Tensor
from torch.distributions import Distribution

from ..simulation.angles import Wrap

Conditional: TypeAlias = Callable[[Tensor], Distribution]
"""`z`, `(points, *batch, state)`, to `p(x | z)`: a model's transition or emission at one step."""


class Linearized(NamedTuple):
    """`x = mean + slope e + spread n`, with `e` and `n` independent and standard normal.

    Attributes:
        mean: `E[x]`, `(*batch, out)`.
        slope: `Cov(x, e)`, `(*batch, out, state)`: the Jacobian times the factor of `z`.
        spread: Factor of what `e` does not explain, noise included, `(*batch, out, k)`.
    """

    mean: Tensor
    slope: Tensor
    spread: Tensor


class Moments(Protocol):
    """A rule that pushes `N(mean, factor factor')` through a conditional distribution.

    It evaluates `conditional` at the points of its choice, along a first axis of its own, and
    returns the best linear description it has. Differences of `x` go through `wrap` before they
    are averaged. What it returns must be differentiable for learning.
    """

    def __call__(
        self, conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap
    ) -> Linearized:
        """Linearise.

        Args:
            conditional: Maps `z`, `(points, *batch, state)`, to `p(x | z)`.
            mean: `(*batch, state)`.
            factor: `(*batch, state, state)`.
            wrap: Brings differences of `x` to their shortest form; identity but for angles.
        """
        ...


def require_linearized(step: object, method: object, out: int, factor: Tensor) -> None:
    """Refuse what a moment rule returned if it is no linear description of these sizes.

    Args:
        step: What it returned.
        method: The filter whose rule it is.
        out: Size of `x`.
        factor: `(*batch, state, state)`.

    Raises:
        ValueError: It is another type, or a part has another shape.
    """
    n = factor.shape[-1]
    if isinstance(step, Linearized):
        sizes = step.mean.shape[-1:], step.slope.shape[-2:], step.spread.shape[-2:-1]
        axes = step.mean.ndim + 1 == step.slope.ndim >= factor.ndim
        if axes and sizes == ((out,), (out, n), (out,)):
            return
        got = ", ".join(f"{name} {tuple(x.shape)}" for name, x in step._asdict().items())
    else:
        got = type(step).__name__
    batch = tuple(factor.shape[:-2])
    raise ValueError(
        f"the rule of `{type(method).__name__}.moments` must return `Linearized(mean, slope, "
        f"spread)` of shapes {(*batch, out)}, {(*batch, out, n)} and {(*batch, out)} + `(k,)`, "
        f"got {got}: the axis of its points is averaged out, and `slope` is `Cov(x, e)`."
    )
