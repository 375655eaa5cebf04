"""Whole sequences as single random variables: what turns a model into two Pyro sites.

A state path is one `z` and a series one `y`, however long; every density is evaluated for all
steps at once, and only drawing a path is a recursion.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, constraints

from .model import Series, StateSpaceModel


class MarkovSequence(TorchDistribution):
    """The prior `p(z_{1:T}) = p(z_1) prod_t p(z_t | z_{t-1}, u_t)` of a model's state path.

    Args:
        model: Gives `initial()` and `transition(z, u, dt)`.
        time: Number of steps.
        u: Inputs, `(*batch, time, input)`, or `None`.
        dt: Time steps, `(*batch, time)`, `()` or `None`.
        steps: `(*batch, time)`, true where a step counts in the density, or `None` for all.
        batch_shape: Shape of independent paths; by default that of `steps` or `u`.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support = constraints.independent(constraints.real, 2)  # type: ignore[assignment]

    def __init__(
        self,
        model: StateSpaceModel,
        time: int,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        steps: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.model, self.time, self.u, self.dt, self.steps = model, time, u, dt, steps
        self._scored: tuple[Tensor, Distribution] | None = None
        if batch_shape is None:
            batch_shape = _batch_shape(steps, u)
        event_shape = torch.Size((time, model.state_dim))
        super().__init__(batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> MarkovSequence:
        """Return the same distribution for more independent paths."""
        args = (self.model, self.time, self.u, self.dt, self.steps)
        return MarkovSequence(*args, batch_shape=torch.Size(batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw paths by ancestral sampling, `(*sample_shape, *batch, time, state)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        z = draw(self.model.initial().expand(shape))
        path = [z]
        for t in range(1, self.time):
            z = draw(self.model.transition(z, at(self.u, t), at(self.dt, t, axes=1)))
            path.append(z)
        return torch.stack(path, dim=-2)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw paths without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def transitions(self, z: Tensor) -> Distribution:
        """Return `p(z_t | z_{t-1})` for all `t >= 2` at once, batch shape `(*batch, time - 1)`.

        Args:
            z: A path, `(*batch, time, state)`.
        """
        u = None if self.u is None else self.u[..., 1:, :]
        dt = self.dt if self.dt is None or self.dt.ndim == 0 else self.dt[..., 1:]
        return self.model.transition(z[..., :-1, :], u, dt)

    def transitions_scored(self, z: Tensor) -> Distribution:
        """Return `transitions(z)`, taken over from the last density if it was of the same path.

        Pyro asks for the density of every site, and then for the divergence too.
        """
        scored, self._scored = self._scored, None
        return self.transitions(z) if scored is None or scored[0] is not z else scored[1]

    def step_log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each step given the one before, `(*batch, time)`, in nats."""
        first = self.model.initial().log_prob(value[..., 0, :])[..., None]
        if self.time == 1:
            return keep(self.steps, first)
        transitions = self.transitions(value)
        if torch.is_grad_enabled():
            self._scored = value, transitions
        rest = transitions.log_prob(value[..., 1:, :])
        return keep(self.steps, torch.cat([first, rest], dim=-1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log p(z_{1:T})` of the counted steps, `(*batch,)`, in nats."""
        return self.step_log_prob(value).sum(-1)


class ObservedSequence(TorchDistribution):
    """The likelihood `prod_t p(y_t | z_t, u_t)`, NaN in the value meaning missing.

    Args:
        emission: One distribution with batch shape `(*batch, time)`, event shape `(obs,)`.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support = constraints.independent(constraints.real, 2)  # type: ignore[assignment]

    def __init__(self, emission: Distribution) -> None:
        self.emission = emission
        shape = emission.batch_shape
        event_shape = shape[-1:] + emission.event_shape
        super().__init__(shape[:-1], event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> ObservedSequence:
        """Return the same distribution for more independent series."""
        return ObservedSequence(self.emission.expand((*batch_shape, self.event_shape[0])))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw series, `(*sample_shape, *batch, time, obs)`."""
        return self.emission.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-likelihood of what was observed, `(*batch,)`, in nats."""
        return observed_log_prob(self.emission, value).sum(-1)


def observed_log_prob(emission: Distribution, y: Tensor) -> Tensor:
    """Return `log p(y_observed)` per step; a NaN adds exactly 0 to it and to every gradient.

    Args:
        emission: Batch shape `axes`, event shape `(obs,)`.
        y: `(*axes, obs)`, NaN where missing.

    Returns:
        `axes`, in nats.

    Raises:
        ValueError: a step is observed in part and the components of `emission` are dependent in
            a way that cannot be marginalised here.
    """
    seen = ~torch.isnan(y)
    # The payload goes before the mathematics: 0 * nan is nan, in the backward pass too.
    value = torch.where(seen, y, torch.zeros((), dtype=y.dtype, device=y.device))
    if isinstance(emission, Independent) and emission.reinterpreted_batch_ndims == 1:
        terms = emission.base_dist.log_prob(value)
        return torch.where(seen, terms, torch.zeros_like(terms)).sum(-1)
    if isinstance(emission, MultivariateNormal):
        return _masked_normal_log_prob(emission, value, seen)
    whole = seen.all(-1)
    if bool((seen.any(-1) & ~whole).any()):
        raise ValueError(
            "`y` has steps observed in part, but the model's emission "
            f"{type(emission).__name__} couples its components: make it independent by "
            "component, or set the whole step to NaN."
        )
    terms = emission.log_prob(value)
    return torch.where(whole, terms, torch.zeros_like(terms))


def completed(emission: Distribution, y: Tensor, start: Tensor | None = None) -> Tensor:
    """Draw the missing components of observations given those that were seen.

    Args:
        emission: Batch shape `axes`, event shape `(obs,)`.
        y: Broadcastable to `(*axes, obs)`, NaN where missing.
        start: A draw of `emission` to start from, `(*axes, obs)`; a new one by default.

    Returns:
        `(*axes, obs)`, `y` where it was seen.
    """
    seen = ~torch.isnan(y)
    fresh = draw(emission) if start is None else start
    if isinstance(emission, MultivariateNormal):
        cov = emission.covariance_matrix
        both = seen[..., :, None] & seen[..., None, :]
        eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
        across = torch.where(seen[..., None, :], cov, torch.zeros_like(cov))
        missed = torch.where(seen, y - fresh, torch.zeros_like(fresh))
        gain = across @ torch.linalg.solve(torch.where(both, cov, eye), missed[..., None])
        fresh = fresh + gain[..., 0]
    return torch.where(seen, y, fresh)


def _masked_normal_log_prob(emission: MultivariateNormal, value: Tensor, seen: Tensor) -> Tensor:
    """Score the observed block: a missing row becomes an independent exact standard normal."""
    cov = emission.covariance_matrix
    both = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    chol = torch.linalg.cholesky(torch.where(both, cov, eye))
    residual = torch.where(seen, value - emission.mean, torch.zeros_like(value))
    white = torch.linalg.solve_triangular(chol, residual[..., None], upper=False)[..., 0]
    log_2pi = seen.sum(-1) * torch.log(torch.tensor(2 * torch.pi, dtype=cov.dtype))
    log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum(-1) + log_det + log_2pi)


def joint(
    model: StateSpaceModel,
    series: Series,
    *,
    kl_weight: float = 1.0,
    scale: float = 1.0,
    observed: bool = True,
) -> tuple[Tensor, Tensor]:
    """Run any model as a Pyro program with the two sites `z` and `y`.

    Args:
        model: Any state space model.
        series: `y` (its NaN are missing), `u`, `dt`; of `y` only the shape is used where
            `observed` is false.
        kl_weight: Factor on the density of `z`, for warming up.
        scale: Factor on both sites, such as one over the number of observed values.
        observed: Whether `y` conditions the program or is drawn by it.

    Returns:
        `z` and `y`.
    """
    batch = series.batch_shape
    steps = observed_steps(series.y) if observed else None
    prior = MarkovSequence(model, series.time, series.u, series.dt, steps, batch)
    with series_plates(batch), pyro.poutine.scale(scale=scale):
        with pyro.poutine.scale(scale=kl_weight):
            z = pyro.sample("z", prior)
        likelihood = ObservedSequence(model.emission(z, series.u))
        y = pyro.sample("y", likelihood, obs=series.y if observed else None)
    return z, y


@contextmanager
def series_plates(batch_shape: torch.Size) -> Generator[None, None, None]:
    """Enter one Pyro plate a batch axis: `series`, then `series_1`, ... to the left."""
    with pyro.plate_stack("series", tuple(batch_shape)):
        yield


def observed_steps(y: Tensor) -> Tensor:
    """Mark every step up to the last one with an observation, `(*batch, time)`.

    Args:
        y: `(*batch, time, obs)`, NaN where missing.
    """
    seen = (~torch.isnan(y)).any(-1)
    return seen.flip(-1).cummax(-1).values.flip(-1)


def at(sequence: Tensor | None, t: int, axes: int = 2) -> Tensor | None:
    """Return step `t` of `(*batch, time, feature)` (`axes=2`) or `(*batch, time)` (`axes=1`)."""
    if sequence is None or sequence.ndim == 0:
        return sequence
    return sequence[..., t, :] if axes == 2 else sequence[..., t]


def draw(distribution: Distribution) -> Tensor:
    """Draw once, with a gradient where the distribution allows one."""
    return distribution.rsample() if distribution.has_rsample else distribution.sample()


def keep(steps: Tensor | None, terms: Tensor) -> Tensor:
    """Zero the terms of steps that do not count."""
    return terms if steps is None else torch.where(steps, terms, torch.zeros_like(terms))


@contextmanager
def seeded(generator: torch.Generator | None) -> Generator[None, None, None]:
    """Let a generator drive the sampling of `torch.distributions`, which take none.

    Args:
        generator: Advanced by one draw; `None` leaves torch's global state in charge.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _batch_shape(steps: Tensor | None, u: Tensor | None) -> torch.Size:
    if steps is not None:
        return steps.shape[:-1]
    return torch.Size() if u is None else u.shape[:-2]
