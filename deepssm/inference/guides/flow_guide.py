"""A guide bent by inverse autoregressive flows, for posteriors that are not Gaussian by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ...core.arguments import checked
from ...core.guides import Guide, InitializesGuide, RefinableGuide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import at, draw
from .asking import as_posterior, ask, ask_filtering
from .conditionals import Conditionals, Path
from .posterior import StepwisePosterior


@checked
class AutoregressiveFlow(nn.Module):
    """`x' = g x + (1 - g) m`, `g` and `m` networks whose output `i` sees inputs before `i` only.

    It starts near the identity. One evaluation gives the image and its volume; the inverse needs
    one evaluation a component.

    Args:
        state_dim: Size of `x`, at least 2.
        hidden: Width of the networks.
        depth: Number of flows, the order of the components reversed between them.

    Raises:
        ValueError: `state_dim` is 1, where there is nothing to be autoregressive in.

    Source: Kingma et al. (2016), Improving variational inference with inverse autoregressive
    flow, equations 14 and 15.
    """

    def __init__(self, state_dim: int, hidden: int = 32, depth: int = 1) -> None:
        super().__init__()
        if state_dim < 2:
            raise ValueError(f"`state_dim` must be at least 2 for a flow, got {state_dim}.")
        orders = [torch.arange(state_dim), torch.arange(state_dim).flip(0)]
        self.layers = nn.ModuleList(
            AutoRegressiveNN(state_dim, [hidden], permutation=orders[i % 2])  # type: ignore[arg-type]
            for i in range(depth)
        )
        with torch.no_grad():
            for layer in self.layers:
                layer.layers[-1].weight.mul_(0.1)  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and the log of its volume element, `(*axes, state)` and `(*axes)`."""
        log_det = x.new_zeros(x.shape[:-1])
        for layer in self.layers:
            shift, raw = layer(x)
            gate = torch.sigmoid(raw + 2.0)
            x = gate * x + (1 - gate) * shift
            log_det = log_det + gate.log().sum(-1)
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Return `x` with `forward(x) = z`."""
        for layer in reversed(self.layers):
            image, x = z, torch.zeros_like(z)
            # Each pass makes one more component right, in the layer's order.
            for _ in range(z.shape[-1]):
                shift, raw = layer(x)
                gate = torch.sigmoid(raw + 2.0)
                x = (image - (1 - gate) * shift) / gate
            z = x
        return z


class FlowPath(NamedTuple):
    """A path and the bent conditionals along it, in the place of a Gaussian `Path`.

    Attributes:
        z: `(*batch, time, state)`.
        base: The Gaussian conditionals, whose `z` is what the flow bends into this one.
        log_det: Log of the flow's volume element, `(*batch, time)`.
        flow: The flow.
    """

    z: Tensor
    base: Path
    log_det: Tensor
    flow: AutoregressiveFlow

    def log_prob(self) -> Tensor:
        """Return `log q(z_t | z_{t-1})`, `(*batch, time)`, in nats."""
        return self.base.log_prob() - self.log_det

    def distribution(self) -> Distribution:
        """Return the conditionals as one distribution, batch shape `(*batch, time)`."""
        return Bent(self.base.distribution(), self.flow)

    def between(self, start: int, stop: int | None = None) -> FlowPath:
        """Return some of the steps."""
        steps = slice(start, stop)
        part = self.base.between(start, stop)
        return FlowPath(self.z[..., steps, :], part, self.log_det[..., steps], self.flow)

    def divergence(self, prior: Distribution) -> Tensor:
        """Return `log q - log p` at the path: what was bent has no closed form."""
        return self.log_prob() - prior.log_prob(self.z)

    def divergence_by_component(self, prior: Distribution) -> None:
        """Return nothing: there is no split."""


class Bent(TorchDistribution):
    """The distribution of `flow(x)`, `x` Gaussian.

    Args:
        base: Distribution of `x`, event shape `(state,)`.
        flow: Bends it.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 1)  # type: ignore[assignment]

    def __init__(self, base: Distribution, flow: AutoregressiveFlow) -> None:
        self.base, self.flow = base, flow
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw with a gradient."""
        return self.flow(self.base.rsample(torch.Size(sample_shape)))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, `batch_shape`."""
        x = self.flow.inverse(value)
        return self.base.log_prob(x) - self.flow(x)[1]


