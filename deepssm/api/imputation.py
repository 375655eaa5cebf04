"""Imputation: what a silent sensor would have said."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.abilities import LinearGaussianModel, ReadsEarlierObservations
from ..core.methods import InferenceMethod, UsesGuide, UsesParticles
from ..core.model import Series, StateSpaceModel
from ..core.pyro_sites import completed, seeded
from ..core.results import Imputed
from .arguments import infers, positive, require_draws
from .defaults import default_method
from .validation import Data, as_labelled_series


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
        Means, standard deviations and draws in the units of `y`; the moments, and intervals, are
        exact where the model is linear and Gaussian.

    Raises:
        ValueError: the data do not fit the model, or `num_samples` is below 2.
    """
    series, labels = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
    inference = default_method(model) if method is None else infers(method)
    return imputed(model, series, inference, num_samples, generator).labelled(
        labels.index, labels.names
    )


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
    model = averaged_model(method, model)
    with torch.no_grad():

        def draw(inference: InferenceMethod, count: int) -> tuple[Tensor, Tensor]:
            return complete_draws(model, series, inference, count, generator)

        draws = drawn_with_parameters(method, draw, num_samples)[1]
        exact = _exact_moments(model, series, method, num_samples)
        if exact is None:
            seen = ~torch.isnan(series.y)
            sd = torch.where(seen, torch.zeros_like(draws[0]), draws.std(0))
            return Imputed(torch.where(seen, series.y, draws.mean(0)), sd, draws)
        mean, variance = exact
        draws = torch.where(variance.isinf(), torch.nan, draws)
        result = Imputed(mean, variance.sqrt(), draws)
        result.gaussian = _has_exact_moments(model, method)
        return result


def _has_exact_moments(model: StateSpaceModel, method: InferenceMethod) -> bool:
    """Whether the states given the data are Gaussian with the moments that a method returns."""
    from ..inference.gaussian.filter import GaussianFilter
    from ..inference.kalman.method import Kalman

    return isinstance(model, LinearGaussianModel) and isinstance(method, Kalman | GaussianFilter)


def _exact_moments(
    model: StateSpaceModel, series: Series, method: InferenceMethod, num_samples: int
) -> tuple[Tensor, Tensor] | None:
    """Return mean and variance of whole observations, if no draws are needed for them."""
    from ..inference.estimation.parameter_average import ParameterAverage
    from ..inference.kalman.noises import missing_moments

    inner = method.inference if isinstance(method, ParameterAverage) else method
    if not (_has_exact_moments(model, inner) and isinstance(model, LinearGaussianModel)):
        return None

    def moments(inference: InferenceMethod, count: int) -> tuple[Tensor, Tensor]:
        emission = model.linear_parameters(series.u, series.dt).emission
        found = missing_moments(emission, inference.smooth(model, series), series.y)
        mean, variance = (x.expand(count, *x.shape) for x in found)
        return mean, variance

    means, variances = drawn_with_parameters(method, moments, num_samples)
    mean = means[0] if inner is method else means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def averaged_model(method: InferenceMethod, model: StateSpaceModel) -> StateSpaceModel:
    """Return the model that a method moves through parameter draws, if it does, else `model`."""
    from ..inference.estimation.parameter_average import ParameterAverage

    return method.own(model) if isinstance(method, ParameterAverage) else model


def drawn_with_parameters(
    method: InferenceMethod,
    draw: Callable[[InferenceMethod, int], tuple[Tensor, ...]],
    num_samples: int,
) -> tuple[Tensor, ...]:
    """Draw, `y` too under the parameters that its states were drawn with, if those vary."""
    from ..inference.estimation.parameter_average import ParameterAverage

    if isinstance(method, ParameterAverage):
        return method.mixed(lambda count: draw(method.inference, count), num_samples)
    return draw(method, num_samples)


def complete_draws(
    model: StateSpaceModel,
    series: Series,
    method: InferenceMethod,
    num_samples: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw states and whole observations given what was seen.

    Where a diffuse start is left open the draws are finite; the caller says what that spoils.
    """
    from ..inference.guides.autoregressive import fill
    from ..inference.guides.linearized_guide import LinearizedGuide
    from ..inference.guides.smoothing_guide import has_real_values
    from ..inference.kalman.method import Kalman
    from ..inference.kalman.noises import completed_observations
    from ..inference.simulation.simulate import observations_in_turn

    require_draws(model, series, series.time, num_samples, f"num_samples={num_samples}")
    if model.reads_past:
        with seeded(generator):
            guide = method.guide if isinstance(method, UsesGuide) else None
            if guide is None and has_real_values(model, series):
                guide = LinearizedGuide()
            size = method.num_particles if isinstance(method, UsesParticles) else 0
            return fill(model, series, num_samples, guide, max(500, num_samples, size))
    if isinstance(model, LinearGaussianModel):
        draw = method.finite_paths if isinstance(method, Kalman) else method.sample_posterior
        z = draw(model, series, num_samples, generator)
        emission = model.linear_parameters(series.u, series.dt).emission
        return z, completed_observations(emission, z, series.y, generator)
    z = method.sample_posterior(model, series, num_samples, generator)
    if isinstance(model, ReadsEarlierObservations) and model.lags:
        past = z.new_zeros(*z.shape[:-2], model.lags, model.obs_dim)
        return z, observations_in_turn(model, z, series.u, past, generator, series.y)
    with seeded(generator):
        return z, completed(model.emission(z, series.u), series.y)
