"""Films of a pendulum with missing frames: learn the motion from pixels, fill gaps, look ahead.

Run: python examples/pendulum_images.py [picture.png | report.html]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import Series
from deepssm.data import draw_pendulum, pendulum_images
from deepssm.inference import SVI, MaskedSuffix
from deepssm.models import DeepMarkov, ImageEmission, LocallyLinearTransition
from deepssm.report import plot_frames
from deepssm.report.html import Grid, Page, Section, write
from deepssm.report.html import picture as inline

GAP = slice(12, 18)
SHOWN = slice(9, 21)


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
    """Train on 300 films (two CPU minutes) and fill gaps of 6 frames in 100 new ones.

    Args:
        picture: Where to draw the first of them: an image file, or a page that ends in `.html`.
        quick: Whether to train for a moment only.
    """
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
        filled, forecast = (model.emission(path).mean.mean(0) for path in (z, ahead))
    share = (torch.arange(1, 7) / 7)[:, None]
    lines, still = y.clone(), y.clone()
    lines[:, GAP] = (1 - share) * y[:, 11:12] + share * y[:, 18:19]
    still[:, GAP] = y[:, 11:12]
    guesses = {
        "last frame": still,
        "interpolated": lines,
        "forecast from the past": forecast,
        "filled from both sides": filled,
    }
    found = {k: float((x - truth)[:, GAP].square().mean()) for k, x in guesses.items()}
    for name, value in found.items():
        print(f"{name:24s} squared error of a pixel {value:.4f}")
    if picture is not None:
        rows = {"truth": truth, "seen": y, **guesses}
        draw(Path(picture), {name: film[0, SHOWN] for name, film in rows.items()}, found)
    return found


def draw(path: Path, rows: dict[str, Tensor], errors: dict[str, float]) -> None:
    """Write frames around the gap of one film, one row a guess, as an image or as a page."""
    figure = plot_frames(rows, 24, 24)
    if path.suffix != ".html":
        figure.savefig(path, dpi=120)
        return
    table = Grid(
        ["guess", "squared error of a pixel"], [[k, f"{x:.4f}"] for k, x in errors.items()]
    )
    shown = inline(figure, f"Frames of a pendulum around a gap, one row each: {', '.join(rows)}.")
    text = "Tinted frames were not seen. A good filling has one sharp bob where the truth has it."
    section = Section("Frames around a gap", text, [shown])
    write(Page("Films of a pendulum", "Six frames are missing.", [], table, [], [section]), path)


if __name__ == "__main__":
    main(*sys.argv[1:2])
