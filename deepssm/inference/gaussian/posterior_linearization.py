"""Iterated smoothing: linearise all steps about the smoothed path, smooth exactly, repeat."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel
from ...core.arguments import checked
from ...core.deprecation import renamed_arguments
from ...core.gaussian import outer, psd_factor
from ...core.methods import InferenceMethod
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ...core.results import Filtered, Forecast, Smoothed
from ..kalman.method import Kalman
from ..simulation.angles import Wrap
from ..simulation.conditionals import Conditionals, bind, gaussian_start
from ..simulation.filter_alone import FilterAlone
from .filter import GaussianFilter
from .linearized import Conditional, Moments
from .methods import Extended


@checked
@dataclass(frozen=True)
class PosteriorLinearization:
    """Smooth a nonlinear model by a sequence of linear ones.

    With `rule=Extended()` this is the iterated extended Kalman smoother: Gauss-Newton for the
    most probable path. With sigma points it is the iterated posterior linearisation smoother.
    All time steps are linearised in one call, and the linear smoother may be any exact one, one
    that is parallel in time included. On a linear model one iteration is exact.

    Args:
        rule: How to linearise; its own smoother gives the first path.
        max_iterations: Most passes.
        tolerance: Stop once no smoothed mean moves by more than this many standard deviations.
        inference: The linear smoother, an exact one.

    Source: Bell (1994), SIAM J. Optimization 4(3); García-Fernández, Svensson & Särkkä (2017),
        IEEE Transactions on Automatic Control 62(4); Yaghoobi et al. (2021) for all at once.
    """

    rule: GaussianFilter = field(default_factory=Extended)
    max_iterations: int = 20
    tolerance: float = 1e-9
    inference: InferenceMethod = field(default_factory=Kalman)

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Filter the linear model found by smoothing: its linearisation has seen all of `y`."""
        return self.inference.filter(*self.linearize(model, series))

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return `p(z_t | y_{1:T})` under the last linearisation."""
        return self.inference.smooth(*self.linearize(model, series))

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return the log-likelihood of the last linear model in nats, `(*batch, time)`."""
        return self.inference.log_likelihood(*self.linearize(model, series))

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths of the last linear model, `(num_samples, *batch, time, state)`."""
        linear = self.linearize(model, series)
        return self.inference.sample_posterior(*linear, num_samples, generator)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps, linearised about their predicted path.

        A model that reads its last observation runs on from draws of the last filtered state.
        """
        if model.reads_past:
            drawn = FilterAlone(self)
            return drawn.forecast(model, series, horizon, num_samples, generator)
        linear = self.linearize(model, series)
        return self.inference.forecast(*linear, horizon, num_samples, generator)

    def linearize(self, model: StateSpaceModel, series: Series) -> tuple[LinearizedModel, Series]:
        """Return the linear model of the last pass and the series it is for.

        Differences of angles are taken the short way before the data leave for linear algebra.
        """
        conditionals = _all_steps(model, series)
        path = self.rule.smooth(model, series)
        for iteration in range(self.max_iterations):
            linear, known = self._about(model, conditionals, series, path)
            if iteration == self.max_iterations - 1:
                break
            smoothed = self.inference.smooth(linear, known)
            sd = smoothed.cov.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).sqrt()
            moved = ((smoothed.mean - path.mean).abs() / sd).max()
            path = smoothed
            if bool(moved <= self.tolerance):
                break
        return self._about(model, conditionals, series, path)

    def _about(
        self, model: StateSpaceModel, conditionals: Conditionals, series: Series, path: Smoothed
    ) -> tuple[LinearizedModel, Series]:
        move, emit = self.rule.rules(model, conditionals)
        mean = path.mean
        if isinstance(self.rule, Extended):  # Jacobians need no spread, which may be singular
            factor = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
            factor = factor.expand(*mean.shape, -1)
        else:
            factor = psd_factor((path.cov + path.cov.mT) / 2, "smoothed covariance")
        past = mean[..., :-1, :], factor[..., :-1, :, :]
        conditional = _bound(conditionals.transition)
        step = _affine(move, conditional, *past, conditionals.wrap_state, mean[..., 1:, :])
        first = _affine(emit, _bound(conditionals.emission), mean, factor, conditionals.wrap_obs)
        expected = first.offset + (first.matrix @ mean[..., None])[..., 0]
        y = expected + conditionals.wrap_obs(series.y - expected)
        m0, L0 = gaussian_start(conditionals, series)
        start = GaussianInitial(m0, outer(L0))
        return LinearizedModel(model, LinearParameters(start, _padded(step), first)), Series(y)


PosteriorLinearization.__init__ = renamed_arguments(
    iterations="max_iterations", exact="inference"
)(PosteriorLinearization.__init__)


class LinearizedModel(StateSpaceModel):
    """A model with every step replaced by a linear one, for exact methods.

    Args:
        model: What was linearised.
        parameters: The linear steps.
    """

    def __init__(self, model: StateSpaceModel, parameters: LinearParameters) -> None:
        super().__init__()
        self.state_dim, self.obs_dim = model.state_dim, model.obs_dim
        self.parameters_of_steps = parameters

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the linear steps; inputs are part of them already."""
        return self.parameters_of_steps

    def _reference_tensor(self) -> Tensor:
        return self.parameters_of_steps.initial.mean


def _all_steps(model: StateSpaceModel, series: Series) -> Conditionals:
    """Bind a model to all steps at once; the time index of the conditionals is not used."""
    bound = bind(model, Series(series.y))
    if isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"`{type(model).__name__}` is linear already: use `ds.inference.Kalman()`."
        )
    u, dt = series.u, series.dt
    later = None if u is None else u[..., 1:, :]
    elapsed = dt if dt is None or dt.ndim == 0 else dt[..., 1:]
    return bound._replace(
        transition=lambda z, t: model.transition(
            z,
            None if later is None else later.expand(*z.shape[:-1], -1),
            None if elapsed is None else elapsed.expand(z.shape[:-1]),
        ),
        emission=lambda z, t: model.emission(
            z, None if u is None else u.expand(*z.shape[:-1], -1)
        ),
    )


def _bound(conditional: object) -> Conditional:
    return lambda z: conditional(z, 0)  # type: ignore[operator]


def _affine(
    rule: Moments,
    conditional: Conditional,
    mean: Tensor,
    factor: Tensor,
    wrap: Wrap,
    near: Tensor | None = None,
) -> LinearConditional:
    """Turn `mean + slope e + spread n` into `matrix z + offset + noise`."""
    step = rule(conditional, mean, factor, wrap)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    if bool((pivots > 1e-12 * factor.norm(dim=-1)).all()):
        matrix = torch.linalg.solve_triangular(factor, step.slope, upper=False, left=False)
    else:
        matrix = step.slope @ torch.linalg.pinv(factor)
    image = step.mean if near is None else near + wrap(step.mean - near)
    offset = image - (matrix @ mean[..., None])[..., 0]
    cov = outer(step.spread)
    return LinearConditional(matrix, offset, cov.expand(*matrix.shape[:-2], *cov.shape[-2:]))


def _padded(step: LinearConditional) -> LinearConditional:
    """Put an unused entry 0 before the steps `1 .. T-1`."""
    matrix, offset, cov = step
    n = offset.shape[-1]
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    first = eye.expand(*matrix.shape[:-3], 1, n, n)
    return LinearConditional(
        torch.cat((first, matrix), -3),
        torch.cat((torch.zeros_like(first[..., 0]), offset), -2),
        torch.cat((first, cov), -3),
    )
