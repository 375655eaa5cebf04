"""What other inputs would have done, all else as it was."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from ..core.abilities import LinearGaussianModel
from ..core.autoregressive import input_after, own_inputs, with_autoregressive_input
from ..core.methods import InferenceMethod
from ..core.model import Series, StateSpaceModel
from ..core.pyro_sites import at, seeded
from ..core.results import Simulated
from .arguments import infers, positive
from .defaults import default_method
from .imputation import averaged_model, complete_draws, drawn_with_parameters
from .validation import Data, as_labelled_series, as_rows, as_tensor


def counterfactual(
    model: StateSpaceModel,
    y: Data,
    u: Data,
    u_instead: Data,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    num_samples: int = 200,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Simulated:
    """Ask what would have been seen under other inputs, all else as it was.

    The data say which noises moved the states and the observations; the model is run again with
    the same noises and the other inputs. With `u_instead = u` what was seen comes back exactly.

    Args:
        model: A model with inputs and Gaussian transitions.
        y: Observations, `(*batch, time, obs)`; NaN is missing.
        u: Inputs as they were, `(*batch, time, input)`.
        u_instead: Inputs as they might have been, of the same shape.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`; what follows them is missing.
        num_samples: Number of draws.
        method: How to infer the states; see `filter`.
        generator: Source of randomness.

    Returns:
        States `(num_samples, *batch, time, state)` and observations `(num_samples, *batch, time,
        obs)`. Observations that were missing, or whose noise is not Gaussian, are drawn anew.

    Raises:
        ValueError: the inputs' shapes differ, or a transition is not Gaussian.

    Source: Pearl (2009), Causality, section 7.1: abduction, action, prediction.
    """
    series, labels = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
    other, _ = as_rows(model, "u_instead", u_instead, labels.index, known=labels.inputs)
    inference = default_method(model) if method is None else infers(method)
    count = positive("num_samples", num_samples)
    return run_again(model, series, cast(Data, other), inference, count, generator)


def run_again(
    model: StateSpaceModel,
    series: Series,
    u_instead: Data,
    method: InferenceMethod,
    num_samples: int,
    generator: torch.Generator | None,
) -> Simulated:
    """Run the noises of checked data again under other inputs; see `counterfactual`.

    Raises:
        ValueError: the inputs' shapes differ, or a transition is not Gaussian.
    """
    model = averaged_model(method, model)
    other = series._replace(u=_other_inputs(model, series, u_instead))
    with torch.no_grad():

        def draw(inference: InferenceMethod, count: int) -> tuple[Tensor, ...]:
            z, y = complete_draws(model, series, inference, count, generator)
            with seeded(generator):
                found = _rerun(model, series, other, z, y)
            return _without_open(model, series, other, inference, found)

        return Simulated(*drawn_with_parameters(method, draw, num_samples))


def _other_inputs(model: StateSpaceModel, series: Series, u_instead: Data) -> Tensor | None:
    u, instead = own_inputs(model, series.u), as_tensor(model, "u_instead", u_instead)
    if u is None:
        raise ValueError("`u_instead` is given, but the model has no inputs to be other.")
    if u.shape[-2:] != instead.shape[-2:] or not bool(instead.isfinite().all()):
        raise ValueError(
            "`u_instead` must hold one finite row of inputs for every step of `y`, "
            f"{tuple(u.shape)}, got {tuple(instead.shape)}."
        )
    return with_autoregressive_input(model, series.y, instead.expand(u.shape))


def _rerun(model: StateSpaceModel, was: Series, now: Series, z: Tensor, y: Tensor) -> Simulated:
    """Run the noises of paths and observations again under other inputs; the first state stays."""
    if isinstance(model, LinearGaussianModel):
        from ..inference.kalman.noises import run_noises_again

        before, after = (model.linear_parameters(series.u, series.dt) for series in (was, now))
        return Simulated(*run_noises_again(before, after, z, y))
    path, seen = [z[..., 0, :]], []
    for t in range(was.time):
        inputs = at(was.u, t), at(now.u, t)
        if t and model.reads_past:
            inputs = (
                input_after(model, inputs[0], y[..., t - 1, :]),
                input_after(model, inputs[1], seen[-1]),
            )
        if t:
            dt = at(was.dt, t, axes=1)
            before = model.transition(z[..., t - 1, :], inputs[0], dt)
            if not _is_gaussian(before):
                raise ValueError(
                    f"`model` has a transition of type {type(before).__name__}, whose noise "
                    "cannot be told from data: a counterfactual needs a Gaussian one."
                )
            noise = _whiten(before, z[..., t, :])
            path.append(_colour(model.transition(path[-1], inputs[1], dt), noise))
        if model.reads_past:
            emitted = model.emission(z[..., t, :], inputs[0]), model.emission(path[-1], inputs[1])
            seen.append(_with_same_noise(*emitted, y[..., t, :]))
    states = torch.stack(path, dim=-2)
    if model.reads_past:
        return Simulated(states, torch.stack(seen, dim=-2))
    return Simulated(
        states, _with_same_noise(model.emission(z, was.u), model.emission(states, now.u), y)
    )


def _without_open(
    model: StateSpaceModel,
    was: Series,
    now: Series,
    method: InferenceMethod,
    found: Simulated,
) -> Simulated:
    """Return the draws with NaN where they hang on what the data leave open of a flat start."""
    if not isinstance(model, LinearGaussianModel):
        return found
    before, after = (model.linear_parameters(series.u, series.dt) for series in (was, now))
    diffuse = None if before.initial.diffuse is None else method.smooth(model, was).diffuse
    if diffuse is None:
        return found
    from ..inference.kalman.noises import undetermined_by_noises

    masks = undetermined_by_noises(before, after, diffuse.factor, was.y)
    z, y = (torch.where(mask, torch.nan, x) for mask, x in zip(masks, found, strict=True))
    return Simulated(z, y)


def _with_same_noise(was: Distribution, now: Distribution, y: Tensor) -> Tensor:
    """Return observations with the same noise under other moments; drawn anew if not Gaussian."""
    return _colour(now, _whiten(was, y)) if _is_gaussian(was) else now.sample()


def _is_gaussian(of: Distribution) -> bool:
    if isinstance(of, MultivariateNormal):
        return True
    return isinstance(of, Independent) and isinstance(of.base_dist, Normal)


def _whiten(of: Distribution, value: Tensor) -> Tensor:
    if isinstance(of, MultivariateNormal):
        residual = (value - of.mean)[..., None]
        return torch.linalg.solve_triangular(of.scale_tril, residual, upper=False)[..., 0]
    return (value - of.mean) / of.variance.sqrt()


def _colour(of: Distribution, noise: Tensor) -> Tensor:
    if isinstance(of, MultivariateNormal):
        return of.mean + (of.scale_tril @ noise[..., None])[..., 0]
    return of.mean + of.variance.sqrt() * noise
