"""Extended, unscented, cubature and Gauss-Hermite filters: one filter, a rule for moments each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from ...core.arguments import checked
from .filter import GaussianFilter
from .linearized import Moments
from .robust import Robust
from .rules import cubature_points, hermite_points, simplex_points, taylor, unscented, weighted


@checked
@dataclass(frozen=True)
class Extended(GaussianFilter):
    """Extended Kalman filter and smoother: linearise by the Jacobian at the mean.

    Args:
        iterations: Linearisations of each emission. From the second on, it is linearised at the
            posterior mean while the prior stays fixed: Gauss-Newton for the mode.
        robust: What to do about outliers: `Gate()`, `StudentT()`, `Huber()` or nothing.

    Source: Särkkä & Svensson (2023), section 7.2; Bell & Cathey (1993) for the iterations.
    """

    iterations: int = 1
    robust: Robust | None = None

    def moments(self, state_dim: int) -> Moments:
        """Return the first-order Taylor rule."""
        return taylor


@checked
@dataclass(frozen=True)
class Unscented(GaussianFilter):
    """Unscented Kalman filter and smoother, `2 n + 1` points.

    The parameters are those of Wan and van der Merwe's scaled points. With `alpha=1, beta=0` they
    are Julier's points, `kappa` being his; `Simplex()` has fewer.

    Args:
        alpha: Spread of the points, positive.
        beta: Weight of the centre in covariances; 2 suits a Gaussian if `alpha` is small.
        kappa: Second spread, above `-n`.
        iterations: Linearisations of each emission, the later ones about the posterior.
        robust: What to do about outliers: `Gate()`, `StudentT()`, `Huber()` or nothing.

    Source: Wan & van der Merwe (2000); García-Fernández et al. (2015) for the iterations.
    """

    alpha: float = 1.0
    beta: float = 0.0
    kappa: float = 0.0
    iterations: int = 1
    robust: Robust | None = None

    def __post_init__(self) -> None:
        """Check `alpha`, and what all filters have."""
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"`alpha` must be positive, got {self.alpha}; 1 is a safe choice.")

    def moments(self, state_dim: int) -> Moments:
        """Return the scaled unscented rule; warn if the weight of the centre is extreme."""
        square = self.alpha**2 * (state_dim + self.kappa)
        if not square > 0:
            raise ValueError(
                f"`kappa` must be above minus the state size {state_dim}, got {self.kappa}."
            )
        centre = 1 - state_dim / square
        if abs(centre) > 1e3:
            warnings.warn(
                f"Unscented(alpha={self.alpha}, kappa={self.kappa}) puts the weight {centre:.3g} "
                "on the centre point, so the curvature of the model is read off tiny steps; "
                "alpha=1 avoids that.",
                stacklevel=2,
            )
        return unscented(self.alpha, self.beta, self.kappa)


@checked
@dataclass(frozen=True)
class Cubature(GaussianFilter):
    """Cubature Kalman filter and smoother: `2 n` points of equal weight.

    Args:
        iterations: Linearisations of each emission, the later ones about the posterior.
        robust: What to do about outliers: `Gate()`, `StudentT()`, `Huber()` or nothing.

    Source: Arasaratnam & Haykin (2009), IEEE Transactions on Automatic Control 54(6).
    """

    iterations: int = 1
    robust: Robust | None = None

    def moments(self, state_dim: int) -> Moments:
        """Return the spherical-radial rule of degree three."""
        return weighted(*cubature_points(state_dim))


@checked
@dataclass(frozen=True)
class Simplex(GaussianFilter):
    """Unscented filter and smoother with the fewest points there can be, `n + 1`.

    Args:
        iterations: Linearisations of each emission, the later ones about the posterior.
        robust: What to do about outliers: `Gate()`, `StudentT()`, `Huber()` or nothing.

    Source: Moireau & Chapelle (2011), ESAIM: COCV 17.
    """

    iterations: int = 1
    robust: Robust | None = None

    def moments(self, state_dim: int) -> Moments:
        """Return the rule of the regular simplex, of degree two."""
        return weighted(*simplex_points(state_dim))


@checked
@dataclass(frozen=True)
class GaussHermite(GaussianFilter):
    """Gauss-Hermite filter and smoother: `order ** n` points, for small states.

    Args:
        order: Points per axis; moments of polynomials up to degree `2 order - 1` are exact.
        iterations: Linearisations of each emission, the later ones about the posterior.
        robust: What to do about outliers: `Gate()`, `StudentT()`, `Huber()` or nothing.

    Source: Ito & Xiong (2000), IEEE Transactions on Automatic Control 45(5).
    """

    order: int = 3
    iterations: int = 1
    robust: Robust | None = None

    def __post_init__(self) -> None:
        """Check `order`, and what all filters have."""
        super().__post_init__()
        if self.order < 2:
            raise ValueError(
                f"`order` must be 2 or more, got {self.order}: one point has no slope."
            )

    def moments(self, state_dim: int) -> Moments:
        """Return the product rule."""
        return weighted(*hermite_points(self.order, state_dim))
