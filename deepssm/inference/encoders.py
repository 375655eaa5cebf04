"""Networks that read a whole series and give a guide one context vector a step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class RecurrentEncoder(nn.Module):
    """A recurrent network that carries the past, the future or both to every step.

    The future is read backwards from each series' own last observation, so padding never
    reaches a context.

    Args:
        features: Size of what is read at a step.
        hidden: Size of the context.
        reads: `"future"` reads `t..T`, `"past"` reads `1..t`, `"both"` adds the two up.
        cell: `"gru"`, `"lstm"`, or `"relu"` for the plain network of the paper.

    Source: Krishnan, Shalit, Sontag (2017), table 1: ST-R, ST-L and ST-LR.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        reads: Literal["future", "past", "both"] = "future",
        cell: Literal["gru", "lstm", "relu"] = "gru",
    ) -> None:
        super().__init__()
        self.features, self.hidden, self.reads = features, hidden, reads
        self.backward_net = None if reads == "past" else _recurrent(cell, features, hidden)
        self.forward_net = None if reads == "future" else _recurrent(cell, features, hidden)

    def forward(self, features: Tensor, last: Tensor) -> Tensor:
        """Return contexts for smoothing, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
            last: Index of each series' last observation, `(*batch,)`; -1 when it has none.
        """
        flat = features.reshape(-1, *features.shape[-2:])
        total = flat.new_zeros(())
        if self.backward_net is not None:
            order = reversal(last.reshape(-1), flat.shape[1])[..., None]
            read, _ = self.backward_net(flat.gather(1, order.expand_as(flat)))
            total = total + read.gather(1, order.expand_as(read))
        if self.forward_net is not None:
            total = total + self.forward_net(flat)[0]
        return total.reshape(*features.shape[:-1], self.hidden)

    def filtering(self, features: Tensor) -> Tensor:
        """Return the contexts of series that end at each step, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
        """
        flat = features.reshape(-1, *features.shape[-2:])
        total = flat.new_zeros(())
        if self.backward_net is not None:
            alone, _ = self.backward_net(flat.reshape(-1, 1, flat.shape[-1]))
            total = total + alone.reshape(*flat.shape[:-1], self.hidden)
        if self.forward_net is not None:
            total = total + self.forward_net(flat)[0]
        return total.reshape(*features.shape[:-1], self.hidden)


def _recurrent(cell: Literal["gru", "lstm", "relu"], features: int, hidden: int) -> nn.Module:
    if cell == "gru":
        return nn.GRU(features, hidden, batch_first=True)
    if cell == "lstm":
        return nn.LSTM(features, hidden, batch_first=True)
    return nn.RNN(features, hidden, batch_first=True, nonlinearity="relu")


def reversal(last: Tensor, time: int) -> Tensor:
    """Return the index that turns `0..last` round and leaves the rest, `(batch, time)`.

    Args:
        last: `(batch,)`, -1 for none.
        time: Number of steps.
    """
    t = torch.arange(time, device=last.device)
    return torch.where(t <= last[:, None], last[:, None] - t, t)
