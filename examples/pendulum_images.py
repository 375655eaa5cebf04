"""Films of a pendulum with missing frames: learn the motion from pixels, fill gaps, look ahead.

Run: python examples/pendulum_images.py [picture.png]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import deepssm as ds
from deepssm.base import Series
from deepssm.data import draw_pendulum, pendulum_images
from deepssm.inference import SVI, MaskedSuffix
from deepssm.models import DeepMarkov, ImageEmission, LocallyLinearTransition


def build(state: int = 6) -> DeepMarkov:
    """Return a model of 24 x 24 pixels; `SVI` finds a guide that reads them by itself."""
    return DeepMarkov(
        24 * 24,
        state,
        transition=LocallyLinearTransition(state, hidden=32, pieces=8),
        emission=ImageEmission(state, 24, 24, channels=16),
    )


def films(count: int, seed: int = 0) -> Tensor:
    """Return films of 30 frames, each with a gap of up to 7 frames somewhere."""
    y, g = pendulum_images(count, 30, seed=seed).y.float(), torch.Generator().manual_seed(1)
    for film in y:
        start = int(torch.randint(3, 20, (), generator=g))
        film[start : start + int(torch.randint(1, 8, (), generator=g))] = torch.nan
    return y


def main(picture: str | None = None, *, quick: bool = False) -> dict[str, float]:
    """Train on 300 films (two CPU minutes) and fill gaps of 6 frames in 100 new ones."""
    torch.manual_seed(0)
    model = build()
    method = SVI(
        hidden=48,
        steps=4 if quick else 1500,
        batch_size=4 if quick else 24,
        learning_rate=3e-3,
        kl_start=1.0,
        report_every=2 if quick else 200,
        objective=MaskedSuffix(10),
    )
    generator = torch.Generator().manual_seed(0)
    train = films(8 if quick else 300)
    fit = ds.fit(model, train, method=method, progress=False, generator=generator)
    test = pendulum_images(5 if quick else 100, 30, seed=99, gaps=(12, 6))
    truth, y = draw_pendulum(test.z[..., 0]).float(), test.y.float()
    draws = 5 if quick else 50
    with torch.no_grad():
        past = y.clone()
        past[:, 12:] = torch.nan
        z = fit.method.sample_posterior(model, Series(y), draws, generator)
        ahead = fit.method.sample_posterior(model, Series(past), draws, generator)
        filled, forecast = (model.emission(path).mean.mean(0)[:, 12:18] for path in (z, ahead))
    share = (torch.arange(1, 7) / 7)[:, None]
    between = (1 - share) * y[:, 11:12] + share * y[:, 18:19]
    guesses = {
        "last frame": y[:, 11:12].expand(-1, 6, -1),
        "interpolated": between,
        "forecast from the past": forecast,
        "filled from both sides": filled,
    }
    found = {k: float((x - truth[:, 12:18]).square().mean()) for k, x in guesses.items()}
    for name, value in found.items():
        print(f"{name:24s} squared error of a pixel {value:.4f}")
    if picture is not None:
        draw(picture, {"truth": truth[:, 12:18], **guesses})
    return found


def draw(path: str, rows: dict[str, Tensor]) -> None:
    """Write the six missing frames of the first film, one row a guess."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 6, figsize=(7, 1.2 * len(rows)), squeeze=False)
    for line, (name, frames) in zip(axes, rows.items(), strict=True):
        for panel, frame in zip(line, frames[0], strict=True):
            panel.imshow(frame.reshape(24, 24), cmap="gray", vmin=0, vmax=1)
            panel.set_axis_off()
        line[0].set_title(name, fontsize=8, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
