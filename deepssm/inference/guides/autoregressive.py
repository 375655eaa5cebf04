"""Drawing observations of autoregressive models: each draw enters the next step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.autoregressive import input_after
from ...core.guides import Guide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import at, completed, observed_log_prob
from .asking import ask_filtering
from .particle_filter import Particles, propose, resample_if_uneven
from .posterior import PriorPosterior


def fill(
    model: StateSpaceModel,
    series: Series,
    num_samples: int,
    guide: Guide | None = None,
    num_particles: int = 500,
) -> tuple[Tensor, Tensor]:
    """Draw states and missing observations together, each known to the step after it.

    Particles hold a state and a whole observation. A filter weighs them by what was seen, and
    paths are drawn backwards; right in the limit of many particles whatever the guide's quality.

    Args:
        model: Any model whose densities are known.
        series: The data; NaN in `y` is what is asked for.
        num_samples: Number of paths.
        guide: Gives the proposals; `None` moves particles by the model.
        num_particles: Particles of each series.

    Returns:
        `(num_samples, *batch, time, state)` and `(num_samples, *batch, time, obs)`.

    Source: Godsill, Doucet, West (2004), Monte Carlo smoothing, algorithm 1.
    """
    cloud = _cloud(model, series, guide, num_particles)
    path = [_chosen(cloud[-1], cloud[-1].log_weight[:, None], num_samples)]
    # So many paths at a time that their pairs with particles fit into memory.
    some = max(1, 200_000 // cloud[-1].log_weight.numel())
    for t in range(series.time - 2, -1, -1):
        weight, chosen = cloud[t].log_weight[:, None], []
        for after in path[-1].split(some):
            logits = weight + _arrival(model, series, cloud[t], after, t + 1)
            chosen.append(_chosen(cloud[t], logits, len(after)))
        path.append(torch.cat(chosen))
    both = torch.stack(path[::-1], -2)
    return both[..., : model.state_dim], both[..., model.state_dim :]


def _cloud(
    model: StateSpaceModel, series: Series, guide: Guide | None, count: int
) -> list[Particles]:
    """Return particles `(count, *batch, state + obs)` of every step after its observation."""
    posterior = (
        ask_filtering(guide, model, series) if guide is not None else PriorPosterior(model, series)
    )
    shape, n = (count, *series.batch_shape), model.state_dim
    now = Particles(series.y.new_zeros(*shape, n), series.y.new_full(shape, -math.log(count)))
    cloud: list[Particles] = []
    for t in range(series.time):
        u, prior = at(series.u, t), model.initial().expand(torch.Size(shape))
        if t:
            both = resample_if_uneven(cloud[-1])
            now, y = both._replace(z=both.z[..., :n]), both.z[..., n:]
            u = input_after(model, u, y)
            prior = model.transition(now.z, u, at(series.dt, t, axes=1))
        z, ratio = propose(posterior, now, prior, t)
        emission = model.emission(z, u)
        weight = now.log_weight + ratio + observed_log_prob(emission, series.y[..., t, :])
        whole = completed(emission, series.y[..., t, :])
        cloud.append(Particles(torch.cat([z, whole], -1), weight - weight.logsumexp(0)))
    return cloud


def _arrival(
    model: StateSpaceModel, series: Series, cloud: Particles, after: Tensor, t: int
) -> Tensor:
    """Return `log p` of states and observations of step `t` after each particle before.

    Args:
        model: The model.
        series: The data.
        cloud: Particles of step `t - 1`.
        after: State and observation of step `t` of each path, `(paths, *batch, state + obs)`.
        t: The step.

    Returns:
        `(particles, paths, *batch)`, up to a constant by series.
    """
    n = model.state_dim
    z, y = cloud.z[:, None, ..., :n], cloud.z[:, None, ..., n:]
    u = input_after(model, at(series.u, t), y)
    prior = model.transition(z, u, at(series.dt, t, axes=1))
    arrival = prior.log_prob(after[..., :n])
    if bool(torch.isnan(series.y[..., t - 1, :]).any()):
        # After an observation that was seen the density of the next is the same for all particles.
        spread = after[None, ..., :n].expand(len(z), *after.shape[:-1], n)
        emission = model.emission(spread, u)
        arrival = arrival + observed_log_prob(emission, after[..., n:])
    return arrival


def _chosen(cloud: Particles, logits: Tensor, count: int) -> Tensor:
    """Draw a particle a path by the trick of Gumbel, `(paths, *batch, state + obs)`."""
    logits = logits.expand(len(logits), count, *logits.shape[2:])
    noise = -torch.empty_like(logits).exponential_().log()
    index = (logits + noise).argmax(0)[..., None]
    return cloud.z.gather(0, index.expand(*index.shape[:-1], cloud.z.shape[-1]))
