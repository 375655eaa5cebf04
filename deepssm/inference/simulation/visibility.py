"""What a method that reads the means of observations can see of a state.

A filter that knows an emission by its mean and variance learns of a state through the mean alone.
Where only the spread or the shape of `y` depends on it, as in stochastic volatility, such a filter
returns the prior, and its likelihood is that of another model.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.abilities import DiscreteModel, LinearGaussianModel, SwitchingModel
from ...core.gaussian import Pushforward
from ...core.model import Series, StateSpaceModel
from ...core.remembered import Checked
from .conditionals import covariance

_PLACES = 3
"""States at which a model is looked at, and inputs with which it is."""
_MOST_COMPONENTS = 16
"""Larger states are moved as a whole, not component by component."""


_SEEN = Checked()
"""Models all of whose components means reveal: that lies in their structure."""


class Visibility(NamedTuple):
    """What the means of observations reveal of a state.

    Attributes:
        blind: No mean depends on the state, though the density of `y` does.
        hidden: Components that the density of `y` depends on, but no mean, now or later.
    """

    blind: bool = False
    hidden: tuple[int, ...] = ()


def visibility(model: StateSpaceModel, series: Series | None = None) -> Visibility:
    """Look at a model around its start, moving one component of the state after the other.

    Args:
        model: Any model; of one with matrices or discrete states all is visible.
        series: Where inputs and time steps are taken from; drawn ones if `None`.
    """
    known = LinearGaussianModel | DiscreteModel | SwitchingModel
    if model in _SEEN or isinstance(model, known):
        return Visibility()
    try:
        found = _look(model, series)
    except RuntimeError:  # torch neither draws from nor scores a model of mixed dtypes
        found = Visibility()
    if not found.hidden:
        _SEEN.add(model)
    return found


def _look(model: StateSpaceModel, series: Series | None) -> Visibility:
    with torch.no_grad(), torch.random.fork_rng(devices=_devices(model)):
        torch.manual_seed(0)
        initial = model.initial()
        if initial.batch_shape:
            return Visibility()
        u, dt = _conditions(model, series)
        if series is None:
            dt = _needed_step(model, initial, u)
        z = _states(model, initial, u, dt)
        told, elapsed = _given(z, u, dt)
        emission = model.emission(z, told)
        mean = _mean(emission)
        if not bool(torch.isfinite(mean).all()):
            return Visibility()
        by_mean = differs(mean[1:], mean[:1])
        by_density = _density_differs(emission, model.emission(z[0], _first(told))) & ~by_mean
        if not bool(by_density.any()):
            return Visibility()
        if not bool(by_mean.any()):
            return Visibility(blind=True, hidden=tuple(range(model.state_dim)))
        if len(z) - 1 != model.state_dim:
            return Visibility()
        moved = model.transition(z, told, elapsed)
        seen = _seen_later(by_mean, _links(moved), initial, moved)
        hidden = by_density & ~seen
        return Visibility(hidden=tuple(hidden.nonzero()[:, 0].tolist()))


def require_visible(model: StateSpaceModel, series: Series | None, method: str) -> None:
    """Refuse a model whose state a method cannot see; warn of components that it cannot.

    Args:
        model: The model.
        series: The data, or `None` before there are any.
        method: Name of the method.

    Raises:
        ValueError: No mean of an observation depends on the state, though their density does.
    """
    found, name = visibility(model, series), type(model).__name__
    if found.blind:
        raise ValueError(
            f"`{method}` cannot see the state of {name}: the mean of `y` is the same for every "
            "state, only its spread or shape depends on it, and this method reads means. Infer "
            "with `Particle()` and learn with `SVI()` or `ParticleMetropolis()`; or model a "
            "transform whose mean depends on the state, such as `log(y**2)` of a volatility."
        )
    if found.hidden:
        names = ", ".join(f"`{model.state_names[i]}`" for i in found.hidden)
        warnings.warn(
            f"`{method}` cannot see {names} of {name}: the density of `y` depends on it, but no "
            "mean does, now or later, and this method reads means, so it returns the prior there. "
            "Use `Particle()`.",
            stacklevel=2,
        )


def differs(there: Tensor, here: Tensor) -> Tensor:
    """Tell for each entry of the first axis whether anything differs by more than rounding.

    Args:
        there: `(count, *axes)`.
        here: `(1, *axes)`.
    """
    there, here = torch.broadcast_tensors(there, here)
    size = 1e3 * torch.finfo(there.dtype).eps * (there.abs() + here.abs())
    return ((there - here).abs() > size).flatten(1).any(-1)


def _mean(distribution: Distribution) -> Tensor:
    """Return the mean; of noise inside a function, that over some antithetic draws."""
    if isinstance(distribution, Pushforward):
        return _pushed(distribution).mean(0)
    return distribution.mean


def _pushed(distribution: Pushforward) -> Tensor:
    """Return images of the same noises, which come in pairs of both signs, for every state."""
    noise = torch.randn(
        4, distribution.factor.shape[-1], generator=torch.Generator().manual_seed(1)
    )
    noise = torch.cat((noise, -noise)).to(distribution.factor) @ distribution.factor.mT
    shape = (*distribution.batch_shape, noise.shape[-1])
    return torch.stack([distribution.function(w.expand(shape)) for w in noise])


def _density_differs(emission: Distribution, here: Distribution) -> Tensor:
    if isinstance(emission, Pushforward):
        images = _pushed(emission).movedim(0, -1)
        return differs(images[1:], images[:1])
    score = emission.log_prob(here.sample())[..., None]
    return differs(score[1:], score[:1])


def _conditions(
    model: StateSpaceModel, series: Series | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return some rows of inputs, `(rows, width)`, and a time step."""
    width = model.input_dim + 2 * model.obs_dim * model.reads_past
    if series is None:
        rows = torch.randn(_PLACES, width, dtype=model.dtype, device=model.device)
        return (rows if width else None), None
    u, dt = series.u, series.dt
    if u is not None:
        rows = u.detach().reshape(-1, u.shape[-1])
        strongest = rows.abs().sum(-1).argsort(descending=True)[:_PLACES]
        u = rows[strongest]
    if dt is not None:
        dt = dt.detach().max()
    return u, dt


