"""Random linear-Gaussian models."""

from __future__ import annotations

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters
from tests.given import Given

from .problems import Family, Problem, Sizes, with_gaps


class Draw:
    """Numbers for a model, from one seed."""

    def __init__(self, seed: int) -> None:
        self.g = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(shape, generator=self.g, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers between two bounds."""
        return low + (high - low) * torch.rand(shape, generator=self.g, dtype=torch.float64)

    def whole(self, low: int, high: int) -> int:
        """Return a whole number between two bounds, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.g))

    def covariance(self, size: int, *axes: int, rank: int | None = None) -> Tensor:
        """Return covariances of full rank by default."""
        factor = self.normal(*axes, size, size + 1 if rank is None else rank)
        return factor @ factor.mT / size

    def stable(self, size: int, *axes: int) -> Tensor:
        """Return matrices whose norm is below one."""
        A = self.normal(*axes, size, size)
        return self.uniform(0.2, 0.95) * A / torch.linalg.matrix_norm(A, 2)[..., None, None]


def _data(sizes: Sizes, draw: Draw, obs: int, scale: float = 2.0) -> Tensor:
    y = scale * draw.normal(*sizes.batch, sizes.time, obs)
    return with_gaps(y, sizes.gaps, draw.g)


def _constant(sizes: Sizes, seed: int) -> Problem:
    draw, (time, n, p, m, batch, _) = Draw(seed), sizes
    model = ds.models.LinearGaussian(
        draw.stable(n), draw.covariance(n), draw.normal(p, n), draw.covariance(p),
        B=draw.normal(n, m) if m else None, D=draw.normal(p, m) if m else None,
        b=draw.normal(n), d=draw.normal(p), m0=draw.normal(n), P0=draw.covariance(n),
    )  # fmt: skip
    u = draw.normal(*batch, time, m) if m else None
    return Problem(model, _data(sizes, draw, p), u, seed=seed)


def _singular(sizes: Sizes, seed: int) -> Problem:
    """Noise of lower rank, and a start that is partly known."""
    draw, (_, n, p, _, _, _) = Draw(seed), sizes
    model = ds.models.LinearGaussian(
        draw.stable(n), draw.covariance(n, rank=draw.whole(0, n)), draw.normal(p, n),
        draw.covariance(p), m0=draw.normal(n), P0=draw.covariance(n, rank=draw.whole(0, n)),
    )  # fmt: skip
    return Problem(model, _data(sizes, draw, p), seed=seed)


def _varying(sizes: Sizes, seed: int) -> Problem:
    draw, (time, n, p, _, _, _) = Draw(seed), sizes
    parameters = LinearParameters(
        GaussianInitial(draw.normal(n), draw.covariance(n), None),
        LinearConditional(draw.stable(n, time), draw.normal(time, n), draw.covariance(n, time)),
        LinearConditional(draw.normal(time, p, n), draw.normal(time, p), draw.covariance(p, time)),
    )
    return Problem(Given(parameters), _data(sizes, draw, p), seed=seed)


def _structural(sizes: Sizes, seed: int) -> Problem:
    """Diffuse starts, a season, an autoregression, inputs."""
    draw = Draw(seed)
    v = draw.uniform(0.1, 2.0, 5)
    model: ds.models.Structural = ds.models.LocalLevel(float(v[0]), noise_variance=float(v[4]))
    if sizes.state > 1:
        model = ds.models.LocalLinearTrend(float(v[0]), float(v[1]), noise_variance=float(v[4]))
    if sizes.obs > 1:
        model = model + ds.models.DummySeasonal(draw.whole(2, 4), float(v[2]))
    if sizes.state > 2:
        model = model + ds.models.Autoregressive(draw.whole(1, 2), float(v[3]))
    if sizes.inputs:
        model = model + ds.models.Regression(sizes.inputs)
    u = draw.normal(*sizes.batch, sizes.time, sizes.inputs) if sizes.inputs else None
    return Problem(model, _data(sizes, draw, 1), u, seed=seed)


def _kinematic(sizes: Sizes, seed: int) -> Problem:
    """Continuous time, irregular steps, proper starts."""
    draw = Draw(seed)
    v = [float(x) for x in draw.uniform(0.2, 2.0, 3)]
    given = {"variance": v[0], "length_scale": v[1], "noise_variance": v[2]}
    model = ds.models.Matern((0.5, 1.5, 2.5)[draw.whole(0, 2)], sizes.obs, **given)
    dt = draw.uniform(0.1, 2.0, *sizes.batch, sizes.time)
    return Problem(model, _data(sizes, draw, sizes.obs), dt=dt, seed=seed)


def _factors(sizes: Sizes, seed: int) -> Problem:
    draw = Draw(seed)
    model = ds.models.DynamicFactor(sizes.obs + 2, draw.whole(1, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * draw.normal(*parameter.shape))
    return Problem(model, _data(sizes, draw, sizes.obs + 2), seed=seed)


CONSTANT = Family("constant", _constant)
SINGULAR = Family("singular", _singular)
VARYING = Family("varying", _varying)
STRUCTURAL = Family("structural", _structural)
KINEMATIC = Family("kinematic", _kinematic)
FACTORS = Family("factors", _factors)

PROPER = (CONSTANT, SINGULAR, VARYING, KINEMATIC, FACTORS)
LINEAR = (*PROPER, STRUCTURAL)
