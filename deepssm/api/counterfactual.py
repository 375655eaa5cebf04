"""Verbs about readings: what a silent sensor would have said, what other inputs would do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from ..core.autoregressive import fed, own_inputs, with_past
from ..core.model import InferenceMethod, LinearGaussianModel, Series, StateSpaceModel
from ..core.pyro_sites import at, completed, seeded
from ..core.results import Imputed, Simulated
from .validation import Data, as_series, as_tensor, labels_of, positive
from .verbs import default_method


def impute(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    num_samples: int = 200,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Imputed:
    """Fill the gaps: draw from `p(y_missing | y_seen)`, component by component.

    Args:
        model: Any state space model.
        y: Observations, `(*batch, time, obs)` or a frame; NaN is what is asked for.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`.
        num_samples: Number of draws, at least 2.
        method: How to infer; see `filter`.
        generator: Source of randomness.

    Returns:
        Means, standard deviations and draws in the units of `y`.

    Raises:
        ValueError: the data do not fit the model, or `num_samples` is below 2.
    """
    series = as_series(model, y, u, dt, lengths)
    inference = default_method(model) if method is None else method
    found = imputed(model, series, inference, num_samples, generator)
    return found.labelled(*labels_of(y))


def imputed(
    model: StateSpaceModel,
    series: Series,
    method: InferenceMethod,
    num_samples: int,
    generator: torch.Generator | None,
) -> Imputed:
    """Fill the gaps of checked data; see `impute`.

    Raises:
        ValueError: `num_samples` is below 2.
    """
    if positive("num_samples", num_samples) < 2:
        raise ValueError(f"`num_samples` must be at least 2 for a spread, got {num_samples}.")
    with torch.no_grad():

        def draw(inference: InferenceMethod, count: int) -> tuple[Tensor, Tensor]:
            return _complete(model, series, inference, count, generator)

        draws = _mixed(method, draw, num_samples)[1]
        seen = ~torch.isnan(series.y)
        sd = torch.where(seen, torch.zeros_like(draws[0]), draws.std(0))
        return Imputed(torch.where(seen, series.y, draws.mean(0)), sd, draws)


def counterfactual(
    model: StateSpaceModel,
    y: Data,
    u: Data,
    u_instead: Data,
    *,
    dt: Data | float | None = None,
    num_samples: int = 200,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Simulated:
    """Ask what would have been seen under other inputs, all else as it was.

    The data say which noises moved the states and the readings; the model is run again with the
    same noises and the other inputs. With `u_instead = u` what was seen comes back exactly.

    Args:
        model: A model with inputs and Gaussian transitions.
        y: Observations, `(*batch, time, obs)`; NaN is missing.
        u: Inputs as they were, `(*batch, time, input)`.
        u_instead: Inputs as they might have been, of the same shape.
        dt: Time steps, a number or `(*batch, time)`.
        num_samples: Number of draws.
        method: How to infer the states; see `filter`.
        generator: Source of randomness.

    Returns:
        States `(num_samples, *batch, time, state)` and readings `(num_samples, *batch, time,
        obs)`. Readings that were missing, or whose noise is not Gaussian, are drawn anew.

    Raises:
        ValueError: the inputs' shapes differ, or a transition is not Gaussian.

    Source: Pearl (2009), Causality, section 7.1: abduction, action, prediction.
    """
    series = as_series(model, y, u, dt)
    inference = default_method(model) if method is None else method
    count = positive("num_samples", num_samples)
    return run_again(model, series, u_instead, inference, count, generator)


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
    other = series._replace(u=_other_inputs(model, series, u_instead))
    with torch.no_grad():

        def draw(inference: InferenceMethod, count: int) -> tuple[Tensor, ...]:
            z, y = _complete(model, series, inference, count, generator)
            with seeded(generator):
                return _rerun(model, series, other, z, y)

        return Simulated(*_mixed(method, draw, num_samples))


def _mixed(
    method: InferenceMethod,
    draw: Callable[[InferenceMethod, int], tuple[Tensor, ...]],
    num_samples: int,
) -> tuple[Tensor, ...]:
    """Draw, readings too under the parameters their states were drawn with, if those vary."""
    from ..inference.estimation.parameter_average import ParameterAverage

    if isinstance(method, ParameterAverage):
        return method.mixed(lambda count: draw(method.inference, count), num_samples)
    return draw(method, num_samples)


def _other_inputs(model: StateSpaceModel, series: Series, u_instead: Data) -> Tensor | None:
    u, instead = own_inputs(model, series.u), as_tensor(model, "u_instead", u_instead)
    if u is None:
        raise ValueError("`u_instead` is given, but the model has no inputs to be other.")
    if u.shape[-2:] != instead.shape[-2:] or not bool(instead.isfinite().all()):
        raise ValueError(
            "`u_instead` must hold one finite row of inputs for every step of `y`, "
            f"{tuple(u.shape)}, got {tuple(instead.shape)}."
        )
    return with_past(model, series.y, instead.expand(u.shape))


def _complete(
    model: StateSpaceModel,
    series: Series,
    method: InferenceMethod,
    num_samples: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw states and whole readings given what was seen."""
    from ..inference.guides.autoregressive import fill
    from ..inference.guides.linearized_guide import LinearizedGuide
    from ..inference.guides.smoothing_guide import has_real_values
    from ..inference.kalman.noises import completed_readings

    if model.reads_past:
        with seeded(generator):
            guide = getattr(method, "guide", None)
            if guide is None and has_real_values(model, series):
                guide = LinearizedGuide()
            size = max(500, num_samples, getattr(method, "num_particles", 0))
            return fill(model, series, num_samples, guide, size)
    z = method.sample_posterior(model, series, num_samples, generator)
    if isinstance(model, LinearGaussianModel):
        emission = model.linear_parameters(series.u, series.dt).emission
        return z, completed_readings(emission, z, series.y, generator)
    with seeded(generator):
        return z, completed(model.emission(z, series.u), series.y)


def _rerun(model: StateSpaceModel, was: Series, now: Series, z: Tensor, y: Tensor) -> Simulated:
    """Run the noises of paths and readings again under other inputs; the first state stays."""
    if isinstance(model, LinearGaussianModel):
        from ..inference.kalman.noises import run_noises_again

        before, after = (model.linear_parameters(series.u, series.dt) for series in (was, now))
        return Simulated(*run_noises_again(before, after, z, y))
    path, readings = [z[..., 0, :]], []
    for t in range(was.time):
        inputs = at(was.u, t), at(now.u, t)
        if t and model.reads_past:
            inputs = fed(model, inputs[0], y[..., t - 1, :]), fed(model, inputs[1], readings[-1])
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
            laws = model.emission(z[..., t, :], inputs[0]), model.emission(path[-1], inputs[1])
            readings.append(_reread(*laws, y[..., t, :]))
    states = torch.stack(path, dim=-2)
    if model.reads_past:
        return Simulated(states, torch.stack(readings, dim=-2))
    return Simulated(states, _reread(model.emission(z, was.u), model.emission(states, now.u), y))


def _reread(was: Distribution, now: Distribution, y: Tensor) -> Tensor:
    """Return readings with the same noise under another law; drawn anew if it is not Gaussian."""
    return _colour(now, _whiten(was, y)) if _is_gaussian(was) else now.sample()


def _is_gaussian(law: Distribution) -> bool:
    if isinstance(law, MultivariateNormal):
        return True
    return isinstance(law, Independent) and isinstance(law.base_dist, Normal)


def _whiten(law: Distribution, value: Tensor) -> Tensor:
    if isinstance(law, MultivariateNormal):
        residual = (value - law.mean)[..., None]
        return torch.linalg.solve_triangular(law.scale_tril, residual, upper=False)[..., 0]
    return (value - law.mean) / law.variance.sqrt()


def _colour(law: Distribution, noise: Tensor) -> Tensor:
    if isinstance(law, MultivariateNormal):
        return law.mean + (law.scale_tril @ noise[..., None])[..., 0]
    return law.mean + law.variance.sqrt() * noise
