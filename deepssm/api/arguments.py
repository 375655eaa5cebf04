"""Checks of what is no data: models, methods, counts, and whether there is something to learn."""

from __future__ import annotations

import math
from numbers import Integral
from typing import cast

import torch
from pyro.nn import PyroModule
from torch import Tensor

from ..core.methods import FixedLag, InferenceMethod, LearningMethod
from ..core.model import Series, StateSpaceModel
from ..core.results import Smoothed
from ..inference.simulation.filter_alone import FilterAlone, Filters
from ..io.budget import require_memory
from .model_checks import require_distributions
from .result_checks import require_smoothed


def require_model(model: object) -> None:
    """Raise unless `model` is a model whose distributions have the shapes that methods read.

    Raises:
        ValueError: It is none, or they have not.
    """
    if not isinstance(model, StateSpaceModel):
        raise ValueError(
            f"`model` must be a model, got {what_is(model)}. Build one: `ds.models.LocalLevel()`, "
            "or derive your own from `ds.StateSpaceModel`."
        )
    require_distributions(model)


def positive(name: str, value: int) -> int:
    """Return `value`, a count of at least 1.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
    return int(value)


def require_draws(
    model: StateSpaceModel, series: Series, steps: int, count: int, what: str
) -> None:
    """Raise unless paths of states and observations fit into memory.

    Args:
        model: Says how large a state and an observation are.
        series: Says how many series there are.
        steps: Steps of each path.
        count: Paths of each series.
        what: The argument that asks for them, as an error shows it.

    Raises:
        ValueError: They would not.
    """
    numbers = math.prod(series.batch_shape) * steps * count * (model.state_dim + model.obs_dim)
    require_memory(
        numbers * torch.finfo(model.dtype).bits / 8, f"`{what}`", "Ask for less, or part by part."
    )


def infers(method: object, name: str = "method") -> InferenceMethod:
    """Return `method`, which can infer states; `name` is what the caller calls it.

    Raises:
        ValueError: It cannot.
    """
    # By the class, whose answer Python remembers; the instance would be asked anew each time.
    if not issubclass(type(method), InferenceMethod):
        if not isinstance(method, type) and issubclass(type(method), Filters):
            return FilterAlone(cast(Filters, method))
        raise ValueError(
            f"`{name}` must infer states, as `ds.inference.Kalman()` does, got {what_is(method)}. "
            "One of your own has at least a `filter(self, model, series)`."
        )
    return cast(InferenceMethod, method)


def learns(method: object) -> LearningMethod:
    """Return `method`, which can learn parameters.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(method, type) or not isinstance(method, LearningMethod):
        raise ValueError(
            "`method` must learn parameters, as `ds.inference.MaximumLikelihood(inference=...)` "
            f"does, got {what_is(method)}."
        )
    return method


def learnable(model: StateSpaceModel) -> bool:
    """Tell whether some parameter of a model requires a gradient or has a prior."""
    parts = (part for part in model.modules() if isinstance(part, PyroModule))
    # Pyro has no public way to ask for the priors of a module.
    priors = any(p._pyro_samples for p in parts)  # pyright: ignore[reportPrivateUsage]
    return priors or any(p.requires_grad for p in model.parameters())


def to_learn(model: StateSpaceModel, series: Series) -> Series:
    """Return `series`, from which `model` can learn.

    Raises:
        ValueError: Nothing was observed, an observation is too large to be squared and added
            up, or the model has nothing to learn.
    """
    if not bool((~series.y.isnan()).any()):
        raise ValueError("`y` holds no observation: every entry is missing. Check the columns.")
    size = series.y.detach().abs().nan_to_num(nan=0.0)
    if float(size.max()) > (torch.finfo(size.dtype).max / size.numel()) ** 0.5:
        at = int(size.reshape(-1, size.shape[-1]).amax(0).argmax())
        raise ValueError(
            f"`y` holds {float(size.max()):g} in component {at}, whose square overflows "
            f"{size.dtype}. Repair it, or give the observations in a larger unit."
        )
    if not learnable(model):
        raise ValueError(
            f"{type(model).__name__} has nothing to learn: no parameter requires a gradient. Pass "
            "`PyroParam(value, constraint)` for those that should be learnt, or a `PyroSample`."
        )
    return series


def smoothed(
    method: InferenceMethod, model: StateSpaceModel, series: Series, lag: int | None
) -> Smoothed:
    """Smooth with a fixed lag, or with all data if `lag` is `None`.

    Raises:
        ValueError: `lag` is no count, or the method has no fixed-lag smoother.
    """
    if lag is None:
        found = method.smooth(model, series)
        require_smoothed(found, method, model, series)
        return found
    if isinstance(lag, bool) or not isinstance(lag, Integral) or lag < 0:
        raise ValueError(f"`lag` must be a whole number of at least 0, got {lag!r}.")
    if not isinstance(method, FixedLag):
        raise ValueError(
            f"`lag` needs a method with `fixed_lag`, as `Kalman()` has; {type(method).__name__} "
            "has none. Leave `lag` out, or smooth the prefixes of the data one by one."
        )
    return method.fixed_lag(model, series, lag)


def require_steps(name: str, steps: Tensor) -> None:
    """Raise if time steps are the times themselves: they only grow, by about equal amounts.

    Steps that grow by a factor, as those of times `1, 2, 4, 8`, are steps.

    Args:
        name: What the caller calls them.
        steps: `(*batch, time)` or a number.

    Raises:
        ValueError: They look like time stamps.
    """
    if steps.ndim == 0 or steps.shape[-1] < 5:
        return
    stamps = steps.detach().reshape(-1, steps.shape[-1])[0].double()
    gaps = stamps.diff()
    if not bool((gaps > 0).all()):
        return
    largest, third = float(gaps.max()), max(1, len(gaps) // 3)
    growing = float(gaps[-third:].mean()) > 4 * float(gaps[:third].mean())
    first, last = float(stamps[0]), float(stamps[-1])
    whole = bool((stamps == stamps.round()).all())
    origin = whole or first <= largest or first > 1e5 * largest
    if origin and not growing and last > largest * (len(stamps) ** 0.5 + 2):
        raise ValueError(
            f"`{name}` must hold the time from each step to the next, but grows from {first:g} to "
            f"{last:g} as time stamps do. Pass their differences: "
            f"`np.diff({name}, prepend={name}[0])`; entry 0 is not used."
        )


def what_is(value: object) -> str:
    """Name a value in an error."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
