"""A guide's answer to one series, improved by optimising it for that series alone."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.gradients import gradients_on, plain_series
from ...core.guides import Guide, PosteriorLaw, RefinableGuide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ..guides.asking import as_posterior, ask_filtering, innermost
from ..guides.posterior import StepwisePosterior
from .elbo import bound
from .minibatches import flatten

CHECKS, PATHS = 10, 10  # How often progress is scored, and on how many paths each time.


class RefinedGuide(nn.Module):
    """A guide for the series it was refined on and no other; see `refine`.

    Args:
        guide: A guide of its own, frozen.
        series: The series.
        context: Contexts of that series, `(*batch, time, hidden)`.
    """

    context: Tensor
    y: Tensor
    u: Tensor | None
    dt: Tensor | None

    def __init__(self, guide: RefinableGuide, series: Series, context: Tensor) -> None:
        super().__init__()
        self.guide = guide
        for name, part in (("context", context), *series._asdict().items()):
            self.register_buffer(name, part)

    @property
    def inner_guide(self) -> Guide:
        """The guide that was refined."""
        return self.guide

    @property
    def series(self) -> Series:
        """The series that it was refined on."""
        return Series(self.y, self.u, self.dt)

    def forward(self, model: StateSpaceModel, series: Series) -> StepwisePosterior:
        """Return `q(z_{1:T} | y, u)`, batch shape `(*batch,)`, event shape `(time, state)`.

        Args:
            model: The model whose states are inferred.
            series: The series it was refined on; steps without an observation may follow.

        Raises:
            ValueError: it is another series.
        """
        self._check(series)
        context = F.pad(self.context, (0, 0, 0, series.time - self.y.shape[-2]))
        return as_posterior(self.guide.decode(model, series, context), model, series)

    def filtering(self, model: StateSpaceModel, series: Series) -> StepwisePosterior:
        """Return the steps of a filter, which are those of the guide as it was.

        Raises:
            ValueError: it is another series.
        """
        self._check(series)
        return ask_filtering(self.guide, model, series)

    def _check(self, series: Series) -> None:
        own = self.series
        pairs = zip(series, own, (2, 2, 1), strict=True)
        same = all(_begins_with(whole, part, axes) for whole, part, axes in pairs)
        if not same or not bool(series.y[..., own.time :, :].isnan().all()):
            raise ValueError(
                "`series` must be the one this guide was refined on, which unseen steps may "
                f"follow: that was {tuple(own.y.shape)}, got {tuple(series.y.shape)} or other "
                "values. Refine the guide anew, or use the one that it came from."
            )


def refine(
    model: StateSpaceModel,
    guide: Guide,
    series: Series,
    *,
    steps: int = 100,
    learning_rate: float = 1e-2,
    num_particles: int = 1,
    generator: torch.Generator | None = None,
) -> RefinedGuide:
    """Optimise the bound of a series over what the guide's encoder says of each of its steps.

    An amortized guide answers every series by one pass of a network, and the answer to a new one
    can be much worse than the best of its family. Here that answer is only the start of a
    gradient ascent, model and weights held fixed: `c_{1:T} = argmax_c ELBO(q(z; c))`. Any guide
    is a valid proposal of `importance_log_likelihood`, but scores of refined and of amortized
    guides are different estimates: say which it was. Each series of a batch keeps the best of
    its contexts, judged by fixed noise, so that none ends worse than it started.

    Args:
        model: The model; it is not changed.
        guide: A `RefinableGuide`; it is not changed.
        series: The data.
        steps: Updates of Adam, its rate falling to 0 along a cosine.
        learning_rate: Of Adam, at the start.
        num_particles: Paths behind each gradient.
        generator: Source of randomness.

    Returns:
        A guide for this series, which refuses others.

    Raises:
        ValueError: the guide has no encoder, or a number is not positive.

    Source: Kim, Wiseman, Miller, Sontag, Rush (2018), Semi-amortized variational autoencoders;
    Marino, Yue, Mandt (2018), Iterative amortized inference, for the gap that this closes.
    """
    with gradients_on():
        own = plain_series(series)
        return _ascended(model, guide, own, steps, learning_rate, num_particles, generator)


def _ascended(
    model: StateSpaceModel,
    guide: Guide,
    series: Series,
    steps: int,
    learning_rate: float,
    num_particles: int,
    generator: torch.Generator | None,
) -> RefinedGuide:
    frozen, flat = _frozen(guide), flatten(series)
    _check(steps=steps, learning_rate=learning_rate, num_particles=num_particles)
    with torch.no_grad():
        best = frozen.encode(flat)
    level, context = _levels(model, frozen, flat, best), best.clone().requires_grad_()
    optimizer = torch.optim.Adam([context])
    with seeded(generator):
        for step in range(1, steps + 1):
            rate = 0.5 * learning_rate * (1 + math.cos(math.pi * (step - 1) / steps))
            optimizer.param_groups[0]["lr"] = rate
            context.grad = _gradient(model, frozen, flat, context, num_particles)
            optimizer.step()
            if step % max(steps // CHECKS, 1) == 0 or step == steps:
                now = _levels(model, frozen, flat, context.detach())
                better = now > level
                level = torch.where(better, now, level)
                best = torch.where(better[..., None, None], context.detach(), best)
    return RefinedGuide(frozen, series, best.reshape(*series.y.shape[:-1], best.shape[-1]))


def _gradient(
    model: StateSpaceModel, guide: RefinableGuide, series: Series, context: Tensor, paths: int
) -> Tensor:
    """Return the gradient of minus the bound, 0 where it is not finite."""
    with torch.enable_grad():
        parts = bound(model, _Given(guide, context), series, paths)
        loss = (parts.divergence - parts.reconstruction).sum() / paths
        (gradient,) = torch.autograd.grad(loss, context)
    return torch.where(gradient.isfinite(), gradient, torch.zeros_like(gradient))


def _levels(
    model: StateSpaceModel, guide: RefinableGuide, series: Series, context: Tensor
) -> Tensor:
    """Return the bound of each series, `(batch,)`, with the same noise at every call."""
    with torch.no_grad(), seeded(torch.Generator(series.y.device).manual_seed(0)):
        parts = bound(model, _Given(guide, context), series, PATHS)
    levels = (parts.reconstruction - parts.divergence).sum(-1).mean(0)
    return torch.where(levels.isfinite(), levels, torch.full_like(levels, -math.inf))


class _Given(nn.Module):
    """A guide under contexts that are given."""

    def __init__(self, guide: RefinableGuide, context: Tensor) -> None:
        super().__init__()
        self.guide, self.context = guide, context

    def forward(self, model: StateSpaceModel, series: Series) -> PosteriorLaw:
        """Return its posterior."""
        return self.guide.decode(model, series, self.context)


def _frozen(guide: Guide) -> RefinableGuide:
    """Return a copy that does not learn, of a guide whose inmost one comes in two halves."""
    whole = isinstance(innermost(guide), RefinableGuide) and not isinstance(guide, RefinedGuide)
    if not (whole and isinstance(guide, RefinableGuide)):
        raise ValueError(
            f"`guide` must have an encoder whose answer can be improved, got "
            f"{type(guide).__name__}: pass a `SmoothingGuide`, `ChainGuide`, `ConjugateGuide` or "
            "a `FlowGuide` over one of them, or write its methods `encode` and `decode`."
        )
    frozen = copy.deepcopy(guide)
    if isinstance(frozen, nn.Module):
        frozen.requires_grad_(False).eval()
    return frozen


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive and finite, got {value}.")


def _begins_with(whole: Tensor | None, part: Tensor | None, axes: int) -> bool:
    """Return whether a sequence equals another up to that one's end, NaN equal to NaN."""
    if whole is None or part is None:
        return whole is part
    if part.ndim >= axes and whole.ndim >= axes:
        whole = whole.narrow(-axes, 0, min(part.shape[-axes], whole.shape[-axes]))
    if whole.shape != part.shape:
        return False
    return bool(((whole == part) | (whole.isnan() & part.isnan())).all())
