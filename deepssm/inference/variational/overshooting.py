"""Score free-running forecasts in training, so that intervals stay honest many steps ahead."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.guides import Guide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import at, draw
from ..guides.asking import ask
from ..simulation.ahead import run_on


def forecast_score(
    model: StateSpaceModel, guide: Guide, series: Series, horizon: int, num_samples: int = 8
) -> Tensor:
    """Return the mean CRPS of forecasts of the last `horizon` steps, in units of their spread.

    The guide reads what lies before; the model runs on alone. The score is the fair one,
    `E|x - y| - E|x - x'| / 2` over distinct paths, so its mean does not depend on their number,
    and what minimises it is the true marginal distribution of every step.

    Args:
        model: The model; the score has a gradient in its parameters.
        guide: Gives the state at the origin, without a gradient.
        series: Windows, `(batch, time, ...)`, `time` more than `horizon`.
        horizon: Steps forecast.
        num_samples: Paths per window, at least 2.

    Source: Gneiting, Raftery (2007), Strictly proper scoring rules, equation 21; Hafner et al.
    (2019), Learning latent dynamics for planning, section 4 (latent overshooting).
    """
    origin = series.time - horizon
    y = series.y[..., origin:, :]
    shown = Series(*(None if part is None else part[:, :origin] for part in series))  # type: ignore[arg-type]
    with torch.no_grad():
        posterior = ask(guide, model, shown).expand(torch.Size((num_samples, len(y))))
        z = posterior.sample()[..., -1, :]
    if model.reads_past:
        blind = series._replace(y=series.y.clone())
        blind.y[..., origin:, :] = torch.nan
        last = torch.full((len(y),), origin - 1, device=y.device)
        return _fair_score(run_on(model, blind, z, last, horizon)[1], y)
    path = []
    for t in range(origin, series.time):
        z = draw(model.transition(z, at(series.u, t), at(series.dt, t, axes=1)))
        path.append(z)
    u = None if series.u is None else series.u[..., origin:, :]
    return _fair_score(draw(model.emission(torch.stack(path, dim=-2), u)), y)


def _fair_score(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean fair CRPS of draws `x` of `y` in units of their spread, gaps left out."""
    num_samples = len(x)
    seen = ~torch.isnan(y)
    truth = torch.where(seen, y, torch.zeros_like(y))
    ordered = x.sort(dim=0).values
    rank = torch.arange(1, num_samples + 1, dtype=x.dtype, device=x.device)
    weight = (2 * rank - num_samples - 1) / (num_samples * (num_samples - 1))
    apart = torch.einsum("k,k...->...", weight, ordered)
    score = (x - truth).abs().mean(0) - apart
    spread = apart.detach().mean(0, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    terms = torch.where(seen, score / spread, torch.zeros_like(score))
    return terms.sum() / seen.sum().clamp_min(1)
