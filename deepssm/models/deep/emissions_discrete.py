"""Neural `p(y_t | z_t, u_t)` of counts and categories, each with a mean and a variance.

Gaussian filters read those two moments; particle filters and guides read the density.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ..discrete.counts import CountDistribution
from .transitions import inverse_softplus, join, small_linear

LARGEST_LOG_MEAN = 20.0


@checked
class Score(nn.Module):
    """`C z + D u + c + MLP(z, u)`: the linear predictor of a generalized linear emission.

    Args:
        state_dim: Size of `z`.
        outputs: Number of scores.
        input_dim: Size of `u`.
        hidden: Width of the hidden layer; 0 leaves it linear.
    """

    def __init__(self, state_dim: int, outputs: int, input_dim: int, hidden: int) -> None:
        super().__init__()
        self.linear = small_linear(state_dim + input_dim, outputs, 0.5)
        self.layer = nn.Linear(state_dim + input_dim, hidden) if hidden else None
        self.correction = small_linear(hidden, outputs) if hidden else None

    def forward(self, z: Tensor, u: Tensor | None) -> Tensor:
        """Return the scores, `(*axes, outputs)`."""
        joined = join(z, u)
        score = self.linear(joined)
        if self.layer is not None and self.correction is not None:
            score = score + self.correction(torch.tanh(self.layer(joined)))
        return score


@checked
class PoissonEmission(nn.Module):
    """`y_t ~ Poisson(exp(score(z, u)))`, independent by component; mean and variance are equal.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`, whose entries are counts.
        input_dim: Size of `u`.
        hidden: Width of the hidden layer; 0 leaves the log-rate linear.

    Source: McCullagh, Nelder (1989), Generalized linear models, chapter 6.
    """

    def __init__(self, state_dim: int, obs_dim: int, input_dim: int = 0, hidden: int = 32) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.input_dim = state_dim, obs_dim, input_dim
        self.hidden = hidden
        self.score = Score(state_dim, obs_dim, input_dim, hidden)

    def initialize_from(self, y: Tensor) -> None:
        """Start at the mean counts of the data, ignoring NaN.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        mean = torch.nan_to_num(torch.nanmean(y.reshape(-1, y.shape[-1]), dim=0), nan=1.0)
        with torch.no_grad():
            self.score.linear.bias.copy_(mean.clamp_min(1e-2).log())

    def mean(self, z: Tensor, u: Tensor | None) -> Tensor:
        """Return the mean counts, `(*axes, obs)`."""
        return self.log_mean(z, u).exp()

    def log_mean(self, z: Tensor, u: Tensor | None) -> Tensor:
        """Return the logarithms of the mean counts, `(*axes, obs)`."""
        return self.score(z, u).clamp_max(LARGEST_LOG_MEAN)

    def forward(self, z: Tensor, u: Tensor | None = None) -> Independent:
        """Return `p(y_t | z_t = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
        """
        # By its logarithm: a mean that underflows to 0 would give a gradient of 0/0.
        return Independent(CountDistribution(self.log_mean(z, u)), 1)


@checked
class NegativeBinomialEmission(PoissonEmission):
    """Counts of mean `m = exp(score(z, u))` and variance `m + m^2 / r`, `r` learnt by component.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`, whose entries are counts.
        input_dim: Size of `u`.
        hidden: Width of the hidden layer; 0 leaves the log-mean linear.

    Source: Hilbe (2011), Negative binomial regression, section 5.1 (NB2).
    """

    def __init__(self, state_dim: int, obs_dim: int, input_dim: int = 0, hidden: int = 32) -> None:
        super().__init__(state_dim, obs_dim, input_dim, hidden)
        self.raw_count = nn.Parameter(torch.full((obs_dim,), inverse_softplus(5.0)))

    def forward(self, z: Tensor, u: Tensor | None = None) -> Independent:
        """Return `p(y_t | z_t = z, u_t)`; arguments as in `PoissonEmission`."""
        count = F.softplus(self.raw_count) + 1e-3
        log_mean = self.log_mean(z, u)
        base = dist.NegativeBinomial(count, logits=log_mean - count.log(), validate_args=False)
        return Independent(base, 1, validate_args=False)


@checked
class CategoricalEmission(nn.Module):
    """One of `obs_dim` categories a step, as a row of zeros with a single one.

    `y = torch.nn.functional.one_hot(category, obs_dim)`, so that a step has a mean (the
    probabilities) and a variance. A missing step is a row of NaN.

    Args:
        state_dim: Size of `z`.
        obs_dim: Number of categories.
        input_dim: Size of `u`.
        hidden: Width of the hidden layer; 0 leaves the logits linear.
    """

    def __init__(self, state_dim: int, obs_dim: int, input_dim: int = 0, hidden: int = 32) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.input_dim = state_dim, obs_dim, input_dim
        self.hidden = hidden
        self.score = Score(state_dim, obs_dim, input_dim, hidden)

    def initialize_from(self, y: Tensor) -> None:
        """Start at the frequencies of the data, ignoring NaN; see `PoissonEmission`."""
        share = torch.nan_to_num(torch.nanmean(y.reshape(-1, y.shape[-1]), dim=0))
        with torch.no_grad():
            self.score.linear.bias.copy_(share.clamp_min(1e-3).log())

    def forward(self, z: Tensor, u: Tensor | None = None) -> dist.OneHotCategorical:
        """Return `p(y_t | z_t = z, u_t)`; arguments as in `PoissonEmission`."""
        return dist.OneHotCategorical(logits=self.score(z, u), validate_args=False)
