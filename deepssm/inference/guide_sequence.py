"""The law of a guide whose steps are any function of the state before: drawn by a recursion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..base import Series, StateSpaceModel
from ..sequences import MarkovSequence, at, draw
from .combiners import Step
from .guide_law import GuideLaw, Path

Combine = Callable[[Step], tuple[Tensor, Tensor]]


class GuideSequence(GuideLaw):
    """`q(z_t | z_{t-1}) = N(mean_t(z_{t-1}), scale_t(z_{t-1})^2)`, diagonal.

    Args:
        model: The model whose states these are.
        series: Data; NaN in `y` is missing.
        context: Projected contexts, `(*batch, time, hidden)`.
        combine: Gives mean and scale of a step.
        steps: `(*batch, time)`, true up to the last observation.
        spread: Units of the innovation, `(obs,)`, or `None` where it is not used.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        context: Tensor,
        combine: Combine,
        steps: Tensor,
        spread: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.context, self.combine, self.spread = context, combine, spread
        super().__init__(model, series, steps, batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> GuideSequence:
        """Return the same law for more independent paths; it draws its own."""
        parts = (self.model, self.series, self.context, self.combine, self.steps, self.spread)
        return GuideSequence(*parts, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths by the guide's recursion, `(*sample_shape, *batch, time, state)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        # Where the guide ends for some series, the model takes over; asked once, not T times.
        steps = self.steps.reshape(-1, self.series.time)
        every, some = steps.all(0).tolist(), steps.any(0).tolist()
        model, series = self.model, self.series
        noise = torch.randn(
            series.time, *shape, model.state_dim, dtype=series.y.dtype, device=series.y.device
        )
        prior = model.initial().expand(shape)
        z, draws, means, scales = prior.mean, [], [], []
        for t in range(series.time):
            if t:
                prior = model.transition(z, at(series.u, t), at(series.dt, t, axes=1))
            if some[t]:
                mean, scale = self.step(z, prior, t)
                z = mean + scale * noise[t]
                z = z if every[t] else torch.where(self.steps[..., t, None], z, draw(prior))
            else:
                mean, scale, z = prior.mean, prior.variance.sqrt(), draw(prior)
            draws.append(z)
            means.append(mean)
            scales.append(scale)
        self.path = Path(*(torch.stack(parts, dim=-2) for parts in (draws, means, scales)))
        return self.path.z

    def conditionals(self, value: Tensor) -> Path:
        """Return the conditionals along any path, all steps at once."""
        first_prior = self.model.initial().expand(value.shape[:-2])
        first = self.step(first_prior.mean, first_prior, 0)
        if self.series.time == 1:
            return Path(value, *(part[..., None, :] for part in first))
        u, dt = self.series.u, self.series.dt
        law = MarkovSequence(self.model, self.series.time, u, dt, None, value.shape[:-2])
        rest = self.step(value[..., :-1, :], law.transitions(value), slice(1, None))
        pairs = zip(first, rest, strict=True)
        return Path(value, *(torch.cat([a[..., None, :], b], dim=-2) for a, b in pairs))

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return `q(z_t | z_{t-1} = z)`; see `GuideLaw.proposal`."""
        return Path(z, *self.step(z, prior, t))

    def step(self, z: Tensor, prior: Distribution, t: int | slice) -> tuple[Tensor, Tensor]:
        """Return mean and scale of `q(z_t | z_{t-1} = z)`, each `(*axes, state)`.

        Args:
            z: The state before, `(*axes, state)`.
            prior: `p(z_t | z_{t-1} = z)`.
            t: The step, or a slice of steps that are the last of `axes`.
        """
        series, mean = self.series, prior.mean
        innovation = None
        if self.spread is not None:
            y = series.y[..., t, :]
            seen = ~torch.isnan(y)
            u = None if series.u is None else series.u[..., t, :]
            filled = torch.where(seen, y, torch.zeros_like(y))
            residual = (filled - self.model.emission(mean, u).mean) / self.spread
            innovation = torch.where(seen, residual, torch.zeros_like(residual))
        context = self.context[..., t, :]
        return self.combine(Step(z, mean, prior.variance.sqrt(), innovation, context))
