"""A whole series as one Pyro distribution, the states integrated out."""

from __future__ import annotations

import warnings

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ...core.abilities import DiscreteModel
from ...core.arguments import checked
from ...core.methods import InferenceMethod
from ...core.model import Series, StateSpaceModel
from ..discrete.hidden_markov import ForwardBackward
from ..kalman.method import Kalman
from ..simulation.simulate import simulate


@checked
class ObservationDistribution(TorchDistribution):
    r"""`p(y_{1:T})` of a state space model, for `pyro.sample` in anyone's Pyro program.

    The log-density is exact for linear-Gaussian and hidden Markov models and differentiable in
    the model's parameters, so that SVI and NUTS see no latent states. NaN entries of a value are
    missing. Let Pyro's NUTS start where the data could come from, with
    `init_strategy=init_to_median()`: from its default start, far out, its first steps may overflow
    a variance, which is refused.

    Args:
        model: The model, its parameters being whatever the program made them.
        time: Number of steps.
        u: Inputs, `(*batch, time, input)`.
        dt: Time steps, `(*batch, time)` or `()`.
        inference: Method whose log-likelihood is the density, such as `Kalman()` or
            `ForwardBackward()`. Leaving it out is deprecated.

    Example:
        >>> import torch
        >>> import deepssm as ds
        >>> model = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])
        >>> exact = ds.inference.Kalman()
        >>> series = ds.inference.ObservationDistribution(model, time=5, inference=exact)
        >>> series.log_prob(torch.zeros(3, 5, 1, dtype=torch.float64)).shape
        torch.Size([3])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = False

    def __init__(
        self,
        model: StateSpaceModel,
        time: int,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        inference: InferenceMethod | None = None,
    ) -> None:
        self.model, self.u, self.dt = model, u, dt
        self.inference = _exact(model) if inference is None else inference
        batch = torch.broadcast_shapes(
            () if u is None else u.shape[:-2], () if dt is None else dt.shape[:-1]
        )
        super().__init__(torch.Size(batch), torch.Size((time, model.obs_dim)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Any real series."""
        return constraints.independent(constraints.real, 2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the summed log-likelihood of a series, `(*batch)`.

        Args:
            value: `(*batch, time, obs)` with NaN where missing.
        """
        series = Series(value, self.u, self.dt)
        return self.inference.log_likelihood(self.model, series).sum(-1)

    def sample(self, sample_shape: torch.Size | None = None) -> Tensor:
        """Draw series, `(*sample_shape, *batch, time, obs)`."""
        shape = torch.Size() if sample_shape is None else torch.Size(sample_shape)
        empty = torch.full(
            (*self.batch_shape, *self.event_shape), torch.nan, dtype=self.model.dtype
        )
        series = Series(empty, self.u, self.dt)
        return simulate(self.model, series, tuple(shape), None).y


def _exact(model: StateSpaceModel) -> InferenceMethod:
    """Choose as was done before `inference` was asked for; goes with the next release."""
    method = ForwardBackward() if isinstance(model, DiscreteModel) else Kalman()
    warnings.warn(
        "`ObservationDistribution` without `inference` is deprecated: pass "
        f"`inference={type(method).__name__}()`.",
        DeprecationWarning,
        stacklevel=3,
    )
    return method
