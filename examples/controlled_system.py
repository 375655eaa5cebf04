"""A tank with a heater: learn how the input acts, then ask what another input would have done.

Run: python examples/controlled_system.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import deepssm as ds
from deepssm.inference import SVI
from deepssm.models import DeepMarkov, LocallyLinearTransition


def tank(u: Tensor, shock: Tensor) -> Tensor:
    """Return temperatures above the room's, in K: heated by `u`, cooling faster when hot."""
    z, path = torch.zeros(u.shape[:-2], dtype=u.dtype), []
    for t in range(u.shape[-2]):
        z = z + 1.5 * u[..., t, 0] - 0.08 * z - 0.004 * z * z.abs() + 0.3 * shock[..., t]
        path.append(z)
    return torch.stack(path, -1)[..., None]


def main(steps: int = 600, seed: int = 0) -> dict[str, float]:
    """Train on 60 runs with a heater that switches at random; turn it off in 20 new ones."""
    g = torch.Generator().manual_seed(seed)
    switches = torch.rand(80, 8, 1, generator=g).repeat_interleave(10, 1)
    u = (switches > 0.4).float() * (0.5 + torch.rand(80, 1, 1, generator=g))
    shock, noise = (torch.randn(80, 80, generator=g) for _ in range(2))
    z = tank(u, shock)
    y = z + 0.3 * noise[..., None]
    y[:, 30:36] = torch.nan  # the thermometer is silent for a while
    torch.manual_seed(seed)
    model = DeepMarkov(1, 2, input_dim=1, transition=LocallyLinearTransition(2, 1, 16))
    method = SVI(steps=steps, report_every=max(min(50, steps // 2), 1))
    fit = ds.fit(model, y[:60], u[:60], method=method, progress=False, generator=g)
    new, off = u[60:], u[60:].clone()
    off[:, 40:] = 0.0
    filled = ds.impute(model, y[60:], new, method=fit.method, num_samples=100, generator=g)
    instead = ds.counterfactual(
        model, y[60:], new, off, method=fit.method, num_samples=100, generator=g
    )
    truth = tank(off, shock[60:])
    gap, after = slice(30, 36), slice(40, 80)
    last = y[60:, 29:30].expand(-1, 6, -1)
    found = {
        "gap, last value, K": float((last - z[60:, gap]).square().mean().sqrt()),
        "gap, filled, K": float((filled.mean[:, gap] - z[60:, gap]).square().mean().sqrt()),
        "heater off, as it was, K": float(
            (z[60:, after] - truth[:, after]).square().mean().sqrt()
        ),
        "heater off, counterfactual, K": float(
            (instead.y.mean(0)[:, after] - truth[:, after]).square().mean().sqrt()
        ),
    }
    for name, value in found.items():
        print(f"{name:32s} {value:.3f}")
    return found


if __name__ == "__main__":
    main()
