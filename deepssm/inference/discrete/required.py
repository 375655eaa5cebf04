"""What discrete and switching methods need of a model, asked once and refused with a way out."""

from __future__ import annotations

from torch import Tensor

from ...core.abilities import DiscreteModel, SwitchingModel
from ...core.model import StateSpaceModel


def discrete_model(model: StateSpaceModel, method: str = "ForwardBackward()") -> DiscreteModel:
    """Return the model as one with finitely many states.

    Args:
        model: Any model.
        method: Who asks, as users write it.

    Raises:
        ValueError: The model has no `log_initial`, `log_transition` and `log_emission`.
    """
    if not isinstance(model, DiscreteModel):
        raise ValueError(
            f"`{method}` needs a model with finitely many states, got {type(model).__name__}: use "
            "a Gaussian or a particle filter, or give the model the members of "
            "`deepssm.models.DiscreteModel`."
        )
    return model


def switching_model(model: StateSpaceModel, method: str = "Switching()") -> SwitchingModel:
    """Return the model as one whose matrices a Markov chain chooses.

    Args:
        model: Any model.
        method: Who asks, as users write it.

    Raises:
        ValueError: The model has no `mode_parameters`.
    """
    if not isinstance(model, SwitchingModel):
        raise ValueError(
            f"`{method}` needs a `SwitchingLinearGaussian` model, got {type(model).__name__}. Use "
            "`MaximumLikelihood()` or `SVI()`, or give the model the members of "
            "`deepssm.models.SwitchingModel`."
        )
    return model


def log_transitions(model: DiscreteModel, u: Tensor | None, dt: Tensor | None) -> Tensor:
    """Return `log p(z_t | z_{t-1})` with a time axis, `(*batch, time or 1, states, states)`.

    Args:
        model: A model with finitely many states.
        u: Inputs, `(*batch, time, input)`, or `None`.
        dt: Time steps, `(*batch, time)`, `()` or `None`.
    """
    log_A = model.log_transition(u, dt)
    return log_A if log_A.ndim > 2 else log_A[None]
