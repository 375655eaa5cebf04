"""What a model is: data, three distributions, and the numbers of a linear one."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple, TypeAlias

import torch
from numpy.typing import ArrayLike
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from .undefined import undefined

Data: TypeAlias = Tensor | ArrayLike
"""A tensor, an array, a list of numbers, or a pandas or polars frame."""

_RETURN = "return `{}` from it, a `torch.distributions` object with batch shape `axes`"

_LAYERS = (
    nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase,
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


class Series(NamedTuple):
    """Checked data on a model's dtype and device; every method receives one of these.

    Attributes:
        y: Observations, `(*batch, time, obs)`; NaN means missing, per component.
        u: Inputs, `(*batch, time, input)`, or `None`.
        dt: Time steps, `(*batch, time)` or a scalar `()`, in the user's unit, or `None`. Entry
            `t` is the time from `t-1` to `t`; entry 0 is unused.
    """

    y: Tensor
    u: Tensor | None = None
    dt: Tensor | None = None

    @property
    def time(self) -> int:
        """Number of time steps."""
        return self.y.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """Leading axes of `y`."""
        return self.y.shape[:-2]


class GaussianInitial(NamedTuple):
    """`z_1 = mean + e + diffuse @ delta`, `e ~ N(0, cov)`, `delta` flat on the real line.

    Attributes:
        mean: `(*batch, state)`.
        cov: `(*batch, state, state)`, any positive semi-definite matrix.
        diffuse: Directions of infinite variance, `(state, k)`, or `None` when the start is proper.
    """

    mean: Tensor
    cov: Tensor
    diffuse: Tensor | None = None


class LinearConditional(NamedTuple):
    """`p(x | z) = N(matrix z + offset, cov)`, the same for all times or one per step.

    Attributes:
        matrix: `(*batch, time, out, in)`, `time` being `T` or 1, `*batch` broadcastable.
        offset: `(*batch, time, out)`.
        cov: `(*batch, time, out, out)`, any positive semi-definite matrix.
    """

    matrix: Tensor
    offset: Tensor
    cov: Tensor


class LinearParameters(NamedTuple):
    """Every number of a linear-Gaussian model; entry `t` of `transition` drives `t-1` to `t`."""

    initial: GaussianInitial
    transition: LinearConditional
    emission: LinearConditional


class StateSpaceModel(PyroModule):
    """`p(z_1)`, `p(z_t | z_{t-1}, u_t)`, `p(y_t | z_t, u_t)`: the one thing every method takes.

    Subclasses set `state_dim`, `obs_dim` and `input_dim` and define the three distributions, each
    vectorised over any leading axes, so that one call scores one step or all `T` steps at once.

    Attributes:
        state_dim: Size of the latent state `z`.
        obs_dim: Size of an observation `y`.
        input_dim: Size of an input `u`; 0 when there is none.
        reads_past: Whether a step reads `y_{t-1}`; `Series.u` then holds it: `autoregressive.py`.
        reads_time: Whether a step depends on `dt`; if not, steps of several lengths are refused.
        circular_state: Which components of `z` are angles in radians.
        circular_obs: Which components of `y` are angles in radians.
        input_names: Names of the inputs, if they have any: columns of a frame are taken by them.
        learnt_columns: Names of the columns of `y` and of `u` that learning saw, if they had any;
            a frame that has them in another order is put into this one.
        trained: The method of inference that training left, or nothing; `core/methods.py` reads
            it. No parameter and no part of the state dict, but copied and pickled with the model.
    """

    state_dim: int
    obs_dim: int
    input_dim: int = 0
    reads_past: bool = False
    reads_time: bool = True
    circular_state: tuple[int, ...] = ()
    circular_obs: tuple[int, ...] = ()
    input_names: tuple[str, ...] = ()
    learnt_columns: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    trained: tuple[object, ...] = ()

    def initial(self) -> Distribution:
        """Return `p(z_1)` with event shape `(state,)`."""
        raise undefined(self, "initial(self)", _RETURN.format("p(z_1)"))

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        """Return `p(z_t | z_{t-1} = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: Input of the arriving step, `(*axes, input)`.
            dt: Time since the last step, `(*axes)` or `()`.

        Returns:
            A distribution with batch shape `axes` and event shape `(state,)`.
        """
        wanted = _RETURN.format("p(z_t | z_{t-1} = z, u_t)")
        raise undefined(self, "transition(self, z, u, dt)", wanted)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, u_t)`, batch shape `axes`, event shape `(obs,)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`.
        """
        wanted = _RETURN.format("p(y_t | z_t = z, u_t)")
        raise undefined(self, "emission(self, z, u)", wanted)

    def initialize_from(self, series: Series) -> None:
        """Set starting values of the parameters that the user left open; learners call it once."""

    @property
    def neural(self) -> bool:
        """Whether networks stand in it, so that `SVI` learns it by default.

        True where some part is a layer with a matrix of weights. A model of other networks, or
        one whose layers are to be learnt by maximum likelihood, defines `neural` itself.
        """
        return any(isinstance(part, _LAYERS) for part in self.modules())

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state's components, used as columns of frames and in reports."""
        return tuple(f"z{i}" for i in range(self.state_dim))

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the model's numbers; data are cast to it."""
        return self._reference_tensor().dtype

    @property
    def device(self) -> torch.device:
        """Device of the model's numbers; data are moved to it."""
        return self._reference_tensor().device

    def adopt(self, tensor: Tensor) -> Tensor:
        """Return `tensor` in the model's dtype on its device."""
        like = self._reference_tensor()
        return tensor.to(like.device, like.dtype)

    def _reference_tensor(self) -> Tensor:
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)


class Readable(NamedTuple):
    """A parameter as a person reads it, such as the probabilities that logits hold.

    Attributes:
        name: What it is called in summaries and among standard errors.
        value: The numbers, differentiable.
        support: Where each number lives: the real line, above zero, or between 0 and 1.
        count: How many of the numbers are free; all of them if `None`.
    """

    name: str
    value: Tensor
    support: constraints.Constraint = constraints.real
    count: int | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
