"""Kalman VAE on a bouncing ball with hidden frames: `python benchmarks/kalman_vae.py [seeds]`.

16 x 16 binary frames, 20 steps, 320 films to learn from and 64 others; frames 4 to 16 are hidden.
One thread; times are processor seconds. Prints the table of `results/kalman_vae.md`.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor

import deepssm as ds
from deepssm.data import Film, bouncing_ball_images
from deepssm.inference import Collapsed

GAP = slice(3, 16)


class Score(NamedTuple):
    """What one training reached."""

    bound: float
    r2: float
    wrong: float
    rmse: float
    filter_wrong: float
    seconds: float


def main(seeds: int = 4) -> None:
    """Train with some seeds and one or three modes, and print a table."""
    torch.set_num_threads(1)
    train, test = bouncing_ball_images(320, seed=0), bouncing_ball_images(64, seed=1)
    print("| model | seed | bound per frame | R2 of position | wrong pixels | RMSE, px | filter |")
    print("|---|---|---|---|---|---|---|")
    for modes in (3, 1):
        for seed in range(seeds if modes > 1 else 1):
            s = trained(train, test, modes, seed)
            print(
                f"| {modes} modes | {seed}, {s.seconds:.0f} s | {s.bound:.2f} | {s.r2:.3f} | "
                f"{s.wrong:.2f} | {s.rmse:.2f} | {s.filter_wrong:.2f} |",
                flush=True,
            )
    for name, frames in (("last frame", held(test.y)), ("line", between(test.y))):
        print(f"| {name} | | | | {wrong_pixels(frames, test.y):.2f} | | |")


def trained(train: Film, test: Film, modes: int, seed: int) -> Score:
    """Train on whole films and ask for the hidden frames of others."""
    torch.manual_seed(seed)
    model = ds.models.KalmanVAE((16, 16), 2, 4, modes, likelihood="bernoulli")
    start = time.process_time()
    fit = ds.fit(model, train.y, progress=False)
    seconds = time.process_time() - start
    method = fit.method
    assert isinstance(method, Collapsed)
    y = test.y.clone()
    y[:, GAP] = torch.nan
    wrong = wrong_pixels(ds.impute(model, y, num_samples=64).mean, test.y)
    line, r2 = read_out(ds.smooth(model, test.y).mean[..., 4:6], test.position)
    found = extended(ds.smooth(model, y).mean[..., 4:6]) @ line
    rmse = float((found - test.position)[:, GAP].square().mean().sqrt())
    ahead = ds.filter(model, y).mean[..., 4:6]
    decoded = model.emission_given(ahead).mean.detach()
    bound = fit.learned.diagnostics["elbo_per_step"]
    return Score(bound, r2, wrong, rmse, wrong_pixels(decoded, test.y), seconds)


def wrong_pixels(frames: Tensor, right: Tensor) -> float:
    """Return how many pixels of a hidden frame are on the wrong side of a half."""
    return float(((frames > 0.5) != (right > 0.5))[:, GAP].sum(-1).double().mean())


def read_out(a: Tensor, position: Tensor) -> tuple[Tensor, float]:
    """Return the least-squares map from `a` to the position, and its smaller R2."""
    rows, target = extended(a).reshape(-1, 3), position.reshape(-1, 2)
    line = torch.linalg.lstsq(rows, target).solution
    spread = (target - target.mean(0)).square().sum(0)
    return line, float((1 - (target - rows @ line).square().sum(0) / spread).min())


def extended(a: Tensor) -> Tensor:
    """Append a column of ones."""
    return torch.cat((a, torch.ones_like(a[..., :1])), -1)


def held(y: Tensor) -> Tensor:
    """Return films whose hidden frames repeat the last one seen."""
    return torch.cat((y[:, :3], y[:, 2:3].expand(-1, 13, -1), y[:, 16:]), 1)


def between(y: Tensor) -> Tensor:
    """Return films whose hidden frames show the ball on a line between the frames around them."""
    grid = torch.arange(16) + 0.5
    frames = y.reshape(*y.shape[:2], 16, 16)
    centre = torch.stack(((frames.sum(-1) * grid).sum(-1), (frames.sum(-2) * grid).sum(-1)), -1)
    centre = centre / y.sum(-1, keepdim=True)
    share = torch.linspace(0, 1, 15)[1:-1, None]
    found = centre.clone()
    found[:, GAP] = (1 - share) * centre[:, 2:3] + share * centre[:, 16:17]
    rows = (grid[:, None] - found[..., 0, None, None]).square()
    columns = (grid - found[..., 1, None, None]).square()
    return (rows + columns <= 4.0).float().flatten(-2)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
