"""The verbs: check the data, choose the method, run it, hand back the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.methods import InferenceMethod
from ..core.model import Series, StateSpaceModel
from ..core.results import Disturbances, Filtered, Forecast, Simulated, Smoothed
from .arguments import infers, positive, require_draws, require_model, smoothed
from .defaults import chosen_method, default_online_method
from .forecasting import Ahead, future_labels
from .randomness import drawing_from
from .result_checks import require_filtered, require_paths, require_scores
from .validation import Data, as_labelled_series, as_series, as_steps

if TYPE_CHECKING:
    from ..core.methods import OnlineFilter


def filter(  # noqa: A001
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Filtered:
    """Estimate each state from the past and present: `p(z_t | y_{1:t})`.

    Args:
        model: Any state space model.
        y: Observations, `(*batch, time, obs)` or a frame; NaN means missing, per component.
        u: Inputs, `(*batch, time, input)`; required iff the model has inputs.
        dt: Time steps for models in continuous time, a number or `(*batch, time)`.
        lengths: Valid steps of each series in a padded batch, `(*batch,)`.
        method: How to infer; by default the exact method if there is one, else the guide that
            `fit` has trained, else `Unscented()`.
        generator: Source of randomness, for methods that draw; by default they have a seed.

    Returns:
        Filtered and predicted moments, log-likelihood of each step, and a conditioning check.

    Raises:
        ValueError: The data do not fit the model, or the method cannot handle it.

    Example:
        >>> import deepssm as ds
        >>> model = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])
        >>> ds.filter(model, [0.3, float("nan"), -0.1]).mean.shape
        torch.Size([3, 1])
    """
    inference = drawing_from(generator, chosen_method(model, method))
    series, labels = as_steps(model, inference, y, u, dt, lengths)
    found = inference.filter(model, series)
    require_filtered(found, inference, model, series)
    return found.labelled(labels.index, model.state_names)


def smooth(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    lag: int | None = None,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Smoothed:
    """Estimate each state from all data: `p(z_t | y_{1:T})`, or up to `lag` steps after it.

    Args:
        model: Any state space model.
        y: Observations, `(*batch, time, obs)` or a frame; NaN means missing.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`.
        lag: Wait only so many steps: `p(z_t | y_{1:t+lag})`, by a method with a `fixed_lag`.
        method: How to infer; see `filter`.
        generator: Source of randomness, for methods that draw.

    Returns:
        Smoothed moments and lag-one covariances.
    """
    inference = drawing_from(generator, chosen_method(model, method))
    series, labels = as_steps(model, inference, y, u, dt, lengths)
    result = smoothed(inference, model, series, lag)
    return result.labelled(labels.index, model.state_names)


def disturbances(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
) -> Disturbances:
    """Estimate the noise of each step from all data: outliers and breaks stand out.

    Args:
        model: A linear-Gaussian model.
        y: Observations, `(*batch, time, obs)` or a frame; NaN means missing.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`.

    Returns:
        Smoothed noises of states and observations, and auxiliary residuals with `.unusual()`.

    Raises:
        ValueError: The model is not linear-Gaussian.
    """
    from ..inference.kalman.disturbances import smoothed_disturbances

    series, labels = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
    return smoothed_disturbances(model, series).labelled(labels.index, labels.names)


def log_likelihood(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`; missing entries add exactly 0.

    It can be differentiated; the other verbs return plain numbers.

    Args:
        model: Any state space model.
        y: Observations, `(*batch, time, obs)` or a frame.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`.
        method: How to infer; see `filter`.
        generator: Source of randomness, for methods that draw.
    """
    inference = drawing_from(generator, chosen_method(model, method))
    series = as_steps(model, inference, y, u, dt, lengths).series
    found = inference.log_likelihood(model, series)
    require_scores(found, inference, series)
    return found


