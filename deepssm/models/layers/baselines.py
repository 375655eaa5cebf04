"""The usual sequence layers behind the interface of the state space layers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from .base import SequenceLayer, State, entering, tensor


@checked
class Recurrent(SequenceLayer):
    """A recurrent network: Elman's, long short-term memory or gated recurrent unit.

    Args:
        features: Size of input and output, and of the hidden state.
        cell: Which one.

    Source: Elman (1990); Hochreiter & Schmidhuber (1997); Cho et al. (2014).
    """

    def __init__(self, features: int, cell: Literal["rnn", "lstm", "gru"] = "gru") -> None:
        super().__init__(features)
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.network = kind(features, features, batch_first=True)

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
        refuse_steps(self, dt, rate)
        flat = entering(self, u, mask).reshape(-1, *u.shape[-2:])
        y, last = self.network(flat, state)
        return y.reshape(*u.shape[:-1], -1), last


@checked
class CausalCNN(SequenceLayer):
    """Dilated causal convolutions, each with a residual: a temporal convolutional network.

    Args:
        features: Size of input and output.
        width: Length of each filter.
        depth: Number of convolutions, of dilation `1, 2, 4, ...`.

    Source: Bai, Kolter & Koltun (2018), An Empirical Evaluation of Generic Convolutional and
        Recurrent Networks for Sequence Modeling.
    """

    def __init__(self, features: int, width: int = 3, depth: int = 4) -> None:
        super().__init__(features)
        self.memory = (width - 1) * (2**depth - 1)
        self.filters = nn.ModuleList(
            nn.Conv1d(features, features, width, dilation=2**i) for i in range(depth)
        )

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and the last inputs; arguments as in `SequenceLayer`."""
        refuse_steps(self, dt, rate)
        u = entering(self, u, mask)
        earlier = tensor(state)
        known = 0 if earlier is None else earlier.shape[-2]
        inputs = u if earlier is None else torch.cat([earlier, u], -2)
        x = inputs.reshape(-1, *inputs.shape[-2:]).mT
        for convolution in self.filters:
            assert isinstance(convolution, nn.Conv1d)
            reach = (convolution.kernel_size[0] - 1) * convolution.dilation[0]
            x = x + torch.relu(convolution(nn.functional.pad(x, (reach, 0))))
        y = x[..., known:].mT.reshape(u.shape)
        # Zeros before the start are not what earlier layers saw there: keep the true length.
        return y, inputs[..., max(0, inputs.shape[-2] - self.memory) :, :]


@checked
class CausalAttention(SequenceLayer):
    """Masked self-attention with a linear distance bias, which any length of sequence can use.

    Args:
        features: Size of input and output.
        heads: Number of heads; divides `features`.

    Raises:
        ValueError: `heads` does not divide `features`.

    Source: Vaswani et al. (2017); Press, Smith & Lewis (2022), Train Short, Test Long.
    """

    def __init__(self, features: int, heads: int = 4) -> None:
        super().__init__(features)
        if features % heads:
            raise ValueError(f"`heads` must divide `features` = {features}, got {heads}.")
        self.heads = heads
        self.project = nn.Linear(features, 3 * features)
        self.leave = nn.Linear(features, features)

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and all keys and values; arguments as in `SequenceLayer`."""
        refuse_steps(self, dt, rate)
        query, key_value = self.project(entering(self, u, mask)).tensor_split([self.features], -1)
        earlier = tensor(state)
        key_value = key_value if earlier is None else torch.cat([earlier, key_value], -2)
        key, value = key_value.chunk(2, -1)
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for x in (query, key, value)
        )
        bias = self._bias(query, key.shape[-2])
        y = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.leave(y.transpose(-3, -2).flatten(-2)), key_value

    def _bias(self, query: Tensor, known: int) -> Tensor:
        """Return minus slope times distance, and minus infinity for the future."""
        times = torch.arange(known, device=query.device, dtype=query.dtype)
        distance = times[known - query.shape[-2] :, None] - times
        power = torch.arange(1, self.heads + 1, device=query.device, dtype=query.dtype)
        slopes = 2.0 ** (-8 * power / self.heads)
        return torch.where(distance < 0, -math.inf, -slopes[:, None, None] * distance)


def refuse_steps(layer: nn.Module, dt: Tensor | float | None, rate: float) -> None:
    """Refuse time steps in a layer that has no notion of time."""
    if dt is not None or rate != 1.0:
        raise ValueError(
            f"`dt` and `rate` mean nothing to a {type(layer).__name__}: it counts steps. Use a "
            "state space layer, or give it the time steps as a feature."
        )
