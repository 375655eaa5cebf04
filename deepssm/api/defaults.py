"""Which method infers and which learns where the caller names none: decided here alone."""

from __future__ import annotations

from ..core.methods import InferenceMethod, LearningMethod
from ..core.model import StateSpaceModel


def default_method(model: StateSpaceModel) -> InferenceMethod:
    """Return the exact method for a model if there is one, else the unscented filter."""
    from .. import inference

    if hasattr(model, "log_emission"):
        return inference.ForwardBackward()
    if hasattr(model, "mode_parameters"):
        return inference.Switching()
    return inference.Kalman() if hasattr(model, "linear_parameters") else inference.Unscented()


def default_learner(model: StateSpaceModel) -> LearningMethod:
    """Return `SVI()` for deep models, else maximum likelihood through the default method.

    Hidden Markov models with free transitions learn by EM, from five starts.
    """
    from .. import inference, models

    if isinstance(model, models.HiddenMarkov) and model.has_closed_form:
        return inference.BaumWelch(starts=5)
    if isinstance(model, models.DeepMarkov):
        return inference.SVI() if model.image_size is None else inference.image_learner()
    return inference.MaximumLikelihood(inference=default_method(model))