def sample_posterior(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    num_samples: int = 100,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw whole state paths from `p(z_{1:T} | y_{1:T})`.

    Args:
        model: Any state space model.
        y: Observations, `(*batch, time, obs)` or a frame.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`.
        num_samples: Number of paths.
        method: How to infer; see `filter`.
        generator: Source of randomness.

    Returns:
        `(num_samples, *batch, time, state)`.
    """
    inference = chosen_method(model, method)
    series = as_steps(model, inference, y, u, dt, lengths).series
    count = positive("num_samples", num_samples)
    require_draws(model, series, series.time, count, f"num_samples={count}")
    found = inference.sample_posterior(model, series, count, generator)
    require_paths(found, inference, model, series, count)
    return found.detach()


def simulate(
    model: StateSpaceModel,
    time: int,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    num_samples: tuple[int, ...] | int = (),
    generator: torch.Generator | None = None,
) -> Simulated:
    """Draw states and observations from a model.

    Args:
        model: A model with a proper start.
        time: Number of steps.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, a number or `(*batch, time)`.
        num_samples: Leading shape of the draws.
        generator: Source of randomness.

    Returns:
        States `(*num_samples, *batch, time, state)` and observations
        `(*num_samples, *batch, time, obs)`.

    Raises:
        ValueError: `time` is negative, or the model starts diffuse.
    """
    from ..inference.simulation.simulate import simulate as draw

    require_model(model)
    if not isinstance(time, Integral) or time < 0:
        raise ValueError(f"`time` must be a whole number of steps, 0 or more, got {time!r}.")
    batch = dt.shape[:-1] if isinstance(dt, np.ndarray | Tensor) else ()
    shape = (*batch, time, model.obs_dim)
    lead = tuple(num_samples) if isinstance(num_samples, Iterable) else (int(num_samples),)
    one = Series(torch.empty(*batch, 0, model.obs_dim), None, None)
    require_draws(model, one, time, math.prod(lead), f"time={time}, num_samples={num_samples}")
    empty = torch.full(shape, torch.nan, dtype=model.dtype, device=model.device)
    return draw(model, as_series(model, empty, u, dt=dt), lead, generator)


def forecast(
    model: StateSpaceModel,
    y: Data,
    horizon: int,
    u: Data | None = None,
    *,
    u_future: Data | None = None,
    dt: Data | float | None = None,
    dt_future: Data | float | None = None,
    lengths: Data | None = None,
    num_samples: int | None = None,
    method: InferenceMethod | None = None,
    generator: torch.Generator | None = None,
) -> Forecast:
    """Forecast the next `horizon` observations, with their uncertainty.

    Args:
        model: Any state space model.
        y: The past, `(*batch, time, obs)` or a frame with a regular index.
        horizon: Number of steps ahead, at least 1.
        u: Past inputs, `(*batch, time, input)`.
        u_future: Inputs of the future steps, `(*batch, horizon, input)`; required iff `u` is.
        dt: Past time steps, a number or `(*batch, time)`.
        dt_future: Future time steps, a number or `(*batch, horizon)`; by default `dt` if that is
            a number.
        lengths: Valid steps of each series, `(*batch,)`: its future begins after those.
        num_samples: Also draw this many joint futures; methods without moments always do.
        method: How to infer; see `filter`.
        generator: Source of randomness.

    Returns:
        Moments and draws with `.interval(0.9)`, `.quantile(q)`, `.state` and `.to_frame()`.

    Raises:
        ValueError: `horizon` is not positive, or future inputs do not fit.
    """
    series, labels = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
    steps = positive("horizon", horizon)
    ahead = Ahead(steps, u_future, dt_future, num_samples, generator, labels)
    result = ahead.forecast(model, chosen_method(model, method), series, lengths)
    return result.labelled(future_labels(labels, steps, lengths), labels.names)


def online(
    model: StateSpaceModel, method: InferenceMethod | None = None, *, buffer: int = 0
) -> OnlineFilter:
    """Start a filter that takes one observation at a time and equals the batch filter.

    Args:
        model: Any model that `method` can filter.
        method: How to infer; by default as in `filter` if that can run one step at a time (a
            trained guide runs as particles), else `Unscented()`.
        buffer: By how many steps an observation may be out of sequence: `.update(y, back=2)` puts
            it in its place by rolling back and replaying.

    Returns:
        A filter with `.predict(dt=, u=)`, `.update(y)`, `.state_dict()`.
    """
    from ..inference.online.out_of_sequence import BufferedFilter
    from ..inference.online.start import start_online

    require_model(model)
    inference = default_online_method(model) if method is None else infers(method)
    started = start_online(model, inference)
    return BufferedFilter(started, positive("buffer", buffer)) if buffer else started
