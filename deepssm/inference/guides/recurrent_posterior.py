"""A posterior whose steps are any function of the state before: drawn by a recursion."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.guides import Combiner, CombinerStep, PathCombiner
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import MarkovSequence, at, draw
from .conditionals import Path
from .posterior import StepwisePosterior


class RecurrentPosterior(StepwisePosterior):
    """`q(z_t | z_{t-1}) = N(mean_t(z_{t-1}), scale_t(z_{t-1})^2)`, diagonal.

    Args:
        model: The model whose states these are.
        series: Data; NaN in `y` is missing.
        context: Projected contexts, `(*batch, time, hidden)`.
        combiner: Gives mean and scale of a step.
        steps: `(*batch, time)`, true up to the last observation.
        spread: Units of the innovation, `(obs,)`, or `None` where it is not used.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        context: Tensor,
        combiner: Combiner,
        steps: Tensor,
        spread: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.context, self.combiner, self.spread = context, combiner, spread
        super().__init__(model, series, steps, batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> RecurrentPosterior:
        """Return the same distribution for more independent paths; it draws its own."""
        parts = (self.model, self.series, self.context, self.combiner, self.steps, self.spread)
        return RecurrentPosterior(*parts, torch.Size(batch_shape))

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths by the guide's recursion; see `StepwisePosterior.draw`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        y, size = self.series.y, (self.series.time, *shape, self.model.state_dim)
        noise = torch.randn(size, dtype=y.dtype, device=y.device)
        if isinstance(self.combiner, PathCombiner):
            path = self._in_one_loop(self.combiner, noise)
            self.path = path._replace(z=self._continued(path.z)) if beyond else path
            return self.path.z
        # Where the guide ends for some series, the model takes over; asked once, not T times.
        steps = self.steps.reshape(-1, self.series.time)
        every, some = steps.all(0).tolist(), steps.any(0).tolist()
        z, path = self.model.initial().expand(shape).mean, []
        for t, shock in enumerate(noise.unbind(0)):
            z, mean, scale = self._advance(z, shock, t, some[t], every[t] or not beyond)
            path.append((z, mean, scale))
        self.path = Path(*(torch.stack(parts, dim=-2) for parts in zip(*path, strict=True)))
        return self.path.z

    def _in_one_loop(self, combiner: PathCombiner, noise: Tensor) -> Path:
        """Draw a path with a combiner that asks nothing of the model."""
        context = self.context.movedim(-2, 0).reshape(len(noise), -1, self.context.shape[-1])
        start = self.model.initial().mean
        folded = noise.reshape(len(noise), -1, context.shape[1], noise.shape[-1])
        parts = combiner.path(context, start, folded)
        z, mean, scale = (part.reshape(noise.shape).movedim(0, -2) for part in parts)
        return Path(z, mean, scale, white=noise.movedim(0, -2))

    def _advance(
        self, z: Tensor, shock: Tensor, t: int, some: bool, every: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one step from the guide for series still observed, from the model for others."""
        prior = self.model.initial().expand(z.shape[:-1])
        if t:
            u, dt = at(self.series.u, t), at(self.series.dt, t, axes=1)
            prior = self.model.transition(z, u, dt)
        if not some:
            return draw(prior), prior.mean, prior.variance.sqrt()
        mean, scale = self.step(z, prior, t)
        z = mean + scale * shock
        return z if every else torch.where(self.steps[..., t, None], z, draw(prior)), mean, scale

    def conditionals(self, value: Tensor) -> Path:
        """Return the conditionals along any path, all steps at once."""
        first_prior = self.model.initial().expand(value.shape[:-2])
        first = self.step(first_prior.mean, first_prior, 0)
        if self.series.time == 1:
            return Path(value, *(part[..., None, :] for part in first))
        u, dt = self.series.u, self.series.dt
        prior = MarkovSequence(self.model, self.series.time, u, dt, None, value.shape[:-2])
        rest = self.step(value[..., :-1, :], prior.transitions(value), slice(1, None))
        pairs = zip(first, rest, strict=True)
        return Path(value, *(torch.cat([a[..., None, :], b], dim=-2) for a, b in pairs))

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return `q(z_t | z_{t-1} = z)`; see `StepwisePosterior.proposal`."""
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
        step = CombinerStep(z, mean, prior.variance.sqrt(), innovation, context)
        # A combiner that does not look at the state says the same to all paths.
        found, scale = (part.expand(mean.shape) for part in self.combiner(step))
        return found, scale