def _needed_step(model: StateSpaceModel, initial: Distribution, u: Tensor | None) -> Tensor | None:
    """Return a time step for a model that does not move without one, else `None`."""
    z = initial.expand(torch.Size((1, 1 if u is None else len(u)))).sample()
    try:
        model.transition(z, *_given(z, u, None))
    except (TypeError, AttributeError, ValueError, AssertionError):
        return torch.ones((), dtype=z.dtype, device=z.device)
    return None


def _states(
    model: StateSpaceModel, initial: Distribution, u: Tensor | None, dt: Tensor | None
) -> Tensor:
    """Draw places and move each, component by component, `(1 + directions, places, rows, n)`.

    Two steps from the start, so that a state that is known there has a spread; a component moves
    to where it is in another draw, so that none leaves what the model makes of it.
    """
    z = initial.expand(torch.Size((2 * _PLACES, 1 if u is None else len(u)))).sample()
    for _ in range(2):
        moved = model.transition(z, *_given(z, u, dt))
        z = moved.rsample() if isinstance(moved, Pushforward) else moved.sample()
    here, there = z.chunk(2)
    n = z.shape[-1]
    whole = torch.ones(1, n, dtype=torch.bool, device=z.device)
    chosen = whole if n > _MOST_COMPONENTS else torch.diag_embed(whole[0])
    return torch.cat((here[None], torch.where(chosen[:, None, None, :], there, here)))


def _given(z: Tensor, u: Tensor | None, dt: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    told = None if u is None else u.expand(*z.shape[:-1], u.shape[-1])
    return told, None if dt is None else dt.expand(z.shape[:-1])


def _links(moved: Distribution) -> Tensor:
    """Return whether component `i` after a step depends on `j` before it, `(n, n)`."""
    mean = _mean(moved)
    columns = [differs(mean[1:, ..., i], mean[:1, ..., i]) for i in range(mean.shape[-1])]
    return torch.stack(columns)


def _seen_later(seen: Tensor, links: Tensor, initial: Distribution, moved: Distribution) -> Tensor:
    """Spread what is seen along transitions and along correlated noises."""
    joint = links.mT.clone()  # seeing `i` later tells of `j` before
    if isinstance(moved, Pushforward):  # its noise may join any components
        return torch.ones_like(seen) if bool(seen.any()) else seen
    for cov in (covariance(initial), covariance(moved)):
        together = (cov != 0).reshape(-1, *cov.shape[-2:]).any(0)
        joint |= together
    for _ in range(len(seen)):
        seen = seen | (joint & seen).any(-1)
    return seen


def _first(told: Tensor | None) -> Tensor | None:
    return None if told is None else told[0]


def _devices(model: StateSpaceModel) -> list[int]:
    if model.device.type != "cuda":
        return []
    return [model.device.index if model.device.index is not None else torch.cuda.current_device()]
