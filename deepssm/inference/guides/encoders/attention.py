"""An encoder by attention: every step looks at all others at once, near ones first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.arguments import checked


@checked
class AttentionEncoder(nn.Module):
    """Masked self-attention over the past, the future or both, as a context for every step.

    Each head's scores fall linearly with the distance in time, at a learnt rate, so that no
    position needs a code and long series work as short ones do. It costs `O(time^2)`.

    Args:
        features: Size of what is read at a step.
        hidden: Size of the context, a multiple of `heads`.
        reads: `"future"` reads `t..T`, `"past"` reads `1..t`, `"both"` adds the two up.
        heads: Number of heads.
        layers: Number of attention layers, each with a network of its own behind it.

    Raises:
        ValueError: `hidden` is not a multiple of `heads`.

    Source: Vaswani et al. (2017), Attention is all you need; Press, Smith, Lewis (2022), Train
    short, test long (linear biases).
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        reads: Literal["future", "past", "both"] = "both",
        heads: int = 2,
        layers: int = 1,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"`hidden` must be a multiple of `heads`, got {hidden} and {heads}.")
        self.features, self.hidden, self.reads = features, hidden, reads
        self.sides = nn.ModuleList(
            _Side(features, hidden, heads, layers, future)
            for future in (False, True)
            if reads in ("both", "future" if future else "past")
        )

    def forward(self, features: Tensor, last: Tensor) -> Tensor:
        """Return contexts for smoothing, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
            last: Index of each series' last observation, `(*batch,)`; -1 when it has none.
        """
        contexts = [side(features, last) for side in self.sides]
        return torch.stack(contexts).sum(0)

    def filtering(self, features: Tensor) -> Tensor:
        """Return the contexts of series that end at each step, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
        """
        contexts = [side(features, None) for side in self.sides]
        return torch.stack(contexts).sum(0)


class _Side(nn.Module):
    """Attention in one direction of time."""

    def __init__(self, features: int, hidden: int, heads: int, layers: int, future: bool) -> None:
        super().__init__()
        self.future = future
        self.inward = nn.Linear(features, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, features: Tensor, last: Tensor | None) -> Tensor:
        t = torch.arange(features.shape[-2], device=features.device)
        distance = t - t[:, None]
        allowed = distance >= 0 if self.future else distance <= 0
        if self.future and last is None:
            allowed = distance == 0  # A series that ends here has no future.
        elif self.future and last is not None:
            allowed = (allowed & (t <= last[..., None, None])) | (distance == 0)
        x = self.inward(features)
        for block in self.blocks:
            x = block(x, allowed[..., None, :, :], distance.abs().to(x.dtype))
        return self.norm(x)


class _Block(nn.Module):
    """`x + attention(norm x)`, then `x + network(norm x)`."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.asked = nn.Linear(hidden, 3 * hidden)
        self.joined = nn.Linear(hidden, hidden)
        self.network = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden)
        )
        self.log_slope = nn.Parameter(torch.linspace(-1.0, -4.0, heads))

    def forward(self, x: Tensor, allowed: Tensor, distance: Tensor) -> Tensor:
        bias = -self.log_slope.exp()[:, None, None] * distance
        bias = torch.where(allowed, bias, -torch.inf)
        parts = self.asked(self.before(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.movedim(-3, -2) for part in parts.unbind(-3))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.joined(read.movedim(-3, -2).flatten(-2))
        return x + self.network(self.between(x))
