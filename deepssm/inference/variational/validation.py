"""The public door of `SVI`: options and guides that cannot work are refused by name."""

from __future__ import annotations

from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ...core.guides import Guide, MadeForModel
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_log_prob, seeded
from ..guides.asking import ask, innermost, require_guide


def check_counts(options: dict[str, Any], **least: int) -> None:
    """Refuse options that are no whole numbers, or too small; `None` passes.

    Args:
        options: Values by name.
        **least: The smallest value of each.

    Raises:
        ValueError: One is neither `None` nor a whole number of at least that size.
    """
    for name, smallest in least.items():
        value = options[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= smallest):
            raise ValueError(
                f"`{name}` must be a whole number, {smallest} or more, got {value!r}."
            )


def check_guide(model: StateSpaceModel, guide: Guide) -> nn.Module:
    """Return a guide that can be trained for a model.

    Args:
        model: The model.
        guide: A guide; one that does not tell its sizes passes.

    Raises:
        ValueError: It is no module, or its sizes, dtype or device differ from the model's.
    """
    if isinstance(guide, type):
        raise ValueError(
            f"`guide` must be a guide, got the class {guide.__name__}: pass "
            f"`{guide.__name__}(...)`."
        )
    if not isinstance(guide, nn.Module):
        raise ValueError(
            f"`guide` must be an `nn.Module`, whose parameters are trained, got "
            f"{type(guide).__name__}: put it into the `forward(model, series)` of one."
        )
    require_guide(guide)
    inner, sizes = innermost(guide), _sizes(model)
    own = _sizes(inner) if isinstance(inner, MadeForModel) else sizes
    if own != sizes:
        differing = [f"{name}={own[name]}" for name in sizes if own[name] != sizes[name]]
        fit = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"`guide` was made for {', '.join(differing)}, but the model has {fit}: build it as "
            f"`{type(inner).__name__}({fit})`."
        )
    first = next((p for p in guide.parameters() if p.is_floating_point()), None)
    if first is not None and (first.dtype, first.device) != (model.dtype, model.device):
        raise ValueError(
            f"`guide` computes in {first.dtype} on {first.device}, but the model in {model.dtype} "
            f"on {model.device}: `guide.to({str(model.device)!r}, {model.dtype})`."
        )
    return guide


def check_posterior(model: StateSpaceModel, guide: Guide, trial: Series) -> None:
    """Refuse a guide whose answer has other shapes than the states, before Pyro sees it.

    Args:
        model: The model, initialised.
        guide: The guide, initialised.
        trial: A batch of the data.

    Raises:
        ValueError: It returns no distribution of paths, or one of other shapes.
    """
    with torch.no_grad(), seeded(torch.Generator(trial.y.device).manual_seed(0)):
        ask(guide, model, trial)


def _sizes(made: MadeForModel) -> dict[str, int]:
    return {"obs_dim": made.obs_dim, "state_dim": made.state_dim, "input_dim": made.input_dim}


def check_model(model: StateSpaceModel, data: Series) -> None:
    """Refuse models that cannot be learnt by a guide, and data that a model cannot emit.

    Args:
        model: The model, initialised.
        data: What is learnt from, with one batch axis.

    Raises:
        ValueError: A parameter is random, the transition cannot use `dt`, an observation lies
            outside the emission's support, or a step is seen in part
            whose components depend on another.
    """
    drawn = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, PyroModule)
        for name in module._pyro_samples
    ]
    if drawn:
        raise ValueError(
            f"`model` has random parameters ({', '.join(drawn)}), for which `SVI` has no guide: "
            "`SVI(objective=WeightPrior(scale))` learns random weights, `NUTS()` a few parameters."
        )
    with torch.no_grad():
        start = model.initial().mean
        u = None if data.u is None else data.u[0, 0]
        model.transition(start, u, None if data.dt is None else data.dt[0, -1])
        _check_support(model.emission(start, u), data.y.reshape(-1, model.obs_dim))


def _check_support(emission: Distribution, rows: Tensor) -> None:
    seen = ~torch.isnan(rows)
    whole = seen.all(-1)
    partial = rows[seen.any(-1) & ~whole]
    if len(partial):
        observed_log_prob(emission, partial[0])
    support: Any = emission.support
    if support is None:
        return
    if isinstance(support, type(constraints.real_vector)):
        support, values = support.base_constraint, rows[seen]
    else:
        values = rows[whole]
    good = support.check(values)
    if not bool(good.all()):
        odd = values[~good][0].tolist()
        raise ValueError(
            f"`y` holds {odd}, which the model's emission ({support}) can never emit: choose an "
            "emission that fits the data, or bring the data to its range."
        )
