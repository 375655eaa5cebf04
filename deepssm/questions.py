"""Verbs about readings: what a silent sensor would have said, what other inputs would do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from .api import default_method
from .base import InferenceMethod, Series, StateSpaceModel
from .checks import Data, as_series, positive
from .results import Simulated
from .sequences import at, seeded


class Imputed(NamedTuple):
    """Readings with their gaps filled.

    Attributes:
        mean: The data where seen, else the mean of what was missed, `(*batch, time, obs)`.
        sd: 0 where seen, else the standard deviation of what was missed, `(*batch, time, obs)`.
        samples: Joint draws, the data where seen, `(num_samples, *batch, time, obs)`.
    """

    mean: Tensor
    sd: Tensor
    samples: Tensor

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the central interval that holds `level` of each missed reading's mass.

        Args:
            level: Probability in (0, 1).

        Raises:
            ValueError: `level` is not strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}.")
        low, high = (1 - level) / 2, (1 + level) / 2
        return torch.quantile(self.samples, low, 0), torch.quantile(self.samples, high, 0)


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
    if positive("num_samples", num_samples) < 2:
        raise ValueError(f"`num_samples` must be at least 2 for a spread, got {num_samples}.")
    series = as_series(model, y, u, dt, lengths)
    inference = default_method(model) if method is None else method
    with torch.no_grad():
        z = inference.sample_posterior(model, series, num_samples, generator)
        with seeded(generator):
            law = model.emission(z, series.u)
            draws = _given_the_rest(law, law.sample(), series.y)
        seen = ~torch.isnan(series.y)
        draws = torch.where(seen, series.y, draws)
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
    other = as_series(model, y, u_instead, dt)
    if series.u is None or other.u is None or series.u.shape != other.u.shape:
        raise ValueError("`u_instead` must have the shape of `u`, one row for every step of `y`.")
    inference = default_method(model) if method is None else method
    with torch.no_grad():
        z = inference.sample_posterior(
            model, series, positive("num_samples", num_samples), generator
        )
        path = _moved(model, series, other, z)
        with seeded(generator):
            was, now = model.emission(z, series.u), model.emission(path, other.u)
            drawn = now.sample()
        seen = ~torch.isnan(series.y)
        if _is_gaussian(was):
            noise = _whiten(was, torch.where(seen, series.y, was.mean))
            drawn = torch.where(seen, _colour(now, noise), drawn)
        return Simulated(path, drawn)


def _moved(model: StateSpaceModel, series: Series, other: Series, z: Tensor) -> Tensor:
    """Run the noises of a path again under other inputs; the first state stays."""
    path = [z[..., 0, :]]
    for t in range(1, series.time):
        dt = at(series.dt, t, axes=1)
        was = model.transition(z[..., t - 1, :], at(series.u, t), dt)
        now = model.transition(path[-1], at(other.u, t), dt)
        if not _is_gaussian(was):
            raise ValueError(
                f"`model` has a transition of type {type(was).__name__}, whose noise cannot be "
                "told from data: a counterfactual needs a Gaussian one."
            )
        path.append(_colour(now, _whiten(was, z[..., t, :])))
    return torch.stack(path, dim=-2)


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


def _given_the_rest(law: Distribution, draw: Tensor, y: Tensor) -> Tensor:
    """Condition a draw of a step on the components of the step that were seen."""
    if not isinstance(law, MultivariateNormal):
        return draw
    seen = ~torch.isnan(y)
    cov = law.covariance_matrix
    both = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    within = torch.where(both, cov, eye)
    across = torch.where(seen[..., None, :], cov, torch.zeros_like(cov))
    missed = torch.where(seen, y - draw, torch.zeros_like(draw))
    return draw + (across @ torch.linalg.solve(within, missed[..., None]))[..., 0]
