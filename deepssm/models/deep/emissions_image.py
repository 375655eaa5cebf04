"""Neural `p(y_t | z_t)` of grey images, by transposed convolutions."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from .transitions import diagonal_normal, inverse_softplus, join


@checked
class ImageEmission(nn.Module):
    """A `height x width` image in [0, 1], flattened row by row: `obs_dim = height * width`.

    `z` and `u` go through a linear layer to a quarter of the size with `channels` channels, and
    through two transposed convolutions, each doubling it, to the mean `sigmoid(.)` of a pixel.
    Train it with a guide that has weights of its own, such as `SmoothingGuide`: linearised at a
    decoder that has learnt nothing, images say nothing about the state.

    Args:
        state_dim: Size of `z`.
        height: Rows, a multiple of 4.
        width: Columns, a multiple of 4.
        input_dim: Size of `u`.
        channels: Channels of the smallest layer; the next one has half.
        pixel: `"gaussian"` noise of one learnt scale, or `"bernoulli"` for pixels of 0 and 1.
        min_scale: Floor of the noise's standard deviation.

    Raises:
        ValueError: a side is not a multiple of 4.

    Source: Fraccaro, Kamronn, Paquet, Winther (2017), appendix A (a deconvolutional decoder).
    """

    def __init__(
        self,
        state_dim: int,
        height: int,
        width: int,
        input_dim: int = 0,
        *,
        channels: int = 16,
        pixel: Literal["gaussian", "bernoulli"] = "gaussian",
        min_scale: float = 1e-2,
    ) -> None:
        super().__init__()
        if height % 4 or width % 4 or min(height, width) < 4:
            raise ValueError(
                f"`height` and `width` must be multiples of 4, got {height} and {width}: pad the "
                "images."
            )
        self.state_dim, self.input_dim, self.obs_dim = state_dim, input_dim, height * width
        self.height, self.width, self.min_scale = height, width, min_scale
        self.pixel: Literal["gaussian", "bernoulli"] = pixel
        self.small = nn.Linear(state_dim + input_dim, channels * (height // 4) * (width // 4))
        self.grow = nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1)
        self.paint = nn.ConvTranspose2d(channels // 2, 1, 4, stride=2, padding=1)
        self.raw_scale = nn.Parameter(torch.tensor(inverse_softplus(0.3)))

    def initialize_from(self, y: Tensor) -> None:
        """Start at the mean brightness of the data, ignoring NaN.

        Args:
            y: `(*batch, time, obs)`, in [0, 1] up to noise.

        Raises:
            ValueError: pixels lie far outside, as those of 0 to 255 do.
        """
        seen = y[~torch.isnan(y)]
        if len(seen) and (float(seen.min()) < -1.0 or float(seen.max()) > 2.0):
            raise ValueError(
                f"`y` must hold brightness in [0, 1], got {float(seen.min()):g} to "
                f"{float(seen.max()):g}: divide images of 0 to 255 by 255."
            )
        level = torch.nan_to_num(torch.nanmean(y), nan=0.5).clamp(1e-2, 1 - 1e-2)
        with torch.no_grad():
            assert self.paint.bias is not None
            self.paint.bias.fill_(torch.logit(level))

    def logits(self, z: Tensor, u: Tensor | None) -> Tensor:
        """Return the logits of the mean pixels, `(*axes, obs)`."""
        joined = join(z, u)
        small = F.relu(self.small(joined)).reshape(-1, self.grow.in_channels, *self._quarter)
        image = self.paint(F.relu(self.grow(small)))
        return image.reshape(*joined.shape[:-1], self.obs_dim)

    def forward(self, z: Tensor, u: Tensor | None = None) -> Independent:
        """Return `p(y_t | z_t = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
        """
        logits = self.logits(z, u)
        if self.pixel == "bernoulli":
            return Independent(dist.Bernoulli(logits=logits, validate_args=False), 1)
        scale = F.softplus(self.raw_scale) + self.min_scale
        return diagonal_normal(torch.sigmoid(logits), scale)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.height, self.width

    @property
    def _quarter(self) -> tuple[int, int]:
        return self.height // 4, self.width // 4
