"""Readings that come with their own error bars: noise variances as data."""

from __future__ import annotations

from typing import cast

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from ...core.abilities import LinearGaussianModel, is_linear_gaussian
from ...core.gaussian import mvn, psd_factor
from ...core.model import LinearParameters, Series, StateSpaceModel


class KnownNoise(StateSpaceModel):
    r"""A linear-Gaussian model whose observations bring the variances of their errors.

    .. math:: y_t = C_t z_t + d_t + v_t + e_t, \quad v_t \sim N(0, R_t), \quad
        e_t \sim N(0, \text{diag}(\sigma^2_t))

    The variances are the last `obs_dim` columns of `u`, behind the model's own inputs, so that
    they go wherever `u` goes: batches, frames, gaps, forecasts (`u_future`), running filters. They
    add to the model's own `R`; build it with `noise_variance=0.0` if they are all the noise there
    is, or leave that open and learn what they do not explain.

    Where `y` is missing its variance may be NaN. It then counts as 0: what is forecast or imputed
    there is the signal with the model's own noise. Parts such as
    `noisy.model.components(smoothed)` are those of the model inside.

    Args:
        model: A linear-Gaussian model, such as a structural one, `ConstantVelocity()`, `Matern()`.

    Raises:
        ValueError: the model is not linear-Gaussian.

    Example:
        >>> import deepssm as ds
        >>> model = ds.models.KnownNoise(ds.models.LocalLevel(1.0, noise_variance=0.0))
        >>> ds.smooth(model, [1.0, 2.0, 9.0], u=[0.1, 0.1, 100.0]).mean[:, 0].round(decimals=2)
        tensor([1.0900, 1.9900, 2.0600], dtype=torch.float64)

    Source: Durbin & Koopman (2012), section 2.2 (`R_t` known); Rasmussen & Williams (2006),
        Gaussian Processes for Machine Learning, section 2.2.
    """

    def __init__(self, model: StateSpaceModel) -> None:
        super().__init__()
        if not is_linear_gaussian(cast(object, model)):
            raise ValueError(
                f"`model` must be linear and Gaussian, as `LocalLevel()` and `Matern()` are, got "
                f"{type(model).__name__}."
            )
        self.model = model
        self.state_dim, self.obs_dim = model.state_dim, model.obs_dim
        self.input_dim = model.input_dim + model.obs_dim
        self.reads_time = model.reads_time

    @property
    def noise_columns(self) -> slice:
        """Which columns of `u` hold the variances."""
        return slice(self.model.input_dim, self.input_dim)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states of the model inside."""
        return self.model.state_names

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices of the model inside, the variances of the readings added to `R`."""
        inner = cast(LinearGaussianModel, self.model)
        found = inner.linear_parameters(self._own(u), dt)
        if u is None:
            return found
        cov = found.emission.cov + torch.diag_embed(u[..., self.noise_columns])
        return found._replace(emission=found.emission._replace(cov=cov))

    def initial(self) -> MultivariateNormal:
        """Return `p(z_1)`."""
        return cast(MultivariateNormal, self.model.initial())

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> MultivariateNormal:
        """Return `p(z_t | z_{t-1} = z, u_t)`."""
        return cast(MultivariateNormal, self.model.transition(z, self._own(u), dt))

    def emission(self, z: Tensor, u: Tensor | None = None) -> MultivariateNormal:
        """Return `p(y_t | z_t = z, u_t)`."""
        found = cast(MultivariateNormal, self.model.emission(z, self._own(u)))
        if u is None:
            return found
        cov = found.covariance_matrix + torch.diag_embed(u[..., self.noise_columns])
        return mvn(found.mean, psd_factor(cov, "R"))

    def initialize_from(self, series: Series) -> None:
        """Start the learnt parameters of the model inside."""
        self.model.initialize_from(series._replace(u=self._own(series.u)))

    def _own(self, u: Tensor | None) -> Tensor | None:
        size = self.model.input_dim
        return u[..., :size] if u is not None and size else None
