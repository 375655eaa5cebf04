"""A ball that bounces in a box, as binary frames: the toy film of the Kalman VAE."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Film(NamedTuple):
    """Films of a ball.

    Attributes:
        y: Frames of 0 and 1, flattened row by row, `(films, time, size * size)`, float32.
        position: Centre of the ball as (row, column), `(films, time, 2)`, px.
    """

    y: Tensor
    position: Tensor


def bouncing_ball_images(
    films: int = 160,
    time: int = 20,
    *,
    size: int = 16,
    radius: float = 2.0,
    speed: tuple[float, float] = (0.5, 1.0),
    seed: int = 0,
) -> Film:
    """Simulate a ball that flies straight and is reflected by the four walls.

    Args:
        films: Number of films.
        time: Frames of each.
        size: Rows and columns, px.
        radius: Of the ball, px; a pixel is 1 where its centre lies inside.
        speed: Smallest and largest speed, px a frame.
        seed: Of the random numbers.

    Source: Fraccaro, Kamronn, Paquet, Winther (2017), section 5.1 (a box, without gravity).
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = radius, size - radius
    start = low + (high - low) * torch.rand(films, 1, 2, generator=generator)
    angle = 2 * torch.pi * torch.rand(films, 1, generator=generator)
    rate = speed[0] + (speed[1] - speed[0]) * torch.rand(films, 1, 1, generator=generator)
    velocity = rate * torch.stack((angle.cos(), angle.sin()), -1)
    straight = start - low + velocity * torch.arange(time)[:, None]
    # Reflection at both walls unfolds into straight flight modulo twice the width.
    width = high - low
    position = low + width - (straight.remainder(2 * width) - width).abs()
    grid = torch.arange(size) + 0.5
    rows = (grid[:, None] - position[..., 0, None, None]).square()
    columns = (grid - position[..., 1, None, None]).square()
    return Film((rows + columns <= radius**2).float().flatten(-2), position)
