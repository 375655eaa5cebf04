"""The Gaussian filter and smoother behind every rule for moments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral

import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel
from ...core.gaussian import outer
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed, trusting
from ..simulation.ahead import drawn_forecast, last_seen, run_on, state_at
from ..simulation.angles import Wrap
from ..simulation.conditionals import Conditionals, bind, gaussian_start
from ..simulation.visibility import require_visible
from . import steps
from .linearized import Conditional, Linearized, Moments, require_linearized
from .online import OnlineGaussian
from .robust import Robust, gaussian_update, require_robust
from .rules import inside
from .steps import Conditioned, Passed, Predicted
from .unwrapping import innovation
from .vanishing_slope import warn_if_nothing_is_learnt


class GaussianFilter(ABC):
    """Filters and smooths any model through the means and covariances of its distributions.

    The filter is in square-root form and batched over series; the smoother is the one of Rauch,
    Tung and Striebel, moved by orthogonal transformations. On a linear-Gaussian model every
    such filter is the Kalman filter. Emissions need not be Gaussian: the first two conditional
    moments enter.

    To add one, derive a frozen dataclass and define `moments`; all else follows. Two fields are
    read where a subclass has them: `iterations`, how often each emission is linearised, and
    `robust`, what to do about outliers.

    Source: Särkkä & Svensson (2023), Bayesian Filtering and Smoothing, chapters 7 to 10.
    """

    iterations: int = 1
    robust: Robust | None = None

    def __post_init__(self) -> None:
        """Check `robust` and `iterations`; a subclass with checks of its own calls it."""
        require_robust(self.robust)
        whole = isinstance(self.iterations, Integral) and not isinstance(self.iterations, bool)
        if not whole or self.iterations < 1:
            raise ValueError(
                f"`iterations` must be a whole number of at least 1, got {self.iterations!r}."
            )

    @abstractmethod
    def moments(self, state_dim: int) -> Moments:
        """Return the rule that pushes a Gaussian of this size through a distribution."""

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return `p(z_t | y_{1:t})` and `p(z_t | y_{1:t-1})`, Gaussian approximations."""
        forward = self._pass(model, series, joint=False)
        found = Filtered(
            steps.over_time(forward.mean),
            steps.over_time_cov(forward.factor),
            steps.over_time([p.mean for p in forward.predicted]),
            steps.over_time_cov([p.factor for p in forward.predicted]),
            _log_likelihood(forward),
            _ill_conditioned(forward),
        )
        return found if self.robust is None else trusting(found, _trust(forward))

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return `p(z_t | y_{1:T})`, Gaussian approximations, with lag-one covariances."""
        forward = self._pass(model, series, joint=True)
        moments = steps.smooth(forward)
        found = Smoothed(*moments, _log_likelihood(forward), _ill_conditioned(forward))
        return found if self.robust is None else trusting(found, _trust(forward))

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return the Gaussian `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`.

        It is differentiable in every parameter of the model.
        """
        return _log_likelihood(self._pass(model, series, joint=False))

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths backwards, `(num_samples, *batch, time, state)`."""
        forward = self._pass(model, series, joint=True)
        return steps.sample(forward, num_samples, generator)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps, whose `y` is NaN.

        Moments come from this filter's rule. Samples, if asked for, are drawn from the model
        itself, starting at the Gaussian filtered state, and need no rule. For a model that reads
        its last observation the moments are those of the samples, 1000 by default.
        """
        conditionals = bind(model, series)
        forward = self._pass(model, series, joint=False)
        if model.reads_past:
            count = num_samples or 1_000
            return _autoregressive_forecast(model, series, forward, horizon, count, generator)
        rule, first = self.rules(model, conditionals)[1], series.time - horizon
        means, covs = [], []
        for t in range(first, series.time):
            conditional = _emission(conditionals, t)
            step = rule(conditional, forward.mean[t], forward.factor[t], conditionals.wrap_obs)
            means.append(step.mean)
            covs.append(outer(step.slope) + outer(step.spread))
        samples = state_samples = None
        if num_samples is not None:
            with seeded(generator):
                state_samples, samples = _simulate(conditionals, forward, first, num_samples)
        return Forecast(
            torch.stack(means, -2),
            torch.stack(covs, -3),
            samples,
            torch.stack(forward.mean[first:], -2),
            outer(torch.stack(forward.factor[first:], -3)),
            state_samples,
        )

    def trust(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return how far each observation was trusted, `(*batch, time, obs)`.

        1 is in full, 0 is rejected by a gate, NaN is missing. Without `robust` all is trusted.
        """
        return _trust(self._pass(model, series, joint=False))

    def online(self, model: StateSpaceModel) -> OnlineGaussian:
        """Return a filter at the model's start that takes one observation at a time."""
        return OnlineGaussian(self, model)

    def rules(self, model: StateSpaceModel, conditionals: Conditionals) -> tuple[Moments, Moments]:
        """Return the rules for transitions and emissions, noise inside functions included."""
        if conditionals.noise is None:
            rule = self.moments(model.state_dim)
            return rule, rule
        sizes = [model.state_dim + noise.shape[-1] for noise in conditionals.noise]
        pairs = zip(sizes, conditionals.noise, strict=True)
        first, second = (inside(self.moments(size), noise) for size, noise in pairs)
        return first, second

    def _pass(self, model: StateSpaceModel, series: Series, *, joint: bool) -> Passed:
        require_visible(model, series, type(self).__name__)
        conditionals = bind(model, series)
        move, emit = self.rules(model, conditionals)
        observed = ~torch.isnan(series.y)
        y = torch.where(observed, series.y, series.y.new_zeros(()))
        some = observed.flatten(0, -3).any(-1).any(0) if observed.ndim > 2 else observed.any(-1)
        informative = some.tolist()
        forward = Passed([], [], [], [], [])
        mean, factor = gaussian_start(conditionals, series)
        prior = Predicted(mean, factor, factor[..., :0], factor[..., :0])
        for t in range(series.time):
            if t > 0:
                step = self.moved(move, conditionals, t, mean, factor)
                prior = steps.predict(step, joint=joint)
            if informative[t]:
                data = y[..., t, :], observed[..., t, :]
                posterior, trust = self.updated(emit, conditionals, t, prior, *data)
                mean, factor = steps.move(prior, posterior)
            else:
                posterior = steps.nothing_observed(prior)
                mean, factor, trust = prior.mean, prior.factor, series.y[..., t, :]
            forward.predicted.append(prior)
            forward.conditioned.append(posterior)
            forward.mean.append(mean)
            forward.factor.append(factor)
            forward.trust.append(trust)
        if not isinstance(model, LinearGaussianModel):
            trust = torch.stack(forward.trust)
            warn_if_nothing_is_learnt(
                self, conditionals, forward.predicted, forward.conditioned, trust
            )
        return forward

    def moved(
        self, rule: Moments, conditionals: Conditionals, t: int, mean: Tensor, factor: Tensor
    ) -> Linearized:
        """Linearise the transition that arrives at step `t`, about `N(mean, factor factor')`."""
        conditional = _transition(conditionals, t)
        step = rule(conditional, mean, factor, conditionals.wrap_state)
        require_linearized(step, self, mean.shape[-1], factor)
        return step

    def updated(
        self,
        rule: Moments,
        conditionals: Conditionals,
        t: int,
        prior: Predicted,
        y: Tensor,
        observed: Tensor,
    ) -> tuple[Conditioned, Tensor]:
        """Condition step `t` on `y`, `(*batch, obs)`; return the trust in each observation too.

        Args:
            rule: The rule for emissions.
            conditionals: The model, bound to inputs and times.
            t: Which step.
            prior: The state before the observation.
            y: Anything finite where missing.
            observed: Which components of `y` are there.
        """
        conditional, wrap = _emission(conditionals, t), conditionals.wrap_obs
        step = rule(conditional, prior.mean, prior.factor, wrap)
        require_linearized(step, self, y.shape[-1], prior.factor)
        posterior, trust = _conditioned(self.robust, step, y, observed, wrap)
        for _ in range(self.iterations - 1):
            step = _relinearize(rule, conditionals, t, prior, posterior)
            posterior, trust = _conditioned(self.robust, step, y, observed, wrap)
        return posterior, trust


def _conditioned(
    robust: Robust | None, step: Linearized, y: Tensor, observed: Tensor, wrap: Wrap
) -> tuple[Conditioned, Tensor]:
    residual, other_turns = innovation(step, y, observed, wrap)
    posterior, trust = gaussian_update(robust, step, residual, observed)
    if other_turns is not None and robust is None:
        total = posterior.log_likelihood + other_turns
        posterior = posterior._replace(log_likelihood=total)
    return posterior, trust


def _transition(conditionals: Conditionals, t: int) -> Conditional:
    return lambda z: conditionals.transition(z, t)


def _emission(conditionals: Conditionals, t: int) -> Conditional:
    return lambda z: conditionals.emission(z, t)


def _relinearize(
    rule: Moments, conditionals: Conditionals, t: int, prior: Predicted, posterior: Conditioned
) -> Linearized:
    """Linearise the emission about the posterior, in the coordinates of the fixed prior."""
    mean, factor = steps.move(prior, posterior)
    step = rule(_emission(conditionals, t), mean, factor, conditionals.wrap_obs)
    slope = torch.linalg.solve_triangular(posterior.gain, step.slope, upper=False, left=False)
    back = step.mean - (slope @ posterior.shift[..., None])[..., 0]
    return Linearized(back, slope, step.spread)


def _simulate(
    conditionals: Conditionals, forward: Passed, first: int, num_samples: int
) -> tuple[Tensor, Tensor]:
    """Draw `(z, y)` of the steps from `first` on, starting at the state before them."""
    start = max(first - 1, 0)
    mean, factor = forward.mean[start], forward.factor[start]
    noise = torch.randn((num_samples, *mean.shape), dtype=mean.dtype, device=mean.device)
    z = mean + (factor @ noise[..., None])[..., 0]
    states, observations = [], []
    for t in range(first, len(forward.mean)):
        if t > 0:
            z = conditionals.transition(z, t).sample()
        states.append(z)
        observations.append(conditionals.emission(z, t).sample())
    return torch.stack(states, -2), torch.stack(observations, -2)


def _autoregressive_forecast(
    model: StateSpaceModel,
    series: Series,
    forward: Passed,
    horizon: int,
    count: int,
    generator: torch.Generator | None,
) -> Forecast:
    """Draw on from the filtered state of each series' last observation."""
    last = last_seen(series.y)
    mean = state_at(steps.over_time(forward.mean), last)
    factor = state_at(steps.over_time([f.flatten(-2) for f in forward.factor]), last)
    chosen = generator or torch.Generator(series.y.device).manual_seed(0)
    with torch.no_grad(), seeded(chosen):
        noise = torch.randn((count, *mean.shape), dtype=mean.dtype, device=mean.device)
        z = mean + (factor.reshape(*mean.shape, -1) @ noise[..., None])[..., 0]
        return drawn_forecast(*run_on(model, series, z, last, horizon), model)


def _log_likelihood(forward: Passed) -> Tensor:
    return steps.over_time([update.log_likelihood for update in forward.conditioned], 1)


def _trust(forward: Passed) -> Tensor:
    return torch.stack(forward.trust, -2)


def _ill_conditioned(forward: Passed) -> Tensor:
    exact = torch.stack([update.ill_conditioned for update in forward.conditioned]).any(0)
    factors = torch.stack(forward.factor)
    return exact | ~torch.isfinite(factors).all((0, -2, -1))
