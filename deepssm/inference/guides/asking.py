"""Asking a guide: whatever distribution of paths it returns becomes a `StepwisePosterior`."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.distributions import Distribution, Independent

from ...core.guides import FilteringGuide, Guide, PosteriorLaw, WrapsGuide
from ...core.model import Series, StateSpaceModel
from .any_posterior import IndependentPosterior, JointPosterior
from .posterior import PriorPosterior, StepwisePosterior


def ask(guide: Guide, model: StateSpaceModel, series: Series) -> StepwisePosterior:
    """Return a guide's posterior of a series, as one that knows where the data end.

    Args:
        guide: Any guide.
        model: The model whose states are inferred.
        series: Data; NaN in `y` is missing.

    Raises:
        ValueError: `guide` is no guide, or `series` no checked data.
    """
    if not isinstance(series, Series):
        raise ValueError(
            f"`series` must be checked data, got {type(series).__name__}: pass "
            "`ds.as_series(model, y)`."
        )
    require_guide(guide)
    return as_posterior(guide(model, series), model, series)


def require_guide(guide: object) -> None:
    """Refuse what cannot be called with a model and a series, before it is.

    Args:
        guide: What was passed for a guide.

    Raises:
        ValueError: It is a class, a distribution, or takes other arguments.
    """
    if isinstance(guide, type):
        raise ValueError(
            f"`guide` must be a guide, got the class {guide.__name__}: pass "
            f"`{guide.__name__}(...)`."
        )
    name = type(guide).__name__
    if isinstance(guide, Distribution) or not callable(guide):
        raise ValueError(
            "`guide` must be called with a model and a series and return a distribution of paths, "
            f"got {name}, which cannot be called: return it from the `forward(self, model, "
            "series)` of an `nn.Module`, and pass that module."
        )
    called = guide.forward if isinstance(guide, nn.Module) else guide
    try:
        inspect.signature(called).bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"`guide` must be called as `guide(model, series)`, but {name} takes other arguments "
            f"({error}): define `forward(self, model, series)`, even if it does not read `model`."
        ) from error
    except ValueError:
        return  # a callable without a signature


def ask_filtering(guide: Guide, model: StateSpaceModel, series: Series) -> StepwisePosterior:
    """Return a guide's steps for series that end at each of them, proposals of a particle filter.

    Args:
        guide: Any guide; for one that has no `filtering` the model itself proposes.
        model: The model whose states are inferred.
        series: Data; NaN in `y` is missing.
    """
    if not isinstance(guide, FilteringGuide):
        return PriorPosterior(model, series)
    return as_posterior(guide.filtering(model, series), model, series)


def innermost(guide: Guide) -> Guide:
    """Return the guide inside all those that wrap it."""
    while isinstance(guide, WrapsGuide):
        guide = guide.inner_guide
    return guide


def as_posterior(found: PosteriorLaw, model: StateSpaceModel, series: Series) -> StepwisePosterior:
    """Return what a guide returned as a posterior that the prior continues after the data.

    Args:
        found: Any distribution of paths; a `StepwisePosterior` is taken as it is.
        model: The model whose states these are.
        series: The data.

    Raises:
        ValueError: it is no distribution of paths with a gradient, or its shapes are others.
    """
    if isinstance(found, StepwisePosterior):
        return found
    _check(found, model, series)
    steps = found
    while isinstance(steps, Independent):
        steps = steps.base_dist
    if isinstance(steps, Distribution) and len(steps.event_shape) < 2:
        return IndependentPosterior(model, series, found, steps)
    return JointPosterior(model, series, found)


def _check(found: PosteriorLaw, model: StateSpaceModel, series: Series) -> None:
    event, batch = (series.time, model.state_dim), tuple(series.batch_shape)
    wanted = f"a distribution of event shape {event} (time, state) and batch shape {batch}"
    if (
        not isinstance(found, PosteriorLaw)
        or isinstance(found, Distribution)
        and not found.has_rsample
    ):
        raise ValueError(
            f"`guide` must return {wanted} whose `rsample` has a gradient, got "
            f"{type(found).__name__}: return `Independent(Normal(mean, scale), 2)`, say."
        )
    if (found.event_shape, found.batch_shape) == (torch.Size(event), torch.Size(batch)):
        return
    got = f"event shape {tuple(found.event_shape)} and batch shape {tuple(found.batch_shape)}"
    fix = f"build it from parameters of shape {(*batch, *event)}, `(*batch, time, state)`"
    if tuple(found.batch_shape) + tuple(found.event_shape) == (*batch, *event):
        missing = 2 - len(found.event_shape)
        fix = f"wrap it as `Independent(distribution, {missing})`"
        if missing < 0:
            fix = f"leave the first {-missing} of its event axes to the batch shape"
    raise ValueError(f"`guide` must return {wanted}, got {got}: {fix}.")
