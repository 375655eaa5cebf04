"""Which method infers and which learns where the caller names none: decided here alone.

Both go by what a model can do (`core/abilities.py`), never by its class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from ..core.abilities import (
    ClosedFormEM,
    DiscreteModel,
    PaintsImages,
    SwitchingModel,
    is_linear_gaussian,
)
from ..core.methods import (
    InferenceMethod,
    LearningMethod,
    OnlineMethod,
    TakesInference,
    trained_method,
)
from ..core.model import StateSpaceModel
from ..core.two_layers import ConditionallyLinear
from .arguments import infers, require_model


def chosen_method(model: StateSpaceModel, method: InferenceMethod | None) -> InferenceMethod:
    """Return the method that a caller names, checked, or the default one.

    Raises:
        ValueError: The model or the method is none.
    """
    require_model(model)
    return default_method(model) if method is None else infers(method)


def default_method(model: StateSpaceModel) -> InferenceMethod:
    """Return the exact method if there is one, else the trained guide, else `Unscented()`.

    Where the mean of `y` does not depend on the state but its density does, as in stochastic
    volatility, `Particle()` stands in for `Unscented()`, which would see nothing.

    Exact are `ForwardBackward()` for chains of discrete states and `Kalman()` for linear-Gaussian
    models; `Switching()` comes next to it where a linear-Gaussian model has several modes. The
    trained guide is that of the last `ds.fit` of the model, if this was by `SVI`.
    """
    return _by_ability(model) or trained_method(model) or _untrained(model)


def default_online_method(model: StateSpaceModel) -> InferenceMethod:
    """Return the default method if it can run one step at a time, else `Unscented()`.

    A trained guide runs as particles. Where only the spread of `y` reveals the state, particles of
    the model itself do.
    """
    from .. import inference
    from ..inference.simulation.visibility import visibility

    method = default_method(model)
    if not isinstance(method, OnlineMethod) and visibility(model).blind:
        return inference.Amortized(inference.LinearizedGuide(), num_particles=1_000)
    return method if isinstance(method, OnlineMethod) else _unscented()


def default_learner(model: StateSpaceModel) -> LearningMethod:
    """Return how a model is learnt where the caller names no learner.

    `BaumWelch(starts=5)` for hidden Markov models that maximise in closed form, `CollapsedSVI()`
    for models that are linear given a path of `a`, `image_learner()` for models that paint images,
    `SVI()` for those with networks and for those whose state only the spread of `y` reveals, and
    `MaximumLikelihood()` for all others, networks or not, that have a method of their own.
    """
    from .. import inference
    from ..inference.simulation.visibility import visibility

    if isinstance(model, ClosedFormEM) and model.has_closed_form:
        return inference.BaumWelch(starts=5)
    if isinstance(model, ConditionallyLinear):
        return inference.CollapsedSVI()
    if isinstance(model, PaintsImages) and model.image_size is not None:
        return inference.image_learner()
    if model.neural and _by_ability(model) is None:
        return inference.SVI()
    if _by_ability(model) is None and visibility(model).blind:
        # Without networks there are few parameters, which bear longer steps.
        return inference.SVI(steps=1_000, learning_rate=0.05)
    return completed(inference.MaximumLikelihood(), model)


def completed(learner: LearningMethod, model: StateSpaceModel) -> LearningMethod:
    """Return a learner whose `inference` is filled in if the caller left it open.

    A guide that was trained before is not taken: learning moves the model away from it.

    Args:
        learner: Any learner.
        model: The model that it will learn.
    """
    if not isinstance(learner, TakesInference):
        return learner
    if learner.inference is not None:
        infers(learner.inference, "inference")
        return learner
    inference = _by_ability(model) or _unscented()
    return cast(LearningMethod, replace(learner, inference=inference))


def _by_ability(model: StateSpaceModel) -> InferenceMethod | None:
    from .. import inference

    if is_linear_gaussian(model):
        return inference.Kalman()
    if isinstance(model, DiscreteModel):
        return inference.ForwardBackward()
    return inference.Switching() if isinstance(model, SwitchingModel) else None


def _untrained(model: StateSpaceModel) -> InferenceMethod:
    from .. import inference
    from ..inference.simulation.visibility import visibility

    return inference.Particle() if visibility(model).blind else _unscented()


def _unscented() -> InferenceMethod:
    from .. import inference

    return inference.Unscented()
