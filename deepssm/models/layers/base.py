"""What every sequence layer does: outputs, a state to carry on with, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...linear import LinearSystem
from ...linear.stepping import stepper

State: TypeAlias = "Tensor | tuple[State, ...]"
"""What a layer remembers between pieces of a sequence."""

Step: TypeAlias = "Callable[[Tensor, State | None], tuple[Tensor, State]]"
"""Maps the input `(*batch, features)` and the state to the output and the new state."""


@checked
class SequenceLayer(nn.Module):
    """A causal map from sequences to sequences, `(*batch, time, features)` to the same shape.

    A layer of your own calls `super().__init__(features)` and defines `run` alone; `forward` and
    `stepper` follow from it, and `ResidualBlock`, `Bidirectional`, `SequenceModel` and its
    `generate` take it. What `run` must keep:

    - output `t` depends on inputs up to `t` only;
    - cutting a sequence in pieces and handing the state on gives the outputs of the whole;
    - the state is a tensor, or a tuple of states, and its size does not matter to anyone else;
    - any number of batch axes, none included, and one step at a time;
    - a missing input (`mask`) leaves no number of its own: layers here take zero in its place, as
      `entering(self, u, mask)` does, which checks shapes too;
    - `dt` and `rate` stretch time, or are refused: `baselines.refuse_steps(self, dt, rate)`.

    Where a whole sequence can be had cheaper than by its state, `forward` may be defined too; a
    layer that is a `LinearSystem` derives from `StructuredLayer` instead.

    Args:
        features: Size of input and output.
    """

    slow_parameters: ClassVar[tuple[str, ...]] = ()
    """Parameters that want a small learning rate and no weight decay."""

    def __init__(self, features: int) -> None:
        super().__init__()
        if not isinstance(features, int) or features < 1:
            raise ValueError(f"`features` must be a whole number, 1 or more, got {features!r}.")
        self.features = features

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs, `(*batch, time, features)`.

        Args:
            u: Inputs, `(*batch, time, features)`.
            dt: Time steps in units of the nominal step, a scalar or `(*batch, time)`; entry `t`
                lies before input `t`, entry 0 is unused at the start of a sequence.
            rate: Factor on every step: 2 for data sampled half as often as in training.
            mask: `(*batch, time)`, false where the input is missing.
        """
        return self.run(u, dt=dt, rate=rate, mask=mask)[0]

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and the state after them; arguments as in `forward`.

        Args:
            u: Inputs, `(*batch, time, features)`.
            state: State after the inputs so far; `None` at the start.
            dt: Time steps.
            rate: Factor on every step.
            mask: False where the input is missing.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not define `run(self, u, state, *, dt, rate, mask)`: "
            "return the outputs, `(*batch, time, features)`, and the state after them."
        )

    def stepper(self, dt: Tensor | float | None = None, rate: float = 1.0) -> Step:
        """Return a function that takes one input at a time, with equal steps.

        Args:
            dt: Time step, a scalar.
            rate: Factor on it.
        """
        return partial(_one_step, self, dt, rate)


