"""Networks that read a whole series and give a guide one context vector a step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ....core.arguments import checked
from ....ops.products import linear
from ..recurrences.rnn import gru_recurrence, relu_recurrence


@checked
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
        flat = features.reshape(-1, *features.shape[-2:]).transpose(0, 1)
        ended = torch.arange(len(flat), device=flat.device)[:, None] > last.reshape(-1)
        if self.backward_net is None:
            total = _read(self.forward_net, flat, None, reverse=False)
        else:
            total = _read(self.backward_net, flat, ended, reverse=True)
            if self.forward_net is not None:
                total = total + _read(self.forward_net, flat, None, reverse=False)
        return total.transpose(0, 1).reshape(*features.shape[:-1], self.hidden)

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


def _read(
    net: nn.Module | None, features: Tensor, ended: Tensor | None, *, reverse: bool
) -> Tensor:
    """Return a network's states, `(time, batch, hidden)`, of features with time first."""
    assert isinstance(net, nn.RNNBase)
    if isinstance(net, nn.LSTM) or features.is_cuda:
        return _read_by_torch(net, features, ended, reverse=reverse)
    inwards, recurrent, bias, recurrent_bias = net.all_weights[0]
    if isinstance(net, nn.GRU):
        drive = linear(features, inwards, bias)
        return gru_recurrence(drive, recurrent, recurrent_bias, ended, reverse=reverse)
    drive = linear(features, inwards, bias + recurrent_bias)
    return relu_recurrence(drive, recurrent, ended, reverse=reverse)


def _read_by_torch(
    net: nn.RNNBase, features: Tensor, ended: Tensor | None, *, reverse: bool
) -> Tensor:
    flat = features.transpose(0, 1)
    if not reverse or ended is None:
        return net(flat)[0].transpose(0, 1)
    order = reversal((~ended).sum(0) - 1, len(features))[..., None]
    read, _ = net(flat.gather(1, order.expand_as(flat)))
    return read.gather(1, order.expand_as(read)).transpose(0, 1)


def reversal(last: Tensor, time: int) -> Tensor:
    """Return the index that turns `0..last` round and leaves the rest, `(batch, time)`.

    Args:
        last: `(batch,)`, -1 for none.
        time: Number of steps.
    """
    t = torch.arange(time, device=last.device)
    return torch.where(t <= last[:, None], last[:, None] - t, t)
