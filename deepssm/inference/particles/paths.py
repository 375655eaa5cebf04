"""Paths from particles: backward simulation and genealogies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..simulation.angles import identity
from ..simulation.conditionals import Conditionals


def backward_paths(
    conditionals: Conditionals, z: list[Tensor], log_weight: list[Tensor], count: int
) -> Tensor:
    """Draw paths from the last step to the first, `(count, *batch, time, state)`.

    Args:
        conditionals: Gives the transition densities.
        z: Particles, one `(particles, *batch, state)` a step.
        log_weight: Normalised, one `(particles, *batch)` a step.
        count: Number of paths.

    Raises:
        ValueError: the transition has no density.

    Source: Godsill, Doucet & West (2004), Journal of the American Statistical Association 99.
    """
    last = len(z) - 1
    now = _draw(z[last], log_weight[last].expand(count, *log_weight[last].shape))
    path = [now]
    for t in range(last - 1, -1, -1):
        moved = conditionals.transition(z[t], t + 1)
        try:
            ahead = moved.log_prob(_near(moved, now[:, None], conditionals))
        except NotImplementedError:
            ahead = torch.full((), torch.nan)
        if not bool(torch.isfinite(ahead).any()):
            raise ValueError(
                "The model's transition has no density, so paths cannot be simulated backwards. "
                "Use `Particle(smoother='ancestral')`, or a `Q` of full rank."
            )
        now = _draw(z[t], log_weight[t] + ahead)
        path.append(now)
    return torch.stack(path[::-1], -2)


def ancestral_paths(
    z: list[Tensor], log_weight: list[Tensor], ancestor: list[Tensor], count: int
) -> Tensor:
    """Follow particles of the last step to their ancestors, `(count, *batch, time, state)`.

    Args:
        z: Particles, one `(particles, *batch, state)` a step.
        log_weight: Normalised, one `(particles, *batch)` a step.
        ancestor: Indices into the step before, one `(particles, *batch)` a step.
        count: Number of paths.

    Source: Kitagawa (1996), Journal of Computational and Graphical Statistics 5(1).
    """
    last = len(z) - 1
    index = _choose(log_weight[last].expand(count, *log_weight[last].shape))
    path = []
    for t in range(last, -1, -1):
        path.append(z[t].gather(0, index[..., None].expand(*index.shape, z[t].shape[-1])))
        index = ancestor[t].gather(0, index)
    return torch.stack(path[::-1], -2)


def _near(distribution: Distribution, z: Tensor, conditionals: Conditionals) -> Tensor:
    """Move angles by whole turns to where `distribution` has its mass."""
    wrap = conditionals.wrap_state
    return z if wrap is identity else distribution.mean + wrap(z - distribution.mean)


def _choose(log_weight: Tensor) -> Tensor:
    """Draw one particle per path by the Gumbel trick, `(paths, particles, *batch)` to paths."""
    noise = torch.rand_like(log_weight).clamp_min(torch.finfo(log_weight.dtype).tiny)
    return (log_weight - (-noise.log()).log()).argmax(1)


def _draw(z: Tensor, log_weight: Tensor) -> Tensor:
    index = _choose(log_weight)
    return z.gather(0, index[..., None].expand(*index.shape, z.shape[-1]))