@checked
class StructuredLayer(SequenceLayer):
    """A layer that is a `LinearSystem` with a skip connection; subclasses define `system`.

    It is run by convolution, chunk, scan or step, whichever is cheapest, on any steps and rates.

    Args:
        features: Size of input and output.
    """

    channels: ClassVar[bool] = True
    """Whether each feature has its own system with one input and one output."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.D = own_parameter(torch.randn(features))

    def system(self) -> LinearSystem:
        """Return the linear system, whose nominal step is 1."""
        raise NotImplementedError(
            f"{type(self).__name__} does not define `system(self)`: return its `LinearSystem`."
        )

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs through the cheapest view; arguments as in `SequenceLayer`."""
        u = self._entering(u, mask)
        dt = self._steps(first_step_is_nominal(dt))
        return self._leave(self.system().apply(self._enter(u), dt=dt, rate=rate), u)

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and the state after them; arguments as in `SequenceLayer`."""
        u = self._entering(u, mask)
        dt = self._steps(first_step_is_nominal(dt) if state is None else dt)
        y, last = self.system().run(self._enter(u), tensor(state), dt=dt, rate=rate)
        return self._leave(y, u), last

    def stepper(self, dt: Tensor | float | None = None, rate: float = 1.0) -> Step:
        """Return a function that takes one input at a time; it discretizes once, here."""
        _require_digits(self)
        advance, channels = stepper(self.system(), dt, rate), self.channels

        def step(u: Tensor, state: State | None) -> tuple[Tensor, State]:
            if u.shape[-1] != self.features:
                raise _wrong_size(self, u)
            if channels:
                y, last = advance(u[..., None], tensor(state))
                return torch.addcmul(y[..., 0], self.D, u), last
            y, last = advance(u, tensor(state))
            return torch.addcmul(y, self.D, u), last

        return step

    def _entering(self, u: Tensor, mask: Tensor | None) -> Tensor:
        _require_digits(self)
        return entering(self, u, mask).to(torch.promote_types(u.dtype, self.D.dtype))

    def _enter(self, u: Tensor) -> Tensor:
        return u.mT[..., None] if self.channels else u

    def _leave(self, y: Tensor, u: Tensor) -> Tensor:
        return (y[..., 0].mT if self.channels else y) + self.D * u

    def _steps(self, dt: Tensor | float | None) -> Tensor | float | None:
        return dt[..., None, :] if self.channels and isinstance(dt, Tensor) and dt.ndim else dt


def param_groups(
    module: nn.Module, *, lr: float = 4e-3, slow_lr: float = 1e-3, weight_decay: float = 0.01
) -> list[dict[str, object]]:
    """Return groups for an optimizer: state matrices and steps learn slowly and do not decay.

    Args:
        module: Any module that holds sequence layers.
        lr: Learning rate of all other parameters.
        slow_lr: Largest learning rate of state matrices and time steps.
        weight_decay: Of all other parameters.

    Source: Gu, Goel & Re (2022), S4, appendix D.
    """
    slow = [
        parameter
        for layer in module.modules()
        if isinstance(layer, SequenceLayer)
        for name, parameter in layer.named_parameters(recurse=False)
        if name in layer.slow_parameters
    ]
    known = {id(parameter) for parameter in slow}
    fast = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    slow = [p for p in slow if p.requires_grad]
    groups: list[dict[str, object]] = [{"params": fast, "lr": lr, "weight_decay": weight_decay}]
    if slow:
        groups.append({"params": slow, "lr": min(lr, slow_lr), "weight_decay": 0.0})
    return groups


def draw_log_dt(
    shape: tuple[int, ...], smallest: float, largest: float, generator: torch.Generator | None
) -> Tensor:
    """Draw the logarithm of time steps uniformly, of the given shape."""
    low, high = math.log(smallest), math.log(largest)
    return low + (high - low) * torch.rand(shape, generator=generator)


def working_dtype() -> torch.dtype:
    """Return the default dtype, float32 at the least: half a float holds no time step of 1e-3."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def own_parameter(value: Tensor, requires_grad: bool = True) -> nn.Parameter:
    """Return a parameter of a state space layer, all of which have one dtype.

    Args:
        value: Its start, real.
        requires_grad: Whether it is learnt.
    """
    return nn.Parameter(value.to(working_dtype()), requires_grad=requires_grad)


def _require_digits(layer: StructuredLayer) -> None:
    if layer.D.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"{type(layer).__name__} computes in float32 or float64, but was cast to "
            f"{layer.D.dtype}, in which its time steps and decay rates have too few digits. Keep "
            "the layer in float32, `layer.float()`; inputs may be halves, and outputs can be cast."
        )


def entering(layer: SequenceLayer, u: Tensor, mask: Tensor | None) -> Tensor:
    """Return the inputs of a layer, missing ones set to zero.

    Args:
        layer: Where they enter.
        u: Inputs, `(*batch, time, features)`.
        mask: `(*batch, time)`, false where the input is missing.

    Raises:
        ValueError: There is no step, or not one column a feature: one column would broadcast.
    """
    if u.ndim < 2 or u.shape[-1] != layer.features or not u.shape[-2]:
        raise _wrong_size(layer, u)
    return clean(u, mask)


def _wrong_size(layer: SequenceLayer, u: Tensor) -> ValueError:
    return ValueError(
        f"`u` must end in `(time, {layer.features})`, time 1 or more and the features of this "
        f"{type(layer).__name__}, got shape {tuple(u.shape)}. `SequenceModel(input_dim, ...)` "
        "takes inputs of any size."
    )


def clean(u: Tensor, mask: Tensor | None) -> Tensor:
    """Set missing inputs to zero, whatever is written there."""
    return u if mask is None else torch.where(mask[..., None], u, torch.zeros_like(u[..., :1]))


def first_step_is_nominal(dt: Tensor | float | None) -> Tensor | float | None:
    """Replace entry 0 of time steps, which precedes the sequence, by the nominal step."""
    if not isinstance(dt, Tensor) or dt.ndim == 0:
        return dt
    return torch.cat([torch.ones_like(dt[..., :1]), dt[..., 1:]], -1)


def tensor(state: State | None) -> Tensor | None:
    """Return the state of a layer that carries one tensor."""
    if isinstance(state, tuple):
        raise ValueError("`state` must be what this layer returned, got a tuple of tensors.")
    return state


def _one_step(
    layer: SequenceLayer,
    dt: Tensor | float | None,
    rate: float,
    u: Tensor,
    state: State | None,
) -> tuple[Tensor, State]:
    y, state = layer.run(u[..., None, :], state, dt=dt, rate=rate)
    return y[..., 0, :], state
