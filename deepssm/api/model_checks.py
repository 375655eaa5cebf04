"""The door for models of the user's own: what their distributions return is looked at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..core.abilities import DiscreteModel, LinearGaussianModel, SwitchingModel
from ..core.model import StateSpaceModel
from ..core.remembered import Checked

_AXES = (3, 2)
"""Leading axes of the states at which a model is tried: any other two would do."""

_PASSED = Checked()
"""Models that were looked at; later calls cost the look-up alone."""


class _Part(NamedTuple):
    """One of the three distributions, as a message names it."""

    signature: str
    size: int
    unit: str
    axes: tuple[int, ...]


def require_distributions(model: StateSpaceModel) -> None:
    """Refuse a model whose three distributions do not have the shapes that all methods read.

    It is tried on a few states once in its life, and nothing is drawn from anyone's stream of
    random numbers. Models that know their matrices, or those of their modes, are read by those.

    Args:
        model: The model.

    Raises:
        ValueError: A size is not set, a signature lacks an argument, or what is returned is no
            distribution, or of other shapes.
    """
    if model in _PASSED:
        return
    _require_sizes(model)
    if not isinstance(model, LinearGaussianModel | DiscreteModel | SwitchingModel):
        with torch.no_grad(), torch.random.fork_rng(devices=_devices(model)):
            _try(model)
    _PASSED.add(model)


def _require_sizes(model: StateSpaceModel) -> None:
    for name, of in (("state_dim", _state_dim), ("obs_dim", _obs_dim)):
        try:
            size: object = of(model)
        except AttributeError:
            size = "nothing"
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(
                f"`{type(model).__name__}` must set `{name}`, a whole number from 1 on, got "
                f"{size}: write it as a class attribute, or in `__init__` after "
                "`super().__init__()`."
            )


def _state_dim(model: StateSpaceModel) -> object:
    return model.state_dim


def _obs_dim(model: StateSpaceModel) -> object:
    return model.obs_dim


def _try(model: StateSpaceModel) -> None:
    start = _Part("initial(self)", model.state_dim, "state", ())
    initial = _called(model, model.initial, start)
    _check(model, initial, start)
    z = initial.sample(torch.Size(_AXES))
    width = model.input_dim + 2 * model.obs_dim * model.reads_past
    u = z.new_zeros(*_AXES, width) if width else None
    move = _Part("transition(self, z, u, dt)", model.state_dim, "state", _AXES)
    _require_arguments(model, model.transition, move, z, u, None)
    try:
        moved = _called(model, model.transition, move, z, u, None)
    except (TypeError, AttributeError, ValueError, AssertionError):  # it may need a time step
        moved = _called(model, model.transition, move, z, u, z.new_ones(_AXES))
    _check(model, moved, move)
    look = _Part("emission(self, z, u)", model.obs_dim, "obs", _AXES)
    _check(model, _called(model, model.emission, look, z, u), look)


def _called(
    model: StateSpaceModel, function: Callable[..., object], part: _Part, *given: Tensor | None
) -> Distribution:
    """Call a part of a model; a failure on more than one leading axis is told as such."""
    _require_arguments(model, function, part, *given)
    name, what = type(model).__name__, part.signature.split("(")[0]
    try:
        return function(*given)  # type: ignore[return-value]
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"`{name}.{what}` fails on states of shape {_shape(given)}: {error}. Leading axes are "
            "batches: write `z[..., :1]` for the first component, `torch.stack([...], -1)` to "
            "join, and `z @ A.T` for `A z`."
        ) from error


def _require_arguments(
    model: StateSpaceModel, function: Callable[..., object], part: _Part, *given: Tensor | None
) -> None:
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        what = part.signature.split("(")[0]
        raise ValueError(
            f"`{type(model).__name__}.{what}` must take the arguments of `{part.signature}`, but: "
            f"{error}. Methods pass all of them by position, so name those too that it does not "
            "read."
        ) from error


def _check(model: StateSpaceModel, found: object, part: _Part) -> None:
    name, what = type(model).__name__, part.signature.split("(")[0]
    event, axes = (part.size,), part.axes
    where = f" for states `(*axes, state) = {(*axes, model.state_dim)}`" if axes else ""
    wanted = (
        f"`{name}.{what}` must return a distribution of event shape {event}, `({part.unit},)`, "
        f"and batch shape {axes}{', `axes`,' if axes else ''}{where}"
    )
    if not isinstance(found, Distribution):
        got = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"{wanted}, got {got}: return a `torch.distributions` object, such as "
            "`Independent(Normal(mean, scale), 1)`."
        )
    batch, events = tuple(found.batch_shape), tuple(found.event_shape)
    if (batch, events) != (axes, event):
        raise ValueError(
            f"{wanted}, got {type(found).__name__} of event shape {events} and batch shape "
            f"{batch}: {_fix(batch, events, axes, event, part)}."
        )


def _fix(
    batch: tuple[int, ...],
    events: tuple[int, ...],
    axes: tuple[int, ...],
    event: tuple[int, ...],
    part: _Part,
) -> str:
    attribute = {"state": "state_dim", "obs": "obs_dim"}[part.unit]
    if batch + events == axes + event and len(events) == 0:
        return "wrap it as `Independent(distribution, 1)`, so that components are one event"
    if batch + events == axes + event:
        return f"leave the first {len(events) - 1} of its event axes to the batch shape"
    if len(events) == 1 and events != event and batch == axes:
        return f"`{attribute}` is {event[0]}, so set it to {events[0]} or return {event[0]}"
    if not axes:
        return (
            "one start serves all series, so build it from parameters of shape "
            f"{event}; the methods expand it"
        )
    if len(batch + events) < len(axes + event):
        return (
            "an axis was lost: write `z[..., :1]`, not `z[..., 0]`, and expand what does not "
            "depend on `z`, as by `scale.expand_as(mean)` or `mean + torch.zeros_like(z)`"
        )
    return "leading axes of `z` are batches and come first in whatever is computed of it"


def _shape(given: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    return () if not given or given[0] is None else tuple(given[0].shape)


def _devices(model: StateSpaceModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
