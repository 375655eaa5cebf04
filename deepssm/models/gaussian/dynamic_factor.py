"""Many series driven by a few common factors."""

from __future__ import annotations

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from ...core.arguments import checked
from ...core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from ...core.results import Smoothed
from ..structural.decomposition import Decomposition
from ..structural.regression import Autoregressive
from .dynamic_factor_moments import climb_lags, emission_rows, lag_moments
from .linear_model import LinearModel, block_diagonal


@checked
class DynamicFactor(LinearModel):
    r"""Common factors: stationary autoregressions that several series load on.

    .. math:: y_t = \Lambda f_t + d + v_t, \quad v_t \sim N(0, \text{diag}(\psi)), \quad
        f_{i,t} = \sum_j \phi_{ij} f_{i,t-j} + e_{i,t}, \quad e_{i,t} \sim N(0, 1)

    The factors have unit innovations, which fixes the scale of the loadings; their signs and,
    where factors have equal dynamics, their rotation are not identified.

    Args:
        obs_dim: Number of series.
        factors: Number of factors.
        order: Order of each factor's autoregression.
        mean: Learn `d`; without it the series should have mean zero.

    Raises:
        ValueError: `factors` or `order` is below 1, or there are more factors than series.

    Source: Stock & Watson (1991), in Lahiri & Moore, Leading Economic Indicators; Durbin & Koopman
        (2012), section 3.7.
    """

    noise_variance: Tensor
    reads_time = False

    def __init__(
        self, obs_dim: int, factors: int = 1, order: int = 1, *, mean: bool = True
    ) -> None:
        super().__init__()
        if not 1 <= factors <= obs_dim:
            raise ValueError(
                f"`factors` must be between 1 and the {obs_dim} series, got {factors}."
            )
        self.obs_dim, self.factors = obs_dim, factors
        self.state_dim = factors * order
        for i in range(factors):
            part = Autoregressive(order, 1.0, noise_variance=0.0, name=f"factor{i}")
            setattr(self, f"factor{i}", part)
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(obs_dim, factors, generator=generator, dtype=torch.float64)
        self.loadings = torch.nn.Parameter(start)
        ones = torch.ones(obs_dim, dtype=torch.float64)
        setattr(self, "noise_variance", PyroParam(ones, constraints.positive))  # noqa: B010
        zeros = torch.zeros(obs_dim, dtype=torch.float64)
        self.mean = torch.nn.Parameter(zeros) if mean else None

    @property
    def parts(self) -> list[Autoregressive]:
        """The factors."""
        return [getattr(self, f"factor{i}") for i in range(self.factors)]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names such as `factor0` and `factor0.lag1`."""
        return tuple(
            part.name if lag == 0 else f"{part.name}.lag{lag}"
            for part in self.parts
            for lag in range(part.state_dim)
        )

    def linear_parameters(
        self, u: Tensor | None = None, dt: Tensor | None = None
    ) -> LinearParameters:
        """Return the matrices of the stacked autoregressions."""
        parts = self.parts
        matrices, covs = zip(*(part.dynamics() for part in parts), strict=True)
        starts = block_diagonal([part.start().cov for part in parts])
        rows = block_diagonal([part.row[None] for part in parts])
        R = torch.diag_embed(self.noise_variance)[None]
        zeros = R.new_zeros(1, self.state_dim)
        offset = R.new_zeros(1, self.obs_dim) if self.mean is None else self.mean[None]
        return LinearParameters(
            GaussianInitial(zeros[0], starts),
            LinearConditional(block_diagonal([*matrices]), zeros, block_diagonal([*covs])),
            LinearConditional((self.loadings @ rows)[None], offset, R),
        )

    def components(self, smoothed: Smoothed) -> Decomposition:
        """Return the factors with their bands; `loadings @ factors + mean` is the signal.

        Args:
            smoothed: What `ds.smooth` returned for this model.
        """
        rows = [i * (self.state_dim // self.factors) for i in range(self.factors)]
        variance = smoothed.cov.diagonal(dim1=-2, dim2=-1)[..., rows]
        result = Decomposition(smoothed.mean[..., rows], variance)
        return result.labelled(smoothed.index, tuple(part.name for part in self.parts))

    def derived(self) -> dict[str, Tensor]:
        """Return the autoregressive coefficients of the factors, by name."""
        return {
            f"{part.name}.{key}": value
            for part in self.parts
            for key, value in part.follows().items()
        }

    def maximize_moments(self, series: Series, smoothed: Smoothed) -> None:
        """Move loadings, mean, noise and autoregressions to the maximum of `E[log p(y, z)]`.

        Loadings, means and noise have closed forms; an autoregression that starts in its
        stationary distribution has none and is climbed, on its moments alone.

        Args:
            series: The data.
            smoothed: Moments of the states given all data, under the present parameters.

        Source: Shumway & Stoffer (1982), Journal of Time Series Analysis 3, 253-264; Watson &
            Engle (1983), Journal of Econometrics 23, 385-400.
        """
        order = self.state_dim // self.factors
        for i, part in enumerate(self.parts):
            if part.get_parameter("partial_autocorrelations_unconstrained").requires_grad:
                rows = slice(i * order, (i + 1) * order)
                climb_lags(part, lag_moments(smoothed, rows))
        found = emission_rows(series, smoothed, [i * order for i in range(self.factors)])
        mean = self.noise_variance.new_zeros(self.obs_dim) if self.mean is None else self.mean
        present = torch.cat([self.loadings, mean[:, None]], -1).detach()
        moves = [self.loadings.requires_grad] * self.factors
        moves.append(self.mean is not None and self.mean.requires_grad)
        best = found.regression(present, torch.tensor(moves, device=present.device))
        with torch.no_grad():
            self.loadings.copy_(best[:, :-1])
            if self.mean is not None:
                self.mean.copy_(best[:, -1])
        if self.noise_variance_unconstrained.requires_grad:
            noise = found.noise(best, self.noise_variance.detach())
            setattr(self, "noise_variance", noise)  # noqa: B010

    def initialize_from(self, series: Series) -> None:
        """Start from principal components of the data, gaps filled with means."""
        flat = series.y.reshape(-1, self.obs_dim)
        mean = flat.nanmean(0).nan_to_num(nan=0.0)
        gap = torch.where(flat.isnan(), torch.zeros_like(flat), flat - mean)
        cov = gap.mT @ gap / max(1, len(flat))
        values, vectors = torch.linalg.eigh(cov)
        top = vectors[:, -self.factors :] * values[-self.factors :].clamp_min(0).sqrt()
        with torch.no_grad():
            if self.loadings.requires_grad:
                self.loadings.copy_(top)
            if self.mean is not None and self.mean.requires_grad:
                self.mean.copy_(mean)
        if self.noise_variance_unconstrained.requires_grad:
            rest = (cov - top @ top.mT).diagonal()
            variance = cov.diagonal()
            # A series that never moved, or was never seen, says nothing about its noise.
            scale = torch.where(variance > 0, variance, torch.ones_like(variance))
            setattr(self, "noise_variance", torch.maximum(rest, 0.1 * scale))  # noqa: B010