class FlowPosterior(StepwisePosterior):
    """`q(z_t | z_{t-1})` = the flow of another guide's conditional; drawn by a recursion.

    Args:
        base: The other guide's posterior.
        flow: Bends each step, the same at all times.
        batch_shape: Shape of independent paths, by default that of the base.
    """

    def __init__(
        self,
        base: StepwisePosterior,
        flow: AutoregressiveFlow,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.base, self.flow = base, flow
        super().__init__(base.model, base.series, base.steps, batch_shape or base.batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> FlowPosterior:
        """Return the same distribution for more independent paths; it draws its own."""
        return FlowPosterior(self.base, self.flow, torch.Size(batch_shape))

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths step by step; see `StepwisePosterior.draw`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        prior = self.model.initial().expand(shape)
        u, dt, z = self.series.u, self.series.dt, prior.mean
        states, bases, volumes = [], [], []
        for t in range(self.series.time):
            if t:
                prior = self.model.transition(z, at(u, t), at(dt, t, axes=1))
            base = _gaussian(self.base.proposal(z, prior, t))
            x = base.distribution().rsample()
            bent, volume = self.flow(x)
            free = draw(prior) if beyond else bent
            z = torch.where(self.steps[..., t, None], bent, free)
            states.append(z)
            bases.append(base._replace(z=x))
            volumes.append(volume)
        z = torch.stack(states, dim=-2)
        self.path = FlowPath(z, _stacked(bases), torch.stack(volumes, -1), self.flow)
        return z

    def conditionals(self, value: Tensor) -> FlowPath:
        """Return the conditionals along any path, all steps at once."""
        base = _gaussian(self.base.conditionals(value))._replace(z=self.flow.inverse(value))
        return FlowPath(value, base, self.flow(base.z)[1], self.flow)

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> FlowPath:
        """Return `q(z_t | z_{t-1} = z)`; see `StepwisePosterior.proposal`."""
        base = _gaussian(self.base.proposal(z, prior, t))
        return FlowPath(z, base, z.new_zeros(z.shape[:-1]), self.flow)


@checked
class FlowGuide(nn.Module):
    """Another guide, each of whose steps is bent by inverse autoregressive flows.

    Its divergence from the prior is `log q - log p` at the draw.

    Args:
        guide: A guide with Gaussian steps, such as `SmoothingGuide`; another is refused by a
            `ValueError` when it is first asked.
        state_dim: Size of `z`, at least 2.
        hidden: Width of the flows' networks.
        depth: Number of flows.
    """

    def __init__(self, guide: Guide, state_dim: int, *, hidden: int = 32, depth: int = 1) -> None:
        super().__init__()
        self.guide, self.flow = guide, AutoregressiveFlow(state_dim, hidden, depth)

    @property
    def inner_guide(self) -> Guide:
        """The guide whose steps are bent."""
        return self.guide

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Initialise the guide inside; see `SmoothingGuide.initialize_from`."""
        if isinstance(self.guide, InitializesGuide):
            self.guide.initialize_from(model, series)

    def forward(self, model: StateSpaceModel, series: Series) -> FlowPosterior:
        """Return `q(z_{1:T} | y, u)`."""
        return FlowPosterior(ask(self.guide, model, series), self.flow)

    def encode(self, series: Series) -> Tensor:
        """Return what the encoder of the guide inside says of every step."""
        return self._in_halves().encode(series)

    def decode(self, model: StateSpaceModel, series: Series, context: Tensor) -> FlowPosterior:
        """Return the posterior that contexts stand for, whoever found them; see `refine`."""
        found = self._in_halves().decode(model, series, context)
        return FlowPosterior(as_posterior(found, model, series), self.flow)

    def filtering(self, model: StateSpaceModel, series: Series) -> FlowPosterior:
        """Return the guide whose step `t` is that of a series which ends at `t`."""
        return FlowPosterior(ask_filtering(self.guide, model, series), self.flow)

    def _in_halves(self) -> RefinableGuide:
        assert isinstance(self.guide, RefinableGuide), "`refine` looks at the guide inside."
        return self.guide


def _gaussian(steps: Conditionals) -> Path:
    if not isinstance(steps, Path):
        raise ValueError(
            f"`guide` of a `FlowGuide` must have Gaussian steps, got {type(steps).__name__}."
        )
    return steps


def _stacked(paths: list[Path]) -> Path:
    z, mean, scale = (torch.stack([p[i] for p in paths], dim=-2) for i in range(3))  # type: ignore[arg-type]
    shape = z.shape
    chols = [p.chol for p in paths if p.chol is not None]
    chol = torch.stack(chols, dim=-3).expand(*shape, shape[-1]) if chols else None
    return Path(z, mean.expand(shape), scale.expand(shape), chol)
