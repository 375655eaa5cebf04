"""The verb `fit`: check the data, choose the learner, let it learn, hand back a fit."""

from __future__ import annotations

import torch

from ..core.methods import LearningMethod, remember_trained
from ..core.model import StateSpaceModel
from .arguments import learns, to_learn
from .defaults import completed, default_learner
from .fit import Fit
from .learning import learn, own_copy
from .validation import Data, as_labelled_series, remember_columns


def fit(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    method: LearningMethod | None = None,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Fit:
    """Learn the free parameters of a model from data, in place.

    The fit holds a copy of the model as it is then: learning the same model again, or changing
    it, leaves earlier fits as they were.

    Args:
        model: Its parameters that require gradients are learnt; constraints, priors and frozen
            flags are those of the parameters themselves.
        y: Observations, `(*batch, time, obs)` or a frame; NaN means missing.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`.
        method: How to learn; by default `MaximumLikelihood()` for classical models,
            `BaumWelch(starts=5)` for hidden Markov models with free transitions, and `SVI()` for
            those with a neural transition or emission (`model.neural`) and no exact method. The
            guide that `SVI` trains is from then on how `filter`, `forecast` and the other verbs
            infer in this model. A learner's own `inference=None` means the exact method if there
            is one, else `Unscented()`.
        progress: Show a progress bar.
        generator: Source of randomness.

    Returns:
        A copy of the model with what was learnt about it, ready to `.filter()`, `.smooth()`,
        `.forecast(h)` and `.summary()`.

    Raises:
        ValueError: The data do not fit, hold no observation, or the model has nothing to learn.
    """
    checked = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
    series = to_learn(model, checked.series)
    learner = default_learner(model) if method is None else completed(learns(method), model)
    learned, series = learn(learner, model, series, progress, generator)
    remember_trained(model, learned.method)
    remember_columns(model, checked.labels)
    labels = checked.labels
    return Fit(*own_copy(model, learned), series).labelled(labels, lengths, labels.inputs)
