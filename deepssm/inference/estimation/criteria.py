"""Information criteria that count diffuse states and do not depend on the units of inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel
from ...core.model import Series, StateSpaceModel
from ..kalman.method import Kalman


def criteria(
    model: StateSpaceModel, series: Series, log_likelihood: float, size: int
) -> dict[str, float]:
    r"""Return AIC and BIC of a model that shares its parameters over all series.

    .. math:: \text{AIC} = 2 (k + d) - 2 L, \quad \text{BIC} = (k + d) \log n - 2 L

    Args:
        model: The model at its maximum.
        series: The data.
        log_likelihood: Its log-likelihood, in nats.
        size: `k`, the number of parameters; `d` is that of diffuse states over all series.

    Source: Durbin & Koopman (2012), section 7.4.
    """
    diffuse = diffuse_states(model, series)
    likelihood = log_likelihood + coefficient_gain(model, series).sum().item()
    total, count = size + diffuse.sum().item(), int((~series.y.isnan()).sum())
    return _named(
        likelihood, log_likelihood, total, total * math.log(max(1, count)), diffuse.sum().item()
    )


def criteria_each(
    model: StateSpaceModel, series: Series, log_likelihood: float, size: int
) -> dict[str, float]:
    """Return AIC and BIC where every series has `size` parameters of its own; see `criteria`."""
    diffuse = diffuse_states(model, series).reshape(-1)
    counts = (~series.y.isnan()).reshape(len(diffuse), -1).sum(-1).clamp_min(1).double().cpu()
    likelihood = log_likelihood + coefficient_gain(model, series).sum().item()
    penalty = ((size + diffuse) * counts.log()).sum().item()
    total = size * len(diffuse) + diffuse.sum().item()
    return _named(likelihood, log_likelihood, total, penalty, diffuse.sum().item())


def _named(
    likelihood: float, diffuse_likelihood: float, total: float, penalty: float, diffuse: float
) -> dict[str, float]:
    found = {"aic": 2 * total - 2 * likelihood, "bic": penalty - 2 * likelihood}
    if diffuse:
        found["num_diffuse_states"] = diffuse
    if likelihood != diffuse_likelihood:
        found["profile_log_likelihood"] = likelihood
    return found


def diffuse_states(model: StateSpaceModel, series: Series) -> Tensor:
    """Return the number of diffuse states of each series, `(*batch,)`, 0 where it has no data."""
    seen = (~series.y.isnan()).flatten(-2).any(-1).double().cpu()
    if not isinstance(model, LinearGaussianModel):
        return 0.0 * seen
    with torch.no_grad():
        diffuse = model.linear_parameters(series.u, series.dt).initial.diffuse
    return 0.0 * seen if diffuse is None else diffuse.shape[-1] * seen


def coefficient_gain(model: StateSpaceModel, series: Series) -> Tensor:
    r"""Return what takes a diffuse log-likelihood to the best regression coefficients.

    A flat coefficient integrates the likelihood over its own unit: an input in metres instead of
    kilometres would add :math:`\log 1000`. At the best coefficients
    :math:`L(\hat\beta) = L - \frac12 \log |V|`, `V` their covariance given all data, as if they
    were parameters, which they are to whoever compares models.

    Args:
        model: Any model; there is nothing to add but where inputs load on diffuse states.
        series: The data.

    Returns:
        In nats, `(*batch,)`.

    Source: Francke, Koopman & de Vos (2010), Journal of Time Series Analysis 31, 407-414.
    """
    nothing = series.y.new_zeros(series.batch_shape).double().cpu()
    if series.u is None or not series.time or not isinstance(model, LinearGaussianModel):
        return nothing
    with torch.no_grad():
        initial, transition, emission = model.linear_parameters(series.u, series.dt)
        other = model.linear_parameters(2 * series.u, series.dt).emission.matrix
        loads = (emission.matrix != other).reshape(-1, emission.matrix.shape[-1]).any(0)
        if initial.diffuse is None or not bool(loads.any()):
            return nothing
        rows = (loads & (initial.diffuse != 0).any(-1)).nonzero()[:, 0]
        eye = torch.eye(len(loads)).to(transition.matrix)
        A, Q = (x[..., rows, :] for x in (transition.matrix, transition.cov))
        if bool((A == eye[rows]).all()) and not bool(Q.any()):
            cov = Kalman().filter(model, series).cov[..., -1, :, :]
        else:
            cov = Kalman().smooth(model, series).cov[..., 0, :, :]
    return -0.5 * _log_determinant(cov[..., rows[:, None], rows].double().cpu()).expand_as(nothing)


def _log_determinant(cov: Tensor) -> Tensor:
    """Return `log |cov|` over what the data have determined, 0 for what they have not."""
    known = cov.diagonal(dim1=-2, dim2=-1).isfinite()
    both = known[..., :, None] & known[..., None, :]
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype)
    return torch.linalg.slogdet(torch.where(both, cov, eye)).logabsdet
