"""How a guide reads images: by convolutions, a frame at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.arguments import checked
from ....core.model import Series


@checked
class ImageReader(nn.Module):
    """Features of a frame of `height x width` pixels by two strided convolutions.

    A missing pixel is read as the mean brightness, and a mark says whether a frame was seen at
    all. It takes the place of a `Reader` in a guide whose combiner needs no innovation.

    Args:
        height: Rows, a multiple of 4.
        width: Columns, a multiple of 4.
        features: Number of features of a frame.
        input_dim: Size of `u`, passed on as it is; 0 when there is none.
        channels: Channels of the first convolution; the second has twice as many.
    """

    plain_tensor_code: bool = True
    innovation_scale: None = None
    level: Tensor

    def __init__(
        self, height: int, width: int, features: int = 32, input_dim: int = 0, channels: int = 8
    ) -> None:
        super().__init__()
        self.height, self.width, self.features, self.input_dim = height, width, features, input_dim
        self.narrow = nn.Conv2d(1, channels, 4, stride=2, padding=1)
        self.deep = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.summary = nn.Linear(2 * channels * (height // 4) * (width // 4), features)
        self.register_buffer("level", torch.zeros(()))

    @property
    def size(self) -> int:
        """Number of features, the mark and the inputs included."""
        return self.features + 1 + self.input_dim

    def initialize_from(self, series: Series) -> None:
        """Store the mean brightness of the data; NaN is ignored."""
        self.level.copy_(torch.nan_to_num(torch.nanmean(series.y)))

    def forward(self, series: Series) -> Tensor:
        """Return the features of every step, `(*batch, time, size)`."""
        seen = ~torch.isnan(series.y)
        frames = torch.where(seen, series.y - self.level, torch.zeros_like(series.y))
        images = frames.reshape(-1, 1, self.height, self.width)
        maps = F.relu(self.deep(F.relu(self.narrow(images))))
        read = torch.tanh(self.summary(maps.flatten(1))).reshape(*seen.shape[:-1], self.features)
        parts = [read, seen.any(-1, keepdim=True).to(read.dtype)]
        if self.input_dim and series.u is not None:
            parts.append(series.u[..., : self.input_dim])
        return torch.cat(parts, dim=-1)
